"""Where the time of a run goes, reckoned without making host or device wait for it.

What divides the time is the device. From the end of a step to the end of the next it first stands
idle and then works: the work is the good part, and the idle time is laid to what the host did in
it. What the host does while the device works costs nothing and is not told. Of a job of several
processes this is what process 0 saw; that its devices wait for the others' counts as work.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from s1jax.progress import format_seconds

STEP_PARTS = ("data", "device", "save", "other")  # what a step takes; `device` is the good one
PARTS = ("load", "compile", *STEP_PARTS, "lost")  # lost: in steps that had to be done again

SECONDS_BETWEEN_LOOKS = 1e-3


class Stopwatch:
    """Divides the time since it was made into parts, each second into one of them."""

    def __init__(self) -> None:
        self._told = time.monotonic()  # up to then
        self._spans: list[tuple[str, float, float]] = []

    @contextlib.contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """Within it the host is at this part. Parts lie one after the other, never in another."""
        assert part in PARTS, part
        started = time.monotonic()
        try:
            yield
        finally:
            self._spans.append((part, started, time.monotonic()))

    def step(self, dispatched: float, ended: float) -> dict[str, float]:
        """The parts, in seconds, of the time from what was told before to the end of a step.

        The step was handed to the device and ended at these instants of time.monotonic().
        """
        began = min(max(dispatched, self._told), ended)  # the device was free from `_told` on
        parts = self._idle(began)
        parts["device"] = ended - began
        self._told = ended
        return parts

    def rest(self) -> dict[str, float]:
        """The parts of the time from what was told before to now, in which no step ran."""
        return self._idle(time.monotonic())

    def _idle(self, until: float) -> dict[str, float]:
        parts = dict.fromkeys(PARTS, 0.0)
        for part, started, ended in self._spans:
            parts[part] += max(0.0, min(ended, until) - max(started, self._told))
        parts["other"] += until - self._told - sum(parts.values())
        self._told = until
        self._spans = [span for span in self._spans if span[2] > until]
        return parts


class Watcher:
    """Notes when steps end, in a thread, so that the loop need not wait for them.

    It looks again and again and never waits inside JAX: where another process of the job is gone
    a step may never end, and a thread that waits for it would keep this process from ending.
    """

    def __init__(self) -> None:
        self._steps: queue.SimpleQueue[tuple[Any, Future[float]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="s1jax steps", daemon=True).start()

    def end_of(self, array: Any) -> "Future[float]":
        """The instant (time.monotonic()) at which this array of a step is there, later."""
        ended: Future[float] = Future()
        self._steps.put((array, ended))
        return ended

    def close(self) -> None:
        """Ends the thread after the last step."""
        self._steps.put(None)

    def _watch(self) -> None:
        while (step := self._steps.get()) is not None:
            array, ended = step
            try:
                while not array.is_ready():
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                ended.set_result(time.monotonic())
            except Exception as error:  # the loop's, which asks for the result
                ended.set_exception(error)


def times_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by part of some lines of metrics.jsonl, each of which has the time since the last."""
    return {part: sum(line.get(f"{part}_s") or 0.0 for line in lines) for part in PARTS}


def added(*times: Mapping[str, float]) -> dict[str, float]:
    """Seconds by part, of all of them together."""
    return {part: sum(t.get(part, 0.0) for t in times) for part in PARTS}


def goodput(times: Mapping[str, float]) -> float:
    """The share of the time in which the device worked on steps that count."""
    return times["device"] / sum(times.values())


def sentence(times: Mapping[str, float]) -> str:
    """`goodput 91.3% of 12 min 07 s: load 4.1%, compile 2.0%, ...`: all but the step's own."""
    whole = sum(times.values())
    others = ", ".join(f"{part} {times[part] / whole:.1%}" for part in PARTS if part != "device")
    return f"goodput {goodput(times):.1%} of {format_seconds(whole)}: {others}"
