"""The mesh, the one table from array axes to mesh axes, and the shardings of anything.

Every array names its axes; `RULES` says which mesh axis each of them is split over. There is no
catch-all: an axis that the table does not know is an error.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import DTypeLike

from s1jax import config
from s1jax.types import UserError

AXES = ("data", "fsdp", "context", "tensor")

MeshAxes = str | tuple[str, ...] | None
AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh  # of devices, or of sizes alone

RULES: dict[str, MeshAxes] = {
    # Parameters. What has no `embed` axis (biases of heads, norms of one head) stays whole over
    # fsdp and context: together 0.002% of a 32B model.
    "layers": None,
    "vocab": "tensor",
    "embed": ("fsdp", "context"),  # the devices along a row share the state too
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "group": None,  # of heads that share keys and values, these included
    "pair": None,  # gate and up
    # Activations.
    "batch": ("data", "fsdp"),
    "slices": None,  # of a batch, run one after the other by gradient accumulation
    "rows": None,  # of a batch, inside one of its shards
    "seq": "context",
    "features": None,
    "columns": None,  # of a cache of keys and values
}

# For decoding, where a step has one token a row: to gather weights for it would take longer than
# all the rest. They are split over `tensor` alone, and whole along the other axes.
DECODING: dict[str, MeshAxes] = RULES | {"embed": None}

_rules: ContextVar[dict[str, MeshAxes]] = ContextVar("rules", default=RULES)


@contextlib.contextmanager
def use_rules(rules: dict[str, MeshAxes]) -> Iterator[None]:
    """Within it, this table lays arrays over the mesh. A jitted function must know only one."""
    token = _rules.set(rules)
    try:
        yield
    finally:
        _rules.reset(token)


def exact_products(dtype: DTypeLike) -> contextlib.AbstractContextManager[None]:
    """Within it, float32 is multiplied as float32 where that is the dtype of the arithmetic.

    By default TPUs take bfloat16 for it and GPUs TF32: who asks for float32, as s1 does for its
    evaluation, would be given something else without a word.
    """
    if jnp.dtype(dtype) != jnp.float32:
        return contextlib.nullcontext()
    return jax.default_matmul_precision("float32")


@dataclass(frozen=True)
class ArraySpec:
    """An array before it is made: its shape and the names of its axes."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def mesh_sizes(cfg: config.Mesh, devices: int) -> dict[str, int]:
    """The size of each mesh axis on that many devices, -1 filled in.

    Raises UserError if the sizes do not multiply to the number of devices.
    """
    sizes = {axis: getattr(cfg, axis) for axis in AXES}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    written = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    if -1 in sizes.values():
        if devices % fixed:
            raise UserError(f"mesh ({written}): {devices} devices do not divide by {fixed}")
        return {axis: devices // fixed if size == -1 else size for axis, size in sizes.items()}
    if fixed != devices:
        raise UserError(
            f"mesh ({written}) needs {fixed} devices and {devices} are here:"
            f" set one axis to -1, or the sizes to what multiplies to {devices}"
        )
    return sizes


def make_mesh(cfg: config.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh of a config over these devices (by default all of them).

    Raises UserError if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(cfg, len(devices))
    return jax.make_mesh(
        tuple(sizes[axis] for axis in AXES),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=devices,
    )


def partition(axes: Sequence[str]) -> PartitionSpec:
    """The PartitionSpec of an array with these axes.

    Raises ValueError for an unknown axis, and where one mesh axis would split two of them.
    """
    rules = _rules.get()
    for axis in axes:
        if axis not in rules:
            raise ValueError(
                f'axis "{axis}" has no rule in s1jax.mesh.RULES{config.nearest(axis, rules)}'
            )
    entries = [rules[axis] for axis in axes]
    used: dict[str, str] = {}
    for axis, entry in zip(axes, entries, strict=True):
        for mesh_axis in (entry,) if isinstance(entry, str) else entry or ():
            if mesh_axis in used:
                raise ValueError(
                    f'axes {tuple(axes)}: "{used[mesh_axis]}" and "{axis}" are both split over'
                    f' mesh axis "{mesh_axis}"'
                )
            used[mesh_axis] = axis
    return PartitionSpec(*entries)


def sharding(name: str, spec: ArraySpec, mesh: AnyMesh) -> NamedSharding:
    """The sharding of one array.

    Raises UserError, naming array, axis and config key, if a size does not divide; ValueError as
    `partition` does.
    """
    try:
        parts = partition(spec.axes)
    except ValueError as error:
        raise ValueError(f"array {name!r}: {error}") from error
    for axis, size, entry in zip(spec.axes, spec.shape, parts, strict=True):
        mesh_axes = (entry,) if isinstance(entry, str) else tuple(entry or ())
        ways = math.prod(mesh.shape[a] for a in mesh_axes)
        if size % ways:
            keys = " x ".join(f"mesh.{a}={mesh.shape[a]}" for a in mesh_axes)
            choices = [str(n) for n in range(1, size + 1) if size % n == 0 and n <= mesh.size]
            raise UserError(
                f'{name}: axis "{axis}" of size {size} does not divide by {keys}:'
                f" choose one of {', '.join(choices)}"
            )
    return NamedSharding(mesh, parts)


def shardings(specs: dict, mesh: AnyMesh) -> dict:
    """The shardings of a tree of ArraySpecs; see `sharding`."""
    return jax.tree.map_with_path(
        lambda path, spec: sharding(path_name(path), spec, mesh), specs, is_leaf=_is_spec
    )


def _is_spec(x: object) -> bool:
    return isinstance(x, ArraySpec)


def path_name(path: Sequence[object]) -> str:
    """`layers/attn/q/kernel` for a key path of jax.tree_util."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """The same array, laid over the current mesh as the rules say; unchanged without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition(axes))


def ways(axis: str) -> int:
    """Into how many parts the current mesh splits an array axis of this name; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    return math.prod(mesh.shape[a] for a in mesh_axes(axis))


def apart(x: jax.Array) -> jax.Array:
    """[B, T, ...] as [R, C, tokens, ...]: each device's own tokens, beside those of the others.

    R and C are the parts of the mesh's batch and of a row. Sums over all tokens that are made in
    pieces, gradients of weights above all, stay on their device with these axes in front, and are
    added up over devices once, at the end.
    """
    rows, length = x.shape[:2]
    shards, parts = ways("batch"), ways("seq")
    x = x.reshape(shards, rows // shards, parts, length // parts, *x.shape[2:])
    x = jnp.moveaxis(x, 2, 1)
    x = x.reshape(shards, parts, -1, *x.shape[4:])
    return constrain(x, "batch", "seq", "rows", *["features"] * (x.ndim - 3))


def together(x: jax.Array, rows: int) -> jax.Array:
    """What `apart` took apart, again [rows, T, ...]."""
    shards, parts = x.shape[:2]
    x = x.reshape(shards, parts, rows // shards, -1, *x.shape[3:])
    x = jnp.moveaxis(x, 1, 2)
    x = x.reshape(rows, -1, *x.shape[4:])
    return constrain(x, "batch", "seq", *["features"] * (x.ndim - 2))


def summed(x: jax.Array, *axes: str) -> jax.Array:
    """The sum of [R, Z, ...] over the devices that `apart` set apart, laid out by these axes.

    `embed` is one of them, and whole in `x`. Each device is sent its part of the sum alone, in the
    dtype of `x`, where XLA would send float32 for bfloat16.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x[0, 0]
    whole = partition(("batch", "seq", *("features" if a == "embed" else a for a in axes)))
    split = mesh_axes("embed")
    rest = tuple(a for name in ("batch", "seq") for a in mesh_axes(name) if a not in split)

    # TPUs scatter along one axis of their torus: along several, XLA has them send whole sums. GPUs
    # do it in one go, which goes over the network between hosts just as often as it must.
    on_tpu = mesh.abstract_device is not None and mesh.abstract_device.platform == "tpu"
    turns = split if on_tpu else (split,)

    def scatter(x: jax.Array) -> jax.Array:
        x = x[0, 0]
        for turn in turns:
            place = axes.index("embed")
            x = jax.lax.psum_scatter(x, turn, scatter_dimension=place, tiled=True)
        return jax.lax.psum(x, rest) if rest else x

    return jax.shard_map(scatter, in_specs=whole, out_specs=partition(axes))(x)


def mesh_axes(axis: str) -> tuple[str, ...]:
    """The mesh axes that an array axis is split over."""
    entry = _rules.get()[axis]
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
