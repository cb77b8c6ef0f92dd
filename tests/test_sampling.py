"""Filters keep what transformers' keep, draws follow the softmax, and rows know only themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1jax.decoding.sampling import GREEDY, Sampling, _least, _noise, sample, settings_of

VOCAB = 64


def logits(rows: int, seed: int = 0, vocab: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=2.5, size=(rows, vocab)).astype(np.float32)


def one_phase(samplings: list[Sampling]):
    return jax.tree.map(lambda table: table[:, 0], settings_of([[s] for s in samplings]))


@jax.jit
def drawn_ids(logits, settings, seeds, drawn):
    return sample(logits, settings, seeds, drawn)


def draw(logits: np.ndarray, samplings: list[Sampling], seeds=None, drawn=None) -> np.ndarray:
    rows = len(logits)
    seeds = np.arange(rows, dtype=np.uint32) if seeds is None else np.asarray(seeds, np.uint32)
    drawn = np.zeros(rows, np.int32) if drawn is None else np.asarray(drawn, np.int32)
    return np.asarray(drawn_ids(logits, one_phase(samplings), seeds, drawn))


# --- Filters ---


@jax.jit
def kept(logits, settings):
    """Which ids may be drawn."""
    scaled = logits / settings.temperature[:, None]
    return scaled >= _least(scaled, settings)[:, None]


def kept_by_transformers(logits: np.ndarray, s: Sampling, order: str = "kpm") -> np.ndarray:
    import torch
    import transformers as hf

    warpers = {
        "k": hf.TopKLogitsWarper(s.top_k) if s.top_k else None,
        "p": hf.TopPLogitsWarper(s.top_p) if s.top_p < 1 else None,
        "m": hf.MinPLogitsWarper(s.min_p) if s.min_p else None,
    }
    scores = hf.TemperatureLogitsWarper(s.temperature)(None, torch.from_numpy(logits))
    for name in order:
        if warpers[name] is not None:
            scores = warpers[name](None, scores)
    return np.isfinite(scores.numpy())


def random_sampling(rng: np.random.Generator) -> Sampling:
    return Sampling(
        temperature=float(rng.uniform(0.3, 2.0)),
        top_k=int(rng.integers(1, VOCAB + 10)) if rng.random() < 0.6 else 0,
        top_p=float(rng.uniform(0.05, 0.99)) if rng.random() < 0.6 else 1.0,
        min_p=float(rng.uniform(0.005, 0.5)) if rng.random() < 0.6 else 0.0,
    )


def test_the_kept_ids_are_those_of_transformers():
    rng = np.random.default_rng(0)
    samplings = [random_sampling(rng) for _ in range(300)]
    rows = logits(300)
    found = np.asarray(kept(rows, one_phase(samplings)))
    wanted = np.concatenate(
        [kept_by_transformers(rows[i : i + 1], s) for i, s in enumerate(samplings)]
    )
    np.testing.assert_array_equal(found, wanted)
    assert 1 < wanted.sum(-1).mean() < VOCAB / 2 and (wanted.sum(-1) == 1).any()
    # The order is one of the things compared: top-p of what top-k leaves is not the reverse.
    swapped = np.concatenate(
        [kept_by_transformers(rows[i : i + 1], s, "pkm") for i, s in enumerate(samplings)]
    )
    assert (swapped != wanted).any(-1).sum() >= 10


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0, top_k=3), Sampling(0.7, top_p=0.6), Sampling(1.3, min_p=0.1)],
    ids=["top-k", "top-p", "min-p"],
)
def test_only_kept_ids_are_drawn_and_all_of_them(sampling):
    row, count = logits(1), 4000
    may = kept_by_transformers(row, sampling)[0]
    found = draw(np.repeat(row, count, 0), [sampling] * count)
    assert set(found) == set(np.flatnonzero(may))
    free = draw(np.repeat(row, count, 0), [Sampling(sampling.temperature)] * count)
    assert not set(free) <= set(np.flatnonzero(may))


def test_a_row_is_filtered_by_its_own_settings():
    samplings = [GREEDY, Sampling(1.0), Sampling(1.0, top_k=1), Sampling(1.0, top_p=1e-6)]
    rows = np.repeat(logits(1), 4, 0)
    most = int(rows[0].argmax())
    found = np.stack([draw(rows, samplings, drawn=[n] * 4) for n in range(200)])
    assert (found[:, [0, 2, 3]] == most).all()
    assert len(set(found[:, 1])) > 5


# --- Frequencies ---


def chi_square(counts: np.ndarray, chances: np.ndarray) -> float:
    """The statistic over ids that are expected at least 5 times, and its degrees of freedom."""
    expected = chances * counts.sum()
    common = expected >= 5
    seen = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    if wanted[-1] == 0:
        assert seen[-1] == 0
        seen, wanted = seen[:-1], wanted[:-1]
    degrees = len(seen) - 1
    # Standard deviations from what a right sampler gives.
    return float((((seen - wanted) ** 2 / wanted).sum() - degrees) / np.sqrt(2 * degrees))


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(0.6), Sampling(1.5, top_k=20, top_p=0.9)], ids=str
)
@pytest.mark.parametrize("what", ["seeds", "draws"])
def test_draws_follow_the_softmax(sampling, what):
    row, count = logits(1), 20_000
    many = np.arange(count)
    varied = {"seeds": many} if what == "seeds" else {"seeds": np.full(count, 7), "drawn": many}
    found = draw(np.repeat(row, count, 0), [sampling] * count, **varied)
    counts = np.bincount(found, minlength=VOCAB)
    may = kept_by_transformers(row, sampling)[0]
    chances = softmax(np.where(may, row[0] / sampling.temperature, -np.inf))
    assert chi_square(counts, chances) < 5
    # The control: a temperature that is a quarter off.
    other = softmax(np.where(may, row[0] / sampling.temperature / 1.25, -np.inf))
    assert chi_square(counts, other) > 10


# --- Greedy, seeds, rows ---


def test_greedy_takes_the_likeliest_and_of_equals_the_first():
    rows = logits(5)
    rows[1, [9, 40]] = rows[1].max() + 1
    rows[2, :] = 0
    rows[3, :] = -np.inf
    rows[3, [50, 60]] = -3
    found = draw(rows, [GREEDY] * 5)
    assert list(found) == [rows[0].argmax(), 9, 0, 50, rows[4].argmax()]
    # The same where another row of the batch is random, which is another way through the program.
    mixed = draw(rows, [*[GREEDY] * 4, Sampling(1.0)])
    assert list(mixed[:4]) == list(found[:4])


def test_what_is_forbidden_is_never_drawn():
    rows = np.repeat(logits(1), 2000, 0)
    rows[:, 1:] = -np.inf
    rows[:, 33] = -60.0  # unlikely beyond measure, and yet the only other one
    for sampling in (Sampling(1.0), Sampling(5.0, top_k=40, top_p=0.999, min_p=1e-9)):
        assert set(draw(rows, [sampling] * 2000)) == {0}
    only = np.where(np.arange(VOCAB) == 33, rows, -np.inf).astype(np.float32)
    assert set(draw(only, [Sampling(1.0, top_p=0.5)] * 2000)) == {33}


def test_a_draw_depends_on_seed_and_count_and_nothing_else():
    rng = np.random.default_rng(3)
    samplings = [random_sampling(rng) for _ in range(32)]
    rows, seeds, counts = logits(32, 1), rng.integers(0, 2**32, 32), rng.integers(0, 9999, 32)
    together = draw(rows, samplings, seeds, counts)
    order = rng.permutation(32)
    shuffled = draw(rows[order], [samplings[i] for i in order], seeds[order], counts[order])
    np.testing.assert_array_equal(shuffled, together[order])
    alone = [
        draw(rows[i : i + 1], samplings[i : i + 1], seeds[i : i + 1], counts[i : i + 1])[0]
        for i in range(32)
    ]
    np.testing.assert_array_equal(alone, together)
    # Controls: one seed more, one draw more.
    free = [Sampling(2.0)] * 32
    base = draw(rows, free, seeds, counts)
    assert (draw(rows, free, (seeds + 1) % 2**32, counts) != base).sum() > 16
    assert (draw(rows, free, seeds, counts + 1) != base).sum() > 16


def test_other_settings_compile_nothing_new():
    rows = logits(3, vocab=50)
    fresh = jax.jit(functools.partial(sample))
    for samplings in ([GREEDY] * 3, [Sampling(1.0)] * 3, [Sampling(0.5, 4, 0.7, 0.1), GREEDY] * 2):
        settings = one_phase(samplings[:3])
        for step in range(2):
            ids = fresh(rows, settings, np.arange(3, dtype=np.uint32), np.full(3, step, np.int32))
            assert ids.dtype == jnp.int32
    assert fresh._cache_size() == 1


# --- Any settings ---

ROWS = 16
TINY = float(np.finfo(np.float32).tiny)


@jax.jit
def noise_of(seeds, drawn):
    return jax.vmap(_noise, in_axes=(0, 0, None))(seeds, drawn, VOCAB)


def allowed(
    row: np.ndarray, s: Sampling, noise: np.ndarray, slack: float
) -> tuple[np.ndarray, ...]:
    """In float64: the scores that are compared, and which ids pass, with so much slack."""
    if s.temperature < TINY:
        return row, row == row.max()
    with np.errstate(over="ignore", divide="ignore"):
        scaled = (row - row.max()) / s.temperature
    order = np.argsort(-scaled, kind="stable")
    passes = np.ones(VOCAB, bool)
    if s.top_k:
        passes &= scaled >= scaled[order[min(s.top_k, VOCAB) - 1]]
    chances = softmax(np.where(passes, scaled, -np.inf))
    before = np.array([chances[scaled > value].sum() for value in scaled])
    if s.top_p < 1:
        passes &= (before < s.top_p + slack) | (before == 0)
    if s.min_p:
        passes &= np.exp(scaled) >= s.min_p * (1 - slack)
    return np.maximum(scaled, -1e30) + noise, passes


extremes = st.sampled_from([0.0, 5e-324, 1e-46, 1e-45, 1e-40, TINY, 2e-38, 1e-30, 1e-9])
samplings = st.builds(
    Sampling,
    temperature=extremes | st.floats(0.05, 2.0),
    top_k=st.sampled_from([0, 0, 1, 2, 10, VOCAB, 2**31 - 1]),
    top_p=(extremes | st.floats(0.01, 1.0)).map(lambda p: p or 1.0),
    min_p=extremes | st.floats(0.0, 0.99),
)


@settings(deadline=None)  # the first one compiles
@given(
    st.lists(samplings, min_size=ROWS, max_size=ROWS),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1.0, 2.5, 300.0, 1e30]),
)
def test_a_draw_is_that_of_float64(some, seed, scale):
    rows = (logits(ROWS, seed) * scale).astype(np.float32)
    rows[1, 5:] = -np.inf
    rows[2, [3, 9]] = rows[2].max() + scale
    seeds, drawn = np.arange(ROWS, dtype=np.uint32) + seed % 1000, np.zeros(ROWS, np.int32)
    found = draw(rows, some, seeds, drawn)
    noise = np.asarray(noise_of(seeds, drawn), np.float64)
    for index, s in enumerate(some):
        row = rows[index].astype(np.float64)
        if s.temperature < TINY:
            assert found[index] == row.argmax(), s
            continue
        scores, loosely = allowed(row, s, noise[index], 1e-4)
        _, strictly = allowed(row, s, noise[index], -1e-4)
        assert loosely[found[index]], (s, found[index])
        best = scores[strictly].max()
        assert scores[found[index]] >= best - 1e-3 * (1 + abs(best)), (s, found[index])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, top_p=1e-46),
        Sampling(1.0, top_p=5e-324),
        *(Sampling(heat) for heat in (1e-46, 1e-45, 1e-40, TINY, 2e-38, 1e-9)),
        Sampling(2e-38, top_k=3, top_p=1e-46, min_p=1e-46),
    ],
    ids=str,
)
def test_next_to_nothing_is_the_likeliest(sampling):
    rows = logits(50)
    found = draw(rows, [sampling] * 50)
    np.testing.assert_array_equal(found, rows.argmax(-1))
    assert (found != 0).sum() > 40
    # The control: with more heat it is another one here and there.
    assert (draw(rows, [Sampling(1.0)] * 50) != found).any()
