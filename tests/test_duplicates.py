"""What is dropped is what comparing all pairs drops, and as many pairs are found as is said."""

import doctest
import json

import numpy as np
import pytest

from s1jax.curation_config import Pool
from s1jax.data import duplicates as module
from s1jax.data.decontaminate import ngrams, plain
from s1jax.data.duplicates import bands, content, figures, remove_duplicates
from s1jax.types import Question


def dropped(*texts, near=0.8):
    """Reason and detail of each drop, by the text's number."""
    questions = [Question(text, place=f"pool.jsonl: line {n}") for n, text in enumerate(texts, 1)]
    kept, drops = remove_duplicates(questions, Pool(near_duplicates=near))
    numbers = {id(question): number for number, question in enumerate(questions)}
    result = {numbers[id(drop.question)]: (drop.reason, drop.detail) for drop in drops}
    assert list(result) == sorted(result)
    assert [q for n, q in enumerate(questions) if n not in result] == kept
    assert {drop.stage for drop in drops} <= {"duplicates"}
    return result


def reasons(*texts, **kwargs):
    return {number: reason for number, (reason, _) in dropped(*texts, **kwargs).items()}


# --- By hand ---

LONG = "Seven friends walk along the river to the old mill, where each of them buys $3$ apples."


def test_of_the_same_the_first_is_kept():
    found = dropped("a", "b", "a", "a ", "b")
    assert {n: reason for n, (reason, _) in found.items()} == {2: "exact", 4: "exact"}
    assert found[4][1] == f'the same text as question {Question("b").id} (pool.jsonl: line 2), "b"'


def test_punctuation_dress_and_small_words_make_no_new_question():
    same = LONG.replace("$3$", "3").replace(",", "").replace("the river", "that river")
    named = f'question {Question(LONG).id} (pool.jsonl: line 1), "{LONG[:60]}..."'
    assert dropped(LONG, "another", same, near=0.6) == {2: ("near", f"0.67 similar to {named}")}
    assert reasons(LONG, same) == {}
    assert reasons(LONG, LONG.replace("$3$", "3")) == {1: "near"}
    assert reasons(LONG, LONG.replace("$3$", "3"), LONG, near=1.01) == {2: "exact"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("$3$", "$4$"),
        ("$3$", "$-3$"),
        ("$3$", "$3!$"),
        ("Seven", "Eight"),
        ("buys", "sells"),
        ("each of", "all but one of"),
        ("apples", "apples and 5 pears"),
    ],
)
def test_another_number_sign_or_word_is_another_question(old, new):
    assert reasons(LONG, LONG.replace(old, new), near=0.3) == {}
    # The control: what asks for the same is dropped.
    assert reasons(LONG, LONG.replace(",", ";"), near=0.3) == {1: "near"}


def test_templates_with_other_numbers_stay():
    texts = [f"What is {a} + {b}, if you please?" for a in range(5) for b in range(5)]
    assert reasons(*texts, near=0.1) == {}
    assert reasons("What is 3 - 5 times 2?", "What is 5 - 3 times 2?", near=0.1) == {}
    assert reasons("Find all $x \\le 3$ now", "Find all $x \\ge 3$ now", near=0.1) == {}
    assert reasons("Find all $x \\le 3$ now", "Find all x \u2264 3 now.", near=0.1) == {1: "near"}


def test_a_heading_or_a_note_makes_no_new_question():
    assert reasons(LONG, f"Problem: {LONG} Proposed by Euler", near=0.7) == {1: "near"}
    assert reasons(f"Problem: {LONG} Proposed by Euler", LONG, near=0.7) == {1: "near"}


def test_only_what_is_kept_is_compared():
    a = " ".join(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(20))
    b, c = f"{a} one two three", f"{a} one two three four five six"
    assert reasons(a, b) == reasons(b, c) == {1: "near"}
    assert reasons(a, c) == {}
    assert reasons(a, b, c) == {1: "near"}
    assert reasons(b, a, c) == {1: "near", 2: "near"}
    # Of two that are kept it is the first in order that is named.
    before = f"nine ten eleven {a}"
    assert reasons(b, before) == {}
    for first, second in ((b, before), (before, b)):
        assert f"question {Question(first).id} " in dropped(first, second, a)[2][1]


def test_short_and_empty_questions_have_exact_duplicates_only():
    assert reasons("", "", "?", "a b", "a, b", "a b c", "a, b c") == {1: "exact", 6: "near"}
    assert reasons() == {}


def test_figures_are_numbers_and_signs():
    assert (
        figures(r"$x^2 - 3.5 \times 2$")
        == figures("x\u00b2 \u2212 3.5 \u00d7 2")
        == "2 - 3.5 \u00d7 2"
    )
    assert figures("a well-known x-axis - not more") == ""
    assert figures(r"10\!000 is $n! < 7$") == "10 000 ! < 7"
    assert figures("1.5") != figures("1, 5")
    assert content("find the value of x or y") == "x or y"


def test_the_examples_of_the_docstrings():
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


# --- Against all pairs ---


def shingles(text):
    words = plain(text).split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def similarity(one, other):
    either = shingles(one) | shingles(other)
    return len(shingles(one) & shingles(other)) / len(either) if either else 0.0


def naive(texts, threshold):
    """The numbers of the texts that are dropped, and of what each is similar to."""
    found, kept = {}, []
    for number, text in enumerate(texts):
        mine = content(plain(text)).split()
        for other in kept:
            theirs = content(plain(texts[other])).split()
            short, long = sorted((mine, theirs), key=len)
            runs = (long[i : i + len(short)] for i in range(len(long) - len(short) + 1))
            if (
                similarity(text, texts[other]) >= threshold
                and figures(text) == figures(texts[other])
                and short in runs
            ):
                found[number] = other
                break
        else:
            kept.append(number)
    return found


def made_pool(rng, count):
    """Texts with copies that differ in dress, in small words, in words, at their ends."""
    letters = np.array(list("bcdefghijk"))
    texts = [" ".join("".join(rng.choice(letters, 2)) for _ in range(24)) for _ in range(count)]
    for _ in range(2 * count):
        words = texts[rng.integers(len(texts))].split()
        for _ in range(rng.integers(1, 3)):
            place = int(rng.integers(len(words)))
            match rng.integers(5):
                case 0:
                    words[place] = f"${words[place]}$,"
                case 1:
                    words.insert(place, "the")
                case 2:
                    words[place] = "".join(rng.choice(letters, 2))
                case 3:
                    words.append("noted")
                case 4:
                    words[place] = str(rng.integers(3))
        texts.append(" ".join(words))
    return list(dict.fromkeys(texts))


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_what_is_dropped_is_what_all_pairs_drop(threshold):
    texts = made_pool(np.random.default_rng(1), 60)
    want = naive(texts, threshold)
    assert 5 < len(want) < len(texts) - 60
    found = dropped(*texts, near=threshold)
    assert {number: reason for number, (reason, _) in found.items()} == dict.fromkeys(want, "near")
    for number, other in want.items():
        assert (
            f"question {Question(texts[other]).id} (pool.jsonl: line {other + 1})"
            in found[number][1]
        )
        assert found[number][1].startswith(f"{similarity(texts[number], texts[other]):.2f} similar")
    assert want != naive(texts, threshold - 0.2)


# --- MinHash ---


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.8, 0.9, 0.99, 1.0])
def test_the_bands_find_99_of_100_pairs_at_the_threshold(threshold):
    rows, count = bands(threshold)
    assert 1 - (1 - threshold**rows) ** count >= 0.99
    assert threshold == 1 or 1 - (1 - threshold**rows) ** (count - 1) < 0.99
    assert rows * count <= 128 or rows == 1


def pairs_of(similar, count, rng):
    """Pairs of texts with a similarity of about `similar`, in one list one after the other."""
    texts = []
    words = 60
    more = round((words - 2) * (1 / similar - 1))
    for _ in range(count):
        row = [f"w{n}" for n in rng.integers(0, 10**9, words + more)]
        texts += [" ".join(row[:words]), " ".join(row)]
    return texts, (words - 2) / (words - 2 + more)


@pytest.mark.parametrize("similar", [0.5, 0.65, 0.8, 0.9])
def test_pairs_are_found_as_often_as_the_formula_and_as_datasketch_say(similar):
    from datasketch import MinHash, MinHashLSH

    count = 400
    texts, exact = pairs_of(similar, count, np.random.default_rng(2))
    assert abs(exact - similarity(texts[0], texts[1])) < 1e-9
    rows, number = bands(0.8)
    want = 1 - (1 - exact**rows) ** number
    noise = 4 * (want * (1 - want) / count) ** 0.5 + 1 / count

    groups = np.zeros(len(texts), np.int64)
    buckets = module._buckets(ngrams([plain(text) for text in texts], 3), groups, 0.8)
    ours = sum(bool({*buckets[n]} & {*buckets[n + 1]}) for n in range(0, len(texts), 2))
    assert abs(ours / count - want) < noise
    # A control: another length of bands is told from ours where the two differ.
    if similar < 0.7:
        assert abs(ours / count - (1 - (1 - exact ** (rows - 1)) ** number)) > noise
    # Of the pairs that are not made similar none meets.
    assert all(not {*buckets[n]} & {*buckets[n + 2]} for n in range(0, len(texts) - 2, 2))

    index = MinHashLSH(num_perm=rows * number, params=(number, rows))
    theirs = 0
    for text in range(0, len(texts), 2):
        hashes = [MinHash(num_perm=rows * number) for _ in range(2)]
        for one, words in zip(hashes, texts[text : text + 2], strict=True):
            one.update_batch([" ".join(s).encode() for s in shingles(words)])
        index.insert(text, hashes[0])
        theirs += text in index.query(hashes[1])
    assert abs(theirs / count - want) < noise


def test_no_pair_above_the_threshold_is_lost_in_the_whole():
    texts, exact = pairs_of(0.85, 500, np.random.default_rng(3))
    assert exact > 0.8
    # Each is the other and more behind: near duplicates, but for one in hundreds.
    texts = [
        "x".join(text.split("w")).translate(str.maketrans("0123456789", "abcdefghij"))
        for text in texts
    ]
    found = dropped(*texts)
    assert len(found) >= 0.99 * 500
    assert set(found) <= set(range(1, 1000, 2))
    assert reasons(*texts, near=0.9) == {}


# --- The real pool ---


def test_the_real_pool(shared):
    path = shared / "data" / "question_pool.jsonl"
    if not path.is_file():
        pytest.skip("the real pool is not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    questions = [Question(row["question"], source_type=row["source_type"]) for row in rows]
    kept, drops = remove_duplicates(questions, Pool())
    assert len(kept) + len(drops) == len(rows) == 4458
    # Ten problems of AIME that AGIEval has too, set with other spaces; all ten read by eye.
    assert [drop.reason for drop in drops] == ["near"] * 10
    assert {drop.question.source_type for drop in drops} == {"AGIEval/math"}
    assert all(drop.detail.startswith("1.00 similar") for drop in drops)
