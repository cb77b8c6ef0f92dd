"""s1's AdamW: the schedule, the update, and which parameters decay."""

import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from s1jax import config
from s1jax.mesh import path_name
from s1jax.models.decoder import Params


def learning_rate(
    cfg: config.Optimizer, total_steps: int, step: Int[Array, ""] | int
) -> Float[Array, ""]:
    """The rate of an update: linear from 0, then half a cosine to 0 at `total_steps`.

    The very first update has rate 0, as in the reference (transformers' cosine schedule).
    """
    warmup = warmup_steps(cfg, total_steps)
    done = jnp.asarray(step, jnp.float32)
    rising = done / max(warmup, 1)
    progress = (done - warmup) / max(total_steps - warmup, 1)
    falling = 0.5 * (1 + jnp.cos(math.pi * jnp.minimum(progress, 1)))
    return jnp.float32(cfg.learning_rate) * jnp.where(done < warmup, rising, falling)


def warmup_steps(cfg: config.Optimizer, total_steps: int) -> int:
    """The share of the steps, rounded up: 16 of 315 at 5%."""
    return math.ceil(cfg.warmup_share * total_steps)


def make_optimizer(cfg: config.Optimizer) -> optax.GradientTransformation:
    """AdamW's direction, before the learning rate; clipping is done by the step."""

    def decays(path: tuple, _: object) -> bool:
        kind = path_name(path).rsplit("/", 1)[-1]
        return kind != "bias" and (kind != "scale" or cfg.decay_norms)

    def mask(params: Params) -> Params:
        return jax.tree.map_with_path(decays, params)

    return optax.chain(_adam(cfg), optax.add_decayed_weights(cfg.weight_decay, mask))


def _adam(cfg: config.Optimizer) -> optax.GradientTransformation:
    """optax's Adam, which computes in float32 and keeps its moments in the config's dtypes.

    A moment in bfloat16 is rounded after each update, by 0.2 to 0.4%; where 1 - b is more than
    that, as config.resolve demands, it goes on changing.
    """
    adam = optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)

    def kept(state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
        first = optax.tree.cast(state.mu, cfg.first_moment_dtype)
        second = optax.tree.cast(state.nu, cfg.second_moment_dtype)
        return state._replace(mu=first, nu=second)

    # optax also asks with a placeholder, to learn which leaves are moments (tree.map_params).
    def init(params: Params | object) -> optax.ScaleByAdamState:
        return kept(adam.init(params))

    def update(
        gradients: Params, state: optax.ScaleByAdamState, params: Params | None = None
    ) -> tuple[Params, optax.ScaleByAdamState]:
        exact = state._replace(
            mu=optax.tree.cast(state.mu, jnp.float32), nu=optax.tree.cast(state.nu, jnp.float32)
        )
        updates, after = adam.update(gradients, exact, params)
        return updates, kept(after)

    return optax.GradientTransformation(init, update)
