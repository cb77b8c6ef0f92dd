"""The verb: what it asks, what it leaves, how it goes on, and all that it refuses.

The model is a real one whose weights follow a script: it thinks six tokens and answers 12, after a
forced end 98, and after each "Wait" two tokens more. So every figure of a report is known before.
"""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from fakes_curate import FakeModel
from fakes_script import ENDLESS, config_file, script_config, write_script
from fakes_train import environment

from s1jax import cli, evaluate, evaluating, outcomes
from s1jax.config import decode_of
from s1jax.evaluation.results import read_scores
from s1jax.evaluation.samples import SamplesFile
from s1jax.evaluation.tasks import items_of
from s1jax.evaluation_config import Run, Task, sweep
from s1jax.outcomes import Evaluation
from s1jax.types import UserError

ROOT = Path(__file__).resolve().parent.parent
GOLDS = {"What?": "12", "How?": "12", "Why?": "7", "When?": "98"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_script(tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    return write_script(tmp_path_factory.mktemp("endless"), ENDLESS)


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "own.jsonl"
    write_questions(path, GOLDS)
    return path


def write_questions(path, golds):
    lines = [{"question": q, "answer": a, "kind": q[0]} for q, a in golds.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def config(path, questions, **fields):
    task = Task("own", str(questions), group="kind")
    named = {"evaluate__own_tasks": (task,), "evaluate__tasks": ("own",), "evaluate__base": "none"}
    named["evaluate__resamples"] = 200
    named["decode__min_thinking_tokens"] = 1
    return script_config(path, **(named | fields))


def run(cfg, workdir, model=None, **how):
    return evaluate.evaluate(cfg, workdir, model, devices=jax.devices()[:1], **how)


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def accuracies(workdir, model="model"):
    found = results(workdir)["runs"]
    return {r["run"]: r["accuracy"]["value"] for r in found if r["model"] == model}


SWEEP = {"evaluate__budgets": (4, 40), "evaluate__ignore_ends": (1, 2)}


def test_a_sweep_ends_in_all_that_the_docstring_promises(model, questions, tmp_path, capsys):
    workdir = tmp_path / "out"
    assert run(config(model, questions, **SWEEP), workdir) == cli.DONE
    # Forced at 4 tokens it answers 98, else 12: one question of four has 98, two have 12.
    assert accuracies(workdir) == {"budget-4": 25, "budget-40": 50, "ignore-1": 50, "ignore-2": 50}
    for name in (
        *("generations.jsonl", "scores.jsonl", "results.json", "report.md", "samples.html"),
        *("scaling.png", "methods.png", "thinking.png", "waits.png", "evaluation.json"),
    ):
        assert (workdir / name).stat().st_size, name
    out = capsys.readouterr().out
    assert re.search(r"^own +budget-4 +4 +4 +25\.0 \[", out, re.MULTILINE)
    assert "samples.html" in out
    scores = {(s.run, s.id): s for s in read_scores(workdir / "scores.jsonl")}
    assert len(scores) == 4 * 4
    assert scores["budget-4", "3"].correct and scores["budget-4", "3"].ended == "budget"
    assert scores["ignore-2", "0"].ignored_ends == 2
    assert [scores[run, "0"].used_tokens for run in ("budget-4", "budget-40", "ignore-1")] == [
        4,
        6,
        10,
    ]
    assert {s.group for s in scores.values()} == {"W", "H"}
    [change] = [
        c
        for c in results(workdir)["changes"]
        if (c["before"], c["after"]) == ("ignore-1", "ignore-2")
    ]
    assert (change["stayed_right"], change["stayed_wrong"]) == (2, 2)


def test_one_generation_serves_all_runs_that_it_can(model, questions, tmp_path, monkeypatch):
    """What branches off is what the run alone would have made, and most do."""
    fields = {**SWEEP, "evaluate__budgets": (2, 4, 5, 40)}
    cfg = config(model, questions, **fields)
    opened = evaluating.Evaluated(cfg, sweep(cfg.evaluate), items(cfg))
    counted = evaluating.reused(opened.wanted)
    assert counted == {"generated": 4, "branched": 4 * 5}
    workdir = tmp_path / "together"
    assert run(cfg, workdir) == cli.DONE
    together = SamplesFile(workdir / "generations.jsonl")
    alone = config(model, questions, **fields)
    for one in sweep(alone.evaluate):
        single = replace(
            alone,
            decode=decode_of(alone.decode, one),
            evaluate=replace(alone.evaluate, budgets=(), ignore_ends=()),
        )
        assert run(single, tmp_path / one.name) == cli.DONE
        for key in keys_of(tmp_path / one.name, "as-configured"):
            assert SamplesFile(tmp_path / one.name / "generations.jsonl").get(key) == together.get(
                key
            )


def test_without_a_minimum_only_what_is_exact_is_shared(model, questions):
    """A run that ignores ends has a first token of thinking; one that does not may end at once."""
    cfg = config(model, questions, **SWEEP, decode__min_thinking_tokens=0)
    opened = evaluating.Evaluated(cfg, sweep(cfg.evaluate), items(cfg))
    assert evaluating.reused(opened.wanted) == {"generated": 8, "branched": 8}


def items(cfg):
    rows = [
        (f"row {n}", {"question": q, "answer": a, "kind": q[0]})
        for n, (q, a) in enumerate(GOLDS.items())
    ]
    return {"own": items_of(cfg.evaluate.own_tasks[0], rows)}


def keys_of(workdir, run):
    plan = Evaluation.read(workdir / "evaluation.json").plan["model"]["own"][run]
    return [key for keys in plan.values() for key in keys]


def test_the_same_command_asks_nothing_twice(model, questions, tmp_path, capsys):
    cfg, workdir = config(model, questions, **SWEEP), tmp_path / "out"
    assert run(cfg, workdir) == cli.DONE
    before = {
        p.name: p.read_bytes() for p in workdir.iterdir() if p.suffix in (".jsonl", ".json", ".md")
    }
    assert run(cfg, workdir) == cli.DONE
    after = {
        p.name: p.read_bytes() for p in workdir.iterdir() if p.suffix in (".jsonl", ".json", ".md")
    }
    assert after == before
    assert "16 of 16 samples are there already" in capsys.readouterr().err
    more = config(model, questions, **{**SWEEP, "evaluate__budgets": (4, 5, 40)})
    assert run(more, workdir) == cli.DONE
    assert (workdir / "generations.jsonl").read_bytes().startswith(before["generations.jsonl"])
    assert len((workdir / "generations.jsonl").read_text().splitlines()) == 20
    assert accuracies(workdir)["budget-5"] == 25


def test_grading_again_takes_new_golds_and_no_model(model, questions, tmp_path):
    cfg, workdir = config(model, questions, **SWEEP), tmp_path / "out"
    assert run(cfg, workdir) == cli.DONE
    write_questions(questions, dict.fromkeys(GOLDS, "12"))
    absent = replace(cfg, model=replace(cfg.model, path=str(tmp_path / "nowhere")))
    assert run(absent, workdir, grade=True) == cli.DONE
    assert accuracies(workdir) == {
        "budget-4": 0,
        "budget-40": 100,
        "ignore-1": 100,
        "ignore-2": 100,
    }
    write_questions(questions, {"Other?": "1", **GOLDS})
    with pytest.raises(UserError, match="was another one when it was asked"):
        run(absent, workdir, grade=True)


def test_grading_again_asks_how_it_was_asked_not_how_it_would_be(model, questions, tmp_path):
    """And says the same to the last figure: tuples and numbers come back as they were."""
    runs = (
        Run("one", "BF", {"ignore_ends": 1}),
        Run("two", "BF", {"ignore_ends": 2, "ignore_strings": ("Wait",)}),
        Run("warm", "other", {"temperature": 1}),
    )
    cfg, workdir = config(model, questions, **SWEEP, evaluate__runs=runs), tmp_path / "out"
    assert run(cfg, workdir) == cli.DONE
    before = results(workdir)
    assert ("ignore-1", "two") in {(c["before"], c["after"]) for c in before["changes"]}
    other = replace(cfg, decode=replace(cfg.decode, max_thinking_tokens=20, ignore_ends=3))
    assert run(other, workdir, grade=True) == cli.DONE
    assert results(workdir) == before
    only = replace(cfg, evaluate=replace(cfg.evaluate, only=("budget-4",)))
    assert run(only, workdir, grade=True) == cli.DONE
    assert set(accuracies(workdir)) == {"budget-4"}


def test_marks_are_kept_whatever_is_asked_meanwhile(model, questions, tmp_path, monkeypatch):
    cfg, workdir = config(model, questions, **SWEEP), tmp_path / "out"
    assert run(cfg, workdir) == cli.DONE
    marks = (workdir / "marks.jsonl").read_bytes()
    few = replace(cfg, evaluate=replace(cfg.evaluate, max_questions=1))
    assert run(few, workdir, grade=True) == cli.DONE
    assert (workdir / "marks.jsonl").read_bytes() == marks
    with monkeypatch.context() as patched:
        patched.setattr(outcomes.marking, "mark", None)
        assert run(cfg, workdir, grade=True) == cli.DONE
    assert len(read_scores(workdir / "scores.jsonl")) == 16
    (workdir / "marks.jsonl").write_bytes(b'["key"]\n' + marks)  # they can be made again
    assert run(cfg, workdir, grade=True) == cli.DONE
    assert sorted((workdir / "marks.jsonl").read_bytes().splitlines()) == sorted(marks.splitlines())


def test_a_task_that_is_added_changes_no_sample_of_another(model, questions, tmp_path):
    """Not even of runs without thinking, whose answers may be as long as their prompts leave."""
    longer = tmp_path / "longer.jsonl"
    write_questions(longer, {"What is it, that is so long a question? " * 3: "12"})
    tasks = tuple(Task(name, str(path)) for name, path in (("own", questions), ("more", longer)))
    fields = {
        "evaluate__runs": (Run("plain", "plain", {"thinking": False}),),
        "evaluate__own_tasks": tasks,
        "decode__max_thinking_tokens": None,
    }
    workdir = tmp_path / "out"
    assert run(config(model, questions, **fields), workdir) == cli.DONE
    before = (workdir / "generations.jsonl").read_bytes()
    both = config(model, questions, **fields | {"evaluate__tasks": ("own", "more")})
    assert run(both, workdir) == cli.DONE
    after = (workdir / "generations.jsonl").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == before.count(b"\n") + 1


def test_a_run_of_the_base_may_have_the_name_of_one_of_the_models(
    model, other, questions, tmp_path
):
    runs = (Run("plain", "BF", {"max_thinking_tokens": 4}),)
    cfg = config(other, questions, evaluate__runs=runs, evaluate__base="plain")
    assert run(cfg, tmp_path / "out", str(model)) == cli.DONE
    found = {r["model"]: (r["method"], r["asked"]) for r in results(tmp_path / "out")["runs"]}
    assert found == {
        "model": ("BF", {"max_thinking_tokens": 4}),
        "base": ("plain", {"thinking": False}),
    }


def test_the_base_stands_beside_the_model(model, other, questions, tmp_path):
    cfg, workdir = config(other, questions, **SWEEP, evaluate__base="same"), tmp_path / "out"
    assert run(cfg, workdir, str(model)) == cli.DONE
    # The base never ends its thinking: it is always forced, and says 98.
    assert accuracies(workdir, "base") == dict.fromkeys(
        ["budget-4", "budget-40", "ignore-1", "ignore-2"], 25
    )
    assert accuracies(workdir)["budget-40"] == 50
    against = {
        r["run"]: r["against_base"] for r in results(workdir)["runs"] if r["model"] == "model"
    }
    assert against["budget-40"]["value"] == 25 and against["budget-4"]["value"] == 0
    plain = config(other, questions, **SWEEP, evaluate__base="plain")
    assert run(plain, workdir, str(model)) == cli.DONE
    assert set(accuracies(workdir, "base")) == {"plain"}


def test_seeds_and_samples_are_further_samples(model, questions, tmp_path):
    fields = {"decode__temperature": 1.0, "decode__samples": 2, "evaluate__seeds": (1, 2)}
    cfg, workdir = config(model, questions, **fields), tmp_path / "out"
    assert run(cfg, workdir) == cli.DONE
    scores = read_scores(workdir / "scores.jsonl")
    assert sorted({s.sample for s in scores}) == [0, 1, 2, 3]
    [only] = results(workdir)["runs"]
    assert only["samples"] == 4 and set(only["cov_at"]) == {"2", "4"}
    seeds = {json.loads(line)["seed"] for line in (workdir / "generations.jsonl").open()}
    assert len(seeds) == 16


def test_rejection_is_a_run_like_any_other(model, questions, tmp_path):
    runs = (
        Run("rs-2", "RS", {"max_thinking_tokens": 2, "rejection_tries": 2, "temperature": 1.0}),
        Run("rs-20", "RS", {"max_thinking_tokens": 20, "rejection_tries": 2, "temperature": 1.0}),
    )
    cfg, workdir = config(model, questions, evaluate__runs=runs), tmp_path / "out"
    assert run(cfg, workdir) == cli.DONE
    scores = read_scores(workdir / "scores.jsonl")
    assert {s.finish for s in scores if s.run == "rs-2"} == {"rejected"}
    assert {s.answer for s in scores if s.run == "rs-2"} == {None}
    assert "stop" in {s.finish for s in scores if s.run == "rs-20"}


def test_what_cannot_be_is_said_before_the_weights_are_read(
    model, questions, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluating.Model, "engine", None)
    with pytest.raises(UserError, match=r"run budget-4000: own, question 0 has .* context of"):
        run(config(model, questions, evaluate__budgets=(4000,)), tmp_path / "out")
    with pytest.raises(UserError, match=r"evaluate.judge: .*GEMINI_API_KEY"):
        fields = {"evaluate__judge__via": "gemini", "evaluate__judge__model": "m"}
        monkeypatch.delenv("GEMINI_API_KEY", raising=False)
        monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
        run(config(model, questions, **fields), tmp_path / "out")
    with pytest.raises(UserError, match=r"at decode.temperature=0 all seeds give the same"):
        config(model, questions, evaluate__seeds=(1, 2))
    with pytest.raises(UserError, match=r"evaluate.tasks is empty"):
        run(config(model, questions, evaluate__tasks=()), tmp_path / "out")
    sorting = Task("sorting", "mini", subset="sorting")
    with pytest.raises(UserError, match=r'sorting: "mini" has no "sorting": it has search, revi'):
        named = {"evaluate__own_tasks": (sorting,), "evaluate__tasks": ("sorting",)}
        run(config(model, questions, **named), tmp_path / "out")
    with pytest.raises(UserError, match=r"evaluation.json: there is no such file; evaluate into"):
        run(config(model, questions), tmp_path / "out", grade=True)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_named_and_a_torn_line_made_again(model, questions, tmp_path):
    cfg, workdir = config(model, questions, **SWEEP), tmp_path / "out"
    assert run(cfg, workdir) == cli.DONE
    file = workdir / "generations.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])  # as a killed process leaves it
    assert run(cfg, workdir) == cli.DONE
    assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())
    line = json.loads(whole.splitlines()[0])
    for wrong in ({"key": 1}, line | {"text": None}, line | {"text": "short"}, [1]):
        for lines in (
            json.dumps(wrong).encode() + b"\n" + whole,
            whole + json.dumps(wrong).encode(),
        ):
            file.write_bytes(lines if lines.endswith(b"\n") else lines + b"\n")
            with pytest.raises(UserError, match=r"jsonl, line \d+: is not .* delete that line"):
                run(cfg, workdir)
    file.write_bytes(whole)
    manifest = json.loads((workdir / "evaluation.json").read_text())
    for wrong in ({}, [], {"runs": []}, {"plan": {}}, {"models": {}}, {"decodes": {"model": {}}}):
        damaged = manifest | wrong if wrong else wrong
        (workdir / "evaluation.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=r"is no evaluation's manifest \(.*evaluate again"):
            run(cfg, workdir, grade=True)


def test_a_judge_is_asked_once_and_its_disagreements_are_listed(model, questions, tmp_path, capsys):
    """It takes 12 for a 7; what is the reference's own text it is not asked about."""
    with FakeModel(lambda body: "I looked at it.\nYes") as judge:
        named = judge.fields("evaluate.judge")
        fields = {name.replace(".", "__"): value for name, value in named.items()}
        cfg, workdir = config(model, questions, **fields), tmp_path / "out"
        assert run(cfg, workdir) == cli.DONE
        asked = [body["messages"][-1]["content"] for body in judge.bodies]
        assert [body["temperature"] for body in judge.bodies] == [0.0] * len(asked)
        assert len(asked) == 2  # "12" for a 7 and for a 98
        assert all("## Problem\nWh" in text and "## Attempt\n12" in text for text in asked)
        decides = replace(cfg, evaluate=replace(cfg.evaluate, judge_decides=True))
        assert accuracies(workdir) == {"as-configured": 50}
        lines = (workdir / "disagreements.jsonl").read_text().splitlines()
        assert {json.loads(line)["prompt"] for line in lines} == {"Why?", "When?"}
        assert results(workdir)["disagreements"] == 2
        assert run(decides, workdir, grade=True) == cli.DONE
        assert accuracies(workdir) == {"as-configured": 100}
        assert len(judge.bodies) == 2  # its replies were kept


def test_a_judge_that_fails_costs_no_report(model, questions, tmp_path):
    with FakeModel(lambda body: 401) as judge:
        named = judge.fields("evaluate.judge")
        fields = {name.replace(".", "__"): value for name, value in named.items()}
        cfg, workdir = config(model, questions, **fields), tmp_path / "out"
        with pytest.raises(UserError, match=r"judge .*HTTP 401.*the report is there, without"):
            run(cfg, workdir)
    assert accuracies(workdir) == {"as-configured": 50}
    assert results(workdir)["disagreements"] is None


@pytest.mark.parametrize(
    "kind", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_run_that_is_stopped_goes_on(model, questions, tmp_path, kind):
    fields = {
        "evaluate__tasks": ("own",),
        "evaluate__base": "none",
        "decode__min_thinking_tokens": 1,
    }
    fields |= {"decode__batch_size": 1, "decode__segment_steps": 2, "evaluate__resamples": 100}
    write_questions(questions, {f"What is {n}?": "12" for n in range(60)})
    file = config_file(tmp_path / "c.py", **fields)
    file.write_text(
        file.read_text().replace(
            "    return c\n",
            "    from s1jax.evaluation_config import Task\n"
            f"    c.evaluate.own_tasks = (Task('own', {str(questions)!r}),)\n    return c\n",
        )
    )
    command = [sys.executable, "-m", "s1jax.evaluate", f"--config={file}", f"--model={model}"]

    def start(workdir):
        return subprocess.Popen(
            [*command, f"--workdir={workdir}"], env=environment(1), cwd=ROOT, stderr=subprocess.PIPE
        )

    made = tmp_path / "out" / "generations.jsonl"
    process = start(tmp_path / "out")
    while not made.exists() or made.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(kind)
    assert process.wait(60) == (cli.PREEMPTED if kind == signal.SIGTERM else -signal.SIGKILL)
    assert made.read_bytes().count(b"\n") < 60
    for workdir in ("out", "calm"):
        process = start(tmp_path / workdir)
        assert process.wait(300) == cli.DONE, process.stderr.read()
    for name in ("scores.jsonl", "report.md"):
        both = [(tmp_path / workdir / name).read_text() for workdir in ("out", "calm")]
        assert both[0] == both[1], name
