"""The families of questions of the little world, and what is common to them.

A family is known by the form of its questions. Its `think` writes down a thinking with its tries
and its slips; its `solve` finds the answer in another way, and so tells right from wrong.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from s1jax.mini import iteration, paths, revision, search, totals
from s1jax.mini.thinking import STEP, Rng, Straight, Thinker

ANSWER = "Final Answer: "  # what the answers of traces begin with, as those that are forced do


@dataclass(frozen=True)
class Family:
    """One kind of question."""

    form: str  # a regular expression of its questions
    domain: str
    share: float  # of the pool
    ask: Callable[..., str]  # of a generator, and perhaps of `sizes`: how large, how difficult
    think: Callable[[str, Thinker], str]  # writes the thinking, returns the answer it came to
    solve: Callable[[str], str]
    difficulty: Callable[[str], int]


FAMILIES = {
    "search": Family(
        search.FORM, "Looking up", 0.22, search.ask, search.think, search.solve, search.difficulty
    ),
    "revision": Family(
        revision.FORM,
        "Carrying",
        0.22,
        revision.ask,
        revision.think,
        revision.solve,
        revision.difficulty,
    ),
    "iteration": Family(
        iteration.FORM,
        "Sorting",
        0.22,
        iteration.ask,
        iteration.think,
        iteration.solve,
        iteration.difficulty,
    ),
    "paths": Family(
        paths.FORM, "Looking up", 0.08, paths.ask, paths.think, paths.solve, paths.difficulty
    ),
    "totals": Family(
        totals.FORM, "Arithmetic", 0.26, totals.ask, totals.think, totals.solve, totals.difficulty
    ),
}


def think(question: str, rng: Rng, stops: float) -> tuple[str, str]:
    """The thinking about a question, and the answer it came to; `stops` as in `Thinker`."""
    thinker = Thinker(rng, stops)
    answer = FAMILIES[family(question)].think(question, thinker)
    return thinker.text, answer


def steps(question: str, looks_again: bool = False) -> list[str]:
    """The steps of a thinking that goes straight to the end, and perhaps says it once more."""
    thinker = Straight(looks_again)
    FAMILIES[family(question)].think(question, thinker)
    return thinker.text.split(STEP)


def solve(question: str) -> str:
    """The answer, found without thinking aloud."""
    return FAMILIES[family(question)].solve(question)


def verify(question: str, answer: str) -> bool:
    """Whether an answer is the right one, in the order that the question has."""
    return answer.strip().removeprefix(ANSWER).strip() == solve(question)


def family(question: str) -> str:
    """The name of the family that a question is of. ValueError if it is of none."""
    for name, one in FAMILIES.items():
        if re.fullmatch(one.form, question):
            return name
    raise ValueError(f"{question}: is no question of the little world")


def difficulty(question: str) -> int:
    """How many steps of thinking a question needs."""
    return FAMILIES[family(question)].difficulty(question)
