"""Products and sums whose gradients are written out, where autodiff's are slow or lose digits.

B batch, T query, D embed.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(
    x: Float[Array, "B T ..."], kernel: Float[Array, "D ..."], einsum: str
) -> Float[Array, "B T ..."]:
    """`jnp.einsum(einsum, x, kernel)`, with the gradient of the kernel written out.

    Autodiff would put the cotangent first in that product, and XLA's CPU compiler then computes
    it a second time, element by element in transposed order, which took a quarter of a step.
    With the stream of embeddings first, only that is transposed: the smaller of the two, once.
    """
    return jnp.einsum(einsum, x, kernel)


def _project_forward(x: Array, kernel: Array, einsum: str) -> tuple[Array, tuple[Array, Array]]:
    return project(x, kernel, einsum), (x, kernel)


def _project_backward(
    einsum: str, residuals: tuple[Array, Array], d_y: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    operands, y_axes = einsum.split("->")
    x_axes, kernel_axes = operands.split(",")
    d_x = jnp.einsum(f"{y_axes},{kernel_axes}->{x_axes}", d_y, kernel)
    pair = ((x_axes, x), (y_axes, d_y))
    (first_axes, first), (second_axes, second) = pair if x_axes == "btd" else pair[::-1]
    return d_x, jnp.einsum(f"{first_axes},{second_axes}->{kernel_axes}", first, second)


project.defvjp(_project_forward, _project_backward)


@jax.custom_vjp
def plus(x: Float[Array, "*B D"], bias: Float[Array, "*D"]) -> Float[Array, "*B D"]:
    """`x + bias`, whose gradient by the bias is summed over the tokens in float32."""
    return x + bias


plus.defvjp(lambda x, bias: (x + bias, bias), lambda bias, d: (d, _over_tokens(d, bias)))


@jax.custom_vjp
def times(x: Float[Array, "*B D"], scale: Float[Array, " D"]) -> Float[Array, "*B D"]:
    """`x * scale`, whose gradient by the scale is summed over the tokens in float32."""
    return x * scale


times.defvjp(
    lambda x, scale: (x * scale, (x, scale)),
    lambda kept, d: (d * kept[1], _over_tokens(d * kept[0], kept[1])),
)


def _over_tokens(d: Array, like: Array) -> Array:
    axes = tuple(range(d.ndim - like.ndim))
    return d.astype(jnp.float32).sum(axes).astype(like.dtype)
