"""The engine on a small real model: batches, meshes, branches and strict mode, token for token."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_loop import host_loop

from s1jax import config
from s1jax.decoding import record
from s1jax.decoding.budget import INSERTED, Rules
from s1jax.decoding.cache import bucket
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import Branch, ContractError, Output, Request
from s1jax.decoding.sampling import Sampling
from s1jax.decoding.step import decode
from s1jax.mesh import DECODING, make_mesh, use_rules
from s1jax.models import decoder
from s1jax.models.apart import take_apart
from s1jax.models.config import from_hf

pytestmark = pytest.mark.slow

VOCAB, WRITABLE = 96, 90
LINES = set(range(0, WRITABLE, 7))


@functools.cache
def model(kv_heads: int = 2):
    import transformers

    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64}
    hf = transformers.Qwen2Config(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        **sizes,
    )
    cfg, rng = from_hf(hf.to_dict()), np.random.default_rng(0)

    def array(spec) -> np.ndarray:
        return rng.normal(scale=0.2, size=spec.shape).astype(np.float32)

    params = jax.tree.map(array, decoder.specs(cfg), is_leaf=lambda x: hasattr(x, "axes"))
    # The ids that no text has would be the likeliest of all.
    params["head_kernel"][WRITABLE:] *= 10
    return cfg, params


def engine(rows: int, mesh: dict[str, int] | None = None, kv_heads: int = 2, **fields) -> Engine:
    cfg, params = model(kv_heads)
    sizes = mesh or {"fsdp": 1}
    its = make_mesh(config.Mesh(**sizes), jax.devices()[: int(np.prod(list(sizes.values())))])
    with jax.set_mesh(its), use_rules(DECODING):
        apart = take_apart(cfg, jax.tree.map(jnp.asarray, params))
    lines = np.isin(np.arange(WRITABLE), list(LINES))
    made = {"segment_steps": 16, "vocab_size": WRITABLE, "line_ends": lines} | fields
    return Engine(cfg, apart, its, rows=rows, **made)


def requests(count: int, seed: int = 1, temperature: float = 0.0) -> list[Request]:
    rng = np.random.default_rng(seed)

    def one(index: int) -> Request:
        rules = Rules(
            max_thinking_tokens=int(rng.integers(5, 200)),
            max_answer_tokens=int(rng.integers(3, 40)),
            ends=((1,), (2, 3)),
            stops=((1,), (4, 5)),
            close=(7, 8),
            force=(7, 8, 9),
            force_newline=(6, 7, 8, 9),
            ignore_ends=int(rng.integers(0, 4)),
            ignore_strings=[(), ((50,),), ((50, 51), (52,))][index % 3],
        )
        prompt = tuple(rng.integers(10, WRITABLE, rng.integers(1, 60)).tolist())
        sampling = Sampling(temperature, top_k=20 * (index % 2), top_p=0.9)
        return Request(str(index), prompt, rules, sampling, sampling, seed=index)

    return [one(index) for index in range(count)]


def by_id(outputs) -> dict[str, Output]:
    return {output.request.id: output for output in outputs}


def same(found: dict[str, Output], wanted: dict[str, Output]) -> bool:
    assert found.keys() == wanted.keys()
    return all(
        (found[i].tokens, found[i].kinds, found[i].forced, found[i].finish)
        == (wanted[i].tokens, wanted[i].kinds, wanted[i].forced, wanted[i].finish)
        for i in found
    )


@functools.cache
def alone() -> dict[str, Output]:
    return by_id(engine(1).run(requests(40)))


@functools.cache
def whole():
    """Logits after a context, computed without any cache, in one shape."""
    cfg, params = model()

    @jax.jit
    def run(tokens, length):
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        hidden, _ = decoder.apply(cfg, params, tokens, positions, jnp.ones_like(tokens))
        return decoder.logits(cfg, params, hidden)[0, length - 1]

    def next_logits(context: list[int]) -> np.ndarray:
        tokens = np.zeros((1, 384), np.int32)
        tokens[0, : len(context)] = context
        logits = np.array(run(tokens, len(context)))
        logits[WRITABLE:] = -np.inf
        return logits

    return next_logits


def test_samples_are_those_of_a_loop_without_a_cache():
    """Refills, growth and taken-back ends included: a batch of 3 with 40 requests."""
    found = by_id(engine(3).run(requests(40)))
    kinds = {kind for output in found.values() for kind in output.kinds}
    assert kinds == {1, 2, 3, 4} and any(output.forced for output in found.values())
    for output in found.values():
        told = host_loop(output.rules, output.request.prompt, whole(), LINES)
        assert (output.tokens, output.kinds) == (told.tokens, told.kinds), output.request
        assert (output.ignored_at, output.finish) == (told.ignored_at, told.finish)


@pytest.mark.parametrize(("rows", "segment"), [(16, 16), (8, 5), (2, 64)])
def test_a_batch_is_as_many_batches_of_one(rows, segment):
    assert same(by_id(engine(rows, segment_steps=segment).run(requests(40))), alone())
    other = by_id(engine(rows, segment_steps=segment).run(requests(40, seed=2)))
    assert not same(other, alone())


@pytest.mark.parametrize(
    ("mesh", "kv_heads"),
    [({"fsdp": 16}, 2), ({"fsdp": 8, "tensor": 2}, 2), ({"tensor": 4}, 4)],
)
def test_a_mesh_gives_the_same_tokens(mesh, kv_heads):
    some = requests(20)
    wanted = by_id(engine(1, kv_heads=kv_heads).run(some))
    assert same(by_id(engine(4, mesh, kv_heads).run(some)), wanted)


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours():
    some = requests(20, temperature=1.0)
    wanted = by_id(engine(1).run(some))
    assert same(by_id(engine(7).run(some[::-1])), wanted)
    others = [replace(request, seed=request.seed + 100) for request in some]
    assert not same(by_id(engine(7).run(others)), wanted)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_branches_are_the_separate_samples(temperature):
    choices = [Branch(budget, ignored) for budget in (10, 50, 100) for ignored in range(4)]

    def trunk(request: Request) -> Request:
        rules = replace(request.rules, max_thinking_tokens=200, ignore_ends=3)
        return replace(request, rules=rules, branches=tuple(choices))

    shared = engine(4)
    outputs = list(shared.run(map(trunk, requests(15, temperature=temperature))))
    branches = [output for output in outputs if output.branch is not None]
    assert len(branches) == 15 * len(choices)

    def key(output: Output) -> str:
        return f"{output.request.id} {output.branch}"

    apart = [
        replace(output.request, id=key(output), rules=output.rules, branches=())
        for output in branches
    ]
    separate = engine(4)
    assert same({key(output): output for output in branches}, by_id(separate.run(apart)))
    assert shared.counts.tokens < separate.counts.tokens


def test_samples_of_one_prompt_share_what_was_read():
    request = requests(1, temperature=1.0)[0]
    its = engine(2)
    found = list(its.run([replace(request, id=str(n), seed=n) for n in range(6)]))
    assert its.counts.prefills == 1
    assert len({output.tokens for output in found}) > 1


def test_nothing_is_compiled_again_for_other_budgets_counts_and_strings():
    its = engine(4)
    list(its.run(requests(30)))
    sizes = {bucket(columns) for columns in range(1, 300)}
    before = decode._cache_size()
    found = list(its.run(requests(30, seed=5)))
    assert any(INSERTED in output.kinds for output in found)
    assert decode._cache_size() - before <= len(sizes) - 2
    again = decode._cache_size()
    longer = [
        replace(r, rules=replace(r.rules, ignore_strings=((60, 61, 62), (63,), (64,))))
        for r in requests(30, seed=5)
    ]
    list(its.run([replace(r, seed=9, answer=Sampling(0.5)) for r in longer]))
    assert decode._cache_size() == again


def test_the_ring_wraps_around_and_changes_its_size():
    its = engine(2, segment_steps=8)
    long = Rules(500, 8, close=(7,), force=(7,), force_newline=(6, 7))
    short = replace(long, max_thinking_tokens=20)
    prompt = (11, 12, 13)
    queue = [Request("long", prompt, long)] + [Request(str(n), prompt, short) for n in range(60)]
    sizes = []
    found = by_id(its.run(queue, watch=lambda *_: sizes.append(its.counts.columns)))
    assert its.counts.steps > 2 * min(sizes) and len(set(sizes)) > 2
    assert sizes[-1] < max(sizes)  # it shrank
    assert same({"long": found["long"]}, by_id(engine(1).run(queue[:1])))
    assert len({found[str(n)].tokens for n in range(60)}) == 1
    assert found["0"].tokens == by_id(engine(1).run(queue[1:2]))["0"].tokens


def test_strictly_the_same_tokens_and_in_bfloat16_too():
    some = requests(12)
    for dtype in (jnp.float32, jnp.bfloat16):
        its = engine(16, strict=True, dtype=dtype)
        together = by_id(its.run(some))
        for request in some[::4]:
            one = by_id(engine(1, strict=True, dtype=dtype).run([request]))
            assert same(one, {request.id: together[request.id]})


def test_a_broken_contract_is_loud(monkeypatch):
    honest = record.broken

    def stricter(output: Output) -> list[str]:
        rules = replace(output.request.rules, max_answer_tokens=1)
        return honest(replace(output, request=replace(output.request, rules=rules)))

    monkeypatch.setattr(record, "broken", stricter)
    with pytest.raises(ContractError, match="broke its contract: "):
        list(engine(4).run(requests(8)))
