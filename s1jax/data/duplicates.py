"""`remove_duplicates()`: each question once, and once only what is nearly the same.

Exact duplicates are s1's (the end of `data/collect_data.py`); it has no rule for near ones.
"""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt64

from s1jax.curation_config import Pool
from s1jax.data.decontaminate import Ngrams, ngrams, plain, shown
from s1jax.data.funnel import Drop
from s1jax.types import Question

STAGE = "duplicates"
# A word that differs changes three shingles: in a question of 40 words one word may differ at a
# similarity of 0.8, not two. Single words would not see their order; with longer shingles one
# word would cost a short question too much (with 8, a similarity of 0.6).
SHINGLE = 3  # words
FOUND = 0.99  # of the pairs that are just as similar as asked for, at least so many are found
MAX_HASHES = 128  # of a question
SEED = 0  # of the hashes


def remove_duplicates(
    questions: Sequence[Question], cfg: Pool
) -> tuple[list[Question], list[Drop]]:
    """What is left, and what was dropped, both in their order: of the same the first is kept.

    - "exact": the text is that of a question before.
    - "near": the question is similar to one that was kept, and asks for the same. Similar is a
      Jaccard similarity of at least `pool.near_duplicates`, of the shingles of three words as
      `plain()` has them. It asks for the same if `figures()` of both are equal, and `content()` of
      the one is a piece of the other's: "What is 3 + 4?" and "What is 3 + 5?" are two questions
      in whatever words, and so are those for the work and for the heat of one long experiment.
      A question of less than three words has no near duplicates.

    Similar pairs are found by MinHash: under a random order of all shingles, two questions have
    the same first one with a probability of their similarity. See `bands()` for how many are
    found. What is found is compared exactly: chance drops no question.
    """
    found = _exact(questions)
    unique = [number for number in range(len(questions)) if number not in found]
    if cfg.near_duplicates <= 1:
        near = _near([questions[number].question for number in unique], cfg.near_duplicates)
        for text, (other, similarity) in near.items():
            detail = f"{similarity:.2f} similar to {_named(questions[unique[other]])}"
            found[unique[text]] = ("near", detail)
    kept = [question for number, question in enumerate(questions) if number not in found]
    return kept, [Drop(questions[number], STAGE, *found[number]) for number in sorted(found)]


def _exact(questions: Sequence[Question]) -> dict[int, tuple[str, str]]:
    """Reason and detail of those whose text was there before, by their numbers."""
    first: dict[str, int] = {}
    found = {}
    for number, question in enumerate(questions):
        same = first.setdefault(question.question, number)
        if same != number:
            found[number] = ("exact", f"the same text as {_named(questions[same])}")
    return found


def _named(question: Question) -> str:
    place = f" ({question.place})" if question.place else ""
    return f"question {question.id}{place}, {shown(question.question)}"


def bands(threshold: float) -> tuple[int, int]:
    """How many hashes are in a band, and how many bands there are.

    Two questions of similarity s share a band of r hashes with a probability of s**r, and one or
    more of b bands with 1 - (1 - s**r)**b: the more similar, the likelier. b is the least with
    which that is 0.99 at the threshold. A longer band lets less pairs through that are not
    similar, so r is the largest with no more than 128 hashes in all.

    For 0.8 that is r = 6 and b = 16: 1 - (1 - 0.262)**16 = 0.992.

    >>> bands(0.8), bands(0.5), bands(1.0)
    ((6, 16), (3, 35), (128, 1))
    """
    best = (1, _bands(threshold))
    for rows in range(2, MAX_HASHES + 1):
        needed = _bands(threshold**rows)
        if rows * needed <= MAX_HASHES:
            best = (rows, needed)
    return best


def _bands(shared: float) -> int:
    return 1 if shared >= FOUND else math.ceil(math.log(1 - FOUND) / math.log1p(-shared))


# --- What a question asks for ---


def content(form: str) -> str:
    """The words of a plain form without the small ones, which may differ in near duplicates.

    There may be more before or behind: a heading, a note, who proposed it.

    >>> content("find the greatest value of x") == content("what is the greatest x")
    True
    >>> content("find the greatest x") in content("problem 3 find the greatest x by euler")
    True
    >>> content("find the greatest x") in content("find the least x")
    False
    """
    return " ".join(word for word in form.split() if word not in _SMALL)


# None of these turns a question into another one, as "or", "not", "all", "to" and "by" do.
_SMALL = frozenset(
    re.findall(
        r"\w+",
        """a an the of in on at for as is are be was were has have had do does that which
        where such and then so thus if when let suppose assume given it its this these there
        find compute determine calculate evaluate what value please""",
    )
)


def figures(text: str) -> str:
    r"""The numbers and signs of a text in their order: questions that differ in them are two.

    Signs are mathematical ones in ASCII, Unicode or LaTeX, and decimal points: what `plain()`
    leaves out. A hyphen in a word is none.

    >>> figures(r"The x-values $\le -1.5$") == figures("the x values \u2264 \u22121.5")
    True
    >>> figures("Find $x^2 - 3$.") == figures("Find $x^2 + 3$.")
    False
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = _DASH.sub("-", text)
    text = _SIGN_COMMAND.sub(lambda match: _SIGNS[match[1]], text.lower())
    text = _HYPHEN.sub(" ", _SPACE_COMMAND.sub(" ", text))
    return " ".join(_FIGURE.findall(text))


_SIGNS = {
    **dict.fromkeys(("le", "leq", "leqslant"), "\u2264"),
    **dict.fromkeys(("ge", "geq", "geqslant"), "\u2265"),
    **dict.fromkeys(("ne", "neq"), "\u2260"),
    **{"lt": "<", "gt": ">", "times": "\u00d7", "div": "\u00f7", "pm": "\u00b1", "mp": "\u2213"},
    "cdot": "\u22c5",
}
_SIGN_COMMAND = re.compile(rf"\\({'|'.join(_SIGNS)})(?![a-z])")
_SPACE_COMMAND = re.compile(r"\\[^a-z0-9]")  # "\!" is no factorial
_DASH = re.compile("[\u2010-\u2015\u2212]")
_HYPHEN = re.compile(r"(?<=[^\W\d_])(?:-| - )(?=[^\W\d_])")
# + - * / < = > ! and Unicode's signs: of arithmetic, of relations, of sets, of logic, arrows.
_FIGURE = re.compile(r"\d+(?:\.\d+)?|[-+*/<=>!\u00ac\u00b1\u00d7\u00f7\u2190-\u21ff\u2200-\u22ff]")


# --- MinHash ---


def _near(texts: Sequence[str], threshold: float) -> dict[int, tuple[int, float]]:
    """The texts to be dropped by number: the first of the kept that is similar, and how similar."""
    forms = [plain(text) for text in texts]
    shingles = ngrams(forms, SHINGLE)
    buckets = _buckets(shingles, _numbered([figures(text) for text in texts]), threshold)
    ends = np.searchsorted(shingles.texts, np.arange(len(texts)), side="right")
    starts = np.searchsorted(shingles.texts, np.arange(len(texts)))

    def shingles_of(text: int) -> set[int]:
        return set(shingles.numbers[starts[text] : ends[text]].tolist())

    contents = {text: f" {content(forms[text])} " for text in buckets}
    kept: dict[int, list[int]] = defaultdict(list)  # by their buckets
    found: dict[int, tuple[int, float]] = {}
    for text in sorted(buckets):
        mine = contents[text]
        others = {other for bucket in buckets[text] for other in kept[bucket]}
        # A pool may hold thousands that differ in a name: this is what tells them apart quickly.
        asked = [o for o in others if mine in contents[o] or contents[o] in mine]
        for other in sorted(asked):
            here, there = shingles_of(text), shingles_of(other)
            similarity = len(here & there) / len(here | there)
            if similarity >= threshold:
                found[text] = (other, similarity)
                break
        else:
            for bucket in buckets[text]:
                kept[bucket].append(text)
    return found


def _numbered(keys: Sequence[str]) -> Int64[np.ndarray, " keys"]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _buckets(
    shingles: Ngrams, groups: Int64[np.ndarray, " texts"], threshold: float
) -> dict[int, list[int]]:
    """The buckets of every text that shares one: with the same group, and the hashes of a band.

    The order of the shingles is by h(x) = (a x + c) mod 2**64, its upper 32 bits, with x of 32
    bits: as good as one modulo a prime (2-independent), and no division.
    """
    texts, starts = np.unique(shingles.texts, return_index=True)
    if not len(texts):
        return {}
    rng = np.random.default_rng(SEED)
    # Mixed: the numbers of a text's shingles follow each other, and a linear hash keeps that.
    mixed = _mixed(shingles.numbers.astype(np.uint64)) >> np.uint64(32)
    rows, count = bands(threshold)
    buckets: dict[int, list[int]] = defaultdict(list)
    used = 0
    for _ in range(count):
        keys = _mixed(groups[texts].astype(np.uint64))
        for factor, offset in rng.integers(0, 2**64, (rows, 2), np.uint64):
            hashes = (mixed * (factor | np.uint64(1)) + offset) >> np.uint64(32)
            keys = _mixed(keys ^ np.minimum.reduceat(hashes, starts))
        _, places, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        shared = np.flatnonzero(sizes[places] > 1)
        for text, place in zip(texts[shared].tolist(), places[shared].tolist(), strict=True):
            buckets[text].append(used + place)
        used += len(sizes)
    return buckets


def _mixed(numbers: UInt64[np.ndarray, " numbers"]) -> UInt64[np.ndarray, " numbers"]:
    """One to one, every bit of the result by every bit of the number: splitmix64's last steps."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
