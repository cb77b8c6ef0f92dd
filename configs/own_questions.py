"""Your own questions, a teacher behind any server of OpenAI's protocol, and a 7B model.

    python -m s1jax.distill --config=configs/own_questions.py --workdir=runs/own
    python -m s1jax.curate --config=configs/own_questions.py --workdir=runs/own
    python -m s1jax.train --config=configs/own_questions.py --workdir=runs/own

Write the questions into runs/own/questions.jsonl, a line each: {"question": ..., "answer": ...};
or name other files with --config.pool.sources=FILE,FILE. pool.evaluation_sets are the files of what
you will test with. The model that is trained says itself what is too easy to learn from.

Devices: 8
Hardware: the teacher's server; training 8 H100 80 GB.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "Qwen/Qwen2.5-7B-Instruct"

    c.pool.sources = ("runs/own/questions.jsonl",)
    c.distill.via = "openai"
    c.distill.base_url = "http://localhost:8000/v1"
    c.distill.model = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
    c.distill.temperature = 0.6
    c.distill.max_tokens = 32768

    c.curate.first.via = "openai"
    c.curate.first.base_url = "http://localhost:8001/v1"
    c.curate.first.model = c.model.path
    c.curate.first.max_tokens = None  # all that its context leaves: vLLM refuses more
    c.pool.phrases_from = 5  # what five questions share is a phrase, no copy of a test question

    c.data.path = "runs/own/curated.jsonl"
    c.data.pack = True
    c.data.packed_row_length = 65_536
    c.mesh.fsdp = 2
    c.mesh.context = 4
    c.plan.hardware = "h100"
    c.plan.example_tokens = 10_000  # a guess
    c.plan.longest_tokens = 32_768
    return c
