"""A run that is stopped, however and whenever, ends with the bits of one that never was.

Most of these are real processes: killed, signalled, and started again with the same command.
"""

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from fakes_train import (
    assert_same_end,
    exported,
    finish,
    log,
    losses,
    saved_arrays,
    start,
    steps_saved,
    write_model,
    write_world,
)

from s1jax import train
from s1jax.cli import PREEMPTED, USER_ERROR
from s1jax.training import loop
from s1jax.types import UserError

DEVICES = jax.devices()
VARIANTS = {
    # 3 steps an epoch, the last of them filled up from its beginning; a checkpoint every 4.
    "plain": {"train__epochs": 8, "checkpoint__every_steps": 4},
    "packed in slices": {
        "train__epochs": 8,
        "checkpoint__every_steps": 4,
        "data__pack": True,
        "data__row_length": 512,
        "train__accumulation_steps": 2,
        "train__remat": "full",
    },
}
STEPS = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    """(config file, workdir) of a run that nobody stopped, by variant."""
    ended = {}

    def run(variant):
        if variant not in ended:
            directory = tmp_path_factory.mktemp("uninterrupted")
            config = world.config_file(directory / "x.py", **VARIANTS[variant])
            finish(config, directory / "run")
            ended[variant] = config, directory / "run"
        return ended[variant]

    return run


def read_until(process, words):
    """What a process says, up to the line with these words."""
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            break
    return said


# kill -9.


def kill_at_random(config, workdir, rng):
    """Runs the command, kills it at a random instant, and says what it said; None if it ended."""
    # A few steps after where it starts, and a moment more: in a step, in a save, between the two,
    # or in the export. Time alone would say something else on every machine.
    reached = steps_saved(workdir)[-1] if steps_saved(workdir) else 0
    steps = reached + rng.randint(1, 9)
    early = rng.random() < 0.15
    process = start(config, workdir)
    said = read_until(process, "compiling" if early or reached == STEPS else "compiled in")
    while not early and process.poll() is None and len(lines(workdir)) < min(steps, STEPS):
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.3 if steps < STEPS else 2))
    process.kill()
    said += process.stderr.read()
    code = process.wait()
    assert "Traceback" not in said, said
    if code == 0:
        return None
    assert code == -signal.SIGKILL, said
    return said


def lines(workdir):
    """The lines of the log so far, whole or not."""
    path = workdir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def phase(workdir, said):
    """Where a killed run was, by what it left."""
    if list((workdir / "checkpoints").glob("*tmp*")):
        return "saving"
    if (workdir / ".hf.s1jax-partial").exists():
        return "exporting"
    if "compiled in" not in said and "going on after step 24" not in said:
        return "before the first step"
    return "after the last step" if len(lines(workdir)) == STEPS else "steps"


def kill_often(uninterrupted, directory, kills, seed):
    """Ends that many runs early, in as many workdirs as needed; all end as the reference did."""
    config, reference = uninterrupted
    rng, where, workdir, runs = random.Random(seed), [], directory / "run0", 1
    while len(where) < kills:
        before = steps_saved(workdir)[-1:]
        said = kill_at_random(config, workdir, rng)
        if said is None:
            assert_same_end(workdir, reference)
            workdir, runs = directory / f"run{runs}", runs + 1
            continue
        where.append((phase(workdir, said), *steps_saved(workdir)[-1:]))
        if before:  # what was saved is never lost, and is where it went on
            assert steps_saved(workdir)[-1:] >= before
            if "going on" in said:
                assert f"going on after step {before[0]} of {STEPS}" in said
    finish(config, workdir)
    assert_same_end(workdir, reference)
    return where, runs


@pytest.mark.parametrize(("variant", "kills"), [("plain", 2), ("packed in slices", 2)])
def test_killed_at_random_instants_it_ends_bit_equal(
    uninterrupted, tmp_path, variant, kills, record_property
):
    where, runs = kill_often(uninterrupted(variant), tmp_path, kills, seed=1)
    record_property("kills", f"{variant}: {where} in {runs} runs")
    assert len(log(uninterrupted(variant)[1])) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_twenty_times_it_ends_bit_equal(uninterrupted, tmp_path, variant, record_property):
    where, runs = kill_often(uninterrupted(variant), tmp_path, kills=20, seed=0)
    record_property("kills", f"{variant}: {where} in {runs} runs")
    assert len({place for place, *_ in where}) >= 2


# SIGTERM.


def test_sigterm_at_each_stage_exits_with_75_and_loses_nothing(uninterrupted, tmp_path):
    """One run, asked to end while it reads, loads, compiles, steps and exports."""
    config, reference = uninterrupted("plain")
    workdir = tmp_path / "run"
    for moment in ("reading", "loading"):
        err = finish(config, workdir, moment=moment, code=PREEMPTED)
        assert "stopped by SIGTERM; start again to go on" in err
        assert steps_saved(workdir) == []
    # What was asked while nothing could be done is done after the next step.
    for moment, step in (("compiling", 1), ("stepping", 1 + 7)):
        err = finish(config, workdir, moment=moment, code=PREEMPTED)
        assert f"stopped by SIGTERM after step {step} of {STEPS}" in err
        assert steps_saved(workdir)[-1] == step
        assert len(log(workdir)) == step
    err = finish(config, workdir, moment="exporting", code=PREEMPTED)
    assert f"going on after step 8 of {STEPS}" in err
    assert steps_saved(workdir)[-1] == STEPS
    assert not (workdir / "hf").exists()
    assert not (workdir / "done.json").exists()
    err = finish(config, workdir)
    assert f"going on after step {STEPS} of {STEPS}" in err
    assert "compiling" not in err
    assert_same_end(workdir, reference)


def test_sigterm_from_outside(uninterrupted, tmp_path):
    """`python -m s1jax.train` itself, signalled by another process."""
    config, reference = uninterrupted("plain")
    done = [0]
    for line in ("compiling", "compiled in"):
        process = start(config, tmp_path / "run")
        said = read_until(process, line)
        process.send_signal(signal.SIGTERM)
        said += process.stderr.read()
        assert process.wait(timeout=60) == PREEMPTED, said
        [step] = re.findall(rf"stopped by SIGTERM after step (\d+) of {STEPS}", said)
        assert steps_saved(tmp_path / "run")[-1] == int(step) > done[-1]
        done.append(int(step))
    finish(config, tmp_path / "run")
    assert_same_end(tmp_path / "run", reference)


# The rest goes over one stopped run, in this process.


@pytest.fixture(scope="module")
def stopped(world, tmp_path_factory):
    """(config, workdir) of a run that was asked to end after step 3 of 6, and one that was not."""
    directory = tmp_path_factory.mktemp("stopped")
    cfg = world.config(checkpoint__every_steps=1, checkpoint__keep=3)
    assert train.train(cfg, directory / "whole", DEVICES[:1]) == 0
    with pytest.MonkeyPatch.context() as patch:
        to_devices, steps = loop.to_devices, iter(range(99))

        def signalled(*args):
            if next(steps) == 2:
                signal.raise_signal(signal.SIGTERM)
            return to_devices(*args)

        patch.setattr(loop, "to_devices", signalled)
        assert train.train(cfg, directory / "stopped", DEVICES[:1]) == PREEMPTED
    assert steps_saved(directory / "stopped") == [1, 2, 3]
    return cfg, directory / "stopped", directory / "whole"


@pytest.fixture
def again(stopped, tmp_path):
    """(config, a copy of the stopped workdir, the whole one)."""
    shutil.copytree(stopped[1], tmp_path / "run")
    return stopped[0], tmp_path / "run", stopped[2]


def test_the_comparison_sees_a_different_run(world, stopped, tmp_path):
    """The control: a seed changes the bits of all that is compared."""
    whole = stopped[2]
    cfg = world.config(checkpoint__every_steps=1, checkpoint__keep=3, seed=43)
    assert train.train(cfg, tmp_path, DEVICES[:1]) == 0
    with pytest.raises(AssertionError):
        assert_same_end(tmp_path, whole)
    ours, theirs = saved_arrays(tmp_path, 6), saved_arrays(whole, 6)
    assert sorted(name for name in ours if ours[name] == theirs[name]) == [
        "['opt_state']['0']['count']",
        "['step']",
    ]
    assert exported(tmp_path)["model.safetensors"] != exported(whole)["model.safetensors"]
    assert losses(tmp_path) != losses(whole)


def test_it_goes_on_in_the_same_process_too(again, capsys):
    cfg, workdir, whole = again
    before = signal.getsignal(signal.SIGTERM)
    assert train.train(cfg, workdir, DEVICES[:1]) == 0
    assert "going on after step 3 of 6" in capsys.readouterr().err
    assert_same_end(workdir, whole)
    assert signal.getsignal(signal.SIGTERM) == before


def largest_file(directory: Path) -> Path:
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_is_named_and_passed_over(again, capsys, damaged):
    cfg, workdir, whole = again
    for step in (3, 2)[:damaged]:
        file = largest_file(workdir / "checkpoints" / str(step) / "state")
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 1
        file.write_bytes(raw)
    assert train.train(cfg, workdir, DEVICES[:1]) == 0
    err = capsys.readouterr().err
    for step in (3, 2)[:damaged]:
        assert f"checkpoint {workdir / 'checkpoints' / str(step)} is passed over: " in err
    assert f"going on after step {3 - damaged} of 6" in err
    assert_same_end(workdir, whole)


def test_without_a_good_checkpoint_it_never_starts_anew(again):
    cfg, workdir, _ = again
    for step in (1, 2, 3):
        largest_file(workdir / "checkpoints" / str(step) / "state").unlink()
    before = (workdir / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"no checkpoint is good, of step 1, 2, 3; move the dir"):
        train.train(cfg, workdir, DEVICES[:1])
    assert (workdir / "metrics.jsonl").read_text() == before


# Another run in the same workdir.


def change_data(world, directory):
    rows = [json.loads(line) for line in world.data.read_text().splitlines()]
    rows[3]["answer"] += " indeed"
    (directory / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"data__path": str(directory / "x.jsonl")}


def change_tokenizer(world, directory):
    shutil.copytree(world.model, directory / "model")
    path = directory / "model" / "tokenizer_config.json"
    told = json.loads(path.read_text())
    told["chat_template"] = told["chat_template"].replace("helpful", "careful")
    path.write_text(json.dumps(told))
    return {"model__path": str(directory / "model")}


CHANGES = {
    "rate": (
        lambda *_: {"optimizer__learning_rate": 1e-3},
        "optimizer.learning_rate: 0.003 in the checkpoint, 0.001 now",
    ),
    "data": (change_data, "data_digest: "),
    "tokenizer": (change_tokenizer, "tokenizer_digest: "),
    "epochs": (lambda *_: {"train__epochs": 3}, "train.epochs: 2 in the checkpoint, 3 now"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_refused_with_the_difference(world, again, tmp_path, name):
    change, words = CHANGES[name]
    _, workdir, whole = again
    fields = {"checkpoint__every_steps": 1, "checkpoint__keep": 3, **change(world, tmp_path)}
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    with pytest.raises(UserError) as error:
        train.train(world.config(**fields), workdir, DEVICES[:1])
    assert words in str(error.value)
    assert "--config.checkpoint.allow_changes=True" in str(error.value)
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before
    # Told to, it goes on from there, and no longer ends as the first would have.
    told = world.config(**fields, checkpoint__allow_changes=True)
    assert train.train(told, workdir, DEVICES[:1]) == 0
    assert log(workdir)[:3] == log(whole)[:3]
    assert losses(workdir) != losses(whole)
    assert json.loads((workdir / "config.json").read_text()) == told.to_dict()
    # And without being told again: the newest checkpoint is of the changed run.
    assert train.train(world.config(**fields), workdir, DEVICES[:1]) == 0


def test_the_command_refuses_and_goes_on_when_told(uninterrupted, tmp_path):
    config, reference = uninterrupted("plain")
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    rate = "--config.optimizer.learning_rate=1e-3"
    err = finish(config, workdir, rate, code=USER_ERROR)
    assert "error: the checkpoint is of another run:" in err
    assert "optimizer.learning_rate: 0.003 in the checkpoint, 0.001 now" in err
    err = finish(config, workdir, rate, "--config.checkpoint.allow_changes=True")
    assert "this run is done" in err


def test_where_it_runs_and_how_it_is_shown_may_change(world, again):
    _, workdir, whole = again
    fields = {"checkpoint__every_steps": 5, "checkpoint__keep": 1, "train__tensorboard": True}
    moved = shutil.copytree(world.model, workdir.parent / "elsewhere")
    assert train.train(world.config(**fields, model__path=str(moved)), workdir, DEVICES[:1]) == 0
    assert log(workdir) == log(whole)


def test_another_model_is_refused_even_when_told(world, again, tmp_path):
    _, workdir, _ = again
    shutil.copytree(world.model, tmp_path / "wide")
    raw = json.loads((world.model / "config.json").read_text())
    write_model(tmp_path / "wide", raw | {"intermediate_size": 256})
    other = world.config(model__path=str(tmp_path / "wide"), checkpoint__allow_changes=True)
    with pytest.raises(UserError, match=r"checkpoint of another model: .*mlp/.* 128"):
        train.train(other, workdir, DEVICES[:1])


# Another mesh.


@pytest.mark.parametrize("sizes", [{"fsdp": 4}, {"data": 2, "tensor": 2}], ids=str)
def test_a_checkpoint_of_one_mesh_goes_on_on_another(world, again, sizes):
    _, workdir, whole = again
    mesh = {f"mesh__{axis}": size for axis, size in sizes.items()}
    cfg = world.config(checkpoint__every_steps=1, checkpoint__keep=3, **mesh)
    assert train.train(cfg, workdir, DEVICES[:4]) == 0
    assert log(workdir)[:3] == log(whole)[:3]
    difference = np.abs(np.subtract(losses(workdir), losses(whole)))
    assert difference.max() < 1e-5
    assert np.ptp(losses(whole)[3:]) > 1e-2  # the control: the losses do move after the change


def test_a_checkpoint_of_a_mesh_goes_on_on_one_device(world, tmp_path, stopped):
    whole = stopped[2]
    cfg = world.config(mesh__fsdp=4, checkpoint__every_steps=1, checkpoint__keep=9)
    assert train.train(cfg, tmp_path / "run", DEVICES[:4]) == 0
    for step in (4, 5, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    (tmp_path / "run" / "done.json").unlink()
    assert train.train(world.config(), tmp_path / "run", DEVICES[:1]) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=1e-5)
