"""Rows with the columns of s1's 16 data sets become s1's questions, and s1's filters drop rows."""

import json
import random

import pytest

from s1jax.curation_config import Pool
from s1jax.data.source_rows import MAX_COLUMN_CHARS, Part, Reading, metadata_json
from s1jax.data.sources import SOURCES, pick_evenly, table
from s1jax.types import Question


def mapped(name, row, part=0, listed=(), seed=0, **cfg):
    source = SOURCES[name]
    reading = Reading(source.parts[part], Pool(**cfg), seed, frozenset(listed))
    before = json.dumps(row, default=str)
    question = source.to_question(row, reading)
    assert json.dumps(row, default=str) == before, "a mapper changed its row"
    return question


ROWS = {
    "MATH": {
        "problem": "1+1?",
        "solution": r"It is \boxed{2}.",
        "answer": "2",
        "subject": "Algebra",
        "level": 5,
        "unique_id": "train/algebra/1.json",
    },
    "OlympicArena": {
        "id": "Math_1",
        "problem": "Which?",
        "prompt": "Answer: Which?",
        "figure_urls": None,
        "answer": ["3", "4"],
        "solution": None,
        "subject": "Physics",
        "language": "EN",
        "modality": "text-only",
    },
    "TheoremQA": {"Question": "How?", "Answer": "0.5", "Answer_type": "float", "Picture": None},
    "NuminaMath": {
        "source": "aops_forum",
        "problem": "Prove it.",
        "solution": "Proven.",
        "messages": [{"role": "user", "content": "Prove it."}],
    },
    "Omni-MATH": {
        "domain": ["Mathematics -> Algebra -> Other"],
        "difficulty": 8,
        "problem": "Hard?",
        "solution": "Yes.",
        "answer": "yes",
        "source": "imo_longlist",
    },
    "SciEval": {
        "id": "1",
        "question": "What?\n\nA. a\nB. b\n\nAnswer:",
        "answer": ["B"],
        "category": "Physics",
        "type": "multiple-choice",
        "task_name": "SocraticQA",
        "topic": "Optics",
        "ability": "Base Knowledge",
    },
    "OlympiadBench": {
        "id": 1,
        "question": "Find x.",
        "solution": ["x = 1", "another"],
        "final_answer": ["1"],
        "context": "Let y = 2.",
        "image_1": None,
        "subfield": "Algebra",
        "question_type": "Open-ended",
        "subject": "Math",
    },
    "JEEBench": {
        "subject": "chem",
        "description": "JEE Adv 2016",
        "gold": "AC",
        "index": 1,
        "type": "MCQ(multiple)",
        "question": "Which? [A] [B]",
    },
    "AGIEval": {
        "passage": "A text. ",
        "question": "What does it say?",
        "options": ["(A)this", "(B)that"],
        "label": "B",
        "answer": None,
        "solution": None,
        "level": None,
    },
    "s1-prob": {"question": "P?", "solution": "1/2", "id": 3},
    "GPQA": {
        "Question": "Why?",
        "Correct Answer": "right\n",
        "Incorrect Answer 1": "wrong 1",
        "Incorrect Answer 2": "\nwrong 2",
        "Incorrect Answer 3": "wrong 3",
        "Explanation": "Because.",
        "High-level domain": "Physics",
        "Subdomain": "Optics",
        "Record ID": "rec1",
    },
    "XWord": {
        "instruction": "…",
        "input": "### Clue: Odd bird (3)",
        "output": "### Answer: EMU \n ### Explanation: a bird",
    },
    "USACO": {"question": " Cows. ", "cp_id": "1", "runtime_limit": 2},
    "s1-teasers": {"Question": " Bet? ", "Answer": "Yes", "Difficulty": "hard"},
    "LiveCodeBench": {
        "question_title": "T",
        "question_content": " Write it. ",
        "difficulty": "hard",
        "private_test_cases": "eJxrYJ",
        "public_test_cases": "[]",
        "contest_date": "2023-05-07",
    },
    "AIME": {
        "ID": "2000-I-1",
        "Year": 2000,
        "Problem Number": 1,
        "Question": "Find n.",
        "Answer": 8,
    },
}

# question, solution, answer, cot_type, source_type
WANTED = {
    "MATH": ("1+1?", r"It is \boxed{2}.", "2", "math", "simplescaling/openaimath/Algebra"),
    "OlympicArena": ("Which?", "3, 4", "3, 4", "science", "GAIR/OlympicArena/Physics"),
    "TheoremQA": ("How?", "0.5", "0.5", "math", "TIGER-Lab/TheoremQA/float"),
    "NuminaMath": ("Prove it.", "Proven.", None, "math", "AI-MO/NuminaMath-CoT/aops_forum"),
    "Omni-MATH": ("Hard?", "Yes.", "yes", "math", "KbsdJames/Omni-MATH"),
    "SciEval": (
        "What?\n\nA. a\nB. b",
        "B",
        "B",
        "science",
        "OpenDFM/SciEval/Physics/multiple-choice/SocraticQA",
    ),
    "OlympiadBench": (
        "Let y = 2.\n\nFind x.",
        "x = 1",
        "1",
        "math",
        "Hothan/OlympiadBench/Open-ended/Math",
    ),
    "JEEBench": ("Which? [A] [B]", "AC", "AC", "science", "daman1209arora/jeebench/chem"),
    "AGIEval": (
        "A text.\n\nWhat does it say?\n(A)this\n(B)that",
        "B",
        "B",
        "english",
        "baber/agieval/sat_en",
    ),
    "s1-prob": ("P?", "1/2", None, "math", "simplescaling/s1-prob"),
    "USACO": ("Cows.", None, None, "coding", "codegenning/usacobench_formatted"),
    "s1-teasers": ("Bet?", "Yes", "Yes", "math", "simplescaling/s1-teasers"),
    "LiveCodeBench": ("Write it.", None, None, "coding", "LiveCodeBench/release_v1"),
    "AIME": ("Find n.", "8", "8", "math", "qq8933/AIME_1983_2024"),
}


def fields(question):
    q = question
    return q.question, q.solution, q.answer, q.cot_type, q.source_type


@pytest.mark.parametrize("name", WANTED)
def test_a_row_of_each_source(name):
    assert fields(mapped(name, ROWS[name])) == WANTED[name]


@pytest.mark.parametrize("name", ROWS)
def test_metadata_is_json_of_the_other_columns(name):
    row = ROWS[name]
    question = mapped(name, row)
    kept = json.loads(question.metadata)
    assert kept.items() <= row.items()
    assert question.question not in kept.values()
    assert question.metadata == json.dumps(kept, sort_keys=True, ensure_ascii=False)
    assert question.metadata != str(kept), "Python's repr, as in s1"
    assert not {"Question", "question", "problem", "input", "question_content"} & set(kept)


def test_of_a_huge_column_the_name_is_kept():
    row = {"b": "x" * (MAX_COLUMN_CHARS + 1), "a": 1}
    assert json.loads(metadata_json(row)) == {"a": 1, "left_out": ["b"]}
    assert json.loads(metadata_json({"b": "x" * 100, "a": 1})) == {"a": 1, "b": "x" * 100}
    assert metadata_json({"date": Part("h")}) == json.dumps({"date": str(Part("h"))})
    code = json.loads(mapped("LiveCodeBench", ROWS["LiveCodeBench"]).metadata)
    assert not any("test_cases" in column for column in code), "no pickles, however small"


DROPPED = {
    "Chinese": ("OlympicArena", {"language": "ZH"}),
    "pictures": ("OlympicArena", {"modality": "multi-modal"}),
    "a picture": ("TheoremQA", {"Picture": {"bytes": b""}}),
    "not of the forum": ("NuminaMath", {"source": "cn_k12"}),
    "no answer": ("SciEval", {"answer": None}),
    "easy": ("LiveCodeBench", {"difficulty": "easy"}),
    "a later year": ("AIME", {"ID": "2022-I-1"}),
}


@pytest.mark.parametrize("case", DROPPED)
def test_what_s1_leaves_out(case):
    name, change = DROPPED[case]
    assert mapped(name, ROWS[name]) is not None
    assert mapped(name, {**ROWS[name], **change}) is None


def test_numina_math_takes_what_is_listed():
    row = {**ROWS["NuminaMath"], "source": "olympiads"}
    assert mapped("NuminaMath", row, listed=["Prove another."]) is None
    question = mapped("NuminaMath", row, listed=["Prove it."])
    assert question.source_type == "AI-MO/NuminaMath-CoT/olympiads"


def test_aime_until_2021_or_as_s1s_code_2022():
    years = [{**ROWS["AIME"], "ID": f"{year}-II-3"} for year in (1983, 2021, 2022, 2023)]
    assert [mapped("AIME", row) is not None for row in years] == [True, True, False, False]
    later = [mapped("AIME", row, aime_until=2022) is not None for row in years]
    assert later == [True, True, True, False]


@pytest.mark.parametrize("of", ["solvent", "ligand", "reactant"])
def test_scieval_asks_in_a_sentence(of):
    row = ROWS["SciEval"] | {"question": f"Given.\nOptimal {of}:", "task_name": "reagent selection"}
    assert mapped("SciEval", row).question == f"Given.\nWhat is the optimal {of}?"
    assert mapped("SciEval", row | {"task_name": "MedQA"}).cot_type == "health science"
    assert mapped("SciEval", row | {"question": "Optimal pH:"}).question == "Optimal pH:"


def test_agieval_with_s1s_bugs_and_without():
    row = ROWS["AGIEval"]
    joined = mapped("AGIEval", row, parity=True)
    assert joined.question == "A text.What does it say?\n(A)this\n(B)that"
    assert joined.solution is None, "in s1 a question without a solution stays without"
    no_passage = mapped("AGIEval", row | {"passage": ""})
    assert no_passage.question == "What does it say?\n(A)this\n(B)that"
    configs = [part.config for part in SOURCES["AGIEval"].parts]
    aqua, math = configs.index("aqua_rat"), configs.index("math_agieval")
    bare = row | {"passage": None, "solution": "Answer is B"}
    assert mapped("AGIEval", bare, aqua).question == "What does it say?\n(A)this\n(B)that"
    assert mapped("AGIEval", bare, aqua, parity=True).question == "What does it say?"
    hard = bare | {"options": None}
    levels = [mapped("AGIEval", hard | {"level": n}, math) is not None for n in (4, 5, 5.0, "5")]
    assert levels == [False, True, True, True]
    splits = [part.split for part in SOURCES["AGIEval"].parts]
    assert splits == ["test"] * 8 + ["few_shot"] * 8


def test_olympiadbench_with_its_context_or_as_in_s1():
    row = ROWS["OlympiadBench"]
    assert mapped("OlympiadBench", row, parity=True).question == "Find x."
    assert mapped("OlympiadBench", row | {"context": None}).question == "Find x."
    assert {part.config for part in SOURCES["OlympiadBench"].parts} == {
        "OE_TO_maths_en_COMP",
        "OE_TO_physics_en_COMP",
        "TP_TO_maths_en_COMP",
        "TP_TO_physics_en_COMP",
    }


# --- GPQA ---


def test_gpqa_has_its_choices_and_the_letter():
    question = mapped("GPQA", ROWS["GPQA"])
    assert question.solution == f"Because.\n\nAnswer: {question.answer}"
    head, *choices = question.question.split("\n")[1:]
    assert question.question.startswith("Why?\nAnswer Choices:\n(A) ")
    assert head == "Answer Choices:"
    assert [choice[:4] for choice in choices] == ["(A) ", "(B) ", "(C) ", "(D) "]
    texts = [choice[4:] for choice in choices]
    assert sorted(texts) == ["right", "wrong 1", "wrong 2", "wrong 3"]
    assert texts["ABCD".index(question.answer)] == "right"
    assert (question.cot_type, question.source_type) == ("science", "Idavidrein/gpqa")
    unexplained = mapped("GPQA", ROWS["GPQA"] | {"Explanation": None})
    assert unexplained.solution == f"Answer: {question.answer}"


def test_the_diamond_questions_are_not_in():
    assert mapped("GPQA", ROWS["GPQA"], listed=["Why?"]) is None
    assert mapped("GPQA", ROWS["GPQA"], listed=["Why? "]) is not None, "s1 compares exactly"


def test_the_choices_depend_on_the_question_and_the_seed_alone():
    rows = [ROWS["GPQA"] | {"Question": f"Why {n}?"} for n in range(400)]
    letters = [mapped("GPQA", row).answer for row in rows]
    assert [mapped("GPQA", row).answer for row in reversed(rows)] == letters[::-1]
    assert [mapped("GPQA", row, seed=1).answer for row in rows] != letters
    counts = [letters.count(letter) for letter in "ABCD"]
    assert min(counts) > 70, f"of 400 about 100 each: {counts}"


# --- Crosswords, and what is picked ---


def test_a_clue_reads_as_in_s1k(shared):
    path = shared / "data" / "s1k_questions_with_solutions.jsonl"
    if not path.is_file():
        pytest.skip("the real questions of s1K are not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    real = [row for row in rows if row["source_type"] == "0xharib/xword1"]
    assert real
    for row in real:
        clue = row["question"].split("\n\n", 1)[1]
        raw = {"instruction": "", "input": "### Clue: " + clue, "output": row["solution"]}
        question = mapped("XWord", raw)
        assert question.id == Question(row["question"]).id
        assert mapped("XWord", raw | {"input": "### Clue:  " + clue}).id != question.id
    assert mapped("XWord", ROWS["XWord"]).answer == "EMU"


def questions(count, text="q"):
    return [Question(f"{text} {n}") for n in range(count)]


def test_a_pick_depends_on_the_seed_and_not_on_the_order():
    pool = questions(1500)
    picked = SOURCES["XWord"].pick(pool, 7)
    assert len(picked) == len(set(picked)) == 1000
    assert picked == [question for question in pool if question in set(picked)]
    shuffled = random.Random(0).sample(pool, len(pool))
    assert set(SOURCES["XWord"].pick(shuffled, 7)) == set(picked)
    assert set(SOURCES["XWord"].pick(pool, 8)) != set(picked)
    assert SOURCES["XWord"].pick(pool[:10] + pool[:10], 7) == pool[:10]


def test_scieval_picks_250_of_its_tasks_and_topics_alike():
    tasks = {"SocraticQA": 600, "reagent selection": 300, "MedQA": 200, "PubMedQA": 20}
    pool = []
    for task, count in tasks.items():
        for n in range(count):
            # Nine of ten are of one topic, the rest of five.
            topic = f"topic {n % 6 if n % 10 == 0 else 0}" if task == "SocraticQA" else None
            meta = json.dumps({"task_name": task, "topic": topic})
            pool.append(Question(f"{task} {n}", metadata=meta))
    picked = SOURCES["SciEval"].pick(pool, 0)
    assert len(set(picked)) == 250
    rows = [json.loads(question.metadata) for question in picked]
    got = [sum(row["task_name"] == task for row in rows) for task in tasks]
    assert got[3] == 20, "what is short is taken whole"
    assert max(got[:3]) - min(got[:3]) <= 1
    topics = [row["topic"] for row in rows if row["task_name"] == "SocraticQA"]
    counts = sorted(topics.count(topic) for topic in set(topics))
    assert max(counts) < got[0] / 2
    # The control: without groups the shares are those of the pool.
    blind = [json.loads(q.metadata)["task_name"] for q in pick_evenly(pool, 250, 0)]
    assert blind.count("SocraticQA") > 110


# --- The table ---


def test_the_sources_in_s1s_order_and_the_papers_counts(shared):
    assert list(SOURCES)[:4] == ["MATH", "OlympicArena", "TheoremQA", "NuminaMath"]
    assert list(SOURCES)[-1] == "AIME"
    assert list(SOURCES) == list(ROWS)
    counts = {name: source.paper_questions for name, source in SOURCES.items()}
    numbers = json.loads((shared / "reference" / "paper_numbers.json").read_text())["pool_59k"]
    called = {"NuminaMath": "NuminaMATH", "Omni-MATH": "OmniMath", "XWord": "xword"}
    assert {called.get(name, name): count for name, count in counts.items()} == numbers
    assert sum(counts.values()) == 59_029


def test_the_table_has_a_row_for_each():
    lines = table().splitlines()
    assert len(lines) == 2 + 16 + 1
    for line, (name, source) in zip(lines[2:], SOURCES.items(), strict=False):
        assert line.startswith(f"| {name} | `{source.parts[0].hub}` |")
        assert source.licence in line
    assert "59,029" in lines[-1]
    assert len({line.count("|") for line in lines}) == 1
