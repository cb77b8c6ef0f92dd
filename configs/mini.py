"""The embedded default: a model of 0.66 M parameters learns to reason about small sums.

    python -m s1jax.train --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.generate --config=configs/mini.py --model=runs/mini --prompt="What is 47 + 85?"

Devices: any
Hardware: a laptop's CPU. One to two minutes on 2 cores; the loss falls from 6.2 to about 0.7.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "mini"
    c.model.compute_dtype = "float32"
    c.data.path = "mini"
    c.data.row_length = 512
    c.data.pack = True
    c.train.remat = "none"
    c.optimizer.learning_rate = 3e-3
    c.decode.max_thinking_tokens = 512  # its examples have 30 to 250 tokens, its context 1,024
    c.decode.max_answer_tokens = 64
    return c
