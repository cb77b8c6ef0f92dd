"""Qwen2.5-32B-Instruct, from which s1-32B is trained: its answers, and the vote of 64 of them.

    python -m s1jax.evaluate --config=configs/evaluate/qwen.py --workdir=runs/qwen

Of s1's eval/commands.sh: "Qwen2.5-32B-Instruct" and the first line of "Majority". For the answers
alone add --config.evaluate.only=plain.

Devices: 8
Hardware: one node of 8 H100 80 GB, in one process. Not run on H100s yet.
"""

from ml_collections import ConfigDict

from s1jax import config
from s1jax.evaluation_config import Run


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "Qwen/Qwen2.5-32B-Instruct"
    c.model.compute_dtype = "float32"
    c.mesh.fsdp, c.mesh.tensor = 1, 8
    c.decode.thinking = False  # its answers may be as long as the context leaves
    c.evaluate.tasks = ("aime24", "math500", "gpqa_diamond")
    c.evaluate.runs = (
        Run("plain", "plain"),
        Run("majority-64", "majority", {"samples": 64, "temperature": 1.0}),
    )
    c.evaluate.base = "none"
    return c
