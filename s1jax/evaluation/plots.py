"""Pictures of an evaluation: accuracy against thinking, methods, lengths, what each Wait changed.

Reference: paper, figures 1 and 4, table 3. Names of runs come from config and are drawn as they
are, never as mathtext.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s1jax.data.report import DPI, GREY, dress, one_line, save_figure
from s1jax.evaluation.curves import (
    BASE_COLOR,
    PAPER_COLOR,
    STYLES,
    draw_nothing,
    draw_scaling,
    legend_line,
    make_panels,
    marker_style,
    set_title,
)
from s1jax.evaluation.paper import METRICS
from s1jax.evaluation.results import BASE, MODEL, Change, MethodResult, Results, RunResult, Score

FIXED, BROKEN, RULE = "#0072b2", "#d55e00", "#cccccc"
SIGNIFICANT = 0.05
WIDEST = 60  # points per doubling that are drawn; one estimate beyond would flatten all others


def plot_scaling(results: Results, path: Path) -> None:
    """Draws as PNG the accuracy of all runs against their mean tokens of thinking.

    Raises UserError, as the other pictures do, if the file cannot be written.
    """
    save_figure(draw_scaling(results), path)


def plot_methods(results: Results, path: Path) -> None:
    """Draws as PNG the three metrics of each method, as the paper's table 3 has them."""
    save_figure(draw_methods(results), path)


def plot_thinking(results: Results, scores: Iterable[Score], path: Path) -> None:
    """Draws as PNG how long the thinking of each run is, and what its budget did to it."""
    save_figure(draw_thinking(results, scores), path)


def plot_waits(results: Results, path: Path) -> None:
    """Draws as PNG what each further ignored end changed: questions fixed, questions broken."""
    save_figure(draw_waits(results), path)


# --- Methods ---


def draw_methods(results: Results) -> Any:
    """The Figure of `plot_methods()`: a row a method and part, a column a metric."""
    from matplotlib.figure import Figure

    rows: list[MethodResult | str] = []
    for task, of_task in itertools.groupby(results.methods, lambda method: method.task):
        rows += [task, *of_task]
    height = 1.5 + 0.34 * max(len(rows), 2)
    figure = Figure(figsize=(12, height), dpi=DPI, layout="constrained")
    if not rows:
        return draw_nothing(figure, "There are no methods to draw.")
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.6, 1))
    titles = ("Control", "Scaling: points per doubling of the thinking", "Performance")
    for column, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        set_title(axes, title)
        for y, row in enumerate(rows):
            if isinstance(row, MethodResult):
                _metric(axes, y, row, column)
            elif y:
                axes.axhline(y - 0.5, color=RULE, lw=0.8)
        if column == 1:
            axes.axvline(0, color=GREY, lw=0.8)
            axes.set_xlim(*_scaling_limits(results.methods))
        else:
            axes.set_xlim(-4, 104)
            axes.xaxis.set_major_formatter(lambda percent, _: f"{percent:g}%")
        dress(axes, "x", ("bottom",))
        axes.tick_params(axis="y", length=0)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    texts = panels[0].set_yticks(
        range(len(rows)), [_row_name(row) for row in rows], fontsize=10, parse_math=False
    )
    for tick, row in zip(texts, rows, strict=True):
        tick.label1.set_fontweight("bold" if isinstance(row, str) else "normal")
    signs = [
        legend_line(f"differs from zero (p < {SIGNIFICANT:g})", GREY, "none", "o", False),
        legend_line("does not", GREY, "none", "o", True),
    ]
    if any(method.task in METRICS for method in results.methods):
        signs.append(legend_line("the paper's s1-32B", PAPER_COLOR, "none", "|", False))
    figure.legend(handles=signs, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    return figure


def _scaling_limits(methods: Sequence[MethodResult]) -> tuple[float, float]:
    """Room for all intervals within WIDEST, for the paper's figures, and for zero."""
    ends = [-5.0, 5.0]
    for row in methods:
        ends += [x for x in (row.scaling.low, row.scaling.high)] if row.scaling else []
        ends += (
            [METRICS[row.task][row.method][1]] if row.method in METRICS.get(row.task, ()) else []
        )
    low, high = (min(max(end, -WIDEST), WIDEST) for end in (min(ends), max(ends)))
    room = 0.05 * (high - low)
    return low - room, high + room


def _metric(axes: Any, y: int, row: MethodResult, column: int) -> None:
    """One metric of one method: its place on the axis, and its figure at the axes' end."""
    color, shape = (BASE_COLOR, "o") if row.model == BASE else STYLES[row.method]
    value = (row.control, row.scaling and row.scaling.value, row.performance)[column]
    text = "–" if value is None else f"{value:.1f}%"
    hollow = False
    if column == 1 and row.scaling is not None:
        low, value, high = row.scaling.low, row.scaling.value, row.scaling.high
        text = f"{value:+.1f}  ({low:+.1f} to {high:+.1f})"
        hollow = row.slope_p is None or row.slope_p >= SIGNIFICANT
        axes.plot((low, high), (y, y), color=color, lw=1.8, solid_capstyle="butt")
        if abs(value) > WIDEST:  # an arrow at the edge
            shape, value = (">", WIDEST) if value > 0 else ("<", -WIDEST)
    if value is not None:
        axes.plot(value, y, color=color, clip_on=False, **marker_style(shape, hollow))
    theirs = METRICS.get(row.task, {}).get(row.method)
    if theirs and row.part == "all" and row.model == MODEL:
        axes.plot(theirs[column], y, "|", color=PAPER_COLOR, ms=15, mew=2.5, zorder=1)
    axes.annotate(
        text.replace("-", "\N{MINUS SIGN}"),
        (1, y),
        (9, 0),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        color=GREY,
    )


def _row_name(row: MethodResult | str) -> str:
    if isinstance(row, str):
        return one_line(row, 40)
    part = "" if row.part == "all" else f", {row.part}"
    return f"{row.method}{part}{', base model' if row.model == BASE else ''}"


# --- Lengths ---


def draw_thinking(results: Results, scores: Iterable[Score]) -> Any:
    """The Figure of `plot_thinking()`: a panel a task, in it a histogram a run."""
    lengths: dict[tuple[str, str, str], list[int]] = {}
    for score in scores:
        lengths.setdefault((score.task, score.model, score.run), []).append(score.used_tokens)
    thought = {key for key, some in lengths.items() if any(some)}
    tasks = {
        task: [r for r in results.runs if r.task == task and (task, r.model, r.run) in thought]
        for task in results.tasks
    }
    tasks = {task: runs for task, runs in tasks.items() if runs}
    rows = max((len(runs) for runs in tasks.values()), default=0)
    figure, panels = make_panels(len(tasks), 6.0, 1.3 + 0.5 * max(rows, 3))
    for axes, (task, runs) in zip(panels, tasks.items(), strict=True):
        _histograms(axes, runs, [lengths[task, run.model, run.run] for run in runs])
        set_title(axes, one_line(task, 40))
    return figure if tasks else draw_nothing(figure, "There is no thinking to draw.")


def _histograms(axes: Any, runs: Sequence[RunResult], lengths: Sequence[list[int]]) -> None:
    """A row a run: its histogram, its budget as a line, and how many samples the budget ended."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    known = [length for length in itertools.chain(*lengths) if length > 0]
    least, most = min(known), max(known)
    budgets = [run.budget or math.inf for run in runs]
    # A budget far from all that was thought is not on the axis: it would leave no room for it.
    seen = [budget for budget in budgets if least / 8 <= budget <= 8 * most]
    first, last = math.log10(min([least, *seen]) / 1.5), math.log10(max([most, *seen]) * 1.3)
    edges = np.logspace(first, last, max(12, round(20 * (last - first))) + 1)
    for row, (run, some, budget) in enumerate(zip(runs, lengths, budgets, strict=True)):
        color = BASE_COLOR if run.model == BASE else STYLES[run.method][0]
        counts = np.histogram(np.clip(some, edges[0], edges[-1]), edges)[0]
        axes.stairs(row - 0.82 * counts / counts.max(), edges, baseline=row, fill=True, color=color)
        axes.axhline(row, color=RULE, lw=0.8, zorder=0)
        text = f"median {np.median(some):,.0f}"
        if budget in seen:
            axes.plot((budget, budget), (row, row - 0.9), color="black", lw=1.4)
        if budget < math.inf:
            text += f"\n{run.budget_ended:.0f}% ended by budget"
        axes.annotate(
            text,
            (1, row - 0.38),
            (6, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=GREY,
        )
    names = [f"{one_line(run.run, 24)}{', base' if run.model == BASE else ''}" for run in runs]
    axes.set_yticks(np.arange(len(runs)) - 0.3, names, fontsize=9.5, parse_math=False)
    axes.set_ylim(len(runs) - 0.95, -1.05)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    ratio = edges[-1] / edges[0]
    labels = (1, 2, 5) if ratio < 60 else (1, 3) if ratio < 3000 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=labels))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    axes.set_xlabel("tokens of thinking, inserted ones included; black: the budget", fontsize=10)
    dress(axes, "x", ("bottom",))
    axes.tick_params(axis="y", length=0)


# --- Ignored ends ---


def draw_waits(results: Results) -> Any:
    """The Figure of `plot_waits()`: to the right what was fixed, to the left what was broken."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows: list[Change | str] = []
    for (task, model), some in itertools.groupby(results.changes, lambda c: (c.task, c.model)):
        rows += [f"{one_line(task, 40)}{', base model' if model == BASE else ''}", *some]
    figure = Figure(figsize=(12, 1.5 + 0.36 * max(len(rows), 2)), dpi=DPI, layout="constrained")
    if not results.changes:
        return draw_nothing(figure, "No run ignored more ends of thinking than another.")
    axes = figure.subplots()
    set_title(axes, "What more ignored ends changed, in questions")
    most = max(max(c.fixed, c.broken) for c in results.changes)
    for y, row in enumerate(rows):
        if isinstance(row, str):
            continue
        for count, side, color in ((row.broken, -1, BROKEN), (row.fixed, 1, FIXED)):
            axes.barh(y, side * count, 0.62, color=color)
            axes.annotate(
                f"{count:,}",
                (side * count, y),
                (5 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=10,
                color=color,
            )
        axes.annotate(
            f"{row.stayed_right:,} right in both, {row.stayed_wrong:,} wrong in both",
            (1, y),
            (8, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=GREY,
        )
    axes.axvline(0, color=GREY, lw=0.8)
    axes.set_xlim(-1.15 * max(most, 1), 1.15 * max(most, 1))
    names = [
        row if isinstance(row, str) else f"{one_line(row.before, 24)} → {one_line(row.after, 24)}"
        for row in rows
    ]
    ticks = axes.set_yticks(range(len(rows)), names, fontsize=10, parse_math=False)
    for tick, row in zip(ticks, rows, strict=True):
        tick.label1.set_fontweight("bold" if isinstance(row, str) else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda count, _: f"{abs(count):,g}")
    dress(axes, "x", ("bottom",))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("broken: right before, wrong after          fixed: wrong before, right after")
    return figure
