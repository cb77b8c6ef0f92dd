"""The 16 sources of s1's pool: where each lies on the hub, and under which licence.

In s1's order, which decides what is a duplicate of what: a question that shares words with an
earlier source is dropped.
Reference: paper, table 7; `data/collect_data.py`. Left out is its keep list: 84 questions, written
there, that were always kept. A source of which some are taken is drawn here, before anything is
compared with it; there it was afterwards.

No data set could be looked up when this was written. So most revisions are not pinned: the newest
is read, unless `revision` is filled in. Licences are what the data sets' pages were known to say;
check them before you publish what you made of a source.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from s1jax.data import source_rows
from s1jax.data.source_rows import Part, Reading, Row
from s1jax.types import Question


@dataclass(frozen=True)
class HubSource:
    """A source of s1's."""

    parts: tuple[Part, ...]
    to_question: Callable[[Row, Reading], Question | None]  # pure; None: not one of s1's rows
    licence: str
    paper_questions: int  # in the paper's pool
    listed: tuple[Part, str] | None = None  # another data set, and its column that is looked at
    pick: Callable[[Sequence[Question], int], list[Question]] | None = None  # with a seed


def table() -> str:
    """The sources as a Markdown table: data sets, questions in the paper's pool, licences."""
    lines = [
        "| source | data set | questions in s1's pool | licence |",
        "| --- | --- | ---: | --- |",
    ]
    for name, source in SOURCES.items():
        hubs = ", ".join(dict.fromkeys(f"`{part.hub}`" for part in source.parts))
        lines.append(f"| {name} | {hubs} | {source.paper_questions:,} | {source.licence} |")
    total = sum(source.paper_questions for source in SOURCES.values())
    return "\n".join([*lines, f"| all | | {total:,} | |"]) + "\n"


def pick_evenly(
    questions: Sequence[Question],
    count: int,
    seed: int,
    groups: Callable[[Question], tuple[str, ...]] = lambda question: (),
) -> list[Question]:
    """So many questions, as evenly over nested groups as these allow; no text twice.

    Which ones depends on the seed alone, not on the order that they come in, and is kept.
    """
    unique: dict[str, Question] = {}
    for question in questions:
        unique.setdefault(question.question, question)
    # Python's sort keeps the order of equals: at last by group in turn, within it by subgroup in
    # turn, within that by lot.
    drawn = sorted(unique.values(), key=lambda question: _lot(question, seed))
    paths = {question.question: groups(question) for question in drawn}
    for depth in range(max(map(len, paths.values()), default=0), 0, -1):
        seen: Counter[tuple[str, ...]] = Counter()
        turns: dict[str, int] = {}
        for text in (question.question for question in drawn):
            group = paths[text][:depth]
            turns[text] = seen[group]
            seen[group] += 1
        drawn.sort(key=lambda question: turns[question.question])
    picked = {question.question for question in drawn[:count]}
    return [question for question in unique.values() if question.question in picked]


def _lot(question: Question, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{question.question}".encode()).digest()


def _pick_sci_eval(questions: Sequence[Question], seed: int) -> list[Question]:
    """250, of the four tasks alike, and of a task's topics. In s1 one could be there twice."""

    def groups(question: Question) -> tuple[str, ...]:
        row = json.loads(question.metadata)
        return row["task_name"], str(row.get("topic"))

    return pick_evenly(questions, 250, seed, groups)


def _pick_crosswords(questions: Sequence[Question], seed: int) -> list[Question]:
    return pick_evenly(questions, 1000, seed)  # the paper's 999 after its comparisons


# --- The table ---


def _parts(hub: str, configs: Sequence[str | None], splits: str, **given: Any) -> tuple[Part, ...]:
    """All configs of the first split, then those of the next."""
    return tuple(
        Part(hub, config, split, **given) for split in splits.split() for config in configs
    )


_ARENA = ("Math", "Physics", "Chemistry", "Biology", "Geography", "Astronomy", "CS")
_OLYMPIADS = [f"{kind}_TO_{of}_en_COMP" for kind in ("OE", "TP") for of in ("maths", "physics")]
_EXAMS = (
    *("sat_en", "sat_math", "lsat_ar", "lsat_lr", "lsat_rc", "logiqa"),  # with passages
    *("aqua_rat", "math_agieval"),
)
_GPQA = "Idavidrein/gpqa"
_CODE = "livecodebench/code_generation_lite"
_RELEASES = ("test.jsonl", "test2.jsonl", "test3.jsonl")
_NUMINA_500 = Part("simplescaling/numinamath_500")

SOURCES: dict[str, HubSource] = {
    "MATH": HubSource((Part("simplescaling/openaimath"),), source_rows.math, "MIT", 11_999),
    "OlympicArena": HubSource(
        _parts(
            "GAIR/OlympicArena",
            _ARENA,
            "test val",
            revision="0f11060bb276a0af2e3e0b34d29723db51ed57f3",
        ),
        source_rows.olympic_arena,
        "CC BY-NC-SA 4.0",
        4_250,
    ),
    "TheoremQA": HubSource(
        (Part("TIGER-Lab/TheoremQA", split="test"),), source_rows.theorem_qa, "MIT", 747
    ),
    "NuminaMath": HubSource(
        (Part("AI-MO/NuminaMath-CoT"),),
        source_rows.numina_math,
        "Apache-2.0",
        30_660,
        listed=(_NUMINA_500, "problem"),
    ),
    "Omni-MATH": HubSource(
        (Part("KbsdJames/Omni-MATH", split="test"),), source_rows.omni_math, "Apache-2.0", 4_238
    ),
    "SciEval": HubSource(
        _parts("OpenDFM/SciEval", (None,), "test validation"),
        source_rows.sci_eval,
        "unknown",
        227,
        pick=_pick_sci_eval,
    ),
    "OlympiadBench": HubSource(
        _parts("Hothan/OlympiadBench", _OLYMPIADS, "train"),
        source_rows.olympiad_bench,
        "Apache-2.0",
        896,
    ),
    "JEEBench": HubSource(
        (Part("daman1209arora/jeebench", split="test"),), source_rows.jee_bench, "MIT", 515
    ),
    # Of a data set that is a program the hub keeps a copy as Parquet under this revision.
    "AGIEval": HubSource(
        _parts("baber/agieval", _EXAMS, "test few_shot", revision="refs/convert/parquet"),
        source_rows.agi_eval,
        "MIT",
        2_385,
    ),
    "s1-prob": HubSource((Part("simplescaling/s1-prob"),), source_rows.s1_prob, "unknown", 182),
    "GPQA": HubSource(
        (Part(_GPQA, "gpqa_extended"),),
        source_rows.gpqa,
        "CC BY 4.0, after agreeing on its page",
        348,
        listed=(Part(_GPQA, "gpqa_diamond"), "Question"),
    ),
    "XWord": HubSource(
        (Part("0xharib/xword1"),), source_rows.crossword, "unknown", 999, pick=_pick_crosswords
    ),
    "USACO": HubSource(
        (Part("codegenning/usacobench_formatted", split="test"),), source_rows.usaco, "unknown", 519
    ),
    "s1-teasers": HubSource(
        (Part("simplescaling/s1-teasers"),), source_rows.s1_teasers, "unknown", 23
    ),
    # Releases 1 to 3, each with the one before: the files by themselves are each question once.
    "LiveCodeBench": HubSource(
        tuple(Part(_CODE, f"release_v{n}", "test", file=f) for n, f in enumerate(_RELEASES, 1)),
        source_rows.live_code_bench,
        "CC",
        151,
    ),
    "AIME": HubSource((Part("qq8933/AIME_1983_2024"),), source_rows.aime, "MIT", 890),
}
