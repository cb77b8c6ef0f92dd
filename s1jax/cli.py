"""What the verbs share on the command line: flags, the config, errors as sentences, exit codes.

0 done · 1 a fault of ours, with a traceback · 2 the user's mistake, one message on stderr ·
75 stopped by SIGTERM with everything saved (start again to go on).
"""

import contextlib
import errno
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from s1jax.config import Config, overridden, resolve
from s1jax.types import UserError

DONE, USER_ERROR, PREEMPTED, INTERRUPTED = 0, 2, 75, 130

# What the system refuses: nothing that a traceback of ours would explain.
REFUSED = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EISDIR, errno.ENOTDIR),
)


class Stopped(BaseException):  # no Exception: whoever catches those would go on
    """SIGTERM came; what was done by then is saved."""


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """Within it a SIGTERM raises Stopped, in work that may be left at any place."""

    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def new_flags() -> flags.FlagValues:
    """An empty set of flags that knows `--help`."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "show this help", flag_values=values, short_name="h")
    return values


def add_config(values: flags.FlagValues) -> None:
    """Adds `--config=configs/X.py`, whose fields `--config.a.b=c` override."""
    flags.DEFINE_string("config", None, "the experiment, a file as in configs/", flag_values=values)
    flags.DEFINE_multi_string(
        "set", [], "a field of it, a.b=c; --config.a.b=c is the same", flag_values=values
    )


def parse(values: flags.FlagValues, doc: str, argv: Sequence[str]) -> Any:
    """The parsed flags; prints the help and exits if asked to. UserError on a wrong flag."""
    if any(arg in ("--help", "-h", "-help") for arg in argv[1:]):
        print(f"{doc.strip()}\n\nFlags:\n{values.get_help()}")
        raise SystemExit(DONE)
    try:
        rest = values([re.sub(r"^--?config\.", "--set=", arg) for arg in argv])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: flags are written --name=value")
    return values


def config_of(values: Any) -> Config:
    """The resolved config of parsed flags. UserError if it is missing or wrong."""
    if not values.config:
        raise UserError("--config is missing: for example --config=configs/mini.py")
    overrides = {}
    for text in values.set:
        field, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--config.{field} has no value: write --config.{field}=VALUE")
        overrides[field] = value
    return resolve(overridden(_read(Path(values.config)), overrides), values.config)


def _read(path: Path) -> ConfigDict:
    """What get_config() of a file returns. UserError, with the line, if it fails."""
    if not path.is_file():
        raise UserError(f"--config={path}: there is no such file")
    try:
        names = runpy.run_path(str(path))
        if "get_config" not in names:
            raise UserError(f"--config={path} has no get_config(), as the files in configs/ have")
        config = names["get_config"]()
    except UserError:
        raise
    except Exception as error:  # the user's own code may raise anything
        what = " ".join(str(error).split())
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {f.lineno}" for f in frames if f.filename == str(path)]
        where = f"{path}{lines[-1] if lines else ''}"
        raise UserError(f"--config={where}: {type(error).__name__}: {what}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={path}: get_config() must return a ConfigDict made by"
            f" s1jax.config.default(), not {type(config).__name__}"
        )
    return config


def directory_of(values: Any, name: str) -> Path:
    """The directory that a required flag names. UserError if it is missing or is a file."""
    if not values[name].value:
        raise UserError(f"--{name} is missing: for example --{name}=/tmp/s1jax")
    if "://" in values[name].value:
        raise UserError(
            f"--{name}={values[name].value} is an address; it must be a directory, of a file system"
            " that every host has mounted"
        )
    path = Path(values[name].value).expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"--{name}={path} is a file; it must be a directory (it may be new)")
    return path


def excuse(error: Exception) -> str | None:
    """The one message of an error that is the user's or the system's; None for a fault of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in REFUSED:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return None


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Runs a verb's `main(argv)` and exits with its code; a UserError becomes one message."""
    try:
        code = main(sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough, as `head` does. Python's own flush at the exit must not
        # find the broken pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + 13
    except (UserError, OSError) as error:
        if (said := excuse(error)) is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        code = USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
