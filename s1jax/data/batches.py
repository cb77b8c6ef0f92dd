"""Examples into batches: which ones a step trains, in which rows, with which weights.

Which examples a step trains is a function of (seed, step), and how they are packed of the run's
examples and steps: a run which is taken up again needs no position of its data, and every process
of a job makes the same batch.
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
from s1jax.data.packing import bucket_lengths, pack_run

# Row lengths are multiples of the first, which suits every accelerator's tiles, and a device's part
# of a row of the second, the rows of a TPU's bfloat16 tile; but a row at the config's limit is as
# long as that.
ROW_MULTIPLE = 128
PART_MULTIPLE = 16


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
        self._lengths = np.array([len(e.tokens) for e in examples])
        self._trained = np.array([(e.parts[1:] != PROMPT).sum() for e in examples])
        self._epoch_steps = math.ceil(len(examples) / cfg.data.batch_size)
        self.total_steps = cfg.train.steps or cfg.train.epochs * self._epoch_steps
        multiple = math.lcm(ROW_MULTIPLE, PART_MULTIPLE * context)
        slots = shards * cfg.train.accumulation_steps
        self._packing = None
        self.rows = cfg.data.batch_size
        longest, limit = np.full(self.total_steps, self._lengths.max()), cfg.data.row_length
        if cfg.data.pack:
            limit = cfg.data.packed_row_length or limit
            lengths = np.stack([self._lengths[self.chosen(s)] for s in range(self.total_steps)])
            self._packing = pack_run(lengths, slots, limit)
            self.rows, longest = self._packing.rows, self._packing.longest_tokens
        needed = np.minimum(-(-longest // multiple) * multiple, limit)
        self.row_lengths = bucket_lengths(needed, cfg.data.buckets)
        self._step_lengths = np.take(self.row_lengths, np.searchsorted(self.row_lengths, needed))

    @property
    def row_length(self) -> int:
        """The longest that a row is in any step."""
        return self.row_lengths[-1]

    def row_length_of(self, step: int) -> int:
        """The length of the rows of a step, one of `row_lengths`."""
        return int(self._step_lengths[step])

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
        if self._packing is None:
            return [[i] for i in chosen]
        rows: list[list[int]] = [[] for _ in range(self.rows)]
        for i, row in zip(chosen, self._packing.places[step], strict=True):
            rows[row].append(i)
        return [row for row in rows if row]

    def arrays(self, step: int) -> Arrays:
        """The batch of a step, its rows as long as those of its bucket."""
        row_length = self.row_length_of(step)
        shape = (self.rows, row_length)
        tokens, targets, positions, segments = (np.zeros(shape, np.int32) for _ in range(4))
        positions[:] = np.arange(row_length)
        weights = np.zeros(shape, np.float32)
        _, trained = self.tokens(step)
        for r, row in enumerate(self.layout(step)):
            start = 0
            for segment, i in enumerate(row, 1):
                example = self.examples[i]
                n = len(example.tokens)
                span = slice(start, start + n)
                tokens[r, span] = example.tokens
                targets[r, start : start + n - 1] = example.tokens[1:]
                each = 1 / trained
                if self.cfg.train.weighting == "example":
                    each = 1 / (self._trained[i] * self.cfg.data.batch_size)
                weights[r, start : start + n - 1] = (example.parts[1:] != PROMPT) * each
                positions[r, span] = np.arange(n)
                segments[r, span] = segment
                start += n
            positions[r, start:] = np.arange(row_length - start)
        slices = self.cfg.train.accumulation_steps
        parts = (tokens, targets, weights, positions, segments)
        return Arrays(*(x.reshape(slices, -1, row_length) for x in parts))

    def tokens(self, step: int) -> tuple[int, int]:
        """Tokens that are no padding, and those of them that are trained."""
        chosen = self.chosen(step)
        return int(self._lengths[chosen].sum()), int(self._trained[chosen].sum())

    def useful_share(self) -> float:
        """Tokens that are no padding, of all tokens of the whole run."""
        useful = sum(self.tokens(step)[0] for step in range(self.total_steps))
        return useful / (self.rows * int(self._step_lengths.sum()))


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> Int[np.ndarray, " N"]:
    return np.random.default_rng((seed, epoch)).permutation(count)
