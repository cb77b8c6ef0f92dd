"""The whole of it, for real but tiny: every stage runs, and goes on wherever it was killed.

All tables: `pytest -n 0 -m slow tests/test_reproduce_runs.py`.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes_reproduce import config_file, write_pool
from fakes_train import environment

from s1jax import cli
from s1jax.reproducing.claims import CANNOT
from s1jax.reproducing.plan import MODELS

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["--questions=3"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    directory = tmp_path_factory.mktemp("config")
    return config_file(directory / "tiny.py", write_pool(directory / "pool.jsonl"))


def start(config, workdir, *flags, kill=None):
    """The verb in a process of its own, which may kill itself (see fakes_reproduce)."""
    program = ["-m", "s1jax.reproduce"]
    if kill:
        program = [str(ROOT / "tests" / "fakes_reproduce.py"), *map(str, kill)]
    return subprocess.Popen(
        [
            *(sys.executable, *program, f"--config={config}", f"--workdir={workdir}"),
            *(*FLAGS, *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )


def finish(*args, code=cli.DONE, **kwargs):
    process = start(*args, **kwargs)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == code, err
    return out, err


def lines(workdir):
    """The journal's lines of stages that were done."""
    told = [json.loads(line) for line in (workdir / "stages.jsonl").read_text().splitlines()]
    return [line for line in told if line["seconds"] is not None]


def figures(workdir):
    """All figures but for what depends on the clock and the place."""
    tables = json.loads((workdir / "reproduce.json").read_text())["tables"]
    for table in tables.values():
        table["rows"] = None  # which have the seconds of training
    return tables


ROWS = ["--only=rows", "--seeds=0"]


@pytest.mark.slow
def test_it_goes_on_wherever_it_was_killed(config, tmp_path):
    """Between two stages, and in the middle of each kind of them."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(config, whole, *ROWS)
    names = [line["name"] for line in lines(whole)]
    assert names == [
        *(f"seed-0/ours: {what}" for what in ("distill", "curate", "train")),
        *(f"seed-0/ours: evaluate {name}" for name in ("curve", "others")),
        *(f"seed-0/short-rows: {what}" for what in ("train", "evaluate natural")),
    ]
    # What `after` counts are the stages that a process ended; each goes on after the one before.
    for after, where, done in (
        (0, "within", 0),  # distilling
        (1, "between", 1),
        (0, "within", 1),  # curating
        (1, "within", 2),  # training
        (1, "within", 3),  # evaluating
        (1, "between", 4),
        (0, "within", 4),
    ):
        finish(config, killed, *ROWS, code=-signal.SIGKILL, kill=(after, where))
        assert len(lines(killed)) == done, (after, where)
    finish(config, killed, *ROWS)
    assert [line["name"] for line in lines(killed)] == names
    assert figures(killed) == figures(whole)
    for path in (
        "ours/curated.jsonl",
        "ours/curve/scores.jsonl",
        "short-rows/natural/scores.jsonl",
    ):
        assert (killed / "seed-0" / path).read_bytes() == (whole / "seed-0" / path).read_bytes()
    assert "interrupted and taken up again: 5;" in (killed / "report.md").read_text()
    assert "interrupted" not in (whole / "report.md").read_text()


@pytest.mark.slow
def test_what_is_done_is_passed_over(config, tmp_path):
    workdir = tmp_path / "runs"
    _, err = finish(config, workdir, *ROWS)
    assert "reproduce: 7/7 stages  seed-0/short-rows: evaluate natural" in err
    before = (workdir / "stages.jsonl").read_text()
    log = (workdir / "log.txt").stat().st_size
    out, err = finish(config, workdir, *ROWS)
    assert (workdir / "stages.jsonl").read_text() == before
    assert (workdir / "log.txt").stat().st_size == log
    assert err == ""
    assert out == f"report: {workdir / 'report.md'}\n"
    # More questions make what is new; another config is refused.
    _, err = finish(config, workdir, *ROWS, "--questions=4")
    assert len(lines(workdir)) == 10
    assert "12 of 16 samples are there already" not in err  # that goes to the log
    assert "samples are there already" in (workdir / "log.txt").read_text()
    _, err = finish(config, workdir, *ROWS, "--config.train.steps=3", code=cli.USER_ERROR)
    assert "another train.steps" in err
    assert len(lines(workdir)) == 10


@pytest.mark.slow
def test_sigterm_ends_with_75_and_goes_on(config, tmp_path):
    process = start(config, tmp_path, *ROWS)
    for line in process.stderr:
        if "ours: curate" in line:  # training has begun, or is about to
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate(timeout=600)
    assert process.returncode == cli.PREEMPTED, err
    assert "start again to go on" in err
    assert not (tmp_path / "report.md").exists()
    finish(config, tmp_path, *ROWS)
    assert (tmp_path / "report.md").is_file()


@pytest.mark.slow
def test_a_stage_that_is_refused_is_named(config, tmp_path):
    """Without any traces there is nothing to select."""
    flags = [*ROWS, "--config.distill.model=stops=2"]
    _, err = finish(config, tmp_path, *flags, code=cli.USER_ERROR)
    assert err.splitlines()[-1].startswith("error: seed-0/ours: distill: distill: model=")


@pytest.mark.slow
def test_all_tables_with_two_seeds(config, tmp_path):
    finish(config, tmp_path, "--seeds=0,1")
    tables = figures(tmp_path)
    assert len(tables) == 7
    assert {tuple(table["seeds"]) for table in tables.values()} == {(0, 1)}
    trained = {line["name"] for line in lines(tmp_path) if line["name"].endswith(": train")}
    assert trained == {f"seed-{n}/{model}: train" for n in (0, 1) for model in MODELS}
    # Three questions tell no direction.
    assert {claim["verdict"] for table in tables.values() for claim in table["claims"]} == {CANNOT}
    report = (tmp_path / "report.md").read_text()
    assert "Not run yet" not in report
    for name in ("figure1", "table2", "methods", "parallel", "ablation"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    lengths = {
        line["name"]: line["about"]["row_length"]
        for line in lines(tmp_path)
        if line["name"].endswith(": train")
    }
    assert lengths["seed-0/short-rows: train"] < lengths["seed-0/ours: train"] == 256
