"""Log-likelihoods are those of transformers, whatever else is scored beside a text."""

import functools

import fakes_hf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1jax import config
from s1jax.decoding import scoring
from s1jax.decoding.engine import Engine
from s1jax.decoding.scoring import SAME_INPUT, Scored, score, text_of
from s1jax.mesh import DECODING, make_mesh, use_rules
from s1jax.models.apart import take_apart
from s1jax.models.load import load, open_source

VOCAB = fakes_hf.SIZES["vocab_size"]
CONTEXT = fakes_hf.SIZES["max_position_embeddings"]
TOLERANCE = 2e-5  # of a sum of 20 logarithms; measured: 3e-6


@pytest.fixture(scope="module")
def reference():
    return fakes_hf.make_model("qwen2")


@pytest.fixture(scope="module")
def directory(reference, tmp_path_factory):
    return fakes_hf.save(reference, tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="module")
def make_engine(directory):
    @functools.cache
    def make(rows=4, vocab_size=VOCAB, **mesh):
        sizes = {"fsdp": 1} | mesh
        devices = jax.devices()[: int(np.prod(list(sizes.values())))]
        layout = make_mesh(config.Mesh(**sizes), devices)
        source = open_source(str(directory))
        with jax.set_mesh(layout), use_rules(DECODING):
            params = take_apart(source.cfg, load(source, layout, jnp.float32))
        ends = np.zeros(VOCAB, np.bool_)
        return Engine(source.cfg, params, layout, vocab_size=vocab_size, line_ends=ends, rows=rows)

    return make


def pairs_of(seed, count=23, longest=36):
    """Contexts and continuations of all lengths; some contexts are asked several times."""
    rng = np.random.default_rng(seed)

    def ids(least, most):
        return tuple(rng.integers(0, VOCAB, rng.integers(least, most + 1)).tolist())

    contexts = [ids(1, longest) for _ in range(count)]
    pairs = [(context, ids(1, longest // 2)) for context in contexts]
    return pairs + [(contexts[0], (token,)) for token in range(SAME_INPUT + 3)]


def ours(engine, pairs, context_tokens=CONTEXT):
    texts = [text_of(index, *pair, context_tokens) for index, pair in enumerate(pairs)]
    found = dict(score(engine, texts))
    assert sorted(found) == list(range(len(pairs)))
    return [found[index] for index in range(len(pairs))]


def theirs(reference, pairs, context_tokens=CONTEXT, vocab_size=VOCAB, shift=0):
    """The same, one after the other and without padding; `shift` makes it wrong."""
    import torch

    found = []
    for context, ids in pairs:
        whole = torch.tensor([(*context, *ids)[-(context_tokens + 1) :]])
        with torch.no_grad():
            logits = reference(whole[:, :-1]).logits[0, :, :vocab_size]
        logprobs = torch.log_softmax(logits, -1)[-len(ids) :].roll(shift, 0)
        each = [float(row[i]) for row, i in zip(logprobs, ids, strict=True)]
        found.append(Scored(sum(each), logprobs.argmax(-1).tolist() == list(ids)))
    return found


def differ(ours, theirs):
    """The largest difference of two lists of log-probabilities."""
    return max(abs(a.logprob - b.logprob) for a, b in zip(ours, theirs, strict=True))


def test_log_likelihoods_are_those_of_transformers(reference, make_engine):
    pairs = pairs_of(0)
    expected = theirs(reference, pairs)
    for rows in (4, 64):
        found = ours(make_engine(rows), pairs)
        assert differ(found, expected) < TOLERANCE
        assert [f.greedy for f in found] == [e.greedy for e in expected]
    assert differ(ours(make_engine(4), pairs), theirs(reference, pairs, shift=1)) > 0.1


def greedy_after(reference, context, length):
    import torch

    ids = list(context)
    for _ in range(length):
        with torch.no_grad():
            ids.append(int(reference(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(context) :])


def test_what_greedy_decoding_would_write_is_known(reference, make_engine):
    context = (5, 17, 3)
    best = greedy_after(reference, context, 6)
    last, first = (*best[:-1], (best[-1] + 1) % VOCAB), ((best[0] + 1) % VOCAB, *best[1:])
    found = ours(make_engine(), [(context, best), (context, last), (context, first)])
    assert [f.greedy for f in found] == [True, False, False]
    assert found[0].logprob > found[1].logprob


def test_long_pairs_lose_their_beginning(reference, make_engine):
    rng = np.random.default_rng(1)
    pairs = [
        (tuple(rng.integers(0, VOCAB, n).tolist()), tuple(rng.integers(0, VOCAB, m).tolist()))
        for n, m in ((300, 3), (130, 20), (1, 24), (23, 1), (24, 1), (25, 1))
    ]
    expected = theirs(reference, pairs, 24)
    assert differ(ours(make_engine(), pairs, 24), expected) < TOLERANCE
    assert differ(ours(make_engine(), pairs, 25), expected) > 0.1


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 30))
def test_all_that_is_scored_is_predicted(context, length, spare):
    whole = tuple(range(context + length))
    most = length + spare
    text = text_of(7, whole[:context], whole[context:], most)
    assert text.ids == whole[context:] and len(text.read) == min(len(whole) - 1, most)
    assert text.read == whole[-len(text.read) - 1 : -1]
    assert len(text.read) >= length


def test_ids_beyond_the_tokenizer_have_no_probability(reference, make_engine):
    rng = np.random.default_rng(2)
    pairs = [(tuple(rng.integers(0, 60, 9).tolist()), (n, n + 1)) for n in range(20)]
    found = ours(make_engine(4, 60), pairs)
    assert differ(found, theirs(reference, pairs, vocab_size=60)) < TOLERANCE
    assert differ(found, theirs(reference, pairs)) > 0.1
    chances = [
        np.exp(f.logprob) for f in ours(make_engine(4, 60), [((1,), (n,)) for n in range(60)])
    ]
    assert sum(chances) == pytest.approx(1, abs=1e-5)


@pytest.fixture
def few_logits(monkeypatch):
    """Two columns of four rows at a time, and batches of few tokens."""
    scoring.read.clear_cache()
    monkeypatch.setattr(scoring, "LOGITS", 2 * 4 * VOCAB)
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 64)
    yield
    scoring.read.clear_cache()


def test_the_parts_of_the_work_do_not_show(reference, make_engine, few_logits):
    pairs = pairs_of(3, count=7)
    assert differ(ours(make_engine(), pairs), theirs(reference, pairs)) < TOLERANCE


def test_logits_of_few_columns_exist(make_engine, few_logits):
    engine = make_engine()
    tokens, lengths = np.zeros((4, 32), np.int32), np.full(4, 30, np.int32)
    targets = np.zeros((4, 16, 1), np.int32)
    program = str(
        jax.make_jaxpr(lambda *x: scoring.read.__wrapped__(engine.static, *x))(
            engine.params, tokens, lengths, targets
        )
    )
    assert f"f32[4,2,{VOCAB}]" in program and f"f32[4,16,{VOCAB}]" not in program


@pytest.mark.parametrize("mesh", [{"tensor": 2}, {"data": 2, "fsdp": 2}])
def test_meshes_agree(reference, make_engine, mesh):
    pairs = pairs_of(4, count=5)
    assert differ(ours(make_engine(3, **mesh), pairs), theirs(reference, pairs)) < TOLERANCE


def test_shared_inputs_are_read_once(make_engine, monkeypatch):
    read, calls = scoring.read, []
    monkeypatch.setattr(scoring, "read", lambda *args: calls.append(args[2].shape) or read(*args))
    engine, context = make_engine(1), tuple(range(20))
    choices = ours(engine, [(context, (n,)) for n in range(SAME_INPUT)])
    assert len(calls) == 1 and len(set(choices)) == SAME_INPUT
    ours(engine, [(context, (n, n)) for n in range(SAME_INPUT)])
    assert len(calls) == 1 + SAME_INPUT


def test_nothing_to_score(make_engine):
    assert list(score(make_engine(), [])) == []
