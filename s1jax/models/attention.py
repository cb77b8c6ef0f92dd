"""Attention by name: every implementation computes what `attend_xla` computes.

B batch, T query, S key, K kv head, G query heads a kv head, H head_dim.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from s1jax.mesh import ways


class Attend(Protocol):
    """An implementation of attention."""

    def __call__(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B S K H"],
        v: Float[Array, "B S K H"],
        *,
        q_positions: Int[Array, "B T"],
        k_positions: Int[Array, "B S"],
        q_segments: Int[Array, "B T"],
        k_segments: Int[Array, "B S"],
    ) -> Float[Array, "B T N H"]:
        """What each query gathers from the keys of its own segment that are not after it."""
        ...


# Queries are taken in blocks, so that keys after a block cost nothing: half the products of long
# rows. At most MAX_BLOCKS, which keeps the program short.
MIN_BLOCK, MAX_BLOCKS = 128, 16


def attend_xla(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    *,
    q_positions: Int[Array, "B T"],
    k_positions: Int[Array, "B S"],
    q_segments: Int[Array, "B T"],
    k_segments: Int[Array, "B S"],
) -> Float[Array, "B T N H"]:
    """Attention as matrix products with the softmax in float32, on any accelerator.

    Where queries and keys are the same columns (T = S), a row must be in order: no column may see
    one that is to its right.
    """
    batch, length, heads, head_dim = q.shape
    kv_heads, in_order = k.shape[2], length == k.shape[1]
    block = length
    if in_order and ways("seq") == 1:  # a sequence split over devices is not cut up further
        block = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    # Matrix products want [batch, rows, columns]: heads go before tokens, once for all blocks.
    q = q.reshape(batch, length, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)

    def attend(start: int) -> Float[Array, "B K G t H"]:
        rows = slice(start, min(start + block, length))
        columns = slice(0, rows.stop if in_order else None)
        visible = (q_segments[:, rows, None] == k_segments[:, None, columns]) & (
            q_positions[:, rows, None] >= k_positions[:, None, columns]
        )
        return _attend_block(q[:, :, :, rows], k[:, :, columns], v[:, :, columns], visible)

    gathered = jnp.concatenate([attend(start) for start in range(0, length, block)], axis=3)
    return gathered.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head_dim)


def _attend_block(
    q: Float[Array, "B K G T H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    visible: Bool[Array, "B T S"],
) -> Float[Array, "B K G T H"]:
    batch, kv_heads, groups, rows, head_dim = q.shape
    stacked = q.reshape(batch, kv_heads, groups * rows, head_dim)
    scores = jnp.einsum("bkqh,bksh->bkqs", stacked, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, groups, rows, -1) * head_dim**-0.5
    scores = jnp.where(visible[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = weights.reshape(batch, kv_heads, groups * rows, -1)
    return jnp.einsum("bkqs,bksh->bkqh", weights, v).reshape(q.shape)


ATTENTION: dict[str, Attend] = {"xla": attend_xla}
