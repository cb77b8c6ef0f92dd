"""What waits for a row of the batch, and what is in one."""

from dataclasses import dataclass, field

from s1jax.decoding.branches import Fork
from s1jax.decoding.budget import Rules
from s1jax.decoding.cache import Block
from s1jax.decoding.record import Branch, History, Request


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
