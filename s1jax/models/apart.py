"""Stacked parameters taken apart for decoding, one kind of kernel after the other.

L layers, D embed, N heads, K kv heads, G query heads of a kv head, H head_dim, F mlp.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from s1jax.mesh import constrain
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import Params, specs


def take_apart(cfg: ModelConfig, params: Params) -> Params:
    """The same parameters for decoding, each layer's arrays apart; the stacked ones are deleted.

    They are laid over the current mesh as the current rules say. What several products take from
    one input is joined into one kernel.
    """
    stacked = params["layers"]
    attn, mlp = stacked["attn"], stacked["mlp"]
    joined = {
        **stacked,
        "attn": {"qkv": {name: attn[name] for name in "qkv"}, "o": attn["o"]}
        | {name: attn[name] for name in ("q_norm", "k_norm") if name in attn},
        "mlp": {"gate_up": {"gate": mlp["gate"], "up": mlp["up"]}, "down": mlp["down"]},
    }
    layers: list[dict[str, Any]] = [{} for _ in range(cfg.layers)]
    for name, part in joined.items():
        for inner, tree in part.items() if name in ("attn", "mlp") else ((None, part),):
            # One after the other, so that only one kind of kernel is there twice.
            for layer, apart in zip(layers, _unstack(cfg, name, inner, tree), strict=True):
                if inner is None:
                    layer[name] = apart
                else:
                    layer.setdefault(name, {})[inner] = apart
            jax.tree.map(lambda x: x.delete(), tree)
    return params | {"layers": dict(enumerate(layers))}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _unstack(cfg: ModelConfig, name: str, inner: str | None, tree: Any) -> list[Any]:
    spec = specs(cfg, apart=True)["layers"][0][name]
    spec = spec if inner is None else spec[inner]

    def apart(tree: Any) -> Any:
        if inner == "qkv":
            heads = {part: [_grouped(cfg, x) for x in tree[part].values()] for part in "qkv"}
            whole = [jnp.concatenate(x, axis=-2) for x in zip(*heads.values(), strict=True)]
            tree = dict(zip(tree["q"], whole, strict=True))
            tree["kernel"] = jnp.moveaxis(tree["kernel"], 0, -1)
        if inner == "gate_up":
            tree = {"kernel": jnp.stack([tree[x]["kernel"].T for x in ("gate", "up")])}
        return jax.tree.map(lambda to, x: constrain(x, *to.axes), spec, tree)

    def at(layer: int) -> Any:
        return apart(jax.tree.map(lambda x: x[layer], tree))

    return [at(layer) for layer in range(cfg.layers)]


def _grouped(cfg: ModelConfig, x: Float[Array, "... N H"]) -> Float[Array, "... K G H"]:
    return x.reshape(*x.shape[:-2], cfg.kv_heads, -1, cfg.head_dim)
