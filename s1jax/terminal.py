"""Text for a terminal: parts in colours or by name, and nothing in it that steers the terminal."""

import os
import re
import sys

from absl import flags

DIM, CYAN, GREEN, YELLOW, MAGENTA = "\033[2m", "\033[36m", "\033[32m", "\033[33m", "\033[1;35m"
PLAIN = ""
_RESET = "\033[0m"


def add_color(values: flags.FlagValues) -> None:
    """Adds `--color=auto|always|never`."""
    choices = ["auto", "always", "never"]
    flags.DEFINE_enum("color", "auto", choices, "colours of the parts", flag_values=values)


def has_colours(choice: str) -> bool:
    """Whether stdout is to be coloured, by the flag, and by NO_COLOR where that says "auto"."""
    auto = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return choice == "always" or (choice == "auto" and auto)


def harmless(text: str) -> str:
    """The text with its control characters as pictures, but for tabs and newlines."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f]", lambda m: chr(0x2400 + ord(m[0])), text)
    return re.sub(r"[\x7f-\x9f]", "�", text)


def painted(text: str, colour: str) -> str:
    """The text in a colour."""
    return f"{colour}{text}{_RESET}" if colour and text else text
