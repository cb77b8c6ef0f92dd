"""Iteration: sorting by passes, each of which swaps neighbours from the left to the right."""

from s1jax.mini.numbers import LARGEST, WORD, values, words
from s1jax.mini.thinking import Rng, Thinker

FORM = rf"Sort {WORD}(?: {WORD})+"
SIZES = range(4, 8)  # how many numbers


def ask(rng: Rng, sizes: range = SIZES) -> str:
    """Different numbers in any order, that of the answer included."""
    numbers = rng.permutation(LARGEST)[: int(rng.choice(sizes))] + 1
    return f"Sort {words(numbers.tolist())}"


def think(question: str, thinker: Thinker) -> str:
    """Passes until the list is sorted, or until it gives up; the answer is the last list."""
    numbers = values(question)
    while True:
        numbers = _passed(numbers)
        step = f"pass {words(numbers)}"
        thinker.write(step)
        if numbers == sorted(numbers):
            thinker.look_again(step)
            break
        if thinker.gives_up():
            break
    return words(numbers)


def solve(question: str) -> str:
    """The numbers, the smallest first."""
    return words(sorted(values(question)))


def difficulty(question: str) -> int:
    """How many passes it takes: from 1."""
    numbers, passes = _passed(values(question)), 1
    while numbers != sorted(numbers):
        numbers, passes = _passed(numbers), passes + 1
    return passes


def _passed(numbers: list[int]) -> list[int]:
    after = list(numbers)
    for at in range(len(after) - 1):
        after[at : at + 2] = sorted(after[at : at + 2])
    return after
