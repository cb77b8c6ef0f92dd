"""`load_examples()`: questions with thinking and answers, from a file, a directory or the hub.

The columns of s1K, of s1K-1.1 and plain ones are known, and of plain texts the column `text`.
A bad row stops everything: a message names its place and its column, and nothing is left out
silently.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from s1jax.config import Data
from s1jax.sections import nearest
from s1jax.types import Example, UserError, question_id

# Where thinking and answer are, by whose they are. In this order for data.traces="auto": s1K-1.1
# has two teachers' traces, and the s1.1 models are trained on those of DeepSeek R1.
COLUMNS = {
    "deepseek": ("deepseek_thinking_trajectory", "deepseek_attempt"),
    "gemini": ("gemini_thinking_trajectory", "gemini_attempt"),
    "s1K": ("thinking_trajectories", "attempt"),
    "plain": ("thinking", "answer"),
}

Row = tuple[str, Any]  # where it is, and what is there: a dict if all is well, or Unreadable


@dataclass(frozen=True)
class Unreadable:
    """What stands for a row that is none."""

    reason: str  # what such rows are counted by
    detail: str  # the rest of a sentence that begins with its place


def load_examples(cfg: Data, *, texts: bool = False) -> list[Example]:
    """The examples of `data.path`, at most `data.max_examples`, in the order of the source.

    An id is the row's own, or the first 16 hex digits of the question's sha256 (as in s1). With
    `texts` a row is a text, which is the answer of an example with no question and no thinking.
    Raises UserError if the source cannot be read, or with the place of the first bad row.
    """
    rows = _rows(cfg)
    examples: list[Example] = []
    places: dict[str, str] = {}
    columns: tuple[str, str] | None = None
    what = "text" if texts else "question"
    for place, row in islice(rows, cfg.max_examples):
        if isinstance(row, Unreadable):
            raise UserError(f"{place}: {row.detail}")
        if not isinstance(row, dict):
            raise UserError(f"{place}: must be an object with a {what}, not {kind(row)}")
        if texts:
            example = _text_example(row, place)
        else:
            columns = columns or _columns(row, cfg.traces, place)
            example = _example(row, columns, place)
        if example.id in places:
            raise UserError(
                f"{place}: id {example.id!r} is also that of {places[example.id]}"
                + ("" if row.get("id") is not None else f" (the same {what}: give each an id)")
            )
        places[example.id] = place
        examples.append(example)
    if not examples:
        raise UserError(f"data.path={cfg.path}: has no examples")
    return examples


def _columns(row: dict[str, Any], traces: str, place: str) -> tuple[str, str]:
    """The columns of thinking and answer, as the first row has them."""
    if traces != "auto":
        for column in COLUMNS[traces]:
            if column not in row:
                hint = nearest(column, row)
                raise UserError(f'{place}: has no column {column} (data.traces="{traces}"){hint}')
        return COLUMNS[traces]
    # With a misspelt name a layout still has its other column, and the error names the nearest.
    complete = [pair for pair in COLUMNS.values() if all(column in row for column in pair)]
    started = [pair for pair in COLUMNS.values() if any(column in row for column in pair)]
    for pair in (*complete, *started):
        return pair
    layouts = " or ".join(" and ".join(pair) for pair in COLUMNS.values())
    raise UserError(
        f"{place}: has no columns of thinking and answer ({layouts}); it has"
        f" {', '.join(row) or 'none'}"
    )


def _example(row: dict[str, Any], columns: tuple[str, str], place: str) -> Example:
    thinking, answer = columns
    return Example(
        id=_id(row, "question", place),
        question=_text(row, "question", place),
        thinking=_text(row, thinking, place),
        answer=_text(row, answer, place),
    )


def _text_example(row: dict[str, Any], place: str) -> Example:
    return Example(_id(row, "text", place), "", "", _text(row, "text", place))


def _id(row: dict[str, Any], column: str, place: str) -> str:
    """The row's own id, or the hash of a column."""
    hashed = question_id(_text(row, column, place))
    given = row.get("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        raise UserError(f"{place}: id must be a string or a whole number, not {kind(given)}")
    if given == "":
        raise UserError(f"{place}: id is empty; without one the {column}'s hash is taken")
    return hashed if given is None else str(given)


def _text(row: dict[str, Any], column: str, place: str) -> str:
    """The text of a column; a list of texts is joined by newlines, as in s1K's trajectories."""
    if column not in row:
        raise UserError(f"{place}: has no column {column}{nearest(column, row)}")
    value = row[column]
    if isinstance(value, list) and column in {thinking for thinking, _ in COLUMNS.values()}:
        for item in value:
            if not isinstance(item, str):
                raise UserError(f"{place}: {column} must hold strings, not {kind(item)}")
        value = "\n".join(value)
    if not isinstance(value, str):
        raise UserError(f"{place}: {column} must be a string, not {kind(value)}")
    if not value.strip():
        raise UserError(f"{place}: {column} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: {column} holds half of a surrogate pair, no text") from None
    return value


def kind(value: Any) -> str:
    """What a value of JSON is called in a message."""
    return "null" if value is None else type(value).__name__


# --- Sources ---


def _rows(cfg: Data) -> Iterator[Row]:
    if not cfg.path:
        raise UserError("data.path is empty: set it to a .jsonl, a .parquet or a hub id")
    path, files = Path(cfg.path).expanduser(), (".jsonl", ".parquet")
    if path.is_dir():
        return _saved_rows(path, cfg.split)
    if path.suffix == ".jsonl" and path.is_file():
        return jsonl_rows(path)
    if path.suffix == ".parquet" and path.is_file():
        return parquet_rows(path)
    if path.exists():
        raise UserError(f"data.path={path}: must be a .jsonl, a .parquet or a directory")
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", cfg.path) and path.suffix not in files:
        return _hub_rows(cfg)
    raise UserError(f"data.path={path}: there is no such file")


def jsonl_rows(path: Path) -> Iterator[Row]:
    """The lines that are not blank; one that is no JSON is Unreadable.

    Raises UserError if the file cannot be read.
    """
    try:
        lines = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}: line {number}"
            if not line.strip():
                continue
            try:
                yield place, json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                yield place, Unreadable("not UTF-8", f"is not UTF-8 (byte {error.start})")
            except (ValueError, RecursionError) as error:
                yield place, Unreadable("not JSON", f"is not JSON: {error}")


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows; one with text that is not UTF-8 is Unreadable.

    Raises UserError, with how far it came, if the file cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in _batch_rows(batch):
                    yield f"{path}: row {number} (from 0)", row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read after row {number}: {error}") from error


def _batch_rows(batch: Any) -> list[Any]:
    try:
        rows: list[Any] = batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [Unreadable("not UTF-8", f"is not UTF-8 (byte {error.start} of a text)")]
        return [row for at in range(batch.num_rows) for row in _batch_rows(batch.slice(at, 1))]
    return rows


def _saved_rows(path: Path, split: str) -> Iterator[Row]:
    """The rows of what `datasets` wrote with save_to_disk()."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged directory: OSError, ValueError, KeyError, Arrow's
        raise UserError(
            f"data.path={path}: cannot be read as a directory of datasets' save_to_disk():"
            f" {first_line(error)}"
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise UserError(f"{path}: has no split {split}{nearest(split, saved)} (data.split)")
        saved = saved[split]
    return _numbered(saved, str(path))


def _hub_rows(cfg: Data) -> Iterator[Row]:
    import datasets

    try:
        loaded = datasets.load_dataset(cfg.path, revision=cfg.revision, split=cfg.split)
    except Exception as error:  # no network, no such set, split or revision: each its own class
        raise UserError(
            f"data.path={cfg.path}: is no file here, and the hub's data set of that name"
            f" (split {cfg.split}, revision {cfg.revision}) cannot be loaded: {first_line(error)}"
        ) from error
    return _numbered(loaded, cfg.path)


def _numbered(rows: Iterable[Any], source: str) -> Iterator[Row]:
    return ((f"{source}: row {number} (from 0)", row) for number, row in enumerate(rows))


def first_line(error: Exception) -> str:
    """What an error says, without what follows it."""
    return next(iter(str(error).splitlines()), type(error).__name__)
