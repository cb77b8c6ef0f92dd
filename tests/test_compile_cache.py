"""What was compiled is taken up by the next process, and a cache that is no good stops nothing."""

import json
import os
import subprocess
import sys
import time

import pytest
from fakes_processes import Job
from fakes_train import environment, log, write_world

OPTIONS = ("dir", "max_size")

# Runs a verb and tells how many of its programs came from the cache, and how many went there.
COUNTING = """
import collections, json, sys
import jax
from s1jax.{verb} import main

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name]))
code = main(sys.argv)
told = {{key: counts["/jax/compilation_cache/cache_" + key] for key in ("hits", "misses")}}
print("counts", json.dumps(told))
sys.exit(code)
"""

# Where a process would keep what it compiles, and up to which size.
ASKING = """
import sys
from pathlib import Path
import jax
from s1jax.compile_cache import keep_compiled

keep_compiled(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
print(jax.config.jax_compilation_cache_dir)
print(jax.config.jax_compilation_cache_max_size)
print(jax.config.jax_persistent_cache_min_compile_time_secs)
"""


def surroundings(home, **more):
    """The environment of a user with this cache, who has set nothing of JAX's."""
    own = {"JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"}
    own |= {"JAX_ENABLE_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_MAX_SIZE"}
    kept = {name: value for name, value in environment().items() if name not in own}
    return kept | {"XDG_CACHE_HOME": str(home)} | more


def asked(home, *args, **more):
    """Directory, size and shortest time, and what was said; all texts."""
    done = subprocess.run(
        [sys.executable, "-c", ASKING, *map(str, args)],
        env=surroundings(home, **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.split("\n")[:3], done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def config(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "x.py"
    return world.config_file(path, train__steps=2, mesh__fsdp=-1)


def train(config, workdir, home, **more):
    """How many programs came from the cache and went there, and what was said."""
    done = subprocess.run(
        [*(sys.executable, "-c", COUNTING.format(verb="train"))]
        + [f"--config={config}", f"--workdir={workdir}"],
        env=surroundings(home, **more),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return counted(done.stdout), done.stderr


def counted(out):
    """(hits, misses) as the program above told them."""
    (line,) = [line for line in out.splitlines() if line.startswith("counts ")]
    told = json.loads(line.removeprefix("counts "))
    return told["hits"], told["misses"]


@pytest.fixture(scope="module")
def cold(config, tmp_path_factory):
    """A cache with what one run left there, how many programs that were, and the workdir."""
    home, workdir = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("cold")
    (hits, misses), err = train(config, workdir, home, **ALL)
    assert "not kept" not in err
    assert hits == 0 and misses > 0  # the control: an empty cache gives nothing
    assert len(programs(home)) == misses
    return home, misses, workdir


ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # what is kept depends on no clock


def programs(home):
    return sorted((home / "s1jax" / "compiled").glob("*-cache"))


# --- Where ---


def test_programs_are_kept_in_the_users_cache(tmp_path):
    (directory, size, shortest), said = asked(tmp_path)
    assert directory == str(tmp_path / "s1jax" / "compiled")
    assert (int(size), float(shortest)) == (2 * 2**30, 0.1)
    assert "not kept" not in said
    assert (tmp_path / "s1jax" / "compiled").stat().st_mode & 0o077 == 0  # what lies there is run


def test_without_a_cache_of_its_own_it_is_in_the_home(tmp_path):
    (directory, _, _), _ = asked("", HOME=str(tmp_path))
    assert directory == str(tmp_path / ".cache" / "s1jax" / "compiled")


def test_what_the_user_set_wins(tmp_path):
    home = tmp_path / "home"
    (directory, size, shortest), _ = asked(home, JAX_COMPILATION_CACHE_DIR="/elsewhere")
    assert (directory, size, float(shortest)) == ("/elsewhere", "-1", 1.0)  # JAX's own
    (directory, _, _), _ = asked(home, JAX_ENABLE_COMPILATION_CACHE="false")
    assert directory == "None"
    assert not home.exists()
    limits = {"JAX_COMPILATION_CACHE_MAX_SIZE": "7"}
    limits |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "3"}
    (directory, size, shortest), _ = asked(home, **limits)
    assert directory.startswith(str(home))
    assert (int(size), float(shortest)) == (7, 3.0)


def test_several_processes_share_a_directory_of_their_workdir(tmp_path):
    home, workdir = tmp_path / "home", tmp_path / "run"
    (directory, size, _), _ = asked(home, workdir, JOIN_HOSTS="1")
    assert (directory, size) == (str(workdir / "compiled"), "-1")
    assert not home.exists()
    (directory, _, _), _ = asked(home, workdir)  # the control: one process
    assert directory.startswith(str(home))


@pytest.mark.parametrize("how", ["a file is there", "nobody's home"])
def test_a_cache_that_cannot_be_used_is_one_sentence(tmp_path, how):
    (tmp_path / "file").write_text("")
    home, reason = str(tmp_path / "file"), "Not a directory"
    if how == "nobody's home":
        home, reason = "~nobody-has-this-name", "Could not determine home directory."
    (directory, _, _), said = asked(home)
    assert directory == "None"
    sentences = [line for line in said.splitlines() if "compiled programs" in line]
    assert sentences == [
        f"compiled programs are not kept: {home}/s1jax/compiled cannot be used ({reason})"
    ]


# --- What it does ---


def test_a_second_process_takes_up_what_the_first_compiled(cold, config, tmp_path):
    home, kept, first = cold
    before = programs(home)
    (hits, misses), err = train(config, tmp_path / "run", home, **ALL)
    assert (hits, misses) == (kept, 0)
    assert programs(home) == before
    assert "cache" not in err.lower()  # nobody is told of what is as it should be
    assert log(tmp_path / "run") == log(first)


def test_another_program_is_not_taken_for_it(cold, config, tmp_path):
    """The control: a wider step has its own program, and more than that is not compiled again."""
    other = tmp_path / "other.py"
    other.write_text(config.read_text().replace("    return c", "    c.data.row_length=320\n    return c"))
    home, kept, _ = cold
    (hits, misses), _ = train(other, tmp_path / "run", home, **ALL)
    assert misses > 0 and hits < kept


def test_a_run_goes_on_without_a_cache(cold, config, tmp_path):
    (tmp_path / "file").write_text("")
    counts, err = train(config, tmp_path / "run", tmp_path / "file", **ALL)
    assert counts == (0, 0)
    assert err.count("compiled programs are not kept") == 1
    assert log(tmp_path / "run") == log(cold[2])


def test_a_run_goes_on_with_programs_that_cannot_be_read(cold, config, tmp_path):
    """Cut in the middle, or overwritten: JAX says so, and compiles."""
    home, kept, first = cold
    own = copied(home, tmp_path / "home")
    damaged = programs(own)
    for number, path in enumerate(damaged):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if number % 2 else b"\0" * len(whole))
    (hits, _), err = train(config, tmp_path / "run", own, **ALL)
    assert hits == 0
    assert err.count("Error reading persistent compilation cache entry") == kept
    assert log(tmp_path / "run") == log(first)


def test_what_was_cut_short_in_its_writing_is_made_again(cold, config, tmp_path):
    """A killed process leaves a program without the file beside it that says when it was used."""
    home, kept, _ = cold
    own = copied(home, tmp_path / "home")
    half, fresh = [path for path in programs(own) if path.name.startswith("jit_")][:2]
    for path in (half, fresh):
        path.with_name(path.name.removesuffix("-cache") + "-atime").unlink()
    half.write_bytes(half.read_bytes()[:100])
    an_hour_ago = time.time() - 3600
    os.utime(half, (an_hour_ago, an_hour_ago))
    asked(own)
    assert not half.exists()
    assert fresh.exists()  # another process may be writing it just now
    (hits, misses), err = train(config, tmp_path / "run", own, **ALL)
    assert (hits, misses) == (kept - 1, 1)
    assert "Error reading" not in err
    assert half.stat().st_size > 100


def test_the_oldest_programs_make_room(cold, config, tmp_path):
    home, _, _ = cold
    own = copied(home, tmp_path / "home")
    size = sum(path.stat().st_size for path in programs(own))
    other = tmp_path / "other.py"
    other.write_text(config.read_text().replace("    return c", "    c.data.row_length=320\n    return c"))
    (_, misses), err = train(
        other, tmp_path / "run", own, **ALL, JAX_COMPILATION_CACHE_MAX_SIZE=str(size)
    )
    assert misses > 0
    assert sum(path.stat().st_size for path in programs(own)) <= size
    assert "persistent compilation cache" not in err


def copied(home, to):
    """Another cache with the same in it."""
    import shutil

    shutil.copytree(home, to)
    return to


def test_processes_of_a_job_take_up_what_the_first_of_them_wrote(config, tmp_path):
    """Each has devices of its own, and all the same programs."""
    for start in range(2):
        job = Job(
            tmp_path / f"logs{start}",
            2,
            1,
            [f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--config.train.steps={2 + start}"],
            program=COUNTING.format(verb="train"),
        )
        assert job.codes() == [0, 0], job.said(0)
