"""A curation's counts, its files and its explanations, against questions whose fate is planted."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from fakes_curate import (
    TEACHER,
    fields_of,
    make_config,
    read_lines,
    store_traces,
    trace_of,
    write_config,
    write_lines,
)
from fakes_train import WORLD

from s1jax import curate as verb
from s1jax import distill as distill_module
from s1jax import labels, mini
from s1jax.chat import CHATS, ChatTokenizer
from s1jax.curate import curate, explain
from s1jax.curation import digests_of
from s1jax.data.conditional import power_of_two
from s1jax.data.examples import load_examples
from s1jax.data.funnel import STAGES
from s1jax.data.labels import tokenize
from s1jax.data.rows import digest_of, s1_row
from s1jax.data.store import TraceStore
from s1jax.distill import distill
from s1jax.mini import pool as mini_pool
from s1jax.types import Question, UserError, question_id

ROOT = Path(__file__).resolve().parent.parent
FILES = {"curated.jsonl", "curated.parquet", "README.md", "curate.json", "decisions.jsonl"}
SIZE = 60  # of a curation of the little world
PICTURES = {"funnel.png", "domains.png", "lengths.png"}
# s1K's own, then what is known of the trace, then what curation says.
COLUMNS = [
    *("solution", "question", "cot_type", "source_type", "metadata", "cot"),
    *("thinking_trajectories", "attempt"),
    *("id", "answer", "teacher", "version", "settings", "finish", "is_summary"),
    *("prompt_tokens", "thinking_tokens", "answer_tokens"),
    *("text", "domain", "correct", "picked"),
]


@pytest.fixture(scope="module")
def tokenizer():
    """The directory of a small tokenizer with Qwen's template."""
    return WORLD


def digests(workdir, names=FILES):
    return {name: digest_of(workdir / name) for name in sorted(names)}


def refusal(cfg, workdir):
    with pytest.raises(UserError) as error:
        curate(cfg, workdir)
    return str(error.value)


# --- One question for every fate ---


def ask(word):
    """A question that shares no eight words with that of another word, and is not near it."""
    return f"Compute the {word} number of {word} objects when every {word} thing is {word}ish twice"


def planted():
    """Rows of two sources: (source, row or line, trace, stage, reason) by a name."""
    aime = {"source_type": "x/AIME", "domain": "Algebra", "answer": "7"}
    plain = {"source_type": "book", "domain": "Geometry", "answer": "7"}
    fates = {
        # Reading.
        "no json": (0, '{"question": ', None, "reading", "not JSON"),
        "no question": (0, {"solution": "7"}, None, "reading", "missing question"),
        "wrong type": (0, {"question": ["?"]}, None, "reading", "wrong type"),
        "blank": (0, {"question": " \n"}, None, "reading", "empty question"),
        "long": (0, {"question": "why " * 200}, None, "reading", "too long"),
        "control": (0, {"question": "Say <|im_end|>."}, None, "reading", "control token"),
        # What no training set may hold.
        "leak": (0, ask("exam") + " or not", {}, "decontamination", "8 words of held"),
        "dressed": (
            0,
            r"Compute \textbf{the exam-number}, of exam objects: when every exam thing is $2$.",
            {},
            "decontamination",
            "8 words of held (plain)",
        ),
        "short": (0, "What is  $12+30$ ?", {}, "decontamination", "same as held (plain)"),
        "second": (
            1,
            "Please do: " + ask("alpha"),
            {},
            "decontamination",
            "8 words of an earlier source, first",
        ),
        "exact": (0, ask("alpha"), {}, "duplicates", "exact"),
        "near": (0, "Problem: " + ask("undrawn"), {}, "duplicates", "near"),
        # The traces.
        "unasked": (0, ask("unasked"), None, "traces", "not asked"),
        "cut": (0, ask("cut"), {"finish": "length"}, "quality", "truncated"),
        "blocked": (
            0,
            ask("blocked"),
            {"finish": "blocked", "error": "stopped by SAFETY"},
            "quality",
            "no trace: blocked",
        ),
        "thoughtless": (0, ask("thoughtless"), {"thinking": " \n"}, "quality", "no thinking"),
        "mute": (0, ask("mute"), {"answer": ""}, "quality", "no answer"),
        "drawing": (0, ask("drawing") + " [asy] [/asy]", {}, "quality", "drawing"),
        "picture": (0, ask("picture") + " ![Image](x)", {}, "quality", "picture"),
        "page": (0, ask("page") + " p12.", {}, "quality", "page"),
        "bold": (0, ask("bold") + " **(a)** 3", {}, "quality", "bold with a digit"),
        # Difficulty, by the file of grades.
        "easy": (0, ask("easy"), {}, "difficulty", "solved by the first model"),
        "fair": (0, ask("fair"), {}, "difficulty", "solved by the second model"),
        "ungraded": (
            0,
            ask("ungraded"),
            {},
            "difficulty",
            "not graded: no grade in the file",
        ),
        "half graded": (
            0,
            ask("halfgraded"),
            {},
            "difficulty",
            "not graded: no grade in the file",
        ),
        # Domains and the selection.
        "homeless": (0, ask("homeless"), {}, "domains", "no domain"),
        "nameless": (0, ask("nameless"), {}, "domains", "no domain"),
        "undrawn": (0, ask("undrawn"), {}, "selection", "not drawn"),
        "alpha": (0, ask("alpha"), {}, "selection", "like the benchmarks"),
        "beta": (1, ask("beta") + " [asy]", {}, "selection", "like the benchmarks"),
    }
    rows = {}
    for name, (source, row, trace, stage, reason) in fates.items():
        if stage != "reading":
            row = {"question": row, **(aime if name in ("alpha", "beta", "exact") else plain)}
            if name in ("homeless", "nameless"):
                row["domain"] = None if name == "homeless" else ""
        rows[name] = (source, row, trace, stage, reason)
    # The duplicates come after what they repeat.
    order = sorted(rows, key=lambda name: name in ("exact", "near"))
    return {name: rows[name] for name in order}


@pytest.fixture(scope="module")
def fates(tmp_path_factory, tokenizer):
    """The planted rows, curated: their table, the config and the workdir."""
    directory, rows = tmp_path_factory.mktemp("planted"), planted()
    pools = [
        write_lines(directory / f"{name}.jsonl", [r[1] for r in rows.values() if r[0] == number])
        for number, name in enumerate(("first", "second"))
    ]
    held = [{"question": ask("exam")}, {"question": "What is 12 + 30?"}]
    write_lines(directory / "held.jsonl", held)
    asked = {name: row for name, row in rows.items() if row[2] is not None and name != "exact"}
    traces = [trace_of(row[1]["question"], **row[2]) for row in asked.values()]
    hard = {"first": False, "second": False, "teacher": True}
    grades = {
        "easy": {"first": True, "second": False},
        "fair": {"first": False, "second": True},
        "half graded": {"first": False, "second": None},
    }
    lines = [
        {"question": row[1]["question"]} | grades.get(name, hard)
        for name, row in asked.items()
        if name != "ungraded"
    ]
    fields = fields_of(
        pools,
        tokenizer,
        pool__evaluation_sets=(str(directory / "held.jsonl"),),
        pool__near_duplicates=0.8,
        pool__max_question_chars=500,
        curate__size=2,
        curate__difficulty="grades",
        curate__grades=str(write_lines(directory / "grades.jsonl", lines)),
    )
    workdir = store_traces(directory / "run", traces)
    assert curate(make_config(fields), workdir) == 0
    return rows, make_config(fields), workdir


def test_every_stage_drops_what_was_planted_for_it(fates):
    rows, _, workdir = fates
    funnel = json.loads((workdir / "curate.json").read_text())["funnel"]
    kept = {"alpha", "beta"}
    want = {stage: Counter() for stage in STAGES}
    for name, (*_, stage, reason) in rows.items():
        want[stage][reason] += name not in kept
    assert {stage["name"]: stage["reasons"] for stage in funnel} == {
        stage: dict(+reasons) for stage, reasons in want.items()
    }
    before = len(rows)
    for stage in funnel:
        assert stage["before"] == before
        before -= sum(stage["reasons"].values())
        assert stage["after"] == before
    assert before == len(read_lines(workdir / "curated.jsonl")) == 2
    decisions = read_lines(workdir / "decisions.jsonl")
    assert len(decisions) == len(rows)
    assert Counter(d["stage"] for d in decisions if not d["kept"]) == {
        stage: reasons.total() for stage, reasons in want.items()
    }


@pytest.mark.parametrize("name", [n for n, row in planted().items() if row[3] != "reading"])
def test_every_fate_is_explained(fates, name):
    rows, _, workdir = fates
    question, stage, reason = rows[name][1]["question"], *rows[name][3:]
    verdict = "kept" if name in ("alpha", "beta") else "dropped"
    told = explain(workdir, question_id(question))
    assert f"  {verdict} by {stage}: {reason}: " in told
    assert f"{question_id(question)} ({rows[name][1]['source_type']}, " in told
    assert " ".join(question.split()) in told
    # The same text twice: what became of each is told, and nothing else.
    assert len(told.splitlines()) == (6 if name in ("alpha", "exact") else 3)
    if name in ("alpha", "exact"):
        assert "kept by selection" in told and "dropped by duplicates: exact: the same" in told


def test_rows_that_are_no_questions_are_named_by_their_lines(fates):
    rows, cfg, workdir = fates
    bad = {row[4]: number for number, row in enumerate(rows.values(), 1) if row[3] == "reading"}
    decisions = [d for d in read_lines(workdir / "decisions.jsonl") if d["stage"] == "reading"]
    places = {reason: f"{cfg.pool.sources[0]}: line {number}" for reason, number in bad.items()}
    assert {d["reason"]: d["place"] for d in decisions} == places
    assert {d["id"] for d in decisions} == {None}


def test_what_is_asked_of_explain_wrongly_is_one_sentence(fates, tmp_path, capsys):
    rows, _, workdir = fates
    names = {question_id(row[1]["question"]) for row in rows.values() if row[3] != "reading"}
    name = question_id(ask("easy"))
    short = next(name[:n] for n in range(1, 17) if sum(x.startswith(name[:n]) for x in names) == 1)
    assert explain(workdir, short) == explain(workdir, name)
    # The id of a further sample's row.
    assert explain(workdir, f"{name}/1") == explain(workdir, name)
    assert explain(workdir, f"{name}/1") != explain(workdir, f"{question_id(ask('fair'))}/1")
    shared = next(c for c in "0123456789abcdef" if sum(x.startswith(c) for x in names) > 1)
    for wrong, sentence in {
        shared: "questions begin so; write more of the id",
        "": f"{len(names)} questions begin so",
        "xyz": "--explain=xyz: no question has this id",
        name + "0": "no question has this id",
        name + "0/1": "no question has this id",
        "/1": f"--explain=/1: {len(names)} questions begin so",
    }.items():
        with pytest.raises(UserError, match=sentence):
            explain(workdir, wrong)
    with pytest.raises(UserError, match="there is no such file; curate first"):
        explain(tmp_path / "new", name)
    assert verb.main(["curate", f"--workdir={workdir}", f"--explain={short}"]) == 0
    assert capsys.readouterr().out == explain(workdir, name) + "\n"


def test_what_is_left_in_the_workdir(fates):
    _, cfg, workdir = fates
    there = {path.name for path in workdir.iterdir()}
    assert there == FILES | PICTURES | {"traces.db", "traces.db.lock"}
    assert all((workdir / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    manifest = json.loads((workdir / "curate.json").read_text())
    assert manifest["sha256"] == digests(workdir, ("curated.jsonl", "curated.parquet"))
    assert manifest["teachers"] == {f"{TEACHER} 1": 2}
    assert manifest["graded"] == {"correct": 2, "wrong": 0}
    assert manifest["cost"] == {"of_the_picked": 0.0, "spent": {TEACHER: 0.0}}
    assert manifest["config"]["model"] == cfg.to_dict()["model"]
    assert manifest["tokenizer_sha256"] == ChatTokenizer.load(Path(cfg.curate.tokenizer)).digest
    read = [*cfg.pool.sources, *cfg.pool.evaluation_sets, cfg.curate.grades]
    sha256 = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in read]
    assert manifest["read_sha256"] == dict(zip(read, sha256, strict=True))
    assert len(set(sha256)) == len(read) == 4
    assert manifest["config"]["curate"]["size"] == cfg.curate.size
    assert manifest["pool"]["sources"] == {"first": 28, "second": 2}
    assert manifest["pool"]["evaluation_sets"] == {"held": 2}
    assert manifest["pool"]["set_aside_rows"] == 6


# --- What is written ---

# s1's text of a question, thinking and an answer; reference/s1.md, section 1.9.
GOLDEN = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"
    "<|im_start|>think\nThree and four.\n\nThat is 7.\n<|im_start|>answer\nAnswer: 7<|im_end|>\n"
)
THINKING = " \nThree and four.\n\nThat is 7.\n"
ANSWERS = {  # what is written of an answer
    "7": "Answer: 7",
    " 7\n": "Answer:  7",
    "Answer: 7": "Answer: 7",
    "So it is\nAnswer:7 \n": "So it is\nAnswer:7",
    "The answer: 7": "Answer: The answer: 7",
}


def one(tmp_path, tokenizer, rows, traces, **fields):
    """The rows of a curation of these questions, the config and the workdir."""
    pool = write_lines(tmp_path / "pool.jsonl", rows)
    workdir = store_traces(tmp_path / "run", traces)
    values = fields_of([pool], tokenizer, **fields)
    assert curate(make_config(values), workdir) == 0
    return read_lines(workdir / "curated.jsonl"), values, workdir


def small(tmp_path, tokenizer, **fields):
    """The same of a question with each kind of answer."""
    questions = [f"What is {n} + 4?" for n in range(3, 3 + len(ANSWERS))]
    rows = [{"question": q, "answer": "7", "domain": "Sums", "level": 2} for q in questions]
    traces = [trace_of(q, THINKING, a) for q, a in zip(questions, ANSWERS, strict=True)]
    return one(tmp_path, tokenizer, rows, traces, **fields)


def test_the_columns_and_the_text_of_s1(tmp_path, tokenizer):
    rows, _, workdir = small(tmp_path, tokenizer)
    assert [list(row) for row in rows] == [COLUMNS] * len(ANSWERS)
    table = pyarrow.parquet.read_table(workdir / "curated.parquet")
    assert table.column_names == COLUMNS
    assert table.to_pylist() == rows
    assert rows[0]["text"] == GOLDEN
    for number, (row, written) in enumerate(zip(rows, ANSWERS.values(), strict=True), 3):
        want = GOLDEN.replace("What is 3", f"What is {number}").replace("Answer: 7", written)
        assert row["text"] == want
        assert row["thinking_trajectories"] == [THINKING]
    count = len(ChatTokenizer.load(tokenizer).encode([THINKING])[0].ids)
    first = dict(rows[0])
    assert first.pop("picked").startswith("uniform over domains: draw ")
    assert first == {
        "solution": "7",
        "question": "What is 3 + 4?",
        "cot_type": "math",
        "source_type": "pool",
        "metadata": '{"level": 2}',
        "cot": None,
        "thinking_trajectories": [THINKING],
        "attempt": "7",
        "id": question_id("What is 3 + 4?"),
        "answer": "7",
        "teacher": TEACHER,
        "version": "1",
        "settings": "{}",
        "finish": "stop",
        "is_summary": False,
        "prompt_tokens": None,
        "thinking_tokens": count,
        "answer_tokens": None,
        "text": GOLDEN,
        "domain": "Sums",
        "correct": True,
    }


def test_the_text_is_that_of_s1s_tokenizer(tmp_path, qwen_tokenizer):
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(qwen_tokenizer)
    rows, _, _ = small(tmp_path, qwen_tokenizer)
    for row in rows:
        # As data/tokenization.py builds it.
        answer = row["attempt"]
        answer = "Answer: " + answer if "Answer:" not in answer else answer
        thinking = "\n".join(row["thinking_trajectories"]).strip()
        content = f"<|im_start|>think\n{thinking}\n<|im_start|>answer\n{answer.strip()}"
        turns = [("user", row["question"].strip()), ("assistant", content)]
        messages = [{"role": role, "content": text} for role, text in turns]
        assert row["text"] == reference.apply_chat_template(messages, tokenize=False)
    assert rows[0]["text"] == GOLDEN


def test_training_reads_what_is_written(tmp_path, tokenizer, capsys):
    rows, values, workdir = small(tmp_path, tokenizer)
    loaded = []
    for name in ("curated.jsonl", "curated.parquet"):
        training = values | {"data.path": str(workdir / name), "model.path": str(tokenizer)}
        training |= {"data.row_length": 400}
        loaded.append(load_examples(make_config(training).data))
        config = write_config(tmp_path / "x.py", training)
        assert labels.main(["labels", f"--config={config}", "--color=never"]) == 0
        assert "training would start with these labels" in capsys.readouterr().out
    assert loaded[0] == loaded[1]
    assert [e.id for e in loaded[0]] == [row["id"] for row in rows]
    chat = ChatTokenizer.load(tokenizer)
    for row, example in zip(rows, tokenize(loaded[0], chat, CHATS["s1"], 400, "none"), strict=True):
        assert chat.hf(row["text"]).input_ids == example.tokens.tolist()


def test_sets_that_ask_for_so_much_thinking(tmp_path, tokenizer):
    """Paper, appendix E.1: the amount is the trace's, rounded up to a power of two."""
    steps = "One.\n\nTwo.\n\n\nThree."
    row = {"question": "Why?", "answer": "7", "domain": "Sums"}
    made = {}
    for control in ("none", "tokens", "steps"):
        directory = tmp_path / control
        directory.mkdir()
        [made[control]], _, _ = one(
            directory, tokenizer, [row], [trace_of("Why?", steps)], curate__control=control
        )
    counted = made["none"]["thinking_tokens"]
    amount = power_of_two(counted)
    assert amount & (amount - 1) == 0 and amount / 2 < counted <= amount
    asking = {"none": "", "tokens": f"\n\nThink for up to {amount} tokens."}
    asking["steps"] = "\n\nThink for up to 4 steps."
    counted_down = (
        "<|im_start|>4 steps left\nOne.\n<|im_start|>3 steps left\nTwo.\n"
        "<|im_start|>2 steps left\nThree.\n<|im_start|>answer\n"
    )
    for control, row in made.items():
        assert row["question"] == "Why?" + asking[control]
        assert row["thinking_trajectories"] == [steps]  # untouched
        assert row["id"] == question_id("Why?")
        body = f"<|im_start|>think\n{steps}\n<|im_start|>answer\n"
        body = counted_down if control == "steps" else body
        head, _, _ = GOLDEN.partition("What is 3 + 4?")
        assert row["text"] == (
            f"{head}Why?{asking[control]}<|im_end|>\n<|im_start|>assistant\n{body}"
            "Answer: 7<|im_end|>\n"
        )


def test_a_config_that_trains_steps_still_writes_s1s_text(tmp_path, tokenizer):
    """There it is training that divides the thinking."""
    fields = {"model.chat": "steps", "data.control": "steps"}
    rows, _, _ = small(tmp_path, tokenizer, **fields)
    assert rows[0]["text"] == GOLDEN


def test_the_first_good_sample_is_taken(tmp_path, tokenizer):
    rows = [{"question": q, "domain": "Sums"} for q in ("A?", "B?", "C?")]
    traces = [
        trace_of("A?", "first"),
        trace_of("A?", "second", sample=1),
        trace_of("B?", "cut", finish="length"),
        trace_of("B?", " ", sample=1),
        trace_of("B?", "whole", sample=2),
        trace_of("C?", "cut", finish="length"),
        trace_of("C?", " ", sample=1),
    ]
    made, _, workdir = one(tmp_path, tokenizer, rows, traces)
    b = question_id("B?")
    assert {row["id"]: row["thinking_trajectories"] for row in made} == {
        question_id("A?"): ["first"],
        f"{b}/2": ["whole"],
    }
    assert "dropped by quality: truncated" in explain(workdir, question_id("C?"))  # of the first


STRANGE = ["A \0 in it?", "An \x1b[31mescape?", "\u2028 and \x85?", "\U0001f600?", "\nRows\r\n?"]


def test_unusual_text_goes_through(tmp_path, tokenizer, capsys):
    rows = [{"question": q, "domain": q, "solution": q} for q in STRANGE]
    traces = [trace_of(q, f"Of {q}!", f"It is {q}!") for q in STRANGE]
    made, _, workdir = one(tmp_path, tokenizer, rows, traces)
    assert [row["question"] for row in made] == [row["domain"] for row in made] == STRANGE
    assert [row["thinking_trajectories"] for row in made] == [[f"Of {q}!"] for q in STRANGE]
    assert all(f"\nOf {q}!\n" in row["text"] for q, row in zip(STRANGE, made, strict=True))
    assert pyarrow.parquet.read_table(workdir / "curated.parquet").to_pylist() == made
    capsys.readouterr()
    for question in STRANGE:
        name = question_id(question)
        assert verb.main(["curate", f"--workdir={workdir}", f"--explain={name}"]) == 0
        shown = capsys.readouterr().out
        assert len(shown.split("\n")) == 4
        assert shown.replace("\n", "").isprintable()


# --- The little world: again, elsewhere, otherwise ---


@pytest.fixture(scope="module")
def little(tmp_path_factory, tokenizer):
    """The fields of a curation of 300 questions of the little world, distilled in a workdir.

    Three of its domains, of very different sizes.
    """
    directory = tmp_path_factory.mktemp("little")
    columns = ("question", "solution", "source_type", "answer", "domain", "difficulty")
    left, questions = {"Arithmetic": 150, "Sorting": 100, "Carrying": 50}, []
    for question in mini_pool.pool():
        if left.get(question.domain):
            left[question.domain] -= 1
            questions.append(question)
    assert not any(left.values())
    rows = [{name: getattr(q, name) for name in columns} for q in questions]
    fields = fields_of(
        [write_lines(directory / "pool.jsonl", rows)],
        tokenizer,
        distill__via="mini",
        distill__model="",
        pool__evaluation_sets=("mini",),
        curate__size=SIZE,
        curate__difficulty="known",
        curate__min_difficulty=2.0,
        curate__benchmark_sources=("mini/revision",),
        curate__long_sources=("mini/iteration",),
        curate__long_tokens=140,
        curate__uniform_until=SIZE - 10,
    )
    workdir = directory / "a" / "run"
    assert distill(make_config(fields), workdir) == 0
    assert curate(make_config(fields), workdir) == 0
    return fields, workdir


def curated(little, **changes):
    """The rows of another curation of the same traces, and its decisions."""
    fields, workdir = little
    elsewhere = workdir.parent / "-".join(["x", *map(str, changes.values())]) / "run"
    elsewhere.mkdir(parents=True, exist_ok=True)
    (elsewhere / "traces.db").write_bytes((workdir / "traces.db").read_bytes())
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    assert curate(make_config(fields | changed), elsewhere) == 0
    rows, decisions = (read_lines(elsewhere / f"{n}.jsonl") for n in ("curated", "decisions"))
    return rows, {d["id"]: d for d in reversed(decisions) if d["id"]}


def test_the_same_bytes_again(little):
    fields, workdir = little
    before = digests(workdir, FILES | PICTURES)
    assert curate(make_config(fields), workdir) == 0
    assert digests(workdir, FILES | PICTURES) == before


def test_the_same_bytes_elsewhere_with_another_hash_seed(little, tmp_path):
    fields, workdir = little
    again = tmp_path / "b" / "run"
    config = write_config(tmp_path / "x.py", fields)
    for name in ("distill", "curate"):
        subprocess.run(
            [sys.executable, "-m", f"s1jax.{name}", f"--config={config}", f"--workdir={again}"],
            env={**os.environ, "PYTHONHASHSEED": "12345"},
            cwd=ROOT,
            check=True,
            timeout=200,
        )
    assert digests(again, FILES | PICTURES) == digests(workdir, FILES | PICTURES)


def test_another_seed_draws_others(little):
    first = read_lines(little[1] / "curated.jsonl")
    other, _ = curated(little, seed=7)
    assert len(first) == len(other) == SIZE
    assert {row["id"] for row in first} != {row["id"] for row in other}


def test_every_picked_row_is_told_why(little):
    _, workdir = little
    rows = read_lines(workdir / "curated.jsonl")
    kept = {d["id"]: d for d in read_lines(workdir / "decisions.jsonl") if d["kept"]}
    assert {row["id"]: row["picked"] for row in rows} == {
        name: f"{d['reason']}: {d['detail']}" for name, d in kept.items()
    }
    counts = json.loads((workdir / "curate.json").read_text())["picks"]
    assert counts == Counter(d["reason"] for d in kept.values())
    at_once, uniform = counts.pop("like the benchmarks"), counts.pop("uniform over domains")
    assert at_once + uniform == SIZE - 10 and min(at_once, uniform) > 0
    assert sum(counts.values()) == 10
    assert all("domains" in reason and "benchmarks" in reason for reason in counts)
    order = [question.id for question in mini_pool.pool()]
    assert [row["id"] for row in rows] == sorted(kept, key=order.index)  # that of the pool


def test_the_ablations(little):
    full, decisions = curated(little, curate__selection="full")
    lengths = {row["id"]: row["thinking_tokens"] for row in full}
    with TraceStore(little[1] / "traces.db") as store:
        good = {key for (key, _), t in store.traces("mini").items() if t.error is None}
    assert set(lengths) == good  # whatever figures and pages their questions have
    assert any("[asy]" in row["question"] for row in full)

    longest, _ = curated(little, curate__selection="longest")
    allowed = {name: n for name, n in lengths.items() if not _figured(decisions[name])}
    shortest = min(row["thinking_tokens"] for row in longest)
    assert len(longest) == SIZE
    assert sum(n > shortest for n in allowed.values()) < SIZE
    assert {row["id"] for row in longest} <= set(allowed)

    random, _ = curated(little, curate__selection="random")
    others, _ = curated(little, curate__selection="random", seed=7)
    assert len(random) == len(others) == SIZE
    assert {row["id"] for row in random} != {row["id"] for row in others}
    total = sum(row["thinking_tokens"] for row in random)
    assert total < sum(row["thinking_tokens"] for row in longest)

    diverse, _ = curated(little, curate__selection="diverse", curate__size=90)
    counts = Counter(row["domain"] for row in diverse)
    assert set(counts) == {"Arithmetic", "Sorting", "Carrying"}
    assert min(counts.values()) > 20  # of 30; by their sizes it is 15


def _figured(decision):
    return "[asy]" in decision["question"] or "(Book p12." in decision["question"]


def test_fewer_than_asked_for(little, capsys):
    rows, decisions = curated(little, curate__size=5000)
    assert "only" in (said := capsys.readouterr().err) and "of curate.size=5000" in said
    assert len(rows) == sum(d["kept"] for d in decisions.values()) > 150
    assert not any(d["stage"] == "selection" and not d["kept"] for d in decisions.values())


@pytest.mark.parametrize("domains", ["given", "model"])
@pytest.mark.parametrize("selection", ["random", "longest", "full"])
def test_who_draws_no_domains_needs_none(tmp_path, tokenizer, selection, domains):
    rows = [{"question": "A?"}, {"question": "B?", "domain": "Sums"}]
    traces = [trace_of("A?"), trace_of("B?")]
    fields = {"curate.selection": selection, "curate.domains": domains}
    made, values, workdir = one(tmp_path, tokenizer, rows, traces, **fields)
    assert [row["domain"] for row in made] == ["unknown", "Sums"]
    # Nobody is asked, even where somebody is named: it would cost.
    named = {"curate.classifier.via": "replay", "curate.classifier.model": "none.jsonl"}
    assert curate(make_config(values | named), workdir) == 0
    if domains == "model":  # the control: who draws domains asks
        drawing = values | {"curate.selection": "diverse"}
        assert "set curate.classifier.via" in refusal(make_config(drawing), workdir)
        assert "none.jsonl" in refusal(make_config(drawing | named), workdir)


# --- Where it comes from, and what it cost ---


def manifest_of(workdir):
    return json.loads((workdir / "curate.json").read_text())


def table_of(workdir):
    """The card's table of sources: rows, kept and selected by name."""
    card = (workdir / "README.md").read_text()
    _, _, table = card.partition("| source | in the pool |")
    lines = [line.split("|")[1:-1] for line in table.partition("\n\n")[0].splitlines()[2:]]
    return {cells[0].strip(): tuple(int(c.replace(",", "")) for c in cells[1:4]) for cells in lines}


@pytest.mark.parametrize("short", [True, False])
def test_what_two_sources_have_is_the_first_ones(tmp_path, tokenizer, short):
    """Questions of less than eight words pass the rule of the order, and so does all without it."""
    asked = [f"What is {n} plus one?" if short else ask(f"w{n}") for n in range(45)]
    pools = [
        write_lines(tmp_path / name, [{"question": q, "domain": "Sums"} for q in some])
        for name, some in (("A.jsonl", asked[:30]), ("B.jsonl", asked[15:]))
    ]
    workdir = store_traces(tmp_path / "run", [trace_of(q) for q in asked])
    fields = fields_of(pools, tokenizer, pool__earlier_sources=short, curate__selection="full")
    assert curate(make_config(fields), workdir) == 0
    assert table_of(workdir) == {"A": (30, 30, 30), "B": (30, 15, 15), "all": (60, 45, 45)}
    # The control: in the other order it is the other's.
    cfg = make_config(fields | {"pool.sources": tuple(map(str, reversed(pools)))})
    assert curate(cfg, workdir) == 0
    assert table_of(workdir) == {"B": (30, 30, 30), "A": (30, 15, 15), "all": (60, 45, 45)}


def test_files_are_known_by_their_digests(tmp_path):
    (tmp_path / "other").mkdir()
    texts = {"a.jsonl": "1\n", "other/a.jsonl": "2\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in texts]
    found = digests_of([*paths, None, "", "mini", "s1", str(tmp_path), str(tmp_path / "none")])
    assert found == {
        path: hashlib.sha256(text.encode()).hexdigest()
        for path, text in zip(paths, texts.values(), strict=True)
    }


def test_what_the_traces_cost(tmp_path, tokenizer):
    """By the tokens that the teacher says, of the picked and of all that was asked."""
    questions = [q.question for q in mini_pool.pool()[:40]]
    pool = write_lines(tmp_path / "x.jsonl", [{"question": q, "domain": "D"} for q in questions])
    priced = {"distill.input_price": 3.0, "distill.output_price": 11.0, "distill.asks_again": 0}
    mini_teacher = {"distill.via": "mini", "distill.model": "", "curate.size": 10}
    costs = []
    for name, prices in (("priced", priced), ("free", {})):
        workdir, fields = tmp_path / name, fields_of([pool], tokenizer) | mini_teacher | prices
        assert distill(make_config(fields), workdir) == 0
        assert curate(make_config(fields), workdir) == 0
        picked = {row["id"] for row in read_lines(workdir / "curated.jsonl")}
        price = {
            row["id"]: 3e-6 * row["prompt_tokens"]
            + 11e-6 * (row["thinking_tokens"] + row["answer_tokens"])
            for row in read_lines(workdir / "traces.jsonl")  # with the teacher's own counts
        }
        assert len(picked) == 10 < len(price)
        costs.append(manifest_of(workdir)["cost"])
    [teacher] = costs[0]["spent"]
    want = sum(price[name] for name in picked)
    assert 0 < costs[0]["of_the_picked"] == pytest.approx(want)
    assert costs[0]["spent"][teacher] >= sum(price.values()) * (1 - 1e-9) > want
    assert costs[1] == {"of_the_picked": 0.0, "spent": {teacher: 0.0}}


def test_another_pool_than_the_distilled_is_told(tmp_path, tokenizer, capsys):
    questions = [q.question for q in mini_pool.pool()[:10]]
    pool = write_lines(tmp_path / "x.jsonl", [{"question": q, "domain": "D"} for q in questions])
    fields = fields_of([pool], tokenizer) | {"distill.via": "mini", "distill.model": ""}
    workdir = tmp_path / "run"
    assert distill(make_config(fields), workdir) == 0

    def said(**changes):
        capsys.readouterr()
        changed = {f"pool.{name}": value for name, value in changes.items()}
        assert curate(make_config(fields | changed), workdir) == 0
        lines = capsys.readouterr().err.splitlines()
        return [line for line in lines if "not the pool that was distilled" in line]

    assert said() == []  # the control
    [line] = said(near_duplicates=0.9, earlier_sources=False)
    assert "pool.near_duplicates was 2.0" in line and "pool.earlier_sources was True" in line
    assert "pool.sources" not in line
    manifest = workdir / "distill.json"
    for text in ("{", "[]", '{"config": 3}', '{"config": {}}'):  # it is only a hint
        manifest.write_text(text)
        assert said(near_duplicates=0.9) == []


# --- Lengths ---


def encoded(monkeypatch):
    """All texts that are encoded from here on."""
    texts, encode = [], ChatTokenizer.encode

    def noted(self, some):
        texts.extend(some)
        return encode(self, some)

    monkeypatch.setattr(ChatTokenizer, "encode", noted)
    return texts


def test_thinking_is_counted_once(tmp_path, tokenizer, monkeypatch):
    from fakes_chat import QWEN3, write_tokenizer

    texts = encoded(monkeypatch)
    questions = [f"Question {n}?" for n in range(600)]  # several batches
    thoughts = [f"I think: {'well, ' * (n % 7)}{n}." for n in range(600)]
    traces = [trace_of(q, t) for q, t in zip(questions, thoughts, strict=True)]
    rows = [{"question": q, "domain": "Sums"} for q in questions]
    made, values, workdir = one(tmp_path, tokenizer, rows, traces, curate__selection="full")
    assert set(thoughts) <= set(texts)
    chat = ChatTokenizer.load(tokenizer)
    want = [len(encoding.ids) for encoding in chat.encode(thoughts)]
    assert [row["thinking_tokens"] for row in made] == want
    texts.clear()
    assert curate(make_config(values), workdir) == 0
    assert not set(thoughts) & set(texts)
    assert read_lines(workdir / "curated.jsonl") == made
    # Another tokenizer counts anew.
    other = write_tokenizer(tmp_path / "other", controls=QWEN3)
    texts.clear()
    assert curate(make_config(values | {"curate.tokenizer": str(other)}), workdir) == 0
    assert set(thoughts) <= set(texts)
    again = [row["thinking_tokens"] for row in read_lines(workdir / "curated.jsonl")]
    assert again == [len(e.ids) for e in ChatTokenizer.load(other).encode(thoughts)] != want


def test_the_lengths_of_the_grades_come_first(tmp_path, tokenizer, monkeypatch):
    texts = encoded(monkeypatch)
    rows = [{"question": q, "domain": "Sums"} for q in ("A?", "B?")]
    traces = [trace_of("A?", "Of A."), trace_of("B?", "Of B.")]
    grades = write_lines(tmp_path / "grades.jsonl", [{"question": "A?", "gemini_length": 4321}])
    made, _, _ = one(tmp_path, tokenizer, rows, traces, curate__grades=str(grades))
    assert made[0]["thinking_tokens"] == 4321
    assert "Of A." not in texts and "Of B." in texts


# --- Stopped ---


def test_a_signal_at_any_time_leaves_all_as_it_was(tmp_path, tokenizer, monkeypatch, capsys):
    """Whatever the verb is at, it says 75; the next run ends as one that was never stopped."""
    cfg = make_config(
        fields_of(["mini"], tokenizer)
        | {"distill.via": "mini", "distill.model": "", "curate.size": 20, "curate.domains": "given"}
    )
    before = signal.getsignal(signal.SIGTERM)
    workdirs = {name: tmp_path / name for name in ("stopped", "calm")}
    for verb_of, places in (
        (distill_module, ("clean_pool", "collect", "write_rows", "write_manifest")),
        (verb, ("clean_pool", "select", "write_rows", "plot_funnel", "data_card")),
    ):
        run = verb_of.distill if verb_of is distill_module else verb_of.curate
        for place in places:
            called = getattr(verb_of, place)

            def interrupted(*args, called=called, **named):
                os.kill(os.getpid(), signal.SIGTERM)
                return called(*args, **named)

            with monkeypatch.context() as patch:
                patch.setattr(verb_of, place, interrupted)
                assert run(cfg, workdirs["stopped"]) == 75, place
            assert "start again to go on" in capsys.readouterr().err
            assert signal.getsignal(signal.SIGTERM) == before
        for workdir in workdirs.values():
            assert run(cfg, workdir) == 0
    assert digests(workdirs["stopped"], FILES - {"README.md", "curate.json"}) == digests(
        workdirs["calm"], FILES - {"README.md", "curate.json"}
    )


# --- What cannot be curated ---


def test_what_is_missing_is_one_sentence(tmp_path, tokenizer):
    pool = write_lines(tmp_path / "pool.jsonl", [{"question": "A?", "domain": "Sums"}])
    cfg = make_config(fields_of([pool], tokenizer))
    new = refusal(cfg, tmp_path / "new")
    assert new.endswith("new/traces.db: there is no such file; distill into --workdir first")
    assert not (tmp_path / "new").exists()
    empty = store_traces(tmp_path / "empty", [])
    assert "traces.db has no traces of replay:stored, but of nobody: dis" in refusal(cfg, empty)
    workdir = store_traces(tmp_path / "run", [trace_of("A?", teacher="gemini:x")])
    assert "no traces of replay:stored, but of gemini:x: distill" in refusal(cfg, workdir)
    nobody = replace(cfg, distill=replace(cfg.distill, via="", model=""))
    assert refusal(nobody, workdir).startswith("distill.via is empty: whose traces?")
    no_tokenizer = replace(cfg, curate=replace(cfg.curate, tokenizer=None))
    assert refusal(no_tokenizer, workdir).startswith("curate.tokenizer is empty: set it to")
    nowhere = replace(cfg, curate=replace(cfg.curate, tokenizer=str(tmp_path / "none")))
    assert refusal(nowhere, workdir) == (
        f"curate.tokenizer={tmp_path / 'none'}: there is no such directory"
    )
    models = replace(no_tokenizer, model=replace(cfg.model, path=str(tmp_path / "none")))
    assert refusal(models, workdir).startswith(f"model.path={tmp_path / 'none'}: there is no")
    assert "pool.sources is empty" in refusal(
        replace(cfg, pool=replace(cfg.pool, sources=())), workdir
    )
    texts = replace(cfg, model=replace(cfg.model, chat="text"))  # before the store is looked at
    assert refusal(texts, tmp_path / "new").startswith('model.chat="text" is for training alone')


def test_whom_nobody_names_is_said_before_anybody_is_asked(tmp_path, tokenizer):
    pool = write_lines(tmp_path / "pool.jsonl", [{"question": "A?"}])
    workdir = store_traces(tmp_path / "run", [trace_of("A?")])
    values = fields_of([pool], tokenizer, curate__difficulty="attempts", curate__domains="model")
    text = refusal(make_config(values), workdir)
    assert text.count("\n") == 1
    assert "set curate.first.via" in text and "set curate.classifier.via" in text


def test_a_store_that_is_in_use(tmp_path, tokenizer):
    pool = write_lines(tmp_path / "pool.jsonl", [{"question": "A?", "domain": "Sums"}])
    workdir = store_traces(tmp_path / "run", [trace_of("A?")])
    cfg = make_config(fields_of([pool], tokenizer))
    with TraceStore(workdir / "traces.db"):
        assert "traces.db is being written by another process" in refusal(cfg, workdir)
    assert curate(cfg, workdir) == 0


def test_the_little_worlds_tokenizer_needs_no_path(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    thinking = "pass 3 14 20 17\n\npass 3 14 17 20"
    counts = [
        len(ChatTokenizer.load(path).encode([thinking])[0].ids) for path in (tokenizer, mini.BASE)
    ]
    assert counts[0] != counts[1]
    rows, traces = [{"question": "A?", "domain": "Sums"}], [trace_of("A?", thinking)]
    for name, fields in {
        "own": {"curate.tokenizer": "mini"},
        "model": {"curate.tokenizer": None, "model.path": "mini"},
    }.items():
        (tmp_path / name).mkdir()
        [row], _, _ = one(tmp_path / name, tokenizer, rows, traces, **fields)
        assert row["thinking_tokens"] == counts[1]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("stage", "reason", "asked", "trace", "fields"),
    [
        ("traces", "not asked", "Another?", {}, {}),
        ("quality", "truncated", "A?", {"finish": "length"}, {}),
        ("difficulty", "no difficulty", "A?", {}, {"curate.difficulty": "known"}),
        ("domains", "no domain", "A?", {}, {}),
    ],
)
def test_nothing_is_left(tmp_path, tokenizer, stage, reason, asked, trace, fields):
    """An empty set has its files all the same, with the reasons; and it is an error."""
    pool = write_lines(tmp_path / "pool.jsonl", [{"question": "A?"}])
    workdir = store_traces(tmp_path / "run", [trace_of(asked, **trace)])
    message = refusal(make_config(fields_of([pool], tokenizer) | fields), workdir)
    assert message == (
        f"no question is left after {stage}: see {workdir / 'decisions.jsonl'} for why"
    )
    assert {path.name for path in workdir.iterdir()} >= FILES | PICTURES
    assert read_lines(workdir / "curated.jsonl") == []
    assert f"dropped by {stage}: {reason}: " in explain(workdir, question_id("A?"))
    assert manifest_of(workdir)["picks"] == {}


def test_an_empty_curation_exits_with_2(tmp_path, tokenizer):
    codes = {}
    for domain in (None, "Sums"):
        rows = [{"question": "A?", "domain": domain}]
        pool = write_lines(tmp_path / f"{domain}.jsonl", rows)
        workdir = store_traces(tmp_path / f"run {domain}", [trace_of("A?")])
        config = write_config(tmp_path / "x.py", fields_of([pool], tokenizer))
        codes[domain] = subprocess.run(
            [sys.executable, "-m", "s1jax.curate", f"--config={config}", f"--workdir={workdir}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert (codes[None].returncode, codes["Sums"].returncode) == (2, 0)
    said = codes[None].stderr
    assert "error: no question is left after domains: see " in said and "Traceback" not in said
    assert "curated:" in codes["Sums"].stdout and "curated:" not in codes[None].stdout


def test_of_a_pool_of_which_nothing_is_left_the_reasons_are_told(tmp_path, tokenizer):
    held = write_lines(tmp_path / "held.jsonl", [{"question": ask("exam")}])
    rows = [*[{"question": 3}] * 4, "{", {"question": " "}, {"question": ask("exam")}]
    pool = write_lines(tmp_path / "pool.jsonl", rows)
    workdir = store_traces(tmp_path / "run", [trace_of(ask("exam"))])
    fields = fields_of([pool], tokenizer, pool__evaluation_sets=(str(held),))
    first, *lines = refusal(make_config(fields), workdir).splitlines()
    head, _, counts = first.rpartition(": ")
    assert head == "pool.sources: no question is left"
    assert counts.startswith("4 wrong type, ") and set(counts.split(", ")) == {
        *("4 wrong type", "1 not JSON", "1 empty question", "1 8 words of held"),
    }
    assert lines == [f"  {pool}: line {n}: question must be a string, not int" for n in (1, 2, 3)]
    # The control: with one that is left it is a pool.
    write_lines(pool, [*rows, {"question": "A?", "domain": "Sums"}])
    fields["distill.model"] = "stored"
    workdir = store_traces(tmp_path / "again", [trace_of("A?")])
    assert curate(make_config(fields), workdir) == 0


@pytest.mark.parametrize("name", ["curate", "distill"])
def test_help_loads_nothing_heavy(name):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['{name}', '--help']\n"
        f"try: runpy.run_module('s1jax.{name}', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print(*{m.split('.')[0] for m in sys.modules}, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(result.stderr.split())
    heavy = "jax jaxlib torch transformers tokenizers datasets pyarrow matplotlib sympy google"
    assert "s1jax" in loaded and not loaded & set(f"{heavy} pandas aiohttp scipy".split())
    assert f"python -m s1jax.{name} --config=configs/mini.py" in result.stdout


def test_s1_row_is_what_is_written(tmp_path, tokenizer):
    """But for what curation adds."""
    rows, _, _ = small(tmp_path, tokenizer)
    question = Question("What is 3 + 4?", "7", "math", "pool", '{"level": 2}', "7", "Sums")
    written = s1_row(question, trace_of(question.question, THINKING))
    assert {k: v for k, v in rows[0].items() if written.get(k) != v}.keys() == {
        "thinking_tokens",  # the teacher did not count them
        "text",
        "domain",
        "correct",
        "picked",
    }
