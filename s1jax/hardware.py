"""What is known of each accelerator, in one table: its makers' figures, and how it is wired.

Sources: NVIDIA's data sheets of the SXM boards (dense bfloat16, without sparsity), Google Cloud's
pages on TPU versions. A price is the order of magnitude of what clouds ask on demand for one device
and hour: set `plan.price` to your own.
"""

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Hardware:
    """One kind of accelerator, by the device: what JAX calls one. Rates are of one direction."""

    platform: str  # "cuda" or "tpu", as XLA names its compilers
    title: str
    kinds: tuple[str, ...]  # jax's device_kind of such devices
    flops: float  # bfloat16 operations a second
    bandwidth: float  # bytes a second from its memory
    memory_bytes: int  # that a program may fill: what the runtime leaves
    link: float  # bytes a second to its neighbours: NVLink, or all links of a TPU together
    network: float  # bytes a second to another host; a slice of TPUs is wired alike everywhere
    host_devices: int
    price: float  # dollars for a device and hour
    torus: int = 0  # of a TPU: how many dimensions its slices have
    chip_devices: int = 1
    compiles: bool = True  # that XLA's compiler, run elsewhere, gives what the machine would run


# NVIDIA's memory less 8%, which is what `xla_flags` leaves to others (JAX itself leaves 25%); a
# TPU's is what its compiler allows.
HARDWARE: dict[str, Hardware] = {
    "a100": Hardware(
        platform="cuda",
        title="A100 80 GB",
        kinds=("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
        flops=312e12,
        bandwidth=2.04e12,
        memory_bytes=int(0.92 * 79.3 * GIB),
        link=300e9,
        network=25e9,
        host_devices=8,
        price=2.0,
    ),
    "h100": Hardware(
        platform="cuda",
        title="H100 80 GB",
        kinds=("NVIDIA H100 80GB HBM3",),
        flops=989e12,
        bandwidth=3.35e12,
        memory_bytes=int(0.92 * 79.1 * GIB),
        link=450e9,
        network=50e9,
        host_devices=8,
        price=3.0,
    ),
    "h200": Hardware(
        platform="cuda",
        title="H200",
        kinds=("NVIDIA H200",),
        flops=989e12,
        bandwidth=4.8e12,
        memory_bytes=int(0.92 * 139.8 * GIB),
        link=450e9,
        network=50e9,
        host_devices=8,
        price=3.8,
    ),
    "v4": Hardware(
        platform="tpu",
        title="TPU v4",
        kinds=("TPU v4",),
        flops=275e12,
        bandwidth=1.2e12,
        memory_bytes=int(30.75 * GIB),
        link=270e9,
        network=270e9,
        host_devices=4,
        price=3.2,
        torus=3,
        compiles=False,
    ),
    "v5e": Hardware(
        platform="tpu",
        title="TPU v5e",
        kinds=("TPU v5 lite", "TPU v5e"),
        flops=197e12,
        bandwidth=0.81e12,
        memory_bytes=int(15.75 * GIB),
        link=180e9,
        network=180e9,
        host_devices=4,
        price=1.2,
        torus=2,
    ),
    "v5p": Hardware(
        platform="tpu",
        title="TPU v5p",
        kinds=("TPU v5", "TPU v5p"),
        flops=459e12,
        bandwidth=2.8e12,
        memory_bytes=int(95.74 * GIB),
        link=540e9,
        network=540e9,
        host_devices=4,
        price=4.2,
        torus=3,
    ),
    "v6e": Hardware(
        platform="tpu",
        title="TPU v6e",
        kinds=("TPU v6 lite", "TPU v6e"),
        flops=918e12,
        bandwidth=1.6e12,
        memory_bytes=int(31.25 * GIB),
        link=360e9,
        network=360e9,
        host_devices=4,
        price=2.7,
        torus=2,
    ),
    "tpu7x": Hardware(
        platform="tpu",
        title="TPU7x",
        kinds=("TPU7x",),
        flops=1153e12,  # half a chip, as everything here
        bandwidth=3.69e12,
        memory_bytes=int(94.75 * GIB),
        link=300e9,
        network=300e9,
        host_devices=8,
        price=6.0,
        torus=3,
        chip_devices=2,
    ),
}

_OTHER_PEAKS = {  # of devices that are not planned for
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA H100 PCIe": 756e12,
}


def peak_flops(kind: str) -> float | None:
    """Dense bfloat16 operations a second of a device, by jax's device_kind; None if not known."""
    known = {k: hardware.flops for hardware in HARDWARE.values() for k in hardware.kinds}
    return (known | _OTHER_PEAKS).get(kind)
