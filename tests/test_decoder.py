"""The decoder gives transformers' logits in every branch, and the same ones by every way to them.

python tests/test_decoder.py        prints the table of all configurations
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes_torch import Case, both, our_logits, worst

from s1jax.models import decoder
from s1jax.models.apart import take_apart
from s1jax.models.cache import empty_cache
from s1jax.models.embedding import look_up
from s1jax.models.gradients import plus, times
from s1jax.models.names import flat_specs

TOLERANCE = 1e-4  # of logits that are a few units large; float32 on both sides

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
LONG = {"max_position_embeddings": 8192}

CASES = [
    Case("qwen2-gqa", "qwen2", "grouped heads, QKV bias"),
    Case(
        "qwen2-tied",
        "qwen2",
        "tied, theta 1e6 (Qwen2.5-0.5B)",
        {"rope_theta": 1e6},
        {"tie_word_embeddings": True},
        attention="sdpa",
    ),
    Case("qwen2-mha", "qwen2", "as many kv heads as heads", fields={"num_key_value_heads": 4}),
    Case(
        "qwen2-mqa",
        "qwen2",
        "one kv head, eps 1e-5",
        fields={"num_key_value_heads": 1, "rms_norm_eps": 1e-5},
        attention="sdpa",
    ),
    Case(
        "qwen2-wide",
        "qwen2",
        "7 heads of 24, embed 64",
        fields={"head_dim": 24} | {"num_attention_heads": 7, "num_key_value_heads": 1},
    ),
    Case("qwen2-yarn", "qwen2", "yarn", YARN | {"rope_theta": 1e6}),
    Case(
        "qwen2-yarn-implicit",
        "qwen2",
        "yarn, original length left out (Qwen2.5's README)",
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0},
    ),
    Case(
        "qwen3-gqa",
        "qwen3",
        "q/k norm, heads wider than embed, theta 1e6",
        {"rope_theta": 1e6},
        {"head_dim": 32},
    ),
    Case(
        "qwen3-tied",
        "qwen3",
        "tied, q/k norm (Qwen3-0.6B)",
        {"rope_theta": 1e6},
        {"head_dim": 32, "tie_word_embeddings": True},
        attention="sdpa",
    ),
    Case("qwen3-mqa", "qwen3", "one kv head", fields={"head_dim": 16, "num_key_value_heads": 1}),
    Case("qwen3-eps", "qwen3", "eps 0.1", fields={"head_dim": 16, "rms_norm_eps": 0.1}),
    Case(
        "qwen3-yarn",
        "qwen3",
        "yarn, attention_factor",
        YARN | {"attention_factor": 1.3},
        {"head_dim": 16},
    ),
    Case("llama-gqa", "llama", "theta 5e5 (Llama 3)", {"rope_theta": 5e5}),
    Case(
        "llama-mha",
        "llama",
        "kv heads left out (Llama 2), eps 1e-5",
        fields={"num_key_value_heads": None, "rms_norm_eps": 1e-5},
        attention="sdpa",
    ),
    Case(
        "llama-9-heads",
        "llama",
        "9 heads, 3 kv heads, tied, theta 1e5 (SmolLM2)",
        {"rope_theta": 1e5},
        {
            "hidden_size": 144,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    ),
    Case("llama-wide", "llama", "head_dim 48, embed / heads 16", fields={"head_dim": 48}),
    Case("llama3", "llama", "llama3 (Llama 3.1)", LLAMA3),
    Case(
        "llama3-tied",
        "llama",
        "llama3, factor 32, tied (Llama 3.2)",
        LLAMA3 | {"factor": 32.0},
        {"tie_word_embeddings": True},
        attention="sdpa",
    ),
    Case(
        "llama3-freq",
        "llama",
        "llama3, low 2, high 16",
        LLAMA3 | {"low_freq_factor": 2.0, "high_freq_factor": 16.0},
    ),
    Case(
        "llama-yarn-mscale",
        "llama",
        "yarn, mscale and mscale_all_dim",
        YARN | {"mscale": 0.7, "mscale_all_dim": 2.0},
    ),
    Case("llama-yarn-mscale-alone", "llama", "yarn, mscale alone", YARN | {"mscale": 0.7}),
    Case("llama-yarn-exact", "llama", "yarn, truncate false", YARN | {"truncate": False}),
    Case(
        "llama-yarn-betas",
        "llama",
        "yarn, beta_fast 8, beta_slow 3",
        YARN | {"original_max_position_embeddings": 512, "beta_fast": 8.0, "beta_slow": 3.0},
    ),
    Case("long-plain", "llama", "positions to 7,920", {"rope_theta": 5e5}, LONG, stride=80),
    Case("long-llama3", "llama", "llama3, positions to 7,920", LLAMA3, LONG, stride=80),
    Case(
        "long-yarn", "qwen2", "yarn, positions to 7,920", YARN | {"factor": 16.0}, LONG, stride=80
    ),
]
BY_NAME = {case.name: case for case in CASES}


def ours(it, cfg=None, params=None, **options) -> np.ndarray:
    cfg, params = cfg or it.cfg, params or it.params
    return np.asarray(our_logits(cfg, params, it.ids, it.positions, **options))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_are_those_of_transformers(case):
    it = both(case)
    assert np.abs(it.theirs).max() > 3
    assert worst(ours(it), it.theirs) <= TOLERANCE
    assert (
        it.cfg.parameters
        == it.their_parameters
        == sum(leaf.size for leaf in jax.tree.leaves(it.params))
    )


def leaf(params, path: str) -> jax.Array:
    for key in path.split("/"):
        params = params[key]
    return params


def edited(params, **edits):
    """The parameters with some leaves replaced; `attn__q__bias` is layers/attn/q/bias."""
    layers = jax.tree.map(lambda x: x, params["layers"])  # new dicts, the same arrays
    for name, value in edits.items():
        *parents, last = name.split("__")
        node = layers
        for key in parents:
            node = node[key]
        node[last] = value(node[last]) if callable(value) else value
    return params | {"layers": layers}


def regrouped(it):
    """Query heads that look into another group's keys, wired to the same outputs."""
    params = it.params
    for name in ("q__kernel", "q__bias", "o__kernel"):
        axes = flat_specs(it.cfg)[f"layers/attn/{name.replace('__', '/')}"].axes
        swap = functools.partial(
            jnp.take, indices=jnp.array([0, 2, 1, 3]), axis=axes.index("heads")
        )
        params = edited(params, **{f"attn__{name}": swap})
    return it.cfg, params


def swapped(it, one: str, other: str):
    ours, theirs = (leaf(it.params, f"layers/{name.replace('__', '/')}") for name in (one, other))
    return it.cfg, edited(it.params, **{one: theirs, other: ours})


def without_qk_norm(it):
    params = edited(it.params)
    del params["layers"]["attn"]["q_norm"], params["layers"]["attn"]["k_norm"]
    return dataclasses.replace(it.cfg, qk_norm=False), params


def rope(**fields):
    def change(it):
        changed = dataclasses.replace(it.cfg.rope, **fields)
        assert changed != it.cfg.rope
        return dataclasses.replace(it.cfg, rope=changed), it.params

    return change


def eps(value: float):
    return lambda it: (dataclasses.replace(it.cfg, norm_eps=value), it.params)


def no_bias(name: str):
    return lambda it: (it.cfg, edited(it.params, **{f"attn__{name}__bias": jnp.zeros_like}))


CONTROLS = {  # a case, and what is wrong with it
    "theta": ("qwen2-gqa", rope(theta=11_000.0)),
    "theta 1e6": ("qwen3-tied", rope(theta=5e5)),
    "no llama3": ("llama3", rope(kind="default")),
    "llama3's factor": ("llama3-tied", rope(factor=8.0)),
    "llama3's low": ("llama3-freq", rope(low_freq_factor=1.0)),
    "llama3's high": ("llama3-freq", rope(high_freq_factor=4.0)),
    "llama3's original length": ("llama3", rope(original_max_positions=512)),
    "no yarn but its scale": ("qwen2-yarn", rope(kind="default")),
    "yarn without its scale": ("qwen2-yarn", rope(scale=1.0)),
    "yarn's original length": ("qwen2-yarn-implicit", rope(original_max_positions=128)),
    "yarn's factor": ("long-yarn", rope(factor=15.0)),
    "attention_factor": ("qwen3-yarn", rope(scale=1.1386)),
    "mscale": ("llama-yarn-mscale", rope(scale=1.1386)),
    "truncate": ("llama-yarn-exact", rope(truncate=True)),
    "beta_fast": ("llama-yarn-betas", rope(beta_fast=32.0)),
    "beta_slow": ("llama-yarn-betas", rope(beta_slow=1.0)),
    "eps 1e-5 for 1e-6": ("llama-gqa", eps(1e-5)),
    "eps 1e-6 for 1e-5": ("llama-mha", eps(1e-6)),
    "eps 0.11 for 0.1": ("qwen3-eps", eps(0.11)),
    "no bias of q": ("qwen2-gqa", no_bias("q")),
    "no bias of k": ("qwen2-gqa", no_bias("k")),
    "no bias of v": ("qwen2-gqa", no_bias("v")),
    "no q/k norm": ("qwen3-gqa", without_qk_norm),
    "q/k norm swapped": (
        "qwen3-gqa",
        lambda it: swapped(it, "attn__q_norm__scale", "attn__k_norm__scale"),
    ),
    "norms swapped": (
        "llama-gqa",
        lambda it: swapped(it, "attn_norm__scale", "mlp_norm__scale"),
    ),
    "gate and up swapped": (
        "llama-gqa",
        lambda it: swapped(it, "mlp__gate__kernel", "mlp__up__kernel"),
    ),
    "heads in other groups": ("qwen2-gqa", regrouped),
    "layers reversed": (
        "llama-gqa",
        lambda it: (
            it.cfg,
            it.params | {"layers": jax.tree.map(lambda x: x[::-1], it.params["layers"])},
        ),
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_every_switch_shows_in_the_logits(name):
    case, change = CONTROLS[name]
    it = both(BY_NAME[case])
    assert worst(ours(it, *change(it)), it.theirs) > 10 * TOLERANCE


# --- The other ways to the same logits ---


@functools.cache
def apart(case: Case):
    """Parameters for decoding; the stacked ones stay, for other tests."""
    it = both(case)
    return take_apart(it.cfg, jax.tree.map(jnp.copy, it.params))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layers_apart_give_the_logits_of_transformers(case):
    it, params = both(case), apart(case)
    found = ours(it, params=params)
    assert worst(found, it.theirs) <= TOLERANCE
    assert worst(found, ours(it)) <= TOLERANCE
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == it.cfg.parameters
    layers = params["layers"]
    assert worst(ours(it, params=params | {"layers": layers | {0: layers[1]}}), it.theirs) > 0.01


def test_the_stacked_parameters_are_deleted_when_they_are_taken_apart():
    it = both(BY_NAME["qwen2-gqa"])
    params = jax.tree.map(jnp.copy, it.params)
    layers = take_apart(it.cfg, params)["layers"]
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params["layers"]))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((layers, it.params)))
    with pytest.raises(AssertionError, match="apart"):
        decoder.apply(
            it.cfg,
            it.params,
            *[jnp.ones((1, 4), jnp.int32)] * 3,
            empty_cache(it.cfg, 1, 8, jnp.float32),
        )


@functools.partial(jax.jit, static_argnums=0)
def step(cfg, params, cache, ids, positions, segments):
    """The cache with a block of tokens in it, and their logits."""
    hidden, cache = decoder.apply(cfg, params, ids, positions, segments, cache)
    return cache, decoder.logits(cfg, params, hidden)


def in_blocks(case, ids, positions, segments, blocks, columns: int) -> np.ndarray:
    cfg, params = both(case).cfg, apart(case)
    cache = empty_cache(cfg, len(ids), columns, jnp.float32)
    found, start = [], 0
    for length in blocks:
        at = slice(start, start + length)
        cache, logits = step(cfg, params, cache, ids[:, at], positions[:, at], segments[:, at])
        found.append(np.asarray(logits))
        start += length
    assert start == ids.shape[1] == int(cache.column)
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("name", ["qwen2-gqa", "qwen3-tied", "llama3"])
@pytest.mark.parametrize("blocks", [(1,) * 24, (10, *(1,) * 14), (7, 5, 5, 7)])
def test_prefill_and_decoding_give_the_logits_of_the_whole(name, blocks):
    it = both(BY_NAME[name])
    ids, positions = it.ids[:, :24], it.positions[:, :24]
    ones = np.ones_like(ids)
    found = in_blocks(BY_NAME[name], ids, positions, ones, blocks, columns=32)
    assert worst(found, it.theirs[:, :24]) <= TOLERANCE
    late = in_blocks(BY_NAME[name], ids, np.maximum(positions - 1, 0), ones, blocks, columns=32)
    assert worst(late, it.theirs[:, :24]) > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["qwen2-gqa", "llama3"])
def test_rows_padded_on_the_left_are_as_alone(name):
    it = both(BY_NAME[name])
    lengths, width = (24, 17, 9), 24
    ids, positions, segments = (np.zeros((len(lengths), width), np.int32) for _ in range(3))
    for row, length in enumerate(lengths):
        ids[row, -length:] = it.ids[row % 2, :length]
        positions[row, -length:] = np.arange(length)
        segments[row, -length:] = 1
    whole = np.asarray(our_logits(it.cfg, it.params, ids, positions, segments))
    decoded = in_blocks(BY_NAME[name], ids, positions, segments, (16, *(1,) * 8), columns=40)
    # The control: pads that count as tokens of the row change what comes after them.
    pads_seen = np.asarray(our_logits(it.cfg, it.params, ids, positions, np.ones_like(ids)))
    for row, length in enumerate(lengths):
        alone = it.theirs[row % 2, :length]
        assert worst(whole[row, -length:], alone) <= TOLERANCE
        assert worst(decoded[row, -length:], alone) <= TOLERANCE
        if length < width:
            assert worst(pads_seen[row, -length:], alone) > 10 * TOLERANCE
    assert np.isfinite(whole).all() and np.isfinite(decoded).all()


@pytest.mark.parametrize("name", ["qwen2-gqa", "qwen3-tied", "llama-yarn-exact"])
def test_packed_rows_are_as_separate_ones(name):
    it = both(BY_NAME[name])
    pieces = [(0, 100), (1, 37), (0, 64), (1, 90)]  # row and length; 291 tokens: three blocks
    ids = np.concatenate([it.ids[row, :n] for row, n in pieces] + [np.zeros(9, np.int32)])[None]
    positions = np.concatenate([np.arange(n, dtype=np.int32) for _, n in [*pieces, (0, 9)]])[None]
    segments = np.repeat(np.array([1, 2, 3, 4, 0], np.int32), [n for _, n in pieces] + [9])[None]
    packed = np.asarray(our_logits(it.cfg, it.params, ids, positions, segments))[0]
    mixed = np.asarray(our_logits(it.cfg, it.params, ids, positions, np.minimum(segments, 1)))[0]
    start = 0
    for number, (row, n) in enumerate(pieces):
        assert worst(packed[start : start + n], it.theirs[row, :n]) <= TOLERANCE
        if number:
            assert worst(mixed[start : start + n], it.theirs[row, :n]) > 10 * TOLERANCE
        start += n


# --- Arithmetic, size of the program, memory ---


def dots(jaxpr) -> Iterator[tuple]:
    """The operand dtypes of every matrix product, those of inner programs included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated", "ragged_dot"):
            yield tuple(str(v.aval.dtype) for v in eqn.invars)
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


def forward(it, dtype, columns: int, strict: bool = False):
    def run(params, ids):
        cache = empty_cache(it.cfg, len(ids), columns, dtype) if columns else None
        ones = jnp.ones_like(ids)
        hidden, _ = decoder.apply(
            it.cfg, params, ids, ones, ones, cache, dtype=dtype, strict=strict
        )
        assert hidden.dtype == dtype
        return decoder.logits(it.cfg, params, hidden)

    return run


def products(it, dtype, params, ids, columns: int, strict: bool = False) -> list[tuple]:
    with jax.numpy_dtype_promotion("strict"):
        program = jax.make_jaxpr(forward(it, dtype, columns, strict))(params, ids)
    return list(dots(program.jaxpr))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["qwen2-gqa", "qwen3-tied", "llama-yarn-exact"])
def test_dtypes_are_never_mixed_and_products_are_in_the_compute_dtype(name, dtype, cached):
    it, params = both(BY_NAME[name]), apart(BY_NAME[name])
    own = (jnp.dtype(dtype).name,) * 2
    length = it.ids.shape[1]
    if not cached:
        found = products(it, dtype, it.params, it.ids, columns=0)
        assert len(found) == 10  # q k v o, scores, weights x values, gate up down, head
        assert set(found) == {own}
        return
    # Layers apart are written out one by one.
    prefill = products(it, dtype, params, it.ids, columns=length)
    assert len(prefill) == 6 * it.cfg.layers + 1  # one for q k v, and one for gate and up
    # Scores and values of the past and of the new tokens.
    block = products(it, dtype, params, it.ids, columns=length + 28)
    one = products(it, dtype, params, it.ids[:, :1], columns=128)
    assert len(block) == len(one) == 8 * it.cfg.layers + 1
    assert set(prefill) == set(block) == set(one) == {own}
    strictly = products(it, dtype, params, it.ids[:, :1], columns=128, strict=True)
    assert len(strictly) == 8 * it.cfg.layers + 1
    in_float32 = strictly.count(("float32",) * 2)
    assert set(strictly) == {own, ("float32",) * 2}
    assert dtype == jnp.float32 or in_float32 == 4 * it.cfg.layers  # attention's, on purpose


def test_a_hidden_float32_product_would_be_found():
    a, b = jnp.ones((4, 4), jnp.bfloat16), jnp.ones((4, 4), jnp.float32)

    def scanned(a, b):
        product = jax.checkpoint(lambda x: x.astype(jnp.float32) @ b)
        return jax.lax.scan(lambda c, _: (product(c).astype(c.dtype), None), a, length=2)[0]

    assert list(dots(jax.make_jaxpr(scanned)(a, b).jaxpr)) == [("float32", "float32")]


def loss(params, cfg, ids, **options):
    ones = jnp.ones_like(ids)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    hidden, _ = decoder.apply(cfg, params, ids, positions, ones, **options)
    chances = jax.nn.log_softmax(decoder.logits(cfg, params, hidden)[:, :-1])
    return -jnp.take_along_axis(chances, ids[:, 1:, None], -1).mean()


def loop_copies(text: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """In a compiled program: copies of arrays of this shape inside loops, and in all of it."""
    written = "f32[" + ",".join(map(str, shape)) + "]"
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    inside, everywhere, here = 0, 0, ""
    for line in text.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            here = opened[1]
        if re.search(rf"= {re.escape(written)}\S* copy\(", line):
            everywhere += 1
            inside += here in bodies
    assert bodies
    return inside, everywhere


def test_a_step_does_not_copy_the_cache(monkeypatch):
    it, params = both(BY_NAME["qwen2-gqa"]), apart(BY_NAME["qwen2-gqa"])
    rows, columns = 3, 640

    cache = empty_cache(it.cfg, rows, columns, jnp.float32)
    leaves, structure = jax.tree.flatten(cache)

    def scanned(params, leaves, token, position):
        def one(carry, _):
            cache, token, position = carry
            ones = jnp.ones_like(token)
            hidden, cache = decoder.apply(it.cfg, params, token, position, ones, cache)
            token = decoder.logits(it.cfg, params, hidden).argmax(-1).astype(jnp.int32)
            return (cache, token, position + 1), token

        cache = jax.tree.unflatten(structure, leaves)
        (cache, *_), tokens = jax.lax.scan(one, (cache, token, position), None, length=4)
        return jax.tree.leaves(cache), tokens

    def copies() -> tuple[int, int]:
        zeros = jnp.zeros((rows, 1), jnp.int32)
        fresh = functools.partial(scanned)  # jit keeps what it traced of a function it knows
        program = jax.jit(fresh, donate_argnums=1).lower(params, leaves, zeros, zeros)
        return loop_copies(program.compile().as_text(), cache.k[0].shape)

    assert copies() == (0, 0)

    # The control: written at a place that depends on nothing, the cache is copied in every step.
    write = decoder.write

    def early(cache, new, positions, segments, after):
        return write(cache, new, positions, segments, jnp.zeros_like(after))

    monkeypatch.setattr(decoder, "write", early)
    inside, _ = copies()
    assert inside >= it.cfg.layers


def test_the_program_does_not_grow_with_depth():
    def programs(layers: int) -> list[str]:
        cfg = dataclasses.replace(both(BY_NAME["qwen2-gqa"]).cfg, layers=layers)
        params = jax.tree.map(
            lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32),
            decoder.specs(cfg),
            is_leaf=lambda x: hasattr(x, "axes"),
        )
        ids = jax.ShapeDtypeStruct((2, 100), jnp.int32)
        backward = functools.partial(loss, remat="full")
        forward, gradients = (
            jax.jit(f, static_argnums=1).lower(params, cfg, ids).as_text()
            for f in (loss, jax.grad(backward))
        )
        return [forward, gradients]

    for shallow, deep in zip(programs(2), programs(12), strict=True):
        assert shallow != deep
        assert shallow.count("dot_general") == deep.count("dot_general") >= 10
        assert shallow.count("\n") == deep.count("\n")


def test_remat_changes_the_program_and_not_what_it_computes():
    it = both(BY_NAME["qwen2-gqa"])
    counts, results = {}, {}
    for remat in decoder.REMAT:
        function = jax.jit(jax.value_and_grad(loss), static_argnames=("cfg", "remat"))
        traced = function.trace(it.params, cfg=it.cfg, ids=it.ids, remat=remat)
        counts[remat] = len(list(dots(traced.jaxpr.jaxpr)))
        results[remat] = jax.tree.leaves(traced.lower().compile()(it.params, ids=it.ids))
    assert counts["none"] < counts["dots"] < counts["full"]  # products done a second time
    for remat in ("dots", "full", "offload"):
        for ours, plain in zip(results[remat], results["none"], strict=True):
            np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    assert max(float(np.abs(g).max()) for g in results["none"][1:]) > 1e-2


def test_a_frequent_token_keeps_its_gradient_in_bfloat16():
    table, tokens = jnp.ones((4, 8), jnp.float32), jnp.zeros((1, 4096), jnp.int32)
    weights = jnp.full((1, 4096, 8), 0.01, jnp.bfloat16)

    def gradient(rows):
        return jax.grad(lambda t: (rows(t) * weights).astype(jnp.float32).sum())(table)[0, 0]

    exact = 4096 * float(weights[0, 0, 0])
    ours = gradient(lambda t: look_up(t, tokens, jnp.bfloat16))
    plain = gradient(lambda t: t.astype(jnp.bfloat16)[tokens])
    assert abs(ours / exact - 1) < 1e-5
    assert abs(plain / exact - 1) > 0.1


@pytest.mark.parametrize("ours", [plus, times])
def test_gradients_of_biases_and_scales_are_summed_in_float32(ours):
    tokens = jnp.ones((1, 16_384, 8), jnp.bfloat16)
    plain = {plus: jnp.add, times: jnp.multiply}[ours]

    def gradient(combine) -> float:
        def total(vector):
            return (combine(tokens, vector) * jnp.bfloat16(0.01)).astype(jnp.float32).sum()

        return float(jax.grad(total)(jnp.ones(8, jnp.bfloat16))[0])

    exact = 16_384 * float(jnp.bfloat16(0.01))
    assert gradient(ours) == pytest.approx(exact, rel=0.005)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8)), jnp.float32)
    for argument in (0, 1):
        by = [jax.grad(lambda *v, f=f: (f(*v) ** 2).sum(), argument) for f in (ours, plain)]
        np.testing.assert_allclose(*(f(x, x[0, 0]) for f in by), rtol=1e-6)


if __name__ == "__main__":
    print("| configuration | family | branch | max abs diff | max abs logit |")
    print("|---|---|---|---|---|")
    for case in CASES:
        it = both(case)
        diff, top = worst(ours(it), it.theirs), np.abs(it.theirs).max()
        print(f"| {case.name} | {case.family} | {case.branch} | {diff:.1e} | {top:.1f} |")
