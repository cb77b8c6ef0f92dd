"""How fast and how dear: `Pace` says when a request may be sent, `Purse` whether it is paid for."""

import asyncio
import time

from s1jax.curation_config import Teacher
from s1jax.data.asked import Prompt, Reply
from s1jax.data.store import TraceStore


class Over(Exception):
    """Nothing more is asked; says why."""


class Pace:
    """When the next request may be sent."""

    def __init__(self, per_minute: int | None):
        self._gap_s = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._held_until = 0.0

    async def turn(self) -> None:
        """Returns when it is this request's turn."""
        while True:
            now = time.monotonic()
            if now >= self._next:
                self._next = now + self._gap_s
                return
            await asyncio.sleep(self._next - now)

    def hold(self, seconds: float) -> None:
        """Lets nothing be sent for so long: the server's limit is for all of its clients."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)
        self._next = max(self._next, self._held_until)

    @property
    def held_s(self) -> float:
        """How long the server still wants nothing to be sent."""
        return max(0.0, self._held_until - time.monotonic())


class Purse:
    """What a teacher has cost, and what requests under way may; together never above its limit.

    Where there are prices everything is noted, limit or not: the next run may have one.
    """

    def __init__(self, cfg: Teacher, teacher: str, store: TraceStore):
        self._cfg, self._teacher, self._store = cfg, teacher, store
        self.has_prices = cfg.input_price > 0 or cfg.output_price > 0
        self.before = store.spent(teacher)
        self.spent_now = 0.0  # by this run
        self._under_way: dict[int, float] = {}  # the highest price by the note's number
        self._settled = asyncio.Condition()

    @property
    def spent(self) -> float:
        """Dollars for this teacher, over all runs of this workdir."""
        return self.before + self.spent_now

    async def reserve(self, prompt: Prompt) -> int | None:
        """Sets the highest price of a request aside; a note's number. Over if too little is left.

        None where nothing has a price.
        """
        if not self.has_prices:
            return None
        price, limit = self._highest(prompt), self._cfg.max_cost
        async with self._settled:
            while limit is not None and self.spent + sum(self._under_way.values()) + price > limit:
                if not self._under_way:
                    raise Over(
                        f"${self.spent:.4g} of this teacher's ${limit:g} are spent, and the"
                        f" next request may cost ${price:.4g}"
                    )
                await self._settled.wait()
            number = self._store.reserve(self._teacher, price)
            self._under_way[number] = price
            return number

    def _highest(self, prompt: Prompt) -> float:
        """No token has less than a byte, and a template adds few."""
        text = prompt.text + (prompt.system or "")
        tokens_in, tokens_out = len(text.encode()) + 100, self._cfg.max_tokens or 0
        return self._price(tokens_in, tokens_out)

    def _price(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self._cfg.input_price + tokens_out * self._cfg.output_price) / 1e6

    def pay(self, note: int | None, reply: Reply) -> float:
        """Settles a request that was answered; returns its price."""
        if note is None:
            return 0.0
        apart = (reply.thinking_tokens or 0) + (reply.answer_tokens or 0)
        written = apart if reply.written_tokens is None else reply.written_tokens
        counted = reply.prompt_tokens is not None and bool(written)
        price = self._price(reply.prompt_tokens or 0, written)
        if not counted:  # by nobody: it may have been the highest
            price = self._under_way[note]
        self._settle(note, price)
        return price

    def lose(self, note: int | None, *, charged: bool = True) -> float:
        """Settles a request that was not answered, at its highest price if it may be charged."""
        if note is None:
            return 0.0
        price = self._under_way[note] if charged else 0.0
        self._settle(note, price)
        return price

    def _settle(self, note: int, price: float) -> None:
        self.spent_now += price
        del self._under_way[note]
        self._store.settle(note, price)
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._settled:
            self._settled.notify_all()
