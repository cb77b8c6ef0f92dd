"""Table 3 comes out as published; intervals are a plain loop's; the slope's p is what it claims."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1jax.config import Decode
from s1jax.evaluation.report import sign_test
from s1jax.evaluation.scaling import (
    bounds_of,
    control,
    line_interval,
    performance,
    scaling,
    scaling_interval,
    scaling_printed,
    slope_p,
)

# --- The metrics, against the paper ---


@pytest.fixture(scope="module")
def paper(shared):
    return json.loads((shared / "reference" / "paper_numbers.json").read_text())


def of_30(points):
    """The accuracies as what they are, so many of 30 questions, where the paper has one decimal."""
    return [(tokens, 100 * round(30 * accuracy / 100) / 30) for tokens, accuracy in points]


def table_3(paper):
    """Of each method what its runs were told, their points, and the points of its best run."""

    def conditional(name, kind, field, method):
        runs = paper[name]["none" if kind == "" else "bf"]
        points = [
            (tokens, 100 * right / 30)
            for tokens, right in zip(runs["thinking"], runs["correct_of_30"], strict=True)
        ]
        decodes = [Decode(**{field: n}) for n in paper[name]["instructed"]]
        return [bounds_of(decode, method + kind) for decode in decodes], points, points

    def capped(caps, method):
        return [bounds_of(Decode(max_thinking_tokens=cap), method) for cap in caps]

    forced = of_30(paper["fig1_bf_points_tokens_acc"]["aime24"])
    rejected = of_30(paper["fig6_rs_points_tokens_acc"])
    ccc = paper["ccc"]
    free = ccc["default"]["aime"][1]
    classes = [tuple(reversed(ccc[name]["aime"])) for name in ("short", "long")]
    told = [bounds_of(Decode(prompt_class=name), "CCC", free) for name in ("short", "long")]
    return {
        "BF": (capped((500, 1000, 2000, 4000, 8000, 16_000, 32_000), "BF"), forced, forced),
        "TCC": conditional("tcc_aime24", "", "prompt_tokens", "TCC"),
        "TCC+BF": conditional("tcc_aime24", "+BF", "prompt_tokens", "TCC"),
        "SCC": conditional("scc_aime24", "", "prompt_steps", "SCC"),
        "SCC+BF": conditional("scc_aime24", "+BF", "prompt_steps", "SCC"),
        "CCC": (told, of_30(classes), of_30(classes)),
        # Its Scaling is of five runs, but its Performance is that of the sixth, of 3500 tokens.
        "RS": (capped((4000, 5000, 6000, 8000, 16_000), "RS"), rejected[1:], rejected),
    }


def test_table_3_comes_out_as_published(paper):
    found = {}
    for method, (bounds, points, every) in table_3(paper).items():
        found[method] = [
            round(control([tokens for tokens, _ in points], bounds)),
            round(scaling(points)),
            round(performance(every), 1),
        ]
    published = {
        method: row[:3] for method, row in paper["table3_control_scaling_performance_nA"].items()
    }
    assert found == published


def test_table_3_does_not_come_out_of_the_printed_equation(paper):
    rows = table_3(paper)
    printed = {method: scaling_printed(points) for method, (_, points, _) in rows.items()}
    assert printed["CCC"] == pytest.approx(4.12, abs=0.01)
    assert printed["TCC+BF"] == pytest.approx(6.7, abs=0.05)
    published = paper["table3_control_scaling_performance_nA"]
    factors = {published[method][1] / value for method, value in printed.items()}
    assert max(factors) > 3 * min(factors)  # no unit makes them the published ones


def plain_scaling(points, of):
    slopes = []
    for (a, low), (b, high) in itertools.combinations(points, 2):
        if a > 0 and b > 0 and a != b:
            slopes.append((high - low) / (of(b) - of(a)))
    return sum(slopes) / len(slopes) if slopes else None


points_of = st.lists(
    st.tuples(st.integers(1, 40).map(lambda n: 100.0 * n), st.integers(0, 30).map(float)),
    max_size=6,
)


@given(points_of)
def test_scaling_is_the_mean_of_all_pairs(points):
    expected = plain_scaling(points, math.log2)
    assert scaling(points) == (expected if expected is None else pytest.approx(expected, abs=1e-9))
    printed = plain_scaling(points, lambda tokens: tokens / 1000)
    found = scaling_printed(points)
    assert found == (printed if printed is None else pytest.approx(printed, abs=1e-9))


def test_pairs_of_one_length_have_no_slope():
    assert scaling([]) is None
    assert scaling([(1000, 50.0)]) is None
    assert scaling([(1000, 50.0), (1000, 60.0)]) is None
    assert scaling([(1000, 50.0), (1000, 60.0), (2000, 60.0)]) == pytest.approx(5)
    assert scaling([(1000, 50.0), (1000 * (1 + 1e-12), 60.0)]) is None  # a rounding apart
    assert scaling([(0, 0.0), (1000, 50.0), (2000, 60.0)]) == pytest.approx(10)
    assert scaling_printed([(0, 0.0), (1000, 50.0)]) == pytest.approx(50)


def test_control():
    assert control([], []) is None
    assert control([5, 6], [None, None]) is None
    assert control([500, 501, 9], [(None, 500.0), (None, 500.0), None]) == 50
    assert control([10, 9, 20, 21], [(10, 20)] * 4) == 50
    assert control([10, 9], [(10, None)] * 2) == 50
    with pytest.raises(ValueError):
        control([1, 2], [None])


@pytest.mark.parametrize(
    ("decode", "method", "bounds"),
    [
        (Decode(), "BF", None),
        (Decode(ignore_ends=2), "BF", None),
        (Decode(max_thinking_tokens=500), "BF", (None, 500)),
        (Decode(max_thinking_tokens=500, ignore_ends=2), "BF", (None, 500)),
        (Decode(min_thinking_tokens=100), "BF", (100, None)),
        (Decode(max_thinking_tokens=500, min_thinking_tokens=100), "BF", (100, 500)),
        (Decode(max_thinking_tokens=500, rejection_tries=9), "RS", (None, 500)),
        (Decode(prompt_tokens=1024), "TCC", (None, 1024)),
        (Decode(prompt_tokens=1024, max_thinking_tokens=2000), "TCC+BF", (None, 1024)),
        (Decode(prompt_steps=16), "SCC", (None, 1600)),
        (Decode(prompt_steps=16, max_thinking_tokens=2000), "SCC+BF", (None, 1600)),
        (Decode(max_thinking_tokens=2000), "SCC+BF", (None, 2000)),
        (Decode(), "CCC", None),
        (Decode(max_thinking_tokens=500, thinking=False), "plain", None),
    ],
)
def test_what_a_run_is_told(decode, method, bounds):
    assert bounds_of(decode, method, 6109.0) == bounds


def test_short_and_long_are_measured_by_the_free_run():
    short, long = (
        bounds_of(Decode(prompt_class=name), "CCC", 6109.0) for name in ("short", "long")
    )
    assert control([6108, 6109, 6110], [short] * 3) == pytest.approx(100 / 3)
    assert control([6108, 6109, 6110], [long] * 3) == pytest.approx(100 / 3)
    assert control([6108, 6110], [short, long]) == 100
    assert control([6110, 6108], [short, long]) == 0
    assert bounds_of(Decode(prompt_class="short"), "CCC") is None
    assert replace(Decode(), prompt_class="long") == Decode(prompt_class="long")


# --- Intervals ---


def curve(questions, runs, rng, slope=0.0):
    """Percent right and thinking tokens of questions that differ in difficulty and length."""
    tokens = rng.lognormal(7, 0.5, size=(questions, 1)) * 2.0 ** np.arange(runs)
    chance = rng.beta(1, 1, size=(questions, 1)) + slope * (np.arange(runs) - (runs - 1) / 2)
    return 100.0 * (rng.random((questions, runs)) < chance), tokens


def test_an_interval_is_a_plain_loops():
    accuracies, tokens = curve(12, 4, np.random.default_rng(0), slope=0.05)
    found = scaling_interval(accuracies, tokens, 200, 5)
    rng, slopes = np.random.default_rng(5), []
    for _ in range(200):
        drawn = rng.integers(12, size=12)
        x, y = tokens[drawn].mean(0), accuracies[drawn].mean(0)
        slopes.append(plain_scaling(list(zip(x, y, strict=True)), math.log2))
    np.testing.assert_allclose([found.low, found.high], np.quantile(slopes, [0.025, 0.975]))
    means = list(zip(tokens.mean(0), accuracies.mean(0), strict=True))
    assert found.value == pytest.approx(plain_scaling(means, math.log2))
    assert found == scaling_interval(accuracies, tokens, 200, 5)
    assert found != scaling_interval(accuracies, tokens, 200, 6)


def test_the_line_and_its_interval_are_those_of_plain_least_squares():
    accuracies, tokens = curve(12, 4, np.random.default_rng(0))
    found = line_interval(accuracies, tokens, 200, 5)
    rng, slopes = np.random.default_rng(5), []
    for _ in range(200):
        drawn = rng.integers(12, size=12)
        x, y = np.log2(tokens[drawn].mean(0)), accuracies[drawn].mean(0)
        slopes.append(np.polyfit(x, y, 1)[0])
    np.testing.assert_allclose([found.low, found.high], np.quantile(slopes, [0.025, 0.975]))
    assert found.value == pytest.approx(
        np.polyfit(np.log2(tokens.mean(0)), accuracies.mean(0), 1)[0]
    )
    assert found.value != pytest.approx(scaling_interval(accuracies, tokens, 200, 5).value)


def test_two_runs_of_almost_equal_length_do_not_move_the_line():
    """They move the mean over pairs as far as one likes."""
    accuracies = np.tile([20.0, 40.0, 45.0], (8, 1))
    tokens = np.tile([500.0, 2000.0, 2001.0], (8, 1))
    assert 9 < line_interval(accuracies, tokens, 50, 0).value < 13
    assert scaling_interval(accuracies, tokens, 50, 0).value > 1000


def test_where_there_is_no_slope_there_is_no_interval():
    accuracies, tokens = curve(12, 3, np.random.default_rng(0))
    for none in (tokens[:, :1] * [1, 1, 1], np.zeros((12, 3)), tokens[:, :1] * [1, 0, 0]):
        assert scaling_interval(accuracies, none, 50, 0) is None
        assert line_interval(accuracies, none, 50, 0) is None
        assert slope_p(accuracies, none, 50, 0) is None
    assert scaling_interval(accuracies[:, :1], tokens[:, :1], 50, 0) is None
    # A run without thinking is left out, whatever it answers.
    with_none = np.concatenate([np.zeros((12, 1)), tokens], axis=1)
    answers = np.concatenate([np.full((12, 1), 100.0), accuracies], axis=1)
    assert scaling_interval(answers, with_none, 50, 0) == scaling_interval(
        accuracies, tokens, 50, 0
    )
    assert slope_p(answers, with_none, 50, 0) == slope_p(accuracies, tokens, 50, 0)
    assert line_interval(answers, with_none, 50, 0) == line_interval(accuracies, tokens, 50, 0)


def test_questions_are_drawn_for_all_runs_together():
    """What is hard is so in every run: apart, the runs' luck would be taken for a slope."""
    rng = np.random.default_rng(1)
    solved = 100.0 * (rng.random((40, 1)) < 0.5) * np.ones(4)
    tokens = 1000.0 * 2.0 ** np.arange(4) * np.ones((40, 1))
    paired = scaling_interval(solved, tokens, 500, 0)
    assert abs(paired.low) < 1e-9 and abs(paired.high) < 1e-9
    apart = rng.permuted(solved, axis=0)
    assert scaling_interval(apart, tokens, 500, 0).high > 3


def test_intervals_cover_the_true_slope():
    """Chance of 95% holds for 60 questions, up to the bootstrap's few points."""
    rng = np.random.default_rng(2)
    tokens = 1000.0 * 2.0 ** np.arange(4) * np.ones((60, 1))
    covered, sets = 0, 400
    for seed in range(sets):
        chance = rng.uniform(0.2, 0.5, size=(60, 1)) + 0.08 * np.arange(4)
        answers = 100.0 * (rng.random((60, 4)) < chance)
        found = scaling_interval(answers, tokens, 400, seed)
        covered += found.low <= 8 <= found.high
    assert 0.90 <= covered / sets <= 0.98


# --- Whether a slope differs from zero ---


def false_positives(draw, p_of, sets=600):
    """How often the p of tables in which thinking changes nothing is at most 5%."""
    rng = np.random.default_rng(3)
    return sum(p_of(*draw(rng), seed) <= 0.05 for seed in range(sets)) / sets


def independent(rng):
    """Each run has its own luck."""
    return curve(40, 5, rng)


def lasting(rng):
    """Cuts of one generation: now and then an answer turns, up or down, and stays so."""
    turns = rng.random((40, 6)) < 0.15
    start = rng.random((40, 1)) < 0.5
    return 100.0 * ((start + turns.cumsum(1)) % 2), curve(40, 6, rng)[1]


def ours(accuracies, tokens, seed):
    return slope_p(accuracies, tokens, 400, seed)


def of_permutations(accuracies, tokens, seed):
    """The common test, right for independent luck alone: each question's outcomes are permuted."""
    x = np.log2(tokens.mean(0))
    x = x - x.mean()
    rng, steep = np.random.default_rng(seed), abs((accuracies @ x).sum())
    tables = rng.permuted(np.broadcast_to(accuracies, (400, *accuracies.shape)), axis=2)
    return (1 + (np.abs((tables @ x).sum(1)) >= steep - 1e-6).sum()) / 401


@pytest.mark.parametrize("draw", [independent, lasting])
def test_no_slope_is_found_where_there_is_none(draw):
    error = 3 * math.sqrt(0.05 * 0.95 / 600)
    assert 0.05 - error - 0.01 < false_positives(draw, ours) < 0.05 + error


def test_permutations_take_lasting_changes_for_slopes():
    """The control of the test above, and why each question's outcomes are only reversed."""
    error = 3 * math.sqrt(0.05 * 0.95 / 300)
    assert false_positives(independent, of_permutations, sets=300) < 0.05 + error
    assert false_positives(lasting, of_permutations, sets=300) > 0.05 + 2 * error


def test_p_is_uniform_if_thinking_changes_nothing():
    rng = np.random.default_rng(4)
    found = []
    for seed in range(600):
        accuracies, tokens = independent(rng)
        # Runs at equal distances have few different slopes, and their p is too large between them.
        found.append(ours(accuracies, tokens * rng.uniform(0.6, 1.6, size=5), seed))
    found = np.array(found)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs((found <= share).mean() - share) < 4 * math.sqrt(share * (1 - share) / 600)


def test_a_real_slope_is_found():
    rng = np.random.default_rng(5)
    found = [ours(*curve(60, 5, rng, slope=0.07), seed) for seed in range(60)]
    assert np.mean(np.array(found) <= 0.05) > 0.8
    few = [ours(*curve(8, 5, rng, slope=0.07), seed) for seed in range(60)]
    assert np.mean(np.array(few) <= 0.05) < 0.5  # not with so few questions


def in_order(accuracies, tokens):
    """log2 of the runs' mean tokens, rising, and the outcomes in that order."""
    order = np.argsort(tokens.mean(0))
    return np.log2(tokens.mean(0))[order], accuracies[:, order]


def line_of(x, rows):
    return np.polyfit(x, np.mean(rows, axis=0), 1)[0]


def plain_p(accuracies, tokens, about_their_mean=False):
    """The share of all tables of reversed and unreversed rows whose line is as steep, by polyfit.

    About their mean: as far from it, which leaves out what reversing does not change.
    """
    x, table = in_order(accuracies, tokens)
    tables = itertools.product(*[(row, row[::-1]) for row in table])
    slopes, own = np.array([line_of(x, rows) for rows in tables]), line_of(x, table)
    middle = slopes.mean() if about_their_mean else 0.0
    return (np.abs(slopes - middle) >= abs(own - middle) - 1e-9).mean()


def uneven(seed, questions, runs):
    """Runs at uneven distances and in any order: a curve that rises, falls or bends."""
    rng = np.random.default_rng(seed)
    accuracies = 100.0 * (rng.random((questions, runs)) < rng.random(runs))
    return accuracies, rng.lognormal(7, 0.5, (questions, 1)) * rng.uniform(0.3, 3, size=runs)


@pytest.mark.parametrize("seed", range(12))
def test_p_is_that_of_all_tables(seed):
    questions, runs = 3 + seed % 5, 3 + seed % 3
    accuracies, tokens = uneven(seed, questions, runs)
    expected = plain_p(accuracies, tokens)
    assert slope_p(accuracies, tokens, 1000, 0) == pytest.approx(expected)
    accuracies, tokens = uneven(seed, 9, runs)
    drawn = slope_p(accuracies, tokens, 400, 0)  # 2**9 are more than it may look at
    assert drawn == pytest.approx(plain_p(accuracies, tokens), abs=0.1)
    assert drawn == slope_p(accuracies, tokens, 400, 0)


def shares(rights, questions=200):
    """So many percent right in each run, by as many questions as it takes and no more."""
    return 100.0 * (np.arange(questions)[:, None] < questions * np.array(rights) / 100)


def test_a_falling_part_is_no_p_of_a_rising_line():
    """50, 75 and 45% at 500, 3000 and 3300 tokens: the line rises, though it ends lower."""
    few = np.array([[0, 100, 0]] * 5 + [[100, 100, 0]] * 3, float)  # 38, 100 and 0%
    tokens = np.array([500.0, 3000.0, 3300.0])
    answers = shares((50, 75, 45))
    for table in (answers, few):
        x, rows = in_order(table, tokens * np.ones((len(table), 1)))
        assert line_of(x, rows) > 3
        assert slope_p(table, tokens * np.ones((len(table), 1)), 10_000, 0) > 0.9
    control = plain_p(few, tokens * np.ones((8, 1)), about_their_mean=True)
    assert control == 0.25  # the least that three questions can give
    # 30, 75 and 30% end as they began; the bend alone is a slope here, and that in either order.
    level = slope_p(shares((30, 75, 30)), tokens * np.ones((200, 1)), 10_000, 0)
    assert level == 1


def test_a_small_p_speaks_for_the_direction_of_the_line():
    """The reverse of all questions is then less steep, or goes the other way."""
    contradicted, small = [0, 0], [0, 0]
    for seed in range(600):
        accuracies, tokens = uneven(seed, 30, 3)
        x, table = in_order(accuracies, tokens)
        own, reverse = line_of(x, table), line_of(x, table[:, ::-1])
        # The control: of three runs the part that reversing turns has the p of the sign test of
        # the first and the last.
        up, down = (int((s * (table[:, -1] - table[:, 0]) > 0).sum()) for s in (1, -1))
        for of, p in enumerate((slope_p(accuracies, tokens, 400, 0), sign_test(up, down))):
            small[of] += p < 0.05
            contradicted[of] += p < 0.05 and reverse * np.sign(own) >= abs(own)
    assert min(small) > 100
    assert contradicted[0] == 0 < contradicted[1]


def test_p_is_never_zero():
    """The table itself is one of those that are looked at."""
    accuracies = np.array([[0, 0, 100, 100]] * 60, float)
    tokens = 1000.0 * 2.0 ** np.arange(4) * np.ones((60, 1))
    assert slope_p(accuracies, tokens, 999, 0) == 1 / 1000
    assert slope_p(accuracies, tokens, 99, 0) == 1 / 100


def test_of_two_runs_it_is_the_sign_test():
    accuracies = np.array([[0, 100]] * 6 + [[100, 0]] + [[100, 100]] * 5, float)
    tokens = np.array([[1000.0, 3000.0]] * 12)
    p = slope_p(accuracies, tokens, 10_000, 0)
    assert p == pytest.approx(2 * (1 + 7) / 2**7)
    assert slope_p(accuracies[:, ::-1].copy(), tokens, 10_000, 0) == p
    assert slope_p(accuracies[-5:], tokens[-5:], 10_000, 0) == 1  # nothing ever changed


# --- The paper's own curve ---


def aime(rights):
    """So many of 30 in each run, each the easiest ones."""
    return 100.0 * (np.arange(30)[:, None] < np.array(rights))


def test_the_papers_curve_rises_because_it_is_cut(paper):
    """With 30 questions the seven runs have a slope, and those past the free run have none."""
    points = of_30(paper["fig1_bf_points_tokens_acc"]["aime24"])
    rng = np.random.default_rng(6)
    natural = rng.lognormal(0, 0.4, 30)[:, None]
    means = np.array([tokens for tokens, _ in points])
    # Those of a small budget all use it; a larger one is used by those who need it.
    tokens = np.where(means <= 2000, means, natural * means / natural.mean())
    answers = aime([round(0.3 * accuracy) for _, accuracy in points])
    np.testing.assert_allclose(tokens.mean(0), means)
    found = scaling_interval(answers, tokens, 10_000, 0)
    assert found.value == pytest.approx(scaling(points)) and round(found.value) == 15
    assert found.low > 5
    assert slope_p(answers, tokens, 10_000, 0) < 0.001
    # 50.0, 53.3 and 56.7%: even if no question was lost, two were won.
    assert slope_p(answers[:, -3:], tokens[:, -3:], 10_000, 0) == 0.5
    assert scaling(points[-3:]) == pytest.approx(16, abs=1)


def test_waiting_zero_to_eight_times_is_no_slope(paper):
    """s1's issue 19: 50.0, 53.3 (1 to 3 ends ignored), 56.7, 53.3, 56.7, 53.3 and 50.0%."""
    rights = [15, 16, 16, 16, 17, 16, 17, 16, 15]
    tokens = np.linspace(6000, 9000, 9) * np.ones((30, 1))
    assert slope_p(aime(rights), tokens, 10_000, 0) == 0.5  # only two of 30 ever change
    assert slope_p(aime(range(9, 18)), tokens, 10_000, 0) < 0.05
