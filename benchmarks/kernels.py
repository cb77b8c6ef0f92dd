"""Every attention kernel against the plain one in float32, and the chunked one's time on CPU.

    python benchmarks/kernels.py [--lengths=512,1024,2048,4096,8192] [--pairs=5]

The first table is of errors: the largest difference of result, loss and gradients from `attend_xla`
in float32, over the largest number there. Kernels of accelerators that are not here run as plain
JAX (Pallas's interpreter; cuDNN's call as XLA computes it). "context" is the packed batch over
4 virtual devices that split each row. The second table is of the time of forward and backward pass
over `attend_xla`'s, medians of alternating pairs.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from s1jax import config
from s1jax.mesh import make_mesh, partition
from s1jax.models.attention import attend_xla
from s1jax.models.kernels.chunked import attend_chunked
from s1jax.models.kernels.cudnn import attend_cudnn
from s1jax.models.kernels.over_mesh import WholeRows, attend_over_mesh
from s1jax.models.kernels.splash import attend_splash
from s1jax.models.kernels.triton import attend_triton

Arrays = list[jax.Array]
LENGTH, HEADS, KV_HEADS, HEAD_DIM = 384, 10, 2, 64  # of the table of errors
EXAMPLES = (100, 1, 150, 120)  # tokens of a packed row; 13 are padding


def attend_plain(
    q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, segments: jax.Array
) -> jax.Array:
    """`attend_xla` as the kernels are called."""
    columns = {"q_positions": positions, "k_positions": positions}
    return attend_xla(q, k, v, **columns, q_segments=segments, k_segments=segments)


KERNELS: dict[str, WholeRows] = {
    "xla": attend_plain,
    "chunked": attend_chunked,
    "triton": lambda q, k, v, p, s: attend_triton(q, k, v, p, s, True),
    "cudnn": lambda q, k, v, p, s: attend_cudnn(q, k, v, p, s, "xla"),
    "splash": lambda q, k, v, p, s: attend_splash(q, k, v, p, s, True),
}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    print("kernel   rows      dtype      output   loss     d_q      d_k      d_v")
    for case in ("unpacked", "packed", "context"):
        x = arrays((LENGTH - 13,) if case == "unpacked" else EXAMPLES, LENGTH)
        truth = everything(attend_plain, x, jnp.float32, over_mesh=False)
        for name, kernel in KERNELS.items():
            if name == "cudnn" and case != "unpacked":
                continue  # it is for rows of one example
            for dtype in (jnp.float32, jnp.bfloat16):
                ours = everything(kernel, x, dtype, over_mesh=case == "context")
                errors = [
                    np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, truth, strict=True)
                ]
                written = " ".join(f"{error:8.1e}" for error in errors)
                print(f"{name:8} {case:9} {jnp.dtype(dtype).name:9} {written}", flush=True)
    print(
        f"\ntokens   rows      chunked over xla ({os.cpu_count()} cores, 9 heads, 3 kv heads of 64)"
    )
    for length in map(int, args.lengths.split(",")):
        for case, share in {"unpacked": (1.0,), "packed": (0.4, 0.3, 0.2, 0.08)}.items():
            lengths = tuple(int(length * part) for part in share)
            x = arrays(lengths, length, heads=9, kv_heads=3)
            print(f"{length:6}   {case:9} {ratio(x, args.pairs)}", flush=True)


def arrays(
    lengths: tuple[int, ...], length: int, heads: int = HEADS, kv_heads: int = KV_HEADS
) -> Arrays:
    """Queries, keys, values, the loss's weights, positions and segments of one row."""
    rng = np.random.default_rng(0)
    shapes = [(1, length, n, HEAD_DIM) for n in (heads, kv_heads, kv_heads, heads)]
    segments = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, length - sum(lengths)])
    starts = np.cumsum([0, *lengths])[np.where(segments == 0, len(lengths), segments - 1)]
    floats = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    positions = (np.arange(length) - starts)[None].astype(np.int32)
    return [*floats, jnp.asarray(positions), jnp.asarray(segments[None].astype(np.int32))]


def everything(kernel: WholeRows, x: Arrays, dtype: Any, over_mesh: bool) -> list[np.ndarray]:
    """Result, loss and gradients, as float32."""
    x = [a.astype(dtype) if i < 3 else a for i, a in enumerate(x)]
    if not over_mesh:
        return _numpy(differentiated(kernel)(*x))
    mesh = make_mesh(config.Mesh(fsdp=1, context=4))
    with jax.set_mesh(mesh):
        heads = NamedSharding(mesh, partition(("batch", "seq", "heads", "head_dim")))
        columns = NamedSharding(mesh, partition(("batch", "seq")))
        laid = [jax.device_put(a, heads if a.ndim == 4 else columns) for a in x]
        if kernel is not attend_plain:  # which finds the mesh itself
            kernel = functools.partial(attend_over_mesh, kernel)
        return _numpy(differentiated(kernel)(*laid))


def _numpy(result: Any) -> list[np.ndarray]:
    (loss, gathered), gradients = result
    return [np.asarray(x, np.float32) for x in (gathered, loss, *gradients)]


def differentiated(kernel: WholeRows) -> Callable[..., Any]:
    """Loss, result and gradients, jitted."""

    def loss(
        q: jax.Array, k: jax.Array, v: jax.Array, pull: jax.Array, p: jax.Array, s: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        gathered = kernel(q, k, v, p, s).astype(jnp.float32)
        gathered = jnp.where((s != 0)[..., None, None], gathered, 0)
        return (gathered * pull).sum(), gathered

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


def ratio(x: Arrays, pairs: int) -> str:
    """The median and the range of the pairs' ratios."""
    runs = [differentiated(kernel) for kernel in (attend_chunked, attend_plain)]
    ratios = []
    for pair in range(pairs + 1):
        times = []
        for run in runs:
            started = time.perf_counter()
            jax.block_until_ready(run(*x))
            times.append(time.perf_counter() - started)
        if pair:  # the first one compiles
            ratios.append(times[0] / times[1])
    return f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
