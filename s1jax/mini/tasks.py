"""The families of questions of the little world, and what is common to them.

A family is known by the form of its questions. Its `think` writes down a thinking with its tries
and its slips; its `solve` finds the answer in another way, and so tells right from wrong.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


def _family(module: Any, domain: str, share: float) -> Family:
    return Family(
        module.FORM, domain, share, module.ask, module.think, module.solve, module.difficulty
    )


FAMILIES = {
    "search": _family(search, "Looking up", 0.22),
    "revision": _family(revision, "Carrying", 0.22),
    "iteration": _family(iteration, "Sorting", 0.22),
    "paths": _family(paths, "Looking up", 0.08),
    "totals": _family(totals, "Arithmetic", 0.26),
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
