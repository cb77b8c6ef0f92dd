"""Small Hugging Face checkpoints for tests: made by transformers' own classes, then damaged."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def make_model(family: str, **fields: Any) -> Any:
    """A transformers model with random weights, norms and biases included."""
    import torch
    import transformers

    config_class = {
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
        "llama": transformers.LlamaConfig,
    }[family]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config_class(**SIZES | fields))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_tokenizer_files(directory: Path, tokens: int = 90) -> None:
    """A word tokenizer with a chat template, as files."""
    vocab = {f"w{i}": i for i in range(tokens - 1)}
    added = [
        {
            "id": tokens - 1,
            "content": "<|im_end|>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": "{{ messages[0].content }}  \u00e9",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n\n")


def save(model: Any, directory: Path, max_shard_size: str = "1GB") -> Path:
    """The model's directory, with a tokenizer."""
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    make_tokenizer_files(directory)
    return directory


def read_raw(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_raw(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    """A safetensors file of this header, right or wrong, and this data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_json(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def add_tensor(path: Path, name: str, array: np.ndarray) -> None:
    """Appends a float32 tensor to a safetensors file."""
    header, data = read_raw(path)
    array = array.astype(np.float32)
    header[name] = {
        "dtype": "F32",
        "shape": list(array.shape),
        "data_offsets": [len(data), len(data) + array.nbytes],
    }
    write_raw(path, header, data + array.tobytes())


def remove_tensor(path: Path, name: str) -> None:
    """Takes a tensor out of a safetensors file, its bytes included."""
    header, data = read_raw(path)
    begin, end = header.pop(name)["data_offsets"]
    for key, entry in header.items():
        if key != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    write_raw(path, header, data[:begin] + data[end:])


def poke(path: Path, name: str, value: float) -> None:
    """Overwrites the last number of a float32 tensor."""
    header, data = read_raw(path)
    end = header[name]["data_offsets"][1]
    write_raw(path, header, data[: end - 4] + struct.pack("<f", value) + data[end:])
