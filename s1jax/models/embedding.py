"""The rows of a table that tokens name, and their gradient, over any mesh.

B rows, T tokens, V vocab, D embed.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from s1jax.mesh import constrain, mesh_axes, partition


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(
    table: Float[Array, "V D"], tokens: Int[Array, "B T"], dtype: DTypeLike
) -> Float[Array, "B T D"]:
    """The rows of the tokens in `dtype`; their gradient is added up in the table's own dtype.

    In bfloat16 a token that occurs thousands of times would lose most of its gradient.
    """
    # Gathered over fsdp before the look-up: a table split over `embed` and tokens split over
    # `batch`, both by fsdp, would otherwise make XLA replicate one of them unasked.
    return constrain(table.astype(dtype), "vocab", "features")[tokens]


def _forward(table: Array, tokens: Array, dtype: DTypeLike) -> tuple[Array, tuple]:
    return look_up(table, tokens, dtype), (table, tokens)


def _backward(dtype: DTypeLike, residuals: tuple, d_rows: Array) -> tuple[Array, None]:
    table, tokens = residuals
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return jnp.zeros_like(table).at[tokens].add(d_rows.astype(table.dtype)), None
    batch, seq, embed = (mesh_axes(axis) for axis in ("batch", "seq", "embed"))
    copies = tuple(axis for axis in (*batch, *seq) if axis not in embed)
    vocab = mesh_axes("vocab")

    def on_device(tokens: Array, d_rows: Array) -> Array:
        # Each device has all features of its own tokens, and needs its own features of all tokens:
        # the gradient of the table is then nowhere larger than the device's part of it.
        tokens = jax.lax.all_gather(tokens.reshape(-1), embed, tiled=True)
        d_rows = d_rows.reshape(-1, d_rows.shape[-1])
        d_rows = jax.lax.all_to_all(d_rows, embed, split_axis=1, concat_axis=0, tiled=True)
        count = table.shape[0] // _size(mesh, vocab)
        here = tokens - (jax.lax.axis_index(vocab) * count if vocab else 0)
        here = jnp.where((here >= 0) & (here < count), here, count)  # rows of other devices
        d_table = jnp.zeros((count, d_rows.shape[1]), table.dtype)
        d_table = d_table.at[here].add(d_rows.astype(table.dtype), mode="drop")
        return jax.lax.psum(d_table, copies) if copies else d_table

    return jax.shard_map(
        on_device,
        in_specs=(partition(("batch", "seq")), partition(("batch", "seq", "features"))),
        out_specs=partition(("vocab", "embed")),
        check_vma=False,  # along `tensor` every device is given the same, and says so to nobody
    )(tokens, d_rows), None


look_up.defvjp(_forward, _backward)


def _size(mesh: jax.sharding.AbstractMesh, axes: tuple[str, ...]) -> int:
    size = 1
    for axis in axes:
        size *= mesh.shape[axis]
    return size
