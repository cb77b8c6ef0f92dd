"""Machines that are not here: devices to compile for, with XLA's own compilers for GPUs and TPUs.

Nothing of it touches an accelerator. The compilers come as packages: the extras `plan-gpu` and
`plan-tpu`, or those with which one runs on such machines (`gpu`, `tpu`).
"""

import importlib.util
import math
import os
from typing import Any

import jax
from jax.experimental import topologies

from s1jax.hardware import HARDWARE, Hardware
from s1jax.noise import hushed
from s1jax.types import UserError

_PACKAGES = {"cuda": ("jax_cuda12_plugin", "plan-gpu"), "tpu": ("libtpu", "plan-tpu")}

# What the compiler for GPUs asks of a device (xla: stream_executor/device_description.proto), as
# the drivers of these boards tell it.
_HOPPER = """
threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132
fpus_per_core: 128 shared_memory_per_block: 49152 shared_memory_per_core: 233472
shared_memory_per_block_optin: 232448 registers_per_core_limit: 65536
registers_per_block_limit: 65536 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
block_dim_limit_z: 65535 l2_cache_size: 52428800 clock_rate_ghz: 1.98
cuda_compute_capability { major: 9 minor: 0 }
"""
_AMPERE = """
threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 108
fpus_per_core: 64 shared_memory_per_block: 49152 shared_memory_per_core: 167936
shared_memory_per_block_optin: 166912 registers_per_core_limit: 65536
registers_per_block_limit: 65536 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
block_dim_limit_z: 65535 l2_cache_size: 41943040 clock_rate_ghz: 1.41
cuda_compute_capability { major: 8 minor: 0 }
"""
_BOARDS = {  # facts, bytes of memory, and what the driver calls it
    "a100": (_AMPERE, 84_987_740_160, "NVIDIA A100-SXM4-80GB"),
    "h100": (_HOPPER, 84_942_979_072, "NVIDIA H100 80GB HBM3"),
    "h200": (_HOPPER, 150_121_545_728, "NVIDIA H200"),
}


def missing(name: str) -> str | None:
    """What is lacking to compile for this hardware, as one sentence; None if nothing is."""
    hardware = HARDWARE[name]
    if not hardware.compiles:
        return f"XLA's compiler lays a {hardware.title} out by its cores, not as JAX does"
    module, extra = _PACKAGES[hardware.platform]
    if importlib.util.find_spec(module) is None:
        return f"the compiler for {hardware.title} is not here: pip install 's1jax[{extra}]'"
    return None


def absent_devices(name: str, count: int) -> list[Any]:
    """So many devices of this hardware, as jax.Device-like objects to make a mesh of.

    Raises UserError if no machine or slice has so many.
    """
    hardware = HARDWARE[name]
    with hushed():
        _register()
        if hardware.platform == "cuda":
            return _gpus(name, hardware, count)
        return _tpus(name, hardware, count)


def _register() -> None:
    # Compilers are found when JAX looks for devices, and there is to be no other than the CPU.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing of it touches a TPU
    jax.config.update("jax_platforms", "cpu")
    # The cache would keep programs of absent devices, and cannot read them back.
    jax.config.update("jax_enable_compilation_cache", False)
    jax.devices()


def _gpus(name: str, hardware: Hardware, count: int) -> list[Any]:
    hosts, rest = divmod(count, hardware.host_devices)
    if hosts and rest:
        raise UserError(
            f"{count} x {hardware.title}: more than one host has {hardware.host_devices} each, so"
            f" their number must divide by {hardware.host_devices}"
        )
    facts, memory_bytes, title = _BOARDS[name]
    target = (
        f"gpu_device_info {{ {facts} memory_bandwidth: {int(hardware.bandwidth)}"
        f' device_memory_size: {memory_bytes} }} platform_name: "CUDA"'
        " dnn_version_info { major: 9 minor: 8 patch: 0 }"
        f' device_description_str: "{title}"'
    )
    shape = f"1x{max(hosts, 1)}x{min(count, hardware.host_devices)}"
    return list(
        topologies.get_topology_desc(
            platform="cuda", topology_name="", target_config=target, topology=shape
        ).devices
    )


def _tpus(name: str, hardware: Hardware, count: int) -> list[Any]:
    shape = slice_shape(hardware, count)
    options = {}
    if math.prod(shape) < 4:  # less than a host
        options["chips_per_host_bounds"] = [*shape, *[1] * (3 - len(shape))]
    return list(
        topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:{'x'.join(map(str, shape))}", **options
        ).devices
    )


def slice_shape(hardware: Hardware, count: int) -> tuple[int, ...]:
    """The chips of a slice with so many devices along each dimension: 16 v5p are 2 x 2 x 4.

    Raises UserError if there is no such slice.
    """
    chips, rest = divmod(count, hardware.chip_devices)
    if rest or chips & (chips - 1) or not chips:
        raise UserError(
            f"{count} x {hardware.title}: slices have 1, 2, 4, 8, ... times"
            f" {hardware.chip_devices} devices"
        )
    # Powers of two, as equal as they can be, and the largest last.
    exponent, torus = chips.bit_length() - 1, hardware.torus
    shape = [2 ** ((exponent + i) // torus) for i in range(torus)]
    if torus == 3 and chips == 4:
        shape = [2, 2, 1]
    return tuple(shape)
