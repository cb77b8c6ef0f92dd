"""Requests that come and go while a run is under way, as a server's do.

B rows.
"""

import functools
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from s1jax.decoding.budget import DONE
from s1jax.decoding.cache import LEAST_BLOCK, LEAST_COLUMNS, bucket
from s1jax.decoding.record import Request
from s1jax.decoding.step import State, laid_out


@runtime_checkable
class Source(Protocol):
    """Where a run gets its requests from; it is asked between two segments."""

    def take(self, free: int, idle: bool) -> Sequence[Request] | None:
        """What is to run next, at most as many as rows are free, or None if no more will come.

        What it keeps may still be given up, and others may overtake it. Where the run is idle it
        waits until there is one or the other.
        """

    def coming(self, count: int) -> Sequence[Request]:
        """The next so many that it would hand over as things are: equal prompts are read once."""

    def given_up(self) -> Collection[str]:
        """Since it was asked last: ids of requests that nobody waits for. They get no output."""


@functools.partial(jax.jit, donate_argnames="state")
def halt(state: State, rows: Bool[Array, " B"]) -> State:
    """The state with these rows done, wherever they were."""
    budget = state.rows.budget
    budget = replace(budget, phase=jnp.where(rows, DONE, budget.phase))
    return laid_out(replace(state, rows=replace(state.rows, budget=budget)))


def ring_sizes(columns: int, segment_steps: int) -> list[int]:
    """All sizes of the ring while rows have up to so many columns, from the smallest on."""
    most = max(columns + segment_steps, bucket(columns, LEAST_BLOCK))
    return _sizes(most, LEAST_COLUMNS)


def block_sizes(columns: int) -> list[int]:
    """All sizes of a block of prompts of up to so many tokens, from the smallest on."""
    return _sizes(columns, LEAST_BLOCK)


def _sizes(columns: int, least: int) -> list[int]:
    sizes = [least]
    while sizes[-1] < columns:
        sizes.append(bucket(sizes[-1] + 1, least))
    return sizes
