"""Digests of arrays, computed where they lie: the same on every mesh and in every layout.

Each element's bits are mixed with a hash of its global index, by a map that is one-to-one in the
bits, and summed modulo 2^32. A sum does not care for the order, so each device adds up its own
part. Any change of one element changes both sums for certain; any other change (a block of zeros,
two elements exchanged) goes unseen with a chance of about 2^-64. They guard against accidents,
not against somebody who computes a collision.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped, UInt32


def digests(leaves: Mapping[str, jax.Array]) -> dict[str, list[int]]:
    """Two sums for each array, from one pass over all of them on their devices."""
    if not leaves:
        return {}
    meshes = {x.sharding.mesh for x in leaves.values() if isinstance(x.sharding, NamedSharding)}
    replicated = NamedSharding(meshes.pop(), PartitionSpec()) if meshes else None
    table = np.asarray(_pass(replicated)(list(leaves.values())))
    return {name: row.tolist() for name, row in zip(leaves, table, strict=True)}


@functools.cache
def _pass(replicated: NamedSharding | None) -> jax.stages.Wrapped:
    # Every process of a job must be able to read all the sums: hence replicated.
    return jax.jit(lambda xs: jnp.stack([_sums(x) for x in xs]), out_shardings=replicated)


def _sums(x: Shaped[Array, "..."]) -> UInt32[Array, "2"]:
    bits = _bits(x)
    index = jnp.uint32(0)
    for axis, size in enumerate(bits.shape):
        # Starts so far apart that no two axes share a hash: exchanged rows and columns would
        # else go unseen.
        start = jnp.uint32((axis + 1) * 0x9E3779B9 % 2**32)
        along = _mix(jax.lax.iota(jnp.uint32, size) + start)
        index = index + jnp.expand_dims(along, [a for a in range(bits.ndim) if a != axis])
    words = _mix(bits ^ index)
    weighted = words * (index << 1 | 1)  # odd, so this too is one-to-one in the bits
    # One reduction of both: as two, XLA would keep the words in memory between them.
    zero = jnp.uint32(0)
    sums = jax.lax.reduce((words, weighted), (zero, zero), _add_both, range(bits.ndim))
    return jnp.stack(sums)


def _add_both(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    return a[0] + b[0], a[1] + b[1]


def _bits(x: Shaped[Array, "..."]) -> UInt32[Array, "..."]:
    """The bits of each element as uint32; of eight bytes, as two on a new last axis."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)


def _mix(h: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A one-to-one scrambling of 32 bits (the finalizer of MurmurHash3)."""
    h = (h ^ h >> 16) * jnp.uint32(0x85EBCA6B)
    h = (h ^ h >> 13) * jnp.uint32(0xC2B2AE35)
    return h ^ h >> 16
