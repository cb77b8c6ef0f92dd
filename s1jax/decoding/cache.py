"""What happens to a cache between steps: blocks go in and out, and its ring changes its size.

Every row takes one column a step, so the current column is one number for all rows, counted on
from the start and taken modulo the ring's size. What a row owns ends just before that column; what
older rows left there is made invisible when a row begins.

R rows of a block, B rows of the cache, K kv heads, P columns of a block, S columns, H head_dim.
"""

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Int

from s1jax.mesh import constrain
from s1jax.models import decoder
from s1jax.models.cache import KV_AXES, Cache, empty_cache
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import Params

LEAST_COLUMNS = 128  # of a ring
LEAST_BLOCK = 32  # columns of a block of prompts: a short one should not be read as a long one


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Block:
    """Tokens of some rows with their keys and values, apart from any cache; padded on the left."""

    k: tuple[Array, ...]  # of each layer: [R, K, P, H]
    v: tuple[Array, ...]
    positions: Array  # int32 [R, P]
    segments: Array  # int32 [R, P]; 0 is padding


def bucket(columns: int, least: int = LEAST_COLUMNS) -> int:
    """The size of a ring or a block that holds so many columns: 128, 256, 384, 512, 768, ..."""
    size = least
    while size < columns:
        if size > least and size * 3 // 2 >= columns:
            return size * 3 // 2
        size *= 2
    return size


@functools.partial(jax.jit, static_argnames=("cfg", "dtype"))
def prefill(
    cfg: ModelConfig,
    params: Params,
    tokens: Int[Array, "R P"],
    positions: Int[Array, "R P"],
    segments: Int[Array, "R P"],
    dtype: DTypeLike,
) -> Block:
    """The block of these tokens."""
    rows, columns = tokens.shape
    empty = empty_cache(cfg, rows, columns, dtype)
    _, cache = decoder.apply(cfg, params, tokens, positions, segments, empty, dtype=dtype)
    assert cache is not None
    return Block(cache.k, cache.v, positions, segments)


def place(
    cache: Cache,
    block: Block,
    source: Int[Array, " B"],
    last: Int[Array, " B"],
    ahead: Int[Array, ""],
    row: Int[Array, ""] | None = None,
) -> Cache:
    """The cache with rows of a block in it: `source` says which for each row, -1 for none.

    With `row` that row alone gets the block's only one. No other is touched then, where else the
    whole cache is read and written; but rows must not be split over devices.

    A token whose position is above `last` stays invisible; the last `ahead` columns of the block
    are to hold no other, and lie where the next tokens will be written.
    """
    size, length = cache.positions.shape[1], block.positions.shape[1]
    assert length <= size, (length, size)
    columns = (cache.column + ahead - length + jnp.arange(length)) % size
    chosen = source >= 0

    def put(old: Array, new: Array, axis: int) -> Array:
        at = (slice(None),) * (axis - 1) + (columns,)
        if row is not None:
            one = jax.lax.dynamic_index_in_dim(old, row, axis=0, keepdims=False)
            return jax.lax.dynamic_update_index_in_dim(old, one.at[at].set(new[0]), row, axis=0)
        taken = jnp.take(new, jnp.maximum(source, 0), axis=0)
        at = (slice(None), *at)
        here = chosen.reshape(-1, *[1] * (old.ndim - 1))
        return old.at[at].set(jnp.where(here, taken, old[at]))

    def put_all(old: tuple[Array, ...], new: tuple[Array, ...]) -> tuple[Array, ...]:
        pairs = zip(old, new, strict=True)
        return tuple(constrain(put(layer, its, 2), *KV_AXES) for layer, its in pairs)

    filled = Cache(
        put_all(cache.k, block.k),
        put_all(cache.v, block.v),
        put(cache.positions, block.positions, 1),
        put(clear(cache, chosen).segments, block.segments, 1),
        cache.column,
    )
    return drop_after(filled, jnp.where(chosen, last, jnp.iinfo(jnp.int32).max))


def clear(cache: Cache, rows: Bool[Array, " B"]) -> Cache:
    """The cache with nothing visible in these rows."""
    return replace(cache, segments=jnp.where(rows[:, None], 0, cache.segments))


def drop_after(cache: Cache, last: Int[Array, " B"]) -> Cache:
    """The cache without the tokens whose position is above a row's `last`."""
    return replace(cache, segments=jnp.where(cache.positions > last[:, None], 0, cache.segments))


@functools.partial(jax.jit, static_argnames="length")
def lift(cache: Cache, row: Int[Array, ""], length: int) -> Block:
    """The last columns of one row as a block; the cache stays as it is."""
    columns = (cache.column - length + jnp.arange(length)) % cache.positions.shape[1]

    def get(old: Array, axis: int) -> Array:
        one = jax.lax.dynamic_index_in_dim(old, row, axis=0)
        return jnp.take(one, columns, axis=axis)

    return Block(
        tuple(get(k, 2) for k in cache.k),
        tuple(get(v, 2) for v in cache.v),
        get(cache.positions, 1),
        get(cache.segments, 1),
    )


@functools.partial(jax.jit, static_argnames="columns")
def resize(cache: Cache, columns: int) -> Cache:
    """The same cache as a ring of another size, with as many of the latest columns as it holds."""
    size = cache.positions.shape[1]
    kept = cache.column - min(size, columns) + jnp.arange(min(size, columns))

    def move(old: Array, axis: int) -> Array:
        shape = (*old.shape[:axis], columns, *old.shape[axis + 1 :])
        at = (slice(None),) * axis
        return jnp.zeros(shape, old.dtype).at[(*at, kept % columns)].set(old[(*at, kept % size)])

    return Cache(
        tuple(constrain(move(k, 2), *KV_AXES) for k in cache.k),
        tuple(constrain(move(v, 2), *KV_AXES) for v in cache.v),
        move(cache.positions, 1),
        move(cache.segments, 1),
        cache.column,
    )
