import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_loop import host_loop
from test_engine import LINES, VOCAB, WRITABLE, by_id, engine, model, requests, whole

from s1jax.decoding import budget, sampling
from s1jax.decoding import engine as engine_module
from s1jax.decoding import step as step_module
from s1jax.decoding.budget import Rules
from s1jax.decoding.cache import lift, prefill, resize
from s1jax.decoding.record import Branch, ContractError, Request
from s1jax.decoding.sampling import Sampling, sample, settings_of
from s1jax.decoding.step import admit, decode
from s1jax.models import decoder

# --- Logits of every step ---


@functools.partial(jax.jit, static_argnames=("static", "steps"), donate_argnames="state")
def recorded(static, params, state, line_ends, steps: int):
    """`decode`, and for each step the seeds, positions and logits of the rows that were live."""

    def one(state, _):
        seen = []

        def look(logits, *others):
            seen.append(logits)
            return sampling.sample(logits, *others)

        rows = state.rows
        before = (rows.seed, rows.position, rows.budget.phase != budget.DONE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step_module, "sample", look)
            state, written = step_module.decode_one(static, params, state, line_ends)
        return state, (written, (*before, seen[0]))

    state, (written, told) = jax.lax.scan(one, state, None, length=steps)
    return step_module.laid_out(state), written, told


@pytest.fixture
def steps_of(monkeypatch):
    """Runs an engine: its samples by id, and what each step of every seed saw, in order."""

    def run(its, some):
        seen: dict[int, list[tuple[int, np.ndarray]]] = {}

        def decode_and_tell(*args):
            state, written, told = recorded(*args)
            for row in zip(*map(np.asarray, told), strict=True):
                for seed, position, live, logits in zip(*row, strict=True):
                    if live:
                        seen.setdefault(int(seed), []).append((int(position), logits))
            return state, written

        monkeypatch.setattr(engine_module, "decode", decode_and_tell)
        return by_id(its.run(some)), seen

    return run


@functools.cache
def all_at_once():
    cfg, params = model()

    @jax.jit
    def run(tokens):
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        hidden, _ = decoder.apply(cfg, params, tokens, positions, jnp.ones_like(tokens))
        return decoder.logits(cfg, params, hidden)[0]

    def logits(context: tuple[int, ...]) -> np.ndarray:
        tokens = np.zeros((1, 640), np.int32)
        tokens[0, : len(context)] = context
        return np.asarray(run(tokens))[: len(context)]

    return logits


def test_the_cache_gives_the_logits_of_no_cache_at_every_step(steps_of):
    """Over growth, wrapping around, refills and shrinking of the ring."""
    rng = np.random.default_rng(4)
    long = Rules(520, 8, ends=((1,),), close=(7,), force=(7, 8), force_newline=(6, 7, 8))
    long = replace(long, ignore_ends=99, ignore_strings=((50, 51), (52,)))

    def one(seed: int, most: int) -> Request:
        rules = replace(long, max_thinking_tokens=most)
        prompt = tuple(rng.integers(10, WRITABLE, rng.integers(1, 40)).tolist())
        return Request(str(seed), prompt, rules, Sampling(1.0), Sampling(1.0), seed=seed)

    lengths = [520 if n == 10 else int(rng.integers(10, 60)) for n in range(44)]
    its = engine(2, segment_steps=32)
    sizes: list[int] = []
    watched = its.run

    def run(some):
        return watched(some, watch=lambda *_: sizes.append(its.counts.columns))

    its.run = run
    found, seen = steps_of(its, [one(seed, most) for seed, most in enumerate(lengths)])
    worst, shifted, compared = 0.0, 0.0, 0
    for output in found.values():
        context = output.request.prompt + output.tokens
        wanted = all_at_once()(context)[:, :WRITABLE]
        for position, logits in seen[output.request.seed]:
            may = np.isfinite(logits[:WRITABLE])
            assert may.sum() >= WRITABLE - 1 and not np.isfinite(logits[WRITABLE:]).any()
            ours = logits[:WRITABLE][may]
            worst = max(worst, np.abs(ours - wanted[position][may]).max())
            if position:
                shifted = max(shifted, np.abs(ours - wanted[position - 1][may]).max())
            compared += 1
    path = [size for n, size in enumerate(sizes) if n == 0 or size != sizes[n - 1]]
    wrapped = its.counts.steps / min(sizes)
    print(f"\n{compared} steps, worst |diff| {worst:.1e}; ring {path}, {wrapped:.0f} times around")
    assert worst <= 1e-4 < 1 < shifted
    assert max(path) >= 512 and path[-1] < max(path) and wrapped > 4
    assert max(len(output.tokens) for output in found.values()) > 500


def bits(steps: list[tuple[int, np.ndarray]]) -> list[bytes]:
    return [logits.tobytes() for _, logits in steps]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_strictly_the_same_bits_whatever_is_beside_a_row(steps_of, dtype):
    """Neighbours, the place in the batch, and the ring's size and offset are different."""
    some = [
        replace(r, rules=replace(r.rules, max_thinking_tokens=20 + 5 * n))
        for n, r in enumerate(requests(17, seed=3))
    ]
    long = Request("long", (11, 12), Rules(200, 9, close=(7,), force=(7,), force_newline=(6,)))
    long = replace(long, seed=999)
    runs, rings = {}, set()
    for name, strict in (("strict", True), ("free", False)):
        orders = [[some[4]], some, [some[9], long, *some[::-1]]]
        orders[2].remove(some[9])
        runs[name] = []
        for order in orders:
            its = engine(8, strict=strict, dtype=dtype)
            _, seen = steps_of(its, order)
            runs[name].append(seen)
            rings.add(its.counts.columns)
    one, together, other = runs["strict"]
    assert len(one[some[4].seed]) > 20
    assert bits(one[some[4].seed]) == bits(together[some[4].seed]) == bits(other[some[4].seed])
    for request in some:
        assert bits(together[request.seed]) == bits(other[request.seed]), request.id
    assert len(rings) > 1
    # The control: without it some bits differ somewhere.
    _, together, other = runs["free"]
    assert any(bits(together[r.seed]) != bits(other[r.seed]) for r in some)


def test_the_cache_is_split_over_the_mesh_from_beginning_to_end():
    its = engine(16, {"fsdp": 8, "tensor": 2})
    run = engine_module._Run(its, requests(40), None, None)
    shapes = set()
    for _ in run.outputs():
        cache = run.state.cache
        for layer in (*cache.k, *cache.v):
            rows, kv_heads, columns, head_dim = layer.shape
            assert (rows, kv_heads) == (16, 2)
            held = {shard.data.shape for shard in layer.addressable_shards}
            assert held == {(rows // 8, kv_heads // 2, columns, head_dim)}
            shapes.add(columns)
        assert len({shard.index for shard in cache.k[0].addressable_shards}) == 16
    assert len(shapes) > 1  # resized rings too


# --- The machine under a model ---


def rules_at_random(rng: np.random.Generator) -> Rules:
    """Everything that a row can be asked, over the ids that the model likes."""

    def ids(high: int, most: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, high, rng.integers(1, most + 1)).tolist())

    def some(high: int, most: int, count: int) -> tuple[tuple[int, ...], ...]:
        return tuple(ids(high, most) for _ in range(rng.integers(0, count + 1)))

    limit = int(rng.integers(1, 60))
    return Rules(
        max_thinking_tokens=limit,
        max_answer_tokens=int(rng.integers(1, 12)),
        ends=some(12, 2, 4),
        stops=some(12, 2, 3),
        close=ids(WRITABLE, 3),
        force=ids(WRITABLE, 4),
        force_newline=ids(WRITABLE, 5),
        min_thinking_tokens=int(rng.integers(0, limit + 4)) if rng.random() < 0.4 else 0,
        ignore_ends=int(rng.integers(0, 7)),
        ignore_strings=some(WRITABLE, 3, 3),
        accounting=budget.ACCOUNTING[rng.integers(3)],
        thinking=rng.random() < 0.95,
        reject=rng.random() < 0.1,
        max_written_tokens=int(rng.integers(1, 60)) if rng.random() < 0.15 else 2**30,
    )


def at_random(count: int, seed: int) -> list[Request]:
    rng = np.random.default_rng(seed)

    def sampling() -> Sampling:
        temperature = float(rng.choice([0.0, 0.5, 1.0]))
        top_k, top_p = int(rng.choice([0, 20])), float(rng.choice([1.0, 0.8]))
        return Sampling(temperature, top_k, top_p, float(rng.choice([0.0, 0.02])))

    return [
        Request(
            str(n),
            tuple(rng.integers(0, WRITABLE, rng.integers(1, 40)).tolist()),
            rules_at_random(rng),
            sampling(),
            sampling(),
            seed=int(rng.integers(2**32)),
        )
        for n in range(count)
    ]


sample_one = jax.jit(sample)


def expected(request: Request):
    """The plain loop on logits without a cache, by the request's own seed and settings."""
    settings = settings_of([(request.thinking, request.answer)])

    def choose(logits: np.ndarray, answering: bool, steps: int) -> int:
        own = jax.tree.map(lambda table: table[:, int(answering)], settings)
        seed, drawn = np.array([request.seed], np.uint32), np.array([steps], np.int32)
        return int(sample_one(logits[None], own, seed, drawn)[0])

    return host_loop(request.rules, request.prompt, whole(), LINES, choose)


def check_against_the_loop(some: list[Request], rows: int, segment: int) -> None:
    found = by_id(engine(rows, segment_steps=segment).run(some))
    assert len(found) == len(some)
    for request in some:
        output, told = found[request.id], expected(request)
        assert (output.tokens, output.kinds) == (told.tokens, told.kinds), request
        assert (output.ignored_at, output.forced, output.finish) == (
            told.ignored_at,
            told.forced,
            told.finish,
        ), request


@pytest.mark.parametrize(
    ("rows", "segment", "seed", "count"), [(1, 16, 0, 30), (3, 7, 1, 40), (8, 16, 2, 50)]
)
def test_random_rules_and_samplings_are_those_of_the_plain_loop(rows, segment, seed, count):
    check_against_the_loop(at_random(count, seed), rows, segment)


@pytest.mark.slow
def test_a_thousand_random_requests_are_those_of_the_plain_loop():
    check_against_the_loop(at_random(1000, 3), 16, 16)


def test_padding_of_the_vocabulary_is_never_written():
    some = requests(20, temperature=1.0) + [
        replace(r, id=f"greedy {r.id}") for r in requests(20, temperature=0.0)
    ]
    for output in engine(8).run(some):
        assert max(output.tokens) < WRITABLE
    # The control: it would be, for its logits are the largest.
    free = list(engine(8, vocab_size=VOCAB).run(some))
    assert sum(max(output.tokens) >= WRITABLE for output in free) > 20


def test_no_program_is_compiled_again_but_for_another_size():
    """Budgets, counts, strings, prompts, seeds, temperatures and branches are values."""
    programs = (decode, admit, prefill, lift, resize)

    def sizes() -> list[int]:
        return [program._cache_size() for program in programs]

    its = engine(6, segment_steps=16)  # no other test has these two
    branches = (Branch(4, 0), Branch(9, 1))

    def queue(seed: int, most: int) -> list[Request]:
        some = requests(24, seed, temperature=[0.0, 0.7][seed % 2])
        return [
            replace(
                request,
                rules=replace(
                    request.rules,
                    max_thinking_tokens=10 + (n * seed) % most,
                    max_answer_tokens=1 + n % 9,
                    ignore_strings=((50 + seed,) * (1 + n % 3), (60, 61))[: n % 3],
                ),
                seed=n * seed,
                branches=branches if n % 4 == 0 and request.rules.ignore_ends else (),
            )
            for n, request in enumerate(some)
        ]

    before = sizes()
    list(its.run(queue(1, 60)))
    list(its.run(queue(2, 60)))
    first = sizes()
    assert its.counts.columns == 128  # one ring: one program
    assert first[0] - before[0] == 1
    for seed in (3, 4, 5):
        list(its.run(queue(seed, 60)))
    print([b - a for a, b in zip(before, first, strict=False)])
    assert sizes() == first
    # The control: a longer ring is another program.
    list(its.run(queue(6, 190)))
    assert sizes()[0] > first[0]


def test_a_machine_that_gives_one_token_too_many_is_found_out(monkeypatch):
    honest = budget._spend

    def generous(plan, state):
        more = replace(plan, max_thinking_tokens=plan.max_thinking_tokens + 1)
        return honest(more, state)

    monkeypatch.setattr(budget, "_spend", generous)
    its = engine(5, segment_steps=11)  # sizes of its own: jit keeps what it compiled here
    with pytest.raises(ContractError, match=r"sample \d+ broke its contract: .* allowed"):
        list(its.run(requests(12)))


pytestmark = pytest.mark.slow
