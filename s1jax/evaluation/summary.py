"""From the scores of all samples to Results: runs, curves, what changed between runs.

Means are over the samples of a question first, then over questions. What compares runs looks at
the questions that all of them have answered: a sweep that is still going can be summarised.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Float

from s1jax.config import Decode
from s1jax.evaluation.measures import (
    bootstrap,
    cov_at,
    maj_at,
    paired_bootstrap,
    pass_at,
    prefixes,
)
from s1jax.evaluation.results import (
    BASE,
    MODEL,
    Change,
    Interval,
    MethodResult,
    Results,
    RunResult,
    Score,
)
from s1jax.evaluation.scaling import (
    Bounds,
    bounds_of,
    control,
    extends,
    is_free,
    line_interval,
    performance,
    scaling_interval,
    scaling_printed,
    slope_p,
)
from s1jax.evaluation_config import Run

Labels = Callable[[Sequence[Score]], list[int]]  # see measures.maj_at()
Drawing = tuple[int, int]  # of intervals: resamples and seed


@dataclass(frozen=True, eq=False)
class Answered:
    """What one model answered to one task in one run."""

    model: str
    task: str
    run: Run
    decode: Decode | None  # None: the config does not know the run any more
    samples: dict[str, list[Score]]  # by question, in the order of ids; in the order of samples
    labels: dict[str, list[int]]  # by question: which samples agree; {} where nothing is voted on

    @property
    def least(self) -> int:
        """How many samples every question has."""
        return min(map(len, self.samples.values()))

    @property
    def votes(self) -> int:
        """Samples that make one answer: all of a majority, else 1."""
        return self.least if self.run.method == "majority" else 1

    def column(
        self, of: Callable[[Score], float], ids: Iterable[str] | None = None
    ) -> Float[np.ndarray, " Q"]:
        """Each question's mean over its samples."""
        asked = self.samples if ids is None else ids
        return np.array([fmean([of(s) for s in self.samples[i]]) for i in asked])

    def mean(self, of: Callable[[Score], float]) -> float:
        """The mean over the samples of a question, then over questions."""
        return float(self.column(of).mean())

    def right(self, ids: Iterable[str] | None = None) -> Float[np.ndarray, " Q"]:
        """Each question's percent right: of its samples, or 0 or 100 for the vote of a majority."""
        if self.run.method != "majority":
            return self.column(lambda s: 100.0 * s.correct, ids)
        asked = self.samples if ids is None else ids
        return np.array([100.0 * self.majority(i, self.votes) for i in asked])

    def majority(self, question: str, k: int) -> bool:
        """Whether the vote of a question's first samples is right."""
        return maj_at(self.labels[question], [s.correct for s in self.samples[question]], k)

    def thinking(self, ids: Iterable[str] | None = None) -> Float[np.ndarray, " Q"]:
        """Each question's thinking tokens by s1's definition, those of all that vote."""
        return self.votes * self.column(_thinking, ids)

    def budget(self) -> float:
        """The most thinking that it may do."""
        most = self.decode.max_thinking_tokens if self.decode else None
        return float("inf") if most is None else most


def summarise(
    scores: Sequence[Score],
    runs: Mapping[str, Sequence[Run]],
    decodes: Mapping[tuple[str, str], Decode],
    *,
    models: Mapping[str, str],
    tasks: Mapping[str, int],
    labels: Labels,
    resamples: int,
    seed: int,
    parity: bool,
    judge_decides: bool,
    disagreements: int | None,
    about: Mapping[str, Any] | None = None,
) -> Results:
    """All that follows from the scores; their order does not matter.

    `runs` are by model, `decodes` by model and name of the run: two models' runs of one name may
    ask for different things. `labels` tells which samples of a question agree.
    """
    every = _answered(scores, runs, decodes, models, tasks, labels)
    drawing = resamples, seed
    run_results: list[RunResult] = []
    methods: list[MethodResult] = []
    changes: list[Change | None] = []
    for task in tasks:
        base = {a.run.name: a for a in every if (a.task, a.model) == (task, BASE)}
        for model in models:
            some = [a for a in every if (a.task, a.model) == (task, model)]
            free = _free_run(some)
            results = [_run_result(a, free, _rival(a, base), drawing) for a in some]
            run_results += results
            bounds = {result.run: result.bounds for result in results}
            for method in dict.fromkeys(a.run.method for a in some if a.run.method != "other"):
                for part, curve in _parts(method, some, free).items():
                    methods.append(_method_result(part, method, curve, bounds, drawing))
            changes += [_change(*pair) for pair in _neighbours(some, free)]
    reasons = Counter(score.reason for score in scores)
    return Results(
        models=dict(models),
        tasks=dict(tasks),
        runs=run_results,
        methods=methods,
        changes=[change for change in changes if change is not None],
        reasons=dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
        disagreements=disagreements,
        parity=parity,
        judge_decides=judge_decides,
        resamples=resamples,
        seed=seed,
        about=dict(about or {}),
    )


def _answered(
    scores: Sequence[Score],
    runs: Mapping[str, Sequence[Run]],
    decodes: Mapping[tuple[str, str], Decode],
    models: Mapping[str, str],
    tasks: Mapping[str, int],
    labels: Labels,
) -> list[Answered]:
    """The scores by task, model and run, in the order in which they are told."""
    known = {(model, run.name): run for model in models for run in runs.get(model, ())}
    others = {(s.model, s.run): s.method for s in scores if (s.model, s.run) not in known}
    known |= {key: Run(key[1], method) for key, method in sorted(others.items())}
    found: dict[tuple[str, str, str], dict[str, dict[int, Score]]] = {}
    for score in scores:
        assert score.task in tasks and score.model in models, f"{score} is of no task or model"
        of_run = found.setdefault((score.task, score.model, score.run), {})
        of_question = of_run.setdefault(score.id, {})
        assert score.sample not in of_question, f"{score} is there twice"
        of_question[score.sample] = score
    every = []
    for task, model, (whose, name) in itertools.product(tasks, models, known):
        if whose == model and (task, model, name) in found:
            samples, run = _in_order(found[task, model, name]), known[model, name]
            voted = run.method == "majority" or min(map(len, samples.values())) > 1
            voting = {i: labels(of) for i, of in samples.items()} if voted else {}
            every.append(Answered(model, task, run, decodes.get((model, name)), samples, voting))
    return every


def _in_order(questions: Mapping[str, Mapping[int, Score]]) -> dict[str, list[Score]]:
    return {
        i: [of for _, of in sorted(samples.items())] for i, samples in sorted(questions.items())
    }


def _free_run(some: Iterable[Answered]) -> Answered | None:
    """The run that nothing cuts short, extends or asks for a length: that of the largest budget.

    Of equals it is one of budget forcing, whose curve it is on, and of these the first.
    """
    free = [
        a
        for a in some
        if a.run.method in ("BF", "plain", "CCC") and a.decode is not None and is_free(a.decode)
    ]
    return max(free, key=lambda a: (a.budget(), a.run.method == "BF"), default=None)


def _part(answered: Answered, free: Answered | None) -> str:
    """On which part of the curve of budget forcing a run is; "" if it is not, or one cannot say."""
    decode = answered.decode
    if answered.run.method != "BF" or decode is None:
        return ""
    if extends(decode):
        return "extended"
    whole = free is not None and is_free(decode) and answered.budget() == free.budget()
    return "free" if whole else "cut short"


def _common(curve: Sequence[Answered]) -> list[str]:
    """The questions that all of them have answered."""
    return [i for i in curve[0].samples if all(i in a.samples for a in curve)]


# --- Runs ---


def _run_result(
    answered: Answered,
    free: Answered | None,
    base: Answered | None,
    drawing: Drawing,
) -> RunResult:
    samples, decode, right = answered.samples, answered.decode, answered.right()
    powers = prefixes(answered.least)
    correct = {i: [s.correct for s in of] for i, of in samples.items()}
    free_tokens = free.mean(_thinking) if free else None
    of_groups: dict[str, list[float]] = {}
    for i, accuracy in zip(samples, right.tolist(), strict=True):
        if samples[i][0].group:
            of_groups.setdefault(samples[i][0].group, []).append(accuracy)
    return RunResult(
        model=answered.model,
        task=answered.task,
        run=answered.run.name,
        method=answered.run.method,
        asked=dict(answered.run.decode),
        bounds=bounds_of(decode, answered.run.method, free_tokens) if decode else None,
        budget=decode.max_thinking_tokens if decode and decode.thinking else None,
        part=_part(answered, free),
        questions=len(samples),
        samples=answered.least,
        accuracy=bootstrap(right, *drawing),
        thinking_tokens=float(answered.thinking().mean()),
        answer_tokens=answered.mean(lambda s: s.answer_tokens),
        used_tokens=answered.votes * answered.mean(lambda s: s.used_tokens),
        no_answer=answered.mean(lambda s: 100.0 * (s.answer is None)),
        budget_ended=answered.mean(lambda s: 100.0 * (s.ended == "budget")),
        ends_ignored=answered.mean(lambda s: s.ignored_ends),
        pass_at={
            k: 100 * fmean(pass_at(len(of), sum(of), k) for of in correct.values())
            for k in ([1, *powers] if powers else [])
        },
        cov_at={k: 100 * fmean(cov_at(of, k) for of in correct.values()) for k in powers},
        maj_at={k: 100 * fmean(answered.majority(i, k) for i in samples) for k in powers},
        groups={name: (fmean(of), len(of)) for name, of in sorted(of_groups.items())},
        against_base=_against(answered, base, drawing),
    )


def _rival(answered: Answered, base: Mapping[str, Answered]) -> Answered | None:
    """The base's run that a run is held against: of the same name, else the plain or only one."""
    if answered.model != MODEL:
        return None
    only = next(iter(base.values())) if len(base) == 1 else None
    return base.get(answered.run.name) or base.get("plain") or only


def _against(answered: Answered, base: Answered | None, drawing: Drawing) -> Interval | None:
    common = _common([answered, base]) if base else []
    if base is None or not common:
        return None
    return paired_bootstrap(answered.right(common), base.right(common), *drawing)


# --- Curves ---


def _parts(
    method: str, some: Sequence[Answered], free: Answered | None
) -> dict[str, list[Answered]]:
    """The curves of a method: all of it; of budget forcing also its two halves.

    Cutting the thinking short and extending it are different questions, and one curve through
    both is mostly the first (arXiv 2507.14419). What is free belongs to both.
    """
    curve = [a for a in some if a.run.method == method]
    parts = {"all": curve}
    if method == "BF":
        whole = [a for a in some if a is free or _part(a, free) == "free"]
        for part in ("cut short", "extended"):
            half = [a for a in curve if _part(a, free) == part]
            if half and len(half + whole) > 1:
                parts[part] = half + whole
    return parts


def _method_result(
    part: str,
    method: str,
    curve: Sequence[Answered],
    bounds: Mapping[str, Bounds | None],
    drawing: Drawing,
) -> MethodResult:
    curve = sorted(curve, key=lambda a: float(a.thinking().mean()))
    common = _common(curve)
    # Runs that have no question in common are no curve, but the best of them is known.
    right = [a.right(common or None) for a in curve]
    tokens = [a.thinking(common or None) for a in curve]
    points = [(float(x.mean()), float(y.mean())) for x, y in zip(tokens, right, strict=True)]
    slope, line, p = None, None, None
    if common:
        table = np.stack(right, axis=1), np.stack(tokens, axis=1)
        slope = scaling_interval(*table, *drawing)
        line = line_interval(*table, *drawing)
        p = slope_p(*table, *drawing)
    return MethodResult(
        model=curve[0].model,
        task=curve[0].task,
        method=method,
        part=part,
        runs=tuple(a.run.name for a in curve),
        control=control([a.mean(_thinking) for a in curve], [bounds[a.run.name] for a in curve]),
        scaling=slope,
        line=line,
        slope_p=p,
        scaling_printed=scaling_printed(points) if common else None,
        performance=performance(points),
    )


# --- Changes ---


def _neighbours(some: Sequence[Answered], free: Answered | None) -> list[tuple[Answered, Answered]]:
    """Pairs of runs, the second of which ignored more ends and is else the same.

    Each with the one that ignored the next fewer (none: the same budget), and with the free run.
    """
    forcing = [(a, a.decode) for a in some if a.run.method == "BF" and a.decode is not None]
    pairs = []
    for after, decode in forcing:
        if not decode.ignore_ends:
            continue
        fewer = [
            (other.ignore_ends, before)
            for before, other in forcing
            if other.ignore_ends < decode.ignore_ends and _alike(other, decode)
        ]
        most = max((ignored for ignored, _ in fewer), default=None)
        before = next((a for ignored, a in fewer if ignored == most), None)
        pairs += [(other, after) for other in dict.fromkeys((before, free)) if other is not None]
    return pairs


def _alike(before: Decode, after: Decode) -> bool:
    """Whether two runs differ in the number of ignored ends alone."""
    strings = before.ignore_strings if before.ignore_ends else after.ignore_strings
    return replace(before, ignore_ends=after.ignore_ends, ignore_strings=strings) == after


def _change(before: Answered, after: Answered) -> Change | None:
    common = _common([before, after])
    outcomes = Counter((before.samples[i][0].correct, after.samples[i][0].correct) for i in common)
    if not common:
        return None
    return Change(
        model=after.model,
        task=after.task,
        before=before.run.name,
        after=after.run.name,
        fixed=outcomes[False, True],
        broken=outcomes[True, False],
        stayed_right=outcomes[True, True],
        stayed_wrong=outcomes[False, False],
    )


# --- Of one score ---


def _thinking(score: Score) -> float:
    return float(score.thinking_tokens)
