"""A small random model in an engine of its own, and requests whose thinking ends soon."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s1jax import config
from s1jax.decoding.budget import Rules
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import Request
from s1jax.decoding.sampling import Sampling
from s1jax.mesh import DECODING, make_mesh, use_rules
from s1jax.models import decoder
from s1jax.models.apart import take_apart
from s1jax.models.config import from_hf

VOCAB = 96
ENDS = tuple((i,) for i in range(12))  # about one sample in eight
CFG = from_hf(
    {
        "model_type": "qwen2",
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
)


@functools.cache
def engine(rows: int, strict: bool = False) -> Engine:
    """The model on one device."""
    mesh = make_mesh(config.Mesh(fsdp=1), jax.devices()[:1])
    rng = np.random.default_rng(0)

    def some(spec: Any) -> jax.Array:
        return jnp.asarray(rng.normal(scale=0.3, size=spec.shape), jnp.float32)

    with jax.set_mesh(mesh), use_rules(DECODING):
        specs = decoder.specs(CFG)
        params = jax.tree.map(some, specs, is_leaf=lambda x: hasattr(x, "axes"))
        params = take_apart(CFG, params)
    return Engine(
        CFG,
        params,
        mesh,
        vocab_size=VOCAB,
        line_ends=np.arange(VOCAB) % 7 == 0,
        rows=rows,
        segment_steps=16,
        strict=strict,
    )


def request(number: int, budget: int, **rules: Any) -> Request:
    """A sample of the same prompt as all others, by its own seed."""
    own = Rules(budget, 3, ends=ENDS, stops=((0,),), close=(20,), force=(21,), force_newline=(22,))
    hot = Sampling(1.0)
    prompt = (50, 51, 52)
    return Request(str(number), prompt, replace(own, **rules), hot, hot, seed=number)
