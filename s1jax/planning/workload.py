"""The examples of a run by their lengths alone: those of the data set, or assumed ones."""

import statistics
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from s1jax.chat import PARTS, PROMPT
from s1jax.config import Config
from s1jax.data.batches import Batches
from s1jax.data.labels import Tokenized

SPREAD = 0.3  # standard deviation of the logarithm of lengths, about that of s1K's traces
LONGEST = 2.0  # times the mean, likewise


@dataclass(frozen=True)
class Workload:
    """What a run has to get through, laid into rows for a mesh."""

    source: str  # of the lengths: where they were read, or that they are assumed
    steps: int
    rows: int
    row_lengths: tuple[int, ...]  # that are compiled for, the longest last
    useful_tokens: int  # of examples, over the run
    step_tokens: tuple[int, ...]  # of the rows of each step, padding included
    step_pairs: tuple[int, ...]  # of tokens of which attention looks at one from the other

    @property
    def row_tokens(self) -> int:
        """Of all rows of the run, padding included."""
        return sum(self.step_tokens)

    @property
    def useful_share(self) -> float:
        """Of all tokens of rows."""
        return self.useful_tokens / self.row_tokens

    @property
    def row_length(self) -> int:
        """Of the longest rows."""
        return self.row_lengths[-1]


def workload_of(
    cfg: Config, examples: list[Tokenized], sizes: dict[str, int], source: str
) -> Workload:
    """What these examples are on a mesh of these sizes."""
    batches = Batches(examples, cfg, sizes["data"] * sizes["fsdp"], sizes["context"])
    steps = range(batches.total_steps)

    def pairs(step: int) -> int:
        if not cfg.data.pack:  # attention goes over the padding as well
            return batches.rows * causal_pairs(batches.row_length_of(step))
        return sum(causal_pairs(len(examples[i].tokens)) for i in batches.chosen(step))

    return Workload(
        source=source,
        steps=batches.total_steps,
        rows=batches.rows,
        row_lengths=tuple(batches.row_lengths),
        useful_tokens=sum(batches.tokens(step)[0] for step in steps),
        step_tokens=tuple(batches.rows * batches.row_length_of(step) for step in steps),
        step_pairs=tuple(map(pairs, steps)),
    )


def causal_pairs(tokens: int) -> int:
    """How often a token of an example meets itself or one before it."""
    return tokens * (tokens + 1) // 2


def assumed_examples(cfg: Config) -> tuple[list[Tokenized], str]:
    """Examples of the lengths that `plan` names, and a sentence on what was assumed.

    Their logarithms are normally distributed, which is about how s1K's traces are. Without a mean
    all are as long as a row.
    """
    plan, limit = cfg.plan, cfg.data.row_length
    mean = min(plan.example_tokens or limit, limit)
    longest = min(plan.longest_tokens or round(LONGEST * mean), limit)
    lengths = _log_normal(plan.examples, mean, max(longest, mean))
    text = f"assumed: {plan.examples:,} examples of {statistics.fmean(lengths):,.0f} tokens"
    return [_blank(i, int(n)) for i, n in enumerate(lengths)], text


def _log_normal(count: int, mean: int, longest: int) -> Int[np.ndarray, " N"]:
    """Quantiles of a log-normal distribution with this mean, none above the longest."""
    if count == 1 or longest <= mean:
        return np.full(count, mean)
    normal = statistics.NormalDist()
    z = np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)])
    lengths = np.exp(SPREAD * z)
    for _ in range(20):  # what is cut at the top is made up for by all
        lengths = np.minimum(lengths * mean / lengths.mean(), longest)
    order = np.random.default_rng(0).permutation(count)
    return np.maximum(np.rint(lengths), 2).astype(np.int64)[order]


def _blank(number: int, tokens: int) -> Tokenized:
    parts = np.full(tokens, PARTS.index("thinking"), np.uint8)
    parts[0] = PROMPT
    return Tokenized(str(number), np.zeros(tokens, np.int32), parts, tokens)
