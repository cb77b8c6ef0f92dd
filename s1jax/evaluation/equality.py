r"""Rules by which two short answers are the same, or surely are not; text alone, nothing is run.

What the rules leave open goes to math-verify. They come first since they are exact where it is
not: it compares to six decimals, so that 1e-24 is 2e-24, and drops units, so that 5 m is 5 km.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 2000  # of what math-verify is given

_HOSTILE = re.compile(
    r"__|(?<!\\)\b(?:import|lambda|globals|builtins)\b|\b(?:eval|exec|open|compile|getattr)\s*\(",
    re.IGNORECASE,
)

# How LaTeX is dressed without a change of what it says; in this order.
_UNDRESS = tuple(
    (re.compile(pattern), clean)
    for pattern, clean in (
        (r"\\[()\[\]]|\\?\$", " "),
        (r"\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?![a-zA-Z])", ""),
        (r"\\(?:displaystyle|textstyle|limits|hfill|space|quad|qquad)(?![a-zA-Z])", " "),
        (r"\\[!,;: ]|~|\u00a0", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\mathbf\s*\{([\d ]+)\}", lambda m: m.group(1).replace(" ", "")),
        (r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\{,\}", ","),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"\\(?:le|ge|ne)q(?![a-zA-Z])", lambda m: m.group()[:-1]),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])", "°"),
        (r"\\%", "%"),
        (r"[\u2212\u2013]", "-"),
        (r"\\(?:times|cdot)(?![a-zA-Z])|[\u00d7\u00b7]", r" \\cdot "),
        (r"([\^_])\s*\{(\w)\}", r"\1\2"),
        (r"\s+", " "),
        (r"(?<![\w.]) | (?![\w.])", ""),
        (r"\.$", ""),
    )
)  # fmt: skip

_CHOICE = re.compile(r"\(?([A-Ja-j])\)?")
_CHOSEN = re.compile(
    r"(?:\(?(?:option|choice|answer) ?:?)? ?(?:\(([A-Ja-j])\)|([A-J])(?:[.:)]|$)).*", re.I
)
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}
_FRACTION = re.compile(r"(\d{1,40})/(\d{1,40})(?!\d)|\\frac\{(-?\d{1,40})\}\{(\d{1,40})\}")
_DECIMAL = re.compile(
    r"(\d{1,3}(?:[, ]\d{3}){1,12}(?!\d)|\d{1,100}|(?=\.\d))(?:\.(\d{0,100}))?"
    r"(?:[eE]([-+]?\d{1,3})(?!\d))?"
)
_POWER = re.compile(r"(?:\\cdot ?|\*| )?10\^(?:\{([-+]?\d{1,3})\}|([-+]?\d))")
_BARE_POWER = re.compile(r"(?=10\^)")
_UNIT = re.compile(r"(%|°|[a-zA-ZµμΩ]+)(?:\^(?:\{(-?\d)\}|(\d)))?")
_PREFIXED = re.compile(
    r"(?:[fpnµμmcdkMGT]|mu )?(?:m|s|g|J|K|N|V|W|A|C|T|F|Hz|Pa|eV|mol|L|cal|bar|Wb|Ω)"
    r"|°|%|min|h|hr|atm|lb|ft|kcal|amu|u|rad"
)


@dataclass(frozen=True)
class _Quantity:
    value: Fraction
    digits: int | None  # that are significant; None: it is exact, no decimal
    last: Fraction  # what one in the last digit is worth
    unit: str


def by_rules(reference: str, answer: str, digits: int = 6) -> tuple[bool, str] | None:
    """Whether an answer is the reference, with the rule's name; None: the rules do not say.

    A decimal of at least so many `digits` stands for all that round to it.
    """
    gold, given = plain(reference), plain(answer)
    if gold == given or (len(gold) > 2 and gold.lower() == given.lower()):
        return True, "same text"
    if gold.lower() in _TRUTH:
        first = re.split(r"[^a-z]", given.lower(), maxsplit=1)[0]
        if first not in _TRUTH:
            return False, "no truth value"
        return _TRUTH[gold.lower()] == _TRUTH[first], "truth value"
    choice, chosen = _CHOICE.fullmatch(gold), _CHOSEN.fullmatch(given)
    if choice and chosen:
        letter = chosen.group(1) or chosen.group(2)
        return choice.group(1).upper() == letter.upper(), "choice"
    ours, theirs = _quantity(gold), _quantity(given)
    if ours and theirs:
        return _same_quantity(ours, theirs, digits)
    # y = 5 where the reference has 5, and a chain of equations; not n = 3 or n = 5.
    if "=" in given and "=" not in gold and not re.search(r"[,;]|\b(?:or|and)\b", given):
        ruled = by_rules(gold, given.rpartition("=")[2], digits)
        return ruled if ruled and ruled[0] else None
    # (1, 2) where the reference has 1, 2: brackets were not asked for.
    if "," in gold and gold[0] not in "([{\\" and re.fullmatch(r"[(\[].*[)\]]", given):
        return (True, "same text") if given[1:-1] == gold else None
    return None


def looks_hostile(text: str) -> str | None:
    """Why a text is not given to math-verify; None: it may be."""
    if len(text) > MAX_CHARS:
        return "too long"
    return "looks like code" if _HOSTILE.search(text) else None


def plain(text: str) -> str:
    """A text without LaTeX's dress and without spaces that say nothing."""
    text = text.strip()
    for pattern, clean in _UNDRESS:
        text = pattern.sub(clean, text)
    return text.strip()


def _same_quantity(gold: _Quantity, given: _Quantity, digits: int) -> tuple[bool, str]:
    if gold.unit and given.unit and gold.unit != given.unit:
        return False, "other unit"
    values = [given.value]
    if "%" in (gold.unit, given.unit) and gold.unit != given.unit:  # 50% is 50 and 0.5
        values.append(given.value * (100 if gold.unit else Fraction(1, 100)))
    if gold.value in values:
        return True, "same number"
    for rounded, other in ((gold, given), (given, gold)):
        enough = rounded.digits is not None and rounded.digits >= digits
        finer = other.digits is None or other.last <= rounded.last
        if enough and finer and abs(rounded.value - other.value) <= rounded.last / 2:
            return True, "same number, rounded"
    return False, "other number"


def _quantity(text: str) -> _Quantity | None:
    """The number that a plain text is, and its unit; None: it is no number."""
    sign = -1 if text.startswith("-") else 1
    text = text.lstrip("+-") if text[:1] in ("+", "-") else text
    if found := _FRACTION.match(text):
        top, bottom = (int(n) for n in found.groups() if n is not None)
        value, digits, last = Fraction(top, bottom) if bottom else None, None, Fraction(0)
        end = found.end()
    else:
        read = _decimal(text)
        if read is None:
            return None
        value, digits, last, end = read
    after_power = not found and text[end - 1] == "}"
    unit = _unit(" " * after_power + text[end:])
    if value is None or unit is None:
        return None
    return _Quantity(sign * value, digits, last, unit)


def _decimal(text: str) -> tuple[Fraction, int | None, Fraction, int] | None:
    """Value, significant digits, worth of the last one, and where the number ends."""
    mantissa = _BARE_POWER.match(text) or _DECIMAL.match(text)
    if mantissa is None:
        return None
    end = mantissa.end()
    whole, decimals, exponent = mantissa.groups() if mantissa.re is _DECIMAL else ("1", None, None)
    if exponent is None and (power := _POWER.match(text, end)):
        exponent, end = power.group(1) or power.group(2), power.end()
    figures = re.sub("[, ]", "", whole) + (decimals or "")
    last = Fraction(10) ** (int(exponent or 0) - len(decimals or ""))
    inexact = decimals is not None or exponent is not None
    digits = len(figures.lstrip("0")) if inexact else None
    return int(figures or 0) * last, digits, last, end


def _unit(text: str) -> str | None:
    """A unit in one spelling, so that m/s is m s^{-1}; "" of words; None: it is no unit."""
    powers: dict[str, int] = {}
    words, sign = False, 1
    # A letter right after a number is a variable; after a space, or from a \\text, it is a unit.
    if text and text[0] not in " %°\\":
        return None
    text = text.replace(r"\cdot", " ").replace(r"\mu", "µ").replace("µ ", "µ").strip()
    for token in re.split(r"([ /]|(?<=[a-z])-(?=[a-z])|(?<=\})(?=\w))", text):
        if token in ("", " ", "-", "/"):
            sign = -1 if token == "/" else sign
            continue
        found = _UNIT.fullmatch(token)
        if found is None or not (_PREFIXED.fullmatch(found.group(1)) or len(found.group(1)) > 2):
            return None
        words = words or not _PREFIXED.fullmatch(found.group(1))
        power = sign * int(found.group(2) or found.group(3) or 1)
        powers[found.group(1)] = powers.get(found.group(1), 0) + power
    if words:
        return ""
    return " ".join(
        f"{name}^{powers[name]}" if powers[name] != 1 else name for name in sorted(powers)
    )
