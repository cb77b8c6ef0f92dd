"""Attention by name: every implementation computes what `attend_xla` computes.

B batch, T query, S key, K kv head, G query heads a kv head, H head_dim.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from s1jax.mesh import ways


@runtime_checkable
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
# rows. At most MAX_BLOCKS, which keeps the program short; in rows so long that blocks grow beyond
# MIN_BLOCK, the backward pass computes each block's weights again rather than keep them all.
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

    Memory grows with T S, divided by the number of blocks in long rows. Where queries and keys are
    the same columns (T = S), a row must be in order: no column may see one that is to its right.
    """
    batch, length, heads, head_dim = q.shape
    kv_heads, in_order = k.shape[2], length == k.shape[1]
    block = length
    if in_order and ways("seq") == 1:  # a sequence split over devices is not cut up further
        block = MIN_BLOCK * -(-length // (MIN_BLOCK * MAX_BLOCKS))
    # Matrix products want [batch, rows, columns]: heads go before tokens, once for all blocks.
    q = q.reshape(batch, length, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)

    attend_block = _attend_block if block <= MIN_BLOCK else jax.checkpoint(_attend_block)
    stops = [*range(block, length, block), length]
    # Split, not sliced: the gradient of a slice is as long as the whole row.
    parts = jax.lax.split(q, np.diff([0, *stops]).tolist(), axis=3)
    gathered = []
    for stop, part in zip(stops, parts, strict=True):
        rows = slice(stop - part.shape[3], stop)
        columns = slice(0, stop if in_order else None)
        visible = (q_segments[:, rows, None] == k_segments[:, None, columns]) & (
            q_positions[:, rows, None] >= k_positions[:, None, columns]
        )
        gathered.append(attend_block(part, k[:, :, columns], v[:, :, columns], visible))
    out = jnp.concatenate(gathered, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head_dim)


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
