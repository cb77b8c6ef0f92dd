"""Examples as ids, and what of them is trained: `label_stats()` counts it, `check_labels()` judges.

Every token after the prompt (of a text: after its first) is trained, in all of an example that a
row can hold: rows are cut on the right, as trl does it in s1. Cut answers teach a model never to
stop (s1, table 8), so that training does not start with too many of them.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from s1jax.chat import ANSWER, END, PARTS, PROMPT, THINKING, Chat, ChatTokenizer, render_all
from s1jax.data.conditional import conditional
from s1jax.types import Example, UserError

_TOGETHER = 64  # examples encoded at once: an encoding takes some 100 bytes a token


@dataclass(frozen=True)
class Tokenized:
    """An example as it goes into a row: cut on the right to the row's length."""

    id: str
    tokens: Int[np.ndarray, " T"]  # int32
    parts: UInt8[np.ndarray, " T"]  # chat.PROMPT, THINKING, ANSWER or END
    full_length: int  # tokens before the cut


def tokenize(
    examples: Sequence[Example],
    tokenizer: ChatTokenizer,
    chat: Chat,
    row_length: int,
    control: str = "none",
) -> list[Tokenized]:
    """The examples as ids, in their order; `control` is `data.control`.

    Raises UserError if the tokenizer cannot write them.
    """
    tokenized = []
    for first in range(0, len(examples), _TOGETHER):
        some, steps = conditional(examples[first : first + _TOGETHER], tokenizer, control)
        rendered = render_all(tokenizer, chat, some, steps)
        for example, whole in zip(some, rendered, strict=True):
            tokens, parts = whole.tokens[:row_length], whole.parts[:row_length]
            tokenized.append(Tokenized(example.id, tokens, parts, len(whole.tokens)))
    return tokenized


def digest(tokenized: Sequence[Tokenized]) -> str:
    """Sha256 of all ids and parts in their order: what a run is trained on."""
    sha = hashlib.sha256()
    for example in tokenized:
        # Each with its length before it, so that no two lists of examples are one stream of bytes.
        tokens, parts = example.tokens.astype("<i4"), example.parts.astype("u1")
        for field in (example.id.encode(), tokens.tobytes(), parts.tobytes()):
            sha.update(len(field).to_bytes(8, "little") + field)
    return sha.hexdigest()


@dataclass(frozen=True)
class LabelStats:
    """What is trained, counted. The lists are ids, longest example first."""

    part_tokens: tuple[int, int, int, int]  # as in chat.PARTS, after the cut
    lengths: tuple[int, ...]  # of the whole examples, ascending
    trained_tokens: int  # with a loss, over all examples; never the first of one
    row_tokens: int  # the longest after the cut
    truncated: int  # examples that lose a token
    answers_cut: tuple[str, ...]  # truncated before the token that ends the answer
    prompt_only: tuple[str, ...]  # nothing is trained: the prompt fills the row
    no_thinking: tuple[str, ...]  # of the others
    no_answer: tuple[str, ...]  # of those not truncated
    no_end: tuple[str, ...]  # of those not truncated

    @property
    def examples(self) -> int:
        """How many there are."""
        return len(self.lengths)

    @property
    def truncated_share(self) -> float:
        """Of the examples, the share that loses a token."""
        return self.truncated / self.examples

    @property
    def answers_cut_share(self) -> float:
        """Of the examples, the share that never reaches the end of its answer."""
        return len(self.answers_cut) / self.examples

    def length(self, percent: float) -> int:
        """The length that `percent` of the examples do not exceed."""
        rank = math.ceil(percent / 100 * self.examples)
        return self.lengths[max(rank, 1) - 1]

    def useful_share(self, row_length: int, rows: int | None = None) -> float:
        """Tokens that are no padding, of all in so many rows (default: one an example)."""
        return sum(self.part_tokens) / (row_length * (self.examples if rows is None else rows))


def label_stats(tokenized: Sequence[Tokenized]) -> LabelStats:
    """What is trained in these examples, of which there is at least one."""
    assert tokenized
    counts = np.stack([np.bincount(e.parts, minlength=len(PARTS)) for e in tokenized])
    full = np.array([e.full_length for e in tokenized])
    cut = full > counts.sum(axis=1)
    prompt_only = cut & (counts[:, PROMPT] == counts.sum(axis=1))

    def ids(chosen: np.ndarray) -> tuple[str, ...]:
        rows = sorted(np.flatnonzero(chosen).tolist(), key=lambda row: -full[row])
        return tuple(tokenized[row].id for row in rows)

    return LabelStats(
        part_tokens=tuple(counts.sum(axis=0).tolist()),
        lengths=tuple(np.sort(full).tolist()),
        trained_tokens=sum(int((e.parts[1:] != PROMPT).sum()) for e in tokenized),
        row_tokens=int(counts.sum(axis=1).max()),
        truncated=int(cut.sum()),
        answers_cut=ids(cut & (counts[:, END] == 0)),
        prompt_only=ids(prompt_only),
        no_thinking=ids(~prompt_only & (counts[:, THINKING] == 0)),
        no_answer=ids(~prompt_only & ~cut & (counts[:, ANSWER] == 0)),
        no_end=ids(~prompt_only & ~cut & (counts[:, END] == 0)),
    )


def check_labels(stats: LabelStats, max_truncated_share: float, *, texts: bool = False) -> None:
    """Raises UserError, with the ids of the worst, if a part that should be trained is not.

    With `texts` the examples are those of `chat.TEXT`, which have no thinking.
    """
    problems = []
    whole = "text" if texts else "answer"
    if stats.prompt_only:
        problems.append(
            f"{_some(stats.prompt_only, stats)} nothing to train: the prompt alone fills a row of"
            f" data.row_length={stats.row_tokens}; make that longer, or leave them out"
        )
    for part, without in {
        "thinking": () if texts else stats.no_thinking,
        "answer": stats.no_answer,
        "end": stats.no_end,
    }.items():
        if without:
            problems.append(
                f"{_some(without, stats)} no {part} tokens in the labels; see what"
                " `python -m s1jax.labels` shows of them, and whether model.chat is the model's"
            )
    if stats.answers_cut_share > max_truncated_share:
        enough = stats.length(100 * (1 - max_truncated_share))
        problems.append(
            f"{_some(stats.answers_cut, stats)} the end of the {whole} cut off by"
            f" data.row_length={stats.row_tokens}, more than data.max_truncated_share="
            f"{max_truncated_share:g} allows: data.row_length={enough} is enough for that,"
            f" {stats.length(100)} for all"
        )
    if problems:
        wanted = "those of whole texts" if texts else "those of s1's recipe"
        raise UserError("\n  ".join([f"the labels are not {wanted}", *problems]))


def _some(ids: tuple[str, ...], stats: LabelStats) -> str:
    shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    share = len(ids) / stats.examples
    have = "has" if len(ids) == 1 else "have"
    return f"{len(ids)} of {stats.examples} examples ({share:.1%}: {shown}) {have}"
