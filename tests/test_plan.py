"""Plans: what is reckoned, what XLA compiles for machines that are not here, and what is told."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from fakes_train import SIZES, make_config

from s1jax import plan
from s1jax.config import Config
from s1jax.hardware import GIB, HARDWARE, peak_flops
from s1jax.models.config import from_hf
from s1jax.models.published import published
from s1jax.planning import remedies, topology
from s1jax.planning.collectives import collectives
from s1jax.planning.estimate import estimate, network_s, run_estimate
from s1jax.planning.workload import assumed_examples, workload_of
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
    assert packed.useful_tokens == alone.useful_tokens == sum(map(sum, packed.lengths))
    assert alone.rows == 16 and alone.row_length == 9472
    assert alone.row_tokens == 315 * 16 * 9472
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
    model = from_hf(published("Qwen/Qwen2.5-0.5B"))
    fields = {"plan.example_tokens": 500, "plan.longest_tokens": 900, "data.pack": True}
    cfg = s1_config(**fields)
    examples, source = assumed_examples(cfg)
    sizes = {"data": 1, "fsdp": 1, "context": 1, "tensor": 1}
    load = workload_of(cfg, examples, sizes, source)
    options = {"mfu": 0.5, "recompute": 4 / 3, "price": 2.0}
    run = run_estimate(model, load, HARDWARE["h100"], 1, network_s=0.0, **options)
    needed = 6 * (model.parameters * load.row_tokens)
    assert run.seconds == pytest.approx(needed / 989e12 / 0.5, rel=0.03)  # and some attention
    assert run.dollars == pytest.approx(2 * run.seconds / 3600)
    assert run.tokens_per_s == pytest.approx(load.useful_tokens / run.seconds)
    slow = run_estimate(model, load, HARDWARE["h100"], 1, network_s=9.0, **options)
    assert slow.seconds == pytest.approx(9.0 * load.steps)
