"""One step of training: a pure function from state and batch to state and metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import DTypeLike

from s1jax import config
from s1jax.mesh import AnyMesh, ArraySpec, shardings
from s1jax.models import decoder
from s1jax.models.attention import choose
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import Params
from s1jax.training.loss import cross_entropy
from s1jax.training.optimizer import learning_rate, make_optimizer

BATCH_AXES = ("slices", "batch", "seq")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes: arrays, or the ShapeDtypeStructs that describe them."""

    step: Any  # int32 [], steps done
    params: Params  # in model.param_dtype
    opt_state: Any  # Adam's moments in the config's dtypes, and its count of updates


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """The examples of one step, laid into rows; all [slices, rows of a slice, row length].

    Arrays, or the ShapeDtypeStructs that describe them.
    """

    tokens: Any  # int32
    targets: Any  # int32, the token that follows
    weights: Any  # float32, of -log p(target) in the loss; 0 where nothing is trained
    positions: Any  # int32, restart with each example
    segments: Any  # int32, 1.. per example of a row; 0 is padding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metrics:
    """What a step tells; scalars."""

    loss: Array  # float32
    gradient_norm: Array  # float32, before clipping
    learning_rate: Array  # float32
    finite: Array  # bool; if false, parameters and moments are as before the step


def batch_loss(
    cfg: config.Config, model: ModelConfig, params: Params, batch: Batch, shadows: Params | None
) -> Array:
    """The loss of one slice [rows, row length] of a batch, float32; shadows as `decoder.apply`."""
    hidden, _ = decoder.apply(
        model,
        params,
        batch.tokens,
        batch.positions,
        batch.segments,
        dtype=jnp.dtype(cfg.model.compute_dtype),
        attention=choose(
            cfg.model.attention,
            row_length=batch.tokens.shape[-1],
            packed=cfg.data.pack,
            dtype=cfg.model.compute_dtype,
        ),
        remat=cfg.train.remat,
        shadows=shadows,
    )
    head = decoder.decoder(model, params).head()
    return cross_entropy(hidden, head, batch.targets, batch.weights, cfg.train.loss_chunk_tokens)


def loss_and_gradients(
    cfg: config.Config, model: ModelConfig, params: Params, batch: Batch
) -> tuple[Array, Params]:
    """Loss and gradients of a batch, its slices run one after the other and added up in float32.

    Of a single slice the layers' gradients are in the dtype of the arithmetic, in which they were
    added up over devices: as float32 they would take twice the memory and say no more.
    """
    dtype = jnp.dtype(cfg.model.compute_dtype)
    layers, outer = params["layers"], {k: v for k, v in params.items() if k != "layers"}
    shadows = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), layers)  # read by nobody

    @jax.value_and_grad
    def differentiate(trained: Params, batch: Batch) -> Array:
        return batch_loss(cfg, model, trained | {"layers": layers}, batch, trained["layers"])

    def add(total: tuple, slice_: Batch) -> tuple[tuple, None]:
        part = differentiate(outer | {"layers": shadows}, slice_)
        return jax.tree.map(lambda t, p: t + p.astype(t.dtype), total, part), None

    if batch.tokens.shape[0] == 1:
        whole = jax.tree.map(lambda x: x[0], batch)
        return differentiate(outer | {"layers": shadows}, whole)
    zeros = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zeros, batch)[0]


def make_step(
    cfg: config.Config, model: ModelConfig, total_steps: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step of a run; jit it once, donating the state.

    A loss or a gradient that is not finite changes nothing but the count of steps.
    """
    optimizer = make_optimizer(cfg.optimizer)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        loss, gradients = loss_and_gradients(cfg, model, state.params, batch)
        gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, state.params)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        clip = jnp.minimum(1.0, cfg.optimizer.clip_norm / (norm + 1e-6))  # torch's formula
        gradients = jax.tree.map(lambda g: g * clip.astype(g.dtype), gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        rate = learning_rate(cfg.optimizer, total_steps, state.step)
        params = jax.tree.map(lambda p, u: p - rate.astype(p.dtype) * u, state.params, updates)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        return (
            TrainState(state.step + 1, params, opt_state),
            Metrics(loss, norm, rate, finite),
        )

    return step


def init_state(cfg: config.Config, params: Params) -> TrainState:
    """The state before the first step; call it under jit with `state_shardings`."""
    return TrainState(jnp.int32(0), params, make_optimizer(cfg.optimizer).init(params))


def abstract_state(cfg: config.Config, model: ModelConfig, mesh: AnyMesh) -> TrainState:
    """Shape, dtype and sharding of every array of the state, as ShapeDtypeStructs.

    Raises UserError if a parameter's sizes do not divide by the mesh.
    """
    specs = decoder.specs(model)
    layouts = shardings(specs, mesh)
    dtype = jnp.dtype(cfg.model.param_dtype)
    params = jax.tree.map(
        lambda spec, layout: jax.ShapeDtypeStruct(spec.shape, dtype, sharding=layout),
        specs,
        layouts,
        is_leaf=lambda x: isinstance(x, ArraySpec),
    )
    optimizer = make_optimizer(cfg.optimizer)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def scalar(dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), dtype, sharding=whole)

    opt_state = optax.tree.map_params(
        optimizer,
        # Moments lie where their parameters lie.
        lambda moment, like: jax.ShapeDtypeStruct(
            moment.shape, moment.dtype, sharding=like.sharding
        ),
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=lambda x: scalar(x.dtype),
    )
    return TrainState(scalar(jnp.int32), params, opt_state)
