"""The command line: help, one message for a mistake, and what the exit code says."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes_train import environment

from s1jax import cli
from s1jax.types import UserError

ROOT = Path(__file__).resolve().parent.parent
VERBS = sorted(
    path.stem for path in (ROOT / "s1jax").glob("*.py") if "cli.run(main)" in path.read_text()
)
DOC = "What it does.\n\n    python -m s1jax.verb --config=X\n"


def run(verb, *flags, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", f"s1jax.{verb}", *map(str, flags)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=cwd,
        timeout=120,
    )


def config_of(*flags):
    """The config of a verb's command line."""
    values = cli.new_flags()
    cli.add_config(values)
    return cli.config_of(cli.parse(values, DOC, ["verb", *map(str, flags)]))


@pytest.fixture
def file(tmp_path):
    """Writes a config file with this body of get_config()."""

    def write(body="return c"):
        path = tmp_path / "x.py"
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        path.write_text(
            f"from s1jax import config\n\ndef get_config():\n    c = config.default()\n{lines}"
        )
        return path

    return write


# The verbs.


def test_the_verbs_are_known():
    assert [
        *("convert", "curate", "distill", "evaluate", "generate", "harness", "labels"),
        *("plan", "reproduce", "serve", "train"),
    ] == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_how_and_exits_with_0(verb):
    done = run(verb, "--help")
    assert done.returncode == 0
    assert f"python -m s1jax.{verb}" in done.stdout
    assert "Flags:" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("verb", "flags", "words"),
    [
        ("train", [], "--config is missing: for example --config=configs/mini.py"),
        ("train", ["--config=configs/mini.py"], "--workdir is missing: for example"),
        ("train", ["--config=configs/nini.py"], "configs/nini.py: there is no such file"),
        (
            "train",
            ["--config=configs/mini.py", "--workdir=pyproject.toml"],
            "--workdir=pyproject.toml is a file; it must be a directory (it may be new)",
        ),
        (
            "train",
            ["--config=configs/mini.py", "--workdir={new}", "--config.data.bacth_size=3"],
            'data.bacth_size is not a field: did you mean "batch_size"?',
        ),
        (
            "train",
            ["--config=configs/mini.py", "--workdir={new}", "--config.data.batch_size=three"],
            "data.batch_size='three' must be int, not str",
        ),
        ("train", ["--config=configs/mini.py", "--wrokdir={new}"], "Did you mean: workdir"),
        ("labels", ["--config=configs/mini.py", "--n=-1"], "--n"),
        ("labels", ["configs/mini.py"], "flags are written --name=value"),
        ("convert", ["--to={new}"], "--from is missing"),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_made(verb, flags, words, tmp_path):
    new = tmp_path / "new"
    done = run(verb, *(flag.format(new=new) for flag in flags))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not new.exists()


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    """`python -m s1jax.labels ... | head -1`"""
    command = f"{sys.executable} -m s1jax.labels --config=configs/mini.py --n=400"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment() | {"XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.stdout.startswith("--- mini-0: prompt")
    assert len(done.stdout.splitlines()) == 1
    assert done.returncode == 141
    assert done.stderr == ""


# The config of a command line.


def test_overrides_win_over_the_file_wherever_they_stand(file, monkeypatch):
    path = file("c.data.batch_size = 4\nc.train.epochs = 2\nreturn c")
    # What counts is what is handed over, not what this process was started with.
    monkeypatch.setattr(sys, "argv", ["pytest", "--config.data.batch_size=99"])
    cfg = config_of("--config.train.epochs=3", f"--config={path}", "-config.seed=7")
    assert (cfg.data.batch_size, cfg.train.epochs, cfg.seed) == (4, 3, 7)
    assert config_of(f"--config={path}").train.epochs == 2
    twice = config_of(f"--config={path}", "--config.seed=1", "--config.seed=2")
    assert twice.seed == 2
    assert config_of(f"--config={path}", "--set=seed=5").seed == 5


def test_an_override_without_a_value_is_named(file):
    with pytest.raises(UserError, match=r"--config\.data\.pack has no value: write .*=VALUE"):
        config_of(f"--config={file()}", "--config.data.pack")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("c.data.bacth_size = 4", "line 5: AttributeError: .*bacth_size.*batch_size"),
        ("c.data.batch_size = '4'", "line 5: TypeError: .*batch_size"),
        ("1 / 0", "line 5: ZeroDivisionError: division by zero"),
        ("raise ValueError('one\\ntwo')", "line 5: ValueError: one two"),
        ("import no_such_module", "line 5: ModuleNotFoundError: No module named 'no_such_module'"),
        ("return 3", r"must return a ConfigDict made by s1jax\.config\.default\(\), not int"),
        ("pass", r"must return a ConfigDict .*, not NoneType"),
        ("open('nothing.here')", "line 5: FileNotFoundError: .*nothing.here"),
    ],
)
def test_a_config_file_that_fails_is_named_with_its_line(file, body, words):
    path = file(body)
    with pytest.raises(UserError, match=f"(?s)--config={path}.*{words}") as error:
        config_of(f"--config={path}")
    assert len(str(error.value).splitlines()) == 1


def test_a_config_file_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:\n")
    with pytest.raises(UserError, match=r"SyntaxError: .*line 1"):
        config_of(f"--config={broken}")
    broken.write_text("x = 1\n")
    with pytest.raises(UserError, match=r"has no get_config\(\)"):
        config_of(f"--config={broken}")
    with pytest.raises(UserError, match="there is no such file"):
        config_of(f"--config={tmp_path}")


# Exit codes.


def exit_code(main, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    return exit_.value.code, capsys.readouterr().err


def raising(error):
    def main(argv):
        raise error

    return main


def test_the_exit_code_says_how_it_ended(capsys):
    assert exit_code(lambda argv: cli.PREEMPTED, capsys) == (75, "")
    assert exit_code(raising(UserError("no such")), capsys) == (2, "error: no such\n")
    assert exit_code(raising(KeyboardInterrupt()), capsys) == (130, "interrupted\n")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/file")
    assert exit_code(raising(full), capsys) == (2, "error: /a/file: No space left on device\n")
    for ours in (ValueError("a fault of ours"), FileNotFoundError(errno.ENOENT, "lost")):
        with pytest.raises(type(ours)):
            cli.run(raising(ours))
