"""What the verbs of data share: the clean pool, and a teacher by what the config calls it."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s1jax.config import Config
from s1jax.curation_config import Pool, Teacher
from s1jax.data.asked import ROLES
from s1jax.data.decontaminate import decontaminate
from s1jax.data.duplicates import remove_duplicates
from s1jax.data.funnel import Drop, Pick, SetAside
from s1jax.data.pool import read_questions, read_sources
from s1jax.data.rows import digest_of, replaced
from s1jax.data.sources import SOURCES
from s1jax.data.teachers import Asked, Gemini, OpenAI, Replay
from s1jax.mini import MINI
from s1jax.mini import pool as mini_pool
from s1jax.types import Question, UserError

TRACES = "traces.db"
DECISIONS = "decisions.jsonl"  # of curate, about every question of the pool
DROPPED = "dropped.jsonl"  # of distill, about those that it does not ask


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
    set_aside = [row for s in sources for row in s.set_aside]
    if not unique:
        raise UserError(_nothing_left(set_aside, [*dropped, *repeated]))
    source_of: dict[str, str] = {}
    for name, some in kept:  # of a question that several have, the first keeps it
        for question in some:
            source_of.setdefault(question.id, name)
    return CleanPool(
        {n: len(s.questions) + len(s.set_aside) for n, s in zip(names, sources, strict=True)},
        source_of,
        unique,
        [*dropped, *repeated],
        set_aside,
        {name: len(texts) for name, texts in evaluation.items()},
    )


def _nothing_left(set_aside: Sequence[SetAside], drops: Sequence[Drop]) -> str:
    """What became of all the rows."""
    counts = Counter([row.reason for row in set_aside] + [drop.reason for drop in drops])
    told = [f"{count} {reason}" for reason, count in counts.most_common(5)]
    first = [f"{row.place}: {row.detail}" for row in set_aside[:3]]
    return "\n  ".join([f"pool.sources: no question is left: {', '.join(told)}", *first])


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
    try:
        asked = kinds[teacher.via]()
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
    if field != "distill":  # one model may be teacher, judge and more, each with its own settings
        role = field.rpartition(".")[2]
        assert role in ROLES, "or its rows would pass for a teacher's"
        asked.name = f"{role} {asked.name}"
    return asked


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Writes a manifest, whole or not at all."""
    with replaced(path) as partial:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8")


def write_decisions(
    path: Path, picks: Sequence[Pick], drops: Sequence[Drop], set_aside: Sequence[SetAside]
) -> None:
    """Writes a line for each question, why it was kept or dropped, whole or not at all."""
    lines = [
        _decision(pick.candidate.question, True, "selection", pick.reason, pick.detail)
        for pick in picks
    ]
    lines += [_decision(d.question, False, d.stage, d.reason, d.detail) for d in drops]
    lines += [
        {"kept": False, "id": None, "place": row.place, "stage": "reading"}
        | {"reason": row.reason, "detail": row.detail}
        for row in set_aside
    ]
    with replaced(path) as partial:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        partial.write_text(text, encoding="utf-8")


def _decision(
    question: Question, kept: bool, stage: str, reason: str, detail: str
) -> dict[str, Any]:
    return {
        "kept": kept,
        "id": question.id,
        "source_type": question.source_type,
        "place": question.place,
        "stage": stage,
        "reason": reason,
        "detail": " ".join(detail.split()),
        "question": " ".join(question.question[:200].split()),
    }


def digests_of(paths: Iterable[str | None]) -> dict[str, str]:
    """The sha256 of those of them that are files, by the paths as they are given."""
    files = {path: Path(path).expanduser() for path in paths if path}
    return {path: digest_of(file) for path, file in files.items() if file.is_file()}


def pool_manifest(pool: CleanPool) -> dict[str, Any]:
    """What a manifest says of the pool; bad rows are named, the first hundred of them."""
    return {
        "sources": pool.sources,
        "evaluation_sets": pool.evaluation_sets,
        "set_aside": [asdict(row) for row in pool.set_aside[:100]],
        "set_aside_rows": len(pool.set_aside),
    }
