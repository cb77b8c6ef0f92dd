"""Marks are those that the task's grader gives to the answer, never to the thinking."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1jax.chat import CHATS
from s1jax.evaluation import marking
from s1jax.evaluation.grading import Verdict
from s1jax.evaluation.marking import Mark, clusters, key, mark, same
from s1jax.evaluation.tasks import Item

THINK, ANSWER = "<|im_start|>think\nIt is 7, \\boxed{7}.\n", "<|im_start|>answer\n"
ITEM = Item("own", "0", "?", "?", "16")
OPTIONS = ("5 m", "The electron moves to the left in the field", "E. coli", "42")
MCQ = replace(ITEM, gold="B", choices=OPTIONS)


def marked(grader, item, *texts, parity=False, **kwargs):
    asked = [(grader, item, text) for text in texts]
    return mark(asked, parity=parity, processes=1, **kwargs)


class Forbidden:
    """A Grader that nobody may begin."""

    def __init__(self, workers):
        raise AssertionError("the Grader was started")


class Said:
    """A Grader that says what it is told to, and knows what it was asked."""

    def __init__(self, verdicts):
        self.verdicts, self.pairs = verdicts, []

    def __call__(self, workers):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def grade(self, pairs):
        for pair in pairs:
            self.pairs.append(pair)
            yield self.verdicts[pair[1].strip()]


# --- The graders ---


@pytest.mark.parametrize("grader", ["math", "integer"])
def test_numbers(grader):
    texts = {
        "Answer: 16": ("16", True),
        "Final Answer: The answer is $\\boxed{016}$.": ("016", True),
        "\\boxed{2^4}": ("2^4", True),  # which no rule knows
        "\\boxed{2^5}": ("2^5", False),
        "16": ("16", True),
        "\\boxed{7}": ("7", False),
        "I do not know how this could ever be found out": (None, False),
        "\\boxed{__import__('os').system('true')}": ("__import__('os').system('true')", False),
    }
    marks = marked(grader, ITEM, *(THINK + ANSWER + text for text in texts))
    assert {t: (m.answer, m.correct) for t, m in zip(texts, marks, strict=True)} == texts
    assert marks[2].reason == marks[3].reason == "math-verify"
    assert [marks[n].reason for n in (-2, -1)] == ["no answer", "looks like code"]
    assert marked(grader, replace(ITEM, gold="7"), THINK + ANSWER + "\\boxed{7}")[0].correct


LETTERS = [
    ("Answer: B", "B"),
    ("b", "B"),
    ("\\boxed{\\text{(B)}}", "B"),
    ("Answer: C, because it is", "C"),
    ("The answer is **B**, since the electron moves to the left", "B"),
    ("The correct answer is B) The electron moves to the left in the field.", "B"),
    ("B) The electron moves to the left in the field", "B"),
    ("The electron moves to the left in the field.", "B"),
    ("I would choose option B: it is the only one that makes any sense at all here.", "B"),
    (
        "I thought that the answer is A) but no, the answer is D: it fits all that is said.",
        "D",
    ),
    ("Answer: E. coli", "C"),
    ("\\boxed{42}", "D"),
    ("Answer: 5 m", "A"),
    ("Option D", "D"),
]
NO_LETTERS = [
    ("Answer: None of the above", Mark("None of the above", False, "no choice")),
    ("Answer: B and C", Mark("B and C", False, "no choice")),
    ("\\boxed{E}", Mark("E", False, "no choice")),
    ("\\boxed{F = B}", Mark("F = B", False, "no choice")),
    ("A) is wrong, and B) is wrong, so I do not know.", Mark(None, False, "no answer")),
    ("", Mark(None, False, "no answer")),
]


def test_choices(monkeypatch):
    monkeypatch.setattr(marking, "Grader", Forbidden)
    for text, letter in LETTERS:
        for gold in "ABCD":
            [found] = marked("choice", replace(MCQ, gold=gold), THINK + ANSWER + text)
            assert found == Mark(letter, letter == gold, "choice"), text
    for text, expected in NO_LETTERS:
        for gold in "ABCD":
            assert marked("choice", replace(MCQ, gold=gold), ANSWER + text) == [expected], text


def test_two_equal_choices_are_no_answer():
    item = replace(MCQ, choices=("7", "7.0", "8"))
    assert [m.answer for m in marked("choice", item, "\\boxed{8.0}", "\\boxed{7.00}")] == [
        "C",
        "7.00",
    ]
    assert marked("choice", item, "\\boxed{7.0}")[0].correct  # by its text there is one


def test_the_same_text(monkeypatch):
    monkeypatch.setattr(marking, "Grader", Forbidden)
    item = replace(ITEM, gold="12, 34")
    right = ["12, 34", "Answer: 12,  34\n", "Final Answer: 12, 34", "\\boxed{12, 34}."]
    assert {(m.answer, m.correct) for m in marked("exact", item, *right)} == {("12, 34", True)}
    wrong = ["34, 12", "12 34", "(12, 34)", "12, 34, 56"]
    assert {m.reason for m in marked("exact", item, *wrong)} == {"other text"}
    sentence = "It is what it is and nothing else at all."
    assert marked("exact", replace(item, gold=sentence), sentence + "\n") == [
        Mark(sentence, True, "same text")
    ]
    assert marked("exact", item, sentence) == [Mark(None, False, "no answer")]


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_no_answer_is_taken_out_of_the_thinking(chat, monkeypatch):
    monkeypatch.setattr(marking, "Grader", Forbidden)
    item = replace(ITEM, gold="7")
    thinking = f"{chat.thinking.rstrip()}\nSo it is \\boxed{{7}}. Answer: 7"
    closed = thinking + chat.answer
    texts = [thinking, closed, closed + "Final Answer:", closed + "**Final Answer**: "]
    assert marked("exact", item, *texts) == [Mark(None, False, "no answer")] * 4
    assert [m.answer for m in marked("exact", item, closed + "5", thinking[20:])] == ["5", "7"]
    twice = closed + "5" + chat.answer + "7"  # s1's models may answer within their thinking
    assert marked("exact", item, twice)[0].correct
    if chat.name != "steps":
        again = closed + "7\n" + chat.thinking + "Or \\boxed{8}?"
        assert marked("exact", item, again)[0].correct


# --- s1's ---


def test_parity_has_the_quirks_of_s1():
    both = "Answer: 16\nAnswer: 17"
    cases = [
        ("integer", ITEM, THINK + ANSWER + "\\boxed{016}", Mark("16", True, "same number")),
        ("integer", ITEM, THINK + ANSWER + "\\boxed{17}", Mark("17", False, "other number")),
        ("integer", ITEM, THINK + ANSWER + "\\boxed{2^4}", Mark("2^4", True, "math-verify")),
        ("integer", ITEM, ANSWER + both, Mark("16\nAnswer: 17", False, "other number")),
        ("integer", replace(ITEM, gold="7"), THINK, Mark("7", True, "same number")),
        ("integer", ITEM, ANSWER + "Answer:", Mark(None, False, "no answer")),
        ("math", replace(ITEM, gold="x"), ANSWER + "Answer: x", Mark("x", True, "same text")),
        ("exact", replace(ITEM, gold="x"), "Answer: y", Mark("y", False, "other text")),
        ("choice", MCQ, ANSWER + "Answer: b", Mark("B", True, "choice")),
        ("choice", MCQ, ANSWER + "Answer: (B)", Mark("A", False, "counted as A")),
        ("choice", replace(MCQ, gold="A"), "I cannot say", Mark("A", True, "counted as A")),
    ]
    marks = mark([case[:3] for case in cases], parity=True, processes=1)
    assert marks == [case[3] for case in cases]
    without = mark([case[:3] for case in cases], parity=False, processes=1)
    differing = [
        case[2] for case, m in zip(cases, without, strict=True) if m.correct != case[3].correct
    ]
    assert differing == [THINK, ANSWER + "Answer: (B)", "I cannot say"]


# --- Marks that are known, and what the Grader cannot say ---


def test_what_is_known_costs_nothing(monkeypatch):
    texts = ["\\boxed{2^4}", "\\boxed{16}", "\\boxed{2^4}", "no", "\\boxed{2^5}"]
    grader = Said(
        {
            "\\boxed{2^4}": Verdict(True, "math-verify"),
            "\\boxed{16}": Verdict(True, "same number"),
            "\\boxed{2^5}": Verdict(None, "timeout"),
            "no": Verdict(False, "other text"),
        }
    )
    monkeypatch.setattr(marking, "Grader", grader)
    heard = []
    marks = marked("math", ITEM, *texts, tell=heard.append)
    assert [m.correct for m in marks] == [True, True, True, False, False]
    assert marks[4] == Mark("2^5", False, "timeout")
    assert [m.lasts for m in marks] == [True, True, True, True, False]
    assert [attempt for _, attempt in grader.pairs] == [texts[0], texts[1], texts[3], texts[4]]
    assert heard == [2, 3, 4, 5]
    monkeypatch.setattr(marking, "Grader", Forbidden)
    known = {key("math", ITEM, text, False): m for text, m in zip(texts, marks, strict=True)}
    assert marked("math", ITEM, *texts, known=known, tell=heard.append) == marks
    assert heard[4:] == []
    grader.pairs.clear()
    monkeypatch.setattr(marking, "Grader", grader)
    del known[key("math", ITEM, "no", False)]
    assert marked("math", ITEM, *texts, known=known, tell=heard.append) == marks
    assert (heard[4:], grader.pairs) == ([1], [("16", "no")])
    monkeypatch.setattr(marking, "Grader", Forbidden)
    known[key("math", ITEM, "no", False)] = marks[3]
    with pytest.raises(AssertionError, match="was started"):
        marked("math", ITEM, *texts, "8", known=known)
    with pytest.raises(AssertionError, match="was started"):
        marked("math", ITEM, *texts, known=known, parity=True)
    assert marked("math", ITEM) == []


def test_a_mark_is_known_by_all_that_it_depends_on(monkeypatch):
    before = key("math", ITEM, "text", False)
    assert before == key("math", replace(ITEM, id="1", prompt="!", group="g"), "text", False)
    others = {
        key("integer", ITEM, "text", False),
        key("math", replace(ITEM, gold="17"), "text", False),
        key("math", replace(ITEM, choices=("1", "6")), "text", False),
        key("math", ITEM, "text ", False),
        key("math", ITEM, "text", True),
        key("math", ITEM, "\ud800", False),
    }
    monkeypatch.setattr(marking, "GRADING", marking.GRADING + "1")
    assert len(others | {before, key("math", ITEM, "text", False)}) == 8


def test_a_long_reference_said_word_for_word_is_right(monkeypatch):
    gold = "all of the even numbers that are not divisible by four"
    monkeypatch.setattr(marking, "Grader", Said({gold: Verdict(True, "same text")}))
    assert marked("math", replace(ITEM, gold=gold), ANSWER + gold) == [
        Mark(gold, True, "same text")
    ]


def test_real_golds_are_right_and_their_neighbours_wrong(shared):
    rows = [json.loads(line) for line in (shared / "data/math500.jsonl").open()][:40]
    items = [replace(ITEM, gold=row["answer"]) for row in rows]
    dress = f"{THINK}{ANSWER}So the answer is \\boxed{{%s}}."
    right = mark([("math", i, dress % i.gold) for i in items], parity=False, processes=2)
    assert [m.answer for m in right if not m.correct] == []
    wrong = mark(
        [("math", i, dress % j.gold) for i, j in itertools.pairwise(items)],
        parity=False,
        processes=2,
    )
    pairs = [(i.gold, j.gold) for i, j in itertools.pairwise(items)]
    equal = {pair for pair, m in zip(pairs, wrong, strict=True) if m.correct}
    assert equal == {pair for pair in pairs if pair[0] == pair[1]} | {("5", "x=5")}


# --- Clusters ---


def test_clusters():
    answers = ["5", None, "x=5", "7", "4", "07", "7.0", "(B)", "B", "\\frac12"]
    correct = [False, False, False, True, False, True, True, False, False, False]
    assert clusters(answers, correct) == [0, -1, 0, 1, 2, 1, 1, 3, 3, 4]
    # A wrong answer is never with the right ones, a right one always.
    assert clusters(["1", "1", "2"], [True, False, True]) == [0, 1, 0]
    assert clusters([], []) == []


def test_which_is_the_reference_does_not_matter():
    for first, other in (("5", "x=5"), ("1/2", "0.5"), ("1, 2", "(1, 2)"), ("B", "(b)")):
        assert same(first, other)
        assert same(other, first)
    assert not same("5", "6")
    assert not same("5 m", "5 km")
    assert same("y" * 5_000, "y" * 5_000)
    assert not same("y" * 5_000, "y" * 5_000 + " ")


answers = st.sampled_from([None, "1", "1.0", "01", "2", "x=2", "A", "(A)", "yes"])


@given(st.lists(st.tuples(answers, st.booleans())))
def test_clusters_are_counted_as_they_come(samples):
    correct = [ok and answer is not None for answer, ok in samples]
    texts = [answer for answer, _ in samples]
    labels = clusters(texts, correct)
    seen = [n for n in dict.fromkeys(labels) if n >= 0]
    assert seen == list(range(len(seen)))
    assert [n == -1 for n in labels] == [text is None for text in texts]
    for n, text, ok in zip(labels, texts, correct, strict=True):
        for m, other, other_ok in zip(labels, texts, correct, strict=True):
            if None not in (text, other):
                together = (
                    ok if ok == other_ok and ok else not ok and not other_ok and same(text, other)
                )
                assert (n == m) == together
