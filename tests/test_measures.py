"""Lengths are s1's; intervals cover what they claim, and are a plain loop's; pass@k is exact."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from s1jax.chat import CHATS, ChatTokenizer
from s1jax.evaluation import measures
from s1jax.evaluation.measures import (
    bootstrap,
    cov_at,
    interval,
    maj_at,
    paired_bootstrap,
    pass_at,
    prefixes,
    resampled_means,
    s1_lengths,
    s1_parts,
)
from s1jax.evaluation.results import Interval

S1, STEPS, LLAMA, THINK, R1 = (CHATS[name] for name in ("s1", "steps", "llama3", "think", "r1"))

# --- Lengths ---

OPEN, MARK = "<|im_start|>think", "<|im_start|>answer"
GOLDEN = [  # of the evaluator's texts: what it is, the text, the thinking, the answer
    ("by itself", f"{OPEN}\nOne.\n\nTwo.\n{MARK}\nAnswer: 4", "One.\n\nTwo.", "Answer: 4"),
    (
        "forced after a line end",
        f"{OPEN}\nOne.\n{MARK}\nFinal Answer: 4",
        "One.",
        "Final Answer: 4",
    ),
    (
        "forced in a line",
        f"{OPEN}\nOne.\nTw\n{MARK}\nFinal Answer: 4",
        "One.\nTw",
        "Final Answer: 4",
    ),
    ("closed in a line", f"{OPEN}\nOne.\nTwo.{MARK}\nAnswer: 4", "One.", "Answer: 4"),
    ("one line", f"{OPEN}\nOne.{MARK}\nAnswer: 4", "", "Answer: 4"),
    ("the first line speaks", f"{OPEN} Zero.\nOne.\n{MARK}\n4", "One.", "4"),
    ("no line end after the marker", f"{OPEN}\nOne.\n{MARK} 4", "One.", " 4"),
    ("the marker's line speaks", f"{OPEN}\nOne.\n{MARK} 4\nFive\nSix", "One.", "Five\nSix"),
    ("no marker", f"{OPEN}\nOne.\nTwo.\nThr", "One.\nTwo.", ""),
    ("nothing", "", "", ""),
    ("two markers", f"{OPEN}\nOne.\n{MARK}\nThree\n{MARK}\nFour", "One.", "Four"),
    ("an empty answer", f"{OPEN}\nOne.\n{MARK}\n", "One.", ""),
    ("ignored ends", f"{OPEN}\nOne.\nWait, two.\n{MARK}\n4", "One.\nWait, two.", "4"),
    ("not opened", f"One.\nTwo.\n{MARK}\n4", "Two.", "4"),
]


@pytest.mark.parametrize(
    ("text", "thinking", "answer"), [row[1:] for row in GOLDEN], ids=[row[0] for row in GOLDEN]
)
def test_parts_are_s1s(text, thinking, answer):
    assert s1_parts(text, S1) == (thinking, answer)


def plain_parts(text):
    """What eval/compute_sample_stats.py of s1 measures, written down line by line."""
    lines = text.split(MARK)[0].split("\n")
    thinking = "\n".join(lines[1 : len(lines) - 1])
    if MARK not in text:
        return thinking, ""
    after = text.split(MARK)
    answer_lines = after[len(after) - 1].split("\n")
    return thinking, "\n".join(answer_lines[1:] or answer_lines)


def plain_steps(text):
    """The same of counted steps."""
    bodies = []
    for step in text.split("<|im_start|>")[1:-1]:
        bodies.append("\n".join(step.split("\n")[1:]))
    return bodies, text.split(MARK)[1] if MARK in text else ""


texts = st.lists(
    st.sampled_from([OPEN, MARK, "<|im_start|>", "\n", "\n\n", "a", " b", "12 steps left\n"]),
    max_size=12,
).map("".join)


@given(texts)
def test_parts_are_those_of_s1s_steps(text):
    assert s1_parts(text, S1) == plain_parts(text)


@given(texts)
def test_steps_are_those_of_s1s(text):
    bodies, answer = plain_steps(text)
    assert s1_parts(text, STEPS) == ("".join(bodies), answer)
    # Each counted by itself: a count that rounds up sees the difference.
    count = lambda part: -(-len(part) // 4)  # noqa: E731
    assert s1_lengths(text, STEPS, count) == (sum(map(count, bodies)), count(answer))


def test_steps_are_counted_without_their_first_lines():
    text = (
        "<|im_start|>3 steps left\nOne.\n<|im_start|>2 steps left\nTwo.\nmore\n"
        f"<|im_start|>1 steps left\nThree.\n{MARK}\nAnswer: 4"
    )
    assert s1_parts(text, STEPS) == ("One.\nTwo.\nmore\nThree.\n", "\nAnswer: 4")
    cut = text.partition(MARK)[0]  # then s1 takes the last step for the answer, but counts none
    assert s1_parts(cut, STEPS) == ("One.\nTwo.\nmore\n", "")
    assert s1_parts(text, S1) != s1_parts(text, STEPS)


@pytest.mark.parametrize(
    ("chat", "text"),
    [
        (
            LLAMA,
            "<|start_header_id|>think<|end_header_id|>\n\nOne.\n\nTwo."
            "\n<|start_header_id|>answer<|end_header_id|>\n\nAnswer: 4",
        ),
        (THINK, "<think>\nOne.\n\nTwo.\n</think>\n\nAnswer: 4"),
        (R1, "<think>\nOne.\n\nTwo.\n</think>\n\nAnswer: 4"),
        (R1, "<think>One.\n\nTwo.\n</think>\n\nAnswer: 4"),  # the template wrote the line end
    ],
)
def test_other_families_are_measured_by_their_markers(chat, text):
    assert s1_parts(text, chat) == ("One.\n\nTwo.", "Answer: 4")
    assert s1_parts(text, S1)[1] == ""


def test_what_is_not_opened_has_lost_its_first_line():
    assert s1_parts("One.\nTwo.\n</think>\n\n4", THINK) == ("Two.", "4")


@pytest.mark.parametrize("name", ["s1", "llama3", "think", "r1"])
def test_what_is_trained_is_measured_whole(name):
    """An example as the family writes it: its thinking and its answer, nothing of delimiters."""
    chat = CHATS[name]
    text = chat.thinking + "One.\n\nTwo." + chat.answer + "Answer: 4\n\nSo."
    assert s1_parts(text, chat) == ("One.\n\nTwo.", "Answer: 4\n\nSo.")
    assert s1_parts(text, replace(chat, answer="\n<other>\n")) != s1_parts(text, chat)


def test_real_tokens_are_counted(qwen_tokenizer, s1_rows):
    tokenizer = ChatTokenizer.load(qwen_tokenizer).hf

    def count(text):
        return len(tokenizer.tokenize(text))

    for line in s1_rows.read_text().splitlines()[:20]:
        row = json.loads(line)
        thinking, answer = row["gemini_thinking_trajectory"], row["gemini_attempt"]
        text = f"{OPEN}\n{thinking.strip()}\n{MARK}\nAnswer: {answer.strip()}"
        expected = tuple(map(count, plain_parts(text)))
        assert s1_lengths(text, S1, count) == expected
        assert expected == (count(thinking.strip()), count(f"Answer: {answer.strip()}"))
        # Cut inside of a line, and not closed with one: the line is not counted.
        cut = f"{OPEN}\n{thinking.strip()}{MARK}\nAnswer: 4"
        assert s1_lengths(cut, S1, count)[0] < expected[0]
    golden = f"{OPEN}\nLet x be 3.\n\nThen x + 1 is 4.\n{MARK}\nAnswer: 4"
    assert s1_lengths(golden, S1, count) == (15, 4)


# --- Intervals ---

values = st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=1, max_size=12).map(np.array)


def naive_means(columns, resamples, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        drawn = rng.integers(len(columns), size=len(columns))
        rows.append(
            [sum(columns[i, c] for i in drawn) / len(drawn) for c in range(columns.shape[1])]
        )
    return np.array(rows)


@given(values, st.integers(0, 5))
def test_resamples_are_those_of_a_plain_loop(some, seed):
    columns = np.stack([some, some**2, np.arange(len(some), dtype=float)], axis=1)
    found = resampled_means(columns, 20, seed)
    np.testing.assert_allclose(found, naive_means(columns, 20, seed), rtol=1e-12)


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    columns = np.random.default_rng(0).normal(size=(30, 2))
    whole = resampled_means(columns, 100, 3)
    monkeypatch.setattr(measures, "CELLS", 100)
    np.testing.assert_allclose(resampled_means(columns, 100, 3), whole, rtol=1e-12)
    assert not np.allclose(resampled_means(columns, 100, 4), whole)


def test_the_interval_is_of_the_loops_quantiles_and_repeats():
    some = np.random.default_rng(1).normal(size=25)
    low, high = np.quantile(naive_means(some[:, None], 400, 7), [0.025, 0.975])
    found = bootstrap(some, 400, 7)
    assert found == bootstrap(some, 400, 7)
    np.testing.assert_allclose([found.low, found.value, found.high], [low, some.mean(), high])
    assert bootstrap(some, 400, 8) != found


def test_an_interval_holds_its_value():
    found = interval(1.0, np.array([2.0, 3.0, np.nan]))
    assert (found.value, found.low) == (1, 1) and found.high == pytest.approx(2.975)
    for some in ([1 / 3], [0.1] * 7, [100.0] * 3):
        found = bootstrap(np.array(some), 50, 0)
        assert found.low <= found.value <= found.high
        assert found.high - found.low < 1e-12


def test_intervals_cover_as_often_as_they_must():
    """Of right and wrong ones a mean's bootstrap is a binomial, so that all of it is known."""
    questions, p = 40, 0.3
    rights = np.arange(questions + 1)
    exact = np.stack(
        [stats.binom.ppf(tail, questions, rights / questions) for tail in (0.025, 0.975)]
    )
    covered = (exact[0] / questions <= p) & (p <= exact[1] / questions)
    truth = stats.binom.pmf(rights, questions, p)[covered].sum()
    assert 0.91 < truth < 0.97
    rng = np.random.default_rng(0)
    sets, found, narrow = 1000, 0, 0
    for number in range(sets):
        some = (rng.random(questions) < p).astype(float)
        means = resampled_means(some[:, None], 1000, number)[:, 0]
        ours = interval(some.mean(), means)
        found += ours.low - 1e-9 <= p <= ours.high + 1e-9
        low, high = np.quantile(means, [0.15, 0.85])
        narrow += low <= p <= high
    error = 4 * np.sqrt(truth * (1 - truth) / sets)
    assert abs(found / sets - truth) < error
    assert abs(narrow / sets - truth) > 3 * error  # an interval of 70% would be noticed


@pytest.mark.parametrize("right", [1, 12, 39])
def test_of_right_and_wrong_it_is_the_binomials_interval(right):
    some = np.zeros(40)
    some[:right] = 1
    found = bootstrap(some, 10_000, 0)
    low, high = stats.binom.ppf([0.025, 0.975], 40, right / 40) / 40
    assert abs(found.low - low) < 1.01 / 40 and abs(found.high - high) < 1.01 / 40


def test_what_is_hard_for_both_does_not_count():
    rng = np.random.default_rng(0)
    base = (rng.random(200) < 0.5).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:8]] = 1
    paired = paired_bootstrap(better, base, 2000, 0)
    assert paired.value == pytest.approx(0.04) and paired.low > 0
    assert paired_bootstrap(base, base, 2000, 0) == Interval(0, 0, 0)
    shuffled = paired_bootstrap(better, rng.permutation(base), 2000, 0)
    assert shuffled.value == paired.value and shuffled.low < 0


# Of 30, 500 and 198 questions so many were fixed and broken against s1K, as the differences and
# the intervals of the paper's table 2 would have it.
FIXED_AND_BROKEN = {
    "1K-random": ((0, 4), (12, 24), (22, 33)),
    "1K-diverse": ((0, 7), (10, 19), (28, 34)),
    "1K-longest": ((2, 7), (12, 25), (33, 29)),
    "59K-full": ((4, 3), (17, 18), (32, 31)),
}


def test_the_papers_intervals_are_of_this_kind(shared):
    """Seven of its twelve to the digit, the others within a question; the counts are guessed."""
    paper = json.loads((shared / "reference" / "paper_numbers.json").read_text())
    means, exact, narrower = paper["table2_data_ablation"], 0, 0
    for name, counts in FIXED_AND_BROKEN.items():
        for task, (questions, (fixed, broken)) in enumerate(
            zip((30, 500, 198), counts, strict=True)
        ):
            low, high = paper["table2_ci95_vs_s1K_pp"][name][task]
            before, after = np.zeros(questions), np.zeros(questions)
            after[:fixed] = 100
            before[fixed : fixed + broken] = 100
            found = paired_bootstrap(after, before, 10_000, 0)
            assert abs(found.value - (means[name][task] - means["s1K"][task])) < 0.06
            off = max(abs(found.low - low), abs(found.high - high))
            assert off < 1.01 * 100 / questions
            exact += off < 0.06
            means_of = resampled_means((after - before)[:, None], 10_000, 0)[:, 0]
            of_90 = np.quantile(means_of, [0.05, 0.95])
            narrower += bool(np.abs(of_90 - [low, high]).max() < 0.06)
    assert exact >= 7
    assert narrower == 0


# --- Several samples of a question ---


@given(st.data(), st.integers(1, 8))
def test_pass_at_k_is_the_share_of_subsets(data, samples):
    correct = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    outcomes = [True] * correct + [False] * (samples - correct)
    subsets = list(itertools.combinations(outcomes, k))
    assert pass_at(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_not_the_biased_estimate():
    assert pass_at(4, 2, 2) == pytest.approx(5 / 6)
    biased = 1 - (1 - 2 / 4) ** 2
    assert abs(biased - 5 / 6) > 0.05
    assert pass_at(1000, 3, 1000) == 1 and pass_at(64, 0, 64) == 0
    with pytest.raises(AssertionError):
        pass_at(4, 2, 5)


@pytest.mark.parametrize(
    ("samples", "powers"),
    [(0, []), (1, []), (2, [2]), (5, [2, 4]), (64, [2, 4, 8, 16, 32, 64]), (63, [2, 4, 8, 16, 32])],
)
def test_k_doubles_up_to_the_samples(samples, powers):
    assert prefixes(samples) == powers


@pytest.mark.parametrize(
    ("labels", "correct", "k", "covered", "majority"),
    [
        ([0, 1], [False, True], 2, True, False),  # a tie: the first seen
        ([1, 0], [True, False], 2, True, True),
        ([0, 1, 1, 0], [False, True, True, False], 4, True, False),
        ([0, 1, 1, 0], [False, True, True, False], 3, True, True),  # only the first ones count
        ([0, 1, 1, 1], [False, True, True, True], 4, True, True),
        ([-1, -1, -1, 0], [False, False, False, True], 4, True, True),  # no answer has no vote
        ([-1, -1, -1, 0], [False, False, False, True], 2, False, False),
        ([0, 1, 2, 3], [False, False, False, False], 4, False, False),
    ],
)
def test_cov_and_maj_at_k(labels, correct, k, covered, majority):
    assert cov_at(correct, k) is covered
    assert maj_at(labels, correct, k) is majority


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=9), st.integers(1, 9))
def test_the_majority_is_that_of_counter(answers, k):
    """As s1 takes it: Counter.most_common(1) of the first k answers."""
    labels = ["abc".index(answer) for answer in answers]
    winner = Counter(answers[:k]).most_common(1)[0][0]
    correct = [answer == "b" for answer in answers]
    assert maj_at(labels, correct, k) is (winner == "b")
