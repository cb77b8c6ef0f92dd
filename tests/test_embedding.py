"""The gradient of the table is that of a plain look-up, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s1jax.config import Mesh
from s1jax.mesh import make_mesh
from s1jax.models.embedding import look_up

ROWS, LENGTH, VOCAB, WIDTH = 4, 64, 48, 32


def inputs() -> tuple:
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(VOCAB, WIDTH)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, VOCAB, (ROWS, LENGTH)), jnp.int32)
    tokens = tokens.at[:, :30].set(7)  # one that occurs often
    return table, tokens, jnp.asarray(rng.normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32)


def gradient(look, table, tokens, d_rows):
    return jax.vjp(lambda table: look(table, tokens), table)[1](d_rows)[0]


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (1, 4, 4, 1), (2, 2, 2, 2), (1, 1, 16, 1), (4, 1, 1, 4), (1, 2, 2, 4)]
)
def test_value_and_gradient_are_those_of_indexing(sizes):
    table, tokens, d_rows = inputs()
    expected = gradient(lambda table, tokens: table[tokens], table, tokens, d_rows)
    mesh = make_mesh(Mesh(*sizes), jax.devices()[: int(np.prod(sizes))])
    with jax.set_mesh(mesh):
        look = lambda table, tokens: look_up(table, tokens, jnp.float32)  # noqa: E731
        rows = jax.jit(look)(table, tokens)
        found = jax.jit(lambda *x: gradient(look, *x))(table, tokens, d_rows)
    np.testing.assert_array_equal(rows, table[tokens])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    # The control: the same rows for other tokens.
    other = gradient(lambda table, tokens: table[tokens], table, jnp.roll(tokens, 1, 1), d_rows)
    assert np.abs(np.asarray(other) - expected).max() > 0.1


def test_every_device_has_its_own_features_of_the_gradient_and_no_more():
    table, tokens, d_rows = inputs()
    with jax.set_mesh(make_mesh(Mesh(1, 4, 4, 1))):
        look = lambda table, tokens: look_up(table, tokens, jnp.float32)  # noqa: E731
        compiled = jax.jit(lambda *x: gradient(look, *x)).lower(table, tokens, d_rows).compile()
        found = compiled(table, tokens, d_rows)
    assert found.sharding.shard_shape(found.shape) == (VOCAB, WIDTH // 16)
    assert f"f32[{ROWS * LENGTH},{WIDTH}]" not in compiled.as_text()  # all features of all tokens
