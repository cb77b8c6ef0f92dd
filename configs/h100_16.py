"""s1-32B: Qwen2.5-32B-Instruct on the 1,000 examples of s1K, s1's own recipe.

    python -m s1jax.plan --config=configs/h100_16.py
    python -m s1jax.train --config=configs/h100_16.py --workdir=DIR

The 16 examples of a step share 4 rows of equal length, and each row is split over 4 devices: all of
them have as many tokens, where one example a device would wait for the longest of 16.

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
    c.data.pack = True
    c.mesh.fsdp = 4
    c.mesh.context = 4
    c.plan.hardware = "h100"
    c.plan.example_tokens = 5200  # s1K's, about: see BUILD_NOTES.md
    c.plan.longest_tokens = 9100
    return c
