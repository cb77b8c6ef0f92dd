"""What the verbs of data share: the clean pool, and a teacher by what the config calls it."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s1jax.config import Config
from s1jax.curation_config import Pool, Teacher
from s1jax.data.decontaminate import decontaminate
from s1jax.data.duplicates import remove_duplicates
from s1jax.data.funnel import Drop, SetAside
from s1jax.data.pool import read_questions, read_sources
from s1jax.data.sources import SOURCES
from s1jax.data.teachers import Asked, Gemini, OpenAI, Replay
from s1jax.mini import MINI
from s1jax.mini import pool as mini_pool
from s1jax.types import Question, UserError

TRACES = "traces.db"


@dataclass(frozen=True)
class CleanPool:
    """The questions that may be asked, and what became of the others."""

    sources: dict[str, int]  # rows by source, bad ones included, in their order
    source_of: dict[str, str]  # by a question's id
    questions: list[Question]
    drops: list[Drop]
    set_aside: list[SetAside]
    evaluation_sets: dict[str, int]  # questions by name

    @property
    def rows(self) -> int:
        """How many there were."""
        return sum(self.sources.values())


def clean_pool(cfg: Pool, seed: int) -> CleanPool:
    """The pool without what no training set may hold: bad rows, evaluation sets, duplicates.

    Reference: s1's `data/collect_data.py`; the order of the sources decides, as there.
    Raises UserError if a source or an evaluation set cannot be read, or nothing is left.
    """
    if not cfg.sources:
        raise UserError('pool.sources is empty: name files, sources of s1, or "mini"')
    sources = read_sources(cfg, seed, {MINI: mini_pool.pool})
    names = _short([source.name for source in sources])
    titles = _short(cfg.evaluation_sets)
    held_out = (_held_out(path) for path in cfg.evaluation_sets)
    evaluation = dict(zip(titles, held_out, strict=True))
    named = zip(names, (source.questions for source in sources), strict=True)
    kept, dropped = decontaminate(list(named), evaluation, cfg)
    questions = [question for _, some in kept for question in some]
    unique, repeated = remove_duplicates(questions, cfg)
    if not unique:
        raise UserError("pool.sources: no question is left of them")
    return CleanPool(
        {n: len(s.questions) + len(s.set_aside) for n, s in zip(names, sources, strict=True)},
        {question.id: name for name, some in kept for question in some},
        unique,
        [*dropped, *repeated],
        [row for s in sources for row in s.set_aside],
        {name: len(texts) for name, texts in evaluation.items()},
    )


def _short(names: Sequence[str]) -> list[str]:
    """Files by their names alone, where those differ."""
    stems = [Path(n).stem if Path(n).suffix in (".jsonl", ".parquet") else n for n in names]
    return stems if len(set(stems)) == len(stems) else list(names)


def _held_out(path: str) -> Sequence[str]:
    return mini_pool.held_out() if path == MINI else read_questions(path)


def licences(sources: Iterable[str]) -> dict[str, str]:
    """The licences of those sources that we know."""
    known = {name: source.licence for name, source in SOURCES.items()}
    known[MINI] = "made up by a program of this package, Apache-2.0"
    return {name: known[name] for name in sources if name in known}


def open_teacher(cfg: Config, teacher: Teacher, *, thinking: bool, field: str) -> Asked:
    """The teacher that a section of the config describes.

    `thinking` is whether a model of our own thinks before it answers. Raises UserError, with the
    section's name, if it is none, has no key, or cannot be read.
    """

    def local() -> Asked:
        from s1jax.local import Local  # which needs jax

        return Local(cfg, teacher, thinking=thinking)

    kinds: dict[str, Callable[[], Asked]] = {
        "gemini": lambda: Gemini(teacher),
        "openai": lambda: OpenAI(teacher),
        "replay": lambda: Replay(teacher),
        "mini": lambda: mini_pool.Program(teacher, cfg.seed),
        "local": local,
    }
    if not teacher.via:
        raise UserError(f"{field}.via is empty: set it to one of {', '.join(kinds)}")
    asked = kinds[teacher.via]()
    if field != "distill":  # one model may be teacher, judge and more, each with its own settings
        asked.name = f"{field.rpartition('.')[2]} {asked.name}"
    return asked


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Writes a manifest, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def pool_manifest(pool: CleanPool) -> dict[str, Any]:
    """What a manifest says of the pool; bad rows are named, the first hundred of them."""
    return {
        "sources": pool.sources,
        "evaluation_sets": pool.evaluation_sets,
        "set_aside": [asdict(row) for row in pool.set_aside[:100]],
        "set_aside_rows": len(pool.set_aside),
    }
