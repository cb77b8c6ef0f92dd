"""What travels between the stages, as frozen dataclasses, and the one error that is the user's."""

from dataclasses import dataclass


class UserError(ValueError):
    """A mistake of the user's: the text says what is wrong, where, and what would be right.

    The verbs print it without a traceback and exit with code 2.
    """


@dataclass(frozen=True)
class Example:
    """One question with the thinking and the answer that the model learns to write."""

    id: str
    question: str
    thinking: str
    answer: str
