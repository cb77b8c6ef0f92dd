"""Numbers as words, zero to twenty: by Qwen's rules for splitting a text each is one token."""

from collections.abc import Iterable

_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
)
_VALUES = {word: value for value, word in enumerate(_WORDS)}
LARGEST = len(_WORDS) - 1
WORD = f"(?:{'|'.join(_WORDS)})"  # a regular expression


def words(numbers: Iterable[int]) -> str:
    """The numbers with spaces between them. ValueError for one that is not from 0 to 20."""
    given = list(numbers)
    if not all(0 <= number <= LARGEST for number in given):
        raise ValueError(f"{given}: there are words for 0 to {LARGEST} alone")
    return " ".join(_WORDS[number] for number in given)


def values(text: str) -> list[int]:
    """The numbers among the words of a text, in their order."""
    return [_VALUES[word] for word in text.replace(":", " ").split() if word in _VALUES]
