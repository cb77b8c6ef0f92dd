"""Writes what the base model of the little world is made from.

    python -m s1jax.mini.pretraining DIR

Leaves DIR/start, a tokenizer and a model of random parameters, and what it is to read: first
DIR/texts.jsonl, then DIR/long.jsonl. `launch/mini_base.sh` does this, trains twice, and puts the
result into its place.
"""

import json
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from s1jax.mini.model import write_model
from s1jax.mini.numbers import LARGEST, words
from s1jax.mini.pool import QUESTIONS, distinct, held_out
from s1jax.mini.tasks import ANSWER, think
from s1jax.mini.texts import texts
from s1jax.mini.thinking import AGAIN, STOPS, Rng
from s1jax.mini.tokenizer import write_tokenizer
from s1jax.prompts import LONG, SHORT, think_for

TEXTS, LONG_TEXTS = 216_000, 20_000
_SEED = 1


def write(directory: Path, count: int = TEXTS, long_count: int = LONG_TEXTS) -> None:
    """Writes start/, texts.jsonl and long.jsonl into the directory."""
    start = directory / "start"
    start.mkdir(parents=True, exist_ok=True)
    write_model(start, write_tokenizer(start, _corpus()), _SEED)
    _write_texts(directory / "texts.jsonl", islice(texts(_SEED), count))
    _write_texts(directory / "long.jsonl", islice(texts(_SEED, long=True), long_count))


def _write_texts(path: Path, texts: Iterable[str]) -> None:
    rows = (json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts))
    path.write_text("".join(rows))


def _corpus() -> list[str]:
    """Everything that is ever written in this world, each word often enough to become a token."""
    rng: Rng = np.random.default_rng([_SEED, 4])
    written = []
    for question in distinct(rng, QUESTIONS, held_out()):
        thinking, answer = think(question, rng, STOPS)
        written += [question, f"\n{thinking}\n", f"\n{ANSWER}{answer}"]
    chat = "\n".join(["user", "assistant", "think", "answer", "Answer: ", "list "])
    asked = [think_for(64, unit) + " 9 steps left" for unit in ("tokens", "steps")]
    again = "".join(f"\n{word}" for word in AGAIN)
    numbers = " " + words(range(LARGEST + 1))
    return [*written, *[chat, again, numbers, *asked] * 2000, *[LONG, SHORT] * 100]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m s1jax.mini.pretraining DIR")
    write(Path(sys.argv[1]))
