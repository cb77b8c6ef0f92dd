"""Decodes a queue of requests: prompts go in, rows run in segments, samples come out.

Between two segments the host looks at what was written, takes out the rows that are done, puts the
next requests in their place, and gives the ring of the cache the size that the rows need. Compiled
programs depend on the sizes of these things alone, never on a budget, a count or a string.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, DTypeLike

from s1jax.decoding import budget
from s1jax.decoding.branches import can_fork, fork
from s1jax.decoding.budget import DONE, Rules, Written
from s1jax.decoding.cache import LEAST_BLOCK, Block, bucket, lift, prefill, resize
from s1jax.decoding.live import Source, block_sizes, halt, ring_sizes
from s1jax.decoding.places import Item, Row, empty_state, new_rows, prompt_arrays, row_of
from s1jax.decoding.record import Branch, History, Output, Request, output_of, rules_of
from s1jax.decoding.step import State, Static, admit, decode
from s1jax.mesh import DECODING, exact_products, use_rules, ways
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
        self.rows = rows_of(rows, self.ways, strict)
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

    def warm_up(self, columns: int, reserve: Sequence[Rules]) -> Iterator[tuple[int, int]]:
        """Compiles all that a run with such rules needs for rows of up to so many columns.

        Says after each size how many are done, and of how many.
        """
        return _Run(self, (), None, None, None, reserve).warm_up(columns)


def rows_of(rows: int, ways: int, strict: bool) -> int:
    """How many rows a batch has, so that each of its shards on a mesh has as many."""
    return -(-(STRICT_ROWS if strict else rows) // ways) * ways


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
        self.blocks: dict[budget.Ids, Block] = {}  # of prompts that the next items have
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
        idle = not (self.queue or any(self.rows) or self.source.coming(1))
        if idle:
            # An idle run holds no cache, and counts its columns from 0 again.
            self.state, self.blocks = None, {}
        free = self.rows.count(None) - len(self.queue)
        more = self.source.take(max(free, 0), idle)
        self._add(more or [])
        return not idle or more is not None

    def _add(self, more: Sequence[Request]) -> None:
        sizes = budget.sizes([request.rules for request in more])
        assert all(a <= b for a, b in zip(sizes, self.shape, strict=True)), sizes
        self.queue.extend(Item(request) for request in more)

    def _give_up(self, ids: Collection[str]) -> None:
        """Takes these requests out of the queue and of their rows."""
        if not ids:
            return
        self.queue = deque(item for item in self.queue if item.request.id not in ids)
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
        ahead = self._ahead()
        here = {item.request.prompt for _, item in fresh}
        self.blocks = {p: its for p, its in self.blocks.items() if p in ahead or p in here}
        while fresh:
            group, fresh = self._next_group(fresh, ahead)
            self._prefill(group, ahead)

    def _ahead(self) -> set[budget.Ids]:
        """Prompts of the next items, as many as there are rows: the blocks of no others are kept.

        A block is as large as its prompt's part of the cache, and a queue may hold any number.
        """
        rows = self.engine.rows
        unread = (item.request for item in self.queue if item.block is None)
        following = list(itertools.islice(unread, rows))
        if self.source is not None:
            following += self.source.coming(rows - len(following))
        return {request.prompt for request in following}

    def _next_group(
        self, waiting: list[tuple[int, Item]], ahead: Collection[budget.Ids]
    ) -> tuple[list[tuple[int, Item]], list[tuple[int, Item]]]:
        """Those that are prefilled together, and the rest.

        A prompt that comes again soon is read alone, and kept; strictly, every prompt is.
        """
        here = list(dict.fromkeys(item.request.prompt for _, item in waiting))
        # Blocks that are there come first: some will not be needed any more.
        alone = [p for p in here if p in self.blocks] or [p for p in here if p in ahead]
        size = 1 if self.engine.static.strict else self._prefill_rows(len(here))
        chosen = {alone[0]} if alone else set(here[:size])
        return (
            [place for place in waiting if place[1].request.prompt in chosen],
            [place for place in waiting if place[1].request.prompt not in chosen],
        )

    def _prefill_rows(self, prompts: int) -> int:
        """How many rows a prefill has: all of the batch, or as few as the mesh allows."""
        engine = self.engine
        few = engine.static.strict or prompts * 2 <= engine.rows
        return engine.ways if few else engine.rows

    def _prefill(self, group: list[tuple[int, Item]], ahead: Collection[budget.Ids]) -> None:
        """Begins rows with prompts; equal prompts share what is computed."""
        prompts = list(dict.fromkeys(item.request.prompt for _, item in group))
        block = self.blocks.pop(prompts[0], None)
        if block is None:
            block = self._read(prompts)
        self._admit([(i, it, prompts.index(it.request.prompt)) for i, it in group], block, 0)
        if prompts[0] in ahead and block is not None:
            self.blocks[prompts[0]] = block

    def _read(self, prompts: Sequence[budget.Ids]) -> Block | None:
        """The block of prompts but for their last tokens, which the first step reads."""
        longest = max(len(prompt) for prompt in prompts) - 1
        if longest == 0:
            return None
        engine = self.engine
        shape = (self._prefill_rows(len(prompts)), bucket(longest, LEAST_BLOCK))
        engine.counts.prefills += 1
        engine.counts.prefilled_tokens += shape[0] * shape[1]
        static = engine.static
        arrays = prompt_arrays([prompt[:-1] for prompt in prompts], shape)
        return prefill(static.cfg, engine.params, *arrays, static.dtype)

    def _admit(
        self, places: Sequence[tuple[int, Item, int]], block: Block | None, behind: int
    ) -> None:
        """Begins rows; the third of each is its row of the block."""
        rows = self.engine.rows
        alone = block is not None and len(block.positions) == self.engine.ways == 1
        for group in [[one] for one in places] if alone else [places]:
            assert self.state is not None
            source = np.full(rows, -1, np.int32)
            for index, item, row_of_block in group:
                source[index] = row_of_block
                self.rows[index] = row_of(item, self.column)
            fresh = np.isin(np.arange(rows), [index for index, *_ in group])
            new = new_rows({index: item for index, item, _ in group}, rows, self.shape)
            row = np.int32(group[0][0]) if alone else None
            self.state = admit(self.state, new, fresh, block, source, np.int32(behind), row)

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
        self.column = 0
        engine = self.engine
        return empty_state(engine.static, engine.mesh, engine.rows, self.shape, columns)

    # --- Rows run ---

    def _segment(self) -> list[Output]:
        """Runs all rows for a segment, and takes out those that are done."""
        engine = self.engine
        self._fit(0)
        written = self._run_steps()
        assert self.state is not None
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

    def _run_steps(self) -> Written:
        engine = self.engine
        assert self.state is not None
        self.state, written = decode(
            engine.static, engine.params, self.state, engine.line_ends, engine.segment_steps
        )
        return written

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
        self.queue.extendleft(reversed(waiting))  # before anything else: they hold memory
        return outputs

    def _lift(self, index: int, row: Row) -> Block:
        assert self.state is not None
        columns = min(bucket(self.column - row.first_column), self.engine.counts.columns)
        return lift(self.state.cache, np.int32(index), columns)

    # --- Before anybody asks ---

    def warm_up(self, most: int) -> Iterator[tuple[int, int]]:
        """See Engine.warm_up. Each program runs once, in an empty cache of each size."""
        engine, nobody = self.engine, np.zeros(self.engine.rows, np.bool_)
        rings, blocks = ring_sizes(most, engine.segment_steps), block_sizes(most)
        total = len(rings) + len(blocks)

        def begin(prompt: budget.Ids, block: Block | None) -> None:
            self._admit([(0, Item(Request("", prompt, Rules(1, 1))), 0)], block, 0)

        for done, ring in enumerate(rings, 1):
            with engine.at_work():
                self.state = self._empty(ring)
                begin((0,), None)
                self._run_steps()
                self.state = halt(self.state, nobody)
                for other in rings:
                    if other > ring or other * 2 <= ring:
                        resize(self.state.cache, other)
            yield done, total
        for done, size in enumerate(blocks, len(rings) + 1):
            prompt = (0,) * (size + 1)
            with engine.at_work():
                for count in {self._prefill_rows(n): n for n in (1, engine.rows)}.values():
                    block = self._read([prompt] * count)
                    for ring in (ring for ring in rings if ring >= size):
                        self.state = self._empty(ring)
                        begin(prompt, block)
            yield done, total
