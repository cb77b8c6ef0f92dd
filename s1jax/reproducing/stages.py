"""Runs the stages of all models one after the other, each once: distill, curate, train, evaluate.

WORKDIR/seed-N/MODEL/ is the workdir of a model's verbs, and of an evaluation the directory in it
that has its name. The base is the same for all seeds and lies in WORKDIR/base/. What is done stands
in stages.jsonl and is passed over; what is not, the verbs themselves go on with.
"""

import contextlib
import json
import os
import platform
import shutil
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1jax import cli
from s1jax.config import Config
from s1jax.curation import TRACES
from s1jax.data.rows import replaced
from s1jax.outcomes import versions
from s1jax.progress import format_seconds, say
from s1jax.reproducing.journal import Done, Journal, Stage, ask_key, place
from s1jax.reproducing.plan import BASE, MODELS, ROWS, SEGMENT_STEPS, Ask, Model, before, config_of
from s1jax.types import UserError

if TYPE_CHECKING:
    import jax

LOG = "log.txt"
CURATED = "curated.jsonl"
RESAMPLES = 1000  # of the reports of single evaluations, which nobody may ever read

Devices = Sequence["jax.Device"] | None


# --- Which stages there are ---


def stages_of(
    cfg: Config,
    workdir: Path,
    asks: Sequence[Ask],
    seeds: Sequence[int],
    questions: int,
    devices: Devices = None,
) -> list[Stage]:
    """All stages of these evaluations in their order, done or not."""
    plan = _Plan(cfg, workdir, questions, devices)
    stages = [plan.evaluate(ask, None) for ask in asks if ask.model == BASE]
    for seed in seeds:
        made: set[str] = set()
        for ask in (ask for ask in asks if ask.model != BASE):
            for model in before(MODELS[ask.model]):
                if model.name not in made:
                    stages += plan.make(model, seed)
                    made.add(model.name)
            stages.append(plan.evaluate(ask, seed))
    return stages


@dataclass(frozen=True)
class _Plan:
    cfg: Config
    workdir: Path
    questions: int
    devices: Devices

    def make(self, model: Model, seed: int) -> list[Stage]:
        """What comes before a model can be asked, its training last."""
        where = place(model.name, seed)
        directory = self.workdir / where
        cfg = config_of(self.cfg, seed, model.fields)
        stages = []
        if not model.examples:
            if model.traces == model.name:
                stages.append(Stage(where, "distill", partial(_distill, cfg, directory)))
            lender = self.workdir / place(model.traces, seed)
            run = partial(_curate, cfg, directory, lender)
            stages.append(Stage(where, "curate", run, partial(_selected, directory)))
        examples = self.workdir / place(model.examples or model.name, seed) / CURATED
        run = partial(_train, cfg, directory, examples, model.cut_share, self.devices)
        return [*stages, Stage(where, "train", run, partial(_trained, directory))]

    def evaluate(self, ask: Ask, seed: int | None) -> Stage:
        """One evaluation; of the base without a seed."""
        where = place(ask.model, seed or 0)
        directory = self.workdir / where
        own = MODELS[ask.model].fields if ask.model != BASE else {}
        fields = {
            **own,
            "evaluate.tasks": ask.tasks,
            "evaluate.runs": ask.runs,
            **{f"evaluate.{name}": () for name in ("budgets", "ignore_ends", "only", "seeds")},
            "evaluate.max_questions": self.questions,
            "evaluate.base": "none",
            "evaluate.resamples": RESAMPLES,
            "decode.batch_size": max(ROWS, self.cfg.decode.batch_size),
            "decode.segment_steps": min(SEGMENT_STEPS, self.cfg.decode.segment_steps),
        }
        cfg = config_of(self.cfg, self.cfg.seed if seed is None else seed, fields)
        model = None if ask.model == BASE else str(directory)
        run = partial(_evaluate, cfg, directory / ask.name, model, self.devices)
        key = ask_key(ask, self.questions, self.cfg.evaluate)
        return Stage(where, f"evaluate {ask.name}", run, _ran_on, key)


# --- What a stage does ---


def _distill(cfg: Config, directory: Path) -> int:
    from s1jax.distill import distill

    return distill(cfg, directory)


def _curate(cfg: Config, directory: Path, lender: Path) -> int:
    """Selects, from another's traces if it has none of its own."""
    from s1jax.curate import curate

    if lender != directory:
        directory.mkdir(parents=True, exist_ok=True)
        with (
            replaced(directory / TRACES) as copy,
            contextlib.closing(sqlite3.connect(lender / TRACES)) as theirs,
            contextlib.closing(sqlite3.connect(copy)) as ours,
        ):
            theirs.backup(ours)
        shutil.copyfile(lender / "distill.json", directory / "distill.json")
    return curate(cfg, directory)


def _train(cfg: Config, directory: Path, examples: Path, cut_share: float, devices: Devices) -> int:
    from s1jax.train import train

    cfg = replace(cfg, data=replace(cfg.data, path=str(examples.absolute())))
    if cut_share:
        length = _length_that(cut_share, cfg)
        cfg = replace(cfg, data=replace(cfg.data, row_length=length))
    return train(cfg, directory, devices)


def _length_that(share: float, cfg: Config) -> int:
    """The row length that this share of the examples exceeds."""
    from s1jax import mini
    from s1jax.chat import ChatTokenizer, chat_of
    from s1jax.data.examples import load_examples
    from s1jax.data.labels import label_stats, tokenize
    from s1jax.models.hf import open_checkpoint

    model = mini.resolve_model(cfg).model
    tokenizer = ChatTokenizer.load(open_checkpoint(model.path, model.revision).directory)
    examples = load_examples(cfg.data)
    tokenized = tokenize(examples, tokenizer, chat_of(model.chat), 2**31 - 1, cfg.data.control)
    length = label_stats(tokenized).length(100 * (1 - share))
    context = cfg.mesh.context if cfg.mesh.context > 0 else 1
    return max(length // context * context, 2)


def _evaluate(cfg: Config, directory: Path, model: str | None, devices: Devices) -> int:
    from s1jax.evaluate import evaluate

    return evaluate(cfg, directory, model, devices=devices)


# --- What is noted of it ---


def _selected(directory: Path) -> dict[str, Any]:
    manifest = json.loads((directory / "curate.json").read_text(encoding="utf-8"))
    return {
        "examples": sum(manifest["picks"].values()),
        "thinking_tokens": manifest["thinking_tokens"],
    }


def _trained(directory: Path) -> dict[str, Any]:
    """Steps, and seconds of them alone, those before an interruption as well."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    config = json.loads((directory / "config.json").read_text())
    return {
        "steps": len(steps),
        "seconds": sum(step["step_time_s"] for step in steps),
        "row_length": config["data"]["row_length"],
    }


def _ran_on() -> dict[str, Any]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return {
        "machine": f"{os.cpu_count()} cores of {processor}, {platform.system()}",
        "versions": {"python": platform.python_version()} | versions(),
    }


# --- Running them ---


def run_stages(stages: Sequence[Stage], workdir: Path) -> int:
    """Does what is not done yet; returns the exit code.

    Raises UserError, with the stage's name, for what a verb refuses.
    """
    with Journal(workdir) as journal:
        left = [stage for stage in stages if not journal.has(stage.name, stage.key)]
        if left:
            say(
                f"reproduce: {len(stages) - len(left)}/{len(stages)} stages are done, about"
                f" {format_seconds(journal.expected(left))} left; what they say goes to"
                f" {workdir / LOG}"
            )
            _keep_compiled(workdir)
        for number, stage in enumerate(left, 1):
            journal.add(Done(stage.name))
            started = time.monotonic()
            code = _quietly(stage, workdir / LOG)
            if code != cli.DONE:
                return code
            seconds = round(time.monotonic() - started, 1)
            journal.add(Done(stage.name, stage.key, seconds, stage.about()))
            rest = left[number:]
            say(
                f"reproduce: {len(stages) - len(rest)}/{len(stages)} stages  {stage.name}"
                f" {format_seconds(seconds)}"
                + (f"  {format_seconds(journal.expected(rest))} left" if rest else "")
            )
    return cli.DONE


def _quietly(stage: Stage, log: Path) -> int:
    """Runs a stage, whose lines go to the log."""
    with log.open("a", encoding="utf-8") as file:
        print(f"\n--- {stage.name}", file=file, flush=True)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                return stage.run()
        except UserError as error:
            raise UserError(f"{stage.name}: {error}") from error


def _keep_compiled(workdir: Path) -> None:
    """Lets jax take up what it compiled for an earlier model: they all have the same shapes."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
