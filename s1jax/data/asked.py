"""What teachers have in common: a prompt goes in, thinking and answer or a `Failed` come out.

No teacher retries: it says what kind of failure it saw, and `collect.py` decides.
"""

import contextlib
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from s1jax.curation_config import Teacher
from s1jax.types import UserError

# What the names of those whom curation asks begin with, a space after it: their rows lie in the
# same store, and are no traces of a teacher.
ROLES = ("first", "second", "judge", "classifier")
OPENAI_HOST = "api.openai.com"
PASSING = (408, 409, 425, 429)  # HTTP, with all from 500 on: may be answered when asked again
FREE = (409, 425, 429, 500, 503, 529)  # of these: the model was not asked, nothing is charged
_KEYS = {"gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"), "openai": ("OPENAI_API_KEY",)}
_NUMBER = re.compile(r"\d+(\.\d+)?")
_STATUS = re.compile(r"HTTP \d{3}\b")
# What differs from one failure of a kind to the next: ids, addresses, times.
_VARYING = re.compile(r"\b(?=[\w.:-]*\d)[\w.:-]*\w")


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
    written_tokens: int | None = None  # thinking and answer together, as they are charged


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
    """This prompt will never be answered; `certain`: and no other is refused for the same reason.

    Where it is not certain it may be the request that is wrong, or the key.
    """

    def __init__(self, text: str, charged: bool = False, certain: bool = False):
        super().__init__(text)
        self.charged, self.certain = charged, certain


class Unknown(Failed):
    """This teacher has nothing to say to this prompt; another day it may."""


class Asked(ABC):
    """A teacher that can be asked."""

    name: str  # as rows name it
    settings: Mapping[str, Any]  # all that decides about its answers, as rows record it
    at_once: int | None = None  # how many prompts it wants together; None: as the config says
    varies = True  # asked the same again it may say something else

    @abstractmethod
    async def ask(self, prompt: Prompt) -> Reply:
        """The reply. Raises Failed, or UserError if no prompt at all can be answered."""

    async def close(self) -> None:  # noqa: B027  (most have nothing to give back)
        """Gives its connections back."""


def name_of(cfg: Teacher) -> str:
    """What rows call a teacher, `gemini:gemini-2.5-flash`."""
    return f"{cfg.via}:{cfg.model}" if cfg.model else cfg.via


def is_role(name: str) -> bool:
    """Whether a name of rows is of somebody whom curation asks."""
    return name.partition(" ")[0] in ROLES


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


def key_name(cfg: Teacher) -> str | None:
    """The one of them that is used; None if none is set."""
    return next((name for name in key_names(cfg) if os.environ.get(name)), None)


def key_of(cfg: Teacher) -> str | None:
    """The key out of the environment; nowhere else is it read, and nowhere is it written."""
    names, used = key_names(cfg), key_name(cfg)
    key = os.environ[used] if used else None
    if key is None and names:
        raise UserError(
            f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} not set: {name_of(cfg)}"
            " needs a key in the environment"
        )
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in {used} holds characters that no key has")
    return key


def said(text: object, key: str | None) -> str:
    """A message in one line, not too long, without the key."""
    line = " ".join(str(text).split()).encode(errors="replace").decode()
    if key:
        line = line.replace(key, "[key]")
    return line if len(line) <= 400 else line[:400] + "..."


def kind_of(failure: str) -> str:
    """A failure without what differs from one to the next: ids and numbers, but for HTTP's."""
    status = _STATUS.match(failure)
    start = status[0] if status else ""
    return start + _VARYING.sub("#", failure[len(start) :])


# --- What an HTTP error means ---


def http_error(
    name: str, cfg: Teacher, code: int, text: str, headers: Mapping[str, str], body: Any
) -> Exception:
    """What to raise: Passing, Refused, or UserError where every prompt would fail alike."""
    if code in PASSING or code >= 500:
        return Passing(text, delay_of(headers, body), charged=code not in FREE)
    key = key_name(cfg)
    if code == 401 or "API_KEY_INVALID" in str(body):
        what = f"refuses the key in {key}" if key else "wants a key; name its key_variable"
        return UserError(f"{name} {what}: {text}")
    if code == 402:
        return UserError(f"{name} wants to be paid: {text}")
    if code == 403:  # of the key, of the region, or of this question: some servers censor so
        return Refused(
            f"{text} ({f'asked with the key in {key}' if key else 'asked without a key'})"
        )
    if code == 404:
        where = cfg.base_url or "its provider"
        return UserError(f"{name}: {where} knows no such model or path: {text}")
    return Refused(text)


def delay_of(headers: Mapping[str, str], body: Any) -> float | None:
    """Seconds that the server asks to wait: Retry-After, seconds or a date, or Google's RetryInfo.

    The longest of them; None if there is none.
    """
    given = {name.lower(): value.strip() for name, value in headers.items()}
    after, exact = given.get("retry-after", ""), given.get("retry-after-ms", "")
    waits = [float(after)] if _NUMBER.fullmatch(after) else []
    waits += [float(exact) / 1000] if _NUMBER.fullmatch(exact) else []
    if after and not waits:
        with contextlib.suppress(ValueError):
            until = parsedate_to_datetime(after)
            waits.append(max(0.0, until.timestamp() - time.time()))
    body = body[0] if isinstance(body, list) and body else body
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = str(detail.get("retryDelay", "")) if isinstance(detail, dict) else ""
        if delay.endswith("s") and _NUMBER.fullmatch(delay[:-1]):
            waits.append(float(delay[:-1]))
    return max(waits, default=None)
