"""Budget forcing in plain Python, written from what it is to do: one row, one loop, no cache.

The source is the documentation of s1jax.decoding.budget and s1's own evaluator; none of the code
of s1jax.decoding is used but its Rules and the numbers of the kinds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from s1jax.decoding.budget import Rules

THOUGHT, INSERTED, CLOSED, ANSWER = 1, 2, 3, 4  # kinds, as in the machine's records

NextLogits = Callable[[list[int]], np.ndarray]  # of the whole context: [V]
Choose = Callable[[np.ndarray, bool, int], int]  # from logits, whether it answers, steps so far


@dataclass(frozen=True)
class Told:
    """A sample as the loop made it, and what the model would read next."""

    tokens: tuple[int, ...]
    kinds: tuple[int, ...]
    ignored_at: tuple[int, ...]
    forced: bool
    finish: str
    context: tuple[int, ...]
    taken_back: int  # tokens, of ends and stops
    cut: int  # tokens, out of the context alone

    @property
    def thinking(self) -> tuple[int, ...]:
        return self._of(THOUGHT, INSERTED)

    @property
    def answer(self) -> tuple[int, ...]:
        return self._of(ANSWER)

    def _of(self, *kinds: int) -> tuple[int, ...]:
        return tuple(t for t, kind in zip(self.tokens, self.kinds, strict=True) if kind in kinds)


def likeliest(logits: np.ndarray, answering: bool, steps: int) -> int:
    return int(np.argmax(logits))


class Page:
    """What is written, and what the model reads."""

    def __init__(self, prompt: Sequence[int], next_logits: NextLogits, choose: Choose):
        self.context = list(prompt)
        self.tokens: list[int] = []
        self.kinds: list[int] = []
        self.steps = self.taken_back = 0
        self.next_logits, self.choose = next_logits, choose

    def sample(self, forbidden: set[int], answering: bool) -> int:
        logits = np.array(self.next_logits(list(self.context)))
        logits[list(forbidden)] = -np.inf
        return self.choose(logits, answering, self.steps)

    def write(self, ids: Sequence[int], kind: int) -> None:
        for token in ids:
            self.context.append(token)
            self.tokens.append(token)
            self.kinds.append(kind)
            self.steps += 1

    def take_back(self, count: int) -> None:
        self.taken_back += count
        for things in (self.context, self.tokens, self.kinds):
            del things[len(things) - count :]

    def count(self, *kinds: int) -> int:
        return sum(kind in kinds for kind in self.kinds)


def completed(ends: Sequence[tuple[int, ...]], sampled: list[int], token: int) -> int:
    """Tokens of the longest end that the token completes; 0 if there is none."""
    tail = (*sampled, token)
    return max((len(end) for end in ends if tail[-len(end) :] == end), default=0)


def host_loop(
    rules: Rules,
    prompt: Sequence[int],
    next_logits: NextLogits,
    line_ends: set[int],
    choose: Choose = likeliest,
) -> Told:
    """One sample under the rules."""
    page = Page(prompt, next_logits, choose)
    ignored_at: list[int] = []
    forced, cut, first = False, 0, None
    if rules.thinking:
        forced, first = think(rules, page, ignored_at)
        if forced and rules.reject:
            return told(page, ignored_at, forced, "rejected", cut)
        if forced:
            newline = page.tokens[-1] in line_ends
            closing = rules.force if newline else rules.force_newline
        else:
            closing = rules.close
        if rules.accounting == "evaluator":
            room = len(prompt) + rules.max_thinking_tokens
            cut = max(len(page.context) - room, 0)
            del page.context[room:]
        page.write(closing, CLOSED)
    return told(page, ignored_at, forced, answer(rules, page, first), cut)


def told(page: Page, ignored_at: list[int], forced: bool, finish: str, cut: int) -> Told:
    return Told(
        tuple(page.tokens),
        tuple(page.kinds),
        tuple(ignored_at),
        forced,
        finish,
        tuple(page.context),
        page.taken_back,
        cut,
    )


def think(rules: Rules, page: Page, ignored_at: list[int]) -> tuple[bool, int | None]:
    """Whether the budget was spent, and the end where nothing is there to be written for it."""
    budget = rules.max_thinking_tokens
    sampled: list[int] = []  # one after the other: an end lies in these
    of_round = of_all_rounds = 0
    while True:
        # What the budget is charged with.
        written = page.count(THOUGHT, INSERTED)
        spent = {
            "none": written,
            "evaluator": of_round,
            "readme": of_all_rounds + len(ignored_at),
        }[rules.accounting]
        if spent >= budget or written >= rules.max_written_tokens:
            return True, None

        forbidden = set()
        for end in rules.ends:
            begun = len(end) - 1
            if completed([(*end[:-1], -1)], sampled, -1):
                # The end's own tokens are no thinking.
                too_short = written - begun < rules.min_thinking_tokens
                just_ignored = bool(ignored_at) and of_round == 0
                if too_short or just_ignored:
                    forbidden.add(end[-1])
        token = page.sample(forbidden, answering=False)
        length = completed(rules.ends, sampled, token)
        if length == 0:
            page.write([token], THOUGHT)
            sampled.append(token)
            of_round += 1
            of_all_rounds += 1
            continue

        strings = rules.ignore_strings
        string = strings[len(ignored_at) % len(strings)] if strings else ()
        begun = length - 1
        then_spent = {
            "none": written + (len(string) - begun if strings else 0),
            "evaluator": 0,
            "readme": spent + 1,
        }[rules.accounting]
        if len(ignored_at) < rules.ignore_ends and then_spent < budget:
            if strings:
                page.take_back(begun)
                sampled = []
            ignored_at.append(page.count(THOUGHT, INSERTED))
            page.write(string, INSERTED)
            of_round = 0
            continue
        if not rules.close:
            return False, token
        page.take_back(begun)
        return False, None


def answer(rules: Rules, page: Page, first: int | None) -> str:
    """How the answer, which may have begun with an end, finished."""
    kept = page.count(THOUGHT, INSERTED)
    if rules.accounting == "evaluator":
        kept = min(kept, rules.max_thinking_tokens)
    room = min(rules.max_answer_tokens, rules.max_written_tokens - kept)
    sampled: list[int] = []
    while first is not None or len(sampled) < room:
        token = page.sample(set(), answering=True) if first is None else first
        first = None
        length = completed(rules.stops, sampled, token)
        if length:
            page.take_back(length - 1)
            return "stop"
        page.write([token], ANSWER)
        sampled.append(token)
    return "length"
