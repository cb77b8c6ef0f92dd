"""What a compiled step sends and holds: real programs of three compilers, and odd forms by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes_planning import absent, step
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from s1jax.planning.buffers import has_square, largest_buffers, squares
from s1jax.planning.collectives import Call, collectives, device_groups
from s1jax.planning.hlo import Shape, parse

RAW = {  # wide enough that weights are what is sent
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 2048,
}
SHAPE = {"data__batch_size": 16, "data__row_length": 256, "train__remat": "full"}


def of(text):
    """(count, bytes) by kind."""
    return {kind: (all_.count, all_.bytes) for kind, all_ in collectives(text).items()}


# Groups.


def as_sets(groups):
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize(
    ("written", "axes"),
    [
        ("{{0,1,2,3},{4,5,6,7},{8,9,10,11},{12,13,14,15}}", (2, 3)),
        ("[4,4]<=[16]", (2, 3)),
        ("[8,2]<=[16]", (3,)),
        ("[4,4]<=[4,4]T(1,0)", (0, 1)),
        ("[8,2]<=[4,2,2]T(0,2,1)", (2,)),
        ("[8,2]<=[2,2,2,2]T(0,3,2,1)", (1,)),
        ("[1,16]<=[16]", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=2,'c'=4] {'b'}", (1,)),
        ("mesh['a'=2,'b'=2,'c'=4] {'a','c'}", (0, 2, 3)),
        ("mesh['a'=16,'b'=1] {'a'}", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=8], device_ids=([8,2]T(1,0)) {'a'}", (3,)),
        ("mesh['a'=4,'b'=4], device_ids=([2,4,2]T(1,0,2)) {'a'}", (1, 2)),
        ("mesh['a'=4,'b'=4] {'a':(1)2}", (0,)),
        ("mesh['a'=4,'b'=4] {'a':(2)2,'b':(1)2}", (1, 2)),
        ("mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}", None),
    ],
)
def test_groups_are_the_axes_of_a_mesh(written, axes):
    """Sixteen devices as 2 x 2 x 2 x 2, grouped along axes by numpy."""
    found = as_sets(device_groups(f"channel_id=1, replica_groups={written}, dimensions={{0}}", 16))
    if axes is None:
        assert found == {frozenset({0, 2}), frozenset({1, 3})}
        return
    others = [axis for axis in range(4) if axis not in axes]
    devices = np.arange(16).reshape(2, 2, 2, 2).transpose(*others, *axes)
    assert found == as_sets(devices.reshape(-1, 2 ** len(axes)).tolist())
    # The control: along the other axes it is something else.
    assert found != as_sets(devices.reshape(2 ** len(axes), -1).T.tolist()) or len(axes) == 4


def test_no_groups_are_all_devices_and_pairs_are_groups():
    assert device_groups("replica_groups={}, to_apply=%add", 4) == ((0, 1, 2, 3),)
    assert device_groups("to_apply=%add", 2) == ((0, 1),)
    assert device_groups("source_target_pairs={{0,1},{1,0}}", 2) == ((0, 1), (1, 0))


@pytest.mark.parametrize("axes", [("a",), ("b",), ("c",), ("a", "c"), ("b", "c"), ("a", "b", "c")])
def test_groups_of_real_programs(axes):
    """Sums over axes of a mesh, compiled here; its devices stand in another order."""
    order = np.random.default_rng(0).permutation(16)
    devices = np.array(jax.devices())[order].reshape(2, 4, 2)
    mesh = jax.sharding.Mesh(devices, ("a", "b", "c"), axis_types=(AxisType.Auto,) * 3)
    spec = PartitionSpec(("a", "b", "c"))
    body = jax.shard_map(
        lambda x: jax.lax.psum(x, axes), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    x = jax.ShapeDtypeStruct((32, 8), jnp.float32, sharding=NamedSharding(mesh, spec))
    (call,) = collectives(jax.jit(body).lower(x).compile().as_text())["all-reduce"].calls
    others = [i for i, name in enumerate("abc") if name not in axes]
    places = np.arange(16).reshape(2, 4, 2)
    places = places.transpose(*others, *["abc".index(name) for name in axes])
    size = math.prod({"a": 2, "b": 4, "c": 2}[name] for name in axes)
    assert as_sets(call.groups) == as_sets(places.reshape(-1, size).tolist())
    assert (call.group_size, call.bytes) == (size, 2 * 8 * 4)
    # Hosts of four, in the order of the mesh: only sums over a or b leave a host.
    host_of = [place // 4 for place in range(16)]
    assert call.crosses(host_of) == (axes != ("c",))
    assert not call.crosses([0] * 16)


# Bytes.


def test_bytes_are_of_the_whole_array():
    """Two gathers of N parameters in bfloat16 and one scatter of their gradients: 4N and 2N."""
    n, devices = 1024, 8
    groups = (tuple(range(devices)),)

    def call(kind, elements):
        return Call(kind, (Shape("bf16", (elements,)),), groups, "")

    gathered, scattered = call("all-gather", n // devices), call("reduce-scatter", n)
    assert 2 * gathered.bytes == 4 * n
    assert scattered.bytes == 2 * n
    assert gathered.link_bytes == scattered.link_bytes == 2 * n * 7 / 8
    # To reduce all is to scatter and to gather.
    reduced = call("all-reduce", n)
    assert reduced.link_bytes == gathered.link_bytes + scattered.link_bytes
    assert call("collective-permute", n).link_bytes == 2 * n


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("f32", 4), ("bf16", 2), ("pred", 1), ("s4", 0.5), ("u64", 8), ("f8e4m3fn", 1), ("token", 0)],
)
def test_bytes_of_an_element(dtype, size):
    assert Shape(dtype, (10, 4)).bytes == 40 * size


# Forms, by hand.

MODULE = """HloModule test, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

"""


def program(*lines, before=""):
    """A module whose entry has these lines, the last of them its root."""
    *first, last = lines
    body = "\n".join([f"  {line}" for line in first] + [f"  ROOT {last}"])
    parameter = "  %p = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)"
    header = "ENTRY %main (p: bf16[64,32]) -> bf16[64,32] {"
    return f"{MODULE}{before}{header}\n{parameter}\n{body}\n}}\n"


P = 64 * 32 * 2  # bytes of the parameter
ALL = "replica_groups=[1,8]<=[8], use_global_device_ids=true, to_apply=%add"


def test_each_kind_once():
    text = program(
        "%g = bf16[64,256]{1,0} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={1}",
        f"%s = bf16[8,32]{{1,0}} reduce-scatter(%p), {ALL}, dimensions={{0}}",
        f"%r = bf16[64,32]{{1,0}} all-reduce(%p), {ALL}",
        "%t = bf16[64,32]{1,0} all-to-all(%p), replica_groups={{0,1},{2,3},{4,5},{6,7}}",
        "%c = bf16[64,32]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}",
    )
    assert of(text) == {
        "all-gather": (1, 4 * P),
        "reduce-scatter": (1, P),
        "all-reduce": (1, P),
        "all-to-all": (1, P),
        "collective-permute": (1, P),
    }
    (call,) = collectives(text)["all-to-all"].calls
    assert (call.operands, call.group_size) == ((Shape("bf16", (64, 32)),), 2)


def test_starts_count_and_dones_do_not():
    text = program(
        "%g = (bf16[64,32]{1,0}, bf16[512,32]{1,0}) all-gather-start(%p), replica_groups={}",
        "%gd = bf16[512,32]{1,0} all-gather-done(%g)",
        "%c = (bf16[64,32], bf16[64,32], u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p),"
        " source_target_pairs={{0,1}}",
        "%cd = bf16[64,32]{1,0} collective-permute-done(%c)",
        "%s = ((bf16[64,32]{1,0}), bf16[8,32]{1,0}) reduce-scatter-start(%p),"
        " replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add, calls=%unused",
        "%sd = bf16[8,32]{1,0} reduce-scatter-done(%s)",
    )
    assert of(text) == {
        "all-gather": (1, 8 * P),
        "collective-permute": (1, P),
        "reduce-scatter": (1, P),
    }


def test_several_arrays_in_one_collective():
    text = program(
        "%q = f32[8]{0} constant({...})",
        "%g = ((bf16[64,32], f32[8]), (bf16[512,32], /*index=1*/f32[64])) all-gather-start(%p,"
        " /*index=1*/%q), replica_groups={}",
        "%gd = (bf16[512,32], f32[64]) all-gather-done(%g)",
    )
    assert of(text) == {"all-gather": (1, 8 * (P + 32))}


def test_a_collective_in_an_async_computation():
    inner = """%wrapped (q: bf16[64,32]) -> bf16[64,32] {
  %q = bf16[64,32]{1,0} parameter(0)
  ROOT %t = bf16[64,32]{1,0} all-to-all(%q), replica_groups=[1,8]<=[8]
}

"""
    text = program(
        '%s = ((bf16[64,32]), bf16[64,32]) async-start(%p), async_execution_thread="x",'
        " calls=%wrapped",
        "%u = ((bf16[64,32]), bf16[64,32]) async-update(%s), calls=%wrapped",
        "%d = bf16[64,32]{1,0} async-done(%u), calls=%wrapped",
        before=inner,
    )
    assert of(text) == {"all-to-all": (1, P)}


SCATTER = """%all-reduce-scatter.1 (q: bf16[64,32]) -> bf16[8,32] {{
  %q = bf16[64,32]{{1,0}} parameter(0)
  %r = bf16[64,32]{{1,0}} all-reduce(%q), channel_id=7, replica_groups=[1,8]<=[8], to_apply=%add
  %zero = u32[] constant(0)
  %id = u32[] partition-id()
  ROOT %part = bf16[8,32]{{1,0}} {user}
}}

"""


def test_a_sum_of_which_each_keeps_its_part_is_a_reduce_scatter():
    """As TPUs write it; where all of the sum is used, it stays what it is."""
    line = "%f = bf16[8,32]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1"
    sliced = SCATTER.format(user="dynamic-slice(%r, %id, %zero), dynamic_slice_sizes={8,32}")
    assert of(program(line, before=sliced)) == {"reduce-scatter": (1, P)}
    used = SCATTER.format(user="fusion(%r), kind=kLoop, calls=%add")
    assert of(program(line, before=used)) == {"all-reduce": (1, P)}


def test_a_collective_spread_over_fusions_counts_once():
    """As TPUs overlap it with products; another channel is another collective."""
    piece = """%async_collective_fusion.{n} (q: bf16[64,32]) -> bf16[512,32] {{
  %q = bf16[64,32]{{1,0}} parameter(0)
  ROOT %g = bf16[512,32]{{1,0}} all-gather(%q), channel_id={channel}, replica_groups=[1,8]<=[8]
}}

"""
    channels = (5, 5, 6)
    before = "".join(piece.format(n=n, channel=channel) for n, channel in enumerate(channels))
    lines = [
        f"%f.{n} = bf16[512,32] fusion(%p), kind=kOutput, calls=%async_collective_fusion.{n}"
        for n in range(3)
    ]
    assert of(program(*lines, before=before)) == {"all-gather": (2, 2 * 8 * P)}


# Loops.


def loop(first="0", limit="5", step="1", direction="LT", inner="", note="", name="loop"):
    """(computations, line) of a loop around an all-reduce of 4 bytes, and what is in `inner`."""
    computations = f"""%{name}_body (c: (s32[], f32[])) -> (s32[], f32[]) {{
  %c = (s32[]{{:T(128)}}, f32[]{{:T(128)}}) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%c), index=0
  %x = f32[]{{:T(128)}} get-tuple-element(%c), index=1
  %by = s32[] constant({step})
  %next = s32[] add(%i, %by)
  %r = f32[] all-reduce(%x), channel_id=1, {ALL}
{inner}  ROOT %t = (s32[], f32[]) tuple(%next, %r)
}}

%{name}_condition (c: (s32[], f32[])) -> pred[] {{
  %c = (s32[], f32[]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %limit = s32[] constant({limit})
  ROOT %less = pred[] compare(%i, %limit), direction={direction}
}}

"""
    lines = [
        f"%{name}_first = s32[] constant({first})",
        f"%{name}_copy = s32[] copy(%{name}_first)",
        f"%{name}_zero = f32[] constant(0)",
        f"%{name}_carry = (s32[], f32[]) tuple(%{name}_copy, %{name}_zero)",
        f"%{name} = (s32[], f32[]) while(%{name}_carry), condition=%{name}_condition,"
        f" body=%{name}_body{note}",
    ]
    return computations, lines


@pytest.mark.parametrize(
    ("fields", "times"),
    [
        ({}, 5),
        ({"first": "2", "limit": "12", "step": "3"}, 4),
        ({"direction": "LE"}, 6),
        ({"first": "9", "limit": "-1", "step": "-2", "direction": "GT"}, 5),
        ({"first": "9", "limit": "1", "step": "-2", "direction": "GE"}, 5),
        ({"limit": "6", "step": "2", "direction": "NE"}, 3),
        ({"first": "7"}, 0),
        # What XLA has noted goes before what can be seen.
        ({"note": ', backend_config={"known_trip_count":{"n":"64"},"x":{}}'}, 64),
    ],
    ids=str,
)
def test_a_loop_counts_as_often_as_it_runs(fields, times):
    computations, lines = loop(**fields)
    found = collectives(program(*lines, before=computations))["all-reduce"]
    assert (found.count, found.bytes, found.unbounded) == (times, 4 * times, 0)


@pytest.mark.parametrize(
    "fields", [{"step": "0"}, {"step": "-1"}, {"direction": "GT"}, {"limit": "{...}"}], ids=str
)
def test_a_loop_of_unknown_length_counts_once_and_is_told(fields):
    computations, lines = loop(**fields)
    found = collectives(program(*lines, before=computations))["all-reduce"]
    assert (found.count, found.bytes, found.unbounded) == (1, 4, 1)


def test_loops_inside_loops_multiply():
    inner, lines = loop(limit="3", name="inner")
    outer, last = loop(inner="\n".join(f"  {line}" for line in lines) + "\n")
    found = collectives(program(*last, before=inner + outer))["all-reduce"]
    assert found.count == 5 + 5 * 3
    assert sorted(call.times for call in found.calls) == [5, 15]


def test_a_step_that_a_fusion_computes():
    computations, lines = loop()
    computations = computations.replace("add(%i, %by)", "fusion(%i), kind=kLoop, calls=%plus")
    plus = """%plus (i: s32[]) -> s32[] {
  %two = s32[] constant(2)
  %i = s32[] parameter(0)
  ROOT %sum = s32[] add(%two, %i)
}

"""
    assert of(program(*lines, before=plus + computations)) == {"all-reduce": (3, 12)}


def test_of_a_conditional_the_dearest_branch_counts():
    branch = """%{name} (q: bf16[64,32]) -> bf16[64,32] {{
  %q = bf16[64,32]{{1,0}} parameter(0)
  ROOT %r = bf16[64,32]{{1,0}} {kind}(%q), replica_groups=[1,8]<=[8], to_apply=%add
}}

"""
    before = branch.format(name="dear", kind="all-reduce")
    before += branch.format(name="cheap", kind="all-to-all")
    lines = ["%i = s32[] constant(0)"]
    for attributes in (
        "branch_computations={%cheap, %dear}",
        "true_computation=%dear, false_computation=%cheap",
    ):
        line = f"%c = bf16[64,32] conditional(%i, %p, %p), {attributes}"
        assert of(program(*lines, line, before=before)) == {"all-reduce": (1, P)}


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no HLO module"):
        parse("module @jit_step {")


# Real steps.


def reckoned(model, floats, rows):
    """Bytes that the step gathers over 16 devices, by hand; `floats` of the layers' kernels.

    Kernels and norms forward and backward (a norm's scale twice there: for its result and for its
    gradient), the final norm, both tables, and the targets' ids for the embedding's gradient.
    """
    d, heads = model.embed_dim, model.heads * model.head_dim
    kernels = d * (2 * heads + 2 * model.kv_heads * model.head_dim) + 3 * d * model.mlp_dim
    layers = model.layers * (2 * kernels + (2 + 4) * d)
    return floats * (layers + d + 2 * model.vocab_size * d) + 4 * rows


def test_the_step_gathers_what_a_hand_reckons():
    """On 16 devices that are here, all in float32: within the 1 % that small arrays make."""
    real = step(raw=RAW, mesh__fsdp=16, **SHAPE)
    text = real.hlo("cpu")
    found = collectives(text)
    expected = reckoned(real.model, 4, 16 * 256)
    assert found["all-gather"].bytes == pytest.approx(expected, rel=0.01)
    assert found["all-gather"].unbounded == 0
    assert {call.group_size for call in found["all-gather"].calls} == {16}
    kernels = [call for call in found["all-gather"].calls if call.bytes >= 2**19]
    assert {call.times for call in kernels} == {real.model.layers, 1}
    # The control: with the loops' lengths forgotten, three quarters of the layers are missing.
    forgotten = text.replace("known_trip_count", "not_known")
    forgotten = forgotten.replace("direction=LT", "direction=EQ")
    told = collectives(forgotten)["all-gather"]
    assert told.unbounded > 0
    assert told.bytes < 0.4 * expected


def test_every_group_of_a_real_step_is_along_axes_of_its_mesh():
    mesh = {"mesh__data": 2, "mesh__fsdp": 4, "mesh__context": 2}
    found = collectives(step(raw=RAW, **SHAPE, **mesh).hlo("cpu"))
    places = np.arange(16).reshape(2, 2, 2, 2)
    along = []
    for chosen in range(16):
        axes = [axis for axis in range(4) if chosen >> axis & 1]
        others = [axis for axis in range(4) if axis not in axes]
        groups = places.transpose(*others, *axes).reshape(-1, 2 ** len(axes))
        along.append(as_sets(groups.tolist()))
    for kind, all_ in found.items():
        for call in all_.calls:
            if kind != "collective-permute":
                assert as_sets(call.groups) in along, (kind, call)


def sixteen(kind):
    """The step in bfloat16 over 16 devices of another kind: its model and its program."""
    real = step(absent(kind), RAW, mesh__fsdp=16, model__compute_dtype="bfloat16", **SHAPE)
    return real.model, real.hlo(kind)


def test_an_absent_gpu_gathers_4n_and_scatters_2n():
    """The ideal of the layers; each table is gathered once, and of the two the head is scattered.

    The embedding's gradient is made where it lies, from tokens that have been exchanged.
    """
    model, text = sixteen("cuda")
    found = collectives(text)
    table = model.vocab_size * model.embed_dim
    layers = model.parameters - 2 * table
    assert found["all-gather"].bytes == pytest.approx(4 * layers + 2 * 2 * table, rel=0.05)
    assert found["reduce-scatter"].bytes == pytest.approx(2 * layers + 2 * table, rel=0.05)
    # The controls: a gather left out, or sums that nobody scattered, are seen.
    assert found["all-gather"].bytes > 1.5 * 2 * model.parameters
    assert "all-reduce" not in found or found["all-reduce"].bytes < 0.01 * model.parameters


def test_an_absent_tpu_says_nothing_of_its_loops_and_is_understood():
    """Its text has no trip counts: they are read from the conditions."""
    model, text = sixteen("tpu")
    assert "known_trip_count" not in text
    found = collectives(text)
    assert all(all_.unbounded == 0 for all_ in found.values())
    assert {call.times for call in found["all-gather"].calls} == {1, model.layers}
    table = model.vocab_size * model.embed_dim
    layers = model.parameters - 2 * table
    # Forward, and backward at least once more.
    assert 4 * layers <= found["all-gather"].bytes <= 6 * layers + 4 * 2 * table


# Buffers.


def test_the_largest_buffers_are_told():
    def f(x):
        y = jnp.sin(x @ x.T)  # [512, 512]
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), y, length=3)[0].sum()

    x = jax.ShapeDtypeStruct((512, 128), jnp.float32)
    text = jax.jit(f).lower(x).compile().as_text()
    first, *others = largest_buffers(text, 100)
    assert (first.shape, first.dtype, first.bytes) == ((512, 512), "f32", 4 * 512 * 512)
    assert (512, 128) in {buffer.shape for buffer in others}
    assert [b.bytes for b in others] == sorted((b.bytes for b in others), reverse=True)
    assert len(largest_buffers(text, 2)) == 2


def test_squares_are_found_merged_or_not_and_only_where_they_are_kept():
    rows, columns = 96, 160

    def text(f, *shapes):
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.jit(f).lower(*arrays).compile().as_text()

    q, k = (2, 4, rows, 8), (2, 4, columns, 8)
    scores = text(lambda q, k: jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ k, q, k)
    assert has_square(scores, rows, columns)
    assert {96, 160} <= set(squares(scores, rows, columns)[0].shape)
    assert not has_square(scores, columns)
    merged = text(lambda q, k: jnp.sort((q @ k.T).reshape(-1)), (rows, 8), (columns, 8))
    assert has_square(merged, rows, columns)


def test_an_array_inside_a_fusion_is_nobodys_memory():
    inside = """%fused (q: bf16[64,32]) -> bf16[64,32] {
  %q = bf16[64,32]{1,0} parameter(0)
  %wide = bf16[64,32,64]{2,1,0} broadcast(%q), dimensions={0,1}
  ROOT %part = bf16[64,32]{1,0} slice(%wide), slice={[0:64], [0:32], [0:1]}
}

"""
    line = "%f = bf16[64,32]{1,0} {kind}(%p), {key}=%fused"
    fused = program(line.replace("{kind}", "fusion").replace("{key}", "calls"), before=inside)
    called = program(line.replace("{kind}", "call").replace("{key}", "to_apply"), before=inside)
    assert not has_square(fused, 64)
    assert has_square(called, 64)


def test_no_square_in_a_step_of_long_rows_and_the_control():
    """Scores in blocks and logits in chunks; a row as one block has both."""
    shape = SHAPE | {"data__batch_size": 1, "data__row_length": 544}  # 32 x 17
    shape |= {"train__loss_chunk_tokens": 136}
    raw = RAW | {"num_hidden_layers": 2, "vocab_size": 1900}
    text = step(raw=raw, **shape).hlo("cpu")
    assert not has_square(text, 544)
    assert not has_square(text, 544, 1900)
    shape |= {"train__loss_chunk_tokens": 544, "train__remat": "none"}
    whole = step(raw=raw, **shape).hlo("cpu")
    assert has_square(whole, 544, 1900)
