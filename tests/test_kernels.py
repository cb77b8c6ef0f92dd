"""Every kernel against attend_xla: packed or not, in blocks, over meshes, for absent hardware.

attend_xla itself is held against a plain computation in test_attention.py.
"""

import collections
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes_planning import absent, step
from jax.sharding import NamedSharding
from test_mesh import mesh_of

from s1jax.mesh import partition
from s1jax.models.attention import ATTENTION, attend_xla
from s1jax.models.kernels.chunked import BLOCK, attend_chunked
from s1jax.models.kernels.cudnn import attend_cudnn
from s1jax.models.kernels.over_mesh import attend_over_mesh
from s1jax.models.kernels.splash import attend_splash
from s1jax.models.kernels.triton import attend_triton
from s1jax.models.kernels.visible import PADDING, spans, visible_blocks
from s1jax.planning.buffers import has_square

# As they run without their accelerator: Pallas's kernels as plain JAX, cuDNN's call as XLA has it.
KERNELS = {
    "chunked": attend_chunked,
    "triton": lambda *x: attend_triton(*x, True),
    "splash": lambda *x: attend_splash(*x, True),
    "cudnn": lambda *x: attend_cudnn(*x, "xla"),
}
PACKED = [name for name in KERNELS if name != "cudnn"]


def plain(q, k, v, positions, segments):
    return attend_xla(
        q, k, v, q_positions=positions, k_positions=positions,
        q_segments=segments, k_segments=segments,
    )  # fmt: skip


def rows(*lengths, length=None):
    """Positions and segments of one row of examples of these lengths, padded to `length`."""
    length = length or sum(lengths)
    segments = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, length - sum(lengths)])
    starts = np.cumsum([0, *lengths])
    positions = np.arange(length) - starts[np.where(segments == 0, len(lengths), segments - 1)]
    return jnp.asarray(positions[None], jnp.int32), jnp.asarray(segments[None], jnp.int32)


def arrays(length, heads, kv_heads, head_dim, batch=1, dtype=jnp.float32):
    """Queries, keys, values, and what the loss weighs the result by."""
    rng = np.random.default_rng(length)
    shapes = [(batch, length, n, head_dim) for n in (heads, kv_heads, kv_heads, heads)]
    return [jnp.asarray(rng.normal(0, 1.2, shape), dtype) for shape in shapes]


@functools.cache
def differentiated(attend):
    """What the columns that are no padding gather, the loss, and all gradients; jitted."""

    def loss(q, k, v, pull, positions, segments):
        real = (segments != PADDING)[..., None, None]
        gathered = jnp.where(real, attend(q, k, v, positions, segments), 0).astype(jnp.float32)
        return (gathered * pull).sum() / 100, gathered

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


def everything(attend, *x):
    (value, gathered), gradients = differentiated(attend)(*x)
    return [np.asarray(x, np.float32) for x in (gathered, value, *gradients)]


def assert_same(ours, theirs, atol=2e-5):
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(other).max() > 0.01 or other.size == 0
        np.testing.assert_allclose(one, other, atol=atol)


def difference(ours, theirs):
    return max(np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True))


# Length of the examples and of the row; heads, kv heads and features.
CASES = {
    "odd, five queries a key, packed": ((90, 1, 141), 300, (10, 2, 64)),
    "no groups, 128 features, packed": ((130, 127), 257, (2, 2, 128)),
    "one example and padding": ((171,), 200, (5, 1, 64)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_the_plain_one(name, case):
    lengths, length, sizes = CASES[case]
    if len(lengths) > 1 and name not in PACKED:
        pytest.skip("cuDNN is for one example a row")
    x = (*arrays(length, *sizes), *rows(*lengths, length=length))
    expected = everything(plain, *x)
    assert_same(everything(KERNELS[name], *x), expected)
    if len(lengths) > 1:  # the control
        ignored = (*x[:5], jnp.minimum(x[5], 1))
        assert difference(everything(KERNELS[name], *ignored), expected) > 0.1


@pytest.mark.parametrize("name", KERNELS)
def test_one_token_gathers_its_own_value(name):
    q, k, v, _ = arrays(1, 4, 2, 64)
    gathered = KERNELS[name](q, k, v, *rows(1))
    np.testing.assert_allclose(gathered, jnp.repeat(v, 2, axis=2), atol=1e-6)


@pytest.mark.parametrize("name", PACKED)
def test_packed_examples_are_what_they_are_apart(name):
    """Also two rows at once, of different borders: blocks are chosen row by row."""
    lengths = ((100, 160), (160, 40))
    both = [rows(*some, length=260) for some in lengths]
    positions, segments = (jnp.concatenate(x) for x in zip(*both, strict=True))
    x = arrays(260, 4, 2, 64, batch=2)
    together = everything(KERNELS[name], *x, positions, segments)
    mixed = everything(KERNELS[name], *x, positions, jnp.minimum(segments, 1))
    for row, some in enumerate(lengths):
        for start, stop in itertools.pairwise(np.cumsum([0, *some])):
            at = (slice(row, row + 1), slice(start, stop))
            alone = everything(plain, *(a[at] for a in x), *rows(stop - start))
            del alone[1]  # the loss of one is a part of that of all
            parts = [a[at] for i, a in enumerate(together) if i != 1]
            assert_same(parts, alone)
            wrong = [a[at] for i, a in enumerate(mixed) if i != 1]
            assert start == 0 or difference(wrong, alone) > 0.1  # the control


def test_cudnn_refuses_rows_that_it_would_mix():
    q, k, v, _ = arrays(60, 2, 1, 64)
    fine = rows(50, length=60)
    assert np.isfinite(attend_cudnn(q, k, v, *fine, "xla")).all()
    left = tuple(jnp.flip(x, axis=1) for x in fine)
    ended = (fine[0], jnp.where(jnp.arange(60) < 20, 1, 2)[None])  # another, its positions going on
    for wrong in (rows(20, 30, length=60), left, ended):
        assert np.isnan(attend_cudnn(q, k, v, *wrong, "xla")).all()


@pytest.mark.parametrize("name", ["triton", "splash"])
def test_what_is_hidden_has_exactly_no_influence(name):
    """For "chunked" see test_attention.py."""
    q, k, v, _ = arrays(300, 2, 1, 64)
    columns = rows(100, 150, length=300)
    run = jax.jit(lambda k, v: KERNELS[name](q, k, v, *columns)[:, 170])
    before = run(k, v)
    hidden = np.r_[0:100, 171:300]
    after = run(k.at[:, hidden].set(1e30), v.at[:, hidden].set(-1e30))
    np.testing.assert_array_equal(after, before)
    assert np.abs(run(k, v.at[:, 100].add(1.0)) - before).max() > 1e-6  # the control


# Blocks.


@pytest.mark.parametrize("sizes", [(16, 16), (32, 16), (16, 32)])
def test_blocks_hold_every_visible_pair_and_hardly_any_other(sizes):
    rng = np.random.default_rng(0)
    length = 512
    find = jax.jit(lambda *x: visible_blocks(*x, *sizes))
    for _ in range(20):
        lengths = np.diff(
            [0, *np.sort(rng.choice(np.arange(1, length), rng.integers(1, 6), False))]
        )
        positions, segments = rows(*lengths, length=length)
        p, s = np.asarray(positions[0]), np.asarray(segments[0])
        pairs = (s[:, None] == s) & (s != PADDING) & (p[:, None] >= p)
        shape = (length // sizes[0], sizes[0], length // sizes[1], sizes[1])
        needed = pairs.reshape(shape).any((1, 3))
        found = np.asarray(find(positions, segments))[0]
        assert (found >= needed).all()
        assert found.sum() <= needed.sum() + 2 * len(lengths)
        first, stop = (np.asarray(x[0]) for x in jax.jit(spans)(needed[None]))
        for one, start, end in zip(needed, first, stop, strict=True):
            assert one[start:end].all() and one.sum() == end - start


@pytest.mark.parametrize("name", ["chunked", "triton"])
def test_blocks_that_nobody_sees_are_not_computed(name):
    """Where they hold NaN, computing them would show: nothing times NaN is NaN."""
    positions, segments = rows(BLOCK, BLOCK + 20, length=3 * BLOCK)
    q, k, v, pull = arrays(3 * BLOCK, 2, 1, 64)
    second = slice(BLOCK, 2 * BLOCK + 20)
    pull = pull.at[:, :BLOCK].set(0)
    expected = everything(plain, q, k, v, pull, positions, segments)
    first = np.r_[0:BLOCK]
    k, v = (x.at[:, first].set(jnp.nan) for x in (k, v))
    ours = everything(KERNELS[name], q, k, v, pull, positions, segments)
    theirs = everything(plain, q, k, v, pull, positions, segments)
    for i in (0, 2, 3, 4):
        np.testing.assert_allclose(ours[i][:, second], expected[i][:, second], atol=2e-5)
        assert np.isnan(theirs[i][:, second]).any() or i > 2  # the control


@pytest.mark.parametrize("name", ["chunked", "triton"])
def test_bfloat16_errs_no_more_than_the_plain_one(name):
    x = arrays(300, 4, 2, 64)
    columns = rows(200, 90, length=300)
    truth = everything(plain, *x, *columns)
    half = [a.astype(jnp.bfloat16) for a in x[:3]]
    rounded = everything(plain, *(a.astype(jnp.float32) for a in half), x[3], *columns)
    ours = everything(KERNELS[name], *half, x[3], *columns)
    theirs = everything(plain, *half, x[3], *columns)
    for i in (0, 2, 3, 4):
        error, other = (np.sqrt(np.mean((a[i] - rounded[i]) ** 2)) for a in (ours, theirs))
        assert 0 < error < 1.3 * other
    assert difference(rounded, truth) > 1e-3  # the control: it is bfloat16


# Over a mesh.

MESHES = {
    "data2 x fsdp2 x tensor4": ({"data": 2, "fsdp": 2, "tensor": 4}, 20, 4),
    "fsdp4 x context2 x tensor2": ({"fsdp": 4, "context": 2, "tensor": 2}, 20, 4),
    "fsdp4 x context4, keys repeated": ({"fsdp": 4, "context": 4}, 8, 2),
    "fsdp2 x context8, queries padded": ({"fsdp": 2, "context": 8}, 10, 2),
}


def over_mesh(attend, mesh, x):
    """`everything` with its arrays laid over the mesh, the program's text, and without segments."""
    with jax.set_mesh(mesh):
        heads = NamedSharding(mesh, partition(("batch", "seq", "heads", "head_dim")))
        columns = NamedSharding(mesh, partition(("batch", "seq")))
        laid = [jax.device_put(a, heads if a.ndim == 4 else columns) for a in x]
        program = differentiated(attend).lower(*laid).compile()
        (value, gathered), gradients = program(*laid)
        ours = [np.asarray(x, np.float32) for x in (gathered, value, *gradients)]
        other = [*laid[:5], jax.device_put(jnp.minimum(x[5], 1), columns)]
        return ours, program.as_text(), np.asarray(program(*other)[0][1], np.float32)


def collectives(text):
    """Kind and dtype of every collective of more than one number."""
    pattern = (
        r"(\w+)\[[\d,]+\]\S* (all-to-all|all-gather|all-reduce|reduce-scatter|collective-permute)\("
    )
    return collections.Counter((kind, dtype) for dtype, kind in re.findall(pattern, text))


def batch_of_rows(length):
    examples = [(60, length - 60), (length - 9,), (1, 20, 100), (length,)] * 4
    both = [rows(*some, length=length) for some in examples]
    return [jnp.concatenate(x) for x in zip(*both, strict=True)]


def by_name(name):
    def attend(q, k, v, positions, segments):
        masks = {"q_positions": positions, "k_positions": positions}
        return ATTENTION[name](q, k, v, **masks, q_segments=segments, k_segments=segments)

    return attend


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["xla", "chunked"])
def test_rows_over_any_mesh_are_those_of_one_device(name, mesh):
    sizes, *heads = MESHES[mesh]
    if name == "xla" and "repeated" not in mesh:
        pytest.skip("goes the same way as the others")
    x = (*arrays(160, *heads, 16, batch=16), *batch_of_rows(160))
    expected = everything(plain, *x)
    ours, text, mixed = over_mesh(by_name(name), mesh_of(**sizes), x)
    assert_same(ours, expected, atol=5e-5)
    assert np.abs(mixed - expected[0]).max() > 0.1  # the control
    found = collectives(text)
    split = "context" in sizes
    assert set(found) == ({("all-to-all", "f32"), ("all-gather", "s32")} if split else set())
    # Of q, k, v and the result, and of the gradient of each.
    assert found["all-to-all", "f32"] == (8 if split else 0)


def test_without_the_swap_something_else_is_sent():
    """The control of the collectives above: XLA left alone with split rows gathers keys."""
    x = (*arrays(160, 8, 2, 16, batch=16), *batch_of_rows(160))

    def scores(q, k, v, positions, segments):
        seen = (segments[:, :, None] == segments[:, None]) & (
            positions[:, :, None] >= positions[:, None]
        )
        return jax.nn.dot_product_attention(q, k, v, mask=seen[:, None])

    _, text, _ = over_mesh(scores, mesh_of(fsdp=4, context=4), x)
    assert ("all-gather", "f32") in collectives(text)


@pytest.mark.parametrize("name", ["triton", pytest.param("splash", marks=pytest.mark.slow)])
def test_pallas_kernels_over_a_mesh(name):
    x = (*arrays(160, 10, 2, 64, batch=16), *batch_of_rows(160))
    attend = functools.partial(attend_over_mesh, KERNELS[name])
    ours, _, mixed = over_mesh(attend, mesh_of(data=2, fsdp=2, context=2, tensor=2), x)
    expected = everything(plain, *x)
    assert_same(ours, expected, atol=5e-5)
    assert np.abs(mixed - expected[0]).max() > 0.1  # the control


# In compiled steps.

LONG = 12 * 384  # tokens: attend_xla takes 384 at a time, and no size of the model is a multiple


def long_step(kind, **fields):
    devices = jax.devices()[:4] if kind == "cpu" else absent(kind)[:4]
    fields = {"mesh__fsdp": 2, "mesh__context": 2, "data__row_length": LONG} | fields
    return step(devices, **fields, model__compute_dtype="bfloat16")


@pytest.mark.parametrize(
    ("kind", "name", "pack", "calls"),
    [
        ("cpu", "auto", True, []),
        ("cuda", "auto", True, ["attend_forward", "attend_d_q", "attend_d_kv"]),
        ("cuda", "auto", False, ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]),
        pytest.param("tpu", "auto", True, ["splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"],
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_steps_of_long_rows_hold_no_square(kind, name, pack, calls):
    text = long_step(kind, model__attention=name, data__pack=pack).hlo(kind)
    assert not has_square(text, LONG)
    assert not has_square(text, LONG, 384)
    for call in calls:
        assert re.search(rf"{re.escape(call)}\b|{re.escape(call)}_", text), call


def test_the_plain_one_holds_squares():
    """The control of the test above."""
    shapes = [(1, LONG, n, 16) for n in (2, 1, 1, 2)] + [(1, LONG)] * 2
    dtypes = [jnp.float32] * 4 + [jnp.int32] * 2
    x = [jax.ShapeDtypeStruct(*a) for a in zip(shapes, dtypes, strict=True)]
    assert has_square(differentiated(plain).lower(*x).compile().as_text(), LONG, 384)
    assert not has_square(differentiated(attend_chunked).lower(*x).compile().as_text(), LONG, 384)
