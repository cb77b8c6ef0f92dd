"""Rows are written as JSONL and Parquet, the same bytes each time, whole or not at all."""

import contextlib
import hashlib
import json
import resource

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1jax.data.rows import digest_of, s1_row, write_rows
from s1jax.types import Question, Trace, UserError

# s1K's: `data/gemini.py` writes these, `filter.ipynb` selects among such rows.
S1K = ("solution", "question", "cot_type", "source_type", "metadata", "cot")
S1K_TRACE = ("thinking_trajectories", "attempt")


def row_of(question="1 + 1?", thinking="one and one", answer="2", **changes):
    trace = Trace("id", "mini", 0, thinking, answer, "stop", prompt_tokens=3)
    return s1_row(Question(question, solution="2"), trace) | changes


def rows_of_files(stem):
    """The rows of both files, which must be the same."""
    lines = stem.with_suffix(".jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    rows = [json.loads(line) for line in lines]
    assert pyarrow.parquet.read_table(stem.with_suffix(".parquet")).to_pylist() == rows
    return rows


@contextlib.contextmanager
def largest_file(size):
    """No file may grow beyond that size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_columns_are_those_of_s1k_and_ours():
    row = row_of()
    assert tuple(row)[:8] == (*S1K, *S1K_TRACE)
    assert row["thinking_trajectories"] == ["one and one"] and row["attempt"] == "2"
    assert row["cot"] is None
    ours = "id answer teacher version settings finish is_summary"
    assert tuple(row)[8:15] == tuple(ours.split())
    assert tuple(row)[15:] == ("prompt_tokens", "thinking_tokens", "answer_tokens")
    assert not {"time_s", "asked_at", "cost", "tries"} & set(row)  # differ from run to run


def test_the_id_is_the_questions_and_names_a_later_sample():
    name = hashlib.sha256(b"1 + 1?").hexdigest()[:16]
    assert row_of()["id"] == name
    later = s1_row(Question("1 + 1?"), Trace("id", "mini", 2, "t", "a", "stop"))
    assert later["id"] == f"{name}/2"


def test_the_same_rows_give_the_same_bytes(tmp_path):
    rows = [row_of(f"{n} + 1?", f"I think of {n}.", str(n + 1)) for n in range(700)]  # groups
    first, second = write_rows(rows, tmp_path / "a"), write_rows(iter(rows), tmp_path / "b")
    assert list(first.values()) == list(second.values())
    assert list(first) == ["a.jsonl", "a.parquet"]
    assert first["a.jsonl"] == hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()
    assert first["a.parquet"] == digest_of(tmp_path / "a.parquet")
    assert rows_of_files(tmp_path / "a") == rows
    other = write_rows([*rows[1:], rows[0]], tmp_path / "c")
    assert not set(other.values()) & set(first.values())


def test_an_empty_set_has_the_columns(tmp_path):
    write_rows([], tmp_path / "none")
    assert (tmp_path / "none.jsonl").read_bytes() == b""
    table = pyarrow.parquet.read_table(tmp_path / "none.parquet")
    assert table.num_rows == 0
    assert table.column_names == list(row_of())
    write_rows([row_of()], tmp_path / "one")
    assert table.schema == pyarrow.parquet.read_table(tmp_path / "one.parquet").schema


def test_a_column_that_is_empty_in_the_first_rows_has_its_type(tmp_path):
    """A group of rows is written before the others are seen."""
    rows = [row_of(str(n), prompt_tokens=None, solution=None, correct=None) for n in range(300)]
    rows.append(row_of("last", thinking_tokens=9, solution="s", correct=True))
    write_rows(rows, tmp_path / "x")
    assert rows_of_files(tmp_path / "x") == rows


STRANGE = [
    "\U0001f600 and é",
    "a\0b",
    "\n",
    "\u2028\u2029\x85",
    "\r\n\t",
    '"\\',
    "\ufeff",
    "a" * 10**6,
]


@pytest.mark.parametrize("text", STRANGE, ids=range(len(STRANGE)))
def test_unusual_text_comes_back(tmp_path, text):
    rows = [row_of(text, text, text, metadata=json.dumps({"x": text})), row_of()]
    write_rows(rows, tmp_path / "x")
    assert rows_of_files(tmp_path / "x") == rows


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_any_text_comes_back(tmp_path_factory, texts):
    rows = [row_of(text, text[::-1], text + text) for text in texts]
    stem = tmp_path_factory.mktemp("rows") / "x"
    write_rows(rows, stem)
    assert rows_of_files(stem) == rows


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Broken, UserError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 1, 300])
def test_what_breaks_halfway_leaves_the_old_files(tmp_path, after, error):
    def rows():
        for number in range(after):
            yield row_of(str(number))
        raise error("no more")

    with pytest.raises(error, match="no more"):
        write_rows(rows(), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []  # nothing half written
    before = write_rows([row_of()], tmp_path / "x")
    with pytest.raises(error):
        write_rows(rows(), tmp_path / "x")
    assert {p.name: digest_of(p) for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("thinking", ["x" * 50_000, "".join(map(chr, range(33, 20_000)))])
def test_a_full_disk_is_one_sentence_and_spares_the_old_files(tmp_path, thinking):
    before = write_rows([row_of()], tmp_path / "x")
    with largest_file(30_000), pytest.raises(UserError) as error:
        write_rows((row_of(str(n), f"{n} {thinking}") for n in range(400)), tmp_path / "x")
    place = tmp_path / "x.jsonl"
    assert str(error.value) == f"{place} and .parquet cannot be written: File too large"
    assert {p.name: digest_of(p) for p in tmp_path.iterdir()} == before


def test_a_directory_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"x\.jsonl and \.parquet cannot be written: No such file"):
        write_rows([row_of()], tmp_path / "none" / "x")
