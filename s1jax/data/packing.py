"""Rows that share a step's tokens evenly, and the few row lengths that a run is compiled for.

Every device of a step waits for the longest row, so a step's examples go into rows of nearly
equal token counts. All of it is decided before the first step, from the lengths alone.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Packing:
    """Where the examples of every step of a run go."""

    rows: int  # of every step
    places: Int[np.ndarray, "steps batch"]  # the row of each example
    longest_tokens: Int[np.ndarray, " steps"]  # in the fullest row of each step


def pack_run(lengths: Int[np.ndarray, "steps batch"], multiple: int, row_length: int) -> Packing:
    """The examples of each step in as few rows as hold every step, a multiple of `multiple`.

    One number of rows for the whole run keeps the compiled steps apart in their length alone.
    """
    steps, batch = lengths.shape
    totals = lengths.sum(axis=1)
    fullest_first = np.argsort(-totals, kind="stable")  # too few rows show at once
    places = np.zeros((steps, batch), np.int32)
    longest = np.zeros(steps, np.int64)
    at_least = math.ceil(totals.max() / row_length / multiple) * multiple
    for rows in range(at_least, batch + multiple, multiple):
        for step in fullest_first:
            place = balance(lengths[step], rows)
            longest[step] = row_tokens(lengths[step], place, rows).max()
            if longest[step] > row_length:
                filled = first_fit(lengths[step], row_length)
                if filled.max() >= rows:
                    break
                place = balance(lengths[step], rows, filled)
                longest[step] = row_tokens(lengths[step], place, rows).max()
            places[step] = place
        else:
            return Packing(rows, places, longest)
    raise AssertionError("one example a row always fits: labels.tokenize cuts them to row_length")


def balance(
    lengths: Int[np.ndarray, " batch"],
    rows: int,
    start: Int[np.ndarray, " batch"] | None = None,
) -> Int[np.ndarray, " batch"]:
    """The row of each example, such that the longest row is about as short as can be.

    The longest examples first, each into the emptiest row (Graham 1969); or from `start`. Then,
    while it helps, the longest row hands an example to another row and takes a shorter one, or
    none, for it: of all such trades the one that leaves the longer of both rows shortest.
    """
    place = _longest_first(lengths, rows) if start is None else start
    # Behind the examples one of no tokens for each row: what is taken in a trade for nothing.
    sizes = np.append(lengths, np.zeros(rows, lengths.dtype))
    where = np.append(place, np.arange(rows))
    tokens = row_tokens(lengths, place, rows)
    shortest = max(math.ceil(tokens.sum() / rows), lengths.max())  # that the longest row can be
    while tokens.max() > shortest:
        longest = tokens.argmax()
        given, taken = np.flatnonzero(where == longest), np.flatnonzero(where != longest)
        moved = sizes[given, None] - sizes[taken]
        after = np.maximum(tokens[longest] - moved, tokens[where[taken]] + moved)
        best = np.unravel_index(after.argmin(), after.shape)
        if after[best] >= tokens[longest]:
            break
        give, take = given[best[0]], taken[best[1]]
        other = where[take]
        tokens[longest] -= moved[best]
        tokens[other] += moved[best]
        where[give] = other
        if take < len(lengths):
            where[take] = longest
    return where[: len(lengths)]


def _longest_first(lengths: Int[np.ndarray, " batch"], rows: int) -> Int[np.ndarray, " batch"]:
    place = np.zeros(len(lengths), np.int64)
    tokens = [0] * rows
    for k in np.argsort(-lengths, kind="stable").tolist():
        place[k] = tokens.index(min(tokens))
        tokens[place[k]] += int(lengths[k])
    return place


def first_fit(lengths: Int[np.ndarray, " batch"], row_length: int) -> Int[np.ndarray, " batch"]:
    """The row of each example: the longest first, each into the first row with room."""
    place = np.zeros(len(lengths), np.int64)
    room: list[int] = []
    for k in np.argsort(-lengths, kind="stable").tolist():
        row = next((r for r, left in enumerate(room) if left >= lengths[k]), len(room))
        if row == len(room):
            room.append(row_length)
        place[k] = row
        room[row] -= int(lengths[k])
    return place


def row_tokens(
    lengths: Int[np.ndarray, " batch"], place: Int[np.ndarray, " batch"], rows: int
) -> Int[np.ndarray, " rows"]:
    """The tokens in each row."""
    tokens = np.zeros(rows, np.int64)
    np.add.at(tokens, place, lengths)
    return tokens


def bucket_lengths(needed: Int[np.ndarray, " steps"], buckets: int) -> tuple[int, ...]:
    """At most `buckets` lengths, ascending, that hold the steps' rows with the least padding.

    Each step takes the shortest that is at least what it needs. Exact, by dynamic programming
    over the sorted lengths: each of those chosen serves a run of them and is its last.
    """
    sizes, counts = np.unique(needed, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    # [first, last]: the tokens of the steps that need sizes[first] to sizes[last], at the latter.
    together = (before[1:] - before[:-1, None]) * sizes.astype(float)
    together[np.tril_indices(len(sizes), -1)] = np.inf
    least = np.append(0.0, np.full(len(sizes), np.inf))  # for the first n sizes
    choices = []
    for _ in range(min(buckets, len(sizes))):
        totals = least[:-1, None] + together
        choices.append(totals.argmin(axis=0))
        least = np.append(np.inf, totals.min(axis=0))
    chosen: list[int] = []
    last = len(sizes) - 1
    for firsts in reversed(choices):  # one more length always saves something, so all are used
        chosen.insert(0, int(sizes[last]))
        last = int(firsts[last]) - 1
    return tuple(chosen)
