"""What is known of questions before anybody is asked: a file of grades, domains and lengths.

The columns of s1's featurized pool are known besides our own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s1jax.data.examples import Unreadable, jsonl_rows
from s1jax.types import UserError, question_id

_COLUMNS = {  # ours, and s1's
    "first": "isqwen7bcorrect",
    "second": "isqwen32bcorrect",
    "teacher": "isgeminicorrect",
    "domain": "domain",
    "thinking_tokens": "gemini_length",
}


@dataclass(frozen=True)
class Known:
    """What a row says of a question; None is what it does not say."""

    first: bool | None = None  # whether that model solved it
    second: bool | None = None
    teacher: bool | None = None
    domain: str | None = None
    thinking_tokens: int | None = None


def read_grades(path: Path) -> dict[str, Known]:
    """What a JSONL file says, by the questions' ids.

    Raises UserError, with the line, for a row without id or question, with a wrong value, or that
    says something else of a question than a row before it.
    """
    if not path.is_file():
        raise UserError(f"curate.grades={path}: there is no such file")
    found: dict[str, Known] = {}
    for place, row in jsonl_rows(path):
        if isinstance(row, Unreadable):
            raise UserError(f"{place}: {row.detail}")
        name, known = _known(row, place)
        if found.setdefault(name, known) != known:
            raise UserError(f"{place}: says something else of question {name} than a line before")
    return found


def _known(row: Any, place: str) -> tuple[str, Known]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: must be an object, not {type(row).__name__}")
    name, question = row.get("id"), row.get("question")
    if isinstance(question, str):  # before an id, which may be of another kind than ours
        _check_text(question, "question", place)
        name = question_id(question)
    if not isinstance(name, str):
        raise UserError(f"{place}: has neither an id nor a question")
    return name, Known(**{column: _value(row, column, place) for column in _COLUMNS})


def _value(row: Mapping[str, Any], name: str, place: str) -> Any:
    value: Any = row.get(name, row.get(_COLUMNS[name]))
    kind: Any = {"domain": str, "thinking_tokens": int}.get(name, bool)
    if value is None:
        return None
    # As pandas writes whole numbers beside missing ones, and flags.
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is bool and type(value) in (int, float) and value in (0, 1):
        value = bool(value)
    if type(value) is not kind:
        raise UserError(f"{place}: {name}={value!r:.40} must be of type {kind.__name__}, or null")
    if kind is int and not 0 <= value < 2**31:
        raise UserError(f"{place}: {name}={value!r:.40} must be a count")
    if isinstance(value, str):
        _check_text(value, name, place)
    return value


def _check_text(text: str, name: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: {name} holds half of a surrogate pair, no text") from None
