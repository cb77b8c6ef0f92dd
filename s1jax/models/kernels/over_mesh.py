"""Whole rows for a kernel that knows one device, wherever the mesh has split them.

Where a row's columns are split over `context`, tokens are swapped for heads and back by one
all-to-all each (DeepSpeed-Ulysses, arXiv 2309.14509): every device then holds whole rows for a part
of the heads, so that what causality and packing leave to compute is the same on all of them.

B batch, T token, N heads, K kv heads, H head_dim; all as one device sees them inside `shard_map`.
"""

import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from s1jax.mesh import partition, ways


@runtime_checkable
class WholeRows(Protocol):
    """Attention among the columns of whole rows, on one device."""

    def __call__(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B T K H"],
        v: Float[Array, "B T K H"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        /,
    ) -> Float[Array, "B T N H"]:
        """What each column gathers from those of its own segment that are not after it."""
        ...


def attend_over_mesh(
    kernel: WholeRows,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """What the kernel gathers on each device from the rows and heads that are there.

    Sizes divide by the mesh axes that `s1jax.mesh.RULES` splits them over.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(q, k, v, positions, segments)
    heads = partition(("batch", "seq", "heads", "head_dim"))
    kv_heads = partition(("batch", "seq", "kv_heads", "head_dim"))
    columns = partition(("batch", "features"))  # small, and needed whole
    axis = heads[1]
    assert axis is None or isinstance(axis, str), axis

    def on_device(q: Array, k: Array, v: Array, positions: Array, segments: Array) -> Array:
        if axis is None or ways("seq") == 1:
            return kernel(q, k, v, positions, segments)
        return _swapped(kernel, axis, q, k, v, positions, segments)

    return jax.shard_map(
        on_device,
        in_specs=(heads, kv_heads, kv_heads, columns, columns),
        out_specs=heads,
        # A kernel's outputs do not say over which axes they vary. All axes of the mesh split its
        # arguments, so there is no sum over devices that the check could find missing.
        check_vma=False,
    )(q, k, v, positions, segments)


def _swapped(
    kernel: WholeRows,
    axis: str,
    q: Float[Array, "B t N H"],
    k: Float[Array, "B t K H"],
    v: Float[Array, "B t K H"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
) -> Float[Array, "B t N H"]:
    batch, length, heads, head_dim = q.shape
    devices, kv_heads = jax.lax.axis_size(axis), k.shape[2]
    # Keys and values are repeated until their heads divide, and of their queries each copy takes
    # as many: with heads of zeros behind them where those do not divide.
    copies = devices // math.gcd(kv_heads, devices)
    group = heads // kv_heads
    padded = -(-group // copies) * copies
    q = q.reshape(batch, length, kv_heads, group, head_dim)
    q = jnp.pad(q, [(0, 0)] * 3 + [(0, padded - group), (0, 0)])
    q = q.reshape(batch, length, kv_heads * padded, head_dim)
    k, v = (jnp.repeat(x, copies, axis=2) for x in (k, v))

    q, k, v = (
        jax.lax.all_to_all(x, axis, split_axis=2, concat_axis=1, tiled=True) for x in (q, k, v)
    )
    gathered = kernel(q, k, v, positions, segments)
    gathered = jax.lax.all_to_all(gathered, axis, split_axis=1, concat_axis=2, tiled=True)

    gathered = gathered.reshape(batch, length, kv_heads, padded, head_dim)[:, :, :, :group]
    return gathered.reshape(batch, length, heads, head_dim)
