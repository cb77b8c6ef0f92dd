"""config.json as published: what is accepted, what it means, and what is refused by name."""

import json

import numpy as np
import pytest
from fakes_torch import config_class

from s1jax.models.config import Rope, from_hf
from s1jax.types import UserError

# The config.json of published models, without what no decoder reads.
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
PUBLISHED = {  # and the published number of parameters
    "Qwen2.5-0.5B-Instruct": (
        QWEN2
        | {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "max_window_layers": 21,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "vocab_size": 151936,
        },
        494_032_768,
    ),
    "Qwen2.5-7B-Instruct": (
        QWEN2
        | {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "max_window_layers": 28,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "sliding_window": 131072,
            "vocab_size": 152064,
        },
        7_615_616_512,
    ),
    "Qwen2.5-32B-Instruct": (
        QWEN2
        | {
            "hidden_size": 5120,
            "intermediate_size": 27648,
            "max_window_layers": 70,
            "num_attention_heads": 40,
            "num_hidden_layers": 64,
            "num_key_value_heads": 8,
            "sliding_window": 131072,
            "vocab_size": 152064,
        },
        32_763_876_352,
    ),
    "DeepSeek-R1-Distill-Qwen-7B": (
        QWEN2
        | {
            "bos_token_id": 151643,
            "eos_token_id": 151643,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "max_position_embeddings": 131072,
            "max_window_layers": 28,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "rope_theta": 10000,
            "sliding_window": 4096,
            "use_mrope": False,
            "vocab_size": 152064,
        },
        7_615_616_512,
    ),
    "Qwen3-0.6B": (
        QWEN3
        | {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "max_window_layers": 28,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "tie_word_embeddings": True,
        },
        596_049_920,
    ),
    "Qwen3-8B": (
        QWEN3
        | {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "max_window_layers": 36,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "tie_word_embeddings": False,
        },
        8_190_735_360,
    ),
    "Llama-3.1-8B": (
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": LLAMA3_SCALING,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.43.0.dev0",
            "use_cache": True,
            "vocab_size": 128256,
        },
        8_030_261_248,
    ),
    "SmolLM2-135M": (
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": 576,
            "initializer_range": 0.041666666666666664,
            "intermediate_size": 1536,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.40.1",
            "use_cache": True,
            "vocab_size": 49152,
        },
        134_515_008,
    ),
}


def published(name: str, **fields) -> dict:
    return PUBLISHED[name][0] | fields


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_published_number_of_parameters(name):
    raw, parameters = PUBLISHED[name]
    assert from_hf(raw).parameters == parameters
    other = raw | {"tie_word_embeddings": not raw["tie_word_embeddings"]}
    assert from_hf(other).parameters != parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_transformers_makes_of_a_config_is_the_same_model(name):
    """The old spelling of rope and the new, defaults left out and defaults written down."""
    raw = PUBLISHED[name][0]
    theirs = json.loads(config_class(raw["model_type"])(**raw).to_json_string(use_diff=False))
    assert "rope_parameters" in theirs and "rope_theta" not in theirs
    theirs["architectures"] = raw["architectures"]
    assert from_hf(theirs) == from_hf(raw)


def test_switches_and_sizes_of_a_published_model():
    cfg = from_hf(published("Llama-3.1-8B"))
    assert (cfg.heads, cfg.kv_heads, cfg.head_dim, cfg.norm_eps) == (32, 8, 128, 1e-5)
    assert (cfg.qkv_bias, cfg.qk_norm, cfg.tied) == (False, False, False)
    assert cfg.rope == Rope(
        5e5, "llama3", factor=8.0, original_max_positions=8192, high_freq_factor=4.0
    )
    assert from_hf(published("Qwen2.5-7B-Instruct")).qkv_bias
    assert from_hf(published("Qwen3-8B")).qk_norm
    assert from_hf(published("DeepSeek-R1-Distill-Qwen-7B")).rope == Rope(10_000.0)


YARN = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 1e6}, {"rope_theta": 1e6, "rope_type": "default"}),
        ({}, {"rope_type": "default", "rope_theta": 10_000.0}),
        (
            {"rope_theta": 5e5, "rope_scaling": LLAMA3_SCALING},
            LLAMA3_SCALING | {"rope_theta": 5e5},
        ),
        (
            {"rope_theta": 1e6, "rope_scaling": YARN},
            {"rope_type": "yarn", "rope_theta": 1e6} | YARN,
        ),
        (  # the way of Qwen2.5's README: max_position_embeddings is the original length
            {"rope_theta": 1e6, "rope_scaling": {"factor": 4.0, "rope_type": "yarn"}},
            {"rope_type": "yarn", "rope_theta": 1e6} | YARN,
        ),
        (
            {
                "rope_theta": 1e6,
                "rope_scaling": YARN | {"original_max_position_embeddings": 1},
                "original_max_position_embeddings": 32768,
            },
            {"rope_type": "yarn", "rope_theta": 1e6} | YARN,
        ),
        (
            {"rope_theta": 1e6, "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}},
            {"rope_type": "yarn", "rope_theta": 1e6, "mscale": 1.0, "mscale_all_dim": 0.5} | YARN,
        ),
    ],
)
def test_both_spellings_of_rope_give_transformers_frequencies(old, new):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    raw = published("Qwen2.5-7B-Instruct")
    del raw["rope_theta"]
    ours = from_hf(raw | old)
    assert from_hf(raw | {"rope_parameters": new}) == ours
    for spelling in (old, {"rope_parameters": dict(new)}):
        theirs = config_class("qwen2")(**raw | spelling)
        default = Qwen2RotaryEmbedding.compute_default_rope_parameters
        compute = ROPE_INIT_FUNCTIONS.get(theirs.rope_parameters["rope_type"], default)
        frequencies, scale = compute(theirs)
        found = ours.rope.frequencies(ours.head_dim)
        assert found.dtype == np.float32
        np.testing.assert_array_max_ulp(found, frequencies.numpy(), 1)
        assert ours.rope.scale == pytest.approx(scale, abs=1e-12)


def test_a_window_that_no_layer_uses_is_no_window():
    plain = from_hf(published("Qwen2.5-7B-Instruct"))
    for fields in (
        {"sliding_window": 4096, "max_window_layers": 0},  # use_sliding_window is false
        {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 28},
        {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
        {"layer_types": ["full_attention"] * 28, "use_sliding_window": True},
    ):
        raw = published("Qwen2.5-7B-Instruct", **fields)
        assert from_hf(raw) == plain
        theirs = config_class("qwen2")(**raw)
        assert set(theirs.layer_types) == {"full_attention"}


QWEN, LLAMA = "Qwen2.5-7B-Instruct", "Llama-3.1-8B"
REFUSED = [  # a model, what is changed, what the message must name
    (QWEN, {"use_sliding_window": True, "max_window_layers": 27}, "use_sliding_window=True"),
    (QWEN, {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    (QWEN, {"model_type": "qwen2_moe"}, "model_type='qwen2_moe'"),
    (QWEN, {"model_type": "qwen3_moe"}, "model_type='qwen3_moe'"),
    (QWEN, {"model_type": "mixtral"}, "model_type='mixtral'"),
    (QWEN, {"model_type": "qwen3_next"}, "model_type='qwen3_next'"),
    (QWEN, {"model_type": None}, "model_type=None"),
    (QWEN, {"num_experts": 64}, "num_experts=64"),
    (LLAMA, {"num_local_experts": 8}, "num_local_experts=8"),
    (QWEN, {"architectures": ["Qwen2ForSequenceClassification"]}, "architectures"),
    (QWEN, {"hidden_act": "gelu"}, "hidden_act='gelu'"),
    (LLAMA, {"hidden_act": None}, "hidden_act=None"),
    (LLAMA, {"attention_bias": True}, "attention_bias=True"),
    ("Qwen3-8B", {"attention_bias": True}, "attention_bias=True"),
    (LLAMA, {"mlp_bias": True}, "mlp_bias=True"),
    (QWEN, {"attention_dropout": 0.1}, "attention_dropout=0.1"),
    (QWEN, {"auto_map": {"AutoModelForCausalLM": "modeling.X"}}, "auto_map"),
    (QWEN, {"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    (QWEN, {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    (
        QWEN,
        {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor=0.5",
    ),
    (LLAMA, {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    (LLAMA, {"logits_scaling": 8.0}, "logits_scaling"),
    (LLAMA, {"no_rope_layers": [1, 0]}, "no_rope_layers"),
    *(
        (LLAMA, {"rope_scaling": {key: kind, "factor": 2.0}}, f"rope_type='{kind}'")
        for kind in ("dynamic", "longrope", "linear", "su", "mrope")
        for key in ("type", "rope_type")
    ),
    (
        QWEN,
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "rope_scaling": YARN},
        "rope_scaling contradicts rope_parameters",
    ),
    (
        QWEN,
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}},
        "rope_parameters that differ between layers",
    ),
    (QWEN, {"rope_scaling": "yarn"}, "rope_scaling must be an object"),
    (QWEN, {"rope_theta": 0}, "rope_theta=0"),
    (QWEN, {"rope_theta": 1.0}, "rope_theta=1.0"),
    (QWEN, {"rope_theta": float("inf")}, "rope_theta=inf"),
    (QWEN, {"rope_theta": float("nan")}, "rope_theta=nan"),
    (QWEN, {"rope_theta": "1e6"}, "rope_theta='1e6'"),
    (QWEN, {"rope_scaling": YARN | {"factor": -4.0}}, "factor=-4.0"),
    (QWEN, {"rope_scaling": YARN | {"attention_factor": "x"}}, "attention_factor='x'"),
    (QWEN, {"rope_scaling": YARN | {"attention_factor": 0.0}}, "attention_factor=0.0"),
    (QWEN, {"rope_scaling": YARN | {"beta_fast": True}}, "beta_fast=True"),
    (QWEN, {"original_max_position_embeddings": "4k", "rope_scaling": YARN}, "'4k'"),
    (LLAMA, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor=None"),
    (LLAMA, {"rope_scaling": LLAMA3_SCALING | {"low_freq_factor": 4.0}}, "low_freq_factor=4.0"),
    (QWEN, {"num_key_value_heads": 5}, "num_key_value_heads=5"),
    (QWEN, {"head_dim": 127}, "head_dim=127"),
    (QWEN, {"hidden_size": 0}, "hidden_size=0"),
    (QWEN, {"vocab_size": None}, "vocab_size is missing"),
    (QWEN, {"num_hidden_layers": "28"}, "num_hidden_layers"),
    (QWEN, {"intermediate_size": True}, "intermediate_size=True"),
    (QWEN, {"rms_norm_eps": -1e-6}, "rms_norm_eps=-1e-06"),
    (QWEN, {"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
]


@pytest.mark.parametrize(
    ("name", "fields", "message"), REFUSED, ids=[f"{i}-{r[2]}" for i, r in enumerate(REFUSED)]
)
def test_what_is_not_computed_is_refused_by_name(name, fields, message):
    from_hf(published(name))
    with pytest.raises(UserError) as caught:
        from_hf(published(name, **fields), "some/config.json")
    text = str(caught.value)
    assert text.startswith("some/config.json: ") and message in text
    assert "\n" not in text
