"""The picture that s1 is about: accuracy against thinking; and the style of all pictures here.

Reference: paper, figures 1 and 6. Names of runs come from config and are drawn as they are, never
as mathtext.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any

from s1jax.data.report import DPI, GREY, dress, one_line
from s1jax.evaluation.paper import PAPER
from s1jax.evaluation.placing import place_labels
from s1jax.evaluation.results import BASE, MODEL, Results, RunResult, only_decoded

# Color (Okabe and Ito's, for all eyes) and marker: either alone tells the methods apart.
STYLES = {
    "BF": ("#0072b2", "o"),
    "TCC": ("#e69f00", "s"),
    "TCC+BF": ("#d55e00", "D"),
    "SCC": ("#009e73", "^"),
    "SCC+BF": ("#00614a", "v"),
    "CCC": ("#cc79a7", "P"),
    "RS": ("#7b4ea3", "X"),
    "majority": ("#8c6d1f", "*"),
    "plain": ("#333333", "h"),
    "other": ("#8b1e3f", "p"),
}
BASE_COLOR = "#767676"
PAPER_COLOR = "#b5b5b5"
_DASHED, _DOTTED = (0, (4, 2)), (0, (1, 1.5))
_Point = tuple[float, float]
_Places = dict[tuple[str, str], _Point]  # by model and name of a task's run


def draw_scaling(results: Results) -> Any:
    """The Figure of `plot_scaling()`: a panel a task, the base model in grey, the paper faint."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    tasks = [task for task in results.tasks if any(run.task == task for run in results.runs)]
    figure, panels = make_panels(len(tasks), 5.0, 4.6)
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    drawn = []
    for axes, task in zip(panels, tasks, strict=True):
        runs = [run for run in results.runs if run.task == task]
        questions = results.tasks[task]
        set_title(axes, f"{one_line(task, 40)}, {questions:,} question{'s' * (questions != 1)}")
        faint = _paper_curves(axes, task, runs, handles)
        places = _places(runs)
        curves = _curves(axes, runs, places, handles)
        _limits(axes, runs, [*places.values(), *faint])
        axes.set_xlabel("mean tokens of thinking", fontsize=10)
        axes.set_ylabel("accuracy, with its 95% interval", fontsize=10)
        dress(axes, "both", ("bottom", "left"))
        axes.yaxis.set_major_formatter(lambda percent, _: f"{percent:g}%")
        drawn.append((axes, runs, places, curves))
    if not tasks:
        return draw_nothing(figure, "There are no runs to draw.")
    figure.legend(
        handles=_ordered(handles),
        loc="outside lower center",
        ncols=2 if len(tasks) == 1 else 3,
        frameon=False,
        fontsize=9.5,
    )
    with warnings.catch_warnings():
        # A letter that the font lacks is a box in the picture, which says it well enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # Names are placed in pixels, so that the axes must have their places.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes, runs, places, curves in drawn:
            named = [run for run in runs if run.model == MODEL]
            place_labels(
                axes,
                [(*places[_key(r)], one_line(r.run, 24), STYLES[r.method][0]) for r in named],
                markers=list(places.values()),
                bars=[(places[_key(r)][0], r.accuracy.low, r.accuracy.high) for r in runs],
                lines=curves,
                size=8.5,
            )
    return figure


def _ordered(handles: dict[str, Any]) -> list[Any]:
    """The legend's lines: this evaluation's in their order, then the paper's."""
    paper = handles.pop("", None)
    return [*handles.values(), *([paper] if paper else [])]


def _by_curve(runs: Iterable[RunResult]) -> dict[tuple[str, str], list[RunResult]]:
    """The runs of one task by model and method."""
    curves: dict[tuple[str, str], list[RunResult]] = {}
    for run in runs:
        curves.setdefault((run.model, run.method), []).append(run)
    return curves


def _places(runs: list[RunResult]) -> _Places:
    """Where each run is: at its thinking by s1's count, or as decoded if its curve has no other."""
    places = {}
    for own in _by_curve(runs).values():
        decoded = only_decoded(own)
        for run in own:
            tokens = run.used_tokens if decoded else run.thinking_tokens
            # No length of 0 has a place on a logarithmic axis.
            places[_key(run)] = max(tokens, 1.0), run.accuracy.value
    return places


def _key(run: RunResult) -> tuple[str, str]:
    return run.model, run.run


def _curves(
    axes: Any, runs: list[RunResult], places: _Places, handles: dict[str, Any]
) -> list[list[_Point]]:
    """Draws each method of each model as a line; returns the lines' points."""
    lines = []
    for (model, method), own in _by_curve(runs).items():
        own.sort(key=lambda run: places[_key(run)][0])
        color, shape = STYLES[method]
        style: Any = "none" if method == "other" else "-"
        name = method
        if model == BASE:
            name = f"{method}, base model"
            color, style = BASE_COLOR, "none" if method == "other" else _DOTTED
        note = " (as decoded)" if only_decoded(own) else ""
        for run in own:
            x, y = places[_key(run)]
            ends = (run.accuracy.low, run.accuracy.high)
            axes.plot((x, x), ends, color=color, lw=1.1, alpha=0.4, marker="_", ms=5)
            axes.plot(x, y, color=color, **marker_style(shape, run.part == "extended"))
        # Each piece with its points: the extended half goes on from the freest run of the other.
        cut = [run for run in own if run.part != "extended"]
        extended = [run for run in own if run.part == "extended"]
        if cut:
            half = ", cut short or free" if extended else ""
            line = legend_line(f"{name}{half}{note}", color, style, shape, False)
            handles.setdefault(name + note, line)
            lines.append(_line(axes, [places[_key(run)] for run in cut], color, style))
        if extended:
            what = f"{name}, extended: ends ignored{note}"
            dashes = style if model == BASE else _DASHED
            handles.setdefault(what, legend_line(what, color, dashes, shape, True))
            joined = [places[_key(run)] for run in [*_freest(cut), *extended]]
            lines.append(_line(axes, joined, color, dashes))
        if len(own) == 1 and model == BASE:  # it is what all others are held against
            axes.axhline(own[0].accuracy.value, color=color, ls=_DOTTED, lw=1)
    return lines


def _freest(runs: list[RunResult]) -> list[RunResult]:
    """The free run, else that of the largest budget; of several the last."""
    ordered = sorted(runs, key=lambda run: (run.part == "free", run.budget or math.inf))
    return ordered[-1:]


def _line(axes: Any, points: list[_Point], color: str, style: Any) -> list[_Point]:
    if style == "none":  # single points
        return []
    axes.plot([x for x, _ in points], [y for _, y in points], color=color, ls=style, lw=1.8)
    return points


def _paper_curves(
    axes: Any, task: str, runs: list[RunResult], handles: dict[str, Any]
) -> list[_Point]:
    """Draws the paper's points of the methods that were run here; budget forcing always."""
    points: list[_Point] = []
    for method, curve in PAPER.get(task, {}).items():
        if method != "BF" and all(run.method != method for run in runs):
            continue
        color, shape = STYLES[method]
        xs, ys = zip(*sorted(curve), strict=True)
        axes.plot(xs, ys, color=color, marker=shape, ms=4, lw=1, alpha=0.3, mew=0, zorder=1)
        points += curve
    if points:
        handles.setdefault(
            "", legend_line("faint: the paper's s1-32B", PAPER_COLOR, "-", "o", False)
        )
    return points


def _limits(axes: Any, runs: list[RunResult], points: list[_Point]) -> None:
    """The scales: doublings of tokens, of which two are seen at least; room for the whiskers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    xs = [math.log2(x) for x, _ in points]
    left, right = min(xs), max(xs)
    room = max(0.08 * (right - left), (2 - (right - left)) / 2, 0.35)
    left, right = left - room, right + room
    axes.set_xlim(2**left, 2**right)
    step = math.ceil((right - left) / 7)
    powers = range(math.floor(left), math.ceil(right) + 1)
    ticks = [2.0**n for n in powers if n % step == 0]
    if right - left < 3.5 and left > 1:  # with two or three of them a reader is lost
        ticks += [1.5 * tick for tick in ticks]
    axes.xaxis.set_major_locator(FixedLocator([t for t in ticks if 2**left <= t <= 2**right]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,g}"))
    ends = [y for run in runs for y in (run.accuracy.low, run.accuracy.high)]
    ends += [y for _, y in points]
    low, high = min(ends), max(ends)
    spare = max(0.07 * (high - low), (12 - (high - low)) / 2)
    top = min(max(high + spare, 8), 104)
    axes.set_ylim(max(low - spare, -0.08 * top), top)  # below 0% there is room for names alone


# --- Style ---


def marker_style(shape: str, hollow: bool) -> dict[str, Any]:
    """How `plot` draws a marker: filled, or hollow."""
    size = 9 if shape in "*PX" else 7
    inner = {"mfc": "white"} if hollow else {}
    return {"marker": shape, "ms": size, "mew": 1.5, "ls": "none", "zorder": 4, **inner}


def legend_line(name: str, color: str, style: Any, shape: str, hollow: bool) -> Any:
    """A line of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, label=name, **marker_style(shape, hollow) | {"ls": style})


def make_panels(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure with so many axes, two beside each other; a single one is given more room."""
    from matplotlib.figure import Figure

    columns = 1 if count <= 1 else 2
    rows = max(1, -(-count // columns))
    size = (8 if columns == 1 else 2 * width, rows * height + 0.7)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


def draw_nothing(figure: Any, why: str) -> Any:
    """The figure with a sentence in it."""
    figure.text(0.04, 0.5, why, fontsize=11, color=GREY)
    return figure


def set_title(axes: Any, text: str) -> None:
    """Writes a title, whatever is in the text."""
    axes.set_title(text, loc="left", fontsize=11.5, weight="bold", parse_math=False)
