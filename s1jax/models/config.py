"""What a decoder is, read from and written to the `config.json` of Hugging Face.

Three families share one decoder and differ in a few booleans. What the decoder does not compute
is refused by name: a model that loads is a model that gives transformers' logits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from s1jax.types import UserError

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"qkv_bias": True, "qk_norm": False, "architecture": "Qwen2ForCausalLM"},
    "qwen3": {"qkv_bias": False, "qk_norm": True, "architecture": "Qwen3ForCausalLM"},
    "llama": {"qkv_bias": False, "qk_norm": False, "architecture": "LlamaForCausalLM"},
}

# Fields of other architectures that change what a layer computes; set to anything, they are
# refused, since a config that carries one is not of the families above.
FOREIGN = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "logits_scaling",
    "logit_scale",
    "num_experts",
    "num_local_experts",
    "q_lora_rank",
    "kv_lora_rank",
    "no_rope_layers",
    "quantization_config",
    "auto_map",
)


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: how fast each pair of features turns."""

    theta: float
    kind: Literal["default", "llama3", "yarn"] = "default"
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: round the borders of the ramp to whole features
    scale: float = 1.0  # of cos and sin; yarn's attention factor

    def frequencies(self, head_dim: int) -> Float[np.ndarray, " half"]:
        """Radians a position, for each of the head_dim/2 pairs.

        Source: RoFormer (arXiv 2104.09864); Llama 3.1's scaling; YaRN (arXiv 2309.00071).
        """
        # In float32 and in transformers' order: thousands of positions multiply every rounding.
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        # But for the power: in float32 numpy's depends on the instructions of the CPU.
        periods = (np.float64(self.theta) ** exponents.astype(np.float64)).astype(np.float32)
        if self.kind == "llama3":
            return self._llama3(1 / periods)
        if self.kind == "yarn":
            return self._yarn(periods, head_dim)
        return 1 / periods

    def _llama3(self, inverse: np.ndarray) -> np.ndarray:
        turns = 1 / (1 / inverse * (2 * math.pi)) * self.original_max_positions
        span = self.high_freq_factor - self.low_freq_factor
        keep = np.clip((turns - self.low_freq_factor) / span, 0, 1)
        return (1 - keep) * inverse / self.factor + keep * inverse

    def _yarn(self, periods: np.ndarray, head_dim: int) -> np.ndarray:
        def feature(turns: float) -> float:
            """The pair that makes so many turns over the original context, as a real number."""
            context = self.original_max_positions / (turns * 2 * math.pi)
            return head_dim * math.log(context) / (2 * math.log(self.theta))

        low, high = feature(self.beta_fast), feature(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001
        pairs = np.arange(head_dim // 2, dtype=np.float32)
        keep = 1 - np.clip((pairs - low) / (high - low), 0, 1)
        return 1 / (self.factor * periods) * (1 - keep) + 1 / periods * keep


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of one decoder."""

    family: str
    vocab_size: int
    embed_dim: int
    mlp_dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    norm_eps: float
    tied: bool  # the head is the embedding, transposed
    qkv_bias: bool
    qk_norm: bool
    max_positions: int

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        d, h, k = self.embed_dim, self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = 2 * d * h + 2 * d * k + 3 * d * self.mlp_dim + 2 * d
        layer += (h + 2 * k) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        return self.layers * layer + (2 - self.tied) * self.vocab_size * d + d


def from_hf(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """The decoder that a Hugging Face config describes, in either of its two spellings of rope.

    Raises UserError that names the field which is missing, contradictory or not implemented.
    """
    kind = raw.get("model_type")
    if kind not in FAMILIES:
        raise UserError(
            f"{where}: model_type={kind!r} is not implemented; s1jax has {', '.join(FAMILIES)}"
        )
    family = FAMILIES[kind]
    _refuse_what_is_not_implemented(raw, kind, family["architecture"], where)

    def positive(key: str, default: int | None = None) -> int:
        value = raw.get(key)
        value = default if value is None else value
        if value is None:
            raise UserError(f"{where}: {key} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{where}: {key}={value!r} must be a whole number of at least 1")
        return value

    embed_dim, heads = positive("hidden_size"), positive("num_attention_heads")
    kv_heads = positive("num_key_value_heads", heads)
    if heads % kv_heads:
        raise UserError(
            f"{where}: num_attention_heads={heads} must divide by num_key_value_heads={kv_heads}"
        )
    head_dim = positive("head_dim", 128 if kind == "qwen3" else embed_dim // heads)
    if head_dim % 2:
        raise UserError(f"{where}: head_dim={head_dim} must be even, for rope")
    max_positions = positive("max_position_embeddings")
    eps = raw.get("rms_norm_eps", 1e-6)
    if not isinstance(eps, int | float) or not 0 <= eps < 1:
        raise UserError(f"{where}: rms_norm_eps={eps!r} must be a number between 0 and 1")
    return ModelConfig(
        family=kind,
        vocab_size=positive("vocab_size"),
        embed_dim=embed_dim,
        mlp_dim=positive("intermediate_size"),
        layers=positive("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope=_rope_from_hf(raw, max_positions, where),
        norm_eps=float(eps),
        tied=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=family["qkv_bias"],
        qk_norm=family["qk_norm"],
        max_positions=max_positions,
    )


def _refuse_what_is_not_implemented(
    raw: Mapping[str, Any], kind: str, architecture: str, where: str
) -> None:
    def refuse(key: str, instead: str) -> None:
        raise UserError(f"{where}: {key}={raw.get(key)!r} is not implemented; {instead}")

    for key in FOREIGN:
        if raw.get(key) not in (None, False):
            refuse(key, f"s1jax computes plain {architecture}")
    if raw.get("architectures") not in (None, [], [architecture]):
        refuse("architectures", f"a {kind} model must be a {architecture}")
    if raw.get("hidden_act", "silu") != "silu":
        refuse("hidden_act", 'the activation must be "silu"')
    for key in ("mlp_bias", "attention_bias"):
        if raw.get(key) and not (kind == "qwen2" and key == "attention_bias"):
            refuse(key, f"{kind} layers have no such biases here")
    if raw.get("attention_dropout"):
        refuse("attention_dropout", "it must be 0")
    if raw.get("partial_rotary_factor") not in (None, 1, 1.0):
        refuse("partial_rotary_factor", "rope must turn the whole head")
    layers = raw.get("layer_types")
    if any(layer != "full_attention" for layer in layers or ()):
        refuse("layer_types", 'every layer must be "full_attention"')
    # Real configs carry a window that none of their layers uses.
    window = raw.get("use_sliding_window") and not layers and raw.get("sliding_window", 4096)
    if window and raw.get("max_window_layers", 28) < raw.get("num_hidden_layers", 0):
        refuse("use_sliding_window", "every layer must attend to the whole context")


def _rope_parameters(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    # transformers 5 writes rope_parameters; before, rope_theta and rope_scaling.
    new, old = raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}
    for key, value in {"rope_parameters": new, "rope_scaling": old}.items():
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: {key} must be an object, not {value!r}")
        if any(isinstance(inner, Mapping) for inner in value.values()):
            raise UserError(f"{where}: {key} that differ between layers are not implemented")
    if new and old and any(new.get(key) != value for key, value in old.items()):
        raise UserError(f"{where}: rope_scaling contradicts rope_parameters: keep one of them")
    params = {"rope_theta": raw.get("rope_theta", 10000.0)} | dict(new or old)
    # Where the config itself has an original length, transformers takes that.
    if raw.get("original_max_position_embeddings") is not None:
        params["original_max_position_embeddings"] = raw["original_max_position_embeddings"]
    if params.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise UserError(
            f"{where}: partial_rotary_factor={params['partial_rotary_factor']!r} is not"
            " implemented; rope must turn the whole head"
        )
    return params


def _rope_from_hf(raw: Mapping[str, Any], max_positions: int, where: str) -> Rope:
    params = _rope_parameters(raw, where)
    kind = params.get("rope_type", params.get("type", "default"))
    if kind not in ("default", "llama3", "yarn"):
        raise UserError(
            f"{where}: rope_type={kind!r} is not implemented; s1jax has default, llama3, yarn"
        )

    def number(key: str, default: float | None = None) -> float:
        value = params.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not (isinstance(value, int | float) and 0 < value < math.inf):
            raise UserError(f"{where}: rope parameter {key}={value!r} must be a number above 0")
        return float(value)

    def optional(key: str) -> float | None:
        return None if params.get(key) is None else number(key)

    theta = number("rope_theta")
    if theta <= 1:
        raise UserError(f"{where}: rope_theta={theta} must be above 1")
    if kind == "default":
        return Rope(theta)
    # Qwen2.5's documented way to switch YaRN on leaves the original length to the config.
    original = number("original_max_position_embeddings", float(max_positions))
    if kind == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        if low >= high:
            raise UserError(f"{where}: low_freq_factor={low} must be below high_freq_factor={high}")
        return Rope(
            theta,
            "llama3",
            factor=number("factor"),
            original_max_positions=int(original),
            low_freq_factor=low,
            high_freq_factor=high,
        )
    factor = number("factor", max_positions / original)
    return Rope(
        theta,
        "yarn",
        factor=factor,
        original_max_positions=int(original),
        beta_fast=number("beta_fast", 32.0),
        beta_slow=number("beta_slow", 1.0),
        truncate=bool(params.get("truncate", True)),
        scale=_yarn_scale(
            factor, optional("attention_factor"), optional("mscale"), optional("mscale_all_dim")
        ),
    )


def _yarn_scale(
    factor: float, given: float | None, mscale: float | None, mscale_all_dim: float | None
) -> float:
    """YaRN's scale of cos and sin, which sharpens the attention (its temperature, eq. 22)."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if given is not None:
        return given
    if mscale is not None and mscale_all_dim is not None:
        return scale(mscale) / scale(mscale_all_dim)
    return scale(1.0)
