"""From what a client asks for to the requests of the engine: ids, budgets, rules and seeds.

What the body sets is kept or refused; what it leaves to the config gives way to it, to the context
and to `serve.max_request_tokens`. So a conversation may grow until its answers have no room, and
`max_completion_tokens` bounds all that is written, as OpenAI means it: thinking, what closes it,
and answer.
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
    most = model.cfg.serve.max_request_tokens
    share = None if most is None else most // asked.samples
    limits = limits_of(asked, len(prompt), model.source.cfg.max_positions, closing, share)
    decode = replace(
        asked.decode,
        min_thinking_tokens=limits.min_thinking_tokens,
        max_answer_tokens=limits.answer_tokens,
    )
    rules = rules_of(decode, own, limits.thinking_tokens, 0)
    rules = replace(rules, max_written_tokens=limits.written_tokens, reject=limits.no_answer)
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
    no_answer: bool = False  # `max_completion_tokens` ends it in its thinking


def limits_of(
    asked: ChatRequest,
    prompt_tokens: int,
    context: int,
    closing_tokens: int,
    share: int | None = None,
) -> Limits:
    """What a request may write after a prompt of so many tokens.

    `thinking_token_budget` is taken as it is; else the thinking has `decode.max_thinking_tokens`
    (None: no end of its own), or what is left where the answer keeps `decode.max_answer_tokens`, at
    most a quarter of the whole. Without `max_completion_tokens` the answer has
    `decode.max_answer_tokens`, with it all that the thinking leaves; where it is too little for
    thinking, what closes it and an answer, there is thinking alone. `share` bounds each sample as
    `max_completion_tokens` does. Raises Refused, with what would fit.
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
    name = _name_of_max(asked)
    if share is not None:
        _check_share(asked, share, least)
    if asked.max_tokens is not None and asked.max_tokens > space:
        raise Refused(
            400,
            f"{name}={asked.max_tokens} and the {prompt_tokens} tokens of the messages are more"
            f" than the model's context of {context}: {name}={space} would fit",
            param=name,
            code="context_length_exceeded",
        )
    bounds = [bound for bound in (asked.max_tokens, share) if bound is not None]
    total = min([space, *bounds]) - closing
    if total < 1 + decode.thinking:
        assert asked.max_tokens is not None
        return _thinking_alone(asked, min(asked.max_tokens, space - closing))
    answer = min(decode.max_answer_tokens, total) if asked.max_tokens is None else total
    if not decode.thinking:
        return Limits(0, 0, answer, total)
    code = "context_length_exceeded" if total == space - closing else "invalid_value"
    thinking, minimum = _thinking(asked, total, code)
    return Limits(thinking, minimum, answer, total)


def _check_share(asked: ChatRequest, share: int, least: int) -> None:
    """Raises Refused if a sample's share of a request's tokens is not what it asks for, or needs.

    The name that stands for the limit is the config's, which a client may tell whoever serves.
    """
    n, name = asked.samples, _name_of_max(asked)
    each = f"each of {n} samples" if n > 1 else "a sample"
    limit = f"serve.max_request_tokens leaves {share} tokens to {each}"
    if share < 1 or (asked.max_tokens is None and share < least):
        needed = least if asked.max_tokens is None else 1
        fits = f": n={share * n // needed} would fit" if share * n >= needed else ""
        raise _invalid("n", f"{limit}, which needs at least {needed}{fits}")
    if asked.max_tokens is not None and asked.max_tokens > share:
        raise _invalid(name, f"{name}={asked.max_tokens}: {limit}: {name}={share} would fit")


def _invalid(name: str, what: str) -> Refused:
    return Refused(400, what, param=name, code="invalid_value")


def _thinking_alone(asked: ChatRequest, most: int) -> Limits:
    """What may be written where there is no room for an answer."""
    decode, own = asked.decode, asked.own
    budget, least = decode.max_thinking_tokens, decode.min_thinking_tokens
    if budget is not None and {"thinking_token_budget", "min_thinking_tokens"} <= own:
        _check_order(least, budget)
    thinking = most if budget is None else min(most, budget)
    return Limits(thinking, min(least, thinking), most, most, no_answer=True)


def _thinking(asked: ChatRequest, total: int, code: str) -> tuple[int, int]:
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
                code=code,
            )
    if "thinking_token_budget" in own:
        assert most is not None
        if "min_thinking_tokens" in own:
            _check_order(least, most)
        return most, min(least, most)
    most = total - kept if most is None else min(most, total - kept)
    if "min_thinking_tokens" in own:
        return max(most, least), least
    return most, min(least, most)


def _check_order(least: int, most: int) -> None:
    if least > most:
        what = f"min_thinking_tokens={least} must be at most thinking_token_budget={most}"
        raise _invalid("min_thinking_tokens", what)


def _name_of_max(asked: ChatRequest) -> str:
    old = "max_tokens" in asked.own and "max_completion_tokens" not in asked.own
    return "max_tokens" if old else "max_completion_tokens"


def _prompt(model: Model, asked: ChatRequest) -> budget.Ids:
    try:
        # A model of the config's thinking would begin it by itself, as its answer.
        closed = model.cfg.decode.thinking
        ids = chat_ids(model.tokenizer, model.chat, asked.messages, asked.decode, closed=closed)
    except UserError as error:
        raise Refused(400, _own_words(model, error), param="messages") from error
    return tuple(ids)


def _delimiters(model: Model, asked: ChatRequest) -> Delimiters:
    if "ignore_strings" not in asked.own:
        return model.delimiters
    for control in model.tokenizer.controls:
        if any(control in text for text in asked.decode.ignore_strings):
            what = f"ignore_strings must not hold {control!r}, which is a control token"
            raise _invalid("ignore_strings", what)
    try:
        own = delimiters(model.tokenizer, model.chat, asked.decode)
    except UserError as error:
        raise Refused(400, _own_words(model, error), param="ignore_strings") from error
    room = budget.sizes(reserve(model))
    if len(own.ignore) > room[0] - IGNORE or max(map(len, own.ignore), default=0) > room[1]:
        what = f"ignore_strings may be {room[0] - IGNORE} strings of {room[1]} tokens each"
        raise _invalid("ignore_strings", what)
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
