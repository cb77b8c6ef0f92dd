"""Where the sample of a smaller budget parts from one that was made already.

Up to there both are the same, token for token, so that the rest is all that has to be computed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from s1jax.decoding.budget import (
    ANSWER,
    CLOSE,
    CLOSED,
    CLOSING,
    FORCE,
    FORCE_NEWLINE,
    INSERTED,
    THOUGHT,
    Rules,
)
from s1jax.decoding.record import History, ignore_string


@dataclass(frozen=True)
class Fork:
    """The last common step, and what comes after it."""

    kept: int  # steps whose tokens stay
    drawn: int  # steps of the row, those of a partial end included
    string: int  # of the plan, which closes the thinking
    forced: bool
    newline: bool
    thinking_tokens: int
    ends_ignored: int


def can_fork(rules: Rules) -> bool:
    """Whether a sample under these rules holds those of smaller budgets.

    Not where a budget is counted in rounds, and not where an end of several tokens is ignored
    without a string: nothing tells afterwards how much of it had been written.
    """
    silent = rules.ignore_ends > 0 and not rules.ignore_strings
    return (
        rules.thinking
        and rules.accounting == "none"
        and not rules.reject
        and bool(rules.close and rules.force and rules.force_newline)
        and not (silent and any(len(end) > 1 for end in rules.ends))
    )


def fork(
    rules: Rules, history: History, smaller: Rules, line_ends: Bool[np.ndarray, " V"]
) -> Fork | None:
    """Where `smaller` parts from the history of a row under `rules`; None if it never does."""
    assert can_fork(rules) and can_fork(smaller)
    thinking, ignored = 0, 0
    newline = False
    for step in range(len(history)):
        kind, taken_back = int(history.kind[step]), int(history.taken_back[step])
        if int(history.ends_ignored[step]) > ignored:
            width = len(ignore_string(rules, ignored))
            after = thinking - taken_back + width
            if ignored >= smaller.ignore_ends or after >= smaller.max_thinking_tokens:
                # The smaller one takes this end for what it is.
                return Fork(
                    kept=step - taken_back,
                    drawn=step,
                    string=CLOSE,
                    forced=False,
                    newline=newline,
                    thinking_tokens=thinking - taken_back,
                    ends_ignored=ignored,
                )
            ignored += 1
        thinking -= taken_back if kind == INSERTED else 0
        if kind in (CLOSED, ANSWER):
            return None
        if kind in (THOUGHT, INSERTED):
            thinking += 1
            newline = bool(line_ends[history.token[step]])
        if thinking >= smaller.max_thinking_tokens and kind == THOUGHT:
            if thinking >= rules.max_thinking_tokens:
                return None
            return Fork(
                kept=step + 1,
                drawn=step + 1,
                string=FORCE if newline else FORCE_NEWLINE,
                forced=True,
                newline=newline,
                thinking_tokens=thinking,
                ends_ignored=ignored,
            )
    return None


def budget_row(at: Fork) -> dict[str, int | bool]:
    """The fields of budget.State that a row has at a fork, where they are not zero."""
    return {
        "phase": CLOSING,
        "string": at.string,
        "thinking_tokens": at.thinking_tokens,
        "charged_tokens": at.thinking_tokens,
        "ends_ignored": at.ends_ignored,
        "forced": at.forced,
        "newline": at.newline,
    }
