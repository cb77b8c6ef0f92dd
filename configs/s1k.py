"""s1 from the beginning: 16 sources, Gemini's traces, 1,000 examples, Qwen2.5-32B-Instruct.

    python -m s1jax.distill --config=configs/s1k.py --workdir=runs/s1k
    python -m s1jax.curate --config=configs/s1k.py --workdir=runs/s1k
    python -m s1jax.train --config=configs/s1k.py --workdir=runs/s1k

Needs the hub (GPQA after agreeing on its page), GEMINI_API_KEY in the environment, and for the
difficulty two servers of OpenAI's protocol, such as vLLM, with the models below. The max_cost of
teacher, judge and classifier is never passed. Another teacher: --config.distill.via=openai
--config.distill.model=NAME --config.distill.base_url=URL --config.distill.key_variable=VARIABLE.

Devices: 16
Hardware: distilling and curating need a laptop; training 2 nodes of 8 H100 80 GB. Never run as a
whole: see BUILD_NOTES.md for what was checked instead.
"""

from ml_collections import ConfigDict

from s1jax import config


def get_config() -> ConfigDict:
    """The experiment."""
    c = config.default()
    c.model.path = "Qwen/Qwen2.5-32B-Instruct"

    c.pool.sources = ("s1",)
    c.pool.evaluation_sets = (
        "AI-MO/aimo-validation-aime",
        "Idavidrein/gpqa/gpqa_diamond",
        "simplescaling/openaimath",
    )  # s1 has LiveCodeBench here too; its questions have no solution and are never selected
    c.pool.phrases_from = 5  # or a third of AIME goes for "m and n are relatively prime"

    # s1's own teacher, gemini-2.0-flash-thinking-exp, is gone. This one gives summaries of its
    # thinking, and they are marked so. Prices change: look them up before you set the limit.
    c.distill.via = "gemini"
    c.distill.model = "gemini-2.5-flash"
    c.distill.max_tokens = 32768
    c.distill.input_price, c.distill.output_price = 0.30, 2.50
    c.distill.max_cost = 800.0

    for model, name, port in (
        (c.curate.first, "Qwen/Qwen2.5-7B-Instruct", 8001),
        (c.curate.second, "Qwen/Qwen2.5-32B-Instruct", 8002),
    ):
        model.via, model.model = "openai", name
        model.base_url = f"http://localhost:{port}/v1"
        model.max_tokens = None  # all that their context leaves: vLLM refuses more
    for asked, dollars in ((c.curate.judge, 50.0), (c.curate.classifier, 100.0)):
        asked.via, asked.model = "gemini", c.distill.model
        asked.input_price, asked.output_price = c.distill.input_price, c.distill.output_price
        asked.max_cost = dollars
    c.curate.classifier.thinking_tokens = 0
    c.curate.domains = "model"

    c.data.path = "runs/s1k/curated.jsonl"
    c.data.pack = True
    c.mesh.fsdp = 4
    c.mesh.context = 4
    c.plan.hardware = "h100"
    c.plan.example_tokens = 5200  # s1K's, about; yours once they are there
    c.plan.longest_tokens = 9100
    return c
