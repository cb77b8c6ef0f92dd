"""Examples into batches: which ones a step trains, in which rows, with which weights.

Everything is a function of (seed, step), so that a run which is taken up again needs no position
of its data, and every process of a job makes the same batch.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from s1jax import config
from s1jax.chat import PROMPT
from s1jax.data.labels import Tokenized

ROW_MULTIPLE = 128  # row lengths are multiples of it, which suits every accelerator's tiles


@dataclass(frozen=True)
class Arrays:
    """The examples of one step, laid into rows; all [slices, rows of a slice, row length]."""

    tokens: Int[np.ndarray, "A R T"]
    targets: Int[np.ndarray, "A R T"]
    weights: Float[np.ndarray, "A R T"]
    positions: Int[np.ndarray, "A R T"]
    segments: Int[np.ndarray, "A R T"]


class Batches:
    """The batches of a run, by step.

    Epochs are permutations of the examples. The last batch of an epoch is filled up from the
    epoch's beginning, as accelerate does it for s1: 1,000 examples at 16 a step are 63 steps.
    """

    def __init__(
        self, examples: Sequence[Tokenized], cfg: config.Config, shards: int, context: int = 1
    ):
        """Batches over `shards` parts of the mesh's batch axes and `context` parts of a row."""
        self.examples = examples
        self.cfg = cfg
        self.row_length = _row_length(examples, cfg.data, context)
        epoch_steps = math.ceil(len(examples) / cfg.data.batch_size)
        self.total_steps = cfg.train.steps or cfg.train.epochs * epoch_steps
        self._epoch_steps = epoch_steps
        self._multiple = shards * cfg.train.accumulation_steps
        self.rows = self._rows_needed()

    def chosen(self, step: int) -> Int[np.ndarray, " batch"]:
        """The indices of the examples that a step trains."""
        epoch, within = divmod(step, self._epoch_steps)
        order = _permutation(len(self.examples), self.cfg.seed, epoch)
        size = self.cfg.data.batch_size
        return np.take(order, np.arange(within * size, (within + 1) * size), mode="wrap")

    def ids(self, step: int) -> list[str]:
        """The ids of the examples that a step trains."""
        return [self.examples[i].id for i in self.chosen(step)]

    def layout(self, step: int) -> list[list[int]]:
        """The examples of each row that is used, as indices."""
        chosen = self.chosen(step).tolist()
        if not self.cfg.data.pack:
            return [[i] for i in chosen]
        return pack([len(self.examples[i].tokens) for i in chosen], chosen, self.row_length)

    def arrays(self, step: int) -> Arrays:
        """The batch of a step."""
        shape = (self.rows, self.row_length)
        tokens, targets, positions, segments = (np.zeros(shape, np.int32) for _ in range(4))
        positions[:] = np.arange(self.row_length)
        weights = np.zeros(shape, np.float32)
        layout = self.layout(step)
        trained = sum(_trained(self.examples[i]) for row in layout for i in row)
        for r, row in enumerate(layout):
            start = 0
            for segment, i in enumerate(row, 1):
                example = self.examples[i]
                n = len(example.tokens)
                span = slice(start, start + n)
                tokens[r, span] = example.tokens
                targets[r, start : start + n - 1] = example.tokens[1:]
                each = 1 / trained
                if self.cfg.train.weighting == "example":
                    each = 1 / (_trained(example) * self.cfg.data.batch_size)
                weights[r, start : start + n - 1] = (example.parts[1:] != PROMPT) * each
                positions[r, span] = np.arange(n)
                segments[r, span] = segment
                start += n
            positions[r, start:] = np.arange(self.row_length - start)
        slices = self.cfg.train.accumulation_steps
        parts = (tokens, targets, weights, positions, segments)
        return Arrays(*(x.reshape(slices, -1, self.row_length) for x in parts))

    def tokens(self, step: int) -> tuple[int, int]:
        """Tokens that are no padding, and those of them that are trained."""
        examples = [self.examples[i] for i in self.chosen(step)]
        return sum(len(e.tokens) for e in examples), sum(map(_trained, examples))

    def useful_share(self) -> float:
        """Tokens that are no padding, of all tokens of the whole run."""
        useful = sum(self.tokens(step)[0] for step in range(self.total_steps))
        return useful / (self.total_steps * self.rows * self.row_length)

    def _rows_needed(self) -> int:
        """Rows of every step: as many as the fullest one needs, so that one program runs all."""
        needed = self.cfg.data.batch_size
        if self.cfg.data.pack:
            needed = max(len(self.layout(step)) for step in range(self.total_steps))
        return math.ceil(needed / self._multiple) * self._multiple


def pack(lengths: Sequence[int], names: Sequence[int], row_length: int) -> list[list[int]]:
    """Rows of names whose lengths fit: the longest first, each into the first row with room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for k in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        row = next((r for r, left in enumerate(room) if left >= lengths[k]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(row_length)
        rows[row].append(names[k])
        room[row] -= lengths[k]
    return rows


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> Int[np.ndarray, " N"]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def _trained(example: Tokenized) -> int:
    return int((example.parts[1:] != PROMPT).sum())


def _row_length(examples: Sequence[Tokenized], data: config.Data, context: int) -> int:
    """The configured length, or less where one example a row leaves all of them shorter."""
    longest = max(len(e.tokens) for e in examples)
    multiple = math.lcm(ROW_MULTIPLE, context)
    if data.pack:
        return data.row_length
    return min(data.row_length, math.ceil(longest / multiple) * multiple)
