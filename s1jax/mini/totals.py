"""Totals: several numbers, one by one: a capital letter adds its number, a small one takes it away.

The thinking ends with the last of them.
"""

import re

from s1jax.mini.numbers import LARGEST, WORD, values, words
from s1jax.mini.thinking import Rng, Thinker

FORM = rf"Begin {WORD}:(?: [A-Ha-h] {WORD})+"
_LETTERS = "abcdefgh"
SIZES = range(3, 9)  # how many numbers after the first
_MOST = 12  # of a number


def ask(rng: Rng, sizes: range = SIZES) -> str:
    """Numbers that are added or taken away so that no total is below 0 or above 20."""
    count = int(rng.choice(sizes))
    while True:
        total, *numbers = rng.integers(1, _MOST + 1, size=count + 1).tolist()
        question = f"Begin {words([total])}:"
        for letter, number in zip(_LETTERS, numbers, strict=False):
            adds = bool(rng.random() < 0.5)
            total += number if adds else -number
            question += f" {letter.upper() if adds else letter} {words([number])}"
            if not 0 <= total <= LARGEST:
                break
        else:
            return question


def think(question: str, thinker: Thinker) -> str:
    """Says the total after each number."""
    total, named = _read(question)
    for letter, number in named:
        total += number if letter.isupper() else -number
        step = f"then {letter} {words([number])} is {words([total])}"
        thinker.write(step)
    thinker.look_again(step)
    return words([total])


def solve(question: str) -> str:
    """The sum of what is added less that of what is taken away."""
    start, *_ = values(question)
    added, taken = (
        sum(values(" ".join(re.findall(rf" [{letters}] ({WORD})", question))))
        for letters in ("A-H", "a-h")
    )
    return words([start + added - taken])


def difficulty(question: str) -> int:
    """How many numbers follow the first: from 3."""
    return len(_read(question)[1])


def _read(question: str) -> tuple[int, list[tuple[str, int]]]:
    start, *numbers = values(question)
    return start, list(zip(question.split()[2::2], numbers, strict=True))
