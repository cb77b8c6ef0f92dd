"""The base model of the embedded default, made again: `launch/mini_base.sh` runs all of it.

    python -m s1jax.train --config=configs/mini_base.py --workdir=runs/mini-base

Before that, `python -m s1jax.mini.pretraining runs/mini-base` writes a random start and 216,000
plain texts of single steps: no answers, no long thinking, no chat. After it the same is done once
more, for 20,000 longer ones. What comes out lies in s1jax/mini/base.

Devices: any
Hardware: a laptop's CPU, 2 cores, about 26 minutes for 12 M tokens, of which the loss falls from
6.4 to 0.49, and 8 for the 2.7 M of the longer ones.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "runs/mini-base/start"
    c.model.chat = "text"
    c.model.compute_dtype = "float32"
    c.data.path = "runs/mini-base/texts.jsonl"
    c.data.batch_size = 24
    c.data.row_length = 128
    c.data.pack = True
    c.train.epochs = 1
    c.train.weighting = "token"
    c.train.remat = "none"
    c.optimizer.learning_rate = 2e-3
    c.export.dtype = "float32"
    c.checkpoint.every_steps = 500
    return c
