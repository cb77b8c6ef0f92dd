"""`collect()`: asks a teacher everything that has no row yet, and writes rows as answers come.

What fails on its way (a busy server, a broken connection, half a reply) is asked again after a
wait that grows, with jitter, and never shorter than the server asks for; if it keeps failing it
gets no row, so that the next run asks it. What the server says no to gets a row that says so, once
somebody else is answered, and is not asked again. A reply that is cut, blocked or without thinking
is asked again a few times: where sampling is random another may be whole; the last one is recorded
as it is.
"""

import asyncio
import json
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from s1jax.curation_config import Teacher
from s1jax.data.asked import Asked, Failed, Passing, Prompt, Refused, Reply, Unknown, kind_of
from s1jax.data.limits import Over, Pace, Purse
from s1jax.data.store import TraceStore
from s1jax.progress import Progress, format_seconds, say
from s1jax.types import Trace, UserError

LONGEST_WAIT_S = 60.0  # between tries, unless the server asks for more
GRACE_S = 20.0  # for answers under way when the process is asked to end
_AT_ONCE = 4096  # prompts given together to a teacher that wants many
_GIVE_UP = 3  # times the concurrency: so many prompts failed in a row, the server is not there
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_REFUSALS = 10  # without an answer between them: the request is wrong, or the key, no question
_KINDS_TOLD, _KINDS = 5, 50  # kinds of failures: told when they are met first, counted apart


@dataclass
class Counts:
    """What a run did."""

    rows: int = 0  # written
    good: int = 0  # of them with thinking and answer
    unanswered: int = 0  # failed on their way to the last try
    unknown: int = 0  # the teacher has nothing to say to
    cost: float = 0.0  # dollars, failed tries included
    failures: Counter[str] = field(default_factory=Counter)  # tries that brought nothing, by kind
    ended: str = ""  # why the run stopped before all was asked; "" if it did not


def collect(
    prompts: Iterable[Prompt],
    teacher: Asked,
    cfg: Teacher,
    store: TraceStore,
    *,
    verb: str = "distill",
    needs_thinking: bool = True,
) -> Counts:
    """Asks the prompts without a row in the open store; `ended` is "stopped" after a SIGTERM.

    Raises UserError if the store has rows of this teacher under other settings, if no prompt can
    be answered (a wrong key, no such model), or if the server is not there.
    """
    settings = json.dumps(dict(teacher.settings), sort_keys=True)
    if not cfg.ask_again:
        store.check_settings(teacher.name, settings)
    elif forgotten := store.forget(teacher.name, cfg.ask_again):
        say(f"{verb}: {forgotten} rows are asked again: {', '.join(cfg.ask_again)}")
    wanted = {(prompt.id, prompt.sample): prompt for prompt in prompts}
    done = store.done(teacher.name)
    left = [prompt for key, prompt in wanted.items() if key not in done]
    progress = Progress(verb, "answers", len(wanted), len(wanted) - len(left))
    run = _Run(left, teacher, cfg, store, settings, progress, needs_thinking)
    if left:
        asyncio.run(run.all())
    return run.counts


class _Run:
    """One run: its workers, its pace, its purse, and the one who writes."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        teacher: Asked,
        cfg: Teacher,
        store: TraceStore,
        settings: str,
        progress: Progress,
        needs_thinking: bool,
    ):
        self.counts = Counts()
        self._queue = deque(prompts)
        self._teacher, self._cfg, self._store = teacher, cfg, store
        self._settings, self._progress = settings, progress
        self._needs_thinking = needs_thinking
        self._pace = Pace(cfg.requests_per_minute)
        self._purse = Purse(cfg, teacher.name, store)
        self._finished: deque[Trace] = deque()  # to be written
        self._refused: list[Trace] = []  # held back until the next prompt is answered
        self._any_answered = False  # by this run: what an earlier one had may be another key's
        self._wake = asyncio.Event()
        self._lost_in_a_row = 0
        self._under_way: set[asyncio.Task[Any] | None] = set()  # the workers that wait for a reply
        self._workers: list[asyncio.Task[None]] = []
        self._main: asyncio.Task[Any] | None = None
        self._mistake: UserError | None = None  # which ended the run
        self._ending = self._closing = False

    async def all(self) -> None:
        """Asks everything; what was finished is written however it ends."""
        loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._asked_to_end)
        writer = asyncio.create_task(self._write())
        count = self._cfg.concurrency if self._teacher.at_once is None else _AT_ONCE
        workers = [asyncio.create_task(self._work()) for _ in range(min(count, len(self._queue)))]
        self._workers = workers
        shown = asyncio.create_task(self._show())
        asked = asyncio.gather(*workers)
        both: list[asyncio.Future[Any]] = [asked, writer]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():  # the disk is full: what is asked now would be lost
                await writer
            await asked
            if self._any_answered and not self._ending:
                self._write_refused()
        except asyncio.CancelledError:
            assert self._ending
        finally:
            self._closing = True
            self.counts.unanswered += len(self._refused)  # nobody knows whose fault it was
            for task in (shown, *workers):
                task.cancel()
            results = await asyncio.gather(*workers, asked, shown, return_exceptions=True)
            self._finished.append(_LAST)
            self._wake.set()
            try:
                await writer
            finally:
                self.counts.cost = self._purse.spent_now
                await self._teacher.close()
                self._progress.show(self._note(), last=True)
                for number, handler in before.items():
                    loop.remove_signal_handler(number)
                    signal.signal(number, handler)
        for result in results:  # a fault of ours, which a worker that was not waited for met
            if isinstance(result, Exception):
                raise result
        if self._mistake is not None:
            raise self._mistake

    # --- Ending before all was asked ---

    def _asked_to_end(self) -> None:
        """Answers a signal; the second one ends at once."""
        if self._ending:
            self._cut_off()
        else:
            self.counts.ended = "stopped"
            self._end("once more")

    def _end(self, at_once: str) -> None:
        """Asks nothing more, and lets what is under way arrive, for a while: it may be paid for."""
        self._ending = True
        self._queue.clear()
        for worker in self._workers:
            if worker not in self._under_way and worker is not asyncio.current_task():
                worker.cancel()
        if self._under_way:
            count = len(self._under_way)
            answers = "1 answer" if count == 1 else f"{count} answers"
            self._say(f"waiting up to {GRACE_S:g} s for {answers}; {at_once} ends at once")
        asyncio.get_running_loop().call_later(GRACE_S, self._cut_off)

    def _cut_off(self) -> None:
        if not self._closing and self._main is not None:
            self._main.cancel()

    # --- Asking ---

    async def _work(self) -> None:
        try:
            while self._queue:
                await self._answer(self._queue.popleft())
        except asyncio.CancelledError:
            if not self._ending:
                raise
        except (Over, UserError) as error:  # of more than one, the first
            if self._ending:
                return
            if isinstance(error, Over):
                self.counts.ended = str(error)
            else:
                self._mistake = error
            self._end("a signal")

    async def _answer(self, prompt: Prompt) -> None:
        """Asks a prompt until it has its row, or gets none in this run."""
        cost, tries, whole_tries, failed = 0.0, 0, 0, 0  # failed: in a row

        def row(reply: Reply) -> Trace:
            made = {"tries": tries, "time_s": time.monotonic() - clock, "asked_at": asked_at}
            return self._row(prompt, reply, cost=cost if self._purse.has_prices else None, **made)

        while True:
            tries += 1
            asked_at, clock = time.time(), time.monotonic()
            try:
                reply, price = await self._try(prompt)
            except Unknown:
                self.counts.unknown += 1
                return
            except Refused as error:
                cost += error.cost
                self._refusal(row(Reply("", "", "error", str(error))), certain=error.certain)
                return
            except Passing as error:
                self._failed(str(error))
                failed += 1
                cost += error.cost
                if failed >= self._cfg.tries:
                    self._lost(str(error))
                    return
                if self._ending:
                    return
                await self._wait(failed, error.delay_s)
                continue
            self._lost_in_a_row = failed = 0
            cost += price
            reply = self._judged(reply)
            whole_tries += 1
            if reply.finish != "stop":
                self._failed(reply.detail or reply.finish)
                # Without chance a model says the same again; a server that lost a part may not.
                chance = self._cfg.temperature != 0 or reply.finish == "incomplete"
                if chance and self._teacher.varies and whole_tries <= self._cfg.asks_again:
                    if self._ending:
                        return
                    continue
            self._any_answered = True
            self._finished.append(row(reply))
            if not self._ending:  # what arrives late was asked before the refusals
                self._write_refused()
            self._wake.set()
            return

    async def _try(self, prompt: Prompt) -> tuple[Reply, float]:
        """One request: the reply and its price."""
        note = await self._purse.reserve(prompt)
        try:  # after the money, for which one may wait long: a turn is for now
            await self._pace.turn()
        except BaseException:
            self._purse.lose(note, charged=False)
            raise
        worker = asyncio.current_task()
        self._under_way.add(worker)
        try:
            limit = self._cfg.timeout_s if self._teacher.at_once is None else None
            async with asyncio.timeout(limit):
                reply = await self._teacher.ask(prompt)
        except TimeoutError:
            late = Passing(f"no reply within {self._cfg.timeout_s:g} s")
            late.cost = self._purse.lose(note)
            raise late from None
        except Failed as error:
            error.cost = self._purse.lose(note, charged=error.charged)
            raise
        except UserError:  # of a server that answers nobody
            self._purse.lose(note, charged=False)
            raise
        except BaseException:
            self._purse.lose(note)
            raise
        finally:
            self._under_way.discard(worker)
        return reply, self._purse.pay(note, reply)

    async def _wait(self, failed: int, server_s: float | None) -> None:
        """Waits before another try: exponentially longer, and as long as the server asks for."""
        own = min(self._cfg.first_wait_s * 2.0 ** min(failed - 1, 60), LONGEST_WAIT_S)
        wait = own * random.uniform(0.5, 1.0)  # or all would come back together
        if server_s is not None:
            wait = max(wait, server_s + random.uniform(0.0, 0.1) * max(server_s, own))
            self._pace.hold(server_s)
        await asyncio.sleep(wait)

    def _judged(self, reply: Reply) -> Reply:
        """The reply, called incomplete where a part of it is missing."""
        if reply.finish != "stop":
            return reply
        if self._needs_thinking and not reply.thinking.strip():
            return replace(reply, finish="incomplete", detail="the reply has no thinking")
        if not reply.answer.strip():
            return replace(reply, finish="incomplete", detail="the reply has no answer")
        return reply

    def _lost(self, why: str) -> None:
        """Counts a prompt that failed to its last try; ends the run if all do."""
        self.counts.unanswered += 1
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= _GIVE_UP * min(self._cfg.concurrency, 8):
            raise Over(f"{self._lost_in_a_row} questions in a row were not answered: {why}")

    def _refusal(self, row: Trace, *, certain: bool) -> None:
        """Holds the row of a refusal back until somebody is answered; ends the run if nobody is."""
        assert row.error is not None
        self._lost_in_a_row = 0
        self._failed(row.error)
        if certain:
            self._finished.append(row)
            self._wake.set()
            return
        self._refused.append(row)
        if len(self._refused) >= _REFUSALS:
            self.counts.unanswered += len(self._refused)
            self._refused.clear()
            raise Over(f"{_REFUSALS} questions in a row were refused: {row.error}")

    def _write_refused(self) -> None:
        """Sends the rows of refusals after those of answers."""
        self._finished += self._refused
        self._refused.clear()
        self._wake.set()

    def _failed(self, why: str) -> None:
        """Counts a try that brought nothing; the first of a kind is told."""
        failures, kind = self.counts.failures, kind_of(why)
        if kind not in failures and len(failures) >= _KINDS:
            kind = "other failures"
        if kind not in failures and len(failures) < _KINDS_TOLD:
            self._say(f"a try failed: {why}")
        failures[kind] += 1

    def _say(self, text: str) -> None:
        self._progress.end()
        say(f"{self._progress.verb}: {text}")

    def _row(self, prompt: Prompt, reply: Reply, **made: Any) -> Trace:
        return Trace(
            question_id=prompt.id,
            teacher=self._teacher.name,
            sample=prompt.sample,
            thinking=_text(reply.thinking),
            answer=_text(reply.answer),
            finish=reply.finish,
            error=None if reply.finish == "stop" else _text(reply.detail or reply.finish),
            is_summary=reply.is_summary,
            version=_text(reply.version),
            settings=self._settings,
            prompt_tokens=reply.prompt_tokens,
            thinking_tokens=reply.thinking_tokens,
            answer_tokens=reply.answer_tokens,
            **made,
        )

    # --- Writing ---

    async def _write(self) -> None:
        """Writes finished rows; those that come during a commit share the next one."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            rows = [row for row in self._finished if row is not _LAST]
            last = len(rows) < len(self._finished)
            self._finished.clear()
            if rows:
                await asyncio.to_thread(self._store.add, rows)
                self.counts.rows += len(rows)
                self.counts.good += sum(row.error is None for row in rows)
                self._progress.done += len(rows)
            if last:
                return

    def _note(self) -> str:
        failed = sum(self.counts.failures.values())
        parts = [f"${self._purse.spent:.4g}"] if self._purse.has_prices else []
        parts += [f"{failed} failed {'try' if failed == 1 else 'tries'}"] if failed else []
        held_s = self._pace.held_s
        parts += [f"the server wants {format_seconds(held_s)} of rest"] if held_s >= 1 else []
        return "  ".join(parts)

    async def _show(self) -> None:
        """The progress, answers or not: a server may ask for a long wait."""
        while True:
            await asyncio.sleep(0.2)
            self._progress.show(self._note())


def _text(text: str) -> str:
    """The text; half a surrogate pair, which JSON can hold and no file can, is marked."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_LAST = Trace("", "", 0, "", "", "")  # after the last row
