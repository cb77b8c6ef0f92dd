"""The store: what is in it is there whole, whoever writes, and whatever happens to the file."""

import random
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1jax.data.store import TraceStore, read_store
from s1jax.types import Trace, UserError

ROW = Trace("q1", "t", 0, "hm", "4", "stop", version="v", cost=0.25, tries=2, time_s=1.5)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
numbers = st.none() | st.integers(0, 2**40)
traces = st.builds(
    Trace,
    question_id=texts,
    teacher=st.sampled_from(["a", "b"]),
    sample=st.integers(0, 3),
    thinking=texts,
    answer=texts,
    finish=st.sampled_from(["stop", "length", "error"]),
    error=st.none() | texts,
    is_summary=st.booleans(),
    version=texts,
    settings=texts,
    prompt_tokens=numbers,
    thinking_tokens=numbers,
    answer_tokens=numbers,
    cost=st.none() | st.floats(0, 1e6),
    tries=st.integers(1, 99),
    time_s=st.floats(0, 1e6),
    asked_at=st.floats(0, 1e10),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dir" / "traces.db"


def key_of(trace: Trace) -> tuple[str, int]:
    return trace.question_id, trace.sample


@settings(max_examples=30, deadline=None)
@given(st.lists(traces, max_size=8, unique_by=lambda t: (*key_of(t), t.teacher)))
def test_rows_come_back_as_they_went_in(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("s") / "traces.db"
    with TraceStore(path) as store:
        store.add(rows)
    with TraceStore(path) as store:
        for teacher in ("a", "b"):
            mine = {key_of(row): row for row in rows if row.teacher == teacher}
            assert store.traces(teacher) == mine
            assert list(store.traces(teacher)) == sorted(mine)
            assert store.done(teacher) == set(mine)
            assert store.settings(teacher) == sorted({row.settings for row in mine.values()})
            for row in mine.values():
                assert store.trace(row.question_id, teacher, row.sample) == row
                assert [type(getattr(row, f.name)) for f in fields(Trace)] == [
                    type(getattr(store.trace(row.question_id, teacher, row.sample), f.name))
                    for f in fields(Trace)
                ]
        assert store.teachers() == sorted({row.teacher for row in rows})


def test_outlines_have_the_beginning_of_the_thinking(path):
    rows = [replace(ROW, thinking=" \n\t" + "x" * 99), replace(ROW, sample=1, thinking=" \n ")]
    with TraceStore(path) as store:
        store.add(rows)
        outlines = store.traces("t", whole=False)
    assert [trace.thinking for trace in outlines.values()] == ["x" * 40, ""]
    assert replace(outlines["q1", 0], thinking=rows[0].thinking) == rows[0]


def test_a_key_is_there_once_and_some_rows_are_none(path):
    with TraceStore(path) as store:
        store.add([ROW])
        with pytest.raises(UserError, match="UNIQUE constraint"):
            store.add([replace(ROW, sample=1), ROW])
        assert store.done("t") == {("q1", 0)}  # the first of them neither
        store.add([replace(ROW, sample=1)])  # and it is not locked
        assert len(store.done("t")) == 2
        with pytest.raises(KeyError):
            store.trace("q1", "t", 7)


def test_lengths_verdicts_questions_and_money(path):
    with TraceStore(path) as store:
        store.add_lengths("t", "tok", {("q1", 0): 5, ("q2", 1): 7})
        store.add_lengths("t", "tok", {("q1", 0): 6})
        assert store.lengths("t", "tok") == {("q1", 0): 6, ("q2", 1): 7}
        assert store.lengths("t", "other") == {}
        store.add_verdicts({"a": (True, "same"), "b": (None, "unread"), "c": (False, "no")})
        assert store.verdicts() == {"a": (True, "same"), "b": (None, "unread"), "c": (False, "no")}
        store.name_questions({"q1": "What?"})
        store.name_questions({"q1": "Other?", "q2": "Why?"})
        assert store.questions() == {"q1": "What?", "q2": "Why?"}
        first, second = store.reserve("t", 0.5), store.reserve("t", 0.25)
        store.reserve("other", 9.0)
        assert store.spent("t") == 0.75
        store.settle(first, 0.125)
    with TraceStore(path) as store:  # the second was under way when the process ended
        assert store.spent("t") == 0.375
        assert store.reserve("t", 1.0) > second


def test_threads_may_write_together(path):
    """A commit runs in a thread while the purse writes in another."""
    with TraceStore(path) as store:
        failures: list[BaseException] = []

        def rows(start: int) -> None:
            try:
                for n in range(60):
                    store.add([replace(ROW, question_id=f"{start}-{n}-{k}") for k in range(5)])
            except BaseException as error:
                failures.append(error)

        def money() -> None:
            try:
                for _ in range(120):
                    store.settle(store.reserve("t", 1.0), 0.5)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=rows, args=(n,)) for n in range(2)]
        threads += [threading.Thread(target=money) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(store.done("t")) == 600
        assert store.spent("t") == 120.0


def test_one_process_at_a_time(path):
    program = (
        "import sys; from pathlib import Path; from s1jax.data.store import TraceStore\n"
        "with TraceStore(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    with pytest.raises(UserError, match="is being written by another process"), TraceStore(path):
        pass
    other.kill()  # what is dead holds nothing
    other.wait()
    with TraceStore(path) as store:
        assert store.teachers() == []


# --- What is wrong with the file ---


def opened(path: Path) -> None:
    with TraceStore(path) as store:
        store.traces("t")
        store.questions()


def test_what_is_no_store_is_refused_and_stays(path):
    path.parent.mkdir()
    for content in (b"no store at all " * 300, b"{}"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a database; move it away to start anew"):
            opened(path)
        assert path.read_bytes() == content


def test_another_database_is_refused(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE other (x)")
    db.close()
    with pytest.raises(UserError, match="is no store of traces of version 1"):
        opened(path)


def test_damage_is_told_and_never_a_traceback(path):
    """Whatever page is overwritten: an error of the user's, or rows as they were."""
    rows = [replace(ROW, question_id=f"q{n:03}", thinking="x" * 900) for n in range(100)]
    with TraceStore(path) as store:
        store.add(rows)
    whole, told = path.read_bytes(), 0
    rng = random.Random(0)
    for _ in range(30):
        page = rng.randrange(len(whole) // 4096)
        path.write_bytes(whole[: page * 4096] + rng.randbytes(4096) + whole[(page + 1) * 4096 :])
        try:
            opened(path)
        except UserError as error:
            told += 1
            assert "move it away to start anew" in str(error) or "is no store" in str(error)
    assert told > 15
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="malformed; move it away to start anew"):
        opened(path)
    path.write_bytes(whole)  # the control
    opened(path)


def test_a_full_disk_and_a_locked_file_have_advice_of_their_own(path):
    with TraceStore(path) as store:
        store._db.execute("PRAGMA max_page_count = 20")
        with pytest.raises(UserError, match="disk is full; free some space and start again"):
            store.add([replace(ROW, question_id=str(n), thinking="x" * 4000) for n in range(99)])
        assert store.done("t") == set()
        store.add([ROW])
    other = sqlite3.connect(path, isolation_level=None)
    with TraceStore(path) as store:
        store._db.execute("PRAGMA busy_timeout = 10")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="locked; another program has it open"):
            store.add([replace(ROW, sample=1)])
    other.close()


def test_a_directory_in_its_place(tmp_path):
    (tmp_path / "traces.db").mkdir()
    with pytest.raises(UserError, match="unable to open database file"):
        opened(tmp_path / "traces.db")


# --- Reading one ---


def test_reading_gives_the_good_rows_and_changes_nothing(path):
    bad = replace(ROW, question_id="q2", finish="length", error="cut at its limit")
    with TraceStore(path) as store:
        store.add([ROW, bad])
        store.name_questions({"q1": "What?"})
        assert list(read_store(path)) == [ROW]  # while it is being written
    before = path.read_bytes()
    assert list(read_store(path)) == [ROW]
    assert path.read_bytes() == before


def test_of_several_teachers_one_is_named(path):
    roles = [replace(ROW, teacher=f"{role} x") for role in ("first", "second", "judge")]
    other = replace(ROW, teacher="gemini:b c", answer="5")
    with TraceStore(path) as store:
        store.add([ROW, *roles])
        assert list(read_store(path)) == [ROW]  # no attempt, no verdict
        store.add([other])
    with pytest.raises(UserError) as caught:
        list(read_store(path))
    assert str(caught.value) == (
        f"{path} has traces of gemini:b c, t: choose with a name after the file's, as in"
        f' distill.model="{path}#gemini:b c"'
    )
    assert list(read_store(path, "gemini:b c")) == [other]
    assert list(read_store(path, "first x")) == roles[:1]
    with pytest.raises(UserError, match='no traces of "u", but of first x, gemini:b c, judge x'):
        list(read_store(path, "u"))


def test_attempts_alone_are_no_traces(path):
    with TraceStore(path) as store:
        store.add([replace(ROW, teacher="second x")])
    with pytest.raises(UserError, match="has traces of no teacher"):
        list(read_store(path))


def test_reading_needs_no_memory_for_all(path):
    with TraceStore(path) as store:
        store.add([replace(ROW, question_id=f"{n}", thinking="x" * 1_000_000) for n in range(50)])
    tracemalloc.start()
    assert sum(len(trace.thinking) for trace in read_store(path)) == 50_000_000
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_what_is_forgotten_is_gone_with_its_length(path):
    rows = [replace(ROW, sample=n, finish=f) for n, f in enumerate(("stop", "length", "error"))]
    with TraceStore(path) as store:
        store.add([*rows, replace(rows[1], teacher="u")])
        store.add_lengths("t", "tok", {key_of(row): 5 for row in rows})
        assert store.forget("t", ("length", "blocked")) == 1
        assert set(store.traces("t").values()) == {rows[0], rows[2]}
        assert set(store.lengths("t", "tok")) == {("q1", 0), ("q1", 2)}
        assert len(store.traces("u")) == 1
        assert store.forget("t", ("length",)) == 0


@pytest.mark.parametrize("content", [None, b"", b"junk" * 2000])
def test_what_cannot_be_read_is_told(tmp_path, content: Any):
    path = tmp_path / "x.db"
    if content is not None:
        path.write_bytes(content)
    what = "there is no such file" if content is None else "is no store of traces, as s1jax.distill"
    with pytest.raises(UserError, match=rf"x\.db: {what}"):
        list(read_store(path))
