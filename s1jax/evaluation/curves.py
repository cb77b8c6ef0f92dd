"""The picture that s1 is about: accuracy against thinking; and the style of all pictures here.

Reference: paper, figures 1 and 6. Names of runs come from config and are drawn as they are, never
as mathtext.
"""

import math
import warnings
from typing import Any

from s1jax.data.report import DPI, GREY, dress, one_line
from s1jax.evaluation.paper import PAPER
from s1jax.evaluation.placing import place_labels
from s1jax.evaluation.results import BASE, MODEL, Results, RunResult

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
}
BASE_COLOR = "#767676"
PAPER_COLOR = "#b5b5b5"
_DASHED, _DOTTED = (0, (4, 2)), (0, (1, 1.5))


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
        curves = _curves(axes, runs, handles)
        _limits(axes, runs, faint)
        axes.set_xlabel("mean tokens of thinking", fontsize=10)
        axes.set_ylabel("accuracy, with its 95% interval", fontsize=10)
        dress(axes, "both", ("bottom", "left"))
        axes.yaxis.set_major_formatter(lambda percent, _: f"{percent:g}%")
        drawn.append((axes, runs, curves))
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
        for axes, runs, curves in drawn:
            named = [run for run in runs if run.model == MODEL]
            place_labels(
                axes,
                [(*_point(r), one_line(r.run, 24), STYLES[r.method][0]) for r in named],
                markers=[_point(run) for run in runs],
                bars=[(_point(r)[0], r.accuracy.low, r.accuracy.high) for r in runs],
                lines=curves,
                size=8.5,
            )
    return figure


def _ordered(handles: dict[str, Any]) -> list[Any]:
    """The legend's lines: this evaluation's in their order, then the paper's."""
    paper = handles.pop("", None)
    return [*handles.values(), *([paper] if paper else [])]


def is_extended(run: RunResult) -> bool:
    """Whether its thinking was made longer, by ignored ends, than the model would have it."""
    return bool(run.asked.get("ignore_ends") or run.ends_ignored)


def _curves(axes: Any, runs: list[RunResult], handles: dict[str, Any]) -> list[Any]:
    """Draws each method of each model as a line; returns the lines' points."""
    lines = []
    for model, method in dict.fromkeys((run.model, run.method) for run in runs):
        own = [run for run in runs if (run.model, run.method) == (model, method)]
        own.sort(key=lambda run: run.thinking_tokens)
        color, shape = STYLES[method]
        style: Any = "-"
        name = method
        if model == BASE:
            color, style, name = BASE_COLOR, _DOTTED, f"{method}, base model"
        for run in own:
            x, y = _point(run)
            ends = (run.accuracy.low, run.accuracy.high)
            axes.plot((x, x), ends, color=color, lw=1.1, alpha=0.4, marker="_", ms=5)
            axes.plot(x, y, color=color, **marker_style(shape, is_extended(run)))
        # Each piece with its points: the extended half goes on from the freest run of the other.
        cut, extended = ([run for run in own if is_extended(run) == side] for side in (False, True))
        if cut:
            half = ", cut short or free" if extended else ""
            handles.setdefault(name, legend_line(name + half, color, style, shape, False))
        if extended:
            what = f"{name}, extended: ends ignored"
            dashes = style if model == BASE else _DASHED
            handles.setdefault(what, legend_line(what, color, dashes, shape, True))
            lines.append(_line(axes, [*_freest(cut), *extended], color, dashes))
        lines.append(_line(axes, cut, color, style))
        if len(own) == 1 and model == BASE:  # it is what all others are held against
            axes.axhline(own[0].accuracy.value, color=color, ls=_DOTTED, lw=1)
    return lines


def _freest(runs: list[RunResult]) -> list[RunResult]:
    """The run whose budget is the largest, or that has none; of several the last."""
    ordered = sorted(runs, key=lambda run: run.asked.get("max_thinking_tokens") or math.inf)
    return ordered[-1:]


def _line(axes: Any, runs: list[RunResult], color: str, style: Any) -> list[tuple[float, float]]:
    points = [_point(run) for run in runs]
    axes.plot([x for x, _ in points], [y for _, y in points], color=color, ls=style, lw=1.8)
    return points


def _paper_curves(
    axes: Any, task: str, runs: list[RunResult], handles: dict[str, Any]
) -> list[tuple[float, float]]:
    """Draws the paper's points of the methods that were run here; budget forcing always."""
    points: list[tuple[float, float]] = []
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


def _limits(axes: Any, runs: list[RunResult], faint: list[tuple[float, float]]) -> None:
    """The scales: doublings of tokens, of which two are seen at least; room for the whiskers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    xs = [math.log2(x) for x, _ in [*map(_point, runs), *faint]]
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
    ends = [y for run in runs for y in (run.accuracy.low, run.accuracy.high, run.accuracy.value)]
    ends += [y for _, y in faint]
    low, high = min(ends), max(ends)
    spare = max(0.07 * (high - low), (12 - (high - low)) / 2)
    top = min(max(high + spare, 8), 104)
    axes.set_ylim(max(low - spare, -0.08 * top), top)  # below 0% there is room for names alone


def _point(run: RunResult) -> tuple[float, float]:
    # No length of 0 has a place on a logarithmic axis.
    return max(run.thinking_tokens, 1.0), run.accuracy.value


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
