"""s1.1-32B: the same questions with DeepSeek R1's longer traces, rows cut at 20,000 tokens.

    python -m s1jax.plan --config=configs/h100_16_s1_1.py
    python -m s1jax.train --config=configs/h100_16_s1_1.py --workdir=DIR

Devices: 16
Hardware: 2 nodes of 8 H100 80 GB (launch/slurm.sh). 315 steps. Not run on them yet: see
BUILD_NOTES.md for what was checked instead.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "Qwen/Qwen2.5-32B-Instruct"
    c.data.path = "simplescaling/s1K-1.1"
    c.data.traces = "deepseek"
    c.data.row_length = 20_000  # s1's choice, to fit into memory
    # Longer than any example: in shorter rows the longest example of a step has one of its own.
    c.data.pack = True
    c.data.packed_row_length = 65_536
    c.mesh.fsdp = 4
    c.mesh.context = 4
    c.plan.hardware = "h100"
    c.plan.example_tokens = 9850  # mean and spread are a guess: twice s1K's
    c.plan.longest_tokens = 20_000
    return c
