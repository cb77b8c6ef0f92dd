r"""Numbers with units, read exactly from plain text: 2\frac{3}{5}, 0.2\overline{7}, 5 m/s.

math-verify drops units, so that 5 m is 5 km and 4 hours are 4 minutes. Here units of one kind are
converted, others differ, and a unit that only one side has was not asked for.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_MIXED = re.compile(
    r"(\d{1,40}) ?\\frac\{(\d{1,40})\}\{(\d{1,40})\}|(\d{1,40}) (\d{1,3})/(\d{1,3})"
)
_FRACTION = re.compile(r"(\d{1,40})/(\d{1,40})(?!\d)|\\frac\{(-?\d{1,40})\}\{(\d{1,40})\}")
_REPEATING = re.compile(r"(\d{0,20})\.(\d{0,20})\\(?:overline|bar)(?:\{(\d{1,20})\}|(\d))")
_DECIMAL = re.compile(
    r"(\d{1,3}(?:[, ]\d{3}){1,12}(?!\d)|\d{1,100}|(?=\.\d))(?:\.(\d{0,100}))?"
    r"(?:[eE]([-+]?\d{1,3})(?!\d))?"
)
_POWER = re.compile(r"(?:\\cdot ?|\*| )?10\^(?:\{([-+]?\d{1,3})\}|([-+]?\d))")
_BARE_POWER = re.compile(r"(?=10\^)")

MONEY = "¤"  # what plain() makes of \$ before a number

_UNIT = re.compile(r"([%¢]|°[CF]?|[a-zA-ZµΩ]{1,20})\.?(?:\^(?:\{(-?\d)\}|(\d)))?")
_PREFIXED = re.compile(r"([fpnµmcdkMGT]?)(m|s|g|J|K|N|V|W|A|C|T|F|Hz|Pa|eV|mol|L|cal|bar|Wb|Ω)")
_PREFIXES = dict(zip("fpnµmcdkMGT", (-15, -12, -9, -6, -3, -2, -1, 3, 6, 9, 12), strict=True))
# What a name stands for: so many of another unit. A unit that is not here is one of its own.
_SIZES: dict[str, tuple[str, int | Fraction]] = {
    "$": ("$", 1), "¢": ("$", Fraction(1, 100)),
    "in": ("in", 1), "ft": ("in", 12), "yd": ("in", 36), "mi": ("in", 63360),
    "min": ("s", 60), "h": ("s", 3600), "day": ("s", 86400), "week": ("s", 604800),
    "lb": ("oz", 16), "oz": ("oz", 1), "cup": ("cup", 1), "pt": ("cup", 2), "qt": ("cup", 4),
    "gal": ("cup", 16), "month": ("month", 1), "year": ("month", 12), "kcal": ("cal", 1000),
    "%": ("%", 1), "°": ("°", 1), "°C": ("°C", 1), "°F": ("°F", 1), "atm": ("atm", 1),
    "amu": ("amu", 1), "u": ("u", 1), "rad": ("rad", 1),
}  # fmt: skip
# Words as they are written out; a plural has one "s" more.
_WORDS = {
    "dollar": "$", "usd": "$", "buck": "$", "cent": "¢", "inch": "in", "inche": "in", "foot": "ft",
    "feet": "ft", "yard": "yd", "mile": "mi", "second": "s", "sec": "s", "minute": "min",
    "hour": "h", "hr": "h", "pound": "lb", "ounce": "oz", "pint": "pt", "quart": "qt",
    "gallon": "gal", "percent": "%", "degree": "°", "deg": "°", "radian": "rad", "meter": "m",
    "metre": "m", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm",
    "kilometer": "km", "kilometre": "km", "gram": "g", "kilogram": "kg", "milligram": "mg",
    "liter": "L", "litre": "L", "milliliter": "mL", "millilitre": "mL", "ml": "mL", "l": "L",
    "celsius": "°C", "fahrenheit": "°F", "wk": "week", "yr": "year", "yds": "yd",
}  # fmt: skip
_SHORT = {"mph": "mi / h", "kph": "km / h"}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_AFTER = {"squared": 2, "cubed": 3}
_MANY = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Before what says nothing of the unit: 24 in all, 5 of them.
_REST = ("in", "of", "to", "at", "by", "for", "on")
_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = {word: n for n, word in enumerate(_SMALL)} | {
    word: 10 * n for n, word in enumerate(_TENS, 2)
}
# A numeral as English has it: twenty-one is a number, eight five is none.
_TO_99 = rf"(?:(?:{'|'.join(_TENS)})(?:[ -](?:{'|'.join(_SMALL[1:10])}))?|{'|'.join(_SMALL[1:])})\b"
_TO_999 = rf"(?:(?:{_TO_99}[ -])?hundred\b(?:[ -](?:and )?{_TO_99})?|{_TO_99})"
_SPELLED = re.compile(
    rf"(?:(?:{_TO_999}[ -])?thousand\b(?:[ -](?:and )?{_TO_999})?|{_TO_999}|zero\b)"
    rf"(?![ -](?:and )?(?:{_TO_99}|zero\b|hundred\b|thousand\b))",
    re.IGNORECASE,
)

# A unit that ends an expression: words of two letters or more, since one letter is a variable.
_TAIL_WORD = "|".join(
    sorted(
        {name + plural for name in _WORDS for plural in ("", "s") if len(name) > 1}
        | {name for name in ("in", "ft", "yd", "min", "day", "week", "lb", "oz", "month", "year")}
        | {"cm", "mm", "km", "dm", "nm", "kg", "mg", "ml", "mL", "units", "unit", *_SHORT},
        key=len,
        reverse=True,
    )
)
_TAIL = re.compile(
    rf"(?<=[\d }})])((?:(?:square|cubic|sq|cu)\.? )?(?:{_TAIL_WORD})"
    rf"(?:\^(?:[23]|\{{[23]\}})| squared| cubed)?(?:(?: per |/)(?:{_TAIL_WORD}))?)$",
    re.IGNORECASE,
)
_TAIL_CHARS = 60

_MULTIPLE = re.compile(rf" ?({'|'.join(_MANY)})\b", re.IGNORECASE)
_TOKENS = re.compile(r" |(?<=[a-zA-Z])-(?=[a-zA-Z])|(/)|(?<=\})(?=\w)")


@dataclass(frozen=True)
class Unit:
    """What a number counts; empty for none, and for words that are no unit: 24 ways."""

    parts: tuple[tuple[str, int, Fraction], ...] = ()  # kind, its power, the size of one; sorted

    @property
    def name(self) -> str:
        """That of a lone kind, else ""."""
        return self.parts[0][0] if len(self.parts) == 1 and self.parts[0][1] == 1 else ""

    def over(self, other: "Unit") -> Fraction | None:
        """How many of another one of this is; None: they do not measure the same.

        None of either is 1, and so is what only one divides by: 5 cents an ounce are 5 cents.
        """
        ours, theirs = ({part[:2]: part[2] for part in unit.parts} for unit in (self, other))
        if not ours or not theirs:
            return Fraction(1)
        small, large = sorted((ours, theirs), key=len)
        if not all(part in large for part in small) or any(
            power > 0 for kind, power in large.keys() - small.keys()
        ):
            return None
        ratio = Fraction(1)
        for part in small:
            ratio *= ours[part] / theirs[part]
        return ratio


@dataclass(frozen=True)
class Quantity:
    """A number as it is written."""

    value: Fraction
    digits: int | None  # that are significant; None: it is exact, no decimal
    last: Fraction  # what one in the last digit is worth
    unit: Unit


def same_quantity(gold: Quantity, given: Quantity, digits: int) -> tuple[bool, str]:
    """Whether two are the same, with what says so.

    A decimal of at least so many `digits` stands for all that round to it.
    """
    size = given.unit.over(gold.unit)
    if size is None:
        return False, "other unit"
    sizes = [size]
    if "%" in (gold.unit.name, given.unit.name) and gold.unit != given.unit:  # 50% is 50 and 0.5
        sizes.append(Fraction(100) if gold.unit.name else Fraction(1, 100))
    if gold.value in [given.value * size for size in sizes]:
        return True, "same number"
    inexact = Quantity(given.value * size, given.digits, given.last * size, given.unit)
    for rounded, other in ((gold, inexact), (inexact, gold)):
        enough = rounded.digits is not None and rounded.digits >= digits
        finer = other.digits is None or other.last <= rounded.last
        if enough and finer and abs(rounded.value - other.value) <= rounded.last / 2:
            return True, "same number, rounded"
    return False, "other number"


def quantity(text: str) -> Quantity | None:
    """The number that a plain text is, and its unit; None: it is no number."""
    sign = -1 if text.startswith("-") else 1
    text = text[1:] if text[:1] in ("+", "-") else text
    money = text.startswith(MONEY)
    if money:
        text = text[1:].lstrip()
        if text.startswith("-"):
            sign, text = -sign, text[1:]
    if spelled := _SPELLED.match(text):
        text = f"{_spelled(spelled.group())}{text[spelled.end() :]}"
    read = _exact(text) or _decimal(text)
    if read is None:
        return None
    value, digits, last, end = read
    rest = text[end:]
    if many := _MULTIPLE.match(rest):
        times, rest = _MANY[many.group(1).lower()], rest[many.end() :]
        value, last = value * times, last * times
    unit = _unit((" " if text[end - 1] == "}" else "") + rest)
    if unit is None:
        return None
    if money and all(kind != "$" for kind, _, _ in unit.parts):
        unit = Unit(tuple(sorted((("$", 1, Fraction(1)), *unit.parts))))
    return Quantity(sign * value, digits, last, unit)


def without_unit(text: str) -> tuple[str, Unit]:
    r"""A plain expression and the unit that it ends with: 6\pi and cm^2."""
    tail = _TAIL.search(text, max(0, len(text) - _TAIL_CHARS))
    if tail is None or tail.start() == 0:
        return text, Unit()
    unit = _unit(" " + tail.group())
    return (text, Unit()) if unit is None else (text[: tail.start()].rstrip(), unit)


def _spelled(text: str) -> int:
    """Two hundred and five."""
    total = part = 0
    for word in re.split("[ -]", text.lower()):
        if word == "thousand":
            total, part = total + 1000 * max(part, 1), 0
        elif word == "hundred":
            part = 100 * max(part, 1)
        elif word != "and":
            part += NUMBER_WORDS[word]
    return total + part


def _exact(text: str) -> tuple[Fraction, None, Fraction, int] | None:
    """Value, None, 0, and where the number ends: a mixed number, a fraction, 0.2 repeating."""
    if found := _MIXED.match(text):
        whole, top, bottom = (int(n) for n in found.groups() if n is not None)
    elif found := _FRACTION.match(text):
        whole, (top, bottom) = 0, (int(n) for n in found.groups() if n is not None)
    elif found := _REPEATING.match(text):
        front, fixed, *periods = found.groups()
        period = periods[0] or periods[1]
        whole = int(front or 0)
        bottom = 10 ** len(fixed) * (10 ** len(period) - 1)
        top = int(fixed + period) - int(fixed or 0)
    else:
        return None
    if not bottom:
        return None
    return whole + Fraction(top, bottom), None, Fraction(0), found.end()


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


def _unit(text: str) -> Unit | None:
    """The unit that is written after a number; None: something else is."""
    # A letter right after a number is a variable; after a space, or from a \text, it is a unit.
    if text and text[0] not in " %°¢\\" and not _TAIL.fullmatch(" " + text, 1):
        return None
    parts: dict[str, tuple[int, Fraction]] = {}
    kind, sign, power, words = "", 1, 1, False
    for token in _unit_tokens(text):
        word = token.lower()
        if (word in _REST and (words or parts)) or (word == "in" and not text.endswith("in")):
            break
        if word in ("/", "per", "an", "each", "every") or (word == "a" and (words or parts)):
            sign = -1
        elif word in _POWERS:
            power = _POWERS[word]
        elif word in _AFTER and kind:
            before, size = parts[kind]
            parts[kind] = before * _AFTER[word], size ** _AFTER[word]
        elif found := _UNIT.fullmatch(token):
            sized = _size(found.group(1))
            if sized is None:
                if len(found.group(1)) <= 2 and found.group(1) not in _REST:
                    return None
                words = True  # that count or describe: 5 apples, 7 meters long
                continue
            raised = sign * power * int(found.group(2) or found.group(3) or 1)
            kind, power = sized[0], 1
            before, size = parts.get(kind, (0, Fraction(1)))
            parts[kind] = before + raised, size * sized[1] ** raised
        else:
            return None
    return Unit(tuple(sorted((k, p, size) for k, (p, size) in parts.items() if p)))


def _unit_tokens(text: str) -> list[str]:
    for written, spelled in (
        (r"\cdot", " "), (r"\mu", "µ"), ("μ", "µ"), ("µ ", "µ"), ("°", " °"),
        ("degrees Celsius", "°C"), ("degrees Fahrenheit", "°F"),
    ):  # fmt: skip
        text = text.replace(written, spelled)
    tokens = [token for token in _TOKENS.split(text) if token]
    return [part for token in tokens for part in _SHORT.get(token.lower(), token).split()]


def _size(name: str) -> tuple[str, Fraction] | None:
    """What a unit measures, and how much of it one is."""
    word = name.lower()
    singular = word.removesuffix("s") if len(word) > 2 else word
    for spelling in (name, _WORDS.get(word), _WORDS.get(singular), singular):
        if spelling in _SIZES:
            kind, size = _SIZES[spelling]
            return kind, Fraction(size)
        if spelling is not None and (found := _PREFIXED.fullmatch(spelling)):
            prefix, kind = found.groups()
            return kind, Fraction(10) ** _PREFIXES.get(prefix, 0)
    return None
