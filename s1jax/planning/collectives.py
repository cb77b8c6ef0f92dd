"""What the devices of a compiled step send each other, counted from its HLO.

Kinds are XLA's: all-gather, reduce-scatter, all-reduce, all-to-all, collective-permute.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from s1jax.planning.hlo import Instruction, Module, Shape, parse

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclass(frozen=True)
class Call:
    """One collective of the program, and how often a step runs it."""

    kind: str
    operands: tuple[Shape, ...]  # what one device hands over
    groups: tuple[tuple[int, ...], ...]  # who talks to whom, by the places in the mesh's devices
    op_name: str  # where it comes from, in jax's names
    channel: str | None = None
    times: int = 1
    unbounded: bool = False  # in a loop whose length is not known: once a step, at least

    @property
    def group_size(self) -> int:
        """How many devices take part together; 2 in a permute."""
        return max(len(group) for group in self.groups)

    @property
    def bytes(self) -> int:
        """Bytes of one run on one device: the whole array, in whichever place it is whole.

        What an all-gather gives, what a reduce-scatter takes, what goes through the others. So a
        step that gathers N parameters in bfloat16 twice and scatters their gradients once comes
        to 4N and 2N bytes.
        """
        handed = sum(shape.bytes for shape in self.operands)
        return handed * self.group_size if self.kind == "all-gather" else handed

    @property
    def link_bytes(self) -> float:
        """Bytes of one run that a device sends in a ring, where each sends to its neighbour.

        A device's own part need not travel, hence (n - 1)/n of `bytes` in groups of n; an
        all-reduce is a reduce-scatter and an all-gather.
        """
        n = self.group_size
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes)
        return (2 if self.kind == "all-reduce" else 1) * self.bytes * (n - 1) / n

    def crosses(self, host_of: Sequence[int]) -> bool:
        """Whether any group has devices of several hosts; `host_of` has the host of each device."""
        return any(len({host_of[device] for device in group}) > 1 for group in self.groups)


@dataclass(frozen=True)
class Collective:
    """All collectives of a kind, in one step on one device."""

    calls: tuple[Call, ...]

    @property
    def count(self) -> int:
        """How many run."""
        return sum(call.times for call in self.calls)

    @property
    def bytes(self) -> int:
        """See `Call.bytes`."""
        return sum(call.times * call.bytes for call in self.calls)

    @property
    def link_bytes(self) -> float:
        """See `Call.link_bytes`."""
        return sum(call.times * call.link_bytes for call in self.calls)

    @property
    def unbounded(self) -> int:
        """How many calls stand in a loop whose length is not known: count and bytes are less."""
        return sum(call.unbounded for call in self.calls)


def collectives(hlo_text: str) -> dict[str, Collective]:
    """What a step sends, by kind, from `compiled.as_text()`.

    Loops count as often as they run, also inside each other; a pair of start and done counts once;
    of a conditional the dearest branch counts. On TPUs a reduce-scatter is written as a fusion of
    an all-reduce and a slice of it, and counts as what it is; large gathers and scatters beside a
    product may become rings of permutes (collective matmul), which count as permutes: compare sums
    of `link_bytes` there. The CPU compiler widens bfloat16 collectives to float32.
    """
    module = parse(hlo_text)
    calls = _Walk(module).calls(module.entry)
    return {
        kind: Collective(tuple(of_kind))
        for kind in KINDS
        if (of_kind := [call for call in calls if call.kind == kind])
    }


class _Walk:
    """Collects the calls of computations, each computation once."""

    def __init__(self, module: Module):
        self.module = module
        self._known: dict[str, list[Call]] = {}

    def calls(self, computation: str) -> list[Call]:
        """The collectives of one run of a computation and of all that it calls."""
        if computation not in self._known:
            self._known[computation] = self._collect(computation)
        return self._known[computation]

    def _collect(self, computation: str) -> list[Call]:
        calls: list[Call] = []
        fused: set[tuple[str, str]] = set()
        for x in self.module.computations[computation]:
            kind = x.opcode.removesuffix("-start")
            if kind in KINDS:
                calls.append(self._call(computation, x, kind))
            elif x.opcode == "while":
                calls += self._loop(computation, x)
            elif x.opcode == "conditional":
                calls += self._dearest(x)
            elif x.opcode == "fusion":
                # TPUs spread one collective over several fusions, to overlap it with their work:
                # each of them shows it, with the same channel.
                for call in self._fusion(x):
                    key = (call.kind, call.channel or "")
                    if call.channel is None or key not in fused:
                        calls.append(call)
                    fused.add(key)
            elif x.opcode in ("call", "async-start", "custom-call"):
                for callee in x.called("to_apply", "calls", "called_computations"):
                    calls += self.calls(callee)
        return calls

    def _loop(self, computation: str, x: Instruction) -> list[Call]:
        trips = self.module.trips(computation, x)
        body = x.called("body")[0]
        return [
            dataclasses.replace(
                call,
                times=call.times * (1 if trips is None else trips),
                unbounded=call.unbounded or trips is None,
            )
            for call in self.calls(body)
        ]

    def _dearest(self, x: Instruction) -> list[Call]:
        names = x.called("branch_computations", "true_computation", "false_computation")
        branches = [self.calls(name) for name in names]
        return max(branches, key=lambda calls: sum(c.times * c.link_bytes for c in calls))

    def _fusion(self, x: Instruction) -> list[Call]:
        calls: list[Call] = []
        for callee in x.called("calls"):
            for call in self.calls(callee):
                scatters = call.kind == "all-reduce" and self._only_sliced(callee)
                kind = "reduce-scatter" if scatters else call.kind
                calls.append(dataclasses.replace(call, kind=kind))
        return calls

    def _only_sliced(self, computation: str) -> bool:
        """Whether of the sum over devices each keeps its own part only."""
        instructions = self.module.computations[computation]
        reduced = {x.name for x in instructions if x.opcode == "all-reduce"}
        users = [x for x in instructions if reduced & set(x.operands)]
        return bool(users) and all(x.opcode == "dynamic-slice" for x in users)

    def _call(self, computation: str, x: Instruction, kind: str) -> Call:
        operands = x.operands[:1] if kind == "ragged-all-to-all" else x.operands
        return Call(
            kind,
            tuple(
                shape for name in operands for shape in self.module.find(computation, name).shapes
            ),
            device_groups(x.attributes, self.module.devices),
            x.op_name,
            x.attribute(r"channel_id=(\d+)"),
        )


_IOTA = r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
_LISTS = r"\{((?:\{[\d,]*\},?)*)\}"


def device_groups(attributes: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """The groups of a collective from its attributes; all devices together if it names none.

    Written as lists, `{{0,1},{2,3}}`; as a range of numbers, reshaped, transposed and reshaped
    again, `[2,8]<=[4,4]T(1,0)`; or as axes of a mesh, `mesh['a'=2,'b'=8] {'b'}`, whose devices may
    be in another order, `device_ids=([8,2]T(1,0))`, and of which an axis may give a part of itself,
    `'b':(2)4`: of size 4, with 2 parts before it.
    """
    if found := re.search(rf"(?:replica_groups|source_target_pairs)={_LISTS}", attributes):
        groups = re.findall(r"\{([\d,]+)\}", found[1])
        if groups:
            return tuple(tuple(int(n) for n in group.split(",")) for group in groups)
    elif found := re.search(rf"replica_groups={_IOTA}", attributes):
        shape, order = _numbers(found[1]), _permuted(_numbers(found[2]), _numbers(found[3]))
        return tuple(tuple(order[i : i + shape[-1]]) for i in range(0, len(order), shape[-1]))
    elif found := re.search(
        r"replica_groups=@?mesh\[([^\]]*)\](?:, *device_ids=\((.*?)\))? \{([^}]*)\}", attributes
    ):
        return _mesh_groups(found[1], found[2], found[3])
    assert "replica_groups=" not in attributes or "replica_groups={}" in attributes, attributes
    return (tuple(range(devices)),)


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in text.split(",")] if text else []


def _permuted(sizes: list[int], axes: list[int]) -> list[int]:
    """The places of an array in row order, after its axes have been transposed."""
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    axes = axes or list(range(len(sizes)))
    places = itertools.product(*(range(sizes[axis]) for axis in axes))
    return [sum(i * strides[axis] for i, axis in zip(place, axes, strict=True)) for place in places]


def _mesh_groups(mesh: str, device_ids: str | None, named: str) -> tuple[tuple[int, ...], ...]:
    sizes = {name: int(size) for name, size in re.findall(r"'?([^',=]+)'?=(\d+)", mesh)}
    devices = list(range(math.prod(sizes.values())))
    if device_ids and "[" in device_ids:
        # A range in another order.
        found = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", device_ids)
        assert found, device_ids
        devices = _permuted(_numbers(found[1]), _numbers(found[2]))
    elif device_ids:
        devices = _numbers(device_ids.replace(" ", ""))

    # Each axis that gives a part of itself is cut in three: before, the part, after.
    wanted = re.findall(r"'?([^',:{}]+)'?(?::\((\d+)\)(\d+))?", named)
    cut_sizes: list[int] = []
    places: dict[tuple[str, int], int] = {}
    for name, size in sizes.items():
        cuts = {1, size}
        for axis, before, part in wanted:
            if axis == name and part:
                cuts |= {int(before), int(before) * int(part)}
        steps = sorted(cuts)
        for low, high in itertools.pairwise(steps):
            places[name, low] = len(cut_sizes)
            cut_sizes.append(high // low)
    grouped: list[int] = []
    for axis, before, part in wanted:
        low = int(before or 1)
        high = low * int(part) if part else sizes[axis]
        grouped += [
            place for (name, at), place in places.items() if name == axis and low <= at < high
        ]
    order = [axis for axis in range(len(cut_sizes)) if axis not in grouped] + grouped
    members = [devices[i] for i in _permuted(cut_sizes, order)]
    size = math.prod(cut_sizes[axis] for axis in grouped)
    return tuple(tuple(members[i : i + size]) for i in range(0, len(members), size))
