"""cross_entropy is torch's in value and gradients, and never holds a row's logits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from s1jax.training.loss import cross_entropy


def inputs(rng, rows: int, length: int, width: int, vocab: int, scale: float = 1.0) -> tuple:
    hidden = rng.normal(size=(rows, length, width)).astype(np.float32)
    head = (scale * rng.normal(size=(vocab, width)) / np.sqrt(width)).astype(np.float32)
    targets = rng.integers(0, vocab, (rows, length), dtype=np.int32)
    weights = rng.uniform(0.5, 1.5, (rows, length)).astype(np.float32) / (rows * length)
    weights *= rng.random(weights.shape) < 0.7
    return hidden, head, targets, weights


def torchs(hidden, head, targets, weights) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients of torch, in float64."""
    hidden, head = (torch.tensor(np.float64(x), requires_grad=True) for x in (hidden, head))
    each = torch.nn.functional.cross_entropy(
        (hidden @ head.T).flatten(0, 1), torch.tensor(targets).flatten().long(), reduction="none"
    )
    loss = (each * torch.tensor(np.float64(weights)).flatten()).sum()
    loss.backward()
    return loss.item(), hidden.grad.numpy(), head.grad.numpy()


def ours(hidden, head, targets, weights, chunk: int) -> tuple:
    arrays = map(jnp.asarray, (hidden, head, targets, weights))
    both = jax.value_and_grad(cross_entropy, argnums=(0, 1))
    loss, gradients = jax.jit(both, static_argnums=4)(*arrays, chunk)
    plain = jax.jit(cross_entropy, static_argnums=4)(
        *map(jnp.asarray, (hidden, head, targets, weights)), chunk
    )
    np.testing.assert_allclose(plain, loss, rtol=1e-6)  # with and without differentiating
    return loss, *gradients


def relative(found, expected) -> float:
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("chunk", [1, 7, 32, 50, 64, 1024])
@pytest.mark.parametrize("rows", [1, 3])
def test_value_and_gradients_are_torchs(rows, chunk):
    x = inputs(np.random.default_rng(chunk), rows, 50, 24, 301, scale=3.0)
    found, expected = ours(*x, chunk), torchs(*x)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one.dtype == jnp.float32
        assert relative(one, other) < 1e-5
    hidden, head, targets, weights = x
    for wrong in (
        (hidden, head, np.roll(targets, 1, axis=1), weights),
        (hidden, head, targets, np.full_like(weights, weights.mean())),
    ):
        differences = map(relative, found, torchs(*wrong))
        assert all(d > least for d, least in zip(differences, (1e-4, 0.1, 0.1), strict=True))


def test_bfloat16_hidden_with_a_float32_head():
    hidden, head, targets, weights = inputs(np.random.default_rng(0), 2, 50, 24, 301, scale=3.0)
    rounded = jnp.asarray(hidden, jnp.bfloat16)
    loss, d_hidden, d_head = ours(rounded, head, targets, weights, 16)
    # Both factors of the logits have 8 bits; beyond that, all is float32.
    cast = np.asarray(jnp.asarray(head, jnp.bfloat16), np.float32)
    expected = torchs(np.asarray(rounded, np.float32), cast, targets, weights)
    assert (loss.dtype, d_hidden.dtype, d_head.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    assert float(loss) == pytest.approx(expected[0], rel=1e-5)
    assert relative(d_hidden.astype(jnp.float32), expected[1]) < 1e-2
    assert relative(d_head, expected[2]) < 1e-2
    assert relative(loss, torchs(hidden, head, targets, weights)[0]) > 1e-5  # it is bfloat16


def test_strict_promotion():
    x = inputs(np.random.default_rng(0), 2, 50, 24, 301)
    with jax.numpy_dtype_promotion("strict"):
        for dtype in (jnp.float32, jnp.bfloat16):
            hidden = jnp.asarray(x[0], dtype)
            jax.make_jaxpr(jax.grad(cross_entropy, (0, 1)), static_argnums=4)(hidden, *x[1:], 16)


def test_tokens_of_weight_0_count_for_nothing():
    hidden, head, targets, weights = inputs(np.random.default_rng(2), 2, 40, 16, 101)
    nothing = ours(hidden, head, targets, np.zeros_like(weights), 16)
    assert all(not np.asarray(x).any() for x in nothing)
    unused = weights == 0
    assert 10 < unused.sum() < 60
    before = ours(hidden, head, targets, weights, 16)
    assert not np.asarray(before[1])[unused].any() and np.asarray(before[1])[~unused].any()
    noise = np.where(unused[..., None], 1e3 * np.ones_like(hidden), hidden)
    other = np.where(unused, 0, targets)
    after = ours(noise, head, other, weights, 16)
    for one, two in zip(before, after, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_logits_do_not_overflow(dtype):
    hidden, head, targets, weights = inputs(np.random.default_rng(4), 1, 24, 16, 101)
    head = np.asarray(jnp.asarray(head * 3e3, jnp.bfloat16), np.float32)
    hidden = np.asarray(jnp.asarray(hidden, jnp.bfloat16), np.float32)
    assert np.abs(hidden @ head.T).max() > 1e4
    found, expected = (
        ours(jnp.asarray(hidden, dtype), head, targets, weights, 10),
        torchs(hidden, head, targets, weights),
    )
    assert expected[0] > 1e3
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    for one, other in zip(found, expected, strict=True):
        assert np.isfinite(np.asarray(one, np.float32)).all()
        assert relative(np.asarray(one, np.float32), other) < tolerance


def whole(hidden, head, targets, weights):
    """The same loss with all logits at once."""
    logits = jnp.einsum("btd,vd->btv", hidden, head, preferred_element_type=jnp.float32)
    chances = jax.nn.log_softmax(logits)
    return -(jnp.take_along_axis(chances, targets[..., None], -1)[..., 0] * weights).sum()


def test_no_buffer_of_the_compiled_program_is_as_large_as_the_logits():
    """At Qwen's vocabulary; benchmarks/loss_memory.py prints the figures."""
    length, width, vocab, chunk = 1024, 64, 152_064, 64
    shapes = [(1, length, width), (vocab, width), (1, length), (1, length)]
    dtypes = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
    arrays = [jax.ShapeDtypeStruct(*pair) for pair in zip(shapes, dtypes, strict=True)]

    def compiled(function):
        return jax.jit(jax.value_and_grad(function, argnums=(0, 1))).lower(*arrays).compile()

    chunked = compiled(lambda *x: cross_entropy(*x, chunk))
    plain = compiled(whole)
    assert largest_buffer(plain) >= length * vocab
    assert largest_buffer(chunked) <= max(chunk * vocab, vocab * width)
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (chunked, plain)]
    assert sizes[0] <= sizes[1] / 4


def largest_buffer(compiled) -> int:
    """Elements of the largest array in the program's text."""
    shapes = re.findall(r"\b(?:f32|bf16|s32|pred)\[([\d,]+)\]", compiled.as_text())
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in set(shapes))
