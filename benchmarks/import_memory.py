"""Peak host memory of importing and exporting a checkpoint of several gigabytes.

    python benchmarks/import_memory.py [--layers=9] [--directory=/tmp]

Writes a made-up bfloat16 checkpoint shaped like Qwen2.5-7B but of fewer layers (9 of them are
6.4 GB), imports it in a process of its own and exports it again, compares every byte of the two,
and reports how far each peak (VmHWM of the kernel) lies above the parameters themselves and what
the process had before. The goal: at most the largest tensor and 1 GiB, whatever the model's size.
Needs Linux, twice the checkpoint's size of disk, and memory for the parameters and 3 GB more.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s1jax import config
from s1jax.mesh import make_mesh
from s1jax.models.config import from_hf
from s1jax.models.hf import open_checkpoint
from s1jax.models.names import entries
from s1jax.models.safetensors import read_blocks, write_file
from s1jax.models.weights import load_params, save_checkpoint

GIB = 1 << 30


def main() -> None:
    """Makes the checkpoint, measures, prints the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--directory", default=tempfile.gettempdir())
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # the process of its own
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*map(Path, args.measure))))
        return
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        made, exported = Path(scratch) / "made", Path(scratch) / "exported"
        make(made, args.layers)
        command = [sys.executable, __file__, "--measure", str(made), str(exported)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        report(json.loads(done.stdout), same_bytes(made, exported))


def make(directory: Path, layers: int) -> None:
    """Writes the checkpoint, a file for each layer and one for the rest."""
    raw = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": layers,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(raw))
    files: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
    for entry in entries(from_hf(raw)).values():
        number = 0 if entry.layer is None else entry.layer + 1
        file = f"model-{number + 1:05d}-of-{layers + 1:05d}.safetensors"
        files.setdefault(file, {})[entry.name] = ("BF16", entry.shape)
    pool = np.random.default_rng(0).standard_normal(16 << 20, np.float32).astype(jnp.bfloat16)

    def arrays(shapes: list[tuple[int, ...]]) -> Iterator[np.ndarray]:
        for number, shape in enumerate(shapes):
            yield np.resize(np.roll(pool, -1000 * number), shape)

    for file, tensors in files.items():
        shapes = [shape for _, shape in tensors.values()]
        write_file(directory / file, tensors, arrays(shapes), {"format": "pt"})
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def measure(made: Path, exported: Path) -> dict[str, Any]:
    """Bytes and seconds of an import and an export, in this process."""
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    jax.block_until_ready(jax.jit(jnp.sin)(jnp.ones(8)))  # the compiler is part of the baseline
    baseline = memory("VmRSS")
    start = time.monotonic()
    checkpoint = open_checkpoint(str(made))
    params = load_params(checkpoint, mesh, jnp.bfloat16)
    import_s = time.monotonic() - start
    import_peak = memory("VmHWM")
    time.sleep(2)  # JAX frees in the background
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again at VmRSS
    start = time.monotonic()
    save_checkpoint(exported, checkpoint.raw, params, assets=made)
    export_s = time.monotonic() - start
    return {
        "tensors": len(checkpoint.tensors),
        "largest_tensor": max(tensor.bytes for tensor in checkpoint.tensors.values()),
        "device_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
        "baseline": baseline,
        "import_peak": import_peak,
        "import_s": import_s,
        "export_peak": memory("VmHWM"),
        "export_s": export_s,
    }


def memory(field: str) -> int:
    """A line of this process's memory status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def same_bytes(made: Path, exported: Path) -> bool:
    """Whether both directories hold the same tensors, bit for bit."""
    ours, theirs = open_checkpoint(str(exported)).tensors, open_checkpoint(str(made)).tensors
    return ours.keys() == theirs.keys() and all(
        np.array_equal(a.view(np.uint16), b.view(np.uint16))
        for name, tensor in ours.items()
        for (_, a), (_, b) in zip(
            read_blocks(tensor, tensor.shape),
            read_blocks(theirs[name], tensor.shape),
            strict=True,
        )
    )


def report(found: dict[str, Any], same: bool) -> None:
    """Prints what was measured against the goal."""
    size, goal = found["device_bytes"], found["largest_tensor"] + GIB
    print(f"checkpoint   {size / GIB:.2f} GiB, {found['tensors']} tensors, bfloat16")
    print(f"largest      {found['largest_tensor'] / GIB:.2f} GiB, so the goal is {goal / GIB:.2f}")
    print(f"baseline     {found['baseline'] / GIB:.2f} GiB before the import")
    for verb in ("import", "export"):
        over = found[f"{verb}_peak"] - size - found["baseline"]
        seconds = found[f"{verb}_s"]
        print(
            f"{verb}       {over / GIB:.2f} GiB above parameters and baseline"
            f" (peak {found[f'{verb}_peak'] / GIB:.2f}), {seconds:.1f} s,"
            f" {size / seconds / 1e9:.2f} GB/s: {'within' if over <= goal else 'ABOVE'} the goal"
        )
    print(f"round trip   {'bit-equal' if same else 'DIFFERENT'}")
    print(json.dumps(found | {"bit_equal": same}))


if __name__ == "__main__":
    main()
