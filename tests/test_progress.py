"""The line of progress, on a terminal and elsewhere, and how numbers are written."""

import io
import sys

import pytest

from s1jax import progress
from s1jax.progress import Progress, say


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set: clock[0]."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_in_place_on_a_terminal(monkeypatch, clock):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("distill", "answers", 500, 100)  # so many were there before
    clock[0] = 100.1
    shown.show()  # too soon
    assert stream.getvalue() == ""
    clock[0], shown.done = 110.0, 120
    shown.show("$0.12")
    # 20 in 10 s, and 380 are left.
    line = "distill: 120/500 answers  2/s  $0.12  3 min 10 s left"
    assert stream.getvalue() == f"\r{line}\x1b[K"
    clock[0], shown.done = 300.0, 500
    shown.show(last=True)
    assert stream.getvalue() == f"\r{line}\x1b[K\rdistill: 500/500 answers  2/s\x1b[K\n"
    say("done")
    assert stream.getvalue().endswith("\x1b[K\ndone\n")


def test_something_else_is_said_on_a_line_of_its_own(monkeypatch, clock):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("curate", "traces", 4)
    clock[0], shown.done = 101.0, 2
    shown.show()
    shown.end()
    shown.end()  # once is enough
    say("a warning")
    assert stream.getvalue() == "\rcurate: 2/4 traces  2/s  1 s left\x1b[K\na warning\n"


def test_lines_elsewhere(capsys, clock):
    shown = Progress("curate", "traces", 10)
    for second in range(1, 11):
        clock[0], shown.done = 100.0 + second, second
        shown.show()
    shown.show("all of them", last=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "curate: 5/10 traces  1/s  5 s left",  # one in 5 s
        "curate: 10/10 traces  1/s  0 s left",
        "curate: 10/10 traces  1/s  all of them",
    ]


def test_nothing_done_yet_has_no_rate(capsys, clock):
    shown = Progress("distill", "answers", 10, 3)
    clock[0] = 200.0
    shown.show("the server wants 9 s of rest")
    assert capsys.readouterr().err == "distill: 3/10 answers  the server wants 9 s of rest\n"
    Progress("distill", "answers", 0).show(last=True)
    assert capsys.readouterr().err == "distill: 0/0 answers\n"


def test_formats():
    assert [progress.format_bytes(n) for n in (0, 1023, 1024, 3.25 * 2**30, 2**42)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "3.2 GiB",
        "4.0 TiB",
    ]
    assert [progress.format_seconds(s) for s in (0.4, 59.6, 187, 7500, 200_000)] == [
        "0 s",
        "1 min 00 s",
        "3 min 07 s",
        "2 h 05 min",
        "55 h 33 min",
    ]
    assert [progress.format_count(n) for n in (7, 999, 12_345, 999_999, 1.54e9)] == [
        "7",
        "999",
        "12.3k",
        "1M",
        "1.54B",
    ]
