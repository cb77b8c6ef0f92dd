"""The report's pictures: accuracy against thinking, training sets, methods, votes, the ablation."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from s1jax.data.report import DPI, dress, save_figure
from s1jax.evaluation.curves import BASE_COLOR, STYLES, marker_style, set_title
from s1jax.evaluation.plots import WIDEST
from s1jax.reproducing.claims import Point, Table
from s1jax.reproducing.measured import Figure
from s1jax.reproducing.plan import BASE, NATURAL, OURS, PANELS, SEARCH, VOTES

BLUE = STYLES["BF"][0]
_DASHED = (0, (4, 2))
_SETS = (BLUE, "#e69f00", "#009e73", "#cc79a7", "#767676")


def plot(table: Table, workdir: Path) -> None:
    """Draws a table's picture as PNG, if it has one. UserError if it cannot be written."""
    if table.picture:
        save_figure(_DRAWN[table.name](table), workdir / table.picture)


def _figure(columns: int, width: float, height: float, **how: Any) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False, **how).flat)


def _bars(axes: Any, points: Sequence[tuple[float, Figure]], color: str, **how: Any) -> None:
    """Points with their intervals; the range over the seeds is a wide faint line behind."""
    for x, figure in points:
        axes.plot((x, x), (figure.least, figure.most), color=color, lw=6, alpha=0.18, zorder=1)
        axes.plot((x, x), (figure.low, figure.high), color=color, lw=1.2, alpha=0.7, marker="_")
    xs, ys = [x for x, _ in points], [figure.value for _, figure in points]
    axes.plot(xs, ys, color=color, **marker_style("o", False) | how)


def _tokens_axis(axes: Any, label: str = "mean tokens of thinking") -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    ticks = [2.0**n for n in range(20)]
    low, high = axes.get_xlim()
    if high / low < 8:  # with two or three of them a reader is lost
        ticks += [1.25 * tick for tick in ticks] + [1.5 * tick for tick in ticks]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def _percent_axis(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_ylabel("accuracy, with its 95% interval")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}%"))
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    dress(axes, "both", ("bottom", "left"))


def _places(points: Sequence[Point]) -> list[tuple[float, Figure]]:
    # No length of 0 has a place on a logarithmic axis.
    return sorted(((max(p.tokens, 1.0), p.accuracy) for p in points), key=lambda pair: pair[0])


# --- Each picture ---


def draw_figure1(table: Table) -> Any:
    """Three panels as in the paper: cut short (filled), extended (hollow), the base in grey."""
    figure, panels = _figure(len(PANELS), 4.4 * len(PANELS), 4.2)
    for axes, task in zip(panels, PANELS, strict=True):
        for model, color in ((BASE, BASE_COLOR), (OURS, BLUE)):
            own = [p for p in table.points if (p.task, p.model) == (task, model)]
            cut = [p for p in own if not p.run.startswith("ignore-")]
            free = [p for p in own if p.run == NATURAL]
            name = "tuned" if model == OURS else "base"
            _bars(axes, _places(cut), color, ls="-", label=f"{name}, cut short or free")
            extended = [*free, *(p for p in own if p not in cut)]
            hollow = {"ls": _DASHED, "mfc": "white", "zorder": 3}
            _bars(axes, _places(extended), color, label=f"{name}, ends ignored", **hollow)
            _bars(axes, _places(free), color)
        set_title(axes, task)
        _tokens_axis(axes)
        _percent_axis(axes)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_table2(table: Table) -> Any:
    """Bars a training set with their intervals, over the mean and each family."""
    tasks = list(dict.fromkeys(p.task for p in table.points))
    models = list(dict.fromkeys(p.model for p in table.points))
    figure, (axes,) = _figure(1, 11, 4.2)
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        color = _SETS[number % len(_SETS)]
        own = {p.task: p.accuracy for p in table.points if p.model == model}
        xs = [at + (number - (len(models) - 1) / 2) * width for at in range(len(tasks))]
        heights = [own[task].value for task in tasks]
        axes.bar(xs, heights, 0.92 * width, color=color, alpha=0.75, label=model)
        for x, task in zip(xs, tasks, strict=True):
            axes.plot((x, x), (own[task].low, own[task].high), color="black", lw=1.1)
    axes.set_xticks(range(len(tasks)), tasks)
    _percent_axis(axes)
    figure.legend(loc="outside lower center", ncols=len(models), frameon=False)
    return figure


def draw_methods(table: Table) -> Any:
    """The metrics, a row a method; a slope beyond what is drawn is told as a number."""
    metrics = table.more["metrics"]
    titles = {
        "control": "Control, %",
        "scaling": "Scaling, points per doubling",
        "line": "line, points per doubling",
        "performance": "Performance, %",
    }
    figure, panels = _figure(len(titles), 14, 4, sharey=True)
    for axes, (metric, title) in zip(panels, titles.items(), strict=True):
        set_title(axes, title)
        slope = metric in ("scaling", "line")
        for y, (name, of) in enumerate(metrics.items()):
            if of[metric] is not None:
                _metric(axes, y, name, of[metric], WIDEST if slope else math.inf)
        if slope:
            axes.axvline(0, color="#999999", lw=0.9, zorder=0)
        dress(axes, "x", ("bottom",))
        axes.set_yticks(range(len(metrics)), list(metrics))
    panels[0].invert_yaxis()
    return figure


def _metric(axes: Any, y: int, name: str, found: Figure, widest: float) -> None:
    color, shape = STYLES[name]
    value, low, high, least, most = (
        min(max(x, -widest), widest)
        for x in (found.value, found.low, found.high, found.least, found.most)
    )
    axes.plot((least, most), (y, y), color=color, lw=6, alpha=0.18)
    axes.plot((low, high), (y, y), color=color, lw=1.4, marker="|")
    axes.plot(value, y, color=color, **marker_style(shape, value != found.value))
    if value != found.value:
        axes.annotate(f"{found.value:+.0f}", (value, y), (0, 8), textcoords="offset points")


def draw_parallel(table: Table) -> Any:
    """Accuracy against all tokens of thinking: one after the other, and side by side."""
    figure, (axes,) = _figure(1, 7.5, 4.6)
    votes = [p for p in table.points if p.run.startswith(VOTES)]
    rest = [p for p in table.points if not p.run.startswith(VOTES)]
    _bars(axes, _places(rest), BLUE, ls="-", label="budget forcing: ends ignored")
    color = STYLES["majority"][0]
    _bars(axes, _places(votes), color, ls="-", marker="*", ms=9, label="majority of samples")
    set_title(axes, SEARCH)
    _tokens_axis(axes, "mean tokens of thinking, all samples together")
    _percent_axis(axes)
    axes.legend(frameon=False)
    return figure


def draw_ablation(table: Table) -> Any:
    """A curve a teacher: how much ignored ends add."""
    figure, (axes,) = _figure(1, 7.5, 4.6)
    stops = sorted(table.more["stops"].items(), key=lambda pair: pair[1])
    for (model, value), color in zip(stops, itertools.cycle(_SETS[1:]), strict=False):
        own = [p for p in table.points if p.model == model]
        color = BLUE if model == OURS else color
        note = " (the teacher as it is)" if model == OURS else ""
        _bars(axes, _places(own), color, ls="-", label=f"gives up with {value:g}{note}")
    set_title(axes, f"{SEARCH}: from natural to the most ignored ends")
    _tokens_axis(axes)
    _percent_axis(axes)
    axes.legend(frameon=False)
    return figure


_DRAWN: dict[str, Callable[[Table], Any]] = {
    "figure1": draw_figure1,
    "table2": draw_table2,
    "table3": draw_methods,
    "parallel": draw_parallel,
    "ablation": draw_ablation,
}
