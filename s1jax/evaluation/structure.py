r"""How a plain text is put together: (1,2), \{1,2\}, matrices, intervals and inequalities."""

import re
from dataclasses import dataclass

MAX_PARTS = 64
UNORDERED = ("", r"\{")

_MATRIX = re.compile(
    r"\\begin\{([pbB]?)matrix\}(.*?)\\end\{\1matrix\}(?:\^T)?|\\langle ?(.*?)\\rangle", re.DOTALL
)
_AND = re.compile(r",? ?\b(?:and|or)\b ?|;")
_CLOSING = {"(": ")", "[": "]", r"\{": r"\}"}
_TOKEN = re.compile(r"\\[{}]|\\begin|\\end|\\\\|\\?[a-zA-Z]+|.", re.DOTALL)
_OPENS, _CLOSES = ("(", "[", "{", r"\{", r"\begin"), (")", "]", "}", r"\}", r"\end")

_VARIABLE = r"(?:[a-zA-Z]|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega)(?![a-z])) ?"
_RELATION = re.compile(r" ?(<|>|\\(?:le|ge|ne)(?![a-zA-Z])) ?")
_SAYS_OF = re.compile(rf"({_VARIABLE})\\in(?![a-z]) ?(.*)")
_BUILDER = re.compile(
    rf"\\\{{({_VARIABLE})(?:\\in ?(?:\\mathbb\{{?R\}}?|R))?(?:\\mid(?![a-z])|\\?\||:) ?(.*)\\\}}"
)
_OR = re.compile(r" ?(?:\bor\b|\\cup(?![a-z])|\\lor(?![a-z])) ?")
_LESS, _MORE = ("<", r"\le"), (">", r"\ge")
_REALS = re.compile(r"\\mathbb\{?R\}?|all real numbers", re.IGNORECASE)


@dataclass(frozen=True)
class Elements:
    """The parts of a list, tuple, set or matrix."""

    kind: str  # "", "(", "[", r"\{", or "(]" and "[)" of an interval, or "2x3" of a matrix
    parts: list[str]


@dataclass(frozen=True)
class Form:
    """A set of numbers as intervals, and the variable that was said to be in it ("": none)."""

    text: str
    variable: str


def elements(text: str) -> Elements | None:
    """The parts that a text lists, with commas, "and" or "or" between; None: it lists none."""
    if matrix := _MATRIX.fullmatch(text):
        return _matrix(matrix)
    if text.startswith(r"\{") and text.endswith(r"\}") and len(split(text[2:-2])) == 1:
        text = text[2:-2]  # \{(1,2)\} is (1,2)
    for begin, end in _CLOSING.items():
        if text.startswith(begin):
            inside = text[len(begin) :]
            for close in _CLOSING.values():
                if inside.endswith(close) and len(parts := split(inside[: -len(close)])) >= 2:
                    whole = close == end
                    mixed = {begin, close} <= {"(", "[", ")", "]"}
                    if whole or mixed:
                        return Elements(begin if whole else begin + close, parts)
    parts = split(_AND.sub(",", text))
    return Elements("", parts) if len(parts) >= 2 else None


def same_brackets(one: Elements, other: Elements) -> bool:
    """Whether their brackets may mean the same; brackets that were left out do."""
    if one.kind == other.kind:
        return True
    if "" in (one.kind, other.kind):
        return {one.kind, other.kind} <= {"", "(", "["}
    # Three parts are no interval: [1, 2, 3] is (1, 2, 3).
    return {one.kind, other.kind} == {"(", "["} and len(one.parts) > 2


def split(text: str) -> list[str]:
    """The parts between commas outside all brackets; none where the brackets do not match."""
    parts, depth, begin = [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        depth += (token in _OPENS) - (token in _CLOSES)
        if depth < 0:
            return []
        if token == "," and depth == 0:
            parts.append(text[begin : match.start()].strip())
            begin = match.end()
    parts.append(text[begin:].strip())
    return parts if depth == 0 and all(parts) and len(parts) <= MAX_PARTS else []


def parts_of_union(text: str) -> list[str]:
    r"""What \cup joins."""
    return [part.strip() for part in re.split(r"\\cup(?![a-z])", text)]


def interval_form(text: str) -> Form | None:
    r"""The set that an inequality or an interval says: x < 3 is (-\infty,3)."""
    variable = ""
    if built := _BUILDER.fullmatch(text):
        variable, text = built.group(1).strip(), built.group(2)
    elif says := _SAYS_OF.fullmatch(text):
        variable, text = says.group(1).strip(), says.group(2)
    if _REALS.fullmatch(text):
        return Form(r"(-\infty,\infty)", variable)
    intervals = []
    for part in _OR.split(text):
        ends = split(part[1:-1]) if part[:1] in "([" and part[-1:] in ")]" else []
        if len(ends) == 2 and not _RELATION.search(part):
            intervals.append(part)
        elif (said := _inequality(part)) and variable in ("", said.variable):
            variable = said.variable
            intervals.append(said.text)
        else:
            return None
    return Form(r"\cup".join(intervals), variable)


def _inequality(text: str) -> Form | None:
    """Of x < 3, 3 > x, and 1 < x < 3; None: it is nothing so simple."""
    sides, relations = _RELATION.split(text)[::2], _RELATION.findall(text)
    if not all(sides) or any("=" in side or "," in side for side in sides):
        return None
    is_variable = [re.fullmatch(_VARIABLE, side) is not None for side in sides]
    if len(relations) == 2 and is_variable == [False, True, False]:
        low, variable, high = sides
        if all(relation in _MORE for relation in relations):
            low, high, relations = high, low, relations[::-1]
        elif not all(relation in _LESS for relation in relations):
            return None
    elif len(relations) == 1 and sum(is_variable) == 1:
        relation = relations[0]
        variable, limit = sides if is_variable[0] else sides[::-1]
        if relation == r"\ne":
            return Form(rf"(-\infty,{limit})\cup({limit},\infty)", variable.strip())
        below = (relation in _LESS) == is_variable[0]
        low, high = (r"-\infty", limit) if below else (limit, r"\infty")
        relations = [relation, relation]
        if below:
            return Form(f"({low},{high}{_end(relation, ')]')}", variable.strip())
        return Form(f"{_end(relation, '([')}{low},{high})", variable.strip())
    else:
        return None
    first, last = _end(relations[0], "(["), _end(relations[1], ")]")
    return Form(f"{first}{low},{high}{last}", variable.strip())


def _end(relation: str, brackets: str) -> str:
    return brackets[relation in (r"\le", r"\ge")]


def _matrix(found: re.Match[str]) -> Elements | None:
    if found.group(3) is not None:
        return Elements("(", split(found.group(3)))
    rows = [row.split("&") for row in found.group(2).split(r"\\") if row.strip()]
    parts = [part.strip() for row in rows for part in row]
    if not rows or len({len(row) for row in rows}) > 1 or len(parts) > MAX_PARTS:
        return None
    is_vector = 1 in (len(rows), len(rows[0])) and len(parts) > 1
    return Elements("(" if is_vector else f"{len(rows)}x{len(rows[0])}", parts)
