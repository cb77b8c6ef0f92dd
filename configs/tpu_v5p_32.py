"""s1-32B on a TPU v5p-32 slice: `h100_16.py` with another mesh line, which is the same line.

    python -m s1jax.plan --config=configs/tpu_v5p_32.py
    python -m s1jax.train --config=configs/tpu_v5p_32.py --workdir=DIR

Devices: 16
Hardware: a v5p-32 slice, 16 chips of 95 GB on 4 hosts (launch/tpu_vm.sh). 315 steps. Not run on
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
    c.mesh.fsdp = 4
    c.mesh.context = 4
    c.plan.hardware = "v5p"
    c.plan.example_tokens = 5200  # s1K's, about: see BUILD_NOTES.md
    c.plan.longest_tokens = 9100
    return c
