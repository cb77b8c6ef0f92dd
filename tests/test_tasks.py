"""Rows of every kind become the questions of a benchmark; what does not fit is named.

The hub is a dict of real `datasets.Dataset`s behind `load_dataset`: there is no network.
"""

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pool import hub, jsonl, offline, parquet  # noqa: F401  (offline is a fixture)

from s1jax.evaluation.tasks import LETTERS, Item, digest, items_of, permutation, read_task
from s1jax.evaluation_config import TASKS, Task
from s1jax.types import UserError


def placed(rows):
    return [(f"rows: row {number}", row) for number, row in enumerate(rows)]


def refusal(task, rows):
    with pytest.raises(UserError) as error:
        items_of(task, placed(rows))
    return str(error.value)


# --- Real questions ---


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_aime24_needs_nothing_but_the_file(shared):
    path = shared / "data" / "aime24.jsonl"
    items = read_task(TASKS["aime24"], path=str(path))
    rows = lines(path)
    assert len(items) == 30
    assert [item.prompt for item in items] == [row["problem"] for row in rows]
    assert [item.id for item in items] == [str(row["id"]) for row in rows]
    assert [item.gold for item in items] == [str(int(row["answer"])) for row in rows]
    assert [item.gold for item in items] != [row["answer"] for row in rows]  # there is an "025"
    assert {(item.task, item.group, item.choices) for item in items} == {("aime24", "", ())}


def test_math500_by_subject(shared):
    path = shared / "data" / "math500.jsonl"
    items, rows = read_task(TASKS["math500"], path=str(path)), lines(path)
    assert len(items) == 500
    assert Counter(item.group for item in items) == Counter(row["subject"] for row in rows)
    assert len({item.group for item in items}) == 7
    assert [item.gold for item in items] == [row["answer"] for row in rows]
    assert [item.id for item in items] == [row["unique_id"] for row in rows]


def test_gsm8k_golds_follow_the_hashes(shared):
    path = shared / "data" / "gsm8k_test.jsonl"
    items, rows = read_task(TASKS["gsm8k"], path=str(path)), lines(path)
    assert len(items) == 1319
    assert [item.gold for item in items] == [row["answer"].split("\n#### ")[1] for row in rows]
    assert [item.id for item in items[:3]] == ["0", "1", "2"]
    first = read_task(TASKS["gsm8k"], path=str(path), most=20)
    assert first == items[:20]
    assert digest(first) != digest(items)


def test_another_number_of_questions_is_refused(shared, tmp_path):
    path = tmp_path / "aime24.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in lines(shared / "data/aime24.jsonl")))
    assert len(read_task(TASKS["aime24"], path=str(path), most=5)) == 5
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:29]))
    with pytest.raises(UserError) as error:
        read_task(TASKS["aime24"], path=str(path), most=5)
    assert str(error.value) == (
        f"task aime24 has 30 questions, 29 were found (the last: {path}: line 29)"
    )


# --- GPQA ---

GPQA = TASKS["gpqa_diamond"]


def gpqa_rows(count=198):
    return [
        {
            "Question": f"Which of {{these}} is number {n}?\nOnly {{choices}} count.",
            "Correct Answer": f"right {n}",
            **{f"Incorrect Answer {k}": f"wrong {n}.{k}\n" for k in (1, 2, 3)},
            "Record ID": f"rec{n}",
            "High-level domain": ("Physics", "Chemistry", "Biology")[n % 3],
            "Subdomain": "none",
        }
        for n in range(count)
    ]


def shuffled(seed):
    """What s1's process_docs makes of the rows if nothing was drawn before."""
    rng, orders = random.Random(seed), []
    for row in gpqa_rows():
        texts = [row[f"Incorrect Answer {k}"] for k in (1, 2, 3)] + [row["Correct Answer"]]
        rng.shuffle(texts)
        orders.append(tuple(texts))
    return orders


def test_gpqa_is_in_the_order_of_s1():
    items = items_of(GPQA, placed(gpqa_rows()))
    assert len(GPQA.orders) == len(items) == 198
    assert [item.choices for item in items] == shuffled(0)
    assert [item.choices for item in items] != shuffled(1)
    for number, item in enumerate(items):
        assert item.choices["ABCD".index(item.gold)] == f"right {number}"
    assert (items[4].id, items[4].group) == ("rec4", "Chemistry")
    assert items[0].prompt == (
        "Which of {these} is number 0?\nOnly {choices} count.\n\n"
        "A) wrong 0.3\n\nB) wrong 0.1\n\nC) wrong 0.2\n\nD) right 0"
    )
    assert items[0].question == "Which of {these} is number 0?\nOnly {choices} count."
    assert digest(items)[:16] == "641f9cc7ea6d772a"


def test_gpqa_prompt_as_s1_formats_it():
    template = "{Question}\n\nA) {choice1}\nB) {choice2}\nC) {choice3}\nD) {choice4}"
    for row, item, texts in zip(
        gpqa_rows(), items_of(GPQA, placed(gpqa_rows())), shuffled(0), strict=True
    ):
        named = {f"choice{n}": text for n, text in enumerate(texts, 1)}
        assert item.prompt == template.format(Question=row["Question"], **named)


def test_orders_of_another_number_are_refused():
    assert "has 198 questions, 197 were found (the last: rows: row 196)" in refusal(
        GPQA, gpqa_rows(197)
    )
    assert "has orders of choices for 198 questions, 197" in refusal(
        replace(GPQA, questions=None), gpqa_rows(197)
    )
    wrong = refusal(replace(GPQA, orders="az", questions=2), gpqa_rows(2))
    assert wrong == 'rows: row 1: orders has "z" for it, which is no order of 4 choices'


@pytest.mark.parametrize("count", range(1, 6))
def test_permutations_are_those_of_itertools(count):
    ours = [tuple(permutation(count, rank)) for rank in range(math.factorial(count))]
    assert ours == list(itertools.permutations(range(count)))
    assert count == 1 or ours[::-1] != list(itertools.permutations(range(count)))


def test_orders_that_are_drawn_stay():
    task = replace(GPQA, orders="")
    items = items_of(task, placed(gpqa_rows()))
    golds = "".join(item.gold for item in items)
    assert golds[:24] == "CADBCACACCCCCAAAACCDDBBC"
    for row, item in zip(gpqa_rows(), items, strict=True):
        drawn = hashlib.sha256(f"gpqa_diamond\0{row['Question']}".encode()).hexdigest()
        orders = list(itertools.permutations(row[column] for column in GPQA.choices))
        assert item.choices == orders[int(drawn, 16) % 24]
        assert item.choices["ABCD".index(item.gold)] == row["Correct Answer"]
    # By question and task, whatever the row's number and the others are.
    backwards = items_of(task, placed(gpqa_rows()[::-1]))
    assert backwards[::-1] == items
    other = items_of(replace(task, name="other"), placed(gpqa_rows()))
    assert [item.gold for item in other] != list(golds)
    assert all(30 <= count <= 70 for count in Counter(golds).values())  # 49.5 +- 6.1


# --- Choices of other kinds ---

MCQ = Task("mcq", "x.jsonl", choices=("options",), grader="choice", prompt="{question}\n{choices}")


@pytest.mark.parametrize(
    ("answers", "golds"),
    [
        (["C", "a", "(B)"], "CAB"),
        ([2, 0, 1], "CAB"),
        ([2.0, 0.0, 1.0], "CAB"),
        (["2", "0", "1"], "CAB"),
        (["5 m", "7", "no, never "], "CAB"),
    ],
)
def test_the_right_one_of_a_list(answers, golds):
    options = [["3 m", "4 m", "5 m"], ["7", "8", "9"], ["yes", "no, never"]]
    rows = [
        {"question": "?", "answer": answer, "options": texts}
        for answer, texts in zip(answers, options, strict=True)
    ]
    items = items_of(MCQ, placed(rows))
    assert [item.gold for item in items] == list(golds)
    assert [item.choices for item in items] == [tuple(texts) for texts in options]
    assert items[2].prompt == "?\nA) yes\nB) no, never"


def test_a_number_is_read_as_all_rows_have_it():
    def rows(*answers):
        texts = [["2", "1", "0"], ["one", "two", "three"]]
        return [
            {"question": "?", "answer": answer, "options": some}
            for answer, some in zip(answers, texts, strict=False)
        ]

    assert [item.gold for item in items_of(MCQ, placed(rows("2", "1")))] == ["C", "B"]
    assert [item.gold for item in items_of(MCQ, placed(rows("2", "two")))] == ["A", "B"]
    assert refusal(MCQ, rows("2")) == (
        "rows: row 0: answer='2' is the text of one choice and may be the letter or the number of"
        " another: give letters"
    )
    assert [item.gold for item in items_of(MCQ, placed(rows("1")))] == ["B"]  # either way


def test_columns_of_choices_with_a_letter():
    task = replace(MCQ, choices=("A", "B", "C"))
    row = {"question": "?", "A": "x", "B": 2, "C": "z", "answer": "B"}
    [item] = items_of(task, placed([row]))
    assert item.choices[LETTERS.index(item.gold)] == "2"
    assert sorted(item.choices) == ["2", "x", "z"]


def test_of_equal_choices_the_first_is_right_as_in_s1():
    row = {"question": "?", "options": ["x", "y", "y"], "answer": "C"}
    assert items_of(MCQ, placed([row]))[0].gold == "B"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"answer": "D"},
            "row 1: answer='D' is none of the 3 choices: it must be a letter to C, a",
        ),
        ({"answer": 3}, "answer='3' is none of the 3 choices"),
        ({"answer": -1}, "a number from 0 to 2, or a choice's text"),
        ({"options": "x"}, "row 1: options must be a list of choices, not str"),
        ({"options": ["x"]}, "row 1: has 1 choices, not from 2 to 10"),
        ({"options": list("abcdefghijk")}, "row 1: has 11 choices"),
        ({"options": ["x", ""]}, r"row 1: options\[1\] is empty"),
        ({"options": ["x", None]}, r"options\[1\] must be a text or a number, not null"),
    ],
)
def test_choices_that_are_none(change, words):
    row = {"question": "?", "options": ["x", "y", "z"], "answer": "B"}
    assert len(items_of(MCQ, placed([row, row]))) == 2
    with pytest.raises(UserError, match=words):
        items_of(MCQ, placed([row, row | change]))


# --- Rows that do not fit ---

PLAIN = Task("own", "own.jsonl", id="id", group="level")
ROW = {"question": "1+1?", "answer": "2", "id": "x", "level": 3}


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ({}, {"question": None}, "rows: row 1: question must be a text or a number, not null"),
        ({}, {"question": 5}, "row 1: question must be a text, not int"),
        ({}, {"question": " \n"}, "row 1: question is empty"),
        ({}, {"question": "\ud800"}, "row 1: question holds half of a surrogate pair"),
        ({}, {"answer": ""}, "row 1: answer is empty"),
        ({}, {"answer": True}, "row 1: answer must be a text or a number, not bool"),
        ({}, {"answer": float("nan")}, "row 1: answer must be a text or a number, not nan"),
        ({}, {"answer": ["2"]}, "row 1: answer must be a text or a number, not list"),
        ({}, {"id": "x"}, "row 1: id 'x' is also that of rows: row 0"),
        ({}, {"id": None}, "row 1: id must be a text or a number, not null"),
        ({"question": "queston"}, {}, 'row 0: has no column queston: did you mean "question"'),
        ({"answer": "gold"}, {}, "row 0: has no column gold: the choices are question, answer"),
        ({"group": "levels"}, {}, 'row 0: has no column levels: did you mean "level"'),
        ({"questions": 3}, {}, r"task own has 3 questions, 2 were found \(the last: rows: row 1"),
        ({"grader": "integer"}, {"answer": "two"}, "row 1: answer='two' is no whole number"),
        ({}, {"answer": "long\n#### "}, 'row 1: answer gives no answer: .* "#### 42"'),
    ],
)
def test_what_does_not_fit_is_named(task, change, words):
    rows = [ROW, ROW | {"id": "y"}]
    assert [item.id for item in items_of(PLAIN, placed(rows))] == ["x", "y"]
    with pytest.raises(UserError, match=words):
        items_of(replace(PLAIN, **task), placed([ROW, ROW | {"id": "y"} | change]))


def test_no_rows_are_no_task():
    assert refusal(PLAIN, []) == "task own: there are no questions"


@pytest.mark.parametrize(
    ("grader", "answer", "gold"),
    [
        ("integer", "025", "25"),
        ("integer", 25, "25"),
        ("integer", 25.0, "25"),
        ("integer", "$-025$", "-25"),
        ("integer", "336^\\circ", "336^\\circ"),
        ("integer", "So \\boxed{007}.", "7"),
        ("math", "025", "025"),
        ("math", 0.5, "0.5"),
        ("math", " \\frac{1}{2} ", "\\frac{1}{2}"),
        ("math", "x = <<1+1=2>>2\n#### 1,000", "1,000"),
        ("exact", "12, 34\n#### 5", "12, 34\n#### 5"),
    ],
)
def test_golds(grader, answer, gold):
    [item] = items_of(replace(PLAIN, grader=grader), placed([ROW | {"answer": answer}]))
    assert item == Item("own", "x", "1+1?", "1+1?", gold, "3")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
    st.sampled_from(["{question}", "Q: {question}\n{question}{x}", "{{question}}"]),
)
def test_any_question_is_asked_word_for_word(question, form):
    [item] = items_of(replace(PLAIN, prompt=form), placed([ROW | {"question": question}]))
    assert item.prompt == question.join(form.split("{question}"))
    assert item.question == question


def test_digest_is_of_what_is_asked():
    item = Item("t", "1", "1+1?", "1+1?", "2")
    assert digest([item]) == digest([replace(item, question="?", group="g", task="u")])
    others = [replace(item, **{name: "x"}) for name in ("id", "prompt", "gold")]
    every = [digest([other]) for other in [item, *others]] + [digest([]), digest([item, item])]
    assert len(set(every)) == 6
    assert digest([others[0], item]) != digest([item, others[0]])


# --- Where they are read from ---


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_columns_of_a_file_in_the_place_of_the_own(tmp_path, write):
    rows = [{"prompt": f"{n}+1?", "solution": f"It is \\boxed{{{n + 1}}}."} for n in range(30)]
    suffix = write.__name__
    path = write(tmp_path / f"mine.{suffix}", rows)
    items = read_task(TASKS["aime24"], path=path, most=2)
    assert [(item.id, item.prompt, item.gold) for item in items] == [
        ("0", "0+1?", "1"),
        ("1", "1+1?", "2"),
    ]
    plain = [
        row | {"solution": f"It goes on and on, for long.\nThe answer is {n}."}
        for n, row in enumerate(rows)
    ]
    items = read_task(TASKS["aime24"], path=write(tmp_path / f"plain.{suffix}", plain))
    assert [item.gold for item in items] == [str(n) for n in range(30)]
    # Of a task's own file the columns are those that it names.
    with pytest.raises(UserError, match="has no column problem"):
        read_task(replace(TASKS["aime24"], path=path))


def test_its_own_columns_come_first(tmp_path):
    row = {"problem": "p", "question": "q", "answer": "1", "solution": "2", "unique_id": "u"}
    task = replace(TASKS["math500"], questions=1)
    [item] = read_task(task, path=jsonl(tmp_path / "x.jsonl", [row]))
    assert (item.prompt, item.gold, item.id, item.group) == ("p", "1", "u", "")


def test_a_name_is_no_file():
    with pytest.raises(
        UserError, match=r'task mini: "mini" is no .jsonl, no .parquet and no hub id'
    ):
        read_task(TASKS["mini"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.jsonl", None, "none.jsonl: there is no such file"),
        ("x.csv", "a,b", "x.csv: must be a .jsonl or a .parquet"),
        ("x.jsonl", "", "task own: there are no questions"),
        ("x.jsonl", "{", "x.jsonl: line 1: is not JSON"),
        ("x.jsonl", "[1]", "x.jsonl: line 1: must be an object with a question, not list"),
        ("x.parquet", "no", "x.parquet: cannot be read after row 0"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        read_task(PLAIN, path=str(tmp_path / name))


def test_a_task_from_the_hub(monkeypatch):
    rows = [{"problem": f"{n}+1?", "answer": f"{n + 1:03}", "id": n} for n in range(30)]
    fake = hub(monkeypatch, {"simplescaling/aime24_nofigures": {"train": rows}})
    items = read_task(TASKS["aime24"], revision="abc")
    assert fake.asked == [("simplescaling/aime24_nofigures", None, "abc", "train")]
    assert [item.gold for item in items] == [str(n + 1) for n in range(30)]
    read_task(replace(TASKS["aime24"], revision="def"))
    assert fake.asked[1][2] == "def"
    fake.sets["simplescaling/aime24_nofigures"]["train"] = [*rows[:29], rows[29] | {"id": 5}]
    with pytest.raises(UserError) as error:
        read_task(TASKS["aime24"])
    of = "simplescaling/aime24_nofigures train: row"
    assert str(error.value) == f"{of} 29 (from 0): id '5' is also that of {of} 5 (from 0)"


def test_without_a_network_it_says_how_to_give_a_file(monkeypatch, offline):  # noqa: F811
    hub(monkeypatch, {})
    with pytest.raises(UserError) as error:
        read_task(GPQA)
    assert str(error.value) == (
        "task gpqa_diamond: Idavidrein/gpqa gpqa_diamond cannot be loaded from the hub: Couldn't"
        " reach 'Idavidrein/gpqa gpqa_diamond' on the Hub; a file does as well:"
        ' evaluate.paths="gpqa_diamond=FILE.jsonl"'
    )
    assert all(offline())
