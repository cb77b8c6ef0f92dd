"""How much of a run's tokens is no padding: one example a row, plain packing, and balanced rows.

    python benchmarks/packing.py [--examples=1000] [--batch=16] [--epochs=5] [--seed=0]

Lists of lengths like those of s1K and s1K-1.1, which are drawn, not read (see LISTS), over the
steps that s1 trains, on 16 devices in meshes of shards (data x fsdp) and parts of a row
(context). For each: the useful share of the tokens with so many row lengths at most, each of
them one compile; the real tokens of the busiest device against the mean device's; the same for
attention's work, the sum of squared lengths, of a shard. The goal: a share of 0.95 at 16 devices.
"""

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from s1jax.chat import THINKING
from s1jax.config import Config
from s1jax.data.batches import Batches
from s1jax.data.labels import Tokenized
from s1jax.data.packing import first_fit
from s1jax.training_config import Data, Train

MESHES = ((16, 1), (8, 2), (4, 4), (2, 8), (1, 16))  # shards, context
BUCKETS = (1, 2, 4, 8, 16)
SHOWN = 8  # buckets of the columns that are not given for each number of them
GOAL = 0.95


@dataclass(frozen=True)
class Lengths:
    """A log-normal list of lengths; what is longer than `longest` is drawn again, or cut."""

    median: float
    spread: float  # standard deviation of the logarithm
    longest: int
    cut: bool
    row_length: int
    packed: tuple[int, ...]  # data.packed_row_length
    why: str


LISTS = {
    "s1K-like": Lengths(
        median=4967,
        spread=0.3,
        longest=9100,
        cut=False,
        row_length=32_768,
        packed=(32_768,),
        why="26% at most 4,096 (s1, table 8), none above 9.1k (s1's issue 115), and the spread of"
        " five real rows (3,672 to 8,165)",
    ),
    "s1K-1.1-like": Lengths(
        median=9000,
        spread=0.6,
        longest=20_000,
        cut=True,
        row_length=20_000,
        packed=(20_000, 65_536),
        why="cut at s1's block_size for it; median and spread are guesses, twice those of s1K",
    ),
}


def main() -> None:
    """Prints a table for each list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name, lengths in LISTS.items():
        compare(name, lengths, draw(lengths, args.examples, args.seed), args)


def draw(lengths: Lengths, count: int, seed: int) -> np.ndarray:
    """So many lengths."""
    rng = np.random.default_rng(seed)
    drawn = np.exp(rng.normal(np.log(lengths.median), lengths.spread, 4 * count)).astype(int)
    if not lengths.cut:
        drawn = drawn[drawn <= lengths.longest]
    return np.clip(drawn[:count], 2, lengths.longest)


def batches_of(
    lengths: Lengths, drawn: np.ndarray, args: argparse.Namespace, **fields: Any
) -> Batches:
    """The batches of a run over examples of these lengths."""
    examples = [
        Tokenized(str(i), np.zeros(n, np.int32), np.full(n, THINKING, np.uint8), n)
        for i, n in enumerate(drawn.tolist())
    ]
    mesh = {name: fields.pop(name) for name in ("shards", "context")}
    data = Data(batch_size=args.batch, row_length=lengths.row_length, **fields)
    return Batches(examples, Config(data=data, train=Train(epochs=args.epochs)), **mesh)


def compare(name: str, lengths: Lengths, drawn: np.ndarray, args: argparse.Namespace) -> None:
    """One list: what one example a row reaches, and a table for each limit of packed rows."""
    plain = batches_of(lengths, drawn, args, shards=1, context=1)
    steps = [drawn[plain.chosen(step)] for step in range(plain.total_steps)]
    print(f"{name}: {len(steps)} steps of {args.batch} of {len(drawn)} examples, {lengths.why}")
    print(
        f"  {drawn.sum():,} tokens; mean {drawn.mean():,.0f}, longest {drawn.max():,},"
        f" {(drawn <= 4096).mean():.0%} at most 4,096"
    )
    useful = sum(step.sum() for step in steps)
    longest = sum(step.max() for step in steps)
    print(f"  {useful / longest / args.batch:.3f} one example a row, the step's longest (s1's own)")
    print(f"  {plain.useful_share():.3f} one example a row, one length (data.pack=False)")
    titles = "".join(f"{f'{b} buckets':>11}" for b in BUCKETS)
    for packed in lengths.packed:
        print(f"  packed rows of at most {packed:,} tokens")
        print(
            f"  shards x context  rows  first fit{titles}  busiest  attention  compiles  prepared"
        )
        for shards, context in MESHES:
            most = max(int(first_fit(step, packed).max()) + 1 for step in steps)
            fitted = useful / (len(steps) * -(-most // shards) * shards * packed)
            print(f"  {f'{shards} x {context}':>16}", end="")
            print(row(lengths, drawn, args, fitted, (shards, context, packed)))
    print(f"  busiest, attention and compiles are of {SHOWN} buckets\n")


def row(
    lengths: Lengths,
    drawn: np.ndarray,
    args: argparse.Namespace,
    fitted: float,
    mesh: tuple[int, int, int],
) -> str:
    """The table's row of one mesh: shards, context, and the limit of packed rows."""
    shards, context, packed = mesh
    shares, times_s = {}, []
    for buckets in BUCKETS:
        started = time.perf_counter()
        fields = {"pack": True, "packed_row_length": packed, "buckets": buckets}
        ours = batches_of(lengths, drawn, args, shards=shards, context=context, **fields)
        times_s.append(time.perf_counter() - started)
        shares[buckets] = ours.useful_share()
        if buckets == SHOWN:
            shown = ours
    busiest, attention = imbalance(shown, shards, context)
    return (
        f"{shown.rows:6}{fitted:11.3f}"
        + "".join(f"{share:11.3f}" for share in shares.values())
        + f"{busiest:9.2f}{attention:11.2f}{len(shown.row_lengths):10}{max(times_s):9.2f}s"
        + ("  goal reached" if shares[SHOWN] >= GOAL else "")
    )


def imbalance(batches: Batches, shards: int, context: int) -> tuple[float, float]:
    """The busiest over the mean, averaged over steps: devices' tokens, shards' attention."""
    ratios = []
    for step in range(batches.total_steps):
        part = batches.row_length_of(step) // context
        examples = [[len(batches.examples[i].tokens) for i in row] for row in batches.layout(step)]
        examples += [[]] * (batches.rows - len(examples))
        rows = np.array([sum(row) for row in examples])
        filled = np.clip(rows[:, None] - part * np.arange(context), 0, part)
        work = np.array([sum(n * n for n in row) for row in examples])
        devices = filled.reshape(shards, -1, context).sum(axis=1)
        squares = work.reshape(shards, -1).sum(axis=1)
        ratios.append([x.max() / x.mean() for x in (devices, squares)])
    tokens, attention = np.mean(ratios, axis=0)
    return float(tokens), float(attention)


if __name__ == "__main__":
    main()
