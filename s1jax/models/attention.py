"""Attention by name: every implementation computes what `attend_xla` computes.

Those in `kernels` have no T x T buffer, and hide padding (segment 0) from itself or not: what
padding gathers is finite, and nobody looks at it.

B batch, T query, S key, K kv head, G query heads a kv head, H head_dim.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from s1jax.mesh import ways
from s1jax.models.kernels.chunked import attend_chunked
from s1jax.models.kernels.cudnn import attend_cudnn
from s1jax.models.kernels.over_mesh import WholeRows, attend_over_mesh
from s1jax.models.kernels.splash import attend_splash
from s1jax.models.kernels.triton import attend_triton
from s1jax.types import UserError


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
    if q.shape[1] == k.shape[1] and ways("seq") > 1:

        def whole(q: Array, k: Array, v: Array, positions: Array, segments: Array) -> Array:
            return _attend_blocks(q, k, v, positions, positions, segments, segments)

        return attend_over_mesh(whole, q, k, v, q_positions, q_segments)
    return _attend_blocks(q, k, v, q_positions, k_positions, q_segments, k_segments)


def _attend_blocks(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    q_positions: Int[Array, "B T"],
    k_positions: Int[Array, "B S"],
    q_segments: Int[Array, "B T"],
    k_segments: Int[Array, "B S"],
) -> Float[Array, "B T N H"]:
    length, kv_heads = q.shape[1], k.shape[2]
    in_order = length == k.shape[1]
    block = length
    if in_order:
        block = MIN_BLOCK * -(-length // (MIN_BLOCK * MAX_BLOCKS))
    # Matrix products want [batch, rows, columns]: heads go before tokens, once for all blocks.
    q = _split(q, kv_heads)
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
    return _merge(jnp.concatenate(gathered, axis=3))


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


@runtime_checkable
class AttendCache(Protocol):
    """An implementation of attention to what lies in a cache, in any order, and to new tokens."""

    def __call__(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B T K H"],
        v: Float[Array, "B T K H"],
        past_k: Float[Array, "B K S H"],
        past_v: Float[Array, "B K S H"],
        *,
        q_positions: Int[Array, "B T"],
        k_positions: Int[Array, "B S"],
        q_segments: Int[Array, "B T"],
        k_segments: Int[Array, "B S"],
    ) -> Float[Array, "B T N H"]:
        """What each query gathers, from the past and from the new tokens up to its own."""
        ...


def attend_cache(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    past_k: Float[Array, "B K S H"],
    past_v: Float[Array, "B K S H"],
    *,
    q_positions: Int[Array, "B T"],
    k_positions: Int[Array, "B S"],
    q_segments: Int[Array, "B T"],
    k_segments: Int[Array, "B S"],
) -> Float[Array, "B T N H"]:
    """The scores of both together, with the softmax in float32; see `AttendCache`."""
    batch, length, heads, head_dim = q.shape
    kv_heads, columns = past_k.shape[1:3]
    rows = _split(q, kv_heads).reshape(batch, kv_heads, -1, head_dim)
    shape = (batch, kv_heads, heads // kv_heads, length, -1)

    def scores(keys: Array, axes: str, positions: Array, segments: Array) -> Array:
        dots = jnp.einsum(f"bkqh,{axes}->bkqs", rows, keys, preferred_element_type=jnp.float32)
        visible = (q_segments[:, :, None] == segments[:, None]) & (
            q_positions[:, :, None] >= positions[:, None]
        )
        least = jnp.finfo(jnp.float32).min
        return jnp.where(visible[:, None, None], dots.reshape(shape) * head_dim**-0.5, least)

    both = [
        scores(past_k, "bksh", k_positions, k_segments),
        scores(k, "bskh", q_positions, q_segments),
    ]
    weights = jax.nn.softmax(jnp.concatenate(both, axis=-1), axis=-1).astype(v.dtype)
    weights = weights.reshape(batch, kv_heads, -1, columns + length)
    gathered = jnp.einsum("bkqs,bksh->bkqh", weights[..., :columns], past_v)
    gathered += jnp.einsum("bkqs,bskh->bkqh", weights[..., columns:], v)
    return _merge(gathered.reshape(*shape[:-1], head_dim))


STRICT_COLUMNS = 128  # of a block


def attend_strictly(
    q: Float[Array, "B 1 N H"],
    k: Float[Array, "B 1 K H"],
    v: Float[Array, "B 1 K H"],
    past_k: Float[Array, "B K S H"],
    past_v: Float[Array, "B K S H"],
    *,
    q_positions: Int[Array, "B 1"],
    k_positions: Int[Array, "B S"],
    q_segments: Int[Array, "B 1"],
    k_segments: Int[Array, "B S"],
) -> Float[Array, "B 1 N H"]:
    """`attend_cache` for one token, the same bits wherever a row lies in a cache of any size.

    Keys are brought into the order of their positions and taken in blocks of one size, each added
    to the sum before it, so that empty columns add nothing to it. Twice the traffic of the cache.
    """
    columns = past_k.shape[2]
    assert columns % STRICT_COLUMNS == 0, columns
    visible = (q_segments == k_segments) & (q_positions >= k_positions)
    order = jnp.argsort(jnp.where(visible, k_positions, jnp.iinfo(jnp.int32).max), axis=-1)
    seen = jnp.arange(columns) < visible.sum(-1, keepdims=True)
    scaled = _split(q, past_k.shape[1])[:, :, :, 0].astype(jnp.float32) * q.shape[-1] ** -0.5

    Sums = tuple[Array, Array, Array]  # the largest score, and the sums of weights and values

    def take(sums: Sums, keys: Array, values: Array, here: Array) -> Sums:
        top, total, gathered = sums
        scores = jnp.einsum("bkgh,bksh->bkgs", scaled, keys.astype(jnp.float32))
        scores = jnp.where(here[:, None, None], scores, -jnp.inf)
        new_top = jnp.maximum(top, scores.max(-1))
        shrink, weights = jnp.exp(top - new_top), jnp.exp(scores - new_top[..., None])
        more = jnp.einsum("bkgs,bksh->bkgh", weights, values.astype(jnp.float32))
        return new_top, total * shrink + weights.sum(-1), gathered * shrink[..., None] + more

    def add(block: Array, sums: Sums) -> Sums:
        at = block * STRICT_COLUMNS
        chosen = jax.lax.dynamic_slice_in_dim(order, at, STRICT_COLUMNS, axis=1)
        here = jax.lax.dynamic_slice_in_dim(seen, at, STRICT_COLUMNS, axis=1)
        keys, values = (
            jnp.take_along_axis(x, chosen[:, None, :, None], axis=2) for x in (past_k, past_v)
        )
        return take(sums, keys, values, here)

    # The token itself comes first, so that there is a largest score from the start.
    least = jnp.full(scaled.shape[:3], jnp.finfo(jnp.float32).min)
    nothing = (least, jnp.zeros_like(least), jnp.zeros_like(scaled))
    own = take(nothing, k.swapaxes(1, 2), v.swapaxes(1, 2), jnp.ones_like(q_segments, bool))
    _, total, gathered = jax.lax.fori_loop(0, columns // STRICT_COLUMNS, add, own)
    return _merge((gathered / total[..., None])[:, :, :, None].astype(v.dtype))


def _split(q: Float[Array, "B T N H"], kv_heads: int) -> Float[Array, "B K G T H"]:
    """The queries beside the keys that they share; rows of a head in order, as products want."""
    batch, length, heads, head_dim = q.shape
    return q.reshape(batch, length, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)


def _merge(gathered: Float[Array, "B K G T H"]) -> Float[Array, "B T N H"]:
    batch, kv_heads, groups, length, head_dim = gathered.shape
    return gathered.transpose(0, 3, 1, 2, 4).reshape(batch, length, kv_heads * groups, head_dim)


def _over_mesh(kernel: WholeRows) -> Attend:
    """The kernel for rows that lie anywhere on the mesh, among their own columns."""

    def attend(
        q: Float[Array, "B T N H"],
        k: Float[Array, "B T K H"],
        v: Float[Array, "B T K H"],
        *,
        q_positions: Int[Array, "B T"],
        k_positions: Int[Array, "B T"],
        q_segments: Int[Array, "B T"],
        k_segments: Int[Array, "B T"],
    ) -> Float[Array, "B T N H"]:
        return attend_over_mesh(kernel, q, k, v, q_positions, q_segments)

    return attend


ATTENTION: dict[str, Attend] = {
    "xla": attend_xla,
    "chunked": _over_mesh(attend_chunked),
    "triton": _over_mesh(attend_triton),
    "cudnn": _over_mesh(attend_cudnn),
    "splash": _over_mesh(attend_splash),
}
CACHED: dict[str, AttendCache] = {"xla": attend_cache, "strict": attend_strictly}

PLATFORMS = {"triton": "gpu", "cudnn": "gpu", "splash": "tpu"}  # of kernels that need a certain one
XLA_MAX_TOKENS = 1024  # of a row on CPU, where "chunked" takes over; measured, see BUILD_NOTES


def choose(
    name: str,
    platform: str | None = None,
    *,
    row_length: int,
    packed: bool,
    dtype: DTypeLike = jnp.bfloat16,
) -> str:
    """The name in ATTENTION that a config's name stands for, for training on such rows.

    `platform` is the one to compile for, as JAX ("gpu") or XLA ("cuda") names it; by default that
    of the current mesh's devices, and without a mesh of those that are here. Raises UserError for a
    kernel that cannot run there, or not on such rows.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = platform or (device.platform if device else jax.default_backend())
    platform = {"cuda": "gpu"}.get(platform, platform)
    if name == "auto":
        # cuDNN computes in 16 bits, and hears nothing of segments.
        on_gpu = "triton" if packed or jnp.dtype(dtype).itemsize > 2 else "cudnn"
        on_cpu = "xla" if row_length <= XLA_MAX_TOKENS else "chunked"
        return {"gpu": on_gpu, "tpu": "splash", "cpu": on_cpu}.get(platform, "chunked")
    needed = PLATFORMS.get(name, platform)
    if needed != platform:
        raise UserError(
            f'model.attention="{name}" runs on a {needed.upper()}, and this is for a'
            f' {platform.upper()}: set it to "auto"'
        )
    if name == "cudnn" and packed:
        raise UserError(
            'model.attention="cudnn" knows no segments, and data.pack=True puts several examples'
            ' into a row: set model.attention to "auto" or "triton"'
        )
    if name == "cudnn" and jnp.dtype(dtype).itemsize > 2:
        raise UserError(
            f'model.attention="cudnn" computes in 16 bits, and model.compute_dtype="{dtype}": set'
            ' model.attention to "auto" or "triton"'
        )
    return name
