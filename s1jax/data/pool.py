"""`read_sources()`: the questions of every source of the pool, and the rows that are none.

A bad row is never the end: it is set aside, by its place and with a reason, and counted. A source
that cannot be read at all is an error, and all such errors are told together.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s1jax.curation_config import Pool
from s1jax.data.examples import Row, Unreadable, first_line, jsonl_rows, kind, parquet_rows
from s1jax.data.funnel import SetAside
from s1jax.data.source_rows import Part, Reading, metadata_json
from s1jax.data.sources import SOURCES, HubSource
from s1jax.sections import nearest
from s1jax.types import Question, UserError

FILES = (".jsonl", ".parquet")
QUESTIONS = ("question", "problem", "prompt")
SOURCE_TYPES = ("source_type", "source")
# In evaluation sets also as GPQA, LiveCodeBench and sets of AIME call it.
EVALUATED = (*QUESTIONS, "Question", "Problem", "question_content")
_ANSWERS = ("solution", "answer")
TEXTS = ("solution", "answer", "cot_type", "domain")
# What no question may say: the control tokens of Qwen, Llama, Gemma and DeepSeek R1, and the tags
# of thinking. One letter between the bars is mathematics.
CONTROLS = re.compile(
    r"<\|[\w▁-]{2,}\|>|<｜[^<>｜]{1,60}｜>"
    r"|</?(?:think|tool_call|tool_response|start_of_turn|end_of_turn)>"
)


@dataclass(frozen=True)
class Source:
    """What one source of the pool gave."""

    name: str  # as in the config; "s1" by the names of its own
    questions: list[Question]
    set_aside: list[SetAside]


def read_sources(
    cfg: Pool, seed: int, embedded: Mapping[str, Callable[[], list[Question]]]
) -> list[Source]:
    """Each of `pool.sources` in their order; those of `embedded` are asked for their questions.

    Raises UserError if a name is unknown or twice there, before anything is read; and, after all
    are read, if there are some that cannot be, each with its reason in a line.
    """
    names = [name for given in cfg.sources for name in (SOURCES if given == "s1" else (given,))]
    if not names:
        raise UserError('pool.sources is empty: "s1", one of its sources, a .jsonl or a .parquet?')
    pinned = _pinned(cfg.revisions)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"pool.sources has {name} twice")
        if name not in SOURCES and name not in embedded and Path(name).suffix not in FILES:
            raise UserError(
                f'pool.sources="{name}" is no .jsonl, no .parquet and no source'
                + nearest(name, ["s1", *embedded, *SOURCES])
            )
    sources: list[Source] = []
    problems: list[str] = []
    for name in names:
        try:
            sources.append(_read(name, cfg, seed, embedded, pinned.get(name)))
        except UserError as error:
            # What is wrong with a file begins with its path.
            problems.append(str(error) if Path(name).suffix in FILES else f"{name}: {error}")
    if problems:
        of = f"{len(problems)} of the {len(names)} sources of the pool cannot be read:"
        raise UserError("\n  ".join([of, *problems]) if len(names) > 1 else problems[0])
    return sources


def read_questions(path: str) -> list[str]:
    """The questions of an evaluation set: a .jsonl, a .parquet, or a hub id ("owner/name/config").

    Of a data set of the hub its test split, or its only one. Raises UserError at the first bad row.
    """
    file = Path(path).expanduser()
    if file.suffix not in FILES and not file.exists():
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(/[\w.-]+)?", path):
            raise UserError(f"evaluation set {path}: there is no such file")
        owner, name, config = [*path.split("/"), None][:3]
        rows = rows_of(load_part(Part(f"{owner}/{name}", config, split=None)), path)
    else:
        rows = file_rows(file)
    questions: list[str] = []
    for place, row in rows:
        if isinstance(row, Unreadable):
            raise UserError(f"{place}: {row.detail}")
        if not isinstance(row, dict):
            raise UserError(f"{place}: must be an object with a question, not {kind(row)}")
        column = _column(row, EVALUATED)
        if column is None:
            raise UserError(f"{place}: has no column {' or '.join(QUESTIONS)}")
        if not isinstance(row[column], str):
            raise UserError(f"{place}: {column} must be a string, not {kind(row[column])}")
        if not _is_text(row[column]):
            raise UserError(f"{place}: {column} holds half of a surrogate pair, no text")
        questions.append(row[column])
    if not questions:
        raise UserError(f"evaluation set {path}: has no questions")
    return questions


def _read(
    name: str,
    cfg: Pool,
    seed: int,
    embedded: Mapping[str, Callable[[], list[Question]]],
    revision: str | None,
) -> Source:
    if name in embedded:
        return _sifted(name, embedded[name](), cfg)
    if name in SOURCES:
        return _hub_source(name, SOURCES[name], cfg, seed, revision)
    path = Path(name).expanduser()
    source = _sifted(name, (_file_question(row, path.stem) for row in file_rows(path)), cfg)
    if not source.questions and not source.set_aside:
        raise UserError(f"{path}: has no rows")
    return source


def _sifted(name: str, found: Iterable[Question | SetAside], cfg: Pool) -> Source:
    source = Source(name, [], [])
    for item in found:
        if isinstance(item, SetAside):
            source.set_aside.append(item)
            continue
        flaw = _flaw(item, cfg)
        if flaw is None:
            source.questions.append(item)
        else:
            source.set_aside.append(SetAside(item.place, *flaw))
    return source


def _flaw(question: Question, cfg: Pool) -> tuple[str, str] | None:
    """Why a question cannot be used, if so: what such are counted by, and a sentence."""
    text = question.question
    if not text.strip():
        return "empty question", "question is empty"
    if len(text) > cfg.max_question_chars:
        most = f"{cfg.max_question_chars:,} (pool.max_question_chars)"
        return "too long", f"question has {len(text):,} characters, more than {most}"
    for column in ("question", *TEXTS, "source_type", "metadata"):
        if not _is_text(getattr(question, column) or ""):
            return "half a surrogate", f"{column} holds half of a surrogate pair, no text"
    control = CONTROLS.search(text)
    if control:
        return "control token", f"question holds the control token {control[0]}"
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- Files ---


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl or a .parquet, with their places. UserError if it is neither."""
    if path.is_dir():
        raise UserError(f"{path}: is a directory; a .jsonl or a .parquet is needed")
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if path.suffix not in FILES:
        raise UserError(f"{path}: must be a .jsonl or a .parquet")
    return jsonl_rows(path) if path.suffix == ".jsonl" else parquet_rows(path)


def _column(row: dict[str, Any], names: Iterable[str]) -> str | None:
    """The first of these columns that holds something."""
    return next((name for name in names if row.get(name) is not None), None)


def _file_question(placed: Row, stem: str) -> Question | SetAside:
    place, row = placed
    if isinstance(row, Unreadable):
        return SetAside(place, row.reason, row.detail)
    if not isinstance(row, dict):
        return SetAside(place, "not an object", f"must be an object, not {kind(row)}")
    asked = _column(row, QUESTIONS)
    if asked is None:
        return SetAside(place, "missing question", f"has no column {' or '.join(QUESTIONS)}")
    source_type = _column(row, SOURCE_TYPES)
    numbers = {name: str(row[name]) for name in _ANSWERS if _is_number(row.get(name))}
    row |= numbers
    for column in (asked, source_type, "solution", "answer", "cot_type"):
        value = row.get(column) if column else None
        if value is not None and not isinstance(value, str):
            return SetAside(place, "wrong type", f"{column} must be a string, not {kind(value)}")
    # Of what is not needed, what is of no use stays with the metadata.
    difficulty = row.get("difficulty") if _is_number(row.get("difficulty")) else None
    domain = row.get("domain") if isinstance(row.get("domain"), str) else None
    used = {"difficulty": difficulty, "domain": domain}
    known = {name for name, value in used.items() if value is not None}
    answer = row.get("answer") or None
    return Question(
        question=row[asked],
        solution=row.get("solution") or answer,
        cot_type=row.get("cot_type") or "math",
        source_type=(row[source_type] if source_type else "") or stem,
        metadata=_metadata(row, {asked, source_type, *known, *(set(TEXTS) - {"domain"})}),
        answer=answer,
        domain=domain,
        difficulty=None if difficulty is None else float(difficulty),
        place=place,
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number above all floats
        return False


def _metadata(row: dict[str, Any], used: set[str | None]) -> str:
    """The other columns as JSON; a text that is the only one is metadata already."""
    others = {name: value for name, value in row.items() if name not in used and value is not None}
    given = others.get("metadata")
    if len(others) == 1 and isinstance(given, str | dict):
        return given if isinstance(given, str) else metadata_json(given)
    return metadata_json(others)


# --- The hub ---


def _pinned(revisions: Iterable[str]) -> dict[str, str]:
    """The commits that the config names for sources. UserError if one is of no source."""
    pinned: dict[str, str] = {}
    for name, _, revision in (text.partition("=") for text in revisions):
        if name not in SOURCES or not revision:
            raise UserError(
                f'pool.revisions="{name}={revision}" must be SOURCE=COMMIT' + nearest(name, SOURCES)
            )
        if pinned.setdefault(name, revision) != revision:
            raise UserError(f"pool.revisions pins {name} twice, to {pinned[name]} and {revision}")
    return pinned


def _hub_source(name: str, source: HubSource, cfg: Pool, seed: int, revision: str | None) -> Source:
    """Raises UserError if a part of it cannot be loaded, or no row has the columns of it."""
    listed: frozenset[str] = frozenset()
    if source.listed is not None:
        part, column = source.listed
        if part.hub == source.parts[0].hub:
            part = replace(part, revision=revision or part.revision)
        rows = rows_of(load_part(part), part.name)
        listed = frozenset(row[column] for _, row in rows if isinstance(row.get(column), str))

    def found() -> Iterator[Question | SetAside]:
        for part in source.parts:
            part = replace(part, revision=revision or part.revision)
            reading = Reading(part, cfg, seed, listed)
            for place, row in rows_of(load_part(part), part.name):
                try:
                    question = source.to_question(row, reading)
                except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                    detail = f"cannot be read as a row of {name}: {type(error).__name__}: {error}"
                    yield SetAside(place, "wrong columns", detail)
                    continue
                if question is not None:
                    yield replace(question, place=place)

    result = _sifted(name, found(), cfg)
    if result.set_aside and not result.questions:
        first = result.set_aside[0]
        raise UserError(f"none of its rows is a question; {first.place}: {first.detail}")
    if source.pick is not None:
        return replace(result, questions=source.pick(result.questions, seed))
    return result


def load_part(part: Part) -> Any:
    """The split of a data set of the hub. Raises UserError with the reason if it cannot be had."""
    import datasets

    # Its retries are no news: that a source cannot be had is said once, in a line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if part.file is not None:
            at = f"@{part.revision}" if part.revision else ""
            file = f"hf://datasets/{part.hub}{at}/{part.file}"
            return datasets.load_dataset("json", data_files={part.split: file}, split=part.split)
        loaded = datasets.load_dataset(
            part.hub, part.config, revision=part.revision, split=part.split
        )
    except Exception as error:  # no network, no such set, a closed one, a program: its own class
        _stay_offline_after(error)
        name = " ".join(filter(None, (part.hub, part.config)))
        raise UserError(f"{name} cannot be loaded from the hub: {first_line(error)}") from error
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if "test" not in loaded and len(loaded) > 1:
        raise UserError(
            f"{part.hub}: has no split test, but {', '.join(loaded)}: save one as JSONL"
        )
    return loaded["test"] if "test" in loaded else next(iter(loaded.values()))


def _stay_offline_after(error: BaseException | None) -> None:
    """Without a network each source would wait for it again, and say so many times."""
    import datasets
    import huggingface_hub

    while error is not None:
        if isinstance(error, OSError) and "onnect" in type(error).__name__ + str(error):
            datasets.config.HF_HUB_OFFLINE = True
            huggingface_hub.constants.HF_HUB_OFFLINE = True
        error = error.__cause__ or error.__context__


def rows_of(loaded: Any, name: str) -> Iterator[Row]:
    """Rows as they are stored: pictures are not decoded, and few are in memory together."""
    number = 0
    for batch in loaded.with_format("arrow").iter(batch_size=64):
        for row in batch.to_pylist():
            yield f"{name}: row {number} (from 0)", row
            number += 1
