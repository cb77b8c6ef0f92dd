"""The decoder of Qwen2, Qwen3 and Llama 3: one `__call__` trains, prefills and decodes.

Modules are plain pytrees. Parameters live outside, as a nested dict of arrays whose layers are
stacked on a leading axis and run by one scan, so compile time does not grow with depth. For
decoding `apart.take_apart` gives each layer arrays of its own: a step reads every weight once and
computes next to nothing, and a slice of a stack would be copied before it is read.

B batch, T query, S key, D embed, N heads, K kv heads, H head_dim, F mlp, V vocab, L layers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float, Int

from s1jax.mesh import ArraySpec, constrain
from s1jax.models.attention import ATTENTION, Attend
from s1jax.models.cache import Cache, Past, past_of, write
from s1jax.models.config import ModelConfig
from s1jax.models.embedding import look_up
from s1jax.models.feedforward import feed_forward, pieces
from s1jax.models.gradients import plus, project, times

Params = dict[str, Any]  # nested dicts of arrays

# What the forward pass keeps of a layer for the backward pass; of feed-forward in pieces (see
# feedforward.py) nothing but its input. A CPU has no other memory to offload to: "full" there.
REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names("projection"),
    "full": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["stream"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


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
        return y if self.bias is None else plus(y, self.bias[...].astype(x.dtype))


class ApartLinear(nnx.Module):
    """An affine map of a few tokens; its kernel lists outputs first and is the first operand.

    XLA's CPU compiler reads the first operand of a product as it lies, and packs the second.
    """

    def __init__(self, outputs: dict[str, int], inputs: dict[str, int], bias: bool = False):
        self.kernel = _param(outputs | inputs)
        self.bias = _param(outputs) if bias else None

    def __call__(self, x: Float[Array, "B T ..."]) -> Float[Array, "B T ..."]:
        """Computes in the dtype of `x`."""
        kernel = self.kernel[...].astype(x.dtype)
        shared = tuple(range(2, x.ndim))  # all axes of x but B and T: the last of the kernel
        of_kernel = tuple(range(kernel.ndim - len(shared), kernel.ndim))
        y = jax.lax.dot_general(kernel, x, ((of_kernel, shared), ((), ())))
        y = jnp.moveaxis(y, (-2, -1), (0, 1))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """Division by the root mean square over the last axis, in float32, times a learned scale."""

    def __init__(self, axes: dict[str, int], eps: float):
        self.scale = _param(axes)
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Returns the dtype of `x`."""
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return times(normed.astype(x.dtype), self.scale[...].astype(x.dtype))


class Attention(nnx.Module):
    """Self-attention with grouped queries and rotary positions."""

    def __init__(self, cfg: ModelConfig, apart: bool):
        embed, head = {"embed": cfg.embed_dim}, {"head_dim": cfg.head_dim}
        heads, kv_heads = {"heads": cfg.heads} | head, {"kv_heads": cfg.kv_heads} | head
        self.apart = apart
        if apart:
            # One product for all: each kv head with the queries that share it before it.
            group = {"group": cfg.heads // cfg.kv_heads + 2}
            grouped = {"kv_heads": cfg.kv_heads} | group | head
            self.qkv = ApartLinear(grouped, embed, cfg.qkv_bias)
            self.o: ApartLinear | Linear = ApartLinear(embed, heads)
        else:
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
        past: Past | None,
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
        """What each token gathers, and the keys and values that others may gather from it."""
        if self.apart:
            qkv = self.qkv(x)
            q = qkv[..., :-2, :].reshape(*x.shape[:2], -1, qkv.shape[-1])
            k, v = qkv[..., -2, :], qkv[..., -1, :]
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, *rope), rotate(k, *rope)
        where = {"q_positions": positions, "q_segments": segments}
        if past is None:
            gathered = attend(q, k, v, k_positions=positions, k_segments=segments, **where)
        else:
            gathered = past.attend(
                q, k, v, *past.kv, k_positions=past.positions, k_segments=past.segments, **where
            )
        return self.o(gathered), (k, v)


class MLP(nnx.Module):
    """The gated feed-forward layer, SwiGLU (arXiv 2002.05202)."""

    def __init__(self, cfg: ModelConfig, apart: bool):
        embed, mlp = {"embed": cfg.embed_dim}, {"mlp": cfg.mlp_dim}
        self.apart = apart
        if apart:
            self.gate_up = ApartLinear({"pair": 2} | mlp, embed)
            self.down: ApartLinear | Linear = ApartLinear(embed, mlp)
        else:
            self.gate = Linear(embed, mlp, "btd,df->btf")
            self.up = Linear(embed, mlp, "btd,df->btf")
            self.down = Linear(embed, mlp, "btf,df->btd")

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Each token on its own."""
        if self.apart:
            pair = self.gate_up(x)
            gate, up = pair[:, :, 0], pair[:, :, 1]
        elif pieces(*x.shape[:2]) > 1:
            return feed_forward(x, *(k.kernel[...] for k in (self.gate, self.up, self.down)))
        else:
            gate, up = self.gate(x), self.up(x)
        return self.down(jax.nn.silu(gate) * up)


class Block(nnx.Module):
    """One layer: attention and feed-forward, each normed before and added to the stream."""

    def __init__(self, cfg: ModelConfig, apart: bool = False):
        self.attn_norm = RMSNorm({"embed": cfg.embed_dim}, cfg.norm_eps)
        self.attn = Attention(cfg, apart)
        self.mlp_norm = RMSNorm({"embed": cfg.embed_dim}, cfg.norm_eps)
        self.mlp = MLP(cfg, apart)

    def __call__(
        self, x: Float[Array, "B T D"], *context: Any
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
        """`context` is what attention takes besides the stream; see `Attention`."""
        gathered, kv = self.attn(self.attn_norm(x), *context)
        x = x + gathered
        x = x + self.mlp(self.mlp_norm(x))
        return constrain(x, "batch", "seq", "features"), kv


class Decoder(nnx.Module):
    """Tokens in, final hidden states out; `head` gives the rows that score them."""

    def __init__(self, cfg: ModelConfig, apart: bool = False):
        table = {"vocab": cfg.vocab_size, "embed": cfg.embed_dim}
        self.cfg = cfg
        self.embedding = _param(table)
        self.layers: Any
        if apart:
            self.layers = nnx.List([Block(cfg, apart) for _ in range(cfg.layers)])
        else:
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
        strict: bool = False,
        shadows: Any = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """See `apply`."""
        x = constrain(look_up(self.embedding[...], tokens, dtype), "batch", "seq", "features")
        rope = rope_table(self.cfg, positions)
        context = (rope, positions, segments, ATTENTION[attention])
        if not isinstance(self.layers, nnx.List):
            assert cache is None, "a cache is for layers that are apart"
            return self.final_norm(self._scan(x, context, remat, shadows)), None
        new = []
        for layer, block in enumerate(self.layers):
            x, kv = block(x, *context, past_of(cache, layer, tokens.shape[1], strict))
            new.append(kv)
        if cache is not None:
            cache = write(cache, new, positions, segments, after=x)
        return self.final_norm(x), cache

    def _scan(
        self, x: Float[Array, "B T D"], context: tuple, remat: str, shadows: Any
    ) -> Float[Array, "B T D"]:
        structure, stacked = nnx.split(self.layers)

        def layer(x: Array, weights: Any) -> tuple[Array, None]:
            if shadows is not None:
                weights = jax.tree.map(_with_shadow, *weights)
            x = checkpoint_name(x, "stream")
            return nnx.merge(structure, weights)(x, *context, None)[0], None

        if remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
        if shadows is not None:
            shadows = nnx.split(nnx.merge(structure, shadows))[1]
            return jax.lax.scan(layer, x, (stacked, shadows))[0]
        return jax.lax.scan(layer, x, stacked)[0]

    def head(self) -> Float[Array, "V D"]:
        """The matrix whose rows score hidden states: the embedding itself where it is tied."""
        return self.embedding[...] if self.head_kernel is None else self.head_kernel[...]


@jax.custom_vjp
def _with_shadow(weight: Array, shadow: Array) -> Array:
    """The weight in its shadow's dtype; the gradient is the shadow's, in that dtype."""
    return weight.astype(shadow.dtype)


_with_shadow.defvjp(
    lambda weight, shadow: (_with_shadow(weight, shadow), None), lambda _, d: (None, d)
)


def _param(axes: dict[str, int]) -> nnx.Param:
    return nnx.Param(jnp.zeros(tuple(axes.values()), jnp.float32), axes=tuple(axes))


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
def _structure(cfg: ModelConfig, apart: bool = False) -> tuple[Any, dict]:
    module = jax.eval_shape(lambda: Decoder(cfg, apart))
    structure, state = nnx.split(module)

    def describe(path: tuple, leaf: Any) -> ArraySpec:
        axes = leaf.get_metadata("axes")
        stacked = path[0].key == "layers" and not apart
        return ArraySpec(leaf.shape, ("layers", *axes) if stacked else axes)

    specs = jax.tree.map_with_path(
        describe, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    return structure, nnx.to_pure_dict(specs)


def specs(cfg: ModelConfig, apart: bool = False) -> dict[str, Any]:
    """Shape and axes of every parameter, as nested dicts of ArraySpecs."""
    return _structure(cfg, apart)[1]


def decoder(cfg: ModelConfig, params: Params) -> Decoder:
    """The module of these parameters, to be called inside jit."""
    return nnx.merge(_structure(cfg, 0 in params["layers"])[0], params)


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
    strict: bool = False,
    shadows: Params | None = None,
) -> tuple[Float[Array, "B T D"], Cache | None]:
    """Final hidden states [B, T, D] in `dtype`, and the cache with the tokens in it.

    A token sees the tokens of its own segment whose positions are not above its own. With a
    cache, those are the ones in the cache, the tokens of this call included; they must not cross
    the end of the ring. A cache needs parameters that were taken apart. `strict` makes what a
    row gathers from it independent of where the row lies there, to the last bit. `shadows` are
    arrays shaped as `params["layers"]`, of which only dtypes and gradients are used: to
    differentiate by them gives the layers' gradients in their dtype.
    """
    return decoder(cfg, params)(
        tokens,
        positions,
        segments,
        cache,
        dtype=dtype,
        attention=attention,
        remat=remat,
        strict=strict,
        shadows=shadows,
    )


def logits(
    cfg: ModelConfig, params: Params, hidden: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
    """Float32 logits of hidden states; for training use the chunked loss instead."""
    head = decoder(cfg, params).head().astype(hidden.dtype)
    # The head comes first, as the kernels of ApartLinear do; einsum would change their order.
    scores = jax.lax.dot_general(
        head, hidden, (((1,), (2,)), ((), ())), preferred_element_type=jnp.float32
    )
    return jnp.moveaxis(scores, 0, -1)
