"""From logits to ids: greedy, temperature, top-k, top-p and min-p, each row by its own settings.

A draw depends on the request's seed and on how many tokens the row has drawn, and on nothing of
the rows beside it.

B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32


@dataclass(frozen=True)
class Sampling:
    """How one phase of a row is sampled. Filters apply in this order, as in transformers."""

    temperature: float = 0.0  # 0, or too small for a normal float32: the likeliest id
    top_k: int = 0  # the likeliest k; 0: all
    top_p: float = 1.0  # the fewest of the likeliest that have this much of the probability
    min_p: float = 0.0  # those at least so likely, compared with the likeliest


GREEDY = Sampling()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Settings:
    """The sampling of all rows; all arrays are [B], or [B, phases] before one is chosen."""

    temperature: Any  # float32
    top_k: Any  # int32
    top_p: Any  # float32
    min_p: Any  # float32


def settings_of(rows: Sequence[Sequence[Sampling]]) -> Settings:
    """The settings of rows and their phases as numpy arrays."""

    def table(name: str) -> Any:
        dtype = np.int32 if name == "top_k" else np.float32
        return np.array([[getattr(s, name) for s in row] for row in rows], dtype)

    return Settings(**{f.name: table(f.name) for f in fields(Settings)})


def sample(
    logits: Float[Array, "B V"],
    settings: Settings,
    seeds: UInt32[Array, " B"],
    drawn: Int[Array, " B"],
) -> Int[Array, " B"]:
    """One id a row. What has a logit of -inf is never chosen while anything else is there."""
    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    # Smaller ones are 0 on some devices and not on others.
    random = settings.temperature >= jnp.finfo(jnp.float32).tiny

    def draw() -> Array:
        # The largest becomes 0: however small the temperature is, it stays what it is.
        most = logits.max(-1, keepdims=True)
        below = logits - jnp.where(jnp.isfinite(most), most, 0)
        scaled = below / jnp.where(random, settings.temperature, 1)[:, None]
        filtered = (settings.top_k > 0) | (settings.top_p < 1) | (settings.min_p > 0)
        least = jax.lax.cond(
            (filtered & random).any(),
            lambda: _least(scaled, settings),
            lambda: jnp.full_like(scaled[:, 0], -jnp.inf),
        )
        noise = jax.vmap(_noise, in_axes=(0, 0, None))(seeds, drawn, logits.shape[-1])
        kept = jnp.where(scaled >= least[:, None], scaled, -jnp.inf)
        return jnp.argmax(kept + noise, axis=-1).astype(jnp.int32)

    # Greedy rows alone do without the noise, which costs more than a small model's step.
    chosen = jax.lax.cond(random.any(), draw, lambda: likeliest)
    return jnp.where(random, chosen, likeliest)


def _noise(seed: UInt32[Array, ""], drawn: Int[Array, ""], size: int) -> Float[Array, " V"]:
    return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), drawn), (size,), jnp.float32)


def _least(scaled: Float[Array, "B V"], settings: Settings) -> Float[Array, " B"]:
    """The smallest logit that passes every filter; equals of it pass too."""
    size = scaled.shape[-1]
    ordered = -jnp.sort(-scaled, axis=-1)
    last = jnp.where(settings.top_k > 0, jnp.minimum(settings.top_k, size), size) - 1
    of_top_k = jnp.take_along_axis(ordered, last[:, None], axis=-1)
    # Of what top-k leaves: an id stays while those before it have less than top_p together.
    chances = jax.nn.softmax(jnp.where(ordered >= of_top_k, ordered, -jnp.inf), axis=-1)
    before = jnp.cumsum(chances, axis=-1) - chances
    # Sums round to 1 before the last ids; where nothing is asked, nothing may be lost.
    within = (before < settings.top_p[:, None]) | (settings.top_p >= 1)[:, None]
    within = within.at[:, 0].set(True)  # the likeliest, though top_p were 0 as a float32
    stays = within & (ordered >= of_top_k)
    of_top_p = jnp.where(stays, ordered, jnp.inf).min(-1)
    of_min_p = ordered[:, 0] + jnp.log(settings.min_p)
    return jnp.maximum(of_top_p, of_min_p)
