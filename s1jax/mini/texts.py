"""What the base model of the little world has read: texts of its skills, one step at a time.

A text is a question and some single steps towards its answer, each with the step before it, in no
order; or a list, read again. There is no whole thinking, no "Wait", no answer and no chat: a model
of these knows what a step is, and not how to think. Long texts have more steps, some of them twice,
so that it also knows what a step is far behind a question.
"""

from collections.abc import Iterator, Set

import numpy as np

from s1jax.mini.numbers import LARGEST, words
from s1jax.mini.pool import held_out
from s1jax.mini.tasks import FAMILIES, difficulty, steps
from s1jax.mini.thinking import STEP, Rng

_READINGS = 0.1  # the share of lists
_TURNS = (*FAMILIES, "search", "revision", "iteration", "totals")  # paths are learned soonest
_STEPS = {"revision": 3, "iteration": 3}  # in one text
_STEPS_ELSE = 4
_LONGER = 3  # times as many steps in a long text
_LEAST = 3  # steps of a question, or two of them would be the whole of its thinking


def texts(seed: int, *, long: bool = False) -> Iterator[str]:
    """Texts without end, the families in turn; the same for a seed."""
    rng = np.random.default_rng([seed, 6 if long else 3])
    forbidden = set(held_out())
    while True:
        for name in _TURNS:
            yield _reading(rng) if rng.random() < _READINGS else _skill(name, rng, forbidden, long)


def _skill(name: str, rng: Rng, forbidden: Set[str], long: bool) -> str:
    while True:
        question = FAMILIES[name].ask(rng)
        if difficulty(question) >= _LEAST and question not in forbidden:
            break
    thinking = steps(question, looks_again=True)
    count = _STEPS.get(name, _STEPS_ELSE)
    count = _LONGER * count if long else min(count, len(thinking))
    chosen = rng.choice(len(thinking), size=count, replace=long)
    some = (STEP.join(thinking[max(at - 1, 0) : at + 1]) for at in chosen)
    return "\n".join([question, *some])


def _reading(rng: Rng) -> str:
    kind, length = rng.integers(3), int(rng.integers(4, 12))
    if kind == 0:
        items = words((rng.permutation(LARGEST)[:length] + 1).tolist())
    elif kind == 1:
        items = " ".join(chr(ord("a") + number) for number in rng.permutation(12)[:length])
    else:
        items = words(rng.integers(0, 19, size=length).tolist())
    return "\n".join([f"list {items}"] * 3)
