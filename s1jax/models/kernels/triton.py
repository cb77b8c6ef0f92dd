"""Attention as three Pallas kernels for NVIDIA GPUs: forward, d_q, and d_k with d_v.

Each keeps its block's sums in registers while a loop runs over the blocks that it meets: those that
`visible_blocks` names and no others, so that a packed row costs what its examples cost
(FlashAttention-2, arXiv 2307.08691). Heads that share keys share them in memory too: none is
repeated, and the last kernel adds up their queries without atomics.

B batch, T token, N heads, K kv heads, G query heads a kv head, H head_dim, I blocks of queries,
J blocks of keys.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float, Int

from s1jax.models.kernels.visible import PADDING, pad_rows, spans, visible_blocks

ROW_MULTIPLE = 128  # tokens; every block divides it
LOG2_E = math.log2(math.e)  # kernels take powers of 2, for which the hardware has an instruction

# Tokens of a block, and how many of the others its loop takes at a time, by bytes of a number. With
# heads of 128 features in bfloat16 an H100's compiler then keeps all sums in registers, but for 24
# bytes of the last kernel's; in float32 larger blocks would not fit the shared memory of an A100.
BLOCKS = {2: (128, 64), 4: (64, 32)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attend_triton(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """What each query gathers; zeros for padding. Rows are in order, as `visible_blocks` says.

    Products are of the dtype of the arrays and summed in float32, as is the softmax. `interpret`
    runs the kernels as plain JAX, where there is no GPU.
    """
    return _forward(q, k, v, positions, segments, interpret)[0]


def _forward(
    q: Array, k: Array, v: Array, positions: Array, segments: Array, interpret: bool
) -> tuple[Array, tuple[Array, ...]]:
    arrays = [_padded(x) for x in (q, k, v)]
    columns = _columns(positions, segments)
    block, step = BLOCKS[q.dtype.itemsize]
    batch, length, heads, head_dim = arrays[0].shape
    group = heads // arrays[1].shape[2]
    of_q, of_k = _of_block(block), _of_row(length, group)
    ends = spans(visible_blocks(columns[0], columns[1], block, step))
    out, log_sums = pl.pallas_call(
        functools.partial(_gather, step, q.shape[-1] ** -0.5),
        grid=(heads, length // block, batch),
        in_specs=[
            *[pl.BlockSpec((None, None), lambda n, i, b: (b, i))] * 2,
            *[of_q(head_dim), of_k(head_dim), of_k(head_dim)],
            *[of_q(), of_q(), of_k(), of_k()],
        ],
        out_specs=[of_q(head_dim), _of_sums(block)],
        out_shape=[
            jax.ShapeDtypeStruct(arrays[0].shape, q.dtype),
            jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
        ],
        compiler_params=_params(head_dim),
        cost_estimate=_cost(q, 2),
        interpret=interpret,
        name="attend_forward",
    )(*ends, *arrays, *columns)
    out = out[:, : q.shape[1], :, : q.shape[3]]
    return out, (q, k, v, positions, segments, out, log_sums)


def _backward(
    interpret: bool, residuals: tuple[Array, ...], d_out: Array
) -> tuple[Array | None, ...]:
    q, k, v, positions, segments, out, log_sums = residuals
    # What a weight's change moves the normalised sum by (arXiv 2307.08691, algorithm 2, line 4).
    drift = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)
    drift = pad_rows(drift, ROW_MULTIPLE).transpose(0, 2, 1)
    d_out, padded_q, padded_k, padded_v = (_padded(x) for x in (d_out.astype(q.dtype), q, k, v))
    columns = _columns(positions, segments)
    block, step = BLOCKS[q.dtype.itemsize]
    batch, length, heads, head_dim = padded_q.shape
    kv_heads = padded_k.shape[2]
    group = heads // kv_heads
    visible = visible_blocks(columns[0], columns[1], block, step)
    scale = q.shape[-1] ** -0.5
    ends_specs = [pl.BlockSpec((None, None), lambda n, i, b: (b, i))] * 2

    of_q, of_k = _of_block(block), _of_row(length, group)
    d_q = pl.pallas_call(
        functools.partial(_pull_queries, step, scale),
        grid=(heads, length // block, batch),
        in_specs=[
            *ends_specs,
            *[of_q(head_dim), of_k(head_dim), of_k(head_dim)],
            *[of_q(), of_q(), of_k(), of_k()],
            *[of_q(head_dim), _of_sums(block), _of_sums(block)],
        ],
        out_specs=of_q(head_dim),
        out_shape=jax.ShapeDtypeStruct(padded_q.shape, q.dtype),
        compiler_params=_params(head_dim),
        cost_estimate=_cost(q, 3),
        interpret=interpret,
        name="attend_d_q",
    )(*spans(visible), padded_q, padded_k, padded_v, *columns, d_out, log_sums, drift)

    # One kernel a block of keys; it meets all queries of its group of heads.
    of_k, of_q = _of_block(block), _of_row(length, 1)
    of_group = pl.BlockSpec((None, length, group, head_dim), lambda n, j, b: (b, 0, n, 0))
    group_sums = pl.BlockSpec((None, group, length), lambda n, j, b: (b, n, 0))
    d_k, d_v = pl.pallas_call(
        functools.partial(_pull_keys, step, scale, group),
        grid=(kv_heads, length // block, batch),
        in_specs=[
            *ends_specs,
            *[of_group, of_k(head_dim), of_k(head_dim)],
            *[of_q(), of_q(), of_k(), of_k()],
            *[of_group, group_sums, group_sums],
        ],
        out_specs=[of_k(head_dim), of_k(head_dim)],
        out_shape=[jax.ShapeDtypeStruct(padded_k.shape, x.dtype) for x in (k, v)],
        compiler_params=_params(head_dim),
        cost_estimate=_cost(q, 4),
        interpret=interpret,
        name="attend_d_kv",
    )(
        *spans(visible_blocks(columns[0], columns[1], step, block).swapaxes(1, 2)),
        *(padded_q, padded_k, padded_v, *columns, d_out, log_sums, drift),
    )
    d_q, d_k, d_v = (d[:, : x.shape[1], :, : x.shape[3]] for d, x in ((d_q, q), (d_k, k), (d_v, v)))
    return d_q, d_k, d_v, None, None


attend_triton.defvjp(_forward, _backward)


def _cost(q: Float[Array, "B T N H"], products: int) -> pl.CostEstimate:
    """So many products for each pair of tokens that sees each other in rows of one example.

    Rows that hold several have fewer pairs, which nobody knows before they are there.
    """
    batch, length, heads, head_dim = q.shape
    pairs = batch * heads * length * (length + 1) // 2
    read = q.size * q.dtype.itemsize * 4
    return pl.CostEstimate(
        flops=2 * products * pairs * head_dim, bytes_accessed=read, transcendentals=pairs
    )


def _gather(
    step: int,
    scale: float,
    first: Any,
    stop: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    q_positions: Any,
    q_segments: Any,
    k_positions: Any,
    k_segments: Any,
    out_ref: Any,
    log_sum_ref: Any,
) -> None:
    """A block of queries of one head: what they gather, and the logarithm (base 2) of the sum."""
    q, positions, segments = q_ref[...], q_positions[...], q_segments[...]

    def add(j: Array, sums: tuple) -> tuple:
        top, total, gathered = sums
        at = pl.ds(j * step, step)
        seen = _seen(positions, segments, k_positions[at], k_segments[at])
        scores = _product(q, k_ref[at, :], (1, 1)) * (scale * LOG2_E)
        scores = jnp.where(seen, scores, -jnp.inf)
        new_top = jnp.maximum(top, scores.max(1))
        shrink = jnp.exp2(top - new_top)
        weights = jnp.exp2(scores - new_top[:, None])
        more = _product(weights.astype(v_ref.dtype), v_ref[at, :], (1, 0))
        return new_top, total * shrink + weights.sum(1), gathered * shrink[:, None] + more

    # A finite number, not -inf: the difference of two tops must be a number.
    top = jnp.full(q.shape[:1], -1e30, jnp.float32)
    sums = (top, jnp.zeros_like(top), jnp.zeros(q.shape, jnp.float32))
    top, total, gathered = jax.lax.fori_loop(first[...], stop[...], add, sums)
    total = jnp.where(total > 0, total, 1.0)
    out_ref[...] = (gathered / total[:, None]).astype(out_ref.dtype)
    log_sum_ref[...] = top + jnp.log2(total)


def _pull_queries(
    step: int,
    scale: float,
    first: Any,
    stop: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    q_positions: Any,
    q_segments: Any,
    k_positions: Any,
    k_segments: Any,
    d_out_ref: Any,
    log_sum_ref: Any,
    drift_ref: Any,
    d_q_ref: Any,
) -> None:
    """The gradient of a block of queries of one head."""
    q, positions, segments = q_ref[...], q_positions[...], q_segments[...]
    d_out, log_sum, drift = d_out_ref[...], log_sum_ref[...], drift_ref[...]

    def add(j: Array, d_q: Array) -> Array:
        at = pl.ds(j * step, step)
        keys = k_ref[at, :]
        seen = _seen(positions, segments, k_positions[at], k_segments[at])
        weights = _weights(_product(q, keys, (1, 1)), log_sum[:, None], seen, scale)
        d_weights = _product(d_out, v_ref[at, :], (1, 1))
        d_scores = weights * (d_weights - drift[:, None])
        return d_q + _product(d_scores.astype(keys.dtype), keys, (1, 0))

    d_q = jax.lax.fori_loop(first[...], stop[...], add, jnp.zeros(q.shape, jnp.float32))
    d_q_ref[...] = (d_q * scale).astype(d_q_ref.dtype)


def _pull_keys(
    step: int,
    scale: float,
    group: int,
    first: Any,
    stop: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    q_positions: Any,
    q_segments: Any,
    k_positions: Any,
    k_segments: Any,
    d_out_ref: Any,
    log_sum_ref: Any,
    drift_ref: Any,
    d_k_ref: Any,
    d_v_ref: Any,
) -> None:
    """The gradients of a block of keys and of their values, from all heads that share them.

    Scores are transposed here, keys before queries: products then need no other transpose.
    """
    keys, values = k_ref[...], v_ref[...]
    positions, segments = k_positions[...], k_segments[...]

    def add_head(head: Array, sums: tuple) -> tuple:
        def add(i: Array, sums: tuple) -> tuple:
            d_k, d_v = sums
            at = pl.ds(i * step, step)
            q, d_out = q_ref[at, head, :], d_out_ref[at, head, :]
            seen = _seen(q_positions[at], q_segments[at], positions, segments, keys_first=True)
            log_sum, drift = log_sum_ref[head, at], drift_ref[head, at]
            weights = _weights(_product(keys, q, (1, 1)), log_sum[None], seen, scale)
            d_v += _product(weights.astype(d_out.dtype), d_out, (1, 0))
            d_scores = weights * (_product(values, d_out, (1, 1)) - drift[None])
            d_k += _product(d_scores.astype(q.dtype), q, (1, 0))
            return d_k, d_v

        return jax.lax.fori_loop(first[...], stop[...], add, sums)

    zeros = jnp.zeros(keys.shape, jnp.float32)
    d_k, d_v = jax.lax.fori_loop(0, group, add_head, (zeros, zeros))
    d_k_ref[...] = (d_k * scale).astype(d_k_ref.dtype)
    d_v_ref[...] = d_v.astype(d_v_ref.dtype)


def _product(
    one: Float[Array, "a b"], other: Float[Array, "c d"], axes: tuple[int, int]
) -> Float[Array, "e f"]:
    """The matrix product over these axes, in the precision that `exact_products` may ask for."""
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(one, other, dimensions, preferred_element_type=jnp.float32)


def _weights(
    products: Float[Array, "a b"],
    log_sum: Float[Array, "..."],
    seen: Bool[Array, "a b"],
    scale: float,
) -> Float[Array, "a b"]:
    return jnp.where(seen, jnp.exp2(products * (scale * LOG2_E) - log_sum), 0.0)


def _seen(
    q_positions: Int[Array, " Q"],
    q_segments: Int[Array, " Q"],
    k_positions: Int[Array, " S"],
    k_segments: Int[Array, " S"],
    keys_first: bool = False,
) -> Bool[Array, "a b"]:
    """Which keys each query sees; keys' padding has another segment than queries'."""
    if keys_first:
        return (q_segments[None] == k_segments[:, None]) & (
            q_positions[None] >= k_positions[:, None]
        )
    return (q_segments[:, None] == k_segments[None]) & (q_positions[:, None] >= k_positions[None])


def _padded(x: Float[Array, "B T N H"]) -> Float[Array, "B T2 N H2"]:
    """Rows as long as blocks need them, and as many features as products need: a power of 2."""
    missing = max(16, pl.next_power_of_2(x.shape[-1])) - x.shape[-1]
    x = pad_rows(x, ROW_MULTIPLE)
    return jnp.pad(x, [(0, 0)] * 3 + [(0, missing)]) if missing else x


def _columns(positions: Int[Array, "B T"], segments: Int[Array, "B T"]) -> list[Array]:
    """Positions and segments of the queries, and those of the keys."""
    positions, segments = (pad_rows(x, ROW_MULTIPLE) for x in (positions, segments))
    shown = jnp.where(segments == PADDING, -1, segments)
    return [positions, segments, positions, shown]


def _of_block(tokens: int) -> Callable[..., pl.BlockSpec]:
    """What the i-th program of a row reads: its block of a head, or of the columns."""

    def spec(features: int | None = None) -> pl.BlockSpec:
        if features is None:
            return pl.BlockSpec((None, tokens), lambda n, i, b: (b, i))
        return pl.BlockSpec((None, tokens, None, features), lambda n, i, b: (b, i, n, 0))

    return spec


def _of_row(length: int, group: int) -> Callable[..., pl.BlockSpec]:
    """What every program of a row may read: all blocks of a head that its group shares."""

    def spec(features: int | None = None) -> pl.BlockSpec:
        if features is None:
            return pl.BlockSpec((None, length), lambda n, i, b: (b, 0))
        return pl.BlockSpec((None, length, None, features), lambda n, i, b: (b, 0, n // group, 0))

    return spec


def _params(head_dim: int) -> plgpu.CompilerParams:
    return plgpu.CompilerParams(num_warps=8 if head_dim > 64 else 4, num_stages=2)


def _of_sums(tokens: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, None, tokens), lambda n, i, b: (b, n, i))
