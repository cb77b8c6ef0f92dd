"""A question's subject, by its words and by a reply; the score against a plain one."""

import json
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1jax.data import domains
from s1jax.data.domains import (
    FALLBACK,
    TITLES,
    classify_by_words,
    subject_of_reply,
    system_prompt,
    user_prompt,
)
from s1jax.data.subjects import SUBJECTS

CODES = {title: code for code, title in TITLES.items()}


def codes(questions):
    return [CODES[title] for title in classify_by_words(questions)]


# --- The table and the prompts ---


def test_the_table_has_the_61_subjects_in_order():
    found = [subject.code for subject in SUBJECTS]
    assert len(found) == len(TITLES) == len(CODES) == 61
    assert found == sorted(found)
    assert all(len(code) == 2 and code.isdigit() for code in found)
    assert (TITLES["11"], TITLES["51"], TITLES["81"]) == (
        "Number theory",
        "Geometry",
        "Quantum theory",
    )
    for subject in SUBJECTS:
        terms = subject.words.split(", ")
        assert len(set(terms)) == len(terms) >= 5, subject.code
        assert all(terms), subject.code


def test_the_prompt_holds_the_question_as_it_is_and_every_subject_once():
    question = "Let {x} be 50%.\n\n## Question\nWhat is \\(x\\)?"
    assert user_prompt(question) == f"## Question\n{question}"
    prompt = system_prompt()
    assert prompt.count("## Classification rubrics\n### ") == 1
    for subject in SUBJECTS:
        heading = f"### {subject.title}\n* Code: {subject.code}\n* Topics: {subject.words}"
        assert prompt.count(heading) == 1
    assert "two-digit code" in prompt


@pytest.mark.parametrize("code", ["03", "11", "51", "97"])
@pytest.mark.parametrize(
    "reply", ["{}", "It has a triangle.\n{}", "{}  \n\n", "**{}**", "Code: {}.", "`{}`", "[{}]\n"]
)
def test_a_reply_that_ends_in_a_code_is_its_subject(reply, code):
    assert subject_of_reply(reply.format(code)) == TITLES[code]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " \n",
        "5",
        "51 or so",
        "Geometry",
        "07",
        "99",
        "00",
        "151",
        "2051",
        "1.51",
        "5 1",
        "\u0665\u0661",
    ],
)
def test_a_reply_that_ends_otherwise_is_none(reply):
    assert subject_of_reply(reply) is None


@given(st.text(), st.integers(0, 99))
def test_where_s1_takes_a_code_of_its_own_line_so_do_we(reasons, number):
    reply = f"{reasons}\n{number:02d}"
    assert reply[-2:].isdigit()  # s1's condition
    assert subject_of_reply(reply) == TITLES.get(reply[-2:])


# --- By words ---


def plain_titles(questions, count=lambda n: 1 + math.log(n)):
    """By the same score without arrays, one subject and one word at a time."""

    def stems(text, vocabulary):
        return [s for token in domains._tokens(text) for s in domains._stems(token, vocabulary)]

    documents = [
        Counter(s for s in stems(f"{one.title}, {one.words}", ()) if s not in domains._STOP)
        for one in SUBJECTS
    ]
    vocabulary = set().union(*documents)
    for question in questions:
        scores = [0.0] * 61
        for stem, times in Counter(stems(question, vocabulary)).items():
            those = [i for i in range(61) if stem in documents[i]]
            for i in those:
                weight = count(documents[i][stem]) * math.log(62 / len(those))
                scores[i] += count(times) * weight
        best = max(range(61), key=lambda i: (round(scores[i], 9), -i))
        yield SUBJECTS[best].title if max(scores) > 0 else FALLBACK


# Written for this test, the subjects that a careful reader would allow behind each.
QUESTIONS = [
    ("51", "In triangle $ABC$ the bisector of angle $A$ meets $BC$ at $D$. Find $AD$."),
    ("51", r"A circle of radius $5$ is tangent to two sides of a rhombus. What is its area?"),
    ("51", r"Let $\overline{P Q}$ be a chord and $M$ its midpoint. Find the arc."),
    ("51", "What is the surface area of a cone whose height is 4 and whose base has diameter 6?"),
    ("11", r"Find all primes $p$ such that $p^2 + 2$ is prime."),
    ("11", r"What is the remainder of $3^{100}$ modulo $7$, that is $x \equiv 3^{100} \pmod{7}$?"),
    ("11", "How many divisors does 720 have that are multiples of 6?"),
    ("11", "The digits of a three-digit integer are reversed. When does 99 divide the difference."),
    ("05", "In how many ways can five people be seated around a round table?"),
    ("05", "Each edge of a complete graph with 6 vertices is colored red or blue."),
    ("05 60", r"Choose a committee of three out of $n$ players; there are $\binom{n}{3}$."),
    ("60", "Two fair dice are rolled. What is the probability that both show a six?"),
    ("60", "An urn has 3 red and 4 white balls; two are drawn at random without replacement."),
    ("60", "Let $X$ be an exponential random variable. Compute the expected value of $X^2$."),
    ("62", "A sample of 40 students has standard deviation 2. Give a confidence interval."),
    ("12", "Find the sum of the squares of the roots of the monic polynomial $x^3 - 2x + 5$."),
    ("12", r"Factor $x^4 + 4$ into quadratics with integer coefficients."),
    ("26", r"Compute the derivative of $\ln(\sin x)$ and its value at $x = 1$."),
    ("26", r"For positive real numbers $a, b$ prove the inequality $a/b + b/a \ge 2$."),
    ("39", "Find all functions $f$ with $f(x+y) = f(f(x)) + f(y)$, and show that f is injective."),
    ("40", "The first term of a geometric sequence is 3 and the common ratio 2; find the next."),
    ("15", r"Find the eigenvalues of $\begin{pmatrix} 1 & 2 \\ 0 & 3 \end{pmatrix}$."),
    ("20", "Show that every group of order 15 is cyclic, by Sylow."),
    ("30", "Find the real part of the complex number $(1 + i)^8$."),
    ("34", "Solve the initial value problem $y'' + y = 0$, $y(0) = 1$, for all real $t$."),
    ("46", "Is every bounded linear functional on this Banach space in its dual space?"),
    ("54", "Is a closed subset of a compact topological space compact?"),
    ("70", r"A block of mass $2 \mathrm{~kg}$ slides down a ramp. Find its acceleration."),
    ("70", "A ball is thrown upwards with a velocity of 12 m/s. When does it hit the ground?"),
    ("78", "Two capacitors and a resistor are connected to a battery. Find the current."),
    ("78", "Light passes through a lens of focal length 10 cm. Where is the image?"),
    ("80", "One mole of an ideal gas expands isothermally; what is the change of entropy?"),
    ("81", "An electron in a hydrogen atom goes to the ground state. What photon is emitted?"),
    ("83", "A spaceship moves at 0.8 of the speed of light. What is the time dilation?"),
    ("85", "A planet has twice the orbital period of the Earth around its star. Use Kepler's law."),
    ("92", r"How many grams of $\mathrm{NaCl}$ precipitate when an acid reacts with sodium oxide?"),
    ("92", "Which enzyme copies DNA into RNA in the cell?"),
    ("68", "Given an integer array, write a program that prints the sorted output in linear time."),
    ("91", "The firm is a monopoly with marginal cost 3. At which price is its revenue largest?"),
    ("97 91", "A shirt costs 40 dollars after a discount of 20 percent. What was its price?"),
    ("97", "A train travels 120 miles in 3 hours. What is its average speed in miles per hour?"),
    ("03", "Solve the crossword clue: a puzzle of the liar and the truth teller (6)"),
]  # fmt: skip


def right(found, wanted):
    return sum(code in allowed.split() for code, allowed in zip(found, wanted, strict=True))


def test_hand_written_questions_find_their_subjects():
    wanted, questions = zip(*QUESTIONS, strict=True)
    found = codes(questions)
    missed = [
        (code, question)
        for code, (allowed, question) in zip(found, QUESTIONS, strict=True)
        if code not in allowed.split()
    ]
    assert len(missed) <= len(QUESTIONS) // 10, missed
    # The control: the same answers to other questions.
    assert right(found[7:] + found[:7], wanted) < len(QUESTIONS) // 4


def test_the_score_is_that_of_a_plain_reference():
    questions = [question for _, question in QUESTIONS]
    vocabulary = sorted(domains._subject_weights()[0])
    rng = random.Random(0)
    questions += [" ".join(rng.choices(vocabulary, k=8)) for _ in range(60)]
    questions += ["", "triangle triangle prime", "xyzzy"]
    found = classify_by_words(questions)
    assert found == list(plain_titles(questions))
    # The control: with bare counts it is another score.
    assert found != list(plain_titles(questions, count=lambda n: n))


def test_without_a_known_word_it_is_the_fallback():
    assert TITLES["97"] == FALLBACK
    nothing = ["", " ", "2 + 2 = ?", "$x$", "and of the", "ÿ", "\x00<|im_start|>"]
    assert classify_by_words(nothing) == [FALLBACK] * len(nothing)
    assert classify_by_words([]) == []


@pytest.mark.parametrize(
    ("plain", "dressed"),
    [
        ("triangle ABC", r"$\triangle ABC$"),
        ("triangle AB C", "triangle A B C"),
        ("Chords of a circle", "CHORD OF CIRCLES"),
        ("circle", r"\odot"),
        ("congruent modulo", r"$a \equiv b \pmod{m}$"),
        ("binomial combination", r"\binom{n}{k}"),
        ("molecule of a compound", r"\mathrm{H}_{2}"),
        ("molecule of a compound", "NaCl"),
        ("molecule of a compound", "CO2"),
        ("vector", r"\left(\mathbf{v}\right)"),
        ("triangle diagram", "triangle [asy] draw(circle((0,0),1)); label(matrix); [/asy]"),
        ("triangle", "triangle, where $m$ and $n$ are relatively prime positive integers"),
        ("triangle", "triangle. Find the remainder when $N$ is divided by $1000$."),
    ],
)
def test_dress_does_not_change_the_words(plain, dressed):
    def known(text):
        vocabulary = domains._subject_weights()[0]
        found = [s for token in domains._tokens(text) for s in domains._stems(token, vocabulary)]
        return Counter(stem for stem in found if stem in vocabulary)

    assert known(dressed).keys() == known(plain).keys() != known("prime number").keys()


@settings(deadline=None)
@given(st.lists(st.text(), max_size=3))
def test_any_text_has_a_subject_and_no_other_question_changes_it(texts):
    titles = classify_by_words([*texts, "A triangle ABC"])
    assert set(titles) <= set(CODES)
    assert titles == [classify_by_words([text])[0] for text in texts] + [TITLES["51"]]


@pytest.mark.parametrize(
    "text", ["[asy]", "A ", "f(", "where ", "H2", r"\mathrm{", "remainder when ", "a", "x+ ", " "]
)
def test_a_million_characters_are_read_in_linear_time(text):
    start = time.process_time()
    classify_by_words([text * (1_000_000 // len(text))])
    assert time.process_time() - start < 10


def test_the_hash_seed_changes_nothing_and_jax_stays_out():
    code = (
        "import sys; from s1jax.data.domains import classify_by_words as c;"
        "print(c(['prime triangle', 'random ring, group of people', 'electric cell']));"
        "assert not {'jax', 'scipy', 'datasets'} & set(sys.modules)"
    )
    outs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outs) == 1


# --- Real questions ---

PHYSICS = "70 74 76 78 80 81 82 83 85 86"
# What a source calls its part: the subjects that are right for it, the least share of them.
FLOORS = {
    "Geometry": ("51 52", 0.80),
    "Number Theory": ("11", 0.80),
    "Counting & Probability": ("05 60", 0.70),
    "OlympiadBench/Geometry": ("51 52", 0.80),
    "OlympiadBench/Number Theory": ("11", 0.75),
    "OlympiadBench/Combinatorics": ("05 60 52 11", 0.75),
    "SciBench/fund": (PHYSICS, 0.80),
    "SciBench/atkins": ("80 81 82 92", 0.85),
    "SciBench/thermo": ("80 81 82 92", 0.75),
    "SciBench/class": (PHYSICS, 0.75),
    "SciBench/stat": ("60 62", 0.70),
}


def test_real_questions_find_their_subjects(shared):
    rows = []
    for name, part, text in [
        ("math500", "subject", "problem"),
        ("question_pool", "source_type", "question"),
    ]:
        path = shared / "data" / f"{name}.jsonl"
        if not path.is_file():
            pytest.skip("the real questions are not here")
        lines = map(json.loads, path.read_text().splitlines())
        rows += [(line[part], line[text]) for line in lines if line[part] in FLOORS]
    parts, questions = zip(*rows, strict=True)
    found = codes(questions)

    def shares(found):
        hits = {part: [] for part in FLOORS}
        for part, code in zip(parts, found, strict=True):
            hits[part].append(code in FLOORS[part][0].split())
        return {part: sum(hit) / len(hit) for part, hit in hits.items()}

    got = shares(found)
    assert all(got[part] >= least for part, (_, least) in FLOORS.items()), got
    # The control: no one subject, and no shuffle of the answers, is above all floors.
    mixed = shares(random.Random(0).sample(found, len(found)))
    assert all(mixed[part] < least for part, (_, least) in FLOORS.items()), mixed
