"""Jobs of several real processes on this machine, joined by jax.distributed over gloo."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fakes_train import environment


class Job:
    """`count` processes of a verb, or a program, with `devices` CPU devices each.

    What they say is in N.out and N.err of the directory.
    """

    def __init__(
        self,
        directory: Path,
        count: int,
        devices: int,
        flags: Sequence[str] = (),
        *,
        verb: str = "train",
        program: str | None = None,
        own: dict[int, Sequence[str]] | None = None,
    ):
        directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.logs = [directory / f"{index}.err" for index in range(count)]
        self.processes = []
        what = ["-m", f"s1jax.{verb}"] if program is None else ["-c", program]
        for index, log in enumerate(self.logs):
            said = {
                "COORDINATOR_ADDRESS": f"localhost:{port}",
                "NUM_PROCESSES": str(count),
                "PROCESS_ID": str(index),
            }
            with log.open("w") as stderr, log.with_suffix(".out").open("w") as stdout:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *what, *flags, *(own or {}).get(index, ())],
                        env=environment(devices) | (said if count > 1 else {}),
                        stdout=stdout,
                        stderr=stderr,
                    )
                )

    def wait_for(self, reached: Callable[[], bool]) -> None:
        """Returns when something is so while all processes run."""
        until = time.monotonic() + 120
        while not reached():
            assert time.monotonic() < until, self.said(0)
            assert all(p.poll() is None for p in self.processes), self.said(0)
            time.sleep(0.02)

    def codes(self, within_s: float = 150) -> list[int]:
        """The exit codes; fails if one of the processes takes longer than that."""
        until = time.monotonic() + within_s
        try:
            return [p.wait(max(0.1, until - time.monotonic())) for p in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def said(self, index: int) -> str:
        """What a process of ours wrote to stderr, without what JAX's libraries log there."""
        lines = self.logs[index].read_text().splitlines()
        noise = re.compile(
            r"[WIEF]\d{4,} |[WI]0000|WARNING: All log|\[Gloo\]|\s+@ |\*\*\* |:UNKNOWN"
        )
        return "\n".join(line for line in lines if not noise.match(line))


def lines_of(path: Path) -> int:
    """How many lines a file has; 0 if there is none."""
    return len(path.read_text().splitlines()) if path.exists() else 0
