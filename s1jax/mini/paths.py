"""Paths: where one stands after so many steps. Each is written down, and then it is done."""

import numpy as np

from s1jax.mini.numbers import WORD, values, words
from s1jax.mini.thinking import Rng, Thinker

FORM = rf"From [a-l] go {WORD}:(?: [A-L]:[a-l])+"
_PLACES = "abcdefghijkl"
SIZES = range(6, 10)  # how many places
_STEPS = range(2, 11)


def ask(rng: Rng, sizes: range = SIZES) -> str:
    """Some places, in capital letters, each with the one that follows it."""
    count = int(rng.choice(sizes))
    places = [_PLACES[at] for at in sorted(rng.permutation(len(_PLACES))[:count])]
    while True:
        follows = rng.permutation(count)
        if np.all(follows != np.arange(count)):
            break
    ways = " ".join(f"{places[at].upper()}:{places[follows[at]]}" for at in range(count))
    return f"From {places[rng.integers(count)]} go {words([int(rng.choice(_STEPS))])}: {ways}"


def think(question: str, thinker: Thinker) -> str:
    """Goes step by step, and says where that ends."""
    place, steps, ways = _read(question)
    if not steps:
        raise ValueError(f"{question}: there is no step to take")
    for number in range(1, steps + 1):
        thinker.write(f"step {words([number])} {place.upper()}:{ways[place]}")
        place = ways[place]
    step = f"at {place}"
    thinker.write(step)
    thinker.look_again(step)
    return place


def solve(question: str) -> str:
    """The place, found by powers of the map of all places."""
    place, steps, ways = _read(question)
    while steps:
        if steps % 2:
            place = ways[place]
        ways = {start: ways[end] for start, end in ways.items()}
        steps //= 2
    return place


def difficulty(question: str) -> int:
    """How many ways are gone, and one more step for where they end: from 3."""
    return _read(question)[1] + 1


def _read(question: str) -> tuple[str, int, dict[str, str]]:
    task, _, ways = question.partition(": ")
    _, place, _, steps = task.split()
    return place, values(steps)[0], {way[0].lower(): way[2] for way in ways.split()}
