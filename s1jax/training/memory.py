"""How many bytes a step keeps on each device, reckoned before anything is compiled."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from s1jax import config
from s1jax.models.attention import MAX_BLOCKS, MIN_BLOCK
from s1jax.models.config import ModelConfig
from s1jax.training.step import TrainState


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    parameters: int
    moments: int
    gradients: int
    activations: int  # about: what the backward pass keeps, one layer's work, a chunk of logits

    @property
    def total(self) -> int:
        """All of them."""
        return self.parameters + self.moments + self.gradients + self.activations


def memory(
    cfg: config.Config,
    model: ModelConfig,
    state: TrainState,
    mesh: jax.sharding.Mesh,
    rows: int,
    row_length: int,
) -> Memory:
    """The memory of a step over batches of `rows` rows of `row_length` tokens.

    `state` is abstract: ShapeDtypeStructs with shardings.
    """
    parameters = shard_bytes(state.params)
    return Memory(
        parameters=parameters,
        moments=shard_bytes(state.opt_state),
        # Accumulation holds the sum so far beside the slice's own.
        gradients=parameters * (2 if cfg.train.accumulation_steps > 1 else 1),
        activations=_activations(cfg, model, mesh, rows, row_length),
    )


def shard_bytes(tree: object) -> int:
    """Bytes of one device's part of a tree of ShapeDtypeStructs."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _activations(
    cfg: config.Config, model: ModelConfig, mesh: jax.sharding.Mesh, rows: int, row_length: int
) -> int:
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = rows // (shards * cfg.train.accumulation_steps)
    tokens = rows * row_length // mesh.shape["context"]
    tensor = mesh.shape["tensor"]
    width = jnp.dtype(cfg.model.compute_dtype).itemsize
    heads = (2 * model.heads + 2 * model.kv_heads) * model.head_dim // tensor
    products = heads + (3 * model.mlp_dim) // tensor + 2 * model.embed_dim
    scores = 2 * 4 * tokens * row_length * model.heads // tensor
    kept = {  # bytes a layer leaves for the backward pass
        "none": tokens * width * (2 * products + 4 * model.embed_dim) + scores // 2,
        "dots": tokens * width * (products + model.embed_dim),
        "full": tokens * width * model.embed_dim,
        "offload": 0,
    }[cfg.train.remat]
    blocks = 1 if mesh.shape["context"] > 1 else min(MAX_BLOCKS, -(-row_length // MIN_BLOCK))
    layer = 2 * tokens * width * products + 2 * scores // blocks
    chunk = rows * min(cfg.train.loss_chunk_tokens, row_length)
    vocab = model.vocab_size // tensor
    logits = 3 * 4 * chunk * vocab + vocab * model.embed_dim * (4 + width)
    return model.layers * kept + max(layer, logits)
