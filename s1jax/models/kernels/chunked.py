"""Attention in blocks that are forgotten once they are used: plain JAX, for any accelerator.

The softmax is taken over one block of keys after the other, and the backward pass computes every
block's weights again from the sum that the forward pass kept (FlashAttention-2, arXiv 2307.08691).
Loops are loops of the program too, so that it is as short for a long row as for a short one.

B batch, T token, N heads, K kv heads, H head_dim; I block, Q queries of a block, C the same for all
heads that share keys, S keys of a block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from s1jax.models.kernels.visible import PADDING, pad_rows, spans, visible_blocks

# Tokens of a block. Measured on CPU with 9 heads of 64 and 4,096 tokens: other sizes, from 64 x 256
# to 512 x 512, cost 5% to 50% more.
BLOCK = 256


class Queries(NamedTuple):
    """One block of queries, or with a leading axis all blocks of all rows."""

    q: Array  # [K, C, H]
    positions: Array  # int32 [Q]
    segments: Array  # int32 [Q]
    row: Array  # int32 []
    first: Array  # int32 [], of the blocks of keys that it sees
    stop: Array  # int32 [], after the last of them


class Keys(NamedTuple):
    """All blocks of keys of all rows."""

    k: Array  # [I, K, S, H]
    v: Array  # [I, K, S, H]
    positions: Array  # int32 [I, S]
    segments: Array  # int32 [I, S]; none of them is PADDING


@jax.custom_vjp
def attend_chunked(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """What each query gathers; zeros for padding. Rows are in order, as `visible_blocks` says.

    Products are of the dtype of the arrays and summed in float32, as is the softmax.
    """
    return _forward(q, k, v, positions, segments)[0]


def _forward(
    q: Array, k: Array, v: Array, positions: Array, segments: Array
) -> tuple[Array, tuple[Array, ...]]:
    queries, keys = _blocks(q, k, v, positions, segments)
    scale = q.shape[-1] ** -0.5
    per_row = len(keys.k) // len(q)

    def gather(_: None, block: Queries) -> tuple[None, tuple[Array, Array]]:
        def add(j: Array, sums: tuple) -> tuple:
            top, total, gathered = sums
            scores, seen = _scores(block, keys, block.row * per_row + j, scale)
            new_top = jnp.maximum(top, _hide(scores, seen, -jnp.inf).max(-1))
            shrink = jnp.exp(top - new_top)
            weights = _hide(jnp.exp(scores - new_top[..., None]), seen, 0.0)
            values = keys.v[block.row * per_row + j]
            more = _product("kcs,ksh->kch", weights.astype(v.dtype), values)
            return new_top, total * shrink + weights.sum(-1), gathered * shrink[..., None] + more

        # The lowest finite number, not -inf: the difference of two tops must be a number.
        top = jnp.full(block.q.shape[:2], jnp.finfo(jnp.float32).min)
        zeros = jnp.zeros(block.q.shape, jnp.float32)
        top, total, gathered = jax.lax.fori_loop(
            block.first, block.stop, add, (top, jnp.zeros_like(top), zeros)
        )
        total = jnp.where(total > 0, total, 1.0)
        return None, ((gathered / total[..., None]).astype(q.dtype), top + jnp.log(total))

    _, (gathered, log_sums) = jax.lax.scan(gather, None, queries)
    out = _from_blocks(gathered, q.shape)
    return out, (q, k, v, positions, segments, out, log_sums)


def _backward(residuals: tuple[Array, ...], d_out: Array) -> tuple[Array | None, ...]:
    q, k, v, positions, segments, out, log_sums = residuals
    queries, keys = _blocks(q, k, v, positions, segments)
    scale = q.shape[-1] ** -0.5
    per_row = len(keys.k) // len(q)
    kv_heads, size = k.shape[2], queries.positions.shape[1]
    # What a weight's change moves the normalised sum by (arXiv 2307.08691, algorithm 2, line 4).
    drift = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1, keepdims=True)
    drift = _to_blocks(drift, kv_heads, size)[..., 0]

    def gather(sums: tuple[Array, Array], xs: tuple) -> tuple[tuple[Array, Array], Array]:
        block, d_block, log_sum, block_drift = xs

        def add(j: Array, sums: tuple) -> tuple:
            d_q, d_k, d_v = sums
            at = block.row * per_row + j
            scores, seen = _scores(block, keys, at, scale)
            weights = _hide(jnp.exp(scores - log_sum[..., None]), seen, 0.0)
            d_weights = _product("kch,ksh->kcs", d_block, keys.v[at])
            d_scores = (weights * (d_weights - block_drift[..., None]) * scale).astype(q.dtype)
            d_v = d_v.at[at].add(_product("kcs,kch->ksh", weights.astype(q.dtype), d_block))
            d_k = d_k.at[at].add(_product("kcs,kch->ksh", d_scores, block.q))
            return d_q + _product("kcs,ksh->kch", d_scores, keys.k[at]), d_k, d_v

        zeros = jnp.zeros(block.q.shape, jnp.float32)
        d_q, d_k, d_v = jax.lax.fori_loop(block.first, block.stop, add, (zeros, *sums))
        return (d_k, d_v), d_q.astype(q.dtype)

    zeros = jnp.zeros(keys.k.shape, jnp.float32)
    blocks = (queries, _to_blocks(d_out.astype(q.dtype), kv_heads, size), log_sums, drift)
    (d_k, d_v), d_q = jax.lax.scan(gather, (zeros, zeros), blocks)
    d_k, d_v = (_from_blocks(x.astype(k.dtype), k.shape) for x in (d_k, d_v))
    return _from_blocks(d_q, q.shape), d_k, d_v, None, None


attend_chunked.defvjp(_forward, _backward)


def _scores(
    block: Queries, keys: Keys, at: Int[Array, ""], scale: float
) -> tuple[Float[Array, "K C S"], Bool[Array, "Q S"]]:
    """The products of a block of queries with one of keys, and which of them count."""
    scores = _product("kch,ksh->kcs", block.q, keys.k[at]) * scale
    seen = (block.segments[:, None] == keys.segments[at]) & (
        block.positions[:, None] >= keys.positions[at]
    )
    return scores, seen


def _hide(
    x: Float[Array, "K C S"], seen: Bool[Array, "Q S"], instead: float
) -> Float[Array, "K C S"]:
    kv_heads, rows, columns = x.shape
    whole = x.reshape(kv_heads, -1, *seen.shape)
    return jnp.where(seen, whole, instead).reshape(kv_heads, rows, columns)


def _product(letters: str, one: Array, other: Array) -> Float[Array, "..."]:
    return jnp.einsum(letters, one, other, preferred_element_type=jnp.float32)


def _blocks(
    q: Array, k: Array, v: Array, positions: Array, segments: Array
) -> tuple[Queries, Keys]:
    """The arrays in blocks, those of all rows one after the other."""
    size, kv_heads = min(BLOCK, q.shape[1]), k.shape[2]
    positions, segments = (pad_rows(x, size) for x in (positions, segments))
    first, stop = spans(visible_blocks(positions, segments, size, size))
    row = jnp.repeat(jnp.arange(len(q), dtype=jnp.int32), first.shape[1])
    positions, segments = (x.reshape(-1, size) for x in (positions, segments))
    q, k, v = (_to_blocks(x, kv_heads, size) for x in (q, k, v))
    # Padding sees nothing: its segment among the keys is another one than among the queries.
    shown = jnp.where(segments == PADDING, -1, segments)
    queries = Queries(q, positions, segments, row, first.ravel(), stop.ravel())
    return queries, Keys(k, v, positions, shown)


def _to_blocks(x: Float[Array, "B T N H"], kv_heads: int, size: int) -> Float[Array, "I K C H"]:
    """The blocks of all rows, heads that share keys after one another."""
    x = pad_rows(x, size)
    batch, length, heads, head_dim = x.shape
    x = x.reshape(batch, length // size, size, kv_heads, heads // kv_heads, head_dim)
    return x.transpose(0, 1, 3, 4, 2, 5).reshape(-1, kv_heads, heads // kv_heads * size, head_dim)


def _from_blocks(
    blocks: Float[Array, "I K C H"], shape: tuple[int, ...]
) -> Float[Array, "B T N H"]:
    """The array of this shape that `_to_blocks` cut."""
    batch, length, heads, head_dim = shape
    group = heads // blocks.shape[1]
    x = blocks.reshape(batch, -1, blocks.shape[1], group, blocks.shape[2] // group, head_dim)
    return x.transpose(0, 1, 4, 2, 3, 5).reshape(batch, -1, heads, head_dim)[:, :length]
