"""Figures against plain loops over the scores, and verdicts in each direction."""

import json
import math
from collections import Counter
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from fakes_reproduce import RESAMPLES, SEEDS, TINY, as_told, make_up, plausible, tell
from fakes_train import make_config

from s1jax.mini.thinking import STOPS
from s1jax.reproducing import plan, report, tables
from s1jax.reproducing.claims import AGREES, CANNOT, DISAGREES, Claim, told
from s1jax.reproducing.controls import PAPER, Method, performance
from s1jax.reproducing.measured import Answers, Figure, Measured, paired, vote
from s1jax.reproducing.plan import FAMILIES, PANELS, SEARCH, STEP_TOKENS


@pytest.fixture(scope="module")
def cfg():
    return make_config(TINY | {"pool.sources": ("mini",), "decode.max_thinking_tokens": 192})


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Of which test_reproduce.py draws all."""
    monkeypatch.setattr(report, "plot", lambda table, workdir: None)


@pytest.fixture(scope="module")
def there(cfg, tmp_path_factory):
    """A workdir of made-up scores with its report, and all figures."""
    workdir = tmp_path_factory.mktemp("there")
    make_up(workdir, cfg, plausible, seeds=SEEDS)
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(report, "plot", lambda table, workdir: None)
        return workdir, tell(cfg, workdir)


# Figures.


def rows_of(workdir, model, name, task, run, column):
    """A list for each seed, of a value for each question in the order of ids; by plain loops."""
    table = []
    for seed in SEEDS:
        values = {}
        for line in as_told(workdir, model, name, seed):
            if (line["task"], line["run"]) == (task, run):
                values.setdefault(line["id"], []).append(float(line[column]))
        table.append([fmean(values[i]) for i in sorted(values)])
    return table


def naive_interval(values, families):
    """The percentile bootstrap, one resample after the other; each family by itself."""
    size = len(values) // families
    means = np.zeros(RESAMPLES)
    for family in range(families):
        own = values[family * size : (family + 1) * size]
        rng = np.random.default_rng(make_config(TINY).seed + family)
        drawn = rng.integers(size, size=(RESAMPLES, size))
        means += [sum(own[i] for i in some) / len(values) for some in drawn.tolist()]
    means = sorted(means)

    def quantile(share):
        at = share * (RESAMPLES - 1)
        below = math.floor(at)
        return means[below] + (at - below) * (means[min(below + 1, RESAMPLES - 1)] - means[below])

    return quantile(0.025), quantile(0.975)


def check_figure(figure, table, families=1):
    """Mean over seeds and questions, interval over questions, range over seeds."""
    values = [fmean(column) for column in zip(*table, strict=True)]
    assert figure["value"] == pytest.approx(fmean(values))
    assert (figure["low"], figure["high"]) == pytest.approx(naive_interval(values, families))
    of_seeds = [fmean(row) for row in table]
    assert (figure["least"], figure["most"]) == pytest.approx((min(of_seeds), max(of_seeds)))
    assert (figure["seeds"], figure["questions"]) == (len(table), len(values))


def times(table, factor=100):
    return [[factor * value for value in row] for row in table]


def less(table, other):
    return [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(table, other, strict=True)]


def point(table, model, task, run):
    [found] = [
        p for p in table["points"] if (p["model"], p["task"], p["run"]) == (model, task, run)
    ]
    return found


def test_points_are_means_over_seeds_and_questions(there):
    workdir, tables = there
    for task, run in ((SEARCH, "budget-4"), ("mini_iteration", "natural"), (SEARCH, "ignore-2")):
        found = point(tables["figure1"], "ours", task, run)
        correct = rows_of(workdir, "ours", "curve", task, run, "correct")
        check_figure(found["accuracy"], times(correct))
        tokens = rows_of(workdir, "ours", "curve", task, run, "used_tokens")
        assert found["tokens"] == pytest.approx(fmean(map(fmean, tokens)))
    with pytest.raises(AssertionError):  # the control: another run's scores
        other = rows_of(workdir, "ours", "curve", SEARCH, "budget-8", "correct")
        check_figure(found["accuracy"], times(other))


def test_the_base_is_the_same_for_all_seeds(there):
    _, tables = there
    accuracy = point(tables["figure1"], "base", SEARCH, "natural")["accuracy"]
    assert accuracy["least"] == accuracy["most"] == pytest.approx(accuracy["value"])


def natural(workdir, model, name, column="correct"):
    """The free run on all families, side by side."""
    parts = [
        rows_of(workdir, model, "others" if name == "curve" and task in plan.OTHERS else name, *of)
        for task in FAMILIES
        for of in [(task, "natural", column)]
    ]
    return [[x for part in parts for x in part[s]] for s in range(len(SEEDS))]


def test_differences_are_paired_by_question_and_seed(there):
    workdir, tables = there
    ours, random = natural(workdir, "ours", "curve"), natural(workdir, "random", "natural")
    claim = tables["table2"]["claims"][0]
    check_figure(claim["figure"], times(less(ours, random)), len(FAMILIES))
    backwards = tables["table2"]["more"]["differences"]["random"]
    assert backwards["value"] == pytest.approx(-claim["figure"]["value"])
    # Unpaired, with questions in another order, or with families in one lot, it has the same value
    # and another interval.
    for wrong in ((less(ours, [row[::-1] for row in random]), 5), (less(ours, random), 1)):
        with pytest.raises(AssertionError):
            check_figure(claim["figure"], times(wrong[0]), wrong[1])


def test_a_cut_example_makes_thinking_longer_by_so_many_tokens(there):
    workdir, tables = there
    whole, cut = (
        natural(workdir, *of, "used_tokens")
        for of in (("ours", "curve"), ("short-rows", "natural"))
    )
    check_figure(tables["rows"]["claims"][1]["figure"], less(cut, whole), len(FAMILIES))


def test_votes_are_those_of_the_first_samples_and_cost_all_their_tokens(there):
    workdir, tables = there
    for k in (1, 2, 4, 8):
        right, tokens = votes_of(workdir, k)
        found = point(tables["parallel"], "ours", SEARCH, f"votes-{k}")
        check_figure(found["accuracy"], times(right))
        assert found["tokens"] == pytest.approx(fmean(map(fmean, tokens)))


def votes_of(workdir, k):
    """By seed and question: how right the first k samples' vote is, and all their tokens."""
    right, tokens = [], []
    for seed in SEEDS:
        samples = {}
        for line in as_told(workdir, "ours", "votes", seed):
            samples.setdefault(line["id"], []).append(line)
        first = [sorted(samples[i], key=lambda line: line["sample"])[:k] for i in sorted(samples)]
        counts = [Counter(line["answer"] for line in lines) for lines in first]
        winners = [[a for a in c if c[a] == max(c.values())] for c in counts]
        right.append([("7" in of) / len(of) for of in winners])
        tokens.append([float(sum(line["used_tokens"] for line in lines)) for lines in first])
    return right, tokens


@pytest.mark.parametrize(
    ("labels", "correct", "share"),
    [
        ([0, 1], [True, False], 0.5),  # the first seen would have won
        ([1, 0], [False, True], 0.5),
        ([0, 1, 1], [True, False, False], 0.0),
        ([0, 0, 1, 1, 2], [True, True, False, False, False], 0.5),
        ([0, 1, 2], [True, False, False], 1 / 3),
        ([-1, -1, 0], [False, False, True], 1.0),  # no answer has no vote
        ([-1], [False], 0.0),
    ],
)
def test_equally_common_answers_share_the_vote(labels, correct, share):
    assert vote(labels, correct) == pytest.approx(share)


def test_votes_are_held_against_as_many_tokens(there):
    workdir, tables = there
    table = tables["parallel"]
    rows = {row[0]: row for row in table["rows"]}
    runs = {
        run: [rows_of(workdir, "ours", "curve", SEARCH, run, c) for c in ("correct", "used_tokens")]
        for run in ("natural", "ignore-1", "ignore-2")
    }
    used = {run: fmean(map(fmean, of[1])) for run, of in runs.items()}
    right, tokens = votes_of(workdir, 2)
    total = fmean(map(fmean, tokens))
    assert used["ignore-1"] < total < used["ignore-2"]
    _, _, _, against, accuracy, gain = rows["votes-2"]
    assert against == f"ignore-1 ({used['ignore-1']:.0f}) to ignore-2 ({used['ignore-2']:.0f})"
    logs = np.log([used["ignore-1"], used["ignore-2"]])
    low, high = (np.array(times(runs[run][0])) for run in ("ignore-1", "ignore-2"))
    share = (math.log(total) - logs[0]) / (logs[1] - logs[0])
    rival = (low + share * (high - low)).tolist()
    assert accuracy == pytest.approx(np.interp(math.log(total), logs, [low.mean(), high.mean()]))
    check_figure(gain, less(rival, times(right)))
    assert rows["votes-1"][3:] == ["no run thinks as little", None, None]
    # With more tokens than any run: against the longest, which can only favour the vote.
    longest = max(used, key=used.__getitem__)
    gains = [less(rival, times(right))]
    for k in (4, 8):
        _, _, _, against, accuracy, gain_of = rows[f"votes-{k}"]
        assert against == f"{longest} ({used[longest]:.0f})"
        assert accuracy == pytest.approx(fmean(map(fmean, times(runs[longest][0]))))
        gains.append(less(times(runs[longest][0]), times(votes_of(workdir, k)[0])))
        check_figure(gain_of, gains[-1])
    [claim] = table["claims"]
    if fmean(map(fmean, np.mean(gains, axis=0).tolist())) < 0:  # then more tokens prove nothing
        assert claim["what"].endswith("mean over votes-2")
        check_figure(claim["figure"], gains[0])
    else:
        assert claim["what"].endswith("mean over votes-2, votes-4, votes-8")
        check_figure(claim["figure"], np.mean(gains, axis=0).tolist())
    with pytest.raises(AssertionError):  # the control: one of the two runs alone
        check_figure(gain, less(low.tolist(), times(right)))


def test_the_ablation_tells_how_far_apart_teachers_are(there):
    workdir, tables = there

    def worth(model, name):
        last, free = (
            rows_of(workdir, model, name, SEARCH, run, "correct") for run in ("ignore-2", "natural")
        )
        return times(less(last, free))

    ours, other = worth("ours", "curve"), worth("stops-0.9", "ends")
    rows = {row[0]: row for row in tables["ablation"]["rows"]}
    check_figure(rows["0.9"][-2], other)
    check_figure(rows["0.9"][-1], less(other, ours))
    assert rows[f"{STOPS:g}"][-1] is None


def test_the_metrics_are_those_of_plain_loops(there):
    workdir, tables = there
    metrics = tables["table3"]["more"]["metrics"]
    runs = {
        "TCC": [("tokens", "told", f"tokens-{n}", n) for n in plan.TOKENS_ASKED],
        "SCC+BF": [
            ("steps", "told", f"steps-{n}-forced", STEP_TOKENS * n) for n in plan.STEPS_ASKED
        ],
        "RS": [("ours", "controls", f"rejection-{n}", n) for n in plan.REJECTION_BUDGETS],
    }
    for method, asked in runs.items():
        points, held = [], []
        column = "thinking_tokens" if method == "SCC+BF" else "used_tokens"
        for model, name, run, most in asked:
            right = rows_of(workdir, model, name, SEARCH, run, "correct")
            used = [fmean(row) for row in rows_of(workdir, model, name, SEARCH, run, column)]
            points.append((math.log2(fmean(used)), 100 * fmean(map(fmean, right))))
            held += [seed <= most for seed in used]
        slopes = [
            (b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(points) for b in points[i + 1 :]
        ]
        assert metrics[method]["scaling"]["value"] == pytest.approx(fmean(slopes))
        line = np.polyfit(*zip(*points, strict=True), 1)[0]
        assert metrics[method]["line"]["value"] == pytest.approx(line)
        assert metrics[method]["performance"]["value"] == pytest.approx(max(p[1] for p in points))
        assert metrics[method]["control"]["value"] == pytest.approx(100 * fmean(held))
    assert 0 < metrics["TCC"]["control"]["value"] < 100
    # Counted steps: what counts them down is no thinking.
    held = [
        fmean(row) <= STEP_TOKENS * n
        for n in plan.STEPS_ASKED
        for row in rows_of(workdir, "steps", "told", SEARCH, f"steps-{n}", "thinking_tokens")
    ]
    assert 0 < fmean(held) < 1
    assert metrics["SCC"]["control"]["value"] == pytest.approx(100 * fmean(held))
    # Asked for short and for long: against the free run of the same seed.
    free, short, long = (
        [fmean(row) for row in rows_of(workdir, "ours", name, SEARCH, run, "used_tokens")]
        for name, run in (("curve", "natural"), ("controls", "short"), ("controls", "long"))
    )
    held = [s < f for s, f in zip(short, free, strict=True)]
    held += [x > f for x, f in zip(long, free, strict=True)]
    assert metrics["CCC"]["control"]["value"] == pytest.approx(100 * fmean(held))


def test_every_run_of_table_3_is_told(there):
    _, tables = there
    table = tables["table3"]
    assert sum(row[1] for row in table["rows"]) == len(table["details"]) == len(table["points"])
    assert {row[0] for row in table["details"]} == set(PAPER)


# By hand.


def answers(*rows, task="t"):
    """Of seeds, a row each."""
    right = np.array(rows, float)
    ids = tuple(f"{task}/{number}" for number in range(right.shape[1]))
    return Answers(ids, right, np.full(right.shape, 10.0), np.zeros(right.shape))


def test_the_best_run_is_one_run_for_all_seeds(cfg, tmp_path):
    """Each seed's own best would be 60 and 60, of a value of 50."""
    good, bad = [100.0] * 6 + [0.0] * 4, [100.0] * 4 + [0.0] * 6
    runs = [answers(good, bad), answers(bad, good)]
    method = Method([], runs, [None, None], [])
    best, _ = performance(Measured(cfg, tmp_path, 10), [method])
    assert (best.value, best.least, best.most) == pytest.approx((50, 40, 60))


def test_only_the_same_questions_are_paired():
    first, second = answers([0.0, 100.0]), answers([100.0, 100.0])
    assert paired(second, first).tolist() == [[100.0, 0.0]]
    with pytest.raises(AssertionError, match="of different questions"):
        paired(second, answers([0.0, 100.0], task="another"))


def test_where_none_is_right_the_interval_is_wilsons(cfg, tmp_path):
    measured = Measured(cfg, tmp_path, 30)
    none = measured.accuracy(answers([0.0] * 30, [0.0] * 30))
    assert (none.low, none.high) == pytest.approx((0, 11.35), abs=0.01)
    every = measured.accuracy(answers([100.0] * 500))
    assert (every.low, every.high) == pytest.approx((99.24, 100), abs=0.01)
    some = measured.accuracy(answers([100.0, *[0.0] * 29]))  # the control: the bootstrap's
    assert (some.low, some.high) == pytest.approx((0, 10), abs=0.01)


def figure(value, width=1.0, spread=0.0, **fields):
    made = Figure(value, value - width, value + width, value - spread, value + spread, 3, 500)
    return replace(made, **fields)


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (Claim("", "", figure(5)), AGREES),
        (Claim("", "", figure(0.5)), CANNOT),
        (Claim("", "", figure(-0.5)), CANNOT),
        (Claim("", "", figure(-5)), DISAGREES),
        (Claim("", "", figure(0, 0)), CANNOT),
        (Claim("", "", None), CANNOT),
        # One seed is on the other side, there is one alone, or there are few questions.
        (Claim("", "", figure(5, spread=6)), CANNOT),
        (Claim("", "", figure(-5, spread=6)), CANNOT),
        (Claim("", "", figure(5, spread=4)), AGREES),
        (Claim("", "", figure(5, seeds=1)), CANNOT),
        (Claim("", "", figure(-5, seeds=1)), CANNOT),
        (Claim("", "", figure(5, questions=29)), CANNOT),
        (Claim("", "", figure(5, questions=30, seeds=2)), AGREES),
        # Bounds: from below, from above, of both kinds.
        (Claim("", "", figure(-3), above=-5), AGREES),
        (Claim("", "", figure(-7), above=-5), DISAGREES),
        (Claim("", "", figure(-3), above=None, below=0.0), AGREES),
        (Claim("", "", figure(3), above=None, below=0.0), DISAGREES),
        (Claim("", "", figure(0), above=-5, below=5), AGREES),
        (Claim("", "", figure(4.5), above=-5, below=5), CANNOT),
        (Claim("", "", figure(0, spread=6), above=-5, below=5), CANNOT),
        (Claim("", "", figure(30), above=-5, below=5), DISAGREES),
        (Claim("", "", figure(-30), above=-5, below=5), DISAGREES),
        (Claim("", "", figure(100, 0), above=100, or_equal=True), AGREES),
        (Claim("", "", figure(90, 1), above=100, or_equal=True), DISAGREES),
        (Claim("", "", figure(99.5, 0.5), above=100, or_equal=True), CANNOT),
    ],
)
def test_a_verdict_is_the_intervals_and_the_seeds(claim, verdict):
    assert claim.verdict == verdict


def test_figures_are_told_with_signs_where_they_are_differences():
    assert told(figure(12.34, 2, 1), "%") == "12.3% (10.3 to 14.3; seeds 11.3 to 13.3)"
    gain = figure(-0.02, 1, 0, signed=True)
    assert told(gain, "points") == "+0.0 points (-1.0 to +1.0; seeds +0.0 to +0.0)"
    assert told(gain, "") == "+0.0 (-1.0 to +1.0; seeds +0.0 to +0.0)"


# Verdicts of whole worlds.


def world(better):
    """A world in which all is as in the paper, or (below 0) the other way round, or (0) nothing."""
    good = better > 0

    def of(model, task, run, seed):
        kind, _, rest = run.partition("-")
        amount, _, forced = rest.partition("-")
        share, tokens = _share(kind, rest), 20.0
        number = int(amount) if amount.isdecimal() else 0
        if kind == "budget":
            tokens = number / 2
        if kind == "ignore":
            tokens = 40.0
        if model in ("random", "longest", "diverse", "short-rows", "base"):
            share = 0.5 - 0.4 * better
        if model == "full":
            share = 0.5 if better >= 0 else 0.9
        if model == "short-rows":
            tokens = 20.0 * (1 + 0.8 * better)
        if kind == "votes":
            share, tokens = 0.5 - 0.3 * better, 15.0
        if kind == "rejection":
            share, tokens = 0.5 - better * 0.25 * math.log2(number / 48), number / 4
        if kind in ("tokens", "steps", "short", "long") and better:
            share, tokens = _told(kind, number, forced)
        return share, tokens

    def _share(kind, rest):
        if kind == "budget":
            return 0.5 - better * {"4": 0.35, "8": 0.2}[rest]
        return 0.5 + 0.4 * better if kind == "ignore" and rest.isdecimal() else 0.5

    def _told(kind, number, forced):
        """In a world as the paper's only who is forced keeps to it, and only he gains by it."""
        if kind in ("short", "long"):
            tokens = {"short": 30.0, "long": 48.0} if good else {"short": 8.0, "long": 40.0}
            return (0.05 if (kind == "short") == good else 0.45 if good else 0.99), tokens[kind]
        most = {"tokens": 128, "steps": 16}[kind]
        part = math.log2(most / number) / 3  # 1 where least is asked for, 0 where most is
        rising = bool(forced) == good
        share = 0.45 - 0.4 * (part if rising else 1 - part)
        if not good:
            share = 0.99 if part == (0 if rising else 1) else share
        if kind == "steps":
            return share, (5.0 if bool(forced) == good else 15.0) * number
        return share, number / 4 if forced or not good else 70.0 + number / 2

    return of


@pytest.mark.parametrize(("better", "verdict"), [(1, AGREES), (-1, DISAGREES)])
def test_made_up_worlds_are_told_as_they_are(cfg, tmp_path, better, verdict):
    make_up(tmp_path, cfg, world(better), seeds=SEEDS)
    made = tell(cfg, tmp_path)
    claims = {(name, claim["what"]): claim for name, one in made.items() for claim in one["claims"]}
    # Whatever the world, forcing keeps its budgets.
    fixed = {("table3", f"Control of {name}") for name in ("BF", "TCC+BF", "RS")}
    found = {key: claim["verdict"] for key, claim in claims.items() if key not in fixed}
    assert {key: v for key, v in found.items() if v != verdict} == {}
    assert all(claims[key]["verdict"] == AGREES for key in fixed)
    assert len(claims) == 31
    text = (tmp_path / "report.md").read_text()
    sentence = "the direction agrees" if better > 0 else "**the direction disagrees"
    assert text.count(sentence) >= len(claims) - len(fixed)
    built_in = sum(claim["by_construction"] for claim in claims.values())
    agree = [sum(c["verdict"] == AGREES and c["by_construction"] == b for c in claims.values())
             for b in (False, True)]  # fmt: skip
    assert f"Of {len(claims) - built_in} comparisons with the paper that could" in text
    assert f"the direction agrees in {agree[0]}, cannot" in text
    assert f"Of {built_in} comparisons with the paper that are built into" in text
    assert f"the direction agrees in {agree[1]}, cannot" in text
    assert text.count("(This is built in.)") == built_in
    assert "…" not in text  # nothing is cut


def test_what_is_built_in_is_marked(there):
    _, tables = there
    marked = {
        claim["what"]: claim["by_construction"] for t in tables.values() for claim in t["claims"]
    }
    assert marked["Control of BF"]
    assert marked['"Wait" less "Hmm", mean of the three families']
    assert marked["the tuned model less the base, both free, over all five families"]
    assert marked[f"{SEARCH}, ignore-2 less the free run"]
    assert not marked["Control of TCC (agreement is to have less than 95%)"]
    assert not marked["ours less random, mean of the five families"]
    assert not marked["the slope of the line through RS of the 4 runs that reject at most 2%"]


def test_in_a_world_without_differences_nothing_can_be_told(cfg, tmp_path):
    make_up(tmp_path, cfg, world(0), seeds=SEEDS, tables=("table4", "rows"))
    made = tell(cfg, tmp_path, only=("table4", "rows"))
    verdicts = [claim["verdict"] for one in made.values() for claim in one["claims"]]
    assert verdicts.count(CANNOT) >= len(verdicts) - 1  # of six intervals of 95% one may miss


def test_what_is_rejected_is_no_answer_and_its_run_on_no_line(cfg, tmp_path):
    def some(model, task, run, seed):
        few = 0.3 if run in [f"rejection-{n}" for n in plan.REJECTION_BUDGETS[:rejecting]] else 0.0
        return (*world(1)(model, task, run, seed), few)

    for rejecting, runs in ((1, 3), (3, 1)):
        workdir = tmp_path / str(rejecting)
        make_up(workdir, cfg, some, seeds=SEEDS, tables=("table3",))
        table = tell(cfg, workdir, only=("table3",))["table3"]
        [claim] = [c for c in table["claims"] if c["what"].startswith("the slope of the line thr"
                   "ough RS")]  # fmt: skip
        assert f"of the {runs} runs that reject at most 2%" in claim["what"]
        assert (claim["figure"] is None) == (runs < 2)
        assert claim["verdict"] == (AGREES if runs > 1 else CANNOT)
        silent = {row[1]: row[4] for row in table["details"] if row[0] == "RS"}
        assert sum(share > 2 for share in silent.values()) == rejecting
    assert "no value here, fewer than two runs reject" in (workdir / "report.md").read_text()


# What the paper says.


def test_the_papers_numbers_are_the_papers(there, shared):
    facts = json.loads((shared / "reference" / "paper_numbers.json").read_text())
    _, made = there
    for name, numbers in facts["table3_control_scaling_performance_nA"].items():
        assert PAPER[name] == tuple(numbers[:3])

    def sentences(name):
        return {claim["what"]: claim["paper"] for claim in made[name]["claims"]}

    ours = facts["table2_data_ablation"]["s1K"]
    for name, key in (
        *((n, f"1K-{n}") for n in ("random", "diverse", "longest")),
        ("full", "59K-full"),
    ):
        [said] = [s for what, s in sentences("table2").items() if name in what.split(",")[0]]
        for own, base, (low, high) in zip(
            facts["table2_data_ablation"][key],
            ours,
            facts["table2_ci95_vs_s1K_pp"][key],
            strict=True,
        ):
            assert f"{own - base:+.1f} ({low} to {high})" in said
    strings = facts["table4_extrapolation"]
    for what, key in (
        ("no extension", "none"),
        ('"Hmm"', "2x_Hmm"),
        ('"Alternatively"', "2x_Alternatively"),
        ("nothing", "2x_no_string"),
    ):
        [said] = [s for w, s in sentences("table4").items() if f"less {what}," in w]
        for numbers in (strings["2x_Wait"], strings[key]):
            assert ", ".join(map(str, numbers)) in said
    panels = dict(zip(PANELS, ("aime24", "math500", "gpqa"), strict=True))
    for task, key in panels.items():
        [said] = [s for what, s in sentences("figure1").items() if what.startswith(f"{task}, the")]
        points = facts["fig1_bf_points_tokens_acc"][key]
        told_points = [p for p in points if f"{p[1]}%" in said and f"{p[0]:,}" in said]
        assert told_points[0] == points[0] and len(told_points) == 2
    rows = facts["seqlen_ablation"]
    for short, whole, column in (("4096", "32768", 0), ("4096", "32768", 1)):
        said = list(sentences("rows").values())[column]
        for key in (short, whole):
            numbers = [rows[key][task][column] for task in ("aime", "math", "gpqa")]
            assert ", ".join(f"{n:,}" for n in numbers) in said
    assert tables.SAME == 5
