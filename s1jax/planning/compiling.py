"""A step compiled for devices that are not here, and what the compiler says of it."""

import re
import time
from dataclasses import dataclass

import jax
from jax.extend.core import ClosedJaxpr

from s1jax.config import Config
from s1jax.mesh import exact_products
from s1jax.models.config import ModelConfig
from s1jax.noise import hushed
from s1jax.training.programs import trace_step
from s1jax.training.step import abstract_state


@dataclass(frozen=True)
class Compiled:
    """What the compiler made; sizes are of one device."""

    jaxpr: ClosedJaxpr
    hlo: str
    argument_bytes: int
    output_bytes: int
    alias_bytes: int  # of the output, in the place of arguments
    temporary_bytes: int
    peak_bytes: int
    kernels: dict[str, int]  # custom calls by name, and how many the program has
    seconds: float


class DoesNotFit(Exception):
    """The compiler itself refused: the program needs more memory than there is."""


def compile_train(
    cfg: Config,
    model: ModelConfig,
    mesh: jax.sharding.Mesh,
    rows: int,
    row_length: int,
    total_steps: int,
) -> Compiled:
    """The train step over batches of so many rows and tokens a row, for the mesh's devices.

    Raises DoesNotFit where the compiler refuses (TPU's does), UserError where sizes do not divide.
    """
    state = abstract_state(cfg, model, mesh)
    with jax.set_mesh(mesh), exact_products(cfg.model.compute_dtype):
        traced = trace_step(cfg, model, state, mesh, rows, row_length, total_steps)
        return compile_traced(traced, mesh)


def compile_traced(traced: jax.stages.Traced, mesh: jax.sharding.Mesh) -> Compiled:
    """The program of a traced function for the mesh's devices; see `compile_train`."""
    platform = {"gpu": "cuda"}.get(mesh.devices.flat[0].platform, mesh.devices.flat[0].platform)
    started = time.monotonic()
    lowered = traced.lower(lowering_platforms=(platform,))
    try:
        with hushed():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DoesNotFit(_sentence(str(error))) from error
        raise
    seconds = time.monotonic() - started
    told = compiled.memory_analysis()
    assert told is not None
    hlo = compiled.as_text() or ""
    return Compiled(
        jaxpr=traced.jaxpr,
        hlo=hlo,
        argument_bytes=told.argument_size_in_bytes,
        output_bytes=told.output_size_in_bytes,
        alias_bytes=told.alias_size_in_bytes,
        temporary_bytes=told.temp_size_in_bytes,
        peak_bytes=told.peak_memory_in_bytes,  # for TPUs, what `temp` adds up to is no peak
        kernels=kernels(hlo),
        seconds=seconds,
    )


def kernels(hlo: str) -> dict[str, int]:
    """The custom calls of a program by name, collectives and annotations left out."""
    found: dict[str, int] = {}
    for name in re.findall(r'custom_call_target="([^"]+)"', hlo):
        if not name.startswith(("Sharding", "SPMD", "MoveTo", "annotate", "AllocateBuffer")):
            found[name] = found.get(name, 0) + 1
    return found


def _sentence(message: str) -> str:
    """The compiler's sentence on how much is needed, without its list of buffers."""
    found = re.search(r"(Used|Program hbm requirement|Ran out of memory|Exceeded)[^\n]*", message)
    return " ".join((found.group(0) if found else message.splitlines()[0]).split())
