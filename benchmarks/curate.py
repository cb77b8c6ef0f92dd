"""Curates a pool of s1's size, 59,029 questions, with grades given: seconds and peak memory.

    python benchmarks/curate.py [--scale=1.0] [--keep=DIR]

The pool is made up: 16 sources with the counts of the paper's table 7, questions of words drawn by
Zipf's law with numbers, formulas and the words of a subject between them; some are quoted from the
evaluation sets or from earlier sources, repeated, nearly repeated, or have a drawing. The traces
are of s1's mean length and lie in a store, as distill leaves it. Grades and lengths are given,
domains are found by words. What is measured is `python -m s1jax.curate` as a user starts it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from s1jax.data.sources import SOURCES
from s1jax.data.store import TraceStore
from s1jax.data.subjects import SUBJECTS
from s1jax.mini import build, cache_directory
from s1jax.types import Trace, question_id

EVALUATION = {"aime24": 30, "math500": 500, "gpqa_diamond": 198}
TRACE_CHARS = 12_000  # 3,600 tokens
WORDS, MEAN_WORDS = 20_000, 45
CONFIG = """
from s1jax import config

def get_config():
    c = config.default()
    c.pool.sources = {sources}
    c.pool.evaluation_sets = {evaluation}
    c.distill.via = "replay"
    c.distill.model = "bench"
    c.curate.tokenizer = "mini"
    c.curate.difficulty = "grades"
    c.curate.grades = {grades!r}
    return c
"""


class Writer:
    """Makes up questions."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
        lengths = self.rng.integers(2, 10, size=WORDS)
        self.words = ["".join(self.rng.choice(letters[:16], n)) for n in lengths]
        weights = 1.0 / np.arange(1, WORDS + 1)
        self.subjects = [subject.words.split(", ") for subject in SUBJECTS]
        self.weights = np.cumsum(weights / weights.sum())

    def question(self) -> str:
        """Words, numbers and formulas."""
        count = int(self.rng.gamma(3.0, MEAN_WORDS / 3.0)) + 4
        words = [self.words[i] for i in np.searchsorted(self.weights, self.rng.random(count))]
        for place in self.rng.integers(0, count, size=count // 6):
            number = int(self.rng.integers(2, 1000))
            words[place] = f"${number}$" if number % 2 else f"$x_{{{number % 9}}} + {number}$"
        subject = self.subjects[min(int(self.rng.zipf(1.3)), len(self.subjects)) - 1]
        for place in self.rng.integers(0, count, size=count // 8):
            words[place] = subject[self.rng.integers(len(subject))]
        return " ".join(words).capitalize() + "?"


def make(directory: Path, scale: float) -> Path:
    """Writes pool, evaluation sets, grades, store and config; returns the config's file."""
    writer = Writer(0)
    rng = writer.rng
    files: list[Path] = []
    held_out: list[str] = []
    quoted: list[str] = []
    for name, count in EVALUATION.items():
        texts = [writer.question() for _ in range(count)]
        held_out += texts
        files.append(directory / f"{name}.jsonl")
        _write(files[-1], ({"problem": text} for text in texts))
    sources, ids = [], []
    for name, source in SOURCES.items():
        texts = []
        for _ in range(max(1, round(source.paper_questions * scale))):
            text, draw = writer.question(), rng.random()
            if draw < 0.01:  # contaminated
                words = held_out[rng.integers(len(held_out))].split()
                text = f"{text} {' '.join(words[:12])}"
            elif draw < 0.03 and quoted:  # of an earlier source, or nearly so
                text = quoted[rng.integers(len(quoted))].replace(" ", "  ", 1)
            elif draw < 0.05 and texts:
                text = texts[rng.integers(len(texts))]
                if draw < 0.04:
                    text = text.replace(" ", ", ", 1)
            elif draw < 0.07:
                text += " [asy] draw((0,0)--(1,1)); [/asy]"
            texts.append(text)
        quoted += texts[:1000]
        sources.append(directory / f"{name}.jsonl")
        _write(sources[-1], ({"question": text, "answer": "1"} for text in texts))
        ids += [question_id(text) for text in texts]
    ids = list(dict.fromkeys(ids))
    _write(directory / "grades.jsonl", _grades(ids, rng))
    _store(directory / "traces.db", ids, rng)
    config = directory / "config.py"
    config.write_text(
        CONFIG.format(
            sources=tuple(map(str, sources)),
            evaluation=tuple(map(str, files)),
            grades=str(directory / "grades.jsonl"),
        )
    )
    return config


def _write(path: Path, rows: Iterator[dict[str, object]]) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _grades(ids: list[str], rng: np.random.Generator) -> Iterator[dict[str, object]]:
    for name in ids:
        yield {
            "id": name,
            "first": bool(rng.random() < 0.4),
            "second": bool(rng.random() < 0.3),
            "teacher": bool(rng.random() < 0.55),
            "thinking_tokens": int(rng.gamma(2.0, 1800.0)) + 50,
        }


def _store(path: Path, ids: list[str], rng: np.random.Generator) -> None:
    text = "".join(chr(97 + i) if i < 26 else " " for i in rng.integers(0, 31, 4 * TRACE_CHARS))
    with TraceStore(path) as store:
        for start in range(0, len(ids), 1000):
            rows = []
            for name in ids[start : start + 1000]:
                length = int(rng.gamma(2.0, TRACE_CHARS / 2)) % (3 * TRACE_CHARS) + 200
                begin = int(rng.integers(0, TRACE_CHARS))
                thinking = text[begin : begin + length]
                rows.append(Trace(name, "replay:bench", 0, thinking, "1", "stop"))
            store.add(rows)


def main() -> None:
    """Makes the pool, curates it twice, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the pool")
    parser.add_argument("--keep", type=Path, help="a directory to work in, which is left there")
    args = parser.parse_args()
    build(cache_directory())
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "config.py"
        if not config.is_file():
            started = time.monotonic()
            make(directory, args.scale)
            print(f"made in {time.monotonic() - started:.1f} s", flush=True)
        digests = []
        for _ in range(2):
            command = [sys.executable, "-m", "s1jax.curate", f"--config={config}"]
            started = time.monotonic()
            subprocess.run([*command, f"--workdir={directory}"], check=True)
            wall_s = time.monotonic() - started
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = used.ru_utime + used.ru_stime
            print(
                f"curate: {wall_s:.1f} s, {cpu_s:.1f} s of CPU so far, peak"
                f" {used.ru_maxrss / 2**20:.2f} GiB",
                flush=True,
            )
            digests.append(json.loads((directory / "curate.json").read_text())["sha256"])
        print("bit-equal on repetition" if digests[0] == digests[1] else "NOT EQUAL")


if __name__ == "__main__":
    main()
