"""What a row wrote, put together on the host, and whether it kept the contract of its rules."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from jaxtyping import Int

from s1jax.decoding.budget import (
    ANSWER,
    ANSWER_SPENT,
    CLOSED,
    INSERTED,
    NOTHING,
    REJECTED,
    STOPPED,
    THOUGHT,
    Ids,
    Rules,
)
from s1jax.decoding.sampling import GREEDY, Sampling

FINISH = {STOPPED: "stop", ANSWER_SPENT: "length", REJECTED: "rejected"}


@dataclass(frozen=True)
class Branch:
    """A smaller budget, or fewer ignored ends, for which the same request is answered as well."""

    max_thinking_tokens: int
    ignore_ends: int


@dataclass(frozen=True)
class Request:
    """One sample to be made. ValueError if a branch asks for more than the request itself."""

    id: str
    prompt: Ids  # the thinking's start included
    rules: Rules
    thinking: Sampling = GREEDY
    answer: Sampling = GREEDY
    seed: int = 0
    branches: tuple[Branch, ...] = ()

    def __post_init__(self) -> None:
        most = Branch(self.rules.max_thinking_tokens, self.rules.ignore_ends)
        for branch in self.branches:
            longer = branch.max_thinking_tokens > most.max_thinking_tokens
            if longer or branch.ignore_ends > most.ignore_ends:
                raise ValueError(f"request {self.id}: {branch} goes beyond the request's {most}")


@dataclass(frozen=True)
class History:
    """The steps of one row, in order; arrays are int32 [steps]."""

    token: Int[np.ndarray, " steps"]
    kind: Int[np.ndarray, " steps"]
    taken_back: Int[np.ndarray, " steps"]
    ends_ignored: Int[np.ndarray, " steps"]  # so far

    @classmethod
    def join(cls, parts: Sequence["History"]) -> "History":
        """All of them, one after the other."""
        names = ("token", "kind", "taken_back", "ends_ignored")
        empty = np.zeros(0, np.int32)
        return cls(*(np.concatenate([empty, *(getattr(p, name) for p in parts)]) for name in names))

    def __len__(self) -> int:
        return len(self.token)

    def upto(self, steps: int) -> "History":
        """The first steps of it."""
        return History(
            self.token[:steps],
            self.kind[:steps],
            self.taken_back[:steps],
            self.ends_ignored[:steps],
        )


class ContractError(AssertionError):
    """A sample is not what its rules allow: a fault of the engine, never of its user."""


@dataclass(frozen=True)
class Output:
    """A finished sample. What was taken back (the first tokens of an end) is not in it."""

    request: Request
    tokens: Ids
    kinds: tuple[int, ...]  # budget.THOUGHT, INSERTED, CLOSED or ANSWER, of each token
    ignored_at: tuple[int, ...]  # for each ignored end, the tokens of thinking before it
    forced: bool  # the budget was spent
    finish: str  # "stop", "length" (the answer's budget was spent) or "rejected"
    branch: Branch | None = None

    def of(self, *kinds: int) -> Ids:
        """The tokens of these kinds."""
        return tuple(t for t, kind in zip(self.tokens, self.kinds, strict=True) if kind in kinds)

    @property
    def rules(self) -> Rules:
        """What it had to obey."""
        return rules_of(self.request, self.branch)

    @property
    def thinking_ended(self) -> str | None:
        """By "itself", the "budget" or the "context"; None if there was no thinking."""
        if not self.rules.thinking:
            return None
        if not self.forced:
            return "itself"
        return "context" if len(self.thinking) >= self.rules.max_written_tokens else "budget"

    @property
    def thinking(self) -> Ids:
        """The thinking, with what was inserted."""
        return self.of(THOUGHT, INSERTED)

    @property
    def answer(self) -> Ids:
        """The answer, without what closed the thinking."""
        return self.of(ANSWER)


def rules_of(request: Request, branch: Branch | None) -> Rules:
    """The rules of a request, or of one of its branches."""
    if branch is None:
        return request.rules
    return replace(
        request.rules,
        max_thinking_tokens=branch.max_thinking_tokens,
        ignore_ends=branch.ignore_ends,
        min_thinking_tokens=min(request.rules.min_thinking_tokens, branch.max_thinking_tokens),
    )


def output_of(
    request: Request, history: History, forced: bool, finish: int, branch: Branch | None = None
) -> Output:
    """The sample that a finished row's steps make. ContractError if it breaks its rules."""
    tokens: list[int] = []
    kinds: list[int] = []
    ignored_at: list[int] = []
    before = 0
    steps = zip(
        history.token.tolist(),
        history.kind.tolist(),
        history.taken_back.tolist(),
        history.ends_ignored.tolist(),
        strict=True,
    )
    for token, kind, taken_back, ends_ignored in steps:
        if taken_back:
            del tokens[-taken_back:], kinds[-taken_back:]
        if ends_ignored > before:
            ignored_at.append(sum(k in (THOUGHT, INSERTED) for k in kinds))
            before = ends_ignored
        if kind != NOTHING:
            tokens.append(token)
            kinds.append(kind)
    output = Output(
        request, tuple(tokens), tuple(kinds), tuple(ignored_at), forced, FINISH[finish], branch
    )
    if problems := broken(output):
        raise ContractError(f"sample {request.id} broke its contract: {'; '.join(problems)}")
    return output


def broken(output: Output) -> list[str]:
    """What about a sample its rules do not allow, found without the machine that made it."""
    rules, problems = output.rules, []
    kinds, thinking = output.kinds, output.thinking

    def require(ok: bool, problem: str) -> None:
        if not ok:
            problems.append(problem)

    used, limit = len(thinking), rules.max_thinking_tokens
    sampled = len(output.of(THOUGHT))
    rounds = len(output.ignored_at) + 1
    room = rules.max_written_tokens
    widest = max([1, *(len(ignore_string(rules, k)) for k in range(rounds - 1))])
    require(used < room + widest, f"{used} tokens of thinking, the context leaves {room}")
    if rules.accounting == "none":
        require(used <= limit, f"{used} tokens of thinking, {limit} allowed")
        spent = rules.thinking and (used == limit or used >= room)
        require(output.forced == spent, f"forced at {used} of {min(limit, room)}")
    else:
        require(output.forced or used < room, f"not forced at {used} of {room}")
        most = limit * (rounds if rules.accounting == "evaluator" else 1)
        require(sampled <= most, f"{sampled} sampled tokens of thinking, {most} allowed")
    least = min(rules.min_thinking_tokens, limit, room) if rules.thinking else 0
    require(used >= least, f"{used} tokens of thinking, {least} wanted")
    require(
        rounds - 1 <= rules.ignore_ends, f"{rounds - 1} ends ignored, {rules.ignore_ends} asked"
    )
    require(list(kinds) == sorted(kinds, key=_order), "thinking, closing and answer are mixed")
    closing = output.of(CLOSED)
    forced = (rules.force, rules.force_newline) if output.forced else (rules.close,)
    closed = rules.thinking and output.finish != "rejected"
    require(closing in forced if closed else closing == (), f"closed with {closing}")
    strings = [s for k in range(rounds - 1) for s in ignore_string(rules, k)]
    require(output.of(INSERTED) == tuple(strings), "what was inserted is not the ignore strings")
    for end in rules.ends:
        require(not _occurs(end, output), f"end {end} in the thinking")
    answered = len(output.answer)
    require(answered <= rules.max_answer_tokens, f"{answered} tokens of answer")
    kept = min(used, limit) if rules.accounting == "evaluator" else used
    full = answered == rules.max_answer_tokens or kept + answered >= room
    require(output.finish != "length" or full, f"the answer was cut after {answered} tokens")
    return problems


def ignore_string(rules: Rules, ignored: int) -> Ids:
    """What is written for an ignored end, none if there are no strings."""
    return rules.ignore_strings[ignored % len(rules.ignore_strings)] if rules.ignore_strings else ()


def _occurs(end: Ids, output: Output) -> bool:
    """Whether an end is among the tokens that were sampled one after the other while thinking."""
    for kind, run in groupby(zip(output.kinds, output.tokens, strict=True), key=lambda x: x[0]):
        ids = tuple(token for _, token in run)
        starts = range(len(ids) - len(end) + 1 if kind == THOUGHT else 0)
        if any(ids[at : at + len(end)] == end for at in starts):
            return True
    return False


def _order(kind: int) -> int:
    return {THOUGHT: 0, INSERTED: 0, CLOSED: 1, ANSWER: 2}[kind]
