"""The machine of budget forcing against a plain loop, token for token, and against goldens.

No model: logits are a function of the context that makes ends, stops and newlines frequent.
"""

import functools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import jax
import numpy as np
import pytest
from host_loop import Told, host_loop

from s1jax.decoding import budget
from s1jax.decoding.budget import ANSWER, CLOSED, INSERTED, NOTHING, THOUGHT, Plan, Rules
from s1jax.decoding.record import Branch, History, Output, Request, broken, output_of

VOCAB = 24
LINE_ENDS = {6, 7}

_start = jax.jit(budget.start)
_suppressed = jax.jit(budget.suppressed)
_refuse = jax.jit(budget.refuse)
_advance = jax.jit(budget.advance)


@dataclass
class Seat:
    """A row of the batch: whose it is, what the model would read next, and what was written."""

    request: Request
    context: list[int]
    steps: list[tuple[int, int, int, int]] = field(default_factory=list)


def machine(
    requests: Sequence[Request],
    next_logits: Callable[[list[int]], np.ndarray],
    line_ends: set[int] = LINE_ENDS,
    rows: int = 16,
    vocab: int = VOCAB,
) -> dict[str, tuple[Output, tuple[int, ...]]]:
    """Every sample and its last context, by the machine alone; free rows take the next one."""
    shape = budget.sizes([request.rules for request in requests])
    lines = np.isin(np.arange(vocab), list(line_ends))
    idle = Rules(1, 1)
    seats: list[Seat | None] = [None] * rows
    queue, found = deque(requests), {}
    plan = budget.plan_of([idle] * rows, shape)
    state = writable(_start(plan))
    state.phase[:] = budget.DONE
    nothing = np.zeros(vocab, np.float32)
    while queue or any(seats):
        for index, seat in enumerate(seats):
            if seat is None and queue:
                request = queue.popleft()
                seats[index] = Seat(request, list(request.prompt))
                own = budget.plan_of([request.rules], shape)
                reset(plan, index, own)
                reset(state, index, _start(own))
        logits = np.stack([next_logits(s.context) if s else nothing for s in seats])
        sampled = best(logits, _suppressed(plan, state))
        refused, again = _refuse(plan, state, sampled)
        sampled = np.where(again, best(logits, _suppressed(plan, refused)), sampled)
        after, written, taken_out = jax.device_get(_advance(plan, refused, sampled, lines))
        state = writable(after)
        for index, seat in enumerate(seats):
            if seat is None:
                continue
            names = ("token", "kind", "taken_back", "ends_ignored")
            step = tuple(int(getattr(written, name)[index]) for name in names)
            seat.steps.append(step)
            del seat.context[len(seat.context) - int(taken_out[index]) :]
            if step[1] != NOTHING:
                seat.context.append(step[0])
            if state.phase[index] == budget.DONE:
                history = History(*np.array(seat.steps, np.int32).T)
                ended = bool(state.forced[index]), int(state.finish[index])
                output = output_of(seat.request, history, *ended)
                found[seat.request.id] = (output, tuple(seat.context))
                seats[index] = None
    return found


def writable(tree):
    return jax.tree.map(np.array, tree)


def reset(tree, index: int, one) -> None:
    jax.tree.map(lambda old, new: old.__setitem__(index, np.asarray(new)[0]), tree, one)


def best(logits: np.ndarray, without) -> np.ndarray:
    logits = logits.copy()
    for row, ids in enumerate(np.asarray(without)):
        logits[row, ids[ids >= 0]] = -np.inf
    return logits.argmax(-1).astype(np.int32)


def same(found: tuple[Output, tuple[int, ...]], told: Told) -> bool:
    output, context = found
    return (
        output.tokens == told.tokens
        and output.kinds == told.kinds
        and output.thinking == told.thinking
        and output.answer == told.answer
        and output.ignored_at == told.ignored_at
        and output.forced == told.forced
        and output.finish == told.finish
        and context == told.context
    )


# --- Random schedules ---


@functools.cache
def table() -> np.ndarray:
    """Logits by a hash of the context; the first ids, of which ends are made, are frequent."""
    return np.random.default_rng(0).normal(size=(4096, VOCAB)) + 2.0 * (np.arange(VOCAB) < 6)


def scripted(context: list[int]) -> np.ndarray:
    # With its length, so that a context that was cut shows at once.
    return table()[hash((*context[-3:], len(context))) % 4096]


def random_rules(rng: np.random.Generator) -> Rules:
    def ids(low: int, high: int, least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.integers(low, high, rng.integers(least, most + 1)).tolist())

    def some(low: int, high: int, most: int, count: int) -> tuple[tuple[int, ...], ...]:
        return tuple(ids(low, high, 1, most) for _ in range(rng.integers(0, count + 1)))

    accounting = budget.ACCOUNTING[rng.integers(3)]
    limit = int(rng.integers(1, 40))
    # The evaluator always closes, and cuts the context where it does.
    closes = rng.random() < 0.8 or accounting == "evaluator"
    forces = rng.random() < 0.8 or accounting == "evaluator"
    return Rules(
        max_thinking_tokens=limit,
        max_answer_tokens=int(rng.integers(1, 12)),
        ends=some(0, 4 if rng.random() < 0.7 else VOCAB, 3, 4),
        stops=some(0, 6, 3, 3),
        close=ids(0, VOCAB, 1, 3) if closes else (),
        force=ids(0, VOCAB, 1, 4) if forces else (),
        force_newline=ids(0, VOCAB, 1, 5) if forces else (),
        min_thinking_tokens=int(rng.integers(0, limit + 4)) if rng.random() < 0.4 else 0,
        ignore_ends=int(rng.integers(0, 7)),
        ignore_strings=some(0, VOCAB, 3, 3),
        accounting=accounting,
        thinking=rng.random() < 0.95,
        reject=rng.random() < 0.1,
        max_written_tokens=int(rng.integers(1, 60)) if rng.random() < 0.15 else 2**30,
    )


def schedules(count: int, seed: int) -> list[Request]:
    rng = np.random.default_rng(seed)
    return [
        Request(
            str(i), tuple(rng.integers(0, VOCAB, rng.integers(1, 6)).tolist()), random_rules(rng)
        )
        for i in range(count)
    ]


def expected(request: Request, rules: Rules | None = None) -> Told:
    return host_loop(rules or request.rules, request.prompt, scripted, LINE_ENDS)


@pytest.fixture(scope="module")
def many() -> list[tuple[Request, tuple[Output, tuple[int, ...]], Told]]:
    requests = schedules(1000, seed=1)
    found = machine(requests, scripted)
    assert len(found) == len(requests)
    return [(request, found[request.id], expected(request)) for request in requests]


def test_random_schedules_are_those_of_the_plain_loop(many):
    for request, found, told in many:
        assert same(found, told), (request, found, told)
    seen: Counter[str] = Counter()
    for request, (output, _), told in many:
        rules = request.rules
        silent = bool(output.ignored_at) and not rules.ignore_strings
        seen[f"finish {output.finish}"] += 1
        seen[rules.accounting] += 1
        seen["forced"] += output.forced
        seen["forced in a later round"] += output.forced and bool(output.ignored_at)
        seen["forced by what is written"] += output.forced and (
            len(output.thinking) >= rules.max_written_tokens
        )
        seen["natural end"] += rules.thinking and not output.forced
        seen["nothing to close with"] += rules.thinking and not output.of(CLOSED)
        seen["ignored with a string"] += bool(output.ignored_at) and not silent
        seen["ignored silently"] += silent
        seen["ignored thrice or more"] += len(output.ignored_at) >= 3
        seen["taken back"] += told.taken_back > 0
        seen["taken back twice or more"] += told.taken_back > 1
        seen["context cut"] += told.cut > 0
    print(f"\n{len(many)} schedules, {sum(len(o.tokens) for _, (o, _), _ in many)} tokens: {seen}")
    assert min(seen.values()) >= 10, seen


def test_under_none_a_budget_is_never_exceeded_by_one_token(many):
    of_it = [o for r, (o, _), _ in many if r.rules.accounting == "none" and r.rules.thinking]
    for output in of_it:
        used, limit = len(output.thinking), output.rules.max_thinking_tokens
        room = output.rules.max_written_tokens
        assert used <= limit
        assert output.forced == (used == limit or used >= room)
    assert sum(len(o.thinking) == o.rules.max_thinking_tokens for o in of_it) > 50
    # The control: the other accountings do exceed it.
    for accounting in ("evaluator", "readme"):
        assert any(
            len(o.thinking) > o.rules.max_thinking_tokens
            for r, (o, _), _ in many
            if r.rules.accounting == accounting
        )


CHANGES: dict[str, Callable[[Rules], dict]] = {  # what the plain loop would do under other rules
    "budget": lambda r: {"max_thinking_tokens": r.max_thinking_tokens + 1},
    "answer's budget": lambda r: {"max_answer_tokens": r.max_answer_tokens + 1},
    "minimum": lambda r: {"min_thinking_tokens": r.min_thinking_tokens + 1},
    "ends ignored": lambda r: {"ignore_ends": r.ignore_ends + 1},
    "ends": lambda r: {"ends": r.ends[1:]},
    "stops": lambda r: {"stops": r.stops[1:]},
    "strings": lambda r: {"ignore_strings": r.ignore_strings[::-1]},
    "newline": lambda r: {"force": r.force_newline, "force_newline": r.force},
    "none": lambda r: {"accounting": "none"},
    "evaluator": lambda r: {"accounting": "evaluator"} if r.close and r.force else {},
    "readme": lambda r: {"accounting": "readme"},
    "all that is written": lambda r: {"max_written_tokens": r.max_written_tokens - 1},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_rule_shows_in_the_schedules(many, name):
    different = 0
    for request, found, _ in many[:400]:
        rules = replace(request.rules, **CHANGES[name](request.rules))
        different += not same(found, expected(request, rules))
    assert different >= 3


@pytest.mark.parametrize("rows", [1, 5])
def test_a_row_is_the_same_in_every_batch(many, rows):
    requests = [request for request, _, _ in many[200:260]]
    found = machine(requests[::-1], scripted, rows=rows)
    for request, before, _ in many[200:260]:
        assert found[request.id] == before


@pytest.mark.slow
def test_twenty_thousand_schedules():
    requests = schedules(20_000, seed=2)
    found = machine(requests, scripted, rows=64)
    for request in requests:
        assert same(found[request.id], expected(request)), request


def test_an_end_of_two_tokens_does_not_take_the_thinking_below_its_minimum():
    # The end's first token is written when the minimum seems to be reached.
    rules = Rules(20, 3, ends=((1, 2),), close=(9,), force=(9,), force_newline=(9,))
    wants = [3, 3, 3, 1, (2, 4), 1, (2, 4), 3]
    got = golden(replace(rules, min_thinking_tokens=4), wants)
    assert got.thinking == (3, 3, 3, 1, 4)
    assert golden(replace(rules, min_thinking_tokens=3), wants).thinking == (3, 3, 3)


# --- Goldens: ids of Qwen2.5's tokenizer ---

START, END, THINK, SAYS, NEWLINE = 151644, 151645, 26865, 9217, 198
WAIT, HMM, FINAL, ANSWERS, COLON, ZERO = 14190, 80022, 19357, 21806, 25, 15
A, B, C, D, STOP = 4416, 856, 284, 220, 382  # " So", " x", " =", " ", ".\n\n"
QWEN = 151_700
CLOSE = (START, SAYS)
FORCE = (START, SAYS, NEWLINE, FINAL, ANSWERS, COLON)
PROMPT = (START, THINK)

S1 = Rules(
    max_thinking_tokens=100,
    max_answer_tokens=8,
    ends=((START,), (END,)),
    stops=((END,),),
    close=CLOSE,
    force=FORCE,
    force_newline=(NEWLINE, *FORCE),
)

Wants = Sequence[int | tuple[int, int]]  # by position after the prompt: the likeliest, or two


def golden(rules: Rules, wants: Wants, prompt: tuple[int, ...] = PROMPT) -> Output:
    """The machine's sample where the model wants these; the last of them from there on."""

    def next_logits(context: list[int]) -> np.ndarray:
        want = wants[min(len(context) - len(prompt), len(wants) - 1)]
        logits = np.zeros(QWEN, np.float32)
        for rank, token in enumerate(want if isinstance(want, tuple) else (want,)):
            logits[token] = 2 - rank
        return logits

    lines = {NEWLINE, STOP}
    request = Request("golden", prompt, rules)
    found = machine([request], next_logits, lines, rows=1, vocab=QWEN)["golden"]
    assert same(found, host_loop(rules, prompt, next_logits, lines))
    return found[0]


def test_a_natural_end_is_stripped_and_the_marker_takes_its_place():
    got = golden(S1, [A, B, START, 0, NEWLINE, ANSWERS, END])
    assert got.tokens == (A, B, START, SAYS, NEWLINE, ANSWERS)
    assert got.kinds == (THOUGHT, THOUGHT, CLOSED, CLOSED, ANSWER, ANSWER)
    assert not got.forced and got.finish == "stop" and got.ignored_at == ()


def test_eos_inside_the_thinking_is_an_end():
    got = golden(S1, [A, B, END, 0, NEWLINE, ANSWERS, END])
    assert got.tokens == (A, B, START, SAYS, NEWLINE, ANSWERS)
    waits = golden(replace(S1, ignore_ends=1, ignore_strings=((WAIT,),)), [A, END, B, END, 0, C])
    assert waits.tokens == (A, WAIT, B, *CLOSE, *[C] * 8)
    assert waits.ignored_at == (1,) and waits.finish == "length"


@pytest.mark.parametrize(
    ("last", "closing"),
    [(C, (NEWLINE, *FORCE)), (NEWLINE, FORCE), (STOP, FORCE)],
)
def test_a_spent_budget_forces_the_answer(last, closing):
    got = golden(replace(S1, max_thinking_tokens=4), [A, B, D, last, *[0] * len(closing), D, END])
    assert got.thinking == (A, B, D, last) and got.of(CLOSED) == closing
    assert got.tokens == (A, B, D, last, *closing, D)
    assert got.forced and got.finish == "stop"


def test_an_end_at_the_budgets_last_token_is_an_end():
    limit = replace(S1, max_thinking_tokens=3)
    got = golden(limit, [A, B, START, 0, C, END])
    assert got.tokens == (A, B, *CLOSE, C) and not got.forced
    one_more = golden(limit, [A, B, C, START, END])
    assert one_more.thinking == (A, B, C) and one_more.forced


@pytest.mark.parametrize("count", [0, 1, 2, 4, 6])
def test_ends_are_ignored_so_many_times(count):
    # The model would end in every place where it may: one token a round.
    rules = replace(S1, ignore_ends=count, ignore_strings=((WAIT,),))
    got = golden(rules, [(START, A)] * 40, prompt=PROMPT)
    assert got.thinking == (WAIT, A) * count
    assert got.ignored_at == tuple(range(0, 2 * count, 2))
    assert got.of(CLOSED) == CLOSE
    then = [*[x for _ in range(count) for x in (A, B, START)], A, B, END, 0, C, END]
    got = golden(rules, then)
    assert got.thinking == (A, B, WAIT) * count + (A, B)
    assert got.tokens == (*got.thinking, *CLOSE, C)


def test_strings_take_turns():
    rules = replace(S1, ignore_ends=3, ignore_strings=((WAIT,), (HMM, NEWLINE)))
    got = golden(rules, [A, END, B, END, 0, C, END, D, END, 0, A, END])
    assert got.tokens == (A, WAIT, B, HMM, NEWLINE, C, WAIT, D, *CLOSE, A)
    assert got.ignored_at == (1, 3, 6)


def test_without_a_string_the_end_is_only_not_taken():
    got = golden(replace(S1, ignore_ends=2), [A, (START, B), (START, C), START, 0, D, END])
    assert got.tokens == (A, B, C, *CLOSE, D)
    assert got.kinds[:3] == (THOUGHT,) * 3 and got.ignored_at == (1, 2)
    # The second may come at once after a token, the token after an ignored end may be none.
    got = golden(replace(S1, ignore_ends=2), [A, (START, B), C, (START, D), START, 0, D, END])
    assert got.thinking == (A, B, C, D) and got.ignored_at == (1, 3)


def test_the_least_thinking_comes_before_any_end():
    got = golden(replace(S1, min_thinking_tokens=3), [*[(START, A)] * 4, 0, B, END])
    assert got.tokens == (A, A, A, *CLOSE, B)


def test_inserted_tokens_are_charged():
    # 2 + Wait + 2 = the budget of 5: it is reached in the round of the Wait.
    rules = replace(S1, max_thinking_tokens=5, ignore_ends=1, ignore_strings=((WAIT,),))
    got = golden(rules, [A, B, START, C, D, A, *[0] * 6, B, END])
    assert got.thinking == (A, B, WAIT, C, D) and got.forced
    assert got.of(CLOSED) == (NEWLINE, *FORCE)
    # A string that would leave no room for a token is not inserted: the end is taken.
    got = golden(replace(rules, max_thinking_tokens=3), [A, B, START, 0, C, END])
    assert got.tokens == (A, B, *CLOSE, C) and got.ignored_at == () and not got.forced
    assert golden(replace(rules, max_thinking_tokens=4), [A, B, START, C, D]).ignored_at == (2,)


def test_the_evaluator_gives_every_round_the_whole_budget_and_cuts_the_context():
    rules = replace(
        S1, max_thinking_tokens=3, accounting="evaluator", ignore_ends=1, ignore_strings=((WAIT,),)
    )
    # Positions are of what the model reads. Of 5 tokens of thinking 3 stay, then comes the marker:
    # the answer begins at the position where the thinking ended.
    wants = [A, B, START, C, A, START, D, END]
    got = golden(rules, wants)
    assert got.thinking == (A, B, WAIT, C, A) and got.ignored_at == (2,)
    assert not got.forced and got.of(CLOSED) == CLOSE  # no "Final Answer:" though it was cut
    assert got.answer == (START, D)
    uncut = golden(replace(rules, max_thinking_tokens=7, accounting="none"), wants)
    assert uncut.thinking == got.thinking and uncut.answer == ()


def test_the_evaluators_rounds_are_ended_by_their_own_budget():
    rules = replace(
        S1, max_thinking_tokens=3, accounting="evaluator", ignore_ends=2, ignore_strings=((WAIT,),)
    )
    got = golden(rules, [A, B, START, C, D, A, B])
    assert got.thinking == (A, B, WAIT, C, D, A) and got.forced
    assert got.of(CLOSED) == (NEWLINE, *FORCE)
    first = golden(rules, [A, B, C, START])  # a round that spends its budget is the last
    assert first.thinking == (A, B, C) and first.forced and first.ignored_at == ()


def test_the_readme_charges_ends_and_not_strings():
    rules = replace(
        S1,
        max_thinking_tokens=5,
        accounting="readme",
        ignore_ends=1,
        ignore_strings=((WAIT, HMM, WAIT),),
        close=(),
        force=(),
        force_newline=(),
    )
    # 2 tokens, their end, 2 tokens: 5. What follows is the answer, with nothing written between.
    got = golden(rules, [A, B, START, 0, 0, C, D, A, B, END])
    assert got.thinking == (A, B, WAIT, HMM, WAIT, C, D) and got.forced
    assert got.tokens == (*got.thinking, A, B)
    # An end with nothing to close it begins the answer: the model goes on from its own marker.
    got = golden(rules, [A, END, 0, 0, B, START, SAYS, A, END])
    assert got.thinking == (A, WAIT, HMM, WAIT, B) and not got.forced
    assert got.answer == (START, SAYS, A)


def test_an_end_of_two_tokens_is_taken_back():
    rules = replace(S1, ends=((START, ZERO), (END,)))
    got = golden(rules, [A, START, ZERO, C, END])
    assert got.tokens == (A, *CLOSE, C) and got.kinds[0] == THOUGHT
    # Its first token alone is no end, and stays.
    got = golden(rules, [A, START, B, START, ZERO, D, END])
    assert got.tokens == (A, START, B, *CLOSE, D)
    waits = replace(rules, ignore_ends=1, ignore_strings=((WAIT,),))
    got = golden(waits, [A, START, ZERO, START, ZERO, C, END])
    assert got.tokens[:2] == (A, WAIT) and got.ignored_at == (1,)
    # Between the tokens of an end, the budget may be spent: they were thinking then.
    got = golden(replace(rules, max_thinking_tokens=2), [A, START, ZERO])
    assert got.thinking == (A, START) and got.forced


def test_a_row_may_be_rejected_or_not_think_at_all():
    got = golden(replace(S1, max_thinking_tokens=2, reject=True), [A, B, C])
    assert (got.tokens, got.finish, got.forced) == ((A, B), "rejected", True)
    got = golden(replace(S1, max_thinking_tokens=3, reject=True), [A, B, START, 0, C, END])
    assert (got.tokens, got.finish) == ((A, B, *CLOSE, C), "stop")
    got = golden(replace(S1, thinking=False), [A, START, B, END])
    assert (got.tokens, got.kinds) == ((A, START, B), (ANSWER,) * 3)


# --- The contract, checked again on what came out ---


def sound() -> Output:
    rules = replace(
        S1,
        ignore_ends=2,
        ignore_strings=((WAIT,), (HMM, HMM)),
        min_thinking_tokens=2,
        max_thinking_tokens=8,
        max_answer_tokens=3,
    )
    return golden(rules, [A, B, START, C, END, 0, D, START, 0, A, B, C])


def cut_short() -> Output:
    return golden(replace(S1, max_thinking_tokens=3), [A, B, C, *[0] * 7, D, END])


def damaged(output: Output, at: int, *tokens: int, kind: int, remove: int = 0, **fields) -> Output:
    """The output with some tokens put in, or removed, at a place."""
    kinds = (*output.kinds[:at], *[kind] * len(tokens), *output.kinds[at + remove :])
    ids = (*output.tokens[:at], *tokens, *output.tokens[at + remove :])
    return replace(output, tokens=ids, kinds=kinds, **fields)


def under(output: Output, **rules) -> Output:
    """The output as if it had been asked for under other rules."""
    return replace(output, request=replace(output.request, rules=replace(output.rules, **rules)))


BREACHES: list[tuple[str, Callable[[], Output]]] = [
    ("9 tokens of thinking, 8 allowed", lambda: damaged(sound(), 0, A, A, kind=THOUGHT)),
    ("7 tokens of thinking, 6 allowed", lambda: under(sound(), max_thinking_tokens=6)),
    ("forced at 3 of 3", lambda: replace(cut_short(), forced=False)),
    ("forced at 2 of 3", lambda: damaged(cut_short(), 0, kind=THOUGHT, remove=1)),
    ("8 wanted", lambda: under(sound(), min_thinking_tokens=8)),
    ("2 ends ignored, 1 asked", lambda: under(sound(), ignore_ends=1)),
    ("are mixed", lambda: damaged(sound(), 0, A, kind=ANSWER)),
    ("closed with", lambda: damaged(sound(), 7, kind=CLOSED, remove=1)),
    ("closed with", lambda: replace(sound(), finish="rejected")),
    ("closed with", lambda: under(cut_short(), force_newline=(START,), force=(START,))),
    ("closed with", lambda: under(sound(), thinking=False)),
    ("not the ignore strings", lambda: damaged(sound(), 2, HMM, kind=INSERTED, remove=1)),
    ("not the ignore strings", lambda: damaged(sound(), 2, kind=INSERTED, remove=1)),
    ("in the thinking", lambda: damaged(sound(), 0, START, kind=THOUGHT, remove=1)),
    ("in the thinking", lambda: under(sound(), ends=((A, B),))),
    ("3 tokens of answer", lambda: under(sound(), max_answer_tokens=2)),
    ("the answer was cut", lambda: damaged(sound(), 9, kind=ANSWER, remove=1)),
    (
        "4 sampled tokens of thinking, 3 allowed",
        lambda: under(sound(), accounting="readme", max_thinking_tokens=3),
    ),
    (
        "4 sampled tokens of thinking, 3 allowed",
        lambda: under(sound(), accounting="evaluator", max_thinking_tokens=1),
    ),
    ("the context leaves 4", lambda: under(sound(), max_written_tokens=4)),
    ("not forced at", lambda: under(sound(), max_written_tokens=7, accounting="readme")),
]


def test_sound_samples_keep_their_contract(many):
    assert broken(sound()) == broken(cut_short()) == []
    assert sound().tokens == (A, B, WAIT, C, HMM, HMM, D, *CLOSE, A, B, C)
    assert all(broken(output) == [] for _, (output, _), _ in many)


@pytest.mark.parametrize(("problem", "make"), BREACHES)
def test_every_breach_of_the_contract_is_found(problem, make):
    problems = broken(make())
    assert any(problem in found for found in problems), problems


def test_a_branch_is_held_to_its_own_rules():
    output = sound()
    assert broken(replace(output, branch=Branch(8, 2))) == []
    assert broken(replace(output, branch=Branch(6, 2)))
    assert broken(replace(output, branch=Branch(8, 1)))


def test_rows_keep_their_own_rules_in_one_plan():
    rules = [request.rules for request in schedules(50, seed=3)]
    shape = budget.sizes(rules)
    together = budget.plan_of(rules, shape)
    assert isinstance(together, Plan)
    for index, own in enumerate(rules):
        alone = budget.plan_of([own], shape)
        pairs = zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True)
        assert all(np.array_equal(a[index], b[0]) for a, b in pairs)
