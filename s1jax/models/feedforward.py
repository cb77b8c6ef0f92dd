"""The gated feed-forward layer of long rows, a piece of the tokens at a time.

R, Z shards of the batch and of a row, C tokens of a device in a piece, D embed, F mlp.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from s1jax.mesh import apart, constrain, summed, together, ways

# Tokens of a device whose F features exist at a time. At 32,768 tokens of a 32B model they and
# their gradients would be 8.4 GiB; a piece of this size still fills any accelerator.
PIECE_TOKENS = 4096


def pieces(rows: int, length: int) -> int:
    """Into how many equal pieces the tokens of a device are cut; 1 where they are few."""
    tokens = rows * length // (ways("batch") * ways("seq"))
    return -(-tokens // PIECE_TOKENS)


@jax.custom_vjp
def feed_forward(
    x: Float[Array, "B T D"],
    gate: Float[Array, "D F"],
    up: Float[Array, "D F"],
    down: Float[Array, "D F"],
) -> Float[Array, "B T D"]:
    """silu(x gate) * (x up), times down (SwiGLU, arXiv 2002.05202), in the dtype of `x`.

    For the backward pass it keeps `x` alone. Gradients of the kernels are added up in float32 over
    the pieces of a device, and in the dtype of `x` over devices.
    """
    return _forward(x, gate, up, down)[0]


def _forward(x: Array, *kernels: Array) -> tuple[Array, tuple]:
    gate, up, down = _whole(x, kernels)

    def piece(_: None, x: Array) -> tuple[None, Array]:
        hidden = jax.nn.silu(_expand(x, gate)) * _expand(x, up)
        return None, _contract(hidden, down)

    _, y = jax.lax.scan(piece, None, _cut(x))
    return _join(y, *x.shape[:2]), (x, *kernels)


def _backward(residuals: tuple, d_y: Array) -> tuple[Array, ...]:
    x, *kernels = residuals
    gate, up, down = _whole(x, kernels)

    def piece(sums: tuple, pair: tuple[Array, Array]) -> tuple[tuple, Array]:
        x, d_y = pair
        hidden, pull = jax.vjp(
            lambda gated, lifted: jax.nn.silu(gated) * lifted, _expand(x, gate), _expand(x, up)
        )
        d_gated, d_lifted = pull(_expand(d_y, down))
        made = ((x, d_gated), (x, d_lifted), (d_y, hidden))
        sums = tuple(_add(total, *two) for total, two in zip(sums, made, strict=True))
        return sums, _contract(d_gated, gate) + _contract(d_lifted, up)

    zeros = jnp.zeros((ways("batch"), ways("seq"), *gate.shape), jnp.float32)
    sums, d_x = jax.lax.scan(piece, (_of_device(zeros),) * 3, (_cut(x), _cut(d_y)))
    gradients = (
        summed(total.astype(x.dtype), "embed", "mlp").astype(kernel.dtype)
        for total, kernel in zip(sums, kernels, strict=True)
    )
    return _join(d_x, *x.shape[:2]), *gradients


feed_forward.defvjp(_forward, _backward)


def _whole(x: Array, kernels: tuple[Array, ...] | list[Array]) -> list[Array]:
    """The kernels in the dtype of `x`, gathered once for all pieces."""
    return [constrain(kernel.astype(x.dtype), "features", "mlp") for kernel in kernels]


def _expand(x: Float[Array, "R Z C D"], kernel: Float[Array, "D F"]) -> Float[Array, "R Z C F"]:
    return jnp.einsum("rzcd,df->rzcf", x, kernel)


def _contract(x: Float[Array, "R Z C F"], kernel: Float[Array, "D F"]) -> Float[Array, "R Z C D"]:
    return jnp.einsum("rzcf,df->rzcd", x, kernel)


def _add(
    total: Float[Array, "R Z D F"], x: Float[Array, "R Z C D"], y: Float[Array, "R Z C F"]
) -> Float[Array, "R Z D F"]:
    part = jnp.einsum("rzcd,rzcf->rzdf", x, y, preferred_element_type=jnp.float32)
    return _of_device(total + part)


def _of_device(total: Float[Array, "R Z D F"]) -> Float[Array, "R Z D F"]:
    return constrain(total, "batch", "seq", "features", "mlp")


def _cut(x: Float[Array, "B T D"]) -> Float[Array, "n R Z C D"]:
    count = pieces(*x.shape[:2])
    x = apart(x)
    x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % count), (0, 0)])  # of 0 comes 0
    x = x.reshape(*x.shape[:2], count, -1, x.shape[-1])
    return constrain(jnp.moveaxis(x, 2, 0), "slices", "batch", "seq", "rows", "features")


def _join(x: Float[Array, "n R Z C D"], rows: int, length: int) -> Float[Array, "B T D"]:
    x = jnp.moveaxis(x, 0, 2)
    x = x.reshape(*x.shape[:2], -1, x.shape[-1])
    return together(x[:, :, : rows * length // (x.shape[0] * x.shape[1])], rows)
