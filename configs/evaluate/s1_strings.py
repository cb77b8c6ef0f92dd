"""s1-32B with other strings than "Wait" in place of two ignored ends, the paper's table 4.

    python -m s1jax.evaluate --config=configs/evaluate/s1_strings.py --workdir=runs/s1_strings

Of s1's eval/commands.sh: "s1 Budget forcing extrapolation ablations", and beside them the two runs
of "s1 Budget Forcing" that the table compares them with. They are no curve: read each run's
accuracy, not the method's Scaling. See configs/evaluate/s1.py for parity and other machines.

Devices: 8
Hardware: one node of 8 H100 80 GB, in one process. Not run on H100s yet.
"""

from ml_collections import ConfigDict

from s1jax import config
from s1jax.evaluation_config import Run

STRINGS = {"nothing": (), "alternatively": ("Alternatively",), "hmm": ("Hmm",), "wait": ("Wait",)}


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "simplescaling/s1-32B"
    c.model.compute_dtype = "float32"
    c.mesh.fsdp, c.mesh.tensor = 1, 8
    c.decode.max_answer_tokens = 4096
    c.evaluate.tasks = ("aime24", "math500", "gpqa_diamond")
    c.evaluate.runs = (
        Run("auto", "other"),
        *(
            Run(f"ignore-2-{name}", "other", {"ignore_ends": 2, "ignore_strings": strings})
            for name, strings in STRINGS.items()
        ),
    )
    c.evaluate.base = "none"
    return c
