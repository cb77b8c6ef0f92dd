"""The card of a plan: what a step takes and gives, as text."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from s1jax.hardware import GIB, Hardware
from s1jax.mesh import AnyMesh
from s1jax.planning.collectives import Collective
from s1jax.planning.estimate import Estimate, RunEstimate
from s1jax.progress import format_count, format_seconds

WIDTH = 100


@dataclass(frozen=True)
class Traffic:
    """One kind of collective, in a step on one device."""

    count: int
    sent_bytes: float
    across_hosts: bool


def traffic_of(found: Mapping[str, Collective], mesh: AnyMesh) -> dict[str, Traffic]:
    """What a compiled step sends, kind by kind; nothing on a mesh of sizes alone."""
    if not isinstance(mesh, jax.sharding.Mesh):
        return {}
    host_of = [device.process_index for device in mesh.devices.flat]
    return {
        kind: Traffic(its.count, its.link_bytes, any(call.crosses(host_of) for call in its.calls))
        for kind, its in found.items()
    }


@dataclass(frozen=True)
class Card:
    """All that is known of a plan."""

    title: str
    model: str
    machines: str
    batch: Sequence[str]
    hardware: Hardware
    devices: int
    memory: Mapping[str, int]  # bytes of a device by kind
    peak_bytes: int
    host_bytes: int  # of a device's part that lies in its host's memory
    executed: float  # operations of a step, over all devices
    needed: float | None  # of them what the model needs; None: no figure
    again: tuple[float, float] | None  # executed for each needed: matrix products, attention
    traffic: Mapping[str, Traffic]
    ideal_bytes: float  # of what all kinds but all-to-all send; 0: no figure
    kernels: Sequence[str]
    estimate: Estimate
    mfu: float
    run: RunEstimate | None
    price: float
    notes: Sequence[str]  # what is not compiled, unsure, or refused
    seconds: float  # that compiling took; 0: nothing was compiled

    @property
    def fits(self) -> bool:
        """Whether a device has the memory."""
        return self.peak_bytes <= self.hardware.memory_bytes

    def figures(self) -> dict[str, Any]:
        """Everything on it as plain values, for JSON."""
        return dataclasses.asdict(self) | {"fits": self.fits, "sent_bytes": self.sent_bytes}

    @property
    def sent_bytes(self) -> float:
        """What a device sends of weights and gradients: all but the swaps of tokens for heads."""
        return sum(its.sent_bytes for kind, its in self.traffic.items() if kind != "all-to-all")

    def text(self) -> str:
        """The card in lines of at most 100 columns."""
        verdict = "fits" if self.fits else "does NOT fit"
        compiled = f"compiled in {format_seconds(self.seconds)}" if self.seconds else "reckoned"
        lines = [
            self.title,
            *_field("model", self.model),
            *_field("machines", self.machines),
            *(line for text in self.batch for line in _field("batch", text)),
            *_field(
                "memory",
                f"{_gib(self.peak_bytes)} of {_gib(self.hardware.memory_bytes)} a device"
                f" ({compiled}): {verdict}",
            ),
            *(f"{'':13}{_gib(size):>10}  {kind}" for kind, size in self.memory.items()),
        ]
        if self.host_bytes:
            lines.append(f"{'':13}{_gib(self.host_bytes):>10}  in its host's memory")
        lines += [*self._operations(), *self._network(), *self._time()]
        lines += [line for note in self.notes for line in _field("note", note)]
        return "\n".join(lines) + "\n"

    def _operations(self) -> list[str]:
        text = f"{self.executed:.3g} a step over all devices"
        if self.needed is not None:
            text += (
                f", {self.executed / self.needed:.3f} x the {self.needed:.3g} that the model needs"
                " (6 for a parameter and token, and causal attention)"
            )
        if self.again is not None:
            products, attention = self.again
            text += f": {products:.3f} x for matrix products, {attention:.2f} x for attention"
        kernels = _field("kernels", ", ".join(self.kernels)) if self.kernels else []
        return [*_field("operations", text), *kernels]

    def _network(self) -> list[str]:
        lines = []
        for kind, its in self.traffic.items():
            text = f"{kind}: each device sends {its.sent_bytes / 1e9:.4g} GB in {its.count} calls"
            lines += _field("network", text + (", across hosts" if its.across_hosts else ""))
        if self.ideal_bytes and self.traffic:
            lines += _field(
                "network",
                f"without all-to-all {self.sent_bytes / 1e9:.4g} GB,"
                f" {self.sent_bytes / self.ideal_bytes:.3f} x the ideal: parameters gathered"
                " twice, their gradients scattered once",
            )
        return lines

    def _time(self) -> list[str]:
        its = self.estimate
        lines = _field(
            "roofline",
            f"{_s(its.compute_s)} of computing at the peak, {_s(its.network_s)} of network if"
            " nothing hid it",
        )
        if self.run is None:
            return [*lines, *_field("estimate", f"{_s(its.step_s)} a step")]
        run = self.run
        lines += _field(
            "estimate",
            f"at an assumed MFU of {self.mfu:.0%} where all layers are computed again,"
            f" {self.mfu * 4 / 3:.0%} of the peak for what is executed: {_s(its.step_s)} for this"
            " step;"
            f" {format_seconds(run.seconds)} for the run, {run.device_hours:.3g} device-hours,"
            f" ${run.dollars:,.0f} at ${self.price:.2f} each;"
            f" {format_count(run.tokens_per_s)} tokens/s,"
            f" {format_count(run.tokens_per_s / self.devices)} a device",
        )
        return lines


def _field(name: str, text: str) -> list[str]:
    head = f"  {name:<11}"
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _s(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"
