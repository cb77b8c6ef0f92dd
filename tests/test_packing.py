"""Rows share a step's tokens evenly, row lengths are the best few, and the update is the same."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes_train import dotted, make_config, write_world
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from s1jax.chat import CHATS, THINKING, ChatTokenizer
from s1jax.config import Mesh
from s1jax.data.batches import Batches
from s1jax.data.examples import load_examples
from s1jax.data.labels import Tokenized, tokenize
from s1jax.data.packing import balance, bucket_lengths, first_fit, pack_run, row_tokens
from s1jax.mesh import ArraySpec, make_mesh, sharding
from s1jax.models.hf import open_checkpoint
from s1jax.models.weights import load_params
from s1jax.training.step import BATCH_AXES, Batch, init_state, make_step
from s1jax.types import UserError


def longest_row(lengths, place, rows):
    """Tokens of the fullest row, counted one by one."""
    tokens = [0] * rows
    for n, row in zip(lengths, place, strict=True):
        tokens[row] += int(n)
    return max(tokens)


def least(lengths, rows):
    """The shortest that the longest row can be, of all ways to place them."""
    ways = itertools.product(range(rows), repeat=len(lengths))
    return min(longest_row(lengths, place, rows) for place in ways)


def examples_of(lengths):
    """Examples of these lengths and nothing else."""
    return [
        Tokenized(f"{i}", np.full(n, i, np.int32), np.full(n, THINKING, np.uint8), n)
        for i, n in enumerate(lengths)
    ]


def batches_of(lengths, shards=1, context=1, **fields):
    cfg = make_config(dotted({"data__pack": True} | fields))
    return Batches(examples_of(lengths), cfg, shards, context)


def s1k_like(count=1000):
    """Lengths spread as those of s1K; see benchmarks/packing.py."""
    drawn = np.exp(np.random.default_rng(0).normal(np.log(4967), 0.3, 4 * count)).astype(int)
    return drawn[drawn <= 9100][:count].tolist()


# Rows of one step.


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 3))
def test_the_longest_row_is_about_as_short_as_can_be(lengths, rows):
    lengths = np.array(lengths)
    place = balance(lengths, rows)
    assert place.shape == lengths.shape
    assert set(place.tolist()) <= set(range(rows))
    found = longest_row(lengths, place, rows)
    assert found == row_tokens(lengths, place, rows).max()
    best = least(lengths.tolist(), rows)
    assert best <= found <= best * (4 / 3 - 1 / (3 * rows))  # Graham's bound of where it starts
    assert balance(lengths, rows).tolist() == place.tolist()


def test_trades_come_near_the_mean_where_longest_first_does_not():
    steps = np.array(s1k_like(800)).reshape(50, 16)

    def full(place_of):
        rows = [row_tokens(step, place_of(step), 4) for step in steps]
        return sum(x.mean() for x in rows) / sum(x.max() for x in rows)

    def longest_first(step):
        place, tokens = np.zeros(16, int), np.zeros(4)
        for k in np.argsort(-step, kind="stable"):
            place[k] = tokens.argmin()
            tokens[place[k]] += step[k]
        return place

    assert full(lambda step: balance(step, 4)) > 0.994
    assert full(longest_first) < 0.985  # the control: each into the emptiest row, and no trades


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(50, 120))
def test_plain_packing_is_first_fit(lengths, row_length):
    place = first_fit(np.array(lengths), row_length)
    rows = [[n for n, r in zip(lengths, place, strict=True) if r == row] for row in set(place)]
    assert set(place.tolist()) == set(range(len(rows)))
    filled = [sum(row) for row in rows]
    assert all(0 < n <= row_length for n in filled)
    for r, row in enumerate(rows):  # nothing in a later row had room in an earlier one
        assert all(filled[q] + n > row_length for q in range(r) for n in row)


# Rows of a run.


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_rows_are_as_few_as_plain_packing_needs_or_fewer(data):
    row_length = data.draw(st.integers(20, 60))
    batch, multiple = data.draw(st.integers(1, 10)), data.draw(st.integers(1, 4))
    steps = data.draw(st.integers(1, 4))
    n = st.integers(1, row_length)
    lengths = np.array(data.draw(st.lists(n, min_size=steps * batch, max_size=steps * batch)))
    lengths = lengths.reshape(steps, batch)
    packing = pack_run(lengths, multiple, row_length)
    for step, place, longest in zip(lengths, packing.places, packing.longest_tokens, strict=True):
        assert longest == longest_row(step, place, packing.rows) <= row_length
    assert packing.rows % multiple == 0
    needed = max(int(first_fit(step, row_length).max()) + 1 for step in lengths)
    assert packing.rows <= math.ceil(needed / multiple) * multiple
    assert packing.rows * row_length >= lengths.sum(axis=1).max()


def test_what_fits_only_by_first_fit_is_packed_so():
    lengths = np.array([7, 3, 3, 2, 3, 4])
    assert longest_row(lengths, balance(lengths, 2), 2) == 12  # it stops at 7 + 3 + 2
    packing = pack_run(lengths[None], 1, 11)
    assert packing.rows == 2
    assert packing.longest_tokens.tolist() == [11]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 400), min_size=1, max_size=24), st.sampled_from([1, 2, 4]))
def test_no_less_of_it_is_useful_than_of_plain_packing_in_as_many_rows(lengths, shards):
    fields = {"data__row_length": 400, "data__batch_size": 8, "train__epochs": 3}
    batches = batches_of(lengths, shards, **fields)
    assert batches.rows % shards == 0
    steps = [np.array(lengths)[batches.chosen(step)] for step in range(batches.total_steps)]
    needed = max(int(first_fit(step, 400).max()) + 1 for step in steps)
    plain = math.ceil(needed / shards) * shards
    useful = sum(step.sum() for step in steps)
    assert batches.useful_share() >= useful / (len(steps) * plain * 400) - 1e-12
    again = batches_of(lengths, shards, **fields)
    assert again.row_lengths == batches.row_lengths
    for step in range(batches.total_steps):
        assert again.layout(step) == batches.layout(step)
        packed = sorted(i for row in batches.layout(step) for i in row)
        assert packed == sorted(batches.chosen(step).tolist())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data__packed_row_length": 32_767}, "32767 must be at least data.row_length=32768"),
        (
            {"data__packed_row_length": 40_001, "mesh__fsdp": 1, "mesh__context": 2},
            "data.packed_row_length=40001 must divide by mesh.context=2",
        ),
        ({"data__packed_row_length": 65_536, "data__pack": False}, "set data.pack=True"),
        (
            {"data__batch_size": 3, "mesh__fsdp": 2, "train__accumulation_steps": 2},
            "rows would be empty",
        ),
    ],
)
def test_packed_rows_that_cannot_be_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        make_config(dotted({"data__batch_size": 16, "data__pack": True} | fields))


# Row lengths.


def padded(needed, lengths):
    """Tokens of the run if each step takes the shortest that holds it; inf if one has none."""
    return sum(min((n for n in lengths if n >= need), default=math.inf) for need in needed)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 5))
def test_row_lengths_are_the_best_of_all_choices(needed, buckets):
    needed = [128 * n for n in needed]
    lengths = bucket_lengths(np.array(needed), buckets)
    assert list(lengths) == sorted(set(lengths))
    assert len(lengths) <= buckets
    choices = itertools.combinations(set(needed), len(lengths))
    assert padded(needed, lengths) == min(padded(needed, choice) for choice in choices)
    assert {min(n for n in lengths if n >= need) for need in needed} == set(lengths)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=10, max_size=40), st.integers(2, 4))
def test_one_row_length_fewer_pads_more(needed, buckets):
    """The control: with one length less the same steps hold more padding."""
    assume(len(set(needed)) >= buckets)
    best = padded(needed, bucket_lengths(np.array(needed), buckets))
    assert best < padded(needed, bucket_lengths(np.array(needed), buckets - 1))


def test_the_run_of_s1_is_nearly_all_useful_on_sixteen_devices():
    lengths = s1k_like()

    def share(shards, context, buckets):
        return batches_of(lengths, shards, context, data__buckets=buckets).useful_share()

    for shards, context in ((4, 4), (2, 8), (1, 16)):
        assert share(shards, context, 8) > 0.97
    # The controls: whole rows on each device, and one length for all steps.
    assert share(16, 1, 8) < 0.7
    assert share(4, 4, 1) < 0.85


# What the update makes of it.

MESHES = {
    "fsdp2 x context8": {"fsdp": 2, "context": 8},
    "fsdp4 x context2 x tensor2": {"fsdp": 4, "context": 2, "tensor": 2},
    "fsdp16": {"fsdp": 16},
}
SHAPE = {
    "hidden_size": 128,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_hidden_layers": 1,
}


@pytest.fixture(scope="module")
def update(tmp_path_factory):
    """Batches, loss and how far each parameter moves in the first step, for any mesh and config."""
    world = write_world(tmp_path_factory.mktemp("world"), examples=16, **SHAPE)
    source = open_checkpoint(str(world.model))
    tokenizer = ChatTokenizer.load(source.directory)

    def run(axes, segments=True, **fields):
        fields = {"data__batch_size": 16, "data__row_length": 512, **fields}
        # As they are, Adam's updates make much of the rounding of the smallest gradients, and the
        # parameters' own rounding hides the rest. An epsilon above all gradients makes an update
        # as smooth as they are, and a large rate one of many digits.
        fields |= {"optimizer__eps": 1.0, "optimizer__learning_rate": 1e3}
        fields |= {"optimizer__warmup_share": 0.0}
        axes = {"fsdp": 1} | axes
        cfg = world.config(**fields, **{f"mesh__{axis}": n for axis, n in axes.items()})
        mesh = make_mesh(Mesh(**axes), jax.devices()[: math.prod(axes.values())])
        examples = tokenize(load_examples(cfg.data), tokenizer, CHATS["s1"], 512)
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        batches = Batches(examples, cfg, shards, mesh.shape["context"])
        params = load_params(source, mesh, jnp.float32)
        # Wider than a model's start: attention to the wrong token must show.
        params = jax.tree.map(lambda x: x * 4 if x.ndim > 2 else x, params)
        before = jax.tree.map(np.asarray, params)
        arrays = batches.arrays(0)
        if not segments:
            arrays = dataclasses.replace(arrays, segments=np.ones_like(arrays.segments))
        layout = sharding("batch", ArraySpec(arrays.tokens.shape, BATCH_AXES), mesh)
        with jax.set_mesh(mesh):
            step = jax.jit(make_step(cfg, source.cfg, batches.total_steps))
            state = jax.jit(lambda p: init_state(cfg, p))(params)
            state, metrics = step(state, Batch(**jax.device_put(vars(arrays), layout)))
        moved = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
        return batches, float(metrics.loss), moved

    return run


@pytest.fixture(scope="module")
def separate(update):
    """Those of one device and one example a row."""
    return update({})


def differences(ours, theirs):
    """Of the losses, and of the parameters' moves the largest as a share of its array's largest."""
    worst = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), ours[2], theirs[2])
    return abs(ours[1] - theirs[1]), max(jax.tree.leaves(worst))


@pytest.mark.parametrize("name", MESHES)
def test_the_update_of_packed_rows_is_that_of_separate_ones(
    update, separate, name, record_property
):
    packed = update(MESHES[name], data__pack=True)
    shards = MESHES[name]["fsdp"]
    assert packed[0].rows % shards == 0
    assert shards == 16 or packed[0].rows < 16
    loss, moved = differences(packed, separate)
    record_property("largest difference", f"{name}: {loss:.1e}, {moved:.1e}")
    assert loss < 1e-5
    assert moved < 1e-5


def test_the_control_packed_rows_without_segments_give_another_update(update, separate):
    mixed = update({}, segments=False, data__pack=True)
    loss, moved = differences(mixed, separate)
    assert loss > 1e-4
    assert moved > 1e-2
