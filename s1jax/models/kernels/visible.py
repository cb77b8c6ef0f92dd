"""Which blocks of keys the queries of a block may see, so that the others are never computed.

B batch, T token, I block of queries, J block of keys.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

PADDING = 0  # the segment of columns without a token: they see nothing, and nothing sees them


def visible_blocks(
    positions: Int[Array, "B T"], segments: Int[Array, "B T"], q_block: int, k_block: int
) -> Bool[Array, "B I J"]:
    """Whether a query of block I may see a key of block J; T divides by both sizes.

    True for every pair that holds a visible one, given a row in order: no column sees one to its
    right. For rows whose segments are contiguous hardly any other pair is True.
    """
    length = positions.shape[1]
    real = segments != PADDING
    most = jnp.iinfo(jnp.int32).max

    def lowest(x: Array, block: int) -> Array:
        return jnp.where(real, x, most).reshape(len(x), -1, block).min(-1)

    def highest(x: Array, block: int) -> Array:
        return jnp.where(real, x, -1).reshape(len(x), -1, block).max(-1)

    last_column = (jnp.arange(length // q_block) + 1) * q_block - 1
    first_column = jnp.arange(length // k_block) * k_block
    return (
        (lowest(segments, q_block)[:, :, None] <= highest(segments, k_block)[:, None])
        & (highest(segments, q_block)[:, :, None] >= lowest(segments, k_block)[:, None])
        & (highest(positions, q_block)[:, :, None] >= lowest(positions, k_block)[:, None])
        & (last_column[:, None] >= first_column)
    )


def spans(visible: Bool[Array, "B I J"]) -> tuple[Int[Array, "B I"], Int[Array, "B I"]]:
    """Of each I, the first J that is visible and the one after the last; 0 and 0 without any."""
    blocks = visible.shape[-1]
    some = visible.any(-1)
    first = jnp.argmax(visible, axis=-1)
    stop = blocks - jnp.argmax(visible[..., ::-1], axis=-1)
    zero = jnp.int32(0)
    return (
        jnp.where(some, first, zero).astype(jnp.int32),
        jnp.where(some, stop, zero).astype(jnp.int32),
    )


def pad_rows(x: Array, multiple: int) -> Array:
    """The array [B, T, ...] with zeros after its columns, as many as T needs to divide."""
    missing = -x.shape[1] % multiple
    return jnp.pad(x, [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)])
