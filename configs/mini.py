"""The embedded default: a model of 0.66 M parameters learns to reason about small sums.

    python -m s1jax.distill --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.curate --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.train --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.evaluate --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.generate --config=configs/mini.py --model=runs/mini --prompt="What is 47 + 85?"

Training reads its own 400 examples unless --config.data.path=runs/mini/curated.jsonl names the
curated ones, as `make demo` does.

Devices: any
Hardware: a laptop's CPU. Seconds to distill and to curate, one to two minutes to train on 2 cores;
the loss falls from 6.2 to about 0.7.
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
    c.curate.size = 400
    c.curate.difficulty = "known"
    c.curate.min_difficulty = 4.0  # digits to be read
    c.curate.domains = "given"
    c.curate.benchmark_sources = ("mini/factor",)  # stands for AIME and GPQA,
    c.curate.long_sources = ("mini/order",)  # and this for MATH
    c.curate.long_tokens = 110
    c.curate.uniform_until = 280
    c.data.path = "mini"
    c.data.row_length = 512
    c.data.pack = True
    c.train.remat = "none"
    c.optimizer.learning_rate = 3e-3
    c.decode.max_thinking_tokens = 512  # its examples have 30 to 250 tokens, its context 1,024
    c.decode.max_answer_tokens = 64
    c.decode.min_thinking_tokens = 1  # so that one generation serves all runs below
    c.decode.batch_size = 16
    c.evaluate.tasks = ("mini",)
    c.evaluate.budgets = (8, 16, 32, 64, 128, 512)
    c.evaluate.ignore_ends = (1, 2, 4)
    c.evaluate.base = "same"
    return c
