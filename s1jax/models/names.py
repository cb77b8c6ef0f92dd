"""The one table of names between Hugging Face and our parameters, walked in both directions."""

import math
from dataclasses import dataclass

import jax

from s1jax.mesh import ArraySpec, path_name
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import specs

# D embed, N heads, K kv heads, H head_dim, F mlp, V vocab: a row's last column gives HF's axes,
# ours joined where HF joins them; the order of our own is in the parameter's ArraySpec.
LETTERS = {
    "D": ("embed", "hidden_size"),
    "N": ("heads", "num_attention_heads"),
    "K": ("kv_heads", "num_key_value_heads"),
    "H": ("head_dim", "head_dim"),
    "F": ("mlp", "intermediate_size"),
    "V": ("vocab", "vocab_size"),
}
TABLE = (
    ("model.embed_tokens.weight", "embedding", "V D"),
    ("model.layers.{layer}.input_layernorm.weight", "layers/attn_norm/scale", "D"),
    ("model.layers.{layer}.self_attn.q_proj.weight", "layers/attn/q/kernel", "NH D"),
    ("model.layers.{layer}.self_attn.q_proj.bias", "layers/attn/q/bias", "NH"),
    ("model.layers.{layer}.self_attn.k_proj.weight", "layers/attn/k/kernel", "KH D"),
    ("model.layers.{layer}.self_attn.k_proj.bias", "layers/attn/k/bias", "KH"),
    ("model.layers.{layer}.self_attn.v_proj.weight", "layers/attn/v/kernel", "KH D"),
    ("model.layers.{layer}.self_attn.v_proj.bias", "layers/attn/v/bias", "KH"),
    ("model.layers.{layer}.self_attn.q_norm.weight", "layers/attn/q_norm/scale", "H"),
    ("model.layers.{layer}.self_attn.k_norm.weight", "layers/attn/k_norm/scale", "H"),
    ("model.layers.{layer}.self_attn.o_proj.weight", "layers/attn/o/kernel", "D NH"),
    ("model.layers.{layer}.post_attention_layernorm.weight", "layers/mlp_norm/scale", "D"),
    ("model.layers.{layer}.mlp.gate_proj.weight", "layers/mlp/gate/kernel", "F D"),
    ("model.layers.{layer}.mlp.up_proj.weight", "layers/mlp/up/kernel", "F D"),
    ("model.layers.{layer}.mlp.down_proj.weight", "layers/mlp/down/kernel", "D F"),
    ("model.norm.weight", "final_norm/scale", "D"),
    ("lm_head.weight", "head_kernel", "V D"),
)
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class Entry:
    """One tensor of Hugging Face, and the slice of a parameter that it is."""

    name: str
    path: str  # of the parameter
    layer: int | None  # its index on the leading axis, if the parameter is stacked
    axes: tuple[str, ...]  # in HF's order, not joined
    split: tuple[int, ...]  # the sizes of those axes
    order: tuple[int, ...]  # transposing our axes to HF's
    shape: tuple[int, ...]  # as HF stores it, axes joined
    fields: str  # of config.json that give the shape


def flat_specs(cfg: ModelConfig) -> dict[str, ArraySpec]:
    """Every parameter's shape and axes, by its path."""
    leaves = jax.tree.leaves_with_path(specs(cfg), is_leaf=lambda x: isinstance(x, ArraySpec))
    return {path_name(path): spec for path, spec in leaves}


def entries(cfg: ModelConfig) -> dict[str, Entry]:
    """The tensors of Hugging Face that make up a model, each parameter covered exactly once."""
    left = flat_specs(cfg)
    by_layer: dict[int, list[Entry]] = {}
    outside = -1  # where what is not stacked belongs: before the layers, then after them
    for pattern, path, dims in TABLE:
        spec = left.pop(path, None)
        if spec is None:  # this model has no such parameter
            continue
        stacked = spec.axes[0] == "layers"
        sizes = dict(zip(spec.axes, spec.shape, strict=True))
        axes = tuple(LETTERS[letter][0] for letter in dims.replace(" ", ""))
        ours = spec.axes[1:] if stacked else spec.axes
        assert sorted(axes) == sorted(ours), (path, axes, ours)
        if stacked:
            outside = cfg.layers
        for layer in range(cfg.layers) if stacked else [None]:
            entry = Entry(
                name=pattern.format(layer=layer),
                path=path,
                layer=layer,
                axes=axes,
                split=tuple(sizes[axis] for axis in axes),
                order=tuple(ours.index(axis) for axis in axes),
                shape=tuple(
                    math.prod(sizes[LETTERS[letter][0]] for letter in word) for word in dims.split()
                ),
                fields=", ".join(
                    " x ".join(LETTERS[letter][1] for letter in word) for word in dims.split()
                ),
            )
            by_layer.setdefault(outside if layer is None else layer, []).append(entry)
    assert not left, f"parameters without a row in the table: {sorted(left)}"
    return {entry.name: entry for layer in sorted(by_layer) for entry in by_layer[layer]}
