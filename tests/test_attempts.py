"""Attempts of models, the judge, the classifier and files of grades, against servers that reply."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fakes_curate import (
    FakeModel,
    fields_of,
    make_config,
    read_lines,
    store_traces,
    trace_of,
    write_config,
    write_lines,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from s1jax import mini
from s1jax.attempts import Grade, attempts, grade, judge_prompt
from s1jax.chat import ChatTokenizer
from s1jax.curate import curate, explain
from s1jax.curation import clean_pool
from s1jax.curation_config import Teacher
from s1jax.data.domains import TITLES, system_prompt, user_prompt
from s1jax.data.grades import Known, read_grades
from s1jax.data.store import TraceStore
from s1jax.evaluation.grading import Verdict
from s1jax.sifting import sift
from s1jax.types import Question, Trace, UserError, question_id

ROOT = Path(__file__).resolve().parent.parent
SUMS = {f"What is {n} + 1?": str(n + 1) for n in range(10, 22)}
PROOF = "Prove that the sum of two even numbers is even."
CANARY = "sk-canary-77aa01"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The directory of the little world's tokenizer."""
    return mini.build(tmp_path_factory.mktemp("world") / "mini").model


@pytest.fixture
def store(tmp_path):
    with TraceStore(tmp_path / "traces.db") as opened:
        yield opened


def run(directory, tokenizer, rows, **fields):
    """A workdir with a trace of each question, and the config of its curation."""
    pool = write_lines(directory / "pool.jsonl", [{"domain": "Sums", **row} for row in rows])
    asked = [trace_of(row["question"], answer=row.get("answer") or "7") for row in rows]
    workdir = store_traces(directory / "run", asked)
    return workdir, fields_of([pool], tokenizer, **fields)


def curated(workdir, values):
    """The questions that were selected, and why the others were not, by question."""
    assert curate(make_config(values), workdir) == 0
    decisions = [json.loads(line) for line in (workdir / "decisions.jsonl").open()]
    kept = {d["question"] for d in decisions if d["kept"]}
    return kept, {d["question"]: d["reason"] for d in decisions if not d["kept"]}


def sums():
    return [{"question": q, "answer": a} for q, a in SUMS.items()]


def solver(solved):
    """What a model replies that solves these questions, and no others."""

    def reply(body):
        question = body["messages"][-1]["content"]
        right = SUMS.get(question, "")
        return f"So it is $\\boxed{{{right if question in solved else 10_000}}}$."

    return reply


# --- Difficulty ---


def test_what_either_model_solves_is_dropped(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    questions = list(SUMS)
    with (
        FakeModel(solver(questions[:4])) as small,
        FakeModel(solver(questions[3:6])) as large,
    ):
        asks = small.fields("curate.first", "7B") | large.fields("curate.second", "32B")
        workdir, values = run(tmp_path, tokenizer, sums(), curate__difficulty="attempts")
        kept, dropped = curated(workdir, values | asks)
        assert kept == set(questions[6:])
        assert dropped == {
            **dict.fromkeys(questions[:4], "solved by the first model"),
            **dict.fromkeys(questions[4:6], "solved by the second model"),
        }
        why = explain(workdir, question_id(questions[0]))
        assert "solved by the first model: its answer is right (same text)" in why
        for server, name in ((small, "7B"), (large, "32B")):
            assert sorted(server.questions) == sorted(questions)  # each is asked once
            for body in server.bodies:
                [turn] = body["messages"]  # the bare question, no system prompt
                assert turn["role"] == "user"
                rest = {k: v for k, v in body.items() if k != "messages"}
                assert rest == {"model": name, "temperature": 0.05, "max_tokens": 32768}
        # What was asked and graded is in the store: the next run asks nobody.
        before = [path.read_bytes() for path in sorted(workdir.glob("curated.*"))]
        small.bodies.clear()
        large.bodies.clear()
        assert curated(workdir, values | asks) == (kept, dropped)
        assert not small.bodies and not large.bodies
        assert [path.read_bytes() for path in sorted(workdir.glob("curated.*"))] == before
    for path in workdir.iterdir():
        assert CANARY.encode() not in path.read_bytes()


def test_one_model_is_enough(tmp_path, tokenizer):
    questions = list(SUMS)
    with FakeModel(solver(questions[:4])) as large:
        workdir, values = run(tmp_path, tokenizer, sums(), curate__difficulty="attempts")
        kept, dropped = curated(workdir, values | large.fields("curate.second"))
    assert kept == set(questions[4:])
    assert set(dropped.values()) == {"solved by the second model"}


def test_other_settings_of_a_model_that_was_asked_are_refused(tmp_path, tokenizer):
    with FakeModel(solver(())) as model:
        workdir, values = run(tmp_path, tokenizer, sums()[:2], curate__difficulty="attempts")
        values |= model.fields("curate.first")
        curated(workdir, values)
        with pytest.raises(UserError, match="first openai:model with other settings"):
            curated(workdir, values | {"curate.first.temperature": 0.7})


def test_a_refused_attempt_is_no_grade_and_one_that_says_nothing_solves_nothing(store, tokenizer):
    questions = [Question(text, answer=answer) for text, answer in SUMS.items()]
    refused = questions[5].question

    def reply(body):
        said = body["messages"][-1]["content"]
        return 400 if said == refused else "" if said == questions[6].question else "11"

    with FakeModel(reply) as model:
        cfg = make_config(fields_of([], tokenizer, **model.fields("curate.first")))
        teacher = replace(cfg.curate.first, concurrency=1)
        grades = attempts(cfg, teacher, "curate.first", questions, store)
    assert grades[questions[0].id] == Grade(True, "same text")
    silent = Grade(False, "it gave no answer")
    assert grades[questions[6].id] == silent
    assert grades[questions[5].id] == Grade(None, "no attempt")
    assert grades[questions[7].id].correct is False
    # A replay has nothing to say to what it does not hold.
    stored = [{"question": questions[0].question, "thinking": "I think.", "answer": "11"}]
    path = write_lines(store.path.with_name("stored.jsonl"), stored)
    replay = Teacher(via="replay", model=str(path))
    grades = attempts(cfg, replay, "curate.second", questions[:2], store)
    assert grades[questions[0].id].correct is True
    assert grades[questions[1].id] == Grade(None, "no attempt")


@pytest.mark.parametrize(
    ("finish", "grade_of_it"),
    [
        ("error", Grade(None, "no attempt")),
        ("blocked", Grade(None, "no attempt")),
        ("length", Grade(False, "it gave no answer")),
        ("incomplete", Grade(False, "it gave no answer")),
    ],
)
def test_what_was_not_attempted_is_neither_solved_nor_hard(
    store, tokenizer, monkeypatch, finish, grade_of_it
):
    [question] = [Question("What is 1 + 1?", answer="2")]
    row = Trace(question.id, "t", 0, "", "", finish, error="it says why")
    monkeypatch.setattr("s1jax.attempts.ask_all", lambda *_: {(question.id, 0): row})
    cfg = make_config(fields_of([], tokenizer))
    grades = attempts(cfg, cfg.curate.first, "curate.first", [question], store)
    assert grades == {question.id: grade_of_it}


def test_a_refused_question_is_dropped_as_not_graded(tmp_path, tokenizer):
    questions = list(SUMS)[:4]

    def reply(body):
        return 400 if body["messages"][-1]["content"] == questions[0] else "10000"

    with FakeModel(reply) as model:
        workdir, values = run(tmp_path, tokenizer, sums()[:4], curate__difficulty="attempts")
        kept, dropped = curated(workdir, values | model.fields("curate.first"))
    assert kept == set(questions[1:])
    assert dropped == {questions[0]: "not graded: no attempt"}


def test_a_server_that_is_not_there_is_one_sentence(tmp_path, tokenizer):
    with FakeModel(lambda _: 503) as model:
        workdir, values = run(tmp_path, tokenizer, sums(), curate__difficulty="attempts")
        values |= model.fields("curate.first") | {"curate.first.tries": 1}
        with pytest.raises(UserError, match=r"^curate\.first: .*HTTP 503.*start again to go on$"):
            curated(workdir, values)
        model.reply = solver(())
        assert curated(workdir, values)[0] == set(SUMS)
    assert max(Counter(model.questions).values()) <= 2


# --- The judge ---


def proofs():
    rows = [{"question": f"{PROOF[:-1]}, in {n} ways.", "solution": "2a + 2b."} for n in range(4)]
    return [*rows, {"question": f"{PROOF} Nobody has."}]


def test_a_proof_goes_to_the_judge_once(tmp_path, tokenizer):
    rows = proofs()
    ends = {0: "Good.\nYes", 1: "A step is missing.\nNo\n", 2: "Yes, I think", 3: "yes"}
    texts = [row["question"] for row in rows]

    def verdict(body):
        [number] = [n for n in ends if texts[n] in body["messages"][-1]["content"]]
        return ends[number]

    with FakeModel(lambda _: "Even it is.") as model, FakeModel(verdict) as judge:
        workdir, values = run(tmp_path, tokenizer, rows, curate__difficulty="attempts")
        values |= model.fields("curate.first") | judge.fields("curate.judge", "sonnet")
        kept, dropped = curated(workdir, values)
        unclear = "not graded: the judge's reply ends in neither Yes nor No"
        assert kept == {texts[1]}
        assert dropped == {
            texts[0]: "solved by the first model",
            texts[2]: unclear,
            texts[3]: unclear,
            texts[4]: "not graded: no reference",
        }
        attempts_ = [b for b in judge.bodies if "Even it is." in b["messages"][1]["content"]]
        assert len(attempts_) == 4
        for body in judge.bodies:
            system, user = body["messages"]
            assert (system["role"], user["role"]) == ("system", "user")
            assert '"Yes"' in system["content"] and '"No"' in system["content"]
            assert re.fullmatch(
                r"## Problem\n.*\n\n## Attempt\n.*\n\n## Correct answer\n2a \+ 2b\.",
                user["content"],
                re.DOTALL,
            )
            assert body["temperature"] == 0.0 and body["max_tokens"] == 8192
        # The teacher's answer to what is left is judged as well: another prompt.
        assert len(judge.bodies) == 5
        assert read_lines(workdir / "curated.jsonl")[0]["correct"] is False
        for server in (model, judge):
            server.bodies.clear()
        assert curated(workdir, values) == (kept, dropped)
        assert not model.bodies and not judge.bodies


def test_without_a_judge_proofs_are_dropped(tmp_path, tokenizer):
    rows = [*proofs()[:1], *sums()[:1]]
    with FakeModel(lambda _: "Even it is.") as model:
        workdir, values = run(tmp_path, tokenizer, rows, curate__difficulty="attempts")
        kept, dropped = curated(workdir, values | model.fields("curate.first"))
    assert kept == {rows[1]["question"]}
    assert dropped == {rows[0]["question"]: "not graded: a proof, and no judge"}


def test_the_judges_prompt_is_known_by_all_of_it():
    question = Question("Q?", "S")
    prompts = [
        judge_prompt(question, "A"),
        judge_prompt(question, "B"),
        judge_prompt(replace(question, solution="T"), "A"),
        judge_prompt(replace(question, question="R?"), "A"),
    ]
    assert prompts[0].text == "## Problem\nQ?\n\n## Attempt\nA\n\n## Correct answer\nS"
    assert len({prompt.id for prompt in prompts}) == 4
    assert judge_prompt(question, "A").id == prompts[0].id


# --- Grading ---

HOSTILE = [
    "\\boxed{9^{9^{9^{9^{9}}}}}",
    "\\boxed{" * 20_000,
    "\\boxed{__import__('os').system('touch /tmp/s1jax-canary')}",
    "(" * 50_000,
    "\0\0\ufeff\u202e",
    "x" * 10**6,
    "\\boxed{\\int_0^{10^{10}} \\sin(e^{e^x}) dx}",
    "Answer: " * 10_000,
    "\\boxed{\\frac{1}{" * 500 + "}" * 1000,
]


def test_hostile_attempts_end_in_verdicts(store, tokenizer):
    """Nothing is evaluated, and what cannot be decided is not right."""
    cfg = make_config(fields_of([], tokenizer))
    pairs = [(Question(f"How much is {n}?", answer="x^2+7"), a) for n, a in enumerate(HOSTILE)]
    good = Question("How much?", answer="x^2+7")
    start = time.monotonic()
    grades = grade(cfg, [*pairs, (good, "It is $\\boxed{7+x^2}$.")], store)
    assert time.monotonic() - start < 60
    assert set(grades) == {q.id for q, _ in pairs} | {good.id}
    assert not any(grades[q.id].correct for q, _ in pairs)
    assert grades[good.id].correct is True  # the control
    assert not Path("/tmp/s1jax-canary").exists()


def test_verdicts_are_taken_up(store, tokenizer, monkeypatch):
    cfg = make_config(fields_of([], tokenizer))
    pairs = [(Question(q, answer=a), a if n % 2 else "0") for n, (q, a) in enumerate(SUMS.items())]
    first = grade(cfg, pairs, store)
    assert [row.correct for row in first.values()] == [n % 2 == 1 for n in range(len(SUMS))]
    assert list(first) == [question.id for question, _ in pairs]

    def nobody(**_):
        raise AssertionError("graded again")

    monkeypatch.setattr("s1jax.attempts.Grader", nobody)
    assert grade(cfg, pairs, store) == first
    question = Question("New?", answer="1")
    with pytest.raises(AssertionError, match="graded again"):
        grade(cfg, [*pairs, (question, "1")], store)


def test_what_could_not_be_decided_is_tried_again(store, tokenizer, monkeypatch):
    """A busy machine has timeouts: another time it may have none."""
    cfg = make_config(fields_of([], tokenizer))
    texts = ("timeout", "crashed", "memory", "right", "wrong")
    pairs = [(Question(f"{text}?", answer="1"), text) for text in texts]
    decided, given = {"right": True, "wrong": False}, []

    class Busy:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def grade(self, some):
            for _, answer in some:
                given.append(answer)
                yield Verdict(decided.get(answer), answer)

    monkeypatch.setattr("s1jax.attempts.Grader", Busy)
    first = grade(cfg, pairs, store)
    assert {g.reason: g.correct for g in first.values()} == dict.fromkeys(texts) | decided
    assert given == list(texts)
    assert sorted(store.verdicts().values()) == [(False, "wrong"), (True, "right")]
    decided |= dict.fromkeys(texts[:3], True)
    given.clear()
    assert [g.correct for g in grade(cfg, pairs, store).values()] == [True] * 4 + [False]
    assert given == list(texts[:3])
    assert len(store.verdicts()) == 5
    given.clear()
    grade(cfg, pairs, store)
    assert given == []
    # As well where they are kept by the 500.
    many = [(Question(f"{n}?", answer="1"), f"{n}") for n in range(1001)]
    decided |= {f"{n}": True for n in range(0, 1001, 2)}
    assert len(grade(cfg, many, store)) == 1001
    assert len(store.verdicts()) == 5 + 501


def test_long_sources_are_graded_where_the_thinking_is_long(tmp_path, tokenizer):
    lengths = {"openaimath/long": 5601, "openaimath/short": 5600, "aime": 3, "claimed": 9000}
    rows = [
        {"question": f"{PROOF} {source}", "solution": "2a + 2b.", "source_type": source}
        for source in lengths
    ]
    known = [
        {"question": row["question"], "thinking_tokens": count}
        for row, count in zip(rows, lengths.values(), strict=True)
    ]
    grades = write_lines(tmp_path / "grades.jsonl", known)
    workdir, values = run(tmp_path, tokenizer, rows, curate__grades=str(grades))
    for selection, judged in {"s1": {"openaimath/long", "aime"}, "diverse": set()}.items():
        with FakeModel(lambda _: "Yes") as judge:
            fields = judge.fields("curate.judge", selection) | {"curate.selection": selection}
            cfg = make_config(values | fields)
            with TraceStore(workdir / "traces.db") as store:
                pool = clean_pool(cfg.pool, cfg.seed)
                found = sift(cfg, pool, store, ChatTokenizer.load(tokenizer))
        solved = {c.question.source_type: c.solved for c in found.candidates}
        assert solved == {source: True if source in judged else None for source in lengths}
        assert len(judge.bodies) == len(judged)


# --- Domains ---


def test_domains_by_a_model(tmp_path, tokenizer):
    texts = list(SUMS)[:5]
    replies = {0: "It is of numbers.\n11", 1: "**51**.", 2: "99", 3: "no idea", 4: "11"}

    def classify(body):
        [number] = [n for n, text in enumerate(texts) if text in body["messages"][-1]["content"]]
        return replies[number]

    rows = [{"question": text, "answer": SUMS[text]} for text in texts]
    grades = write_lines(tmp_path / "grades.jsonl", [{"question": texts[4], "domain": "Mine"}])
    with FakeModel(classify) as model:
        workdir, values = run(
            tmp_path, tokenizer, rows, curate__domains="model", curate__grades=str(grades)
        )
        values |= model.fields("curate.classifier")
        kept, dropped = curated(workdir, values)
        assert dropped == dict.fromkeys(texts[2:4], "no domain")
        made = {row["question"]: row["domain"] for row in read_lines(workdir / "curated.jsonl")}
        # What the grades say comes first: it was not asked.
        assert made == {texts[0]: TITLES["11"], texts[1]: TITLES["51"], texts[4]: "Mine"}
        assert sorted(model.questions) == sorted(user_prompt(text) for text in texts[:4])
        for body in model.bodies:
            assert body["messages"][0] == {"role": "system", "content": system_prompt()}
            assert body["temperature"] == 0.0
        model.bodies.clear()
        assert curated(workdir, values) == (kept, dropped)
        assert not model.bodies


def test_domains_by_words_and_as_given(tmp_path, tokenizer):
    rows = [
        {"question": "What is the area of the triangle with this circumscribed circle?"},
        {"question": "Is this prime number a divisor of that integer?", "domain": "Mine"},
        {"question": "Which one?", "domain": "Mine"},
    ]
    grades = write_lines(
        tmp_path / "grades.jsonl", [{"question": "Which one?", "domain": "Graded"}]
    )
    workdir, values = run(tmp_path, tokenizer, rows, curate__grades=str(grades))
    for domains, want in {
        "words": [TITLES["51"], TITLES["11"], "Graded"],  # of the 61: geometry, numbers
        "given": ["Sums", "Mine", "Graded"],
    }.items():
        curated(workdir, values | {"curate.domains": domains})
        assert [row["domain"] for row in read_lines(workdir / "curated.jsonl")] == want


# --- Known difficulty, and files of grades ---


def test_the_difficulty_of_the_source(tmp_path, tokenizer):
    levels = [5, 3.5, 3.4, None]
    rows = [{**row, "difficulty": n} for row, n in zip(sums(), levels, strict=False)]
    texts = [row["question"] for row in rows]
    workdir, values = run(tmp_path, tokenizer, rows, curate__difficulty="known")
    kept, dropped = curated(workdir, values | {"curate.min_difficulty": 3.5})
    assert kept == set(texts[:2])
    assert dropped == {texts[2]: "too easy", texts[3]: "no difficulty"}
    assert "its difficulty is 3.4, below 3.5" in explain(workdir, question_id(texts[2]))
    assert curated(workdir, values | {"curate.difficulty": "none"}) == (set(texts), {})


def grades_file(path, *rows):
    return write_lines(path / "grades.jsonl", rows)


def test_the_columns_of_grades_are_ours_or_s1s(tmp_path):
    path = grades_file(
        tmp_path,
        {"id": "a", "first": True, "second": False, "teacher": None, "domain": "Sums"},
        "",
        {
            "question": "A?",
            "isqwen7bcorrect": False,
            "isqwen32bcorrect": True,
            "isgeminicorrect": True,
            "domain": "Geometry",
            "gemini_length": 5601,
            "cot": None,
        },
        {"id": 17, "question": "B?", "thinking_tokens": 0},
        {"id": "of another kind", "question": "C?", "first": False},
    )
    assert read_grades(path) == {
        "a": Known(True, False, None, "Sums"),
        question_id("A?"): Known(False, True, True, "Geometry", 5601),
        question_id("B?"): Known(thinking_tokens=0),
        question_id("C?"): Known(first=False),
    }


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be an object, not list"),
        ("{}", "has neither an id nor a question"),
        ('{"id": 3}', "has neither an id nor a question"),
        ('{"id": "b", "first": 2}', "first=2 must be of type bool, or null"),
        ('{"id": "b", "first": 0.5}', "first=0.5 must be of type bool, or null"),
        ('{"id": "b", "teacher": "1"}', "teacher='1' must be of type bool, or null"),
        ('{"id": "b", "gemini_length": NaN}', "thinking_tokens=nan must be of type int"),
        ('{"id": "b", "gemini_length": 1e999}', "thinking_tokens=inf must be of type int"),
        ('{"id": "b", "gemini_length": 1e99}', "must be a count"),
        ('{"id": "b", "isqwen32bcorrect": "yes"}', "second='yes' must be of type bool, or null"),
        ('{"id": "b", "domain": 5}', "domain=5 must be of type str, or null"),
        ('{"id": "b", "gemini_length": 1.5}', "thinking_tokens=1.5 must be of type int, or null"),
        ('{"id": "b", "gemini_length": true}', "thinking_tokens=True must be of type int"),
        ('{"id": "b", "gemini_length": -1}', "thinking_tokens=-1 must be a count"),
        ('{"id": "b", "gemini_length": 99999999999999999999}', "must be a count"),
        ('{"id": "b", "domain": "\\ud800"}', "domain holds half of a surrogate pair, no text"),
        ('{"question": "\\ud800"}', "question holds half of a surrogate pair, no text"),
        ('{"id": "a", "first": true}', "says something else of question a than a line before"),
    ],
)
def test_a_wrong_row_of_grades_is_named_by_its_line(tmp_path, line, sentence):
    path = grades_file(tmp_path, {"id": "a"}, {"id": "a"}, "", line)
    with pytest.raises(UserError) as error:
        read_grades(path)
    assert str(error.value).startswith(f"{path}: line 4: ")
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_numbers_as_pandas_writes_them(tmp_path):
    """A column of flags or of counts with missing ones becomes one of floats."""
    path = grades_file(
        tmp_path,
        {"id": "a", "first": 1, "second": 0, "teacher": None, "gemini_length": 5601.0},
        {"id": "b", "first": 1.0, "second": 0.0, "teacher": True, "gemini_length": 0.0},
    )
    found = read_grades(path)
    assert found == {
        "a": Known(True, False, None, None, 5601),
        "b": Known(True, False, True, None, 0),
    }
    kinds = [
        (type(row.first), type(row.second), type(row.thinking_tokens)) for row in found.values()
    ]
    assert kinds == [(bool, bool, int)] * 2


@pytest.mark.parametrize("field", ["first", "second"])
def test_grades_of_one_model_are_enough(tmp_path, tokenizer, field):
    texts = list(SUMS)[:3]
    solved = {texts[0]: 1.0, texts[1]: 0.0}
    grades = grades_file(tmp_path, *({"question": q, field: g} for q, g in solved.items()))
    workdir, values = run(
        tmp_path, tokenizer, sums()[:3], curate__difficulty="grades", curate__grades=str(grades)
    )
    kept, dropped = curated(workdir, values)
    assert kept == {texts[1]}
    assert dropped == {
        texts[0]: f"solved by the {field} model",
        texts[2]: "not graded: no grade in the file",
    }
    # The control: once the other model has a grade, all need both.
    other = {"first": "second", "second": "first"}[field]
    grades_file(tmp_path, *({"question": q, field: 0} for q in texts), {"id": "x", other: False})
    assert curated(workdir, values)[0] == set(texts)  # of a question that is not here: none
    rows = [{"question": q, field: 0} for q in texts]
    grades_file(tmp_path, rows[0] | {other: 0}, *rows[1:])
    assert curated(workdir, values)[0] == {texts[0]}


@pytest.mark.parametrize(
    ("row", "there"),
    [
        ({"id": "0123456789abcdef", "first": True}, 0),
        ({"question": next(iter(SUMS)), "teacher": True, "domain": "Sums"}, 1),
    ],
    ids=["other questions", "no grades"],
)
def test_a_file_that_grades_none_of_the_questions_is_refused(tmp_path, tokenizer, row, there):
    grades = grades_file(tmp_path, row)
    workdir, values = run(
        tmp_path, tokenizer, sums()[:2], curate__difficulty="grades", curate__grades=str(grades)
    )
    with pytest.raises(UserError) as error:
        curate(make_config(values), workdir)
    assert str(error.value).startswith(f"curate.grades={grades}: grades none of the 2 questions")
    assert f"({there} of them are in it)" in str(error.value) and "\n" not in str(error.value)
    # Where it is not asked for grades it may hold what it likes.
    assert len(curated(workdir, values | {"curate.difficulty": "none"})[0]) == 2


def test_a_file_of_grades_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"curate\.grades=.*none\.jsonl: there is no such file"):
        read_grades(tmp_path / "none.jsonl")
    (tmp_path / "grades.jsonl").write_bytes(b'{"id": "a"}\n{"id": "\xff"}\n')
    with pytest.raises(UserError, match=r"grades.jsonl: line 2: is not UTF-8 \(byte 8\)"):
        read_grades(tmp_path / "grades.jsonl")


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["id", "question", "first", "isgeminicorrect", "domain", "gemini_length"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(["a"]),
    )
)
def test_any_row_is_grades_or_a_sentence(tmp_path_factory, row):
    path = grades_file(tmp_path_factory.mktemp("grades"), row)
    try:
        [(name, known)] = read_grades(path).items()
    except UserError as error:
        assert str(error).startswith(f"{path}: line 1: ")
    else:
        assert name in (row.get("id"), question_id(str(row.get("question"))))
        assert known.first in (None, True, False)


# --- Stopped ---


def test_a_stopped_run_goes_on_and_ends_like_one_that_never_was(tmp_path, tokenizer):
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(60)]
    asked, go_on, made = [], threading.Event(), {}

    def reply(body):
        asked.append(body)
        if len(asked) > 8:
            go_on.wait(60)
        return "0"

    for name in ("whole", "stopped"):
        directory = tmp_path / name
        directory.mkdir()
        asked.clear()
        with FakeModel(reply) as model:
            workdir, values = run(directory, tokenizer, rows, curate__difficulty="attempts")
            values |= model.fields("curate.first") | {"curate.first.concurrency": 4}
            if name == "stopped":
                go_on.clear()
                _stop(workdir, write_config(directory / "x.py", values), model, go_on)
                assert not (workdir / "curated.jsonl").exists()
                assert 8 < len(asked) <= 8 + 4  # and no other was begun
            go_on.set()
            assert curate(make_config(values), workdir) == 0
            assert sorted(Counter(model.questions).values()) == [1] * 60  # nothing twice
        made[name] = [path.read_bytes() for path in sorted(workdir.glob("curated.*"))]
    assert made["whole"] == made["stopped"]
    assert len(made["whole"][0].splitlines()) == 59  # of "What is 0 + 0?" it was right


def _stop(workdir, config, model, go_on):
    """Curates in a process that gets a SIGTERM while requests are under way, which go on then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "s1jax.curate", f"--config={config}", f"--workdir={workdir}"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 60
    while len(model.bodies) <= 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    go_on.set()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "stopped; every answer is in the store: start again to go on" in said
    assert "Traceback" not in said
