"""Three real steps of a narrow copy of a model, on virtual devices, for one mesh after the other.

What no compiler shows is shown here: that the sharded program runs, and computes on every mesh what
it computes on one device.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from s1jax.config import Config, Mesh
from s1jax.data.batches import Batches
from s1jax.data.labels import Tokenized
from s1jax.mesh import AXES, ArraySpec, make_mesh, mesh_sizes, path_name
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import Params, specs
from s1jax.planning.workload import assumed_examples
from s1jax.training.programs import to_devices, trace_step
from s1jax.training.step import TrainState, abstract_state, init_state
from s1jax.training_config import check_batch
from s1jax.types import UserError

STEPS = 3
MEAN_TOKENS = 48  # of an example
VOCAB = 512
TOLERANCE = 1e-5  # of losses, relative


@dataclass(frozen=True)
class Performance:
    """What a mesh gave."""

    name: str
    shape: str  # of its batches
    losses: tuple[float, ...]
    off: float  # the worst relative difference from the losses of one device


@dataclass(frozen=True)
class Rehearsal:
    """What all meshes gave, one device first."""

    model: ModelConfig
    performances: Sequence[Performance]

    @property
    def agree(self) -> bool:
        """Whether all losses are those of one device, but for rounding."""
        return all(its.off <= TOLERANCE for its in self.performances)

    def text(self) -> str:
        """A table of the losses."""
        model = self.model
        lines = [
            f"{STEPS} steps of {model.family} with {model.layers} layers, {model.heads} heads,"
            f" {model.embed_dim} wide, in float32:",
            f"  {'mesh':<34} {'batch':<12} {'losses':<29} off",
        ]
        for its in self.performances:
            losses = "  ".join(f"{loss:.6f}" for loss in its.losses)
            lines.append(f"  {its.name:<34} {its.shape:<12} {losses:<29} {its.off:.1e}")
        verdict = "the losses agree" if self.agree else f"the losses DIFFER (more than {TOLERANCE})"
        return "\n".join([*lines, verdict, ""])


def rehearsal(cfg: Config, model: ModelConfig, meshes: Sequence[str]) -> Rehearsal:
    """Trains the narrow copy on one device, on the config's mesh and on those given.

    Raises UserError if the model itself could not be laid over one of them.
    """
    wanted = [cfg.mesh, *map(parse_mesh, meshes)]
    count = _devices(cfg, wanted)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(count))
    for mesh, n in zip(wanted, count, strict=True):
        _check(cfg, model, mesh, n)
    small = narrow(model, [mesh_sizes(mesh, n) for mesh, n in zip(wanted, count, strict=True)])
    alone = replace(cfg, mesh=Mesh(1, 1, 1, 1), data=replace(cfg.data, pack=False))
    first = _perform(_narrowed(alone, 1), small, 1, None)
    others = [
        _perform(_narrowed(replace(cfg, mesh=mesh), mesh.context), small, n, first.losses)
        for mesh, n in zip(wanted, count, strict=True)
    ]
    return Rehearsal(small, [first, *others])


def parse_mesh(text: str) -> Mesh:
    """The mesh that `fsdp=2:context=8` names, other axes 1. UserError if it names none."""
    sizes = {}
    for part in text.split(":"):
        axis, _, size = part.partition("=")
        if axis not in AXES or not size.isdecimal() or int(size) < 1:
            raise UserError(f'--meshes: "{text}" is no mesh: write as in fsdp=2:context=8')
        sizes[axis] = int(size)
    return Mesh(**({axis: 1 for axis in AXES} | sizes))


def _devices(cfg: Config, meshes: Sequence[Mesh]) -> list[int]:
    counts = []
    for mesh in meshes:
        sizes = [getattr(mesh, axis) for axis in AXES]
        if -1 in sizes and cfg.plan.devices is None:
            raise UserError(
                "an axis of the mesh is -1, and plan.devices is not set: say how many devices"
                " there are, as in --config.plan.devices=16"
            )
        counts.append(cfg.plan.devices if -1 in sizes else math.prod(sizes))
    return [count for count in counts if count is not None]


def _check(cfg: Config, model: ModelConfig, mesh: Mesh, devices: int) -> None:
    """Refuses what the real model would be refused for."""
    cfg = replace(cfg, mesh=mesh)
    laid = make_mesh(mesh, jax.devices()[:devices])
    if problems := check_batch(cfg.data, cfg.train, dict(laid.shape)):
        raise UserError("\n  ".join(["config", *problems]))
    abstract_state(cfg, model, laid)


def narrow(model: ModelConfig, sizes: Sequence[dict[str, int]]) -> ModelConfig:
    """A model of the same family and heads whose arrays are as small as these meshes allow."""
    split = math.lcm(*(its["fsdp"] * its["context"] for its in sizes))
    tensor = math.lcm(*(its["tensor"] for its in sizes))
    width = split * math.ceil(64 / split)
    return replace(
        model,
        vocab_size=tensor * math.ceil(VOCAB / tensor),
        embed_dim=width,
        mlp_dim=tensor * math.ceil(2 * width / tensor),
        layers=min(model.layers, 2),
        head_dim=8,
    )


def _narrowed(cfg: Config, context: int) -> Config:
    """The config for short examples, exact arithmetic, and a rate at which a wrong step shows."""
    length = 128 * max(context, 4)
    attention = "xla" if cfg.model.attention == "xla" else "chunked"
    return replace(
        cfg,
        model=replace(cfg.model, attention=attention, compute_dtype="float32"),
        data=replace(cfg.data, row_length=length, packed_row_length=None),
        train=replace(cfg.train, steps=STEPS, loss_chunk_tokens=64),
        optimizer=replace(cfg.optimizer, learning_rate=1e-2, warmup_share=0.0),
        plan=replace(cfg.plan, example_tokens=MEAN_TOKENS, longest_tokens=2 * MEAN_TOKENS),
    )


def _perform(
    cfg: Config, model: ModelConfig, devices: int, expected: Sequence[float] | None
) -> Performance:
    mesh = make_mesh(cfg.mesh, jax.devices()[:devices])
    sizes = dict(mesh.shape)
    batches = Batches(_examples(cfg, model), cfg, sizes["data"] * sizes["fsdp"], sizes["context"])
    abstract = abstract_state(cfg, model, mesh)
    losses = []
    with jax.set_mesh(mesh):
        state = _start(cfg, model, abstract)
        programs = {
            length: trace_step(cfg, model, abstract, mesh, batches.rows, length, STEPS)
            .lower()
            .compile()
            for length in batches.row_lengths
        }
        for step in range(STEPS):
            batch = to_devices(batches.arrays(step), mesh)
            state, metrics = programs[batches.row_length_of(step)](state, batch)
            losses.append(float(metrics.loss))
    pairs = zip(losses, expected or losses, strict=True)
    name = " x ".join(f"{axis}={n}" for axis, n in sizes.items() if n > 1) or "one device"
    return Performance(
        name,
        f"{batches.rows} x {batches.row_length}",
        tuple(losses),
        max(abs(a - b) / abs(b) for a, b in pairs),
    )


def _examples(cfg: Config, model: ModelConfig) -> list[Tokenized]:
    """Short examples of random tokens, of lengths as unequal as real ones."""
    blanks, _ = assumed_examples(cfg)
    rng = np.random.default_rng(cfg.seed)

    def filled(blank: Tokenized) -> Tokenized:
        tokens = rng.integers(0, model.vocab_size, len(blank.tokens), dtype=np.int32)
        return replace(blank, tokens=tokens)

    return [filled(blank) for blank in blanks]


def _start(cfg: Config, model: ModelConfig, abstract: TrainState) -> TrainState:
    """The state before the first step; its weights depend on their names and shapes alone."""

    def array(path: tuple, spec: ArraySpec, like: jax.ShapeDtypeStruct) -> jax.Array:
        name = path_name(path)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("scale"):
            values = np.ones(spec.shape, np.float32)
        else:
            values = 0.1 * rng.standard_normal(spec.shape, dtype=np.float32)
        return jax.device_put(values.astype(like.dtype), like.sharding)

    params: Params = jax.tree.map_with_path(
        array, specs(model), abstract.params, is_leaf=lambda x: isinstance(x, ArraySpec)
    )
    layouts = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(lambda p: init_state(cfg, p), out_shardings=layouts)(params)
