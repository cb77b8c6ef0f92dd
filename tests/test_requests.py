"""From a config to requests: rules, sampling, seeds that depend on no neighbour, and the order."""

import itertools
from dataclasses import replace

import fakes_engine
import pytest
from fakes_engine import engine

from s1jax.config import Decode
from s1jax.decoding.budget import CLOSED, Rules
from s1jax.decoding.requests import Ask, requests_of, rules_of, samplings, seed_of
from s1jax.decoding.sampling import Sampling
from s1jax.prompts import EVALUATOR_RESERVE, Delimiters, room_tokens
from s1jax.types import UserError

FOUND = Delimiters(
    start=(1,),
    ends=fakes_engine.ENDS,
    stops=((0,),),
    close=(20, 21),
    force=(20, 21, 22),
    force_newline=(7, 20, 21, 22),
    ignore=((30,), (31, 32)),
)
BASE = Decode(max_thinking_tokens=50, max_answer_tokens=9)


def ask(name="a", length=5, seed=None, **decode):
    return Ask(name, tuple(range(40, 40 + length)), replace(BASE, **decode), seed)


def asked(*asks, context=1000, seed=42):
    return requests_of(asks, FOUND, context, seed)


# --- Rules ---


def test_the_rules_are_those_of_the_config_and_the_delimiters():
    [request] = asked(ask(min_thinking_tokens=3, ignore_ends=2))
    assert request.prompt == (40, 41, 42, 43, 44)
    assert request.rules == Rules(
        max_thinking_tokens=50,
        max_answer_tokens=9,
        ends=FOUND.ends,
        stops=FOUND.stops,
        close=FOUND.close,
        force=FOUND.force,
        force_newline=FOUND.force_newline,
        min_thinking_tokens=3,
        ignore_ends=2,
        ignore_strings=FOUND.ignore,
        accounting="none",
        max_written_tokens=2**30,
    )
    assert asked(ask(parity="readme"))[0].rules.accounting == "readme"
    [silent] = asked(ask(thinking=False))
    assert not silent.rules.thinking
    assert silent.rules.max_thinking_tokens == 0


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        ({"min_thinking_tokens": 7}, 7),
        ({"ignore_ends": 2}, 1),
        ({"ignore_ends": 2, "parity": "readme"}, 0),
        ({"min_thinking_tokens": 7, "ignore_ends": 2}, 7),
        ({"min_thinking_tokens": 7, "parity": "evaluator"}, 7),
        ({"min_thinking_tokens": 7, "parity": "evaluator", "ignore_ends": 2}, 1),
        ({"parity": "evaluator", "ignore_ends": 1}, 1),
        ({"min_thinking_tokens": 7, "parity": "readme", "ignore_ends": 2}, 7),
    ],
)
def test_a_round_of_the_evaluator_has_a_minimum_of_one(fields, least):
    assert asked(ask(**fields))[0].rules.min_thinking_tokens == least


def test_a_budget_that_is_not_given_is_what_is_left():
    free = {"max_thinking_tokens": None}
    budgets = [r.rules.max_thinking_tokens for r in asked(ask(**free), ask("b", 30, **free))]
    assert budgets == [1000 - 5 - 4 - 9, 1000 - 30 - 4 - 9]
    readme = asked(ask(parity="readme", ignore_ends=3, **free))[0].rules
    assert readme.max_thinking_tokens == 1000 - 5 - 4 - 9 - 4  # strings of 1 + 2 + 1
    evaluator = [ask(parity="evaluator", **free), ask("b", 30, parity="evaluator", **free)]
    budgets = [r.rules.max_thinking_tokens for r in asked(*evaluator)]
    assert budgets == [1000 - 30 - 3 - EVALUATOR_RESERVE] * 2
    given = [*evaluator, ask("c", parity="evaluator", max_thinking_tokens=8)]
    assert [r.rules.max_thinking_tokens for r in asked(*given)] == [*budgets, 8]


def test_what_does_not_fit_is_named():
    asks = [ask(), Ask("b", (1,) * 40, BASE, name="x.jsonl, line 2")]
    asked(*asks, context=40 + 50 + 4 + 9)
    with pytest.raises(UserError, match=r"^x\.jsonl, line 2 has 40 tokens, 50 of thinking"):
        asked(*asks, context=40 + 50 + 4 + 9 - 1)
    with pytest.raises(UserError, match=r"^prompt a has 5 tokens, more than the model's context"):
        asked(ask(), context=4)


@pytest.mark.parametrize("ignore_ends", [1, 30])
def test_no_row_of_the_evaluator_leaves_the_context(ignore_ends):
    """Rounds of a whole budget each, as s1's runs with budget "auto": the context ends the last."""
    context, length = 240, 9
    asks = [
        ask(
            str(n),
            length,
            parity="evaluator",
            max_thinking_tokens=None,
            max_answer_tokens=1000,
            ignore_ends=ignore_ends,
            temperature=1.0,
            samples=6,
        )
        for n in range(4)
    ]
    requests = asked(*asks, context=context)
    assert {r.rules.max_thinking_tokens for r in requests} == {context - length - 3 - 100}
    # Most stops are taken away: answers are to be long.
    requests = [replace(r, rules=replace(r.rules, stops=())) for r in requests]
    reached = []
    for output in engine(8, strict=True).run(requests):
        thinking, rules = len(output.thinking), output.rules
        kept = min(thinking, rules.max_thinking_tokens)
        closing = len(output.of(CLOSED))
        last = length + kept + closing + len(output.answer)
        assert max(length + thinking, last) <= context
        assert output.finish == "length"
        assert last >= context - 2  # which is not left unused either
        reached.append(output.forced and thinking > rules.max_thinking_tokens)
    # The control: some rows are cut by the context alone, after rounds beyond one budget.
    assert any(reached) == (ignore_ends == 30)


def test_room_is_the_evaluators_alone():
    decode = replace(BASE, parity="evaluator", ignore_ends=1)
    assert rules_of(decode, FOUND, 50, room_tokens(100, 5, FOUND, decode)).max_written_tokens == 91
    assert rules_of(BASE, FOUND, 50, 91).max_written_tokens == 2**30


# --- Sampling ---


def test_the_thinking_is_sampled_as_the_answer_unless_it_has_its_own():
    assert samplings(Decode()) == (Sampling(), Sampling())
    both = Decode(temperature=0.7, top_k=9, top_p=0.9, min_p=0.1)
    assert samplings(both) == (Sampling(0.7, 9, 0.9, 0.1),) * 2
    own = replace(both, thinking_temperature=0.0, thinking_top_k=0, thinking_top_p=1.0)
    assert samplings(own) == (Sampling(0.0, 0, 1.0, 0.1), Sampling(0.7, 9, 0.9, 0.1))


# --- Seeds and order ---


def test_a_sample_does_not_depend_on_its_neighbours():
    several = {"samples": 3, "temperature": 1.0}
    [*alone] = asked(ask("b", 6, **several))
    among = asked(ask("a", 9, **several), ask("b", 6, **several), ask("c", 2, **several))
    assert [r for r in among if r.id.startswith("b/")] == alone
    assert [r.id for r in alone] == ["b/0", "b/1", "b/2"]


def test_every_sample_has_a_seed_of_its_own():
    asks = [ask(name, samples=20) for name in "abc"]
    seeds = [r.seed for r in asked(*asks)] + [r.seed for r in asked(*asks, seed=43)]
    assert len(set(seeds)) == 120
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_prompts_own_seed_takes_the_place_of_its_id():
    [one], [other] = asked(ask("a", seed=7)), asked(ask("b", seed=7))
    assert one.seed == other.seed
    assert len({one.seed, *(asked(ask(name))[0].seed for name in ("a", "7"))}) == 3
    assert asked(ask("a", seed=7), seed=1)[0].seed != one.seed
    assert asked(ask("a", seed=0))[0].seed != asked(ask("a"))[0].seed


def test_seeds_stay_what_they_are():
    """Golden: files that are gone on with have samples of both."""
    assert seed_of(42, "a", 0) == 3461948339
    parts = [(42, "a", 0), (42, "a", 1), ("42", "a", 0), (4, "2a", 0), (42, "a")]
    assert all(seed_of(*a) != seed_of(*b) for a, b in itertools.combinations(parts, 2))


def test_the_longest_may_go_first():
    asks = [ask("a", 5), ask("b", 30), ask("c", 5, max_thinking_tokens=90), ask("d", 5)]
    assert [r.id for r in asked(*asks)] == ["a/0", "b/0", "c/0", "d/0"]
    ordered = [replace(a, decode=replace(a.decode, order="longest")) for a in asks]
    assert [r.id for r in asked(*ordered)] == ["c/0", "b/0", "a/0", "d/0"]
    assert asked() == []
