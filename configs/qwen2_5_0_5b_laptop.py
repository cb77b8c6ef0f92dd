"""A real Qwen on a laptop: 0.5 B parameters learn the embedded examples in s1's format.

    python -m s1jax.train --config=configs/qwen2_5_0_5b_laptop.py --workdir=DIR

Devices: any
Hardware: 12 GB of memory; 25 steps. For your own examples add --config.data.path=FILE.jsonl
(columns question, thinking, answer) and a --config.data.row_length that holds them.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "Qwen/Qwen2.5-0.5B-Instruct"
    c.model.compute_dtype = "float32"  # CPUs have no fast bfloat16
    c.data.path = "mini"
    c.data.row_length = 512
    c.data.pack = True
    c.train.epochs = 1
    c.checkpoint.every_steps = 10
    return c
