"""What to change where a run does not fit, and the search for the fastest plan that does."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jax.sharding import AbstractMesh, AxisType

from s1jax.config import Config, Mesh
from s1jax.data.labels import Tokenized
from s1jax.mesh import AXES, AnyMesh, make_mesh, mesh_sizes
from s1jax.models.config import ModelConfig
from s1jax.planning.card import Card
from s1jax.planning.topology import absent_devices
from s1jax.planning.training import Plan, plan_train, with_kernel
from s1jax.planning.workload import workload_of
from s1jax.progress import format_bytes, format_seconds, say
from s1jax.training_config import check_batch
from s1jax.types import UserError

SHORTEST_ROW = 4096
COMPILED = 4  # plans of a search that are compiled before it gives up


@dataclass(frozen=True)
class Inputs:
    """What all plans of a config share."""

    model: ModelConfig
    examples: list[Tokenized]
    source: str  # of their lengths
    compiles: bool


@dataclass(frozen=True)
class Change:
    """A config that differs, and in what."""

    cfg: Config
    text: str  # as one writes it on the command line


def card_of(cfg: Config, inputs: Inputs, *, compiles: bool | None = None) -> Card:
    """The card of a config. Raises UserError where mesh, batch and model do not go together."""
    compiles = inputs.compiles if compiles is None else compiles
    count = devices_of(cfg)
    sizes = mesh_sizes(cfg.mesh, count)
    if problems := check_batch(cfg.data, cfg.train, sizes):
        raise UserError("\n  ".join(["config", *problems]))
    examples = [_cut(example, cfg.data.row_length) for example in inputs.examples]
    workload = workload_of(cfg, examples, sizes, inputs.source)
    mesh: AnyMesh = sizes_alone(cfg.mesh, count)
    if compiles:
        mesh = make_mesh(cfg.mesh, absent_devices(cfg.plan.hardware, count))
    plan = Plan(with_kernel(cfg, workload.row_length), inputs.model, mesh, workload)
    return plan_train(plan, compiles=compiles)


def sizes_alone(mesh: Mesh, devices: int) -> AbstractMesh:
    """A mesh of that many devices which are nowhere: nothing is compiled for it."""
    sizes = tuple(mesh_sizes(mesh, devices).values())
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def devices_of(cfg: Config) -> int:
    """How many devices are planned for: `plan.devices`, or what the mesh multiplies to."""
    sizes = [getattr(cfg.mesh, axis) for axis in AXES]
    product = 1
    for size in sizes:
        product *= abs(size)
    if cfg.plan.devices is not None:
        return cfg.plan.devices
    if -1 in sizes:
        raise UserError(
            "an axis of the mesh is -1, all devices that are left, and plan.devices is not set:"
            " say how many there are, as in --config.plan.devices=16"
        )
    return product


def _cut(example: Tokenized, length: int) -> Tokenized:
    if len(example.tokens) <= length:
        return example
    return replace(example, tokens=example.tokens[:length], parts=example.parts[:length])


def advice(cfg: Config, inputs: Inputs) -> str:
    """The first changes with which the run fits, each kept while the next is tried.

    First what is computed again, then the dtype of Adam's moments, rows at a time and their length,
    the mesh.
    """
    tried: list[str] = []
    for change in changes(cfg, inputs):
        try:
            reckoned = card_of(change.cfg, inputs, compiles=False)
            if reckoned.peak_bytes > 1.15 * reckoned.hardware.memory_bytes:
                tried.append(f"  {change.text}: about {format_bytes(reckoned.peak_bytes)}")
                continue
            card = card_of(change.cfg, inputs)
        except UserError as error:
            tried.append(f"  {change.text}: {error}")
            continue
        if card.fits:
            return "it fits with " + "\n".join([f"{change.text}:", card.text()])
        tried.append(f"  {change.text}: {format_bytes(card.peak_bytes)}")
    return "\n".join(["nothing that was tried fits:", *tried, ""])


def changes(cfg: Config, inputs: Inputs) -> Iterator[Change]:
    """What `advice` tries, in its order; a change of rows or mesh keeps the ones before it."""
    done: list[str] = []

    def change(text: str, cfg: Config) -> Change:
        return Change(cfg, " ".join([*done, text]))

    order = ("none", "dots", "full", "offload")
    for remat in order[order.index(cfg.train.remat) + 1 :]:
        changed = replace(cfg, train=replace(cfg.train, remat=remat))
        yield change(f"--config.train.remat={remat}", changed)
    if order.index(cfg.train.remat) < order.index("full"):
        cfg = replace(cfg, train=replace(cfg.train, remat="full"))
        done.append("--config.train.remat=full")

    moments = ("first_moment_dtype", "second_moment_dtype")
    for name in moments:
        if getattr(cfg.optimizer, name) != "bfloat16":
            field: Any = {name: "bfloat16"}
            cfg = replace(cfg, optimizer=replace(cfg.optimizer, **field))
            done.append(f"--config.optimizer.{name}=bfloat16")
            yield Change(cfg, " ".join(done))
    if cfg.train.remat != "offload":
        yield change(
            "--config.train.remat=offload", replace(cfg, train=replace(cfg.train, remat="offload"))
        )

    if not cfg.data.pack:  # packed rows hold as many tokens, however long they are
        yield from _shorter_rows(cfg, inputs, done)

    for mesh in meshes(devices_of(cfg)):
        if mesh != cfg.mesh and mesh.data == 1:
            yield change(_flags(mesh), replace(cfg, mesh=mesh, data=replace(cfg.data, pack=True)))


def _shorter_rows(cfg: Config, inputs: Inputs, done: list[str]) -> Iterator[Change]:
    """Fewer rows at a time, which changes no update; then shorter ones, which cut examples."""
    slices = 2 * cfg.train.accumulation_steps
    while cfg.data.batch_size % slices == 0:
        text = f"--config.train.accumulation_steps={slices}"
        train = replace(cfg.train, accumulation_steps=slices)
        yield Change(replace(cfg, train=train), " ".join([*done, text]))
        slices *= 2
    length = cfg.data.row_length // 2
    while length >= SHORTEST_ROW:
        cut = sum(len(example.tokens) > length for example in inputs.examples)
        note = f" (cuts {cut:,} of {len(inputs.examples):,} examples)" if cut else ""
        text = f"--config.data.row_length={length}{note}"
        data = replace(cfg.data, row_length=length)
        yield Change(replace(cfg, data=data), " ".join([*done, text]))
        length //= 2


def meshes(devices: int) -> Iterator[Mesh]:
    """Every way to split so many devices over the four axes, rows split least first."""
    sizes = [n for n in range(1, devices + 1) if devices % n == 0]
    for tensor in sizes[:4]:
        for context in sizes:
            for data in sizes:
                if devices % (tensor * context * data) == 0:
                    fsdp = devices // (tensor * context * data)
                    yield Mesh(data=data, fsdp=fsdp, context=context, tensor=tensor)


def _flags(mesh: Mesh) -> str:
    sizes = " ".join(f"--config.mesh.{axis}={getattr(mesh, axis)}" for axis in AXES)
    return f"--config.data.pack=True {sizes}"


def search(cfg: Config, inputs: Inputs) -> str:
    """The card of the plan with the shortest run among those that fit, and how to ask for it.

    Meshes, remat and packing are tried; the recipe stays as it is. All are reckoned, and the
    fastest compiled until one fits.
    """
    ranked: list[tuple[float, str, Config]] = []
    for mesh in meshes(devices_of(cfg)):
        for remat in ("none", "dots", "full", "offload"):
            tried = replace(
                cfg,
                mesh=mesh,
                train=replace(cfg.train, remat=remat),
                data=replace(cfg.data, pack=True),
            )
            try:
                card = card_of(tried, inputs, compiles=False)
            except UserError:
                continue
            if card.run is not None and card.peak_bytes <= 1.1 * card.hardware.memory_bytes:
                text = f"{_flags(mesh)} --config.train.remat={remat}"
                ranked.append((card.run.seconds, text, tried))
    ranked.sort(key=lambda plan: plan[0])
    if not ranked:
        return "no plan fits: " + advice(cfg, inputs)
    say(f"{len(ranked)} plans may fit as reckoned; the fastest of them are looked at")
    best: tuple[float, str, Card] | None = None
    for seconds, text, tried in ranked[:COMPILED]:
        if best is not None and best[0] <= seconds:
            break
        card = card_of(tried, inputs)
        assert card.run is not None
        verdict = "fits" if card.fits else "does not fit"
        say(
            f"  {text}: {format_bytes(card.peak_bytes)}, {verdict}, "
            f"about {format_seconds(card.run.seconds)}"
        )
        if card.fits and (best is None or card.run.seconds < best[0]):
            best = (card.run.seconds, text, card)
    if best is None:
        return "none of the fastest plans fits: " + advice(cfg, inputs)
    looked = f"{min(COMPILED, len(ranked))} of {len(ranked)} plans that may fit"
    return f"the fastest of the first {looked}:\n  {best[1]}\n{best[2].text()}"
