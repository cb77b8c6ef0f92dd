"""Where the names of points go in a plot: beside their points, and on nothing else."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# What it costs a label to lie on something. On another label it never does.
ON_MARKER, ON_BAR, ON_LINE, ONE_RING_OUT = 8.0, 2.0, 1.5, 3.0
_RINGS = (7, 17, 29, 43)  # points of type from the marker
# Beside it first: above and below are the whiskers.
_SIDES = ((1, -0.5), (-1, 0.5), (1, 0.5), (-1, -0.5), (1, 0), (-1, 0), (0, 1), (0, -1))

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


def place_labels(
    axes: Any,
    labels: Sequence[tuple[float, float, str, str]],
    *,
    markers: Sequence[tuple[float, float]],
    bars: Sequence[tuple[float, float, float]],
    lines: Sequence[Sequence[tuple[float, float]]],
    size: float,
) -> None:
    """Writes each text near its point: (x, y, text, color), where it covers least.

    The limits of the axes must be final, and so must their place in the figure. A label for which
    there is no place free of others is left out. `bars` are x, low, high.
    """
    from matplotlib.patheffects import withStroke

    unit = axes.figure.dpi / 72

    def pixels(point: tuple[float, float]) -> tuple[float, float]:
        x, y = axes.transData.transform(point)
        return float(x), float(y)

    obstacles = [(_around(pixels(point), 5 * unit), ON_MARKER) for point in markers]
    for x, low, high in bars:
        bottom, top = pixels((x, low)), pixels((x, high))
        obstacles.append(((bottom[0] - 2, bottom[1], bottom[0] + 2, top[1]), ON_BAR))
    for line in lines:
        for start, end in itertools.pairwise(map(pixels, line)):
            steps = max(2, int(math.dist(start, end) / (6 * unit)))
            xs, ys = (
                np.linspace(*pair, steps + 1).tolist() for pair in zip(start, end, strict=True)
            )
            obstacles += [(_around(point, unit), ON_LINE) for point in zip(xs, ys, strict=True)]
    inside = axes.get_window_extent()
    least_x, least_y, most_x, most_y = map(float, inside.extents)
    frame = (least_x + 2, least_y + 2, most_x - 2, most_y - 2)
    boxes = np.array([box for box, _ in obstacles]).reshape(-1, 4)
    prices = np.array([price for _, price in obstacles])
    written: list[Box] = []
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for x, y, name, color in labels:
        text = axes.annotate(
            name,
            (x, y),
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color=color,
            parse_math=False,
            path_effects=halo,
            zorder=6,
            in_layout=False,
        )
        box = text.get_window_extent(axes.figure.canvas.get_renderer())
        extent = float(box.width), float(box.height)
        found = _best(pixels((x, y)), *extent, unit, frame, written, boxes, prices)
        if found is None:
            text.remove()
            continue
        (aside, up), ring, place = found
        written.append(place)
        text.set_position((aside / unit, up / unit))
        if ring:
            _leader(axes, (x, y), (aside / unit, up / unit), color)


def _best(
    point: tuple[float, float],
    width: float,
    height: float,
    unit: float,
    frame: Box,
    written: list[Box],
    obstacles: np.ndarray,
    prices: np.ndarray,
) -> tuple[tuple[float, float], int, Box] | None:
    """The cheapest place for a label: how far its centre is from the point, ring and box."""
    best, least = None, math.inf
    for order, (away, (side, up)) in enumerate(itertools.product(range(len(_RINGS)), _SIDES)):
        radius = _RINGS[away] * unit
        right = side * (radius + width / 2)
        # Beside the marker a little up or down is enough; further out it must be more.
        rise = up * (radius + height / 2) if away or not side else up * (height + 4 * unit)
        x, y = point[0] + right, point[1] + rise
        box = (x - width / 2 - 2, y - height / 2 - 1, x + width / 2 + 2, y + height / 2 + 1)
        beyond = box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]
        if beyond or _meet(box, np.array(written).reshape(-1, 4)).any():
            continue
        cost = away * ONE_RING_OUT + 0.01 * order
        cost += float(prices[_meet(box, obstacles)].sum())
        if cost < least:
            best, least = ((right, rise), away, box), cost
    return best


def _leader(axes: Any, point: tuple[float, float], label: tuple[float, float], color: str) -> None:
    """A thin line from a point to its label that stands further off."""
    axes.annotate(
        "",
        point,
        label,
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6, "alpha": 0.6, "shrinkB": 4},
        zorder=2,
        in_layout=False,
    )


def _around(point: tuple[float, float], radius: float) -> Box:
    return point[0] - radius, point[1] - radius, point[0] + radius, point[1] + radius


def _meet(box: Box, others: np.ndarray) -> np.ndarray:
    """Which of the others, rows of such boxes, it has a piece of."""
    left, bottom, right, top = others.T
    return (box[0] < right) & (left < box[2]) & (box[1] < top) & (bottom < box[3])
