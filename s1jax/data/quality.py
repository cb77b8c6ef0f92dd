"""`quality_problem()`: why a question with its trace is not good enough to be trained.

Reference: s1's notebook of filters (paper, section 2.2). Its patterns find questions whose
pictures, tables and pages did not survive their way into text.
"""

import re

from s1jax.types import Question, Trace

# What s1 tests as 999 substrings, "p1." to "p999.": none starts with 0 or has four digits.
PAGE = re.compile(r"p[1-9][0-9]{0,2}\.")
# Two pairs of asterisks with neither a space nor a closing bracket between them.
BOLD = re.compile(r"\*\*[^\s\]]*\*\*")
DIGIT = re.compile(r"\d")


def quality_problem(question: Question, trace: Trace) -> tuple[str, str] | None:
    """What drops are counted by, and a sentence; None if all is well.

    The trace is looked at first, then the question by s1's four patterns. As in s1 a question with
    a drawing is kept if "AIME", so written, is in its source_type; it skips the other patterns.
    """
    return _trace_problem(trace) or _question_problem(question)


def _trace_problem(trace: Trace) -> tuple[str, str] | None:
    if trace.finish == "length":
        return "truncated", f"{trace.teacher} was cut off by its limit of tokens"
    if trace.error is not None or trace.finish != "stop":
        error = trace.error or "it gives no error"
        return f"no trace: {trace.finish}", f"{trace.teacher} gave no answer: {error}"
    if not trace.thinking.strip():
        return "no thinking", f"{trace.teacher} answered without thinking"
    if not trace.answer.strip():
        return "no answer", f"{trace.teacher} thought and gave no answer"
    return None


def _question_problem(question: Question) -> tuple[str, str] | None:
    text = question.question
    if "[asy]" in text:
        if "AIME" in question.source_type:
            return None
        return "drawing", f'the question has a drawing, "[asy]" at character {text.index("[asy]")}'
    if "![Image]" in text:
        place = text.index("![Image]")
        return "picture", f'the question has a picture, "![Image]" at character {place}'
    if page := PAGE.search(text):
        place = page.start()
        return "page", f'the question points to a page, "{page.group()}" at character {place}'
    if bold := bold_with_digit(text):
        return "bold with a digit", f"the question has {bold!r} in bold, with a digit behind it"
    return None


def bold_with_digit(text: str) -> str | None:
    r"""The first bold word with a digit in it or later in its line.

    The same as s1's `\*\*(?=.*\d)[^\s\]]*\*\*`, in linear time: that one looks through the rest of
    the line at every pair of asterisks, which takes hours in a question of a million of them.
    """
    if "**" not in text:
        return None
    for line in text.split("\n"):
        # If there is no digit behind the first bold word, there is none behind a later one.
        if (bold := BOLD.search(line)) and DIGIT.search(line, bold.start() + 2):
            return bold.group()
    return None
