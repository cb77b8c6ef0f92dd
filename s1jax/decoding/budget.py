"""Budget forcing as a state machine over rows: ids alone, no model and no tokenizer.

A row thinks, closes its thinking, answers, and is done; each step of it takes one token. While it
thinks, a sample that completes one of its `ends` ends the thinking: the end itself is never
written, and what a longer end has written before its last token is taken back. In its place comes

- one of the row's ignore strings, in turn, while there are ends to ignore and the budget has room
  for the string and one token more (with no strings the end is just not taken: the row samples
  again without it);
- else `close`, and the answer begins. With nothing to close it, the end itself is the answer's
  first token.

When the budget is spent, `force` is written (`force_newline` where the thinking does not end in a
newline), and the answer begins. An end is not sampled at all before the minimum is reached, nor as
the first token after an ignored end. The answer ends with one of `stops`, which is not written
either, or when its own budget is spent. What is written in all may have a limit of its own, where
budgets alone do not keep it: then it closes the thinking, and ends the answer, as a budget does.

What is charged to the budget:

- "none": every token of the thinking, sampled or inserted. It is never exceeded by one token.
- "evaluator": the tokens sampled since the last ignored end, as the code behind the paper's numbers
  does. Where all rounds together are longer than one budget and the last ended by itself or by its
  budget, the context (not the text) is cut to the budget before the answer.
- "readme": the sampled tokens and one for each end, as the program in s1's README does.

Source: paper, section 3.1; `vllm_causallms.py:_model_generate` and README.md of the reference.

B rows, E ends, M tokens of the longest end, R strings, W tokens of the longest, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

THINKING, CLOSING, ANSWERING, DONE = range(4)  # phases
NOTHING, THOUGHT, INSERTED, CLOSED, ANSWER = range(5)  # kinds of what a step writes
RUNNING, STOPPED, ANSWER_SPENT, REJECTED = range(4)  # how a row finished
ACCOUNTING = ("none", "evaluator", "readme")
_EVALUATOR, _README = 1, 2

# Strings of a row: what closes the thinking, and from IGNORE on what ignored ends become.
CLOSE, FORCE, FORCE_NEWLINE, IGNORE = range(4)

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Rules:
    """What one row has to obey."""

    max_thinking_tokens: int
    max_answer_tokens: int
    ends: tuple[Ids, ...] = ()  # of the thinking
    stops: tuple[Ids, ...] = ()  # of the answer
    close: Ids = ()  # in place of a natural end
    force: Ids = ()  # when the budget is spent, after a newline
    force_newline: Ids = ()  # the same where there is none
    min_thinking_tokens: int = 0
    ignore_ends: int = 0
    ignore_strings: tuple[Ids, ...] = ()
    accounting: str = "none"
    thinking: bool = True  # False: the row begins with its answer
    reject: bool = False  # a row that spends its budget is done, without an answer
    max_written_tokens: int = 2**30  # of thinking, and of what is kept of it and answer together

    def __post_init__(self) -> None:
        assert self.max_thinking_tokens >= 1 or not self.thinking
        assert self.max_answer_tokens >= 1
        assert all(self.ends) and all(self.stops) and all(self.ignore_strings)
        assert bool(self.force) == bool(self.force_newline), "both or neither"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """The rules of all rows, as arrays; any of their values may change without a compilation."""

    strings: Any  # int32 [B, R, W], -1 after a string's last token
    ignore_count: Any  # int32 [B], how many of the strings are ignore strings
    ends: Any  # int32 [B, E, M], -1 before an end's first token
    stops: Any  # int32 [B, E, M]
    max_thinking_tokens: Any  # int32 [B], as the next six
    min_thinking_tokens: Any
    max_answer_tokens: Any
    max_written_tokens: Any
    ignore_ends: Any
    accounting: Any  # an index of ACCOUNTING
    thinking: Any  # bool [B], as the next
    reject: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Where every row stands; all arrays are [B], int32 unless they say otherwise."""

    phase: Any
    string: Any  # of Plan.strings, being written; -1 if none is
    index: Any  # of the string's next token
    thinking_tokens: Any  # written, sampled and inserted
    answer_tokens: Any
    charged_tokens: Any  # of the budget
    round_tokens: Any  # sampled since the last ignored end
    ends_ignored: Any
    forced: Any  # bool, the budget was spent
    newline: Any  # bool, the thinking ends in one
    finish: Any
    recent: Any  # [B, M - 1], the last samples an end may have begun with; -1 where none


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Written:
    """What a step wrote in each row; all arrays are int32 [B]."""

    token: Any
    kind: Any
    taken_back: Any  # tokens written before, of an end or a stop that is complete now
    ends_ignored: Any  # so far


def sizes(rules: Sequence[Rules]) -> tuple[int, int, int, int]:
    """R, W, E and M for these rules, rounded up so that few different ones occur."""
    strings = [
        s for r in rules for s in (r.close, r.force, r.force_newline, *r.ignore_strings)
    ] or [()]
    ends = [end for r in rules for end in (*r.ends, *r.stops)] or [()]
    count = max((len(r.ignore_strings) for r in rules), default=0)
    most = max((max(len(r.ends), len(r.stops)) for r in rules), default=0)
    return (
        _up(IGNORE + count, 8),
        _up(max(map(len, strings)), 16),
        _up(most, 8),
        _up(max(map(len, ends)), 4),
    )


def _up(size: int, least: int) -> int:
    """The next power of two, at least `least`."""
    return max(least, 1 << (size - 1).bit_length() if size else 1)


def plan_of(rules: Sequence[Rules], shape: tuple[int, int, int, int] | None = None) -> Plan:
    """The rules of the rows as numpy arrays; `shape` is what `sizes` says of all that will come."""
    strings, width, ends, longest = shape or sizes(rules)

    def left(texts: Sequence[Ids], rows: int, columns: int) -> np.ndarray:
        table = np.full((rows, columns), -1, np.int32)
        for row, ids in zip(table, texts, strict=False):
            row[: len(ids)] = ids
        return table

    def right(texts: Sequence[Ids]) -> np.ndarray:
        return left([text[::-1] for text in texts], ends, longest)[:, ::-1]

    def column(name: str, dtype: type = np.int32) -> Any:
        return np.array([getattr(r, name) for r in rules], dtype)

    def written(r: Rules) -> np.ndarray:
        return left([r.close, r.force, r.force_newline, *r.ignore_strings], strings, width)

    tables: dict[str, Any] = {
        "strings": np.stack([written(r) for r in rules]),
        "ends": np.stack([right(r.ends) for r in rules]),
        "stops": np.stack([right(r.stops) for r in rules]),
        "ignore_count": np.array([len(r.ignore_strings) for r in rules], np.int32),
        "accounting": np.array([ACCOUNTING.index(r.accounting) for r in rules], np.int32),
    }
    return Plan(
        **tables,
        max_thinking_tokens=column("max_thinking_tokens"),
        min_thinking_tokens=column("min_thinking_tokens"),
        max_answer_tokens=column("max_answer_tokens"),
        max_written_tokens=column("max_written_tokens"),
        ignore_ends=column("ignore_ends"),
        thinking=column("thinking", np.bool_),
        reject=column("reject", np.bool_),
    )


def start(plan: Plan) -> State:
    """The rows before their first token."""
    zeros = jnp.zeros_like(plan.ignore_ends)
    no = jnp.zeros_like(plan.reject)
    return State(
        phase=jnp.where(plan.thinking, THINKING, ANSWERING).astype(jnp.int32),
        string=zeros - 1,
        index=zeros,
        thinking_tokens=zeros,
        answer_tokens=zeros,
        charged_tokens=zeros,
        round_tokens=zeros,
        ends_ignored=zeros,
        forced=no,
        newline=no,
        finish=zeros,
        recent=jnp.full_like(plan.ends[:, 0, 1:], -1),
    )


def suppressed(plan: Plan, state: State) -> Int[Array, "B E"]:
    """The ids that no row may sample now, as they would complete an end too early; -1 for none."""
    # What an end has written before its last token is no thinking.
    thinking = state.thinking_tokens[:, None] - (_lengths(plan.ends) - 1)
    short = thinking < plan.min_thinking_tokens[:, None]
    early = short | ((state.ends_ignored > 0) & (state.round_tokens == 0))[:, None]
    here = (state.phase == THINKING) & (state.string < 0)
    completes = _begun(plan.ends, state.recent) & early & here[:, None]
    return jnp.where(completes, plan.ends[..., -1], -1)


def refuse(plan: Plan, state: State, sampled: Int[Array, " B"]) -> tuple[State, Bool[Array, " B"]]:
    """Counts the ends that are ignored without a string, and says which rows must sample again.

    What those rows may not sample is in `suppressed` of the new state.
    """
    ended, partial = _ended(plan, state, sampled)
    again = ended & _may_ignore(plan, state, partial) & (plan.ignore_count == 0)
    charged = jnp.where(again, _charged(plan, state, partial), state.charged_tokens)
    new = replace(
        state,
        ends_ignored=state.ends_ignored + again,
        round_tokens=jnp.where(again, 0, state.round_tokens),
        charged_tokens=charged,
    )
    return new, again


def advance(
    plan: Plan, state: State, sampled: Int[Array, " B"], line_ends: Bool[Array, " V"]
) -> tuple[State, Written, Int[Array, " B"]]:
    """The rows after one step; what was written; how many tokens to take out of the context first.

    `sampled` is what each row would write by itself, `line_ends` the ids whose text ends in a
    newline.
    """
    ended, partial = _ended(plan, state, sampled)
    ignores = ended & _may_ignore(plan, state, partial)
    ends = ended & ~ignores
    closes = ends & (_length(plan, CLOSE) > 0)

    # The string that is written: one begun before, or one that begins in place of an end.
    turn = IGNORE + state.ends_ignored % jnp.maximum(plan.ignore_count, 1)
    begins = ignores | closes
    string = jnp.where(ignores, turn, jnp.where(closes, CLOSE, state.string))
    index = jnp.where(begins, 0, state.index)
    writes_string = string >= 0
    rows = jnp.arange(sampled.shape[0])
    ids = plan.strings[rows, jnp.maximum(string, 0)]
    last = index + 1 >= _lengths(ids)
    closing = writes_string & (string < IGNORE)

    # Where nothing is forced, the sample itself: of the thinking, or of the answer. Where an end
    # has nothing to be closed with, it is the answer's first token.
    free = ~writes_string & (state.phase != DONE)
    thinks = free & (state.phase == THINKING) & ~ends
    answers = free & ((state.phase == ANSWERING) | ends)
    recent = jnp.where(ends[:, None], -1, state.recent)
    stopped = _complete(plan.stops, recent, sampled) & answers[:, None]
    stops = stopped.any(-1)
    answers &= ~stops
    of_stop = jnp.where(stopped, _lengths(plan.stops) - 1, 0).max(-1)
    taken_back = jnp.where(begins, partial, 0)

    token = jnp.where(writes_string, ids[rows, jnp.minimum(index, ids.shape[1] - 1)], sampled)
    kind = jnp.where(writes_string, jnp.where(closing, CLOSED, INSERTED), NOTHING)
    kind = jnp.where(thinks, THOUGHT, jnp.where(answers, ANSWER, kind))
    written = Written(
        token=jnp.where(kind == NOTHING, 0, token),
        kind=kind,
        taken_back=taken_back + of_stop,
        ends_ignored=state.ends_ignored + ignores,
    )
    thinking_tokens = state.thinking_tokens + (thinks | (kind == INSERTED)) - taken_back

    # The evaluator cuts the context to one budget before it closes the thinking.
    over = thinking_tokens - _kept(plan, thinking_tokens)
    cuts = closing & (index == 0)

    charged = jnp.where(ignores, _charged(plan, state, partial), state.charged_tokens + thinks)
    phase = jnp.where(ends, jnp.where(closes, CLOSING, ANSWERING), state.phase)
    phase = jnp.where(closing & last, ANSWERING, phase)
    keeps = (thinks | answers)[:, None]
    pushed = jnp.concatenate([recent, sampled[:, None]], axis=1)[:, 1:]
    new = State(
        phase=phase,
        string=jnp.where(writes_string & ~last, string, -1),
        index=index + 1,
        thinking_tokens=thinking_tokens,
        answer_tokens=state.answer_tokens + answers - of_stop,
        charged_tokens=charged,
        round_tokens=jnp.where(ignores, 0, state.round_tokens + thinks),
        ends_ignored=written.ends_ignored,
        forced=state.forced,
        newline=jnp.where(thinks | (kind == INSERTED), line_ends[token], state.newline),
        finish=jnp.where(stops, STOPPED, state.finish),
        recent=jnp.where(keeps, pushed, jnp.where(writes_string[:, None], -1, recent)),
    )
    return _spend(plan, new), written, written.taken_back + jnp.where(cuts, over, 0)


def _spend(plan: Plan, state: State) -> State:
    """Closes what has spent its budget, at once, so that the next sample is of the next phase."""
    spent = (state.phase == THINKING) & (state.string < 0)
    spent &= (state.charged_tokens >= plan.max_thinking_tokens) | (
        state.thinking_tokens >= plan.max_written_tokens
    )
    force = jnp.where(state.newline, FORCE, FORCE_NEWLINE)
    nothing = _length(plan, FORCE) == 0
    phase = jnp.where(spent, jnp.where(nothing, ANSWERING, CLOSING), state.phase)
    finish = jnp.where(spent & plan.reject, REJECTED, state.finish)
    written = _kept(plan, state.thinking_tokens) + state.answer_tokens
    answered = (phase == ANSWERING) & (
        (state.answer_tokens >= plan.max_answer_tokens) | (written >= plan.max_written_tokens)
    )
    finish = jnp.where((finish == RUNNING) & answered, ANSWER_SPENT, finish)
    done = finish != RUNNING
    return replace(
        state,
        phase=jnp.where(done, DONE, phase),
        string=jnp.where(done, -1, jnp.where(spent & ~nothing, force, state.string)),
        index=jnp.where(spent, 0, state.index),
        forced=state.forced | spent,
        finish=finish,
        recent=jnp.where(spent[:, None], -1, state.recent),
    )


def _kept(plan: Plan, thinking_tokens: Int[Array, " B"]) -> Int[Array, " B"]:
    """How much of the thinking is in the context of the answer."""
    cut = jnp.minimum(thinking_tokens, plan.max_thinking_tokens)
    return jnp.where(plan.accounting == _EVALUATOR, cut, thinking_tokens)


def _begun(ends: Int[Array, "B E M"], recent: Int[Array, "B N"]) -> Bool[Array, "B E"]:
    """Which ends want one token more."""
    same = (ends[..., :-1] < 0) | (ends[..., :-1] == recent[:, None])
    return same.all(-1) & (ends[..., -1] >= 0)


def _complete(
    ends: Int[Array, "B E M"], recent: Int[Array, "B N"], sampled: Int[Array, " B"]
) -> Bool[Array, "B E"]:
    return _begun(ends, recent) & (ends[..., -1] == sampled[:, None])


def _ended(
    plan: Plan, state: State, sampled: Int[Array, " B"]
) -> tuple[Bool[Array, " B"], Int[Array, " B"]]:
    """Whether the sample ends the thinking, and how much of the end was written before it."""
    here = (state.phase == THINKING) & (state.string < 0)
    complete = _complete(plan.ends, state.recent, sampled) & here[:, None]
    return complete.any(-1), jnp.where(complete, _lengths(plan.ends) - 1, 0).max(-1)


def _may_ignore(plan: Plan, state: State, partial: Int[Array, " B"]) -> Bool[Array, " B"]:
    left = state.ends_ignored < plan.ignore_ends
    return left & (_charged(plan, state, partial) < plan.max_thinking_tokens)


def _charged(plan: Plan, state: State, partial: Int[Array, " B"]) -> Int[Array, " B"]:
    """What the budget is charged with once the end at hand is ignored."""
    turn = IGNORE + state.ends_ignored % jnp.maximum(plan.ignore_count, 1)
    width = _length(plan, jnp.where(plan.ignore_count > 0, turn, IGNORE))
    all_of_it = state.charged_tokens + width - jnp.where(width > 0, partial, 0)
    return jnp.select(
        [plan.accounting == _EVALUATOR, plan.accounting == _README],
        [jnp.zeros_like(all_of_it), state.charged_tokens + 1],
        all_of_it,
    )


def _length(plan: Plan, string: Int[Array, " B"] | int) -> Int[Array, " B"]:
    """Tokens of one string of each row."""
    rows = jnp.arange(plan.strings.shape[0])
    return _lengths(plan.strings[rows, string])


def _lengths(ids: Int[Array, "... W"]) -> Int[Array, "..."]:
    return (ids >= 0).sum(-1)
