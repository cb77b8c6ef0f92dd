"""Real training steps of small models, traced and compiled for devices that need not be there."""

import dataclasses
import functools
import math
import os
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
from fakes_train import QUICK, SIZES, dotted, make_config

from s1jax.config import Config
from s1jax.mesh import ArraySpec, make_mesh, sharding
from s1jax.models.config import ModelConfig, from_hf
from s1jax.training.step import BATCH_AXES, Batch, abstract_state, make_step

# An H100 SXM, as XLA's compiler for GPUs wants to be told of it.
H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32
shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048
core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536
registers_per_block_limit: 65536 } platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 } device_description_str: "NVIDIA H100 80GB HBM3" """


@dataclass(frozen=True)
class Step:
    """A training step that is described and not run."""

    cfg: Config
    model: ModelConfig
    traced: Any

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.cfg.data.batch_size * self.cfg.data.row_length

    def hlo(self, platform: str) -> str:
        """The program that XLA makes of it for `cpu`, `cuda` or `tpu`."""
        lowered = self.traced.lower(lowering_platforms=(platform,))
        with warnings.catch_warnings():
            # The compile cache keeps programs for absent devices and cannot read them back.
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
            return lowered.compile().as_text()


def step(devices: list | None = None, raw: dict[str, Any] | None = None, **fields: Any) -> Step:
    """The step of a quick config with these fields (`train__remat` for `train.remat`)."""
    cfg = make_config(QUICK | dotted(fields))
    model = from_hf(SIZES | (raw or {}) | {"max_position_embeddings": 1 << 20})
    used = jax.devices()[: math.prod(dataclasses.astuple(cfg.mesh))]
    mesh = make_mesh(cfg.mesh, used if devices is None else devices)
    slices = cfg.train.accumulation_steps
    shape = (slices, cfg.data.batch_size // slices, cfg.data.row_length)
    spec = ArraySpec(shape, BATCH_AXES)
    layout = sharding("batch", spec, mesh)

    def array(dtype: type) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(spec.shape, dtype, sharding=layout)

    integers = array(np.int32)
    batch = Batch(integers, integers, array(np.float32), integers, integers)
    state = abstract_state(cfg, model, mesh)
    layouts = jax.tree.map(lambda x: x.sharding, state)
    with jax.set_mesh(mesh):
        jitted = jax.jit(make_step(cfg, model, 10), donate_argnums=0, out_shardings=(layouts, None))
        return Step(cfg, model, jitted.trace(state, batch))


@functools.lru_cache
def absent(kind: str) -> list:
    """16 devices that are not here: "cuda", two hosts of 8 H100; "tpu", v5p chips.

    Skips the test where XLA's compiler for them is not installed, or cannot be had just now.
    """
    from jax.experimental.topologies import get_topology_desc

    # As on a host with neither: no cloud is asked what it is, and others may compile meanwhile.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    pytest.importorskip({"cuda": "jax_plugins.xla_cuda12", "tpu": "libtpu"}[kind])
    jax.devices()  # registers the plugins
    try:
        if kind == "tpu":
            topology = get_topology_desc(platform="tpu", topology_name="v5p:2x2x4")
        else:
            topology = get_topology_desc(
                platform="cuda", topology_name="", target_config=H100, topology="1x2x8"
            )
    except Exception as error:  # whatever the plugin has to say
        pytest.skip(f"no compiler for {kind}: {str(error)[:200]}")
    return list(topology.devices)
