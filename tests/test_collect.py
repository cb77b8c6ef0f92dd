"""The runner: what is asked again and when, what is written, how fast, and for how much."""

import asyncio
import itertools
import json
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes_gemini as fakes
import pytest
from fakes_gemini import FakeTeacher

from s1jax.curation_config import Teacher
from s1jax.data import collect as collecting
from s1jax.data.asked import Asked, Passing, Prompt, Refused, Reply, Unknown
from s1jax.data.collect import Counts, collect
from s1jax.data.limits import Purse
from s1jax.data.store import TraceStore
from s1jax.data.teachers import Gemini, Replay
from s1jax.local import Local
from s1jax.mini.pool import Program
from s1jax.types import UserError

GOOD = Reply("hm", "4", "stop", version="v", prompt_tokens=10, thinking_tokens=5, answer_tokens=5)
CFG = Teacher(via="openai", model="m", first_wait_s=0.001, tries=4, concurrency=8)
PRICES = {"input_price": 1e6, "output_price": 1e6, "max_tokens": 10}  # a dollar a token


class Scripted(Asked):
    """Answers what a function of the prompt and of how often it was asked says."""

    name, settings = "scripted", {"temperature": None}

    def __init__(self, says: Callable[[Prompt, int], Any], latency_s: float = 0.0):
        self.says, self.latency_s = says, latency_s
        self.asked: Counter[tuple[str, int]] = Counter()
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        self.closed = False

    async def ask(self, prompt: Prompt) -> Reply:
        self.times.append(time.monotonic())
        self.asked[prompt.id, prompt.sample] += 1
        said = self.says(prompt, self.asked[prompt.id, prompt.sample])
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.under_way -= 1
        if isinstance(said, BaseException):
            raise said
        return said

    async def close(self) -> None:
        self.closed = True


def prompts(count: int, samples: int = 1) -> list[Prompt]:
    return [Prompt(f"q{n:04}", f"What is {n}?", s) for n in range(count) for s in range(samples)]


def gather(
    teacher: Asked, path: Path, asked: list[Prompt], needs_thinking: bool = True, **fields: Any
) -> tuple[Counts, dict[tuple[str, int], Any]]:
    """What the run did, and all rows."""
    with TraceStore(path / "traces.db") as store:
        cfg = replace(CFG, **fields)
        counts = collect(asked, teacher, cfg, store, needs_thinking=needs_thinking)
        return counts, store.traces(teacher.name)


# --- What is asked, again, and not again ---


def test_who_never_says_anything_else_is_not_asked_again(tmp_path):
    """A program, a stored trace, a model of our own whose samples are functions of their seeds."""
    for finish in ("length", "incomplete"):
        teacher = Scripted(lambda *_, finish=finish: replace(GOOD, finish=finish), 0.0)
        teacher.varies = False
        _, rows = gather(teacher, tmp_path / finish, prompts(3), asks_again=2)
        assert [row.finish for row in rows.values()] == [finish] * 3
        assert set(teacher.asked.values()) == {1}
        control = Scripted(teacher.says, 0.0)
        gather(control, tmp_path / f"{finish} by chance", prompts(3), asks_again=2)
        assert set(control.asked.values()) == {3}
    assert not any(kind.varies for kind in (Local, Program, Replay))


def test_everything_is_asked_once(tmp_path):
    teacher = Scripted(lambda *_: GOOD, 0.002)
    asked = prompts(30, samples=3)
    counts, rows = gather(teacher, tmp_path, asked + asked[:5])  # some of them twice
    assert (counts.rows, counts.good, counts.ended, counts.unanswered) == (90, 90, "", 0)
    assert set(rows) == {(p.id, p.sample) for p in asked}
    assert set(teacher.asked.values()) == {1}
    assert teacher.most_under_way == 8  # the concurrency
    assert teacher.closed
    counts, again = gather(teacher, tmp_path, asked + prompts(31)[30:])
    assert counts.rows == 1
    assert {key: again[key] for key in rows} == rows
    assert set(teacher.asked.values()) == {1}


def test_a_row_says_what_it_took(tmp_path):
    steps = [Passing("busy"), replace(GOOD, answer=" "), Passing("busy"), GOOD]
    teacher = Scripted(lambda _, n: steps[n - 1], 0.01)
    before = time.time()
    counts, rows = gather(teacher, tmp_path, prompts(1), asks_again=1)
    [row] = rows.values()
    assert (row.thinking, row.answer, row.finish, row.error) == ("hm", "4", "stop", None)
    assert (row.tries, row.version) == (4, "v")
    assert (row.prompt_tokens, row.thinking_tokens, row.answer_tokens) == (10, 5, 5)
    assert json.loads(row.settings) == teacher.settings
    assert 0.01 <= row.time_s < 5
    assert before <= row.asked_at <= time.time()
    assert counts.failures == {"busy": 2, "the reply has no answer": 1}


@pytest.mark.parametrize(
    ("reply", "finish", "error"),
    [
        (replace(GOOD, thinking=" \n"), "incomplete", "the reply has no thinking"),
        (replace(GOOD, answer=""), "incomplete", "the reply has no answer"),
        (replace(GOOD, finish="length", detail="cut at its limit"), "length", "cut at its limit"),
        (replace(GOOD, finish="blocked", detail="stopped by X"), "blocked", "stopped by X"),
    ],
)
def test_a_bad_reply_is_asked_again_and_then_recorded(reply, finish, error, tmp_path):
    teacher = Scripted(lambda prompt, n: GOOD if prompt.id == "q0000" or n > 3 else reply)
    _, rows = gather(teacher, tmp_path, prompts(2), asks_again=2)
    assert teacher.asked["q0001", 0] == 3
    row = rows["q0001", 0]
    assert (row.finish, row.error, row.tries) == (finish, error, 3)
    better = Scripted(lambda prompt, n: GOOD if n > 2 else reply)
    _, rows = gather(better, tmp_path / "again", prompts(1), asks_again=2)
    assert rows["q0000", 0].error is None
    if finish != "incomplete":  # greedy decoding says the same again
        greedy = Scripted(lambda *_: reply)
        gather(greedy, tmp_path / "greedy", prompts(1), asks_again=2, temperature=0.0)
        assert greedy.asked["q0000", 0] == 1


def test_who_needs_no_thinking_gets_none(tmp_path):
    teacher = Scripted(lambda *_: replace(GOOD, thinking=""))
    counts, _ = gather(teacher, tmp_path, prompts(3), needs_thinking=False)
    assert counts.good == 3


def test_what_keeps_failing_gets_no_row_and_is_asked_by_the_next_run(tmp_path):
    teacher = Scripted(lambda prompt, n: Passing("busy") if prompt.id == "q0001" else GOOD)
    counts, rows = gather(teacher, tmp_path, prompts(5))
    assert (counts.unanswered, counts.rows, teacher.asked["q0001", 0]) == (1, 4, CFG.tries)
    teacher.says = lambda *_: GOOD
    counts, rows = gather(teacher, tmp_path, prompts(5))
    assert (counts.unanswered, counts.rows, len(rows)) == (0, 1, 5)


def test_an_answer_in_between_begins_the_count_of_tries_anew(tmp_path):
    steps = [*[Passing("busy")] * 3, replace(GOOD, thinking="")]
    teacher = Scripted(lambda _, n: GOOD if n > 12 else steps[(n - 1) % 4])
    _, rows = gather(teacher, tmp_path, prompts(1), asks_again=5)
    assert rows["q0000", 0].tries == 13


def test_a_refusal_is_recorded_once_somebody_was_answered(tmp_path):
    def says(prompt: Prompt, _: int) -> Any:
        return GOOD if prompt.id == "q0005" else Refused("no")

    counts, rows = gather(Scripted(says), tmp_path, prompts(9), concurrency=1)
    assert (counts.rows, counts.good, len(rows)) == (9, 1, 9)
    assert rows["q0000", 0].finish == "error"
    assert rows["q0000", 0].error == "no"


def test_nobody_knows_who_is_at_fault_where_all_are_refused(tmp_path):
    counts, rows = gather(Scripted(lambda *_: Refused("no")), tmp_path, prompts(9), concurrency=1)
    assert (counts.unanswered, rows, counts.ended) == (9, {}, "")
    teacher = Scripted(lambda *_: Refused("no"))
    counts, rows = gather(teacher, tmp_path, prompts(90), concurrency=1)
    assert rows == {}
    assert counts.ended == "10 questions in a row were refused: no"
    assert len(teacher.asked) == 10


def test_refusals_wait_for_an_answer_of_this_run(tmp_path):
    """A key that is taken away between two runs spoils no question."""
    gather(Scripted(lambda *_: GOOD), tmp_path, prompts(5))
    teacher = Scripted(lambda *_: Refused("no"))
    counts, rows = gather(teacher, tmp_path, prompts(14), concurrency=1)
    assert (counts.unanswered, counts.ended, len(rows)) == (9, "", 5)
    counts, rows = gather(teacher, tmp_path, prompts(90), concurrency=1)
    assert (counts.ended, len(rows)) == ("10 questions in a row were refused: no", 5)
    teacher.says = lambda prompt, _: GOOD if prompt.id == "q0010" else Refused("no")
    counts, rows = gather(teacher, tmp_path, prompts(14), concurrency=1)  # the control
    assert (counts.rows, counts.good, len(rows)) == (9, 1, 14)


def test_ten_refusals_in_a_row_in_the_middle_end_the_run(tmp_path):
    """Fewer than ten are the questions' fault, and an incomplete answer is one."""

    def says(prompt: Prompt, _: int) -> Any:
        number = int(prompt.id[1:])
        if number == 15:
            return replace(GOOD, thinking="")
        return GOOD if number < 6 else Refused("no")

    teacher = Scripted(says)
    counts, rows = gather(teacher, tmp_path, prompts(90), concurrency=1, asks_again=0)
    assert counts.ended == "10 questions in a row were refused: no"
    assert set(rows) == {(f"q{n:04}", 0) for n in range(16)}
    assert len(teacher.asked) == 26
    assert counts.unanswered == 10


def test_a_refusal_that_is_certain_is_written_at_once(tmp_path):
    teacher = Scripted(lambda *_: Refused("too long", certain=True))
    counts, rows = gather(teacher, tmp_path, prompts(30))
    assert (counts.ended, counts.rows, len(rows)) == ("", 30, 30)


def test_finishes_are_asked_again_where_the_config_says_so(tmp_path):
    bad = {"q0001": "length", "q0002": "blocked"}
    teacher = Scripted(lambda p, _: replace(GOOD, finish=bad.get(p.id, "stop"), detail="no"))
    fields: dict[str, Any] = {"asks_again": 0}
    gather(teacher, tmp_path, prompts(4), **fields)
    with TraceStore(tmp_path / "traces.db") as store:
        store.add_lengths(teacher.name, "tok", {("q0001", 0): 3, ("q0000", 0): 4})
    longer = Scripted(lambda *_: GOOD)
    longer.settings = {"temperature": 0.5}
    counts, rows = gather(longer, tmp_path, prompts(4), ask_again=("length", "error"), **fields)
    assert (counts.rows, set(longer.asked)) == (1, {("q0001", 0)})
    assert {key: json.loads(row.settings)["temperature"] for (key, _), row in rows.items()} == {
        "q0000": None,
        "q0001": 0.5,
        "q0002": None,
        "q0003": None,
    }
    with TraceStore(tmp_path / "traces.db") as store:
        assert store.lengths(teacher.name, "tok") == {("q0000", 0): 4}
    # Both kinds of settings were wanted, others not.
    counts, _ = gather(longer, tmp_path, prompts(4))
    assert counts.rows == 0
    longer.settings = {"temperature": 0.7}
    with pytest.raises(UserError, match="with other settings"):
        gather(longer, tmp_path, prompts(4))


def test_the_first_failure_of_a_kind_is_told_at_once(tmp_path, capsys):
    """Five kinds; what differs by numbers and ids is one."""

    def says(prompt: Prompt, n: int) -> Any:
        number = int(prompt.id[1:])
        kinds = (f"HTTP 503: busy, request {number:x}a7", "HTTP 500: no 7", "reset by 10.0.0.1:80")
        return Passing(kinds[number % 3]) if n == 1 else GOOD

    teacher = Scripted(says)
    counts, _ = gather(teacher, tmp_path, prompts(30))
    assert counts.failures == {
        "HTTP 503: busy, request #": 10,
        "HTTP 500: no #": 10,
        "reset by #": 10,
    }
    lines = [line for line in capsys.readouterr().err.splitlines() if "a try failed" in line]
    assert lines == [
        "distill: a try failed: HTTP 503: busy, request 0a7",
        "distill: a try failed: HTTP 500: no 7",
        "distill: a try failed: reset by 10.0.0.1:80",
    ]


def test_failures_of_any_text_stay_few(tmp_path, capsys):
    def says(prompt: Prompt, n: int) -> Any:
        digits = str(int(prompt.id[1:])).translate(str.maketrans("0123456789", "abcdefghij"))
        return Passing(f"because {digits}") if n == 1 else GOOD

    counts, _ = gather(Scripted(says), tmp_path, prompts(200))
    assert counts.failures.total() == 200
    assert len(counts.failures) == 51
    assert capsys.readouterr().err.count("a try failed") == 5


def test_what_a_teacher_does_not_know_is_counted(tmp_path):
    says = Scripted(lambda prompt, _: Unknown("?") if prompt.id == "q0001" else GOOD)
    counts, rows = gather(says, tmp_path, prompts(3))
    assert (counts.unknown, len(rows), counts.unanswered) == (1, 2, 0)


def test_a_server_that_is_not_there_ends_the_run(tmp_path):
    teacher = Scripted(lambda *_: Passing("refused connection"))
    counts, _ = gather(teacher, tmp_path, prompts(500), concurrency=4, tries=2)
    assert counts.ended == "12 questions in a row were not answered: refused connection"
    assert len(teacher.asked) < 20
    assert teacher.closed


def test_a_wrong_key_ends_the_run_and_what_was_answered_is_written(tmp_path):
    def says(prompt: Prompt, _: int) -> Any:
        return UserError("the key is refused") if prompt.id == "q0020" else GOOD

    with pytest.raises(UserError, match="the key is refused"):
        gather(Scripted(says), tmp_path, prompts(40), concurrency=2)
    with TraceStore(tmp_path / "traces.db") as store:
        assert len(store.done("scripted")) >= 19


@pytest.mark.parametrize("how", ["a wrong key", "refusals", "lost"])
def test_an_error_that_ends_the_run_lets_what_is_under_way_arrive(how, tmp_path, capsys):
    """It may be paid for."""

    class Slow(Scripted):
        async def ask(self, prompt: Prompt) -> Reply:
            if int(prompt.id[1:]) < 5:
                await asyncio.sleep(0.5)
            return await super().ask(prompt)

    error = {"a wrong key": UserError("no"), "refusals": Refused("no"), "lost": Passing("no")}[how]
    teacher = Slow(lambda prompt, _: GOOD if int(prompt.id[1:]) < 5 else error)
    fields: dict[str, Any] = {**PRICES, "tries": 1, "concurrency": 8}
    if how == "a wrong key":
        with pytest.raises(UserError, match="no"):
            gather(teacher, tmp_path, prompts(90), **fields)
    else:
        counts, _ = gather(teacher, tmp_path, prompts(90), **fields)
        assert "in a row" in counts.ended
    with TraceStore(tmp_path / "traces.db") as store:
        assert store.done("scripted") == {(f"q{n:04}", 0) for n in range(5)}
        if how != "lost":  # those may be charged, what was refused is not
            assert store.spent("scripted") == 5 * 20
    assert len(teacher.asked) < 40
    told = r"waiting up to 20 s for [5-7] answers; a signal ends at once"
    assert re.search(told, capsys.readouterr().err)


def test_a_fault_of_ours_is_not_hidden(tmp_path):
    def says(prompt: Prompt, _: int) -> Any:
        return ZeroDivisionError("ours") if prompt.id == "q0003" else GOOD

    with pytest.raises(ZeroDivisionError):
        gather(Scripted(says), tmp_path, prompts(10))


def test_other_settings_are_refused(tmp_path):
    gather(Scripted(lambda *_: GOOD), tmp_path, prompts(1))
    other = Scripted(lambda *_: GOOD)
    other.settings = {"temperature": 0.5}
    with pytest.raises(UserError, match=r"\(temperature was None, is 0.5\): set them back"):
        gather(other, tmp_path, prompts(2))


def test_half_a_surrogate_is_marked(tmp_path):
    """JSON can say it; no file can hold it."""
    teacher = Scripted(lambda *_: replace(GOOD, thinking="a\ud83db", answer="😀\udc00"))
    _, rows = gather(teacher, tmp_path, prompts(1))
    assert (rows["q0000", 0].thinking, rows["q0000", 0].answer) == ("a\ufffdb", "😀\ufffd")


def test_a_store_that_fails_ends_the_asking(tmp_path, monkeypatch):
    monkeypatch.setattr(TraceStore, "add", lambda *_: (_ for _ in ()).throw(UserError("full")))
    teacher = Scripted(lambda *_: GOOD, 0.01)
    with pytest.raises(UserError, match="full"):
        gather(teacher, tmp_path, prompts(500))
    assert len(teacher.asked) < 60
    assert teacher.closed


# --- Signals ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_under_way_arrive(number, tmp_path, capsys):
    def says(prompt: Prompt, _: int) -> Any:
        if prompt.id == "q0020":
            os.kill(os.getpid(), number)
        return GOOD

    teacher = Scripted(says, 0.05)
    counts, rows = gather(teacher, tmp_path, prompts(200))
    assert counts.ended == "stopped"
    assert set(rows) == set(teacher.asked)
    assert 20 < len(rows) < 40
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    err = capsys.readouterr().err
    assert "distill: waiting up to 20 s for 8 answers; once more ends at once\n" in err


def test_a_signal_records_nothing_that_would_be_asked_again(tmp_path):
    def says(prompt: Prompt, count: int) -> Any:
        if prompt.id == "q0003" and count == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return replace(GOOD, finish="length", detail="cut at its limit")

    teacher = Scripted(says, 0.02)
    counts, rows = gather(teacher, tmp_path, prompts(20), asks_again=50)
    assert (counts.ended, rows) == ("stopped", {})
    assert teacher.asked.total() >= 20  # 8 of them, two or three times


def test_a_second_signal_does_not_wait(tmp_path):
    def says(prompt: Prompt, _: int) -> Any:
        if prompt.id == "q0001":
            for wait in (0.1, 0.3):
                threading.Timer(wait, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return GOOD

    began = time.monotonic()
    counts, rows = gather(Scripted(says, 15.0), tmp_path, prompts(20))
    assert (counts.ended, rows) == ("stopped", {})
    assert time.monotonic() - began < 5


def test_the_wait_for_answers_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "GRACE_S", 0.2)

    def says(prompt: Prompt, _: int) -> Any:
        if prompt.id == "q0001":
            os.kill(os.getpid(), signal.SIGTERM)
        return GOOD

    began = time.monotonic()
    counts, _ = gather(Scripted(says, 15.0), tmp_path, prompts(20))
    assert counts.ended == "stopped"
    assert time.monotonic() - began < 5


# --- How fast ---


def test_requests_per_minute_are_kept(tmp_path):
    teacher = Scripted(lambda prompt, n: Passing("busy") if n == 1 else GOOD)
    gather(teacher, tmp_path, prompts(15), requests_per_minute=1200)
    times = teacher.times
    assert len(times) == 30  # what fails counts too
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert min(gaps) > 0.045
    # In no window of half a second more than the 10 of it and the one at its edge.
    assert max(sum(start <= t < start + 0.5 for t in times) for start in times) <= 11
    free = Scripted(lambda *_: GOOD)
    began = time.monotonic()
    gather(free, tmp_path / "free", prompts(30))
    assert time.monotonic() - began < 0.8  # the control


def test_the_servers_delay_is_kept_by_all(tmp_path, monkeypatch):
    """With the real client: nobody asks before the time that a 429 names, and all do after it."""
    monkeypatch.setenv("GEMINI_API_KEY", fakes.KEY)
    texts = fakes.questions(40)
    asked = [Prompt(f"q{n}", text) for n, text in enumerate(texts)]
    with FakeTeacher(latency_s=0.05, delay_s=1.0) as server:
        once = iter(["429 RetryInfo"])
        draw = server.draw
        server.draw = lambda q: next(once, "good") if q == texts[9] else draw(q)  # type: ignore[method-assign]
        cfg = replace(CFG, via="gemini", model=fakes.MODEL, base_url=server.url, timeout_s=9.0)
        with TraceStore(tmp_path / "traces.db") as store:
            counts = collect(asked, Gemini(cfg), replace(cfg, concurrency=4), store)
        assert counts.good == 40
        [said] = [a.at + 0.05 for a in server.log if a.kind == "429 RetryInfo"]
        waits = [a.at - said for a in server.log if a.at > said]
        early = [wait for wait in waits if wait < 1.0]
        assert all(wait < 0.3 for wait in early)  # sent before the client had read the 429
        assert len(early) <= 8
        assert len([wait for wait in waits if wait >= 1.0]) >= 20
        assert min(server.asked(texts[9])[1].at - said, 9) >= 1.0


def test_waits_grow_with_jitter_and_have_a_bound(monkeypatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    run = object.__new__(collecting._Run)
    run._cfg = replace(CFG, first_wait_s=1.0)
    run._pace = collecting.Pace(None)
    random.seed(0)
    for failed in (1, 2, 3, 10, 5000):
        asyncio.run(run._wait(failed, None))
    bounds = [1, 2, 4, 60, 60]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(slept, bounds, strict=True))
    slept.clear()
    for _ in range(50):
        asyncio.run(run._wait(1, None))
        asyncio.run(run._wait(1, 7.0))
    assert len(set(slept)) == 100
    assert all(0.5 <= wait <= 1 for wait in slept[::2])
    assert all(7 <= wait <= 7.7 for wait in slept[1::2])


def test_progress_tells_rate_cost_and_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("s1jax.progress.SECONDS_BETWEEN_LINES", 0.05)
    teacher = Scripted(lambda prompt, n: Passing("busy") if n == 1 else GOOD, 0.02)
    gather(teacher, tmp_path, prompts(200), **PRICES, max_cost=1e9)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) > 3
    assert all(line.startswith("distill: ") for line in lines)
    middle = lines[len(lines) // 2]
    for part in ("/200 answers", "/s  $", " failed tries", " left"):
        assert part in middle, lines
    assert lines[-1].startswith("distill: 200/200 answers")


def test_a_long_rest_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("s1jax.progress.SECONDS_BETWEEN_LINES", 0.05)
    teacher = Scripted(lambda _, n: Passing("busy", delay_s=1.5) if n == 1 else GOOD)
    gather(teacher, tmp_path, prompts(1))
    assert "the server wants 1 s of rest" in capsys.readouterr().err


# --- Money ---


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_cap_holds_and_is_used(concurrency, tmp_path):
    """Each answer costs 20 of the dollars; the highest price of a request is 100 and more."""
    teacher = Scripted(lambda prompt, n: Passing("busy") if n % 3 == 1 else GOOD, 0.001)
    asked = [replace(prompt, text="What is it?") for prompt in prompts(300)]
    fields = {**PRICES, "max_cost": 2000.0, "concurrency": concurrency, "tries": 9}
    counts, rows = gather(teacher, tmp_path, asked, **fields)
    assert counts.ended.startswith("$")
    highest = len(asked[0].text) + 100 + 10
    spent = len(rows) * 20 + counts.failures["busy"] * highest
    assert 2000 - highest - 20 < spent <= 2000  # a failed try may have been charged
    assert counts.cost == pytest.approx(spent, rel=1e-9)
    before = teacher.asked.total()
    counts, _ = gather(teacher, tmp_path, asked, **fields)  # nothing is left for this run
    assert teacher.asked.total() == before
    counts, rows = gather(teacher, tmp_path, asked, **(fields | {"max_cost": 1e6}))
    assert (counts.ended, len(rows)) == ("", 300)


def test_the_pace_is_kept_by_those_who_waited_for_money(tmp_path):
    """Who waits for money has no turn yet: when some comes back they are not sent together."""

    class Together(Scripted):
        """The first four answers come at the same moment."""

        async def ask(self, prompt: Prompt) -> Reply:
            reply = await super().ask(prompt)
            await asyncio.sleep(max(0.0, self.times[0] + 0.7 - time.monotonic()))
            return reply

    teacher = Together(lambda *_: GOOD)
    asked = [replace(prompt, text="What is it?") for prompt in prompts(12)]
    highest = 11 + 100 + 10  # four may be under way; their answers set money free for three
    fields = {**PRICES, "max_cost": 4.0 * highest, "requests_per_minute": 1200}
    gather(teacher, tmp_path, asked, **fields)
    gaps = [after - before for before, after in itertools.pairwise(teacher.times)]
    assert min(gaps) > 0.045
    assert len(gaps) >= 10


def test_a_wait_for_the_pace_that_is_cut_off_costs_nothing(tmp_path):
    def says(prompt: Prompt, _: int) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return GOOD

    teacher = Scripted(says, 0.1)
    counts, _ = gather(teacher, tmp_path, prompts(9), **PRICES, requests_per_minute=60)
    assert (counts.ended, teacher.asked.total()) == ("stopped", 1)
    with TraceStore(tmp_path / "traces.db") as store:
        assert store.spent("scripted") == counts.cost == 20


def test_where_nothing_has_a_price_a_row_has_none(tmp_path):
    _, rows = gather(Scripted(lambda *_: GOOD), tmp_path, prompts(1))
    assert rows["q0000", 0].cost is None
    _, rows = gather(Scripted(lambda *_: GOOD), tmp_path / "priced", prompts(1), **PRICES)
    assert rows["q0000", 0].cost == 20.0


def test_a_count_of_both_is_what_is_paid(tmp_path):
    reply = replace(GOOD, thinking_tokens=None, answer_tokens=None, written_tokens=7)
    _, rows = gather(Scripted(lambda *_: reply), tmp_path, prompts(1), **PRICES)
    assert rows["q0000", 0].cost == 17.0


def test_prices_of_any_size_never_wait_for_nothing(tmp_path):
    """0.1 + 0.2 - 0.1 - 0.2 is not 0: what is under way is counted, not subtracted."""
    asked = [replace(p, text="x" * n) for n, p in enumerate(prompts(200))]
    teacher = Scripted(lambda *_: GOOD, 0.0005)
    fields = {"input_price": 0.1, "output_price": 0.7, "max_tokens": 33, "max_cost": 1e-3}
    counts, rows = gather(teacher, tmp_path, asked, **fields)
    assert counts.ended.startswith("$")
    assert 0 < len(rows) < 200


def test_what_is_free_is_not_charged(tmp_path):
    steps = [Passing("429", charged=False), Refused("no"), Passing("x", charged=False)]
    teacher = Scripted(lambda prompt, n: GOOD if prompt.id == "q0000" else steps[n % 3])
    counts, rows = gather(teacher, tmp_path, prompts(5), **PRICES, max_cost=1e6, concurrency=1)
    assert counts.cost == 20.0
    assert rows["q0000", 0].cost == 20.0


def test_what_nobody_counted_costs_the_most(tmp_path):
    teacher = Scripted(lambda *_: replace(GOOD, prompt_tokens=None))
    counts, rows = gather(teacher, tmp_path, prompts(1), **PRICES, max_cost=1e6)
    assert counts.cost == rows["q0000", 0].cost == 110 + len("What is 0?")


def test_money_spent_without_a_limit_counts_when_there_is_one(tmp_path):
    teacher = Scripted(lambda *_: GOOD)
    gather(teacher, tmp_path, prompts(10), **PRICES)
    counts, rows = gather(teacher, tmp_path, prompts(20), **PRICES, max_cost=210.0)
    assert counts.ended.startswith("$200 of this teacher's $210 are spent")
    assert len(rows) == 10


def test_what_is_cut_off_is_spent(tmp_path):
    with TraceStore(tmp_path / "traces.db") as store:

        async def die() -> None:
            purse = Purse(replace(CFG, **PRICES, max_cost=1e6), "t", store)
            await purse.reserve(Prompt("q", "What?"))

        asyncio.run(die())
        assert Purse(replace(CFG, **PRICES), "t", store).spent == 100 + 5 + 10
