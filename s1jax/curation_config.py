"""The part of the config that makes a training set: the pool, those who are asked, the selection.

The values here are s1's (reference: paper, section 2 and appendix C; `data/` of its repository).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from s1jax.sections import nearest

CONTROLS = ("none", "tokens", "steps")
DECONTAMINATIONS = ("strict", "s1", "none")
DIFFICULTIES = ("attempts", "grades", "known", "none")
DOMAINS = ("words", "model", "given")
FINISHES = ("length", "blocked", "incomplete", "error")  # of rows that are no good traces
MODES = ("s1", "paper", "parity")
SELECTIONS = ("s1", "random", "diverse", "longest", "full")
VIAS = ("gemini", "openai", "local", "replay", "mini")


@dataclass(frozen=True)
class Pool:
    """Where the questions come from, and what may not be among them."""

    # In this order: a question that shares 8 words in a row with an earlier source is dropped.
    # "s1" (all 16 sources), the name of one, a .jsonl or .parquet, or "mini".
    sources: tuple[str, ...] = ()
    evaluation_sets: tuple[str, ...] = ()  # files with questions that no training set may hold
    decontaminate: str = "strict"  # against those; "s1": its 8-grams alone
    # Words that so many questions share are a phrase, and no quotation. None: s1 knows no phrases.
    phrases_from: int | None = None
    earlier_sources: bool = True  # s1's rule of the order, always by its 8-grams
    near_duplicates: float = 0.8  # the Jaccard similarity from which on two are one; above 1: off
    max_question_chars: int = 20_000
    revisions: tuple[str, ...] = ()  # commits of s1's sources on the hub, "MATH=0f1e..."
    aime_until: int = 2021  # the paper's; s1's code takes 2022 as well
    parity: bool = False  # s1's bugs in reading its sources


@dataclass(frozen=True)
class Teacher:
    """A model that is asked, and how."""

    via: str = ""  # "gemini", "openai" (any server of its protocol), "local", "replay" or "mini"
    model: str = ""  # its name there; of "local" a path or hub id, of "replay" a .jsonl or .db
    base_url: str | None = None  # of the server; None: the provider's own
    key_variable: str | None = None  # the environment variable with the key; None: the usual one
    temperature: float | None = None  # None, here and below: the teacher's own default
    max_tokens: int | None = None  # of thinking and answer together
    thinking_tokens: int | None = None  # the budget of thinking, where the teacher has one
    samples: int = 1  # of every question
    concurrency: int = 32  # requests under way together
    requests_per_minute: int | None = None
    timeout_s: float = 600.0  # of one request
    tries: int = 10  # of a request that fails on its way: busy servers, broken connections
    first_wait_s: float = 1.0  # before the second of them; doubled each time, up to a minute
    # So often when what came is cut, blocked or without thinking; then it is recorded as it is.
    asks_again: int = 2
    # Finishes ("length", "blocked", "incomplete", "error") whose rows are dropped and asked again,
    # by the settings of now.
    ask_again: tuple[str, ...] = ()
    max_cost: float | None = None  # dollars, of this teacher, over all runs of a workdir
    input_price: float = 0.0  # dollars for a million tokens
    output_price: float = 0.0  # thinking included


def _attempts() -> Teacher:
    return Teacher(temperature=0.05, max_tokens=32768, asks_again=0)


@dataclass(frozen=True)
class Curate:
    """From traces to a training set: quality, difficulty, diversity."""

    size: int = 1000
    selection: str = "s1"  # the others are s1's ablations
    mode: str = "s1"  # "paper": its algorithm 1; "parity": the notebook, bugs included
    control: str = "none"  # questions that ask for so much thinking, in tokens or in steps
    tokenizer: str | None = None  # counts the thinking's tokens; None: that of model.path
    # Who solved it: "attempts" asks two models, "grades" reads a file, "known" is the source's.
    difficulty: str = "attempts"
    grades: str | None = None  # .jsonl: id or question, and grades, domain, length as columns
    min_difficulty: float = 0.0  # of "known"
    first: Teacher = field(default_factory=_attempts)
    second: Teacher = field(default_factory=_attempts)
    # Grades attempts where the reference is a proof; without one those questions are dropped.
    judge: Teacher = field(default_factory=lambda: Teacher(temperature=0.0, max_tokens=8192))
    # "words": by the words of 61 subjects; "model": `classifier` is asked; "given": the source's.
    domains: str = "words"
    classifier: Teacher = field(default_factory=lambda: Teacher(temperature=0.0, max_tokens=4096))
    # What is like the benchmarks: parts of a source_type, any case. Solved questions of these are
    # taken at once, and their domains are the weights of the last draws, the later ones' halved.
    benchmark_sources: tuple[str, ...] = ("aime", "gpqa")
    long_sources: tuple[str, ...] = ("openaimath",)  # taken at once if their thinking is long
    long_tokens: int = 5600
    uniform_until: int = 700  # so many are there when the draws turn to the benchmarks' domains


def check_curation(pool: Pool, distill: Teacher, cur: Curate) -> list[str]:
    """Everything wrong with the values of these sections, one line each."""
    problems: list[str] = []

    def require(ok: bool, problem: str) -> None:
        if not ok:
            problems.append(problem)

    def choice(path: str, value: str, choices: Iterable[str]) -> None:
        require(value in choices, f'{path}="{value}" is unknown{nearest(value, choices)}')

    choice("pool.decontaminate", pool.decontaminate, DECONTAMINATIONS)
    require(
        pool.near_duplicates > 0, f"pool.near_duplicates={pool.near_duplicates} must be above 0"
    )
    phrases = pool.phrases_from
    require(
        phrases is None or (phrases >= 2 and pool.decontaminate == "strict"),
        f'pool.phrases_from={phrases} must be at least 2, with pool.decontaminate="strict", which'
        " drops a whole test question whatever it consists of",
    )
    choice("curate.selection", cur.selection, SELECTIONS)
    choice("curate.mode", cur.mode, MODES)
    choice("curate.control", cur.control, CONTROLS)
    choice("curate.difficulty", cur.difficulty, DIFFICULTIES)
    choice("curate.domains", cur.domains, DOMAINS)
    for path, value in {
        "pool.max_question_chars": pool.max_question_chars,
        "curate.size": cur.size,
    }.items():
        require(value >= 1, f"{path}={value} must be at least 1")
    for path, value in {
        "curate.long_tokens": cur.long_tokens,
        "curate.uniform_until": cur.uniform_until,
    }.items():
        require(value >= 0, f"{path}={value} must be at least 0")
    require(
        math.isfinite(cur.min_difficulty),
        f"curate.min_difficulty={cur.min_difficulty} is no number",
    )
    require(
        (cur.difficulty == "grades") <= (cur.grades is not None),
        'curate.difficulty="grades" needs curate.grades, a .jsonl of grades',
    )
    problems += check_teacher("distill", distill)
    for name in ("first", "second", "judge", "classifier"):
        problems += check_teacher(f"curate.{name}", getattr(cur, name))
    return problems


def check_teacher(path: str, teacher: Teacher) -> list[str]:
    """Everything wrong with a teacher's section, one line each."""
    problems: list[str] = []

    def require(ok: bool, problem: str) -> None:
        if not ok:
            problems.append(f"{path}.{problem}")

    require(
        teacher.via in ("", *VIAS),
        f'via="{teacher.via}" is unknown{nearest(teacher.via, VIAS)}',
    )
    require(
        teacher.via in ("", "mini") or bool(teacher.model),
        f'model is empty: whom via "{teacher.via}"?',
    )
    require(
        teacher.via != "openai" or teacher.base_url is not None,
        'base_url is missing: via="openai" needs the server\'s, as in http://localhost:8000/v1',
    )
    for name, least in {"samples": 1, "concurrency": 1, "tries": 1, "asks_again": 0}.items():
        value = getattr(teacher, name)
        require(value >= least, f"{name}={value} must be at least {least}")
    budget = teacher.thinking_tokens  # of Gemini 0 is none, and -1 as much as it likes
    require(budget is None or budget >= -1, f"thinking_tokens={budget} must be at least -1")
    for finish in teacher.ask_again:
        known = finish in FINISHES
        require(known, f'ask_again="{finish}" is unknown{nearest(finish, FINISHES)}')
    one = path == "distill" or teacher.samples == 1
    require(one, f"samples={teacher.samples} must be 1: only distill asks for more")
    for name in ("max_tokens", "requests_per_minute"):
        value = getattr(teacher, name)
        require(value is None or value >= 1, f"{name}={value} must be at least 1 (or None)")
    for name in ("timeout_s", "first_wait_s"):
        value = getattr(teacher, name)
        require(math.isfinite(value) and value > 0, f"{name}={value} must be above 0")
    for name in ("temperature", "max_cost", "input_price", "output_price"):
        value = getattr(teacher, name)
        fine = value is None or (math.isfinite(value) and value >= 0)
        require(fine, f"{name}={value} must be at least 0")
    if teacher.max_cost is not None:
        require(
            teacher.max_tokens is not None,
            f"max_cost={teacher.max_cost} needs {path}.max_tokens: without it no request has a"
            " highest price",
        )
        require(
            teacher.input_price > 0 and teacher.output_price > 0,
            f"max_cost={teacher.max_cost} needs {path}.input_price and {path}.output_price",
        )
    return problems
