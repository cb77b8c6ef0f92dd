r"""s1's own way to find an answer in a text, quirks and all; for `evaluate.parity`.

Reference: `process_results` of s1's tasks aime, openai_math and gpqa/openai (commit 77272c6), whose
extraction is the same. Its quirks, none of which `answers.final_answer()` has:

- "Answer:" takes everything that follows the first one, whatever the last one says;
- `\boxed ` with a space goes before every `\boxed{..}`, and ends at a dollar sign alone;
- where a box is opened last and never closed, no box is seen, not even an earlier one;
- without any answer marker the thinking is searched;
- a choice that is no single letter counts as A.
"""

import re

CHOICES = "ABCD"
UNPARSED = "A"
_PART, _TURN = "<|im_start|>answer\n", "<|im_start|>"
_SPACED_BOX = "\\boxed "
_ANSWER = re.compile(r"answer\s*:\s*(.*)", re.IGNORECASE | re.DOTALL)


def s1_extract(text: str) -> str:
    r"""What s1 compares with the reference, or hands to its judge.

    s1 stops with an AssertionError at an `\fbox{..}`, or a `\boxed` with something else than a
    brace after it; here that is what its braces hold.
    """
    part = _part(text)
    box = _last_box(part)
    if box is not None:
        return box
    said = _ANSWER.search(part)
    return said[1] if said else part


def s1_integer(answer: str) -> str:
    """An answer of digits alone without its leading zeros; any other as it is.

    s1 stops with a ValueError at digits that make no number ("²"); here they stay.
    """
    try:
        return str(int(answer)) if answer.isdigit() else answer
    except ValueError:  # "²", or more digits than Python reads
        return answer


def s1_choice(answer: str) -> str:
    """The letter that s1 counts without its judge: a lone A to D in either case, else A."""
    return answer.upper() if len(answer) == 1 and answer.upper() in CHOICES else UNPARSED


def _part(text: str) -> str:
    """After the last answer marker; else after the last turn's first line, if it has several."""
    if _PART in text:
        return text.rpartition(_PART)[2]
    if _TURN in text:
        turn = text.rpartition(_TURN)[2]
        return turn.partition("\n")[2] if "\n" in turn else turn
    return text


def _last_box(text: str) -> str | None:
    """What is in the box that s1 sees; None: it sees none."""
    if _SPACED_BOX in text:
        return text.rpartition(_SPACED_BOX)[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return None
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0 and brace[0] == "}":
            box = text[start : start + brace.end()]
            return box.partition("{")[2][:-1]
    return None
