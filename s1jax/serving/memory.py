"""How much memory a server's cache may come to take, and whether the devices have it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import DTypeLike

from s1jax.config import Decode
from s1jax.decoding.engine import rows_of
from s1jax.decoding.live import ring_sizes
from s1jax.mesh import DECODING, ArraySpec, sharding, shardings, use_rules, ways
from s1jax.models.cache import KV_AXES, empty_cache
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import specs
from s1jax.progress import format_bytes, say
from s1jax.types import UserError

Stats = Callable[[jax.Device], Mapping[str, int] | None]  # None: the device does not say


def stats_of(device: jax.Device) -> Mapping[str, int] | None:
    """What a device says of its memory."""
    return device.memory_stats()


def check_memory(
    cfg: ModelConfig, mesh: jax.sharding.Mesh, decode: Decode, dtype: DTypeLike, stats: Stats
) -> None:
    """Says how large the cache can get. UserError, with what would fit, where there is no room.

    That is all rows at the end of the context. Twice that is needed, since a cache that grows is
    there in both sizes; what a step computes beside it comes on top.
    """
    with jax.set_mesh(mesh), use_rules(DECODING):
        parts = ways("batch")
    rows = rows_of(decode.batch_size, parts, decode.strict)
    columns = ring_sizes(cfg.max_positions, decode.segment_steps)[-1]
    cache, least = (cache_bytes(cfg, mesh, n, columns, dtype) for n in (rows, parts))
    weights = parameter_bytes(cfg, mesh, dtype)
    counted = "1 row" if rows == 1 else f"{rows} rows"
    whole = f"{counted} of the whole context of {cfg.max_positions} tokens"
    say(f"the cache has up to {format_bytes(cache)} on each device, for {whole}")
    limits = [told["bytes_limit"] for d in mesh.devices.flat if (told := stats(d)) is not None]
    if not limits or weights + 2 * cache <= min(limits):
        return
    fits = max(min(limits) - weights, 0) // (2 * least) * parts
    what = (
        f"decode.batch_size={decode.batch_size}: the cache of {whole} has {format_bytes(cache)} on"
        f" each device, twice that while it grows, and the weights have {format_bytes(weights)}:"
        f" more than the {format_bytes(min(limits))} that there are"
    )
    if not fits:
        raise UserError(f"{what}; more devices along mesh.tensor would hold more")
    also = "decode.strict=False and " if decode.strict else ""
    raise UserError(f"{what}: {also}decode.batch_size={fits} would fit")


def cache_bytes(
    cfg: ModelConfig, mesh: jax.sharding.Mesh, rows: int, columns: int, dtype: DTypeLike
) -> int:
    """What a cache of this size takes on each device."""
    cache = jax.eval_shape(lambda: empty_cache(cfg, rows, columns, dtype))
    with jax.set_mesh(mesh), use_rules(DECODING):

        def of(x: Any, axes: tuple[str, ...]) -> int:
            return _bytes(x, sharding("cache", ArraySpec(x.shape, axes), mesh), x.dtype)

        kv = sum(of(x, KV_AXES) for x in (*cache.k, *cache.v))
        return kv + sum(of(x, ("batch", "columns")) for x in (cache.positions, cache.segments))


def parameter_bytes(cfg: ModelConfig, mesh: jax.sharding.Mesh, dtype: DTypeLike) -> int:
    """What the parameters take on each device."""
    with jax.set_mesh(mesh), use_rules(DECODING):
        wanted = specs(cfg, apart=True)
        layouts = shardings(wanted, mesh)
    leaves = jax.tree.leaves(wanted, is_leaf=lambda x: isinstance(x, ArraySpec))
    pairs = zip(leaves, jax.tree.leaves(layouts), strict=True)
    return sum(_bytes(spec, layout, dtype) for spec, layout in pairs)


def _bytes(x: Any, layout: NamedSharding, dtype: DTypeLike) -> int:
    return math.prod(layout.shard_shape(x.shape)) * jnp.dtype(dtype).itemsize
