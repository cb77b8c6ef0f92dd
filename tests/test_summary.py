"""What follows from scores: each figure against the same computed plainly, from a made-up sweep."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from s1jax.config import Decode
from s1jax.evaluation.measures import bootstrap, paired_bootstrap
from s1jax.evaluation.results import BASE, MODEL, Change, Score, read_scores, scores_text
from s1jax.evaluation.scaling import scaling
from s1jax.evaluation.summary import summarise
from s1jax.evaluation_config import Run
from s1jax.types import UserError

FIELDS = {
    "model": MODEL,
    "task": "aime24",
    "run": "budget-500",
    "method": "BF",
    "id": "0",
    "sample": 0,
    "group": "",
    "gold": "1",
    "answer": "1",
    "correct": True,
    "reason": "same number",
    "judged": None,
    "thinking_tokens": 400,
    "answer_tokens": 10,
    "used_tokens": 402,
    "ended": "itself",
    "ignored_ends": 0,
    "finish": "stop",
}


def score(**fields):
    assert set(fields) <= set(FIELDS)
    return Score(**FIELDS | fields)


def answered(run, outcomes, **fields):
    """A score for each question: "1" for right, "0" for wrong."""
    return [
        score(run=run, id=f"q{i:03}", correct=outcome == "1", **fields)
        for i, outcome in enumerate(outcomes)
    ]


def agreeing(scores):
    """Labels by the answer; -1 for none."""
    answers = list(dict.fromkeys(s.answer for s in scores if s.answer is not None))
    return [-1 if s.answer is None else answers.index(s.answer) for s in scores]


def summary(scores, runs, base=None, base_runs=None, **given):
    options = {
        "models": {MODEL: "tuned"} | ({BASE: base} if base else {}),
        "tasks": dict.fromkeys((s.task for s in scores), 4),
        "labels": agreeing,
        "resamples": 200,
        "seed": 3,
        "parity": False,
        "judge_decides": False,
        "disagreements": None,
    }
    of = {MODEL: runs, BASE: runs if base_runs is None else base_runs}
    decodes = {(model, r.name): Decode(**r.decode) for model, some in of.items() for r in some}
    return summarise(scores, of, decodes, **options | given)


def budget(tokens):
    return Run(f"budget-{tokens}", "BF", {"max_thinking_tokens": tokens})


def ignoring(ends, **decode):
    return Run(f"ignore-{ends}", "BF", {"ignore_ends": ends, **decode})


FREE = Run("free", "BF", {})

# --- Runs ---


def test_a_run():
    scores = [
        score(id="b", group="Algebra", thinking_tokens=100, answer_tokens=20, used_tokens=103),
        score(id="a", group="Algebra", correct=False, thinking_tokens=500, ended="budget"),
        score(id="c", group="Geometry", answer=None, correct=False, finish="length"),
        score(id="d", correct=True, ignored_ends=2),
    ]
    runs = [budget(500)]
    found = summary(scores, runs)
    [run] = found.runs
    fields = asdict(run)
    del fields["accuracy"]
    assert fields == {
        "model": MODEL,
        "task": "aime24",
        "run": "budget-500",
        "method": "BF",
        "asked": {"max_thinking_tokens": 500},
        "bounds": (None, 500),
        "budget": 500,
        "part": "free",  # no run has a larger budget
        "questions": 4,
        "samples": 1,
        "thinking_tokens": 350,
        "answer_tokens": 12.5,
        "used_tokens": (103 + 3 * 402) / 4,
        "no_answer": 25,
        "budget_ended": 25,
        "ends_ignored": 0.5,
        "pass_at": {},
        "cov_at": {},
        "maj_at": {},
        "groups": {"Algebra": (50, 2), "Geometry": (0, 1)},
        "against_base": None,
    }
    assert run.accuracy == bootstrap(np.array([0.0, 100, 0, 100]), 200, 3)
    [method] = found.methods
    assert (method.control, method.performance) == (100, 50)
    assert method.scaling is method.scaling_printed is method.slope_p is None
    assert found.changes == []
    assert json.loads(found.to_json())["runs"][0]["bounds"] == [None, 500]


def test_samples_come_before_questions():
    """A question's samples count together as much as another's, however many there are."""
    rows = [("a", 0, "7", True), ("a", 1, "8", False), ("a", 2, "7", True), ("a", 3, None, False)]
    rows += [("b", n, answer, False) for n, answer in enumerate(("3", "4"))]
    scores = [score(id=i, sample=n, answer=answer, correct=ok) for i, n, answer, ok in rows]
    [run] = summary(scores, [budget(500)]).runs
    assert (run.questions, run.samples) == (2, 2)
    assert run.accuracy.value == 25  # of all six samples a third is right
    assert run.no_answer == pytest.approx(100 * (1 / 4 + 0) / 2)
    assert run.pass_at == {1: 25, 2: pytest.approx(100 * (5 / 6) / 2)}
    assert run.cov_at == {2: 50}
    assert run.maj_at == {2: 50}  # 7 was seen before 8
    swapped = [replace(s, sample=1 - s.sample) if s.sample < 2 else s for s in scores]
    [run] = summary(swapped, [budget(500)]).runs
    assert run.maj_at == {2: 0} and run.cov_at == {2: 50}


def test_of_four_samples():
    answers = {"a": "7788", "b": "1222"}
    scores = [
        score(id=i, sample=n, answer=answer, correct=answer in "82")
        for i, text in answers.items()
        for n, answer in enumerate(text)
    ]
    [run] = summary(scores, [budget(500)]).runs
    assert run.cov_at == {2: 50, 4: 100}
    assert run.maj_at == {2: 0, 4: 50}
    assert list(run.pass_at) == [1, 2, 4]


def test_the_order_of_scores_does_not_matter():
    runs = [budget(500), budget(1000), FREE, ignoring(1)]
    rng = np.random.default_rng(0)
    scores = []
    for number, run in enumerate(runs):
        for sample in range(3):
            outcomes = "".join(rng.choice(["0", "1"], size=20))
            scores += answered(
                run.name,
                outcomes,
                sample=sample,
                thinking_tokens=500 * (number + 1),
                answer=str(sample % 2),
                reason=f"reason {sample}",
            )
    found = summary(scores, runs)
    for _ in range(3):
        shuffled = [scores[i] for i in rng.permutation(len(scores))]
        assert summary(shuffled, runs, tasks={"aime24": 4}) == found
    assert summary(scores[1:], runs) != found
    assert summary(scores, runs, seed=4) != found
    assert summary(scores, runs).to_json() == found.to_json()


def test_results_are_in_the_order_of_the_config():
    names = [budget(500), FREE, Run("asked", "TCC", {"prompt_tokens": 100})]
    scores = []
    for task in ("gsm8k", "aime24"):
        for model in (BASE, MODEL):
            for run in reversed(names):
                scores += answered(run.name, "10", task=task, model=model, method=run.method)
    scores += answered("gone", "01", task="gsm8k")
    scores += answered("another", "01", task="gsm8k")
    found = summary(scores, names, base="start", tasks={"aime24": 2, "gsm8k": 2})
    told = [(run.task, run.model, run.run) for run in found.runs]
    expected = [
        (task, model, run)
        for task in ("aime24", "gsm8k")
        for model in (MODEL, BASE)
        for run in ("budget-500", "free", "asked")
    ]
    at = expected.index(("gsm8k", MODEL, "asked")) + 1
    assert (
        told == expected[:at] + [("gsm8k", MODEL, n) for n in ("another", "gone")] + expected[at:]
    )
    methods = [(row.task, row.model, row.method, row.part) for row in found.methods]
    parts = [("BF", "all"), ("BF", "cut short"), ("TCC", "all")]
    assert methods == [
        (task, model, *part)
        for task in ("aime24", "gsm8k")
        for model in (MODEL, BASE)
        for part in parts
    ]
    assert (found.models, found.tasks) == (
        {MODEL: "tuned", BASE: "start"},
        {"aime24": 2, "gsm8k": 2},
    )


def test_reasons_and_what_is_handed_on():
    scores = answered("budget-500", "11", reason="b") + answered("x", "1", reason="a")
    scores += answered("y", "1", reason="c")
    found = summary(scores, [budget(500)], parity=True, disagreements=7, about={"version": 1})
    assert list(found.reasons.items()) == [("b", 2), ("a", 1), ("c", 1)]
    assert (found.parity, found.judge_decides, found.disagreements) == (True, False, 7)
    assert (found.resamples, found.seed, found.about) == (200, 3, {"version": 1})
    assert summary(scores, [budget(500)]).about == {}


def test_two_scores_of_one_sample_are_a_fault():
    with pytest.raises(AssertionError, match="is there twice"):
        summary([score(), score()], [budget(500)])
    with pytest.raises(AssertionError, match="no task or model"):
        summary([score(model=BASE)], [budget(500)])


# --- Against the base ---


def test_against_the_base():
    runs = [budget(500), FREE]
    ours = answered("budget-500", "1101") + answered("free", "1111")
    plain = answered("plain", "0101", model=BASE, method="plain")

    def differences(base):
        found = summary(ours + base, runs, base="start")
        assert all(run.against_base is None for run in found.runs if run.model == BASE)
        return {run.run: run.against_base for run in found.runs if run.model == MODEL}

    found = differences(plain)
    assert found["budget-500"].value == 25 and found["free"].value == 50
    assert found["budget-500"] == paired_bootstrap(
        np.array([100.0, 100, 0, 100]), np.array([0.0, 100, 0, 100]), 200, 3
    )
    same = answered("free", "0000", model=BASE)
    found = differences(plain + same)  # of the same name first, else the plain one
    assert found["budget-500"].value == 25 and found["free"].value == 100
    found = differences(same)  # else the only one
    assert found["budget-500"].value == 75 and found["free"].value == 100
    found = differences(same + answered("other", "1111", model=BASE))  # which of them?
    assert found["budget-500"] is None and found["free"].value == 100
    assert differences([replace(s, id=f"other {s.id}") for s in plain])["free"] is None
    # One that is still going is compared where it has answered.
    assert differences(plain[:1])["budget-500"].value == 100


def test_two_models_runs_of_one_name_are_two():
    """A base's "plain" answer is another run than the model's of that name."""
    ours = [Run("plain", "BF", {"max_thinking_tokens": 500}), Run("as is", "BF", {})]
    theirs = [Run("as is", "plain", {"thinking": False}), Run("plain", "plain", {})]
    scores = answered("plain", "11") + answered("as is", "11")
    scores += answered("plain", "01", model=BASE, method="plain")
    scores += answered("as is", "00", model=BASE, method="plain")
    told = {
        (run.model, run.run): (run.method, run.asked, run.budget, run.bounds, run.part)
        for run in summary(scores, ours, base="start", base_runs=theirs).runs
    }
    assert list(told.items()) == [
        ((MODEL, "plain"), ("BF", {"max_thinking_tokens": 500}, 500, (None, 500), "cut short")),
        ((MODEL, "as is"), ("BF", {}, None, None, "free")),
        ((BASE, "as is"), ("plain", {"thinking": False}, None, None, "")),
        ((BASE, "plain"), ("plain", {}, None, None, "")),
    ]
    # One that the config knows of the other model alone is told by its scores.
    [*_, gone] = summary(scores, ours, base="start", base_runs=theirs[:1]).runs
    assert (gone.model, gone.run, gone.method, gone.asked) == (BASE, "plain", "plain", {})


# --- Curves ---


def sweep_of(outcomes, tokens, runs):
    scores = []
    for run in runs:
        scores += answered(run.name, outcomes[run.name], thinking_tokens=tokens[run.name])
    return scores


RUNS = [ignoring(2), ignoring(1), budget(1000), FREE, budget(500)]
OUTCOMES = {
    "budget-500": "0000",
    "budget-1000": "1000",
    "free": "1110",
    "ignore-1": "1101",
    "ignore-2": "1111",
}
TOKENS = {"budget-500": 500, "budget-1000": 1000, "free": 2000, "ignore-1": 2500, "ignore-2": 4000}


def point(run):
    return TOKENS[run], 25.0 * OUTCOMES[run].count("1")


def test_the_halves_of_budget_forcing_are_told_apart():
    found = summary(sweep_of(OUTCOMES, TOKENS, RUNS), RUNS).methods
    parts = {row.part: row for row in found}
    assert {part: row.runs for part, row in parts.items()} == {
        "all": ("budget-500", "budget-1000", "free", "ignore-1", "ignore-2"),
        "cut short": ("budget-500", "budget-1000", "free"),
        "extended": ("free", "ignore-1", "ignore-2"),
    }
    for row in parts.values():
        assert row.scaling.value == pytest.approx(scaling([point(run) for run in row.runs]))
        assert row.scaling.low <= row.scaling.value <= row.scaling.high
        assert row.performance == max(point(run)[1] for run in row.runs)
        assert 0 < row.slope_p <= 1
    assert parts["cut short"].scaling.value > parts["extended"].scaling.value
    assert parts["all"].control == parts["cut short"].control == 100
    assert parts["extended"].control is None  # none of them is told anything


def parts_of(*runs, methods=("BF",)):
    scores = []
    for number, run in enumerate(runs):
        scores += answered(run.name, "0110", method=run.method, thinking_tokens=100 * number + 100)
    return {
        row.part: row.runs for row in summary(scores, list(runs)).methods if row.method in methods
    }


def test_a_half_has_two_runs():
    assert parts_of(FREE) == {"all": ("free",)}
    assert parts_of(ignoring(1)) == {"all": ("ignore-1",)}
    assert parts_of(budget(500), budget(900)) == {
        "all": ("budget-500", "budget-900"),
        "cut short": ("budget-500", "budget-900"),
    }
    assert parts_of(ignoring(1), ignoring(2))["extended"] == ("ignore-1", "ignore-2")
    # The largest budget is the free run where no run is without.
    assert parts_of(budget(500), budget(900), ignoring(1))["extended"] == ("budget-900", "ignore-1")
    plain = Run("plain", "plain", {})
    assert parts_of(budget(500), plain) == {
        "all": ("budget-500",),
        "cut short": ("budget-500", "plain"),
    }
    without = Run("plain", "plain", {"thinking": False})
    assert parts_of(ignoring(1), without) == {"all": ("ignore-1",)}
    least = Run("least", "BF", {"min_thinking_tokens": 900})
    assert parts_of(FREE, least)["extended"] == ("free", "least")
    asked = Run("asked", "TCC", {"prompt_tokens": 9})
    assert parts_of(asked, Run("more", "TCC", {"prompt_tokens": 99}), methods=("TCC",)) == {
        "all": ("asked", "more")
    }


def pieces(*runs, **changes):
    scores = [s for run in runs for s in answered(run.name, "01", method=run.method, **changes)]
    return {run.run: run.part for run in summary(scores, list(runs)).runs}


def test_each_run_of_budget_forcing_is_on_a_part():
    assert pieces(budget(500), FREE, ignoring(1)) == {
        "budget-500": "cut short",
        "free": "free",
        "ignore-1": "extended",
    }
    # The budget counts, whether the run or the rest of the config says it.
    both = ignoring(0, max_thinking_tokens=900), ignoring(2, max_thinking_tokens=900)
    assert pieces(budget(500), *both) == {
        "budget-500": "cut short",
        "ignore-0": "free",
        "ignore-2": "extended",
    }
    least = [Run(f"least-{n}", "BF", {"min_thinking_tokens": n}) for n in (1, 2)]
    assert pieces(*least) == {"least-1": "free", "least-2": "extended"}
    # Of other methods none is on a part, though the free run may be one of them.
    asked = Run("asked", "TCC", {"prompt_tokens": 9, "ignore_ends": 2})
    plain = Run("plain", "plain", {})
    assert pieces(plain, asked, budget(500)) == {
        "plain": "",
        "asked": "",
        "budget-500": "cut short",
    }
    # What nothing cuts is free, however many such runs there are, and whichever is told first.
    warm = Run("warm", "BF", {"temperature": 1.0})
    assert pieces(plain, FREE, warm) == {"plain": "", "free": "free", "warm": "free"}
    assert parts_of(plain, FREE, warm) == {"all": ("free", "warm")}
    assert parts_of(FREE, warm, ignoring(1))["extended"] == ("free", "warm", "ignore-1")
    # Ends that were ignored though none was to be (another config's samples) change no part.
    assert pieces(budget(500), FREE, ignored_ends=1)["free"] == "free"
    [gone] = summary(answered("gone", "01"), []).runs
    assert (gone.part, gone.budget) == ("", None)


def test_a_budget_is_that_of_the_whole_config():
    runs = [Run("a", "BF", {}), Run("b", "plain", {"thinking": False})]
    decodes = {(MODEL, "a"): Decode(max_thinking_tokens=700)}
    decodes[MODEL, "b"] = Decode(max_thinking_tokens=700, thinking=False)
    scores = answered("a", "01") + answered("b", "01", method="plain")
    options = {"models": {MODEL: "m"}, "tasks": {"aime24": 2}, "labels": agreeing, "resamples": 9}
    options |= {"seed": 0, "parity": False, "judge_decides": False, "disagreements": None}
    found = summarise(scores, {MODEL: runs}, decodes, **options).runs
    assert [(run.asked, run.budget) for run in found] == [({}, 700), ({"thinking": False}, None)]


def test_other_runs_are_on_no_curve():
    others = [Run(f"string-{n}", "other", {"ignore_ends": n}) for n in (1, 2)]
    scores = answered("free", "0110", thinking_tokens=100) + answered("budget-9", "0010")
    for run in others:
        scores += answered(run.name, "0110", method="other", thinking_tokens=900)
    runs = [FREE, budget(9), *others]
    found = summary(scores, runs)
    assert [(run.run, run.method, run.part) for run in found.runs][2:] == [
        ("string-1", "other", ""),
        ("string-2", "other", ""),
    ]
    assert [(row.method, row.part) for row in found.methods] == [("BF", "all"), ("BF", "cut short")]
    assert found.changes == []
    assert found.methods == summary(scores[:8], runs[:2]).methods
    as_bf = [replace(run, method="BF") for run in others]  # the control
    scores = [replace(s, method="BF") for s in scores]
    found = summary(scores, [FREE, budget(9), *as_bf])
    assert found.changes and "extended" in {row.part for row in found.methods}


def test_short_and_long_are_held_against_the_free_run():
    short = Run("short", "CCC", {"prompt_class": "short"})
    long = Run("long", "CCC", {"prompt_class": "long"})
    scores = [
        *answered("free", "11", thinking_tokens=6109),
        *answered("short", "10", method="CCC", thinking_tokens=8033),
        *answered("long", "11", method="CCC", thinking_tokens=9651),
    ]
    ccc = summary(scores, [FREE, short, long]).methods[-1]
    assert (ccc.method, ccc.control, ccc.runs) == ("CCC", 50, ("short", "long"))
    alone = summary(scores[2:], [short, long]).methods[-1]
    assert alone.control is None  # the default is not known


def test_a_sweep_that_is_still_going():
    """A curve is of the questions that all of its runs have answered."""
    runs = [budget(500), budget(1000)]
    scores = answered("budget-500", "0011", thinking_tokens=500)
    scores += answered("budget-1000", "01", thinking_tokens=1000)
    found = summary(scores, runs)
    assert [(run.questions, run.accuracy.value) for run in found.runs] == [(4, 50), (2, 50)]
    assert found.methods[0].scaling.value == pytest.approx(50)
    assert found.methods[0].performance == 50
    apart = [replace(s, id=s.run + s.id) for s in scores]  # no question in common
    row = summary(apart, runs).methods[0]
    assert row.scaling is row.slope_p is row.scaling_printed is None
    assert (row.control, row.performance) == (100, 50)
    assert len(summary(scores[:4], runs).runs) == 1  # one that has not begun is no run


def test_a_majority_thinks_as_long_as_all_its_samples():
    decode = {"temperature": 1.0}
    runs = [Run(f"of-{n}", "majority", {"samples": n, **decode}) for n in (2, 4)]
    scores = []
    for run in runs:
        for n in range(run.decode["samples"]):
            answers = {"a": "7", "b": "12"[n > 1]}  # of two b is lost, of four it is a tie
            answers["c"] = "1222"[n]
            for i, answer in answers.items():
                scores.append(
                    score(
                        run=run.name,
                        method="majority",
                        id=i,
                        sample=n,
                        answer=answer,
                        correct=answer in "72",
                        thinking_tokens=100,
                    )
                )
    found = summary(scores, runs)
    [row] = found.methods
    assert row.runs == ("of-2", "of-4")
    assert row.performance == pytest.approx(100 * 2 / 3)
    assert row.scaling.value == pytest.approx(100 / 3)
    assert row.scaling_printed == pytest.approx(100 / 3 / 0.2)  # of 200 and of 400 tokens
    # A run is the same point that the curve has; the mean over samples is pass@1.
    votings = (2, [100, 0, 0], (1, 0, 1 / 2)), (4, [100, 0, 100], (1, 1 / 2, 3 / 4))
    for run, (votes, right, means) in zip(found.runs, votings, strict=True):
        assert run.accuracy == bootstrap(np.array(right, float), 200, 3)
        assert (run.thinking_tokens, run.used_tokens) == (100 * votes, 402 * votes)
        assert (run.answer_tokens, run.samples) == (10, votes)
        assert run.maj_at[votes] == pytest.approx(run.accuracy.value)
        assert run.pass_at[1] == pytest.approx(100 * np.mean(means))
        assert run.pass_at[1] != pytest.approx(run.accuracy.value)
    # The same as a run of another method is the mean over samples, at one sample's tokens.
    as_bf = [replace(run, method="BF") for run in runs]
    for run in summary([replace(s, method="BF") for s in scores], as_bf).runs:
        assert run.accuracy.value == pytest.approx(run.pass_at[1])
        assert (run.thinking_tokens, run.used_tokens) == (100, 402)


def test_what_is_voted_is_held_against_the_base_and_told_by_group():
    run = Run("of-3", "majority", {"samples": 3, "max_thinking_tokens": 150})
    answers = {"a": "717", "b": "727", "c": "333"}
    scores = [
        score(run="of-3", method="majority", id=i, sample=n, answer=answer, correct=answer == "7",
              group="easy" if i < "c" else "hard", thinking_tokens=100)
        for i, text in answers.items()
        for n, answer in enumerate(text)
    ]  # fmt: skip
    plain = [score(model=BASE, run="plain", method="plain", id=i, correct=i == "a") for i in "abc"]
    found = summary(scores + plain, [run], base="start", base_runs=[Run("plain", "plain", {})])
    ours = found.runs[0]
    assert ours.groups == {"easy": (100, 2), "hard": (0, 1)}
    assert ours.against_base == paired_bootstrap(
        np.array([100.0, 100, 0]), np.array([100.0, 0, 0]), 200, 3
    )
    # A budget binds each sample: three of 100 keep to 150.
    assert (found.methods[0].control, ours.bounds, ours.thinking_tokens) == (100, (None, 150), 300)


# --- Files ---


def test_scores_are_read_as_they_were_written(tmp_path):
    """Answers hold what splitlines() takes for the end of a line, and JSON does not escape."""
    path = tmp_path / "scores.jsonl"
    ends = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r \n \r\n end"
    scores = [score(id=str(n), answer=f"{n}{ends}", gold=ends) for n in range(3)]
    path.write_text(scores_text(scores), encoding="utf-8")
    assert len(path.read_text(encoding="utf-8").splitlines()) > 3  # the control
    assert read_scores(path) == scores
    path.write_text("", encoding="utf-8")
    assert read_scores(path) == []
    path.write_text(scores_text(scores) + "{}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"scores\.jsonl, line 4: is no score"):
        read_scores(path)


# --- Changes ---


def change(before, after, fixed, broken, right, wrong):
    return Change(MODEL, "aime24", before, after, fixed, broken, right, wrong)


def test_what_each_wait_changed():
    found = summary(sweep_of(OUTCOMES, TOKENS, RUNS), RUNS).changes
    assert sorted(found, key=lambda c: (c.after, c.before)) == [
        change("free", "ignore-1", 1, 1, 2, 0),
        change("free", "ignore-2", 1, 0, 3, 0),
        change("ignore-1", "ignore-2", 1, 0, 3, 0),
    ]


def pairs_of(*runs):
    scores = [s for run in runs for s in answered(run.name, "01", method=run.method)]
    return [(c.before, c.after) for c in summary(scores, list(runs)).changes]


def test_only_what_is_else_the_same_is_a_wait_more():
    hmm = Run("hmm", "BF", {"ignore_ends": 2, "ignore_strings": ("Hmm",)})
    assert pairs_of(ignoring(1), hmm) == []
    assert pairs_of(ignoring(1), ignoring(2), hmm) == [("ignore-1", "ignore-2")]
    assert pairs_of(FREE, hmm) == [("free", "hmm")]  # ignoring none, it wrote no other string
    cut = ignoring(3, max_thinking_tokens=500)
    assert pairs_of(ignoring(1), cut) == []
    assert pairs_of(budget(500), cut) == [("budget-500", "ignore-3")]
    assert pairs_of(budget(500), cut, FREE) == [("budget-500", "ignore-3"), ("free", "ignore-3")]
    cut_hmm = replace(hmm, decode={**hmm.decode, "max_thinking_tokens": 500})
    assert pairs_of(budget(500), cut_hmm, FREE) == [("budget-500", "hmm"), ("free", "hmm")]
    assert pairs_of(FREE, ignoring(4), ignoring(1)) == [
        ("ignore-1", "ignore-4"),
        ("free", "ignore-4"),
        ("free", "ignore-1"),
    ]
    assert pairs_of(FREE, budget(500)) == []


def test_changes_are_of_first_samples():
    scores = answered("free", "01") + answered("ignore-1", "10")
    more = answered("free", "11", sample=1) + answered("ignore-1", "11", sample=1)
    runs = [FREE, ignoring(1)]
    expected = [change("free", "ignore-1", 1, 1, 0, 0)]
    assert summary(scores, runs).changes == summary(more + scores, runs).changes == expected
    assert summary(more, runs).changes == [change("free", "ignore-1", 0, 0, 2, 0)]
    apart = [replace(s, id=s.run + s.id) for s in scores]
    assert summary(apart, runs).changes == []


# --- Size ---


def test_a_large_sweep_has_the_intervals_of_theory():
    """Ten runs of GSM8K with 10,000 resamples, whose tables would not fit the memory whole."""
    rng = np.random.default_rng(0)
    runs = [budget(500 * 2**n) for n in range(6)] + [ignoring(n) for n in (1, 2, 4, 6)]
    scores = []
    for number, run in enumerate(runs):
        outcomes = "".join(rng.choice(["0", "1"], size=1319))
        scores += answered(run.name, outcomes, thinking_tokens=500 * (number + 1))
    found = summary(scores, runs, resamples=10_000)
    width = found.runs[0].accuracy.high - found.runs[0].accuracy.low
    p = found.runs[0].accuracy.value / 100
    assert width == pytest.approx(2 * 196 * (p * (1 - p) / 1319) ** 0.5, rel=0.05)
