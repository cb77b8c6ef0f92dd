"""Controls of thinking that look at whole samples: rejection by length, and majority voting."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from s1jax.decoding.record import Output, Request
from s1jax.decoding.requests import seed_of

Answer = TypeVar("Answer", bound=Hashable)

Run = Callable[..., Iterator[Output]]  # Engine.run, with what else it is to be given


def sample_within_budget(
    run: Run, requests: Iterable[Request], tries: int, *, force_last: bool = False
) -> Iterator[tuple[Output, int]]:
    """For each request its first try whose thinking ended within the budget, and which try it was.

    A try whose budget is spent is rejected, and the next one is made with a seed of its own. If
    all are, the last stays without an answer, or, with `force_last`, is forced to one. Tries of a
    request follow each other, so that what is accepted does not depend on the rest of the batch.

    Source: paper, sections 3 and 5.2; `vllm_causallms.py:286-330` of the reference, which takes a
    try of at most so many tokens, its end included, and never gives up.
    """
    assert tries >= 1
    asked = list(requests)
    first = {request.id: request for request in asked}
    assert len(first) == len(asked), "every request needs an id of its own"
    assert not any(request.branches for request in asked), "a rejected sample has no branches"
    made = dict.fromkeys(first, 1)

    def attempt(request: Request, number: int) -> Request:
        rules = replace(request.rules, reject=not (force_last and number == tries))
        seed = request.seed if number == 1 else seed_of(request.seed, number)
        return replace(request, rules=rules, seed=seed)

    def is_last(output: Output) -> bool:
        return output.finish != "rejected" or made[output.request.id] == tries

    def then(output: Output) -> Iterable[Request]:
        if is_last(output):
            return []
        name = output.request.id
        made[name] += 1
        return [attempt(first[name], made[name])]

    for output in run([attempt(request, 1) for request in first.values()], then=then):
        if is_last(output):  # `then` is asked afterwards
            yield output, made[output.request.id]


def majority_vote(answers: Sequence[Answer]) -> Answer:
    """The most frequent answer; of equals the one seen first. ValueError if there is none.

    Source: maj@k of the reference's task files, which is a Counter's most common.
    """
    counts = Counter(answers)
    return max(counts, key=counts.__getitem__)
