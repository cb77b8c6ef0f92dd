"""Keys and values of the tokens read so far: what a decoding step finds, and what it leaves.

B batch, T new tokens, S columns, D embed, K kv heads, H head_dim.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from s1jax.mesh import constrain
from s1jax.models.attention import CACHED, AttendCache
from s1jax.models.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of the latest columns, a ring; a column without a token is segment 0."""

    k: Any  # of each layer: [B, K, S, H], in the compute dtype
    v: Any  # the same
    positions: Any  # int32 [B, S]
    segments: Any  # int32 [B, S]
    column: Any  # int32 [], where the next token goes, modulo S


@dataclass(frozen=True)
class Past:
    """What one layer finds in a cache, and how it gathers from it."""

    kv: tuple[Array, Array]  # [B, K, S, H]
    positions: Array  # int32 [B, S]
    segments: Array  # int32 [B, S]
    attend: AttendCache


KV_AXES = ("batch", "kv_heads", "columns", "head_dim")


def empty_cache(cfg: ModelConfig, batch: int, columns: int, dtype: DTypeLike) -> Cache:
    """A cache of that many columns with nothing in it."""

    def kv() -> tuple[Array, ...]:
        shape = (batch, cfg.kv_heads, columns, cfg.head_dim)
        return tuple(constrain(jnp.zeros(shape, dtype), *KV_AXES) for _ in range(cfg.layers))

    def none() -> Array:
        return jnp.zeros((batch, columns), jnp.int32)

    return Cache(kv(), kv(), none(), none(), jnp.zeros((), jnp.int32))


def past_of(cache: Cache | None, layer: int, length: int, strict: bool) -> Past | None:
    """What a layer finds in the cache, without the columns that are about to be written.

    None where there is nothing to find: the tokens fill the whole cache.
    """
    if cache is None or length == cache.positions.shape[1]:
        return None
    at = (0, cache.column % cache.positions.shape[1])
    leaving = jnp.zeros((cache.positions.shape[0], length), jnp.int32)
    return Past(
        (cache.k[layer], cache.v[layer]),
        cache.positions,
        jax.lax.dynamic_update_slice(cache.segments, leaving, at),
        CACHED["strict" if strict else "xla"],
    )


def write(
    cache: Cache,
    new: list[tuple[Array, Array]],  # keys and values of each layer, [B, T, K, H]
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    after: Float[Array, "B T D"],
) -> Cache:
    """The cache with new tokens at the current column, written when `after` is known.

    XLA updates an array in place if every read of the old one is sure to come first; else it copies
    all of it, twice. The layers' reads come before `after`, and the place to write depends on that
    (never in value: no model's hidden states are infinite).
    """
    late = (after[0, 0, 0] == jnp.inf).astype(jnp.int32)
    at = (cache.column + late) % cache.positions.shape[1]

    def written(old: Array, new: Array) -> Array:
        # One token of every head lies together in `new`, the tokens of every head in the cache.
        old = jax.lax.dynamic_update_slice(old, new.swapaxes(1, 2), (0, 0, at, 0))
        return constrain(old, *KV_AXES)

    return Cache(
        tuple(written(old, k) for old, (k, _) in zip(cache.k, new, strict=True)),
        tuple(written(old, v) for old, (_, v) in zip(cache.v, new, strict=True)),
        jax.lax.dynamic_update_slice(cache.positions, positions, (0, at)),
        jax.lax.dynamic_update_slice(cache.segments, segments, (0, at)),
        cache.column + positions.shape[1],
    )
