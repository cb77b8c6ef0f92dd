"""The little world's pool holds what curation has to catch; its teacher is as bad as it says."""

import asyncio
import hashlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from s1jax import config, mini
from s1jax.curate import curate
from s1jax.curation import clean_pool
from s1jax.curation_config import Pool, Teacher
from s1jax.data.asked import Passing, Prompt, Refused
from s1jax.data.quality import quality_problem
from s1jax.data.select import LIKE_BENCHMARKS, UNIFORM, WEIGHTED
from s1jax.distill import distill
from s1jax.mini.pool import HELD_OUT, QUESTIONS, Program, held_out, pool
from s1jax.mini.tasks import verify
from s1jax.types import Trace, question_id

FIGURE, PAGE = "[asy]", "(Book p12."
DEVIATIONS = 4  # of a count from its mean; once in 16,000


def plain(text):
    """A question without what spoils it."""
    return text.partition("\n[asy]")[0].partition(" (Book")[0]


def spoilt(question):
    return FIGURE in question.question or PAGE in question.question


def about(count, share, of):
    """Whether a count is as a share would have it."""
    return abs(count - share * of) < DEVIATIONS * (of * share * (1 - share)) ** 0.5


def planted(questions, forbidden):
    """What is wrong with each question, by its number; found without the code under test."""
    seen, found = set(), {}
    for number, question in enumerate(questions):
        text = question.question
        why = [name for name, mark in (("figure", FIGURE), ("page", PAGE)) if mark in text]
        why += ["leak"] if plain(text) in forbidden else []
        why += ["repeat"] if text in seen else []
        seen.add(text)
        if why:
            found[number] = why
    return found


def test_the_pool_is_the_same_in_every_process():
    program = (
        "import hashlib; from s1jax.mini.pool import held_out, pool;"
        "print(hashlib.sha256(repr((pool(), held_out())).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    here = hashlib.sha256(repr((pool(), held_out())).encode()).hexdigest()
    assert done.stdout.strip() == here
    assert pool(1) != pool() and held_out(1) != held_out()


def test_the_questions_and_their_answers():
    questions, forbidden = pool(), held_out()
    assert len(questions) == QUESTIONS and len(set(forbidden)) == HELD_OUT == len(forbidden)
    for question in questions:
        assert verify(plain(question.question), question.answer)
        assert question.solution == question.answer
        assert question.difficulty == sum(map(str.isdigit, plain(question.question)))
        assert question.source_type.startswith("mini/") and question.domain
    assert not any(verify(plain(q.question), q.answer + "1") for q in questions)  # the control
    assert {(q.source_type, q.domain) for q in questions} == {
        ("mini/sum", "Arithmetic"),
        ("mini/factor", "Arithmetic"),
        ("mini/order", "Computer science"),
    }
    assert [q.place for q in questions[:2]] == [f"mini: question {n} (from 0)" for n in (0, 1)]


def test_the_planted_shares_are_there():
    questions = pool()
    whys = [why for some in planted(questions, set(held_out())).values() for why in some]
    for why, share in {"figure": 0.02, "page": 0.02, "leak": 0.01, "repeat": 0.02}.items():
        assert about(whys.count(why), share, QUESTIONS), why
    assert not about(whys.count("figure"), 0.04, QUESTIONS)  # the measure tells them apart


def test_curation_catches_what_is_planted_and_nothing_else():
    questions = pool()
    clean = clean_pool(Pool(sources=("mini",), evaluation_sets=("mini",)), seed=42)
    good = Trace("", "mini", 0, "I think.", "7", "stop")
    left = [q for q in clean.questions if quality_problem(q, good) is None]
    bad = planted(questions, set(held_out()))
    assert left == [q for number, q in enumerate(questions) if number not in bad]
    assert clean.sources == {"mini": QUESTIONS} and clean.evaluation_sets == {"mini": HELD_OUT}
    # The control: without the held-out set the leaks pass.
    unheld = clean_pool(Pool(sources=("mini",)), seed=42)
    leaked = [n for n, why in bad.items() if why == ["leak"]]
    assert leaked and all(questions[n] in unheld.questions for n in leaked)


def test_every_draw_of_the_selection_happens_in_its_curation(tmp_path):
    """The benchmarks' domain is not emptied by what is taken at once."""
    path = Path(__file__).parent.parent / "configs" / "mini.py"
    made = runpy.run_path(str(path))["get_config"]()
    made.curate.tokenizer = str(mini.build(tmp_path / "world").model)
    cfg = config.resolve(made)
    assert distill(cfg, tmp_path) == 0 and curate(cfg, tmp_path) == 0
    manifest = json.loads((tmp_path / "curate.json").read_text())
    assert set(manifest["picks"]) == {LIKE_BENCHMARKS, UNIFORM, WEIGHTED}
    assert sum(manifest["picks"].values()) == cfg.curate.size == 400
    assert manifest["picks"][WEIGHTED] == cfg.curate.size - cfg.curate.uniform_until
    assert set(manifest["domains"]) == {"Arithmetic", "Computer science"}


def replies(seed=0, sample=0, count=QUESTIONS):
    """What the program says to each question of the pool: a Reply, or "refused"; who was busy."""
    program, said, busy = Program(Teacher(via="mini"), seed), {}, set()

    async def ask_all():
        for question in pool()[:count]:
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
    wrong = {q: r for q, r in whole.items() if not verify(plain(q), r.answer)}
    assert about(len(wrong), 0.08, len(whole))
    for question, reply in whole.items():
        assert reply.thinking_tokens == len(reply.thinking.split())
        assert reply.answer_tokens == len(reply.answer.split()) > 0
        assert reply.prompt_tokens == len(question.split())
    assert all(reply.answer == "" and reply.thinking for reply in cut.values())


def test_what_the_program_says_depends_on_seed_question_and_sample_alone():
    first = replies(count=300)
    assert replies(count=300) == first
    shorter, _ = replies(count=100)
    assert all(first[0][question] == reply for question, reply in shorter.items())
    assert replies(seed=1, count=300) != first
    assert replies(sample=1, count=300) != first


@pytest.mark.parametrize(
    "text", ["Who?", "", "Which number times 2 is 999?", "Which number times 7 is 8?", "What is 1?"]
)
def test_other_questions_are_refused(text):
    program = Program(Teacher(via="mini"))
    prompt = Prompt(question_id(text), text)
    program._failed.add((prompt.id, 0))  # it was busy before
    with pytest.raises(Refused, match="knows the questions of the little world alone"):
        asyncio.run(program.ask(prompt))
