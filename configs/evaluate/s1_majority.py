"""s1-32B with two ignored ends, 64 samples of each question, and the vote of their answers.

    python -m s1jax.evaluate --config=configs/evaluate/s1_majority.py --workdir=runs/s1_majority

Of s1's eval/commands.sh: the second line of "Majority". As it stands there it loads
Qwen2.5-32B-Instruct, which its output's name (forcingignore2waitagg64) contradicts; this is what
is meant. It is not in the paper, whose majority is configs/evaluate/qwen.py. 46,592 samples.

Devices: 8
Hardware: one node of 8 H100 80 GB, in one process. Not run on H100s yet.
"""

from ml_collections import ConfigDict

from s1jax import config
from s1jax.evaluation_config import Run


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "simplescaling/s1-32B"
    c.model.compute_dtype = "float32"
    c.mesh.fsdp, c.mesh.tensor = 1, 8
    c.decode.max_answer_tokens = 4096
    c.evaluate.tasks = ("aime24", "math500", "gpqa_diamond")
    c.evaluate.runs = (
        Run("majority-64", "majority", {"ignore_ends": 2, "samples": 64, "temperature": 1.0}),
    )
    c.evaluate.base = "none"
    return c
