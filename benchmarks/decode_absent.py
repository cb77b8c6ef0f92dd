"""The decode step of Qwen2.5-32B, compiled for 16 devices that are not here.

    python benchmarks/decode_absent.py --target=tpu|cuda [--rows=16] [--columns=32768] [--steps=32]

XLA's own compilers for TPU and GPU run on a CPU machine and say what the real one would be given.
Prints memory per device, whether the donated cache is updated where it lies, and what in the
program leaves the device. Needs no device, but the compilers: `pip install libtpu==0.0.42.*`, or
`pip install --no-deps jax-cuda12-plugin==V jax-cuda12-pjrt==V nvidia-cuda-nvcc-cu12` with the V of
the installed jax.
"""

import argparse
import os
import re
import time
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from s1jax import config
from s1jax.decoding import budget
from s1jax.decoding.budget import Rules
from s1jax.decoding.sampling import Sampling, settings_of
from s1jax.decoding.step import Rows, State, Static, axes_of, decode
from s1jax.mesh import DECODING, ArraySpec, make_mesh, sharding, shardings, use_rules
from s1jax.models import decoder
from s1jax.models.cache import empty_cache
from s1jax.models.config import from_hf

GIB = 2**30
QWEN = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
# What the compiler has to know of an H100 SXM, as a GpuTargetConfigProto.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
LEAVES = ("infeed", "outfeed", "send(", "recv(", "callback", "host_compute")  # the device


def main() -> None:
    """Prints what the compiler says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=("tpu", "cuda"), required=True)
    parser.add_argument("--dtype", default="bfloat16")
    sizes = {"rows": 16, "columns": 32768, "steps": 32, "layers": 64, "data": 2, "tensor": 8}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()

    mesh = make_mesh(config.Mesh(data=args.data, fsdp=1, tensor=args.tensor), devices(args.target))
    static = Static(
        from_hf(QWEN | {"num_hidden_layers": args.layers}), 151665, jnp.dtype(args.dtype), False
    )
    with jax.set_mesh(mesh), use_rules(DECODING):
        params, state, line_ends = abstract(static, mesh, args.rows, args.columns)
        started = time.monotonic()
        traced = decode.trace(static, params, state, line_ends, args.steps)
        compiled = traced.lower(lowering_platforms=(args.target,)).compile()
        seconds = time.monotonic() - started
    report(compiled, state, seconds)


def devices(target: str) -> list[Any]:
    """16 chips of a v5p slice, or 2 hosts of 8 H100."""
    if target == "tpu":
        return list(topologies.get_topology_desc("v5p:2x2x4", platform="tpu").devices)
    jax.devices()  # registers the CUDA plugin
    return list(
        topologies.get_topology_desc(
            "", platform="cuda", target_config=H100, topology="1x2x8"
        ).devices
    )


def abstract(static: Static, mesh: jax.sharding.Mesh, rows: int, columns: int) -> tuple:
    """The arguments of `decode`, described and not made."""

    def array(x: Any, axes: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        layout = sharding("array", ArraySpec(x.shape, axes), mesh)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout)

    specs = decoder.specs(static.cfg, apart=True)
    params = jax.tree.map(
        lambda spec, layout: jax.ShapeDtypeStruct(spec.shape, static.dtype, sharding=layout),
        specs,
        shardings(specs, mesh),
        is_leaf=lambda x: isinstance(x, ArraySpec),
    )
    plan = budget.plan_of(
        [Rules(30000, 2048, ends=((1,),), close=(2,), force=(2, 3), force_newline=(4, 2, 3))] * rows
    )
    zeros: Any = np.zeros(rows, np.int32)
    settings = settings_of([(Sampling(0.6, 20, 0.95), Sampling())] * rows)
    machine = jax.eval_shape(budget.start, plan)
    seeds: Any = np.zeros(rows, np.uint32)
    state_of_rows = Rows(zeros, zeros, zeros, seeds, plan, settings, machine)
    cache = jax.eval_shape(lambda: empty_cache(static.cfg, rows, columns, static.dtype))
    state = State(cache, state_of_rows)
    line_ends = array(np.zeros(static.cfg.vocab_size, np.bool_), ("features",))
    return params, jax.tree.map(array, state, axes_of(state)), line_ends


def report(compiled: Any, state: State, seconds: float) -> None:
    """Prints memory per device, and what of the program is not computation."""
    memory = compiled.memory_analysis()
    arrays = jax.tree.leaves((state.cache.k, state.cache.v))
    cache = sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays)
    text = compiled.as_text()
    print(f"compiled in {seconds:.0f} s; bytes per device:")
    for name in ("argument", "output", "alias", "temp"):
        size = getattr(memory, f"{name}_size_in_bytes")
        print(f"  {name:9} {size:>15,}  {size / GIB:7.3f} GiB")
    peak = memory.peak_memory_in_bytes
    print(f"  {'peak':9} {peak:>15,}  {peak / GIB:7.3f} GiB")
    print(f"  {'cache':9} {int(cache):>15,}  {cache / GIB:7.3f} GiB")
    donated = sum(
        np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state)
    )
    print(f"  {'state':9} {int(donated):>15,}  of which the cache is all but the rows' arrays")
    for op in COLLECTIVES:
        print(f"  {op}: {len(re.findall(rf' {op}(-start)?[(]', text))} in the text", end="")
    print(f"\nleaves the device: {[word for word in LEAVES if word in text] or 'nothing'}")


if __name__ == "__main__":
    main()
