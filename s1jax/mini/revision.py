"""Revision: carrying in a sum of columns. A pass overlooks what a check finds and mends.

Each step carries from the last column that still holds ten or more, and takes that for the end. So
a number is right when it was looked at as often as there is something to carry.
"""

from s1jax.mini.numbers import WORD, values, words
from s1jax.mini.thinking import Rng, Thinker

FORM = rf"Carry {WORD}(?: {WORD})+"
SIZES = range(4, 8)  # how many columns


def ask(rng: Rng, sizes: range = SIZES) -> str:
    """The sums of the columns of two numbers, whose sum has as many digits as columns."""
    columns = rng.integers(0, 19, size=int(rng.choice(sizes)))
    columns[0] = rng.integers(1, 9)
    return f"Carry {words(columns.tolist())}"


def think(question: str, thinker: Thinker) -> str:
    """Carries once, and once more for each time it looks again; what is left is overlooked."""
    columns = values(question)
    while True:
        columns = _carried(columns)
        step = f"write {words(columns)}"
        thinker.write(step)
        if max(columns) < 10:
            thinker.look_again(step)
            break
        if thinker.gives_up():
            break
    return words(column % 10 for column in columns)


def solve(question: str) -> str:
    """The digits of the number that the columns are worth."""
    worth = sum(value * 10**place for place, value in enumerate(reversed(values(question))))
    return words(int(digit) for digit in str(worth))


def difficulty(question: str) -> int:
    """How many numbers have to be written: one for each time that something is carried, from 1."""
    columns, steps = _carried(values(question)), 1
    while max(columns) >= 10:
        columns, steps = _carried(columns), steps + 1
    return steps


def _carried(columns: list[int]) -> list[int]:
    """With the last column of ten or more mended, if there is one. ValueError for the first."""
    full = [column for column, value in enumerate(columns) if value >= 10]
    mended = list(columns)
    if full == [0]:
        raise ValueError(f"{columns}: there is no column to carry to")
    if full:
        mended[full[-1]] -= 10
        mended[full[-1] - 1] += 1
    return mended
