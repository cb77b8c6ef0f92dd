"""What every table is made of: points of runs, differences, lines."""

from collections.abc import Mapping, Sequence

import numpy as np

from s1jax.evaluation.scaling import line_interval
from s1jax.reproducing.claims import Cell, Point
from s1jax.reproducing.measured import (
    Answers,
    Figure,
    Measured,
    figure_of,
    paired,
    same_ids,
    side_by_side,
)
from s1jax.reproducing.plan import CURVE, OTHERS, REST, Ask

MEAN = "mean"
Asks = Mapping[tuple[str, str], Ask]  # by model and name
Rows = list[list[Cell]]


class Asked:
    """The answers that a table is made of."""

    def __init__(self, measured: Measured, asks: Asks, seeds: Sequence[int]):
        self.measured, self.asks, self.seeds = measured, asks, seeds

    def get(self, model: str, name: str, tasks: Sequence[str], run: str) -> Answers:
        """A run of an evaluation; of a curve, its other families are asked on their own."""
        asks = [self.asks[model, name_for(name, task)] for task in tasks]
        pairs = zip(asks, tasks, strict=True)
        return side_by_side([self.measured.answers(*pair, run, self.seeds) for pair in pairs])

    def runs(self, model: str, name: str, start: str) -> list[str]:
        """The names of an evaluation's runs that begin so, by the number that they end with."""
        found = self.measured.runs(self.asks[model, name], self.seeds)
        return sorted((run for run in found if run.startswith(start)), key=_number)

    def point(self, model: str, name: str, tasks: Sequence[str], run: str) -> Point:
        """Its figures, of several tasks together."""
        return self.point_of(model, run, tasks, self.get(model, name, tasks, run))

    def point_of(self, model: str, run: str, tasks: Sequence[str], answers: Answers) -> Point:
        """The figures of answers."""
        return Point(
            model,
            tasks[0] if len(tasks) == 1 else MEAN,
            run,
            self.measured.accuracy(answers),
            float(answers.tokens.mean()),
            float(answers.unanswered.mean()),
        )

    def gain(self, after: Answers, before: Answers) -> Figure:
        """How many points more are right, question by question and seed by seed."""
        return self.measured.difference(paired(after, before), after.ids)


def name_for(name: str, task: str) -> str:
    """Which evaluation has a task, where a curve is asked for."""
    return REST if name == CURVE and task in OTHERS else name


def _number(run: str) -> int:
    end = run.rpartition("-")[2]
    return int(end) if end.isdecimal() else 0


def line(measured: Measured, runs: Sequence[Answers]) -> Figure | None:
    """The slope of the line through runs, in points per doubling of the thinking.

    None if it has none, in all seeds together or in one of them.
    """
    ids = same_ids(runs)
    right = np.stack([run.right for run in runs], axis=2)
    tokens = np.stack([run.tokens for run in runs], axis=2)
    found = line_interval(right.mean(0), tokens.mean(0), *measured.drawing)
    # A seed's own interval is not asked for: one resample is the fewest.
    of_seeds = [line_interval(*pair, 1, 0) for pair in zip(right, tokens, strict=True)]
    slopes = [one.value for one in of_seeds if one is not None]
    if found is None or len(slopes) < len(of_seeds):
        return None
    return figure_of(found, slopes, len(ids), signed=True)
