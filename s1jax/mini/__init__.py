"""The embedded default: a little world of its own, so that everything runs with no download.

`build()` writes a small Qwen2 model at its random start, a tokenizer, and reasoning examples whose
answers a program has verified. It is the same, byte for byte, wherever it is built.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from s1jax.config import Config
from s1jax.mini.model import write_model
from s1jax.mini.tasks import ask, think, verify
from s1jax.mini.tokenizer import write_tokenizer
from s1jax.types import Example, UserError

MINI = "mini"  # as a path: the files of this world
VERSION = 1  # of the world: another one is built anew
EXAMPLES = 400
LONGEST = 330  # characters of thinking: an example fits a row of 256 tokens
_MANIFEST = "mini.json"


@dataclass(frozen=True)
class MiniPaths:
    """Where the little world lies: what `model.path` and `data.path` "mini" stand for."""

    model: Path
    data: Path


def cache_directory() -> Path:
    """Where the world is kept for commands that have no workdir of their own."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "s1jax" / "mini"


def build(directory: Path, seed: int = 0) -> MiniPaths:
    """The paths of the world in `directory`, which is made if it is not there whole.

    Raises UserError if the directory holds something else or cannot be written.
    """
    directory = directory.absolute()
    paths = MiniPaths(directory / "model", directory / "examples.jsonl")
    if _is_whole(directory, seed):
        return paths
    if directory.exists() and not _is_ours(directory):
        raise UserError(f"{directory}: is not empty; the embedded model needs a place of its own")
    try:
        made = directory.with_name(f".{directory.name}-{os.getpid()}")
        shutil.rmtree(made, ignore_errors=True)  # of a process that was killed
        made.mkdir(parents=True)
        try:
            _write(made, seed)
            _put(made, directory, seed)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written: {error.strerror}") from error
    return paths


def resolve(cfg: Config, directory: Path) -> Config:
    """The config with real paths where it says "mini"; the world is built if it is needed."""
    if MINI not in (cfg.model.path, cfg.data.path):
        return cfg
    paths = build(directory)
    model, data = cfg.model, cfg.data
    if model.path == MINI:
        model = replace(model, path=str(paths.model))
    if data.path == MINI:
        data = replace(data, path=str(paths.data))
    return replace(cfg, model=model, data=data)


def resolve_model(cfg: Config) -> Config:
    """The config with a real path where model.path says "mini"; `data.path` is left as it is."""
    if cfg.model.path != MINI:
        return cfg
    path = str(build(cache_directory()).model)
    return replace(cfg, model=replace(cfg.model, path=path))


def make_examples(seed: int, count: int = EXAMPLES) -> list[Example]:
    """Examples of different questions, every answer verified."""
    rng = np.random.default_rng(seed)
    examples: dict[str, Example] = {}
    while len(examples) < count:
        question = ask(rng)
        thinking, answer = think(question, rng)
        assert verify(question, answer), question
        if len(thinking) <= LONGEST and question not in examples:
            name = f"mini-{len(examples)}"
            examples[question] = Example(name, question, thinking, answer)
    return list(examples.values())


def _write(directory: Path, seed: int) -> None:
    model = directory / "model"
    model.mkdir()
    examples = make_examples(seed)
    lines = [json.dumps(asdict(example)) + "\n" for example in examples]
    (directory / "examples.jsonl").write_text("".join(lines))
    texts = [text for e in examples for text in (e.question, e.thinking, e.answer)]
    write_model(model, write_tokenizer(model, texts), seed)
    digests = {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }
    manifest = {"version": VERSION, "seed": seed, "sha256": digests}
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _put(made: Path, directory: Path, seed: int) -> None:
    """Renames what was made to its place, unless another process was faster."""
    old = made.with_name(f"{made.name}-old")
    try:
        if directory.exists():  # an older or a damaged world
            directory.rename(old)
        made.rename(directory)
    except OSError:
        if not _is_whole(directory, seed):
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _is_whole(directory: Path, seed: int) -> bool:
    """Whether the world is there, of this version and seed, every file as it was written."""
    try:
        manifest = json.loads((directory / _MANIFEST).read_text())
        return (manifest["version"], manifest["seed"]) == (VERSION, seed) and all(
            hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest
            for name, digest in manifest["sha256"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_ours(directory: Path) -> bool:
    return (directory / _MANIFEST).is_file() or (
        directory.is_dir() and not any(directory.iterdir())
    )
