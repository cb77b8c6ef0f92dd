"""Plans: what is reckoned, what XLA compiles for machines that are not here, and what is told."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from fakes_train import QUICK, SIZES, dotted, make_config

from s1jax.config import Config, overridden, resolve
from s1jax.hardware import GIB, HARDWARE, peak_flops
from s1jax.mesh import make_mesh
from s1jax.models.config import from_hf
from s1jax.models.published import published
from s1jax.planning import rehearsal, remedies, topology
from s1jax.planning.buffers import has_square
from s1jax.planning.collectives import collectives
from s1jax.planning.compiling import compile_train
from s1jax.planning.estimate import Work, estimate, network_s, run_estimate
from s1jax.planning.workload import assumed_examples, workload_of
from s1jax.sections import to_config_dict
from s1jax.types import UserError

ROOT = Path(__file__).parent.parent

PARAMETERS = {  # that the makers name, or that the weights on the hub have
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
}


@pytest.mark.parametrize("path", PARAMETERS)
def test_published_sizes_have_the_parameters_that_their_makers_name(path):
    raw = published(path)
    assert raw is not None
    assert from_hf(raw).parameters == PARAMETERS[path]


def test_only_known_models_have_published_sizes():
    assert published("Qwen/Qwen2.5-Math-7B") is None
    assert published("Qwen/Qwen2.5-33B") is None


@pytest.mark.parametrize(
    ("name", "devices", "shape"),
    [
        ("v5p", 16, (2, 2, 4)),
        ("v5p", 4, (2, 2, 1)),
        ("v5p", 8, (2, 2, 2)),
        ("v5p", 128, (4, 4, 8)),
        ("v6e", 64, (8, 8)),
        ("v6e", 32, (4, 8)),
        ("v6e", 1, (1, 1)),
        ("tpu7x", 16, (2, 2, 2)),
    ],
)
def test_slices_are_as_square_as_they_can_be(name, devices, shape):
    assert topology.slice_shape(HARDWARE[name], devices) == shape


def test_what_is_no_machine_is_refused():
    with pytest.raises(UserError, match="slices have 1, 2, 4, 8"):
        topology.slice_shape(HARDWARE["v5p"], 12)
    with pytest.raises(UserError, match="must divide by 8"):
        topology.absent_devices("h100", 12)


def test_the_peak_of_a_device_is_found_by_its_kind():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == peak_flops("TPU v5e") == 197e12
    assert peak_flops("cpu") is None


# Workloads.


def s1_config(**fields) -> Config:
    return make_config(
        {"model.path": "Qwen/Qwen2.5-32B-Instruct", "plan.hardware": "h100"} | fields
    )


def test_assumed_lengths_have_the_mean_and_the_longest_that_the_config_names():
    cfg = s1_config(**{"plan.example_tokens": 5300, "plan.longest_tokens": 9400})
    examples, source = assumed_examples(cfg)
    lengths = np.array([len(example.tokens) for example in examples])
    assert len(lengths) == 1000
    assert lengths.mean() == pytest.approx(5300, rel=0.01)
    assert lengths.max() == 9400
    assert "1,000 examples of 5,3" in source
    full, _ = assumed_examples(s1_config())
    assert {len(example.tokens) for example in full} == {32_768}


def test_a_workload_counts_the_tokens_of_rows_and_of_examples():
    fields = {"plan.example_tokens": 5300, "plan.longest_tokens": 9400}
    sizes = {"data": 1, "fsdp": 2, "context": 8, "tensor": 1}
    examples, source = assumed_examples(s1_config(**fields))
    packed = workload_of(s1_config(**{"data.pack": True}), examples, sizes, source)
    alone = workload_of(s1_config(), examples, {**sizes, "fsdp": 16, "context": 1}, source)
    assert packed.steps == alone.steps == 315
    assert packed.useful_tokens == alone.useful_tokens
    assert alone.rows == 16 and alone.row_length == 9472
    assert alone.row_tokens == 315 * 16 * alone.row_length
    assert sum(packed.step_pairs) < sum(alone.step_pairs)
    assert packed.useful_share > 0.95 > alone.useful_share


# Estimates.


def test_a_step_takes_as_long_as_its_operations_at_the_assumed_share_or_as_its_network():
    h100 = HARDWARE["h100"]
    one = 16 * h100.flops  # a second of all of them at the peak
    by_compute = estimate(4 / 3 * one, 0.1, h100, 16, 0.45)
    assert by_compute.compute_s == pytest.approx(4 / 3)
    assert by_compute.step_s == pytest.approx(1 / 0.45)  # what the model needs, at 45%
    assert estimate(one, 5.0, h100, 16, 0.45).step_s == 5.0


def test_a_ring_over_hosts_goes_through_all_their_adapters():
    text = """HloModule m, num_partitions=16

ENTRY %main (p: bf16[4,8]) -> bf16[64,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %g = bf16[64,8]{1,0} all-gather(%p), replica_groups=GROUPS, dimensions={0}
}
"""
    size = 64 * 8 * 2

    def seconds(groups: str, devices: int) -> float:
        found = collectives(text.replace("GROUPS", groups))
        assert found["all-gather"].bytes == pytest.approx(size * devices / 16)
        return network_s(found, HARDWARE["h100"])

    whole = "{{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}"
    # 15/16 of the array in 8 rings, each through one adapter of 50 GB/s.
    assert seconds(whole, 16) == pytest.approx(size * 15 / 16 / 400e9)
    inside = "{{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}"
    assert seconds(inside, 8) == pytest.approx(size / 2 * 7 / 8 / 450e9)
    pairs = "{{0,8},{1,9},{2,10},{3,11},{4,12},{5,13},{6,14},{7,15}}"
    assert seconds(pairs, 2) == pytest.approx(size / 8 * 1 / 2 / 50e9)


def test_a_run_is_the_sum_of_its_steps():
    fields = {"plan.example_tokens": 500, "plan.longest_tokens": 900, "data.pack": True}
    cfg = s1_config(**fields)
    examples, source = assumed_examples(cfg)
    sizes = {"data": 1, "fsdp": 1, "context": 1, "tensor": 1}
    load = workload_of(cfg, examples, sizes, source)
    # A step of 1,000 tokens and 4,000 pairs of them takes 3e15 + 1e15 operations.
    work = Work(3e15, 1e15, 1000, 4000)
    options = {"mfu": 0.5, "price": 2.0}
    run = run_estimate(work, load, HARDWARE["h100"], 1, network_s=0.0, **options)
    needed = 3e12 * load.row_tokens + 0.25e12 * sum(load.step_pairs)
    assert run.seconds == pytest.approx(needed / 989e12 / (0.5 * 4 / 3))
    assert run.dollars == pytest.approx(2 * run.seconds / 3600)
    assert run.tokens_per_s == pytest.approx(load.useful_tokens / run.seconds)
    slowest = estimate(
        work.of(max(load.step_tokens), max(load.step_pairs)), 0, HARDWARE["h100"], 1, 0.5
    )
    wait = 10 * slowest.step_s
    slow = run_estimate(work, load, HARDWARE["h100"], 1, network_s=wait, **options)
    assert slow.seconds == pytest.approx(wait * load.steps)


def test_packed_rows_pay_for_the_pairs_of_their_examples_alone():
    fields = {"plan.example_tokens": 500, "plan.longest_tokens": 900}
    sizes = {"data": 1, "fsdp": 1, "context": 1, "tensor": 1}
    loads = []
    for pack in (True, False):
        cfg = s1_config(**fields, **{"data.pack": pack})
        loads.append(workload_of(cfg, *[assumed_examples(cfg)[0], sizes, ""]))
    packed, alone = loads
    lengths = [len(example.tokens) for example in assumed_examples(s1_config(**fields))[0]]
    # Five epochs of 63 steps of 16, of 1,000 examples.
    whole = 315 * 16 / 1000 * sum(n * (n + 1) / 2 for n in lengths)
    assert sum(packed.step_pairs) == pytest.approx(whole, rel=0.01)
    assert sum(alone.step_pairs) == 315 * 16 * 896 * 897 // 2 or alone.row_length == 1024


# Compiled for what is not here.

SMALL = {
    "model.path": "small",
    "model.compute_dtype": "bfloat16",
    "data.row_length": 2048,
    "data.batch_size": 8,
    "train.remat": "full",
    "plan.example_tokens": 2048,
}
WIDE = SIZES | {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_hidden_layers": 3,
    "vocab_size": 4099,  # as no other size
    "max_position_embeddings": 8192,
}


def card(hardware: str, compiles: bool = True, **fields):
    if compiles and (lacking := topology.missing(hardware)):
        pytest.skip(lacking)
    cfg = make_config(SMALL | {"plan.hardware": hardware} | dotted(fields))
    inputs = remedies.Inputs(from_hf(WIDE), *assumed_examples(cfg), compiles)
    return remedies.card_of(cfg, inputs)


@pytest.fixture
def as_before():
    """Compiling for absent devices turns the compile cache off; others want it."""
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.mark.parametrize(
    ("hardware", "kernel", "pack"),
    [
        pytest.param("v5p", "splash", False, marks=pytest.mark.slow),
        ("h100", "triton", True),
        ("h100", "cudnn", False),
    ],
)
def test_the_card_of_a_compiled_step_agrees_with_what_is_reckoned(
    as_before, hardware, kernel, pack
):
    sizes = {"mesh__fsdp": 2, "mesh__context": 4} if pack else {"mesh__fsdp": 8}
    made = card(hardware, data__pack=pack, **sizes)
    told = card(hardware, compiles=False, data__pack=pack, **sizes)
    assert made.fits and made.seconds > 0 == told.seconds
    assert made.kernels[0] == f"attention {kernel}"
    for kind in ("parameters", "Adam's moments"):
        assert made.memory[kind] == told.memory[kind] > 0
    assert sum(made.memory.values()) == made.peak_bytes
    assert made.ideal_bytes == told.ideal_bytes > 0
    products, attention = made.again
    assert 1.15 < products < 4 / 3  # the head is not computed again, nor the last product
    assert 1.3 < attention < 2.2  # flash attention computes its scores again, twice with remat
    if hardware == "h100":  # a small model is not split in the best way on TPUs
        assert made.sent_bytes == pytest.approx(made.ideal_bytes, rel=0.15)
    text = made.text()
    assert max(map(len, text.splitlines())) <= 100
    assert f"{made.peak_bytes / GIB:.2f} GiB" in text and "fits" in text
    assert json.loads(json.dumps(made.figures()))["fits"] is True


@pytest.mark.parametrize(
    ("hardware", "pack"),
    [pytest.param("v5p", True, marks=pytest.mark.slow), ("h100", True), ("h100", False)],
)
def test_no_step_holds_scores_or_logits_of_whole_rows(as_before, monkeypatch, hardware, pack):
    if lacking := topology.missing(hardware):
        pytest.skip(lacking)
    # Rows of 2,944 tokens: a length that divides no size of the model.
    fields = {"data__pack": pack, "data__row_length": 2944, "plan__example_tokens": 2944}
    cfg = make_config(
        SMALL
        | {"plan.hardware": hardware, "mesh.fsdp": 4, "train.loss_chunk_tokens": 256}
        | dotted(fields)
    )
    mesh = make_mesh(cfg.mesh, topology.absent_devices(hardware, 4))

    def hlo(attention: str) -> str:
        model = dataclasses.replace(cfg.model, attention=attention)
        changed = dataclasses.replace(cfg, model=model)
        return compile_train(changed, from_hf(WIDE), mesh, 8, 2944, 10).hlo

    text = hlo("auto")
    assert not has_square(text, 2944)
    assert not has_square(text, 2944, 4099)
    if hardware == "h100" and pack:  # the control
        monkeypatch.setattr("s1jax.models.attention.MAX_BLOCKS", 1)
        assert has_square(hlo("xla"), 2944)


def test_what_does_not_fit_is_told_with_what_to_change(as_before):
    """Reckoned, so that it needs no compiler: remat, then moments, then rows, then the mesh."""
    cfg = s1_config(
        **{
            "data.batch_size": 8,
            "train.remat": "none",
            "mesh.fsdp": 8,
            "plan.example_tokens": 32768,
        }
    )
    inputs = remedies.Inputs(from_hf(published(cfg.model.path)), *assumed_examples(cfg), False)
    assert not remedies.card_of(cfg, inputs).fits
    order = [change.text for change in remedies.changes(cfg, inputs)]
    words = ("mesh", "row_length", "moment", "remat")  # the last that a change adds
    kinds = [next(word for word in words if word in text) for text in order]
    assert list(dict.fromkeys(kinds)) == ["remat", "moment", "row_length", "mesh"]
    told = remedies.advice(cfg, inputs)
    first, *rest = told.splitlines()
    assert first.startswith("it fits with --config.")
    assert "fits" in "\n".join(rest)
    # What it says is so.
    texts = dict(re.findall(r"--config\.([\w.]+)=(\S+?):?(?=\s|$)", first))
    values = overridden(to_config_dict(cfg), {k: v.rstrip(":") for k, v in texts.items()})
    assert remedies.card_of(resolve(values), inputs).fits


# The command.


def command(*flags: str, devices: int = 1) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "s1jax.plan", *flags],
        env=os.environ | {"XLA_FLAGS": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_prints_a_card_and_writes_its_figures(tmp_path):
    done = command("--config=configs/h100_16.py", "--reckon", f"--json={tmp_path / 'card.json'}")
    assert done.returncode == 0, done.stderr
    assert "one train step on 16 x H100 80 GB" in done.stdout
    assert "fsdp=4 x context=4" in done.stdout
    assert "(reckoned): fits" in done.stdout
    figures = json.loads((tmp_path / "card.json").read_text())
    assert figures["fits"] is True and figures["devices"] == 16
    assert figures["run"]["seconds"] < 13 * 60  # s1 needed 26 minutes


def test_a_compiler_that_is_missing_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    assert "pip install 's1jax[plan-gpu]'" in topology.missing("h100")
    assert "pip install 's1jax[plan-tpu]'" in topology.missing("v5p")
    assert "by its cores" in topology.missing("v4")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config=configs/mini.py"], "plan.hardware is empty"),
        (
            ["--config=configs/mini.py", "--config.plan.hardware=h100"],
            "plan.devices is not set",
        ),
        (["--config=configs/h100_16.py", "--config.plan.hardware=h10"], 'did you mean "h100"?'),
        (
            ["--config=configs/h100_16.py", "--reckon", "--config.mesh.context=3"],
            "must divide by mesh.context=3",
        ),
        (
            ["--config=configs/h100_16.py", "--rehearse", "--meshes=fsdp"],
            '"fsdp" is no mesh: write as in fsdp=2:context=8',
        ),
        (
            ["--config=configs/h100_16.py", "--json=/nowhere/card.json", "--reckon"],
            "cannot be written",
        ),
    ],
)
def test_a_users_mistake_is_one_sentence(flags, words):
    done = command(*flags)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_rehearsal_gives_the_losses_of_one_device_on_every_mesh():
    done = command(
        "--config=configs/h100_8.py", "--rehearse", "--meshes=data=2:fsdp=2:tensor=2,context=8"
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if re.search(r"\de-\d\d$|0\.0e\+00$", line)]
    assert len(rows) == 4
    assert "the losses agree" in done.stdout


def test_a_rehearsal_sees_what_a_mesh_computes_otherwise(monkeypatch):
    sizes = {"mesh.fsdp": 2, "mesh.context": 2}
    cfg = make_config(QUICK | {"model.path": "small", "data.batch_size": 8} | sizes)
    model = from_hf(SIZES | {"num_hidden_layers": 1})
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the devices are here already
    told = rehearsal.rehearsal(cfg, model, [])
    assert told.agree and len(told.performances) == 2
    to_devices = rehearsal.to_devices

    def wrong(arrays, mesh):
        if mesh.shape["context"] > 1:
            arrays.weights[:, 0] *= 1.01
        return to_devices(arrays, mesh)

    monkeypatch.setattr(rehearsal, "to_devices", wrong)
    told = rehearsal.rehearsal(cfg, model, [])
    assert [its.off < 1e-5 for its in told.performances] == [True, False]
    assert not told.agree and "DIFFER" in told.text()
