"""The same run on any mesh, every large array in as many parts as there are devices."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes_train import SIZES, write_world
from jax.sharding import PartitionSpec

from s1jax import config, train
from s1jax.mesh import (
    AXES,
    RULES,
    ArraySpec,
    exact_products,
    make_mesh,
    mesh_sizes,
    partition,
    path_name,
    sharding,
    shardings,
    ways,
)
from s1jax.models.config import from_hf
from s1jax.training.memory import memory, shard_bytes
from s1jax.training.programs import compile_steps, to_devices
from s1jax.training.step import abstract_state
from s1jax.types import UserError

MIB = 2**20
MESHES = {
    "fsdp16": {"fsdp": 16},
    "fsdp8 x tensor2": {"fsdp": 8, "tensor": 2},
    "data2 x fsdp8": {"data": 2, "fsdp": 8},
    "fsdp4 x context4": {"fsdp": 4, "context": 4},
    "fsdp4 x context2 x tensor2": {"fsdp": 4, "context": 2, "tensor": 2},
}
ONE = {"fsdp": 1}
# configs/h100_16.py trains this one.
QWEN_32B = SIZES | {
    "vocab_size": 152064,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
}


def mesh_of(**sizes):
    cfg = config.Mesh(**ONE | sizes)
    return make_mesh(cfg, jax.devices()[: math.prod(dataclasses.astuple(cfg))])


# Sizes.


def test_one_size_may_be_what_is_left():
    sizes = mesh_sizes(config.Mesh(fsdp=-1, tensor=2), 16)
    assert sizes == {"data": 1, "fsdp": 8, "context": 1, "tensor": 2}
    assert mesh_sizes(config.Mesh(data=-1, fsdp=16), 16)["data"] == 1


@pytest.mark.parametrize(
    ("cfg", "devices", "words"),
    [
        (config.Mesh(fsdp=16), 8, "fsdp=16 x context=1 x tensor=1) needs 16 devices and 8 are"),
        (config.Mesh(fsdp=4), 16, "needs 4 devices and 16 are here: set one axis to -1"),
        (config.Mesh(fsdp=-1, tensor=3), 16, "16 devices do not divide by 3"),
    ],
)
def test_sizes_that_do_not_make_the_devices_are_refused(cfg, devices, words):
    with pytest.raises(UserError, match=re.escape(words)):
        mesh_sizes(cfg, devices)


def test_the_axes_are_always_the_same():
    for sizes in ({}, {"fsdp": 16}, {"data": 2, "fsdp": 2, "context": 2, "tensor": 2}):
        assert mesh_of(**sizes).axis_names == AXES
    assert len(make_mesh(config.Mesh()).devices.flat) == 16


# Rules.


def test_partition_follows_the_table():
    assert partition(("layers", "heads", "head_dim", "embed")) == PartitionSpec(
        None, "tensor", None, ("fsdp", "context")
    )
    assert partition(("batch", "seq")) == PartitionSpec(("data", "fsdp"), "context")
    assert {axis for entry in RULES.values() if entry for axis in np.atleast_1d(entry)} == set(AXES)


def test_an_axis_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match=r"\"emebd\" has no rule .*: did you mean \"embed\"\?"):
        partition(("layers", "emebd"))
    with pytest.raises(ValueError, match="array 'params/w': axis \"emebd\""):
        sharding("params/w", ArraySpec((4,), ("emebd",)), mesh_of())


def test_a_mesh_axis_used_twice_is_an_error():
    with pytest.raises(ValueError, match='"heads" and "mlp" are both split over'):
        partition(("heads", "mlp"))
    with pytest.raises(ValueError, match=r'"batch" and "embed" .* mesh axis "fsdp"'):
        partition(("batch", "embed"))


def test_a_size_that_does_not_divide_names_parameter_axis_and_config():
    with pytest.raises(UserError) as error:
        shardings({"attn": {"k": ArraySpec((8, 6), ("embed", "kv_heads"))}}, mesh_of(tensor=4))
    assert str(error.value) == (
        'attn/k: axis "kv_heads" of size 6 does not divide by mesh.tensor=4: choose one of 1, 2, 3'
    )
    with pytest.raises(UserError, match=r"mesh\.data=2 x mesh\.fsdp=4"):
        sharding("x", ArraySpec((6,), ("batch",)), mesh_of(data=2, fsdp=4))


def test_a_model_whose_heads_do_not_divide_is_refused_before_anything_is_made():
    cfg = config.Config()
    with pytest.raises(UserError, match=r"layers/attn/k/\w+: axis \"kv_heads\" of size 2 "):
        abstract_state(cfg, from_hf(SIZES), mesh_of(tensor=4))


def test_ways_of_the_current_mesh():
    assert ways("batch") == 1
    with jax.set_mesh(mesh_of(data=2, fsdp=4, context=2)):
        assert (ways("batch"), ways("seq"), ways("embed"), ways("features")) == (8, 2, 8, 1)


# Where the arrays lie.


def large(tree):
    """The arrays of more than 1 MiB, by name."""
    leaves = jax.tree.leaves_with_path(tree)
    return {path_name(path): x for path, x in leaves if x.size * x.dtype.itemsize > MIB}


def is_whole(x):
    """Whether every device has all of an array."""
    return x.sharding.shard_shape(x.shape) == x.shape


def is_whole_over_fsdp(x):
    """Whether devices that differ in fsdp alone have the same part of an array."""
    sizes = x.sharding.mesh.shape
    others = math.prod(size for axis, size in sizes.items() if axis != "fsdp")
    parts = x.size // math.prod(x.sharding.shard_shape(x.shape))
    return parts <= others and "fsdp" not in jax.tree.leaves(tuple(x.sharding.spec))


@pytest.fixture(scope="module")
def large_world(tmp_path_factory):
    """Wide enough that all kernels and both tables are larger than 1 MiB."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64}
    directory = tmp_path_factory.mktemp("large")
    return write_world(directory, examples=16, vocab_size=2048, **sizes)


def test_every_large_array_really_lies_in_sixteen_parts(large_world, tmp_path):
    """After the load and after a step: what is on each device, not what was asked for."""
    cfg = large_world.config(data__batch_size=16, mesh__fsdp=16, train__steps=2)
    run = train.prepare(cfg, tmp_path, jax.devices())
    with train.Stop() as stop, jax.set_mesh(run.mesh):
        state = train._load(run, stop)
        step = compile_steps(run, 0, print)[run.batches.row_length]
        for done in range(2):
            arrays = {"params": state.params, "moments": state.opt_state}
            names = large(arrays)
            assert len(names) == 3 * 9, sorted(names)  # q k v o gate up down, table, head
            for name, x in names.items():
                parts = {shard.device: shard for shard in x.addressable_shards}
                assert len(parts) == 16, name
                assert len({str(shard.index) for shard in parts.values()}) == 16, name
                assert {shard.data.nbytes for shard in parts.values()} == {x.nbytes // 16}, name
            small = sum(x.nbytes for x in jax.tree.leaves(arrays) if x.is_fully_replicated)
            assert small < 1e-3 * sum(x.nbytes for x in jax.tree.leaves(arrays))
            if done == 0:
                batch = to_devices(run.batches.arrays(0), run.mesh)
                assert len({str(shard.index) for shard in batch.tokens.addressable_shards}) == 16
                state, _ = step(state, batch)
    assert int(state.step) == 1


@pytest.mark.parametrize("sizes", MESHES.values(), ids=list(MESHES))
def test_no_large_array_is_replicated_over_fsdp(sizes):
    mesh = mesh_of(**sizes)
    abstract = abstract_state(config.Config(), from_hf(QWEN_32B), mesh)
    arrays = large({"params": abstract.params, "moments": abstract.opt_state})
    whole = {name for name, x in arrays.items() if is_whole_over_fsdp(x)}
    # The one bias that is larger than 1 MiB in 64 layers, and what the rules say of it.
    assert {name.split("/", 1)[1] for name in whole} <= {
        "layers/attn/q/bias",
        "0/mu/layers/attn/q/bias",
        "0/nu/layers/attn/q/bias",
    }
    assert len(arrays) - len(whole) >= 3 * 9


def test_the_state_of_qwen_32b_over_sixteen_devices():
    """Described and never made: 24.6 GB a device, of which less than 0.1 % is a copy."""
    model, mesh, cfg = from_hf(QWEN_32B), mesh_of(fsdp=16), config.Config()
    assert model.parameters == 32_763_876_352
    abstract = abstract_state(cfg, model, mesh)
    held = shard_bytes(abstract.params) + shard_bytes(abstract.opt_state)
    assert held == pytest.approx(12 * model.parameters / 16, rel=1e-3)
    assert 24.5e9 < held < 24.7e9
    copies = {
        path_name(path): x.size * x.dtype.itemsize
        for path, x in jax.tree.leaves_with_path(abstract)
        if is_whole(x)
    }
    kinds = {name.split("layers/", 1)[-1] for name in copies}
    assert kinds == {"attn/q/bias", "attn/k/bias", "attn/v/bias", "step", "opt_state/0/count"}
    assert sum(copies.values()) < 1e-3 * held
    # With the gradients, which are in bfloat16 but for embedding, head and norms, 14 bytes a
    # parameter and a little (s1 needs 16).
    told = memory(cfg, model, abstract, mesh, 16, 32768)
    assert told.parameters + told.moments + told.gradients == pytest.approx(28.87e9, rel=0.01)
    # The control: on one device it is sixteen times as much.
    alone = abstract_state(cfg, model, mesh_of())
    assert shard_bytes(alone.params) / shard_bytes(abstract.params) == pytest.approx(16, rel=1e-2)


# The same losses.


def losses_and_norms(cfg, workdir):
    """What train.train() logs, without its checkpoints and export: [2, steps]."""
    run = train.prepare(cfg, workdir, jax.devices()[: math.prod(dataclasses.astuple(cfg.mesh))])
    told = []
    with train.Stop() as stop, jax.set_mesh(run.mesh):
        state, steps = train._load(run, stop), compile_steps(run, 0, print)
        for number in range(run.batches.total_steps):
            batch = to_devices(run.batches.arrays(number), run.mesh)
            state, metrics = steps[run.batches.row_length_of(number)](state, batch)
            told.append((float(metrics.loss), float(metrics.gradient_norm)))
    return np.array(told).T


@pytest.fixture(scope="module")
def ten_losses(tmp_path_factory):
    """The losses and gradient norms of ten steps of a run on a mesh."""
    world = write_world(tmp_path_factory.mktemp("world"), examples=24)
    seen = {}

    def run(sizes, **fields):
        key = repr((sorted(sizes.items()), sorted(fields.items())))
        if key not in seen:
            mesh = {f"mesh__{axis}": size for axis, size in (ONE | sizes).items()}
            cfg = world.config(data__batch_size=16, train__steps=10, **mesh, **fields)
            seen[key] = losses_and_norms(cfg, tmp_path_factory.mktemp("run"))
        return seen[key]

    return run


def compare(ours, theirs):
    """The largest difference of a loss, and of a norm (which Adam hides) as a share of it."""
    losses, norms = np.abs(ours - theirs)
    return losses.max(), (norms / theirs[1]).max()


def test_the_control_of_what_follows(ten_losses):
    """Ten steps move the loss, and another order of the data by more than any mesh may."""
    alone = ten_losses(ONE)
    assert alone.shape == (2, 10)
    assert alone[0, 0] - alone[0, -1] > 1
    loss, norm = compare(ten_losses(ONE, seed=43), alone)
    assert loss > 1e-2
    assert norm > 1e-2
    # A third of a percent of the rate is seen too: as much as a slightly wrong gradient would be.
    assert compare(ten_losses(ONE, optimizer__learning_rate=2.99e-3), alone)[0] > 1e-4


@pytest.mark.parametrize("name", MESHES)
def test_ten_steps_are_those_of_one_device(ten_losses, name, record_property):
    loss, norm = compare(ten_losses(MESHES[name]), ten_losses(ONE))
    record_property("largest difference", f"{name}: {loss:.1e}, {norm:.1e}")
    assert loss < 1e-5
    assert norm < 1e-5


def test_slices_packing_and_remat_on_a_mesh(ten_losses, record_property):
    fields = {"train__accumulation_steps": 2, "data__pack": True, "train__remat": "full"}
    there = ten_losses({"data": 2, "fsdp": 4, "context": 2}, **fields)
    loss, norm = compare(there, ten_losses(ONE))
    name = "data2 x fsdp4 x context2, packed, 2 slices, remat full"
    record_property("largest difference", f"{name}: {loss:.1e}, {norm:.1e}")
    assert loss < 1e-5
    assert norm < 1e-5


def test_float32_is_multiplied_as_float32_wherever_it_runs():
    """The compiler is told so in the program; on a CPU it makes no difference."""
    x = jnp.ones((2, 2))

    def text(dtype):
        with exact_products(dtype):
            return jax.jit(lambda x: x @ x).lower(x).as_text()

    assert "precision = [HIGHEST, HIGHEST]" in text("float32")
    assert "HIGHEST" not in text("bfloat16")
    assert "HIGHEST" not in jax.jit(lambda x: x @ x).lower(x).as_text()
