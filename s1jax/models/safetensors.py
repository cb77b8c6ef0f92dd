"""The safetensors file: a header that is trusted in nothing, data in bounded blocks.

A file is eight bytes of length, a JSON header of that length, and the tensors' bytes, which must
cover the rest exactly, without overlap or hole (github.com/huggingface/safetensors, "Format").
Everything a header claims is checked before a byte of data is read, and data is read with pread
into a buffer of known size: what a process holds is what it asked for.
"""

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from s1jax.types import UserError

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(jnp.bfloat16),
    "F16": np.dtype(np.float16),
}
BLOCK_BYTES = 64 << 20
MAX_HEADER_BYTES = 16 << 20  # a model of a thousand tensors needs 0.2 MiB


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: in which file, and from which of its bytes."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def bytes(self) -> int:
        """Size of the data."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def show(name: str) -> str:
    """A name out of a file, fit for a message of one line."""
    short = name if len(name) <= 120 else name[:120] + "..."
    return short if short.isprintable() else ascii(short)


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. UserError for anything else."""
    size = regular_size(path)
    if size > limit:
        raise UserError(f"{path}: {size} bytes are more than the {limit} that this file may have")
    with opened(path) as fd:
        return _read_at(fd, path, 0, size)


def regular_size(path: Path) -> int:
    """Size of a regular file. UserError if there is none: a pipe would block whoever reads it."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file")
    return status.st_size


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file descriptor for reading. UserError if the file cannot be opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def parse_object(data: bytes, where: str | Path) -> dict[str, Any]:
    """The JSON object in these bytes.

    Raises UserError for what is not UTF-8, not JSON, not an object, or has a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise UserError(f"{where}: {show(key)} is there twice")
            found[key] = value
        return found

    def no_constant(text: str) -> None:
        raise UserError(f"{where}: {text} is not JSON")

    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant
        )
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text: byte {error.start} is wrong") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {show(str(error))}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a JSON object, not {type(value).__name__}")
    return value


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name, in the order of their bytes.

    Raises UserError that names the file, and the tensor where it is one's fault: truncated,
    oversized or malformed header; unknown dtype; offsets that overlap, leave a hole, contradict
    the shape or do not end where the file does.
    """
    size = regular_size(path)
    if size < 8:
        raise UserError(f"{path} has {size} bytes; it is truncated, or no safetensors file")
    with opened(path) as fd:
        length = int.from_bytes(_read_at(fd, path, 0, 8), "little")
        if length > MAX_HEADER_BYTES:
            raise UserError(
                f"{path}: a header of {length} bytes is too large (at most {MAX_HEADER_BYTES});"
                " this is no safetensors file"
            )
        if length > size - 8:
            raise UserError(f"{path} is truncated: {size} bytes, and the header alone has {length}")
        raw = _read_at(fd, path, 8, length)
    if not raw.startswith(b"{"):
        raise UserError(f"{path}: the header is not a JSON object; this is no safetensors file")
    header = parse_object(raw, f"{path}: the header")
    _check_metadata(header.pop("__metadata__", {}), path)
    spans = sorted(
        (_check_entry(name, entry, path) for name, entry in header.items()),
        key=lambda tensor: (tensor.offset, tensor.bytes),
    )
    end = 0
    for tensor in spans:
        if tensor.offset != end:
            kind = "overlap the tensor before" if tensor.offset < end else "leave a hole before"
            raise UserError(
                f"{path}: the data_offsets of tensor {show(tensor.name)} {kind} it"
                f" (begins at {tensor.offset}, expected {end})"
            )
        end += tensor.bytes
    data_bytes = size - 8 - length
    if end > data_bytes:
        name = next(t.name for t in spans if t.offset + t.bytes > data_bytes)
        raise UserError(
            f"{path} is truncated: tensor {show(name)} ends beyond the {data_bytes} bytes of data"
        )
    if end < data_bytes:
        raise UserError(f"{path}: {data_bytes - end} bytes after the last tensor belong to none")
    return {
        tensor.name: Tensor(
            tensor.name, path, tensor.dtype, tensor.shape, 8 + length + tensor.offset
        )
        for tensor in spans
    }


def read_metadata(path: Path) -> dict[str, str]:
    """The free-form strings of a header that `read_header` has accepted."""
    with opened(path) as fd:
        length = int.from_bytes(_read_at(fd, path, 0, 8), "little")
        header = _read_at(fd, path, 8, min(length, MAX_HEADER_BYTES))
    return parse_object(header, f"{path}: the header").get("__metadata__", {})


def _check_metadata(metadata: Any, path: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UserError(f"{path}: __metadata__ must map strings to strings")


def _check_entry(name: str, entry: Any, path: Path) -> Tensor:
    """The tensor an entry of the header describes, its offset still counted from the data."""

    def refuse(problem: str) -> UserError:
        return UserError(f"{path}: tensor {show(name)} {problem}")

    def sizes(value: Any) -> bool:
        if not isinstance(value, list) or len(value) > 8:
            return False
        return all(type(n) is int and 0 <= n < 2**63 for n in value)

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("must have exactly dtype, shape and data_offsets in the header")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refuse(f"has dtype {show(str(dtype))}; weights must be {', '.join(DTYPES)}")
    if not sizes(shape):
        raise refuse(f"has shape {show(str(shape))}, which is not a list of sizes")
    if not sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse(f"has data_offsets {show(str(offsets))}, which are not a begin and an end")
    tensor = Tensor(name, path, dtype, tuple(shape), offsets[0])
    if offsets[1] - offsets[0] != tensor.bytes:
        raise refuse(
            f"has {offsets[1] - offsets[0]} bytes by its data_offsets,"
            f" and {tensor.bytes} by its shape {shape} of {dtype}"
        )
    return tensor


def read_blocks(
    tensor: Tensor,
    shape: tuple[int, ...],
    rows: range | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[tuple[int, np.ndarray]]:
    """The tensor's data as an array of this shape: index of the first row, and some rows of it.

    A block is at most `block_bytes` large (or one row), and valid until the next one is taken.
    Raises UserError if the file ends early or cannot be read.
    """
    dtype = DTYPES[tensor.dtype]
    rows = range(shape[0]) if rows is None else rows
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    step = max(1, min(len(rows), block_bytes // row_bytes))
    buffer = np.empty((step, *shape[1:]), dtype)
    raw = buffer.reshape(-1).view(np.uint8).data
    with opened(tensor.file) as fd:
        for start in range(rows.start, rows.stop, step):
            count = min(step, rows.stop - start)
            into = raw[: count * row_bytes]
            _read_into(fd, tensor.file, tensor.offset + start * row_bytes, into)
            yield start, buffer[:count]


def _read_at(fd: int, path: Path, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    _read_into(fd, path, offset, memoryview(buffer))
    return bytes(buffer)


def _read_into(fd: int, path: Path, offset: int, into: memoryview) -> None:
    done = 0
    while done < len(into):
        try:
            count = os.preadv(fd, [into[done:]], offset + done)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        if not count:
            raise UserError(f"{path} ended at byte {offset + done} while it was being read")
        done += count


def write_file(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    arrays: Iterable[np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes a new file of these tensors (dtype and shape by name), and waits for the disk.

    The header is known ahead, so the arrays may be made one at a time, in the same order.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        source = iter(arrays)
        for dtype, shape in tensors.values():
            array = next(source)
            assert array.dtype == DTYPES[dtype], (array.dtype, dtype)
            assert array.size == math.prod(shape), (array.shape, shape)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            del array  # before the next one is made: they may be as large as memory allows
        assert next(source, None) is None, "more arrays than tensors"
        file.flush()
        os.fsync(file.fileno())
