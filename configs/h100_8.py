"""A 7B model by s1's recipe on one host.

    python -m s1jax.plan --config=configs/h100_8.py
    python -m s1jax.train --config=configs/h100_8.py --workdir=DIR

Devices: 8
Hardware: one node of 8 H100 80 GB. 315 steps, the 16 examples of each in 2 rows, each split over 4
devices. Not run on H100s yet: see BUILD_NOTES.md for what was checked instead.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "Qwen/Qwen2.5-7B-Instruct"
    c.data.path = "simplescaling/s1K"
    c.data.pack = True
    c.data.packed_row_length = 65_536  # 16 examples in 2 rows
    c.mesh.fsdp = 2
    c.mesh.context = 4
    c.plan.hardware = "h100"
    c.plan.example_tokens = 5200  # s1K's, about: see BUILD_NOTES.md
    c.plan.longest_tokens = 9100
    return c
