"""A question's domain, one of 61 subjects: by its words, or by what a model is asked and replies.

`classify_by_words()` needs no model: TF-IDF, where a subject's words are one document. The prompts
and the contract of the reply are s1's in form (`data/featurization.py`), their text is ours.
"""

import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from functools import cache

import numpy as np
from jaxtyping import Float

from s1jax.data.subjects import SUBJECTS

TITLES = {subject.code: subject.title for subject in SUBJECTS}
# Of a question without a word of any subject: such are short sums and bare puzzles.
FALLBACK = TITLES["97"]

# --- A model is asked ---


@cache
def system_prompt() -> str:
    """What the classifier is told before any question, the rubric of all subjects included.

    s1 has the rubric in every user's message, behind the question. In front of all questions it is
    the same 30,000 characters each time, which servers read once and bill at less.
    """
    rubric = "\n\n".join(
        f"### {subject.title}\n* Code: {subject.code}\n* Topics: {subject.words}"
        for subject in SUBJECTS
    )
    return (
        "You sort questions by subject. Below is a list of subjects, each with its two-digit code"
        " and the topics that belong to it; a message holds one question. Choose the one subject"
        " that the question is mostly about, even where several would do; do not answer the"
        " question itself. Give your reasons in a few sentences. Then write the two-digit code of"
        f" the subject, and nothing else, on a last line of its own.\n\n"
        f"## Classification rubrics\n{rubric}"
    )


def user_prompt(question: str) -> str:
    """The question under s1's heading."""
    return f"## Question\n{question}"


def subject_of_reply(reply: str) -> str | None:
    """The title whose code the reply ends in; None if it ends in anything else.

    s1 takes the last two characters. White space, full stops and the marks of bold and code around
    the code are allowed here; a longer number or a code that is none of the 61 is not.
    """
    found = re.search(r"(?<!\d)(?<!\d[.,])\d\d\Z", reply[-200:].rstrip(" \t\r\n.*_`$)]}\"'"))
    return TITLES.get(found.group()) if found else None


# --- By words ---

# The form of the answer and the layout: they tell nothing of the subject.
_ASIDES = re.compile(
    r"\b(?:(?:are|is|and) relatively prime(?: positive)?(?: integers)?"
    r"|(?:form|written as|expressed as|where)\b[^.]{0,80}\bare (?:\w+ ){0,3}integers"
    r"|remainder (?:obtained )?when [^.]{0,40} is divided by \$?1000?\b"
    r"|divisible by the square of any prime"
    r"|as an? (?:simplified |common |improper |reduced )*(?:fraction|decimal)"
    r"|simplest radical form|to the nearest \w+|[Aa]nswer (?:[Cc]hoices|1 for yes))"
    r"|\\left\b|\\right\b|\\(?:begin|end)\{(?:aligned|array|cases|center|tabular)\}"
)
_ELEMENT = "(?:Al|Ag|Ba|Br|Ca|Cl|Cr|Cu|Fe|Hg|Li|Mg|Mn|Na|Pb|Si|Zn|[BCFHIKNOPS])"
_TOKENS = re.compile(
    # H2SO4, NaCl, \mathrm{CO}_2, \mathrm{N}_{2}: a symbol with a number, or two of them together.
    rf"(?P<formula_>\b(?=[A-Za-z]*[a-z2-9])(?:{_ELEMENT}\d*){{2,9}}\b"
    rf"|\\mathrm\{{(?:{_ELEMENT}){{1,3}}\}}_\{{?\d)"
    r"|(?P<nested_>\b(?P<name>[a-z])\((?:(?P=name)\(|[a-z]+ *[+-] *[a-z]\b))"  # f(f(, f(x+y
    r"|(?P<second_>\b[a-z](?:''|\^\{\\prime *\\prime\}))"  # y''
    r"|(?P<points_>\b[A-Z] [A-Z](?: [A-Z]){0,4}\b)"  # A B C
    r"|\\?[^\W\d_]{2,}"
)
# Commands of LaTeX and short forms, in words. Any other command stands for its name; with a
# backslash here are those that mean something else as plain words.
_ALIASES = {
    "formula_": "compound molecule", "nested_": "functional", "points_": "abc",
    "second_": "differential", "\\mid": "divides", "\\prime": "", "\\sec": "cosine",
    "arccos": "cosine", "arcsin": "sine", "arctan": "arctangent", "binom": "binomial combination",
    "bmatrix": "matrix", "bmod": "modulo", "boldsymbol": "vector", "circ": "degrees",
    "cos": "cosine", "cot": "tangent", "csc": "sine", "dbinom": "binomial combination",
    "det": "determinant", "equiv": "congruent", "exp": "exponent", "iint": "double integral",
    "int": "integral", "lfloor": "floor", "lg": "logarithm", "lim": "limit", "ln": "logarithm",
    "log": "logarithm", "mathbf": "vector", "mod": "modulo", "nabla": "gradient",
    "nmid": "divides", "odot": "circle", "oint": "contour integral", "overarc": "arc",
    "overline": "segment", "overrightarrow": "vector", "partial": "partial derivative",
    "perp": "perpendicular", "pmatrix": "matrix", "pmod": "modulo", "sin": "sine",
    "sqrt": "square root", "sum": "summation", "tan": "tangent", "vec": "vector",
    "vmatrix": "determinant", "widehat": "angle",
}  # fmt: skip
_STOP = {
    "an", "and", "any", "are", "as", "at", "be", "by", "for", "from", "if", "in", "is", "no", "of",
    "on", "or", "over", "that", "the", "to", "with",
}  # fmt: skip
_SUFFIXES = ("ations", "ation", "ingly", "ings", "ing", "edly", "ed", "ally", "ly", "es", "e")


def classify_by_words(questions: Sequence[str]) -> list[str]:
    """The title of each question's subject: that of the largest score, the first where two tie.

    The score is the sum of (1 + log count in the question) (1 + log count in the subject's words)
    log(62 / subjects with the word). It is not divided by a norm of the subject: the cosine gives
    rare subjects, which have few words, the questions of the common ones, and a selection that
    draws evenly over domains would take those wrong ones first.

    A question without a single word of any subject is of `FALLBACK`. The weights come from the
    subjects alone, so that a question's domain depends on no other question.
    """
    vocabulary, weights = _subject_weights()
    known: dict[str, list[int]] = {}  # the numbers of every token that was seen
    return [_title(question, vocabulary, weights, known) for question in questions]


def _title(
    question: str,
    vocabulary: dict[str, int],
    weights: Float[np.ndarray, "V S"],
    known: dict[str, list[int]],
) -> str:
    counts: Counter[int] = Counter()
    for token, count in Counter(_tokens(question)).items():
        if token not in known:
            stems = _stems(token, vocabulary)
            known[token] = [vocabulary[stem] for stem in stems if stem in vocabulary]
        for number in known[token]:
            counts[number] += count
    if not counts:
        return FALLBACK
    numbers = sorted(counts)  # sums in one order, whatever the order of the words
    frequencies = np.array([1 + math.log(counts[number]) for number in numbers])
    scores = frequencies @ weights[numbers]
    return SUBJECTS[int(np.argmax(scores.round(9)))].title  # no tie hangs on a last bit


@cache
def _subject_weights() -> tuple[dict[str, int], Float[np.ndarray, "V S"]]:
    """Every stem's number, and the weights of the stems, a column a subject."""
    documents = [
        Counter(
            stem
            for token in _tokens(f"{subject.title}, {subject.words}")
            for stem in _stems(token, ())
            if stem not in _STOP
        )
        for subject in SUBJECTS
    ]
    vocabulary = {stem: number for number, stem in enumerate(sorted(set().union(*documents)))}
    frequencies = np.zeros((len(vocabulary), len(SUBJECTS)))
    for column, document in enumerate(documents):
        for stem, count in document.items():
            frequencies[vocabulary[stem], column] = 1 + math.log(count)
    subjects_with = (frequencies > 0).sum(axis=1, keepdims=True)
    return vocabulary, frequencies * np.log((1 + len(SUBJECTS)) / subjects_with)


def _tokens(question: str) -> Iterable[str]:
    """What stands in a question, pictures drawn in code left out, formulas and points as one."""
    before, *pictures = question.split("[asy]")
    text = before + "".join(" diagram " + code.partition("[/asy]")[2] for code in pictures)
    for found in _TOKENS.finditer(_ASIDES.sub(" ", text)):
        yield found.lastgroup or found.group()


def _stems(token: str, vocabulary: Container[str]) -> list[str]:
    """The stems of a token: one, or those of its words if it is a command or a short form."""
    word = token if token in _ALIASES else token.removeprefix("\\").lower()
    if word in _ALIASES:
        return [_stem(part) for part in _ALIASES[word].split()]
    stem = _stem(word)
    if stem in vocabulary or word in _STOP:
        return [stem]
    is_points = token.isupper() and len(set(token)) == len(token) <= 6  # ABC
    return ["abc"] if is_points else [stem]


def _stem(word: str) -> str:
    """A word without the commonest endings, never under four letters."""
    if word.endswith("ies") and len(word) > 5:
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            return word[: -len(suffix)]
    return word
