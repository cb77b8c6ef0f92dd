"""The embedded default: a little world of its own, in which thinking longer really helps.

Families of questions with programs that verify answers (tasks.py), a pool of them with all that
curation has to catch and a program that is the teacher (pool.py), and a base model that knows
single steps and not how to think (base/, made by launch/mini_base.sh).
"""

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from s1jax.config import Config
from s1jax.mini.pool import distinct, held_out
from s1jax.mini.tasks import ANSWER, think
from s1jax.mini.thinking import STOPS
from s1jax.types import Example, UserError

MINI = "mini"  # as a path: what this world has in its place
BASE = Path(__file__).parent / "base"  # the base model, a Hugging Face directory
EXAMPLES = 1000
_SHA256 = "f72f151fcb37e41647b8c98772016372774babe76fef995461654378e7a63841"


@dataclass(frozen=True)
class MiniPaths:
    """What `model.path` and `data.path` "mini" stand for."""

    model: Path
    data: Path


def cache_directory() -> Path:
    """Where the examples are kept for commands that have no workdir of their own."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "s1jax" / "mini"


def base() -> Path:
    """The base model. UserError if its weights are not those that belong to this package."""
    weights = BASE / "model.safetensors"
    try:
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{weights}: cannot be read ({error.strerror}): install s1jax") from error
    if found != _SHA256:
        raise UserError(f"{weights}: is damaged (sha256 {found[:16]}...): install s1jax again")
    return BASE


def build(directory: Path) -> MiniPaths:
    """The base model, and examples that are written to `directory` if they are not there.

    Raises UserError if that cannot be done.
    """
    data = directory.absolute() / "examples.jsonl"
    text = "".join(json.dumps(asdict(example)) + "\n" for example in make_examples(0)).encode()
    try:
        if not data.is_file() or data.read_bytes() != text:
            data.parent.mkdir(parents=True, exist_ok=True)
            made = data.with_name(f".{data.name}-{platform.node()}-{os.getpid()}")
            try:
                made.write_bytes(text)
                made.replace(data)  # whole or not at all, also for others who do the same
            finally:
                made.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{data}: cannot be written: {error.strerror}") from error
    return MiniPaths(base(), data)


def resolve(cfg: Config, directory: Path) -> Config:
    """The config with real paths where it says "mini"; examples are written to `directory`."""
    if cfg.data.path == MINI:
        cfg = replace(cfg, data=replace(cfg.data, path=str(build(directory).data)))
    return resolve_model(cfg)


def resolve_model(cfg: Config) -> Config:
    """The config with a real path where model.path says "mini"; `data.path` is left as it is."""
    if cfg.model.path != MINI:
        return cfg
    return replace(cfg, model=replace(cfg.model, path=str(base())))


def make_examples(seed: int, count: int = EXAMPLES) -> list[Example]:
    """Examples of different questions, as the teacher answers them.

    None shares a run of eight words with a held-out one.
    """
    rng = np.random.default_rng([seed, 5])
    examples = []
    for number, question in enumerate(distinct(rng, count, held_out())):
        thinking, answer = think(question, rng, STOPS)
        examples.append(Example(f"mini-{number}", question, thinking, ANSWER + answer))
    return examples
