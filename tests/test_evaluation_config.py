"""Tasks and runs as a config names them: what is taken, and what is refused with what would do."""

import random
from dataclasses import replace
from itertools import permutations

import pytest

from s1jax import config
from s1jax.config import decode_of, resolve
from s1jax.evaluation_config import TASKS, Evaluate, Run, Task, sweep, tasks_of
from s1jax.types import UserError

OWN = Task("own", "own.jsonl", question="q", answer="a", grader="exact")


def resolved(texts=None, **fields):
    values = config.default()
    for name, value in fields.items():
        values.evaluate[name] = value
    return resolve(config.overridden(values, texts or {}), "x.py")


def refused(texts=None, **fields):
    with pytest.raises(UserError) as error:
        resolved(texts, **fields)
    return str(error.value)


def test_a_task_of_ones_own_is_a_few_lines():
    cfg = resolved(own_tasks=(OWN,), tasks=("own", "gsm8k"))
    assert tasks_of(cfg.evaluate) == [OWN, TASKS["gsm8k"]]
    again = resolved(own_tasks=cfg.to_dict()["evaluate"]["own_tasks"], tasks=["own"])
    assert tasks_of(again.evaluate) == [OWN]  # as the workdir's JSON has it


def test_a_sweep_is_budgets_then_ignored_ends_then_other_runs():
    hmm = Run("hmm", "BF", {"ignore_ends": 2, "ignore_strings": ("Hmm",)})
    cfg = resolved({"evaluate.budgets": "500,1000", "evaluate.ignore_ends": "2"}, runs=(hmm,))
    runs = sweep(cfg.evaluate)
    assert [run.name for run in runs] == ["budget-500", "budget-1000", "ignore-2", "hmm"]
    decodes = [decode_of(cfg.decode, run) for run in runs]
    assert [d.max_thinking_tokens for d in decodes] == [500, 1000, None, None]
    assert [d.ignore_ends for d in decodes] == [0, 0, 2, 2]
    assert decodes[3].ignore_strings == ("Hmm",)
    assert decodes[2] == replace(cfg.decode, ignore_ends=2)
    only = resolved({"evaluate.budgets": "500,1000", "evaluate.only": "budget-1000"})
    assert [run.name for run in sweep(only.evaluate)] == ["budget-1000"]
    assert sweep(Evaluate()) == [Run("as-configured", "BF")]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tasks": ("math50",)}, 'evaluate.tasks: "math50" is unknown: did you mean "math500"?'),
        ({"tasks": ("aime24", "aime24")}, 'evaluate.tasks has "aime24" twice'),
        ({"own_tasks": (Task("gsm8k", "x"),)}, 'own_tasks: "gsm8k" is there already: name another'),
        ({"own_tasks": (OWN, OWN)}, 'evaluate.own_tasks has "own" twice'),
        ({"own_tasks": (replace(OWN, orders="a"),)}, "orders are of choices, and there are none"),
        ({"own_tasks": (replace(OWN, question=""),)}, "question and answer must name columns"),
        ({"runs": (Run("", "BF"),)}, "evaluate.runs: one has no name"),
        (
            {"runs": ({"name": "r", "method": "BF", "decode": {1: 2}},)},
            "evaluate.runs[0].decode={1: 2} must have names of fields",
        ),
        ({"seeds": (1, 2), "budgets": (5,)}, "at decode.temperature=0 all seeds give the same"),
        ({"own_tasks": ({"name": "own"},)}, "evaluate.own_tasks[0].path is missing"),
        ({"own_tasks": ({"name": "o", "path": "p", "gradr": "math"},)}, 'did you mean "grader"?'),
        ({"own_tasks": ("own",)}, "evaluate.own_tasks[0]='own' must be a tuple of Tasks, not str"),
        ({"own_tasks": (replace(OWN, grader="maths"),)}, 'did you mean "math"?'),
        ({"own_tasks": (replace(OWN, choices=("b",)),)}, 'choices are graded by "choice"'),
        ({"own_tasks": (replace(OWN, prompt="Q:"),)}, 'prompt="Q:" does not hold {question}'),
        ({"paths": ("gsm8k",)}, 'evaluate.paths: "gsm8k" must be a task and its path, "gsm8k=..."'),
        ({"paths": ("gsm=x",)}, 'evaluate.paths: "gsm" is no task: did you mean "gsm8k"?'),
        ({"revisions": ("gsm8k=a", "gsm8k=b")}, 'evaluate.revisions has "gsm8k" twice'),
        ({"budgets": (0,)}, "evaluate.budgets=(0,) must hold numbers from 1 to 2**31 - 1"),
        ({"budgets": (5, 5)}, 'evaluate.runs has "budget-5" twice'),
        ({"budgets": (True,)}, "evaluate.budgets=(True,) must hold whole numbers only, not bool"),
        ({"ignore_ends": (-1,)}, "evaluate.ignore_ends=(-1,) must hold numbers from 0"),
        ({"base": "sme"}, 'evaluate.base="sme" is unknown: did you mean "same"?'),
        ({"only": ("x",), "budgets": (5,)}, 'evaluate.only: "x" is no run'),
        ({"runs": (Run("r", "TC"),)}, '"r".method="TC" is unknown: did you mean "TCC"?'),
        (
            {"runs": (Run("r", "BF", {"ignore_end": 2}),)},
            'evaluate.runs "r": decode.ignore_end is not a field: did you mean "ignore_ends"?',
        ),
        (
            {"runs": (Run("r", "RS", {"rejection_tries": 2}),)},
            'evaluate.runs "r": decode.rejection_tries=2: at temperature 0',
        ),
        (
            {"runs": (Run("r", "BF", {"batch_size": 2}),)},
            'evaluate.runs "r": decode.batch_size is for all runs: set it in decode',
        ),
        ({"judge_decides": True}, "evaluate.judge_decides=True needs evaluate.judge.via"),
        ({"resamples": 0}, "evaluate.resamples=0 must be at least 1"),
    ],
)
def test_what_is_wrong_is_named(fields, words):
    assert words in refused(**fields)


@pytest.mark.parametrize("text", ["-5", "5,-5", "9" * 5000])
def test_a_number_out_of_range_is_one(text):
    assert "evaluate.budgets=" in refused({"evaluate.budgets": text})


def test_a_judge_is_a_teacher_like_any_other():
    words = refused({"evaluate.judge.via": "opnai", "evaluate.judge.model": "m"})
    assert 'evaluate.judge.via="opnai" is unknown: did you mean "openai"?' in words


def test_a_wrong_decode_is_told_once():
    words = refused({"decode.top_p": "2", "evaluate.budgets": "5,6"})
    assert words.count("top_p") == 1


def test_the_order_of_gpqas_choices_is_that_of_s1s_harness_alone():
    """Its lists are shuffled by Python's generator with seed 0; here nothing was drawn before."""
    rng, tasks = random.Random(0), list(permutations(range(4)))
    for letter in TASKS["gpqa_diamond"].orders:
        order = list(range(4))
        rng.shuffle(order)
        assert tasks["abcdefghijklmnopqrstuvwx".index(letter)] == tuple(order)
    assert len(TASKS["gpqa_diamond"].orders) == TASKS["gpqa_diamond"].questions == 198
