r"""The embedded default: all of s1 in miniature, for real, on a laptop's CPU.

    python -m s1jax.distill --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.curate --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.labels --config=configs/mini.py --config.data.path=runs/mini/curated.jsonl --n=3
    python -m s1jax.train --config=configs/mini.py --workdir=runs/mini \
        --config.data.path=runs/mini/curated.jsonl
    python -m s1jax.evaluate --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.generate --config=configs/mini.py --model=runs/mini \
        --prompt="Sort seven three nine one"
    python -m s1jax.convert --from=runs/mini --to=runs/mini/exported

A program asks 3,000 questions of five families to a teacher that is a program too; 1,000 of them
are selected, and a model of 0.66 M parameters that knows single steps learns from them to think.

Without --config.data.path training makes 1,000 examples of its own, which nobody has curated.

Devices: any
Hardware: a laptop's CPU. On 2 cores seconds to distill and to curate, a minute or two to train, a
few minutes to evaluate.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "mini"
    c.model.compute_dtype = "float32"
    c.pool.sources = ("mini",)
    c.pool.evaluation_sets = ("mini",)
    c.distill.via = "mini"
    c.curate.difficulty = "known"
    c.curate.min_difficulty = 2.0  # steps of thinking that a question needs
    c.curate.domains = "given"
    c.curate.benchmark_sources = ("mini/paths",)  # stands for AIME and GPQA
    c.curate.long_sources = ("mini/totals",)  # stands for MATH
    c.curate.long_tokens = 60
    c.curate.uniform_until = 900
    c.data.path = "mini"
    c.data.row_length = 256
    c.data.pack = True
    c.train.remat = "none"
    c.optimizer.learning_rate = 2e-3
    c.decode.max_thinking_tokens = 192
    c.decode.max_answer_tokens = 32
    c.decode.min_thinking_tokens = 1  # so that one generation serves all runs below
    c.decode.batch_size = 64
    c.decode.segment_steps = 8  # its answers are short: rows are taken up again sooner
    c.evaluate.tasks = ("mini_search", "mini_revision", "mini_iteration")
    c.evaluate.max_questions = 200
    c.evaluate.budgets = (8, 16, 24, 32, 64, 128)
    c.evaluate.ignore_ends = (1, 2, 4)
    c.evaluate.base = "same"
    return c
