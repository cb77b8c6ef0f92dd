"""The plan of decoding: the step that reads the whole model for one token of each row, and prefill.

A step computes next to nothing: it takes as long as the weights and the cache take to be read.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s1jax.config import Config
from s1jax.decoding.budget import Rules, sizes
from s1jax.decoding.cache import bucket, prefill
from s1jax.decoding.engine import rows_of
from s1jax.decoding.places import Item, new_rows
from s1jax.decoding.record import Request
from s1jax.decoding.step import State, Static, axes_of, decode
from s1jax.hardware import HARDWARE
from s1jax.mesh import (
    DECODING,
    AnyMesh,
    ArraySpec,
    exact_products,
    make_mesh,
    sharding,
    use_rules,
)
from s1jax.models.cache import empty_cache
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import specs
from s1jax.planning import flops
from s1jax.planning.card import Card, traffic_of
from s1jax.planning.collectives import collectives
from s1jax.planning.compiling import DoesNotFit, compile_traced
from s1jax.planning.estimate import Estimate, network_s
from s1jax.planning.remedies import devices_of, sizes_alone
from s1jax.planning.topology import absent_devices
from s1jax.progress import format_count
from s1jax.training.memory import shard_bytes

PROMPT_TOKENS = 256  # of the prompts of a block that prefill reads
BANDWIDTH_SHARE = 0.85  # of a device's bandwidth, what good decoding reaches (see BUILD_NOTES.md)


@dataclass(frozen=True)
class _Shapes:
    """What the programs of decoding are compiled for."""

    static: Static
    rows: int
    columns: int
    params: Any
    state: State
    line_ends: Any


def plan_decode(cfg: Config, model: ModelConfig, what: str, *, compiles: bool) -> Card:
    """The card of one decoding step, or of the prefill of a block of prompts, on the mesh.

    Weights lie as decoding has them, in the dtype of the arithmetic and split over mesh.tensor.
    Raises UserError where sizes do not divide.
    """
    hardware = HARDWARE[cfg.plan.hardware]
    count = devices_of(cfg)
    mesh: AnyMesh = sizes_alone(cfg.mesh, count)
    if compiles:
        mesh = make_mesh(cfg.mesh, absent_devices(cfg.plan.hardware, count))
    with use_rules(DECODING):
        shapes = _shapes(cfg, model, mesh)
        weights, cache = shard_bytes(shapes.params), shard_bytes(shapes.state.cache)
        made, refused = None, None
        if isinstance(mesh, jax.sharding.Mesh):
            with jax.set_mesh(mesh), exact_products(cfg.model.compute_dtype):
                traced = _trace(shapes, mesh, what)
                try:
                    made = compile_traced(traced, mesh)
                except DoesNotFit as error:
                    refused = error
    tokens = shapes.rows * (1 if what == "decode" else PROMPT_TOKENS)
    executed = 2.0 * model.parameters * tokens  # and little attention
    if made is not None:
        executed = flops.count(made.jaxpr).total
    found = collectives(made.hlo) if made is not None else {}
    network = network_s(found, hardware)
    compute = executed / (count * hardware.flops)
    read = (weights + cache * (what == "decode")) / (BANDWIDTH_SHARE * hardware.bandwidth)
    peak = weights + cache
    if made is not None:  # prefill's own program does not have the cache, which lies there too
        peak = made.peak_bytes + (0 if what == "decode" else cache)
    if refused is not None:
        peak = max(peak, hardware.memory_bytes + 1)
    step_s = max(compute / cfg.plan.mfu, read) + network
    return Card(
        title=f"{cfg.model.path}, {what} on {count} x {hardware.title}",
        model=f"{model.family}, {format_count(model.parameters)} parameters in"
        f" {cfg.model.compute_dtype}",
        machines=" x ".join(f"{axis}={n}" for axis, n in mesh.shape.items() if n > 1) or "one",
        batch=[_batch(shapes, what)],
        hardware=hardware,
        devices=count,
        memory={"weights": weights, "cache": cache, "the rest": peak - weights - cache},
        peak_bytes=peak,
        host_bytes=0,
        executed=executed,
        needed=None,
        again=None,
        traffic=traffic_of(found, mesh),
        ideal_bytes=0.0,
        kernels=[] if made is None else [f"{k} x {n}" for k, n in sorted(made.kernels.items())],
        estimate=Estimate(compute, network, step_s),
        mfu=cfg.plan.mfu,
        run=None,
        price=0.0,
        notes=_notes(shapes, what, read, step_s, refused),
        seconds=0.0 if made is None else made.seconds,
    )


def _shapes(cfg: Config, model: ModelConfig, mesh: AnyMesh) -> _Shapes:
    dtype = jnp.dtype(cfg.model.compute_dtype)
    static = Static(model, model.vocab_size, dtype, cfg.decode.strict)
    wanted = specs(model, apart=True)

    def laid(path: tuple, spec: ArraySpec) -> jax.ShapeDtypeStruct:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.ShapeDtypeStruct(spec.shape, dtype, sharding=sharding(name, spec, mesh))

    params = jax.tree.map_with_path(laid, wanted, is_leaf=lambda x: isinstance(x, ArraySpec))
    rows = rows_of(
        cfg.decode.batch_size, mesh.shape["data"] * mesh.shape["fsdp"], cfg.decode.strict
    )
    most = cfg.decode.max_thinking_tokens
    tokens = PROMPT_TOKENS + (most or model.max_positions) + cfg.decode.max_answer_tokens
    columns = bucket(min(tokens, model.max_positions))
    rules = Rules(1, 1)
    idle = new_rows({0: Item(Request("", (0,), rules))}, rows, sizes([rules]))
    empty = jax.eval_shape(lambda: empty_cache(model, rows, columns, dtype))
    state = State(empty, idle)

    def abstract(x: Any, axes: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        layout = sharding("state", ArraySpec(x.shape, axes), mesh)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout)

    laid_out = jax.tree.map(abstract, state, axes_of(state))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    ends = jax.ShapeDtypeStruct((model.vocab_size,), np.bool_, sharding=whole)
    return _Shapes(static, rows, columns, params, laid_out, ends)


def _trace(shapes: _Shapes, mesh: jax.sharding.Mesh, what: str) -> jax.stages.Traced:
    static = shapes.static
    if what == "decode":
        return decode.trace(static, shapes.params, shapes.state, shapes.line_ends, steps=1)
    spec = ArraySpec((shapes.rows, PROMPT_TOKENS), ("batch", "columns"))
    layout = sharding("prompts", spec, mesh)
    tokens = jax.ShapeDtypeStruct(spec.shape, np.int32, sharding=layout)
    return prefill.trace(static.cfg, shapes.params, tokens, tokens, tokens, dtype=static.dtype)


def _batch(shapes: _Shapes, what: str) -> str:
    if what == "decode":
        return f"{shapes.rows} rows, a cache of {shapes.columns:,} columns"
    return f"{shapes.rows} prompts of {PROMPT_TOKENS} tokens"


def _notes(
    shapes: _Shapes, what: str, read: float, step_s: float, refused: DoesNotFit | None
) -> list[str]:
    notes = []
    if refused is not None:
        notes.append(f"the compiler refuses it: {refused}")
    if what == "decode":
        notes.append(
            f"weights and cache are read in {read * 1e3:.3g} ms at {BANDWIDTH_SHARE:.0%} of the"
            f" bandwidth (assumed): about {shapes.rows / step_s:,.0f} tokens/s for all rows"
        )
    return notes
