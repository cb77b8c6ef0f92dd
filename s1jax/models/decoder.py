"""The decoder of Qwen2, Qwen3 and Llama 3: one `__call__` trains, prefills and decodes.

Modules are plain pytrees. Parameters live outside, as a nested dict of arrays whose layers are
stacked on a leading axis and run by one scan, so compile time does not grow with depth.

B batch, T query, S key, D embed, N heads, K kv heads, H head_dim, F mlp, V vocab, L layers.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float, Int

from s1jax.mesh import ArraySpec, constrain
from s1jax.models.attention import ATTENTION, Attend
from s1jax.models.config import ModelConfig

Params = dict[str, Any]  # nested dicts of arrays

REMAT = {  # what the forward pass keeps of a layer for the backward pass
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names("projection"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of the columns seen so far; a column no token was written to is segment 0."""

    k: Array  # [L, B, S, K, H], in the compute dtype
    v: Array  # [L, B, S, K, H]
    positions: Array  # int32 [B, S]
    segments: Array  # int32 [B, S]
    column: Array  # int32 [], where the next token goes


def empty_cache(cfg: ModelConfig, batch: int, columns: int, dtype: DTypeLike) -> Cache:
    """A cache of that many columns with nothing in it."""
    kv = jnp.zeros((cfg.layers, batch, columns, cfg.kv_heads, cfg.head_dim), dtype)
    none = jnp.zeros((batch, columns), jnp.int32)
    return Cache(kv, kv, none, none, jnp.zeros((), jnp.int32))


class Linear(nnx.Module):
    """An affine map to or from the stream of embeddings; its kernel lists `embed` first."""

    def __init__(
        self,
        embed: dict[str, int],
        other: dict[str, int],
        einsum: str,
        bias: bool = False,
    ):
        self.einsum = einsum
        self.kernel = _param(embed | other)
        self.bias = _param(other) if bias else None

    def __call__(self, x: Float[Array, "B T ..."]) -> Float[Array, "B T ..."]:
        """Computes in the dtype of `x`."""
        y = project(x, self.kernel[...].astype(x.dtype), self.einsum)
        y = checkpoint_name(y, "projection")
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(
    x: Float[Array, "B T ..."], kernel: Float[Array, "D ..."], einsum: str
) -> Float[Array, "B T ..."]:
    """`jnp.einsum(einsum, x, kernel)`, with the gradient of the kernel written out.

    Autodiff would put the cotangent first in that product, and XLA's CPU compiler then computes
    it a second time, element by element in transposed order, which took a quarter of a step.
    With the stream of embeddings first, only that is transposed: the smaller of the two, once.
    """
    return jnp.einsum(einsum, x, kernel)


def _project_forward(x: Array, kernel: Array, einsum: str) -> tuple[Array, tuple[Array, Array]]:
    return project(x, kernel, einsum), (x, kernel)


def _project_backward(
    einsum: str, residuals: tuple[Array, Array], d_y: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    operands, y_axes = einsum.split("->")
    x_axes, kernel_axes = operands.split(",")
    d_x = jnp.einsum(f"{y_axes},{kernel_axes}->{x_axes}", d_y, kernel)
    pair = ((x_axes, x), (y_axes, d_y))
    (first_axes, first), (second_axes, second) = pair if x_axes == "btd" else pair[::-1]
    return d_x, jnp.einsum(f"{first_axes},{second_axes}->{kernel_axes}", first, second)


project.defvjp(_project_forward, _project_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(
    table: Float[Array, "V D"], tokens: Int[Array, "B T"], dtype: DTypeLike
) -> Float[Array, "B T D"]:
    """The rows of the tokens in `dtype`; their gradient is added up in the table's own dtype.

    In bfloat16 a token that occurs thousands of times would lose most of its gradient.
    """
    # Gathered over fsdp before the look-up: a table split over `embed` and tokens split over
    # `batch`, both by fsdp, would otherwise make XLA replicate one of them unasked.
    return constrain(table.astype(dtype), "vocab", "features")[tokens]


def _look_up_forward(table: Array, tokens: Array, dtype: DTypeLike) -> tuple[Array, tuple]:
    return look_up(table, tokens, dtype), (table, tokens)


def _look_up_backward(dtype: DTypeLike, residuals: tuple, d_rows: Array) -> tuple[Array, None]:
    table, tokens = residuals
    zeros = constrain(jnp.zeros_like(table), "vocab", "embed")
    return zeros.at[tokens].add(d_rows.astype(table.dtype)), None


look_up.defvjp(_look_up_forward, _look_up_backward)


class RMSNorm(nnx.Module):
    """Division by the root mean square over the last axis, in float32, times a learned scale."""

    def __init__(self, axes: dict[str, int], eps: float):
        self.scale = _param(axes)
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Returns the dtype of `x`."""
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return normed.astype(x.dtype) * self.scale[...].astype(x.dtype)


class Attention(nnx.Module):
    """Self-attention with grouped queries and rotary positions."""

    def __init__(self, cfg: ModelConfig):
        embed, head = {"embed": cfg.embed_dim}, {"head_dim": cfg.head_dim}
        heads, kv_heads = {"heads": cfg.heads} | head, {"kv_heads": cfg.kv_heads} | head
        self.q = Linear(embed, heads, "btd,dnh->btnh", cfg.qkv_bias)
        self.k = Linear(embed, kv_heads, "btd,dkh->btkh", cfg.qkv_bias)
        self.v = Linear(embed, kv_heads, "btd,dkh->btkh", cfg.qkv_bias)
        self.o = Linear(embed, heads, "btnh,dnh->btd")
        self.q_norm = RMSNorm(head, cfg.norm_eps) if cfg.qk_norm else None
        self.k_norm = RMSNorm(head, cfg.norm_eps) if cfg.qk_norm else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        rope: tuple[Array, Array],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        attend: Attend,
        cache: Cache | None,
        layer: Int[Array, ""],
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """What each token gathers, and the cache with this layer's keys and values in it."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, *rope), rotate(k, *rope)
        k_positions, k_segments = positions, segments
        if cache is not None:
            at = (layer, 0, cache.column, 0, 0)
            cache = Cache(
                jax.lax.dynamic_update_slice(cache.k, k[None], at),
                jax.lax.dynamic_update_slice(cache.v, v[None], at),
                cache.positions,
                cache.segments,
                cache.column,
            )
            k = jax.lax.dynamic_index_in_dim(cache.k, layer, keepdims=False)
            v = jax.lax.dynamic_index_in_dim(cache.v, layer, keepdims=False)
            k_positions, k_segments = cache.positions, cache.segments
        gathered = attend(
            q,
            k,
            v,
            q_positions=positions,
            k_positions=k_positions,
            q_segments=segments,
            k_segments=k_segments,
        )
        return self.o(gathered), cache


class MLP(nnx.Module):
    """The gated feed-forward layer, SwiGLU (arXiv 2002.05202)."""

    def __init__(self, cfg: ModelConfig):
        embed, mlp = {"embed": cfg.embed_dim}, {"mlp": cfg.mlp_dim}
        self.gate = Linear(embed, mlp, "btd,df->btf")
        self.up = Linear(embed, mlp, "btd,df->btf")
        self.down = Linear(embed, mlp, "btf,df->btd")

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Each token on its own."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """One layer: attention and feed-forward, each normed before and added to the stream."""

    def __init__(self, cfg: ModelConfig):
        self.attn_norm = RMSNorm({"embed": cfg.embed_dim}, cfg.norm_eps)
        self.attn = Attention(cfg)
        self.mlp_norm = RMSNorm({"embed": cfg.embed_dim}, cfg.norm_eps)
        self.mlp = MLP(cfg)

    def __call__(
        self, x: Float[Array, "B T D"], *context: Any
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """`context` is what attention takes besides the stream; see `Attention`."""
        gathered, cache = self.attn(self.attn_norm(x), *context)
        x = x + gathered
        x = x + self.mlp(self.mlp_norm(x))
        return constrain(x, "batch", "seq", "features"), cache


class Decoder(nnx.Module):
    """Tokens in, final hidden states out; `head` gives the rows that score them."""

    def __init__(self, cfg: ModelConfig):
        table = {"vocab": cfg.vocab_size, "embed": cfg.embed_dim}
        self.cfg = cfg
        self.embedding = _param(table)
        self.layers = jax.vmap(lambda _: Block(cfg))(jnp.arange(cfg.layers))
        self.final_norm = RMSNorm({"embed": cfg.embed_dim}, cfg.norm_eps)
        self.head_kernel = None if cfg.tied else _param(table)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        cache: Cache | None = None,
        *,
        dtype: DTypeLike = jnp.float32,
        attention: str = "xla",
        remat: str = "none",
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """See `apply`."""
        x = constrain(look_up(self.embedding[...], tokens, dtype), "batch", "seq", "features")
        rope = rope_table(self.cfg, positions)
        attend = ATTENTION[attention]
        if cache is not None:
            cache = _enter(cache, positions, segments)
        structure, stacked = nnx.split(self.layers)

        def block(carry: tuple, layer: tuple) -> tuple[tuple, None]:
            (x, cache), (index, weights) = carry, layer
            module = nnx.merge(structure, weights)
            return module(x, rope, positions, segments, attend, cache, index), None

        if remat != "none":
            block = jax.checkpoint(block, policy=REMAT[remat], prevent_cse=False)
        (x, cache), _ = jax.lax.scan(block, (x, cache), (jnp.arange(self.cfg.layers), stacked))
        if cache is not None:
            length = jnp.int32(tokens.shape[1])
            cache = Cache(cache.k, cache.v, cache.positions, cache.segments, cache.column + length)
        return self.final_norm(x), cache

    def head(self) -> Float[Array, "V D"]:
        """The matrix whose rows score hidden states: the embedding itself where it is tied."""
        return self.embedding[...] if self.head_kernel is None else self.head_kernel[...]


def _param(axes: dict[str, int]) -> nnx.Param:
    return nnx.Param(jnp.zeros(tuple(axes.values()), jnp.float32), axes=tuple(axes))


def _enter(cache: Cache, positions: Int[Array, "B T"], segments: Int[Array, "B T"]) -> Cache:
    """The cache with the positions and segments of the tokens about to be written."""
    at = (0, cache.column)
    return Cache(
        cache.k,
        cache.v,
        jax.lax.dynamic_update_slice(cache.positions, positions, at),
        jax.lax.dynamic_update_slice(cache.segments, segments, at),
        cache.column,
    )


def rope_table(
    cfg: ModelConfig, positions: Int[Array, "B T"]
) -> tuple[Float[Array, "B T 1 half"], Float[Array, "B T 1 half"]]:
    """Cosine and sine of every position's angles, float32."""
    angles = positions[..., None, None].astype(jnp.float32) * cfg.rope.frequencies(cfg.head_dim)
    scale = jnp.float32(cfg.rope.scale)
    return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def rotate(
    x: Float[Array, "B T N H"], cos: Float[Array, "B T 1 half"], sin: Float[Array, "B T 1 half"]
) -> Float[Array, "B T N H"]:
    """The heads turned by their positions; feature i pairs with i + H/2, as in Hugging Face."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


@functools.lru_cache(maxsize=16)
def _structure(cfg: ModelConfig) -> tuple[Any, dict]:
    module = jax.eval_shape(lambda: Decoder(cfg))
    structure, state = nnx.split(module)

    def describe(path: tuple, leaf: Any) -> ArraySpec:
        axes = leaf.get_metadata("axes")
        return ArraySpec(leaf.shape, ("layers", *axes) if path[0].key == "layers" else axes)

    specs = jax.tree.map_with_path(
        describe, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    return structure, nnx.to_pure_dict(specs)


def specs(cfg: ModelConfig) -> dict[str, Any]:
    """Shape and axes of every parameter, as nested dicts of ArraySpecs."""
    return _structure(cfg)[1]


def decoder(cfg: ModelConfig, params: Params) -> Decoder:
    """The module of these parameters, to be called inside jit."""
    return nnx.merge(_structure(cfg)[0], params)


def apply(
    cfg: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    cache: Cache | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    attention: str = "xla",
    remat: str = "none",
) -> tuple[Float[Array, "B T D"], Cache | None]:
    """Final hidden states [B, T, D] in `dtype`, and the cache with the tokens in it.

    A token sees the tokens of its own segment whose positions are not above its own. With a
    cache, those are the ones in the cache, the tokens of this call included.
    """
    module = decoder(cfg, params)
    return module(tokens, positions, segments, cache, dtype=dtype, attention=attention, remat=remat)


def logits(
    cfg: ModelConfig, params: Params, hidden: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
    """Float32 logits of hidden states; for training use the chunked loss instead."""
    head = decoder(cfg, params).head().astype(hidden.dtype)
    return jnp.einsum("btd,vd->btv", hidden, head, preferred_element_type=jnp.float32)
