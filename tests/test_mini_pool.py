"""The little world's pool holds what curation has to catch; its teacher is as bad as it says."""

import asyncio
import functools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fakes_mini import NUMBERS, about, answer_to, chances, parted, runs_of, steps_to

from s1jax import config
from s1jax.curation import clean_pool, open_teacher
from s1jax.curation_config import Pool, Teacher
from s1jax.data.asked import Passing, Prompt, Refused
from s1jax.data.quality import quality_problem
from s1jax.data.select import LIKE_BENCHMARKS, UNIFORM, WEIGHTED
from s1jax.evaluation_config import TASKS, Evaluate
from s1jax.mini import pool as mini_pool
from s1jax.mini.pool import HELD_OUT, QUESTIONS, Program, evaluation_rows, held_out, pool
from s1jax.mini.tasks import ANSWER, FAMILIES, difficulty, family, verify
from s1jax.mini.thinking import STOPS
from s1jax.outcomes import read_tasks
from s1jax.types import Trace, UserError, question_id

FIGURE, PAGE = "[asy]", "(Book p12."


@functools.cache
def the_pool(seed=0):
    return pool(seed)


def plain(text):
    """A question without what spoils it."""
    return text.partition("\n[asy]")[0].partition(" (Book")[0]


def spoilt(question):
    return FIGURE in question.question or PAGE in question.question


def planted(questions, forbidden):
    """What is wrong with each question, by its number; found without the code under test."""
    seen, found, whole, begun = set(), {}, set(), set()
    for number, question in enumerate(questions):
        text = question.question
        why = [name for name, mark in (("figure", FIGURE), ("page", PAGE)) if mark in text]
        why += ["leak"] if plain(text) in forbidden else []
        why += ["repeat"] if text.lower() in seen else []  # by chance, but for their letters' case
        seen.add(text.lower())
        # By chance too: one that goes on where another ends, with four fifths of its threes.
        words = tuple(text.lower().split())
        begins = {words[:end] for end in range(len(words)) if end - 2 >= 0.8 * (len(words) - 2)}
        if not why and (words in begun or not begins.isdisjoint(whole)):
            why = ["near"]
        if not why:
            whole.add(words)
            begun |= begins
        if why:
            found[number] = why
    return found


# --- The questions ---


def test_every_seed_has_its_own_pool_and_all_the_same_held_out_questions():
    forbidden = held_out()
    other = the_pool(1)
    assert the_pool() != other  # that a seed's is always the same, test_mini.py tells
    held_out.cache_clear()
    assert held_out() == forbidden
    common = {q.question for q in other} & {q.question for q in the_pool()}
    assert len(common) < 0.1 * QUESTIONS


def test_held_out_questions_are_five_hundred_of_each_family():
    assert HELD_OUT == 500 and len(FAMILIES) == 5
    tasks = [task for task in TASKS.values() if task.path == "mini"]
    assert {task.subset for task in tasks} == {None, *FAMILIES}
    for name in FAMILIES:
        assert len(set(held_out(name))) == HELD_OUT
        assert {family(text) for text in held_out(name)} == {name}
        assert len({difficulty(text) for text in held_out(name)}) >= 4
    assert held_out() == tuple(text for name in FAMILIES for text in held_out(name))
    # The same families asked in another order are other questions of the same kind.
    assert set(held_out("search")).isdisjoint(held_out("totals"))


def test_the_questions_and_their_answers():
    questions = the_pool()
    assert len(questions) == QUESTIONS
    for question in questions:
        text = plain(question.question)
        name = family(text)
        assert question.answer == question.solution == answer_to(name, text)
        assert question.difficulty == steps_to(name, text)
        assert question.source_type == f"mini/{name}"
    counts = Counter((q.source_type, q.domain) for q in questions)
    domains = {
        "search": "Looking up",
        "revision": "Carrying",
        "iteration": "Sorting",
        "paths": "Looking up",
        "totals": "Arithmetic",
    }
    assert counts.keys() == {(f"mini/{name}", domain) for name, domain in domains.items()}
    for name, domain in domains.items():
        share = FAMILIES[name].share
        assert about(counts[f"mini/{name}", domain], share, QUESTIONS)
        assert not about(counts[f"mini/{name}", domain], share / 2, QUESTIONS)
    assert [q.place for q in questions[:2]] == [f"mini: question {n} (from 0)" for n in (0, 1)]


def test_the_planted_shares_are_there():
    questions = the_pool()
    whys = [why for some in planted(questions, set(held_out())).values() for why in some]
    for why, share in {"figure": 0.02, "page": 0.02, "leak": 0.01, "repeat": 0.02}.items():
        assert about(whys.count(why), share, QUESTIONS), why
    assert not about(whys.count("figure"), 0.06, QUESTIONS)  # the measure tells them apart


@pytest.mark.parametrize("seed", [0, 1])
def test_curation_catches_what_is_planted_and_nothing_else(monkeypatch, seed):
    questions = the_pool(seed)
    monkeypatch.setattr(mini_pool, "pool", lambda: questions)
    clean = clean_pool(Pool(sources=("mini",), evaluation_sets=("mini",)), seed=42)
    good = Trace("", "mini", 0, "I think.", "7", "stop")
    left = [q for q in clean.questions if quality_problem(q, good) is None]
    bad = planted(questions, set(held_out()))
    assert left == [q for number, q in enumerate(questions) if number not in bad]
    assert clean.sources == {"mini": QUESTIONS} and clean.evaluation_sets == {"mini": 5 * HELD_OUT}
    forbidden = {run for text in held_out() for run in runs_of(text)}
    assert all(forbidden.isdisjoint(runs_of(q.question)) for q in left)
    # The control: without the held-out set the leaks pass.
    unheld = clean_pool(Pool(sources=("mini",)), seed=42)
    leaked = [n for n, why in bad.items() if why == ["leak"]]
    assert leaked and all(questions[n] in unheld.questions for n in leaked)
    assert not any(forbidden.isdisjoint(runs_of(questions[n].question)) for n in leaked)


def test_questions_that_share_words_with_a_held_out_one_are_not_asked():
    drawn = mini_pool.distinct(np.random.default_rng(3), 2000, held_out())
    free = mini_pool.distinct(np.random.default_rng(3), 2000, ())  # the control
    forbidden = {run for text in held_out() for run in runs_of(text)}
    assert all(forbidden.isdisjoint(runs_of(text)) for text in drawn)
    assert not all(forbidden.isdisjoint(runs_of(text)) for text in free)


# --- The evaluation ---


def test_evaluation_asks_held_out_questions():
    names = ("mini", *(f"mini_{name}" for name in FAMILIES))
    items = read_tasks(Evaluate(tasks=names))
    assert [len(items[name]) for name in names] == [500] * 6
    assert Counter(item.group for item in items["mini"]) == dict.fromkeys(FAMILIES, 100)
    for name in FAMILIES:
        asked = items[f"mini_{name}"]
        assert tuple(item.prompt for item in asked) == held_out(name)
        assert all(item.gold == answer_to(name, item.prompt) for item in asked)
        of_all = [item.prompt for item in items["mini"] if item.group == name]
        assert tuple(of_all) == held_out(name)[:100]
    assert read_tasks(Evaluate(tasks=("mini_paths",), max_questions=7)) == {
        "mini_paths": items["mini_paths"][:7]
    }
    place, row = evaluation_rows("search")[3]
    assert place == "mini: held-out question 3 (from 0) of search"
    assert row["question"] == held_out("search")[3] and row["family"] == "search"


# --- The teacher ---


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """A directory with the curation of configs/mini.py."""
    directory = tmp_path_factory.mktemp("curated")
    program = """
import runpy, sys
from pathlib import Path
from s1jax import config, mini
from s1jax.curate import curate
from s1jax.distill import distill

made = runpy.run_path("configs/mini.py")["get_config"]()
made.curate.tokenizer = str(mini.base())
cfg, directory = config.resolve(made), Path(sys.argv[1])
assert distill(cfg, directory) == 0 and curate(cfg, directory) == 0
"""
    root = Path(__file__).parent.parent
    # In a process of its own, where no signature is checked: the whole pool takes seconds there.
    subprocess.run([sys.executable, "-c", program, str(directory)], cwd=root, check=True)
    return directory


def read_rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_draw_of_the_selection_happens_in_its_curation(curated):
    """The benchmarks' domain is not emptied by what is taken at once, nor are all places."""
    manifest = json.loads((curated / "curate.json").read_text())
    picks = manifest["picks"]
    assert set(picks) == {LIKE_BENCHMARKS, UNIFORM, WEIGHTED}
    assert sum(picks.values()) == 1000
    assert picks[WEIGHTED] == 1000 - 900 and min(picks.values()) >= 100
    assert set(manifest["domains"]) == {one.domain for one in FAMILIES.values()}


def test_each_family_has_its_part_in_the_curation(curated):
    rows = read_rows(curated / "curated.jsonl")
    assert len({row["question"] for row in rows}) == 1000
    counts = Counter(family(row["question"]) for row in rows)
    assert set(counts) == set(FAMILIES) and min(counts.values()) >= 100
    # The control: of the longest not every family has.
    traces = read_rows(curated / "traces.jsonl")
    longest = sorted(traces, key=lambda row: -len(row["thinking_trajectories"][0].split()))[:1000]
    counts = Counter(family(plain(row["question"])) for row in longest)
    assert min(counts[name] for name in FAMILIES) < 100


@functools.cache
def replies(seed=0, sample=0, count=QUESTIONS, model=""):
    """What the program says to each question of the pool: a Reply, or "refused"; who was busy."""
    program, said, busy = Program(Teacher(via="mini", model=model), seed), {}, set()

    async def ask_all():
        for question in the_pool()[:count]:
            prompt = Prompt(question.id, question.question, sample)
            for _ in range(2):
                try:
                    said[question.question] = await program.ask(prompt)
                    break
                except Passing:
                    busy.add(question.question)
                except Refused:
                    said[question.question] = "refused"
                    break

    asyncio.run(ask_all())
    return said, busy


def test_the_program_is_as_good_as_it_says():
    said, busy = replies()
    count = len(said)
    given = {q: r for q, r in said.items() if r != "refused"}
    assert about(count - len(given), 0.01, count)
    assert about(len(busy), 0.05, count)
    cut = {q: r for q, r in given.items() if r.finish == "length"}
    assert about(len(cut), 0.03, len(given))
    whole = {q: r for q, r in given.items() if r.finish == "stop"}
    assert len(cut) + len(whole) == len(given)
    thought = {q: r for q, r in whole.items() if ended(plain(q), r.thinking)}
    wrong = [q for q, r in thought.items() if not verify(plain(q), r.answer)]
    assert about(len(wrong), 0.04, len(thought))
    assert not about(len(wrong), 0.08, len(thought))  # the measure tells them apart
    for question, reply in whole.items():
        assert reply.answer.startswith(ANSWER)
        assert reply.thinking_tokens == len(reply.thinking.split())
        assert reply.answer_tokens == len(reply.answer.split()) > 0
        assert reply.prompt_tokens == len(question.split())
    assert all(r.answer == "" and r.thinking for r in cut.values())
    longest = max(len(reply.thinking) for reply in whole.values())
    assert max(len(reply.thinking) for reply in cut.values()) <= longest / 2


def ended(question, thinking):
    """Whether a thinking came to the end of its question."""
    return len(parted(thinking)[0]) >= steps_to(family(question), question)


def test_a_wrong_answer_is_of_the_form_of_a_right_one():
    said, _ = replies()
    wrong = Counter()
    for text, reply in said.items():
        question = plain(text)
        if reply != "refused" and reply.answer and ended(question, reply.thinking):
            given, right = (
                answer.removeprefix(ANSWER).split()
                for answer in (reply.answer, answer_to(family(question), question))
            )
            wrong[family(question)] += given != right
            if len(right) > 1:
                assert given in (right, [*right[1:], right[0]])
            assert len(given) == len(right) and (given[0] in NUMBERS) == (right[0] in NUMBERS)
    assert set(wrong) == set(FAMILIES) and min(wrong.values()) > 0


@pytest.mark.parametrize(("model", "stops"), [("", STOPS), ("stops=0.3", 0.3), ("stops=0", 0.0)])
def test_the_program_gives_up_as_often_as_its_model_says(model, stops):
    program = Program(Teacher(via="mini", model=model), 3)
    assert program.settings == {"via": "mini", "seed": 3, "stops": stops}
    said, _ = replies(count=1000, model=model)
    expected = variance = whole = 0
    for text, reply in said.items():
        if reply != "refused" and reply.finish == "stop":
            question = plain(text)
            share = (1 - stops) ** chances(family(question), question)
            expected, variance = expected + share, variance + share * (1 - share)
            whole += ended(question, reply.thinking)
    assert abs(whole - expected) <= 4 * variance**0.5
    if stops:
        assert whole < len(said) - 100  # the control: some do give up


@pytest.mark.parametrize("model", ["stops=1", "stops=-0.1", "stops=nan", "stops=", "often", "1.5"])
def test_a_habit_that_is_none_is_refused(model):
    told = f'distill: model="{model}" must say how often it gives up: "stops=0.3", below 1'
    with pytest.raises(UserError) as caught:
        open_teacher(
            config.Config(), Teacher(via="mini", model=model), thinking=True, field="distill"
        )
    assert str(caught.value) == told


def test_what_the_program_says_depends_on_seed_question_and_sample_alone():
    first = replies(count=100)
    assert replies.__wrapped__(count=100) == first
    longer, _ = replies()
    assert all(longer[question] == reply for question, reply in first[0].items())
    assert replies(seed=1, count=100) != first
    assert replies(sample=1, count=100) != first
    assert replies(model="stops=0.1", count=100) != first


@pytest.mark.parametrize(
    "text",
    [
        "Who?",
        "",
        "What is 47 + 85?",
        "Sort seven",
        "Reach nine: a one b two",
        "Carry ten two",
        "Carry nine twelve",
        "From a go two: B:c C:b",
        "From a go zero: A:b B:a",
        "Begin one:",
        "Begin one: a two",
        "Begin nineteen: A two",
    ],
)
def test_other_questions_are_refused(text):
    program, told = Program(Teacher(via="mini")), Counter()
    for sample in range(6):
        prompt = Prompt(question_id(text), text, sample)
        program._failed.add((prompt.id, sample))  # it was busy before
        with pytest.raises(Refused) as caught:
            asyncio.run(program.ask(prompt))
        told[str(caught.value)] += 1
    assert told["this teacher knows the questions of the little world alone"] >= 4
