"""The paper's three metrics of a method, Control, Scaling and Performance, and what they are worth.

Reference: paper, section 3.2. Its printed equation divides by tokens, but the values of its table 3
are points per doubling: x is log2 of the mean thinking tokens. Both are here.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from s1jax.config import Decode
from s1jax.evaluation.measures import CELLS, interval, resampled_means
from s1jax.evaluation.results import Interval

Bounds = tuple[float | None, float | None]  # of thinking tokens: at least, at most
Point = tuple[float, float]  # mean thinking tokens, accuracy in percent

STEP_TOKENS = 100  # that an instructed step is allowed (paper, section 3.2)
SAME = 1e-9  # of two x: they differ by rounding at the most

# --- The metrics ---


def control(tokens: Sequence[float], bounds: Sequence[Bounds | None]) -> float | None:
    """How many percent of the runs stay, on average, within their bounds.

    Runs without bounds do not count; None if no run has any.
    """
    held = [
        (low is None or low <= used) and (high is None or used <= high)
        for used, (low, high) in (
            (used, limits) for used, limits in zip(tokens, bounds, strict=True) if limits
        )
    ]
    return 100 * sum(held) / len(held) if held else None


def scaling(points: Sequence[Point]) -> float | None:
    """Points of accuracy per doubling of the thinking: the mean slope over all pairs of runs.

    A pair whose runs think equally long has no slope and is left out, and so is a run without any
    thinking, which nothing doubles. None if no pair is left.
    """
    tokens, accuracies = _columns(points)
    return _or_none(float(_mean_slopes(_log2(tokens), accuracies)[0]))


def scaling_printed(points: Sequence[Point]) -> float | None:
    """Equation 2 as the paper prints it: the mean slope over pairs, in points per 1,000 tokens."""
    tokens, accuracies = _columns(points)
    return _or_none(float(_mean_slopes(tokens / 1000, accuracies)[0]))


def performance(points: Sequence[Point]) -> float:
    """The accuracy of the best run."""
    return max(accuracy for _, accuracy in points)


def bounds_of(decode: Decode, method: str, free_tokens: float | None = None) -> Bounds | None:
    """What a run is told to keep its thinking tokens to; None if it is told nothing.

    As the paper has it: the tokens that a prompt asks for, 100 for each step, shorter or longer
    than the free run (whose mean is given), else the limits of budget forcing or rejection.
    """
    if not decode.thinking:
        return None
    if method.startswith("TCC") and decode.prompt_tokens is not None:
        return None, float(decode.prompt_tokens)
    if method.startswith("SCC") and decode.prompt_steps is not None:
        return None, float(STEP_TOKENS * decode.prompt_steps)
    if method == "CCC":
        if decode.prompt_class is None or free_tokens is None:
            return None
        # Next to it: as long as the free run is neither shorter nor longer.
        if decode.prompt_class == "short":
            return None, math.nextafter(free_tokens, -math.inf)
        return math.nextafter(free_tokens, math.inf), None
    least = decode.min_thinking_tokens if decode.min_thinking_tokens > 1 else 0  # see extends()
    most = decode.max_thinking_tokens
    if not least and most is None:
        return None
    return float(least) if least else None, None if most is None else float(most)


def extends(decode: Decode) -> bool:
    """Whether it makes thinking longer than the model would have it."""
    # One token at the least is how a sweep lets all its runs share a generation; it extends none.
    return decode.thinking and (decode.ignore_ends > 0 or decode.min_thinking_tokens > 1)


def is_free(decode: Decode) -> bool:
    """Whether it asks for no length: what ends the thinking is the model, or else the budget."""
    told = decode.prompt_tokens or decode.prompt_steps or decode.prompt_class
    return decode.thinking and not extends(decode) and not told


# --- What a slope is worth at this number of questions ---


def scaling_interval(
    accuracies: Float[np.ndarray, "Q N"],
    tokens: Float[np.ndarray, "Q N"],
    resamples: int,
    seed: int,
) -> Interval | None:
    """`scaling()` of the runs (a column each) with its 95% interval; None where it has no value.

    Given are a question's percent right and its mean thinking tokens. A resample draws questions,
    the same for all runs, and computes every run's two means from them.
    """
    return _bootstrapped(_mean_slopes, accuracies, tokens, resamples, seed)


def line_interval(
    accuracies: Float[np.ndarray, "Q N"],
    tokens: Float[np.ndarray, "Q N"],
    resamples: int,
    seed: int,
) -> Interval | None:
    """The slope of the least squares line through the runs, otherwise as `scaling_interval()`.

    It is the mean over pairs too, each weighted by its distance squared, so that it stays calm
    where two runs think almost equally long.
    """
    return _bootstrapped(_line_slopes, accuracies, tokens, resamples, seed)


def _bootstrapped(
    slopes_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    accuracies: Float[np.ndarray, "Q N"],
    tokens: Float[np.ndarray, "Q N"],
    resamples: int,
    seed: int,
) -> Interval | None:
    value = float(slopes_of(_log2(tokens.mean(0)[None]), accuracies.mean(0)[None])[0])
    if math.isnan(value):
        return None
    runs = tokens.shape[1]
    drawn = resampled_means(np.concatenate([tokens, accuracies], axis=1), resamples, seed)
    slopes = slopes_of(_log2(drawn[:, :runs]), drawn[:, runs:])
    return interval(value, slopes) if np.isfinite(slopes).any() else None


def slope_p(
    accuracies: Float[np.ndarray, "Q N"],
    tokens: Float[np.ndarray, "Q N"],
    resamples: int,
    seed: int,
) -> float | None:
    """The two-sided p of the slope if thinking changed nothing; None if there is no slope.

    Each question's outcomes are put in the order of their runs' thinking, or in the reverse order:
    if thinking changes nothing both are equally likely. That holds even for runs that are cuts of
    the same generation, where neighbours are alike (a permutation of all outcomes would take every
    lasting change for a trend). Of 2^questions such tables the p is the share whose slope is at
    least as steep, up or down: exactly where they are few, else among as many random ones as
    resamples. Where p is below a half, the reverse of all questions is a slope that is less steep,
    or goes the other way: a p that is small speaks for the direction that the slope has.

    The slope here is that of `line_interval()`: in Scaling itself two runs that think almost
    equally long outweigh all others, and a test of it would find nothing else.
    """
    x = _log2(tokens.mean(0))
    order = np.argsort(x, kind="stable")  # NaN last: runs without any thinking
    order = order[: int(np.isfinite(x).sum())]
    if len(order) < 2 or x[order[-1]] - x[order[0]] <= SAME:
        return None
    centred = x[order] - x[order].mean()
    # Slopes are told times a constant. Of a question's share reversing turns the sign of one part,
    # and leaves the other: where runs are not evenly apart a bend is some slope in either order.
    turned = accuracies[:, order] @ ((centred - centred[::-1]) / 2)
    kept = float((accuracies[:, order] @ ((centred + centred[::-1]) / 2)).sum())
    rounding = SAME * 100 * float(np.abs(centred).sum())
    turned = turned[np.abs(turned) > rounding]
    steep = abs(kept + float(turned.sum())) - rounding * len(accuracies)
    if 2 ** len(turned) <= resamples:
        every = np.array(list(itertools.product((-1.0, 1.0), repeat=len(turned))))
        return float((np.abs(kept + every @ turned) >= steep).mean())
    rng = np.random.default_rng(seed)
    found, step = 1, max(1, CELLS // len(turned))  # 1: the table itself is one of them
    for start in range(0, resamples, step):
        size = (min(step, resamples - start), len(turned))
        signs = 2.0 * rng.integers(2, size=size, dtype=np.int8) - 1
        found += int((np.abs(kept + signs @ turned) >= steep).sum())
    return found / (resamples + 1)


def _mean_slopes(
    x: Float[np.ndarray, "R N"], y: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """Of each row the mean slope over its pairs of different x; NaN where there is none."""
    first, second = np.triu_indices(x.shape[1], 1)
    run, rise = x[:, second] - x[:, first], y[:, second] - y[:, first]
    apart = np.abs(run) > SAME  # False for NaN
    slopes = np.divide(rise, run, out=np.zeros_like(run), where=apart)
    pairs = apart.sum(1)
    return np.divide(slopes.sum(1), pairs, out=np.full(len(x), np.nan), where=pairs > 0)


def _line_slopes(
    x: Float[np.ndarray, "R N"], y: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """Of each row the slope of its least squares line; NaN where its x are all the same."""
    there = np.isfinite(x)
    count = np.maximum(there.sum(1, keepdims=True), 1)
    x, y = np.where(there, x, 0), np.where(there, y, 0)
    x = np.where(there, x - x.sum(1, keepdims=True) / count, 0)
    y = np.where(there, y - y.sum(1, keepdims=True) / count, 0)
    spread = (x * x).sum(1)
    apart = spread > SAME**2
    return np.divide((x * y).sum(1), spread, out=np.full(len(x), np.nan), where=apart)


def _log2(tokens: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """NaN where there are no tokens."""
    return np.log2(tokens, out=np.full(tokens.shape, np.nan), where=tokens > 0)


def _columns(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(points, float).reshape(len(points), 2)
    return table[None, :, 0], table[None, :, 1]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
