r"""Rules by which two short answers are the same, or surely are not; text alone, nothing is run.

What the rules leave open goes to math-verify, part by part. They come first since they are exact
where it is not: it compares to six decimals, drops units and bases, takes (1, 2) for \{1, 2\} and
"listen" for "silent", and does not see that x < 3 is (-\infty, 3).
"""

import re
from collections.abc import Callable
from functools import partial

from s1jax.evaluation.quantities import (
    MONEY,
    NUMBER_WORDS,
    quantity,
    same_quantity,
    without_unit,
)
from s1jax.evaluation.structure import (
    UNORDERED,
    elements,
    interval_form,
    parts_of_union,
    same_brackets,
)

MAX_CHARS = 2000  # of what math-verify is given
MAX_DEPTH = 4  # of lists in lists
MAX_UNORDERED = 20  # parts that are matched one by one

Ruling = tuple[bool, str]  # whether they are equal, and the rule's name
Pairs = list[tuple[str, str]]  # formulas that math-verify must find equal, all of them

_HOSTILE = re.compile(
    r"__|(?<!\\)\b(?:import|lambda|globals|builtins)\b|\b(?:eval|exec|open|compile|getattr)\s*\(",
    re.IGNORECASE,
)

# How LaTeX is dressed without a change of what it says; in this order.
_UNDRESS = tuple(
    (re.compile(pattern), clean)
    for pattern, clean in (
        (r"\\\$ ?(?=[-.\d])", MONEY),
        (r"(?<!\\)\\[()\[\]]|\\?\$", " "),
        (r"\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?![a-zA-Z])", ""),
        (r"\\(?:displaystyle|textstyle|limits|hfill|space|quad|qquad)(?![a-zA-Z])", " "),
        (r"(?<!\\)\\[!,;: ]|~|\u00a0", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\mathbf\s*\{([\d ]+)\}", lambda m: m.group(1).replace(" ", "")),
        (r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\{,\}", ","),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d|\{[^{}]*\})\s*(\d|\{[^{}]*\})", r"\\frac{\1}{\2}"),
        (r"\\frac\{\{([^{}]*)\}\}", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\})\{\{([^{}]*)\}\}", r"\1{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"\\(le|ge|ne)q(?:slant)?(?![a-zA-Z])", r"\\\1"),
        (r"\u2264", r"\\le "),
        (r"\u2265", r"\\ge "),
        (r"\u2260", r"\\ne "),
        (r"\u221e", r"\\infty "),
        (r"\+\\infty", r"\\infty"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])", "°"),
        (r"\\%", "%"),
        (r"[\u2212\u2013]", "-"),
        (r"\\(?:times|cdot)(?![a-zA-Z])|[\u00d7\u00b7]", r" \\cdot "),
        (r"([\^_])\s*\{(\w)\}", r"\1\2"),
        (r"\s+", " "),
        (r"(?<![\w.]) | (?![\w.])", ""),
        (r"(?i)\A(?:all )?real numbers\Z", r"\\mathbb{R}"),
        (r"\.$", ""),
    )
)  # fmt: skip
# What math-verify reads otherwise than it is meant.
_FORMULA = tuple(
    (re.compile(pattern), clean)
    for pattern, clean in (
        (rf"\\?\$|{MONEY}", " "),
        (r"(?<=\d)(?:\{,\}|,\\!) ?(?=\d{3})", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"(?<![\w.^}])(\d+) ?\\frac ?\{(\d+)\}\{(\d+)\}", r"(\1+\\frac{\2}{\3})"),
        (r"(?<=\d)i(?![a-zA-Z])", " i"),
        (r"\s+", " "),
    )
)

_CHOICE = re.compile(r"\(?([A-Ja-j])\)?")
_CHOSEN = re.compile(
    r"(?:\(?(?:option|choice|answer) ?:?)? ?"
    r"(?:\(([A-J])\)(?:[^\^_*+/=(-].*)?|([A-J])(?:[.:)].*)?)",
    re.IGNORECASE,
)
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}
_BASED = re.compile(
    r"\(?(\d[\dA-Za-z.]{0,100})\)?"
    r"(?:_\{?(\d{1,2}|[a-z]{3,7})\}?|[_ ]?\{? ?\(?base ?(\d{1,2}|[a-z]{3,7})\)?\}?)"
)
_VALUES = "0123456789abcdefghijklmnopqrstuvwxyz"
_DIGITS = re.compile(r"\(?(\d[\dA-Za-z.]{0,100})\)?")
_RESIDUE = re.compile(
    r"(?:[a-zA-Z] ?(?:\\equiv|=) ?)?(-?\d{1,100})(?: ?\(?\\?[pb]?mod ?\{?(\d{1,100})\}?\)?)?"
)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))? ?(?:([ap])\.?m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r"(\d{1,40})(:| to |/)(\d{1,40})")
_WORDY = re.compile(r"(?:[\w' .,]|(?<=\w)-(?=\w))*")
_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_SAYS_NOTHING = {"the", "a", "an", "is", "it", "its", "are", "and"}
_NAME = re.compile(
    r"[a-zA-Z]|\\[a-z]{2,8}|[a-zA-Z](?:\^\{-1\})?\(\w\)|\([a-zA-Z](?:,[a-zA-Z]){1,5}\)|\w_\w"
)


def by_rules(reference: str, answer: str, digits: int = 6) -> Ruling | None:
    """Whether an answer is the reference, with the rule's name; None: the rules do not say.

    A decimal of at least so many `digits` stands for all that round to it.
    """
    said = compare(reference, answer, digits)
    return said if isinstance(said, tuple) else None


def compare(reference: str, answer: str, digits: int = 6, depth: int = 0) -> Ruling | Pairs:
    """What the rules say of an answer, or what is left to ask math-verify: one pair at least."""
    gold, given = plain(reference), plain(answer)
    if gold == given or (_has_word(gold) and gold.lower() == given.lower()):
        return True, "same text"
    for rule in (_truth, _choice, _based, _residue, _clock, _ratio):
        if ruled := rule(gold, given):
            return ruled
    ours, theirs = quantity(gold), quantity(given)
    if ours and theirs:
        return same_quantity(ours, theirs, digits)
    if ours is None and (ruled := _words(gold, given, r"\text" in reference)):
        return ruled
    if depth < MAX_DEPTH:
        again = partial(compare, digits=digits, depth=depth + 1)
        for look in (_rewritten, _in_radians, _structured):
            if (said := look(gold, given, again)) is not None:
                return said
    return [(formula(reference), formula(answer))]


def looks_hostile(text: str) -> str | None:
    """Why a text is not given to math-verify; None: it may be."""
    if len(text) > MAX_CHARS:
        return "too long"
    return "looks like code" if _HOSTILE.search(text) else None


def plain(text: str) -> str:
    """A text without LaTeX's dress and without spaces that say nothing."""
    text = text.strip()
    if text.count("$") == 1:  # is no sign of a formula
        text = text.replace("$", r"\$").replace(r"\\$", r"\$")
    for pattern, clean in _UNDRESS:
        text = pattern.sub(clean, text)
    return text.strip()


def formula(text: str) -> str:
    """A text as one LaTeX formula, without dollar signs or line ends inside."""
    for pattern, clean in _FORMULA:
        text = pattern.sub(clean, text)
    return text.strip()


# --- Rules for short texts ---


def _truth(gold: str, given: str) -> Ruling | None:
    if gold.lower() not in _TRUTH:
        return None
    first = re.split(r"[^a-z]", given.lower(), maxsplit=1)[0]
    if first not in _TRUTH:
        return False, "no truth value"
    return _TRUTH[gold.lower()] == _TRUTH[first], "truth value"


def _choice(gold: str, given: str) -> Ruling | None:
    choice, chosen = _CHOICE.fullmatch(gold), _CHOSEN.fullmatch(given)
    if not choice or not chosen:
        return None
    letter = chosen.group(1) or chosen.group(2)
    return choice.group(1).upper() == letter.upper(), "choice"


def _based(gold: str, given: str) -> Ruling | None:
    """Of 1011_2: the same digits in the same base; an answer may leave out which."""
    read = [(_BASED.fullmatch(text), _DIGITS.fullmatch(text)) for text in (gold, given)]
    if not any(based for based, _ in read) or not all(based or bare for based, bare in read):
        return None
    found = [based or bare for based, bare in read]
    digits = {match.group(1).lower().lstrip("0") for match in found if match}
    named = [based.group(2) or based.group(3) for based, _ in read if based]
    bases = {NUMBER_WORDS.get(name, int(name) if name.isdigit() else 0) for name in named}
    if any(_VALUES.find(figure) >= max(bases) for figure in set("".join(digits)) - {"."}):
        return None  # a variable with an index
    if not read[0][0] and bases != {10}:
        return False, "digits in a base"
    return len(digits) == 1 and len(bases) == 1, "digits in a base"


def _residue(gold: str, given: str) -> Ruling | None:
    ours, theirs = _RESIDUE.fullmatch(gold), _RESIDUE.fullmatch(given)
    if not ours or not theirs or not (ours.group(2) or theirs.group(2)):
        return None
    moduli = {int(match.group(2)) for match in (ours, theirs) if match.group(2)}
    apart = int(ours.group(1)) - int(theirs.group(1))
    if ours.group(2) and theirs.group(2) and len(moduli) == 1 and (modulus := moduli.pop()):
        return apart % modulus == 0, "residue"
    return not moduli or (len(moduli) == 1 and apart == 0), "residue"


def _clock(gold: str, given: str) -> Ruling | None:
    ours, theirs = _CLOCK.fullmatch(gold), _CLOCK.fullmatch(given)
    if not ours or not theirs:
        return None
    if not all(match.group(2) or match.group(3) for match in (ours, theirs)):
        return None  # a number
    halves = {match.group(3).lower() for match in (ours, theirs) if match.group(3)}
    same = [int(n or 0) for n in ours.groups()[:2]] == [int(n or 0) for n in theirs.groups()[:2]]
    return same and len(halves) <= 1, "time of day"


def _ratio(gold: str, given: str) -> Ruling | None:
    ours, theirs = _RATIO.fullmatch(gold), _RATIO.fullmatch(given)
    if not ours or not theirs or ours.group(2) == theirs.group(2) == "/":
        return None
    (a, b), (c, d) = [(int(r.group(1)), int(r.group(3))) for r in (ours, theirs)]
    return a * d == b * c, "ratio"


def _words(gold: str, given: str, is_text: bool) -> Ruling | None:
    """Of a reference that is words: the same ones."""
    words = is_text or _has_word(gold, 4) or NUMBER_WORDS.keys() >= set(gold.lower().split())
    if not _WORDY.fullmatch(gold) or not words or not _has_word(gold):
        return None
    wanted, said = _tokens(gold), _tokens(given)
    named = _tokens(given.rpartition(" is ")[2])
    if "," in gold or " and " in gold:
        wanted, said, named = sorted(wanted), sorted(said), sorted(named)
    return (True, "same words") if wanted in (said, named) else (False, "other words")


def _tokens(text: str) -> list[str]:
    return [t for t in _TOKEN.findall(text.lower()) if t not in _SAYS_NOTHING]


def _has_word(text: str, letters: int = 3) -> bool:
    return any(len(t) >= letters and t.isalpha() for t in re.findall(r"(?<!\\)\b\w+", text))


# --- Looks at formulas: the same said in another way, and in parts ---

Again = Callable[[str, str], Ruling | Pairs]


def _rewritten(gold: str, given: str, again: Again) -> Ruling | Pairs | None:
    """Without a unit at the end, a name in front, an approximation behind."""
    (bare_gold, unit), (bare_given, other) = without_unit(gold), without_unit(given)
    if (bare_gold, bare_given) != (gold, given):
        size = other.over(unit)
        if size is None:
            return False, "other unit"
        if size != 1:
            bare_given = rf"({bare_given})\cdot\frac{{{size.numerator}}}{{{size.denominator}}}"
        return again(bare_gold, bare_given)
    if r"\approx" in given and r"\approx" not in gold:
        sides = given.split(r"\approx")[:3]
        ruled = [said for side in sides if (said := again(gold, side)) and said[0] is True]
        return ruled[0] if ruled else again(gold, sides[0])
    (name, value), (other_name, other_value) = _named(gold), _named(given)
    if value and other_value:
        return again(value, other_value) if name == other_name else None
    if other_value and "=" not in gold:
        return again(gold, other_value)
    if value and "=" not in given:
        return again(value, given)
    # A chain of equations; not n = 3 or n = 5.
    if "=" in given and "=" not in gold and not re.search(r",(?!\d{3})|;|\b(?:or|and)\b", given):
        ruled_last = again(gold, given.rpartition("=")[2])
        return ruled_last if isinstance(ruled_last, tuple) and ruled_last[0] else None
    return None


def _named(text: str) -> tuple[str, str]:
    """The name and what it is said to be: y = 2x + 3, f(x) = x^2, (a,b) = (1,2)."""
    name, _, said = text.partition("=")
    return (name, said) if "=" not in said and _NAME.fullmatch(name) and said else ("", "")


def _in_radians(gold: str, given: str, again: Again) -> Ruling | Pairs | None:
    """Degrees where the other side is so many pi."""
    for degrees, radians in ((gold, given), (given, gold)):
        angle = quantity(degrees)
        if angle and angle.unit.name == "°" and r"\pi" in radians and "°" not in radians:
            turned = angle.value / 180
            spelled = rf"\frac{{{turned.numerator}\pi}}{{{turned.denominator}}}"
            return again(spelled, given) if degrees is gold else again(gold, spelled)
    return None


def _structured(gold: str, given: str, again: Again) -> Ruling | Pairs | None:
    """Part by part: tuples, vectors, matrices and intervals in order, lists and sets in any."""
    ours, theirs = interval_form(gold), interval_form(given)
    if ours and theirs and (ours.text, theirs.text) != (gold, given):
        if ours.variable and theirs.variable and ours.variable != theirs.variable:
            return None
        return again(ours.text, theirs.text)
    unions = parts_of_union(gold), parts_of_union(given)
    if len(unions[0]) == len(unions[1]) > 1:
        return _in_any_order(*unions, again)
    listed, other = elements(gold), elements(given)
    if listed is None or other is None:
        return None
    if listed.kind in UNORDERED and other.kind in UNORDERED:
        return _in_any_order(listed.parts, other.parts, again)
    if not same_brackets(listed, other):
        return False, "other brackets"
    if len(listed.parts) != len(other.parts):
        return False, "other length"
    return _in_order(listed.parts, other.parts, again)


def _in_order(gold: list[str], given: list[str], again: Again) -> Ruling | Pairs:
    pairs: Pairs = []
    for ours, theirs in zip(gold, given, strict=True):
        said = again(ours, theirs)
        if isinstance(said, list):
            pairs += said
        elif not said[0]:
            return said
    return pairs or (True, "same parts")


def _in_any_order(gold: list[str], given: list[str], again: Again) -> Ruling | None:
    """Only what the rules can say of all the parts: a part that is open may be any of them."""
    gold, given = _both_signs(gold), _both_signs(given)
    if max(len(gold), len(given)) > MAX_UNORDERED:
        return None
    left, is_open = list(given), False
    for ours in gold:
        said = [again(ours, theirs) for theirs in left]
        equal = [ruling[0] if isinstance(ruling, tuple) else None for ruling in said]
        if True in equal:
            left.pop(equal.index(True))
        elif None in equal:
            is_open = True
        else:
            return False, "other parts"
    if is_open:
        return None
    return (True, "same parts") if not left else (False, "other length")


def _both_signs(parts: list[str]) -> list[str]:
    found = []
    for part in parts:
        if r"\pm" in part:
            found += [part.replace(r"\pm", "+").replace(r"\mp", "-")]
            found += [part.replace(r"\pm", "-").replace(r"\mp", "+")]
        else:
            found.append(part)
    return found
