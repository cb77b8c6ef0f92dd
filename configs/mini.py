"""The embedded default: a 0.5 M parameter model learns to think about small sums.

    python -m s1jax.train --config=configs/mini.py --workdir=/tmp/s1jax-mini

Any laptop; about 2 minutes on 2 CPU cores. The loss falls from 5.6 to below 0.5.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "mini"
    c.model.compute_dtype = "float32"
    c.data.path = "mini"
    c.data.row_length = 256
    c.train.remat = "none"
    c.optimizer.learning_rate = 3e-3
    return c
