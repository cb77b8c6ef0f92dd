"""report.md: what was evaluated, whether longer thinking helps, and how far that can be trusted.

Names come from config and from models' output: they cannot end a cell or begin a tag.
Reference: paper, section 3.2 and tables 1 to 4.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from s1jax.data.report import cell, table
from s1jax.evaluation.plots import SIGNIFICANT
from s1jax.evaluation.results import (
    BASE,
    MODEL,
    Change,
    Interval,
    MethodResult,
    Results,
    RunResult,
    only_decoded,
)

PICTURES = ("scaling.png", "methods.png", "thinking.png", "waits.png")
_PARTS = {
    "all": "",
    "cut short": ", the half cut short by budgets",
    "extended": ", the half extended by ignored ends",
}


def report(results: Results, pictures: Sequence[str] = PICTURES) -> str:
    """The text of report.md; `pictures` are the files beside it."""
    sections = [
        (
            "Does it get better when it thinks longer?",
            [*_answer(results), _picture(pictures, "scaling.png", "Accuracy against thinking")],
        ),
        *((cell(task), _task(task, results)) for task in results.tasks),
        ("Control, Scaling, Performance", _metrics(results, pictures)),
        (
            "How long the thinking was",
            [_picture(pictures, "thinking.png", "Histograms of the thinking's length")],
        ),
        ("What more ignored ends changed", _changes(results.changes, pictures)),
        ("How the verdicts were made", _verdicts(results)),
        ("Notes", [_list(_notes(results))]),
    ]
    blocks = ["# Evaluation", _introduction(results)]
    for heading, content in sections:
        if any(content):
            blocks += [f"## {heading}", *content]
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def _answer(results: Results) -> list[str]:
    curves = [row for row in results.methods if len(row.runs) > 1]
    if not curves:
        return ["No method has two runs, so nothing can be said: a sweep of budgets would tell."]
    blocks = [
        _list(verdict(row, results.tasks[row.task], _runs_of(row, results)) for row in curves),
        "Scaling is the paper's: the mean slope over all pairs of runs. Two runs that think almost"
        " equally long can outweigh all others in it, so its interval may be wide where the line"
        " through all runs surely rises. p is of that line's slope.",
    ]
    if any(row.part != "all" for row in curves):
        blocks.append(
            "A budget below what the model wants cuts its thinking short: that half of the curve"
            " says what cutting costs. Only the half with ignored ends says what more thinking than"
            " it wants gains, so they stand apart (arXiv 2507.14419)."
        )
    return blocks


def verdict(row: MethodResult, questions: int, runs: Sequence[RunResult]) -> str:
    """One sentence: whether a curve rises, by how much, and whether that can be told from zero.

    `runs` are the curve's: where it has no slope they say why.
    """
    whose = ", base model" if row.model == BASE else ""
    name = f"**{cell(row.method)} on {cell(row.task)}{_PARTS[row.part]}{whose}**"
    if row.scaling is None or row.line is None:
        return f"{name}: {_why_no_slope(runs)}."
    line, scaling = (
        f"{found.value:+.1f} (95%: {found.low:.1f} to {found.high:.1f})"
        for found in (row.line, row.scaling)
    )
    slope = (
        f"{line} points per doubling of the thinking by the line through its runs, Scaling"
        f" {scaling}"
    )
    over = f"with {_count(questions, 'question')}"
    if row.slope_p is None:
        return f"{name}: {slope}; whether that differs from zero was not tested."
    chance = "p < 0.001" if row.slope_p < 0.001 else f"p = {row.slope_p:.2g}"
    if row.slope_p >= SIGNIFICANT:
        return f"{name}: {slope}; {over} this cannot be told from zero ({chance})."
    way = "better" if row.line.value > 0 else "worse"
    return (
        f"{name}: it gets {way} when it thinks longer, {slope}; {over} this differs from zero"
        f" ({chance})."
    )


def _runs_of(row: MethodResult, results: Results) -> list[RunResult]:
    of_both = [run for run in results.runs if (run.task, run.model) == (row.task, row.model)]
    return [run for run in of_both if run.run in row.runs]


def _why_no_slope(runs: Sequence[RunResult]) -> str:
    lengths = [run.thinking_tokens for run in runs if run.thinking_tokens]
    if only_decoded(runs):
        ends = (f"{of(run.used_tokens for run in runs):,.0f}" for of in (min, max))
        return (
            "its thinking is 0 tokens by s1's count (it writes no second line), so there is no"
            f" curve; as decoded its runs think {' to '.join(dict.fromkeys(ends))} tokens"
        )
    if len(lengths) < 2:
        return "by s1's count fewer than two of its runs think at all, so nothing can be said"
    if math.isclose(min(lengths), max(lengths)):
        return "its runs think equally long, so nothing can be said"
    return (
        "on the questions that all its runs have answered, if there are any, they think equally"
        " long, so nothing can be said"
    )


def _introduction(results: Results) -> str:
    tasks = ", ".join(
        f"{cell(task)} ({_count(n, 'question')})" for task, n in results.tasks.items()
    )
    facts = {"Model": cell(results.models.get(MODEL, "none"))}
    if BASE in results.models:
        facts["Base model, from which training began"] = cell(results.models[BASE])
    facts["Tasks"] = tasks or "none"
    runs = list(dict.fromkeys(run.run for run in results.runs if run.model == MODEL))
    facts["Runs"] = ", ".join(map(cell, runs)) or "none"
    facts |= {cell(name): _plain(value) for name, value in results.about.items()}
    return _list(f"**{name}**: {value}" for name, value in facts.items())


def _plain(value: Any) -> str:
    return cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


# --- A task ---


def _task(task: str, results: Results) -> list[str]:
    runs = [run for run in results.runs if run.task == task]
    if not runs:
        return ["No run of it is there."]
    against = any(run.against_base for run in runs)
    rows = [
        [
            _run_name(run),
            cell(run.method) + (f", {run.part}" if run.part else ""),
            f"{run.questions:,}" + (f", {run.samples:,} samples" if run.samples > 1 else ""),
            _interval(run.accuracy),
            f"{run.thinking_tokens:,.0f}",
            f"{run.used_tokens:,.0f}",
            f"{run.answer_tokens:,.0f}",
            f"{run.no_answer:.1f}%",
            f"{run.budget_ended:.1f}%",
            f"{run.ends_ignored:.2g}",
            *([_difference(run.against_base)] if against else []),
        ]
        for run in runs
    ]
    numbers = [
        "method",
        "questions",
        "accuracy % [95%]",
        "thinking tokens",
        "as decoded",
        "answer tokens",
        "no answer",
        "ended by budget",
        "ends ignored",
        *(["points against base [95%]"] if against else []),
    ]
    blocks = [table("run", numbers, None, rows)]
    short = [run for run in runs if run.questions < results.tasks[run.task]]
    if short:
        blocks.append(
            "Not whole yet: "
            + ", ".join(
                f"{_run_name(run)} has {run.questions:,} of {results.tasks[run.task]:,} questions"
                for run in short
            )
            + "."
        )
    blocks += [_several(runs), _groups(runs)]
    return blocks


def _several(runs: Sequence[RunResult]) -> str:
    """A table of pass@k, cov@k and maj@k, where there is more than one sample of a question."""
    columns = {
        f"{name}@{k}": (name, k)
        for name in ("pass", "cov", "maj")
        for k in sorted({k for run in runs for k in getattr(run, f"{name}_at")})
    }
    some = [run for run in runs if run.samples > 1]
    if not some or not columns:
        return ""
    rows = [
        [_run_name(run), *(_share(getattr(run, f"{n}_at").get(k)) for n, k in columns.values())]
        for run in some
    ]
    return table("several samples", list(columns), None, rows)


def _groups(runs: Sequence[RunResult]) -> str:
    """A table of accuracy by group and run, with the fewer of the two as columns."""
    names = list(dict.fromkeys(name for run in runs for name in run.groups))
    if len(names) < 2:
        return ""
    sizes = [max(run.groups[name][1] for run in runs if name in run.groups) for name in names]
    rows = [["", *(cell(name) or "no group" for name in names)]]
    rows.append(["questions", *(f"{size:,}" for size in sizes)])
    for run in runs:
        found = [run.groups.get(name) for name in names]
        rows.append([_run_name(run), *(_share(group[0] if group else None) for group in found)])
    if len(names) > len(runs):
        rows = [list(column) for column in zip(*rows, strict=True)]
    return table("accuracy by group", rows[0][1:], None, rows[1:])


# --- All of it ---


def _metrics(results: Results, pictures: Sequence[str]) -> list[str]:
    rows = [
        [
            cell(row.task),
            ("base: " if row.model == BASE else "") + cell(row.method),
            row.part,
            f"{len(row.runs)}",
            _share(row.control),
            _difference(row.scaling),
            _difference(row.line),
            "" if row.slope_p is None else f"{row.slope_p:.2g}",
            _signed(row.scaling_printed),
            _share(row.performance),
        ]
        for row in results.methods
    ]
    numbers = [
        "method",
        "part",
        "runs",
        "Control",
        "Scaling [95%]",
        "line [95%]",
        "p",
        "Scaling as printed",
        "Performance",
    ]
    if not rows:
        return []
    return [
        table("task", numbers, None, rows),
        "Scaling is in points per doubling of the mean thinking, the mean slope over all pairs of"
        " runs: this gives the values of the paper's table 3. As printed (equation 2) it is in"
        " points per 1,000 tokens. line: the slope of the line of least squares, in points per"
        " doubling; p: the chance of so steep a line if thinking changed nothing.",
        _picture(pictures, "methods.png", "The three metrics of each method"),
    ]


def _changes(changes: Sequence[Change], pictures: Sequence[str]) -> list[str]:
    rows = [
        [
            cell(change.task),
            ("base: " if change.model == BASE else "")
            + f"{cell(change.before)} → {cell(change.after)}",
            *(f"{n:,}" for n in (change.fixed, change.broken)),
            *(f"{n:,}" for n in (change.stayed_right, change.stayed_wrong)),
            f"{sign_test(change.fixed, change.broken):.2g}",
        ]
        for change in changes
    ]
    numbers = ["runs", "fixed", "broken", "right in both", "wrong in both", "p"]
    if not rows:
        return []
    return [
        table("task", numbers, None, rows),
        "Counted in questions, by their first samples. p: the chance of so uneven a split of the"
        " changed ones if either way is as likely (the exact sign test, two-sided).",
        _picture(pictures, "waits.png", "What each further ignored end changed"),
    ]


def sign_test(fixed: int, broken: int) -> float:
    """The two-sided p-value of so uneven a split of fair coins."""
    changed, most = fixed + broken, max(fixed, broken)
    tail = sum(math.comb(changed, n) for n in range(most, changed + 1))
    return min(1.0, 2 * tail / 2**changed)


def _verdicts(results: Results) -> list[str]:
    counts = sorted(results.reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    decided = table("decided by", ["verdicts"], None, [[cell(why), f"{n:,}"] for why, n in counts])
    if results.disagreements is None:
        judge = "No LLM judge was asked."
    else:
        counted = "the judge's verdicts" if results.judge_decides else "the local grader's verdicts"
        judge = (
            f"An LLM judge was asked as well; it disagrees with the local grader on"
            f" {_count(results.disagreements, 'verdict')}. The accuracies count {counted};"
            " scores.jsonl has both."
        )
    extraction = (
        "Answers were extracted with s1's quirks (parity): all that follows the first “Answer:”,"
        " and a choice that cannot be read counts as A."
        if results.parity
        else "Answers were extracted without s1's quirks (parity was off): a choice that cannot be"
        " read is no answer."
    )
    return [decided if counts else "", f"{judge} {extraction}"]


def _notes(results: Results) -> Iterable[str]:
    for task, questions in results.tasks.items():
        if questions:
            yield f"One question of {cell(task)} is {100 / questions:.1f} points."
    yield (
        "Intervals are 95% percentile intervals of a bootstrap over questions,"
        f" {results.resamples:,} resamples, seed {results.seed}; differences are paired by"
        " question. They say how other questions of the kind might have come out, not how another"
        " seed or another kernel would."
    )
    yield (
        "Tokens of thinking and of answers are counted by s1's definition, their first and the"
        " thinking's last line aside; “as decoded” is what budgets count, inserted strings and all."
    )
    if any(run.method == "majority" for run in results.runs):
        yield (
            "A majority is one answer for which all samples of a question thought: its accuracy, by"
            " group and against the base as well, is the vote's, and its tokens of thinking, as"
            " decoded too, are those of all samples. pass@1 is the mean over the samples; answer"
            " tokens and shares are of a single sample."
        )


# --- Cells ---


def _run_name(run: RunResult) -> str:
    return ("base: " if run.model == BASE else "") + cell(run.run)


def _interval(interval: Interval) -> str:
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def _difference(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def _share(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.1f}%"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _picture(pictures: Sequence[str], name: str, what: str) -> str:
    return f"![{what}]({name})" if name in pictures else ""


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
