"""What the base model of the little world begins as: a Qwen2 of 0.66 M random parameters."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

VOCAB, LAYERS, HIDDEN, HEADS, KV_HEADS, MLP = 512, 4, 128, 4, 2, 256
EMBEDDING = 0.05  # standard deviation at the start


def write_model(directory: Path, controls: dict[str, int], seed: int) -> None:
    """Writes config.json, generation_config.json and model.safetensors (float32)."""
    from safetensors.numpy import save_file

    end, pad = controls["<|im_end|>"], controls["<|endoftext|>"]
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "float32",
        "bos_token_id": pad,
        "eos_token_id": end,
    }
    generation = {"bos_token_id": pad, "eos_token_id": [end, pad], "pad_token_id": pad}
    for name, content in {"config": config, "generation_config": generation}.items():
        (directory / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    rng = np.random.default_rng(seed)
    tensors = {name: _start(name, shape, rng) for name, shape in _shapes()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _start(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    # By the width, not Qwen2's 0.02 for all: at 128 that leaves a model which learns to look
    # things up in its context several times later.
    scale = EMBEDDING if name.startswith("model.embed") else shape[1] ** -0.5
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        scale *= (2 * LAYERS) ** -0.5  # so many of them are added up
    return rng.standard_normal(shape, np.float32) * np.float32(scale)


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    head = HIDDEN // HEADS
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        for name, heads in {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}.items():
            yield f"{block}self_attn.{name}_proj.weight", (heads * head, HIDDEN)
            yield f"{block}self_attn.{name}_proj.bias", (heads * head,)
        yield f"{block}self_attn.o_proj.weight", (HIDDEN, HEADS * head)
        yield f"{block}mlp.gate_proj.weight", (MLP, HIDDEN)
        yield f"{block}mlp.up_proj.weight", (MLP, HIDDEN)
        yield f"{block}mlp.down_proj.weight", (HIDDEN, MLP)
        yield f"{block}input_layernorm.weight", (HIDDEN,)
        yield f"{block}post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
