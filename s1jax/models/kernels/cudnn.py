"""Attention by cuDNN, for NVIDIA GPUs and rows of one example each.

B batch, T token, N heads, K kv heads, H head_dim.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from s1jax.models.kernels.visible import PADDING


def attend_cudnn(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B T N H"]:
    """What each query gathers from all columns before it; bfloat16 or float16 alone.

    cuDNN is told nothing of segments: a mask would be of T x T numbers. It needs none where a row
    is one example with its padding on the right, for no token sees what is to its right; what the
    padding gathers is not zero, and no loss looks at it. Any other row gives NaN: in a row of
    several examples they would attend to each other, and no loss would show it.
    `implementation` is JAX's name of who computes it; "xla" computes the same on any machine.
    """
    alone = (segments == segments[:, :1]) & (positions == jnp.arange(q.shape[1]))
    fits = (alone | (segments == PADDING)).all(axis=1)
    q = q * jnp.where(fits, 1.0, jnp.nan).astype(q.dtype)[:, None, None, None]
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=implementation)
