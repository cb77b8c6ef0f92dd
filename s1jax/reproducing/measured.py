"""What the evaluations of all seeds measured: percent right and tokens, by seed and question.

The questions are the same for every seed, so that a figure is the mean over seeds of each question,
and its interval a bootstrap over questions. It says how the same models would do on other
questions of the kind; what other seeds would do is said by the range over the seeds.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Float

from s1jax.config import Config
from s1jax.evaluation.marking import clusters
from s1jax.evaluation.measures import interval, prefixes, resampled_means
from s1jax.evaluation.results import Interval, Score, read_scores
from s1jax.reproducing.journal import Journal, ask_key, place, stage_name
from s1jax.reproducing.plan import VOTES, Ask
from s1jax.types import UserError

SCORES = "scores.jsonl"
NORMAL = 1.96  # standard deviations to either side hold 95%

Table = Float[np.ndarray, "S Q"]  # a row a seed, a column a question


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answered to one task, or to several with their questions side by side."""

    ids: tuple[str, ...]  # of the questions, their task before them
    right: Table  # percent
    tokens: Table  # of thinking
    unanswered: Table  # percent


@dataclass(frozen=True)
class Figure:
    """A mean over seeds and questions, its 95% interval over questions, its range over seeds."""

    value: float
    low: float
    high: float
    least: float  # of the seeds' own values
    most: float
    seeds: int
    questions: int
    signed: bool = False  # of a difference or a slope


class Measured:
    """The evaluations that are there, read from scores.jsonl."""

    def __init__(self, cfg: Config, workdir: Path, questions: int):
        self.cfg, self.workdir, self.questions = cfg, workdir, questions
        self.drawing = cfg.evaluate.resamples, cfg.seed
        self._journal = Journal(workdir)
        self._read: dict[tuple[str, str], dict[tuple[str, str], Answers]] = {}

    def seeds(self, asks: Iterable[Ask], seeds: Iterable[int]) -> list[int]:
        """Those of the seeds for which all of these are there."""
        wanted = [(ask, ask_key(ask, self.questions, self.cfg.evaluate)) for ask in asks]
        return [
            seed
            for seed in seeds
            if all(self._journal.has(stage_name(ask, seed), key) for ask, key in wanted)
        ]

    def answers(self, ask: Ask, task: str, run: str, seeds: Sequence[int]) -> Answers:
        """A run of an evaluation in these seeds. UserError if seeds have other questions."""
        of = [self._of(place(ask.model, seed), ask)[task, run] for seed in seeds]
        if len({one.ids for one in of}) > 1:
            raise UserError(f"{ask.model}, {ask.name}: seeds have different questions")
        return Answers(of[0].ids, *(np.concatenate(tables) for tables in _columns(of)))

    def runs(self, ask: Ask, seeds: Sequence[int]) -> list[str]:
        """The names of an evaluation's runs; of one that votes, those of its votes."""
        found = self._of(place(ask.model, seeds[0]), ask)
        return list(dict.fromkeys(run for _, run in found))

    def about(self, models: Iterable[str], what: str, note: str) -> float | None:
        """The mean over the models, a seed each, of what the journal noted of a stage."""
        done = [self._journal.done.get(f"{where}: {what}") for where in models]
        notes = [one.about[note] for one in done if one and note in one.about]
        return fmean(notes) if notes else None

    def took(self, names: Collection[str]) -> dict[str, list[float]]:
        """Seconds of each time that one of these stages was done, by its name."""
        return {name: took for name, took in self._journal.took.items() if name in names}

    def interrupted(self, names: Collection[str]) -> int:
        """How often one of these stages was begun in vain: of these only the last go was timed."""
        return sum(self._journal.interrupted(name) for name in names)

    def ran_on(self, names: Collection[str]) -> list[dict[str, Any]]:
        """The machines and versions of these stages, each once."""
        found: list[dict[str, Any]] = []
        for done in (done for name, done in self._journal.done.items() if name in names):
            if "machine" in done.about and done.about not in found:
                found.append(done.about)
        return found

    def accuracy(self, answers: Answers) -> Figure:
        """Percent right.

        Where all are right, or none, resamples are all alike; there the interval is Wilson's.
        """
        table, ids = answers.right, answers.ids
        found = self._bootstrap(table, ids)
        if table.min() == table.max() and found.value in (0.0, 100.0):
            width = 100.0 * NORMAL**2 / (len(ids) + NORMAL**2)
            low = 0.0 if found.value == 0 else 100.0 - width
            found = Interval(found.value, low, low + width)
        return figure_of(found, table.mean(1), len(ids))

    def difference(self, table: Table, ids: Sequence[str]) -> Figure:
        """The mean of a table of differences, with the ids of its questions."""
        return figure_of(self._bootstrap(table, ids), table.mean(1), len(ids), signed=True)

    def _bootstrap(self, table: Table, ids: Sequence[str]) -> Interval:
        """The mean with its interval; of several tasks, each is resampled by itself."""
        resamples, seed = self.drawing
        tasks = [i.partition("/")[0] for i in ids]
        values = table.mean(0)
        drawn = np.zeros(resamples)
        names = list(dict.fromkeys(tasks))
        for number, name in enumerate(names):
            own = values[[task == name for task in tasks]]
            share = len(own) / len(values)
            drawn += share * resampled_means(own[:, None], resamples, seed + number)[:, 0]
        return interval(float(values.mean()), drawn)

    def questions_there(self) -> list[int]:
        """How many questions of a task the evaluations have that are there, fewest first."""
        counts: set[int] = set()
        for name in self._journal.done:
            where, _, what = name.partition(": ")
            if what.startswith("evaluate "):
                path = self.workdir / where / what.removeprefix("evaluate ") / SCORES
                ids: dict[str, set[str]] = {}
                for score in read_scores(path):
                    ids.setdefault(score.task, set()).add(score.id)
                counts.update(map(len, ids.values()))
        return sorted(counts)

    def _of(self, where: str, ask: Ask) -> dict[tuple[str, str], Answers]:
        """By task and run; one row each."""
        if (where, ask.name) not in self._read:
            scores = read_scores(self.workdir / where / ask.name / SCORES)
            self._read[where, ask.name] = answers_of(scores)
        return self._read[where, ask.name]


def figure_of(
    found: Interval, of_seeds: Iterable[float], questions: int, *, signed: bool = False
) -> Figure:
    """An interval with the seeds' own values of the same."""
    seeds = [float(value) for value in of_seeds]
    # A seed's mean, taken on its own, may be a rounding away from that of all seeds.
    least, most = (round(limit(seeds), 9) for limit in (min, max))
    return Figure(found.value, found.low, found.high, least, most, len(seeds), questions, signed)


def same_ids(several: Sequence[Answers]) -> tuple[str, ...]:
    """The ids that all of these answers have, in the same order: else nothing can be paired."""
    assert len({answers.ids for answers in several}) == 1, "of different questions"
    return several[0].ids


def paired(after: Answers, before: Answers, what: str = "right") -> Table:
    """How much more, question by question and seed by seed: right, tokens or unanswered."""
    same_ids([after, before])
    return getattr(after, what) - getattr(before, what)


def side_by_side(parts: Sequence[Answers]) -> Answers:
    """The questions of several tasks as one, each task with the weight of its questions."""
    ids = tuple(i for part in parts for i in part.ids)
    return Answers(ids, *(np.concatenate(tables, axis=1) for tables in _columns(parts)))


def _columns(parts: Sequence[Answers]) -> list[list[Table]]:
    return [[getattr(part, name) for part in parts] for name in ("right", "tokens", "unanswered")]


def answers_of(scores: Iterable[Score]) -> dict[tuple[str, str], Answers]:
    """The answers of one seed by task and run, each with a single row.

    The samples of a majority give a run for each number of votes, votes-1, votes-2, ...
    """
    grouped: dict[tuple[str, str], dict[str, list[Score]]] = {}
    for score in scores:
        grouped.setdefault((score.task, score.run), {}).setdefault(score.id, []).append(score)
    found = {}
    for (task, run), questions in grouped.items():
        samples = [sorted(questions[i], key=lambda s: s.sample) for i in sorted(questions)]
        ids = tuple(f"{task}/{i}" for i in sorted(questions))
        if samples[0][0].method == "majority":
            labels = [clusters([s.answer for s in of], [s.correct for s in of]) for of in samples]
            for k in (1, *prefixes(min(map(len, samples)))):
                found[task, f"{VOTES}-{k}"] = _votes(ids, samples, labels, k)
        else:
            found[task, run] = _mean(ids, samples)
    return found


def _mean(ids: tuple[str, ...], samples: Sequence[Sequence[Score]]) -> Answers:
    return Answers(
        ids,
        np.array([[100.0 * fmean(s.correct for s in of) for of in samples]]),
        np.array([[fmean(map(thinking_tokens, of)) for of in samples]]),
        np.array([[100.0 * fmean(s.answer is None for s in of) for of in samples]]),
    )


def _votes(
    ids: tuple[str, ...],
    samples: Sequence[Sequence[Score]],
    labels: Sequence[Sequence[int]],
    k: int,
) -> Answers:
    """The vote of each question's first samples, which all thought for it."""
    right = [
        100.0 * vote(label[:k], [s.correct for s in of[:k]])
        for of, label in zip(samples, labels, strict=True)
    ]
    tokens = [float(sum(map(thinking_tokens, of[:k]))) for of in samples]
    silent = [100.0 * all(s.answer is None for s in of[:k]) for of in samples]
    return Answers(ids, np.array([right]), np.array([tokens]), np.array([silent]))


def vote(labels: Sequence[int], correct: Sequence[bool]) -> float:
    """How likely the commonest answer is right: of equally common ones each may win.

    Samples of the same label have the same answer; -1 is no answer and has no vote. If the first
    seen won, as in s1, two samples would say what the first of them does.
    """
    counts = Counter(label for label in labels if label != -1)
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [label for label, count in counts.items() if count == most]
    return fmean(correct[labels.index(label)] for label in winners)


def thinking_tokens(score: Score) -> float:
    """The tokens of a sample's thinking, all that were decoded.

    s1 leaves out the first and the last line, which of so short a thinking may be the whole. Only
    counted steps are told by its definition: what counts them down is not thinking.
    """
    counted = score.method.startswith("SCC") or score.ended is None
    return float(score.thinking_tokens if counted else score.used_tokens)
