"""config.json of a workdir: which experiment it is of, so that no other one is mixed into it.

The config, the base's weights and the little world are compared; the commit is noted alone.
"""

import asyncio
import functools
import hashlib
import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s1jax.config import Config, to_json
from s1jax.curation_config import Teacher
from s1jax.data.asked import Passing, Prompt, Refused
from s1jax.data.rows import replaced
from s1jax.mini import MINI, base
from s1jax.mini.pool import Program, evaluation_rows, pool
from s1jax.mini.tasks import FAMILIES
from s1jax.mini.thinking import AGAIN, LOOKS_AGAIN, STOPS
from s1jax.types import UserError

IDENTITY = "config.json"
_BASE, _WORLD, _COMMITS = "base_sha256", "world_sha256", "commits"
_MAY_CHANGE = ("evaluate", "serve")  # what is asked and told; of the first see `ask_key`
_ASKED = 200  # questions of the pool that the teacher is tried on


def check_same(cfg: Config, workdir: Path, *, write: bool = True) -> None:
    """Notes what a workdir is of, or raises UserError if it is of something else.

    Questions and resamples may change, and what the evaluation asks: what is new is made. Without
    `write` it compares alone.
    """
    path = workdir / IDENTITY
    if not write and not path.is_file():
        return
    weights = None
    if cfg.model.path == MINI:
        weights = hashlib.sha256((base() / "model.safetensors").read_bytes()).hexdigest()
    now = json.loads(to_json(cfg)) | {_BASE: weights, _WORLD: world_sha256()}
    for section in _MAY_CHANGE:
        del now[section]
    before = _read(path) if path.is_file() else dict(now)
    _compare(before, now, path)
    commits = list(before.get(_COMMITS, []))
    if (commit := _commit()) and commit not in commits:
        commits.append(commit)
    if write and (not path.is_file() or commits != before.get(_COMMITS, [])):
        workdir.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial_path:
            text = json.dumps(before | {_COMMITS: commits}, indent=1)
            partial_path.write_text(text + "\n", encoding="utf-8")


def commits_of(workdir: Path) -> list[str]:
    """The commits of this package that were at work in it; none if nobody knows."""
    path = workdir / IDENTITY
    return list(_read(path).get(_COMMITS, [])) if path.is_file() else []


@functools.cache
def world_sha256() -> str:
    """A digest of the little world: pool, held-out questions with answers, and how it is taught."""
    held_out = {name: evaluation_rows(name) for name in FAMILIES}
    texts = [question.question for question in pool(0)]
    habits = [STOPS, AGAIN, LOOKS_AGAIN]
    replies = asyncio.run(_replies(texts[:_ASKED]))
    told = json.dumps([texts, held_out, habits, replies])
    return hashlib.sha256(told.encode()).hexdigest()


async def _replies(texts: list[str]) -> list[Any]:
    teacher = Program(Teacher(via=MINI))
    found: list[Any] = []
    for number, text in enumerate(texts):
        try:
            found.append(asdict(await teacher.ask(Prompt(f"{number:x}", text))))
        except (Refused, Passing) as error:
            found.append(str(error))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); use a new --workdir") from error
    return values


def _compare(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """UserError for the first value that is another one."""
    for section in {**now, **before}:
        was, value = before.get(section), now.get(section)
        if was == value or section == _COMMITS:
            continue
        workdir = path.parent
        if section in (_BASE, _WORLD):
            what = "base model" if section == _BASE else "little world (questions, teacher)"
            raise UserError(
                f"--workdir={workdir} is of another version of the {what}: use a new one"
            )
        names = [""]
        if isinstance(was, dict) and isinstance(value, dict):
            names = [f".{n}" for n in {**value, **was} if was.get(n, ...) != value.get(n, ...)]
        raise UserError(
            f"--workdir={workdir} has another {section}{names[0]}; use a new --workdir, or the"
            f" config with which that one was begun ({path})"
        )


def _commit() -> str | None:
    """The commit of this package, "-dirty" after it if it was changed; None if there is none."""
    here = Path(__file__).parent
    # In a directory that a repository of something else ignores there is no commit of ours.
    for command in (
        ["ls-files", "--error-unmatch", "plan.py"],
        ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    ):
        try:
            said = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True)
        except OSError:
            return None
        if said.returncode:
            return None
    return said.stdout.strip() or None
