"""From generations to what is known of a model: marks, scores, results, pictures, the report.

Everything here runs without jax, weights or a network (but for a judge, if one is asked), as often
as one likes: a grader that was mended, or a gold answer, costs no generation.
"""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from s1jax.attempts import ask_all, judge_prompt, judged_by
from s1jax.config import Config, Decode
from s1jax.curation import open_teacher
from s1jax.data.rows import replaced
from s1jax.data.store import TraceStore
from s1jax.evaluation import marking, page, plots
from s1jax.evaluation.marking import Mark
from s1jax.evaluation.report import report
from s1jax.evaluation.results import BASE, MODEL, Results, RunResult, Score, scores_text
from s1jax.evaluation.samples import Sample, SamplesFile
from s1jax.evaluation.summary import summarise
from s1jax.evaluation.tasks import Item, digest, items_of, read_task
from s1jax.evaluation_config import Evaluate, Run, Task, tasks_of
from s1jax.lines import AppendedLines
from s1jax.mini import MINI
from s1jax.mini.pool import evaluation_rows
from s1jax.mini.tasks import FAMILIES
from s1jax.progress import Progress
from s1jax.sections import read_section
from s1jax.types import Question, UserError

GENERATIONS, MANIFEST = "generations.jsonl", "evaluation.json"
PLAIN = "plain"  # the run that a base has of its own
MARKS_TOGETHER = 1000  # graded before they are written: workers start anew for each lot
_MARKS = "marks.jsonl"

Items = Mapping[str, Sequence[Item]]  # by the names of tasks


@dataclass(frozen=True)
class Evaluation:
    """Who was asked what: the manifest of a workdir."""

    config: dict[str, Any]
    models: dict[str, dict[str, str]]  # MODEL and BASE: path, sha256, tokenizer_sha256
    runs: dict[str, list[Run]]  # of each model
    decodes: dict[str, dict[str, Decode]]  # of each model and run, by its name
    plan: dict[str, dict[str, dict[str, dict[str, list[str]]]]]  # model, task, run, id: keys
    about: dict[str, Any]  # versions and devices

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        _write(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """The manifest of a file. UserError if there is none."""
        if not path.is_file():
            raise UserError(f"{path}: there is no such file; evaluate into --workdir first")
        problems: list[str] = []
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            runs = {
                model: [read_section(Run, run, "runs.", problems) for run in of]
                for model, of in values["runs"].items()
            }
            decodes = {
                model: {
                    name: read_section(Decode, decode, "", problems) for name, decode in of.items()
                }
                for model, of in values["decodes"].items()
            }
            made = cls(**{**values, "runs": runs, "decodes": decodes})
            whole = set(runs) == set(decodes) == set(made.plan) == set(made.models)
            whole = whole and all(
                {run.name for run in runs[model]} == set(decodes[model]) for model in runs
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(str(error) or type(error).__name__)
        if problems or not whole:
            why = (
                problems[0] if problems else "it does not name the same models and runs everywhere"
            )
            raise UserError(f"{path}: is no evaluation's manifest ({why}); evaluate again")
        return made


def read_tasks(evaluate: Evaluate) -> dict[str, list[Item]]:
    """The questions of all tasks. UserError if there are none, or a task cannot be read."""
    tasks = tasks_of(evaluate)
    if not tasks:
        raise UserError('evaluate.tasks is empty: set it, for example to ("math500",)')
    paths, revisions = (
        dict(pair.split("=", 1) for pair in pairs) for pairs in (evaluate.paths, evaluate.revisions)
    )
    return {
        task.name: _items(task, paths.get(task.name), revisions.get(task.name), evaluate)
        for task in tasks
    }


def _items(task: Task, path: str | None, revision: str | None, evaluate: Evaluate) -> list[Item]:
    if (path or task.path) == MINI:
        if task.subset not in (None, *FAMILIES):
            raise UserError(
                f'evaluation task {task.name}: "mini" has no "{task.subset}": it has'
                f" {', '.join(FAMILIES)}"
            )
        return items_of(task, evaluation_rows(task.subset))[: evaluate.max_questions]
    return read_task(task, path=path, revision=revision, most=evaluate.max_questions)


def tell(
    cfg: Config, workdir: Path, evaluation: Evaluation, items: Items, *, asked_now: bool
) -> Results:
    """Grades all samples that are there, writes scores, results, report and pictures.

    `asked_now` is whether the keys of the plan are those of these very questions. Raises UserError
    if the generations are of other questions; and, when all is written, if the judge failed.
    """
    file = SamplesFile(workdir / GENERATIONS)
    graded = _scores(cfg, workdir, evaluation, items, file, asked_now)
    if not graded:
        raise UserError(f"{workdir / GENERATIONS}: holds no sample of these tasks and runs")
    keys = [key for key, _ in graded]
    scores, disagreements, failure = _judged(cfg, workdir, items, [score for _, score in graded])
    results = summarise(
        scores,
        {model: _asked_for(cfg, runs) for model, runs in evaluation.runs.items()},
        {
            (model, name): decode
            for model, of in evaluation.decodes.items()
            for name, decode in of.items()
        },
        models={name: about["path"] for name, about in evaluation.models.items()},
        tasks={task: len(of) for task, of in items.items()},
        labels=_labels,
        resamples=cfg.evaluate.resamples,
        seed=cfg.seed,
        parity=cfg.evaluate.parity,
        judge_decides=cfg.evaluate.judge_decides,
        disagreements=disagreements,
        about={
            **evaluation.about,
            "models": evaluation.models,
            "tasks": {
                task: {"questions": len(of), "sha256": digest(of)} for task, of in items.items()
            },
        },
    )
    _write(workdir / "scores.jsonl", scores_text(scores))
    _write(workdir / "results.json", results.to_json())
    _write(workdir / "report.md", report(results))
    plots.plot_scaling(results, workdir / "scaling.png")
    plots.plot_methods(results, workdir / "methods.png")
    plots.plot_thinking(results, scores, workdir / "thinking.png")
    plots.plot_waits(results, workdir / "waits.png")
    prompts = {(item.task, item.id): item.prompt for of in items.values() for item in of}
    shown = (
        page.Shown(score, prompts[score.task, score.id], file.get(key))
        for score, key in zip(scores, keys, strict=True)
    )
    page.write_page(workdir / "samples.html", results, shown)
    if failure is not None:
        raise UserError(f"{failure}; the report is there, without the judge")
    return results


def _asked_for(cfg: Config, runs: Sequence[Run]) -> list[Run]:
    """Those that evaluate.only names, or all; a base's own plain run is always told."""
    only = cfg.evaluate.only
    return [run for run in runs if not only or run.name in only or run.name == PLAIN]


def _scores(
    cfg: Config,
    workdir: Path,
    evaluation: Evaluation,
    items: Items,
    file: SamplesFile,
    asked_now: bool,
) -> list[tuple[str, Score]]:
    """The scores of all samples that are there, with the samples' keys."""
    graders = {task.name: task.grader for task in tasks_of(cfg.evaluate)}
    found: list[tuple[str, Score]] = []
    texts: list[marking.Asked] = []
    for model, run, item, number, key in _planned(cfg, evaluation, items):
        if key not in file:
            continue
        sample = file.get(key)
        if not asked_now and sample.generation.prompt != item.prompt:
            raise UserError(
                f"{workdir / GENERATIONS}: question {item.id} of {item.task} was another one when"
                " it was asked: evaluate again, without --grade"
            )
        text = sample.generation.text if cfg.evaluate.parity else sample.answer_text
        found.append((key, _score(model, run, item, number, sample)))
        texts.append((graders[item.task], item, text))
    marks = _marks(cfg, workdir / _MARKS, texts)
    return [
        (key, replace(score, answer=mark.answer, correct=mark.correct, reason=mark.reason))
        for (key, score), mark in zip(found, marks, strict=True)
    ]


def _planned(
    cfg: Config, evaluation: Evaluation, items: Items
) -> Iterator[tuple[str, Run, Item, int, str]]:
    """Model, run, question, number and key of each sample, by tasks, models and runs."""
    for task, of in items.items():
        for model, runs in evaluation.runs.items():
            for run in _asked_for(cfg, runs):
                keys = evaluation.plan[model].get(task, {}).get(run.name, {})
                for item in of:
                    for number, key in enumerate(keys.get(item.id, [])):
                        yield model, run, item, number, key


def _marks(cfg: Config, path: Path, texts: Sequence[marking.Asked]) -> list[Mark]:
    """The marks of answers; those of earlier times are taken up, new ones written as they come."""
    parity = cfg.evaluate.parity
    file, known = _marks_in(path)
    keys = [marking.key(*text, parity) for text in texts]
    fresh = [n for n, key in enumerate(keys) if key not in known]
    progress = Progress("grading", "answers", len(keys), len(keys) - len(fresh))
    if fresh:
        with file:
            for start in range(0, len(fresh), MARKS_TOGETHER):
                some = fresh[start : start + MARKS_TOGETHER]
                marks = marking.mark(
                    [texts[n] for n in some],
                    parity=parity,
                    processes=cfg.evaluate.grading_processes,
                )
                made = dict(zip((keys[n] for n in some), marks, strict=True))
                for key, mark in made.items():
                    if mark.lasts:
                        file.add(json.dumps([key, *asdict(mark).values()]) + "\n")
                known |= made
                progress.done += len(some)
                progress.show()
        progress.show(last=True)
    return [known[key] for key in keys]


def _marks_in(path: Path) -> tuple[AppendedLines, dict[str, Mark]]:
    """The file of marks, and those in it. A damaged one is removed: they can be made again."""
    file, known = AppendedLines(path, str(path)), dict[str, Mark]()

    def take(line: Any, *_: int) -> None:
        key, *mark = line
        known[key] = Mark(*mark)

    try:
        file.read(take)
    except UserError:
        path.unlink()
        return AppendedLines(path, str(path)), {}
    return file, known


def _score(model: str, run: Run, item: Item, number: int, sample: Sample) -> Score:
    """A sample's score before it is marked."""
    generation = sample.generation
    return Score(
        model=model,
        task=item.task,
        run=run.name,
        method=run.method,
        id=item.id,
        sample=number,
        group=item.group,
        gold=item.gold,
        answer=None,
        correct=False,
        reason="",
        judged=None,
        thinking_tokens=sample.s1_thinking_tokens,
        answer_tokens=sample.s1_answer_tokens,
        used_tokens=generation.thinking_tokens,
        ended=generation.thinking_ended,
        ignored_ends=len(generation.ignored_ends),
        finish=generation.finish,
    )


def _labels(scores: Sequence[Score]) -> list[int]:
    return marking.clusters([s.answer for s in scores], [s.correct for s in scores])


# --- The judge ---


def check_judge(cfg: Config) -> None:
    """Raises UserError, before anything is generated, if there is to be a judge and it is none."""
    if cfg.evaluate.judge.via:
        open_teacher(cfg, cfg.evaluate.judge, thinking=False, field="evaluate.judge")


def _judged(
    cfg: Config, workdir: Path, items: Items, scores: list[Score]
) -> tuple[list[Score], int | None, str | None]:
    """The scores with a judge's verdicts, on how many it disagrees, and why it failed, if it did.

    It is asked once about each answer that is not the very text of the reference. Without a judge,
    or if it failed, the scores are as given.
    """
    if not cfg.evaluate.judge.via:
        return scores, None, None
    questions = {
        (item.task, item.id): Question(item.prompt, item.gold)
        for of in items.values()
        for item in of
    }
    prompts = {
        (s.task, s.id, s.answer): judge_prompt(questions[s.task, s.id], s.answer)
        for s in scores
        if s.answer is not None and s.reason != "same text"
    }
    try:
        with TraceStore(workdir / "judge.db") as store:
            rows = ask_all(cfg, cfg.evaluate.judge, "evaluate.judge", list(prompts.values()), store)
    except UserError as error:
        return scores, None, str(error)
    verdicts = {what: judged_by(rows.get((prompt.id, 0))) for what, prompt in prompts.items()}
    judged = [replace(s, judged=verdicts.get((s.task, s.id, s.answer or ""))) for s in scores]
    differ = [s for s in judged if s.judged is not None and s.judged != s.correct]
    _write(
        workdir / "disagreements.jsonl",
        "".join(
            json.dumps(asdict(s) | {"prompt": questions[s.task, s.id].question}, ensure_ascii=False)
            + "\n"
            for s in differ
        ),
    )
    if cfg.evaluate.judge_decides:
        judged = [
            s if s.judged is None else replace(s, correct=s.judged, reason="judge") for s in judged
        ]
    return judged, len(differ), None


def versions() -> dict[str, str]:
    """What generated and graded, by the names of packages."""
    names = ("s1jax", "jax", "flax", "transformers", "math-verify", "sympy")
    return {name: importlib.metadata.version(name) for name in names}


def summary(results: Results) -> str:
    """A table for the screen: a line for each run, the base beside the model where both were asked.

    Budgets are what was asked for, thinking what a sample took on the mean, as it was decoded.
    """
    found = {(run.model, run.task, run.run): run for run in results.runs}
    labels = [label for label in (MODEL, BASE) if label in {run.model for run in results.runs}]
    rows = [["task", "run", "budget"]]
    for label in labels:
        who = "" if len(labels) == 1 else "base: " if label == BASE else "tuned: "
        rows[0] += [f"{who}thinking", f"{who}accuracy % [95%]"]
    for task, name in dict.fromkeys((run.task, run.run) for run in results.runs):
        runs = [found.get((label, task, name)) for label in labels]
        budget = next(run.budget for run in runs if run)
        row = [task, name, "" if budget is None else f"{budget:,}"]
        for run in runs:
            row += [f"{run.used_tokens:,.0f}", _interval(run)] if run else ["", ""]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _interval(run: RunResult) -> str:
    accuracy = run.accuracy
    return f"{accuracy.value:.1f} [{accuracy.low:.1f}, {accuracy.high:.1f}]"


def _write(path: Path, text: str) -> None:
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogatepass")
