"""Token-conditional control: the question asks for so many tokens, with and without a budget.

    python -m s1jax.evaluate --config=configs/evaluate/s1_tcc.py --workdir=runs/s1_tcc

Of s1's eval/commands.sh: "Token-conditional control" and "Token-conditional control + budget
forcing". The paper's table asks for 1,024 tokens as well, for which there is no command: add it to
TOKENS. See configs/evaluate/s1.py for parity and other machines.

Devices: 8
Hardware: one node of 8 H100 80 GB, in one process. Not run on H100s yet.
"""

from ml_collections import ConfigDict

from s1jax import config
from s1jax.evaluation_config import Run

TOKENS = (2048, 4096, 8192, 16384)


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "simplescaling/token-conditional-control"
    c.model.compute_dtype = "float32"
    c.mesh.fsdp, c.mesh.tensor = 1, 8
    c.decode.max_answer_tokens = 4096
    c.evaluate.tasks = ("aime24", "math500", "gpqa_diamond")
    c.evaluate.runs = tuple(
        run
        for tokens in TOKENS
        for run in (
            Run(f"tokens-{tokens}", "TCC", {"prompt_tokens": tokens}),
            Run(
                f"tokens-{tokens}-forced",
                "TCC+BF",
                {"prompt_tokens": tokens, "max_thinking_tokens": tokens},
            ),
        )
    )
    c.evaluate.base = "none"
    return c
