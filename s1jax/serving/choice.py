"""One sample as its client sees it: thinking, content, and nothing that may be taken back."""

from collections.abc import Sequence

from s1jax.chat import Chat
from s1jax.decoding.budget import CLOSED, INSERTED, THOUGHT
from s1jax.decoding.record import History, Output, Request
from s1jax.serving.objects import Delta
from s1jax.stream import Piece, Pieces
from s1jax.tokenizer import ChatTokenizer

# A sample is told as it is: its thinking with the strings that were written in place of ends, and
# as its content all that follows the marker between the two, `decode.force_string` of a spent
# budget included (s1's answers are what comes after the last "Answer:"). The newlines that either
# begins with are the template's, and left out.


class Choice:
    """The text of one sample, as far as it is certain, cut where one of the stop strings begins.

    What may be the beginning of a stop string is held back until it is none. Tokens are counted up
    to the one that completes the stop string, so that the count does not depend on when the host
    looked. `most` tokens at the most are told, what closes the thinking among them.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        chat: Chat,
        request: Request,
        stop: Sequence[str] = (),
        most: int | None = None,
    ):
        self._pieces = Pieces(tokenizer, request.rules)
        self._marker, self._stop, self._most = chat.answer.strip("\n"), stop, most
        self._closing = ""  # what closes the thinking
        self._held = ""  # of the content: it may begin a stop string
        self._has_reasoning = self._has_content = False
        self.reasoning_content, self.content = "", ""
        self.reasoning_tokens = self.completion_tokens = 0
        self.finish: str | None = None  # "stop" or "length"

    def feed(self, part: History) -> Delta:
        """What is to be told after these steps as well."""
        return self._tell(self._pieces.feed(part)) if self.finish is None else Delta()

    def end(self, output: Output) -> Delta:
        """What is left to be told of a finished sample."""
        if self.finish is not None:
            return Delta()
        delta = self._tell(self._pieces.rest(), last=True)
        if self.finish is None:
            # What is rejected has spent all that it may write, and has no answer.
            self.finish = "length" if output.finish == "rejected" else output.finish
        return delta

    def _tell(self, pieces: Sequence[Piece], last: bool = False) -> Delta:
        reasoning, content, cut = "", "", False
        for kind, text in pieces:
            cut = self.completion_tokens == self._most
            if cut or self.finish is not None:
                break
            self.completion_tokens += 1
            if kind in (THOUGHT, INSERTED):
                self.reasoning_tokens += 1
                text = text if self._has_reasoning else text.lstrip("\n")
                self._has_reasoning |= bool(text)
                reasoning += text
            elif kind == CLOSED:
                self._closing += text
            else:
                content += self._certain(self._opening() + text)
        if (last or cut) and self.finish is None:
            content += self._certain(self._opening())
            content, self._held = content + self._held, ""
            self.finish = self.finish or ("length" if cut else None)
        self.reasoning_content += reasoning
        self.content += content
        return Delta(reasoning, content)

    def _opening(self) -> str:
        """What closed the thinking and is part of the content, once."""
        closing, self._closing = self._closing, ""
        return closing.partition(self._marker)[2]

    def _certain(self, text: str) -> str:
        """What is certain of the content when this text comes to it."""
        text = text if self._has_content else text.lstrip("\n")
        self._has_content |= bool(text)
        self._held += text
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            certain, self._held = self._held[: min(found)], ""
            self.finish = "stop"
            return certain
        begun = max((_begun(self._held, stop) for stop in self._stop), default=0)
        certain = self._held[: len(self._held) - begun]
        self._held = self._held[len(certain) :]
        return certain


def _begun(text: str, stop: str) -> int:
    """How many of the last characters of a text are the first of a stop string."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)
