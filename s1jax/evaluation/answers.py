"""What a text gives as its final answer: an attempt's, or a worked reference solution's.

Reference behaviour: the `extract_answer` functions of s1's evaluation tasks (after the last answer
marker; the last box; "Answer:" forms). Here an "Answer:" ends with its line, where s1 takes all
that follows the first one; and what references of our sources use is known besides.
"""

import re
from collections.abc import Iterator

from s1jax.types import Question

_PARTS = ("<|im_start|>answer", "</think>")  # what the answer begins after
_MAX_CHARS, _MAX_WORDS = 200, 4  # of a text that is itself an answer

_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\.|[{}]", re.DOTALL)
_OPEN_BOX = re.compile(r"\\(?:boxed|fbox)(?:[ \t]{1,3}|(?=[\\\d]))([^\s${][^$\n]*)")
_HASHES = re.compile(
    r"^####[ \t]{0,3}(\$?[-+]?[\d.,]*\d%?(?:[ \t][a-z]{1,20}){0,3})[ \t.]*$", re.MULTILINE
)
_HEADING = re.compile(r"^[#*\s]{0,6}(?:final\s)?answer[*\s]{0,4}\n", re.IGNORECASE | re.MULTILINE)
_COLON = re.compile(r"\banswer\**\s{0,3}:\**\s*", re.IGNORECASE)
_IS = re.compile(
    r"\b(?:answer|option|choice)s?\s{1,3}(?:is|are|will\s+be)\b\s{0,3}[:,]?\**\s{0,3}",
    re.IGNORECASE,
)
_STATES = re.compile(r"\b(?:is|are|was|were|be|equals|costs|takes)\b[ \t]{0,3}:?", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![\s*])\*\*(?=[\s.,;:!?)]|$)|(?:^|(?<=[\s(]))\*\*(?=[^\s*])")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_SENTENCE_END = re.compile(r"[.;!?]\**(?:\s|$)|,\s+(?:so|since|because|as|which)\b|\n")
# "Choice $\mathbf{B}$ is correct", "B is the correct choice", "Answer B" and "(B)" on its own line.
_CHOICES = (
    re.compile(
        r"\bchoice\W{0,4}(?:\\math\w{1,4}\W{0,2})?([A-J])\b\W{0,4}\s+is\s+(?:the\s+)?correct",
        re.IGNORECASE,
    ),
    re.compile(r"\b([A-J])\W{0,4}\s+is\s+(?:the\s+)?(?:correct|answer)\b"),
    re.compile(
        r"\b(?i:answer|ans|option|choice)\b\W{0,6}(?:(?i:is)\b\W{0,4})?\b([A-J])\b\W{0,4}$",
        re.MULTILINE,
    ),
    re.compile(r"^[*(\s]{0,4}([A-J])[*).\s]{0,4}\Z", re.MULTILINE),
)
_DISPLAYS = {"$$": "$$", r"\[": r"\]"}
_VALUE = re.compile(r"[-+($\\[{*]{0,6}\d|\$[^$]+\$\W*\Z")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_ASKS_PROOF = re.compile(r"\b(?:prove|disprove|show)\b(?:,[^,]{0,40},)?\s+(?:that|the|for|if|by)\b")
_ASKS_VALUE = re.compile(
    r"\b(?:find|determine|compute|calculate|evaluate|what|how\s+many|how\s+much|solve|which)\b"
)
_PROVED = re.compile(
    r"(?:\\text\s?\{)?\W*(?:q\W{0,2}e\W{0,2}d|blacksquare|square|prove[dn]|proof)\W*", re.IGNORECASE
)


def reference_answer(question: Question) -> str | None:
    """The final answer that a question's source gives; None where the reference is a proof."""
    if question.answer is not None and question.answer.strip():
        return final_answer(question.answer, prose=False) or question.answer.strip()
    asks = question.question.lower()
    if _ASKS_PROOF.search(asks) and not _ASKS_VALUE.search(asks):
        return None  # whatever its solution puts into a box
    return final_answer(question.solution or "", prose=False)


def final_answer(text: str, prose: bool = True) -> str | None:
    """What a text gives as its final answer, without dollar signs around it; None: it gives none.

    The last box counts before all else; a text that is short enough is itself an answer. With
    `prose` the value that its last sentence ends with counts too; of a proof that is no answer.
    """
    answer = _trimmed(next(_candidates(answer_part(text).strip(), prose), ""))
    return None if not answer or _PROVED.fullmatch(answer) else answer


def answer_part(text: str) -> str:
    """What follows the thinking: after the last answer marker, or all of it.

    As in s1 a text with other turns is read after the last turn's first line.
    """
    for marker in _PARTS:
        if marker in text:
            return text.rpartition(marker)[2]
    if "<|im_start|>" in text:
        return text.rpartition("<|im_start|>")[2].partition("\n")[2]
    return text


def last_boxed(text: str) -> str | None:
    r"""What is in the last box that closes: `\boxed{..}` or `\fbox{..}`, else `\boxed x`."""
    opened: list[int | None] = []  # where each brace's content begins; None: not a box's
    last = (-1, -1)
    for match in _BOX.finditer(text):
        token = match.group()
        if token == "}":
            begin = opened.pop() if opened else None
            if begin is not None and begin > last[0]:
                last = (begin, match.start())
        elif token == "{":
            opened.append(None)
        elif token.endswith("{") and len(token) > 2:
            opened.append(match.end())
    if last[0] >= 0:
        return text[slice(*last)]
    bare = _OPEN_BOX.findall(text)
    return bare[-1] if bare else None


def _candidates(text: str, prose: bool) -> Iterator[str]:
    """What may be the answer, the surest first."""
    if (boxed := last_boxed(text)) is not None:
        yield boxed
    if hashes := _HASHES.findall(text):
        yield hashes[-1]
    colons = list(_COLON.finditer(text))
    if colons and (said := _first_line(text[colons[-1].end() :])):
        yield _after_is(said) or said
    if headings := list(_HEADING.finditer(text)):
        yield _first_line(text[headings[-1].end() :].lstrip())
    if short := _after_is(text):
        yield short
    for number, pattern in enumerate(_CHOICES):
        if letters := pattern.findall(text):
            yield letters[0 if number == 0 else -1]
    if prose and (stated := _stated(text)):
        yield stated
    if _is_bare(text):
        yield text


def _after_is(text: str) -> str | None:
    """What the last "the answer is" is followed by, if it is short."""
    for match in reversed(list(_IS.finditer(text))):
        rest = text[match.end() : match.end() + 2 * _MAX_CHARS]
        if rest.startswith(tuple(_DISPLAYS)):
            said = " ".join(_first_line(rest).split())
        else:
            end = _SENTENCE_END.search(rest)
            said = rest[: end.start()] if end else rest
        if _is_bare(said.strip()):
            return said
    return None


def _stated(text: str) -> str | None:
    """What the last line has in bold, or says that something is: a number or a formula."""
    line = text[-2 * _MAX_CHARS :].rstrip().rpartition("\n")[2]
    bold = _BOLD.findall(line)
    if bold and _is_bare(bold[-1]):
        return bold[-1]
    ends = [m.end() for m in _SENTENCE_END.finditer(line) if m.end() < len(line)]
    sentence = line[ends[-1] :] if ends else line
    verbs = list(_STATES.finditer(sentence))
    said = sentence[verbs[-1].end() :].strip().rstrip(".") if verbs else ""
    is_value = bool(_VALUE.match(said)) and _is_bare(said)
    return said if is_value else None


def _first_line(text: str) -> str:
    """The first line, or the displayed formula that begins there."""
    for begin, end in _DISPLAYS.items():
        if text.startswith(begin) and (stop := text.find(end, 2)) > 0:
            return text[2:stop]
    return text.partition("\n")[0]


def _is_bare(text: str) -> bool:
    r"""True of "204", "\frac{1}{2}", "True" and "4.5 ft-lb", not of sentences."""
    short = 0 < len(text) <= _MAX_CHARS and "\n" not in text
    return short and len(_WORD.findall(_COMMAND.sub(" ", text))) <= _MAX_WORDS


def _trimmed(answer: str) -> str:
    """Without emphasis, a last period and dollar signs around all of it."""
    answer = _EMPHASIS.sub("", answer.strip()).strip("*`").strip()
    if answer.endswith(".") and not answer.endswith(r"\right."):
        answer = answer[:-1].rstrip()
    for begin, end in (*_DISPLAYS.items(), ("$", "$"), (r"\(", r"\)")):
        inner = answer[len(begin) : -len(end)]
        whole = len(answer) > len(begin) + len(end) and begin not in inner and end not in inner
        if whole and answer.startswith(begin) and answer.endswith(end):
            return inner.strip().strip("*").removesuffix(".").strip()
    return answer
