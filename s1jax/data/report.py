"""What a curation tells its reader: pictures of the funnel, the domains and the lengths; tables.

Names of domains, sources and reasons come from data. In pictures they are drawn as they are, never
as mathtext (a subject is called "$K$-theory"); in tables they cannot end a cell or begin a tag.
Reference: paper, tables 6 and 7.
"""

import math
import re
import statistics
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s1jax.data.funnel import Pick, Stage
from s1jax.types import UserError

DARK, LIGHT, GREY = "#1f4e79", "#9db7d5", "#6b6b6b"
DROPPED, DROPPED_LIGHT = "#b0532a", "#f0d9cd"
DPI = 150
REASONS = 3  # lines beside a bar
SOURCES = 3  # beside a domain
LOGARITHMIC_FROM = 30  # the longest so many times the shortest

# --- Pictures ---


def plot_funnel(funnel: Sequence[Stage], path: Path) -> None:
    """Draws as PNG what is left after each stage, and why the rest is not.

    Raises UserError, as the other pictures do, if the file cannot be written.
    """
    save_figure(draw_funnel(funnel), path)


def plot_domains(candidates: Mapping[str, int], picked: Mapping[str, int], path: Path) -> None:
    """Draws as PNG each domain's share of the candidates and of the picked, by their counts."""
    save_figure(draw_domains(candidates, picked), path)


def plot_lengths(candidates: Sequence[int], picked: Sequence[int], path: Path) -> None:
    """Draws as PNG how long the thinking is, in tokens, of the candidates and of the picked."""
    save_figure(draw_lengths(candidates, picked), path)


def draw_funnel(funnel: Sequence[Stage]) -> Any:
    """The Figure of `plot_funnel()`: a table with a row a stage, and a bar in each."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = [(stage.name, stage.before, stage.after, _reasons(stage)) for stage in funnel]
    if funnel:
        rows.insert(0, ("pool", funnel[0].before, funnel[0].before, []))
    name_x, left_x, share_x, bar_x, bar_width, count_x, why_x = 0.3, 2.6, 3.3, 3.5, 3.85, 8.2, 8.35
    row_height, bar_height, head, width = 0.56, 0.36, 1.05, 12.0
    height = head + row_height * max(len(rows), 1) + 0.15
    figure = Figure(figsize=(width, height), dpi=DPI)
    # In inches from the upper left corner: the columns keep their places whatever the counts are.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()

    def write(x: float, y: float, text: str, size: float, color: str, **how: Any) -> None:
        axes.text(x, y, text, fontsize=size, color=color, va="center", parse_math=False, **how)

    if not rows:
        write(name_x, 0.4, "There are no stages to draw.", 11, GREY)
        return figure
    total, end = rows[0][1], rows[-1][2]
    title = f"{total:,} {_plural(total, 'question')}, {end:,} left"
    write(name_x, 0.36, title, 14, DARK, weight="bold")
    for x, heading, side in (
        (left_x, "left", "right"),
        (share_x, "share", "right"),
        (why_x, "dropped", "left"),
    ):
        write(x, head - 0.2, heading, 8.5, GREY, ha=side)
    axes.plot((name_x, width - name_x), (head - 0.04,) * 2, color="#cccccc", linewidth=0.8)
    for number, (name, before, after, reasons) in enumerate(rows):
        y = head + row_height * (number + 0.5)
        write(name_x, y, one_line(name, 16), 11, "black")
        write(left_x, y, f"{after:,}", 11, DARK, ha="right", weight="bold")
        write(share_x, y, _percent(after, total), 9, GREY, ha="right")
        for start, stop, color in ((0, after, DARK), (after, before, DROPPED_LIGHT)):
            x, length = (bar_width * count / max(total, 1) for count in (start, stop - start))
            bar = Rectangle((bar_x + x, y - bar_height / 2), length, bar_height, color=color, lw=0)
            axes.add_patch(bar)
        for line, (count, why) in enumerate(reasons):
            line_y = y + 0.165 * (line - (len(reasons) - 1) / 2)
            write(count_x, line_y, f"\N{MINUS SIGN}{count:,}", 8, DROPPED, ha="right")
            write(why_x, line_y, why, 8, GREY)
    return figure


def _reasons(stage: Stage) -> list[tuple[int, str]]:
    """The commonest reasons with their counts, few enough for a row; the others together."""
    reasons = [(count, one_line(why, 52)) for why, count in stage.reasons.items()]
    if len(reasons) <= REASONS:
        return reasons
    others = reasons[REASONS - 1 :]
    return [*reasons[: REASONS - 1], (sum(n for n, _ in others), f"{len(others)} other reasons")]


def draw_domains(candidates: Mapping[str, int], picked: Mapping[str, int]) -> Any:
    """The Figure of `plot_domains()`: a row a domain, with two dots; most picked on top."""
    from matplotlib.figure import Figure

    def counts(domain: str) -> tuple[int, int]:
        return picked.get(domain, 0), candidates.get(domain, 0)

    domains = [domain for domain in {**candidates, **picked} if any(counts(domain))]
    domains.sort(key=lambda domain: (*(-count for count in counts(domain)), domain))
    rows = range(len(domains))
    figure = Figure(figsize=(10, 1.3 + 0.26 * max(len(domains), 2)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    totals = [sum(picked.values()), sum(candidates.values())]
    mine, theirs = (
        [counts(domain)[side] / max(total, 1) for domain in domains]
        for side, total in enumerate(totals)
    )
    axes.hlines(rows, theirs, mine, color="#cccccc", linewidth=1.5)
    # Not clipped: half of a dot at 0 would be lost.
    style: dict[str, Any] = {"s": 34, "linewidths": 1.8, "zorder": 3, "clip_on": False}
    axes.scatter(
        theirs, rows, c="white", edgecolors=LIGHT, label=f"of {totals[1]:,} candidates", **style
    )
    axes.scatter(mine, rows, c=DARK, label=f"of {totals[0]:,} selected", **style)
    axes.set_yticks(rows, [one_line(name, 58) for name in domains], fontsize=9, parse_math=False)
    for row, domain in enumerate(domains):
        taken, there = counts(domain)
        axes.annotate(
            f"{taken:,} of {there:,}",
            (1, row),
            (8, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=GREY,
        )
    axes.set_xlim(0, 1.05 * max([*mine, *theirs, 0.01]))
    axes.set_ylim(max(len(domains), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, pad=9)
    axes.set_xlabel("share of the questions")
    dress(axes, grid="both", keep=("bottom",))
    _per_cent(axes.xaxis)
    if domains:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, frameon=False)
    return figure


def draw_lengths(candidates: Sequence[int], picked: Sequence[int]) -> Any:
    """The Figure of `plot_lengths()`: two histograms over the same bins, as shares of each."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    figure = Figure(figsize=(8, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    edges, logarithmic = _bins(candidates, picked)
    filled, outline = {"histtype": "stepfilled"}, {"histtype": "step", "linewidth": 2}
    for lengths, name, color, style in (
        (candidates, "candidates", LIGHT, filled),
        (picked, "selected", DARK, outline),
    ):
        if not lengths:
            continue
        median = statistics.median(lengths)
        axes.hist(
            np.maximum(lengths, edges[0]),  # no length of 0 has a place on a logarithmic axis
            edges,
            weights=np.full(len(lengths), 1 / len(lengths)),
            color=color,
            label=f"{len(lengths):,} {name}, median {median:,.0f}",
            **style,
        )
        ink = "#5f82a8" if color == LIGHT else color  # to be seen on its own bars
        axes.axvline(median, color=ink, linewidth=1.5, linestyle=(0, (4, 2)))
    if logarithmic:
        axes.set_xscale("log")
        # Three labels a decade have room in three decades.
        labels = (1, 2, 5) if edges[-1] < 2000 * edges[0] else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=labels))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("tokens of thinking")
    axes.set_ylabel("share of the questions")
    dress(axes, grid="y", keep=("bottom", "left"))
    _per_cent(axes.yaxis)
    if candidates or picked:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, frameon=False)
    return figure


def _bins(candidates: Sequence[int], picked: Sequence[int]) -> tuple[list[float], bool]:
    """The edges of bins for both, and whether the bins are of equal ratios."""
    lengths = [*candidates, *picked]
    least, most = min(lengths, default=0), max(lengths, default=9)
    fewest = min((len(some) for some in (candidates, picked) if some), default=0)
    bins = max(10, min(40, 2 * math.isqrt(fewest)))  # with more, those of a few are ragged
    if most >= LOGARITHMIC_FROM * max(least, 1):
        return np.geomspace(max(least, 1), most + 1, bins + 1).tolist(), True
    # Whole tokens a bin: otherwise some bins hold one more length than others, and stand out.
    width = -(-(most - least + 1) // bins)
    return np.arange(least - 0.5, most + width, width).tolist(), False


def dress(axes: Any, grid: str, keep: tuple[str, ...]) -> None:
    """Gives axes the look of all plots: grid lines, and these spines."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in keep)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _per_cent(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))


def save_figure(figure: Any, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with warnings.catch_warnings():
            # A letter that the font lacks is a box in the picture, which says it well enough.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(partial, format="png")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


# --- Tables, in Markdown ---


def stage_table(funnel: Sequence[Stage]) -> str:
    """The funnel: a row a stage, with all reasons of what was dropped."""
    rows = [
        [
            cell(stage.name),
            f"{stage.before:,}",
            f"{stage.after:,}",
            "; ".join(f"{cell(why)} ({count:,})" for why, count in stage.reasons.items()),
        ]
        for stage in funnel
    ]
    return table("stage", ["before", "after"], "dropped", rows)


def domain_table(picks: Sequence[Pick]) -> str:
    """The domains of the picked, the largest first, as in the paper's table 6.

    Instead of its keywords stand the commonest sources of each.
    """
    domains: dict[str, list[Pick]] = {}
    for pick in picks:
        domains.setdefault(pick.candidate.domain, []).append(pick)
    largest = sorted(domains.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    rows = [
        [cell(domain), f"{len(some):,}", f"{_thinking_tokens(some):,}", _common_sources(some)]
        for domain, some in largest
    ]
    rows.append(["all", f"{len(picks):,}", f"{_thinking_tokens(picks):,}", ""])
    return table("domain", ["questions", "tokens of thinking"], "commonest sources", rows)


def _thinking_tokens(picks: Sequence[Pick]) -> int:
    return sum(pick.candidate.thinking_tokens for pick in picks)


def _common_sources(picks: Sequence[Pick]) -> str:
    counts = Counter(pick.candidate.question.source_type for pick in picks)
    common = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [f"{cell(source) or 'not given'} ({count:,})" for source, count in common[:SOURCES]]
    return ", ".join([*parts, *([f"{len(common) - SOURCES} more"] if common[SOURCES:] else [])])


def source_table(
    sources: Mapping[str, int],
    kept: Mapping[str, int],
    selected: Mapping[str, int],
    tokens: Mapping[str, Sequence[int]],
) -> str:
    """What became of each source, in the order of `sources`, like the paper's table 7.

    By source: its rows, those that are left of them after the cleaning, those that were selected,
    and how long the thinking of its traces is.
    """
    names = list(dict.fromkeys([*sources, *kept, *selected, *tokens]))
    counts = (sources, kept, selected)

    def row(name: str, numbers: Sequence[int], lengths: Sequence[int]) -> list[str]:
        mean = f"{statistics.fmean(lengths):,.0f}" if lengths else ""
        return [name, *(f"{number:,}" for number in numbers), mean]

    rows = [
        row(cell(name), [count.get(name, 0) for count in counts], tokens.get(name, []))
        for name in names
    ]
    every = [length for name in names for length in tokens.get(name, [])]
    rows.append(row("all", [sum(count.values()) for count in counts], every))
    numbers = ["in the pool", "after cleaning", "selected", "mean tokens of thinking"]
    return table("source", numbers, None, rows)


def table(first: str, numbers: list[str], last: str | None, rows: Sequence[list[str]]) -> str:
    """A table: the heading of its first column, of those with numbers, of a last one with text."""
    texts = [last] if last else []
    head, rule = [first, *numbers, *texts], ["---", *["---:"] * len(numbers), *["---"] * len(texts)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *rows))


# --- Texts of others ---


def cell(text: str) -> str:
    r"""A text in one line of Markdown that shows it as it is: `a|b` becomes `a\|b`."""
    return re.sub(r"([\\`*\[\]<>|$~])", r"\\\1", one_line(text))


def one_line(text: str, most: int = 200) -> str:
    """A text without line breaks and control characters, cut to so many characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 10 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else noun + "s"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
