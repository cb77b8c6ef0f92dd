"""Rejection by length takes the first that fits, unbiased; a majority is the most frequent."""

from collections import Counter
from dataclasses import replace

import fakes_engine
import numpy as np
import pytest
from fakes_engine import engine
from hypothesis import given
from hypothesis import strategies as st

from s1jax.decoding.controls import majority_vote, sample_within_budget
from s1jax.decoding.record import Output

BUDGET = 8


# --- The order of the tries, with an engine that is a table ---


def table(lengths, calls):
    """An engine whose n-th try of a request thinks for the n-th of its lengths."""

    def run(requests, *, then):
        queue = list(requests)
        while queue:
            request = queue.pop(0)
            number = sum(call.id == request.id for call in calls)
            calls.append(request)
            long = lengths[request.id][number] >= request.rules.max_thinking_tokens
            rejected = long and request.rules.reject
            finish = "rejected" if rejected else "stop"
            output = Output(request, (), (), (), long, finish)
            yield output
            queue += then(output)

    return run


def sampled(lengths, tries, **kwargs):
    """What is accepted, by id: how it finished, the try, and the requests that were made."""
    calls = []
    requests = [replace(fakes_engine.request(0, BUDGET), id=name) for name in lengths]
    outputs = sample_within_budget(table(lengths, calls), requests, tries, **kwargs)
    return {o.request.id: (o.finish, o.forced, number) for o, number in outputs}, calls


def test_the_first_try_that_fits_is_taken_and_no_more_are_made():
    lengths = {"a": [3], "b": [9, 8, 7], "c": [9, 9, 9]}
    found, calls = sampled(lengths, 3)
    assert found == {
        "a": ("stop", False, 1),
        "b": ("stop", False, 3),
        "c": ("rejected", True, 3),
    }
    assert Counter(call.id for call in calls) == {"a": 1, "b": 3, "c": 3}
    assert all(call.rules.reject for call in calls)
    assert len({call.seed for call in calls if call.id == "c"}) == 3
    # The first try is the sample that would be made without rejection.
    assert {call.seed for call in calls[:3]} == {fakes_engine.request(0, BUDGET).seed}


def test_the_last_try_may_be_forced():
    found, calls = sampled({"a": [9, 9], "b": [9, 2]}, 2, force_last=True)
    assert found == {"a": ("stop", True, 2), "b": ("stop", False, 2)}
    assert [call.rules.reject for call in calls] == [True, True, False, False]
    found, _ = sampled({"a": [9]}, 1, force_last=True)
    assert found == {"a": ("stop", True, 1)}


# --- The engine ---


@pytest.fixture(scope="module")
def free():
    """The samples without rejection, by id."""
    requests = [fakes_engine.request(n, 120) for n in range(600)]
    return {o.request.id: o for o in engine(64).run(requests)}


@pytest.fixture(scope="module")
def accepted():
    """Those of other seeds with it, and their tries."""
    requests = [replace(fakes_engine.request(n, BUDGET), seed=n + 10_000) for n in range(600)]
    return list(sample_within_budget(engine(64).run, requests, 200))


def lengths_of(outputs):
    return np.array([len(o.thinking) for o in outputs])


def distance(a, b):
    """The largest difference of two empirical distribution functions, in units of its error."""
    at = np.arange(121)[:, None]
    apart = np.abs((a[None] <= at).mean(1) - (b[None] <= at).mean(1)).max()
    return apart / np.sqrt(1 / len(a) + 1 / len(b))


def test_what_is_accepted_is_what_fits_by_chance(free, accepted):
    lengths = lengths_of(free.values())
    fits = lengths[lengths < BUDGET]
    assert 100 < len(fits) < 500, "the control needs both kinds"
    ours = lengths_of(o for o, _ in accepted)
    assert ours.max() < BUDGET
    assert {o.finish for o, _ in accepted} <= {"stop", "length"}
    assert not any(o.forced for o, _ in accepted)
    assert distance(ours, fits) < 1.95  # exceeded once in a thousand times
    # The controls: lengths as they are, and what a budget that forces would give.
    assert distance(ours, lengths) > 3
    assert distance(ours, np.minimum(lengths, BUDGET)) > 3


def test_so_many_tries_are_needed_as_the_share_that_fits_says(free, accepted):
    share = (lengths_of(free.values()) < BUDGET).mean()
    tries = np.array([number for _, number in accepted])
    error = np.sqrt(1 - share) / share / np.sqrt(len(tries))  # of a geometric distribution
    error_of_share = np.sqrt((1 - share) / share / 600) / share
    assert abs(tries.mean() - 1 / share) < 4 * np.hypot(error, error_of_share)
    assert tries.max() > 1


def test_a_first_try_is_the_sample_without_rejection(free):
    requests = [fakes_engine.request(n, BUDGET) for n in range(60)]
    found = {o.request.id: (o, n) for o, n in sample_within_budget(engine(64).run, requests, 50)}
    for name, (output, number) in found.items():
        fits = len(free[name].thinking) < BUDGET
        assert (number == 1) == fits
        assert (output.tokens == free[name].tokens) == fits
    assert {number == 1 for _, number in found.values()} == {True, False}


def test_what_is_accepted_depends_on_nothing_else_in_the_batch():
    requests = [fakes_engine.request(n, BUDGET) for n in range(24)]

    def run(requests):
        outputs = sample_within_budget(engine(8, strict=True).run, requests, 3)
        return {o.request.id: (o.tokens, o.finish, n) for o, n in outputs}

    together = run(requests)
    backwards, some = run(requests[::-1]), run(requests[5:8])
    assert backwards == together
    assert some == {name: together[name] for name in some}
    assert {n for _, _, n in together.values()} == {1, 2, 3}
    assert "rejected" in {finish for _, finish, _ in together.values()}


# --- Votes ---


def test_a_majority_is_the_most_frequent_and_the_first_of_equals():
    assert majority_vote(["2", "1", "1"]) == "1"
    assert majority_vote(["2", "1", "1", "2"]) == "2"
    assert majority_vote(["3", "1", "2"]) == "3"
    assert majority_vote([None, 4]) is None
    with pytest.raises(ValueError):
        majority_vote([])


@given(st.lists(st.integers(0, 3), min_size=1))
def test_a_majority_is_a_counters_most_common(answers):
    assert majority_vote(answers) == Counter(answers).most_common(1)[0][0]
