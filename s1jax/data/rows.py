"""Rows in s1's columns, written as JSONL and as Parquet, whole or not at all."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from s1jax.types import Question, Trace, UserError

_TOGETHER = 256  # rows in memory at a time


def s1_row(question: Question, trace: Trace) -> dict[str, Any]:
    """s1K's columns (s1: `data/gemini.py`), and what is known of the trace.

    Time and cost are not here: they differ from run to run, and stand in the store.
    """
    return {
        "solution": question.solution,
        "question": question.question,
        "cot_type": question.cot_type,
        "source_type": question.source_type,
        "metadata": question.metadata,
        "cot": None,
        "thinking_trajectories": [trace.thinking],
        "attempt": trace.answer,
        "id": question.id if trace.sample == 0 else f"{question.id}/{trace.sample}",
        "answer": question.answer,
        "teacher": trace.teacher,
        "version": trace.version,
        "settings": trace.settings,
        "finish": trace.finish,
        "is_summary": trace.is_summary,
        "prompt_tokens": trace.prompt_tokens,
        "thinking_tokens": trace.thinking_tokens,
        "answer_tokens": trace.answer_tokens,
    }


def write_rows(rows: Iterable[dict[str, Any]], stem: Path) -> dict[str, str]:
    """Writes `stem`.jsonl and `stem`.parquet; returns the sha256 of each file by its name.

    The same rows give the same bytes. Raises UserError if they cannot be written; what was there
    before is there then as it was.
    """
    jsonl, parquet = stem.with_suffix(".jsonl"), stem.with_suffix(".parquet")
    try:
        with (
            replaced(jsonl) as lines_path,
            replaced(parquet) as table_path,
            lines_path.open("w", encoding="utf-8") as lines,
            _Table(table_path) as table,
        ):
            for row in rows:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                table.add(row)
    except OSError as error:  # of which of the two, a full disk does not say
        raise UserError(f"{jsonl} and .parquet cannot be written: {error.strerror}") from error
    return {path.name: digest_of(path) for path in (jsonl, parquet)}


def digest_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A name to write under, which takes the place of `path` at the end."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Table:
    """A Parquet file that grows by groups of rows."""

    def __init__(self, path: Path):
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def __enter__(self) -> "_Table":
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row."""
        self._rows.append(row)
        if len(self._rows) >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        import pyarrow
        import pyarrow.parquet

        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._path, _schema(self._rows))
        schema = self._writer.schema
        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=schema))
        self._rows = []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()


def _schema(rows: list[dict[str, Any]]) -> Any:
    """The types of the columns: of one that is empty so far, text."""
    import pyarrow

    numbers = {"prompt_tokens", "thinking_tokens", "answer_tokens"}
    flags = {"is_summary", "correct"}
    names = list(rows[0]) if rows else list(s1_row(Question(""), Trace("", "", 0, "", "", "")))

    def kind(name: str) -> Any:
        if name == "thinking_trajectories":
            return pyarrow.list_(pyarrow.string())
        if name in numbers:
            return pyarrow.int64()
        return pyarrow.bool_() if name in flags else pyarrow.string()

    return pyarrow.schema([(name, kind(name)) for name in names])
