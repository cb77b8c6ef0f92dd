"""s1-32B as s1 evaluated it: budgets, ignored ends, and questions that ask for long thinking.

    python -m s1jax.evaluate --config=configs/evaluate/s1.py --workdir=runs/s1

Of s1's eval/commands.sh: "s1 without budget forcing", "s1 Budget Forcing" and "Class-conditional
control". aime24_figures is left out, as in s1's README. Other runs of that file have configs of
their own: s1_strings.py, s1_rejection.py, s1_majority.py, s1_tcc.py, s1_scc.py, s1_1.py
and qwen.py beside it.

A budget counts every token of the thinking. For the accounting of s1's evaluator add
--config.decode.parity=evaluator --config.decode.max_answer_tokens=32768, for its extraction of
answers --config.evaluate.parity=True. To see Qwen's plain answers beside these, add
--config.model.path=Qwen/Qwen2.5-32B-Instruct --model=simplescaling/s1-32B
--config.evaluate.base=plain.

Devices: 8
Hardware: one node of 8 H100 80 GB, in one process. A GPU holds 16 GB of weights and, where all 8
rows have 32,768 tokens, 17 GB of cache. As in s1 it computes in float32. Not run on H100s yet.
"""

from ml_collections import ConfigDict

from s1jax import config
from s1jax.evaluation_config import Run


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "simplescaling/s1-32B"
    c.model.compute_dtype = "float32"
    # One host of TPU v6e (8 chips of 32 GB) holds it in bfloat16, with the same mesh; one of v5p
    # (4 chips of 95 GB) with tensor=4 and decode.batch_size=4.
    c.mesh.fsdp, c.mesh.tensor = 1, 8

    # s1 gives the answer all that the context leaves, and an automatic budget leaves it 100 tokens.
    # Here budgets keep to the context, so the answer's tokens are set aside first.
    c.decode.max_answer_tokens = 4096
    # Runs that ignore ends have a token of thinking at least. With the same for the others, one
    # generation of each question serves all budgets and ignored ends.
    c.decode.min_thinking_tokens = 1

    c.evaluate.tasks = ("aime24", "math500", "gpqa_diamond")
    c.evaluate.budgets = (500, 1000, 2000, 4000, 8000, 16000)
    c.evaluate.ignore_ends = (1, 2, 4, 6)
    c.evaluate.runs = (
        Run("plain", "plain", {"thinking": False}),  # up to what the context leaves
        Run("auto", "BF"),  # so is its budget
        Run("long", "CCC", {"prompt_class": "long"}),
        Run("short", "CCC", {"prompt_class": "short"}),
    )
    c.evaluate.base = "none"
    return c
