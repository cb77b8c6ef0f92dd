"""From text to ids and budgets: what decoding, which knows no tokenizer, is given.

`prompt_ids()` is a prompt up to the opened thinking; `delimiters()` is all that may end or is
written during it; `auto_budget()` and `check_fits()` see to it that everything fits the context.
Reference: s1's evaluator, `lm_eval/models/vllm_causallms.py`, and the task files beside it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from s1jax.chat import (
    Chat,
    Message,
    check_asks,
    check_tokenizer,
    conversation_ids,
    opened_by_template,
    split_controls,
    written_ids,
)
from s1jax.config import Decode
from s1jax.tokenizer import ChatTokenizer
from s1jax.types import UserError

LONG = (
    "Answer after a long amount of thinking. If you feel like you are finished early, spend the"
    " extra time trying to double-check your work until you are absolutely sure that you have the"
    " correct answer."
)
SHORT = (
    "Answer after a short amount of thinking. Do not spend excessive time double-checking your"
    " work."
)

EVALUATOR_RESERVE = 100  # tokens that s1's evaluator leaves to the answer of an automatic budget


# --- What a question asks for ---


def think_for(amount: int, unit: str) -> str:
    """What a question ends in that asks for so much thinking, in tokens or in steps."""
    return f"\n\nThink for up to {amount} {unit}."


def conditioned(question: str, decode: Decode) -> str:
    """The question with the prompt-based control of its thinking, if there is one."""
    if decode.prompt_tokens is not None:
        return question + think_for(decode.prompt_tokens, "tokens")
    if decode.prompt_steps is not None:
        return question + think_for(decode.prompt_steps, "steps")
    if decode.prompt_class is not None:
        return question + "\n\n" + {"long": LONG, "short": SHORT}[decode.prompt_class]
    return question


def prompt_ids(tokenizer: ChatTokenizer, chat: Chat, question: str, decode: Decode) -> list[int]:
    """The template's prompt for a question with its control, and what opens the thinking.

    Raises UserError for a question that is no text, and where there is to be no thinking but the
    template has opened it.
    """
    return chat_ids(tokenizer, chat, [Message("user", question)], decode)


def chat_ids(
    tokenizer: ChatTokenizer,
    chat: Chat,
    messages: Sequence[Message],
    decode: Decode,
    *,
    closed: bool = False,
) -> list[int]:
    """`prompt_ids()` of a conversation whose last message is the question.

    The model's earlier turns are what it answered, without their thinking. A system message takes
    the place of the template's own. `closed` is for a model that would begin to think by itself:
    where there is to be no thinking, an empty one is written. Raises UserError also where the
    template refuses the roles, and for a chat without questions.
    """
    *earlier, question = messages
    assert question.role == "user"
    check_asks(chat)
    check_tokenizer(tokenizer, chat)
    if not question.text.strip():
        raise UserError("the question is empty")
    for number, message in enumerate(messages):
        name = "the question" if message is question else f"message {number} (from 0)"
        try:
            message.text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{name} holds half of a surrogate pair, no text") from None
    closed = closed and not decode.thinking
    opened = opened_by_template(tokenizer, chat) >= len(_start(chat))
    if opened and not (decode.thinking or closed):
        raise UserError(
            f"{tokenizer.path}: its chat template opens the thinking itself, so that"
            " decode.thinking=False cannot be; it takes a template that does not"
        )
    asked = Message("user", conditioned(question.text, decode))
    ids = conversation_ids(tokenizer, [*earlier, asked])
    if closed:
        return [*ids, *written_ids(tokenizer, _no_thinking(tokenizer, chat))]
    return [*ids, *_start_ids(tokenizer, chat, decode)]


def _start(chat: Chat) -> str:
    """What opens the thinking: the model writes the newline after it, as in s1's evaluator."""
    return chat.thinking.rstrip("\n")


def _start_ids(tokenizer: ChatTokenizer, chat: Chat, decode: Decode) -> list[int]:
    rest = _start(chat)[opened_by_template(tokenizer, chat) :]
    return written_ids(tokenizer, rest) if decode.thinking else []


def _no_thinking(tokenizer: ChatTokenizer, chat: Chat) -> str:
    """What opens and closes a thinking with nothing in it, as an example without one is trained.

    Where the steps of the thinking are opened one by one, there are none: the answer is opened.
    """
    if chat.ends:
        return chat.answer.strip("\n")
    whole = chat.thinking + chat.answer.rstrip("\n")
    return whole[opened_by_template(tokenizer, chat) :]


# --- What ends the thinking, and what is written then ---


@dataclass(frozen=True)
class Delimiters:
    """What decoding watches for and writes, as ids."""

    start: tuple[int, ...]  # appended to the prompt; () if the template opened the thinking
    ends: tuple[tuple[int, ...], ...]  # each ends the thinking
    stops: tuple[tuple[int, ...], ...]  # each ends the answer
    close: tuple[int, ...]  # written after thinking that ended by itself
    force: tuple[int, ...]  # written when the budget is spent and the text ends in a newline
    force_newline: tuple[int, ...]  # the same when it does not
    ignore: tuple[tuple[int, ...], ...]  # written in place of ignored ends, in turn


def delimiters(tokenizer: ChatTokenizer, chat: Chat, decode: Decode) -> Delimiters:
    """The delimiters of a family in the ids of a tokenizer.

    With `decode.parity="readme"` nothing closes the thinking, as in the code of s1's README; its
    evaluator does not count an answer that the model began by itself as an end of counted steps.
    Raises UserError for a chat without questions, and if the tokenizer cannot write one of them.
    """
    check_asks(chat)
    check_tokenizer(tokenizer, chat)
    family = f'model.chat="{chat.name}"'
    answer = chat.answer.lstrip("\n")
    marker = answer.rstrip("\n")
    ends = chat.ends
    if decode.parity == "evaluator":
        ends = tuple(end for end in ends if end != marker)
    ending = [_written(tokenizer, end, family) for end in ends]
    if not chat.ends:
        pieces = split_controls(tokenizer, chat.answer)
        ending = [next((piece,) for piece in pieces if isinstance(piece, int))]
    stops = [_written(tokenizer, chat.end.strip(), family), *((i,) for i in _eos_ids(tokenizer))]
    close: tuple[int, ...] = ()
    force, force_newline = close, close
    if decode.parity != "readme":
        close = _written(tokenizer, marker, family)
        name = "decode.force_string"
        force = _written(tokenizer, answer + decode.force_string, name)
        force_newline = _written(tokenizer, "\n" + answer + decode.force_string, name)
    return Delimiters(
        start=tuple(_start_ids(tokenizer, chat, decode)),
        ends=tuple(dict.fromkeys([*ending, *stops])),
        stops=tuple(dict.fromkeys(stops)),
        close=close,
        force=force,
        force_newline=force_newline,
        ignore=tuple(
            _written(tokenizer, text, "decode.ignore_strings") for text in decode.ignore_strings
        ),
    )


def _written(tokenizer: ChatTokenizer, text: str, name: str) -> tuple[int, ...]:
    """The ids of a text that are that text again."""
    ids = written_ids(tokenizer, text)
    shown = "".join(tokenizer.decode_pieces(ids))
    if not ids or shown != text:
        raise UserError(
            f"{tokenizer.path}: cannot write {text!r} ({name}): its tokens would be {shown!r}"
        )
    return tuple(ids)


def _eos_ids(tokenizer: ChatTokenizer) -> list[int]:
    """What ends any text: the tokenizer's own, and what generation_config.json beside it has."""
    own = tokenizer.hf.eos_token_id
    ids = [] if own is None else [own]
    file = tokenizer.path / "generation_config.json"
    if not file.is_file():
        return ids
    try:
        given = json.loads(file.read_text()).get("eos_token_id")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: is not an object in JSON: {error}") from error
    listed = given if isinstance(given, list) else [] if given is None else [given]
    for i in listed:
        if isinstance(i, bool) or not isinstance(i, int) or i < 0:
            raise UserError(f"{file}: eos_token_id={given!r} must be an id or a list of ids")
    return [*ids, *listed]


def line_ends(tokenizer: ChatTokenizer) -> Bool[np.ndarray, " V"]:
    """Which tokens' texts end in a newline, by id."""
    ends = np.zeros(tokenizer.vocab_size, np.bool_)
    for piece, i in tokenizer.text.get_vocab().items():
        ends[i] = piece.endswith("Ċ")  # how byte-level BPE spells the byte of a newline
    for name, i in tokenizer.controls.items():
        ends[i] = name.endswith("\n")
    return ends


# --- What fits the context ---


def auto_budget(
    context: int, prompt_tokens: Sequence[int], delimiters: Delimiters, decode: Decode
) -> list[int]:
    """The budget of each prompt's thinking: `decode.max_thinking_tokens`, or what is left to it.

    The lengths of the prompts include what opens the thinking. What is left may be below 1, which
    `check_fits()` refuses. As in s1's evaluator it is the same for all with that parity.
    """
    if not decode.thinking:
        return [0] * len(prompt_tokens)
    if decode.max_thinking_tokens is not None:
        return [decode.max_thinking_tokens] * len(prompt_tokens)
    if decode.parity == "evaluator":
        longest = max(prompt_tokens, default=0)
        left = context - longest - len(delimiters.force) - EVALUATOR_RESERVE
        return [left] * len(prompt_tokens)
    # The README's budget does not pay for the strings; otherwise they are part of the thinking.
    strings = _strings_tokens(delimiters, decode) if decode.parity == "readme" else 0
    kept = len(delimiters.force_newline) + strings + decode.max_answer_tokens
    return [context - prompt - kept for prompt in prompt_tokens]


def check_fits(
    context: int,
    prompt_tokens: Sequence[int],
    budgets: Sequence[int],
    delimiters: Delimiters,
    decode: Decode,
    names: Sequence[str] | None = None,
) -> None:
    """Raises UserError, with what would fit, unless all prompts and what follows fit the context.

    With the evaluator's parity that is one budget and one token of the answer: later rounds end
    where the context does, and it is cut to one budget before the answer; see `room_tokens()`.
    `names` are those of the prompts in a message.
    """
    if not prompt_tokens:
        return
    names = names or [f"prompt {number} (from 0)" for number in range(len(prompt_tokens))]
    evaluator, thinks = decode.parity == "evaluator", decode.thinking
    strings = _strings_tokens(delimiters, decode) if decode.parity == "readme" and thinks else 0
    closing = _closing_tokens(delimiters, decode)
    answer = 1 if evaluator else decode.max_answer_tokens
    needs = [
        prompt + thinks * max(budget, 1) + strings + closing + answer
        for prompt, budget in zip(prompt_tokens, budgets, strict=True)
    ]
    worst = max(range(len(needs)), key=needs.__getitem__)
    longest = max(range(len(needs)), key=prompt_tokens.__getitem__)
    if prompt_tokens[longest] > context:
        raise UserError(
            f"{names[longest]} has {prompt_tokens[longest]} tokens, more than the model's context"
            f" of {context}"
        )
    prompt, budget = prompt_tokens[worst], budgets[worst]
    room = context - prompt - strings - closing
    if needs[worst] > context:
        parts = [f"{names[worst]} has {prompt} tokens"]
        parts += [f"{max(budget, 1)} of thinking"] if thinks else []
        parts += [f"{strings} of decode.ignore_strings"] if strings else []
        in_place = closing > _closing_tokens(delimiters, replace(decode, ignore_ends=0))
        what = "in place of an end" if in_place else "that close it"
        parts += [f"{closing} {what}"] if closing else []
        parts += [f"{answer} of the answer"]
        fits = []
        if thinks and room > answer:
            fits.append(f"decode.max_thinking_tokens={room - answer}")
        left = room - thinks * max(budget, 1)
        if not evaluator and left >= 1:
            fits.append(f"decode.max_answer_tokens={left}")
        raise UserError(
            f"{', '.join(parts[:-1])} and {parts[-1]} make {needs[worst]}, more than the model's"
            f" context of {context}: {' or '.join(fits) or 'no budget'} would fit"
        )
    for number, budget in enumerate(budgets):
        if thinks and budget < max(decode.min_thinking_tokens, 1):
            raise UserError(
                f"{names[number]} has {prompt_tokens[number]} tokens, which leaves"
                f" {max(budget, 0)} of the model's context of {context} to the thinking; it must"
                f" be at least {max(decode.min_thinking_tokens, 1)}"
                + (" (decode.min_thinking_tokens)" if decode.min_thinking_tokens > 1 else "")
            )


def room_tokens(context: int, prompt_tokens: int, delimiters: Delimiters, decode: Decode) -> int:
    """What the context leaves to all that is written after a prompt, what closes it excepted.

    The evaluator's rounds may use it up, as they may the context of vLLM. An ignore string that
    begins one token below it still fits.
    """
    return context - prompt_tokens - _closing_tokens(delimiters, decode)


def _closing_tokens(delimiters: Delimiters, decode: Decode) -> int:
    """The most that is written at once besides what the budgets count."""
    if not decode.thinking:
        return 0
    written = [delimiters.close, delimiters.force, delimiters.force_newline]
    if decode.parity == "evaluator" and decode.ignore_ends:
        written += delimiters.ignore
    return max(map(len, written))


def _strings_tokens(delimiters: Delimiters, decode: Decode) -> int:
    """Tokens of the strings that are written in place of all ends that may be ignored."""
    lengths = [len(string) for string in delimiters.ignore]
    if not lengths:
        return 0
    turns, rest = divmod(decode.ignore_ends, len(lengths))
    return turns * sum(lengths) + sum(lengths[:rest])
