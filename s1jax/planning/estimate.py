"""What no compiler tells: seconds, by a roofline and at an assumed share of the peak."""

from dataclasses import dataclass

from s1jax.hardware import Hardware
from s1jax.planning.collectives import Call, Collective
from s1jax.planning.workload import Workload

# What is executed beside what a model needs where all layers are computed again, 4/3: a share of
# the peak that is assumed for the one says so much more for the other.
RECOMPUTED = 4 / 3


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step of this many operations and bytes; rates are the hardware's."""

    compute_s: float  # at the peak
    network_s: float  # if nothing else went on meanwhile
    step_s: float  # at the assumed share of the peak, or the network's if that is longer


@dataclass(frozen=True)
class RunEstimate:
    """A whole run at the assumed share of the peak."""

    seconds: float
    device_hours: float
    dollars: float
    tokens_per_s: float  # of examples, over all devices


@dataclass(frozen=True)
class Work:
    """Operations of a compiled step, over all devices, and how they grow with its rows."""

    products: float  # as its tokens
    attention: float  # as its pairs of tokens
    tokens: int
    pairs: int

    @property
    def total(self) -> float:
        """Of the step as it was compiled."""
        return self.products + self.attention

    def of(self, tokens: int, pairs: int) -> float:
        """Of a step with other rows."""
        return self.products * tokens / self.tokens + self.attention * pairs / self.pairs


def estimate(
    executed: float, network_s: float, hardware: Hardware, devices: int, mfu: float
) -> Estimate:
    """The step that executes so many operations over all devices.

    `mfu` is of what the model needs with all layers computed again, so that a step which computes
    less of it again is estimated faster.
    """
    compute_s = executed / (devices * hardware.flops)
    return Estimate(compute_s, network_s, max(compute_s / (mfu * RECOMPUTED), network_s))


def run_estimate(
    work: Work,
    workload: Workload,
    hardware: Hardware,
    devices: int,
    *,
    mfu: float,
    network_s: float,
    price: float,
) -> RunEstimate:
    """All steps of a run, each with its own rows; `network_s` is every step's."""
    steps = zip(workload.step_tokens, workload.step_pairs, strict=True)
    seconds = sum(
        estimate(work.of(tokens, pairs), network_s, hardware, devices, mfu).step_s
        for tokens, pairs in steps
    )
    hours = seconds * devices / 3600
    return RunEstimate(seconds, hours, hours * price, workload.useful_tokens / seconds)


def network_s(found: dict[str, Collective], hardware: Hardware) -> float:
    """Seconds of all collectives of a step, one after the other."""
    calls = [call for kind in found.values() for call in kind.calls]
    return sum(call.times * call.link_bytes / ring_rate(call, hardware) for call in calls)


def ring_rate(call: Call, hardware: Hardware) -> float:
    """Bytes a second that a device sends in this collective.

    Within a host the rate of its links. Across hosts a ring leaves each of them once, and as many
    rings as a host has devices in the group run side by side, each through one's own adapter.
    """
    hosts = [{device // hardware.host_devices for device in group} for group in call.groups]
    if max(map(len, hosts)) == 1:
        return hardware.link
    pairs = zip(call.groups, hosts, strict=True)
    side_by_side = min(len(group) / len(its) for group, its in pairs)
    return min(hardware.link, side_by_side * hardware.network)
