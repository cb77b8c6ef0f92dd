"""Attention by the Pallas kernels for TPUs that JAX comes with, "splash attention".

B batch, T token, N heads, K kv heads, H head_dim.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask
from jaxtyping import Array, Float, Int

from s1jax.models.kernels.visible import pad_rows

BLOCK = 512  # tokens; a shorter row is one block
LANES = 128  # of a TPU's registers: a block is a multiple of it


def attend_splash(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """What each query gathers from its segment's columns that are not to its right.

    In a row in order those are the ones that `attend_xla` sees, padding included, which gathers
    from padding. Blocks to the right are skipped, blocks of other segments are computed and hidden.
    `interpret` runs the kernels as plain JAX, where there is no TPU.
    """
    length, heads = q.shape[1:3]
    padded = -(-length // LANES) * LANES
    block = min(BLOCK, padded)
    # The kernels have no scale: the queries take it.
    q = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
    q, k, v = (pad_rows(x, block).swapaxes(1, 2) for x in (q, k, v))
    columns = pad_rows(segments, block)
    attend = kernel.make_splash_mha(
        mask.MultiHeadMask([mask.CausalMask((q.shape[2], q.shape[2]))] * heads),
        block_sizes=kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    out = jax.vmap(attend)(q, k, v, kernel.SegmentIds(columns, columns))
    return out.swapaxes(1, 2)[:, :length]
