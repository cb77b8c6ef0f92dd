"""The plan of training: its step compiled or reckoned, and told on a card."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from s1jax.config import Config
from s1jax.hardware import HARDWARE, Hardware
from s1jax.mesh import AnyMesh
from s1jax.metrics import train_flops
from s1jax.models.attention import choose
from s1jax.models.config import ModelConfig
from s1jax.models.feedforward import PIECE_TOKENS
from s1jax.planning import flops
from s1jax.planning.card import Card, traffic_of
from s1jax.planning.collectives import collectives
from s1jax.planning.compiling import Compiled, DoesNotFit, compile_train
from s1jax.planning.estimate import Work, estimate, network_s, run_estimate
from s1jax.planning.workload import Workload, causal_pairs
from s1jax.progress import format_count
from s1jax.training.memory import Memory, memory
from s1jax.training.step import abstract_state

# Products of scores and features that kernels do in the backward pass, where the model needs 4:
# flash attention computes its scores again, ours for queries and for keys apart.
BACKWARD_PRODUCTS = {"xla": 4, "cudnn": 5, "chunked": 5, "triton": 7, "splash": 7}


@dataclass(frozen=True)
class Plan:
    """A config with all that a plan of it needs."""

    cfg: Config
    model: ModelConfig
    mesh: AnyMesh  # its devices need not be here
    workload: Workload

    @property
    def hardware(self) -> Hardware:
        """What the devices are."""
        return HARDWARE[self.cfg.plan.hardware]


def with_kernel(cfg: Config, row_length: int) -> Config:
    """The config with the attention that its hardware would choose."""
    platform = {"cuda": "gpu"}.get(HARDWARE[cfg.plan.hardware].platform, "tpu")
    name = choose(
        cfg.model.attention,
        platform,
        row_length=row_length,
        packed=cfg.data.pack,
        dtype=cfg.model.compute_dtype,
    )
    return replace(cfg, model=replace(cfg.model, attention=name))


def plan_train(plan: Plan, *, compiles: bool, notes: tuple[str, ...] = ()) -> Card:
    """The card of a train step over the longest rows of the run.

    With `compiles` the hardware's own compiler makes the step; else all is reckoned. Raises
    UserError where sizes do not divide.
    """
    cfg, model, mesh, workload = plan.cfg, plan.model, plan.mesh, plan.workload
    state = abstract_state(cfg, model, mesh)
    held = memory(cfg, model, state, mesh, workload.rows, workload.row_length)
    made: Compiled | None = None
    if compiles:
        assert isinstance(mesh, jax.sharding.Mesh), "nothing compiles for sizes alone"
        try:
            made = compile_train(
                cfg, model, mesh, workload.rows, workload.row_length, workload.steps
            )
        except DoesNotFit as refused:
            notes = (*notes, f"the compiler refuses it, so what follows is reckoned: {refused}")
            held = _too_large(held, plan.hardware)
    needed = _needed(model, workload)
    if made is None:
        products, attention = _executed(plan, needed)
        found, seconds = None, _network_reckoned(plan)
    else:
        counted = flops.count(made.jaxpr)
        attention, found = sum(counted.kernels.values()), collectives(made.hlo)
        products = counted.dots
        seconds = network_s(found, plan.hardware)
        if counted.unbounded:
            # The chunked kernel's loops end where the examples do.
            notes = (
                *notes,
                f"operations of {counted.unbounded} loops whose length depends on the data are"
                " counted once",
            )
    work = replace(needed, products=products, attention=attention)
    devices = mesh.size
    price = plan.hardware.price if cfg.plan.price is None else cfg.plan.price
    return Card(
        title=f"{cfg.model.path}, one train step on {devices} x {plan.hardware.title}",
        model=_describe(cfg, model),
        machines=_machines(plan),
        batch=_batch(cfg, workload),
        hardware=plan.hardware,
        devices=devices,
        memory=_by_kind(held, made),
        peak_bytes=held.total if made is None else made.peak_bytes,
        host_bytes=_on_host(cfg, model, workload, mesh),
        executed=work.total,
        needed=needed.total,
        again=(work.products / needed.products, work.attention / needed.attention),
        traffic=traffic_of(found or {}, mesh),
        ideal_bytes=ideal_bytes(plan),
        kernels=_kernels(cfg, made),
        estimate=estimate(work.total, seconds, plan.hardware, devices, cfg.plan.mfu),
        mfu=cfg.plan.mfu,
        run=run_estimate(
            work,
            workload,
            plan.hardware,
            devices,
            mfu=cfg.plan.mfu,
            network_s=seconds,
            price=price,
        ),
        price=price,
        notes=notes,
        seconds=0.0 if made is None else made.seconds,
    )


def _needed(model: ModelConfig, workload: Workload) -> Work:
    """What a model needs for rows that are full of one example each, as kernels count them."""
    length, rows = workload.row_length, workload.rows
    pairs = rows * causal_pairs(length)
    total = train_flops(model, [length] * rows)
    attention = 12.0 * model.layers * model.heads * model.head_dim * pairs
    return Work(total - attention, attention, rows * length, pairs)


def _executed(plan: Plan, needed: Work) -> tuple[float, float]:
    """Matrix products and attention with what is computed again, as the compiled step has them.

    The last product of a layer is never computed again, and feed-forward in pieces always is.
    """
    cfg, model, sizes = plan.cfg, plan.model, dict(plan.mesh.shape)
    whole = cfg.train.remat in ("full", "offload")
    shards = sizes["data"] * sizes["fsdp"] * sizes["context"]
    tokens = needed.tokens // (shards * cfg.train.accumulation_steps)
    gate_and_up = 2 * model.embed_dim * model.mlp_dim
    heads = 2 * model.embed_dim * (model.heads + model.kv_heads) * model.head_dim
    again = heads * whole + gate_and_up * (whole or tokens > PIECE_TOKENS)
    products = needed.products + 2.0 * needed.tokens * model.layers * again
    forward = 2 if cfg.train.remat == "none" else 4
    shares = (forward + BACKWARD_PRODUCTS[cfg.model.attention]) / 6
    return products, shares * needed.attention


def _too_large(held: Memory, hardware: Hardware) -> Memory:
    """What was reckoned, or where that says that it fits what the compiler contradicts."""
    lacking = max(hardware.memory_bytes + 1 - held.total, 0)
    return replace(held, working=held.working + lacking)


def _by_kind(held: Memory, made: Compiled | None) -> dict[str, int]:
    """Bytes of a device; of a compiled step what is no array of the state is the remainder."""
    names = {
        "parameters": "parameters",
        "moments": "Adam's moments",
        "gradients": "gradients (reckoned)",
        "activations": "kept of each layer for the backward pass (reckoned)",
        "working": "the rest: one layer's arrays, or a chunk of logits",
    }
    sizes = {text: getattr(held, name) for name, text in names.items()}
    if made is not None:
        left = made.peak_bytes
        for text in sizes:
            sizes[text] = min(sizes[text], left)
            left -= sizes[text]
        sizes[names["working"]] += left
    return sizes


def _on_host(cfg: Config, model: ModelConfig, workload: Workload, mesh: AnyMesh) -> int:
    if cfg.train.remat != "offload":
        return 0
    tokens = workload.rows * workload.row_length * mesh.shape["tensor"] // mesh.size
    tokens //= cfg.train.accumulation_steps
    width = jnp.dtype(cfg.model.compute_dtype).itemsize
    return model.layers * tokens * model.embed_dim * width


def ideal_bytes(plan: Plan) -> float:
    """What a device must send in a step: 6N bytes in bfloat16, but for its own part of them.

    Parameters are gathered for the forward and again for the backward pass, and their gradients
    scattered once, for each slice of the batch. Data parallel copies add their gradients up.
    """
    cfg, mesh = plan.cfg, plan.mesh
    width = jnp.dtype(cfg.model.compute_dtype).itemsize
    whole = plan.model.parameters / mesh.shape["tensor"] * cfg.train.accumulation_steps * width
    split, copies = mesh.shape["fsdp"] * mesh.shape["context"], mesh.shape["data"]
    sent = 3 * whole * (split - 1) / split
    return sent + 2 * whole / split * (copies - 1) / copies


def _network_reckoned(plan: Plan) -> float:
    """Seconds of the ideal bytes across all devices."""
    hardware, size = plan.hardware, plan.mesh.size
    rate = hardware.link
    if size > hardware.host_devices:
        rate = min(rate, hardware.host_devices * hardware.network)
    return ideal_bytes(plan) / rate


def _kernels(cfg: Config, made: Compiled | None) -> list[str]:
    name = f"attention {cfg.model.attention}"
    if made is None:
        return [name]
    return [name, *(f"{kernel} x {n}" for kernel, n in sorted(made.kernels.items()))]


def _describe(cfg: Config, model: ModelConfig) -> str:
    opt = cfg.optimizer
    moments = " and ".join(dict.fromkeys([opt.first_moment_dtype, opt.second_moment_dtype]))
    return (
        f"{model.family}, {format_count(model.parameters)} parameters in {cfg.model.param_dtype},"
        f" moments in {moments}, computed in {cfg.model.compute_dtype}, remat {cfg.train.remat}"
    )


def _machines(plan: Plan) -> str:
    mesh, hardware = plan.mesh, plan.hardware
    hosts = -(-mesh.size // hardware.host_devices)
    sizes = " x ".join(f"{axis}={n}" for axis, n in mesh.shape.items() if n > 1)
    return (
        f"{mesh.size} x {hardware.title} on {hosts} host{'s' * (hosts > 1)}:"
        f" {sizes or 'one device'}"
    )


def _batch(cfg: Config, workload: Workload) -> list[str]:
    slices = cfg.train.accumulation_steps
    cut = f", in {slices} slices" if slices > 1 else ""
    lengths = workload.row_lengths
    of = f" (rows of {len(lengths)} lengths, from {lengths[0]:,})" if len(lengths) > 1 else ""
    return [
        f"{cfg.data.batch_size} examples in {workload.rows} rows of {workload.row_length:,}"
        f" tokens{cut}{of}",
        f"{workload.steps} steps, {workload.useful_share:.1%} of the rows' tokens are of examples"
        f" ({workload.source})",
    ]
