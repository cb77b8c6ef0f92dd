"""The whole of s1 on the embedded world, reduced: from the pool to a curve that rises.

Every stage is checked by what it leaves, with code of its own. That the checks see a stage that is
broken is shown by breaking each of them once (`-m slow`).
"""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from s1jax import config, curation, mini, sifting
from s1jax import curate as curating
from s1jax.convert import to_hf
from s1jax.curate import curate
from s1jax.data import quality
from s1jax.data.funnel import Pick
from s1jax.decoding import requests
from s1jax.distill import distill
from s1jax.evaluate import evaluate
from s1jax.evaluation import marking
from s1jax.mini import pool as mini_pool
from s1jax.mini.tasks import family, verify
from s1jax.models import load
from s1jax.models.hf import open_checkpoint
from s1jax.models.weights import load_params
from s1jax.train import train
from s1jax.training import step as training_step
from s1jax.types import Question

STEPS, QUESTIONS = 160, 60
RISE = 30  # points, from the smallest to the largest budget on the search


def reduced():
    """The demo's config with fewer steps, questions and runs."""
    path = Path(__file__).parent.parent / "configs" / "mini.py"
    made = runpy.run_path(str(path))["get_config"]()
    made.train.steps = STEPS
    made.mesh.data, made.mesh.fsdp = 1, 1
    made.evaluate.tasks = ("mini_search",)
    made.evaluate.max_questions = QUESTIONS
    made.evaluate.budgets = (8, 128)
    made.evaluate.ignore_ends = (2,)
    made.evaluate.resamples = 500
    made.evaluate.grading_processes = 1
    return config.resolve(made)


def run(workdir):
    """All stages, each from what the one before has left; after each of them, whether it worked.

    The message of a failure begins with the stage's name.
    """
    import jax

    cfg = reduced()
    one = jax.devices()[:1]
    assert distill(cfg, workdir) == 0
    check_traces(lines(workdir / "traces.jsonl"))
    assert curate(cfg, workdir) == 0
    check_selection(lines(workdir / "curated.jsonl"))
    curated = replace(cfg, data=replace(cfg.data, path=str(workdir / "curated.jsonl")))
    assert train(curated, workdir, one) == 0
    losses = [line["loss"] for line in lines(workdir / "metrics.jsonl")]
    assert len(losses) == STEPS, "train: steps"
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10]), "train: nothing was learned"
    to_hf(workdir / "checkpoints", workdir / "exported", "float32", None)
    check_export(workdir)
    assert evaluate(cfg, workdir, str(workdir / "exported"), devices=one) == 0
    check_evaluation(workdir)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_evaluation(workdir):
    check_scores(lines(workdir / "scores.jsonl"))
    results = json.loads((workdir / "results.json").read_text())
    controls = {row["control"] for row in results["methods"] if row["model"] == "model"}
    assert controls == {100.0}, "evaluate: Control"
    for name in ("report.md", "scaling.png", "samples.html"):
        assert (workdir / name).stat().st_size > 1000, f"evaluate: {name}"


def check_traces(rows):
    assert len(rows) > 2500, "distill: traces are missing"
    plain = [row for row in rows if "[asy]" not in row["question"] and "(" not in row["question"]]
    rights = [verify(row["question"], row["attempt"]) for row in plain]
    assert 0.45 < np.mean(rights) < 0.7, "distill: the teacher is not as good as it is"
    again = np.mean(["\nWait\n" in "".join(row["thinking_trajectories"]) for row in rows])
    assert 0.1 < again < 0.6, "distill: the teacher does not look again"


def check_selection(rows):
    questions = [row["question"] for row in rows]
    assert len(questions) == len(set(questions)) == 1000, "curate: size"
    assert not any("[asy]" in q or "(Book" in q for q in questions), "curate: quality"
    assert not set(questions) & set(mini_pool.held_out()), "curate: held-out questions"
    assert len({family(question) for question in questions}) == 5, "curate: diversity"
    own = {
        question: row["text"].split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
        for question, row in zip(questions, rows, strict=True)
    }
    assert all(question == asked for question, asked in own.items()), "curate: text"


def check_export(workdir):
    exported = load_file(workdir / "exported" / "model.safetensors")
    first = load_file(mini.base() / "model.safetensors")
    assert exported.keys() == first.keys(), "convert: tensors"
    trained = load_file(workdir / "hf" / "model.safetensors")
    for name, tensor in exported.items():
        near = np.asarray(trained[name], np.float32)
        assert np.abs(tensor - near).max() <= 0.01 * np.abs(tensor).max(), f"convert: {name}"
        assert not np.array_equal(tensor, first[name]), f"convert: {name} is the base's"


def check_scores(scores):
    """The accuracies, with verdicts of the world's own programs."""
    asked = dict(enumerate(mini_pool.held_out("search")))
    right = {}
    for score in scores:
        verdict = score["answer"] is not None and verify(asked[int(score["id"])], score["answer"])
        assert verdict == score["correct"], "evaluate: grading"
        right.setdefault((score["model"], score["run"]), []).append(score["correct"])
        budget = 192 if score["run"] == "ignore-2" else int(score["run"].split("-")[1])
        assert score["used_tokens"] <= budget, "evaluate: a budget was exceeded"
    accuracy = {of: 100 * float(np.mean(marks)) for of, marks in right.items()}
    assert all(len(marks) == QUESTIONS for marks in right.values()), "evaluate: samples"
    short, natural, long = (
        accuracy["model", f"{n}"] for n in ("budget-8", "budget-128", "ignore-2")
    )
    assert max(value for (model, _), value in accuracy.items() if model == "base") < 10, (
        "evaluate: base"
    )
    assert long - short >= RISE, f"evaluate: {accuracy}"
    assert natural < long, f"evaluate: Wait does not help: {accuracy}"
    ended = [s["ignored_ends"] for s in scores if (s["model"], s["run"]) == ("model", "ignore-2")]
    assert set(ended) == {2}, "evaluate: ends were not ignored"


def test_thinking_longer_helps(tmp_path):
    run(tmp_path)


# --- Each stage broken once ---


def break_pool(monkeypatch):
    """Nothing is compared with the held-out questions."""
    monkeypatch.setattr(curation, "decontaminate", lambda sources, *_: (sources, []))


def break_teacher(monkeypatch):
    """The answers are of other questions."""
    think = mini_pool.think
    monkeypatch.setattr(mini_pool, "think", lambda *given: (think(*given)[0], "7"))


def break_quality(monkeypatch):
    """Figures and broken formatting pass, traces that were cut do not."""

    def of_the_trace(_, trace):
        return quality.quality_problem(Question("Sort two one", source_type="mini"), trace)

    monkeypatch.setattr(sifting, "quality_problem", of_the_trace)


def break_selection(monkeypatch):
    """The first ones are taken, whatever they are."""

    def first(candidates, cfg, _):
        alike = sorted(candidates, key=lambda candidate: candidate.domain)
        return [Pick(candidate, "first", "") for candidate in alike[: cfg.size]], []

    monkeypatch.setattr(curating, "select", first)


def break_training(monkeypatch):
    """Every step is of length 0."""
    rate = training_step.learning_rate
    monkeypatch.setattr(training_step, "learning_rate", lambda *given: 0 * rate(*given))


def break_export(monkeypatch):
    """The base's weights are exported again."""

    def first(_, mesh):
        return load_params(open_checkpoint(str(mini.base()), None), mesh, "float32"), STEPS

    monkeypatch.setattr(load, "restore", first)


def break_forcing(monkeypatch):
    """No end is ignored."""
    rules_of = requests.rules_of
    monkeypatch.setattr(
        requests, "rules_of", lambda *given: replace(rules_of(*given), ignore_ends=0)
    )


def break_grading(monkeypatch):
    """All answers are right."""
    mark = marking.mark

    def right(*given, **named):
        return [replace(one, correct=True) for one in mark(*given, **named)]

    monkeypatch.setattr(marking, "mark", right)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (break_pool, "curate: held-out questions"),
        (break_teacher, "distill: the teacher"),
        (break_quality, "curate: quality"),
        (break_selection, "curate: diversity"),
        (break_training, "train: nothing was learned"),
        (break_export, "convert: "),
        (break_forcing, "evaluate: "),
        (break_grading, "evaluate: grading"),
    ],
)
def test_a_broken_stage_is_seen(break_it, message, tmp_path, monkeypatch):
    break_it(monkeypatch)
    with pytest.raises(AssertionError, match=f"^(?:{message})"):
        run(tmp_path)
