"""Checkpoints come back bit-equal, on any mesh, or the damage is named; nothing in between."""

import contextlib
import dataclasses
import fnmatch
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from s1jax import config
from s1jax.checkpoint import (
    MAY_CHANGE,
    Checkpoints,
    assets,
    check_same,
    differences,
    is_checkpoint,
    save_assets,
)
from s1jax.mesh import make_mesh
from s1jax.types import UserError

META = {"config": config.Config().to_dict(), "data_digest": "d1", "tokenizer_digest": "t1"}


def mesh_of(**sizes):
    count = int(np.prod(list(sizes.values())))
    return make_mesh(config.Mesh(**{"fsdp": 1} | sizes), jax.devices()[:count])


def host_state(seed):
    """float32, bfloat16, an int scalar, an array without elements; the whole is ~0.5 MB."""
    rng = np.random.default_rng(seed)
    params = {
        "embed": rng.standard_normal((64, 800)).astype(np.float32),
        "layers": {
            "kernel": rng.standard_normal((2, 32, 48)).astype(ml_dtypes.bfloat16),
            "none": np.zeros((0, 32), np.float32),
        },
    }
    return {
        "params": params,
        "moments": jax.tree.map(lambda x: (x * x).astype(x.dtype), params),
        "step": np.int32(seed),
    }


def shardings(mesh):
    """The embedding by rows and columns, the rest over whatever divides."""
    embed = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    kernel = NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    whole = NamedSharding(mesh, PartitionSpec())
    params = {"embed": embed, "layers": {"kernel": kernel, "none": whole}}
    return {"params": params, "moments": params, "step": whole}


def state_on(mesh, seed):
    return jax.device_put(host_state(seed), shardings(mesh))


def abstract_on(mesh):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        host_state(0),
        shardings(mesh),
    )


def bits(x):
    return np.asarray(x).tobytes()


def same_bits(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and bits(x) == bits(y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def unexpected(text):
    raise AssertionError(text)


@pytest.fixture
def mesh():
    return mesh_of(fsdp=8, tensor=2)


@pytest.fixture
def saved(tmp_path, mesh):
    """Checkpoints of the steps 1 and 2."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, state_on(mesh, step), META | {"step": step})
    checkpoints.close()
    return checkpoints


# The round trip.


def test_round_trip_is_bit_equal_and_lies_as_asked(saved, mesh):
    restored = saved.restore(abstract_on(mesh), warn=unexpected)
    assert restored.step == 2
    assert restored.meta == json.loads(json.dumps(META)) | {"step": 2}
    assert same_bits(restored.state, host_state(2))
    assert not same_bits(restored.state, host_state(1))
    assert restored.state["params"]["layers"]["kernel"].dtype == jnp.bfloat16
    got = jax.tree.map(lambda x: x.sharding, restored.state)
    assert got == shardings(mesh)


def test_an_earlier_step_on_request(saved, mesh):
    restored = saved.restore(abstract_on(mesh), step=1, warn=unexpected)
    assert restored.step == 1 and same_bits(restored.state, host_state(1))
    with pytest.raises(UserError, match=r"no checkpoint of step 7; it has 1, 2"):
        saved.restore(abstract_on(mesh), step=7, warn=unexpected)


@pytest.mark.parametrize(
    "sizes",
    [{"fsdp": 16}, {"fsdp": 4, "tensor": 4}, {"data": 2, "fsdp": 8}, {"fsdp": 2}, {"fsdp": 1}],
    ids=str,
)
def test_restores_on_another_mesh(saved, sizes):
    mesh = mesh_of(**sizes)
    restored = saved.restore(abstract_on(mesh), warn=unexpected)
    assert same_bits(restored.state, host_state(2))
    parts = {str(s.index) for s in restored.state["params"]["embed"].addressable_shards}
    assert len(parts) == mesh.shape["fsdp"] * mesh.shape["tensor"]


def test_optimizer_state_keeps_its_types(tmp_path):
    params = {"w": jnp.arange(6.0).reshape(2, 3)}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 10))
    )
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    state = {"params": params, "opt_state": opt_state, "step": jnp.int32(1)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    checkpoints.close()
    here = SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)
    restored = checkpoints.restore(abstract, warn=unexpected)
    assert same_bits(restored.state, state)  # the structure too: namedtuples stay what they are
    assert float(restored.state["opt_state"][1][0].mu["w"][0, 1]) != 0


def test_only_params(saved, mesh):
    abstract = {"params": abstract_on(mesh)["params"]}
    restored = saved.restore(abstract, warn=unexpected)
    assert same_bits(restored.state, {"params": host_state(2)["params"]})


def test_what_is_saved_is_what_was_there_at_the_call(tmp_path, mesh):
    """The next step overwrites the donated arrays while they are still being written."""
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    state = state_on(mesh, 5)
    checkpoints.save(5, state, META)
    after = jax.block_until_ready(overwrite(state))
    checkpoints.close()
    assert not same_bits(after, host_state(5))
    assert same_bits(checkpoints.restore(abstract_on(mesh), warn=unexpected).state, host_state(5))


def test_nothing_saved_is_none(tmp_path, mesh):
    assert Checkpoints(tmp_path / "new").restore(abstract_on(mesh), warn=unexpected) is None
    assert Checkpoints(tmp_path / "new").latest(warn=unexpected) is None
    assert not (tmp_path / "new").exists()


def test_latest_tells_without_reading_arrays(saved):
    for file in (saved.directory / "2" / "state").rglob("*"):
        if file.is_file():
            file.unlink()
    latest = saved.latest(warn=unexpected)
    assert (latest.step, latest.meta["step"]) == (2, 2)
    kernel = latest.leaves["params/layers/kernel"]
    assert (kernel.shape, kernel.dtype) == ((2, 32, 48), jnp.bfloat16)


def test_rotation_keeps_the_newest(tmp_path, mesh):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 5):
        checkpoints.save(step, state_on(mesh, step), META)
    checkpoints.close()
    assert checkpoints.steps() == [3, 4]


def test_a_step_that_is_there_is_left_as_it_is(saved, mesh):
    saved.save(2, state_on(mesh, 99), META)
    saved.close()
    restored = saved.restore(abstract_on(mesh), warn=unexpected)
    assert same_bits(restored.state, host_state(2))


def test_leftovers_of_a_killed_save_are_no_steps_and_go_away(saved, mesh):
    leftover = saved.directory / "3.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    (leftover / "state" / "junk").write_bytes(b"x" * 100)
    again = Checkpoints(saved.directory)
    assert again.steps() == [1, 2]
    again.restore(abstract_on(mesh), warn=unexpected)
    assert leftover.exists()  # a reader cleans nothing: the save may be a running job's
    again.save(4, state_on(mesh, 4), META)
    again.close()
    assert not leftover.exists()
    assert again.steps() == [2, 4]


# Damage.


def flip(data, rng):
    data = bytearray(data)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def zero_block(data, rng):
    at = rng.randrange(max(1, len(data) - 4096))
    return data[:at] + bytes(min(4096, len(data) - at)) + data[at + 4096 :]


def files_of(step_directory):
    return sorted(f for f in step_directory.rglob("*") if f.is_file() and f.stat().st_size)


def damaged_versions():
    """(name, how many trials for each data file, the damage: None deletes)."""
    return [
        ("flip", 3, flip),
        ("zero block", 1, zero_block),
        ("half", 1, lambda data, rng: data[: len(data) // 2]),
        ("one byte less", 1, lambda data, rng: data[:-1]),
        ("empty", 1, lambda data, rng: b""),
        ("deleted", 1, lambda data, rng: None),
    ]


def plain_orbax(directory, abstract):
    """The arrays as Orbax alone restores them, or None where it notices something."""
    item = {k: v for k, v in abstract["params"].items() if k == "embed"}
    args = ocp.args.PyTreeRestore(
        item={"params": item},
        restore_args=ocp.checkpoint_utils.construct_restore_args({"params": item}),
        partial_restore=True,
    )
    try:
        return ocp.PyTreeCheckpointHandler().restore(directory / "state", args=args)
    except Exception:  # whatever the file makes it raise
        return None


# Orbax leaves coroutines behind when it stops at damaged metadata.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_is_silent(saved):
    """Bit flips, zeroed blocks, truncations, deletions in every file of a step."""
    abstract, rng = abstract_on(mesh_of(fsdp=2)), random.Random(0)
    step = saved.directory / "2"
    counts = dict.fromkeys(["detected", "harmless", "orbax silent", "params good"], 0)
    trials = 0
    for file in files_of(step):
        whole = file.read_bytes()
        large = len(whole) > 10_000
        for name, times, damage in damaged_versions():
            for _ in range(times * 10 if large and name == "flip" else times):
                trials += 1
                damaged = damage(whole, rng)
                if damaged is None:
                    file.unlink()
                else:
                    file.write_bytes(damaged)
                warnings = []
                restored = saved.restore(abstract, warn=warnings.append)
                where = f"{name} in {file.relative_to(step)}"
                assert same_bits(restored.state, host_state(restored.step)), where
                assert restored.meta["step"] == restored.step, where
                if restored.step == 2:
                    assert not warnings, where
                    counts["harmless"] += 1
                else:
                    assert len(warnings) == 1 and f"{step} is passed over" in warnings[0], where
                    assert "\n" not in warnings[0]
                    counts["detected"] += 1
                    if large:
                        counts["params good"] += params_alone_are_good(saved, abstract)
                alone = plain_orbax(step, abstract)
                if alone is not None:
                    right = bits(host_state(2)["params"]["embed"])
                    counts["orbax silent"] += (
                        np.asarray(alone["params"]["embed"]).tobytes() != right
                    )
                file.write_bytes(whole)
    print(f"{trials} trials: {counts}")
    # How many are harmless depends on how Orbax lays the arrays out in files, which varies.
    assert trials > 150 and counts["detected"] > 50
    assert counts["orbax silent"] > 3  # the control: without digests this test would fail
    assert counts["params good"] > 10  # a partial restore asks only what it reads
    assert saved.restore(abstract, warn=unexpected).step == 2


def params_alone_are_good(saved, abstract):
    restored = saved.restore({"params": abstract["params"]}, warn=lambda _: None)
    assert same_bits(restored.state["params"], host_state(restored.step)["params"])
    return restored.step == 2


def damage_arrays(step_directory):
    """Flips a bit in the middle of the largest file: values, which Orbax does not check."""
    file = max(files_of(step_directory), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(bytes(data))


def test_the_warning_names_step_and_array(saved, mesh):
    damage_arrays(saved.directory / "2")
    warnings = []
    saved.restore(abstract_on(mesh), warn=warnings.append)
    # How Orbax lays out its files varies: now and then the flipped bits are no array at all.
    values = r"the values of .*(params|moments)/embed.* are not those that were saved"
    assert re.search(rf"/2 is passed over: ({values}|its arrays cannot be read)", warnings[0])


def test_no_good_step_is_an_error_never_a_new_start(saved, mesh):
    damage_arrays(saved.directory / "2")
    shutil.rmtree(saved.directory / "1" / "meta")
    warnings = []
    with pytest.raises(UserError, match=r"no checkpoint is good, of step 1, 2"):
        saved.restore(abstract_on(mesh), warn=warnings.append)
    assert len(warnings) == 2 and "meta/metadata cannot be read" in warnings[1]


def test_a_run_goes_on_over_a_damaged_step(saved, mesh):
    """It is set aside, saved anew, and never counted as one of those to keep."""
    damage_arrays(saved.directory / "2")
    again = Checkpoints(saved.directory, keep=2)
    assert again.restore(abstract_on(mesh), warn=lambda _: None).step == 1
    again.save(2, state_on(mesh, 2), META | {"step": 2})
    again.close()
    assert again.steps() == [1, 2]
    assert (saved.directory / "damaged-2").is_dir()
    restored = again.restore(abstract_on(mesh), warn=unexpected)
    assert restored.step == 2 and same_bits(restored.state, host_state(2))


def test_saving_beside_a_step_that_lost_its_files(saved, mesh):
    for file in files_of(saved.directory / "1"):
        file.unlink()
    saved.save(3, state_on(mesh, 3), META)
    saved.close()
    assert saved.restore(abstract_on(mesh), warn=unexpected).step == 3


# Another model.


def test_another_model_is_no_damage(saved, mesh):
    def refusal(change):
        abstract = abstract_on(mesh)
        change(abstract["params"])
        with pytest.raises(UserError) as error:
            saved.restore(abstract, warn=unexpected)
        return str(error.value)

    def reshape(params):
        x = params["embed"]
        params["embed"] = jax.ShapeDtypeStruct((64, 1600), x.dtype, sharding=x.sharding)

    def recast(params):
        x = params["embed"]
        params["embed"] = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding)

    def rename(params):
        params["table"] = params.pop("embed")

    where = f"{saved.directory / '2'} is a checkpoint of another model: params/"
    stored = "float32[64, 800] in the checkpoint"
    assert refusal(reshape) == f"{where}embed is {stored}, float32[64, 1600] in the model"
    assert refusal(recast) == f"{where}embed is {stored}, bfloat16[64, 800] in the model"
    text = refusal(rename)
    assert "params/table is not there in the checkpoint, float32[64, 800] in the model" in text
    assert f"params/embed is {stored}, not there in the model" in text


# The process or the disk fails.

KILLED = """
import os, random, signal, sys, time
import jax
import numpy as np
from s1jax.checkpoint import Checkpoints

directory, trials = sys.argv[1], int(sys.argv[2])

def host_state(step):
    rng = np.random.default_rng(step)
    return {"params": {"w": rng.standard_normal((500, 1000), np.float32)}, "step": np.int32(step)}

def child(pipe):
    def warn(text):
        os.write(pipe, f"warned {text}".encode())
        os._exit(1)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), host_state(0)
    )
    checkpoints = Checkpoints(directory, keep=2)
    restored = checkpoints.restore(abstract, warn=warn)
    step = 0
    if restored is not None:
        step = restored.step
        same = jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), restored.state,
                            host_state(step))
        if not all(jax.tree.leaves(same)):
            warn(f"step {step} is not what was saved")
    os.write(pipe, f"restored {step}\\n".encode())
    while True:
        step += 1
        checkpoints.save(step, jax.device_put(host_state(step), here), {"step": step})
        os.write(pipe, f"saving {step}\\n".encode())
        if step % 3 == 0:
            checkpoints.wait()
            os.write(pipe, f"committed {step}\\n".encode())

rng = random.Random(0)
committed = 0
for _ in range(trials):
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        child(writable)
    os.close(writable)
    output, saves = b"", rng.randrange(7)
    while output.count(b"saving") < saves or not output:
        output += os.read(readable, 1000)
    time.sleep(rng.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(readable, 1000):
        output += more
    os.close(readable)
    lines = [line.split() for line in output.decode().splitlines()]
    kind, step = lines[0][0], int(lines[0][1]) if lines[0][0] == "restored" else -1
    assert kind == "restored" and step >= committed, (output, committed)
    committed = max([committed] + [int(step) for kind, step in lines if kind == "committed"])
    print("ok", lines[0][1], committed)
"""


def test_kill_9_at_any_instant_loses_no_finished_step(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "checkpoints"), "10"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) == 10
    assert int(lines[-1][1]) > 10  # it really went on from one life to the next


TWO_PROCESSES = """
import sys
import jax
import numpy as np
from pathlib import Path
from jax.experimental import multihost_utils

address, index, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
jax.distributed.initialize(address, 2, index)

from s1jax import config
from s1jax.checkpoint import Checkpoints
from s1jax.mesh import make_mesh

rows = jax.NamedSharding(make_mesh(config.Mesh()), jax.P("fsdp"))

def state(step):
    w = np.random.default_rng(step).standard_normal((400, 100)).astype(np.float32)
    return {"w": jax.make_array_from_callback(w.shape, rows, lambda at: w[at])}

def restored():
    abstract = {"w": jax.ShapeDtypeStruct((400, 100), np.float32, sharding=rows)}
    got = checkpoints.restore(abstract, warn=warnings.append)
    parts = zip(got.state["w"].addressable_shards, state(got.step)["w"].addressable_shards)
    assert all((np.asarray(a.data) == np.asarray(b.data)).all() for a, b in parts)
    return got.step

def damage_what_process_1_wrote():
    if index == 0:
        files = [f for f in (directory / "3/state/ocdbt.process_1").rglob("*") if f.is_file()]
        max(files, key=lambda f: f.stat().st_size).unlink()
    multihost_utils.sync_global_devices("damaged")

warnings = []
checkpoints = Checkpoints(directory)
for step in (1, 2, 3):
    checkpoints.save(step, state(step), {})
checkpoints.wait()
assert (checkpoints.steps(), restored(), warnings) == ([2, 3], 3, [])
damage_what_process_1_wrote()
assert restored() == 2
print(*warnings)
checkpoints.save(3, state(3), {})
checkpoints.close()
assert restored() == 3 and len(warnings) == 1
"""


@pytest.mark.slow
def test_processes_agree_on_what_is_damaged(tmp_path):
    """What only one of them cannot read is passed over by both, and neither waits for ever."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", TWO_PROCESSES, address]
    processes = [
        subprocess.Popen(
            [*command, str(index), str(tmp_path / "checkpoints")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for index in range(2)
    ]
    try:
        outputs = [p.communicate(timeout=120) for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert all("/3 is passed over: its arrays cannot be read" in out for out, _ in outputs)
    assert "cannot be read by another process" in outputs[0][0]
    assert "cannot be read by another process" not in outputs[1][0]


@contextlib.contextmanager
def largest_file(size):
    """No file may grow beyond that size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# tensorstore wakes a writer whose event loop ended with the first failed one
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("notice", ["check", "wait", "close", "save"])
def test_a_full_disk_is_told_and_spares_the_steps_before(saved, mesh, notice, capfd):
    with largest_file(100_000):
        saved.save(3, state_on(mesh, 3), META)
        with pytest.raises(UserError) as error:
            if notice == "save":
                saved.save(4, state_on(mesh, 4), META)
            while notice == "check":
                saved.check()
            getattr(saved, notice)()
    text = str(error.value)
    assert f"the checkpoint of step 3 could not be written to {saved.directory}" in text
    assert "(File too large); it needs 412.0 KiB" in text
    assert text.endswith("whole are the checkpoints of step 1, 2")
    assert "ValueError" not in capfd.readouterr().err  # no traceback of Orbax's threads
    assert saved.steps() == [1, 2]
    assert saved.restore(abstract_on(mesh), warn=unexpected).step == 2
    # as a writer leaves it that outlives the failure: no step, and the next save removes it
    (saved.directory / "3.orbax-checkpoint-tmp" / "state").mkdir(parents=True, exist_ok=True)
    saved.save(4, state_on(mesh, 4), META)  # there is room again
    saved.close()
    assert sorted(p.name for p in saved.directory.iterdir()) == ["2", "4"]  # keep=2
    assert saved.restore(abstract_on(mesh), warn=unexpected).step == 4


FULL_DISK = """
import resource, sys
import jax
import jax.numpy as jnp
from pathlib import Path
from s1jax import config
from s1jax.checkpoint import Checkpoints
from s1jax.mesh import make_mesh
from s1jax.types import UserError

rows = jax.NamedSharding(make_mesh(config.Mesh()), jax.P(None, "fsdp"))
state = {"w": jax.device_put(jax.random.normal(jax.random.key(0), (500, 1600)), rows)}
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save(1, state, {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
checkpoints.save(2, state, {})
try:
    checkpoints.close()
except UserError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_is_one_sentence_on_stderr(tmp_path):
    """Sixteen shards, so that many writes fail at a time, and the exit of the process."""
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("the checkpoint of step 2 could not be written")


# What the run was.


def changed(path, value):
    meta = json.loads(json.dumps(META))
    *parents, last = path.split(".")
    node = meta
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return meta


def test_differences_field_by_field():
    assert differences(META, META) == []
    assert differences(META, json.loads(json.dumps(META))) == []
    now = changed("config.optimizer.learning_rate", 2e-5)
    line = "optimizer.learning_rate: 1e-05 in the checkpoint, 2e-05 now"
    assert differences(META, now) == [line]
    assert differences(META, changed("data_digest", "d2")) == [
        "data_digest: d1 in the checkpoint, d2 now"
    ]
    assert differences(META, changed("model.hidden_size", 64)) == [
        "config.json: hidden_size: absent in the checkpoint, 64 now"
    ]
    assert differences(META, changed("config.mesh.tensor", 4)) == []


def test_every_other_field_of_the_config_counts():
    """Whoever adds a field decides whether it changes the result; a typo here would hide one."""
    fields = {
        f"config.{section.name}.{field.name}"
        for section in dataclasses.fields(config.Config)
        if dataclasses.is_dataclass(section.type)
        for field in dataclasses.fields(section.type)
    } | {"config.seed"}
    free = {f for f in fields for pattern in MAY_CHANGE if fnmatch.fnmatch(f, pattern)}
    for field in fields:
        assert len(differences(META, changed(field, "other"))) == (field not in free), field
    for pattern in MAY_CHANGE:
        if pattern.startswith("config."):
            assert any(fnmatch.fnmatch(f, pattern) for f in fields), f"{pattern} matches no field"
    assert "config.optimizer.b2" in fields - free


def test_another_run_is_refused_unless_told():
    now = changed("config.train.epochs", 3)
    with pytest.raises(UserError) as error:
        check_same(META, now, False)
    assert "train.epochs: 5 in the checkpoint, 3 now" in str(error.value)
    assert "--config.checkpoint.allow_changes=True" in str(error.value)
    check_same(META, now, True)
    check_same(META, META, False)


# The files besides the weights.


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "source"
    directory.mkdir()
    wanted = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    wanted += ["vocab.json", "merges.txt", "chat_template.jinja", "special_tokens_map.json"]
    for name in [*wanted, "model.safetensors", "README.md"]:
        (directory / name).write_text(f"text of {name}")
    return directory, sorted(wanted)


def test_assets_are_copied_and_found(tmp_path, source, saved):
    directory, wanted = source
    with pytest.raises(UserError, match=r"model has no config\.json"):
        assets(saved.directory)
    save_assets(saved.directory, directory)
    found = assets(saved.directory)
    assert sorted(f.name for f in found.iterdir()) == wanted
    assert (found / "merges.txt").read_text() == "text of merges.txt"
    (directory / "merges.txt").unlink()
    save_assets(saved.directory, directory)
    assert not (found / "merges.txt").exists()
    assert sorted(p.name for p in saved.directory.iterdir()) == ["1", "2", "model"]
    assert saved.steps() == [1, 2]


def test_assets_are_replaced_as_a_whole_or_not_at_all(tmp_path, source, monkeypatch):
    directory, _ = source
    save_assets(tmp_path, directory)
    (directory / "config.json").write_text("new")

    def full(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space"):
            save_assets(tmp_path, directory)
    assert (assets(tmp_path) / "config.json").read_text() == "text of config.json"
    save_assets(tmp_path, directory)
    assert (assets(tmp_path) / "config.json").read_text() == "new"


def test_is_checkpoint(saved, source, tmp_path):
    assert is_checkpoint(saved.directory)
    assert not is_checkpoint(source[0])
    assert not is_checkpoint(tmp_path / "nowhere")
