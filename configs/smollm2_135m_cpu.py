"""A pre-trained model of 135 M parameters on real s1K traces, on a CPU.

    python -m s1jax.train --config=configs/smollm2_135m_cpu.py --workdir=DIR

Devices: any
Hardware: 8 GB of memory; 12 steps of 2 examples. It shows the whole path on real input, not
a useful model: rows of 1,024 tokens cut every trace, which s1 shows to be harmful (table 8),
so the share that may be cut is raised for once.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    c.model.compute_dtype = "float32"  # CPUs have no fast bfloat16
    c.data.path = "simplescaling/s1K"
    c.data.batch_size = 2
    c.data.row_length = 1024
    c.data.max_truncated_share = 1.0
    c.train.steps = 12
    c.checkpoint.every_steps = 6
    return c
