"""From the config of decoding to requests: rules, sampling and seeds of every sample.

A sample is a function of its own prompt and of the config, whatever else is asked: its seed comes
from a hash of the config's seed, the prompt's (or its id) and the number of the sample. Only the
automatic budget of the evaluator's parity looks at all prompts, as s1's evaluator does.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from s1jax.config import Decode
from s1jax.decoding.budget import Ids, Rules
from s1jax.decoding.record import Request
from s1jax.decoding.sampling import Sampling
from s1jax.prompts import Delimiters, auto_budget, check_fits, room_tokens


@dataclass(frozen=True)
class Ask:
    """A prompt and what is asked of it."""

    id: str
    prompt: Ids  # the thinking's start included
    decode: Decode
    seed: int | None = None  # of its own; None: its id stands for it
    name: str | None = None  # in a message; None: the id


def requests_of(
    asks: Sequence[Ask], delimiters: Delimiters, context: int, seed: int
) -> list[Request]:
    """The samples of all prompts, in the order that the config wants; named as `sample_id()` says.

    Raises UserError if one does not fit the context.
    """
    requests: list[tuple[int, Request]] = []
    longest = max((len(ask.prompt) for ask in asks), default=0)
    for ask in asks:
        decode, length = ask.decode, len(ask.prompt)
        counted = longest if decode.parity == "evaluator" else length
        [budget] = auto_budget(context, [counted], delimiters, decode)
        name = ask.name or f"prompt {ask.id}"
        check_fits(context, [length], [budget], delimiters, decode, [name])
        rules = rules_of(
            decode, delimiters, budget, room_tokens(context, length, delimiters, decode)
        )
        thinking, answer = samplings(decode)
        requests += [
            (
                length + budget,
                Request(
                    sample_id(ask.id, sample),
                    ask.prompt,
                    rules,
                    thinking,
                    answer,
                    seed_of(seed, ask.id if ask.seed is None else ask.seed, sample),
                ),
            )
            for sample in range(decode.samples)
        ]
    if asks and asks[0].decode.order == "longest":
        requests.sort(key=lambda pair: -pair[0])
    return [request for _, request in requests]


def sample_id(prompt_id: str, sample: int) -> str:
    """The id of one sample's request."""
    return f"{prompt_id}/{sample}"


def rules_of(decode: Decode, delimiters: Delimiters, budget: int, room: int) -> Rules:
    """What a sample has to obey under a config.

    `budget` is what `auto_budget()` says of its prompt, `room` what `room_tokens()` does. Where
    ends are ignored, thinking has a token before the first of them. With the evaluator's parity
    that takes the minimum's place: vLLM's is 1 in each of its rounds.
    """
    evaluator, least = decode.parity == "evaluator", decode.min_thinking_tokens
    if decode.ignore_ends and decode.parity != "readme":
        least = 1 if evaluator else max(least, 1)
    return Rules(
        max_thinking_tokens=budget,
        max_answer_tokens=decode.max_answer_tokens,
        ends=delimiters.ends,
        stops=delimiters.stops,
        close=delimiters.close,
        force=delimiters.force,
        force_newline=delimiters.force_newline,
        min_thinking_tokens=least,
        ignore_ends=decode.ignore_ends,
        ignore_strings=delimiters.ignore,
        accounting=decode.parity,
        thinking=decode.thinking,
        # Elsewhere the budgets keep to the context by themselves; see prompts.check_fits().
        max_written_tokens=room if evaluator else Rules.max_written_tokens,
    )


def samplings(decode: Decode) -> tuple[Sampling, Sampling]:
    """How thinking and answer are sampled."""
    names = ("temperature", "top_k", "top_p", "min_p")
    answer = {name: getattr(decode, name) for name in names}
    own = {name: getattr(decode, f"thinking_{name}") for name in names}
    thinking = answer | {name: value for name, value in own.items() if value is not None}
    return Sampling(**thinking), Sampling(**answer)


def seed_of(*parts: int | str) -> int:
    """32 bits that depend on all of the parts, and on which of them are numbers."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:4], "little")
