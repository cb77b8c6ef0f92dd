"""The arrays that a compiled step holds in memory, from its HLO."""

from dataclasses import dataclass

from s1jax.planning.hlo import Module, Shape, parse

# These name an array that another instruction has made.
ALIASES = {"parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}


@dataclass(frozen=True)
class Buffer:
    """One array on one device."""

    shape: tuple[int, ...]
    dtype: str  # as XLA writes it
    bytes: int  # without the padding of the device's layout
    op: str  # what makes it: XLA's operation, and jax's name of it


def largest_buffers(hlo_text: str, n: int) -> list[Buffer]:
    """The n largest different arrays that a step makes or is given, the largest first.

    Arrays inside a fusion never reach memory and are left out.
    """
    return sorted(_buffers(parse(hlo_text)), key=lambda buffer: -buffer.bytes)[:n]


def has_square(hlo_text: str, rows: int, columns: int | None = None) -> bool:
    """Whether a step holds an array of [rows, columns] in memory; by default of [rows, rows]."""
    return bool(squares(hlo_text, rows, columns))


def squares(hlo_text: str, rows: int, columns: int | None = None) -> list[Buffer]:
    """The arrays with an axis of `rows` elements and another of `columns`, the largest first.

    Either may be merged with others, so any multiple counts: let the two be numbers of which no
    size of the model is a multiple.
    """
    columns = rows if columns is None else columns
    found = [b for b in _buffers(parse(hlo_text)) if _holds(b.shape, rows, columns)]
    return sorted(found, key=lambda buffer: -buffer.bytes)


def _holds(shape: tuple[int, ...], rows: int, columns: int) -> bool:
    return any(
        size % (rows * columns) == 0
        or (
            size % rows == 0
            and any(other % columns == 0 for j, other in enumerate(shape) if j != i)
        )
        for i, size in enumerate(shape)
        if size
    )


def _buffers(module: Module) -> set[Buffer]:
    """Every array of the computations that run as such; those of fusions and reductions do not."""
    seen: set[str] = set()
    waiting, buffers = [module.entry], set()
    while waiting:
        computation = waiting.pop()
        if computation in seen:
            continue
        seen.add(computation)
        for x in module.computations[computation]:
            if x.opcode in ("while", "conditional", "call", "async-start"):
                waiting += x.called("body", "branch_computations", "to_apply", "calls")
                waiting += x.called("true_computation", "false_computation")
            if x.opcode not in ALIASES or (x.opcode, computation) == ("parameter", module.entry):
                op = f"{x.opcode} {x.op_name}".strip()
                buffers |= {_buffer(shape, op) for shape in x.shapes}
    return buffers


def _buffer(shape: Shape, op: str) -> Buffer:
    return Buffer(shape.sizes, shape.dtype, shape.bytes, op)
