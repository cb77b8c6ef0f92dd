"""Decodes a queue of requests: prompts go in, rows run in segments, samples come out.

Between two segments the host looks at what was written, takes out the rows that are done, puts the
next requests in their place, and gives the ring of the cache the size that the rows need. Compiled
programs depend on the sizes of these things alone, never on a budget, a count or a string.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, DTypeLike

from s1jax.decoding import budget
from s1jax.decoding.branches import budget_row, can_fork, fork
from s1jax.decoding.budget import DONE, Rules
from s1jax.decoding.cache import LEAST_BLOCK, Block, bucket, lift, prefill, resize
from s1jax.decoding.live import Source, halt
from s1jax.decoding.places import Item, Row, first_token
from s1jax.decoding.record import Branch, History, Output, Request, output_of, rules_of
from s1jax.decoding.sampling import settings_of
from s1jax.decoding.step import Rows, State, Static, admit, axes_of, decode
from s1jax.mesh import DECODING, ArraySpec, exact_products, sharding, use_rules, ways
from s1jax.models.cache import empty_cache
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import Params

STRICT_ROWS = 8  # of every batch in strict mode

Watch = Callable[[Request, Branch | None, History], None]  # what a row has written in a segment


@dataclass
class Counts:
    """What a run has done so far."""

    steps: int = 0  # of the model, over the whole batch
    prefills: int = 0
    prefilled_tokens: int = 0  # padding included
    tokens: int = 0  # written by steps in rows that were running
    columns: int = 0  # of the cache, now


class Engine:
    """A model that answers requests, so many rows at a time."""

    def __init__(
        self,
        cfg: ModelConfig,
        params: Params,  # taken apart, in the dtype of the arithmetic
        mesh: jax.sharding.Mesh,
        *,
        vocab_size: int,
        line_ends: Bool[np.ndarray, " V"],
        rows: int,
        segment_steps: int = 32,
        dtype: DTypeLike = jnp.float32,
        strict: bool = False,
    ):
        self.mesh = mesh
        self.params = params
        self.segment_steps = segment_steps
        self.static = Static(cfg, vocab_size, jnp.dtype(dtype), strict)
        self.line_ends = np.zeros(cfg.vocab_size, np.bool_)  # the embedding may be longer
        self.line_ends[: len(line_ends)] = line_ends
        with jax.set_mesh(mesh), use_rules(DECODING):
            self.ways = ways("batch")
        rows = STRICT_ROWS if strict else rows
        self.rows = -(-rows // self.ways) * self.ways  # each shard of the batch has as many
        self.counts = Counts()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Within it jax knows the mesh, decoding's rules, and how exact products are."""
        exact = exact_products(self.static.dtype)
        with jax.set_mesh(self.mesh), use_rules(DECODING), exact:
            yield

    def run(
        self,
        requests: Iterable[Request],
        *,
        then: Callable[[Output], Iterable[Request]] | None = None,
        watch: Watch | None = None,
        source: Source | None = None,
        reserve: Sequence[Rules] = (),
    ) -> Iterator[Output]:
        """Samples as they are finished; `then` may ask for more when it sees one.

        With a `source` the run goes on until that has no more. What comes later than the first
        requests has no more and no longer strings and ends than they and the rules in `reserve`.

        Raises ContractError if a sample is not what its rules allow.
        """
        return _Run(self, requests, then, watch, source, reserve).outputs()


class _Run:
    """One run of an engine: the queue, the rows and the arrays."""

    def __init__(
        self,
        engine: Engine,
        requests: Iterable[Request],
        then: Callable[[Output], Iterable[Request]] | None,
        watch: Watch | None,
        source: Source | None = None,
        reserve: Sequence[Rules] = (),
    ):
        self.engine, self.then, self.watch, self.source = engine, then, watch, source
        self.queue = deque(Item(request) for request in requests)
        self.rows: list[Row | None] = [None] * engine.rows
        self.shape = budget.sizes([*reserve, *(item.request.rules for item in self.queue)])
        self.column = 0  # the same as in the cache
        self.prompts = Counter(item.request.prompt for item in self.queue)
        self.blocks: dict[budget.Ids, Block] = {}  # of prompts that further samples wait for
        self.state: State | None = None

    def outputs(self) -> Iterator[Output]:
        """See Engine.run."""
        while self._has_work():
            with self.engine.at_work():
                self._fill()
                done = self._segment()
            for output in done:
                yield output
                self._add(list(self.then(output)) if self.then is not None else [])

    # --- Requests come and go ---

    def _has_work(self) -> bool:
        """Whether anything is to be decoded; without a source, whether anything is left."""
        if self.source is None:
            return bool(self.queue) or any(self.rows)
        self._give_up(self.source.given_up())
        idle = not (self.queue or any(self.rows))
        if idle:
            self.state = None  # an idle run holds no cache, and counts its columns from 0 again
        more = self.source.take(idle)
        self._add(more or [])
        return not idle or more is not None

    def _add(self, more: Sequence[Request]) -> None:
        sizes = budget.sizes([request.rules for request in more])
        assert all(a <= b for a, b in zip(sizes, self.shape, strict=True)), sizes
        self.queue.extend(Item(request) for request in more)
        self.prompts.update(request.prompt for request in more)

    def _give_up(self, ids: Collection[str]) -> None:
        """Takes these requests out of the queue and of their rows."""
        if not ids:
            return
        gone = [item for item in self.queue if item.request.id in ids]
        self.queue = deque(item for item in self.queue if item.request.id not in ids)
        self.prompts -= Counter(item.request.prompt for item in gone if item.block is None)
        self.blocks = {prompt: its for prompt, its in self.blocks.items() if prompt in self.prompts}
        rows = np.array([row is not None and row.request.id in ids for row in self.rows])
        if rows.any():
            assert self.state is not None
            for index in np.flatnonzero(rows):
                self.rows[index] = None
            with self.engine.at_work():
                self.state = halt(self.state, rows)

    # --- Rows begin ---

    def _fill(self) -> None:
        free = [index for index, row in enumerate(self.rows) if row is None]
        taken = [self.queue.popleft() for _ in range(min(len(free), len(self.queue)))]
        places = list(zip(free, taken, strict=False))
        columns = max((self._needs(item) for _, item in places), default=0)
        self._fit(columns)
        forked = [(index, item) for index, item in places if item.block is not None]
        for index, item in forked:
            self._admit([(index, item, 0)], item.block, item.behind)
        fresh = [(index, item) for index, item in places if item.block is None]
        while fresh:
            group, fresh = self._next_group(fresh)
            self._prefill(group)

    def _next_group(
        self, waiting: list[tuple[int, Item]]
    ) -> tuple[list[tuple[int, Item]], list[tuple[int, Item]]]:
        """Those that are prefilled together, and the rest.

        A prompt for which more samples wait is read alone, and kept; strictly, every prompt is.
        """
        here = Counter(item.request.prompt for _, item in waiting)
        alone = [p for p in here if p in self.blocks or self.prompts[p] > here[p]]
        others = [p for p in here if p not in alone]
        size = 1 if self.engine.static.strict else self._prefill_rows(len(others))
        chosen = {alone[0]} if alone else set(others[:size])
        return (
            [place for place in waiting if place[1].request.prompt in chosen],
            [place for place in waiting if place[1].request.prompt not in chosen],
        )

    def _prefill_rows(self, prompts: int) -> int:
        """How many rows a prefill has: all of the batch, or as few as the mesh allows."""
        engine = self.engine
        few = engine.static.strict or prompts * 2 <= engine.rows
        return engine.ways if few else engine.rows

    def _prefill(self, group: list[tuple[int, Item]]) -> None:
        """Begins rows with prompts; equal prompts share what is computed."""
        prompts = list(dict.fromkeys(item.request.prompt for _, item in group))
        block = self.blocks.get(prompts[0])
        if block is None:
            block = self._read(prompts)
        self._admit([(i, it, prompts.index(it.request.prompt)) for i, it in group], block, 0)
        for _, item in group:
            self.prompts[item.request.prompt] -= 1
            if not self.prompts[item.request.prompt]:
                del self.prompts[item.request.prompt]
        if prompts[0] in self.prompts and block is not None:
            self.blocks[prompts[0]] = block
        else:
            self.blocks.pop(prompts[0], None)

    def _read(self, prompts: Sequence[budget.Ids]) -> Block | None:
        """The block of prompts but for their last tokens, which the first step reads."""
        longest = max(len(prompt) for prompt in prompts) - 1
        if longest == 0:
            return None
        engine = self.engine
        shape = (self._prefill_rows(len(prompts)), bucket(longest, LEAST_BLOCK))
        tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
        for row, prompt in enumerate(prompts):
            length = len(prompt) - 1
            at = slice(shape[1] - length, None)
            tokens[row, at] = prompt[:-1]
            positions[row, at] = np.arange(length)
            segments[row, at] = 1
        engine.counts.prefills += 1
        engine.counts.prefilled_tokens += shape[0] * shape[1]
        static = engine.static
        return prefill(static.cfg, engine.params, tokens, positions, segments, static.dtype)

    def _admit(
        self, places: Sequence[tuple[int, Item, int]], block: Block | None, behind: int
    ) -> None:
        """Begins rows; the third of each is its row of the block."""
        assert self.state is not None
        source = np.full(self.engine.rows, -1, np.int32)
        for index, item, row_of_block in places:
            source[index] = row_of_block
            self.rows[index] = self._row(item)
        fresh = np.zeros(self.engine.rows, np.bool_)
        fresh[[index for index, *_ in places]] = True
        new = self._new_rows({index: item for index, item, _ in places})
        self.state = admit(self.state, new, fresh, block, source, np.int32(behind))

    def _row(self, item: Item) -> Row:
        request, kept = item.request, item.at.kept if item.at else 0
        return Row(
            request,
            rules_of(request, item.branch),
            item.branch,
            first_column=self.column - kept - len(request.prompt) + 1,
            start_column=self.column - kept,
            parts=[item.history] if item.history is not None else [],
        )

    def _new_rows(self, items: dict[int, Item]) -> Rows:
        """The arrays of rows that begin; those of others are filled with anything."""
        anything = next(iter(items.values()))
        chosen = [items.get(index, anything) for index in range(self.engine.rows)]
        rules = [rules_of(item.request, item.branch) for item in chosen]
        plan = budget.plan_of(rules, self.shape)
        state = _start(plan)
        for index, item in enumerate(chosen):
            for name, value in budget_row(item.at).items() if item.at else ():
                getattr(state, name)[index] = value
        token, position, drawn = np.array([first_token(item) for item in chosen], np.int32).T
        seed: Any = np.array([item.request.seed for item in chosen], np.uint32)
        settings = settings_of([(it.request.thinking, it.request.answer) for it in chosen])
        return Rows(token, position, drawn, seed, plan, settings, state)

    # --- The ring ---

    def _needs(self, item: Item) -> int:
        """Columns of the ring for a row that begins: its past, a segment, and its whole block."""
        past = len(item.request.prompt) - 1 + (item.at.kept if item.at else 0)
        block = item.block or self.blocks.get(item.request.prompt)
        length = block.positions.shape[1] if block is not None else bucket(past, LEAST_BLOCK)
        return max(past + self.engine.segment_steps, length)

    def _fit(self, columns: int) -> None:
        """Gives the ring the size that rows need for a segment; shrinks it only by half or more."""
        spans = [self.column - row.first_column for row in self.rows if row is not None]
        needed = max([columns, *(span + self.engine.segment_steps for span in spans)])
        size = bucket(needed)
        if self.state is None:
            self.state = self._empty(size)
        elif size > self.engine.counts.columns or size * 2 <= self.engine.counts.columns:
            self.state = replace(self.state, cache=resize(self.state.cache, size))
        else:
            return
        self.engine.counts.columns = size

    def _empty(self, columns: int) -> State:
        """Rows that are all done, and nothing in the cache."""
        engine = self.engine
        idle = Item(Request("", (0,), Rules(1, 1)))
        rows = self._new_rows({0: idle})
        rows.budget.phase[:] = DONE
        static = engine.static
        empty = jax.eval_shape(lambda: empty_cache(static.cfg, engine.rows, columns, static.dtype))
        state = State(empty, rows)

        def place(x: Any, axes: tuple[str, ...]) -> jax.Array:
            layout = sharding("state", ArraySpec(x.shape, axes), engine.mesh)
            if isinstance(x, np.ndarray):
                return jax.device_put(x, layout)
            return jnp.zeros(x.shape, x.dtype, device=layout)

        self.column = 0
        return jax.tree.map(place, state, axes_of(state))

    # --- Rows run ---

    def _segment(self) -> list[Output]:
        """Runs all rows for a segment, and takes out those that are done."""
        engine = self.engine
        self._fit(0)
        assert self.state is not None
        self.state, written = decode(
            engine.static, engine.params, self.state, engine.line_ends, engine.segment_steps
        )
        after = self.state.rows.budget
        written, phase, forced, finish = jax.device_get(
            (written, after.phase, after.forced, after.finish)
        )
        self.column += engine.segment_steps
        engine.counts.steps += engine.segment_steps
        engine.counts.tokens += int((written.kind > 0).sum())
        outputs = []
        for index, row in enumerate(self.rows):
            if row is None:
                continue
            part = History(
                written.token[:, index],
                written.kind[:, index],
                written.taken_back[:, index],
                written.ends_ignored[:, index],
            )
            row.parts.append(part)
            if self.watch is not None:
                self.watch(row.request, row.branch, part)
            if phase[index] == DONE:
                self.rows[index] = None
                outputs += self._finish(index, row, bool(forced[index]), int(finish[index]))
        return outputs

    def _finish(self, index: int, row: Row, forced: bool, finish: int) -> list[Output]:
        """The sample of a row that is done, and those of its branches that never part from it."""
        history = History.join(row.parts)
        outputs = [output_of(row.request, history, forced, finish, row.branch)]
        if row.branch is not None or not row.request.branches:
            return outputs
        block, waiting = None, []
        for branch in row.request.branches:
            smaller = rules_of(row.request, branch)
            if not (can_fork(row.rules) and can_fork(smaller)):
                waiting.append(Item(row.request, branch))
                continue
            at = fork(row.rules, history, smaller, self.engine.line_ends)
            if at is None:
                outputs.append(output_of(row.request, history, forced, finish, branch))
                continue
            if block is None:
                assert self.state is not None
                block = self._lift(index, row)
            behind = self.column - (row.start_column + at.kept)
            waiting.append(Item(row.request, branch, at, history.upto(at.kept), block, behind))
        self.prompts[row.request.prompt] += sum(item.block is None for item in waiting)
        self.queue.extendleft(reversed(waiting))  # before anything else: they hold memory
        return outputs

    def _lift(self, index: int, row: Row) -> Block:
        assert self.state is not None
        columns = min(bucket(self.column - row.first_column), self.engine.counts.columns)
        return lift(self.state.cache, np.int32(index), columns)


_start_arrays = jax.jit(budget.start)


def _start(plan: budget.Plan) -> Any:
    """The rows before their first token, as numpy arrays that can be written to."""
    return jax.tree.map(np.array, _start_arrays(plan))
