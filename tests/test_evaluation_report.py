"""Pictures and report show what was found, whatever runs are called and however few there are."""

import itertools
import json
import math
import re
import statistics
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import HOSTILE, cells, collisions, size_of

from s1jax.evaluation.curves import STYLES
from s1jax.evaluation.paper import METRICS, PAPER
from s1jax.evaluation.plots import (
    draw_methods,
    draw_scaling,
    draw_thinking,
    draw_waits,
    plot_methods,
    plot_scaling,
    plot_thinking,
    plot_waits,
)
from s1jax.evaluation.report import PICTURES, report, sign_test, verdict
from s1jax.evaluation.results import (
    BASE,
    MODEL,
    Change,
    Interval,
    MethodResult,
    Results,
    RunResult,
    Score,
)
from s1jax.evaluation_config import METHODS
from s1jax.types import UserError

# --- An evaluation that never was ---

# name, method, fields of decode, mean tokens that the model writes of itself, chance to be right
RUNS = (
    ("budget-500", "BF", {"max_thinking_tokens": 500}, 6000, 0.05),
    ("budget-1000", "BF", {"max_thinking_tokens": 1000}, 6000, 0.15),
    ("budget-2000", "BF", {"max_thinking_tokens": 2000}, 6000, 0.3),
    ("budget-4000", "BF", {"max_thinking_tokens": 4000}, 6000, 0.42),
    ("budget-8000", "BF", {"max_thinking_tokens": 8000}, 6000, 0.5),
    ("budget-16000", "BF", {"max_thinking_tokens": 16000}, 6000, 0.52),
    ("auto", "BF", {}, 6000, 0.53),
    ("ignore-1", "BF", {"ignore_ends": 1}, 6800, 0.54),
    ("ignore-2", "BF", {"ignore_ends": 2}, 7400, 0.56),
    ("ignore-4", "BF", {"ignore_ends": 4}, 8100, 0.57),
    ("tcc-1024", "TCC", {"prompt_tokens": 1024}, 7900, 0.27),
    ("tcc-4096", "TCC", {"prompt_tokens": 4096}, 7200, 0.33),
    ("tcc-16384", "TCC", {"prompt_tokens": 16384}, 7500, 0.4),
    ("rs-4000", "RS", {"max_thinking_tokens": 4000, "rejection_tries": 100}, 2500, 0.38),
    ("rs-8000", "RS", {"max_thinking_tokens": 8000, "rejection_tries": 100}, 4400, 0.31),
)
TASKS = {"aime24": 30, "math500": 100}


def scores_of(runs=RUNS, tasks=TASKS, samples=1, base=True):
    rng = np.random.default_rng(5)
    scores = []
    for task, questions in tasks.items():
        ease = rng.uniform(size=questions)
        easier = 0.35 if task == "math500" else 0.0
        plain = [("plain", "plain", {"thinking": False}, 700, 0.2)] if base else []
        pairs = [(MODEL, run) for run in runs] + [(BASE, run) for run in plain]
        for (model, (name, method, asked, mean, chance)), q, sample in itertools.product(
            pairs, range(questions), range(samples)
        ):
            free = int(mean * (0.5 if easier else 1) * rng.lognormal(-0.2, 0.6))
            cap = asked.get("max_thinking_tokens", 30_000)
            right = ease[q] + rng.normal(0, 0.12) < chance + easier
            none = free > cap and rng.uniform() < 0.1
            scores.append(
                Score(
                    model=model,
                    task=task,
                    run=name,
                    method=method,
                    id=f"q{q}",
                    sample=sample,
                    group="odd" if q % 2 else "even",
                    gold=str(q),
                    answer=None if none else str(q if right else q + 1),
                    correct=bool(right and not none),
                    reason="no answer" if none else "same number",
                    judged=None,
                    thinking_tokens=min(free, cap),
                    answer_tokens=500,
                    used_tokens=min(free, cap),
                    ended="budget" if free > cap else "itself",
                    ignored_ends=asked.get("ignore_ends", 0),
                    finish="stop",
                )
            )
    return scores


def interval_of(values):
    """The normal interval: good enough to be drawn."""
    mean = statistics.fmean(values)
    half = 1.96 * statistics.pstdev(values) / math.sqrt(len(values))
    return Interval(mean, max(mean - half, 0.0), min(mean + half, 100.0))


def paired(difference):
    return Interval(difference, difference - 9.0, difference + 9.0)


def run_result(some, asked, base=None):
    right = [100.0 * score.correct for score in some]
    share = 100 / len(some)
    samples = 1 + max(score.sample for score in some)
    groups = {}
    for score in some:
        groups.setdefault(score.group, []).append(100.0 * score.correct)
    budget = asked.get("max_thinking_tokens")
    part = "extended" if asked.get("ignore_ends") else "cut short" if budget else "free"
    accuracy = interval_of(right)
    return RunResult(
        model=some[0].model,
        task=some[0].task,
        run=some[0].run,
        method=some[0].method,
        asked=asked,
        bounds=(None, float(budget)) if budget else None,
        budget=budget,
        part=part if some[0].method == "BF" else "",
        questions=len({score.id for score in some}),
        samples=samples,
        accuracy=accuracy,
        thinking_tokens=statistics.fmean(score.thinking_tokens for score in some),
        answer_tokens=statistics.fmean(score.answer_tokens for score in some),
        used_tokens=statistics.fmean(score.used_tokens for score in some),
        no_answer=share * sum(score.answer is None for score in some),
        budget_ended=share * sum(score.ended == "budget" for score in some),
        ends_ignored=statistics.fmean(score.ignored_ends for score in some),
        pass_at={k: accuracy.value + k for k in (1, 2, 4) if k <= samples},
        cov_at={k: accuracy.value + 2 * k for k in (2, 4) if k <= samples},
        maj_at={k: accuracy.value + k / 2 for k in (2, 4) if k <= samples},
        groups={name: (statistics.fmean(some), len(some)) for name, some in groups.items()},
        against_base=None if base is None else paired(accuracy.value - base),
    )


def slope(points):
    pairs = itertools.combinations(sorted(points), 2)
    slopes = [(d - b) / math.log2(c / a) for (a, b), (c, d) in pairs if c > a]
    return statistics.fmean(slopes) if slopes else None


HALVES = ("cut short", "extended")


def method_results(runs):
    found = []
    for task, model, method in dict.fromkeys((r.task, r.model, r.method) for r in runs):
        if method == "other":
            continue
        own = [r for r in runs if (r.task, r.model, r.method) == (task, model, method)]
        cut, longer = ([r for r in own if r.part in (part, "free")] for part in HALVES)
        parts = dict(zip(("all", *HALVES), (own, cut, longer), strict=True))
        for part, some in parts.items():
            if part != "all" and (method != "BF" or len(some) < 2):
                continue
            some = sorted(some, key=lambda run: run.thinking_tokens)
            points = [(run.thinking_tokens, run.accuracy.value) for run in some]
            value = slope(points)
            half = 7.0 if method == "BF" else 30.0
            bounded = any(run.bounds for run in some)
            found.append(
                MethodResult(
                    model,
                    task,
                    method,
                    part,
                    tuple(run.run for run in some),
                    control=100.0 if bounded else None,
                    scaling=None if value is None else Interval(value, value - half, value + half),
                    line=None if value is None else Interval(value - 1, value - 3, value + 2),
                    slope_p=None if value is None else 0.003 if abs(value) > half else 0.41,
                    scaling_printed=None if value is None else value / 3,
                    performance=max(run.accuracy.value for run in some),
                )
            )
    return found


def changes_of(scores):
    right = {(s.model, s.task, s.run, s.id): s.correct for s in scores if s.sample == 0}
    changes = []
    for task, (before, after) in itertools.product(
        dict.fromkeys(score.task for score in scores),
        (("auto", "ignore-1"), ("ignore-1", "ignore-2"), ("ignore-2", "ignore-4")),
    ):
        ids = [key[3] for key in right if key[:3] == (MODEL, task, before)]
        if not ids or (MODEL, task, after, ids[0]) not in right:
            continue
        pairs = Counter((right[MODEL, task, before, q], right[MODEL, task, after, q]) for q in ids)
        changes.append(
            Change(
                MODEL,
                task,
                before,
                after,
                fixed=pairs[False, True],
                broken=pairs[True, False],
                stayed_right=pairs[True, True],
                stayed_wrong=pairs[False, False],
            )
        )
    return changes


def results_of(scores, **changes):
    asked = {name: fields for name, _, fields, _, _ in RUNS} | {"plain": {"thinking": False}}
    asked |= {"BF-1": {"ignore_ends": 2}}
    split = {}
    for score in scores:
        split.setdefault((score.task, score.model, score.run), []).append(score)
    base = {
        key[0]: 100 * statistics.fmean(s.correct for s in some)
        for key, some in split.items()
        if key[1] == BASE
    }
    runs = [
        run_result(some, asked.get(run, {}), base.get(task) if model == MODEL else None)
        for (task, model, run), some in split.items()
    ]
    tasks = {score.task: 0 for score in scores}
    models = {MODEL: "runs/s1/hf"} | ({BASE: "Qwen/Qwen2.5-32B-Instruct"} if base else {})
    return Results(
        **{
            "models": models,
            "tasks": {t: len({s.id for s in scores if s.task == t}) for t in tasks},
            "runs": runs,
            "methods": method_results(runs),
            "changes": changes_of(scores),
            "reasons": dict(Counter(score.reason for score in scores)),
            "disagreements": None,
            "parity": False,
            "judge_decides": False,
            "resamples": 10_000,
            "seed": 42,
            "about": {"s1jax": "0.1.0", "config sha256": "0123abcd"},
        }
        | changes
    )


@pytest.fixture(scope="module")
def scores():
    return scores_of()


@pytest.fixture(scope="module")
def results(scores):
    return results_of(scores)


def named(results, scores, rename):
    """The same with other names of runs, tasks, groups and reasons."""

    def again(one):
        return replace(
            one,
            **{
                key: rename(getattr(one, key))
                for key in ("task", "run", "before", "after", "group", "reason")
                if hasattr(one, key)
            },
        )

    scores = [again(score) for score in scores]
    return replace(
        results,
        tasks={rename(task): n for task, n in results.tasks.items()},
        runs=[
            replace(again(run), groups={rename(k): v for k, v in run.groups.items()})
            for run in results.runs
        ],
        methods=[again(row) for row in results.methods],
        changes=[again(change) for change in results.changes],
        reasons={rename(reason): n for reason, n in results.reasons.items()},
    ), scores


# --- The paper ---


def test_the_papers_points_give_its_table_3():
    for method, (_, scaling, performance) in METRICS["aime24"].items():
        # Its accuracies are of 30 questions, and printed to one decimal.
        points = [(x, round(0.3 * y) / 0.3) for x, y in PAPER["aime24"][method]]
        if method == "RS":
            assert abs(slope(points) - scaling) > 0.6  # the control: with the sixth run it is not
            points = points[1:]
        assert abs(slope(points) - scaling) < 0.6, method
        best = max(accuracy for _, accuracy in PAPER["aime24"][method])
        assert best == performance, method


def test_the_papers_points_are_those_of_the_reference(shared):
    facts = json.loads((shared / "reference" / "paper_numbers.json").read_text())
    for task, name in {"aime24": "aime24", "math500": "math500", "gpqa_diamond": "gpqa"}.items():
        assert [list(p) for p in PAPER[task]["BF"]] == facts["fig1_bf_points_tokens_acc"][name]
    assert [list(p) for p in PAPER["aime24"]["RS"]] == facts["fig6_rs_points_tokens_acc"]
    tables = {
        f"{name}{bf}": facts[f"{name.lower()}_aime24"][key]
        for name in ("TCC", "SCC")
        for bf, key in (("", "none"), ("+BF", "bf"))
    }
    for method, table in tables.items():
        shares = [round(100 * n / 30, 1) for n in table["correct_of_30"]]
        assert PAPER["aime24"][method] == tuple(zip(table["thinking"], shares, strict=True))
    lengths = [tuple(facts["ccc"][key]["aime"][::-1]) for key in ("short", "long")]
    assert list(PAPER["aime24"]["CCC"]) == lengths
    for method, row in facts["table3_control_scaling_performance_nA"].items():
        assert METRICS["aime24"][method] == tuple(row[:3])


# --- Accuracy against thinking ---


def drawn(axes):
    """The markers of runs: place, and whether it is hollow."""
    return {
        (line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor() == "white"
        for line in axes.lines
        if line.get_linestyle() == "None" and line.get_marker() != "_"
    }


def curves(axes):
    """The lines of two points and more, by their style."""
    return [
        (line.get_linestyle(), list(zip(*line.get_data(), strict=True)))
        for line in axes.lines
        if line.get_linestyle() != "None"
        and line.get_marker() == "None"
        and line.get_alpha() is None
    ]


def test_each_run_is_a_point_with_its_interval(results):
    figure = draw_scaling(results)
    assert len(figure.axes) == 2
    for axes, task in zip(figure.axes, TASKS, strict=True):
        runs = [run for run in results.runs if run.task == task]
        assert axes.get_title(loc="left") == f"{task}, {TASKS[task]} questions"
        places = {(run.thinking_tokens, run.accuracy.value): run for run in runs}
        points = drawn(axes)
        assert points.keys() == places.keys()
        for place, hollow in points.items():
            assert hollow == ("ignore" in places[place].run)
        whiskers = {
            (line.get_xdata()[0], *line.get_ydata())
            for line in axes.lines
            if line.get_marker() == "_"
        }
        assert whiskers == {
            (run.thinking_tokens, run.accuracy.low, run.accuracy.high) for run in runs
        }
        low, high = axes.get_ylim()
        assert all(low < end < high for _, *ends in whiskers for end in ends)


def test_the_halves_are_told_apart_and_meet(results):
    axes = draw_scaling(results).axes[0]
    runs = {run.run: run for run in results.runs if run.task == "aime24" and run.method == "BF"}
    points = {name: (run.thinking_tokens, run.accuracy.value) for name, run in runs.items()}
    lines = {style: line for style, line in curves(axes) if set(line) <= set(points.values())}
    cut = sorted(point for name, point in points.items() if "ignore" not in name)
    assert lines["-"] == cut
    extended = sorted(point for name, point in points.items() if "ignore" in name)
    assert lines["--"] == [points["auto"], *extended]
    assert cut[-1] != points["auto"]  # a budget of 16,000 happened to think longer


def test_every_run_is_named_and_no_name_is_on_another(results):
    figure = draw_scaling(results)
    assert collisions(figure) == []
    for axes, task in zip(figure.axes, TASKS, strict=True):
        texts = {text.get_text() for text in axes.texts} - {""}
        wanted = {r.run for r in results.runs if r.task == task and r.model == MODEL}
        assert texts == wanted
    names = [text for text in figure.axes[0].texts if text.get_text()]
    for text in names:  # the control: all at their points
        text.set_position((0, 0))
    assert collisions(figure)


def test_all_methods_of_both_models_have_their_place():
    runs = [
        (
            f"{method}-{n}",
            method,
            {"ignore_ends": 2} if method == "BF" and n else {},
            3000 * n + 900,
            0.3,
        )
        for method in STYLES
        for n in range(2)
    ]
    assert set(STYLES) == set(METHODS)
    scores = scores_of(runs, {"aime24": 30}, base=False)
    found = results_of([*scores, *(replace(score, model=BASE) for score in scores)])
    figure = draw_scaling(found)
    assert collisions(figure) == []
    assert len(figure.legends[0].get_texts()) == 2 * (len(STYLES) + 1) + 1
    assert len(set(STYLES.values())) == len({color for color, _ in STYLES.values()}) == 10
    assert len({shape for _, shape in STYLES.values()}) == 10
    assert collisions(draw_methods(found)) == []


def test_the_paper_is_drawn_where_it_has_points(results):
    def faint(axes):
        return [
            sorted(zip(*line.get_data(), strict=True))
            for line in axes.lines
            if line.get_alpha() == 0.3
        ]

    aime, math500 = draw_scaling(results).axes
    assert faint(aime) == [sorted(PAPER["aime24"][name]) for name in ("BF", "TCC", "RS")]
    assert faint(math500) == [sorted(PAPER["math500"]["BF"])]
    mine, _ = named(results, [], lambda name: f"my {name}")
    figure = draw_scaling(mine)
    assert [faint(axes) for axes in figure.axes] == [[], []]
    legends = [
        [t.get_text() for t in draw_scaling(r).legends[0].get_texts()] for r in (results, mine)
    ]
    assert "faint: the paper's s1-32B" in legends[0]
    assert "faint: the paper's s1-32B" not in legends[1]


def one_run(**changes):
    scores = scores_of(RUNS[6:7], {"mini": 20}, base=False)
    found = results_of(scores)
    return replace(found, runs=[replace(found.runs[0], **changes)]), scores


@pytest.mark.parametrize("value", [0.0, 50.0, 100.0])
@pytest.mark.parametrize("tokens", [0.0, 0.4, 1.0, 3.0, 6000.0, 1e6])
def test_a_single_point_is_a_picture(value, tokens):
    level = Interval(value, value, value)
    found, _ = one_run(thinking_tokens=tokens, used_tokens=tokens, accuracy=level)
    figure = draw_scaling(found)
    [axes] = figure.axes
    assert collisions(figure) == []
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left < max(tokens, 1) < right and right / left >= 3.99
    assert low < value < high and high - low >= 7
    ticks = [tick for tick in axes.get_xticks() if left <= tick <= right]
    assert len(ticks) >= 2


# --- The other pictures ---


def test_methods_show_their_metrics(results):
    figure = draw_methods(results)
    assert collisions(figure) == []
    control, scaling, performance = figure.axes
    rows = ["aime24", *(m for m in results.methods if m.task == "aime24")]
    rows += ["math500", *(m for m in results.methods if m.task == "math500")]
    markers = {
        line.get_ydata()[0]: (
            line.get_xdata()[0],
            line.get_markerfacecolor() == "white",
            line.get_marker(),
        )
        for line in scaling.lines
        if line.get_linestyle() == "None" and line.get_marker() != "|"
    }
    for y, row in enumerate(rows):
        if isinstance(row, str) or row.scaling is None:
            assert y not in markers
            continue
        x, hollow, marker = markers[y]
        assert hollow == (row.slope_p >= 0.05)
        if abs(row.scaling.value) > 60:
            assert (x, marker) == ((60, ">") if row.scaling.value > 0 else (-60, "<"))
        else:
            assert x == row.scaling.value
    assert {marker for _, _, marker in markers.values()} > {">", "<"}
    labels = [label.get_text() for label in control.get_yticklabels()]
    assert labels[:4] == ["aime24", "BF", "BF, cut short", "BF, extended"]
    texts = [text.get_text() for text in scaling.texts]
    bf = results.methods[0].scaling
    assert texts[0] == f"{bf.value:+.1f}  ({bf.low:+.1f} to {bf.high:+.1f})"
    theirs = [line.get_xdata()[0] for line in performance.lines if line.get_marker() == "|"]
    assert theirs == [METRICS["aime24"][name][2] for name in ("BF", "TCC", "RS")]


def test_lengths_are_counted(results, scores):
    figure = draw_thinking(results, scores)
    assert collisions(figure) == []
    for axes, task in zip(figure.axes, TASKS, strict=True):
        runs = [run for run in results.runs if run.task == task]
        assert len(axes.patches) == len(runs)
        budgets = [line.get_xdata()[0] for line in axes.lines if line.get_color() == "black"]
        assert budgets == [r.budget for r in runs if r.budget]
        for row, (patch, run) in enumerate(zip(axes.patches, runs, strict=True)):
            values, edges, _ = patch.get_data()
            lengths = [
                s.used_tokens
                for s in scores
                if (s.task, s.model, s.run) == (task, run.model, run.run)
            ]
            counts = np.histogram(lengths, edges)[0]
            assert counts.sum() == len(lengths)
            np.testing.assert_allclose(row - values, 0.82 * counts / counts.max(), atol=1e-9)
            median = f"median {statistics.median(lengths):,.0f}"
            text = axes.texts[row].get_text()
            ended = f"{run.budget_ended:.0f}% ended by budget"
            assert text == (f"{median}\n{ended}" if run.run[-1] == "0" else median)


def test_lengths_at_the_ends_of_the_axis():
    found, scores = one_run(budget=10**8)
    for lengths in ([0, 0, 7], [1, 1, 1], [5, 5 * 10**6, 9], [0, 0, 0]):
        some = [replace(s, used_tokens=n) for s, n in zip(scores, lengths, strict=False)]
        figure = draw_thinking(found, some)
        assert collisions(figure) == []
        if any(lengths):
            [axes] = figure.axes
            values = axes.patches[0].get_data()[0]
            assert min(values) == pytest.approx(-0.82)
            assert axes.get_xlim()[1] < 10 * max(lengths)
            assert not [line for line in axes.lines if line.get_color() == "black"]
        else:
            assert figure.axes == []


def test_waits_are_counted(results):
    figure = draw_waits(results)
    assert collisions(figure) == []
    [axes] = figure.axes
    bars = [patch.get_width() for patch in axes.patches]
    assert bars == [n for c in results.changes for n in (-c.broken, c.fixed)]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["aime24", "auto → ignore-1"]
    assert len(labels) == len(results.changes) + 2


PLOTS = {
    "scaling": lambda results, scores, path: plot_scaling(results, path),
    "methods": lambda results, scores, path: plot_methods(results, path),
    "thinking": plot_thinking,
    "waits": lambda results, scores, path: plot_waits(results, path),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_picture_is_written_whole(tmp_path, results, scores, name):
    plot = PLOTS[name]
    few = scores_of(RUNS[5:9], {"aime24": 20})
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, some in zip(paths, (scores, scores, few), strict=True):
        plot(results_of(some), some, path)
    width, height = size_of(paths[0])
    assert 1000 <= width <= 2000
    assert 200 <= height <= 2000
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths
    with pytest.raises(UserError, match=r"x\.png cannot be written: No such file"):
        plot(results, scores, tmp_path / "none" / "x.png")


@pytest.mark.parametrize("name", PLOTS)
def test_little_is_drawn_as_well(tmp_path, name):
    nothing = replace(results_of(scores_of(RUNS[:1])), runs=[], methods=[], changes=[])
    cases = [(replace(nothing, tasks={}), []), (nothing, []), one_run()]
    for runs in (RUNS[:1], RUNS[9:10], RUNS[10:11], RUNS[:2]):
        some = scores_of(runs, {"aime24": 1}, base=False)
        cases.append((results_of(some), some))
    for found, some in cases:
        PLOTS[name](found, some, tmp_path / "picture.png")
        width, height = size_of(tmp_path / "picture.png")
        assert width >= 1000 and height >= 200


@pytest.mark.parametrize("name", PLOTS)
def test_hostile_names_are_drawn_as_they_are(tmp_path, results, scores, name):
    few = scores_of(RUNS[5:9], {"aime24": 6})
    small = results_of(few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in HOSTILE:
            found, some = named(small, few, lambda old, text=text: f"{text}{old}{text}")
            PLOTS[name](found, some, tmp_path / "picture.png")


def test_five_tasks_in_a_picture():
    tasks = dict.fromkeys(("aime24", "aime25", "math500", "gpqa_diamond", "gsm8k"), 20)
    scores = scores_of(RUNS[:10], tasks)
    found = results_of(scores)
    for figure in (draw_scaling(found), draw_thinking(found, scores)):
        assert len(figure.axes) == 5
        assert collisions(figure) == []


# --- The report ---


def rows_of(text, first):
    """The rows of the tables whose first column is called so, as dicts."""
    found, lines = [], text.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith(f"| {first} |"):
            continue
        head = cells(line)
        for row in itertools.takewhile(lambda line: line.startswith("|"), lines[number + 2 :]):
            assert len(cells(row)) == len(head), row
            found.append(dict(zip(head, cells(row), strict=True)))
    return found


def test_each_run_has_its_row(results):
    rows = rows_of(report(results), "run")
    assert len(rows) == len(results.runs)
    for row, run in zip(rows, results.runs, strict=True):
        a = run.accuracy
        assert row["run"] == ("base: " if run.model == BASE else "") + run.run
        assert row["method"] == run.method + (f", {run.part}" if run.part else "")
        assert row["accuracy % [95%]"] == f"{a.value:.1f} [{a.low:.1f}, {a.high:.1f}]"
        assert row["thinking tokens"] == f"{run.thinking_tokens:,.0f}"
        assert row["no answer"] == f"{run.no_answer:.1f}%"
        assert row["ended by budget"] == f"{run.budget_ended:.1f}%"
        assert bool(row["points against base [95%]"]) == (run.model == MODEL)
    alone = report(results_of(scores_of(RUNS[:2], base=False)))
    assert "against base" not in alone
    assert "Base model" not in alone


def test_each_curve_has_its_metrics(results):
    rows = [row for row in rows_of(report(results), "task") if "Control" in row]
    assert len(rows) == len(results.methods)
    for row, method in zip(rows, results.methods, strict=True):
        assert row["part"] == method.part
        assert row["Control"] == ("" if method.control is None else f"{method.control:.1f}%")
        assert row["Performance"] == f"{method.performance:.1f}%"
        assert row["Scaling [95%]"].startswith(
            f"{method.scaling.value:+.1f} [" if method.scaling else ""
        )
        assert row["runs"] == str(len(method.runs))


CURVE = MethodResult(
    MODEL, "aime24", "BF", "all", ("a", "b"), 100.0,
    scaling=Interval(14.8, 6.0, 22.0), line=Interval(12.1, 8.0, 15.0), slope_p=0.003,
    scaling_printed=6.0, performance=56.7,
)  # fmt: skip


LINE = "+12.1 (95%: 8.0 to 15.0) points per doubling of the thinking by the line through its runs"
SCALING = "Scaling +14.8 (95%: 6.0 to 22.0)"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            f"**BF on aime24**: it gets better when it thinks longer, {LINE}, {SCALING};"
            " with 30 questions this differs from zero (p = 0.003).",
        ),
        (
            {"slope_p": 0.41, "part": "extended"},
            f"**BF on aime24, the half extended by ignored ends**: {LINE}, {SCALING};"
            " with 30 questions this cannot be told from zero (p = 0.41).",
        ),
        (
            {"slope_p": 0.0001, "scaling": Interval(-35.0, -50.0, -20.0), "model": BASE}
            | {"method": "RS"},
            f"**RS on aime24, base model**: it gets better when it thinks longer, {LINE},"
            " Scaling -35.0 (95%: -50.0 to -20.0);"
            " with 30 questions this differs from zero (p < 0.001).",
        ),
        (
            {"slope_p": None, "part": "cut short"},
            f"**BF on aime24, the half cut short by budgets**: {LINE}, {SCALING};"
            " whether that differs from zero was not tested.",
        ),
    ],
)
def test_a_curve_is_judged_in_a_sentence(changes, sentence):
    assert verdict(replace(CURVE, **changes), 30, []) == sentence
    if "better" in sentence:
        falls = replace(CURVE, **changes | {"line": Interval(-12.1, -15.0, -8.0)})
        worse = sentence.replace("better", "worse")
        assert verdict(falls, 30, []) == worse.replace(
            "+12.1 (95%: 8.0 to 15.0)", "-12.1 (95%: -15.0 to -8.0)"
        )
    assert "nothing can be said" in verdict(replace(CURVE, **changes | {"line": None}), 30, [])


def at_lengths(lengths):
    """Runs of these thinking tokens by s1's count, and as decoded."""
    [run] = one_run()[0].runs
    return [replace(run, thinking_tokens=own, used_tokens=used) for own, used in lengths]


@pytest.mark.parametrize(
    ("lengths", "why"),
    [
        ([(900.0, 903.0)] * 2, "its runs think equally long, so nothing can be said"),
        ([(0.0, 0.0)] * 2, "by s1's count fewer than two of its runs think at all, so nothing"),
        ([(0.0, 30.0), (9.0, 44.0)], "by s1's count fewer than two of its runs think at all, so"),
        ([(0.0, 9.0), (7.0, 9.0), (7.0, 9.0)], "its runs think equally long, so nothing can"),
        ([(5.0, 9.0), (7.0, 9.0)], "on the questions that all its runs have answered, if there"),
        (
            [(0.0, 1234.4), (0.0, 30.4), (0.0, 52.0)],
            "its thinking is 0 tokens by s1's count (it writes no second line), so there is no"
            " curve; as decoded its runs think 30 to 1,234 tokens.",
        ),
        ([(0.0, 30.4), (0.0, 30.0)], "its thinking is 0 tokens by s1's count"),
        ([(0.0, 30.4), (0.0, 30.0)], "as decoded its runs think 30 tokens."),
    ],
)
def test_where_there_is_no_slope_the_sentence_says_why(lengths, why):
    row = replace(CURVE, scaling=None, line=None, slope_p=None)
    sentence = verdict(row, 30, at_lengths(lengths))
    assert sentence.startswith("**BF on aime24**: ") and why in sentence
    assert ("as decoded" in sentence) == (not any(own for own, _ in lengths) and lengths[0][1] > 0)
    assert why not in verdict(CURVE, 30, at_lengths(lengths))


def in_one_line(results, method, model=MODEL, task="aime24"):
    """The same where a method's runs have thinking that s1 does not count."""

    def changed(run):
        if (run.method, run.model, run.task) != (method, model, task):
            return run
        return replace(run, thinking_tokens=0.0)

    rows = [
        replace(row, scaling=None, line=None, slope_p=None, scaling_printed=None)
        if (row.method, row.model, row.task) == (method, model, task)
        else row
        for row in results.methods
    ]
    return replace(results, runs=[changed(run) for run in results.runs], methods=rows)


def test_the_report_tells_of_thinking_that_s1_does_not_count(results):
    text = report(in_one_line(results, "BF"))
    used = [r.used_tokens for r in results.runs if (r.task, r.method) == ("aime24", "BF")]
    lengths = f"as decoded its runs think {min(used):,.0f} to {max(used):,.0f} tokens"
    assert "**BF on aime24**: its thinking is 0 tokens" in text and lengths in text
    [half] = [line for line in text.splitlines() if "on aime24, the half cut short" in line]
    assert lengths not in half and "as decoded its runs think" in half  # of its own runs
    assert "think equally long" not in text
    assert "by s1's count (it writes" not in report(results)


def test_a_curve_that_s1_does_not_count_is_drawn_as_decoded(results):
    """All of it, and no other."""

    def legend(found):
        return [text.get_text() for text in draw_scaling(found).legends[0].get_texts()]

    found = in_one_line(results, "BF")
    first, second = draw_scaling(found).axes
    expected = {
        (run.used_tokens if (run.task, run.method) == ("aime24", "BF") else run.thinking_tokens,
         run.accuracy.value)
        for run in results.runs
        if run.task == "aime24"
    }  # fmt: skip
    assert drawn(first).keys() == expected
    assert drawn(second) == drawn(draw_scaling(results).axes[1])
    # Those of BF's halves, TCC, RS and the base.
    assert sum(set(line) <= expected for _, line in curves(first)) == 5
    assert legend(results)[:2] == ["BF, cut short or free", "BF, extended: ends ignored"]
    noted = [name for name in legend(found) if name.endswith(" (as decoded)")]
    assert noted == [f"{name} (as decoded)" for name in legend(results)[:2]]
    assert set(legend(found)) == {*legend(results), *noted}  # in the other task it is as it was
    # One run that s1 counts, and the whole curve is by its count.
    runs = [
        replace(run, thinking_tokens=9.0) if (run.task, run.run) == ("aime24", "auto") else run
        for run in found.runs
    ]
    mixed = replace(found, runs=runs)
    assert legend(mixed) == legend(results)
    lengths = sorted(x for x, _ in drawn(draw_scaling(mixed).axes[0]))
    assert lengths[:1] == [1.0] and 9.0 in lengths
    # A model that does not think at all stays at the left.
    silent = replace(one_run()[0].runs[0], thinking_tokens=0.0, used_tokens=0.0)
    assert legend(replace(found, runs=[silent], tasks={"mini": 20})) == ["BF"]


def test_other_runs_are_points_without_a_line():
    runs = [(f"string-{n}", "other", {"ignore_ends": n}, 3000 * n, 0.3) for n in (1, 2)]
    scores = scores_of([*RUNS[6:8], *runs], {"mini": 30})
    found = results_of(scores)
    [axes] = draw_scaling(found).axes
    assert len(drawn(axes)) == 5
    others = {(r.thinking_tokens, r.accuracy.value) for r in found.runs if r.method == "other"}
    assert others < drawn(axes).keys() and not any(drawn(axes)[point] for point in others)
    lines = [point for _, line in curves(axes) for point in line]
    assert lines and not others & set(lines)
    entries = dict(
        zip(
            [text.get_text() for text in draw_scaling(found).legends[0].get_texts()],
            draw_scaling(found).legends[0].get_lines(),
            strict=True,
        )
    )
    assert entries["other"].get_linestyle() == "None" != entries["BF, cut short or free"]
    assert collisions(draw_scaling(found)) == collisions(draw_thinking(found, scores)) == []
    assert [row["method"] for row in rows_of(report(found), "run")] == [
        "BF, free",
        "BF, extended",
        "other",
        "other",
        "plain",
    ]
    assert "other on mini" not in report(found)
    as_bf = results_of([replace(s, method="BF") if s.method == "other" else s for s in scores])
    [axes] = draw_scaling(as_bf).axes  # the control
    assert others & {point for _, line in curves(axes) for point in line}


def test_the_extended_half_goes_on_from_the_free_run(results):
    """Whatever the run sets of itself, and though a budget happened to be larger."""
    runs = {run.run: run for run in results.runs if run.task == "aime24"}

    def start(**changes):
        some = [replace(run, **changes.get(run.run, {})) for run in runs.values()]
        found = replace(results, runs=some, tasks={"aime24": 30})
        [axes] = draw_scaling(found).axes
        last = points["ignore-4"]
        [line] = [line for _, line in curves(axes) if last in line]
        return line[0]

    points = {name: (run.thinking_tokens, run.accuracy.value) for name, run in runs.items()}
    assert start() == points["auto"]
    # The config's budget is 9000, which "auto" does not set itself.
    capped = {"auto": {"budget": 9000}, "budget-16000": {"budget": 20_000}}
    assert start(**capped) == points["auto"]
    none = {"auto": {"budget": 9000, "part": "cut short"}}
    assert start(**none) == points["budget-16000"]


def test_a_majority_has_its_note(results):
    note = "A majority is one answer for which all samples of a question thought"
    assert note not in report(results)
    voted = replace(results.runs[0], method="majority", part="")
    assert note in report(replace(results, runs=[voted, *results.runs[1:]]))


def test_the_limit_of_significance_is_that_of_the_pictures():
    assert "differs" in verdict(replace(CURVE, slope_p=0.0499), 30, [])
    assert "cannot be told" in verdict(replace(CURVE, slope_p=0.05), 30, [])


def test_several_samples_have_their_table():
    few = report(results_of(scores_of(RUNS[:2], {"aime24": 5}, samples=1)))
    assert rows_of(few, "several samples") == []
    found = results_of(scores_of(RUNS[:2], {"aime24": 5}, samples=4))
    rows = rows_of(report(found), "several samples")
    assert len(rows) == 3
    head = ["pass@1", "pass@2", "pass@4", "cov@2", "cov@4", "maj@2", "maj@4"]
    assert list(rows[0]) == ["several samples", *head]
    assert rows[0]["pass@4"] == f"{found.runs[0].pass_at[4]:.1f}%"
    assert "| 5, 4 samples |" in report(found)


def test_groups_have_a_table_with_the_fewer_as_columns(results):
    text = report(results)
    rows = rows_of(text, "accuracy by group")
    assert list(rows[0]) == ["accuracy by group", "even", "odd"]
    assert rows[0] == {"accuracy by group": "questions", "even": "15", "odd": "15"}
    assert len(rows) == 2 * (1 + 16)
    groups = {f"g{n}": (10.0 * n, n) for n in range(1, 5)}
    found = replace(results, runs=[replace(run, groups=groups) for run in results.runs[:2]])
    rows = rows_of(report(found), "accuracy by group")
    assert list(rows[0]) == ["accuracy by group", "questions", "budget-500", "budget-1000"]
    assert rows[2] == {"accuracy by group": "g3", "questions": "3", "budget-500": "30.0%",
                       "budget-1000": "30.0%"}  # fmt: skip
    alone = replace(results, runs=[replace(run, groups={"": (5.0, 3)}) for run in results.runs])
    assert rows_of(report(alone), "accuracy by group") == []


@pytest.mark.parametrize(
    ("changes", "there", "not_there"),
    [
        ({}, "No LLM judge was asked.", "scores.jsonl has both"),
        ({"disagreements": 1}, "disagrees with the local grader on 1 verdict.", "No LLM judge"),
        (
            {"disagreements": 12},
            "on 12 verdicts. The accuracies count the local grader's verdicts;",
            "count the judge's",
        ),
        (
            {"disagreements": 0, "judge_decides": True},
            "The accuracies count the judge's verdicts;",
            "count the local",
        ),
        ({"parity": True}, "with s1's quirks (parity)", "without s1's quirks"),
        ({"changes": []}, "How the verdicts were made", "What more ignored ends changed"),
        ({"methods": []}, "No method has two runs", "Control, Scaling"),
        ({"tasks": {"aime24": 30, "gsm8k": 0}}, "No run of it is there.", "One question of gsm8k"),
        ({"tasks": {"aime24": 31}}, "budget-500 has 30 of 31 questions", "## math500"),
    ],
)
def test_the_report_follows_the_results(results, changes, there, not_there):
    if "tasks" in changes:
        changes = changes | {
            key: [one for one in getattr(results, key) if one.task == "aime24"]
            for key in ("runs", "methods", "changes")
        }
    text, unchanged = report(replace(results, **changes)), report(results)
    assert there in text
    assert not_there not in text
    assert there not in unchanged or not_there in unchanged or not changes
    assert "\n\n\n" not in text


def test_the_report_tells_what_was_evaluated(results):
    text = report(results)
    for part in (
        "- **Model**: runs/s1/hf\n",
        "Qwen/Qwen2.5-32B-Instruct\n",
        "- **Tasks**: aime24 (30 questions), math500 (100 questions)\n",
        "- **config sha256**: 0123abcd\n",
        "- One question of aime24 is 3.3 points.\n",
        "10,000 resamples, seed 42",
        *(f"]({name})" for name in PICTURES),
        "| same number |",
    ):
        assert part in text
    assert "](" not in report(results, pictures=())


def test_the_sign_test_against_all_coins():
    for fixed, broken in itertools.product(range(7), repeat=2):
        n = fixed + broken
        uneven = abs(fixed - broken)
        coins = list(itertools.product((1, -1), repeat=n))
        as_uneven = sum(abs(sum(coin)) >= uneven for coin in coins)
        assert sign_test(fixed, broken) == pytest.approx(as_uneven / len(coins))
    assert sign_test(600, 500) < 0.01 < sign_test(550, 550) == 1


FEW = scores_of(RUNS[5:9], {"aime24": 4})
SMALL = results_of(FEW)


@settings(deadline=None)
@given(st.one_of(st.text(), st.text("|\\`$<>[]*~ \n\r_&#a"), st.sampled_from(HOSTILE)))
def test_a_report_holds_any_text(text):
    found, _ = named(SMALL, [], lambda old: f"{text}{old}")
    found = replace(found, models={MODEL: text, BASE: text}, about={text: text, "n": [text]})
    out, plain = report(found), report(SMALL)
    lines, others = out.splitlines(), plain.splitlines()
    assert [line.startswith("## ") for line in lines] == [line.startswith("## ") for line in others]
    for line, other in zip(lines, others, strict=True):
        if other.startswith("| "):
            assert len(cells(line)) == len(cells(other))
    assert not re.search(r"(?<!\\)<(?!\s)(?! 0)", out)
    out.encode()


def test_a_report_of_nothing_is_written():
    empty = replace(SMALL, models={}, tasks={}, runs=[], methods=[], changes=[], reasons={})
    assert "No method has two runs" in report(empty)
