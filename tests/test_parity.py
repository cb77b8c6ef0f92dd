"""Answers are found as s1 finds them: a table that s1's own functions wrote, quirks and all.

The last three columns are what `process_results` of its tasks at commit 77272c6 made of the first:
of aime with a reference that is no number (the extraction alone) and with "0" (leading zeros are
dropped), and of gpqa/openai without a judge.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1jax.evaluation.answers import final_answer
from s1jax.evaluation.parity import s1_choice, s1_extract, s1_integer

OF_S1 = [
    ("", "", "", "A"),
    ("23", "23", "23", "A"),
    ("023", "023", "23", "A"),
    (" 023", " 023", " 023", "A"),
    ("B", "B", "B", "B"),
    ("b", "b", "b", "B"),
    ("(B)", "(B)", "(B)", "A"),
    ("E", "E", "E", "A"),
    ("BC", "BC", "BC", "A"),
    ("Answer: 23", "23", "23", "A"),
    ("answer:023", "023", "23", "A"),
    ("ANSWER : c", "c", "c", "C"),
    ("Answer:\n\n7", "7", "7", "A"),
    ("Answer: 1\nAnswer: 2", "1\nAnswer: 2", "1\nAnswer: 2", "A"),
    ("Answer: 7 \n", "7 \n", "7 \n", "A"),
    ("**Final Answer:** B", "** B", "** B", "A"),
    ("Final Answer: B", "B", "B", "B"),
    ("The answer is 5.", "The answer is 5.", "The answer is 5.", "A"),
    ("Answers: 5", "Answers: 5", "Answers: 5", "A"),
    ("Answer 5", "Answer 5", "Answer 5", "A"),
    ("Answer:", "", "", "A"),
    ("unanswer: d", "d", "d", "D"),
    (r"\boxed{5}", "5", "5", "A"),
    (r"\boxed{5} and \boxed{6}", "6", "6", "A"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\frac{1}{2}", "A"),
    (r"$\boxed{\text{(C)}}$", r"\text{(C)}", r"\text{(C)}", "A"),
    (r"\boxed{}", "", "", "A"),
    (r"\boxed{{}}", "{}", "{}", "A"),
    (r"\boxed{ 023 }", " 023 ", " 023 ", "A"),
    (r"\boxed{d}", "d", "d", "D"),
    (r"\boxed 5", "5", "5", "A"),
    (r"$\boxed 5$ so", "5", "5", "A"),
    (r"\boxed 5 so it is", "5 so it is", "5 so it is", "A"),
    (r"\boxed{1} \boxed 2$ \boxed{3}", "2", "2", "A"),
    (r"\boxed 1$ \boxed 2$", "2", "2", "A"),
    (r"\boxed {8}", "{8}", "{8}", "A"),
    (r"\boxed{5", r"\boxed{5", r"\boxed{5", "A"),
    (r"\boxed{5} \boxed{6", r"\boxed{5} \boxed{6", r"\boxed{5} \boxed{6", "A"),
    (r"Answer: 4 \boxed{6", r"4 \boxed{6", r"4 \boxed{6", "A"),
    (r"\boxed}{5}", r"\boxed}{5}", r"\boxed}{5}", "A"),
    (r"\boxed{1}} Answer: 9", "1", "1", "A"),
    (r"Answer: 4, \boxed{5}", "5", "5", "A"),
    (r"\boxed{\boxed{3}}", "3", "3", "A"),
    ("\\boxed{a\nb}", "a\nb", "a\nb", "A"),
    (r"\boxed{5\}", "5\\", "5\\", "A"),
    (r"\boxed{1} \fbox{2}", "1", "1", "A"),
    (r"\boxed x{3}", "x{3}", "x{3}", "A"),
    (r"\fbox x", r"\fbox x", r"\fbox x", "A"),
    (r"\boxed", r"\boxed", r"\boxed", "A"),
    ("<|im_start|>think\nIt is 4.\n<|im_start|>answer\nAnswer: 5", "5", "5", "A"),
    ("<|im_start|>think\n\\boxed{4}\n<|im_start|>answer\nno box", "no box", "no box", "A"),
    ("<|im_start|>think\n\\boxed{4}\n<|im_start|>answer\n", "", "", "A"),
    ("<|im_start|>think\nSo \\boxed{4}", "4", "4", "A"),
    ("<|im_start|>think\nAnswer: 3", "3", "3", "A"),
    ("<|im_start|>think\n\n", "\n", "\n", "A"),
    ("<|im_start|>think", "think", "think", "A"),
    ("<|im_start|>answer", "answer", "answer", "A"),
    ("<|im_start|>answer: 6", "6", "6", "A"),
    ("<|im_start|>think\nx\n<|im_start|>answer 7", "answer 7", "answer 7", "A"),
    ("<|im_start|>answer\n1\n<|im_start|>answer\nAnswer: 2", "2", "2", "A"),
    ("<|im_start|>answer\nFinal Answer: \\boxed{033}", "033", "33", "A"),
    ("<|im_start|>answer\nFinal Answer:", "", "", "A"),
    (
        "<|im_start|>16 steps left\nx\n<|im_start|>0 steps left\n<|im_start|>answer\nB",
        "B",
        "B",
        "B",
    ),
    (
        "<|im_start|>answer\nC<|im_start|>user\nD",
        "C<|im_start|>user\nD",
        "C<|im_start|>user\nD",
        "A",
    ),
    ("²", "²", "²", "A"),
    ("\u0663", "\u0663", "3", "A"),
    ("111111111", "111111111", "111111111", "A"),
    ("-5", "-5", "-5", "A"),
    ("5.0", "5.0", "5.0", "A"),
    ("Answer: 0007", "0007", "7", "A"),
]
# Where s1 stops with an AssertionError, and what is taken here.
STOPS_S1 = [
    (r"\boxed}{{5}}", "{5"),
    (r"\fbox{5}", "5"),
    (r"\boxed3 and {4}", "4"),
    (r"\boxedx{4}", "4"),
    ("\\boxed\n{5}", "5"),
]


@pytest.mark.parametrize(("text", "extracted", "integer", "choice"), OF_S1)
def test_answers_of_s1(text, extracted, integer, choice):
    assert s1_extract(text) == extracted
    assert s1_integer(s1_extract(text)) == integer
    assert s1_choice(s1_extract(text)) == choice


@pytest.mark.parametrize(("text", "extracted"), STOPS_S1)
def test_what_stops_s1_does_not_stop_us(text, extracted):
    assert s1_extract(text) == extracted


def test_the_table_is_no_table_of_common_sense():
    """Its controls: the extraction of our own, and the text itself, are not what s1 takes."""
    assert len(OF_S1) >= 40
    ours = [final_answer(text) or "" for text, *_ in OF_S1]
    assert sum(a != extracted for a, (_, extracted, *_) in zip(ours, OF_S1, strict=True)) >= 15
    assert sum(text != extracted for text, extracted, *_ in OF_S1) >= 40
    said = "Answer: 1\nAnswer: 2"
    assert (s1_extract(said), final_answer(said)) == ("1\nAnswer: 2", "2")
    assert any(integer != extracted for _, extracted, integer, _ in OF_S1)


PIECES = ["<|im_start|>", "answer\n", "think\n", "Answer:", "\n", " ", "\\boxed", "\\fbox", "$"]
texts = st.lists(st.one_of(st.sampled_from([*PIECES, "{", "}", "07", "²", "b"]), st.text())).map(
    "".join
)


@given(texts)
def test_any_text_has_an_answer(text):
    answer = s1_extract(text)
    assert answer in text
    assert s1_choice(answer) in "ABCD"
    if answer.isdecimal():
        assert s1_integer(answer) == str(int(answer))
    else:
        assert s1_integer(answer) == answer


def test_a_number_that_python_does_not_read_stays():
    assert s1_integer("1" * 5_000) == "1" * 5_000
    assert s1_integer("0" * 5_000 + "1") == "0" * 5_000 + "1"
