"""The text of a compiled step (`compiled.as_text()`), read into instructions.

XLA's text is the only form in which all of its compilers give the program that a device would run.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

Value = tuple[int | None, int]  # place in a loop's carry, or None; and what is added to it


@dataclass(frozen=True)
class Shape:
    """One array of an instruction's result."""

    dtype: str  # as XLA writes it: bf16, f32, s32, pred
    sizes: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        """Bytes without the padding of a device's layout; tokens and the like have none."""
        bits = 8 if self.dtype == "pred" else int((re.findall(r"\d+", self.dtype) or "0")[0])
        return -(-self.elements * bits // 8)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of the result, a tuple's laid flat
    operands: tuple[str, ...]
    inside: str  # what stands between the parentheses, for constants and parameters
    attributes: str
    root: bool

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes, if it is there."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def called(self, *keys: str) -> list[str]:
        """The names of the computations under these keys (`calls`, `body`, ...)."""
        names = []
        for key in keys:
            found = self.attribute(rf"\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)")
            names += re.findall(r"[\w.\-]+", found or "")
        return names

    @property
    def op_name(self) -> str:
        """Where it was written: jax's names of the functions around it."""
        return self.attribute(r'op_name="([^"]*)"') or ""


@dataclass(frozen=True)
class Module:
    """A whole program: computations by name, instructions in the order in which they run."""

    computations: dict[str, list[Instruction]]
    entry: str
    devices: int

    @cached_property
    def _by_name(self) -> dict[str, dict[str, Instruction]]:
        return {
            computation: {x.name: x for x in instructions}
            for computation, instructions in self.computations.items()
        }

    def find(self, computation: str, name: str) -> Instruction:
        """The instruction of that name."""
        return self._by_name[computation][name]

    def root(self, computation: str) -> Instruction:
        """The instruction whose result is the computation's."""
        return next(x for x in self.computations[computation] if x.root)

    def trips(self, computation: str, loop: Instruction) -> int | None:
        """How often the body of a while loop runs; None if that cannot be told.

        XLA notes it for CPUs and GPUs. For TPUs it does not: then the loop must count from a
        constant, by a constant, up to a constant.
        """
        if noted := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
            return int(noted)
        condition, body = loop.called("condition")[0], loop.called("body")[0]
        test = self.root(condition)
        arguments: Sequence[Value | None] = ()
        if test.opcode == "fusion":
            arguments = [self._value(condition, x, ()) for x in test.operands]
            condition = test.called("calls")[0]
            test = self.root(condition)
        if test.opcode != "compare":
            return None
        counter, limit = (self._value(condition, x, arguments) for x in test.operands)
        if counter is None or limit is None or counter[0] is None:
            return None
        first = self._element(computation, loop.operands[0], counter[0], ())
        after = self._element(body, self.root(body).name, counter[0], ())
        if limit[0] is not None:
            if self._element(body, self.root(body).name, limit[0], ()) != (limit[0], 0):
                return None
            limit = self._element(computation, loop.operands[0], limit[0], ())
        if first is None or first[0] is not None or limit is None or limit[0] is not None:
            return None
        if after is None or after[0] != counter[0] or after[1] == 0:
            return None
        distance, step = limit[1] - first[1] - counter[1], after[1]
        direction = test.attribute(r"direction=(\w+)")
        if direction in ("LE", "GE"):
            distance += 1 if step > 0 else -1
        counts_to = {"LT": step > 0, "LE": step > 0, "GT": step < 0, "GE": step < 0}
        if not counts_to.get(direction or "", direction == "NE" and distance % step == 0):
            return None
        return max(0, -(-distance // step))

    def _element(
        self, computation: str, name: str, place: int, arguments: Sequence[Value | None]
    ) -> Value | None:
        """One element of a tuple, as `_value` gives it."""
        x = self.find(computation, name)
        if x.opcode == "tuple":
            return self._value(computation, x.operands[place], arguments)
        if x.opcode == "parameter" and not arguments:
            return place, 0
        if x.opcode in PASSED_ON:
            return self._element(computation, x.operands[0], place, arguments)
        if x.opcode == "fusion":
            inner = [self._value(computation, y, arguments) for y in x.operands]
            callee = x.called("calls")[0]
            return self._element(callee, self.root(callee).name, place, inner)
        return None

    def _value(
        self, computation: str, name: str, arguments: Sequence[Value | None]
    ) -> Value | None:
        """An integer as a constant, or as an element of the carry plus a constant.

        `arguments` are those of a fused computation; without any it is the body or the condition
        of a loop, whose parameter is the carry.
        """
        x = self.find(computation, name)
        if x.opcode == "constant":
            return (None, int(x.inside)) if re.fullmatch(r"-?\d+", x.inside) else None
        if x.opcode == "parameter":
            return arguments[int(x.inside)] if arguments else None
        if x.opcode == "get-tuple-element":
            place = int(x.attribute(r"index=(\d+)") or 0)
            return self._element(computation, x.operands[0], place, arguments)
        if x.opcode in PASSED_ON:
            return self._value(computation, x.operands[0], arguments)
        if x.opcode == "fusion":
            inner = [self._value(computation, y, arguments) for y in x.operands]
            callee = x.called("calls")[0]
            return self._value(callee, self.root(callee).name, inner)
        if x.opcode in ("add", "subtract"):
            sign = 1 if x.opcode == "add" else -1
            a, b = (self._value(computation, y, arguments) for y in x.operands)
            if a is None or b is None or (b[0] is not None and (sign < 0 or a[0] is not None)):
                return None
            return (b[0] if a[0] is None else a[0]), a[1] + sign * b[1]
        return None


PASSED_ON = {"copy", "copy-start", "copy-done", "bitcast", "convert", "reshape"}
PASSED_ON |= {"optimization-barrier"}

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\]")
_OPERAND = re.compile(r"%?([\w.\-]+)$")


def parse(text: str) -> Module:
    """The program of a compiled step. Raises ValueError if the text is no HLO module."""
    head = re.match(r"HloModule (.*)", text)
    if not head:
        raise ValueError("this is no HLO module: pass what compiled.as_text() gives")
    sizes = [re.search(rf"{key}=(\d+)", head[1]) for key in ("replica_count", "num_partitions")]
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    entry = ""
    for line in text.splitlines():
        if started := _HEAD.match(line):
            current = computations.setdefault(started[2], [])
            entry = started[2] if started[1] else entry
        elif current is not None and (found := _LINE.match(line)):
            current.append(_instruction(found[2], line[found.end() :], bool(found[1])))
        elif line.rstrip() == "}":  # a kernel's config may have lines of its own, as "}},"
            current = None
    devices = math.prod(int(size[1]) for size in sizes if size)
    return Module(computations, entry, devices)


def _instruction(name: str, text: str, root: bool) -> Instruction:
    """`bf16[8,64]{1,0:T(8,128)} fusion(%a, %b), kind=kLoop, calls=%c` as an instruction."""
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in sizes.replace("<=", "").split(",") if n))
        for dtype, sizes in _ARRAY.findall(text[:end])
    )
    opening = text.index("(", end)
    closing = _closing(text, opening)
    inside = text[opening + 1 : closing - 1]
    opcode = text[end:opening].strip()
    operands: list[str] = []
    if opcode not in ("constant", "parameter"):
        for part in _split(inside):
            if found := _OPERAND.search(part):
                operands.append(found[1])
    return Instruction(name, opcode, shapes, tuple(operands), inside, text[closing:], root)


def _closing(text: str, opening: int) -> int:
    """The place after the parenthesis that closes the one at `opening`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.end()
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _split(inside: str) -> list[str]:
    """The operands, at commas outside of any bracket (older texts put shapes before names)."""
    plain = re.sub(r"/\*.*?\*/", "", inside)
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(plain):
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(plain[start:i].strip())
            start = i + 1
    return [part for part in [*parts, plain[start:].strip()] if part]
