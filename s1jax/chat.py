"""Delimiters and template per family; `render()`: an example as ids, each with the part it is of.

Control tokens are written by the template and the delimiters alone. Questions, traces and answers
are encoded by a tokenizer that knows no control token, so that `<|im_end|>` inside a question is
ten ordinary characters. What lies between two control tokens is encoded as one text, so that the
ids are those of the whole chat string (byte pairs merge across the borders of its pieces).
Of `TEXT` an example is a document for continued pre-training: its text as it is, and an end.
Reference: `data/tokenization.py`, and the collator of `train/sft.py` for what is trained.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
from jaxtyping import Int, UInt8

from s1jax import training_config
from s1jax.tokenizer import (
    ChatTokenizer,
    around,
)
from s1jax.types import Example, UserError

PROMPT, THINKING, ANSWER, END = range(4)
PARTS = ("prompt", "thinking", "answer", "end")

_PROBE = Example("probe", "What is 1+1?\nAnd 2+2?", "It's 2.\n\n  No, wait", "two, 4.")


@dataclass(frozen=True)
class Chat:
    """What a family writes around thinking and answer, after the template's generation prompt."""

    name: str
    thinking: str  # opens the thinking
    answer: str  # closes it and opens the answer
    end: str  # closes the answer
    answer_prefix: str = ""  # of answers that do not contain it (but for its space) already
    ends: tuple[str, ...] = ()  # end the thinking when written; (): the first control of `answer`

    @property
    def controls(self) -> set[str]:
        """The control tokens that the delimiters need."""
        return set(re.findall(r"<\S+?>", self.thinking + self.answer + self.end))

    @property
    def plain(self) -> bool:
        """Whether nothing is written around an answer, which is a whole text and all there is."""
        return not self.answer


CHATS = {  # in which a model is trained and asked
    chat.name: chat
    for chat in (
        Chat("s1", "<|im_start|>think\n", "\n<|im_start|>answer\n", "<|im_end|>\n", "Answer: "),
        Chat(
            "llama3",
            "<|start_header_id|>think<|end_header_id|>\n\n",
            "\n<|start_header_id|>answer<|end_header_id|>\n\n",
            "<|eot_id|>",
            "Answer: ",
        ),
        Chat("think", "<think>\n", "\n</think>\n\n", "<|im_end|>\n"),
        Chat("r1", "<think>\n", "\n</think>\n\n", "<｜end▁of▁sentence｜>"),
        # Of s1's step-conditional control: each step of the thinking is opened, and counted down.
        Chat(
            "steps",
            "<|im_start|>",
            "\n<|im_start|>answer\n",
            "<|im_end|>\n",
            "Answer: ",
            ("<|im_start|>0", "<|im_start|>answer"),
        ),
    )
}
TEXT = Chat(training_config.TEXT, "", "", "")  # in which a model is only trained


def chat_of(name: str) -> Chat:
    """The chat of a name that `model.chat` may have, `TEXT` included."""
    return TEXT if name == TEXT.name else CHATS[name]


def check_asks(chat: Chat) -> None:
    """Raises UserError for `TEXT`, in which there is no question and nothing to answer."""
    if chat.plain:
        raise UserError(
            f'model.chat="{chat.name}" is for training alone, on texts that are no questions; set'
            f" it to one of {', '.join(CHATS)}"
        )


@dataclass(frozen=True)
class Message:
    """What one side has said in a conversation."""

    role: str  # "system", "user" or "assistant"
    text: str


@dataclass(frozen=True)
class Rendered:
    """An example as the model sees it; all but PROMPT is trained."""

    tokens: Int[np.ndarray, " T"]  # int32
    parts: UInt8[np.ndarray, " T"]  # PROMPT, THINKING, ANSWER or END


def render(tokenizer: ChatTokenizer, chat: Chat, example: Example) -> Rendered:
    """The ids of one example, each with its part. UserError if the tokenizer cannot write it."""
    return render_all(tokenizer, chat, [example])[0]


def render_all(
    tokenizer: ChatTokenizer,
    chat: Chat,
    examples: Sequence[Example],
    steps: Sequence[Sequence[str]] | None = None,
) -> list[Rendered]:
    """`render()` of each, encoded together on all cores.

    With `steps`, those are each one's thinking, and every step is opened as the thinking is.
    """
    check_tokenizer(tokenizer, chat)
    rows = []
    given: Sequence[Sequence[str] | None] = steps or [None] * len(examples)
    for example, texts in zip(examples, given, strict=True):
        prompt, completion = _halves(tokenizer, chat, example, texts)
        # Apart: at inference the prompt is encoded when there is no completion yet.
        rows.append([*_runs(prompt), *_runs(completion)])
    return _encode(tokenizer, rows)


def chat_text(
    tokenizer: ChatTokenizer, chat: Chat, example: Example, steps: Sequence[str] | None = None
) -> str:
    """The example as one string, s1's `text` column; `steps` as in `render_all()`.

    Raises UserError for `TEXT`, and if the tokenizer cannot write it.
    """
    check_asks(chat)
    check_tokenizer(tokenizer, chat)
    names = {i: name for name, i in tokenizer.controls.items()}
    pieces = (piece for half in _halves(tokenizer, chat, example, steps) for _, piece in half)
    return "".join(names[piece] if isinstance(piece, int) else piece for piece in pieces)


Piece = tuple[int, str | int]  # a part, and text or the id of a control token


@dataclass(frozen=True)
class Run:
    """A control token, or the text between two: what is encoded as one."""

    content: str | int
    starts: list[tuple[int, int]]  # from which character on it is of which part


def template_ids(tokenizer: ChatTokenizer, question: str) -> list[int]:
    """The ids of the template's prompt for a question, generation prompt included."""
    return _ids(tokenizer, _prompt(tokenizer, question))


def conversation_ids(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> list[int]:
    """The ids of the template's prompt for a conversation, generation prompt included.

    Raises UserError if the template does not write such a conversation.
    """
    return _ids(tokenizer, _conversation(tokenizer, messages))


def written_ids(tokenizer: ChatTokenizer, written: str) -> list[int]:
    """The ids of what template, delimiters or config write, control tokens included."""
    return _ids(tokenizer, [(PROMPT, piece) for piece in split_controls(tokenizer, written)])


def _ids(tokenizer: ChatTokenizer, pieces: Iterable[Piece]) -> list[int]:
    runs = list(_runs(pieces))
    return _encode(tokenizer, [runs])[0].tokens.tolist() if runs else []


@lru_cache(maxsize=16)
def check_tokenizer(tokenizer: ChatTokenizer, chat: Chat) -> None:
    """Raises UserError unless our ids of plain text are those of the tokenizer itself."""
    needed = set(chat.controls)
    if chat.plain and tokenizer.hf.eos_token_id is None:
        raise UserError(
            f"{tokenizer.path}: names no eos_token, with which every text ends in"
            f' model.chat="{chat.name}": set it in tokenizer_config.json'
        )
    if not (chat.plain or tokenizer.hf.chat_template):
        needed |= {"<|im_start|>", "<|im_end|>"}
    if missing := sorted(needed - set(tokenizer.controls)):
        fits = [c.name for c in CHATS.values() if c.controls <= set(tokenizer.controls)]
        raise UserError(
            f"{tokenizer.path}: has no token {' and no '.join(missing)}, which"
            f' model.chat="{chat.name}" writes'
            + (f"; it has those of {', '.join(fits)}" if fits else "")
        )
    names = {i: name for name, i in tokenizer.controls.items()}
    for half in _halves(tokenizer, chat, _PROBE):
        ours = _ids(tokenizer, half)
        whole = "".join(names[piece] if isinstance(piece, int) else piece for _, piece in half)
        theirs = tokenizer.hf.backend_tokenizer.encode(whole, add_special_tokens=False).ids
        if ours != theirs:
            raise UserError(
                f"{tokenizer.path}: encodes text beside a control token otherwise than alone, so"
                " that the two cannot be kept apart; only byte-level BPE is supported"
            )


def opened_by_template(tokenizer: ChatTokenizer, chat: Chat) -> int:
    """How many characters of `chat.thinking` the generation prompt has already written."""
    tail = tokenizer.prompt[1]  # of R1's distilled models it opens the thinking itself
    lengths = range(len(chat.thinking), -1, -1)
    return next(n for n in lengths if tail.endswith(chat.thinking[:n]))


def _prompt(tokenizer: ChatTokenizer, question: str) -> list[Piece]:
    return _conversation(tokenizer, [Message("user", question)])


def _conversation(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> list[Piece]:
    texts, strips = around(tokenizer, tuple(message.role for message in messages))
    pieces = split_controls(tokenizer, texts[0])
    for message, stripped, after in zip(messages, strips, texts[1:], strict=True):
        said = message.text.strip() if stripped else message.text
        pieces = [*pieces, said, *split_controls(tokenizer, after)]
    return [(PROMPT, piece) for piece in pieces]


def _halves(
    tokenizer: ChatTokenizer, chat: Chat, example: Example, steps: Sequence[str] | None = None
) -> tuple[list[Piece], list[Piece]]:
    """The pieces of the prompt, and those of the completion."""
    if chat.plain:
        end = tokenizer.hf.eos_token_id
        return _before_text(tokenizer), [(ANSWER, example.answer), (END, end)]

    def written(part: int, text: str) -> list[Piece]:
        return [(part, piece) for piece in split_controls(tokenizer, text)]

    has_prefix = chat.answer_prefix.strip() in example.answer
    answer = example.answer if has_prefix else chat.answer_prefix + example.answer
    completion = written(THINKING, chat.thinking[opened_by_template(tokenizer, chat) :])
    for number, step in enumerate([example.thinking] if steps is None else steps):
        completion += written(THINKING, "\n" + chat.thinking) if number else []
        completion.append((THINKING, step.strip()))
    completion += [
        *written(ANSWER, chat.answer),
        (ANSWER, answer.strip()),
        *written(END, chat.end),
    ]
    return _prompt(tokenizer, example.question), completion


def _before_text(tokenizer: ChatTokenizer) -> list[Piece]:
    """What the tokenizer itself begins a text with: of Llama 3's bos, of Qwen's nothing."""
    bos = tokenizer.hf.bos_token_id
    begins = tokenizer.hf.backend_tokenizer.encode("").ids[:1] == [bos]
    return [(PROMPT, bos)] if begins else []


@lru_cache(maxsize=64)
def split_controls(tokenizer: ChatTokenizer, written: str) -> list[str | int]:
    """What template or delimiters write, as control ids and the text between them."""
    longest_first = sorted(tokenizer.controls, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", written)
    return [tokenizer.controls.get(piece, piece) for piece in pieces if piece]


def _runs(pieces: Iterable[Piece]) -> Iterator[Run]:
    for is_text, group in groupby(pieces, key=lambda piece: isinstance(piece[1], str)):
        if is_text:
            text, starts = "", []
            for part, piece in group:
                starts.append((len(text), part))
                text += str(piece)
            yield Run(text, starts)
        else:
            yield from (Run(control, [(0, part)]) for part, control in group)


def _encode(tokenizer: ChatTokenizer, rows: Sequence[Sequence[Run]]) -> list[Rendered]:
    texts = [run.content for runs in rows for run in runs if isinstance(run.content, str)]
    encodings = iter(tokenizer.encode(texts))
    rendered = []
    for runs in rows:
        tokens: list[int] = []
        parts: list[np.ndarray] = []
        for run in runs:
            if isinstance(run.content, int):
                ids, offsets = [run.content], [(0, 0)]
            else:
                encoding = next(encodings)
                ids, offsets = encoding.ids, encoding.offsets
            of = np.empty(len(ids), np.uint8)
            for char, part in run.starts:  # a token over a border is of the part it starts in
                of[bisect_left(offsets, (char,)) :] = part
            tokens += ids
            parts.append(of)
        rendered.append(Rendered(np.asarray(tokens, np.int32), np.concatenate(parts)))
    return rendered
