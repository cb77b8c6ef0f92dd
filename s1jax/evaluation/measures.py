"""Lengths by s1's definition, bootstrap intervals, and pass@k, cov@k and maj@k.

Intervals are of the percentile bootstrap over questions (paper, table 2: 95%, 10,000 resamples,
paired). Everything is drawn from a seed, so that the same scores give the same digits.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from s1jax.chat import Chat
from s1jax.evaluation.results import Interval

TAILS = (0.025, 0.975)
CELLS = 2**20  # drawn at once: resamples x questions

# --- Lengths ---


def s1_parts(text: str, chat: Chat) -> tuple[str, str]:
    """The thinking and the answer of a generation's text, as s1 counts them.

    The thinking is what stands before the first answer marker without its first and its last line,
    even where the last line says something; the answer is what follows the last marker without
    the rest of its line. Without a marker all is thinking. Of counted steps see `_steps()`.
    Reference: `eval/compute_sample_stats.py`. Other families have their own markers, and may have
    an empty line after them.
    """
    if chat.name == "steps":
        steps, answer = _steps(text, chat)
        return "".join(steps), answer
    pieces = text.split(chat.answer.strip("\n"))
    opening = chat.thinking.rstrip("\n")
    rest = pieces[0].removeprefix(opening)
    # R1's template writes the line end after the opening, which is then not in the text. In s1
    # what stands in that line is never counted.
    kept = chat.name != "s1" and rest != pieces[0] and not rest.startswith("\n")
    thinking = rest if kept else _without_line(pieces[0], _line_ends(chat.thinking))
    answer = pieces[-1] if len(pieces) > 1 else ""
    if "\n" in answer:
        answer = _without_line(answer, _line_ends(chat.answer))
    return thinking.rpartition("\n")[0], answer


def s1_lengths(text: str, chat: Chat, count: Callable[[str], int]) -> tuple[int, int]:
    """The tokens of `s1_parts()`, of counted steps the sum of each one's; `count` counts them."""
    if chat.name == "steps":
        steps, answer = _steps(text, chat)
        return sum(map(count, steps)), count(answer)
    thinking, answer = s1_parts(text, chat)
    return count(thinking), count(answer)


def _steps(text: str, chat: Chat) -> tuple[list[str], str]:
    """The steps without their first lines ("16 steps left"), and the answer.

    As s1 has it: the last piece is taken for the answer even where it is a step, and of several
    answers the first one counts, with the line end after its marker.
    """
    steps = [piece.partition("\n")[2] for piece in text.split(chat.thinking)[1:-1]]
    pieces = text.split(chat.answer.strip("\n"))
    return steps, pieces[1] if len(pieces) > 1 else ""


def _line_ends(delimiter: str) -> int:
    return len(delimiter) - len(delimiter.rstrip("\n"))


def _without_line(text: str, line_ends: int) -> str:
    """A text without its first line, and without the empty ones that a delimiter has after it."""
    return text.partition("\n")[2].removeprefix("\n" * (line_ends - 1))


# --- Intervals ---


def bootstrap(values: Float[np.ndarray, " Q"], resamples: int, seed: int) -> Interval:
    """The mean over questions with its 95% interval."""
    return interval(float(values.mean()), resampled_means(values[:, None], resamples, seed)[:, 0])


def paired_bootstrap(
    values: Float[np.ndarray, " Q"], others: Float[np.ndarray, " Q"], resamples: int, seed: int
) -> Interval:
    """How much the mean is above that of the others, the same questions in the same order.

    A resample takes a question's two values together: what is hard for both does not count.
    """
    return bootstrap(values - others, resamples, seed)


def resampled_means(
    columns: Float[np.ndarray, "Q C"], resamples: int, seed: int
) -> Float[np.ndarray, "R C"]:
    """The columns' means over as many questions drawn with replacement, the same for all columns.

    Of each number of questions a seed has its own resamples, whatever the columns are.
    """
    questions = len(columns)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, columns.shape[1]))
    step = max(1, CELLS // questions)
    for start in range(0, resamples, step):
        drawn = rng.integers(questions, size=(min(step, resamples - start), questions))
        for number, column in enumerate(np.ascontiguousarray(columns.T)):
            means[start : start + step, number] = column[drawn].mean(1)
    return means


def interval(value: float, resampled: Float[np.ndarray, " R"]) -> Interval:
    """A figure with the 95% interval of its resampled ones; those that are NaN do not count."""
    low, high = np.nanquantile(resampled, TAILS)
    # The value is never outside, not even by a rounding: who draws it relies on it.
    return Interval(value, min(float(low), value), max(float(high), value))


# --- Several samples of a question ---


def prefixes(samples: int) -> list[int]:
    """The k of cov@k and maj@k: 2, 4, 8, ... up to so many samples, as in s1."""
    return [2**power for power in range(1, samples.bit_length())]


def pass_at(samples: int, correct: int, k: int) -> float:
    """The chance that one of k samples is right, of so many samples of which so many are right.

    The unbiased estimate of Chen et al. 2021 (arXiv 2107.03374, equation 1).
    """
    assert 0 <= correct <= samples and 1 <= k <= samples
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def cov_at(correct: Sequence[bool], k: int) -> bool:
    """Whether any of the first k samples is right (s1's cov@k)."""
    return any(correct[:k])


def maj_at(labels: Sequence[int], correct: Sequence[bool], k: int) -> bool:
    """Whether the commonest answer of the first k samples is right (s1's maj@k).

    Samples of the same label have the same answer; -1 is no answer and has no vote. Of equally
    common ones the first seen wins.
    """
    votes = Counter(label for label in labels[:k] if label != -1)
    if not votes:
        return False
    winner = max(votes, key=votes.__getitem__)  # a dict keeps the order in which they were seen
    return correct[list(labels).index(winner)]
