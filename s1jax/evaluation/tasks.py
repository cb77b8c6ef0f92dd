"""The questions of a benchmark as they are asked: rows become Items by what their Task says.

A question that is read wrongly makes a figure wrong and nobody sees it. So a row that does not fit
its task stops everything, by its place, and the number of questions is checked.
Reference: the task files of s1's harness (`aime`, `openai_math`, `gpqa/openai`).
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s1jax.data import pool
from s1jax.data.examples import Unreadable, kind
from s1jax.data.source_rows import Part
from s1jax.evaluation.answers import final_answer
from s1jax.evaluation.equality import plain
from s1jax.evaluation_config import Task
from s1jax.sections import nearest
from s1jax.types import UserError

LETTERS = "ABCDEFGHIJ"  # that a choice can have
ANSWERS = ("answer", "solution")  # what a file of the user's may call it

Place = str  # "FILE: line 3", for messages
Placed = tuple[Place, Mapping[str, Any]]

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_WORKED = re.compile(r"^####\s|\\(?:boxed|fbox)", re.MULTILINE)  # a solution, not an answer
_WHOLE = re.compile(r"[-+]?\d{1,100}")


@dataclass(frozen=True)
class Item:
    """A question of a task, how it is asked, and what is right."""

    task: str
    id: str
    prompt: str  # with the choices; what decoding adds (think for so many steps) is not there
    question: str
    gold: str  # of a choice its letter
    group: str = ""
    choices: tuple[str, ...] = ()  # in the order in which they are asked


def read_task(
    task: Task,
    *,
    path: str | None = None,
    revision: str | None = None,
    most: int | None = None,
) -> list[Item]:
    """The questions of a task, the first `most` of them, from where it says or from `path`.

    That is a .jsonl, a .parquet or a hub id. What the user puts in the place of a task's own may
    call its columns as such files do: question, problem or prompt; answer or solution; neither ids
    nor groups are needed there.
    Raises UserError if it cannot be read, or with the place of the first row that does not fit.
    """
    rows = list(_rows(task, path or task.path, revision or task.revision))
    if path is not None and rows:
        task = _with_columns_of(rows[0][1], task)
    return items_of(task, rows)[:most]


def items_of(task: Task, rows: Iterable[Placed]) -> list[Item]:
    """All rows of a task, each with its place, as Items.

    Raises UserError, with the place, for a missing column, an empty or unfit value, an id that is
    there twice, a right answer that is no choice; and for another number of questions.
    """
    placed = list(rows)
    _check_count(task, placed)
    choices = _choices(task, placed) if task.choices else [((), "")] * len(placed)
    items: list[Item] = []
    places: dict[str, Place] = {}
    for number, ((place, row), (texts, letter)) in enumerate(zip(placed, choices, strict=True)):
        question = _question(task, row, place)
        item = Item(
            task=task.name,
            id=_id(task, row, place, number),
            prompt=_prompt(task.prompt, question, texts),
            question=question,
            gold=letter or _gold(task, row, place),
            group=_group(task, row, place),
            choices=texts,
        )
        if item.id in places:
            raise UserError(f"{place}: id {item.id!r} is also that of {places[item.id]}")
        places[item.id] = place
        items.append(item)
    return items


def digest(items: Iterable[Item]) -> str:
    """The sha256 of what is asked and what is right: ids, prompts and golds in their order."""
    told = [[item.id, item.prompt, item.gold] for item in items]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


# --- Rows ---


def _rows(task: Task, source: str, revision: str | None) -> Iterator[Placed]:
    file = Path(source).expanduser()
    found: Iterable[tuple[Place, Any]]
    if file.suffix in pool.FILES or file.exists():
        found = pool.file_rows(file)
    elif _HUB_ID.fullmatch(source):
        found = _hub_rows(task, Part(source, task.subset, task.split, revision))
    else:
        raise UserError(f'task {task.name}: "{source}" is no .jsonl, no .parquet and no hub id')
    for place, row in found:
        if isinstance(row, Unreadable):
            raise UserError(f"{place}: {row.detail}")
        if not isinstance(row, Mapping):
            raise UserError(f"{place}: must be an object with a question, not {kind(row)}")
        yield place, row


def _hub_rows(task: Task, part: Part) -> Iterator[tuple[Place, Any]]:
    try:
        loaded = pool.load_part(part)
    except UserError as error:
        raise UserError(
            f"task {task.name}: {error}; a file does as well:"
            f' evaluate.paths="{task.name}=FILE.jsonl"'
        ) from error
    yield from pool.rows_of(loaded, part.name)


def _with_columns_of(row: Mapping[str, Any], task: Task) -> Task:
    """The task with the columns that a row has; where it has none that is usual, as it was."""

    def column(own: str, usual: Sequence[str]) -> str:
        return next((name for name in (own, *usual) if name in row), own)

    return replace(
        task,
        question=column(task.question, pool.EVALUATED),
        answer=column(task.answer, () if task.answer in task.choices else ANSWERS),
        id=task.id if task.id in row else None,
        group=task.group if task.group in row else None,
    )


def _prompt(form: str, question: str, choices: Sequence[str]) -> str:
    """The form filled in, in one pass: a question may itself hold "{choices}", or any brace."""
    lines = [f"{letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False)]
    parts = {"{question}": question, "{choices}": "\n".join(lines)}
    return re.sub(r"\{(?:question|choices)\}", lambda found: parts[found[0]], form)


def _check_count(task: Task, placed: Sequence[Placed]) -> None:
    if not placed:
        raise UserError(f"task {task.name}: there are no questions")
    found = f"{len(placed):,} were found (the last: {placed[-1][0]})"
    if task.questions is not None and len(placed) != task.questions:
        raise UserError(f"task {task.name} has {task.questions:,} questions, {found}")
    if task.orders and len(placed) != len(task.orders):
        raise UserError(
            f"task {task.name} has orders of choices for {len(task.orders):,} questions, {found}"
        )


# --- Columns ---


def _value(row: Mapping[str, Any], column: str, place: Place) -> Any:
    """What is in a column: a text with something in it, a finite number, or a list."""
    if column not in row:
        raise UserError(f"{place}: has no column {column}{nearest(column, row)}")
    return _checked(row[column], column, place)


def _checked(value: Any, column: str, place: Place) -> Any:
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"{place}: {column} is empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{place}: {column} holds half of a surrogate pair, no text") from None
        return value
    if isinstance(value, list):
        return [_checked(item, f"{column}[{number}]", place) for number, item in enumerate(value)]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        given = str(value) if isinstance(value, float) else kind(value)
        raise UserError(f"{place}: {column} must be a text or a number, not {given}")
    return int(value) if value == int(value) else value  # what pandas wrote as 25.0


def _text(row: Mapping[str, Any], column: str, place: Place) -> str:
    """A text, or a number as one."""
    value = _value(row, column, place)
    if isinstance(value, list):
        raise UserError(f"{place}: {column} must be a text or a number, not list")
    return str(value)


def _question(task: Task, row: Mapping[str, Any], place: Place) -> str:
    value = _value(row, task.question, place)
    if not isinstance(value, str):
        raise UserError(f"{place}: {task.question} must be a text, not {kind(value)}")
    return value


def _id(task: Task, row: Mapping[str, Any], place: Place, number: int) -> str:
    return str(number) if task.id is None else _text(row, task.id, place)


def _group(task: Task, row: Mapping[str, Any], place: Place) -> str:
    if task.group is None or (task.group in row and row[task.group] in (None, "")):
        return ""
    return _text(row, task.group, place)


def _gold(task: Task, row: Mapping[str, Any], place: Place) -> str:
    """The reference answer: out of a worked solution its last, of an integer without zeros."""
    text = _text(row, task.answer, place)
    if task.grader == "exact":
        return text
    gold: str | None = text.strip()
    if task.answer == "solution" or _WORKED.search(text):
        gold = final_answer(text)
    if gold is None:
        raise UserError(f'{place}: {task.answer} gives no answer: it must end with one, "#### 42"')
    if task.grader == "integer":
        bare = plain(gold)
        if _WHOLE.fullmatch(bare):
            return str(int(bare))
        if not _WHOLE.match(bare):  # 336° is one
            raise UserError(
                f"{place}: {task.answer}={gold!r:.60} is no whole number, as"
                ' grader="integer" has them; grader="math" takes any'
            )
    return gold


# --- Choices ---


def _choices(task: Task, placed: Sequence[Placed]) -> list[tuple[tuple[str, ...], str]]:
    """By row the choices in the order in which they are asked, and the right one's letter."""
    given = [_given_choices(task, row, place) for place, row in placed]
    if task.answer in task.choices:
        right = [task.choices.index(task.answer)] * len(placed)
    else:
        right = _right_choices(task, placed, given)
    asked = []
    for number, ((place, row), texts) in enumerate(zip(placed, given, strict=True)):
        order = list(range(len(texts)))
        if task.orders:
            rank = ord(task.orders[number]) - ord("a")
            if not 0 <= rank < min(26, math.factorial(len(texts))):
                raise UserError(
                    f'{place}: orders has "{task.orders[number]}" for it, which is no order of'
                    f" {len(texts)} choices"
                )
            order = permutation(len(texts), rank)
        elif len(task.choices) > 1:
            # Fixed for ever: of no seed, no generator and no other row.
            key = f"{task.name}\0{_question(task, row, place)}"
            rank = int(hashlib.sha256(key.encode()).hexdigest(), 16) % math.factorial(len(texts))
            order = permutation(len(texts), rank)
        shown = tuple(texts[n] for n in order)
        # Of equal texts the first is right, as in s1.
        asked.append((shown, LETTERS[shown.index(texts[right[number]])]))
    return asked


def permutation(count: int, rank: int) -> list[int]:
    """The numbers below `count` in the order of this rank among all orders, lexicographically."""
    left, order = list(range(count)), []
    for size in range(count, 0, -1):
        number, rank = divmod(rank, math.factorial(size - 1))
        order.append(left.pop(number))
    return order


def _given_choices(task: Task, row: Mapping[str, Any], place: Place) -> list[str]:
    if len(task.choices) > 1:
        texts = [_text(row, column, place) for column in task.choices]
    else:
        [column] = task.choices
        value = _value(row, column, place)
        if not isinstance(value, list):
            raise UserError(f"{place}: {column} must be a list of choices, not {kind(value)}")
        texts = [str(text) for text in value]
    if not 2 <= len(texts) <= len(LETTERS):
        raise UserError(f"{place}: has {len(texts)} choices, not from 2 to {len(LETTERS)}")
    return texts


def _right_choices(
    task: Task, placed: Sequence[Placed], given: Sequence[Sequence[str]]
) -> list[int]:
    """By row which choice is right: what `answer` says, read in the same way in all rows.

    A row alone may not tell: a "2" among 1, 2 and 3 can be the second or the third.
    """
    values = [_text(row, task.answer, place) for place, row in placed]
    read = [_readings(value, texts) for value, texts in zip(values, given, strict=True)]
    by_way = list(zip(*read, strict=True))
    whole = [way for way in by_way if None not in way]
    if not whole:
        most = max(by_way, key=lambda way: len(way) - way.count(None))
        number = most.index(None)
        count = len(given[number])
        raise UserError(
            f"{placed[number][0]}: {task.answer}={values[number]!r:.60} is none of the {count}"
            f" choices: it must be a letter to {LETTERS[count - 1]}, a number from 0 to"
            f" {count - 1}, or a choice's text"
        )
    for (place, _), value, *rights in zip(placed, values, *whole, strict=True):
        if len(set(rights)) > 1:
            raise UserError(
                f"{place}: {task.answer}={value!r:.60} is the text of one choice and may be the"
                " letter or the number of another: give letters"
            )
    return [number for number in whole[0] if number is not None]


def _readings(value: str, texts: Sequence[str]) -> tuple[int | None, int | None, int | None]:
    """Which choice a value names as a text, as a letter and as a number from 0."""
    stripped = [text.strip() for text in texts]
    text = stripped.index(value.strip()) if value.strip() in stripped else None
    letters, bare = LETTERS[: len(texts)], value.strip().strip("().").upper()
    letter = letters.index(bare) if len(bare) == 1 and bare in letters else None
    number = int(bare) if _WHOLE.fullmatch(bare) else -1
    return text, letter, number if 0 <= number < len(texts) else None
