"""The table of plans: the memory, the traffic and the time that XLA's compilers give for real runs.

    python benchmarks/plans.py [--only=WORD,WORD]

Needs the compilers: pip install 's1jax[plan-gpu,plan-tpu]'. Nothing runs on an accelerator; times
are estimates at 45% of the peak. A line a plan, as Markdown; the commands are under it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GIB = 1 << 30
FULL = "--config.plan.example_tokens=32768 --config.plan.longest_tokens=32768"  # worst case
ALONE = f"--config.data.pack=False {FULL}"  # one example a row
PLANS = {  # name: flags of s1jax.plan
    "32B, 16 x 32,768 on 16 H100": f"--config=configs/h100_16.py {ALONE}"
    " --config.mesh.fsdp=16 --config.mesh.context=1",
    "the same, first moment in bfloat16": f"--config=configs/h100_16.py {ALONE}"
    " --config.mesh.fsdp=16 --config.mesh.context=1"
    " --config.optimizer.first_moment_dtype=bfloat16",
    "the same, layers' inputs offloaded": f"--config=configs/h100_16.py {ALONE}"
    " --config.mesh.fsdp=16 --config.mesh.context=1 --config.train.remat=offload",
    "32B, s1K packed on 16 H100": "--config=configs/h100_16.py",
    "32B, s1K-1.1 packed on 16 H100": "--config=configs/h100_16_s1_1.py",
    "32B, 8 x 20,480 on 8 H100": "--config=configs/h100_8.py"
    " --config.model.path=Qwen/Qwen2.5-32B-Instruct --config.data.pack=False"
    " --config.data.packed_row_length=None --config.data.row_length=20480"
    " --config.data.batch_size=8 --config.mesh.fsdp=8 --config.mesh.context=1"
    " --config.plan.example_tokens=20480 --config.plan.longest_tokens=20480"
    " --config.optimizer.first_moment_dtype=bfloat16"
    " --config.optimizer.second_moment_dtype=bfloat16",
    "7B, s1K packed on 8 H100": "--config=configs/h100_8.py",
    "0.5B, 4 x 8,192 on one H100": "--config=configs/h100_8.py"
    " --config.model.path=Qwen/Qwen2.5-0.5B-Instruct --config.mesh.fsdp=1"
    " --config.mesh.context=1 --config.data.row_length=8192"
    " --config.data.packed_row_length=None --config.train.accumulation_steps=4",
    "32B, 16 x 32,768 on 16 v5p": f"--config=configs/tpu_v5p_32.py {ALONE}",
    "the same along one axis": f"--config=configs/tpu_v5p_32.py {ALONE}"
    " --config.mesh.fsdp=16 --config.mesh.context=1",
    "32B, s1K packed on 16 v5p": "--config=configs/tpu_v5p_32.py",
    "32B, s1K packed on v6e-64": "--config=configs/tpu_v6e_64.py",
    "Qwen3-32B, 16 x 4,096 on 16 v5p": "--config=configs/tpu_v5p_32.py"
    " --config.model.path=Qwen/Qwen3-32B --config.data.pack=False --config.data.row_length=4096"
    " --config.mesh.fsdp=16 --config.mesh.context=1 --config.plan.example_tokens=4096"
    " --config.plan.longest_tokens=4096",
    "decoding 32B on 8 H100": "--config=configs/h100_16.py --what=decode --config.mesh.fsdp=1"
    " --config.mesh.context=1 --config.mesh.tensor=8",
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="words of the names of plans, by commas")
    words = [word for word in parser.parse_args().only.split(",") if word]
    chosen = [name for name in PLANS if not words or any(word in name for word in words)]
    print(
        "| plan | mesh | peak GiB | of | fits | sent / ideal | products, attention again | a step"
        " | run |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in chosen:
        print(line(name, card(PLANS[name])), flush=True)
    print()
    for name in chosen:
        print(f"- {name}: `python -m s1jax.plan {PLANS[name]}`")


def card(flags: str) -> dict[str, Any] | str:
    """The figures of a plan; what it says where there are none."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "card.json"
        done = subprocess.run(
            [sys.executable, "-m", "s1jax.plan", *flags.split(), f"--json={path}"],
            capture_output=True,
            text=True,
        )
        if not path.exists():
            return (done.stderr or done.stdout).strip().splitlines()[-1]
        return json.loads(path.read_text())


def line(name: str, its: dict[str, Any] | str) -> str:
    """A row of the table."""
    if isinstance(its, str):
        return f"| {name} | {its} |"
    hardware = its["hardware"]
    mesh = its["machines"].rpartition(": ")[2]
    ratio = its["sent_bytes"] / its["ideal_bytes"] if its["ideal_bytes"] else None
    again = its["again"]
    run = its["run"]
    cells = [
        name,
        mesh + ("" if its["seconds"] else " (reckoned)"),
        f"{its['peak_bytes'] / GIB:.1f}",
        f"{hardware['memory_bytes'] / GIB:.1f}",
        "yes" if its["fits"] else "no",
        f"{ratio:.3f}" if ratio else "",
        f"{again[0]:.3f}, {again[1]:.2f}" if again else "",
        f"{its['estimate']['step_s']:.3g} s",
        f"{run['seconds'] / 60:.1f} min, ${run['dollars']:.0f}" if run else "",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
