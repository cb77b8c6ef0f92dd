"""A sample as text while it is made: what is shown is never taken back."""

from collections.abc import Sequence
from itertools import groupby

from s1jax.decoding.budget import ANSWER, CLOSED, INSERTED, NOTHING, THOUGHT, Rules
from s1jax.decoding.record import History
from s1jax.terminal import DIM, MAGENTA, PLAIN, YELLOW, harmless, painted
from s1jax.tokenizer import ChatTokenizer

_LOOK = {
    THOUGHT: ("thinking", DIM),
    INSERTED: ("inserted", YELLOW),
    CLOSED: ("closing", MAGENTA),
    ANSWER: ("answer", PLAIN),
}


Piece = tuple[int, str]  # the kind of a token, and what it shows


class Pieces:
    """The tokens of one sample, as far as they are certain.

    The first tokens of an end that may still be completed are held back, and the first bytes of a
    character.
    """

    def __init__(self, tokenizer: ChatTokenizer, rules: Rules):
        self._tokenizer = tokenizer
        self._held = max((len(end) - 1 for end in (*rules.ends, *rules.stops)), default=0)
        self._waiting: list[tuple[int, int]] = []  # tokens and their kinds, not certain yet

    def feed(self, part: History) -> list[Piece]:
        """What is certain after these steps as well."""
        steps = zip(part.token.tolist(), part.kind.tolist(), part.taken_back.tolist(), strict=True)
        for token, kind, taken_back in steps:
            if taken_back:
                assert taken_back <= len(self._waiting), "what is taken back was shown"
                del self._waiting[-taken_back:]
            if kind != NOTHING:
                self._waiting.append((token, kind))
        certain = len(self._waiting) - self._held
        return self._take(self._waiting[: max(certain, 0)], last=False)

    def rest(self) -> list[Piece]:
        """What is left of a sample that is finished."""
        return self._take(self._waiting, last=True)

    def _take(self, tokens: Sequence[tuple[int, int]], last: bool) -> list[Piece]:
        taken: list[Piece] = []
        for kind, group in groupby(tokens, key=lambda pair: pair[1]):
            ids = [token for token, _ in group]
            pieces = self._tokenizer.decode_pieces(ids)
            if not last and len(taken) + len(ids) == len(tokens):
                pieces = _whole(pieces)
            taken += [(kind, piece) for piece in pieces]
        del self._waiting[: len(taken)]
        return taken


class Stream:
    """The text of one sample, as far as it is certain; the parts coloured, or named."""

    def __init__(self, tokenizer: ChatTokenizer, rules: Rules, colour: bool):
        self._pieces, self._colour = Pieces(tokenizer, rules), colour
        self._part: int | None = None

    def feed(self, part: History) -> str:
        """What can be shown after these steps as well."""
        return self._show(self._pieces.feed(part))

    def rest(self) -> str:
        """What is left to show of a sample that is finished."""
        return self._show(self._pieces.rest())

    def _show(self, pieces: Sequence[Piece]) -> str:
        shown = ""
        for kind, group in groupby(pieces, key=lambda piece: piece[0]):
            shown += self._named(kind, "".join(text for _, text in group))
        return shown

    def _named(self, kind: int, text: str) -> str:
        name, colour = _LOOK[kind]
        if not text:
            return ""
        if self._colour:
            return painted(harmless(text), colour)
        begins = kind != self._part
        self._part = kind
        return f"«{name}»{harmless(text)}" if begins else harmless(text)


def _whole(pieces: list[str]) -> list[str]:
    """The pieces without a last character of which more tokens may be to come.

    All tokens of a character but the last one show nothing; see ChatTokenizer.decode_pieces.
    """
    if not pieces or not pieces[-1].endswith("�"):
        return pieces
    end = len(pieces) - 1
    while end and not pieces[end - 1]:
        end -= 1
    return pieces[:end]
