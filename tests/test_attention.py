"""attend_xla against a plain computation in float64, and what no token may ever see."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s1jax.models.attention import (
    ATTENTION,
    MAX_BLOCKS,
    MIN_BLOCK,
    XLA_MAX_TOKENS,
    attend_xla,
    choose,
)
from s1jax.types import UserError


def plain(q, k, v, q_positions, k_positions, q_segments, k_segments) -> np.ndarray:
    """Token by token and head by head, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = (k_segments[b] == q_segments[b, t]) & (k_positions[b] <= q_positions[b, t])
        scores = k[b, seen, n // group] @ q[b, t, n] / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights @ v[b, seen, n // group] / weights.sum()
    return out


def packed(rng, batch: int, length: int, pads: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Positions and segments of rows packed at random, the last columns padding."""
    segments, positions = np.zeros((2, batch, length), np.int32)
    for row in range(batch):
        cuts = np.sort(rng.choice(np.arange(1, length - pads), 3, replace=False))
        borders = [0, *cuts, length - pads, length]
        for number, (start, stop) in enumerate(itertools.pairwise(borders), 1):
            segments[row, start:stop] = 0 if stop == length else number
            positions[row, start:stop] = np.arange(stop - start)
    return positions, segments


def arrays(rng, batch, length, keys, heads, kv_heads, head_dim=16, dtype=jnp.float32) -> tuple:
    def array(*shape):
        return jnp.asarray(rng.normal(0, 1.5, shape), dtype)

    return (
        array(batch, length, heads, head_dim),
        array(batch, keys, kv_heads, head_dim),
        array(batch, keys, kv_heads, head_dim),
    )


def masks_of(positions: np.ndarray, segments: np.ndarray) -> dict[str, jax.Array]:
    """The arguments for queries and keys in the same columns."""
    positions, segments = jnp.asarray(positions), jnp.asarray(segments)
    return {
        "q_positions": positions,
        "k_positions": positions,
        "q_segments": segments,
        "k_segments": segments,
    }


def attend(q, k, v, q_positions, k_positions, q_segments, k_segments) -> np.ndarray:
    masks = dict(
        q_positions=q_positions,
        k_positions=k_positions,
        q_segments=q_segments,
        k_segments=k_segments,
    )
    return np.asarray(jax.jit(attend_xla)(q, k, v, **masks), np.float32)


HEADS = {"mha": (4, 4), "gqa": (6, 2), "mqa": (4, 1)}


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("length", [1, 60, MIN_BLOCK, 2 * MIN_BLOCK + 37])
def test_rows_of_any_length_are_what_the_plain_computation_gives(length, heads):
    rng = np.random.default_rng(length)
    x = arrays(rng, 2, length, length, *HEADS[heads])
    if length == 1:
        positions, segments = np.zeros((2, 2, 1), np.int32)
    else:
        positions, segments = packed(rng, 2, length)
    masks = (positions, positions, segments, segments)
    expected = plain(*x, *masks)
    np.testing.assert_allclose(attend(*x, *masks), expected, atol=1e-5)
    if length > 1:  # the controls: one segment, or a future, too many
        for wrong in (
            (positions, positions, np.minimum(segments, 1), np.minimum(segments, 1)),
            (positions + 1, positions, segments, segments),
        ):
            assert np.abs(attend(*x, *wrong) - expected).max() > 0.1


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("length", "keys"), [(1, 50), (7, 50), (200, 300)])
def test_queries_into_a_longer_cache(length, keys, heads):
    """Columns in any order: keys of other segments, and columns not written yet."""
    rng = np.random.default_rng(keys)
    x = arrays(rng, 2, length, keys, *HEADS[heads])
    k_positions, k_segments = packed(rng, 2, keys)
    order = rng.permutation(keys)
    k_positions, k_segments = k_positions[:, order], k_segments[:, order]
    chosen = np.stack([np.flatnonzero(k_segments[row] > 0)[:length] for row in range(2)])
    assert chosen.shape == (2, length)
    q_positions = np.take_along_axis(k_positions, chosen, 1)
    q_segments = np.take_along_axis(k_segments, chosen, 1)
    masks = (q_positions, k_positions, q_segments, k_segments)
    np.testing.assert_allclose(attend(*x, *masks), plain(*x, *masks), atol=1e-5)


def test_many_blocks():
    """A row so long that blocks are larger than the smallest, and the last one is shorter."""
    length = MIN_BLOCK * MAX_BLOCKS + 5
    rng = np.random.default_rng(0)
    x = arrays(rng, 1, length, length, 1, 1, head_dim=8)
    positions, segments = packed(rng, 1, length)
    masks = (positions, positions, segments, segments)
    np.testing.assert_allclose(attend(*x, *masks), plain(*x, *masks), atol=1e-5)


def test_bfloat16_is_as_near_as_its_inputs_allow():
    rng = np.random.default_rng(0)
    x = arrays(rng, 2, 165, 165, 6, 2, dtype=jnp.bfloat16)
    positions, segments = packed(rng, 2, 165)
    masks = (positions, positions, segments, segments)
    expected = plain(*x, *masks)
    out = jax.jit(attend_xla)(*x, **masks_of(positions, segments))
    assert out.dtype == jnp.bfloat16
    # Weights and values are rounded to 8 bits, the sum once more: about 2^-8 of the largest value.
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, atol=0.03)
    assert np.abs(np.asarray(out, np.float32) - expected).max() > 1e-4  # it is bfloat16


def test_gradients_are_those_of_the_plain_computation():
    rng = np.random.default_rng(3)
    length = 2 * MIN_BLOCK + 9
    q, k, v = arrays(rng, 1, length, length, 4, 2)
    positions, segments = packed(rng, 1, length)
    pull = jnp.asarray(rng.normal(size=q.shape), jnp.float32)

    def whole(q, k, v):
        """All scores at once."""
        k, v = (jnp.repeat(x, 2, axis=2) for x in (k, v))
        scores = jnp.einsum("btnh,bsnh->bnts", q, k) * 16**-0.5
        seen = (segments[:, :, None] == segments[:, None]) & (
            positions[:, :, None] >= positions[:, None]
        )
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30))
        return (jnp.einsum("bnts,bsnh->btnh", weights, v) * pull).sum()

    def blocked(q, k, v):
        return (attend_xla(q, k, v, **masks_of(positions, segments)) * pull).sum()

    ours = jax.jit(jax.grad(blocked, (0, 1, 2)))(q, k, v)
    theirs = jax.jit(jax.grad(whole, (0, 1, 2)))(q, k, v)
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(other).max() > 0.5
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("name", ["xla", "chunked"])
def test_what_is_hidden_has_exactly_no_influence(name):
    """Keys and values of other segments and of the future may be anything but NaN."""
    rng = np.random.default_rng(5)
    length, at = 2 * MIN_BLOCK + 37, 170
    positions, segments = np.zeros((2, 1, length), np.int32)
    segments[0, 100:250], segments[0, :100] = 2, 1
    positions[0] = np.concatenate([np.arange(100), np.arange(150), np.arange(length - 250)])
    masks = masks_of(positions, segments)
    q, k, v = arrays(rng, 1, length, length, 6, 2)
    run = jax.jit(lambda q, k, v: ATTENTION[name](q, k, v, **masks)[:, at])
    before = np.asarray(run(q, k, v))
    hidden = np.r_[0:100, at + 1 : length]
    for size in (1.0, 1e30):
        noise = jnp.asarray(rng.normal(0, size, (1, len(hidden), 2, 16)), jnp.float32)
        after = run(q, k.at[:, hidden].set(noise), v.at[:, hidden].set(noise))
        np.testing.assert_array_equal(after, before)
    for seen in (100, at - 1, at):  # the control
        after = run(q, k, v.at[:, seen].add(1.0))
        assert np.abs(np.asarray(after) - before).max() > 1e-6
    slope = jax.grad(lambda v: run(q, k, v).sum())(v)
    assert not np.asarray(slope[:, hidden]).any() and np.asarray(slope[:, 100 : at + 1]).all()


# Which implementation.


@pytest.mark.parametrize(
    ("platform", "row_length", "packed", "dtype", "expected"),
    [
        ("cpu", XLA_MAX_TOKENS, False, "float32", "xla"),
        ("cpu", XLA_MAX_TOKENS + 1, True, "float32", "chunked"),
        ("tpu", 32768, True, "bfloat16", "splash"),
        ("cuda", 32768, False, "bfloat16", "cudnn"),
        ("gpu", 32768, False, "bfloat16", "cudnn"),
        ("cuda", 32768, True, "bfloat16", "triton"),
        ("cuda", 32768, False, "float32", "triton"),
        ("rocm", 32768, False, "float32", "chunked"),
        (None, 64, False, "float32", "xla"),  # what is here is a CPU
    ],
)
def test_auto_goes_by_machine_and_rows(platform, row_length, packed, dtype, expected):
    assert choose("auto", platform, row_length=row_length, packed=packed, dtype=dtype) == expected


@pytest.mark.parametrize(
    ("name", "platform", "packed", "dtype", "words"),
    [
        ("splash", None, False, "bfloat16", 'model.attention="splash" runs on a TPU, and this is'),
        ("triton", "tpu", False, "bfloat16", "runs on a GPU, and this is for a TPU"),
        ("cudnn", "cuda", True, "bfloat16", "knows no segments, and data.pack=True"),
        ("cudnn", "cuda", False, "float32", 'in 16 bits, and model.compute_dtype="float32"'),
    ],
)
def test_what_cannot_run_is_refused(name, platform, packed, dtype, words):
    with pytest.raises(UserError, match=words):
        choose(name, platform, row_length=128, packed=packed, dtype=dtype)


@pytest.mark.parametrize("name", ATTENTION)
def test_a_name_that_can_run_is_taken(name):
    platform = {"splash": "tpu"}.get(name, "gpu")
    assert choose(name, platform, row_length=128, packed=False) == name
