"""Cross-entropy that never holds the logits of a whole batch.

B rows, T tokens, R and Z shards of the rows and of a row, C tokens of a chunk, D embed, V vocab.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from s1jax.mesh import apart, constrain, summed, together, ways


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def cross_entropy(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk_tokens: int,
) -> Float[Array, ""]:
    """The weighted sum of -log p(target) over all tokens, in float32.

    Logits exist for `chunk_tokens` tokens of each device at a time. Differentiating makes the
    gradients in the same pass, while a chunk's logits are at hand: three matrix products a chunk
    instead of the four of computing the logits a second time. `head` is cast to the dtype of
    `hidden` for the products; sums and softmax are in float32, the gradient of `head` too until the
    devices' sums are added, in the dtype of `hidden` as those of all weights.
    """
    chunks = _chunks(hidden, targets, weights, chunk_tokens)
    table = _cast_head(head, hidden)

    def add(total: Array, chunk: tuple) -> tuple[Array, None]:
        loss, _ = _chunk_loss(table, *chunk)
        return total + loss, None

    return jax.lax.scan(add, jnp.float32(0), chunks)[0]


def _forward(
    hidden: Array, head: Array, targets: Array, weights: Array, chunk_tokens: int
) -> tuple[Array, tuple]:
    chunks = _chunks(hidden, targets, weights, chunk_tokens)
    table = _cast_head(head, hidden)

    def add(carry: tuple, chunk: tuple) -> tuple[tuple, Array]:
        total, d_head = carry
        hidden = chunk[0]
        loss, d_logits = _chunk_loss(table, *chunk)
        d_logits = d_logits.astype(hidden.dtype)
        d_hidden = jnp.einsum("rzcv,vd->rzcd", d_logits, table)
        # Transposed, [D, V], with the small operand first: XLA's CPU compiler would transpose the
        # large one, the logits of every chunk.
        d_head += jnp.einsum(
            "rzcd,rzcv->rzdv", hidden, d_logits, preferred_element_type=jnp.float32
        )
        return (total + loss, _of_device(d_head)), d_hidden

    # A sum of each device's own, so that a chunk's share of the head's gradient stays where it was
    # made; they are added together once, at the end.
    zeros = jnp.zeros((ways("batch"), ways("seq"), *reversed(head.shape)), jnp.float32)
    (total, d_head), d_hidden = jax.lax.scan(add, (jnp.float32(0), _of_device(zeros)), chunks)
    d_head = summed(d_head.astype(hidden.dtype), "embed", "vocab").T
    d_head = constrain(d_head, "vocab", "embed").astype(head.dtype)
    # Added up before the layers' backward pass begins, or its whole sum would wait for that.
    d_hidden, d_head = jax.lax.optimization_barrier((d_hidden, d_head))
    return total, (_unchunk(d_hidden, hidden.shape), d_head, weights)


def _backward(chunk_tokens: int, residuals: tuple, d_total: Array) -> tuple:
    d_hidden, d_head, weights = residuals
    return (
        d_hidden * d_total.astype(d_hidden.dtype),
        d_head * d_total.astype(d_head.dtype),
        None,
        jnp.zeros_like(weights),  # weights are data: nothing differentiates by them
    )


cross_entropy.defvjp(_forward, _backward)


def _cast_head(head: Array, hidden: Array) -> Array:
    return constrain(head.astype(hidden.dtype), "vocab", "features")


def _of_device(d_head: Float[Array, "R Z D V"]) -> Float[Array, "R Z D V"]:
    return constrain(d_head, "batch", "seq", "features", "vocab")


def _chunk_loss(
    table: Float[Array, "V D"],
    hidden: Float[Array, "R Z C D"],
    targets: Int[Array, "R Z C"],
    weights: Float[Array, "R Z C"],
) -> tuple[Float[Array, ""], Float[Array, "R Z C V"]]:
    """The loss of a chunk and its gradient by the logits."""
    logits = jnp.einsum("rzcd,vd->rzcv", hidden, table, preferred_element_type=jnp.float32)
    top = logits.max(-1, keepdims=True)
    exps = jnp.exp(logits - top)
    norm = exps.sum(-1, keepdims=True)
    # A comparison instead of a gather: it fuses, and it works on a vocabulary split over devices.
    hit = jnp.arange(table.shape[0], dtype=targets.dtype) == targets[..., None]
    target_logit = jnp.where(hit, logits - top, 0).sum(-1)
    loss = (weights * (jnp.log(norm[..., 0]) - target_logit)).sum()
    return loss, (exps / norm - hit.astype(jnp.float32)) * weights[..., None]


def _chunks(
    hidden: Array, targets: Array, weights: Array, chunk_tokens: int
) -> tuple[Array, Array, Array]:
    """The three arrays as [n, R, Z, C, ...], padded with tokens of weight 0."""

    def split(x: Array) -> Array:
        x = apart(x)
        tokens = x.shape[2]
        count = -(-tokens // chunk_tokens)
        x = jnp.pad(x, [(0, 0), (0, 0), (0, -tokens % count)] + [(0, 0)] * (x.ndim - 3))
        x = jnp.moveaxis(x.reshape(*x.shape[:2], count, -1, *x.shape[3:]), 2, 0)
        return constrain(x, "slices", "batch", "seq", "rows", *["features"] * (x.ndim - 4))

    return split(hidden), split(targets), split(weights)


def _unchunk(x: Float[Array, "n R Z C D"], shape: tuple[int, ...]) -> Float[Array, "B T D"]:
    rows, length, width = shape
    x = jnp.moveaxis(x, 0, 2)
    x = x.reshape(*x.shape[:2], -1, width)
    return together(x[:, :, : rows * length // (x.shape[0] * x.shape[1])], rows)
