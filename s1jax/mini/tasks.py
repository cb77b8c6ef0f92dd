"""The tasks of the little world: questions, a program that thinks about them, and a verifier.

A task is known by the form of its question. The one who thinks writes every step, tries and errs,
and corrects itself with "Wait"; the verifier solves the question by itself, in another way.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator

_ERRS = 0.15  # the share of steps that go wrong at first


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    form: str  # a regular expression of its questions
    ask: Callable[[Rng], str]
    think: Callable[[list[int], Rng], tuple[list[str], str]]  # of the numbers: steps, answer
    solve: Callable[[list[int]], str]


def ask(rng: Rng) -> str:
    """A question of some task."""
    names = list(TASKS)
    return TASKS[names[rng.integers(len(names))]].ask(rng)


def think(question: str, rng: Rng) -> tuple[str, str]:
    """The thinking about a question, and its answer."""
    steps, answer = _task(question).think(_numbers(question), rng)
    return "\n".join(steps), answer


def solve(question: str) -> str:
    """The answer, found without thinking aloud."""
    return _task(question).solve(_numbers(question))


def verify(question: str, answer: str) -> bool:
    """Whether the answer is the right one."""
    return answer.strip() == solve(question)


def family(question: str) -> str:
    """The name of the task that a question is of."""
    return next(name for name, task in TASKS.items() if re.fullmatch(task.form, question))


def size(question: str) -> int:
    """How hard a question is: the digits to be read."""
    return sum(len(str(number)) for number in _numbers(question))


def _task(question: str) -> Task:
    return TASKS[family(question)]


def _numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def _errs(rng: Rng) -> bool:
    return bool(rng.random() < _ERRS)


# --- Adding, digit by digit ---


def _ask_sum(rng: Rng) -> str:
    first, second = rng.integers(10, 1000, size=2)
    return f"What is {first} + {second}?"


def _think_sum(numbers: list[int], rng: Rng) -> tuple[list[str], str]:
    width = max(len(str(number)) for number in numbers)
    columns = zip(*(reversed(str(number).zfill(width)) for number in numbers), strict=True)
    steps, digits, carry = ["I add the digits from the right."], "", 0
    for first, second in columns:
        terms = f"{first} + {second}" + (f" + {carry}" if carry else "")
        total = int(first) + int(second) + carry
        if _errs(rng):
            steps.append(f"{terms} = {total + rng.choice([-1, 1])}. Wait, let me count again.")
        carry = total // 10
        digits = str(total % 10) + digits
        steps.append(f"{terms} = {total}, write {total % 10}" + (", carry 1." if carry else "."))
    if carry:
        digits = "1" + digits
        steps.append("The carry is left, write 1.")
    answer = digits.lstrip("0")
    return [*steps, f"So the sum is {answer}."], answer


def _solve_sum(numbers: list[int]) -> str:
    return str(sum(numbers))


# --- Sorting, the smallest first ---


def _ask_order(rng: Rng) -> str:
    numbers = rng.choice(90, size=rng.integers(3, 6), replace=False) + 10
    return f"Sort these numbers: {_listed(numbers)}."


def _think_order(numbers: list[int], rng: Rng) -> tuple[list[str], str]:
    left, found, steps = list(numbers), [], ["I take the smallest again and again."]
    while left:
        smallest = min(left)
        step = f"From {_listed(left)} take "
        if len(left) > 1 and _errs(rng):
            wrong = rng.choice([number for number in left if number != smallest])
            step += f"{wrong}. Wait, {smallest} is smaller than {wrong}: take "
        steps.append(f"{step}{smallest}.")
        left.remove(smallest)
        found.append(smallest)
    return steps, _listed(found)


def _solve_order(numbers: list[int]) -> str:
    return _listed(sorted(numbers))


def _listed(numbers: list[int] | np.ndarray) -> str:
    return ", ".join(map(str, numbers))


# --- A factor, by trying ---


def _ask_factor(rng: Rng) -> str:
    factor, other = rng.integers(2, 10), rng.integers(2, 40)
    return f"Which number times {factor} is {factor * other}?"


def _think_factor(numbers: list[int], rng: Rng) -> tuple[list[str], str]:
    factor, product = numbers
    steps, low, high = ["I try numbers and see which way to go."], 1, 40
    while True:
        quarter = (high - low) // 4
        tried = int(rng.integers(low + quarter, high - quarter))
        result = tried * factor
        step = f"Try {tried}: {tried} x {factor} = "
        if _errs(rng):
            step += f"{result + factor}. Wait, that is {tried + 1} x {factor}. It is "
        if result == product:
            return [*steps, f"{step}{result}, that is it."], str(tried)
        steps.append(f"{step}{result}, too {'small' if result < product else 'large'}.")
        low, high = (tried + 1, high) if result < product else (low, tried)


def _solve_factor(numbers: list[int]) -> str:
    factor, product = numbers
    return str(product // factor)


TASKS = {
    "sum": Task(r"What is \d+ \+ \d+\?", _ask_sum, _think_sum, _solve_sum),
    "order": Task(r"Sort these numbers: [\d, ]+\.", _ask_order, _think_order, _solve_order),
    "factor": Task(r"Which number times \d+ is \d+\?", _ask_factor, _think_factor, _solve_factor),
}
