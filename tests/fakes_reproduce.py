"""Made-up evaluations of all models, and a world so small that all of them can be real.

As a script it is `s1jax.reproduce` in a process that kills itself: after so many ends of stages, or
within the next one.

    python tests/fakes_reproduce.py 3 between|within FLAGS
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from fakes_train import make_config

from s1jax import cli, reproduce
from s1jax.config import Config
from s1jax.evaluation.results import Score, scores_text
from s1jax.reproducing.journal import Done, Journal, ask_key, place, stage_name
from s1jax.reproducing.plan import BASE, FAMILIES, Ask, asks_of, needed

Told = Callable[[str, str, str, int], tuple[float, ...]]  # model, task, run, seed: see below

TINY = {
    "model.path": "mini",
    "model.compute_dtype": "float32",
    "mesh.fsdp": 1,
    "pool.near_duplicates": 2.0,  # off
    "distill.via": "mini",
    "curate.size": 24,
    "curate.difficulty": "none",
    "curate.domains": "given",
    "curate.benchmark_sources": (),
    "curate.long_sources": (),
    "data.row_length": 256,
    "data.pack": True,
    "train.remat": "none",
    "train.steps": 2,
    "decode.max_thinking_tokens": 16,
    "decode.max_answer_tokens": 4,
    "decode.min_thinking_tokens": 1,
    "evaluate.budgets": (4, 8),
    "evaluate.ignore_ends": (1, 2),
    "evaluate.resamples": 300,
}


def tiny_config(pool: Path, **fields: object) -> Config:
    """The config of a pool with few questions, for two steps of training."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    return make_config(TINY | {"pool.sources": (str(pool),)} | named)


def config_file(path: Path, pool: Path, **fields: object) -> Path:
    """The same as a file for --config."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    values = TINY | {"pool.sources": (str(pool),)} | named
    path.write_text(
        "from s1jax import config\n\n\ndef get_config():\n    c = config.default()\n"
        f"    c.update_from_flattened_dict({values!r})\n    return c\n"
    )
    return path


def write_pool(path: Path, count: int = 40) -> Path:
    """So many questions of the little world, as a user's file."""
    from s1jax.mini.pool import pool

    good = [q for q in pool(7) if "\n" not in q.question and "(" not in q.question]
    unique = {q.question: q for q in good}
    lines = [
        {"question": q.question, "answer": q.answer, "solution": q.solution, "domain": q.domain}
        for q in list(unique.values())[:count]
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# --- Made-up scores ---

SEEDS, QUESTIONS, RESAMPLES = (0, 1), 30, 300


def plausible(model: str, task: str, run: str, seed: int) -> tuple[float, float]:
    """Some figure of its own for everything; votes lie between two numbers of ignored ends."""
    share = 0.2 + 0.6 * ((len(model + run) * 7 + seed) % 10) / 10
    kind, _, amount = run.partition("-")
    if kind == "ignore" and amount.isdecimal():
        return share, 40.0 * int(amount)
    return share, 10.0 + 3 * len(run) + FAMILIES.index(task)


def tell(
    cfg: Config, workdir: Path, only: Iterable[str] = (), seeds: Sequence[int] = SEEDS
) -> dict[str, Any]:
    """The tables of the report of what is there."""
    code = reproduce.reproduce(
        cfg, workdir, seeds=seeds, questions=QUESTIONS, only=list(only), report=True
    )
    assert code == cli.DONE
    return json.loads((workdir / "reproduce.json").read_text())["tables"]


def make_up(
    workdir: Path,
    cfg: Config,
    told: Told,
    *,
    seeds: Iterable[int] = (0, 1),
    questions: int = QUESTIONS,
    tables: Iterable[str] = (),
) -> None:
    """Writes the scores of every evaluation, and notes all stages as done.

    `told` says for a model, a task, a run and a seed (of the base always 0) how often it is right,
    the mean of its thinking tokens, and perhaps how often it has no answer. The draws depend on
    task, run and seed alone, so that models that are right equally often are so on the same
    questions.
    """
    wanted = {name: asks for name, asks in asks_of(cfg).items() if name in tables or not tables}
    workdir.mkdir(parents=True, exist_ok=True)
    with Journal(workdir) as journal:
        for ask in needed(wanted):
            for seed in [0] if ask.model == BASE else seeds:
                directory = workdir / place(ask.model, seed) / ask.name
                directory.mkdir(parents=True)
                (directory / "scores.jsonl").write_text(
                    scores_text(_scores(ask, seed, told, questions))
                )
                where = place(ask.model, seed)
                if ask.model != BASE and f"{where}: train" not in journal.done:
                    train = {"steps": 315, "seconds": 60.0 + seed, "row_length": 128}
                    journal.add(Done(f"{where}: curate", "", 1.0, {"examples": 1000}))
                    journal.add(Done(f"{where}: train", "", 61.0, train))
                ran_on = {"machine": "2 cores", "versions": {"s1jax": "0"}}
                name = stage_name(ask, seed)
                journal.add(Done(name, ask_key(ask, questions, cfg.evaluate), 2.0, ran_on))


def _scores(ask: Ask, seed: int, told: Told, questions: int) -> Iterable[Score]:
    for task in ask.tasks:
        for run in ask.runs:
            share, tokens, *silent = told(ask.model, task, run.name, seed)
            name = f"{task}/{run.name}/{seed}"
            rng = np.random.default_rng(list(name.encode()))
            thinks = run.decode.get("thinking", True)
            for number in range(questions):
                for sample in range(run.decode.get("samples", 1)):
                    right = bool(rng.random() < share)
                    answers = not silent or bool(rng.random() >= silent[0])
                    right = right and answers
                    used = int(rng.integers(0, max(int(2 * tokens), 1) + 1))
                    yield Score(
                        *("model", task, run.name, run.method, f"{number:03}", sample, "", "7"),
                        answer=("7" if right else str(rng.choice(["1", "2"]))) if answers else None,
                        correct=right,
                        reason="same text" if right else "other text",
                        judged=None,
                        thinking_tokens=max(used - 3, 0),
                        answer_tokens=2,
                        used_tokens=used if thinks else 0,
                        ended="itself" if thinks else None,
                        ignored_ends=0,
                        finish="stop",
                    )


def as_told(workdir: Path, model: str, name: str, seed: int) -> list[dict[str, object]]:
    """The scores of an evaluation as plain JSON."""
    path = workdir / place(model, seed) / name / "scores.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def done_line(name: str, key: str = "", seconds: float | None = 1.0) -> str:
    """A line of the journal."""
    return json.dumps(asdict(Done(name, key, seconds))) + "\n"


# --- The script ---


def _die(after: int, where: str) -> None:
    """SIGKILL to this process at the end of that stage, or in the middle of the one after it."""
    from s1jax.reproducing import stages

    ended = 0

    def run(stage: stages.Stage, log: Path) -> int:
        nonlocal ended
        if ended == after and where == "within":
            _kill_in(stage.what)
        code = quietly(stage, log)
        ended += 1
        return code

    class Killed(stages.Journal):
        def add(self, done: Done) -> None:
            if ended == after and where == "between" and done.seconds is None:
                os.kill(os.getpid(), signal.SIGKILL)
            super().add(done)

    quietly, stages._quietly = stages._quietly, run
    stages.Journal = Killed


def _kill_in(what: str) -> None:
    """SIGKILL where that kind of stage is half done."""
    from s1jax import curate, distill, train
    from s1jax.evaluation.samples import SamplesFile

    def killed(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if what.startswith("evaluate"):
        add = SamplesFile.add

        def some(self, sample):
            if len(self._places) == 5:
                killed()
            add(self, sample)

        SamplesFile.add = some
    else:
        module, name = {
            "distill": (distill, "_export"),
            "curate": (curate, "_draw"),
            "train": (train, "_finish"),
        }[what]
        setattr(module, name, killed)


if __name__ == "__main__":
    _die(int(sys.argv.pop(1)), sys.argv.pop(1))
    cli.run(reproduce.main)
