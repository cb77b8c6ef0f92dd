"""Feed-forward in pieces is the plain layer in value and gradients, on any mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s1jax.config import Mesh
from s1jax.mesh import apart, make_mesh, together
from s1jax.models import feedforward
from s1jax.models.feedforward import feed_forward, pieces

ROWS, LENGTH, WIDTH, FEATURES = 4, 96, 16, 48


def inputs(dtype=jnp.float32) -> tuple:
    rng = np.random.default_rng(0)
    shapes = [(ROWS, LENGTH, WIDTH), *[(WIDTH, FEATURES)] * 3, (ROWS, LENGTH, WIDTH)]
    x, gate, up, down, d_y = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    return x.astype(dtype), gate / 4, up / 4, down / 7, d_y.astype(dtype)


def plain(x, gate, up, down):
    gate, up, down = (k.astype(x.dtype) for k in (gate, up, down))
    return (jax.nn.silu(x @ gate) * (x @ up)) @ down.T


def with_gradients(layer, x, gate, up, down, d_y) -> tuple:
    y, pull = jax.vjp(layer, x, gate, up, down)
    return y, *pull(d_y)


def off(found, expected) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)


@pytest.mark.parametrize("piece", [1, 40, 96, 103, 200, 384])
def test_value_and_gradients_are_those_of_the_plain_layer(monkeypatch, piece):
    monkeypatch.setattr(feedforward, "PIECE_TOKENS", piece)
    values = inputs()
    found, expected = with_gradients(feed_forward, *values), with_gradients(plain, *values)
    assert off(found, expected) < 1e-5
    x, gate, up, down, d_y = values
    assert off(with_gradients(feed_forward, x, up, gate, down, d_y), expected) > 0.1


@pytest.mark.parametrize(
    "sizes", [(1, 4, 4, 1), (2, 2, 2, 2), (1, 1, 16, 1), (4, 1, 1, 4), (1, 2, 8, 1)]
)
def test_it_is_the_same_on_every_mesh(monkeypatch, sizes):
    monkeypatch.setattr(feedforward, "PIECE_TOKENS", 6)
    values = inputs()
    expected = with_gradients(plain, *values)
    with jax.set_mesh(make_mesh(Mesh(*sizes))):
        found = jax.jit(lambda *v: with_gradients(feed_forward, *v))(*values)
    assert off(found, expected) < 1e-5


def test_gradients_of_kernels_are_summed_in_float32_and_have_the_kernels_dtype(monkeypatch):
    monkeypatch.setattr(feedforward, "PIECE_TOKENS", 4)
    exact = with_gradients(plain, *inputs())
    found = with_gradients(feed_forward, *inputs(jnp.bfloat16))
    assert [x.dtype.name for x in found] == ["bfloat16", "bfloat16", *["float32"] * 3]
    assert off(found[2:], exact[2:]) < 0.01
    # The control: 96 pieces added up in bfloat16 lose more than one product does.
    x, _, _, down, d_y = inputs(jnp.bfloat16)
    rows = (d_y @ down.astype(jnp.bfloat16)).reshape(-1, 4, FEATURES)
    summed = jnp.zeros((WIDTH, FEATURES), jnp.bfloat16)
    for a, b in zip(x.reshape(-1, 4, WIDTH), rows, strict=True):
        summed += a.T @ b
    whole = x.reshape(-1, WIDTH).T.astype(jnp.float32) @ rows.reshape(-1, FEATURES)
    assert off([summed.astype(jnp.float32)], [whole]) > 0.01


def test_no_array_has_the_features_of_more_tokens_than_a_piece(monkeypatch):
    monkeypatch.setattr(feedforward, "PIECE_TOKENS", 32)
    tokens = ROWS * LENGTH

    def largest(layer) -> int:
        text = jax.jit(lambda *v: with_gradients(layer, *v)).lower(*inputs()).as_text()
        shapes = re.findall(rf"tensor<([\dx]+)x{FEATURES}xf32>", text)
        return max(int(np.prod([int(n) for n in shape.split("x")])) for shape in shapes)

    assert largest(feed_forward) == max(32, WIDTH)
    assert largest(plain) == tokens


def test_tokens_are_cut_into_equal_pieces():
    lengths = (128, 4096, 4097, 8192, 32768, 8191)
    assert [pieces(1, n) for n in lengths] == [1, 1, 2, 2, 8, 2]
    with jax.set_mesh(make_mesh(Mesh(1, 2, 8, 1))):
        assert pieces(2, 32_768) == 1
        assert pieces(4, 32_768) == 2


def test_each_device_has_its_own_tokens_when_they_are_apart():
    x = jnp.arange(4 * 16 * 3).reshape(4, 16, 3)
    with jax.set_mesh(make_mesh(Mesh(1, 2, 8, 1))):
        own = jax.jit(apart)(x)
        assert own.shape == (2, 8, 4, 3)
        # Rows 2 and 3 are of the second shard, columns 6 and 7 of the fourth part.
        np.testing.assert_array_equal(own[1, 3], x[2:, 6:8].reshape(4, 3))
        np.testing.assert_array_equal(jax.jit(lambda x: together(apart(x), 4))(x), x)
        assert own.sharding.shard_shape(own.shape) == (1, 1, 4, 3)
