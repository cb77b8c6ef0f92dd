"""s1-32B by rejection sampling: thinking is sampled again until it fits the budget.

    python -m s1jax.evaluate --config=configs/evaluate/s1_rejection.py --workdir=runs/s1_rejection

Of s1's eval/commands.sh: "s1 Rejection sampling", which asks AIME24 alone. s1 never gives up; here
1,000 tries do not fit at the most, and the question then has no answer. s1 needed 655 tries a
sample at 3,500 tokens, 97 at 4,000, 8 at 5,000 and 1 at 16,000 (paper, section 5.2):
--config.evaluate.only=rejection-5000,rejection-6000,rejection-8000,rejection-16000 is the cheap
part.

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
    c.decode.temperature = 1.0
    c.decode.rejection_tries = 1000
    c.evaluate.tasks = ("aime24",)
    c.evaluate.runs = tuple(
        Run(f"rejection-{budget}", "RS", {"max_thinking_tokens": budget})
        for budget in (3500, 4000, 5000, 6000, 8000, 16000)
    )
    c.evaluate.base = "none"
    return c
