"""From the scores of all samples to Results: runs, curves, what changed between runs.

Means are over the samples of a question first, then over questions. What compares runs looks at
the questions that all of them have answered: a sweep that is still going can be summarised.
"""

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
    bounds_of,
    control,
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

    def column(
        self, of: Callable[[Score], float], ids: Sequence[str] | None = None
    ) -> Float[np.ndarray, " Q"]:
        """Each question's mean over its samples."""
        asked = self.samples if ids is None else ids
        return np.array([fmean([of(s) for s in self.samples[i]]) for i in asked])

    def mean(self, of: Callable[[Score], float]) -> float:
        """The mean over the samples of a question, then over questions."""
        return float(self.column(of).mean())

    def mean_tokens(self) -> float:
        """The mean thinking tokens by s1's definition."""
        return self.mean(_thinking)


def summarise(
    scores: Sequence[Score],
    runs: Sequence[Run],
    decodes: Mapping[str, Decode],
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

    `decodes` are by the names of runs; `labels` tells which samples of a question agree.
    """
    every = _answered(scores, runs, decodes, models, tasks)
    drawing = resamples, seed
    run_results: list[RunResult] = []
    methods: list[MethodResult] = []
    changes: list[Change | None] = []
    for task in tasks:
        base = {a.run.name: a for a in every if (a.task, a.model) == (task, BASE)}
        for model in models:
            some = [a for a in every if (a.task, a.model) == (task, model)]
            free = _free_run(some)
            results = [_run_result(a, free, _rival(a, base), labels, drawing) for a in some]
            run_results += results
            bounds = {result.run: result.bounds for result in results}
            for method in dict.fromkeys(a.run.method for a in some):
                for part, curve in _parts(method, some, free).items():
                    methods.append(_method_result(part, method, curve, bounds, labels, drawing))
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
    runs: Sequence[Run],
    decodes: Mapping[str, Decode],
    models: Mapping[str, str],
    tasks: Mapping[str, int],
) -> list[Answered]:
    """The scores by task, model and run, in the order in which they are told."""
    known = {run.name: run for run in runs}
    others = sorted({(s.run, s.method) for s in scores if s.run not in known})
    known |= {name: Run(name, method) for name, method in others}
    found: dict[tuple[str, str, str], dict[str, dict[int, Score]]] = {}
    for score in scores:
        assert score.task in tasks and score.model in models, f"{score} is of no task or model"
        of_run = found.setdefault((score.task, score.model, score.run), {})
        of_question = of_run.setdefault(score.id, {})
        assert score.sample not in of_question, f"{score} is there twice"
        of_question[score.sample] = score
    return [
        Answered(model, task, run, decodes.get(run.name), _in_order(found[task, model, run.name]))
        for task in tasks
        for model in models
        for run in known.values()
        if (task, model, run.name) in found
    ]


def _in_order(questions: Mapping[str, Mapping[int, Score]]) -> dict[str, list[Score]]:
    return {
        i: [of for _, of in sorted(samples.items())] for i, samples in sorted(questions.items())
    }


def _free_run(some: Iterable[Answered]) -> Answered | None:
    """The run that nothing cuts short, extends or asks for a length: that of the largest budget."""

    def budget(answered: Answered) -> float:
        assert answered.decode is not None
        most = answered.decode.max_thinking_tokens
        return float("inf") if most is None else most

    free = [a for a in some if a.run.method in ("BF", "plain", "CCC") and _is_free(a.decode)]
    return max(free, key=budget, default=None)  # the first of equals


def _is_free(decode: Decode | None) -> bool:
    if decode is None or not decode.thinking or _extends(decode):
        return False
    return not (decode.prompt_tokens or decode.prompt_steps or decode.prompt_class)


def _extends(decode: Decode) -> bool:
    # One token at the least is how a sweep lets all its runs share a generation; it extends none.
    return decode.ignore_ends > 0 or decode.min_thinking_tokens > 1


def _common(curve: Sequence[Answered]) -> list[str]:
    """The questions that all of them have answered."""
    return [i for i in curve[0].samples if all(i in a.samples for a in curve)]


# --- Runs ---


def _run_result(
    answered: Answered,
    free: Answered | None,
    base: Answered | None,
    labels: Labels,
    drawing: Drawing,
) -> RunResult:
    samples = answered.samples
    least = min(map(len, samples.values()))
    powers = prefixes(least)
    correct = {i: [s.correct for s in of] for i, of in samples.items()}
    labelled = {i: labels(of) for i, of in samples.items()} if powers else {}
    free_tokens = free.mean_tokens() if free else None
    decode = answered.decode
    of_groups: dict[str, list[float]] = {}
    for i, accuracy in zip(samples, answered.column(_right).tolist(), strict=True):
        if samples[i][0].group:
            of_groups.setdefault(samples[i][0].group, []).append(accuracy)
    return RunResult(
        model=answered.model,
        task=answered.task,
        run=answered.run.name,
        method=answered.run.method,
        asked=dict(answered.run.decode),
        bounds=bounds_of(decode, answered.run.method, free_tokens) if decode else None,
        questions=len(samples),
        samples=least,
        accuracy=bootstrap(answered.column(_right), *drawing),
        thinking_tokens=answered.mean_tokens(),
        answer_tokens=answered.mean(lambda s: s.answer_tokens),
        used_tokens=answered.mean(lambda s: s.used_tokens),
        no_answer=answered.mean(lambda s: 100.0 * (s.answer is None)),
        budget_ended=answered.mean(lambda s: 100.0 * (s.ended == "budget")),
        ends_ignored=answered.mean(lambda s: s.ignored_ends),
        pass_at={
            k: 100 * fmean(pass_at(len(of), sum(of), k) for of in correct.values())
            for k in ([1, *powers] if powers else [])
        },
        cov_at={k: 100 * fmean(cov_at(of, k) for of in correct.values()) for k in powers},
        maj_at={
            k: 100 * fmean(maj_at(labelled[i], correct[i], k) for i in correct) for k in powers
        },
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
    ours, theirs = (a.column(_right, common) for a in (answered, base))
    return paired_bootstrap(ours, theirs, *drawing)


# --- Curves ---


def _parts(
    method: str, some: Sequence[Answered], free: Answered | None
) -> dict[str, list[Answered]]:
    """The curves of a method: all of it; of budget forcing also its two halves.

    Cutting the thinking short and extending it are different questions, and one curve through
    both is mostly the first (arXiv 2507.14419). The free run belongs to both.
    """
    curve = [a for a in some if a.run.method == method]
    parts = {"all": curve}
    if method == "BF":
        halves: dict[str, list[Answered]] = {"cut short": [], "extended": []}
        for answered in curve:
            if answered.decode is not None and answered is not free:
                halves["extended" if _extends(answered.decode) else "cut short"].append(answered)
        for part, half in halves.items():
            runs = [*half, *([free] if free else [])]
            if half and len(runs) > 1:
                parts[part] = runs
    return parts


def _method_result(
    part: str,
    method: str,
    curve: Sequence[Answered],
    bounds: Mapping[str, tuple[float | None, float | None] | None],
    labels: Labels,
    drawing: Drawing,
) -> MethodResult:
    curve = sorted(curve, key=_thought)
    common = _common(curve)
    right, tokens = [], []
    for answered in curve:
        # Runs that have no question in common are no curve, but the best of them is known.
        ids = common or list(answered.samples)
        used = answered.column(_thinking, ids)
        voting = method == "majority"  # one answer, for which all samples thought
        right.append(_majorities(answered, ids, labels) if voting else answered.column(_right, ids))
        tokens.append(_votes(answered) * used if voting else used)
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
        control=control([a.mean_tokens() for a in curve], [bounds[a.run.name] for a in curve]),
        scaling=slope,
        line=line,
        slope_p=p,
        scaling_printed=scaling_printed(points) if common else None,
        performance=performance(points),
    )


def _thought(answered: Answered) -> float:
    votes = _votes(answered) if answered.run.method == "majority" else 1
    return votes * answered.mean_tokens()


def _votes(answered: Answered) -> int:
    return min(map(len, answered.samples.values()))


def _majorities(answered: Answered, ids: Sequence[str], labels: Labels) -> Float[np.ndarray, " Q"]:
    """100 where the majority of a question's samples is right, else 0."""
    votes = _votes(answered)
    found = []
    for i in ids:
        samples = answered.samples[i]
        right = maj_at(labels(samples), [s.correct for s in samples], votes)
        found.append(100.0 * right)
    return np.array(found)


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


def _right(score: Score) -> float:
    return 100.0 * score.correct


def _thinking(score: Score) -> float:
    return float(score.thinking_tokens)
