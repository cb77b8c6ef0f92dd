"""What travels between the stages, as frozen dataclasses, and the one error that is the user's."""

import hashlib
from dataclasses import dataclass


class UserError(ValueError):
    """A mistake of the user's: the text says what is wrong, where, and what would be right.

    The verbs print it without a traceback and exit with code 2.
    """


def question_id(question: str) -> str:
    """The first 16 hex digits of the sha256 of a question, s1's `question_hash`."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Question:
    """A question of the pool: s1's columns, and what its source knows besides."""

    question: str
    solution: str | None = None  # worked, a proof, or the bare answer; None: there is none
    cot_type: str = "math"  # s1's: math, science, coding, english, crossword, health science
    source_type: str = ""  # the data set and its part, "qq8933/AIME_1983_2024"
    metadata: str = "{}"  # the source's other columns, JSON
    answer: str | None = None  # the final answer, where the source has it apart from the solution
    domain: str | None = None  # where the source knows it
    difficulty: float | None = None  # where the source knows it; larger is harder
    place: str = ""  # where it was read, for messages: a file and its line

    @property
    def id(self) -> str:
        """What it is called everywhere."""
        return question_id(self.question)


@dataclass(frozen=True)
class Trace:
    """What a teacher answered to a question, or why it did not."""

    question_id: str
    teacher: str  # whom the config names, "gemini:gemini-2.5-flash"
    sample: int  # of that question and teacher, from 0
    thinking: str
    answer: str
    finish: str  # "stop", "length" (cut by a limit), "blocked", "incomplete" or "error"
    error: str | None = None  # a sentence; None if thinking and answer are there
    is_summary: bool = False  # the teacher's own summary of its thinking, not the thinking itself
    version: str = ""  # what the server says that it ran
    settings: str = "{}"  # what was asked for: temperature, token limits, ...; JSON, sorted keys
    prompt_tokens: int | None = None  # these three as the teacher counts them
    thinking_tokens: int | None = None
    answer_tokens: int | None = None
    cost: float | None = None  # dollars, of all tries; None: nothing has a price
    tries: int = 1
    time_s: float = 0.0  # of the last try
    asked_at: float = 0.0  # seconds since 1970


@dataclass(frozen=True)
class Example:
    """One question with the thinking and the answer that the model learns to write."""

    id: str
    question: str
    thinking: str
    answer: str
