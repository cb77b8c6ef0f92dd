"""What the verbs share on the command line: flags, the config, errors as sentences, exit codes.

0 done · 1 a fault of ours, with a traceback · 2 the user's mistake, one message on stderr ·
75 stopped by SIGTERM with everything saved (start again to go on).
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from s1jax.config import Config, resolve
from s1jax.types import UserError

DONE, USER_ERROR, PREEMPTED = 0, 2, 75


def new_flags() -> flags.FlagValues:
    """An empty set of flags that knows `--help`."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "show this help", flag_values=values, short_name="h")
    return values


def add_config(values: flags.FlagValues) -> None:
    """Adds `--config=configs/X.py`, whose fields `--config.a.b=c` override."""
    config_flags.DEFINE_config_file(
        "config", None, "the experiment, a file as in configs/", flag_values=values
    )


def parse(values: flags.FlagValues, doc: str, argv: Sequence[str]) -> Any:
    """The parsed flags; prints the help and exits if asked to. UserError on a wrong flag."""
    if any(arg in ("--help", "-h", "-help") for arg in argv[1:]):
        print(f"{doc.strip()}\n\nFlags:\n{values.get_help()}")
        raise SystemExit(DONE)
    try:
        rest = values(list(argv))[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    except (OSError, SyntaxError, ImportError, AttributeError, KeyError, TypeError) as error:
        # Raised by the config file itself: by reading it, or by what its get_config() did.
        raise UserError(f"--config: {error}") from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: flags are written --name=value")
    return values


def config_of(values: Any) -> Config:
    """The resolved config of parsed flags. UserError if it is missing or wrong."""
    if values["config"].value is None:
        raise UserError("--config is missing: for example --config=configs/mini.py")
    path = config_flags.get_config_filename(values["config"])
    return resolve(values["config"].value, path)


def directory_of(values: Any, name: str) -> Path:
    """The directory that a required flag names. UserError if it is missing or is a file."""
    if not values[name].value:
        raise UserError(f"--{name} is missing: for example --{name}=/tmp/s1jax")
    path = Path(values[name].value).expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"--{name}={path} is a file; it must be a directory (it may be new)")
    return path


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Runs a verb's `main(argv)` and exits with its code; a UserError becomes one message."""
    try:
        code = main(sys.argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
