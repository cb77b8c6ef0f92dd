"""`decontaminate()`: the questions that are not, and do not quote, a question of the tests.

Reference: s1, `data/decontaminate_util.py` and the end of `data/collect_data.py`; paper, section
2.1. Only questions are compared, never solutions or traces.
"""

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from s1jax.curation_config import Pool
from s1jax.data.funnel import Drop
from s1jax.types import Question

STAGE = "decontamination"
WORDS = 8  # as many in a row are a quotation
SHOWN = 60  # characters of a question in a message

Reason = tuple[str, str]  # of a drop: what it is counted by, and a sentence


@dataclass(frozen=True)
class _Test:
    """A question of an evaluation set."""

    name: str  # of the set
    number: int  # in it, from 0
    text: str

    def __str__(self) -> str:
        return f"question {self.number} (from 0) of {self.name}, {shown(self.text)}"


def decontaminate(
    sources: Sequence[tuple[str, Sequence[Question]]],
    evaluation: Mapping[str, Sequence[str]],
    cfg: Pool,
) -> tuple[list[tuple[str, list[Question]]], list[Drop]]:
    """What is left of each source by its name, and what was dropped; both keep their order.

    The rules of `pool.decontaminate`, against the questions of every evaluation set:
    - "s1": a question that shares 8 words in a row with a test question, as `normalise()` has
      both, is dropped. One of less than 8 words cannot be.
    - "strict": so is one that shares 8 words in a row as `plain()` has both, and one that is, as
      `plain()` has it, as a whole a test question. It drops what "s1" does, and more.
    - "none": all pass.
    A question that several rules drop is counted by the first of these.

    8 words that `pool.phrases_from` questions or more of pool and tests share are a phrase ("where
    m and n are relatively prime positive integers") and no quotation. s1 knows no phrases.

    The order of the sources matters: with `pool.earlier_sources`, what is kept of a source counts
    as test questions (by s1's rule) for the sources behind it. What is dropped does not, and
    questions of one source are not compared with each other.
    """
    assert cfg.decontaminate in ("strict", "s1", "none"), "the config was checked"
    tests = [
        _Test(name, number, text)
        for name, questions in evaluation.items()
        for number, text in enumerate(questions)
    ]
    texts = [question.question for _, questions in sources for question in questions]
    found: dict[int, Reason] = {}  # by the number of the text
    if cfg.decontaminate == "strict":
        forms = [plain(_without_figures(text)) for text in texts]
        test_forms = [plain(_without_figures(test.text)) for test in tests]
        found |= _same(texts, forms, test_forms, tests)
        found |= _quoting(forms, test_forms, tests, " (plain)", cfg.phrases_from)
    forms = [normalise(text) for text in texts]
    if cfg.decontaminate != "none":
        test_forms = [normalise(test.text) for test in tests]
        found |= _quoting(forms, test_forms, tests, "", cfg.phrases_from)
    if cfg.earlier_sources:
        found |= _quoting_earlier(forms, sources, found, cfg.phrases_from)

    kept: list[tuple[str, list[Question]]] = []
    drops: list[Drop] = []
    number = 0
    for name, questions in sources:
        kept.append((name, []))
        for question in questions:
            if number in found:
                drops.append(Drop(question, STAGE, *found[number]))
            else:
                kept[-1][1].append(question)
            number += 1
    return kept, drops


# --- What a question is compared by ---


def normalise(text: str) -> str:
    """The text in lower case with single spaces, s1's form: punctuation and LaTeX stay.

    >>> normalise(" Find  $x$,\\nplease. ")
    'find $x$, please.'
    """
    return " ".join(text.lower().split())


def plain(text: str) -> str:
    r"""The words of a text in lower case: no punctuation, no operators, no LaTeX dress.

    Unicode's variants are one (NFKC), commands that only say how a text looks are gone, \dfrac
    is \frac, indices and exponents are words. Of the rest its letters and digits are left.

    >>> plain(r"Let \(f(x) = \dfrac{x^2y}{2}.\) ") == plain(r"Let $f(x)=\frac{x^{2} y}2$")
    True
    >>> plain(r"What is $\left(\frac12\right)^{10}\text{ cm}\,$?")
    'what is frac 1 2 10 cm'
    >>> plain("\u2212x\u00b2 \u2264 \u201cfive\u201d") == plain(r"$-x^2 \leq$ 'five'")
    True
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _RAISED.sub(r" ^\g<0> ", text))
    text = text.lower()
    if "\\" in text:
        text = _ENVIRONMENT.sub(" ", text)
        text = _DIGITS_OF_FRACTION.sub(r" frac \1 \2 ", text)
        text = _COMMAND.sub(_command, text)
    if "^" in text or "_" in text:
        text = _SCRIPT.sub(r" \1 ", text)
    return " ".join(_WORD.findall(text))


_RAISED = re.compile("[\u00b9\u00b2\u00b3\u2070\u2074-\u2079\u2080-\u2089]+")  # digits
_ENVIRONMENT = re.compile(r"\\(?:begin|end) ?\{[a-z]+\*?\}")
_DIGITS_OF_FRACTION = re.compile(r"\\[cdt]?frac ?(\d) ?(\d)")  # \frac12 is 1/2
_COMMAND = re.compile(r"\\([a-z]+)")
_SCRIPT = re.compile(r"[_^](\d+)")  # x^2y is x^{2}y
_WORD = re.compile(r"[^\W_]+")

# Commands that say how a text looks, and those of symbols that are no letters: what stands for
# them in Unicode is no word either.
_DRESS = frozenset(
    _WORD.findall(
        """left right big bigl bigr bigg biggl biggr bigm middle quad qquad hspace vspace
        displaystyle textstyle limits nolimits text mathrm mathbf mathit mathsf mathbb mathcal
        mathfrak rm bf it textbf textit textrm textsc emph mbox operatorname boldsymbol bm
        underline le leq leqslant ge geq geqslant ne neq lt gt cdot times div pm mp ldots cdots
        dots circ prime colon mid item noindent par"""
    )
)


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name in _DRESS:
        return " "
    return " frac " if name in ("dfrac", "tfrac", "cfrac") else f" {name} "


def shown(text: str) -> str:
    """The beginning of a text for a message, quoted, on one line."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= SHOWN else line[:SHOWN] + "..."}"'


# --- The rules ---


def _without_figures(text: str) -> str:
    """The text without Asymptote's code: drawings begin alike, whatever they show."""
    before, *parts = text.split(_FIGURE)
    # The rest of a part is text. A figure without its end is left out to the next one's beginning.
    return " ".join([before, *(part.partition(_FIGURE_END)[2] for part in parts)])


_FIGURE, _FIGURE_END = "[asy]", "[/asy]"


def _same(
    texts: Sequence[str], forms: Sequence[str], test_forms: Sequence[str], tests: Sequence[_Test]
) -> dict[int, Reason]:
    """Why the texts are dropped that are as a whole a test question, however short."""
    first: dict[str, _Test] = {}
    for form, test in zip(test_forms, tests, strict=True):
        # Of "?" and of "___" nothing is left, and "Find x" with a figure asks for what that shows.
        if form and _FIGURE not in test.text:
            first.setdefault(form, test)
    return {
        number: (f"same as {first[form].name} (plain)", f'is "{form}", as is {first[form]}')
        for number, (text, form) in enumerate(zip(texts, forms, strict=True))
        if form in first and _FIGURE not in text
    }


def _quoting(
    forms: Sequence[str],
    test_forms: Sequence[str],
    tests: Sequence[_Test],
    kind: str,
    phrases_from: int | None,
) -> dict[int, Reason]:
    """Why the texts are dropped that share words with a test question."""
    quotations = _Quotations([*test_forms, *forms], phrases_from)
    quotations.add(np.arange(len(tests)))
    found = {}
    for text, words, quoted in quotations.search(len(tests), len(tests) + len(forms)):
        test = tests[quoted]
        detail = f'shares "{words}" with {test}'
        found[text - len(tests)] = (f"{WORDS} words of {test.name}{kind}", detail)
    return found


def _quoting_earlier(
    forms: Sequence[str],
    sources: Sequence[tuple[str, Sequence[Question]]],
    found: Mapping[int, Reason],
    phrases_from: int | None,
) -> dict[int, Reason]:
    """Why those of the other texts are dropped that share words with one of an earlier source."""
    owners = [(name, question) for name, questions in sources for question in questions]
    quotations = _Quotations(forms, phrases_from)
    added: dict[int, Reason] = {}
    start = 0
    for _, questions in sources:
        stop = start + len(questions)
        for text, words, quoted in quotations.search(start, stop):
            if text not in found:
                name, question = owners[quoted]
                reason = f"{WORDS} words of an earlier source, {name}"
                detail = f"question {question.id} of {name}, {shown(question.question)}"
                added[text] = (reason, f'shares "{words}" with {detail}')
        kept = [text for text in range(start, stop) if text not in found and text not in added]
        quotations.add(np.array(kept, np.int64))
        start = stop
    return added


class _Quotations:
    """Who was the first to write some words, among the texts that were added."""

    def __init__(self, forms: Sequence[str], phrases_from: int | None):
        self._forms = forms
        self._ngrams = ngrams(forms, WORDS)
        if phrases_from is not None:
            self._ngrams = self._ngrams.without_those_of(phrases_from)
        count = int(self._ngrams.numbers.max(initial=-1)) + 1
        self._nobody = len(forms)
        self._first = np.full(count, self._nobody, np.int64)  # by the number of the n-gram

    def add(self, texts: Int64[np.ndarray, " texts"]) -> None:
        """From here on these may be quoted."""
        chosen = np.zeros(len(self._forms), bool)
        chosen[texts] = True
        mine = chosen[self._ngrams.texts]
        np.minimum.at(self._first, self._ngrams.numbers[mine], self._ngrams.texts[mine])

    def search(self, start: int, stop: int) -> Iterator[tuple[int, str, int]]:
        """Texts of a range that quote, each with its first quotation and whom it quotes."""
        begin, end = np.searchsorted(self._ngrams.texts, [start, stop])
        quoted = self._first[self._ngrams.numbers[begin:end]]
        hits = begin + np.flatnonzero(quoted < self._nobody)
        texts, firsts = np.unique(self._ngrams.texts[hits], return_index=True)
        for text, hit in zip(texts.tolist(), hits[firsts].tolist(), strict=True):
            place = int(self._ngrams.places[hit])
            words = self._forms[text].split()[place : place + WORDS]
            yield text, " ".join(words), int(self._first[self._ngrams.numbers[hit]])


# --- n-grams as numbers ---


@dataclass(frozen=True)
class Ngrams:
    """All n-grams of some texts, text after text, each in its order of places."""

    numbers: Int64[np.ndarray, " ngrams"]  # equal where the words are, and only there
    texts: Int64[np.ndarray, " ngrams"]  # which text it is in
    places: Int64[np.ndarray, " ngrams"]  # at which word it begins

    def without_those_of(self, texts: int) -> "Ngrams":
        """Those that fewer than so many texts have."""
        if not len(self.numbers):
            return self
        width = int(self.numbers.max()) + 1  # a text that says an n-gram twice has it once
        owned = np.unique(self.texts * width + self.numbers) % width
        rare = np.bincount(owned, minlength=width)[self.numbers] < texts
        return Ngrams(self.numbers[rare], self.texts[rare], self.places[rare])


def ngrams(texts: Iterable[str], size: int) -> Ngrams:
    """The n-grams of the words between spaces; a text of fewer words has none.

    Nothing is hashed, so nothing can collide: words are numbered as they come, and an n-gram is
    the number of a pair of shorter ones.
    """
    vocabulary: dict[str, int] = {}
    words = array("q")
    ends = array("q")
    for text in texts:
        words.extend(vocabulary.setdefault(word, len(vocabulary)) for word in text.split())
        ends.append(len(words))
    stops = np.array(ends, np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), stops])[:-1]
    counts = np.maximum(stops - starts - size + 1, 0)
    owners = np.repeat(np.arange(len(stops)), counts)
    places = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    # There are more windows than n-grams: some reach from one text into the next.
    windows = _windows(np.array(words, np.int64), size)
    return Ngrams(windows[starts[owners] + places], owners, places)


def _windows(words: Int64[np.ndarray, " words"], size: int) -> Int64[np.ndarray, " windows"]:
    """The number of so many words in a row, from each word on that has as many behind it."""
    if size == 1:
        return words
    half = size // 2
    count = max(len(words) - size + 1, 0)
    left = _windows(words, size - half)
    right = left if size - half == half else _windows(words, half)
    pairs = left[:count] * (right.max(initial=0) + 1) + right[size - half :][:count]
    return np.unique(pairs, return_inverse=True)[1].astype(np.int64)
