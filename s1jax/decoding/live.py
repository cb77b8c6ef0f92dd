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
from s1jax.decoding.record import Request
from s1jax.decoding.step import State, laid_out


@runtime_checkable
class Source(Protocol):
    """Where a run gets its requests from; it is asked between two segments."""

    def take(self, idle: bool) -> Sequence[Request] | None:
        """What has come since, or None if no more will come.

        Where the run is idle it waits until there is one or the other.
        """

    def given_up(self) -> Collection[str]:
        """Since it was asked last: ids of requests that nobody waits for. They get no output."""


@functools.partial(jax.jit, donate_argnames="state")
def halt(state: State, rows: Bool[Array, " B"]) -> State:
    """The state with these rows done, wherever they were."""
    budget = state.rows.budget
    budget = replace(budget, phase=jnp.where(rows, DONE, budget.phase))
    return laid_out(replace(state, rows=replace(state.rows, budget=budget)))
