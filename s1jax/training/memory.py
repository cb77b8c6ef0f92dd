"""How many bytes a step keeps on each device, reckoned before anything is compiled."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from s1jax import config
from s1jax.mesh import AnyMesh
from s1jax.models.attention import MAX_BLOCKS, MIN_BLOCK
from s1jax.models.config import ModelConfig
from s1jax.models.feedforward import PIECE_TOKENS
from s1jax.training.step import TrainState


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    parameters: int
    moments: int
    gradients: int
    activations: int  # that the forward pass keeps for the backward pass
    working: int  # about: one layer's arrays, or a chunk of logits

    @property
    def total(self) -> int:
        """All of them."""
        return self.parameters + self.moments + self.gradients + self.activations + self.working


def memory(
    cfg: config.Config,
    model: ModelConfig,
    state: TrainState,
    mesh: AnyMesh,
    rows: int,
    row_length: int,
) -> Memory:
    """The memory of a step over batches of `rows` rows of `row_length` tokens.

    `state` is abstract: ShapeDtypeStructs with shardings. `cfg.model.attention` names a kernel.
    """
    parameters = shard_bytes(state.params)
    width = jnp.dtype(cfg.model.compute_dtype).itemsize
    # A slice's own gradients are in the dtype of the arithmetic, the sum of several in float32.
    layers = shard_bytes(state.params["layers"])
    own = parameters - layers + layers * width // jnp.dtype(cfg.model.param_dtype).itemsize
    sizes = dict(mesh.shape)
    shards = sizes["data"] * sizes["fsdp"] * sizes["context"]
    tokens = rows * row_length // (shards * cfg.train.accumulation_steps)
    return Memory(
        parameters=parameters,
        moments=shard_bytes(state.opt_state),
        gradients=own + (parameters if cfg.train.accumulation_steps > 1 else 0),
        activations=model.layers * _kept(cfg, model, tokens, sizes["tensor"], row_length, width),
        working=_working(cfg, model, tokens, sizes, row_length, width),
    )


def shard_bytes(tree: object) -> int:
    """Bytes of one device's part of a tree of ShapeDtypeStructs."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _features(model: ModelConfig, tensor: int) -> tuple[int, int]:
    """What a token has of heads, and of feed-forward features, in a layer on one device."""
    heads = (2 * model.heads + 2 * model.kv_heads) * model.head_dim // tensor
    return heads, 3 * model.mlp_dim // tensor


def _kept(
    cfg: config.Config,
    model: ModelConfig,
    tokens: int,
    tensor: int,
    row_length: int,
    width: int,
) -> int:
    """Bytes that a layer leaves on its device for the backward pass."""
    heads, features = _features(model, tensor)
    queries, keys = (n * model.head_dim // tensor for n in (model.heads, model.kv_heads))
    projected = queries + 2 * keys + 2 * model.embed_dim  # and the stream
    if tokens > PIECE_TOKENS:
        features = 0  # in pieces they are always computed again
    else:
        projected += 2 * features // 3 + model.embed_dim
    products = heads + features + 2 * model.embed_dim
    plain = cfg.model.attention == "xla"
    scores = 4 * tokens * row_length * model.heads // tensor if plain else 0
    return {
        "none": tokens * width * (2 * products + 4 * model.embed_dim) + scores,
        "dots": tokens * width * projected,
        "full": tokens * width * model.embed_dim,
        "offload": 0,
    }[cfg.train.remat]


def _working(
    cfg: config.Config,
    model: ModelConfig,
    tokens: int,
    sizes: dict[str, int],
    row_length: int,
    width: int,
) -> int:
    tensor = sizes["tensor"]
    heads, features = _features(model, tensor)
    piece = min(tokens, PIECE_TOKENS)
    # The stream, its norms and their gradients; heads and theirs; features of a piece and theirs.
    layer = tokens * width * (8 * model.embed_dim + 2 * heads) + 2 * piece * width * features
    kernels = model.embed_dim * (features + heads) * width  # gathered, and their gradients
    layer += 2 * kernels
    if tokens > PIECE_TOKENS:
        layer += 4 * model.embed_dim * features  # sums over the pieces
    if cfg.model.attention == "xla":
        blocks = min(MAX_BLOCKS, -(-row_length // MIN_BLOCK))
        layer += 4 * 4 * tokens * row_length * (model.heads // tensor) // blocks
    chunk = min(tokens, cfg.train.loss_chunk_tokens)
    vocab = model.vocab_size // tensor
    logits = 3 * 4 * chunk * vocab + vocab * model.embed_dim * (4 + 2 * width)
    return max(layer, logits)
