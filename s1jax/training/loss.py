"""Cross-entropy that never holds the logits of a whole batch.

B rows, R shards of the rows, T tokens, C tokens of a chunk, D embed, V vocab.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from s1jax.mesh import constrain, ways


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def cross_entropy(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk_tokens: int,
) -> Float[Array, ""]:
    """The weighted sum of -log p(target) over all tokens, in float32.

    Logits exist for `chunk_tokens` tokens of each row at a time. Differentiating makes the
    gradients in the same pass, while a chunk's logits are at hand: three matrix products a chunk
    instead of the four of computing the logits a second time. `head` is cast to the dtype of
    `hidden` for the products; sums, softmax and the gradient of `head` are in float32.
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
    shards = chunks[0].shape[1]

    def add(carry: tuple, chunk: tuple) -> tuple[tuple, Array]:
        total, d_head = carry
        hidden = chunk[0]
        loss, d_logits = _chunk_loss(table, *chunk)
        d_logits = d_logits.astype(hidden.dtype)
        d_hidden = jnp.einsum("rbcv,vd->rbcd", d_logits, table)
        # Transposed, [D, V], with the small operand first: XLA's CPU compiler would transpose the
        # large one, the logits of every chunk.
        d_head += jnp.einsum("rbcd,rbcv->rdv", hidden, d_logits, preferred_element_type=jnp.float32)
        return (total + loss, constrain(d_head, "batch", "features", "vocab")), d_hidden

    # One sum per shard of the batch, so that a chunk's share of the head's gradient stays where
    # it was made; the shards are added together once, at the end.
    zeros = jnp.zeros((shards, *reversed(head.shape)), jnp.float32)
    zeros = constrain(zeros, "batch", "features", "vocab")
    (total, d_head), d_hidden = jax.lax.scan(add, (jnp.float32(0), zeros), chunks)
    d_head = constrain(d_head.sum(0).T, "vocab", "embed").astype(head.dtype)
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


def _chunk_loss(
    table: Float[Array, "V D"],
    hidden: Float[Array, "R B C D"],
    targets: Int[Array, "R B C"],
    weights: Float[Array, "R B C"],
) -> tuple[Float[Array, ""], Float[Array, "R B C V"]]:
    """The loss of a chunk and its gradient by the logits."""
    logits = jnp.einsum("rbcd,vd->rbcv", hidden, table, preferred_element_type=jnp.float32)
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
    """The three arrays as [n, R, B/R, C, ...], padded with tokens of weight 0.

    A chunk takes every n-th token, so that a `seq` axis split over devices stays split in it.
    """
    rows, length = targets.shape
    shards = ways("batch")
    count = -(-length // chunk_tokens)
    padding = -length % count

    def split(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        x = x.reshape(shards, rows // shards, -1, count, *x.shape[2:])
        axes = ("batch", "rows", "seq", *["features"] * (x.ndim - 4))
        return constrain(jnp.moveaxis(x, 3, 0), "slices", *axes)

    return split(hidden), split(targets), split(weights)


def _unchunk(x: Float[Array, "n R b C D"], shape: tuple[int, ...]) -> Float[Array, "B T D"]:
    rows, length, width = shape
    x = jnp.moveaxis(x, 0, 3).reshape(rows, -1, width)[:, :length]
    return constrain(x, "batch", "seq", "features")
