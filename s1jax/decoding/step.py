"""The compiled part of decoding: a scan of steps, with everything that changes in its carry.

B rows, T steps, V vocabulary.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from s1jax.decoding import budget
from s1jax.decoding.budget import ANSWERING, DONE, Plan, Written
from s1jax.decoding.cache import Block, clear, drop_after, place
from s1jax.decoding.sampling import Settings, sample
from s1jax.mesh import constrain
from s1jax.models import decoder
from s1jax.models.cache import KV_AXES, Cache
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Where every row stands and what it has to obey; all arrays begin with [B]."""

    token: Any  # int32, chosen and not yet read by the model
    position: Any  # int32, of that token
    drawn: Any  # int32, steps so far
    seed: Any  # uint32
    plan: Plan
    settings: Settings  # of thinking and answer: [B, 2]
    budget: budget.State


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """The carry of the scan."""

    cache: Cache
    rows: Rows


@dataclass(frozen=True)
class Static:
    """What a compiled program is made for."""

    cfg: ModelConfig
    vocab_size: int  # ids from here on are padding of the embedding, and never sampled
    dtype: DTypeLike
    strict: bool


@functools.partial(jax.jit, static_argnames=("static", "steps"), donate_argnames="state")
def decode(
    static: Static,
    params: Params,
    state: State,
    line_ends: Bool[Array, " V"],
    steps: int,
) -> tuple[State, Written]:
    """The state after so many steps, and what each of them wrote, [T, B]."""

    def step(state: State, _: None) -> tuple[State, Written]:
        return decode_one(static, params, state, line_ends)

    state, written = jax.lax.scan(step, state, None, length=steps)
    return laid_out(state), written


def decode_one(
    static: Static, params: Params, state: State, line_ends: Bool[Array, " V"]
) -> tuple[State, Written]:
    """One step: every row's token is read, and its next one chosen."""
    rows = state.rows
    live = rows.budget.phase != DONE
    hidden, cache = decoder.apply(
        static.cfg,
        params,
        rows.token[:, None],
        rows.position[:, None],
        live[:, None].astype(jnp.int32),
        state.cache,
        dtype=static.dtype,
        strict=static.strict,
    )
    assert cache is not None
    logits = constrain(decoder.logits(static.cfg, params, hidden)[:, 0], "batch", "vocab")
    logits = jnp.where(jnp.arange(logits.shape[-1]) < static.vocab_size, logits, -jnp.inf)

    answering = (rows.budget.phase == ANSWERING).astype(jnp.int32)
    everyone = jnp.arange(len(answering))
    settings = jax.tree.map(lambda table: table[everyone, answering], rows.settings)
    sampled = sample(_without(logits, rows), settings, rows.seed, rows.drawn)
    state_of_budget, again = budget.refuse(rows.plan, rows.budget, sampled)
    rows = replace(rows, budget=state_of_budget)
    sampled = jax.lax.cond(
        again.any(),
        lambda: jnp.where(
            again, sample(_without(logits, rows), settings, rows.seed, rows.drawn), sampled
        ),
        lambda: sampled,
    )
    after, written, taken_out = budget.advance(rows.plan, rows.budget, sampled, line_ends)
    last = rows.position - taken_out
    rows = replace(
        rows,
        token=written.token,
        position=jnp.where(live, last + 1, rows.position),
        drawn=rows.drawn + 1,
        budget=after,
    )
    return State(drop_after(cache, last), rows), written


def _without(logits: Float[Array, "B V"], rows: Rows) -> Float[Array, "B V"]:
    """The logits of what a row may sample now."""
    ids = budget.suppressed(rows.plan, rows.budget)
    nowhere = logits.shape[-1]
    everyone = jnp.arange(len(ids))[:, None]
    return logits.at[everyone, jnp.where(ids < 0, nowhere, ids)].set(-jnp.inf, mode="drop")


@functools.partial(jax.jit, donate_argnames="state")
def admit(
    state: State,
    new: Rows,
    fresh: Bool[Array, " B"],
    block: Block | None,
    source: Int[Array, " B"],
    ahead: Int[Array, ""],
    row: Int[Array, ""] | None = None,
) -> State:
    """The state with the fresh rows begun anew, as `new` has them; the others go on.

    `block` holds what the model has read of their past, up to the token before `new.token`; see
    `cache.place`, also for `row`.
    """
    old = state.rows

    def choose(old: Array, new: Array) -> Array:
        return jnp.where(fresh.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    cache = clear(state.cache, fresh)
    if block is not None:
        cache = place(cache, block, source, new.position - 1, ahead, row)
    return laid_out(State(cache, jax.tree.map(choose, old, new)))


def axes_of(state: State) -> Any:
    """The axes of every array of a state: rows are split as a batch is."""

    def of(x: Any) -> tuple[str, ...]:
        return ("batch", *["columns"] * (x.ndim - 1)) if x.ndim else ()

    cache = state.cache
    kv: Any = tuple(KV_AXES for _ in cache.k)
    positions, segments, column = map(of, (cache.positions, cache.segments, cache.column))
    axes: Any = (kv, kv, positions, segments, column)
    return State(Cache(*axes), jax.tree.map(of, state.rows))


def laid_out(state: State) -> State:
    """The state as every program takes and leaves it, so that none is compiled for another."""
    return jax.tree.map(lambda x, axes: constrain(x, *axes), state, axes_of(state))
