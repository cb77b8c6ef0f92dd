"""s1.1-32B as s1 evaluated it: no, one and two ignored ends, on AIME 2024 and 2025 too.

    python -m s1jax.evaluate --config=configs/evaluate/s1_1.py --workdir=runs/s1_1

Of s1's eval/commands.sh: "s1.1". There one ignored end is asked of AIME25 alone; here of all tasks,
since it branches off the generation with two and costs its answers only. See configs/evaluate/s1.py
for parity and other machines.

Devices: 8
Hardware: one node of 8 H100 80 GB, in one process. Not run on H100s yet.
"""

from ml_collections import ConfigDict

from s1jax import config
from s1jax.evaluation_config import Run


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "simplescaling/s1.1-32B"
    c.model.compute_dtype = "float32"
    c.mesh.fsdp, c.mesh.tensor = 1, 8
    c.decode.max_answer_tokens = 4096
    c.decode.min_thinking_tokens = 1  # as where ends are ignored: one generation serves all runs
    c.evaluate.tasks = ("aime25", "aime24", "math500", "gpqa_diamond")
    c.evaluate.ignore_ends = (1, 2)
    c.evaluate.runs = (Run("auto", "BF"),)
    c.evaluate.base = "none"
    return c
