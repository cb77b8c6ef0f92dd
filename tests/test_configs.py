"""Every file in configs/ is loaded, validated, and fits the machine that it names."""

import ast
import dataclasses
import json
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from fakes_train import QUICK, SIZES, environment, write_world
from ml_collections import ConfigDict

from s1jax import train
from s1jax.config import Config, Mesh, overridden, resolve
from s1jax.mesh import make_mesh, mesh_sizes
from s1jax.models.config import from_hf
from s1jax.training.memory import Memory, memory
from s1jax.training.step import abstract_state
from s1jax.training_config import check_batch
from s1jax.types import UserError

CONFIGS = {path.stem: path for path in sorted(Path(__file__).parents[1].glob("configs/*.py"))}
NEEDED = {
    "mini",
    "smollm2_135m_cpu",
    "qwen2_5_0_5b_laptop",
    "h100_8",
    "h100_16",
    "h100_16_s1_1",
    "tpu_v5p_32",
    "tpu_v6e_64",
    "s1k",
    "own_questions",
}

# The sizes that config.json on the hub has.
HUB = {
    "Qwen/Qwen2.5-32B-Instruct": {
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
    "Qwen/Qwen2.5-7B-Instruct": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
}


def config_of(name, **overrides):
    texts = {path.replace("__", "."): str(value) for path, value in overrides.items()}
    config = runpy.run_path(str(CONFIGS[name]))["get_config"]()
    return resolve(overridden(config, texts), f"configs/{name}.py")


def docstring(name):
    return ast.get_docstring(ast.parse(CONFIGS[name].read_text()))


def devices_of(name):
    """The number of devices that the file says it needs; 1 where any will do."""
    said = re.search(r"^Devices: (\d+|any)$", docstring(name), re.MULTILINE)[1]
    return 1 if said == "any" else int(said)


def told_of_64_devices(*configs):
    """The memory of a step of each (name, sizes of the mesh), on virtual devices of a process."""
    needs = [
        (dataclasses.asdict(config_of(name)), HUB[config_of(name).model.path], sizes)
        for name, sizes in configs
    ]
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(needs)],
        env=environment(devices=64),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [Memory(**held) for held in json.loads(done.stdout)]


def tell(needs):
    """The other side: prints the memory of each."""
    told = []
    for fields, sizes, axes in needs:
        cfg = resolve(ConfigDict(fields))
        model = from_hf(SIZES | sizes | {"max_position_embeddings": 32768})
        mesh = make_mesh(Mesh(**axes), jax.devices()[: math.prod(axes.values())])
        abstract = abstract_state(cfg, model, mesh)
        rows = cfg.data.batch_size
        held = memory(cfg, model, abstract, mesh, rows, cfg.data.row_length)
        told.append(dataclasses.asdict(held))
    print(json.dumps(told))


def test_the_promised_files_are_there():
    assert set(CONFIGS) >= NEEDED


@pytest.mark.parametrize("name", CONFIGS)
def test_it_begins_with_what_it_is_and_the_command(name):
    first, *rest = docstring(name).splitlines()
    assert re.fullmatch(r"[\w\d].*\.", first)
    command = rf"    python -m s1jax\.train --config=configs/{name}\.py --workdir=\S+(?: \\)?"
    assert any(re.fullmatch(command, line) for line in rest)
    assert devices_of(name) >= 1
    assert re.search(r"^Hardware: \S", docstring(name), re.MULTILINE)


@pytest.mark.parametrize("name", CONFIGS)
def test_its_mesh_and_batch_fit_the_devices_it_names(name):
    cfg, devices = config_of(name), devices_of(name)
    sizes = mesh_sizes(cfg.mesh, devices)
    assert math.prod(sizes.values()) == devices
    assert check_batch(cfg.data, cfg.train, sizes) == []
    assert cfg.model.path
    assert cfg.data.path


def test_the_models_divide_over_their_meshes_and_the_state_fits_the_memory_named():
    """The state of the real models, described and never made."""
    names = [name for name in CONFIGS if config_of(name).model.path in HUB]
    assert len(names) >= 5
    whole = [mesh_sizes(config_of(name).mesh, devices_of(name)) for name in names]
    half = [sizes | {"fsdp": sizes["fsdp"] // 2} for sizes in whole]
    fits = told_of_64_devices(*zip(names, whole, strict=True), *zip(names, half, strict=True))
    for name, held, more in zip(names, fits, fits[len(names) :], strict=False):
        gigabytes = int(re.search(r"Hardware:.*?(\d+) GB", docstring(name), re.DOTALL)[1])
        state = held.parameters + held.moments + held.gradients
        assert state < 0.8 * gigabytes * 1e9, (name, held)
        # The control: on half the devices there is twice as much on each.
        twice = more.parameters + more.moments + more.gradients
        assert twice == pytest.approx(2 * state, rel=0.01), (name, held, more)


def test_a_mesh_for_other_devices_is_refused():
    with pytest.raises(UserError, match="needs 16 devices and 8 are here"):
        mesh_sizes(config_of("h100_16").mesh, 8)


def flat(cfg):
    return {
        f"{section}.{field}": value
        for section, fields in dataclasses.asdict(cfg).items()
        if isinstance(fields, dict)
        for field, value in fields.items()
    }


def test_s1_itself_is_the_default_and_a_mesh():
    ours, default = flat(config_of("h100_16")), flat(Config())
    changed = {key for key in ours if ours[key] != default[key]}
    assert changed == {"model.path", "data.path", "mesh.fsdp"}
    assert ours["model.path"] == "Qwen/Qwen2.5-32B-Instruct"


def test_s1_1_differs_in_its_data_and_row_length_alone():
    s1, s1_1 = flat(config_of("h100_16")), flat(config_of("h100_16_s1_1"))
    changed = {key: s1_1[key] for key in s1 if s1[key] != s1_1[key]}
    assert changed == {
        "data.path": "simplescaling/s1K-1.1",
        "data.traces": "deepseek",
        "data.row_length": 20_000,
    }


def test_s1s_own_configuration_runs_on_sixteen_devices(tmp_path, capsys):
    """A dry run of configs/h100_16.py: another model and other data, the rest as it is."""
    world = write_world(tmp_path, examples=16)
    cfg = config_of(
        "h100_16",
        model__path=world.model,
        data__path=world.data,
        data__row_length=QUICK["data.row_length"],
        train__steps=2,
        train__tensorboard=False,
    )
    assert train.train(cfg, tmp_path / "run", jax.devices()) == 0
    header = capsys.readouterr().err
    assert "fsdp=16 on 16 x cpu" in header
    assert "computed in bfloat16" in header
    assert (tmp_path / "run" / "hf" / "model.safetensors").is_file()


if __name__ == "__main__":
    tell(json.loads(sys.argv[1]))
