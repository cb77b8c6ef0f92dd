"""What waits for a row of the batch, and what is in one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s1jax.decoding import budget
from s1jax.decoding.branches import Fork, budget_row
from s1jax.decoding.budget import DONE, Ids, Rules
from s1jax.decoding.cache import Block
from s1jax.decoding.record import Branch, History, Request, rules_of
from s1jax.decoding.sampling import settings_of
from s1jax.decoding.step import Rows, State, Static, axes_of
from s1jax.mesh import ArraySpec, sharding
from s1jax.models.cache import empty_cache


@dataclass
class Row:
    """A row of the batch that is in use."""

    request: Request
    rules: Rules
    branch: Branch | None
    first_column: int  # of its oldest token
    start_column: int  # where its first step was, or would have been if it had not been forked
    parts: list[History] = field(default_factory=list)


@dataclass(frozen=True)
class Item:
    """What waits for a row: a request, or a branch of one with what is known of it."""

    request: Request
    branch: Branch | None = None
    at: Fork | None = None
    history: History | None = None  # up to the fork
    block: Block | None = None
    behind: int = 0  # columns of the block after the fork


def first_token(item: Item) -> tuple[int, int, int]:
    """The token that a row's first step reads, its position, and the steps before."""
    request, at, history = item.request, item.at, item.history
    last = len(request.prompt) - 1
    if at is None or history is None or at.kept == 0:
        return request.prompt[-1], last, at.drawn if at else 0
    return int(history.token[-1]), last + at.kept - int(history.taken_back.sum()), at.drawn


def row_of(item: Item, column: int) -> Row:
    """The row of an item that begins at this column."""
    request, kept = item.request, item.at.kept if item.at else 0
    return Row(
        request,
        rules_of(request, item.branch),
        item.branch,
        first_column=column - kept - len(request.prompt) + 1,
        start_column=column - kept,
        parts=[item.history] if item.history is not None else [],
    )


def new_rows(items: Mapping[int, Item], rows: int, shape: tuple[int, int, int, int]) -> Rows:
    """The arrays of rows that begin; those of the others are filled with anything."""
    anything = next(iter(items.values()))
    # One that begins alone, as branches do, is made once for all.
    count = rows if len(items) > 1 else 1
    chosen = [items.get(index, anything) for index in range(count)] if count > 1 else [anything]
    rules = [rules_of(item.request, item.branch) for item in chosen]
    plan = budget.plan_of(rules, shape)
    state = _start(plan)
    for index, item in enumerate(chosen):
        for name, value in budget_row(item.at).items() if item.at else ():
            getattr(state, name)[index] = value
    token, position, drawn = np.array([first_token(item) for item in chosen], np.int32).T
    seed: Any = np.array([item.request.seed for item in chosen], np.uint32)
    settings = settings_of([(it.request.thinking, it.request.answer) for it in chosen])
    made = Rows(token, position, drawn, seed, plan, settings, state)
    return jax.tree.map(lambda x: np.repeat(x, rows // count, axis=0), made)


def prompt_arrays(
    prompts: Sequence[Ids], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and segments of prompts, padded on the left; int32 of the shape."""
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    for row, prompt in enumerate(prompts):
        at = slice(shape[1] - len(prompt), None)
        tokens[row, at] = prompt
        positions[row, at] = np.arange(len(prompt))
        segments[row, at] = 1
    return tokens, positions, segments


def empty_state(
    static: Static,
    mesh: jax.sharding.Mesh,
    rows: int,
    shape: tuple[int, int, int, int],
    columns: int,
) -> State:
    """Rows that are all done, and nothing in the cache."""
    idle = new_rows({0: Item(Request("", (0,), Rules(1, 1)))}, rows, shape)
    idle.budget.phase[:] = DONE
    empty = jax.eval_shape(lambda: empty_cache(static.cfg, rows, columns, static.dtype))
    state = State(empty, idle)

    def place(x: Any, axes: tuple[str, ...]) -> jax.Array:
        layout = sharding("state", ArraySpec(x.shape, axes), mesh)
        if isinstance(x, np.ndarray):
            return jax.device_put(x, layout)
        return jnp.zeros(x.shape, x.dtype, device=layout)

    return jax.tree.map(place, state, axes_of(state))


_start_arrays = jax.jit(budget.start)


def _start(plan: budget.Plan) -> Any:
    """The rows before their first token, as numpy arrays that can be written to."""
    return jax.tree.map(np.array, _start_arrays(plan))
