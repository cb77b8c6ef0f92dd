"""What an evaluation found: the score of each sample, and what follows from all of them.

`scores.jsonl` holds the Scores, `results.json` the Results; report and pictures read nothing else.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s1jax.types import UserError

MODEL, BASE = "model", "base"  # which of the two a sample is of


@dataclass(frozen=True)
class Score:
    """Whether one sample is right, what it cost, and how it ended."""

    model: str  # MODEL or BASE
    task: str
    run: str  # its name
    method: str  # of the run: evaluation_config.METHODS
    id: str  # of the question, in its task
    sample: int  # of that question and run, from 0; the further seeds' samples follow
    group: str  # of the question, "" for none
    gold: str
    answer: str | None  # what was extracted; None: there is none
    correct: bool
    reason: str  # what decided: "same number", "math-verify", "timeout", "no answer", ...
    judged: bool | None  # the LLM judge's verdict; None: it was not asked or did not say
    thinking_tokens: int  # by s1's definition, see measures.s1_parts()
    answer_tokens: int
    used_tokens: int  # of thinking as the engine counted it, inserted ones included
    ended: str | None  # the thinking, by "itself", the "budget" or the "context"; None: no thinking
    ignored_ends: int
    finish: str  # "stop", "length" (the answer was cut) or "rejected"


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RunResult:
    """A run of one model on one task. Accuracies and shares in percent; tokens are means.

    A majority is one answer for which all samples of a question thought: its accuracy, with groups
    and the difference to the base, is the vote's, and so are thinking_tokens and used_tokens, those
    of a sample times the samples. The rest is of a single sample; the mean over them is pass_at[1].
    """

    model: str
    task: str
    run: str
    method: str
    asked: dict[str, Any]  # the fields of decode that the run sets
    bounds: tuple[float | None, float | None] | None  # that Control holds a sample's thinking to
    budget: int | None  # of a sample's thinking; None: what the context leaves, or no thinking
    part: str  # of the curve of budget forcing: "free", "cut short" or "extended"; else ""
    questions: int
    samples: int  # of each question
    accuracy: Interval  # the mean over samples, then over questions; of a majority the vote's
    thinking_tokens: float  # by s1's definition, as the next one
    answer_tokens: float
    used_tokens: float  # of thinking as the engine counted it
    no_answer: float  # samples whose answer never came
    budget_ended: float  # samples whose thinking the budget ended
    ends_ignored: float  # per sample
    pass_at: dict[int, float]  # by k: the unbiased estimate
    cov_at: dict[int, float]  # s1's: any of the first k is right
    maj_at: dict[int, float]  # s1's: the majority of the first k is right
    groups: dict[str, tuple[float, int]]  # accuracy and questions
    against_base: Interval | None  # the paired difference to the base model's run, in points


def only_decoded(runs: Sequence[RunResult]) -> bool:
    """Whether there is thinking in the runs of a curve, and s1 counts none of it.

    A model that thinks in a single line has 0 tokens by s1's definition, however many it writes.
    """
    return not any(run.thinking_tokens for run in runs) and any(run.used_tokens for run in runs)


@dataclass(frozen=True)
class MethodResult:
    """The runs of one method as one curve: s1's three metrics (paper, section 3.2).

    Runs of the method "other" are on no curve.
    """

    model: str
    task: str
    method: str
    part: str  # "all", "cut short" (budgets below the free run) or "extended" (ignored ends)
    runs: tuple[str, ...]  # by thinking tokens
    control: float | None  # percent; None: no run has bounds
    scaling: Interval | None  # points per doubling of the thinking; None: there are under two runs
    line: Interval | None  # the least squares line through the runs, in points per doubling
    slope_p: float | None  # two-sided: chance of such a line if thinking changed nothing
    scaling_printed: float | None  # equation 2 as printed: points per 1,000 tokens
    performance: float  # percent, of the best run


@dataclass(frozen=True)
class Change:
    """What a run changed against another, question by question, in their first samples."""

    model: str
    task: str
    before: str  # names of runs; the later one ignored more ends
    after: str
    fixed: int
    broken: int
    stayed_right: int
    stayed_wrong: int


@dataclass(frozen=True)
class Results:
    """All of it. Lists are in the order of config: tasks, then models (MODEL first), then runs."""

    models: dict[str, str]  # MODEL, and BASE if there is one, with their paths
    tasks: dict[str, int]  # questions of each
    runs: list[RunResult]
    methods: list[MethodResult]
    changes: list[Change]
    reasons: dict[str, int]  # verdicts by what decided them
    disagreements: int | None  # of judge and local grader; None: no judge was asked
    parity: bool
    judge_decides: bool
    resamples: int
    seed: int
    about: dict[str, Any] = field(default_factory=dict)  # versions, times, digests: for the reader

    def to_json(self) -> str:
        """The text of results.json."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def scores_text(scores: Iterable[Score]) -> str:
    """The text of scores.jsonl."""
    return "".join(json.dumps(asdict(score), ensure_ascii=False) + "\n" for score in scores)


def read_scores(path: Path) -> list[Score]:
    """The scores of a file. UserError, with the line, for what is none."""
    scores = []
    try:
        # Not splitlines(): an answer may hold U+2028, and is written as it is.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            scores.append(Score(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}: is no score: {error}") from error
    return scores
