"""Models of transformers with weights that show every mistake, and both sides' answers to them."""

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s1jax import config
from s1jax.mesh import make_mesh
from s1jax.models import decoder
from s1jax.models.hf import open_checkpoint
from s1jax.models.weights import load_params

SIZES = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, eq=False)
class Case:
    """A configuration of transformers, and the branch of the decoder that it is there for."""

    name: str
    family: str
    branch: str
    rope: dict[str, Any] = field(default_factory=lambda: {"rope_theta": 10_000.0})
    fields: dict[str, Any] = field(default_factory=dict)
    stride: int = 1  # from a token's position to the next one's
    attention: str = "eager"  # transformers' implementation

    def config(self) -> Any:
        """The config of transformers' own class."""
        rope = {"rope_type": "default"} | self.rope
        return config_class(self.family)(**SIZES | {"rope_parameters": rope} | self.fields)


def config_class(family: str) -> Any:
    import transformers

    return {
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
        "llama": transformers.LlamaConfig,
    }[family]


def make_model(config: Any, attention: str = "eager") -> Any:
    """A model in which no weight is 0, no scale is 1, and embeddings are small enough for eps."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif name.endswith("embed_tokens.weight"):
            # Rows of very different sizes: in the small ones the norm's eps decides.
            size = 10 ** torch.empty(parameter.shape[0], 1).uniform_(-2.5, -0.5)
            torch.nn.init.normal_(parameter, std=1.0)
            parameter.data.mul_(size)
        else:
            torch.nn.init.normal_(parameter, std=1.6 * parameter.shape[1] ** -0.5)
    return model.eval()


@dataclass(frozen=True)
class Both:
    """One model on both sides, and transformers' logits of the ids."""

    cfg: Any  # ModelConfig
    params: Any
    ids: np.ndarray  # [B, T]
    positions: np.ndarray  # [B, T]
    theirs: np.ndarray  # [B, T, V]
    their_parameters: int
    raw: dict[str, Any]  # config.json


@functools.cache
def both(case: Case, length: int = 100) -> Both:
    """The case saved by transformers and loaded by us."""
    model = make_model(case.config(), case.attention)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        checkpoint = open_checkpoint(scratch)
        params = load_params(checkpoint, one_device(), jnp.float32)
    vocab = checkpoint.cfg.vocab_size
    ids = np.random.default_rng(1).integers(0, vocab, (2, length), dtype=np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32) * case.stride, ids.shape)
    theirs = their_logits(model, ids, positions)
    return Both(
        checkpoint.cfg, params, ids, positions, theirs, model.num_parameters(), checkpoint.raw
    )


def one_device() -> jax.sharding.Mesh:
    return make_mesh(config.Mesh(), jax.devices()[:1])


def their_logits(model: Any, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Float32 logits of transformers, every row one sequence."""
    import torch

    with torch.no_grad():
        return model(
            torch.from_numpy(ids.astype(np.int64)),
            # Without a mask, positions that jump would be taken for packed sequences.
            attention_mask=torch.ones(ids.shape, dtype=torch.int64),
            position_ids=torch.from_numpy(positions.astype(np.int64)),
        ).logits.numpy()


@functools.partial(jax.jit, static_argnums=0, static_argnames=("dtype", "attention", "remat"))
def our_logits(cfg, params, ids, positions, segments=None, **options) -> jax.Array:
    """Float32 logits of the decoder; without segments every row is one sequence."""
    segments = jnp.ones_like(ids) if segments is None else segments
    hidden, _ = decoder.apply(cfg, params, ids, positions, segments, **options)
    return decoder.logits(cfg, params, hidden)


def worst(ours: Any, theirs: Any) -> float:
    """The largest absolute difference."""
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


def scratch_model(case: Case, directory: Path) -> Any:
    """The case's model, also written to the directory."""
    model = make_model(case.config(), case.attention)
    model.save_pretrained(directory)
    return model
