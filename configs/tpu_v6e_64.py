"""s1-32B on a TPU v6e-64 slice: 4 rows, each split over 16 chips.

    python -m s1jax.plan --config=configs/tpu_v6e_64.py
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
    c.data.pack = True
    c.mesh.fsdp = 8
    c.mesh.context = 8
    c.plan.hardware = "v6e"
    c.plan.example_tokens = 5200  # s1K's, about: see BUILD_NOTES.md
    c.plan.longest_tokens = 9100
    return c
