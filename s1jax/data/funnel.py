"""What happens to a question on its way: dropped somewhere with a reason, or a candidate."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s1jax.types import Question, Trace


@dataclass(frozen=True)
class SetAside:
    """A row of a source that is no question."""

    place: str  # a file and its line
    reason: str  # what such rows are counted by, "missing field"
    detail: str  # a sentence


@dataclass(frozen=True)
class Drop:
    """A question that went no further."""

    question: Question
    stage: str  # "decontamination"
    reason: str  # what drops are counted by, "8-gram of math500"
    detail: str  # a sentence: what matched what, which pattern, which grade


@dataclass(frozen=True)
class Candidate:
    """A question with the trace that may be trained, and what the selection looks at."""

    question: Question
    trace: Trace
    domain: str
    thinking_tokens: int
    solved: bool | None  # by the teacher; None: not graded


@dataclass(frozen=True)
class Pick:
    """A candidate that was selected."""

    candidate: Candidate
    reason: str  # what picks are counted by, "uniform over domains"
    detail: str  # a sentence: the how-manieth draw, its domain, its rank by length


@dataclass(frozen=True)
class Stage:
    """One narrowing of the funnel; `before` is `after` and all that was dropped."""

    name: str
    before: int
    after: int
    reasons: dict[str, int]  # how many were dropped by what, the commonest first


STAGES = (
    "reading",
    "decontamination",
    "duplicates",
    "traces",
    "quality",
    "difficulty",
    "domains",
    "selection",
)


def stages(rows: int, set_aside: Sequence[SetAside], drops: Iterable[Drop]) -> list[Stage]:
    """The funnel of so many rows, those that no drop is of included."""
    reasons: dict[str, Counter[str]] = {name: Counter() for name in STAGES}
    reasons["reading"].update(row.reason for row in set_aside)
    for drop in drops:
        reasons[drop.stage][drop.reason] += 1
    out, before = [], rows
    for name in STAGES:
        after = before - reasons[name].total()
        ordered = sorted(reasons[name].items(), key=lambda pair: (-pair[1], pair[0]))
        out.append(Stage(name, before, after, dict(ordered)))
        before = after
    return out


def funnel_table(funnel: Sequence[Stage]) -> str:
    """The funnel as text: a line a stage, and under it what was dropped by what."""
    width = max(len(f"{stage.before:,}") for stage in funnel)
    lines = []
    for stage in funnel:
        lines.append(f"{stage.name:<16} {stage.before:>{width},} -> {stage.after:>{width},}")
        lines += [f"{'':<18}{count:>{width},}  {why}" for why, count in stage.reasons.items()]
    return "\n".join(lines)
