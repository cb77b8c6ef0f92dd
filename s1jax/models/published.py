"""The sizes of models that are often fine-tuned, for plans: no network, and no weights, are needed.

From the config.json of each on the Hugging Face hub; tests compare them with the numbers of
parameters that their makers name.
"""

from collections.abc import Mapping
from typing import Any

_QWEN2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32_768,
    "hidden_act": "silu",
}
_QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40_960,
    "hidden_act": "silu",
    "head_dim": 128,
    "vocab_size": 151_936,
}
_LLAMA3 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131_072,
    "hidden_act": "silu",
    "vocab_size": 128_256,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}

# hidden, intermediate, layers, heads, kv heads, vocabulary, tied
_SIZES: dict[str, tuple[Mapping[str, Any], tuple[int, int, int, int, int, int, bool]]] = {
    "Qwen/Qwen2.5-0.5B": (_QWEN2, (896, 4864, 24, 14, 2, 151_936, True)),
    "Qwen/Qwen2.5-1.5B": (_QWEN2, (1536, 8960, 28, 12, 2, 151_936, True)),
    "Qwen/Qwen2.5-3B": (_QWEN2, (2048, 11_008, 36, 16, 2, 151_936, True)),
    "Qwen/Qwen2.5-7B": (_QWEN2, (3584, 18_944, 28, 28, 4, 152_064, False)),
    "Qwen/Qwen2.5-14B": (_QWEN2, (5120, 13_824, 48, 40, 8, 152_064, False)),
    "Qwen/Qwen2.5-32B": (_QWEN2, (5120, 27_648, 64, 40, 8, 152_064, False)),
    "Qwen/Qwen2.5-72B": (_QWEN2, (8192, 29_568, 80, 64, 8, 152_064, False)),
    "Qwen/Qwen3-0.6B": (_QWEN3, (1024, 3072, 28, 16, 8, 151_936, True)),
    "Qwen/Qwen3-1.7B": (_QWEN3, (2048, 6144, 28, 16, 8, 151_936, True)),
    "Qwen/Qwen3-4B": (_QWEN3, (2560, 9728, 36, 32, 8, 151_936, True)),
    "Qwen/Qwen3-8B": (_QWEN3, (4096, 12_288, 36, 32, 8, 151_936, False)),
    "Qwen/Qwen3-14B": (_QWEN3, (5120, 17_408, 40, 40, 8, 151_936, False)),
    "Qwen/Qwen3-32B": (_QWEN3, (5120, 25_600, 64, 64, 8, 151_936, False)),
    "meta-llama/Llama-3.1-8B": (_LLAMA3, (4096, 14_336, 32, 32, 8, 128_256, False)),
    "meta-llama/Llama-3.1-70B": (_LLAMA3, (8192, 28_672, 80, 64, 8, 128_256, False)),
    "meta-llama/Llama-3.3-70B": (_LLAMA3, (8192, 28_672, 80, 64, 8, 128_256, False)),
}


def published(path: str) -> dict[str, Any] | None:
    """The config.json of a model of the hub as far as a decoder reads it; None if not known."""
    known = _SIZES.get(path.removesuffix("-Instruct"))
    if known is None:
        return None
    family, (hidden, mlp, layers, heads, kv_heads, vocab, tied) = known
    return {
        **family,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }
