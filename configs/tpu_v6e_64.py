"""s1-32B on a TPU v6e-64 slice: 16 examples over 16 groups of 4 chips.

    python -m s1jax.train --config=configs/tpu_v6e_64.py --workdir=DIR

Devices: 64
Hardware: a v6e-64 slice, 64 chips of 32 GB on 16 hosts (launch/tpu_vm.sh). 315 steps. Not run on
TPUs yet: see BUILD_NOTES.md for what was checked instead.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "Qwen/Qwen2.5-32B-Instruct"
    c.data.path = "simplescaling/s1K"
    # s1's batch has 16 examples: 16 ways for them, and 4 for the heads of each.
    c.mesh.fsdp = 16
    c.mesh.tensor = 4
    return c
