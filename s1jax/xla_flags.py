"""The compiler's flags of each accelerator, each with its reason; set before JAX starts.

What is on by default is not repeated here. The plan compiles with the same flags, so what one of
them costs in memory is in its card.
"""

import importlib.util
import os
from pathlib import Path

MIB = 2**20

FLAGS: dict[str, dict[str, tuple[str, str]]] = {  # accelerator: flag: value, reason
    "cpu": {},
    "gpu": {
        "xla_gpu_enable_latency_hiding_scheduler": (
            "true",
            "a layer's weights are gathered while another one computes, and not in between",
        ),
        "xla_gpu_enable_while_loop_double_buffering": (
            "true",
            "the loop over layers is unrolled by two, without which a gather cannot begin before"
            " the layer that needs it; keeps one more layer's weights whole",
        ),
        "xla_gpu_all_gather_combine_threshold_bytes": (
            str(64 * MIB),
            "norms and biases travel with a matrix: one of these alone is all latency",
        ),
        "xla_gpu_reduce_scatter_combine_threshold_bytes": (
            str(64 * MIB),
            "as the gathers, of gradients",
        ),
    },
    "tpu": {
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": (
            "true",
            "a gather of weights runs inside the matrix products beside it",
        ),
        "xla_tpu_overlap_compute_collective_tc": (
            "true",
            "the core computes while it sends",
        ),
    },
}
VARIABLES = {"gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}
# The first is read; the second is its old name, and jaxlib takes only one of them.
MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
GPU_MEMORY_SHARE = "0.92"  # that JAX may take: its own 0.75 would leave 20 GiB of an H100 unused

_PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "tpu": "tpu"}


def flags_of(accelerator: str) -> dict[str, str]:
    """The flags of "cpu", "gpu" or "tpu", without dashes."""
    return {name: value for name, (value, _) in FLAGS[accelerator].items()}


def find_accelerator(devices: Path = Path("/dev")) -> str:
    """What JAX will take, as far as can be told without it: "gpu", "tpu" or "cpu".

    JAX_PLATFORMS decides if it is set, else the devices that the kernel shows.
    """
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return _PLATFORMS.get(platforms.split(",")[0].strip().lower(), "cpu")
    if any(devices.glob("nvidia[0-9]*")):
        return "gpu"
    # Virtual machines pass other things through vfio too.
    shown = any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*"))
    return "tpu" if shown and importlib.util.find_spec("libtpu") else "cpu"


def apply_flags(accelerator: str) -> None:
    """Adds the flags to the environment, where JAX reads them when it starts.

    What the user has set there stays, with its value; so does a file that XLA_FLAGS names.
    """
    if accelerator not in VARIABLES:
        return
    if accelerator == "gpu" and not any(os.environ.get(name) for name in MEMORY_VARIABLES):
        os.environ[MEMORY_VARIABLES[0]] = GPU_MEMORY_SHARE
    variable = VARIABLES[accelerator]
    given = os.environ.get(variable, "").split()
    if given and not given[0].startswith("-"):
        return
    names = {flag.lstrip("-").partition("=")[0] for flag in given}
    ours = [f"--{k}={v}" for k, v in flags_of(accelerator).items() if k not in names]
    os.environ[variable] = " ".join([*given, *ours])
