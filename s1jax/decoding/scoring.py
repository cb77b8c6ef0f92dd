"""How likely a model finds texts that it is given: ids go in, log-likelihoods come out.

Prompts that share all of their input are read once; of what is read, logits exist for the scored
columns alone, and of those for a few at a time.

B rows, T columns, C scored columns (the last of a row), K texts of the same input, D embed,
V vocabulary.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from s1jax.decoding.budget import Ids
from s1jax.decoding.cache import LEAST_BLOCK, bucket
from s1jax.decoding.engine import Engine
from s1jax.decoding.step import Static
from s1jax.mesh import constrain
from s1jax.models import decoder
from s1jax.models.decoder import Params

BATCH_TOKENS = 16_384  # of a batch of long rows, padding included: attention grows with them
LOGITS = 2**26  # that exist at the same time: 256 MiB
SAME_INPUT = 8  # texts that one row scores
LEAST_COLUMNS = 4  # scored in every row: most choices of a benchmark are as short


@dataclass(frozen=True)
class Scored:
    """How likely a text is after its context."""

    logprob: float  # the natural logarithm, summed over its tokens
    greedy: bool  # it is what greedy decoding would write


@dataclass(frozen=True)
class Text:
    """Ids to score, and what the model reads before and among them."""

    index: int  # of the pair that was asked
    read: Ids  # the end of the context, and the scored ids but for the last
    ids: Ids


def text_of(index: int, context: Ids, ids: Ids, context_tokens: int) -> Text:
    """A pair cut on the left to what the model can read, which is at most `context_tokens`.

    The last id is only predicted, so that together they may be one more: what the Hugging Face
    models of lm-evaluation-harness do.
    """
    assert context and 0 < len(ids) <= context_tokens
    return Text(index, (*context, *ids)[-(context_tokens + 1) : -1], ids)


def score(engine: Engine, texts: Sequence[Text]) -> Iterator[tuple[int, Scored]]:
    """Each text's index and how likely it is, as batches are done: long inputs come first."""
    together: dict[Ids, list[Text]] = {}
    for text in texts:
        together.setdefault(text.read, []).append(text)
    rows = [
        same[at : at + SAME_INPUT]
        for same in together.values()
        for at in range(0, len(same), SAME_INPUT)
    ]
    rows.sort(key=lambda row: (-len(row[0].read), row[0].read))
    while rows:
        columns = bucket(len(rows[0][0].read), LEAST_BLOCK)
        size = max(engine.ways, min(engine.rows, _floor(BATCH_TOKENS // columns, engine.ways)))
        yield from _score_batch(engine, rows[:size], size, columns)
        rows = rows[size:]


def _score_batch(
    engine: Engine, rows: Sequence[Sequence[Text]], size: int, columns: int
) -> Iterator[tuple[int, Scored]]:
    longest = max(len(text.ids) for row in rows for text in row)
    scored = min(columns, bucket(longest, LEAST_COLUMNS))
    tokens = np.zeros((size, columns), np.int32)
    lengths = np.zeros(size, np.int32)
    alone = all(len(row) == 1 for row in rows)
    targets = np.zeros((size, scored, 1 if alone else SAME_INPUT), np.int32)
    for b, row in enumerate(rows):
        lengths[b] = len(row[0].read)
        tokens[b, columns - lengths[b] :] = row[0].read
        for k, text in enumerate(row):
            targets[b, scored - len(text.ids) :, k] = text.ids
    with engine.at_work():
        result = read(engine.static, engine.params, tokens, lengths, targets)
    logprobs, likeliest = jax.device_get(result)
    for b, row in enumerate(rows):
        for k, text in enumerate(row):
            at = slice(scored - len(text.ids), None)
            greedy = bool((likeliest[b, at] == text.ids).all())
            yield text.index, Scored(float(logprobs[b, at, k].sum(dtype=np.float64)), greedy)


@functools.partial(jax.jit, static_argnames="static")
def read(
    static: Static,
    params: Params,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    targets: Int[Array, "B C K"],
) -> tuple[Float[Array, "B C K"], Int[Array, "B C"]]:
    """Log-probabilities of the targets after the last columns, and the likeliest id of each.

    Rows are padded on the left, so that what is scored ends in the same column everywhere. Ids
    beyond the tokenizer's have no probability: no text holds them, and they are never sampled.
    """
    rows, columns = tokens.shape
    positions = jnp.arange(columns) - (columns - lengths)[:, None]
    segments = (positions >= 0).astype(jnp.int32)
    hidden, _ = decoder.apply(
        static.cfg, params, tokens, jnp.maximum(positions, 0), segments, dtype=static.dtype
    )

    def score_part(part: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, targets = part
        logits = decoder.logits(static.cfg, params, hidden)
        logits = constrain(logits, "batch", "columns", "vocab")
        logits = jnp.where(jnp.arange(logits.shape[-1]) < static.vocab_size, logits, -jnp.inf)
        chosen = jnp.take_along_axis(logits, targets, axis=-1)
        norm = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        return chosen - norm, jnp.argmax(logits, axis=-1).astype(jnp.int32)

    scored = targets.shape[1]
    width = math.gcd(scored, _floor_power(LOGITS // (rows * static.cfg.vocab_size)))

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(rows, -1, width, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(rows, scored, *x.shape[3:])

    parts = split(hidden[:, -scored:]), split(targets)
    logprobs, likeliest = jax.lax.map(score_part, parts)
    return join(logprobs), join(likeliest)


def _floor(n: int, divisor: int) -> int:
    return n // divisor * divisor


def _floor_power(n: int) -> int:
    """The power of two below or at n, at least 1."""
    return 1 << (max(n, 1).bit_length() - 1)
