"""Every file in configs/ is loaded, validated, and fits the machine that it names."""

import ast
import dataclasses
import math
import re
import runpy
from pathlib import Path

import jax
import pytest
from fakes_train import QUICK, write_world

from s1jax import train
from s1jax.config import Config, overridden, resolve
from s1jax.mesh import mesh_sizes
from s1jax.models.config import from_hf
from s1jax.models.published import published
from s1jax.planning import remedies
from s1jax.planning.workload import assumed_examples
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


def test_the_models_divide_over_their_meshes_and_fit_the_machines_named():
    """Reckoned, with nothing compiled: what XLA's compilers say is in BUILD_NOTES.md."""
    names = [name for name in CONFIGS if config_of(name).plan.hardware]
    assert len(names) >= 5
    for name in names:
        cfg = config_of(name)
        assert remedies.devices_of(cfg) == devices_of(name)
        model = from_hf(published(cfg.model.path))
        inputs = remedies.Inputs(model, *assumed_examples(cfg), compiles=False)
        card = remedies.card_of(cfg, inputs)
        assert card.fits, card.text()
        # The control: on a quarter of the devices the state alone is four times as much on each.
        sizes = dataclasses.replace(cfg.mesh, context=cfg.mesh.context // 4)
        fewer = remedies.card_of(dataclasses.replace(cfg, mesh=sizes), inputs)
        for kind in ("parameters", "Adam's moments"):
            assert fewer.memory[kind] == pytest.approx(4 * card.memory[kind], rel=0.01)


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


def test_s1_itself_is_the_default_a_mesh_and_rows_that_are_shared():
    ours, default = flat(config_of("h100_16")), flat(Config())
    changed = {key for key in ours if ours[key] != default[key]}
    assert changed == {
        *("model.path", "data.path", "data.pack", "mesh.fsdp", "mesh.context"),
        *("plan.hardware", "plan.example_tokens", "plan.longest_tokens"),
    }
    assert ours["model.path"] == "Qwen/Qwen2.5-32B-Instruct"


def test_s1_1_differs_in_its_data_and_row_length_alone():
    s1, s1_1 = flat(config_of("h100_16")), flat(config_of("h100_16_s1_1"))
    changed = {key: s1_1[key] for key in s1 if s1[key] != s1_1[key]}
    assert changed == {
        "data.path": "simplescaling/s1K-1.1",
        "data.traces": "deepseek",
        "data.row_length": 20_000,
        "data.packed_row_length": 65_536,
        "plan.example_tokens": 9850,
        "plan.longest_tokens": 20_000,
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
    assert "fsdp=4 x context=4 on 16 x cpu" in header
    assert "computed in bfloat16" in header
    assert (tmp_path / "run" / "hf" / "model.safetensors").is_file()
