"""Checkpoints that are whole or named as damaged: save, latest good, restore on any mesh.

Orbax writes and reads the arrays and makes a step appear at once or not at all. It restores
flipped bits without a word, so the digests of the values (see `s1jax.digest`) travel in the same
step, inside a JSON item that carries a digest of its own, and are compared after every restore.

    directory/100/state/   the arrays, as nested dicts named like the pytree
    directory/100/meta/    what the run was (config, digests of its data), and every leaf's digest
    directory/model/       config.json, tokenizer, chat template: what an export needs besides
    directory/damaged-50/  a step that failed its digests, set aside when the run went on
"""

import contextlib
import fnmatch
import gc
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from s1jax.digest import digests
from s1jax.mesh import path_name
from s1jax.noise import silence_failed_saves
from s1jax.progress import format_bytes
from s1jax.types import UserError

_T = TypeVar("_T")

silence_failed_saves()

ASSETS = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
)

MAY_CHANGE = {  # fields of a checkpoint's meta that another run may have otherwise, and why
    "config.mesh.*": "where the arithmetic happens, not what is computed",
    "config.checkpoint.*": "how often the state is saved",
    "config.export.*": "written after the last step",
    "config.decode.*": "read after training",
    "config.pool.*": "read before training: what came of it is in `data_digest`",
    "config.distill.*": "as config.pool",
    "config.curate.*": "as config.pool",
    "config.evaluate.*": "read after training",
    "config.serve.*": "as config.evaluate",
    "config.plan.*": "of machines, read by nobody who trains",
    "config.train.tensorboard": "what is shown",
    "config.train.max_bad_steps": "when a run gives up",
    "config.train.profile_*": "what is looked at",
    "config.train.remat": "what the backward pass recomputes, to the same values",
    "config.train.loss_chunk_tokens": "how much of the logits exists at a time",
    "config.model.attention": "which kernel computes the same attention",
    "config.model.path": "the weights come from the checkpoint, the sizes are in `model`",
    "config.model.revision": "as model.path",
    "config.data.path": "a file may move; its examples are in `data_digest`",
    "config.data.revision": "as data.path",
    "config.data.max_truncated_share": "whether a run starts at all",
    "model._name_or_path": "where the file came from",
    "model.transformers_version": "who wrote the file",
    "model.use_cache": "not read here",
    "model.dtype": "not read here; the config has param_dtype",
    "model.torch_dtype": "as model.dtype",
}


@dataclass(frozen=True)
class Saved:
    """What a step holds, without its arrays."""

    step: int
    leaves: dict[str, jax.ShapeDtypeStruct]  # by path name, `params/layers/attn/q/kernel`
    digests: dict[str, list[int]]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Restored:
    """A step that passed its digests."""

    step: int
    state: dict[str, Any]
    meta: dict[str, Any]


class _Damage(Exception):
    """A step cannot be trusted; the text says which part of it and why."""


class Checkpoints:
    """The steps of one directory, the newest `keep` of them kept.

    Reading writes nothing, so that a running job's directory may be read; what a killed save left
    behind is cleaned up by the first save.
    """

    def __init__(self, directory: Path, keep: int = 2):
        self.directory = Path(directory).absolute()
        self.keep = keep
        self._writer: ocp.CheckpointManager | None = None
        self._writing: tuple[int, int] = (0, 0)  # step and bytes of the last save
        self._damaged: set[int] = set()

    def steps(self) -> list[int]:
        """The steps that were saved whole, damaged since or not, in ascending order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdecimal())

    def save(self, step: int, state: dict[str, Any], meta: dict[str, Any]) -> None:
        """Starts writing a step and returns once the arrays may be overwritten.

        A step that is there already is left as it is. Raises UserError, with the bytes needed,
        if this save or the one before it failed; the steps written before are untouched.
        """
        self.wait()
        self._set_damaged_aside()
        if step in self.steps():
            return
        leaves = _named_leaves(state)
        self._writing = step, sum(x.nbytes for x in leaves.values())
        args = ocp.args.Composite(
            # Orbax refuses arrays without elements; their shape in the record is all of them.
            state=ocp.args.PyTreeSave(_nested({k: x for k, x in leaves.items() if x.size})),
            meta=ocp.args.JsonSave(_record(leaves, meta)),
        )
        with self._failures_named():
            if self._writer is None:
                options = ocp.CheckpointManagerOptions(
                    max_to_keep=self.keep, cleanup_tmp_directories=True
                )
                self._writer = ocp.CheckpointManager(self.directory, options=options)
            self._writer.save(step, args=args, force=True)

    def check(self) -> None:
        """Raises the UserError of a save that failed in the meantime; never waits."""
        if self._writer is not None and not self._writer.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when the last save is on the disk. UserError if it failed."""
        if self._writer is not None:
            with self._failures_named():
                self._writer.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and ends the writing. UserError if it failed."""
        self.wait()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def latest(self, *, step: int | None = None, warn: Callable[[str], None]) -> Saved | None:
        """What the newest readable step (or that step) holds, without reading its arrays.

        None if there are no steps. Raises UserError if none is readable.
        """
        return self._newest_good(self._candidates(step), self._read_record, warn)

    def restore(
        self,
        abstract: dict[str, Any],
        *,
        step: int | None = None,
        warn: Callable[[str], None],
    ) -> Restored | None:
        """The newest good step (or that step) laid out as the abstract arrays say.

        `abstract` holds a jax.ShapeDtypeStruct with a sharding for each array, on any mesh. Of
        the top-level keys it may have fewer than the checkpoint, `{"params": ...}` for one.
        A damaged step is named to `warn` and passed over. None if there are no steps; UserError
        if none of them is good, or if the newest is of another model.
        """
        return self._newest_good(
            self._candidates(step), lambda s: self._restore_step(s, abstract), warn
        )

    def _candidates(self, step: int | None) -> list[int]:
        steps = self.steps()
        if step is not None and step not in steps:
            raise UserError(
                f"{self.directory} has no checkpoint of step {step}; it has"
                f" {', '.join(map(str, steps)) or 'none'}"
            )
        return steps if step is None else [step]

    def _newest_good(
        self, steps: list[int], read: Callable[[int], _T], warn: Callable[[str], None]
    ) -> _T | None:
        for step in reversed(steps):
            try:
                return read(step)
            except _Damage as damage:
                self._damaged.add(step)
                warn(f"checkpoint {self.directory / str(step)} is passed over: {damage}")
        if not steps:
            return None
        raise UserError(
            f"{self.directory}: no checkpoint is good, of step {', '.join(map(str, steps))};"
            " move the directory away to start from the beginning"
        )

    def _restore_step(self, step: int, abstract: dict[str, Any]) -> Restored:
        saved = self._read_record(step)
        wanted = _named_leaves(abstract)
        _check_structure(wanted, saved, self.directory)
        with _damage_named("its arrays cannot be read"):
            arrays = _read_arrays(self.directory / str(step) / "state", wanted)
        found = digests(arrays)
        wrong = [name for name in wanted if found[name] != saved.digests[name]]
        if wrong:
            others = f" and {len(wrong) - 1} more arrays" if len(wrong) > 1 else ""
            raise _Damage(f"the values of {wrong[0]}{others} are not those that were saved")
        treedef = jax.tree.structure(abstract)
        return Restored(step, jax.tree.unflatten(treedef, [arrays[n] for n in wanted]), saved.meta)

    def _read_record(self, step: int) -> Saved:
        with _damage_named("its meta/metadata cannot be read"):
            record = ocp.JsonCheckpointHandler().restore(self.directory / str(step) / "meta")
            if record.pop("sha256") != _sha256(record):
                raise _Damage("its meta/metadata is not what was saved")
            leaves = {
                name: jax.ShapeDtypeStruct(leaf["shape"], jnp.dtype(leaf["dtype"]))
                for name, leaf in record["leaves"].items()
            }
            sums = {name: leaf["digest"] for name, leaf in record["leaves"].items()}
            return Saved(step, leaves, sums, record["meta"])

    def _set_damaged_aside(self) -> None:
        """Renames the steps that were passed over, which the run that goes on will save anew."""
        if not self._damaged:
            return
        self.close()
        if jax.process_index() == 0:
            for step in self._damaged:
                aside = self.directory / f"damaged-{step}"
                shutil.rmtree(aside, ignore_errors=True)
                (self.directory / str(step)).rename(aside)
        multihost_utils.sync_global_devices("s1jax: damaged checkpoints set aside")
        self._damaged.clear()

    @contextlib.contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
            return
        except (OSError, ValueError) as error:  # tensorstore's errors are ValueErrors
            reason = _reason(error)
        raise self._failure(reason)

    def _failure(self, reason: str) -> UserError:
        """Ends the writing that failed, removes what it left, and says what happened."""
        writer, self._writer = self._writer, None  # the next save begins with a new one
        if writer is not None:
            with contextlib.suppress(OSError, ValueError):
                writer.close()
        del writer
        gc.collect()  # Orbax's unfinished coroutines complain if they are left to the exit
        step, needed = self._writing
        for _ in range(20):  # writers that had begun when another failed may still be at it
            for leftover in self.directory.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
            time.sleep(0.1)
            if not any(self.directory.glob(f"{step}.orbax-checkpoint-tmp*")):
                break  # else the next save's CheckpointManager removes it
        whole = [str(s) for s in self.steps() if s != step]
        return UserError(
            f"the checkpoint of step {step} could not be written to {self.directory} ({reason});"
            f" it needs {format_bytes(needed)}, {_free_bytes(self.directory)} are free there;"
            f" whole are the checkpoints of step {', '.join(whole) or '(none)'}"
        )


def _named_leaves(tree: dict[str, Any]) -> dict[str, Any]:
    """The leaves of a pytree by their path names, in the order of the tree."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {path_name(path): leaf for path, leaf in flat}
    assert len(named) == len(flat), "two leaves have the same path name"
    return named


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from path names: a checkpoint that is read without optax or flax."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def _record(leaves: Mapping[str, jax.Array], meta: dict[str, Any]) -> dict[str, Any]:
    sums = digests(leaves)
    described = {
        name: {"shape": list(x.shape), "dtype": x.dtype.name, "digest": sums[name]}
        for name, x in leaves.items()
    }
    record = json.loads(json.dumps({"meta": meta, "leaves": described}))
    return record | {"sha256": _sha256(record)}


def _sha256(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read_arrays(path: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    stored = _nested({name: leaf for name, leaf in wanted.items() if leaf.size})
    args = ocp.args.PyTreeRestore(
        item=stored,
        restore_args=ocp.checkpoint_utils.construct_restore_args(stored),
        partial_restore=True,
    )
    arrays = _named_leaves(ocp.PyTreeCheckpointHandler().restore(path, args=args))
    for name, leaf in wanted.items():
        if not leaf.size:
            arrays[name] = jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
        found = arrays[name]
        if not isinstance(found, jax.Array):  # what Orbax makes of some damaged _METADATA
            raise _Damage(f"{name} is not there")
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            raise _Damage(f"{name} is {_text(found)} there")
    return arrays


def _check_structure(wanted: Mapping[str, Any], saved: Saved, directory: Path) -> None:
    """UserError with the first differences if the checkpoint is of another model."""
    parts = {name.split("/")[0] for name in wanted}
    there = {name: x for name, x in saved.leaves.items() if name.split("/")[0] in parts}
    problems = []
    for name in [*wanted, *(n for n in there if n not in wanted)]:
        stored = _text(there[name]) if name in there else "not there"
        needed = _text(wanted[name]) if name in wanted else "not there"
        if stored != needed:
            problems.append(f"{name} is {stored} in the checkpoint, {needed} in the model")
    if problems and all(_is_moment(name, wanted, there) for name in {**wanted, **there}):
        raise UserError(
            f"{directory / str(saved.step)} has Adam's moments in other dtypes ({problems[0]}): set"
            " optimizer.first_moment_dtype and optimizer.second_moment_dtype as they were"
        )
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{directory / str(saved.step)} is a checkpoint of another model:"
            f" {'; '.join(problems[:3])}{more}"
        )


def _is_moment(name: str, wanted: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Whether an array is the same in both, but for the dtype of a moment of Adam's."""
    if name not in wanted or name not in there or wanted[name].shape != there[name].shape:
        return False
    return wanted[name].dtype == there[name].dtype or name.startswith("opt_state/")


def _text(x: Any) -> str:
    return f"{jnp.dtype(x.dtype).name}[{', '.join(map(str, x.shape))}]"


@contextlib.contextmanager
def _damage_named(what: str) -> Iterator[None]:
    """Turns whatever a file made Orbax, tensorstore or json raise into `_Damage`, everywhere.

    Each process of a job reads its own part of the arrays: what one cannot read, none must use.
    What is no fault of the file, a full memory here or on a device, is raised as it is.
    """
    damage = None
    try:
        yield
    except (UserError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except _Damage as error:
        damage = error
    except Exception as error:
        damage = _Damage(f"{what} ({_reason(error)})")
    if multihost_utils.process_allgather(np.array(damage is not None)).any():
        raise damage or _Damage(f"{what} by another process")


def _reason(error: Exception) -> str:
    """What the operating system said, if it was that, in its own words; else the first line."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = line.partition(" See full TensorStore details")[0]
    return line if len(line) <= 200 else line[:200] + "..."


def _free_bytes(directory: Path) -> str:
    existing = next(p for p in (directory, *directory.parents) if p.exists())
    return format_bytes(shutil.disk_usage(existing).free)


def save_assets(directory: Path, source: Path) -> None:
    """Copies what an export needs besides the weights into `directory/model`, all or nothing."""
    if jax.process_index() != 0:
        return
    target, new, old = (Path(directory) / name for name in ("model", ".model.new", ".model.old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    for file in sorted(Path(source).iterdir()):
        if any(fnmatch.fnmatch(file.name, pattern) for pattern in ASSETS) and file.is_file():
            shutil.copyfile(file, new / file.name)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def assets(directory: Path) -> Path:
    """The directory with the config.json and the tokenizer of a checkpoint directory.

    Raises UserError if it is not there.
    """
    path = Path(directory) / "model"
    if not (path / "config.json").is_file():
        raise UserError(f"{path} has no config.json, which says what model the checkpoint is of")
    return path


def is_checkpoint(path: Path) -> bool:
    """Whether the directory holds checkpoints, damaged ones included."""
    return bool(Checkpoints(path).steps())


def differences(saved_meta: dict[str, Any], current_meta: dict[str, Any]) -> list[str]:
    """What makes this run another one than the checkpoint's, field by field; see `MAY_CHANGE`."""
    saved, current = _flat(saved_meta), _flat(current_meta)
    lines = []
    for key in dict.fromkeys([*saved, *current]):
        before, now = saved.get(key, "absent"), current.get(key, "absent")
        if before != now and not any(fnmatch.fnmatch(key, pattern) for pattern in MAY_CHANGE):
            name = key.removeprefix("config.")
            if key.startswith("model."):
                name = "config.json: " + key.removeprefix("model.")
            lines.append(f"{name}: {before} in the checkpoint, {now} now")
    return lines


def check_same(saved_meta: dict[str, Any], current_meta: dict[str, Any], allow: bool) -> None:
    """Raises UserError with the differences of two runs, unless they are allowed or none."""
    lines = differences(saved_meta, current_meta)
    if lines and not allow:
        raise UserError(
            "\n  ".join(["the checkpoint is of another run:", *lines])
            + "\nundo these changes, take another --workdir, or go on anyway with"
            " --config.checkpoint.allow_changes=True"
        )


def _flat(meta: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of the fields, their values as JSON keeps them (a tuple is a list)."""
    flat: dict[str, Any] = {}
    for key, value in meta.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return flat
