"""How long the training step takes to compile, by depth, and what the compile cache saves of it.

    python benchmarks/compile_time.py [--layers=2,8,32,64] [--devices=cpu,v5p,h100] [--pairs=3]

By depth: a Qwen2 of small widths, for this machine's CPU, 16 absent v5p and 16 absent H100, where
their compilers are here (the extras `plan-tpu` and `plan-gpu`). The goal: for the deepest the cores
work at most 1.25 times as long as for the shallowest.

By cache: `python -m s1jax.train` on the mini config in processes of their own, with an empty cache
and then with what that left; `compile_s` of its first step, as the run itself says. The goal: at
most a fifth. All of it is the least of several times: what disturbs the machine only adds.
`--pairs=0` or `--devices=` leaves one of the two out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # of this process: what it times is cold

import jax

from s1jax.config import Config
from s1jax.mesh import make_mesh
from s1jax.models.config import ModelConfig, from_hf
from s1jax.planning.compiling import compile_traced
from s1jax.planning.topology import absent_devices, missing
from s1jax.training.programs import trace_step
from s1jax.training.step import abstract_state

GOAL_DEPTH, GOAL_CACHE = 1.25, 0.2
ROWS, ROW_LENGTH = 16, 1024


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="2,8,32,64")
    parser.add_argument("--devices", default="cpu,v5p,h100")
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    for name in filter(None, args.devices.split(",")):
        if name != "cpu" and (lacking := missing(name)):
            print(f"{name}: {lacking}")
        else:
            by_depth(name, [int(n) for n in args.layers.split(",")])
    if args.pairs:
        by_cache(args.pairs)


def by_depth(name: str, depths: list[int]) -> None:
    """Prints seconds for each number of layers, on one device or 16 that are not here."""
    devices = jax.devices("cpu")[:1] if name == "cpu" else absent_devices(name, 16)
    compiled(name, devices, 1)  # what is loaded and built once
    # Round and round, so that what disturbs the machine disturbs all of them.
    rounds = [[compiled(name, devices, layers) for layers in depths] for _ in range(2)]
    whole = []
    print(f"{len(devices)} x {name}, {ROWS} rows of {ROW_LENGTH} tokens")
    for layers, tries in zip(depths, zip(*rounds, strict=True), strict=True):
        seconds, work = (min(times) for times in zip(*tries, strict=True))
        whole.append(work)
        print(f"  {layers:3} layers  {seconds:6.2f} s, {work:6.2f} s of the cores' time")
    ratio = whole[-1] / whole[0]
    verdict = "within" if ratio <= GOAL_DEPTH else "ABOVE"
    print(f"  {depths[-1]} layers take {ratio:.2f} of {depths[0]}: {verdict} {GOAL_DEPTH}")


def compiled(name: str, devices: list[jax.Device], layers: int) -> tuple[float, float]:
    """Seconds to trace, lower and compile from nothing, and those that the cores worked for it."""
    jax.clear_caches()
    cfg = Config()
    cfg = replace(cfg, mesh=replace(cfg.mesh, fsdp=len(devices)))
    if name == "cpu":
        cfg = replace(cfg, model=replace(cfg.model, compute_dtype="float32"))
    mesh, model = make_mesh(cfg.mesh, devices), model_of(layers)
    state = abstract_state(cfg, model, mesh)
    with jax.set_mesh(mesh):
        started, worked = time.perf_counter(), time.process_time()
        compile_traced(trace_step(cfg, model, state, mesh, ROWS, ROW_LENGTH, 100), mesh)
        return time.perf_counter() - started, time.process_time() - worked


def model_of(layers: int) -> ModelConfig:
    """A Qwen2 of small widths and so many layers."""
    return from_hf(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": layers,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 128,
            "max_position_embeddings": ROW_LENGTH,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
            "hidden_act": "silu",
        }
    )


def by_cache(pairs: int) -> None:
    """Prints seconds of runs with an empty cache and with a full one."""
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as directory:
            for start, seconds in times.items():
                seconds.append(run(Path(directory), start))
    print(f"s1jax.train on configs/mini.py, compile_s, {pairs} pairs")
    for start, seconds in times.items():
        print(f"  {start}  {min(seconds):6.2f} s (up to {max(seconds):.2f})")
    ratio = min(times["warm"]) / min(times["cold"])
    verdict = "within" if ratio <= GOAL_CACHE else "ABOVE"
    print(f"  warm takes {ratio:.3f} of cold: {verdict} the goal of {GOAL_CACHE}")


def run(directory: Path, start: str) -> float:
    """Seconds of `compile` of a run whose cache lies in the directory."""
    workdir = directory / start
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [sys.executable, "-m", "s1jax.train", "--config=configs/mini.py"]
    done = subprocess.run(
        [*command, f"--workdir={workdir}", "--config.train.steps=2"],
        env=own | {"XDG_CACHE_HOME": str(directory), "JAX_PLATFORMS": os.environ["JAX_PLATFORMS"]},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line)["compile_s"] for line in lines)


if __name__ == "__main__":
    main()
