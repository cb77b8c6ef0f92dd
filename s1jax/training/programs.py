"""The step as the devices run it: traced for a shape of batch, compiled for each that a run has."""

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from s1jax.config import Config
from s1jax.data.batches import Arrays
from s1jax.mesh import ArraySpec, sharding
from s1jax.models.config import ModelConfig
from s1jax.progress import format_seconds
from s1jax.training.run import Run
from s1jax.training.step import BATCH_AXES, Batch, TrainState, make_step

AT_ONCE = 4  # programs compiled together; XLA needs gigabytes of memory for each large one


def trace_step(
    cfg: Config,
    model: ModelConfig,
    state: TrainState,
    mesh: jax.sharding.Mesh,
    rows: int,
    row_length: int,
    total_steps: int,
) -> jax.stages.Traced:
    """The step over batches of so many rows and tokens a row, its state donated.

    `state` is abstract (see `abstract_state`). Call it within `jax.set_mesh(mesh)`, whose devices
    need not be there.
    """
    layouts = jax.tree.map(lambda x: x.sharding, state)
    step = make_step(cfg, model, total_steps)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(layouts, None))
    return jitted.trace(state, abstract_batch(cfg, mesh, rows, row_length))


def abstract_batch(cfg: Config, mesh: jax.sharding.Mesh, rows: int, row_length: int) -> Batch:
    """Shape, dtype and sharding of the arrays of a batch, as ShapeDtypeStructs."""
    slices = cfg.train.accumulation_steps
    spec = ArraySpec((slices, rows // slices, row_length), BATCH_AXES)
    layout = sharding("batch", spec, mesh)

    def array(dtype: type) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(spec.shape, dtype, sharding=layout)

    integers = array(np.int32)
    return Batch(integers, integers, array(np.float32), integers, integers)


def compile_steps(
    run: Run, first_step: int, say: Callable[[str], None]
) -> dict[int, jax.stages.Compiled]:
    """The compiled step for each row length of the steps from `first_step` on.

    All before the first of them: a program that is compiled when it comes to its step would hold
    up the devices, and on a GPU choose its kernels by trials in the middle of the training. The
    longest rows are first, so that what does not fit the memory fails soon.
    """
    batches = run.batches
    steps = range(first_step, batches.total_steps)
    lengths = sorted({batches.row_length_of(step) for step in steps}, reverse=True)
    started = time.monotonic()
    say("compiling ...")
    lowered = [
        trace_step(
            run.cfg,
            run.source.cfg,
            run.abstract,
            run.mesh,
            batches.rows,
            length,
            batches.total_steps,
        ).lower()
        for length in lengths
    ]
    compiled = [lowered[0].compile()]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        compiled += threads.map(lambda program: program.compile(), lowered[1:])
    several = f" for {len(lengths)} row lengths" if len(lengths) > 1 else ""
    say(f"compiled in {format_seconds(time.monotonic() - started)}{several}")
    return dict(zip(lengths, compiled, strict=True))


def to_devices(arrays: Arrays, mesh: jax.sharding.Mesh) -> Batch:
    """The batch on its devices; each process hands over just the parts of its own."""
    layout = sharding("batch", ArraySpec(arrays.tokens.shape, BATCH_AXES), mesh)
    return Batch(
        **{
            f.name: jax.make_array_from_callback(x.shape, layout, x.__getitem__)
            for f in dataclasses.fields(arrays)
            for x in [getattr(arrays, f.name)]
        }
    )
