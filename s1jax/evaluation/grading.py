"""Whether an answer is right, decided on this machine: by plain rules first, else by math-verify.

Model output is hostile. The rules here only look at text; math-verify runs in worker processes
without secrets (`verifier`), and what looks like code or is very long is not given to it at all.
Reference: s1 grades with a paid judge; the issue's bounds are 3 s and 1 GiB for an item.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from s1jax.evaluation.answers import final_answer
from s1jax.evaluation.equality import MAX_CHARS, Pairs, compare, looks_hostile, plain
from s1jax.types import UserError

VERIFIER = Path(__file__).with_name("verifier.py")
START_S = 120.0  # for a worker to load sympy from a slow disk
DECIDING = (  # modules
    *("answers", "equality", "grading", "marking", "parity", "quantities", "structure"),
    "verifier",
)
OF_THE_TIME = 0.9  # after which a child ends itself; its worker is killed if it is silent then
WAITING = 64  # items given to the workers ahead of the one whose verdict is due


def version() -> str:
    """A digest of all that decides about a verdict, so that none is kept when that has changed.

    The modules of extraction and grading themselves, so that nobody has to think of it.
    """
    sources = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in DECIDING]
    libraries = [importlib.metadata.version(name) for name in ("math-verify", "sympy")]
    return hashlib.sha256(b"\0".join(sources) + repr(libraries).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what said so."""

    correct: bool | None  # None: could not be decided
    reason: str  # what verdicts are counted by: "same number", "math-verify", "timeout", ...


class Grader:
    """Grades answers; `with Grader() as grader: grader.grade(pairs)` ends its processes.

    With `rounded` a decimal of at least three digits stands for all that round to it, which is
    right for measured values; without it for at least six digits (0.333333 is 1/3).
    """

    def __init__(
        self,
        workers: int = 2,
        timeout_s: float = 3.0,
        memory_bytes: int = 2**30,
        rounded: bool = False,
    ) -> None:
        assert workers >= 1
        assert timeout_s > 0
        self._limits = timeout_s, memory_bytes
        self._digits = 3 if rounded else 6
        self._count = workers
        self._open = False

    def __enter__(self) -> "Grader":
        self._open = True
        self._directory = tempfile.TemporaryDirectory(prefix="s1jax-grading-")
        # The worker used last is used next: an idle one is never started.
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._workers = [_Worker(self._directory.name, *self._limits) for _ in range(self._count)]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = concurrent.futures.ThreadPoolExecutor(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()
        for worker in self._workers:
            worker.reap()
        self._directory.cleanup()

    def grade(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Verdict]:
        """The verdicts on pairs of a reference answer and an attempt (its text or its answer).

        In the order of the pairs, each as soon as it and those before it are there.
        Raises UserError if math-verify cannot be loaded.
        """
        assert self._open, "a Grader is used in a with statement"
        due: collections.deque[Verdict | concurrent.futures.Future[Verdict]] = collections.deque()
        for reference, attempt in pairs:
            due.append(self._begin(reference, attempt))
            while due and (len(due) > WAITING or isinstance(due[0], Verdict) or due[0].done()):
                yield _result(due.popleft())
        while due:
            yield _result(due.popleft())

    def _begin(
        self, reference: str, attempt: str
    ) -> "Verdict | concurrent.futures.Future[Verdict]":
        """The verdict, if the rules have one, or what math-verify is going to say."""
        if not reference.strip():
            return Verdict(None, "no reference")
        if len(reference) > 10 * MAX_CHARS:
            return Verdict(None, "reference too long")
        if len(attempt) <= MAX_CHARS and plain(reference) == plain(attempt):
            return Verdict(True, "same text")
        answer = final_answer(attempt)
        if answer is None:
            return Verdict(False, "no answer")
        if len(answer) > max(10 * MAX_CHARS, 2 * len(reference)):
            return Verdict(False, "too long")
        said = compare(reference, answer, self._digits)
        if isinstance(said, tuple):
            return Verdict(*said)
        if why := looks_hostile(reference):
            return Verdict(None, f"reference {why}")
        if why := looks_hostile(answer):
            return Verdict(False, why)
        return self._threads.submit(self._verify, said)

    def _verify(self, pairs: Pairs) -> Verdict:
        worker = self._idle.get()
        try:
            outcome = worker.ask(pairs)
        finally:
            self._idle.put(worker)
        if outcome in ("equal", "different"):
            return Verdict(outcome == "equal", "math-verify")
        return Verdict(None, outcome)


class _Worker:
    """A process that runs `verifier`: started when it is needed, killed when it is silent."""

    def __init__(self, directory: str, timeout_s: float, memory_bytes: int) -> None:
        self._directory = directory
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def ask(self, pairs: Pairs) -> str:
        """What the worker says of these pairs: a word of verifier.OUTCOMES, or "crashed"."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(pairs).encode() + b"\n")
            said = _hear(process, self._timeout_s)
        except OSError:
            said = ""
        if not said:  # None: it is silent; "": it is gone
            self.kill()
            self.reap()
            return "timeout" if said is None else "crashed"
        return said

    def close(self) -> None:
        """Ends what it does, from another thread; it can do nothing more."""
        self._closed = True
        self.kill()

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self) -> str:
        """What the killed process had to say on stderr."""
        process, self._process = self._process, None
        return process.communicate()[1].decode(errors="replace").strip() if process else ""

    def _start(self) -> "subprocess.Popen[bytes]":
        seconds, memory = str(OF_THE_TIME * self._timeout_s), str(self._memory_bytes)
        # -P, -s: nothing is imported from where it runs. A fixed hash seed: sympy's order of
        # terms must not depend on it. No variable of ours is handed on: there may be keys.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", str(VERIFIER), seconds, memory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=self._directory,
            env={"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        ready = not self._closed and _hear(self._process, START_S) == "ready"
        if not ready:
            self.kill()
            lines = self.reap().splitlines() or ["it does not say why"]
            if self._closed:
                raise concurrent.futures.CancelledError
            raise UserError(
                f"answers cannot be graded: math-verify does not load ({lines[-1]}):"
                ' try pip install "math-verify>=0.9"'
            )
        return self._process


def _hear(process: "subprocess.Popen[bytes]", seconds: float) -> str | None:
    """The next word; "" if the process is gone, None if it says nothing for so long."""
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(seconds * 1000):
        return None
    return os.read(process.stdout.fileno(), 4096).decode().strip()


def _result(due: Verdict | concurrent.futures.Future[Verdict]) -> Verdict:
    return due if isinstance(due, Verdict) else due.result()
