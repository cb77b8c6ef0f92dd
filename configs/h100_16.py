"""s1-32B: Qwen2.5-32B-Instruct on the 1,000 examples of s1K, s1's own recipe.

    python -m s1jax.train --config=configs/h100_16.py --workdir=DIR

Devices: 16
Hardware: 2 nodes of 8 H100 80 GB (launch/slurm.sh). 315 steps; s1 needed 26 minutes on the same
machines. Not run on them yet: see BUILD_NOTES.md for what was checked instead.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "Qwen/Qwen2.5-32B-Instruct"
    c.data.path = "simplescaling/s1K"
    c.mesh.fsdp = 16
    return c
