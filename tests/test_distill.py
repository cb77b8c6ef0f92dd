"""The verb against a teacher that fails in every way it can, and processes that are killed.

The long proofs, with figures: `pytest -n 0 -s -m slow tests/test_distill.py`.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakes_gemini as fakes
import numpy as np
import pytest
from fakes_gemini import FakeTeacher

EXPORTED = ("traces.jsonl", "traces.parquet")
ALL_KINDS = dict.fromkeys(fakes.KINDS, 0.1)


def start(
    config: Path, workdir: Path, key: str = fakes.KEY, prepare: Callable[[], None] | None = None
) -> "subprocess.Popen[str]":
    """`python -m s1jax.distill`."""
    command = [sys.executable, "-m", "s1jax.distill", f"--config={config}", f"--workdir={workdir}"]
    pipe = subprocess.PIPE
    environment = os.environ | {"GEMINI_API_KEY": key, "OPENAI_API_KEY": key}
    return subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=prepare
    )


def finish(process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    """What it said; the exit code must be this one."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err, err
    assert "Unclosed" not in err, err
    return out, err


def run(values: dict[str, Any], tmp_path: Path, code: int = 0, **kwargs: Any) -> tuple[str, str]:
    """The whole verb on these fields, in a process of its own; what it said."""
    config = fakes.write_config(tmp_path / "config.py", values)
    return finish(start(config, tmp_path / "workdir", **kwargs), code)


def sentence(err: str) -> str:
    """The error, which is one line."""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert err.rstrip().endswith(lines[0]), err
    return lines[0]


def rows(workdir: Path) -> dict[str, tuple[str, str | None]]:
    """Finish and error of each row by the id of its question, as a copy of the store has them."""
    with contextlib.ExitStack() as stack:
        copy = workdir.parent / "copy"
        copy.mkdir()
        stack.callback(shutil.rmtree, copy)
        for path in workdir.glob("traces.db*"):
            shutil.copy(path, copy)
        if not (copy / "traces.db").exists():
            return {}
        db = stack.enter_context(contextlib.closing(sqlite3.connect(copy / "traces.db")))
        if not list(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'traces'")):
            return {}
        return {
            q: (finish, error)
            for q, finish, error in db.execute("SELECT question_id, finish, error FROM traces")
        }


def texts(workdir: Path, of: set[str]) -> set[str]:
    """The questions of these ids."""
    with contextlib.closing(sqlite3.connect(workdir / "traces.db")) as db:
        return {text for key, text in db.execute("SELECT id, question FROM questions") if key in of}


# --- The fault run ---


@dataclass
class Faults:
    """What a run with faults and kills left."""

    server: FakeTeacher
    asked: list[str]
    workdir: Path
    reference: Path
    kills: int = 0
    after_kill: list[set[str]] = field(default_factory=list)  # ids with a row
    said: list[str] = field(default_factory=list)
    command_lines: list[bytes] = field(default_factory=list)

    def table(self, title: str) -> str:
        """The figures, for the eye."""
        kinds, total = self.server.kinds(), len(self.server.log)
        lines = [f"{title}: {len(self.asked)} questions, {total} requests, {self.kills} kills"]
        lines += [f"  {kind:<24}{n:>7}  {n / total:.1%}" for kind, n in sorted(kinds.items())]
        found = fakes.read(self.workdir / "traces.jsonl")
        unique = {row["id"] for row in found}
        lost, twice = len(self.asked) - len(unique), len(found) - len(unique)
        return "\n".join([*lines, f"  {len(found)} rows, {lost} lost, {twice} duplicates"])


def fault_run(
    tmp_path: Path, shares: dict[str, float], count: int, kills: int, seed: int
) -> Faults:
    """Asks so many questions, killed so often, and once more to the end; and without faults."""
    asked = fakes.questions(count)
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    with FakeTeacher() as calm:
        config = fakes.write_config(tmp_path / "calm.py", fakes.fields(calm, pool))
        finish(start(config, tmp_path / "reference"))
        assert len(calm.log) == count
    rng = np.random.default_rng(seed)
    share_good = 1 - sum(share for kind, share in shares.items() if kind != "duplicate answers")
    with FakeTeacher(shares, seed) as server:
        result = Faults(server, asked, tmp_path / "workdir", tmp_path / "reference")
        config = fakes.write_config(tmp_path / "config.py", fakes.fields(server, pool))
        for left in range(kills, 0, -1):
            process = start(config, result.workdir)
            # At any moment of starting, or at any of asking, on average after 0.7 of its part of
            # what is left: a fast machine must not be done before the last of them.
            missing = count - len(result.after_kill[-1] if result.after_kill else ())
            most = int(1.4 * missing / share_good / left)
            starting = rng.random() < 0.2 or most < 8
            requests = int(rng.integers(1, max(most, 2)))
            until = time.monotonic() + (rng.uniform(0.1, 0.5) if starting else 60)
            before = len(server.log)
            while process.poll() is None and time.monotonic() < until:
                if not starting and len(server.log) - before >= requests:
                    time.sleep(rng.uniform(0, 0.02))
                    break
                time.sleep(0.002)
            with contextlib.suppress(OSError):
                result.command_lines.append(Path(f"/proc/{process.pid}/cmdline").read_bytes())
            process.kill()
            result.said += process.communicate()
            result.kills += process.returncode == -signal.SIGKILL
            result.after_kill.append(set(rows(result.workdir)))
            server.life += 1
        process = start(config, result.workdir)
        result.said += finish(process)
    return result


def check(faults: Faults, kills: int) -> None:
    """Nothing lost, nothing twice, nothing asked again, and the bytes of the calm run."""
    assert faults.kills == kills
    for name in EXPORTED:
        assert (faults.workdir / name).read_bytes() == (faults.reference / name).read_bytes(), name
    found = fakes.read(faults.workdir / "traces.jsonl")
    assert [row["question"] for row in found] == faults.asked
    assert all(
        row["thinking_trajectories"] == [fakes.thinking_of(row["question"])] for row in found
    )
    for life, done in enumerate(faults.after_kill):
        written = texts(faults.workdir, done)
        again = {a.question for a in faults.server.log if a.life > life and a.question in written}
        assert not again
    # A life that got a good answer asks no more.
    good: set[tuple[int, str]] = set()
    for asked in faults.server.log:
        assert (asked.life, asked.question) not in good
        if asked.kind in fakes.GOOD and asked.delivered:
            good.add((asked.life, asked.question))


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return fault_run(tmp_path_factory.mktemp("faults"), ALL_KINDS, count=100, kills=20, seed=1)


def test_all_faults_and_20_kills_leave_what_a_calm_run_leaves(faults):
    check(faults, kills=20)
    kinds = faults.server.kinds()
    assert all(kinds[kind] >= 0.08 * len(faults.server.log) for kind in fakes.KINDS), kinds
    assert any(done for done in faults.after_kill)  # the control: there was something to lose
    print(faults.table("all kinds"))


def test_the_key_is_nowhere(faults):
    echoed = [asked for asked in faults.server.log if "echo" in asked.kind]
    assert len(echoed) > 10  # the control: the server tried
    canary = fakes.KEY.encode()
    for path in faults.workdir.rglob("*"):
        assert canary not in path.read_bytes(), path
    assert fakes.KEY not in "".join(faults.said)
    assert "An error of the key [key]" in "".join(faults.said) + json.dumps(
        json.loads((faults.workdir / "distill.json").read_text())["this_run"]
    )
    assert faults.command_lines
    assert all(b"s1jax.distill" in line or not line for line in faults.command_lines)
    assert not any(canary in line for line in faults.command_lines)


def test_a_finished_run_asks_nothing(faults, tmp_path):
    before = {name: (faults.workdir / name).read_bytes() for name in EXPORTED}
    with FakeTeacher() as server:
        values = fakes.fields(server, faults.workdir.parent / "pool.jsonl")
        finish(start(fakes.write_config(tmp_path / "c.py", values), faults.workdir))
        assert not server.log
    assert before == {name: (faults.workdir / name).read_bytes() for name in EXPORTED}


@pytest.mark.slow
@pytest.mark.parametrize("kind", fakes.KINDS)
def test_each_fault_at_30_percent_and_20_kills(kind, tmp_path):
    result = fault_run(tmp_path, {kind: 0.3}, count=400, kills=20, seed=2)
    check(result, kills=20)
    assert result.server.kinds()[kind] >= 0.25 * len(result.server.log)
    print("\n" + result.table(kind))


@pytest.mark.slow
def test_all_faults_at_length(tmp_path):
    result = fault_run(tmp_path, ALL_KINDS, count=1000, kills=20, seed=3)
    check(result, kills=20)
    print("\n" + result.table("all kinds"))


# --- What is not asked again ---


def test_permanent_errors_are_recorded_and_not_asked_again(tmp_path):
    ends = {
        "400": ("error", "HTTP 400: An error, 400.", 1),
        "blocked prompt": ("error", "the question is blocked: PROHIBITED_CONTENT", 1),
        "SAFETY": ("blocked", "stopped by SAFETY", 3),
        "RECITATION": ("blocked", "stopped by RECITATION", 3),
        "MAX_TOKENS": ("length", "cut at its limit", 3),
        "missing thought": ("incomplete", "the reply has no thinking", 3),
        "no candidates": ("incomplete", "the reply has no candidates", 3),
    }
    asked = fakes.questions(12)
    bad = dict(zip(asked[2:], ends, strict=False))
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    with FakeTeacher(always=bad) as server:
        values = fakes.fields(server, pool, distill__asks_again=2)
        run(values, tmp_path)
        times = Counter(request.question for request in server.log)
        run(values, tmp_path)
        assert len(server.log) == times.total()  # the second run asked nothing
    assert times == {q: ends[bad[q]][2] if q in bad else 1 for q in asked}
    failed = fakes.read(tmp_path / "workdir" / "failed.jsonl")
    assert {row["question"]: (row["finish"], row["error"]) for row in failed} == {
        question: ends[kind][:2] for question, kind in bad.items()
    }
    good = [row["question"] for row in fakes.read(tmp_path / "workdir" / "traces.jsonl")]
    assert good == [question for question in asked if question not in bad]


def test_failed_rows_are_asked_again_on_demand(tmp_path):
    asked = fakes.questions(6)
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    bad = {asked[1]: "MAX_TOKENS", asked[2]: "SAFETY"}
    with FakeTeacher(always=bad) as server:
        values = fakes.fields(server, pool, distill__asks_again=0)
        _, err = run(values, tmp_path)
        assert 'failed.jsonl; distill.ask_again=("blocked","length",) asks these again' in err
        assert "1 try failed: cut at its limit" in err
        server.always = {}
        again = values | {"distill.ask_again": ("length",), "distill.max_tokens": 99}
        _, err = run(again, tmp_path)
        assert "distill: 1 rows are asked again: length" in err
        assert [request.question for request in server.log[6:]] == [asked[1]]
    [failed] = fakes.read(tmp_path / "workdir" / "failed.jsonl")
    assert (failed["question"], failed["finish"]) == (asked[2], "blocked")
    found = {row["question"]: row for row in fakes.read(tmp_path / "workdir" / "traces.jsonl")}
    limits = [json.loads(found[q]["settings"])["max_tokens"] for q in asked if q in found]
    assert limits == [None, 99, None, None, None]


def test_the_export_has_the_samples_of_this_config(tmp_path):
    pool = fakes.write_pool(tmp_path / "pool.jsonl", fakes.questions(3))
    with FakeTeacher() as server:
        for samples, requests in ((3, 9), (1, 9), (2, 9)):
            out, _ = run(fakes.fields(server, pool, distill__samples=samples), tmp_path)
            assert len(server.log) == requests
            found = fakes.read(tmp_path / "workdir" / "traces.jsonl")
            assert len(found) == 3 * samples
            assert f"{3 * samples} of {3 * samples}" in out
            manifest = json.loads((tmp_path / "workdir" / "distill.json").read_text())
            assert manifest["rows"]["asked"] == manifest["rows"]["good"] == 3 * samples


def test_what_replay_does_not_know_is_told(tmp_path):
    asked = fakes.questions(5)
    traces = tmp_path / "old.jsonl"
    lines = [{"question": q, "thinking_trajectories": ["hm"], "attempt": "4"} for q in asked[:3]]
    traces.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    with FakeTeacher() as server:
        values = fakes.fields(server, pool, distill__via="replay", distill__model=str(traces))
    out, err = run(values, tmp_path)
    assert f"2 questions: replay:{traces} has no trace of them" in err
    assert "3 of 5" in out
    manifest = json.loads((tmp_path / "workdir" / "distill.json").read_text())
    assert manifest["cost_of_rows"] is None
    fakes.write_pool(pool, asked[3:])
    (tmp_path / "workdir" / "traces.db").unlink()
    _, err = run(values, tmp_path, 2)
    assert f"replay:{traces} has no trace of any of the 2 questions" in sentence(err)


# --- What ends the run, in one sentence ---


def test_an_unknown_model_ends_the_run(tmp_path):
    pool = fakes.write_pool(tmp_path / "pool.jsonl", fakes.questions(40))
    with FakeTeacher() as server:
        _, err = run(fakes.fields(server, pool, distill__model="missing"), tmp_path, 2)
    assert "gemini:missing: " + server.url + " knows no such model" in sentence(err)
    assert rows(tmp_path / "workdir") == {}


def test_a_wrong_key_ends_the_run_and_is_not_told(tmp_path):
    pool = fakes.write_pool(tmp_path / "pool.jsonl", fakes.questions(40))
    with FakeTeacher() as server:
        _, err = run(fakes.fields(server, pool), tmp_path, 2, key="AIza-wrong-one")
    assert "refuses the key in GEMINI_API_KEY" in sentence(err)
    assert "API key expired" in err
    assert "AIza-wrong-one" not in err
    assert rows(tmp_path / "workdir") == {}


def test_a_forbidden_request_ends_the_run(tmp_path):
    asked = fakes.questions(20)
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    with FakeTeacher(always=dict.fromkeys(asked, "403")) as server:
        _, err = run(fakes.fields(server, pool), tmp_path, 2)
    said = (
        "10 questions in a row were refused: HTTP 403: An error, 403. (asked with the key in GEMINI"
    )
    assert said in sentence(err)
    assert rows(tmp_path / "workdir") == {}


def test_without_a_key_nothing_is_asked(tmp_path):
    pool = fakes.write_pool(tmp_path / "pool.jsonl", fakes.questions(2))
    with FakeTeacher() as server:
        _, err = run(fakes.fields(server, pool, distill__key_variable="NO_SUCH"), tmp_path, 2)
        assert not server.log
    assert "NO_SUCH is not set" in sentence(err)


def test_ten_refusals_at_first_end_the_run_and_record_nothing(tmp_path):
    asked = fakes.questions(40)
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    with FakeTeacher(always=dict.fromkeys(asked, "400")) as server:
        _, err = run(fakes.fields(server, pool, distill__concurrency=4), tmp_path, 2)
        assert len(server.log) < 20
    assert "10 questions in a row were refused: HTTP 400: An error, 400." in sentence(err)
    assert rows(tmp_path / "workdir") == {}


def test_a_server_that_went_away_ends_the_run_and_rows_are_kept(tmp_path):
    asked = fakes.questions(60)
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked[:5])
    with FakeTeacher() as server:
        values = fakes.fields(server, pool, distill__tries=3)
        run(values, tmp_path)
    fakes.write_pool(pool, asked)
    with fakes.closed_port() as url:
        began = time.monotonic()
        _, err = run(values | {"distill.base_url": url}, tmp_path, 2)
        assert time.monotonic() - began < 30
    line = sentence(err)
    assert "24 questions in a row were not answered: ClientConnectorError" in line
    assert "55 of 60 are left: start again to go on" in line
    assert len(rows(tmp_path / "workdir")) == 5
    with FakeTeacher() as server:
        run(values | {"distill.base_url": server.url}, tmp_path)
        assert len(server.log) == 55
    assert len(fakes.read(tmp_path / "workdir" / "traces.jsonl")) == 60


def test_other_settings_on_the_same_workdir_are_refused(tmp_path):
    pool = fakes.write_pool(tmp_path / "pool.jsonl", fakes.questions(4))
    with FakeTeacher() as server:
        values = fakes.fields(server, pool)
        run(values, tmp_path)
        _, err = run(values | {"distill.temperature": 0.5}, tmp_path, 2)
        assert len(server.log) == 4
    assert "with other settings (temperature was None, is 0.5)" in sentence(err)


def test_a_damaged_store_is_told_in_a_sentence(tmp_path):
    pool = fakes.write_pool(tmp_path / "pool.jsonl", fakes.questions(4))
    (tmp_path / "workdir").mkdir()
    (tmp_path / "workdir" / "traces.db").write_bytes(b"no store at all " * 300)
    with FakeTeacher() as server:
        _, err = run(fakes.fields(server, pool), tmp_path, 2)
        assert not server.log
    assert sentence(err).endswith("file is not a database; move it away to start anew")


def test_a_full_disk_ends_the_run_in_a_sentence(tmp_path):
    asked = fakes.questions(200)
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    limit = 120_000

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with FakeTeacher() as server:
        values = fakes.fields(server, pool)
        _, err = run(values, tmp_path, 2, prepare=small_files)
        assert "traces.db: disk I/O error; see whether the disk is full" in sentence(err)
        asked_before = len(server.log)
        assert asked_before < 200  # what is asked after that would be lost
        kept = len(rows(tmp_path / "workdir"))
        assert 0 < kept < 200
        run(values, tmp_path)
        assert len(server.log) == asked_before + 200 - kept
    assert len(fakes.read(tmp_path / "workdir" / "traces.jsonl")) == 200


# --- Signals and neighbours ---


def test_sigterm_saves_what_was_under_way(tmp_path):
    asked = fakes.questions(200)
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    config = tmp_path / "config.py"
    with FakeTeacher(latency_s=0.4) as server:
        fakes.write_config(config, fakes.fields(server, pool, distill__timeout_s=30.0))
        process = start(config, tmp_path / "workdir")
        while len(server.log) < 10:
            time.sleep(0.005)
        second = start(config, tmp_path / "workdir")  # meanwhile
        _, err = finish(second, 2)
        assert "is being written by another process" in sentence(err)
        process.send_signal(signal.SIGTERM)
        _, err = finish(process, 75)
        assert "start again to go on" in err
        done = len(rows(tmp_path / "workdir"))
        assert done == len(server.log) < 200  # whatever was sent was saved
        finish(start(config, tmp_path / "workdir"))
        assert len(server.log) == 200  # and nothing was sent twice
    assert len(fakes.read(tmp_path / "workdir" / "traces.jsonl")) == 200


def test_sigterm_while_the_server_wants_rest_ends_at_once_and_records_nothing_bad(tmp_path):
    asked = fakes.questions(30)
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    config = tmp_path / "config.py"
    always = dict.fromkeys(asked[:29], "SAFETY") | {asked[29]: "429 RetryInfo"}
    with FakeTeacher(always=always, delay_s=100.0, latency_s=0.05) as server:
        fakes.write_config(config, fakes.fields(server, pool, distill__concurrency=30))
        process = start(config, tmp_path / "workdir")
        while not server.asked(asked[29]):
            time.sleep(0.005)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        finish(process, 75)
        assert time.monotonic() - began < 5
    assert rows(tmp_path / "workdir") == {}  # each of them may be answered the next time


# --- Money ---


def test_the_cap_is_never_passed(tmp_path):
    """By what the server charges, timeouts, kills and broken connections included."""
    asked = fakes.questions(120)
    pool = fakes.write_pool(tmp_path / "pool.jsonl", asked)
    shares = dict.fromkeys(("timeout", "reset", "truncated JSON", "MAX_TOKENS", "500 and 503"), 0.1)
    cap, config, rng = 15.0, tmp_path / "config.py", np.random.default_rng(0)
    with FakeTeacher(shares, tokens=(60, 40)) as server:
        values = fakes.fields(
            server,
            pool,
            distill__concurrency=8,
            distill__max_cost=cap,
            distill__max_tokens=100,
            distill__input_price=fakes.IN,
            distill__output_price=fakes.OUT,
        )
        fakes.write_config(config, values)
        for _ in range(4):
            process = start(config, tmp_path / "workdir")
            before, requests = len(server.log), int(rng.integers(5, 15))
            while len(server.log) < before + requests and process.poll() is None:
                time.sleep(0.002)
            process.kill()
            process.communicate()
        for _ in range(2):  # the second finds nothing to spend
            _, err = finish(start(config, tmp_path / "workdir"), 2)
            said = "of this teacher's $15 are spent, and the next request may cost $"
            assert said in sentence(err)
            charged = server.dollars
        assert cap * 0.6 < charged <= cap
        assert charged == server.dollars
        # Each request was noted before it was sent, the client's own included.
        with contextlib.closing(sqlite3.connect(tmp_path / "workdir" / "traces.db")) as db:
            [(notes,)] = db.execute("SELECT count(*) FROM requests")
        assert len(server.log) <= notes <= len(server.log) + 4 * 8
        # The control: with more money it goes on, and would have passed the cap.
        fakes.write_config(config, values | {"distill.max_cost": 1000.0})
        finish(start(config, tmp_path / "workdir"))
        assert server.dollars > cap
    found = Counter(finish for finish, _ in rows(tmp_path / "workdir").values())
    assert found == {"stop": 120}
