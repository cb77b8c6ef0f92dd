"""The verb, run as a user runs it: there and back, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fakes_hf
import pytest
import torch
import transformers

from s1jax import convert
from s1jax.checkpoint import Checkpoints
from s1jax.models import load
from s1jax.models.hf import open_checkpoint
from s1jax.models.safetensors import read_blocks
from s1jax.types import UserError


def run(*args: str) -> int:
    return convert.main(["convert", *args])


def contents(directory: Path) -> dict[str, tuple[str, bytes]]:
    tensors = open_checkpoint(str(directory)).tensors
    return {
        name: (tensor.dtype, b"".join(b.tobytes() for _, b in read_blocks(tensor, tensor.shape)))
        for name, tensor in tensors.items()
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    return fakes_hf.save(fakes_hf.make_model("qwen3", head_dim=16), directory, "20KB")


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    assert run(f"--from={model}", f"--to={directory}") == 0
    return directory


def test_there_and_back_is_bit_equal(model, checkpoint, tmp_path):
    assert run(f"--from={checkpoint}", f"--to={tmp_path / 'out'}", "--dtype=float32") == 0
    assert contents(tmp_path / "out") == contents(model)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(
        (model / "config.json").read_text()
    )


def test_a_workdir_is_exported_in_bfloat16_by_default(model, checkpoint, tmp_path):
    (checkpoint.parent / "config.json").write_text('{"seed": 1}')  # as a run leaves it
    assert run(f"--from={checkpoint.parent}", f"--to={tmp_path / 'out'}", "--step=0") == 0
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model)
    assert ours.dtype == torch.bfloat16
    for name, parameter in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], parameter.to(torch.bfloat16)), name
    assert not torch.equal(ours.lm_head.weight.float(), theirs.lm_head.weight)


def test_bfloat16_weights_stay_so_in_the_checkpoint(model, checkpoint, tmp_path):
    run(f"--from={checkpoint}", f"--to={tmp_path / 'half'}")
    run(f"--from={tmp_path / 'half'}", f"--to={tmp_path / 'checkpoint'}")
    run(f"--from={tmp_path / 'checkpoint'}", f"--to={tmp_path / 'back'}")
    assert contents(tmp_path / "back") == contents(tmp_path / "half")
    assert {dtype for dtype, _ in contents(tmp_path / "back").values()} == {"BF16"}
    for directory, dtype in ((checkpoint, "float32"), (tmp_path / "checkpoint", "bfloat16")):
        saved = Checkpoints(directory).latest(warn=pytest.fail)
        params = {name: x for name, x in saved.leaves.items() if name.startswith("params/")}
        assert {str(x.dtype) for x in params.values()} == {dtype} and params


def test_a_conversion_that_was_killed_may_be_repeated(model, tmp_path):
    (tmp_path / "to" / ".model.new").mkdir(parents=True)
    (tmp_path / "to" / "0.orbax-checkpoint-tmp-1").mkdir()
    assert run(f"--from={model}", f"--to={tmp_path / 'to'}") == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--to={tmp}/x"], "--from is missing"),
        (["--from={model}"], "--to is missing"),
        (["--from={tmp}/nowhere", "--to={tmp}/x"], "neither a directory nor a hub id"),
        (["--from={model}", "--to={tmp}/x", "--dtype=float32"], "--dtype has no meaning"),
        (["--from={model}", "--to={tmp}/x", "--step=3"], "--step has no meaning"),
        (["--from={checkpoint}", "--to={tmp}/x", "--revision=a"], "--revision has no meaning"),
        (["--from={checkpoint}", "--to={tmp}/x", "--dtype=int8"], "dtype"),
        (["--from={checkpoint}", "--to={tmp}/x", "--step=7"], "no checkpoint of step 7"),
        (["--from={checkpoint}/0", "--to={tmp}/x"], "is one step: give --from=.* --step=0"),
        (["--from={checkpoint}", "--to={model}"], "model that s1jax did not write"),
        (["--from={model}", "--to={checkpoint}"], "holds checkpoints already"),
        (["--from={model}", "--to={model}"], "name a new or an empty directory"),
        (["--from={model}", "--to={tmp}/x", "extra"], "unexpected argument"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(args, message, model, checkpoint, tmp_path):
    places = {"tmp": tmp_path, "model": model, "checkpoint": checkpoint}
    with pytest.raises(UserError, match=message) as error:
        run(*(arg.format(**places) for arg in args))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused(model, checkpoint, tmp_path):
    other = tmp_path / "checkpoints"
    run(f"--from={model}", f"--to={other}")
    fakes_hf.edit_json(other / "model" / "config.json", intermediate_size=48)
    with pytest.raises(UserError, match=r"checkpoint of another model: .*layers/mlp/down/kernel"):
        run(f"--from={other}", f"--to={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_the_exit_codes_of_the_command(model, tmp_path):
    def command(*args: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "s1jax.convert", *args],
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )

    done = command(f"--from={model}", f"--to={tmp_path / 'to'}")
    assert done.returncode == 0
    # A machine that takes over five seconds is told of its progress, and of nothing else.
    assert all(line.startswith("read ") for line in done.stderr.splitlines())
    assert done.stdout.startswith(f"wrote {tmp_path / 'to'}: ")
    mistake = command("--from=nobody/has-this-model", f"--to={tmp_path / 'no'}")
    assert mistake.returncode == 2
    assert mistake.stderr.startswith("error: 'nobody/has-this-model' is no local directory")
    assert mistake.stderr.count("\n") == 1
    helped = command("--help")
    assert helped.returncode == 0
    assert "--from" in helped.stdout


def test_progress_is_silent_for_a_moment_and_then_tells_rate_and_rest(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(load.time, "monotonic", lambda: now[0])
    progress = load.BytesProgress("read")
    progress(100, 100)
    assert capsys.readouterr().err == ""
    progress = load.BytesProgress("read")
    for second, done in ((6, 1 << 30), (7, 2 << 30), (12, 4 << 30)):
        now[0] = second
        progress(done, 4 << 30)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "read 1.0 GiB of 4.0 GiB, 170.7 MiB/s, 18 s left",
        "read 4.0 GiB of 4.0 GiB, 341.3 MiB/s, 0 s left",
    ]
