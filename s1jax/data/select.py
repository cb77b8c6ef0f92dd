"""`select()`: the candidates that become the training set, by s1's sampling or an ablation of it.

Reference: paper, section 2.2, algorithm 1 and section 5.1 (the ablations); s1's notebook of
filters. They differ: the notebook turns to the benchmarks' domains once 700 questions are there.
`curate.mode` says who is followed:

    s1      the notebook as it is meant: what is taken at once is no longer there to be drawn
    paper   algorithm 1: every draw is uniform over the domains
    parity  the notebook with its slips, and numpy's draws after `np.random.seed(seed)`

What is selected does not depend on the order of the candidates, but in "parity". The picks that
are taken at once, as in s1, the full set and the drops are listed in that order; other picks in
the order of their draws.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from s1jax.curation_config import Curate
from s1jax.data.funnel import Candidate, Drop, Pick
from s1jax.types import UserError

# What picks are counted by.
LIKE_BENCHMARKS = "like the benchmarks"
UNIFORM = "uniform over domains"
WEIGHTED = "domains of the benchmarks"
LEFT_OVER = "uniform over domains, those of the benchmarks being empty"

Pools = dict[str, list[Candidate]]  # what is left of each domain; an empty one is not there
Draws = Counter[str]  # how often each domain was drawn
Rank = Callable[[np.random.Generator, int], int]  # below a count, 0 is the longest


def select(
    candidates: Sequence[Candidate], cfg: Curate, seed: int
) -> tuple[list[Pick], list[Drop]]:
    """`curate.size` of the candidates, or all if there are fewer, and why the others are not.

    Raises UserError if mode "parity" cannot have the seed.
    """
    ids = {candidate.question.id for candidate in candidates}
    assert len(ids) == len(candidates), "a question is a candidate twice"
    rng = np.random.default_rng(seed)
    if cfg.selection == "full":
        return [Pick(c, "full", "all candidates are taken") for c in candidates], []
    if cfg.selection == "random":
        return _random(candidates, cfg.size, rng)
    if cfg.selection == "longest":
        return _longest(candidates, cfg.size)
    if cfg.selection == "diverse":
        picks, draws = _draw(_pools(candidates), [], cfg.size, {}, cfg.size, any_rank, rng)
        return picks, _undrawn(candidates, picks, draws)
    assert cfg.selection == "s1"
    picks = _at_once(candidates, cfg, rng)
    if cfg.mode == "parity":
        picks, draws = _draw_like_the_notebook(candidates, picks, cfg, seed)
    else:
        taken = {pick.candidate.question.id for pick in picks}
        pools = _pools(c for c in candidates if c.question.id not in taken)
        weights = benchmark_weights(candidates, cfg.benchmark_sources)
        uniform_until = cfg.size if cfg.mode == "paper" else cfg.uniform_until
        picks, draws = _draw(pools, picks, cfg.size, weights, uniform_until, geometric_rank, rng)
    return picks, _undrawn(candidates, picks, draws)


def like_benchmarks(candidate: Candidate, cfg: Curate) -> str | None:
    """A sentence why a candidate is taken at once; None if it is not. (393 in s1.)"""
    source = candidate.question.source_type
    if candidate.solved is not True:
        return None
    if any(_is_of(candidate, part) for part in cfg.benchmark_sources):
        return f"it is solved, and {source} is a benchmark's source"
    if any(_is_of(candidate, part) for part in cfg.long_sources):
        tokens = candidate.thinking_tokens
        if tokens > cfg.long_tokens:
            return f"it is solved, of {source}, with {tokens:,} > {cfg.long_tokens:,} tokens"
    return None


def benchmark_weights(candidates: Iterable[Candidate], sources: Sequence[str]) -> dict[str, int]:
    """How many questions of each domain the benchmarks' sources have, solved or not.

    The first source that has questions counts in full. Each later one is scaled to half of its
    total, and what is no whole number is cut. The domains of the last source come first, as in
    the notebook.
    """
    candidates = list(candidates)
    counts = [Counter(c.domain for c in candidates if _is_of(c, part)) for part in sources]
    counts = [count for count in counts if count]
    weights: dict[str, int] = {}
    for later, count in reversed(list(enumerate(counts))):
        ratio = 0.5 * counts[0].total() / count.total() if later else 1.0
        for domain, number in count.items():
            weights[domain] = weights.get(domain, 0) + int(number * ratio)
    # Here and not before: what is cut to 0 keeps its place if the first source has the domain too.
    return {domain: weight for domain, weight in weights.items() if weight}


def geometric_rank(rng: np.random.Generator, count: int) -> int:
    """A rank below `count`, each half as likely as the one before it.

    Drawn again if it is too large: exact for any count. Weights 2^-rank are 0 from rank 1,075 on.
    """
    if count == 1:
        return 0
    while (rank := int(rng.geometric(0.5)) - 1) >= count:
        pass
    return rank


def any_rank(rng: np.random.Generator, count: int) -> int:
    """A rank below `count`, each as likely."""
    return int(rng.integers(count))


def _is_of(candidate: Candidate, part: str) -> bool:
    return is_of(candidate.question.source_type, part)


def is_of(source_type: str, part: str) -> bool:
    """Whether a source is of these words, in any case: "AIME/1983" is of "aime", "claimed" not."""
    pattern = rf"(?<![a-z]){re.escape(part.lower())}(?![a-z])"
    return re.search(pattern, source_type.lower()) is not None


def _by_length(candidate: Candidate) -> tuple[int, str]:
    """The key that sorts the longest first, and the equally long by id."""
    return -candidate.thinking_tokens, candidate.question.id


def _pools(candidates: Iterable[Candidate]) -> Pools:
    """The candidates of each domain, longest first; the domains by name."""
    pools: Pools = {}
    for candidate in sorted(candidates, key=_by_length):
        pools.setdefault(candidate.domain, []).append(candidate)
    return dict(sorted(pools.items()))


def _at_once(candidates: Sequence[Candidate], cfg: Curate, rng: np.random.Generator) -> list[Pick]:
    """What is like the benchmarks, in the order of the candidates; a random part if too many."""
    why = {c.question.id: reason for c in candidates if (reason := like_benchmarks(c, cfg))}
    if len(why) > cfg.size:
        ids = np.array(sorted(why))
        detail = f"; drawn from {len(why):,} like it"
        chosen = rng.choice(ids, cfg.size, replace=False).tolist()
        why = {key: why[key] + detail for key in chosen}
    return [
        Pick(c, LIKE_BENCHMARKS, why[c.question.id]) for c in candidates if c.question.id in why
    ]


def _draw(
    pools: Pools,
    picks: list[Pick],
    size: int,
    weights: Mapping[str, int],
    uniform_until: int,
    rank_of: Rank,
    rng: np.random.Generator,
) -> tuple[list[Pick], Draws]:
    """The picks and what is drawn until there are `size`. Empties the pools.

    A draw is of a domain that has questions left, uniform until so many are picked and then by
    the weights, and in it of the rank, by length, among those that are left.
    """
    picks, draws = list(picks), Counter[str]()
    while pools and len(picks) < size:
        left = {domain: weights[domain] for domain in pools if weights.get(domain, 0) > 0}
        if len(picks) < uniform_until or not left:
            domain = list(pools)[rng.integers(len(pools))]
            reason = UNIFORM if len(picks) < uniform_until else LEFT_OVER
            chance = f"1 of {len(pools)}"
        else:
            ends = np.cumsum(list(left.values()))
            domain = list(left)[np.searchsorted(ends, rng.integers(ends[-1]), side="right")]
            reason, chance = WEIGHTED, f"weight {left[domain]} of {ends[-1]}"
        pool = pools[domain]
        rank, count = rank_of(rng, len(pool)), len(pool)
        draws[domain] += 1
        detail = f"draw {draws.total():,}: domain {domain} ({chance}), {_place(rank, count)} left"
        picks.append(Pick(pool.pop(rank), reason, detail))
        if not pool:
            del pools[domain]
    return picks, draws


def _draw_like_the_notebook(
    candidates: Sequence[Candidate], picks: list[Pick], cfg: Curate, seed: int
) -> tuple[list[Pick], Draws]:
    """What s1's notebook draws after `np.random.seed(seed)`, its domains sorted by name.

    What was taken at once is still there: drawn again it adds nothing, but its pool has it no
    longer. Weights are float64 and 0 far from the longest. The notebook stops with an error when
    the benchmarks' domains are empty; this goes on uniformly. It also leaves the order of equal
    lengths to the machine; here the later one counts as longer.
    """
    if seed >= 2**32:
        raise UserError(f'seed={seed} must be below 2**32 with curate.mode="parity"')
    rng = np.random.RandomState(seed)  # numpy's old generator: the notebook draws with it
    by_id = {pick.candidate.question.id: pick for pick in picks}
    pools: Pools = {}
    for candidate in candidates:
        pools.setdefault(candidate.domain, []).append(candidate)
    lengths = {d: np.array([c.thinking_tokens for c in pool]) for d, pool in pools.items()}
    domains, draws = sorted(pools), Counter[str]()
    counts = benchmark_weights(candidates, cfg.benchmark_sources)
    benchmarks, weights = (
        list(counts),
        np.array(list(counts.values())) / max(sum(counts.values()), 1),
    )
    while domains and len(by_id) < cfg.size:
        if len(by_id) < cfg.uniform_until or not benchmarks:
            domain = domains[rng.choice(len(domains))]
            reason = UNIFORM if len(by_id) < cfg.uniform_until else LEFT_OVER
        else:
            domain = benchmarks[rng.choice(len(benchmarks), p=weights)]
            reason = WEIGHTED
        count = len(pools[domain])
        ranks = count - 1 - np.argsort(np.argsort(lengths[domain], kind="stable"))
        chances = 2.0**-ranks
        index = rng.choice(count, p=chances / chances.sum())
        candidate = pools[domain].pop(index)
        lengths[domain] = np.delete(lengths[domain], index)
        draws[domain] += 1
        place = _place(int(ranks[index]), count)
        detail = f"draw {draws.total():,}: domain {domain}, {place} left"
        by_id.setdefault(candidate.question.id, Pick(candidate, reason, detail))
        if count == 1:
            domains.remove(domain)
            if domain in benchmarks:
                weights = np.delete(weights, benchmarks.index(domain))
                weights = weights / weights.sum()
                benchmarks.remove(domain)
    return list(by_id.values()), draws


def _place(rank: int, count: int) -> str:
    return f"number {rank + 1:,} by length of {count:,}"


def _undrawn(candidates: Sequence[Candidate], picks: Sequence[Pick], draws: Draws) -> list[Drop]:
    """The candidates that were not picked, with how near they came."""
    if not draws:
        why = f"all {len(picks):,} places went to questions like the benchmarks"
        return _drops(candidates, picks, "not drawn", lambda _: why)
    place = {
        candidate.question.id: _place(rank, len(pool))
        for pool in _pools(candidates).values()
        for rank, candidate in enumerate(pool)
    }

    def why_not(candidate: Candidate) -> str:
        times = draws[candidate.domain]
        return (
            f"its domain {candidate.domain} was drawn {times:,} time{'s' * (times != 1)};"
            f" it is {place[candidate.question.id]} there"
        )

    return _drops(candidates, picks, "not drawn", why_not)


def _random(
    candidates: Sequence[Candidate], size: int, rng: np.random.Generator
) -> tuple[list[Pick], list[Drop]]:
    pool = sorted(candidates, key=lambda candidate: candidate.question.id)
    order = rng.permutation(len(pool))[:size]
    picks = [
        Pick(pool[index], "random", f"draw {number:,} of all {len(pool):,} candidates")
        for number, index in enumerate(order, 1)
    ]
    why = f"{len(picks):,} of {len(pool):,} candidates were drawn, all as likely"
    return picks, _drops(candidates, picks, "not drawn", lambda _: why)


def _longest(candidates: Sequence[Candidate], size: int) -> tuple[list[Pick], list[Drop]]:
    pool = sorted(candidates, key=_by_length)
    place = {c.question.id: _place(rank, len(pool)) for rank, c in enumerate(pool)}
    picks = [Pick(c, "longest", f"it is {place[c.question.id]}") for c in pool[:size]]
    return picks, _drops(candidates, picks, "too short", lambda c: f"it is {place[c.question.id]}")


def _drops(
    candidates: Sequence[Candidate],
    picks: Sequence[Pick],
    reason: str,
    why_not: Callable[[Candidate], str],
) -> list[Drop]:
    """The candidates that are no picks, in their own order."""
    picked = {pick.candidate.question.id for pick in picks}
    return [
        Drop(candidate.question, "selection", reason, why_not(candidate))
        for candidate in candidates
        if candidate.question.id not in picked
    ]
