"""The engine in a thread of its own; samples are asked for and given up from an event loop."""

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence

from s1jax.decoding.budget import Rules
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import Branch, History, Output, Request

# What a sample's listener is told, in the event loop: the steps of a segment, the whole sample, or
# why there will be none.
Told = History | Output | BaseException
Listener = Callable[[str, Told], None]


class Stopped(Exception):
    """The server has stopped: this sample will not be finished."""


class Worker:
    """Answers requests as they come, many at a time, until it is closed.

    It is the source of the engine's run: what is asked for is taken up at the next segment, and
    what is given up leaves its row there. Rows go to one sample of each request in turn, so that
    one with many samples does not keep those that come after it from their first.
    """

    def __init__(
        self,
        engine: Engine,
        reserve: Sequence[Rules],
        loop: asyncio.AbstractEventLoop,
        failed: Callable[[BaseException], None],
    ):
        """`failed` is called in the loop when the engine fails; nothing is answered after it."""
        self._engine, self._reserve, self._loop, self._failed = engine, reserve, loop, failed
        self._changed = threading.Condition()  # guards all that follows
        self._waiting: deque[deque[Request]] = deque()  # the samples of each, the next one first
        self._given_up: set[str] = set()
        self._listeners: dict[str, Listener] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # --- In the event loop ---

    def ask(self, requests: Sequence[Request], listener: Listener) -> None:
        """Asks for samples; the listener is told of each until it is whole or given up.

        Raises Stopped if there will be no more.
        """
        with self._changed:
            if self._closed:
                raise Stopped
            self._waiting.append(deque(requests))
            self._listeners |= dict.fromkeys((request.id for request in requests), listener)
            self._changed.notify()

    def give_up(self, ids: Collection[str]) -> None:
        """Tells nothing more of these samples, and frees the rows of those that have one."""
        with self._changed:
            alive = [i for i in ids if self._listeners.pop(i, None) is not None]
            waiting = {request.id for group in self._waiting for request in group}
            if not waiting.isdisjoint(ids):
                left = (deque(r for r in group if r.id not in ids) for group in self._waiting)
                self._waiting = deque(group for group in left if group)
            self._given_up |= {i for i in alive if i not in waiting}

    @property
    def samples(self) -> int:
        """How many wait or run."""
        with self._changed:
            return len(self._listeners)

    async def close(self, timeout_s: float) -> None:
        """Takes no more requests, gives up those that there are, and waits for the thread."""
        with self._changed:
            self._closed = True
            ids = list(self._listeners)
            self._changed.notify()
        self.give_up(ids)
        await asyncio.to_thread(self._thread.join, timeout_s)

    # --- In the thread ---

    def take(self, free: int, idle: bool) -> Sequence[Request] | None:
        """See decoding.live.Source."""
        with self._changed:
            while idle and not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            taken = self._in_turn(free)
            for request in taken:
                group = self._waiting.popleft()
                assert group.popleft() is request
                if group:
                    self._waiting.append(group)
            return taken

    def coming(self, count: int) -> Sequence[Request]:
        """See decoding.live.Source."""
        with self._changed:
            return self._in_turn(count)

    def _in_turn(self, count: int) -> list[Request]:
        """The next so many: the first of each group, then the second of each, and so on."""
        turns = itertools.zip_longest(*self._waiting)
        everyone = (request for turn in turns for request in turn if request is not None)
        return list(itertools.islice(everyone, count))

    def given_up(self) -> Collection[str]:
        """See decoding.live.Source."""
        with self._changed:
            gone, self._given_up = self._given_up, set()
            return gone

    def _work(self) -> None:
        try:
            run = self._engine.run((), watch=self._watch, source=self, reserve=self._reserve)
            for output in run:
                self._tell(output.request.id, output, last=True)
        except BaseException as error:
            self._fail(error)

    def _watch(self, request: Request, _: Branch | None, part: History) -> None:
        self._tell(request.id, part)

    def _tell(self, name: str, what: Told, last: bool = False) -> None:
        with self._changed:
            listener = self._listeners.get(name)
            if last:
                self._listeners.pop(name, None)
        if listener is not None:
            self._call(listener, name, what)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._closed = True
            left, self._listeners = self._listeners, {}
            self._waiting.clear()
        self._call(self._failed, error)
        for name, listener in left.items():
            self._call(listener, name, error)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody has waited for us
            self._loop.call_soon_threadsafe(function, *args)
