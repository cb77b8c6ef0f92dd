"""Weights between files and devices, one tensor at a time, in both directions.

The host never holds more than one tensor and a block of the file: a tensor is read in blocks,
each block is handed to the slices that this process's devices want of it, and the rest (turning
to our axes, casting, putting the layer into its stack) is done where the parameters live.
"""

import contextlib
import errno
import functools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, DTypeLike, Int

from s1jax.mesh import ArraySpec, partition, sharding
from s1jax.models.config import from_hf
from s1jax.models.decoder import Params
from s1jax.models.hf import ASSETS, INDEX, SINGLE, HFCheckpoint, asset_files
from s1jax.models.names import EMBEDDING, HEAD, Entry, entries, flat_specs
from s1jax.models.safetensors import (
    DTYPES,
    Tensor,
    read_blocks,
    read_metadata,
    show,
    write_file,
)
from s1jax.types import UserError

Progress = Callable[[int, int], None]  # bytes done, bytes in all

EXPORT_DTYPES = {"bfloat16": "BF16", "float32": "F32"}
# "format" is what transformers asks for; the other says that we may replace the directory.
METADATA = {"format": "pt", "writer": "s1jax"}
HEADER_BYTES = 256  # of the header, for each tensor, at most


def load_params(
    checkpoint: HFCheckpoint,
    mesh: Mesh,
    dtype: DTypeLike,
    progress: Progress | None = None,
) -> Params:
    """The checkpoint's parameters in `dtype`, laid over the mesh as the rules say.

    Raises UserError that names the tensor and its file if it holds NaN or Inf (in `dtype`), if
    the file has been cut, or if a tied model has a head that is not its embedding.
    """
    tensors = checkpoint.tensors
    if checkpoint.cfg.tied and HEAD in tensors:
        _require_equal(tensors[HEAD], tensors[EMBEDDING])
    layouts = {
        path: (spec, sharding(path, spec, mesh))
        for path, spec in flat_specs(checkpoint.cfg).items()
    }
    needed = entries(checkpoint.cfg)
    done, total = 0, sum(tensors[name].bytes for name in needed)
    params: dict[str, Array] = {}
    for name, entry in needed.items():
        spec, layout = layouts[entry.path]
        order = tuple(int(axis) for axis in np.argsort(entry.order))
        if entry.layer is None:
            params[entry.path], finite = _place(
                _stage(tensors[name], entry, mesh), order, jnp.dtype(dtype), layout
            )
        else:
            if entry.path not in params:
                params[entry.path] = _zeros(spec.shape, jnp.dtype(dtype), layout)
            params[entry.path], finite = _insert(
                params[entry.path], _stage(tensors[name], entry, mesh), entry.layer, order, layout
            )
        # Waiting here is what keeps the host at one tensor, and finds a bad one at once.
        if not finite:
            raise UserError(f"{tensors[name].file}: tensor {name} holds NaN or Inf")
        done += tensors[name].bytes
        if progress is not None:
            progress(done, total)
    return unflatten(params)


def unflatten(leaves: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts of what is named by paths such as `layers/attn/q/kernel`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _require_equal(head: Tensor, embedding: Tensor) -> None:
    """Some tied checkpoints carry the head again; one that differs contradicts the config."""
    same = head.dtype == embedding.dtype and all(
        np.array_equal(ours.view(np.uint8), theirs.view(np.uint8))
        for (_, ours), (_, theirs) in zip(
            read_blocks(head, head.shape), read_blocks(embedding, embedding.shape), strict=True
        )
    )
    if not same:
        raise UserError(
            f"{head.file}: tensor {HEAD} is not bit for bit {EMBEDDING},"
            " though config.json has tie_word_embeddings=true"
        )


def _stage(tensor: Tensor, entry: Entry, mesh: Mesh) -> Array:
    """The tensor on the devices, in the file's dtype and in HF's order of axes, not joined."""
    layout = NamedSharding(mesh, partition(entry.axes))
    wanted: dict[jax.Device, tuple[range, ...]] = {}
    for device, at in layout.addressable_devices_indices_map(entry.split).items():
        parts = zip(at or (), entry.split, strict=True)
        wanted[device] = tuple(range(*part.indices(size)) for part, size in parts)
    dtype = DTYPES[tensor.dtype]
    buffers = {at: _aligned([len(part) for part in at], dtype) for at in set(wanted.values())}
    rows = range(min(at[0].start for at in buffers), max(at[0].stop for at in buffers))
    for start, block in read_blocks(tensor, entry.split, rows):
        for (first, *others), buffer in buffers.items():
            low, high = max(first.start, start), min(first.stop, start + len(block))
            if low < high:
                columns = tuple(slice(part.start, part.stop) for part in others)
                buffer[low - first.start : high - first.start] = block[
                    (slice(low - start, high - start), *columns)
                ]
    shards = jax.device_put([buffers[at] for at in wanted.values()], list(wanted))
    return jax.make_array_from_single_device_arrays(entry.split, layout, shards)


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An empty array at a multiple of 64 bytes, which a CPU device takes as it is, uncopied."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(shape: tuple[int, ...], dtype: jnp.dtype, layout: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(jnp.zeros(shape, dtype), layout)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _place(
    tensor: Array, order: tuple[int, ...], dtype: jnp.dtype, layout: NamedSharding
) -> tuple[Array, Bool[Array, ""]]:
    """The tensor as a parameter, and whether all of it is finite."""
    value = tensor.transpose(order).astype(dtype)
    return jax.lax.with_sharding_constraint(value, layout), _all_finite(value, layout)


@functools.partial(jax.jit, donate_argnums=0, static_argnums=(3, 4))
def _insert(
    stack: Array,
    tensor: Array,
    layer: Int[Array, ""],
    order: tuple[int, ...],
    layout: NamedSharding,
) -> tuple[Array, Bool[Array, ""]]:
    """The stack with the tensor as one of its layers, and whether all of that is finite."""
    value = tensor.transpose(order).astype(stack.dtype)
    stack = jax.lax.dynamic_update_index_in_dim(stack, value, layer, 0)
    return jax.lax.with_sharding_constraint(stack, layout), _all_finite(value, layout)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _take(
    param: Array,
    layer: Int[Array, ""] | None,
    order: tuple[int, ...],
    dtype: jnp.dtype,
    layout: NamedSharding,
) -> tuple[Array, Bool[Array, ""]]:
    """One tensor of a parameter in HF's order of axes, and whether all of it is finite."""
    if layer is not None:
        param = jax.lax.dynamic_index_in_dim(param, layer, 0, keepdims=False)
    value = param.transpose(order).astype(dtype)
    return jax.lax.with_sharding_constraint(value, layout), _all_finite(value, layout)


def _all_finite(value: Array, layout: NamedSharding) -> Bool[Array, ""]:
    """Whether all of it is finite, as a flag that every process can read."""
    everywhere = NamedSharding(layout.mesh, PartitionSpec())
    # NaN and Inf times 0 are NaN, and NaN survives every sum. A mask of booleans would take half
    # as much memory as the tensor, and a maximum over devices may drop NaN.
    finite = jnp.isfinite(jnp.sum(value * 0))
    return jax.lax.with_sharding_constraint(finite, everywhere)


def save_checkpoint(
    directory: Path,
    raw: dict[str, Any],
    params: Params,
    *,
    assets: Path,
    dtype: str = "bfloat16",
    shard_bytes: int = 5_000_000_000,
    card: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes a Hugging Face directory that transformers loads; it appears when it is whole.

    `raw` is the base model's config.json, of which only the dtype is changed; the tokenizer and
    generation_config.json are copied from `assets`; `card` becomes README.md. An earlier export
    at `directory` is replaced. In a job of several processes all must call this, and process 0
    writes.
    Raises UserError if the directory holds anything else, the disk is full, or a parameter is not
    finite.
    """
    directory = Path(directory).expanduser().resolve()
    needed = entries(from_hf(raw))
    shards = _shards(needed.values(), EXPORT_DTYPES[dtype], shard_bytes)
    total = sum(_export_bytes(entry, dtype) for entry in needed.values())
    done = 0

    def arrays(shard: Iterable[Entry]) -> Iterator[np.ndarray]:
        nonlocal done
        for entry in shard:
            yield _gather(entry, params, dtype)
            done += _export_bytes(entry, dtype)
            if progress is not None:
                progress(done, total)

    if jax.process_index() == 0:
        with _replacing(directory, total) as partial:
            _write_assets(partial, raw, assets, dtype, card)
            for file, shard in shards.items():
                described = {entry.name: (EXPORT_DTYPES[dtype], entry.shape) for entry in shard}
                write_file(partial / file, described, arrays(shard), METADATA)
            if len(shards) > 1:
                _write_text(partial / INDEX, _index(shards, total))
    else:
        for shard in shards.values():
            for _ in arrays(shard):
                pass
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("export")


def _export_bytes(entry: Entry, dtype: str) -> int:
    return ArraySpec(entry.split, entry.axes).size * DTYPES[EXPORT_DTYPES[dtype]].itemsize


def _shards(needed: Iterable[Entry], dtype: str, shard_bytes: int) -> dict[str, list[Entry]]:
    """The files to write, by name, each of at most `shard_bytes` (or of one tensor)."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in needed:
        bytes_ = Tensor(entry.name, Path(), dtype, entry.shape, 0).bytes + HEADER_BYTES
        if shards[-1] and size + bytes_ > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += bytes_
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, 1)
    }


def _index(shards: dict[str, list[Entry]], total: int) -> str:
    files = {entry.name: file for file, shard in shards.items() for entry in shard}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": files}, indent=2) + "\n"


def _gather(entry: Entry, params: Params, dtype: str) -> np.ndarray:
    """One tensor on the host, in HF's order of axes. Process 0 gets it, the others take part."""
    param = params
    for key in entry.path.split("/"):
        param = param[key]
    assert isinstance(param, jax.Array), entry.path
    assert isinstance(param.sharding, NamedSharding), (entry.path, param.sharding)
    # One process can read every shard; several need the whole tensor on a device of process 0.
    axes = partition(entry.axes) if jax.process_count() == 1 else PartitionSpec()
    layout = NamedSharding(param.sharding.mesh, axes)
    value, finite = _take(param, entry.layer, entry.order, jnp.dtype(dtype), layout)
    assert value.shape == entry.split, (entry.path, param.shape)
    if not finite:
        raise UserError(f"parameter {entry.path} holds NaN or Inf as {dtype}: it is not exported")
    if value.is_fully_replicated:
        return np.asarray(value.addressable_data(0))
    whole = np.empty(value.shape, value.dtype)
    for shard in value.addressable_shards:
        if shard.replica_id == 0:
            whole[shard.index] = np.asarray(shard.data)
            shard.data.delete()  # and with it the copy that it keeps on the host
    return whole


def _write_assets(
    partial: Path, raw: dict[str, Any], assets: Path, dtype: str, card: str | None
) -> None:
    spellings = [key for key in ("torch_dtype", "dtype") if key in raw] or ["dtype"]
    config = raw | dict.fromkeys(spellings, dtype)
    _write_text(partial / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for path in asset_files(Path(assets).resolve()):
        copy = partial / path.name
        shutil.copyfile(path, copy)
        _sync(copy)
    if card is not None:
        _write_text(partial / "README.md", card)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Waits until a file or directory is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _replacing(directory: Path, needed_bytes: int) -> Iterator[Path]:
    """A new directory beside this one, which takes its name at the end, or is gone."""
    refuse_foreign(directory)
    partial = directory.with_name(f".{directory.name}.s1jax-partial")
    former = directory.with_name(f".{directory.name}.s1jax-former")
    try:
        if partial.exists():  # left by an export that was killed
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield partial
        _sync(partial)
        if directory.exists():
            if former.exists():
                shutil.rmtree(former)
            directory.rename(former)
        partial.rename(directory)
        _sync(directory.parent)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{directory} could not be written: {error.strerror or error}"
            f" (the weights alone need {needed_bytes} bytes); nothing was left there"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_foreign(directory: Path) -> None:
    """Refuses to replace anything but an empty directory or an earlier export."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UserError(f"{directory} is a file; the export needs a directory (it may be new)")
    names = sorted(path.name for path in directory.iterdir())
    weights = [name for name in names if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)]
    foreign = set(names) - {"config.json", "README.md", INDEX, *ASSETS, *weights}
    if foreign:
        raise UserError(
            f"{directory} holds {show(min(foreign))}, which no export writes: choose another"
            " directory, or empty this one"
        )
    if names and not (weights and _is_ours(directory / weights[0])):
        raise UserError(
            f"{directory} holds a model that s1jax did not write: choose another directory"
        )


def _is_ours(file: Path) -> bool:
    try:
        return read_metadata(file).get("writer") == METADATA["writer"]
    except UserError:
        return False
