"""What was compiled is taken up by the next process, and a cache that is no good stops nothing."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from fakes_processes import Job
from fakes_train import environment, log, write_world

from s1jax import cli, evaluate, generate, serve, train

# Compiles three programs, each asked for once, and tells how many of them came from the cache, how
# many went there, what they gave, and where that is; see `compiled`.
PROGRAMS = """
import collections, sys
from pathlib import Path
import jax
import numpy as np
from s1jax.compile_cache import keep_compiled
from s1jax.distributed import start_distributed

start_distributed()
keep_compiled(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.split("/")[-1]]))
mesh = jax.sharding.Mesh(jax.devices(), "x")
layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
for size in (64, 65, 66):
    x = jax.ShapeDtypeStruct((size, size), np.float32, sharding=layout)
    step = jax.jit(lambda x: jax.numpy.sin(x @ x) @ x).lower(x).compile()
    ones = jax.make_array_from_callback(x.shape, layout, lambda _: np.ones(x.shape, x.dtype))
    print(size, np.asarray(step(ones).addressable_data(0)).sum())
options = jax.config
print(options.jax_compilation_cache_dir, options.jax_compilation_cache_max_size,
      options.jax_persistent_cache_min_compile_time_secs)
print(counts["cache_hits"], counts["cache_misses"], counts["compile_requests_use_cache"])
"""
COUNT = 3
# The same of s1jax.train.
TRAIN = """
import collections, sys
import jax
from s1jax import train

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.split("/")[-1]]))
code = train.main(sys.argv)
print(counts["cache_hits"], counts["cache_misses"], counts["compile_requests_use_cache"])
sys.exit(code)
"""
JAX_OWN = {
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_COMPILATION_CACHE_MAX_SIZE",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
}
ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # what is kept depends on no clock


def run(program, cache, *flags, **more):
    """The lines that a program prints, and what it says on stderr.

    Its user has this XDG_CACHE_HOME, and has set nothing else of JAX's cache.
    """
    own = {name: value for name, value in environment().items() if name not in JAX_OWN}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, flags)],
        env=own | {"XDG_CACHE_HOME": str(cache)} | more,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def options(cache, *flags, **more):
    """[directory, size, shortest time] of the cache, as texts."""
    lines, _ = run(PROGRAMS, cache, *flags, **more)
    return lines[-2].split(" ")


def compiled(cache, *flags, **more):
    """(hits, misses, requests), the results of the programs, and what was said."""
    lines, err = run(PROGRAMS, cache, *flags, **ALL, **more)
    assert len(lines) == COUNT + 2
    return tuple(map(int, lines[-1].split())), lines[:COUNT], err


def programs(cache):
    return sorted((cache / "s1jax" / "compiled").glob("*-cache"))


def used_file(program):
    """Beside a program, when it was used last."""
    return program.with_name(program.name.removesuffix("-cache") + "-atime")


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """The cache that a first process leaves, and its results."""
    cache = tmp_path_factory.mktemp("cold")
    counts, results, err = compiled(cache)
    assert counts == (0, COUNT, COUNT), err  # the control: an empty cache gives nothing
    assert len(programs(cache)) == COUNT
    return cache, results


@pytest.fixture
def cache(cold, tmp_path):
    """The same for one test, in its place: the path is part of the key that JAX gives a program."""
    shutil.copytree(cold[0], tmp_path / "copy")
    yield cold[0]
    shutil.rmtree(cold[0])
    shutil.copytree(tmp_path / "copy", cold[0])


# --- Where ---


def test_programs_are_kept_in_the_users_cache(tmp_path):
    directory, size, shortest = options(tmp_path)
    assert directory == str(tmp_path / "s1jax" / "compiled")
    assert (int(size), float(shortest)) == (2 * 2**30, 0.1)
    assert (tmp_path / "s1jax" / "compiled").stat().st_mode & 0o077 == 0  # what lies there is run
    directory, _, _ = options("", HOME=str(tmp_path))
    assert directory == str(tmp_path / ".cache" / "s1jax" / "compiled")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("JAX_COMPILATION_CACHE_DIR", "{tmp}/own", ["{tmp}/own", "-1", "1.0"]),
        ("JAX_COMPILATION_CACHE_DIR", "", ["", "-1", "1.0"]),
        ("JAX_ENABLE_COMPILATION_CACHE", "false", ["None", "-1", "1.0"]),
        ("JAX_COMPILATION_CACHE_MAX_SIZE", "7", ["{ours}", "7", "0.1"]),
        ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3", ["{ours}", str(2 * 2**30), "3.0"]),
    ],
)
def test_what_the_user_set_wins(tmp_path, name, value, expected):
    ours = tmp_path / "cache" / "s1jax" / "compiled"
    found = options(tmp_path / "cache", **{name: value.format(tmp=tmp_path)})
    assert found == [text.format(tmp=tmp_path, ours=ours) for text in expected]
    assert ours.exists() == ("{ours}" in expected)


def test_a_job_of_several_processes_has_a_directory_in_its_workdir(tmp_path, monkeypatch):
    """The first one writes, and takes it up the next time.

    To others a CPU's program is one of devices that they do not have; JAX gives it another key.
    """
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workdir = tmp_path / "run"
    told = {}
    for start in ("cold", "warm"):
        job = Job(tmp_path / start, 2, 1, [str(workdir)], program=PROGRAMS)
        assert job.codes() == [0, 0], job.said(0) + job.said(1)
        told[start] = [log.with_suffix(".out").read_text().splitlines() for log in job.logs]
    for lines in told["warm"]:
        assert lines[-2].split(" ")[:2] == [str(workdir / "compiled"), "-1"]
        assert lines[:-2] == told["cold"][0][:-2]
    assert told["cold"][0][-1] == f"0 {COUNT} {COUNT}"  # the control
    assert told["warm"][0][-1] == f"{COUNT} 0 {COUNT}"
    assert all(lines[-1].split()[1] == "0" for lines in (told["cold"][1], told["warm"][1]))
    assert not (tmp_path / "cache").exists()
    directory, _, _ = options(tmp_path / "cache", workdir)  # of one process
    assert directory == str(tmp_path / "cache" / "s1jax" / "compiled")


# --- What it does ---


def test_a_second_process_takes_up_what_the_first_compiled(cold):
    cache, results = cold
    before = programs(cache)
    counts, again, err = compiled(cache)
    assert counts == (COUNT, 0, COUNT)
    assert again == results and programs(cache) == before
    assert "cache" not in err  # nobody is told of what is as it should be


@pytest.mark.parametrize("how", ["a file is in its place", "there is no home"])
def test_a_cache_that_cannot_be_used_is_one_sentence(cold, tmp_path, how):
    (tmp_path / "file").write_text("")
    cache, reason = tmp_path / "file", "Not a directory"
    if how == "there is no home":
        cache, reason = "~nobody-of-this-name", "Could not determine home directory."
    counts, results, err = compiled(cache)
    assert counts[:2] == (0, 0) and results == cold[1]
    assert [line for line in err.splitlines() if "cache" in line or "kept" in line] == [
        f"compiled programs are not kept: {cache}/s1jax/compiled cannot be used ({reason})"
    ]


def test_programs_that_cannot_be_read_are_compiled_again(cold, cache):
    """Cut in the middle, or overwritten: JAX says so of each, and the run goes on."""
    for number, path in enumerate(programs(cache)):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if number % 2 else b"\0" * len(whole))
    counts, results, err = compiled(cache)
    assert counts == (0, COUNT, COUNT) and results == cold[1]
    assert "Error reading persistent compilation cache entry" in err


def test_what_was_cut_short_in_its_writing_is_made_again(cold, cache):
    """As a killed process leaves it: without the file that says when it was used last."""
    half, fresh, _ = programs(cache)
    for path in (half, fresh):
        used_file(path).unlink()
    half.write_bytes(half.read_bytes()[:100])
    an_hour_ago = time.time() - 3600
    os.utime(half, (an_hour_ago, an_hour_ago))
    options(cache, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="1000")
    assert not half.exists()
    assert fresh.exists()  # it may be another process's, which is at it just now
    counts, results, err = compiled(cache)
    assert counts == (COUNT - 1, 1, COUNT)
    assert results == cold[1] and "cache" not in err
    assert half.stat().st_size > 100 and used_file(half).exists()


@pytest.mark.parametrize("room", [5_000, 15_000])
def test_what_was_not_used_for_long_makes_room(cache, room):
    """Of 10,000 bytes, where a program is to be written and there is room for it, or is not."""
    kept = programs(cache)
    size = sum(path.stat().st_size for path in kept)
    for path in (kept[0], used_file(kept[0])):
        path.unlink()
    old = kept[0].with_name("old-cache")
    old.write_bytes(b"\0" * 10_000)
    used_file(old).write_bytes((time.time_ns() - 3600 * 10**9).to_bytes(8, "little"))
    counts, _, err = compiled(cache, JAX_COMPILATION_CACHE_MAX_SIZE=str(size + room))
    assert counts == (COUNT - 1, 1, COUNT)
    assert old.exists() == used_file(old).exists() == (room > 10_000)
    assert all(path.exists() for path in kept) and "cache" not in err


# --- The verbs ---


@pytest.mark.parametrize("verb", [train, evaluate, generate, serve])
def test_verbs_keep_what_they_compile(verb, tmp_path, monkeypatch):
    """From before they do anything, with the directory that the processes of a job share."""
    told = []
    workdir = [tmp_path] if verb in (train, evaluate) else []
    work = {train: "run_together", evaluate: "run_together", generate: "generate", serve: "opened"}
    monkeypatch.setattr(verb, "keep_compiled", lambda *args: told.append(("kept", *args)))

    def worked(*_):
        told.append("worked")
        raise cli.Stopped

    monkeypatch.setattr(verb, work[verb], worked)
    flags = [f"--workdir={path}" for path in workdir] or ["--model=mini"]
    try:
        verb.main(["s1jax", "--config=configs/mini.py", *flags])
    except cli.Stopped:
        assert verb is not serve
    assert told == [("kept", *workdir), "worked"]


def test_to_grade_nothing_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "keep_compiled", lambda *_: pytest.fail("JAX was looked for"))
    monkeypatch.setattr(evaluate, "run_together", lambda _: cli.DONE)
    flags = ["--config=configs/mini.py", f"--workdir={tmp_path}", "--grade"]
    assert evaluate.main(["s1jax", *flags]) == cli.DONE


def test_a_second_training_takes_up_its_step(tmp_path):
    world = write_world(tmp_path / "world")
    config = world.config_file(tmp_path / "x.py", train__steps=2, mesh__fsdp=-1)
    told = []
    for start in ("cold", "warm"):
        flags = [f"--config={config}", f"--workdir={tmp_path / start}"]
        lines, err = run(TRAIN, tmp_path / "cache", *flags, **ALL)
        assert "cache" not in err
        told.append(tuple(map(int, lines[-1].split())))
    (hits, misses, requests), warm = told
    assert hits == 0 and misses == requests > 10
    assert warm == (misses, 0, requests)
    assert log(tmp_path / "warm") == log(tmp_path / "cold")
    assert any(path.name.startswith("jit_step-") for path in programs(tmp_path / "cache"))
