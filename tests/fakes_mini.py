"""The little world told once more without its code: what is true in a thinking, and how often."""

import re
from collections.abc import Iterable, Iterator

DEVIATIONS = 4  # of a count from its mean; once in 16,000
WORDS = ("Wait", "Hmm", "Alternatively")
NUMBERS = {
    name: number
    for number, name in enumerate(
        [
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
            *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
            *("seventeen", "eighteen", "nineteen", "twenty"),
        ]
    )
}
EVERY = {"search": 3, "revision": 1, "iteration": 1}  # so many steps a thinker may give up


def about(count: float, share: float, of: float) -> bool:
    """Whether a count is as a share would have it."""
    return abs(count - share * of) < DEVIATIONS * (of * share * (1 - share)) ** 0.5


def in_digits(text: str) -> str:
    """The text with its number words as digits."""
    return re.sub(r"[a-z]+", lambda m: str(NUMBERS.get(m[0], m[0])), text)


def spelled(numbers: Iterable[int]) -> str:
    names = {number: name for name, number in NUMBERS.items()}
    return " ".join(names[number] for number in numbers)


def numbers_in(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", in_digits(text))]


def ways_in(question: str) -> dict[str, str]:
    ways = re.findall(r"([A-L]):([a-l])\b", question)
    return {start.lower(): end for start, end in ways}


def runs_of(text: str, words: int = 8) -> set[tuple[str, ...]]:
    """What s1 compares: so many words in a row, or all there are."""
    said = text.lower().split()
    return {tuple(said[at : at + words]) for at in range(max(1, len(said) - words + 1))}


# --- Answers, and how many steps they take ---


def reached(numbers: list[int]) -> list[int]:
    """Where in [target, *list] a number lies that makes the target with the next one."""
    target, *listed = numbers
    return [at for at in range(1, len(listed)) if target - numbers[at] == numbers[at + 1]]


def answer_to(name: str, question: str) -> str:
    numbers = numbers_in(question)
    if name == "search":
        [at] = reached(numbers)
        return spelled(numbers[at : at + 2])
    if name == "revision":
        columns = [str(number).zfill(2) for number in numbers]
        units = int("".join(column[1] for column in columns))
        worth = units + 10 * int("".join(column[0] for column in columns))
        return spelled(int(digit) for digit in str(worth))
    if name == "iteration":
        left, taken = set(numbers), []
        while left:
            taken.append(min(left))
            left.remove(taken[-1])
        return spelled(taken)
    if name == "paths":
        place = question.split()[1]
        for _ in range(numbers[0]):
            place = ways_in(question)[place]
        return place
    total, *numbers = numbers
    for capital, number in zip(_capitals(question), numbers, strict=True):
        total += number if capital else -number
    return spelled([total])


def _capitals(question: str) -> list[bool]:
    """Whether each number of a total is added."""
    return [letter.isupper() for letter in re.findall(r"\b[A-Ha-h]\b", question)]


def steps_to(name: str, question: str) -> int:
    """How many steps there are to the answer, counted without taking them."""
    numbers = numbers_in(question)
    if name == "search":  # those tried, and what was found
        [at] = reached(numbers)
        return at + 1
    if name == "revision":  # what is carried in a long addition
        carried, carry = 0, 0
        for column in reversed(numbers):
            carry = int(column + carry >= 10)
            carried += carry
        return max(carried, 1)
    if name == "iteration":  # a pass takes every number past one of the larger ones before it
        return max(
            1, *(sum(left > number for left in numbers[:at]) for at, number in enumerate(numbers))
        )
    return numbers[0] + 1 if name == "paths" else len(numbers) - 1


def chances(name: str, question: str) -> int:
    """How often a thinker may give up before it has the answer."""
    return (_unsure(name, question)) // EVERY[name] if name in EVERY else 0


def _unsure(name: str, question: str) -> int:
    """After how many steps a thinker does not know the answer."""
    return steps_to(name, question) - (2 if name == "search" else 1)


# --- A thinking ---


def parted(thinking: str) -> tuple[list[str], list[str]]:
    """The steps, and the word that is said after each, or ""."""
    parts = [part.partition("\n") for part in thinking.split("\n\n")]
    return [step for step, _, _ in parts], [word for _, _, word in parts]


def untrue(name: str, question: str, steps: list[str]) -> Iterator[str]:
    """What is not so, or does not follow from the step before it; the first step included."""
    told = {
        "search": _search,
        "revision": _revision,
        "iteration": _iteration,
        "paths": _paths,
        "totals": _totals,
    }[name]
    yield from told(in_digits(question), [in_digits(step) for step in steps])


def _search(question: str, steps: list[str]) -> Iterator[str]:
    target, *_ = numbers_in(question)
    named = re.findall(r"\b[a-l] \d+", question)
    found = ""
    for at, step in enumerate(steps):
        if found:
            if step != f"found {found}":
                yield f"{step}: it is {found}"
            continue
        match = re.fullmatch(r"try ([a-l] (\d+) [a-l] (\d+)) is (\d+) (yes|no)", step)
        if match is None:
            yield f"{step}: is of no form"
            return
        if match[1] != " ".join(named[at : at + 2]):
            yield f"{step}: is not the next pair"
        if int(match[2]) + int(match[3]) != int(match[4]):
            yield f"{step}: is another sum"
        if (match[5] == "yes") != (int(match[4]) == target):
            yield f"{step}: it is not as it says"
        if match[5] == "yes":
            found = f"{match[2]} {match[3]}"


def _revision(question: str, steps: list[str]) -> Iterator[str]:
    columns = numbers_in(question)
    for step in steps:
        if not re.fullmatch(r"write \d+( \d+)+", step):
            yield f"{step}: is of no form"
            return
        after = numbers_in(step)
        if _worth(after) != _worth(columns) or len(after) != len(columns):
            yield f"{step}: is another number"
            return
        changed = [at for at, column in enumerate(columns) if column != after[at]]
        full = [at for at, column in enumerate(columns) if column >= 10]
        if changed != ([full[-1] - 1, full[-1]] if full else []):
            yield f"{step}: the columns {changed} have changed, {full} could"
        columns = after


def _worth(columns: list[int]) -> int:
    worth = 0
    for column in columns:
        worth = 10 * worth + column
    return worth


def _iteration(question: str, steps: list[str]) -> Iterator[str]:
    numbers = numbers_in(question)
    for step in steps:
        if not re.fullmatch(r"pass \d+( \d+)+", step):
            yield f"{step}: is of no form"
            return
        after = numbers_in(step)
        largest, passed = numbers[0], []  # what the pass carries along
        for number in numbers[1:]:
            passed.append(min(largest, number))
            largest = max(largest, number)
        if after != [*passed, largest]:
            yield f"{step}: is no pass over {numbers}"
        numbers = after


def _paths(question: str, steps: list[str]) -> Iterator[str]:
    place, last = question.split()[1], steps_to("paths", question)
    for at, step in enumerate(steps, start=1):
        if at >= last:
            if step != f"at {place}":
                yield f"{step}: it is at {place}"
            continue
        match = re.fullmatch(r"step (\d+) ([A-L]):([a-l])", step)
        if match is None:
            yield f"{step}: is of no form"
            return
        if int(match[1]) != at:
            yield f"{step}: is step {at}"
        if match[2].lower() != place:
            yield f"{step}: does not begin where the last one ended"
        if f"{match[2]}:{match[3]}" not in question.split(": ")[1].split(" "):
            yield f"{step}: there is no such way"
        place = match[3]


def _totals(question: str, steps: list[str]) -> Iterator[str]:
    total, *numbers = numbers_in(question)
    named = re.findall(r"\b[A-Ha-h] \d+", question)
    before = ""
    for at, step in enumerate(steps):
        if at >= len(numbers):
            if step != before:
                yield f"{step}: is not the last step again"
            continue
        match = re.fullmatch(r"then ([A-Ha-h] \d+) is (\d+)", step)
        if match is None:
            yield f"{step}: is of no form"
            return
        if match[1] != named[at]:
            yield f"{step}: is not the next number"
        total += numbers[at] if named[at][0].isupper() else -numbers[at]
        if int(match[2]) != total:
            yield f"{step}: is {total}"
        total, before = int(match[2]), step


def misspoken(name: str, question: str, thinking: str) -> Iterator[str]:
    """Words that are said where a thinker only goes on, or left out where it could have stopped."""
    steps, words = parted(thinking)
    needed = steps_to(name, question)
    every = EVERY.get(name, needed)
    unsure = _unsure(name, question)
    for at, word in enumerate(words, start=1):
        could_stop = at >= needed or (at % every == 0 and at <= unsure)
        if at == len(steps):
            if word or not could_stop:
                yield f"ends after step {at} with {word!r}"
        elif (word in WORDS) != could_stop or (word and word not in WORDS):
            yield f"{word!r} after step {at} of {needed}"
