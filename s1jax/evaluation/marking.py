"""Whether samples are right: the answer of each text, compared as its task wants it.

No text is trusted, and none is graded twice: what was marked before is found by `key()`. An answer
is never taken out of the thinking, but with `parity`, where s1 does so.
Reference: `process_results` of s1's tasks; where s1 asks a paid judge, `grading.Grader` decides.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from s1jax.chat import CHATS
from s1jax.evaluation.answers import final_answer
from s1jax.evaluation.equality import MAX_CHARS, by_rules, plain
from s1jax.evaluation.grading import Grader, Verdict, version
from s1jax.evaluation.parity import s1_choice, s1_extract, s1_integer
from s1jax.evaluation.tasks import LETTERS, Item

GRADING = version()  # marks by other rules are not taken up

_TURN = "<|im_start|>"  # opens the thinking of a "steps" chat, and other turns
_OPENS = sorted({chat.thinking.strip() for chat in CHATS.values()} - {_TURN})
_CLOSES = sorted({chat.answer.strip() for chat in CHATS.values()})
# "Final Answer:" is written for the model when its budget is spent; it may add nothing.
_PREFIX_ALONE = re.compile(r"[\s*:]*(?:(?:final\s{1,3})?answer[\s*:]*)?", re.IGNORECASE)
_LETTER = re.compile(
    r"\W{0,4}(?:(?i:option|choice|answer)\W{0,4})?([A-J])"
    r"(?:\W{0,4}$|[.:)\]]|(?:,\s{0,3}|\s{1,3})(?:because|since|as|for|so|which)\b)"
)
_PASSING = ("timeout", "memory", "crashed")
_MARKED = re.compile(r"\(?([A-J])[).:] ?(.+)", re.DOTALL)  # a choice as it was listed
_TOLD = re.compile(
    r"\b(?i:answer|option|choice)\s{1,3}(?:(?i:is|would be|will be|must be|:)\W{0,4})?"
    r"(?:(?i:option|choice)\W{1,4})?\(?([A-J])\**[).:]"
)


@dataclass(frozen=True)
class Mark:
    """Whether a text is right, and why."""

    answer: str | None  # what was extracted; None: there is none
    correct: bool
    reason: str  # what marks are counted by: "same number", "math-verify", "no answer", ...

    @property
    def lasts(self) -> bool:
        """Whether it would be the same another time; not so where this machine was too slow."""
        return self.reason not in _PASSING


Asked = tuple[str, Item, str]  # a grader of evaluation_config.GRADERS, a question, a whole text
_Pair = tuple[str, str, str | None]  # for the Grader: reference, attempt; and what was extracted

_NONE = Mark(None, False, "no answer")


def mark(
    asked: Sequence[Asked],
    *,
    parity: bool,
    processes: int,
    known: Mapping[str, Mark] = {},
    tell: Callable[[int], None] | None = None,
) -> list[Mark]:
    """The marks of texts, in their order; a text is a generation's whole, thinking included.

    Those that are `known` by their key() are taken as they are. `tell` hears how many of the
    others there are so far. Raises UserError if math-verify is needed and cannot be loaded.
    """
    keys = [key(grader, item, text, parity) for grader, item, text in asked]
    times = Counter(keys)
    marks = {name: known[name] for name in times if name in known}
    pending: dict[str, _Pair] = {}
    for name, (grader, item, text) in zip(keys, asked, strict=True):
        if name in marks or name in pending:
            continue
        begun = (_begin_as_s1 if parity else _begin)(grader, item, text)
        if isinstance(begun, Mark):
            marks[name] = begun
        else:
            pending[name] = begun
    done = sum(times[name] for name in marks if name not in known)
    if tell and done:
        tell(done)
    if pending:
        with Grader(workers=processes) as local:
            verdicts = local.grade(pair[:2] for pair in pending.values())
            for (name, pair), verdict in zip(pending.items(), verdicts, strict=True):
                marks[name] = _mark_of(pair, verdict)
                done += times[name]
                if tell:
                    tell(done)
    return [marks[name] for name in keys]


def key(grader: str, item: Item, text: str, parity: bool) -> str:
    """The sha256 of all that a mark depends on, the version of the graders among it."""
    of = [GRADING, grader, item.gold, item.choices, text, parity]
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()


def clusters(answers: Sequence[str | None], correct: Sequence[bool]) -> list[int]:
    """For a question's samples the numbers of equal answers, from 0 as they come; -1 for none.

    Right ones are one cluster, others are so by `same()`. s1 lets its judge put each answer to one
    of those before it.
    """
    labels: list[int] = []
    firsts: dict[str, int] = {}  # a wrong cluster's first answer
    right: int | None = None
    for answer, is_correct in zip(answers, correct, strict=True):
        fresh = len(firsts) + (right is not None)
        if is_correct:
            right = fresh if right is None else right
            labels.append(right)
        elif answer is None:
            labels.append(-1)
        else:
            of = firsts.get(answer)
            if of is None:
                of = next((n for first, n in firsts.items() if same(first, answer)), None)
            labels.append(firsts.setdefault(answer, fresh) if of is None else of)
    return labels


def same(first: str, other: str) -> bool:
    """Whether the rules say that two answers are the same, whichever is the reference."""
    if first == other or max(len(first), len(other)) > MAX_CHARS:
        return first == other
    ruled = by_rules(first, other) or by_rules(other, first)
    return ruled is not None and ruled[0]


# --- One text ---


def _begin(grader: str, item: Item, text: str) -> Mark | _Pair:
    """The mark, or what the Grader is to compare."""
    part = _answer_part(text)
    if part is None or _PREFIX_ALONE.fullmatch(part):
        return _NONE
    answer = final_answer(part)
    if grader == "choice":
        letter = _letter(answer or "", item.choices) or _told(part, item.choices)
        if letter is None:
            return _NONE if answer is None else Mark(answer, False, "no choice")
        return Mark(letter, letter == item.gold, "choice")
    if grader == "exact":
        gold, whole = _spaced(item.gold), _spaced(part)
        # What is extracted has lost a last period; what is long is not extracted.
        if whole == gold or (answer and _spaced(answer) in (gold, gold.removesuffix("."))):
            return Mark(gold, True, "same text")
        return _NONE if answer is None else Mark(_spaced(answer), False, "other text")
    return item.gold, part, answer


def _begin_as_s1(grader: str, item: Item, text: str) -> Mark | _Pair:
    """As `_begin()`, by s1's extraction: two numbers are compared as digits, no judge is asked."""
    said = s1_extract(text)
    if grader == "choice":
        letter = s1_choice(said)
        parsed = said.upper() == letter
        return Mark(letter, letter == item.gold, "choice" if parsed else "counted as A")
    gold = s1_integer(item.gold)
    if gold.isdigit() and said.isdigit():
        said = s1_integer(said)
        return Mark(said, said == gold, "same number" if said == gold else "other number")
    if said == gold or grader == "exact":
        return Mark(said or None, said == gold, "same text" if said == gold else "other text")
    return gold, said, said or None


def _mark_of(pair: _Pair, verdict: Verdict) -> Mark:
    _, attempt, answer = pair
    if answer is None and verdict.correct:
        answer = attempt.strip()  # too long to be seen as an answer, but the reference's very text
    return Mark(answer, verdict.correct is True, verdict.reason)


def _answer_part(text: str) -> str | None:
    """What follows the last end of thinking; all of it without thinking; None: it never ended."""
    at, closing = max((text.rfind(closing), closing) for closing in _CLOSES)
    if at >= 0:
        text = text[at + len(closing) :]
    elif text.startswith(_TURN) or any(opening in text for opening in _OPENS):
        return None
    for opening in _OPENS:  # who answers and then thinks on has answered before
        text = text.partition(opening)[0]
    return text


def _letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice that an answer is: by its text, its letter, or its value."""
    if len(answer) > MAX_CHARS or not (bare := plain(answer)):
        return None
    letters = LETTERS[: len(choices)]
    if len(bare) > 1 and (letter := _by_text(bare, choices)):
        return letter
    found = _LETTER.match(bare)
    if found and found[1] in letters:
        return found[1]
    # Not of "F = B", where the B is no letter of a choice.
    by_letter = _only("=" not in answer and _ruled(a, answer) for a in letters)
    return by_letter or _only(_ruled(choice, answer) for choice in choices)


def _told(part: str, choices: Sequence[str]) -> str | None:
    """The letter in a text of which no answer is extracted: "The answer is B) a long one"."""
    if len(part) <= MAX_CHARS and (letter := _by_text(plain(part), choices)):
        return letter
    told = [a for a in _TOLD.findall(part) if a in LETTERS[: len(choices)]]
    return told[-1] if told else None


def _by_text(bare: str, choices: Sequence[str]) -> str | None:
    """The letter of the only choice with this plain text, which may have its letter before it."""
    marked = _MARKED.fullmatch(bare)
    texts = [plain(choice).lower() for choice in choices]
    if marked and LETTERS.index(marked[1]) < len(texts):
        return marked[1] if texts[LETTERS.index(marked[1])] == marked[2].lower() else None
    return _only(text == bare.lower() for text in texts)


def _ruled(reference: str, answer: str) -> bool:
    ruled = by_rules(reference, answer)
    return ruled is not None and ruled[0]


def _only(fits: Iterable[bool]) -> str | None:
    """The letter of the only one that fits."""
    which = [letter for letter, fit in zip(LETTERS, fits, strict=False) if fit]
    return which[0] if len(which) == 1 else None


def _spaced(text: str) -> str:
    return " ".join(text.split())
