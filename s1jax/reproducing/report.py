"""report.md, its pictures and reproduce.json: all that was reproduced, in one page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s1jax.config import Config
from s1jax.data.report import cell, table
from s1jax.data.rows import replaced
from s1jax.mini import MINI
from s1jax.mini.pool import HELD_OUT
from s1jax.mini.thinking import AGAIN, LOOKS_AGAIN
from s1jax.progress import format_seconds
from s1jax.reproducing.claims import (
    AGREES,
    CANNOT,
    DISAGREES,
    QUESTIONS,
    SEEDS,
    Cell,
    Table,
    told,
)
from s1jax.reproducing.curves import gives_up
from s1jax.reproducing.identity import commits_of
from s1jax.reproducing.journal import place, stage_name
from s1jax.reproducing.measured import Figure, Measured
from s1jax.reproducing.pictures import plot
from s1jax.reproducing.plan import BASE, CUT_SHARE, MODELS, OURS, Ask, before, needed
from s1jax.reproducing.tables import tables_of
from s1jax.types import UserError

REPORT, FIGURES = "report.md", "reproduce.json"
_VERDICTS = {
    AGREES: "the direction agrees with the paper",
    CANNOT: "from these figures it cannot be told",
    DISAGREES: "**the direction disagrees with the paper**",
}


def write_report(
    cfg: Config,
    workdir: Path,
    wanted: Mapping[str, Sequence[Ask]],
    seeds: Sequence[int],
    questions: int,
) -> Path:
    """Writes the page, the pictures and all figures of what is there; the page's path.

    Raises UserError if nothing is.
    """
    measured = Measured(cfg, workdir, questions)
    tables = tables_of(measured, wanted, seeds)
    if not tables:
        there = measured.questions_there()
        found = f"; those there have {', '.join(map(str, there))} questions" if there else ""
        raise UserError(
            f"{workdir}: no table is there yet with --questions={questions}{found}: run it without"
            " --report first, or name the number that it was run with"
        )
    for one in tables:
        plot(one, workdir)
    about = _about(measured, {one.name: wanted[one.name] for one in tables}, seeds)
    figures = {"about": about, "tables": {one.name: one.to_dict() for one in tables}}
    _write(workdir / FIGURES, json.dumps(figures, indent=1) + "\n")
    missing = [name for name in wanted if name not in {one.name for one in tables}]
    _write(workdir / REPORT, page(cfg, tables, about, missing))
    return workdir / REPORT


def page(
    cfg: Config, tables: Sequence[Table], about: Mapping[str, Any], missing: Sequence[str]
) -> str:
    """The text of report.md."""
    parts = [
        "# s1 in miniature: the paper's tables, made again\n",
        _introduction(cfg, tables, about, missing),
        "## In short\n",
        _in_short(tables),
        *(_section(one) for one in tables),
        _built_in(cfg, tables),
        _varied(),
        _how(about),
    ]
    return "\n".join(parts)


def _introduction(
    cfg: Config, tables: Sequence[Table], about: Mapping[str, Any], missing: Sequence[str]
) -> str:
    seeds = about["seeds"]
    text = (
        f"Made by `python -m s1jax.reproduce` with the code paths of the real thing: pool, traces,"
        f" selection, fine-tuning and evaluation, of a model that a laptop trains in minutes."
        f" {_seeds(seeds).capitalize()}: each has a pool, traces, a selection"
        " and an order of training of its own, and all begin with the same base, one single"
        " pre-training, whose own figures vary over questions alone."
        f" {about['questions']} held-out questions of each"
        " family, the same for all seeds, and in no training set.\n\n"
        "A figure is the mean over seeds and questions. Its 95% interval is a percentile bootstrap"
        f" over questions of the seeds' mean, {about['resamples']:,} resamples, paired where two"
        " are compared (Wilson's where all answers are right, or none); it does not hold what other"
        " seeds would do, for which the range over the seeds stands beside it. A direction agrees"
        " with the paper, or disagrees, only if the interval and every single seed's value are on"
        f" that side, of at least {SEEDS} seeds and {QUESTIONS} questions; else it cannot be told."
        f" (Where seeds alone make a difference, {len(seeds)} of them are all on one side in"
        f" {2 ** (1 - len(seeds)):.0%} of all cases.)"
        " That is decided in code. Sizes are not comparable, only directions.\n"
    )
    if cfg.model.path == MINI and not cfg.evaluate.paths:
        text += f"\n{_SETTLED}\n"
    if missing:
        text += f"\nNot run yet: {', '.join(missing)}.\n"
    for one in tables:
        if len(one.seeds) < len(seeds):
            text += f"\n{one.title}: so far {_seeds(one.seeds)} alone.\n"
    return text


# What was chosen by which questions: known by nobody but those who made the little world.
_SETTLED = (
    "The families, the teacher's habit, the base and the learning rate were settled on other"
    " questions: some that were held out before, and 100 of a family made for it. The held-out"
    " questions were drawn anew then, and nothing was chosen by them."
)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _in_short(tables: Sequence[Table]) -> str:
    parts = []
    for built_in, what in (
        (False, "that could have come out otherwise"),
        (True, "that are built into the world or the method, and say that it works"),
    ):
        claims = [c for one in tables for c in one.claims if c.by_construction == built_in]
        counts = {v: sum(claim.verdict == v for claim in claims) for v in _VERDICTS}
        parts.append(
            f"Of {len(claims)} comparisons with the paper {what}, the direction agrees in"
            f" {counts[AGREES]}, cannot be told in {counts[CANNOT]} and disagrees in"
            f" {counts[DISAGREES]}."
        )
    intervals = sum(one.intervals for one in tables)
    parts.append(
        f"This page has {intervals:,} intervals of 95%: about {intervals / 20:.0f} of them miss by"
        " chance, and nothing is corrected for that."
    )
    rows = [
        [
            *(one.title.partition(":")[0], cell(claim.paper), cell(claim.what)),
            *("yes" if claim.by_construction else "", claim.verdict),
        ]
        for one in tables
        for claim in one.claims
    ]
    head = ["where", "the paper", "what is compared", "built in", "the direction"]
    body = (head, ["---"] * len(head), *rows)
    return " ".join(parts) + "\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in body)


def _section(one: Table) -> str:
    lines = [f"## {one.title}\n", f"{one.asked}\n"]
    lines += [
        f"- The paper: {claim.paper} Here: {claim.found} So {_VERDICTS[claim.verdict]}."
        + (" (This is built in.)" if claim.by_construction else "")
        for claim in one.claims
    ]
    lines += [f"- {note}" for note in one.notes]
    lines += [""] if one.claims or one.notes else []
    if one.picture:
        lines.append(f"![{one.title}]({one.picture})\n")
    for head, values in ((one.head, one.rows), (one.details_head, one.details)):
        if values:
            rows = [[_shown(value) for value in row] for row in values]
            lines.append(table(head[0], list(head[1:]), None, rows))
    return "\n".join(lines)


def _shown(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, Figure):
        return told(value, "").replace(" (", "<br>(")
    return cell(value) if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _built_in(cfg: Config, tables: Sequence[Table]) -> str:
    title = "## What is built in on purpose\n\n"
    if cfg.distill.via != MINI:
        return title + (
            "The questions are such that thinking longer can help. The traces are not of the little"
            f" world's teacher (`distill.via={cfg.distill.via}`): how often they stop too early is"
            " not known here.\n"
        )
    words = ", ".join(f"{word} {share:.0%}" for word, share in AGAIN.items())
    text = (
        "The questions are such that thinking longer can help, and the teacher, a program, is such"
        f" that it often stops too early: where it cannot know whether it is done it gives up with"
        f" probability {gives_up(cfg, OURS):g} and answers what it has, or else writes a word"
        f" ({words}) and goes on. It may give up a search after every third pair that was tried, a"
        " revision after each writing that leaves something to carry, and an iteration after each"
        " pass that leaves the numbers unsorted. What it is sure of it says again with probability"
        f" {LOOKS_AGAIN:g}, and perhaps more than once. This is in `s1jax/mini/thinking.py` and"
        " beside it. Selection prefers long thinking, so that many of the selected passed the first"
        " such place and gave up at a later one. A model that learns from it stops early as well,"
        " and budget forcing has something to carry it over; that much of the curves is no"
        " discovery."
    )
    if any(one.name == "ablation" for one in tables):
        text += " The ablation shows what comes of another probability."
    text += (
        " That easy families end by themselves is built in too, and that a few of the teacher's"
        " answers are wrong.\n"
    )
    return title + text


def _varied() -> str:
    names = "".join(
        f"- `{name}`: {model.what}"
        + (f" (`{'`, `'.join(model.fields)}`)" if model.fields else "")
        + ".\n"
        for name, model in MODELS.items()
    )
    return (
        "## What was varied\n\n"
        f"`{BASE}` is the model before fine-tuning. The others:\n\n{names}\n"
        f"Short rows are of the length that {CUT_SHARE:.0%} of the examples exceed. Budgets,"
        " numbers of ignored ends and lengths asked for were chosen by the training traces'"
        " lengths.\n"
    )


def _how(about: Mapping[str, Any]) -> str:
    lines = [f"- {_plain(facts)}" for facts in about["ran_on"]]
    if about["commits"]:
        lines.append(f"- commit {', '.join(about['commits'])}")
    counted = {"all": [sum(numbers) for numbers in zip(*about["time"].values(), strict=True)]}
    rows = [
        [name, f"{count}", format_seconds(seconds)]
        for name, (count, seconds) in (about["time"] | counted).items()
    ]
    text = "## How it was run\n\n" + "\n".join(lines) + "\n\nThe stages of these tables:\n\n"
    text += table("stage", ["times", "in all"], None, rows)
    if about["interrupted"]:
        text += (
            f"\nStages that were interrupted and taken up again: {about['interrupted']}; of such a"
            " stage only the last go is timed.\n"
        )
    return text


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(of)}" for name, of in value.items())
    return cell(str(value))


def _about(
    measured: Measured, made: Mapping[str, Sequence[Ask]], seeds: Sequence[int]
) -> dict[str, Any]:
    """What a reader must know of how these tables were made."""
    names = _stages(made, seeds)
    time: dict[str, tuple[int, float]] = {}
    for name, took in measured.took(names).items():
        what = name.partition(": ")[2].partition(" ")[0]
        count, seconds = time.get(what, (0, 0.0))
        time[what] = count + len(took), seconds + sum(took)
    return {
        "seeds": list(seeds),
        "questions": min(measured.questions, HELD_OUT),
        "resamples": measured.cfg.evaluate.resamples,
        "ran_on": measured.ran_on(names),
        "commits": commits_of(measured.workdir),
        "time": time,
        "interrupted": measured.interrupted(names),
        "config": measured.cfg.to_dict(),
    }


def _stages(made: Mapping[str, Sequence[Ask]], seeds: Sequence[int]) -> set[str]:
    """The names of all stages that tables come of."""
    names = set()
    for ask in needed(made):
        names |= {stage_name(ask, seed) for seed in seeds}
        models = before(MODELS[ask.model]) if ask.model != BASE else []
        for model in models:
            places = [place(model.name, seed) for seed in seeds]
            names |= {f"{at}: {what}" for at in places for what in ("distill", "curate", "train")}
    return names


def _write(path: Path, text: str) -> None:
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")
