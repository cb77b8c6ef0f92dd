"""Step-conditional control: the question asks for so many steps, which the model counts down.

    python -m s1jax.evaluate --config=configs/evaluate/s1_scc.py --workdir=runs/s1_scc

Of s1's eval/commands.sh: "Step-conditional control" and "Step-conditional control + budget
forcing". With budget forcing the thinking ends where no step is left, or where the model answers;
with --config.decode.parity=evaluator only the first counts, as in s1. Without it the model writes
all by itself, as in the paper's appendix E.1: by the commands' delimiters its first step would end
the thinking. The variant that always writes "Final Answer:" is left out, as in the paper.

Devices: 8
Hardware: one node of 8 H100 80 GB, in one process. Not run on H100s yet.
"""

from ml_collections import ConfigDict

from s1jax import config
from s1jax.evaluation_config import Run

STEPS = (16, 32, 64, 128, 256)


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "simplescaling/step-conditional-control"
    c.model.chat = c.data.control = "steps"
    c.model.compute_dtype = "float32"
    c.mesh.fsdp, c.mesh.tensor = 1, 8
    c.decode.max_answer_tokens = 4096
    c.evaluate.tasks = ("aime24", "math500", "gpqa_diamond")
    c.evaluate.runs = tuple(
        run
        for steps in STEPS
        for run in (
            Run(f"steps-{steps}", "SCC", {"prompt_steps": steps, "thinking": False}),
            Run(f"steps-{steps}-forced", "SCC+BF", {"prompt_steps": steps}),
        )
    )
    c.evaluate.base = "none"
    return c
