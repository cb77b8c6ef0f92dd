"""The OpenAI chat completions protocol: what a body asks for, and how it is refused.

Besides OpenAI's fields there are `thinking_token_budget`, `top_k` and `min_p` (vLLM's names),
`thinking`, `min_thinking_tokens`, `ignore_ends` and `ignore_strings`. What a body does not set is
as config.decode has it. A field that would change the answer and is not obeyed is refused, never
ignored.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from s1jax.chat import Message
from s1jax.config import Decode
from s1jax.sections import nearest

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 1024
MAX_STOPS, MAX_STOP_CHARACTERS = 4, 256
MAX_COUNT = 2**31 - 1

# Fields that are obeyed.
_OBEYED = (
    "model",
    "messages",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "thinking",
    "reasoning_effort",
    "thinking_token_budget",
    "min_thinking_tokens",
    "ignore_ends",
    "ignore_strings",
)
# Fields that say what, whose or where a request is, which changes nothing of its answer.
_LABELS = (
    "metadata",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)
# Other fields of OpenAI's and vLLM's, and the values with which they ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
# Of a message: who said it, and what a reply has besides its text, which a client may send back.
_DROPPED = (
    "annotations",
    "name",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "refusal",
)

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refused(Exception):
    """A request that is not answered: the status, and OpenAI's error object."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _TYPES.get(self.status, kind)
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True)
class ChatRequest:
    """What a body asks for."""

    messages: tuple[Message, ...]
    decode: Decode  # the config's, with what the body sets
    own: frozenset[str] = field(default_factory=frozenset)  # fields that the body sets
    max_tokens: int | None = None  # of thinking, what closes it, and answer together
    samples: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False


# --- What a body asks for ---


def parse(body: bytes, model: str, decode: Decode, max_samples: int) -> ChatRequest:
    """The request of a body. Refused, with the field's name, for what cannot be obeyed."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(values, dict):
        raise Refused(400, f"the body must be an object, not {_name(values)}", code="invalid_json")
    given = _Fields({name: value for name, value in values.items() if value is not None})
    _refuse_unknown(given.values)
    wanted = given.text("model")
    if wanted is None:
        raise Refused(400, f"model is missing: {model!r} is served here", param="model")
    if wanted != model:
        what = f"the model {_shown(wanted)} is not served here, {model!r} is"
        raise Refused(404, what, param="model", code="model_not_found")
    messages = _messages(given.values.get("messages"))
    samples = given.whole("n", 1)
    if samples is not None and samples > max_samples:
        raise Refused(400, f"n={samples} must be at most {max_samples}", param="n")
    stream = given.flag("stream") or False
    return ChatRequest(
        messages,
        _decode(given, decode),
        own=frozenset(given.values),
        max_tokens=_max_tokens(given),
        samples=samples or 1,
        seed=given.whole("seed", -(2**63), 2**63 - 1),
        stop=given.texts("stop", MAX_STOPS, MAX_STOP_CHARACTERS) or (),
        stream=stream,
        include_usage=_include_usage(given, stream),
    )


class _Fields:
    """The fields of a body that are not null, each of the type that it must have."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = values

    def _wrong(self, name: str, what: str) -> Refused:
        what = f"{name}={_shown(self.values[name])} must be {what}"
        return Refused(400, what, param=name, code="invalid_value")

    def whole(self, name: str, least: int, most: int = MAX_COUNT) -> int | None:
        value = self.values.get(name)
        if value is None or (type(value) is int and least <= value <= most):
            return value
        limit = f"of at least {least}" if most == MAX_COUNT else f"from {least} to {most}"
        raise self._wrong(name, f"a whole number {limit}")

    def number(self, name: str, least: float, most: float, what: str) -> float | None:
        value = self.values.get(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not least <= value <= most:
            raise self._wrong(name, what)
        return float(value)

    def flag(self, name: str) -> bool | None:
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong(name, "true or false")

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(name, "a string")

    def texts(self, name: str, count: int, characters: int) -> tuple[str, ...] | None:
        value = self.values.get(name)
        if value is None:
            return None
        texts = [value] if isinstance(value, str) else value
        if (
            not isinstance(texts, list)
            or len(texts) > count
            or not all(isinstance(text, str) and 0 < len(text) <= characters for text in texts)
        ):
            what = f"a string, or at most {count} of them, each of 1 to {characters} characters"
            raise self._wrong(name, what)
        return tuple(texts)

    def keys(self, name: str, allowed: Sequence[str]) -> Mapping[str, Any]:
        """The object of that name, which has no other fields than those."""
        value = self.values[name]
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        for key in value:
            if key not in allowed:
                raise _unknown(f"{name}.{key}", [f"{name}.{other}" for other in allowed])
        return value


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name in (*_OBEYED, *_LABELS) or value in _NEUTRAL.get(name, ()):
            continue
        if name in _NEUTRAL:
            what = f"{name} is not supported here; leave it out"
            raise Refused(400, what, param=name, code="unsupported_parameter")
        raise _unknown(name, _OBEYED)


def _unknown(name: str, known: Sequence[str]) -> Refused:
    name = name if len(name) <= 60 else f"{name[:57]}..."
    what = f"{name} is unknown{nearest(name, known)}"
    return Refused(400, what, param=name, code="unknown_parameter")


def _messages(value: Any) -> tuple[Message, ...]:
    def wrong(what: str, param: str = "messages") -> Refused:
        return Refused(400, what, param=param, code="invalid_value")

    if not isinstance(value, list) or not value:
        raise wrong("messages must be a list that is not empty")
    if len(value) > MAX_MESSAGES:
        raise wrong(f"messages has {len(value)} entries; it may have {MAX_MESSAGES}")
    messages = []
    for number, item in enumerate(value):
        name = f"messages[{number}]"
        if not isinstance(item, dict):
            raise wrong(f"{name} must be an object, not {_name(item)}", name)
        role = item.get("role")
        if not isinstance(role, str) or role not in ROLES:
            what = f"{name}.role={_shown(role)} must be one of {', '.join(ROLES)}"
            raise wrong(what, f"{name}.role")
        for key, extra in item.items():
            known = key in ("role", "content", *_DROPPED)
            if not known and extra is not None and extra != []:
                raise _unknown(f"{name}.{key}", [f"{name}.role", f"{name}.content"])
        content = item.get("content")
        if content is None and role == "assistant":  # a turn that was cut before its answer
            content = ""
        messages.append(Message(ROLES[role], _content(content, f"{name}.content")))
    if messages[-1].role != "user":
        raise wrong(f"the last of messages must be the user's, not the {messages[-1].role}'s")
    return tuple(messages)


def _content(value: Any, name: str) -> str:
    """A string, or the texts of a list of parts, a line each."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list):
        for number, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                what = f'{name}[{number}] must be {{"type": "text", "text": "..."}}: text alone'
                raise Refused(400, what, param=f"{name}[{number}]", code="invalid_value")
        text = "\n".join(part["text"] for part in value)
    else:
        what = f"{name} must be a string or a list of text parts, not {_name(value)}"
        raise Refused(400, what, param=name, code="invalid_value")
    try:
        text.encode()
    except UnicodeEncodeError:
        what = f"{name} holds half of a surrogate pair, no text"
        raise Refused(400, what, param=name, code="invalid_value") from None
    return text


def _max_tokens(given: _Fields) -> int | None:
    old, new = given.whole("max_tokens", 1), given.whole("max_completion_tokens", 1)
    if old is not None and new is not None and old != new:
        what = f"max_tokens={old} and max_completion_tokens={new} say the same; give one of them"
        raise Refused(400, what, param="max_tokens", code="invalid_value")
    return new if new is not None else old


def _include_usage(given: _Fields, stream: bool) -> bool:
    if "stream_options" not in given.values:
        return False
    if not stream:
        what = "stream_options is for stream=true"
        raise Refused(400, what, param="stream_options", code="invalid_value")
    options = given.keys("stream_options", ("include_usage", "include_obfuscation"))
    usage, hidden = (options.get(k) or False for k in ("include_usage", "include_obfuscation"))
    if not isinstance(usage, bool) or hidden is not False:
        what = "stream_options.include_usage must be true or false, and nothing else may be set"
        raise Refused(400, what, param="stream_options", code="invalid_value")
    return usage


def _decode(given: _Fields, decode: Decode) -> Decode:
    """The config's decoding with what a body sets; sampling is that of thinking and answer."""
    temperature = given.number("temperature", 0, 2, "a number from 0 to 2")
    smallest = math.ulp(0.0)
    top_k = given.whole("top_k", -1)
    sampling = {
        "temperature": temperature,
        "top_p": given.number("top_p", smallest, 1, "a number above 0, at most 1"),
        "top_k": 0 if top_k == -1 else top_k,  # vLLM's way of saying all
        "min_p": given.number("min_p", 0, 1 - 2**-30, "a number of at least 0, below 1"),
    }
    changes: dict[str, Any] = {}
    for name, value in sampling.items():
        if value is not None:
            changes |= {name: value, f"thinking_{name}": None}
    thinking = _thinking(given)
    if thinking is not None:
        changes["thinking"] = thinking
    controls: dict[str, tuple[str, Any]] = {
        "max_thinking_tokens": ("thinking_token_budget", given.whole("thinking_token_budget", 1)),
        "min_thinking_tokens": ("min_thinking_tokens", given.whole("min_thinking_tokens", 0)),
        "ignore_ends": ("ignore_ends", given.whole("ignore_ends", 0)),
        "ignore_strings": ("ignore_strings", given.texts("ignore_strings", 16, 256)),
    }
    for ours, (theirs, value) in controls.items():
        if value is None:
            continue
        if not changes.get("thinking", decode.thinking):
            what = f"{theirs} is of the thinking, which is off"
            raise Refused(400, what, param=theirs, code="invalid_value")
        changes[ours] = value
    return replace(decode, **changes)


def _thinking(given: _Fields) -> bool | None:
    """Whether there is to be thinking, by `thinking` or reasoning_effort="none"."""
    effort, value = given.text("reasoning_effort"), given.values.get("thinking")
    if effort not in (None, "none"):
        what = (
            f"reasoning_effort={_shown(effort)} has no fixed meaning here: thinking_token_budget"
            ' says how much, and reasoning_effort="none" or thinking=false that there is none'
        )
        raise Refused(400, what, param="reasoning_effort", code="unsupported_value")
    if isinstance(value, dict):
        kinds = {"enabled": True, "disabled": False}
        kind = given.keys("thinking", ("type",)).get("type")
        if not isinstance(kind, str) or kind not in kinds:
            what = f'thinking.type={_shown(kind)} must be "enabled" or "disabled"'
            raise Refused(400, what, param="thinking.type", code="invalid_value")
        thinking: bool | None = kinds[kind]
    else:
        thinking = given.flag("thinking")
    if effort == "none" and thinking:
        what = 'reasoning_effort="none" and thinking say the opposite'
        raise Refused(400, what, param="reasoning_effort", code="invalid_value")
    return False if effort == "none" else thinking


def _name(value: Any) -> str:
    """What JSON calls it."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _shown(value: Any) -> str:
    """A value in a message: the beginning of it is enough."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
