"""From what a client asks for to the requests of the engine: ids, budgets, rules and seeds.

What the body sets is kept or refused; what it leaves to the config gives way to it, and to the
context. So a conversation may grow until its answers have no room, and `max_completion_tokens`
bounds all that is written, as OpenAI means it: thinking, what closes it, and answer.
"""

from dataclasses import dataclass, replace

from s1jax.asking import Model
from s1jax.chat import Message
from s1jax.decoding import budget
from s1jax.decoding.budget import IGNORE, Rules
from s1jax.decoding.record import Request
from s1jax.decoding.requests import rules_of, sample_id, samplings, seed_of
from s1jax.prompts import Delimiters, chat_ids, delimiters
from s1jax.serving.protocol import ChatRequest, Refused
from s1jax.types import UserError

# Ignore strings that a body may set: what the engine's arrays have room for without growing.
STRINGS, STRING_TOKENS = 5, 16

ANSWER_SHARE = 4  # the answer keeps one part in so many of what is left to it and the thinking


def reserve(model: Model) -> list[Rules]:
    """Rules with room for those of any request."""
    own = model.delimiters
    longest = max([STRING_TOKENS, *map(len, own.ignore)])
    strings = ((0,) * longest,) * max(STRINGS, len(own.ignore))
    return [replace(rules_of(model.cfg.decode, own, 1, 1), ignore_strings=strings)]


def requests_of(model: Model, asked: ChatRequest, number: int) -> list[Request]:
    """The samples that a client asks for, in its `number`th request.

    Without a seed of its own, that number stands for it: the same server asked the same things in
    the same order gives the same answers. With one they are `s1jax.generate`'s for a line of
    prompts with that seed. Raises Refused for what cannot be.
    """
    own = _delimiters(model, asked)
    prompt = _prompt(model, asked)
    closing = max(map(len, (own.close, own.force, own.force_newline)))
    limits = limits_of(asked, len(prompt), model.source.cfg.max_positions, closing)
    decode = replace(
        asked.decode,
        min_thinking_tokens=limits.min_thinking_tokens,
        max_answer_tokens=limits.answer_tokens,
    )
    rules = rules_of(decode, own, limits.thinking_tokens, 0)
    rules = replace(rules, max_written_tokens=limits.written_tokens)
    name = f"chat-{number}"
    seed = name if asked.seed is None else asked.seed
    return [
        Request(
            sample_id(name, sample),
            prompt,
            rules,
            *samplings(decode),
            seed=seed_of(model.cfg.seed, seed, sample),
        )
        for sample in range(asked.samples)
    ]


@dataclass(frozen=True)
class Limits:
    """The budgets of a request."""

    thinking_tokens: int  # at most; 0 without thinking
    min_thinking_tokens: int
    answer_tokens: int
    written_tokens: int  # of thinking and answer together


def limits_of(asked: ChatRequest, prompt_tokens: int, context: int, closing_tokens: int) -> Limits:
    """What a request may write after a prompt of so many tokens.

    `thinking_token_budget` is taken as it is; else the thinking has `decode.max_thinking_tokens`
    (None: no end of its own), or what is left where the answer keeps `decode.max_answer_tokens`, at
    most a quarter of the whole. Without `max_completion_tokens` the answer has
    `decode.max_answer_tokens`, with it all that the thinking leaves. Raises Refused, with what
    would fit, where that is less than one token of each.
    """
    decode, space = asked.decode, context - prompt_tokens
    closing = closing_tokens if decode.thinking else 0
    least = closing + 1 + decode.thinking
    if space < least:
        raise Refused(
            400,
            f"the messages have {prompt_tokens} tokens, which leaves {max(space, 0)} of the model's"
            f" context of {context}: an answer needs at least {least}",
            param="messages",
            code="context_length_exceeded",
        )
    if asked.max_tokens is not None and asked.max_tokens > space:
        name = _name_of_max(asked)
        raise Refused(
            400,
            f"{name}={asked.max_tokens} and the {prompt_tokens} tokens of the messages are more"
            f" than the model's context of {context}: {name}={space} would fit",
            param=name,
            code="context_length_exceeded",
        )
    if asked.max_tokens is not None and asked.max_tokens < least:
        name = _name_of_max(asked)
        raise Refused(
            400,
            f"{name}={asked.max_tokens} is too little for thinking, the {closing} tokens that close"
            f" it, and an answer: at least {least}, or thinking=false",
            param=name,
            code="invalid_value",
        )
    total = (space if asked.max_tokens is None else asked.max_tokens) - closing
    answer = min(decode.max_answer_tokens, total) if asked.max_tokens is None else total
    if not decode.thinking:
        return Limits(0, 0, answer, total)
    thinking, minimum = _thinking(asked, total)
    return Limits(thinking, minimum, answer, total)


def _thinking(asked: ChatRequest, total: int) -> tuple[int, int]:
    """The most and the least tokens of thinking, of so many that it and the answer have."""
    decode, own = asked.decode, asked.own
    kept = min(decode.max_answer_tokens, max(total // ANSWER_SHARE, 1))
    most, least = decode.max_thinking_tokens, decode.min_thinking_tokens
    for name, value in (("thinking_token_budget", most), ("min_thinking_tokens", least)):
        if name in own and value is not None and value > total - 1:
            raise Refused(
                400,
                f"{name}={value} leaves nothing to the answer, which has {total} tokens together"
                f" with the thinking: {name}={total - 1} would fit",
                param=name,
                code="context_length_exceeded" if asked.max_tokens is None else "invalid_value",
            )
    if "thinking_token_budget" in own:
        assert most is not None
        if "min_thinking_tokens" in own and least > most:
            raise Refused(
                400,
                f"min_thinking_tokens={least} must be at most thinking_token_budget={most}",
                param="min_thinking_tokens",
                code="invalid_value",
            )
        return most, min(least, most)
    most = total - kept if most is None else min(most, total - kept)
    if "min_thinking_tokens" in own:
        return max(most, least), least
    return most, min(least, most)


def _name_of_max(asked: ChatRequest) -> str:
    old = "max_tokens" in asked.own and "max_completion_tokens" not in asked.own
    return "max_tokens" if old else "max_completion_tokens"


def _prompt(model: Model, asked: ChatRequest) -> budget.Ids:
    try:
        ids = chat_ids(model.tokenizer, model.chat, asked.messages, asked.decode)
    except UserError as error:
        raise Refused(400, _own_words(model, error), param="messages") from error
    return tuple(ids)


def _delimiters(model: Model, asked: ChatRequest) -> Delimiters:
    if "ignore_strings" not in asked.own:
        return model.delimiters
    try:
        own = delimiters(model.tokenizer, model.chat, asked.decode)
    except UserError as error:
        raise Refused(400, _own_words(model, error), param="ignore_strings") from error
    room = budget.sizes(reserve(model))
    if len(own.ignore) > room[0] - IGNORE or max(map(len, own.ignore), default=0) > room[1]:
        what = f"ignore_strings may be {room[0] - IGNORE} strings of {room[1]} tokens each"
        raise Refused(400, what, param="ignore_strings", code="invalid_value")
    return own


def _own_words(model: Model, error: UserError) -> str:
    """What went wrong, without where the model lies, which is no client's business."""
    return str(error).removeprefix(f"{model.tokenizer.path}: ")


def warm_up(model: Model) -> list[Request]:
    """A short request of ours, which compiles what the first one of a client needs."""
    decode = replace(model.cfg.decode, ignore_ends=0, min_thinking_tokens=0)
    [request] = requests_of(model, ChatRequest((Message("user", "Hello"),), decode), 0)
    rules = replace(request.rules, max_thinking_tokens=1, max_answer_tokens=1)
    return [replace(request, rules=rules)]
