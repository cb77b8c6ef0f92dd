"""A 7B model by s1's recipe on one host.

    python -m s1jax.train --config=configs/h100_8.py --workdir=DIR

Devices: 8
Hardware: one node of 8 H100 80 GB. 315 steps, each in two slices of 8 examples, with the update of
16 at once. The 32B model does not fit here in float32: parameters, moments and gradients alone are
66 GB a device. Not run on H100s yet: see BUILD_NOTES.md for what was checked instead.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "Qwen/Qwen2.5-7B-Instruct"
    c.data.path = "simplescaling/s1K"
    c.train.accumulation_steps = 2
    c.mesh.fsdp = 8
    return c
