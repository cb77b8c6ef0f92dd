"""Digests see every change of one element, and do not see where the array lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from s1jax import config
from s1jax.digest import _pass, _sums, digests
from s1jax.mesh import AXES, make_mesh

WIDTHS = {"float32": np.uint32, "bfloat16": np.uint16, "int32": np.uint32, "uint8": np.uint8}


def digest(x):
    return tuple(digests({"x": jnp.asarray(x)})["x"])


def bits_of(dtype, shape, seed=0):
    width = WIDTHS[dtype]
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(width).max, shape, dtype=width, endpoint=True)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_every_single_bit_changes_both_sums(dtype):
    bits = bits_of(dtype, (3, 5))
    width = bits.dtype.itemsize * 8
    versions = [bits.copy() for _ in range(15 * width)]
    for n, version in enumerate(versions):
        version.reshape(-1)[n // width] ^= bits.dtype.type(1 << n % width)
    arrays = jnp.asarray(np.stack([bits, *versions])).view(dtype)
    whole, *flipped = np.asarray(jax.vmap(_sums)(arrays))
    assert np.all(np.array(flipped) != whole)
    assert digest(arrays[0]) == tuple(whole)


def test_changes_of_many_elements_are_seen():
    """What a plain weighted sum would miss: two sign bits; and what any sum without an index."""
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    seen = {digest(x)}

    def new(y):
        before = len(seen)
        seen.add(digest(y))
        return len(seen) == before + 1

    assert not new(x.copy())
    for rows in ([3, 4], [0, 63], list(range(64))):
        signs = x.copy()
        signs[rows] *= -1
        assert new(signs)
    signs = x.copy()
    signs[[1, 2], [5, 9]] *= -1
    assert new(signs)
    assert new(x.T)
    assert new(x[::-1])
    assert new(x[:, np.r_[1, 0, 2:64]])
    assert new(x.reshape(32, 128))
    swapped = x.copy()
    swapped[2, 7], swapped[7, 2] = x[7, 2], x[2, 7]
    assert new(swapped)


@pytest.mark.parametrize("sizes", [{"fsdp": 16}, {"data": 2, "fsdp": 8}, {"fsdp": 4, "tensor": 4}])
def test_the_same_on_every_mesh(sizes):
    mesh = make_mesh(config.Mesh(**sizes))
    whole, spread = {}, {}
    for dtype in ("float32", "bfloat16"):
        x = jnp.asarray(bits_of(dtype, (16, 8, 32))).view(dtype)
        for spec in (("fsdp",), (None, None, "fsdp"), ("tensor", None, "fsdp"), (AXES[:2],)):
            whole[f"{dtype} {spec}"] = x
            split = NamedSharding(mesh, PartitionSpec(*spec))
            spread[f"{dtype} {spec}"] = jax.device_put(x, split)
    assert digests(whole) == digests(spread)
    x = spread["float32 ('fsdp',)"]
    assert digest(x.at[3, 3, 3].add(1)) != digest(x)


def test_scalars_booleans_and_nothing():
    assert digest(jnp.int32(3)) != digest(jnp.int32(4))
    assert digest(jnp.array([True, False])) != digest(jnp.array([False, True]))
    assert digest(jnp.zeros((0, 4))) == (0, 0)
    assert digests({}) == {}


def test_zeros_are_not_digested_to_nothing():
    assert digest(jnp.zeros(7)) != digest(jnp.zeros(8))


def test_no_memory_is_needed():
    """Neither a copy of the bits, nor the parts of other devices."""
    mesh = make_mesh(config.Mesh(fsdp=8, tensor=2))
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    x = jax.ShapeDtypeStruct((4, 1024, 512), jnp.bfloat16, sharding=split)
    whole = NamedSharding(mesh, PartitionSpec())

    def temporary_bytes(f):
        return f.lower([x]).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(_pass(whole)) < 10_000
    two_sums = jax.jit(lambda xs: (jnp.sum(jnp.sort(xs[0])), jnp.sum(xs[0])), out_shardings=whole)
    assert temporary_bytes(two_sums) > x.size * 2 / 16
