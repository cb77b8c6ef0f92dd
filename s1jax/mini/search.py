"""Search: which two neighbours of a list add up to a target. One pair is tried after the other.

How many have to be tried is known only when the right one is found, so that accuracy grows with the
number tried.
"""

from itertools import pairwise

from s1jax.mini.numbers import LARGEST, WORD, values, words
from s1jax.mini.thinking import Rng, Thinker

FORM = rf"Reach {WORD}:(?: [a-l] {WORD})+"
_LETTERS = "abcdefghijkl"  # name the numbers, so that a step can say where it is
SIZES = range(8, 13)  # how many numbers
_MOST = LARGEST // 2  # of a number; a target is more, so that it cannot be taken for one
_PATIENCE = 3  # pairs tried before it may give up


def ask(rng: Rng, sizes: range = SIZES) -> str:
    """A question with one answer, which is as likely to be anywhere in the list."""
    count = int(rng.choice(sizes))
    at = int(rng.integers(count - 1))
    while True:
        numbers = rng.integers(1, _MOST + 1, size=count)
        sums = numbers[:-1] + numbers[1:]
        if sums[at] > _MOST and (sums == sums[at]).sum() == 1:
            break
    named = zip(_LETTERS, numbers.tolist(), strict=False)
    listed = " ".join(f"{letter} {words([number])}" for letter, number in named)
    return f"Reach {words([int(sums[at])])}: {listed}"


def think(question: str, thinker: Thinker) -> str:
    """Tries the pairs in their order; who gives up answers with the last one tried."""
    target, *numbers = values(question)
    for at, (first, second) in enumerate(pairwise(numbers)):
        found = first + second == target
        named = f"{_LETTERS[at]} {words([first])} {_LETTERS[at + 1]} {words([second])}"
        verdict = "yes" if found else "no"
        thinker.write(f"try {named} is {words([first + second])} {verdict}")
        pair = words([first, second])
        if found:
            thinker.write(f"found {pair}")
            thinker.look_again(f"found {pair}")
            return pair
        if (at + 1) % _PATIENCE == 0 and thinker.gives_up():
            return pair
    raise ValueError(f"{question}: no two neighbours add up to it")


def solve(question: str) -> str:
    """The one pair, in the order of the list."""
    target, *numbers = values(question)
    (pair,) = (list(pair) for pair in pairwise(numbers) if sum(pair) == target)
    return words(pair)


def difficulty(question: str) -> int:
    """How many pairs have to be tried, and one more step for what was found: from 2."""
    target, *numbers = values(question)
    sums = [first + second for first, second in pairwise(numbers)]
    return 2 + sums.index(target)
