"""Operations counted from jaxprs, against loops written out, XLA's count, and counts by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes_planning import step
from jax.experimental import pallas as pl
from jax.extend.core import ClosedJaxpr
from jax.sharding import AxisType, PartitionSpec

from s1jax.metrics import train_flops
from s1jax.planning.flops import Flops, count, matmul_recompute, visible_pairs

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
ONCE = 2 * 8**3  # operations of the product of two of them


def flops(f, *args):
    return count(jax.make_jaxpr(f)(*args))


def square(x):
    return x @ x


# Single operations.


def xla_flops(f, *args):
    """XLA's own count: right where there is neither a loop nor a kernel."""
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("einsum", "shapes"),
    [
        ("ij,jk->ik", [(3, 5), (5, 7)]),
        ("bij,bjk->bik", [(2, 3, 5), (2, 5, 7)]),
        ("btnh,bsnh->bnts", [(2, 5, 3, 4), (2, 6, 3, 4)]),
        ("btnh,dnh->btd", [(2, 5, 3, 4), (6, 3, 4)]),
    ],
)
def test_products_are_those_of_xla(einsum, shapes):
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def product(a, b):
        return jnp.einsum(einsum, a, b)

    sizes = dict(zip("".join(einsum.split("->")[0].split(",")), sum(shapes, ()), strict=True))
    by_hand = 2 * math.prod(sizes.values())
    assert flops(product, *args) == Flops(by_hand)
    assert xla_flops(product, *args) == by_hand


@pytest.mark.parametrize(
    "groups", [{}, {"feature_group_count": 2}, {"batch_group_count": 2}], ids=str
)
def test_convolutions_are_those_of_xla(groups):
    image = jax.ShapeDtypeStruct((4, 6, 9, 8), jnp.float32)  # batch, channels, rows, columns
    channels = 6 // groups.get("feature_group_count", 1)
    kernel = jax.ShapeDtypeStruct((10, channels, 3, 2), jnp.float32)

    def convolution(a, b):
        return jax.lax.conv_general_dilated(a, b, (2, 1), "VALID", **groups)

    assert flops(convolution, image, kernel).total == xla_flops(convolution, image, kernel)


def test_what_is_no_product_costs_nothing():
    assert flops(lambda x: jnp.sin(x).sum() + jnp.linalg.norm(x), SQUARE) == Flops()


# Loops and branches.


def test_a_scan_is_its_body_times_its_length():
    def scanned(x):
        return jax.lax.scan(lambda x, _: (square(x), None), x, length=7)[0]

    def written_out(x):
        for _ in range(7):
            x = square(x)
        return x

    assert flops(scanned, SQUARE) == flops(written_out, SQUARE) == Flops(7 * ONCE)
    # The control: XLA counts the body once.
    assert xla_flops(scanned, SQUARE) < 2 * ONCE


def test_scans_inside_scans_multiply():
    def inner(x, _):
        return jax.lax.fori_loop(0, 5, lambda _, x: square(x), x), None

    assert flops(lambda x: jax.lax.scan(inner, x, length=3)[0], SQUARE) == Flops(15 * ONCE)


def counting(first, limit, by, carried):
    """A while loop that counts; its limit written in the condition, or carried along."""

    def condition(carry):
        return carry[0] < (carry[2] if carried else limit)

    def body(carry):
        return carry[0] + by, square(carry[1]), carry[2]

    return lambda x: jax.lax.while_loop(condition, body, (first, x, limit))[1]


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize(("first", "limit", "by"), [(0, 5, 1), (2, 12, 3), (5, 5, 1), (9, 3, 1)])
def test_a_loop_that_counts_between_constants_is_known(first, limit, by, carried):
    loop = counting(first, limit, by, carried)
    assert flops(loop, SQUARE) == Flops(ONCE * len(range(first, limit, by)))


@pytest.mark.parametrize(
    "loop",
    [
        lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 5, square, x),
        lambda x: jax.lax.fori_loop(0, x[0, 0].astype(int), lambda _, x: square(x), x),
        lambda x: jax.lax.while_loop(  # the limit runs away
            lambda c: c[0] < c[2], lambda c: (c[0] + 2, square(c[1]), c[2] + 1), (0, x, 5)
        )[1],
        lambda x: jax.lax.while_loop(  # doubled, not counted
            lambda c: c[0] < 5, lambda c: (c[0] * 2, square(c[1])), (1, x)
        )[1],
    ],
)
def test_any_other_loop_counts_once_and_is_told(loop):
    assert flops(loop, SQUARE) == Flops(ONCE, unbounded=1)


def test_a_loop_without_products_is_not_worth_telling():
    assert flops(lambda x: jax.lax.while_loop(lambda x: x < 5, lambda x: x * 2, x), 1.0) == Flops()


def test_of_a_cond_the_dearest_branch_counts():
    def branching(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: square(square(x)), square, x)

    assert flops(branching, SQUARE) == Flops(2 * ONCE, conditional=1)
    same = flops(lambda x: jax.lax.cond(x[0, 0] > 0, square, lambda x: x @ x.T, x), SQUARE)
    assert same == Flops(ONCE)


# Calls and derivatives.


def custom_vjp(x):
    f = jax.custom_vjp(square)
    f.defvjp(lambda x: (x @ x, x), lambda x, d: (d @ x.T,))
    return f(x)


def custom_jvp(x):
    f = jax.custom_jvp(square)
    f.defjvp(lambda x, d: (f(*x), d[0]))
    return f(x)


@pytest.mark.parametrize(
    ("f", "products"),
    [
        (jax.jit(square), 1),
        (jax.checkpoint(square), 1),
        (jax.vmap(lambda row: jnp.vdot(row, row)), 1 / 8),
        (custom_vjp, 1),
        (custom_jvp, 1),
        (jax.grad(lambda x: jnp.sin(square(x)).sum()), 3),
        (jax.grad(lambda x: jnp.sin(custom_vjp(x)).sum()), 2),
        (jax.grad(lambda x: jnp.sin(custom_jvp(x)).sum()), 1),
        # Of the second product the backward pass needs the argument, made again, not the result.
        (jax.grad(jax.checkpoint(lambda x: jnp.sin(square(jnp.sin(square(x)))).sum())), 8),
    ],
)
def test_what_is_called_is_counted(f, products):
    assert flops(f, SQUARE) == Flops(products * ONCE)


# Devices.


def mesh(**sizes):
    devices = jax.devices()[: math.prod(sizes.values())]
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), (AxisType.Auto,) * len(sizes), devices=devices
    )


@pytest.mark.parametrize(
    ("in_specs", "out_specs", "repeated"),
    [
        ((PartitionSpec("a"), PartitionSpec()), PartitionSpec("a"), 2),  # rows over a; b repeats
        ((PartitionSpec("a"), PartitionSpec(None, "b")), PartitionSpec("a", "b"), 1),
        ((PartitionSpec(), PartitionSpec()), PartitionSpec(), 8),
    ],
)
def test_a_mapped_body_counts_for_every_device(in_specs, out_specs, repeated):
    def product(x, y):
        return x @ y

    mapped = jax.shard_map(
        product, mesh=mesh(a=4, b=2), in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    whole = flops(product, SQUARE, SQUARE).total
    assert flops(mapped, SQUARE, SQUARE).total == whole * repeated
    # The control: the body alone is what one device does.
    (eqn,) = jax.make_jaxpr(mapped)(SQUARE, SQUARE).eqns
    assert count(ClosedJaxpr(eqn.params["jaxpr"], ())).total == whole * repeated / 8


def test_axes_that_are_not_mapped_over_stay_whole():
    def mapped(x):
        parts = PartitionSpec("a")
        body = jax.shard_map(lambda x: x @ x.T, axis_names={"a"}, in_specs=parts, out_specs=parts)
        return body(x)

    with jax.set_mesh(mesh(a=4, b=2)):
        jaxpr = jax.jit(mapped).trace(SQUARE).jaxpr
    assert count(jaxpr).total == ONCE / 4  # [2, 8] @ [8, 2] on each of four, whatever b does


def test_the_step_costs_the_same_on_any_mesh():
    alone = count(step(data__batch_size=8).traced.jaxpr).total
    for sizes in ({"fsdp": 4}, {"data": 2, "fsdp": 2}):
        there = {f"mesh__{axis}": size for axis, size in sizes.items()}
        assert count(step(data__batch_size=8, **there).traced.jaxpr).total == alone


# Kernels.


def tiled(x, y, tile=8, cost=None, name=None, when=None):
    """x @ y by a Pallas kernel that makes one [tile, tile] a time."""

    def kernel(x, y, out):
        if when is None:
            out[...] = x[...] @ y[...]
        else:

            @pl.when(when(pl.program_id(0), pl.program_id(1)))
            def _():
                out[...] = x[...] @ y[...]

    (rows, inner), columns = x.shape, y.shape[1]
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((rows, columns), x.dtype),
        grid=(rows // tile, columns // tile),
        in_specs=[
            pl.BlockSpec((tile, inner), lambda i, _: (i, 0)),
            pl.BlockSpec((inner, tile), lambda _, j: (0, j)),
        ],
        out_specs=pl.BlockSpec((tile, tile), lambda i, j: (i, j)),
        cost_estimate=cost,
        name=name,
        interpret=True,
    )(x, y)


def test_a_kernel_is_its_jaxpr_times_its_grid():
    x, y = jax.ShapeDtypeStruct((32, 16), jnp.float32), jax.ShapeDtypeStruct((16, 24), jnp.float32)
    whole = flops(jnp.matmul, x, y).total
    assert flops(lambda x, y: tiled(x, y, name="tiled"), x, y) == Flops(0, {"tiled": whole})
    # The control: one block is a twelfth.
    assert whole / 12 == 2 * 8 * 16 * 8


def test_a_kernel_that_says_what_it_costs_is_believed():
    cost = pl.CostEstimate(flops=123, transcendentals=0, bytes_accessed=0)
    told = flops(lambda x: tiled(x, x, cost=cost, name="a") + tiled(x, x, name="b"), SQUARE)
    assert told == Flops(0, {"a": 123, "b": ONCE})
    assert told.total == 123 + ONCE


def test_blocks_that_a_kernel_skips_are_counted_and_told():
    x = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    causal = flops(lambda x: tiled(x, x, name="causal", when=lambda i, j: i >= j), x)
    assert causal == Flops(0, {"causal": 2 * 32**3}, conditional=1)


def test_kernels_in_a_scan_add_up_under_their_names():
    def layer(x, _):
        return tiled(tiled(x, x, name="a"), x, name="b") + tiled(x, x, name="a"), None

    told = flops(lambda x: jax.lax.scan(layer, x, length=5)[0], SQUARE)
    assert told.kernels == {"a": 10 * ONCE, "b": 5 * ONCE}


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("causal", [True, False])
def test_cudnn_attention_is_reckoned_from_its_shapes(layout, causal):
    """The primitives are bound as jax binds them; nothing asks whether cuDNN is here."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    batch, length, heads, kv_heads, width = 2, 16, 4, 2, 8
    mask = cudnn.MaskType.PADDING_CAUSAL if causal else cudnn.MaskType.NO_MASK

    def array(n):
        shape = (batch, length, n, width) if layout == 0 else (batch, n, length, width)
        return jnp.zeros(shape, jnp.bfloat16)

    def attend(q, k, v):
        none = [jnp.zeros(0, jnp.int32)] * 7
        params = {"scale": 1.0, "seed": 42, "dropout_rate": 0.0, "mask_type": mask}
        params |= {"variadic_args": (False, False), "layout": layout, "sliding_window_length": 0}
        out, softmax = cudnn._dot_product_attention_fwd_p_wrapper.bind(
            q, k, v, *none, **params, is_training=True
        )
        return cudnn._dot_product_attention_bwd_p_wrapper.bind(
            q, k, v, *none, softmax, out, out, **params
        )

    seen = np.tril(np.ones((length, length))) if causal else np.ones((length, length))
    product = 2 * batch * heads * seen.sum() * width
    told = flops(attend, array(heads), array(kv_heads), array(kv_heads))
    assert told.kernels == {
        "dot_product_attention_fwd": 2 * product,
        "dot_product_attention_bwd": 5 * product,
    }


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 7), (3, 9), (9, 3)])
def test_pairs_that_meet(queries, keys):
    assert visible_pairs(queries, keys, causal=True) == np.tril(np.ones((queries, keys))).sum()
    assert visible_pairs(queries, keys, causal=False) == queries * keys


# The real step.


def products_of(model, tokens, row_length, block=128):
    """(of the matrices a token, down alone, attention forward) by hand: multiply and add, once.

    Attention takes 128 queries at a time and all the keys up to the last of them.
    """
    heads, kv_heads = model.heads * model.head_dim, model.kv_heads * model.head_dim
    down = model.embed_dim * model.mlp_dim
    layer = model.embed_dim * (2 * heads + 2 * kv_heads) + 3 * down
    blocks = row_length // block
    pairs = tokens // row_length * block * block * blocks * (blocks + 1) // 2
    attention = model.layers * 2 * 2 * heads * pairs
    matrices = model.layers * layer + model.embed_dim * model.vocab_size
    return 2 * tokens * matrices, 2 * tokens * model.layers * down, attention


SIZES_OF_STEPS = [
    pytest.param({}, 256, 1, id="small"),
    pytest.param({"num_hidden_layers": 5, "num_key_value_heads": 4}, 512, 2, id="deep"),
    pytest.param({"tie_word_embeddings": True, "vocab_size": 384}, 512, 1, id="tied"),
    pytest.param({"hidden_size": 96, "head_dim": 32, "intermediate_size": 160}, 256, 1, id="wide"),
]


@pytest.mark.parametrize(("raw", "row_length", "slices"), SIZES_OF_STEPS)
def test_the_real_step_is_what_a_hand_counts(raw, row_length, slices):
    """6ND and attention without remat; with it, the layers forward once more."""
    shape = {"data__row_length": row_length, "train__accumulation_steps": slices}
    executed = {
        remat: count(step(raw=raw, train__remat=remat, **shape).traced.jaxpr)
        for remat in ("none", "dots", "full")
    }
    one = step(raw=raw, **shape)
    matrices, down, attention = products_of(one.model, one.tokens, row_length)
    head = 2 * one.tokens * one.model.embed_dim * one.model.vocab_size
    forward = matrices + attention
    assert executed["none"] == Flops(3 * forward)
    # What `dots` kept are the products with matrices.
    assert executed["dots"] == Flops(3 * forward + attention)
    # A layer's last product is not needed again, nor is the head: the loss makes its gradients in
    # the same pass.
    assert executed["full"] == Flops(4 * forward - head - down)
    # The control: of scans that count once, the layers beyond the first are missing.
    once = Flops(3 * forward / one.model.layers)
    assert executed["none"].total > 1.2 * once.total


@pytest.mark.parametrize(("raw", "row_length", "slices"), SIZES_OF_STEPS)
def test_the_step_agrees_with_the_models_own_count(raw, row_length, slices):
    """`train_flops` counts norms and biases as matrices, and of attention the visible pairs."""
    one = step(raw=raw, data__row_length=row_length, train__accumulation_steps=slices)
    model, told = one.model, train_flops(one.model, [row_length] * one.cfg.data.batch_size)
    matrices, _, attention = products_of(model, one.tokens, row_length)
    table = model.vocab_size * model.embed_dim
    others = model.parameters - table * (1 if model.tied else 2) - matrices / (2 * one.tokens)
    others += table
    hidden = 128 / row_length  # of the blocks on the diagonal, half is masked
    assert 0 < others < 0.01 * model.parameters
    pairs = attention * (row_length + 1) / (row_length + 128)
    assert told == pytest.approx(3 * (matrices + pairs) + 6 * one.tokens * others)
    assert 1 < count(one.traced.jaxpr).total / told < 1 + hidden


def test_recompute_is_at_most_four_thirds():
    one, full = step(data__row_length=512), step(data__row_length=512, train__remat="full")
    necessary = count(one.traced.jaxpr).total
    assert matmul_recompute(one.traced.jaxpr, necessary) == 1
    assert 1.15 < matmul_recompute(full.traced.jaxpr, necessary) < 4 / 3
