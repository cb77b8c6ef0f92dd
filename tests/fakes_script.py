"""A real model directory whose model says what a test wants: each token has its follower."""

import json
from pathlib import Path

import numpy as np
from fakes_train import SIZES, make_config, write_world

from s1jax.chat import ChatTokenizer, written_ids
from s1jax.config import Config

SCRIPT = (
    ("<|im_start|>think", "\ngo é;", "<|im_start|>"),  # thinks, and ends it
    ("Wait", "34", "<|im_start|>"),
    ("<|im_start|>answer", "12", "<|im_end|>"),
    ("Final Answer:", "98", "<|im_end|>"),
)
ENDLESS = (("<|im_start|>think", "\ngo.", "go"), *SCRIPT[2:])  # "gogogo"


def write_script(
    directory: Path, script: tuple[tuple[str, str, str], ...] = SCRIPT, **sizes: object
) -> Path:
    """A Qwen2 that writes the second text of a line after its first, and then the third.

    Its layers add nothing, so that a token's logits are those of its embedding alone.
    """
    from safetensors.numpy import save_file

    from s1jax.models.config import from_hf
    from s1jax.models.names import entries

    model = write_world(directory, examples=1).model
    tokenizer = ChatTokenizer.load(model)
    raw = SIZES | {"hidden_size": 128, "num_hidden_layers": 1} | sizes
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((raw["vocab_size"], 128)).astype(np.float32)
    head = np.zeros_like(embedding)
    followed: dict[int, int] = {}
    for begins, says, ends in script:
        chain = [written_ids(tokenizer, begins)[-1], *written_ids(tokenizer, says)]
        for token, after in zip(chain, [*chain[1:], written_ids(tokenizer, ends)[0]], strict=True):
            assert followed.setdefault(token, after) == after, (begins, says, token)
    for token, after in followed.items():
        head[after] += embedding[token]
    tensors = {}
    for name, entry in entries(from_hf(raw)).items():
        fill = np.ones if name.endswith("norm.weight") else np.zeros
        tensors[name] = fill(entry.shape, np.float32)
    tensors |= {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    return model


FIELDS = {
    "model.compute_dtype": "float32",
    "mesh.fsdp": 1,
    "decode.max_thinking_tokens": 40,
    "decode.max_answer_tokens": 8,
    "decode.batch_size": 2,
    "decode.segment_steps": 8,
}


def script_config(model: Path, **fields: object) -> Config:
    """A config that asks such a model (`decode__samples` for `decode.samples`)."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    return make_config({**FIELDS, "model.path": str(model), **named})


def config_file(path: Path, **fields: object) -> Path:
    """The same as a file for --config, without a model."""
    named = FIELDS | {name.replace("__", "."): value for name, value in fields.items()}
    path.write_text(
        "from s1jax import config\n\n\ndef get_config():\n    c = config.default()\n"
        f"    c.update_from_flattened_dict({named!r})\n    return c\n"
    )
    return path
