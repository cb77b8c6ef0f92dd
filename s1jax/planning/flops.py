"""The operations of a step, counted from its jaxpr.

XLA's own count (`cost_analysis`) takes the body of a scan once and knows nothing of kernels. The
jaxpr says how long a scan is, and it is the same whatever the step is compiled for.

B batch, T query, S key, N heads, H head_dim.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal


@dataclass(frozen=True)
class Flops:
    """Operations over all devices together; a multiplication and an addition are two."""

    dots: float = 0.0  # dot_general and conv_general_dilated, outside of kernels
    kernels: Mapping[str, float] = field(default_factory=dict)  # Pallas and cuDNN, by name
    unbounded: int = 0  # loops with products whose length is not in the jaxpr, counted once
    conditional: int = 0  # conds of which the dearest branch is counted

    @property
    def total(self) -> float:
        """Products and kernels."""
        return self.dots + sum(self.kernels.values())

    def __add__(self, other: "Flops") -> "Flops":
        """Both, one after the other."""
        kernels = Counter(self.kernels)
        kernels.update(other.kernels)
        return Flops(
            self.dots + other.dots,
            dict(kernels),
            self.unbounded + other.unbounded,
            self.conditional + other.conditional,
        )

    def times(self, n: int) -> "Flops":
        """The operations of n runs. What is unsure about them is told once."""
        kernels = {name: n * flops for name, flops in self.kernels.items()}
        return Flops(n * self.dots, kernels, self.unbounded, self.conditional)


def count(jaxpr: ClosedJaxpr) -> Flops:
    """The operations of a function, from `jax.make_jaxpr(f)(...)` or `jax.jit(f).trace(...).jaxpr`.

    Counted are matrix products, convolutions and attention kernels; everything else (norms,
    softmax, Adam) is 0: it is bound by memory, and at most a few percent of a step. A scan is its
    body times its length, and a while loop that counts from one constant to another likewise; any
    other loop is counted once, in `unbounded`. Of a cond the dearest branch counts.

    The body of a shard_map is what one device does; it counts once for each device that the axes
    it maps over have. So work that devices repeat there is counted as often as it is done.

    A Pallas kernel costs what its `cost_estimate` says; without one, its own jaxpr times its grid,
    blocks that it skips at run time included. cuDNN's attention is reckoned from the shapes, a
    row as one example: packed rows need less.
    """
    return _count(jaxpr.jaxpr)


def matmul_recompute(jaxpr: ClosedJaxpr, necessary: float) -> float:
    """Operations executed over the necessary ones: 1 without recomputation, at most 4/3 with it.

    `necessary` is the model's own count for the same tokens, as `metrics.train_flops` gives it.
    """
    return count(jaxpr).total / necessary


def _count(jaxpr: Jaxpr) -> Flops:
    total = Flops()
    for eqn in jaxpr.eqns:
        total += COUNT.get(eqn.primitive.name, _count_inside)(eqn)
    return total


def _count_inside(eqn: JaxprEqn) -> Flops:
    """What is called by an operation that runs it once: jit, checkpoint, custom derivatives."""
    total = Flops()
    for inner in _inner(eqn):
        total += _count(inner)
    return total


def _inner(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    for value in eqn.params.values():
        for x in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(x, ClosedJaxpr):
                yield x.jaxpr
            elif isinstance(x, Jaxpr):
                yield x


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.aval.shape)


def _dot(eqn: JaxprEqn) -> Flops:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = _shape(eqn.invars[0])
    summed = math.prod(lhs[axis] for axis in contracted)
    return Flops(2.0 * summed * math.prod(_shape(eqn.outvars[0])))


def _conv(eqn: JaxprEqn) -> Flops:
    # Each output is a sum over a kernel's window and the input channels of its group. The padding
    # is multiplied too.
    kernel = _shape(eqn.invars[1])
    features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    summed = math.prod(kernel) / features
    return Flops(2.0 * summed * math.prod(_shape(eqn.outvars[0])))


def _scan(eqn: JaxprEqn) -> Flops:
    return _count_inside(eqn).times(eqn.params["length"])


def _while(eqn: JaxprEqn) -> Flops:
    once = _count_inside(eqn)
    trips = _trips(eqn)
    if trips is not None:
        return once.times(trips)
    return once + Flops(unbounded=1) if once.total else once


def _trips(eqn: JaxprEqn) -> int | None:
    """How often a while loop runs that counts an integer up to a limit; None if that is not known.

    The condition must be `i < limit` alone, the body must add a constant to i and leave the limit
    as it is.
    """
    condition, body = eqn.params["cond_jaxpr"].jaxpr, eqn.params["body_jaxpr"].jaxpr
    if len(condition.eqns) != 1 or condition.eqns[0].primitive.name != "lt":
        return None
    constants, carried = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    start = constants + carried  # of the carry, among the operands of the loop

    def value(x: Any) -> tuple[int | None, int | None]:
        """A known number at the start, and its place in the carry if it has one."""
        if isinstance(x, Literal):
            return int(x.val), None
        place = condition.invars.index(x) - constants
        outer = eqn.invars[place + (start if place >= 0 else constants)]
        known = int(outer.val) if isinstance(outer, Literal) else None
        return known, place if place >= 0 else None

    (first, counter), (limit, bound) = (value(x) for x in condition.eqns[0].invars)
    if first is None or limit is None or counter is None:
        return None
    if bound is not None and body.outvars[bound] is not body.invars[carried + bound]:
        return None
    step = _step(body, body.outvars[counter], body.invars[carried + counter])
    return max(0, -(-(limit - first) // step)) if step else None


def _step(body: Jaxpr, after: Any, before: Any) -> int | None:
    for eqn in body.eqns:
        if after in eqn.outvars and eqn.primitive.name == "add" and eqn.invars[0] is before:
            other = eqn.invars[1]
            return int(other.val) if isinstance(other, Literal) and other.val > 0 else None
    return None


def _cond(eqn: JaxprEqn) -> Flops:
    branches = [_count(branch.jaxpr) for branch in eqn.params["branches"]]
    dearest = max(branches, key=lambda flops: flops.total)
    if all(flops.total == dearest.total for flops in branches):
        return dearest
    return dearest + Flops(conditional=1)


def _shard_map(eqn: JaxprEqn) -> Flops:
    sizes = dict(eqn.params["mesh"].shape)
    # Axes that an outer shard_map has taken, or that stay global, are not mapped over here.
    devices = math.prod(sizes[axis] for axis in eqn.params["newly_manual_axes"])
    return _count_inside(eqn).times(devices)


def _pallas(eqn: JaxprEqn) -> Flops:
    name = eqn.params["name"] or "pallas_call"
    estimate = eqn.params["cost_estimate"]
    if estimate is not None:
        return Flops(kernels={name: float(estimate.flops)})
    body = _count(eqn.params["jaxpr"])
    grid = [n if isinstance(n, int) else None for n in eqn.params["grid_mapping"].grid]
    body = body.times(math.prod(n for n in grid if n is not None))
    unbounded = body.unbounded + (None in grid)
    # Splash leaves out the blocks above the diagonal when it gets to them: half of its grid.
    share = 0.5 if name.startswith("splash") else 1.0
    return Flops(0.0, {name: share * body.total}, unbounded, body.conditional)


def _cudnn(products: int) -> Callable[[JaxprEqn], Flops]:
    """Counts attention by so many products of [T, S] scores and H features for each head."""

    def flops(eqn: JaxprEqn) -> Flops:
        # Layout 0 is [B, T, N, H], 1 is [B, N, T, H].
        tokens, heads = (1, 2) if eqn.params["layout"] == 0 else (2, 1)
        q, k = (_shape(x) for x in eqn.invars[:2])
        causal = "CAUSAL" in eqn.params["mask_type"].name
        pairs = visible_pairs(q[tokens], k[tokens], causal)
        done = 2.0 * products * q[0] * q[heads] * q[3] * pairs
        return Flops(kernels={eqn.primitive.name.removesuffix("_wrapper"): done})

    return flops


def visible_pairs(queries: int, keys: int, causal: bool) -> int:
    """How many pairs of query and key meet; causally, query i sees the keys up to the i-th."""
    if not causal:
        return queries * keys
    return sum(min(i + 1, keys) for i in range(queries))


COUNT: dict[str, Callable[[JaxprEqn], Flops]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
    "pallas_call": _pallas,
    # Scores and sums of values; backwards the scores again and four gradients.
    "dot_product_attention_fwd_wrapper": _cudnn(2),
    "dot_product_attention_bwd_wrapper": _cudnn(5),
}
