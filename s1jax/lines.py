"""A JSONL file that grows line by line, and that a process may be killed at any instant of."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s1jax.types import UserError


class AppendedLines:
    """The lines that are there, and as a context the file open for `add()` by one process.

    `name` is what messages call it, `advice` what they say of a line that is not as it was
    written. What a killed process left of a last line is cut off when the file is opened; before
    that nothing is written.
    """

    def __init__(self, path: Path, name: str, advice: str = "name a new file"):
        self.path, self.name, self._advice = path, name, advice
        self._bytes = self._whole_bytes = 0
        self._file: Any = None

    def read(self, take: Callable[[Any, int, int], None]) -> None:
        """Hands over each line's value and its first and last byte's offsets.

        A last line that is no JSON is what a killed process left; one that is, or any other line
        that `take` refuses by ValueError, KeyError or TypeError, is a UserError.
        """
        if not self.path.exists():
            return
        self._bytes, self._whole_bytes = self.path.stat().st_size, 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                end = self._whole_bytes + len(line)
                if not line.endswith(b"\n"):
                    return
                try:
                    take(_parsed(line, last=end == self._bytes), self._whole_bytes, end)
                except _Torn:
                    return
                except UserError as error:
                    raise UserError(f"{self.name}, line {number}: {error}") from error
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    what = f"is not what was written there; {self._advice}"
                    raise UserError(f"{self.name}, line {number}: {what}") from error
                self._whole_bytes = end

    def __enter__(self) -> "AppendedLines":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{self.name} is being written by another process") from error
        except OSError as error:
            raise UserError(f"{self.name} cannot be written: {error.strerror}") from error
        if os.fstat(self._file.fileno()).st_size != self._bytes:
            raise UserError(f"{self.name} was just written by another process: start again")
        self._file.truncate(self._whole_bytes)  # without a broken last line
        return self

    def add(self, line: str) -> tuple[int, int]:
        """Appends a line, which is in the file when this returns; its offsets as in `read()`."""
        start = self._whole_bytes
        self._whole_bytes += self._file.write(line.encode())
        self._file.flush()
        return start, self._whole_bytes

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


class _Torn(Exception):
    """A last line that was not written to its end."""


def _parsed(line: bytes, last: bool) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        if last:
            raise _Torn from error
        raise
