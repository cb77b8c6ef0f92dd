"""Accuracy against thinking: figure 1, sequential against parallel, and what is built in."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from s1jax.config import Config
from s1jax.mini.pool import Program
from s1jax.reproducing.claims import PER_DOUBLING, POINTS, Cell, Claim, Point, Table, told
from s1jax.reproducing.compare import Asked, Asks, Rows, line, name_for
from s1jax.reproducing.measured import Answers, Measured, paired, same_ids
from s1jax.reproducing.plan import (
    BASE,
    CURVE,
    FAMILIES,
    MODELS,
    NATURAL,
    OURS,
    PANELS,
    SEARCH,
    VOTES,
)

# --- Figure 1 ---


def figure1(measured: Measured, asks: Asks, seeds: Sequence[int]) -> Table:
    """Accuracy against thinking, cut short and extended."""
    asked = Asked(measured, asks, seeds)
    runs = {task: measured.runs(asks[OURS, name_for(CURVE, task)], seeds) for task in FAMILIES}
    cut = [*asked.runs(OURS, CURVE, "budget-"), NATURAL]
    last = asked.runs(OURS, CURVE, "ignore-")[-1]
    points = [
        asked.point(model, CURVE, (task,), run)
        for model in (BASE, OURS)
        for task in FAMILIES
        for run in runs[task]
    ]
    places = {(p.task, p.model, p.run): p for p in points}
    rows: Rows = [
        [task, run, *(x for p in pair for x in (p.tokens, p.accuracy, p.unanswered))]
        for task in FAMILIES
        for run in runs[task]
        for pair in [[places[task, model, run] for model in (BASE, OURS)]]
    ]
    claims = []
    for task, paper in zip(PANELS, _CUT, strict=True):
        slope = line(measured, [asked.get(OURS, CURVE, (task,), run) for run in cut])
        claims.append(
            Claim(
                f"Cut short, accuracy rises with the thinking: {paper}.",
                f"{task}, the slope of the line through the budgets up to the free run",
                slope,
                PER_DOUBLING,
                by_construction=True,
            )
        )
    gains = {}
    for task, paper in zip(PANELS, _EXTENDED, strict=True):
        ends = [asked.get(OURS, CURVE, (task,), run) for run in (last, NATURAL)]
        gains[task] = asked.gain(*ends)
        if paper:
            what = f"{task}, {last} less the free run"
            claims.append(Claim(paper, what, gains[task], by_construction=True))
    flat = PANELS[_EXTENDED.index("")]
    pair = [asked.get(model, CURVE, FAMILIES, NATURAL) for model in (OURS, BASE)]
    claims.append(
        Claim(
            "Fine-tuning on 1,000 examples adds to the base model (AIME24 26.7 to 50.0%).",
            "the tuned model less the base, both free, over all five families",
            asked.gain(*pair),
            by_construction=True,
        )
    )
    return Table(
        "figure1",
        "Figure 1: accuracy against thinking",
        "The tuned model and the base, thinking cut short by a budget, free, and extended: so many"
        ' ends ignored, each replaced by "Wait". A question without an answer is not right. The'
        " families stand for no benchmark in particular: the paper's three are told in the order of"
        " its panels.",
        seeds,
        ("family", "run", *(f"{m}: {x}" for m in ("base", "tuned") for x in _COLUMNS)),
        rows,
        claims,
        [
            f"{flat}, {last} less the free run, is {told(gains[flat], POINTS)}. Its panel in the"
            " paper, MATH500, has 93.0% both without and with two ends ignored."
        ],
        points=points,
        picture="figure1.png",
    )


_COLUMNS = ("tokens", "accuracy", "no answer, %")
# Of AIME24, MATH500 and GPQA.
_CUT = (
    "AIME24 from 0.0% at 500 tokens to 50.0% at 5,300",
    "MATH500 from 64.0% at 499 tokens to 90.6% at 2,868, and 93.0% free",
    "GPQA from 37.9% at 500 tokens to 57.6% at 3,231",
)
_EXTENDED = (
    "Extended by ignored ends AIME24 rises from 50.0 to 53.3% with two of them, to 56.7% with four"
    " and with six, and is at 50.0% again with eight.",
    "",  # 93.0% without and with two: nothing to agree with
    "Extended by two ignored ends GPQA rises from 57.6 to 59.6%.",
)


# --- Sequential against parallel ---


def parallel(measured: Measured, asks: Asks, seeds: Sequence[int]) -> Table:
    """Ends ignored one after the other against samples that vote, at equal tokens in all."""
    asked = Asked(measured, asks, seeds)
    runs = [NATURAL, *asked.runs(OURS, CURVE, "ignore-")]
    sequential = {run: asked.get(OURS, CURVE, (SEARCH,), run) for run in runs}
    votes = {run: asked.get(OURS, VOTES, (SEARCH,), run) for run in _votes(asked)}
    one = {name: asked.point_of(OURS, name, (SEARCH,), of) for name, of in sequential.items()}
    many = {name: asked.point_of(OURS, name, (SEARCH,), of) for name, of in votes.items()}
    rows: Rows = [
        [name, point.tokens, point.accuracy, "", None, None] for name, point in one.items()
    ]
    gains: dict[str, np.ndarray] = {}
    longest = max(sequential.values(), key=lambda of: float(of.tokens.mean()))
    beyond: set[str] = set()  # votes that think more than any run
    for name, of in votes.items():
        around = neighbours(list(sequential.values()), many[name].tokens)
        if around is None and many[name].tokens > float(longest.tokens.mean()):
            around = longest, longest, 0.0
            beyond.add(name)
        row: list[Cell] = [name, many[name].tokens, many[name].accuracy, _NO_RIVAL, None, None]
        if around is not None:
            low, high, share = around
            same_ids([of, low, high])
            rival = (1 - share) * low.right + share * high.right
            names = [
                next(n for n, one_of in sequential.items() if one_of is x)
                for x in ((low, high) if low is not high else (low,))
            ]
            row[3] = " to ".join(f"{n} ({one[n].tokens:.0f})" for n in names)
            row[4:] = [float(rival.mean()), measured.difference(rival - of.right, of.ids)]
            if name != f"{VOTES}-1":
                gains[name] = rival - of.right
        rows.append(row)
    ids = same_ids(list(votes.values()))
    # A vote that loses with more tokens has lost; one that wins with them has shown nothing.
    if gains and np.mean([*gains.values()]) < 0:
        gains = {name: gain for name, gain in gains.items() if name not in beyond}
    claim = Claim(
        "Sequential scaling beats parallel: the base model's majority vote over up to 64 samples"
        " does not reach s1-32B with budget forcing (figure 4).",
        "budget forcing less the vote at no more tokens, mean over"
        f" {', '.join(gains) or 'no vote'}",
        measured.difference(np.mean([*gains.values()], axis=0), ids) if gains else None,
        why_none="the votes win with more tokens, or no vote has a run to be held against",
    )
    return Table(
        "parallel",
        "Sequential against parallel",
        f"{SEARCH}, the tuned model: budget forcing, and the majority of samples at temperature 1,"
        " where of equally common answers each counts by its share. (The paper's votes are the base"
        " model's.) A vote's tokens are those of all its samples' thinking; what its answers take,"
        " several times as much, is not counted. It is held against budget forcing at equal tokens,"
        " on the straight line in log tokens between the two runs next to it; where it thinks more"
        " than any run, against the longest, which can only favour the vote.",
        seeds,
        (
            "run",
            "thinking tokens",
            "accuracy",
            "held against (tokens)",
            "which has",
            "less the vote",
        ),
        rows,
        [claim],
        points=[*one.values(), *many.values()],
        picture="parallel.png",
    )


_NO_RIVAL = "no run thinks as little"


def _votes(asked: Asked) -> list[str]:
    return asked.runs(OURS, VOTES, f"{VOTES}-")


def neighbours(runs: Sequence[Answers], tokens: float) -> tuple[Answers, Answers, float] | None:
    """The two runs whose mean thinking is next to so many tokens, and the share of the second.

    The share is linear in log tokens. None if all runs think less, or all more.
    """
    ordered = sorted(runs, key=lambda run: float(run.tokens.mean()))
    for low, high in pairwise(ordered):
        least, most = float(low.tokens.mean()), float(high.tokens.mean())
        if 0 < least <= tokens <= most and least < most:
            return low, high, math.log(tokens / least) / math.log(most / least)
    return None


# --- What is built in ---


def ablation(measured: Measured, asks: Asks, seeds: Sequence[int]) -> Table:
    """How often the teacher gives up, and what ignoring ends is worth after it."""
    asked = Asked(measured, asks, seeds)
    evaluations = {model: name for model, name in asks}
    runs = [NATURAL, *asked.runs(OURS, CURVE, "ignore-")]
    stops = {model: gives_up(measured.cfg, model) for model in evaluations}
    worth = {}
    for model, name in evaluations.items():
        last, free = (asked.get(model, name, (SEARCH,), run) for run in (runs[-1], NATURAL))
        worth[model] = paired(last, free)
    ids = same_ids([asked.get(model, of, (SEARCH,), NATURAL) for model, of in evaluations.items()])
    gains = {model: measured.difference(table, ids) for model, table in worth.items()}
    rows: Rows = []
    points: list[Point] = []
    for model in sorted(evaluations, key=lambda model: stops[model]):
        own = [asked.point(model, evaluations[model], (SEARCH,), run) for run in runs]
        points += own
        less = None if model == OURS else measured.difference(worth[model] - worth[OURS], ids)
        rows.append([f"{stops[model]:g}", own[0].tokens, *(p.accuracy for p in own)])
        rows[-1] += [gains[model], less]
    return Table(
        "ablation",
        "What is built in: how often the teacher gives up",
        "Teachers that give up with another probability at the same places, each with traces,"
        f" selection and training of its own; {SEARCH}. The paper has no such table.",
        seeds,
        (
            *("gives up with", "natural tokens", *runs, f"{runs[-1]} less natural"),
            f"that less the same at {stops[OURS]:g}",
        ),
        rows,
        (),
        [
            f"A teacher that gives up with probability {stops[model]:g}: {runs[-1]} less natural is"
            f" {told(gain, POINTS)}."
            for model, gain in gains.items()
        ],
        points,
        "ablation.png",
        {"stops": stops, "gains": gains},
    )


def gives_up(cfg: Config, model: str) -> float:
    """How often a model's teacher gives up, by the config and what the model changes of it."""
    habit = MODELS[model].fields.get("distill.model", cfg.distill.model)
    return float(Program(replace(cfg.distill, model=habit)).settings["stops"])
