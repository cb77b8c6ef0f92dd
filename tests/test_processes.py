"""Jobs of several processes: the results of one process, and one end for all of them."""

import json
import signal

import numpy as np
import pytest
from fakes_processes import Job, lines_of
from fakes_train import exported, finish, losses, saved_arrays, steps_saved, write_world
from safetensors.numpy import load_file

from s1jax.cli import PREEMPTED, USER_ERROR
from s1jax.distributed import FAULT

STEPS = 8
GONE = "gone without a word; what was saved is safe: start all processes again to go on"
FIELDS = {
    "train__steps": STEPS,
    "checkpoint__every_steps": 2,
    "mesh__fsdp": 2,
    "mesh__tensor": -1,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def config(world, tmp_path_factory):
    return world.config_file(tmp_path_factory.mktemp("config") / "x.py", **FIELDS)


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """The workdir of one process with so many devices that nobody stopped."""
    ended = {}

    def run(devices):
        if devices not in ended:
            ended[devices] = tmp_path_factory.mktemp("alone") / "run"
            finish(config, ended[devices], devices=devices)
        return ended[devices]

    return run


def start(config, workdir, count, devices=4, **how):
    return Job(
        workdir.parent / f"logs-{workdir.name}",
        count,
        devices // count,
        [f"--config={config}", f"--workdir={workdir}", *how.pop("flags", ())],
        **how,
    )


def stepped(workdir, steps):
    return lambda: lines_of(workdir / "metrics.jsonl") >= steps


def saved(workdir):
    return lambda: bool(steps_saved(workdir))


def assert_same(workdir, alone):
    """The results of one process; collectives between processes may add in another order."""
    assert losses(workdir) == pytest.approx(losses(alone), rel=1e-6)
    assert len(losses(workdir)) == STEPS
    ours, theirs = exported(workdir), exported(alone)
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if ours[name] != theirs[name]} <= {"model.safetensors"}
    # Gloo adds up gradients in another order than the devices of one process do: last bits of the
    # weights are others (2e-7 at most was seen; between 2 and 4 processes there is no difference).
    assert difference(workdir, alone) < 2e-6


def difference(workdir, other):
    """The largest between two exported weights."""
    ours, theirs = weights(workdir), weights(other)
    return max(np.abs(ours[name] - theirs[name]).max() for name in theirs)


def weights(workdir):
    return load_file(workdir / "hf" / "model.safetensors")


def test_killed_and_started_again_two_processes_end_as_one_would(config, alone, tmp_path):
    workdir = tmp_path / "run"
    job = start(config, workdir, 2, devices=2)
    job.wait_for(saved(workdir))
    job.processes[0].kill()
    assert job.codes(60) == [-signal.SIGKILL, FAULT]
    assert job.said(1).splitlines()[-1] == f"error: process 0: {GONE}"
    before = steps_saved(workdir)[-1]
    job = start(config, workdir, 2, devices=2)
    assert job.codes() == [0, 0], job.said(0)
    assert f"going on after step {before} of {STEPS}" in job.said(0)
    assert "Traceback" not in job.said(0) + job.said(1)
    assert_same(workdir, alone(2))


def test_the_mistake_of_one_process_ends_all_with_its_sentence(config, tmp_path):
    job = start(
        config, tmp_path / "run", 2, devices=2, own={1: ["--config.data.path=/nowhere.jsonl"]}
    )
    assert job.codes(60) == [USER_ERROR, USER_ERROR]
    own, other = (job.said(index).splitlines()[-1] for index in (1, 0))
    assert own.startswith("error: ")
    assert "/nowhere.jsonl" in own
    assert other == own.replace("error: ", "error: process 1: ", 1)
    assert "Traceback" not in job.said(0) + job.said(1)


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_a_workdir_of_each_host_is_refused(config, evaluation, world, tmp_path, verb):
    flags = [f"--config={config}"] if verb == "train" else [evaluation, f"--model={world.model}"]
    flags.append(f"--workdir={tmp_path / 'one'}")
    own = {1: [f"--workdir={tmp_path / 'two'}"]}
    job = Job(tmp_path / "logs", 2, 1, flags, verb=verb, own=own)
    assert job.codes(60) == [USER_ERROR, USER_ERROR]
    for index in (0, 1):
        said = job.said(index).splitlines()[-1]
        assert "is not the same directory on all hosts" in said
        assert "process 1 cannot see" in said
        assert "Traceback" not in job.said(index)
    assert list((tmp_path / "one").iterdir()) == []
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_losses_and_export_are_those_of_one_process(config, alone, tmp_path, count):
    job = start(config, tmp_path / "run", count)
    assert job.codes() == [0] * count, job.said(0)
    assert_same(tmp_path / "run", alone(4))
    # The control: another seed is another run.
    other = start(config, tmp_path / "other", count, flags=["--config.seed=1"])
    assert other.codes() == [0] * count, other.said(0)
    assert losses(tmp_path / "other") != pytest.approx(losses(alone(4)), rel=1e-6)
    assert difference(tmp_path / "other", alone(4)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_a_worker_that_is_killed_ends_all_within_a_minute(config, tmp_path, count):
    workdir = tmp_path / "run"
    job = start(config, workdir, count, flags=["--config.train.steps=5000"])
    job.wait_for(stepped(workdir, 2))
    job.processes[1].kill()
    codes = job.codes(60)
    assert codes == [-signal.SIGKILL if index == 1 else FAULT for index in range(count)]
    for index in set(range(count)) - {1}:
        assert job.said(index).splitlines()[-1] == f"error: process 1: {GONE}"
        assert "Traceback" not in job.said(index)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 4), (4, 1), (1, 2)])
def test_sigterm_to_one_saves_and_ends_all_and_any_number_goes_on(
    config, alone, tmp_path, first, then
):
    workdir = tmp_path / "run"
    job = start(config, workdir, first)
    job.wait_for(stepped(workdir, 2))
    job.processes[-1].send_signal(signal.SIGTERM)
    codes = job.codes(60)
    if codes == [0] * first:
        pytest.skip("the run was over before the signal came")
    assert codes == [PREEMPTED] * first
    reached = steps_saved(workdir)[-1]
    assert f"stopped by SIGTERM after step {reached} of {STEPS}" in job.said(0)
    there = saved_arrays(workdir, reached)
    job = start(config, workdir, then)
    assert job.codes() == [0] * then, job.said(0)
    assert f"going on after step {reached} of {STEPS}" in job.said(0)
    assert_same(workdir, alone(4))
    assert there


# What a process hands to its devices: of rows over 2 x 2 devices, the two of its own.
SPIES = """
import dataclasses, json, os
import jax, numpy as np
from s1jax import config
from s1jax.data.batches import Arrays
from s1jax.distributed import run_together
from s1jax.mesh import make_mesh
from s1jax.training.programs import to_devices

class Spy:
    shape, read = (1, 4, 8), []
    def __getitem__(self, at):
        self.read.append(at[1].indices(4)[:2])
        return np.zeros(self.shape, np.int32)[at]

def work():
    names = [f.name for f in dataclasses.fields(Arrays)]
    to_devices(Arrays(**{name: Spy() for name in names}), make_mesh(config.Mesh()))
    print(json.dumps(sorted(set(Spy.read))))
    return 0

run_together(work)
"""


def test_a_process_hands_over_its_own_rows_alone(tmp_path):
    job = Job(tmp_path, 2, 2, program=SPIES)
    assert job.codes(60) == [0, 0], job.said(0)
    told = [json.loads((tmp_path / f"{index}.out").read_text()) for index in range(2)]
    assert told == [[[0, 1], [1, 2]], [[2, 3], [3, 4]]]
    alone = Job(tmp_path / "alone", 1, 4, program=SPIES)
    assert alone.codes(60) == [0], alone.said(0)
    assert len(json.loads((tmp_path / "alone" / "0.out").read_text())) == 4


# Evaluation.

QUESTIONS = ["What is one plus two?", "What is two plus two?", "What is six?", "Sort two one."]


@pytest.fixture(scope="module")
def evaluation(world, tmp_path_factory):
    """The flags of a small sweep."""
    directory = tmp_path_factory.mktemp("evaluation")
    path = directory / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": "3"}) + "\n" for q in QUESTIONS))
    config = world.config_file(
        directory / "x.py",
        mesh__fsdp=-1,
        evaluate__tasks=("own",),
        evaluate__budgets=(4, 12),
        evaluate__base="none",
        decode__max_thinking_tokens=16,
        decode__max_answer_tokens=4,
        decode__batch_size=2,
    )
    task = f'    c.evaluate.own_tasks = (Task("own", {str(path)!r}),)\n    return c\n'
    text = config.read_text().replace("    return c\n", task)
    config.write_text(f"from s1jax.evaluation_config import Task\n{text}")
    return f"--config={config}"


def lines(path):
    return sorted(path.read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["directory", "checkpoint"])
def test_several_processes_evaluate_as_one_does(evaluation, world, alone, tmp_path, kind):
    model = world.model if kind == "directory" else alone(4) / "checkpoints"
    flags = [evaluation, f"--model={model}"]
    for count in (1, 2):
        here = [*flags, f"--workdir={tmp_path / str(count)}"]
        job = Job(tmp_path / f"logs-{count}", count, 1, here, verb="evaluate")
        assert job.codes() == [0] * count, job.said(0)
    one, two = tmp_path / "1", tmp_path / "2"
    assert lines(one / "generations.jsonl") == lines(two / "generations.jsonl")
    assert len(lines(one / "generations.jsonl")) == 2 * len(QUESTIONS)
    for name in ("scores.jsonl", "results.json"):
        assert (one / name).read_text() == (two / name).read_text()
    assert list(two.glob("generations.*.jsonl")) == []
    # Started again, nothing is asked; what a helper left is taken up, and the rest made.
    made = lines(two / "generations.jsonl")
    (two / "generations.jsonl").write_text("")
    (two / "generations.3.jsonl").write_text("\n".join(made[:3]) + "\n")
    job = Job(tmp_path / "logs-again", 2, 1, [*flags, f"--workdir={two}"], verb="evaluate")
    assert job.codes() == [0, 0], job.said(0)
    assert "samples are there already" in job.said(0) + job.said(1)
    assert lines(two / "generations.jsonl") == made
