"""What the paper found, what was measured here, and whether the two agree: decided by intervals."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from s1jax.reproducing.measured import Figure

AGREES, CANNOT, DISAGREES = "agrees", "cannot be told apart", "disagrees"
POINTS, PER_DOUBLING, TOKENS, PERCENT = "points", "points per doubling", "tokens", "%"
SEEDS, QUESTIONS = 2, 30  # with fewer of either nothing is told

Cell = str | float | Figure | None  # of a table's row


@dataclass(frozen=True)
class Claim:
    """One thing that the paper found: a figure that should lie above, below, or between."""

    paper: str  # a sentence
    what: str  # that `figure` is, a phrase
    figure: Figure | None  # None: it has no value here
    unit: str = POINTS
    above: float | None = 0.0  # None, here and below: no bound
    below: float | None = None
    or_equal: bool = False  # it may be equal to a bound
    by_construction: bool = False  # built into the world or the method: it could hardly fail
    why_none: str = ""  # it has no value, a phrase

    @property
    def verdict(self) -> str:
        """Whether the direction is the paper's: by the interval and by every seed's own value.

        An interval over questions does not know what other seeds would do: two models that differ
        by their seeds alone are often apart by it.
        """
        figure = self.figure
        if figure is None or figure.seeds < SEEDS or figure.questions < QUESTIONS:
            return CANNOT
        least, most = min(figure.low, figure.least), max(figure.high, figure.most)
        low = -math.inf if self.above is None else self.above
        high = math.inf if self.below is None else self.below
        if (low <= least and most <= high) if self.or_equal else (low < least and most < high):
            return AGREES
        return DISAGREES if most < low or least > high else CANNOT

    @property
    def found(self) -> str:
        """A sentence with the figure, its interval and its range."""
        if self.figure is None:
            return f"{self.what}: it has no value here{self.why_none and ', ' + self.why_none}."
        return f"{self.what}: {told(self.figure, self.unit)}."


@dataclass(frozen=True)
class Point:
    """A run of a model on a task, or on several with equal weight."""

    model: str
    task: str  # "mean" of several
    run: str
    accuracy: Figure
    tokens: float  # of thinking
    unanswered: float  # percent


@dataclass(frozen=True)
class Table:
    """A figure or table of the paper, as it came out here."""

    name: str  # as --only knows it
    title: str
    asked: str  # what was compared, in sentences
    seeds: Sequence[int]
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    claims: Sequence[Claim]
    notes: Sequence[str] = ()  # sentences on what was found, where the paper says nothing
    points: Sequence[Point] = ()
    picture: str = ""
    more: dict[str, Any] = field(default_factory=dict)  # what a picture needs besides
    details_head: Sequence[str] = ()  # of a second table
    details: Sequence[Sequence[Cell]] = ()

    def to_dict(self) -> dict[str, Any]:
        """For reproduce.json."""
        claims = [asdict(claim) | {"verdict": claim.verdict} for claim in self.claims]
        return asdict(self) | {"claims": claims}

    @property
    def intervals(self) -> int:
        """How many are shown, each with its own chance to miss."""
        cells = [cell for row in (*self.rows, *self.details) for cell in row]
        shown = [*cells, *(claim.figure for claim in self.claims)]
        return sum(isinstance(one, Figure) for one in shown)


def told(figure: Figure, unit: str) -> str:
    """`+12.3 points (10.1 to 14.5; seeds +11.0 to +13.2)`, with signs where it is a difference."""
    sign = "+" if figure.signed else ""
    value, low, high, least, most = (
        f"{round(x, 1) or 0.0:{sign}.1f}"  # never "-0.0"
        for x in (figure.value, figure.low, figure.high, figure.least, figure.most)
    )
    gap = " " if unit and unit != PERCENT else ""
    return f"{value}{gap}{unit} ({low} to {high}; seeds {least} to {most})"
