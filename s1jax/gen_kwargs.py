"""The `gen_kwargs` of lm-evaluation-harness, in its names and in s1's, as a config of decoding.

Reference: `_model_generate` of s1's `lm_eval/models/vllm_causallms.py`, and lm_eval's
`normalize_gen_kwargs`. A temperature that is given counts even beside do_sample=False, as in s1,
whose tasks say the one and whose commands the other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from s1jax import config, training_config
from s1jax.chat import Chat
from s1jax.config import Config, Decode
from s1jax.sections import nearest
from s1jax.types import UserError

ENDLESS_TRIES = 1000  # of rejection sampling; s1's evaluator never gives up
AUTO = "auto"  # all that max_gen_toks leaves to the thinking

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_DELIMITERS = ("thinking_start", "thinking_end", "until_thinking", "until_thinking_2")
_NAMES = (
    *("until", "do_sample", *_LENGTHS, *_SAMPLING),
    *("max_tokens_thinking", "min_tokens_thinking", "thinking_n_ignore", "thinking_n_ignore_str"),
    *(f"{name}_thinking" for name in _SAMPLING),
    *("rejection_sample", *_DELIMITERS),
)


@dataclass(frozen=True)
class Asked:
    """The gen_kwargs of a request."""

    decode: Decode  # but for what depends on the prompt's length
    until: tuple[str, ...]  # each ends the answer
    budget: int | str | None  # of the thinking: so many tokens, AUTO, or None: as the answer's

    @property
    def samples(self) -> bool:
        """Whether the same request again may have another answer."""
        answer, thinking = self.decode.temperature, self.decode.thinking_temperature
        own = answer if thinking is None else thinking
        return answer > 0 or (self.decode.thinking and own > 0)


def read_gen_kwargs(
    gen_kwargs: Mapping[str, Any], decode: Decode, chat: Chat, max_gen_toks: int
) -> Asked:
    """What is asked for; how a config asks otherwise counts for nothing that has a name here.

    Any name with "thinking" in it, and rejection_sample, switch the thinking on. `max_gen_toks`
    is the answer's limit where none is given. Raises UserError for what cannot be had.
    """
    left = {name: value for name, value in gen_kwargs.items() if value is not None}
    tries = _tries(left.pop("rejection_sample", False), decode)
    thinks = tries > 0 or any("thinking" in name for name in left)
    lengths = [left.pop(name) for name in _LENGTHS if name in left]
    budget = left.pop("max_tokens_thinking", None)
    if budget not in (None, AUTO):
        budget = _whole("max_tokens_thinking", budget)
    if tries and budget is None:
        raise UserError("gen_kwargs: rejection_sample needs max_tokens_thinking")
    string = left.pop("thinking_n_ignore_str", None)
    _take_delimiters(left, chat)
    # Hugging Face's models sample at temperature 1 unless told otherwise.
    sampled = _truth("do_sample", left.pop("do_sample", False))
    answer = {"temperature": float(sampled)} | _sampling(left, "")
    thinking = {f"thinking_{name}": x for name, x in _sampling(left, "_thinking").items()}
    changes: dict[str, Any] = {
        "thinking": thinks,
        "max_thinking_tokens": budget if isinstance(budget, int) else None,
        "min_thinking_tokens": _whole("min_tokens_thinking", left.pop("min_tokens_thinking", 0)),
        "ignore_ends": _whole("thinking_n_ignore", left.pop("thinking_n_ignore", 0)),
        "ignore_strings": () if string is None else (str(string),),
        "max_answer_tokens": _whole("max_gen_toks", [*lengths, max_gen_toks][0]),
        "rejection_tries": tries,
        "rejection_force_last": decode.rejection_force_last and tries > 0,
        "samples": 1,
    }
    changes |= dict.fromkeys(("prompt_tokens", "prompt_steps", "prompt_class"))
    changes |= {name: getattr(Decode, name) for name in _SAMPLING} | answer
    changes |= dict.fromkeys(f"thinking_{name}" for name in _SAMPLING) | thinking
    until = _until(left.pop("until", ()))
    if left.get("num_beams") == 1:
        del left["num_beams"]
    for name, value in left.items():
        raise UserError(f"gen_kwargs: {name}={value!r} cannot be had{nearest(name, _NAMES)}")
    asked = replace(decode, **changes)
    if problems := config.check(replace(Config(), decode=asked)):
        raise UserError(f"gen_kwargs: {'; '.join(problems)}")
    return Asked(asked, until, budget)


def _tries(value: Any, decode: Decode) -> int:
    if isinstance(value, bool):
        return (decode.rejection_tries or ENDLESS_TRIES) if value else 0
    tries = _whole("rejection_sample", value)
    if tries == 1:
        raise UserError(
            f"gen_kwargs: rejection_sample={value!r} is no limit in s1 and would be a single try"
            " here: give true, or at least 2 tries"
        )
    return tries


def _truth(name: str, value: Any) -> bool:
    """Also of a text, which is what lm_eval makes of a value in quotes."""
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise UserError(f"gen_kwargs: {name}={value!r} must be true or false")


def _whole(name: str, value: Any) -> int:
    try:
        if not isinstance(value, bool) and int(value) == float(value):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"gen_kwargs: {name}={value!r} must be a whole number")


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"gen_kwargs: {name}={value!r} must be a number")


def _sampling(left: dict[str, Any], suffix: str) -> dict[str, Any]:
    """The settings of one phase, taken out of the arguments."""
    found: dict[str, Any] = {}
    for name in _SAMPLING:
        value = left.pop(name + suffix, None)
        if value is None:
            continue
        if name == "top_k":
            found[name] = max(_whole(name + suffix, value), 0)  # vLLM's -1 is off, too
        else:
            found[name] = _number(name + suffix, value)
    return found


def _take_delimiters(left: dict[str, Any], chat: Chat) -> None:
    """Takes the delimiters out of the arguments. UserError if they are not the chat's."""
    ends = chat.ends or (re.findall(r"<\S+?>", chat.answer)[0],)
    possible: dict[str, tuple[str, ...]] = {
        "thinking_start": (chat.thinking.rstrip("\n"),),
        "thinking_end": (chat.answer.strip("\n"),),
        "until_thinking": ends[:1],
        "until_thinking_2": (*ends, chat.end.strip()),
    }
    for name in _DELIMITERS:
        value = left.pop(name, None)
        is_list = isinstance(value, list) and name.startswith("until") and value
        given = value if is_list else [value]
        if value is not None and not all(text in possible[name] for text in given):
            others = ", ".join(other for other in training_config.CHATS if other != chat.name)
            raise UserError(
                f'gen_kwargs: {name}={value!r} cannot be had with chat="{chat.name}", whose is'
                f" {' or '.join(map(repr, possible[name]))}; other chats are {others}"
            )


# --- The strings that end an answer ---


def _until(value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, list | tuple) or not all(isinstance(s, str) for s in strings):
        raise UserError(f"gen_kwargs: until={value!r} must be a string or a list of strings")
    return tuple(string for string in strings if string)


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of the strings."""
    return text[: min((at for at in map(text.find, until) if at >= 0), default=len(text))]


def can_stop(string: str, until: Sequence[str]) -> bool:
    """Whether decoding may stop where a string's tokens are complete, and the text is as `cut()`.

    It may not if one of the strings could have begun before those tokens, with its end in them:
    the text would have to be cut there, but nothing tells what decoding stopped at.
    """
    return not any(
        string.startswith(other[at:]) or other[at:].startswith(string)
        for other in until
        for at in range(1, len(other))
    )
