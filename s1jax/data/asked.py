"""What teachers have in common: a prompt goes in, thinking and answer or a `Failed` come out.

No teacher retries: it says what kind of failure it saw, and `collect.py` decides.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from s1jax.curation_config import Teacher
from s1jax.types import UserError

OPENAI_HOST = "api.openai.com"
_KEYS = {"gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"), "openai": ("OPENAI_API_KEY",)}


@dataclass(frozen=True)
class Prompt:
    """What one request asks; `id` and `sample` are the key of its row."""

    id: str
    text: str
    sample: int = 0
    system: str | None = None


@dataclass(frozen=True)
class Reply:
    """What came back of one request."""

    thinking: str
    answer: str
    finish: str  # "stop", "length", "blocked", or "incomplete": a part of it is missing
    detail: str = ""  # where it is not "stop": what the server said
    is_summary: bool = False
    version: str = ""
    prompt_tokens: int | None = None
    thinking_tokens: int | None = None
    answer_tokens: int | None = None


class Failed(Exception):
    """A request that brought no reply; the text is for the user and holds no key."""

    charged = False  # whether it may have been
    cost = 0.0  # dollars, at most; whoever keeps the accounts sets it


class Passing(Failed):
    """It may go through when it is asked again, not before `delay_s` if the server names one."""

    def __init__(self, text: str, delay_s: float | None = None, charged: bool = True):
        super().__init__(text)
        self.delay_s = delay_s
        self.charged = charged


class Refused(Failed):
    """This prompt will never be answered."""

    def __init__(self, text: str, charged: bool = False):
        super().__init__(text)
        self.charged = charged


class Unknown(Failed):
    """This teacher has nothing to say to this prompt; another day it may."""


class Asked(ABC):
    """A teacher that can be asked."""

    name: str  # as rows name it
    settings: Mapping[str, Any]  # all that decides about its answers, as rows record it
    at_once: int | None = None  # how many prompts it wants together; None: as the config says

    @abstractmethod
    async def ask(self, prompt: Prompt) -> Reply:
        """The reply. Raises Failed, or UserError if no prompt at all can be answered."""

    async def close(self) -> None:  # noqa: B027  (most have nothing to give back)
        """Gives its connections back."""


def name_of(cfg: Teacher) -> str:
    """What rows call a teacher, `gemini:gemini-2.5-flash`."""
    return f"{cfg.via}:{cfg.model}" if cfg.model else cfg.via


def settings_of(cfg: Teacher) -> dict[str, Any]:
    """What decides about its answers; a server may move and a limit of requests may change."""
    names = ("via", "model", "temperature", "max_tokens", "thinking_tokens")
    return {name: getattr(cfg, name) for name in names}


def key_names(cfg: Teacher) -> tuple[str, ...]:
    """The environment's variables that a teacher's key may be in.

    OpenAI's own is for OpenAI: another server of its protocol gets the key that is named for it.
    """
    if cfg.key_variable:
        return (cfg.key_variable,)
    if cfg.via == "openai" and urlsplit(cfg.base_url or "").hostname != OPENAI_HOST:
        return ()
    return _KEYS.get(cfg.via, ())


def key_of(cfg: Teacher) -> str | None:
    """The key out of the environment; nowhere else is it read, and nowhere is it written."""
    names = key_names(cfg)
    key = next((os.environ[name] for name in names if os.environ.get(name)), None)
    if key is None and (cfg.key_variable or cfg.via == "gemini"):
        raise UserError(
            f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} not set: {name_of(cfg)}"
            " needs a key in the environment"
        )
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in {' or '.join(names)} holds characters that no key has")
    return key


def said(text: object, key: str | None) -> str:
    """A message in one line, not too long, without the key."""
    line = " ".join(str(text).split()).encode(errors="replace").decode()
    if key:
        line = line.replace(key, "[key]")
    return line if len(line) <= 400 else line[:400] + "..."
