"""A model wherever it lies: a Hugging Face directory, a hub id, a checkpoint, a run's workdir.

What it is, is recognised by what is in it. `open_source()` reads configs and headers alone, so
that everything can be checked before `load()` reads the weights.
"""

import hashlib
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike

from s1jax.checkpoint import Checkpoints, assets, is_checkpoint
from s1jax.mesh import sharding
from s1jax.models.config import ModelConfig, from_hf
from s1jax.models.decoder import Params
from s1jax.models.hf import HFCheckpoint, open_checkpoint, read_object
from s1jax.models.names import flat_specs
from s1jax.models.safetensors import opened
from s1jax.models.weights import Progress, load_params, unflatten
from s1jax.progress import SECONDS_BETWEEN_LINES, format_bytes, format_seconds

# Of each tensor, that tell a model from the same one trained further: so many samples of so many
# bytes, evenly apart. What has no more than that is read whole.
_SAMPLES, _SAMPLE_BYTES = 64, 4096


@dataclass(frozen=True)
class Source:
    """A model whose weights have not been read yet."""

    directory: Path  # with config.json and the tokenizer
    raw: dict[str, Any]  # config.json
    cfg: ModelConfig
    stored: HFCheckpoint | Path  # a path is a directory of checkpoints
    step: int | None = None  # of the checkpoints


def checkpoint_in(path: Path) -> tuple[Path, int | None] | None:
    """The checkpoint directory at a path, or in it if it is a workdir, and the step that it names.

    None if there is none, or the path is a Hugging Face directory.
    """
    if any(path.glob("*.safetensors")):
        return None
    for directory in (path, path / "checkpoints"):
        if is_checkpoint(directory):
            return directory, None
    if path.name.isdecimal() and is_checkpoint(path.parent):
        return path.parent, int(path.name)
    return None


def open_source(path: str, revision: str | None = None) -> Source:
    """The model at a path, of a checkpoint directory the newest step that is good.

    Raises UserError if there is none, or what is there is malformed.
    """
    local = Path(path).expanduser()
    found = checkpoint_in(local)
    if found is not None:
        return open_saved(*found)
    if not any(local.glob("*.safetensors")) and (local / "hf" / "config.json").is_file():
        path = str(local / "hf")  # the workdir of a run whose checkpoints are gone
    stored = open_checkpoint(path, revision)
    return Source(stored.directory, stored.raw, stored.cfg, stored)


def open_saved(directory: Path, step: int | None = None) -> Source:
    """The model of a checkpoint directory. UserError if it does not say what model it is of."""
    kept = assets(directory).resolve()
    raw = read_object(kept, "config.json")
    return Source(kept, raw, from_hf(raw, str(kept / "config.json")), directory, step)


def pinned(source: Source) -> Source:
    """The same source; of a checkpoint directory, the step that is the newest now and no other."""
    if not isinstance(source.stored, Path):
        return source
    saved = Checkpoints(source.stored).latest(step=source.step, warn=warn)
    assert saved is not None, "is_checkpoint() said so"
    return replace(source, step=saved.step)


def digest(source: Source) -> str:
    """Sha256 of what tells these weights from others; of a file it sees samples of each tensor."""
    if isinstance(source.stored, Path):
        saved = Checkpoints(source.stored).latest(step=source.step, warn=warn)
        assert saved is not None, "is_checkpoint() said so"
        what: Any = {name: x for name, x in saved.digests.items() if name.startswith("params/")}
    else:
        what = []
        for name, tensor in sorted(source.stored.tensors.items()):
            with opened(tensor.file) as file, open(file, "rb", closefd=False) as data:
                sample = hashlib.sha256()
                for start, length in _samples(tensor.bytes):
                    data.seek(tensor.offset + start)
                    sample.update(data.read(length))
            what.append([name, tensor.dtype, tensor.shape, sample.hexdigest()])
    return hashlib.sha256(json.dumps([source.raw, what]).encode()).hexdigest()


def _samples(size_bytes: int) -> list[tuple[int, int]]:
    """Where samples of a tensor begin, its first and last bytes among them, and their lengths."""
    if size_bytes <= _SAMPLES * _SAMPLE_BYTES:
        return [(0, size_bytes)]
    last = size_bytes - _SAMPLE_BYTES
    return [(n * last // (_SAMPLES - 1), _SAMPLE_BYTES) for n in range(_SAMPLES)]


def load(
    source: Source, mesh: jax.sharding.Mesh, dtype: DTypeLike, progress: Progress | None = None
) -> Params:
    """The parameters in `dtype`, laid over the mesh as the current rules say.

    Raises UserError if they are damaged, or of another model than config.json says.
    """
    if isinstance(source.stored, HFCheckpoint):
        return load_params(source.stored, mesh, dtype, progress)
    params, _ = restore(source, mesh)
    return jax.tree.map(lambda x: _cast(x, jnp.dtype(dtype)), params)


def _cast(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    if x.dtype == dtype:
        return x
    other = x.astype(dtype)
    other.block_until_ready()
    x.delete()  # or both would be there until the last is cast
    return other


def restore(source: Source, mesh: jax.sharding.Mesh) -> tuple[Params, int]:
    """The parameters of a checkpoint in the dtypes it has, and its step. UserError as `load()`."""
    assert isinstance(source.stored, Path)
    checkpoints = Checkpoints(source.stored)
    saved = checkpoints.latest(step=source.step, warn=warn)
    assert saved is not None, "is_checkpoint() said so"
    abstract = {}
    for path, spec in flat_specs(source.cfg).items():
        stored = saved.leaves.get(f"params/{path}")  # if it is not there, restore() says so
        dtype = jnp.float32 if stored is None else stored.dtype
        layout = sharding(path, spec, mesh)
        abstract[path] = jax.ShapeDtypeStruct(spec.shape, dtype, sharding=layout)
    restored = checkpoints.restore({"params": unflatten(abstract)}, step=source.step, warn=warn)
    assert restored is not None, "latest() found one"
    return restored.state["params"], restored.step


def warn(text: str) -> None:
    """Prints a warning to stderr."""
    print(f"warning: {text}", file=sys.stderr)


class BytesProgress:
    """A line on stderr with rate and time left, for what takes longer than a moment."""

    def __init__(self, verb: str):
        self.verb = verb
        self.start = self.shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Shows the line if the last one is old, or all is done after one was shown."""
        now = time.monotonic()
        last = done == total and self.shown > self.start
        if not last and now - self.shown < SECONDS_BETWEEN_LINES:
            return
        self.shown = now
        rate = done / (now - self.start)
        print(
            f"{self.verb} {format_bytes(done)} of {format_bytes(total)},"
            f" {format_bytes(rate)}/s, {format_seconds((total - done) / rate)} left",
            file=sys.stderr,
        )
