"""A batch is a function of (seed, step), and how examples are laid into rows changes nothing."""

import dataclasses
import functools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes_train import dotted, make_config, write_world
from hypothesis import given, settings
from hypothesis import strategies as st

from s1jax.chat import ANSWER, CHATS, END, PROMPT, THINKING, ChatTokenizer
from s1jax.data.batches import ROW_MULTIPLE, Batches
from s1jax.data.examples import load_examples
from s1jax.data.labels import Tokenized, tokenize
from s1jax.mesh import make_mesh
from s1jax.models.hf import open_checkpoint
from s1jax.models.weights import load_params
from s1jax.training.step import Batch, loss_and_gradients


def example(index, prompt, trained, lost=0):
    """Tokens that no other example has, so that each can be found again in a batch."""
    length = prompt + trained
    parts = np.full(length, THINKING, np.uint8)
    parts[:prompt] = PROMPT
    parts[prompt + trained // 2 :] = ANSWER
    parts[-1] = ANSWER if lost else END
    tokens = np.arange(1, length + 1, dtype=np.int32) + 100_000 * (index + 1)
    return Tokenized(f"id{index}", tokens, parts, length + lost)


def examples_of(count, seed=0, longest=40):
    rng = random.Random(seed)
    return [
        example(i, rng.randint(1, longest // 2), rng.randint(1, longest // 2)) for i in range(count)
    ]


def batches_of(examples, shards=1, context=1, **fields):
    return Batches(examples, make_config(dotted(fields)), shards, context)


def rows_of(arrays):
    """The arrays with slices joined, [rows, row length] each."""
    return {
        field.name: getattr(arrays, field.name).reshape(-1, arrays.tokens.shape[-1])
        for field in dataclasses.fields(arrays)
    }


def same(a, b):
    return all(np.array_equal(x, getattr(b, name)) for name, x in vars(a).items())


# Which examples a step trains.


@pytest.mark.parametrize(
    ("examples", "batch_size", "epochs", "steps"),
    [(1000, 16, 5, 315), (1008, 16, 5, 315), (1009, 16, 5, 320), (16, 16, 5, 5), (3, 16, 2, 2)],
)
def test_steps_of_a_run(examples, batch_size, epochs, steps):
    batches = batches_of(
        [example(0, 1, 1)] * examples, data__batch_size=batch_size, train__epochs=epochs
    )
    assert batches.total_steps == steps == math.ceil(examples / batch_size) * epochs


def test_given_steps_win_over_epochs():
    assert batches_of(examples_of(40), train__steps=7).total_steps == 7


def test_an_epoch_is_a_permutation_filled_up_from_its_own_beginning():
    batches = batches_of(examples_of(1000), train__epochs=2)
    orders = []
    for epoch in range(2):
        steps = range(63 * epoch, 63 * (epoch + 1))
        order = np.concatenate([batches.chosen(step) for step in steps])
        assert len(order) == 1008
        assert sorted(order[:1000]) == list(range(1000))
        assert order[1000:].tolist() == order[:8].tolist()
        orders.append(order[:1000].tolist())
    assert orders[0] != orders[1]
    assert orders[0] != list(range(1000))


def test_fewer_examples_than_a_batch_are_repeated():
    chosen = batches_of(examples_of(5), data__batch_size=16).chosen(0)
    assert len(chosen) == 16
    assert np.bincount(chosen).tolist().count(3) == 4


def test_the_order_is_a_function_of_seed_and_epoch():
    examples = examples_of(50)
    seeds = [batches_of(examples, seed=seed) for seed in (1, 1, 2)]
    for step in range(seeds[0].total_steps):
        assert seeds[0].chosen(step).tolist() == seeds[1].chosen(step).tolist()
    assert seeds[0].chosen(0).tolist() != seeds[2].chosen(0).tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_does_not_depend_on_history(packed):
    """Taken up at any step, a run sees what one never stopped sees."""
    examples = examples_of(23)
    fields = {"data__batch_size": 4, "data__pack": packed, "data__row_length": 64}
    in_turn = batches_of(examples, train__epochs=3, **fields)
    whole = [in_turn.arrays(step) for step in range(in_turn.total_steps)]
    for start in range(in_turn.total_steps):
        again = batches_of(examples, train__epochs=3, **fields)
        assert same(again.arrays(start), whole[start])
    backwards = batches_of(examples, train__epochs=3, **fields)
    for step in reversed(range(in_turn.total_steps)):
        assert same(backwards.arrays(step), whole[step])
    assert not same(whole[0], whole[1])


def test_ids_are_those_of_the_examples_trained():
    batches = batches_of(examples_of(20), data__batch_size=4)
    tokens = {e.id: e.tokens[0] for e in batches.examples}
    firsts = [tokens[name] for name in batches.ids(3)]
    assert rows_of(batches.arrays(3))["tokens"][:, 0].tolist() == firsts


# How they are laid into rows.


@st.composite
def layouts(draw):
    """Examples, shards and a batch's shape, anything that a config may ask for."""
    row_length = draw(st.sampled_from([32, 64, 200, 400]))
    lengths = draw(
        st.lists(
            st.tuples(st.integers(1, row_length // 2), st.integers(1, row_length // 2)),
            min_size=1,
            max_size=12,
        )
    )
    examples = [example(i, prompt, trained) for i, (prompt, trained) in enumerate(lengths)]
    shards, slices = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    packed = draw(st.booleans())
    batch_size = (
        draw(st.integers(slices, 9)) if packed else shards * slices * draw(st.integers(1, 2))
    )
    longer = [row_length, 3 * row_length] if packed else []
    fields = {
        "data__pack": packed,
        "data__batch_size": batch_size,
        "data__row_length": row_length,
        "data__packed_row_length": draw(st.sampled_from([None, *longer])),
        "data__buckets": draw(st.integers(1, 3)),
        "train__epochs": 2,
        "train__accumulation_steps": slices,
        "train__weighting": draw(st.sampled_from(["example", "token"])),
        "seed": draw(st.integers(0, 3)),
    }
    return examples, shards, fields


def placed(rows):
    """(row, columns) of each example in a batch, by its segment id; checks what is around them."""
    for r, segments in enumerate(rows["segments"]):
        used = int((segments > 0).sum())
        assert (segments[used:] == 0).all()  # padding is at the end
        assert rows["positions"][r, used:].tolist() == list(range(len(segments) - used))
        assert not rows["tokens"][r, used:].any()
        assert not rows["weights"][r, used:].any()
        count = segments.max()
        assert segments[:used].tolist() == sorted(segments[:used])
        assert set(segments[:used]) == set(range(1, count + 1))
        for segment in range(1, count + 1):
            columns = np.flatnonzero(segments == segment)
            yield r, slice(columns[0], columns[-1] + 1)


@settings(max_examples=150, deadline=None)
@given(layouts())
def test_each_example_lies_whole_in_one_row_with_its_own_weight(layout):
    examples, shards, fields = layout
    batches = batches_of(examples, shards, **fields)
    cfg = batches.cfg
    for step in range(batches.total_steps):
        arrays = batches.arrays(step)
        slices = cfg.train.accumulation_steps
        row_length = batches.row_length_of(step)
        assert row_length in batches.row_lengths
        assert arrays.tokens.shape == (slices, batches.rows // slices, row_length)
        rows = rows_of(arrays)
        found = []
        by_first = {int(e.tokens[0]): e for e in batches.examples}
        trained = batches.tokens(step)[1]
        for r, columns in placed(rows):
            e = by_first[int(rows["tokens"][r, columns.start])]
            found.append(e.id)
            n = len(e.tokens)
            assert rows["tokens"][r, columns].tolist() == e.tokens.tolist()
            assert rows["positions"][r, columns].tolist() == list(range(n))
            targets = rows["targets"][r, columns]
            assert targets[: n - 1].tolist() == e.tokens[1:].tolist()
            weights = rows["weights"][r, columns]
            assert weights[n - 1] == 0  # what follows is another example's
            assert ((weights[: n - 1] > 0) == (e.parts[1:] != PROMPT)).all()
            if cfg.train.weighting == "example":
                assert weights.sum(dtype=float) == pytest.approx(1 / cfg.data.batch_size, rel=1e-5)
            else:
                assert np.unique(weights[weights > 0]) == pytest.approx(1 / trained, rel=1e-6)
        assert sorted(found) == sorted(batches.ids(step))
        assert len(found) == cfg.data.batch_size
        assert rows["weights"].sum(dtype=float) == pytest.approx(1, rel=1e-5)
        assert batches.rows % (shards * slices) == 0


def test_a_cut_example_weighs_as_much_as_a_whole_one():
    batches = batches_of([example(0, 3, 5, lost=90), example(1, 3, 30)], data__batch_size=2)
    weights = rows_of(batches.arrays(0))["weights"].sum(axis=1)
    assert weights.tolist() == pytest.approx([0.5, 0.5])
    # The control: by tokens, the longer one weighs six times as much.
    batches = batches_of(batches.examples, data__batch_size=2, train__weighting="token")
    weights = rows_of(batches.arrays(0))["weights"].sum(axis=1)
    assert sorted(weights.tolist()) == pytest.approx([5 / 35, 30 / 35])


def test_slices_of_accumulation_are_the_rows_in_turn():
    examples = examples_of(20)
    whole = batches_of(examples, data__batch_size=8).arrays(1)
    sliced = batches_of(examples, data__batch_size=8, train__accumulation_steps=4).arrays(1)
    assert sliced.tokens.shape[:2] == (4, 2)
    for name, rows in rows_of(sliced).items():
        assert np.array_equal(rows, rows_of(whole)[name])


def test_packed_rows_suffice_for_every_step_and_every_shard():
    examples = examples_of(64, longest=60)
    batches = batches_of(examples, shards=4, data__pack=True, data__row_length=128)
    most = max(batches.tokens(step)[0] for step in range(batches.total_steps))
    assert batches.rows == math.ceil(most / 128 / 4) * 4 < 16
    assert all(batches.arrays(s).tokens.shape == (1, batches.rows, 128) for s in range(4))
    more = batches_of(examples, 4, data__pack=True, data__row_length=40)
    assert more.rows % 4 == 0
    assert batches.rows < more.rows <= 16


def test_rows_that_no_example_needs_are_padding():
    batches = batches_of(examples_of(5), shards=8, data__pack=True, data__batch_size=5)
    rows = rows_of(batches.arrays(0))
    assert batches.rows == 8
    assert rows["segments"].max(axis=1).tolist() == [1] * 5 + [0] * 3
    assert not rows["tokens"][5:].any()
    assert not rows["weights"][5:].any()


def test_each_step_has_the_shortest_row_length_that_holds_it():
    examples = examples_of(200, longest=1000)
    fields = {"data__pack": True, "data__row_length": 4096}
    for buckets in (1, 2, 3, 50):
        batches = batches_of(examples, 2, data__buckets=buckets, **fields)
        lengths = batches.row_lengths
        assert list(lengths) == sorted(set(lengths))
        assert len(lengths) <= buckets
        assert batches.row_length == lengths[-1]
        used = [batches.row_length_of(step) for step in range(batches.total_steps)]
        assert set(used) == set(lengths)
        for step, length in enumerate(used):
            fullest = max(sum(len(examples[i].tokens) for i in r) for r in batches.layout(step))
            assert next(n for n in lengths if n >= fullest) == length
            assert batches.arrays(step).tokens.shape == (1, batches.rows, length)
    assert len(lengths) > 3  # the last, which had as many as it liked


@pytest.mark.parametrize("context", [1, 2, 3, 8, 16])
def test_a_row_divides_by_its_parts_and_each_part_by_the_tile(context):
    examples = examples_of(64, longest=300)
    fields = {"data__pack": True, "data__row_length": 48 * 1024}
    for length in batches_of(examples, context=context, **fields).row_lengths:
        assert length % (16 * context) == length % ROW_MULTIPLE == 0


def test_packed_rows_may_be_longer_than_an_example():
    examples = examples_of(64, longest=60)
    fields = {"data__pack": True, "data__row_length": 64}
    assert batches_of(examples, **fields).row_length == 64
    longer = batches_of(examples, data__packed_row_length=1024, **fields)
    most = max(longer.tokens(step)[0] for step in range(longer.total_steps))
    assert longer.rows == 1
    assert longer.row_length == math.ceil(most / ROW_MULTIPLE) * ROW_MULTIPLE


@pytest.mark.parametrize(
    ("longest", "row_length", "context", "packed", "got"),
    [
        (100, 1024, 1, False, ROW_MULTIPLE),
        (129, 1024, 1, False, 2 * ROW_MULTIPLE),
        (129, 200, 1, False, 200),
        (100, 960, 3, False, 3 * ROW_MULTIPLE),  # a row's parts are equal
        (100, 2048, 1, True, 13 * ROW_MULTIPLE),  # all 16 of a step in it
    ],
)
def test_rows_are_no_longer_than_needed(longest, row_length, context, packed, got):
    examples = [example(0, 4, longest - 4)]
    fields = {"data__row_length": row_length, "data__pack": packed}
    assert batches_of(examples, context=context, **fields).row_length == got


@pytest.mark.parametrize("packed", [False, True])
def test_counts_are_those_of_the_arrays(packed):
    fields = {"data__batch_size": 8, "data__pack": packed, "data__row_length": 512}
    batches = batches_of(examples_of(30, longest=200), train__epochs=2, **fields)
    useful = whole = 0
    for step in range(batches.total_steps):
        rows = rows_of(batches.arrays(step))
        tokens, trained = batches.tokens(step)
        assert tokens == (rows["segments"] > 0).sum()
        assert trained == (rows["weights"] > 0).sum()
        useful += tokens
        whole += rows["tokens"].size
    assert batches.useful_share() == pytest.approx(useful / whole)


# What the loss makes of them.


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory):
    """Loss and gradients of the first step over a small model's real examples, by config."""
    world = write_world(tmp_path_factory.mktemp("world"), examples=16)
    source = open_checkpoint(str(world.model))
    cfg = world.config(data__batch_size=16, data__row_length=512)
    mesh = make_mesh(cfg.mesh, jax.devices()[:1])
    params = load_params(source, mesh, jnp.float32)
    # Ten times as wide as a model's start: attention to the wrong token must show in the loss.
    params = jax.tree.map(lambda x: x * 10 if x.ndim > 2 else x, params)
    tokenizer = ChatTokenizer.load(source.directory)
    tokenized = tokenize(load_examples(cfg.data), tokenizer, CHATS["s1"], 512)

    @functools.cache
    def first_step(segments=True, **fields):
        cfg = world.config(data__batch_size=16, data__row_length=512, **fields)
        arrays = Batches(tokenized, cfg, 1).arrays(0)
        batch = Batch(**vars(arrays))
        if not segments:
            ones = np.ones_like(arrays.segments)
            batch = dataclasses.replace(batch, segments=ones)
        differentiate = jax.jit(lambda p, b: loss_and_gradients(cfg, source.cfg, p, b))
        loss, gradients = differentiate(params, jax.tree.map(jnp.asarray, batch))
        return arrays, float(loss), jax.tree.map(np.asarray, gradients)

    return first_step


def compare(ours, theirs):
    """Differences of loss and of gradients, each against the largest of its array."""
    worst = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), ours[2], theirs[2])
    return abs(ours[1] - theirs[1]), max(jax.tree.leaves(worst))


@pytest.mark.parametrize("weighting", ["example", "token"])
def test_packed_rows_give_the_loss_and_gradients_of_separate_ones(
    trained_on, weighting, record_property
):
    separate = trained_on(train__weighting=weighting)
    packed = trained_on(train__weighting=weighting, data__pack=True)
    assert packed[0].tokens.shape[1] < separate[0].tokens.shape[1] == 16
    loss, gradients = compare(packed, separate)
    mixed = compare(trained_on(False, train__weighting=weighting, data__pack=True), separate)
    record_property("packed", str((separate[1], loss, gradients, mixed)))
    assert loss < 1e-5
    assert gradients < 1e-5
    assert mixed[0] > 1e-3  # without segments, what the test would say of wrong packing
    assert mixed[1] > 1e-3


@pytest.mark.parametrize(("slices", "packed"), [(2, False), (8, False), (2, True)])
def test_accumulation_gives_the_loss_and_gradients_of_the_whole_batch(
    trained_on, slices, packed, record_property
):
    whole = trained_on()
    parts = trained_on(train__accumulation_steps=slices, data__pack=packed)
    assert parts[0].tokens.shape[0] == slices
    loss, gradients = compare(parts, whole)
    record_property("accumulated", str((whole[1], loss, gradients)))
    assert loss < 1e-6
    assert gradients < 1e-5
    # The control: a slice alone is not the batch.
    assert abs(parts[0].weights[0].sum() - 1) > 0.1


def test_the_weighting_is_seen_in_the_loss(trained_on):
    by_example, by_token = trained_on(), trained_on(train__weighting="token")
    assert abs(by_example[1] - by_token[1]) > 1e-4
