"""Every second of a run goes into one part, and a trace is there for the steps asked for."""

import gzip
import json
import re
import threading
import time
from types import SimpleNamespace

import jax
import pytest
from fakes_train import finish, losses, start, write_world
from hypothesis import given, settings
from hypothesis import strategies as st

from s1jax import train
from s1jax.cli import PREEMPTED
from s1jax.metrics import read_log
from s1jax.training import goodput, loop
from s1jax.training.goodput import PARTS, Stopwatch, Watcher, added, sentence, times_of
from s1jax.training.programs import compile_steps
from s1jax.types import UserError

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), examples=24)


# The division of time, on a clock that is turned by hand.

HOST = ("load", "compile", "data", "save", "other")


class Clock:
    """time.monotonic(), in whole seconds."""

    def __init__(self):
        self.now = 0

    def monotonic(self):
        return self.now


def divided(monkeypatch, spans, steps):
    """What a Stopwatch makes of a run: spans are (part, seconds), steps (after span, seconds).

    The device takes a step when the host has come to the end of that span, and works on steps one
    after the other. A step is told of when the next is given, or at the end.
    """
    clock = Clock()
    monkeypatch.setattr(goodput, "time", clock)
    stopwatch, told, waiting, free = Stopwatch(), [], None, 0
    for i, (part, seconds) in enumerate(spans):
        if part == "other":
            clock.now += seconds
        else:
            with stopwatch.spent(part):
                clock.now += seconds
        for after, length in steps:
            if after == i:
                dispatched, free = clock.now, max(free, clock.now) + length
                if waiting is not None:
                    clock.now = max(clock.now, waiting[1])
                    told.append(stopwatch.step(*waiting))
                waiting = dispatched, free
    if waiting is not None:
        clock.now = max(clock.now, waiting[1])
        told.append(stopwatch.step(*waiting))
    return told, stopwatch.rest(), clock.now


def by_seconds(spans, steps):
    """The same division, second by second: the device's if it works, else the host's."""
    now, free, waiting, host, device = 0, 0, None, [], set()
    for i, (part, seconds) in enumerate(spans):
        host += [part] * seconds
        now += seconds
        for after, length in steps:
            if after == i:
                began = max(free, now)
                free = began + length
                device |= set(range(began, free))
                if waiting is not None and waiting > now:
                    host += ["other"] * (waiting - now)
                    now = waiting
                waiting = free
    host += ["other"] * max(0, (waiting or 0) - now)
    parts = dict.fromkeys(PARTS, 0)
    for second, part in enumerate(host):
        parts["device" if second in device else part] += 1
    return parts


@st.composite
def runs(draw):
    seconds = st.integers(0, 9)
    spans = draw(st.lists(st.tuples(st.sampled_from(HOST), seconds), min_size=1, max_size=20))
    after = draw(st.sets(st.integers(0, len(spans) - 1)))
    return spans, [(i, draw(seconds)) for i in sorted(after)]


@given(run=runs())
@settings(max_examples=300, deadline=None)
def test_each_second_is_in_one_part(run):
    with pytest.MonkeyPatch.context() as patch:
        told, rest, end = divided(patch, *run)
    assert added(*told, rest) == by_seconds(*run)
    assert sum(added(*told, rest).values()) == end
    assert all(seconds >= 0 for parts in (*told, rest) for seconds in parts.values())


def test_what_the_host_does_while_the_device_works_is_not_told(monkeypatch):
    """5 s of data for the next step behind 8 s of this one, then 5 s of it behind 2 s."""
    spans = [("compile", 3), ("data", 1), ("data", 5), ("data", 5), ("save", 4)]
    told, rest, _ = divided(monkeypatch, spans, [(1, 8), (2, 2), (3, 1)])
    some = [{part: s for part, s in parts.items() if s} for parts in (*told, rest)]
    assert some == [
        {"compile": 3, "data": 1, "device": 8},
        {"device": 2},
        {"data": 3, "device": 1},
        {"save": 3},
    ]
    # The control: the host alone would be said to have spent 11 s on data.
    assert sum(seconds for part, seconds in spans if part == "data") == 11
    assert added(*told, rest)["data"] == 4


def test_the_sentence():
    times = dict.fromkeys(PARTS, 0.0) | {"device": 150.0, "compile": 30.0, "lost": 20.0}
    assert sentence(times) == (
        "goodput 75.0% of 3 min 20 s: load 0.0%, compile 15.0%, data 0.0%, save 0.0%, other 0.0%,"
        " lost 10.0%"
    )


# The thread that sees steps end.


class Result:
    """An array that is there when somebody says so."""

    def __init__(self):
        self.ready = False

    def is_ready(self):
        return self.ready


def test_steps_end_when_they_are_ready():
    watcher, results = Watcher(), [Result() for _ in range(3)]
    ends = [watcher.end_of(result) for result in results]
    before = time.monotonic()
    results[0].ready = True
    first = ends[0].result(timeout=30)
    assert first >= before and not ends[1].done()
    results[1].ready = results[2].ready = True
    assert first <= ends[1].result(timeout=30) <= ends[2].result(timeout=30)
    watcher.close()


def test_a_step_that_failed_is_the_loops_to_raise():
    class Failed:
        def is_ready(self):
            raise RuntimeError("out of memory")

    watcher = Watcher()
    with pytest.raises(RuntimeError, match="out of memory"):
        watcher.end_of(Failed()).result(timeout=30)
    good = Result()
    good.ready = True
    assert watcher.end_of(good).result(timeout=30)
    watcher.close()


def test_a_step_that_never_ends_keeps_no_process_from_ending():
    before = set(threading.enumerate())
    watcher = Watcher()
    ended = watcher.end_of(Result())
    [thread] = set(threading.enumerate()) - before
    assert thread.daemon and not ended.done()


# Real runs.


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A run with a trace, its workdir, what it said, and the first and last look at the clock."""
    workdir = tmp_path_factory.mktemp("whole")
    looks = []

    def monotonic():
        looks.append(time.monotonic())
        return looks[-1]

    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(goodput, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
        patch.setattr(train, "say", said.append)
        patch.setattr(loop.RunLog, "say", lambda _, text: said.append(text))
        cfg = world.config(train__profile_step=2, checkpoint__every_steps=4)
        assert train.train(cfg, workdir, ONE) == 0
    return workdir, said, looks[0], looks[-1]


def test_the_parts_are_the_whole_time(whole):
    workdir, said, first, last = whole
    times = json.loads((workdir / "done.json").read_text())["times_s"]
    assert list(times) == list(PARTS)
    assert sum(times.values()) == pytest.approx(last - first, rel=1e-9)
    assert all(times[part] > 0 for part in PARTS if part not in ("data", "lost"))
    assert times["lost"] == 0
    assert f"time    {sentence(times)}" in said
    # A line has the time since the line before; the export is after all of them.
    lines = read_log(workdir / "metrics.jsonl")
    assert lines[0]["compile_s"] == times["compile"] and lines[0]["load_s"] == times["load"]
    assert [line["step"] for line in lines if line["save_s"]] == [4, 8, 11]
    assert added(times_of(lines), {"save": times["save"]}) != times_of(lines)  # the export
    for line in lines:
        step = sum(line[f"{part}_s"] for part in ("data", "device", "save", "other"))
        if line is lines[-1]:  # with what came after the last step
            assert 0 < line["step_time_s"] < step
        else:
            assert line["step_time_s"] == pytest.approx(step, rel=1e-9)


def test_what_is_told_of_tokens(whole):
    workdir, said, *_ = whole
    done = json.loads((workdir / "done.json").read_text())
    lines = read_log(workdir / "metrics.jsonl")
    row_tokens = 4 * 256  # one example a row
    for line in lines:
        assert line["useful_share"] == line["tokens"] / row_tokens
        assert line["device_tokens_per_s"] == line["useful_tokens_per_s"]
    useful = sum(line["tokens"] for line in lines)
    assert done["useful_share"] == pytest.approx(useful / (len(lines) * row_tokens))
    seconds = sum(line["step_time_s"] for line in lines)
    assert done["device_tokens_per_s"] == pytest.approx(useful / seconds)
    assert done["mfu"] is None  # nobody knows a CPU's peak
    [said] = [text for text in said if text.startswith("tokens ")]
    assert re.fullmatch(rf"tokens  {done['useful_share']:.1%} useful, of these \S+ a s.*", said)


def test_an_idle_device_is_laid_to_the_data(world, tmp_path, monkeypatch):
    """Each batch is begun when the device is idle, and takes 50 ms."""
    to_devices, end_of, ends = loop.to_devices, Watcher.end_of, []

    def noted(watcher, array):
        ends.append(end_of(watcher, array))
        return ends[-1]

    def slow(arrays, mesh):
        if ends:
            ends[-1].result()
        time.sleep(0.05)
        return to_devices(arrays, mesh)

    monkeypatch.setattr(Watcher, "end_of", noted)
    monkeypatch.setattr(loop, "to_devices", slow)
    assert train.train(world.config(train__steps=4), tmp_path, ONE) == 0
    assert all(line["data_s"] >= 0.05 for line in read_log(tmp_path / "metrics.jsonl"))


# Steps that are done again.


class Killed(BaseException):
    """What no part of the program catches."""


def killed_at(step, cfg, workdir):
    """A run that ends in the middle of everything when it makes the batch of that step."""
    with pytest.MonkeyPatch.context() as patch:
        arrays = loop.to_devices

        def to_devices(*args):
            nonlocal step
            if step == 0:
                raise Killed
            step -= 1
            return arrays(*args)

        patch.setattr(loop, "to_devices", to_devices)
        with pytest.raises(Killed):
            train.train(cfg, workdir, ONE)
    while list(workdir.glob("checkpoints/*tmp*")):  # of which a checkpoint is still being written
        time.sleep(0.01)
    return read_log(workdir / "metrics.jsonl")


def whole_time(lines):
    return sum(times_of(lines).values())


def test_steps_done_again_are_lost_time(world, tmp_path):
    cfg = world.config(checkpoint__every_steps=4)
    first = killed_at(7, cfg, tmp_path)
    assert [line["step"] for line in first] == [0, 1, 2, 3, 4, 5]  # 6 was not told of
    second = killed_at(3, cfg, tmp_path)  # goes on after step 4
    assert [line["step"] for line in second] == [0, 1, 2, 3, 4, 5]
    assert second[:4] == first[:4]
    assert second[4]["lost_s"] == pytest.approx(whole_time(first[4:]))
    assert whole_time(second) > whole_time(first)
    assert train.train(cfg, tmp_path, ONE) == 0
    third = read_log(tmp_path / "metrics.jsonl")
    assert len(third) == 12 and third[:4] == first[:4]
    # All of the second's, and in it the first's.
    assert third[4]["lost_s"] == pytest.approx(whole_time(second[4:]))
    assert third[4]["lost_s"] > second[4]["lost_s"] > 0
    assert [line["lost_s"] for line in third[5:]] == [0] * 7
    done = json.loads((tmp_path / "done.json").read_text())
    assert done["times_s"]["lost"] == pytest.approx(third[4]["lost_s"])
    good = done["times_s"]["device"] / sum(done["times_s"].values())
    assert done["goodput"] == pytest.approx(good)


def test_a_log_is_kept_until_there_is_something_to_put_in_its_place(world, tmp_path):
    """Killed again before its first step, a run has still lost what it lost before."""
    cfg = world.config(checkpoint__every_steps=100)
    first = killed_at(3, cfg, tmp_path)
    assert killed_at(0, cfg, tmp_path) == first and len(first) == 2
    again = killed_at(2, cfg, tmp_path)
    assert [line["step"] for line in again] == [0]
    assert again[0]["lost_s"] == pytest.approx(whole_time(first))


def test_a_run_that_was_asked_to_end_lost_nothing(world, tmp_path, monkeypatch):
    """What it spent on saving is told as well, on the line of its last step."""
    cfg = world.config(checkpoint__every_steps=100)
    with monkeypatch.context() as patch:
        patch.setattr(train.Stop, "asked", lambda _, step: step == 3)
        assert train.train(cfg, tmp_path, ONE) == PREEMPTED
    stopped = read_log(tmp_path / "metrics.jsonl")
    assert [line["save_s"] > 0 for line in stopped] == [False, False, True]
    assert train.train(cfg, tmp_path, ONE) == 0
    lines = read_log(tmp_path / "metrics.jsonl")
    assert lines[:3] == stopped
    assert [line["lost_s"] for line in lines] == [0] * 12
    assert [line["step"] for line in lines if line["load_s"]] == [0, 3]


def test_a_killed_process_and_its_restart(world, tmp_path):
    """kill -9, before the first checkpoint: all that it did is lost."""
    config = world.config_file(tmp_path / "x.py", train__epochs=30, checkpoint__every_steps=1000)
    process, log = start(config, tmp_path / "run"), tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and len(read_log(log)) < 5:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    lines = read_log(log)
    assert 5 <= len(lines) < 180
    said = finish(config, tmp_path / "run", "--config.train.steps=6")
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    assert done["times_s"]["lost"] == pytest.approx(whole_time(lines))
    assert f"lost {done['times_s']['lost'] / sum(done['times_s'].values()):.1%}" in said


# Several row lengths.


PACKED = {"data__pack": True, "data__row_length": 512, "data__batch_size": 6, "train__epochs": 3}


def test_rows_of_several_lengths_train_the_same(world, tmp_path, capsys):
    assert train.train(world.config(**PACKED, data__buckets=1), tmp_path / "one", ONE) == 0
    capsys.readouterr()
    cfg = world.config(**PACKED, data__buckets=4)
    assert train.train(cfg, tmp_path / "more", ONE) == 0
    said = capsys.readouterr().err
    batches = train.prepare(cfg, tmp_path / "none", ONE).batches
    lengths = batches.row_lengths
    assert len(lengths) > 1
    assert f"rows of {' or '.join(map(str, lengths))} tokens" in said
    assert re.search(rf"compiled in .* for {len(lengths)} row lengths", said)
    ours, theirs = losses(tmp_path / "more"), losses(tmp_path / "one")
    assert ours == pytest.approx(theirs, abs=2e-5)
    assert abs(ours[-1] - ours[0]) > 0.1  # the control: there is something to be seen
    one, more = (
        json.loads((tmp_path / name / "done.json").read_text())["useful_share"]
        for name in ("one", "more")
    )
    assert more > one
    assert more == pytest.approx(batches.useful_share())
    lines = read_log(tmp_path / "more" / "metrics.jsonl")
    for line in lines:
        row_tokens = batches.rows * batches.row_length_of(line["step"])
        assert line["useful_share"] == pytest.approx(line["tokens"] / row_tokens)


def test_the_longest_rows_are_compiled_first_and_only_what_is_to_come(world, tmp_path):
    run = train.prepare(world.config(**PACKED, data__buckets=4), tmp_path, ONE)
    batches, said = run.batches, []
    with jax.set_mesh(run.mesh):
        programs = compile_steps(run, 0, said.append)
        assert list(programs) == sorted(batches.row_lengths, reverse=True)
        last = batches.total_steps - 1
        assert list(compile_steps(run, last, said.append)) == [batches.row_length_of(last)]
    assert said[0] == said[2] == "compiling ..." and "row lengths" not in said[3]


# A trace.


def traced_steps(workdir):
    """The steps that the trace under a workdir holds, by the loop's own annotation."""
    steps = []
    for path in (workdir / "profile").glob("plugins/profile/*/*.trace.json.gz"):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        marks = [e["args"] for e in events if e.get("name") == "step" and "args" in e]
        steps.append(sorted(int(mark["step_num"]) for mark in marks))
    return steps


def test_a_trace_holds_the_steps_asked_for(whole, capsys):
    workdir, said, *_ = whole
    assert traced_steps(workdir) == [[2, 3, 4]]
    assert list((workdir / "profile").glob("plugins/profile/*/*.xplane.pb"))
    [line] = [text for text in said if text.startswith("profile ")]
    assert "steps 2 to 4 (the first is 0)" in line
    assert f"xprof --logdir={workdir / 'profile'}" in line


def test_a_trace_that_a_run_ends_in_is_whole_and_the_next_one_goes_on(world, tmp_path, capsys):
    cfg = world.config(train__profile_step=2, train__profile_steps=3, checkpoint__every_steps=99)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Stop, "asked", lambda _, step: step == 4)
        assert train.train(cfg, tmp_path, ONE) == PREEMPTED
    assert traced_steps(tmp_path) == [[2, 3]]
    assert "profile of steps 2 to 3" in capsys.readouterr().err
    assert train.train(cfg, tmp_path, ONE) == 0
    assert sorted(traced_steps(tmp_path)) == [[2, 3], [4]]
    assert "profile of step 4 (" in capsys.readouterr().err


@pytest.mark.parametrize("first", [None, 100])
def test_without_such_a_step_there_is_no_trace(world, tmp_path, capsys, first):
    cfg = world.config(train__steps=2, train__profile_step=first)
    assert train.train(cfg, tmp_path, ONE) == 0
    assert not (tmp_path / "profile").exists() and "profile" not in capsys.readouterr().err


def test_a_run_that_fails_inside_a_trace_leaves_the_profiler_free(world, tmp_path, monkeypatch):
    cfg = world.config(train__profile_step=1, train__steps=4)
    to_devices, steps = loop.to_devices, iter(range(99))

    def failing(*args):
        if next(steps) == 2:
            raise UserError("the disk is gone")
        return to_devices(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "to_devices", failing)
        with pytest.raises(UserError, match="the disk is gone"):
            train.train(cfg, tmp_path / "failed", ONE)
    assert train.train(cfg, tmp_path / "good", ONE) == 0
    assert traced_steps(tmp_path / "good") == [[1, 2, 3]]
