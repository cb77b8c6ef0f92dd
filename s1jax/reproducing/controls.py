"""Table 3: Control, Scaling and Performance of the ways to control the thinking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from s1jax.config import decode_of
from s1jax.evaluation.measures import interval, resampled_means
from s1jax.evaluation.paper import METRICS
from s1jax.evaluation.scaling import bounds_of, scaling, scaling_interval
from s1jax.evaluation_config import Run
from s1jax.reproducing.claims import PER_DOUBLING, PERCENT, Claim, Point, Table
from s1jax.reproducing.compare import Rows, line
from s1jax.reproducing.measured import Answers, Figure, Measured, figure_of, paired, same_ids
from s1jax.reproducing.plan import CURVE, NATURAL, OURS, REJECTION_TRIES, SEARCH, STEP_TOKENS, Ask

PAPER = METRICS["aime24"]  # Control, Scaling and Performance of each method
METHODS = tuple(PAPER)
FORCED = ("BF", "TCC+BF", "SCC+BF", "RS")  # which cannot think longer than they are told
KEPT = 95.0  # percent; who has less Control does not keep to what it is told
REJECTED = 2.0  # percent; a run that rejects more has fewer and other questions

Drawn = Float[np.ndarray, " R"]


@dataclass(frozen=True, eq=False)
class Method:
    """The runs of one method: answers of each, and what their thinking is held to."""

    runs: Sequence[Run]
    answers: Sequence[Answers]
    # Tokens that are to lie in the bounds, [S, Q] a run: its own, or what it has beyond the free
    # run's; None: it is not told anything.
    held: Sequence[Float[np.ndarray, "S Q"] | None]
    bounds: Sequence[tuple[float, float]]

    @property
    def questions(self) -> int:
        """How many there are."""
        return len(same_ids(self.answers))

    @property
    def right(self) -> Float[np.ndarray, "S Q N"]:
        """Percent, a run each."""
        return np.stack([a.right for a in self.answers], axis=2)

    @property
    def tokens(self) -> Float[np.ndarray, "S Q N"]:
        """Of thinking, a run each."""
        return np.stack([a.tokens for a in self.answers], axis=2)


def methods_of(
    measured: Measured, asks: Mapping[tuple[str, str], Ask], seeds: Sequence[int]
) -> dict[str, Method]:
    """The methods with their runs on the search family."""
    free = measured.answers(asks[OURS, CURVE], SEARCH, NATURAL, seeds)
    found = {}
    for name in METHODS:
        pairs = [(ask, run) for ask in asks.values() for run in ask.runs if run.method == name]
        answers = [measured.answers(ask, SEARCH, run.name, seeds) for ask, run in pairs]
        limits = [_limits(measured, run) for _, run in pairs]
        held = []
        for own, limit in zip(answers, limits, strict=True):
            beyond = paired(own, free, "tokens") if name == "CCC" else own.tokens
            held.append(None if limit is None else beyond)
        bounds = [limit or (0.0, 0.0) for limit in limits]
        found[name] = Method([run for _, run in pairs], answers, held, bounds)
    return found


def _limits(measured: Measured, run: Run) -> tuple[float, float] | None:
    """What a run's mean thinking must keep to; of CCC, its distance to the free run's."""
    if run.method.startswith("SCC"):
        return 0.0, float(STEP_TOKENS * run.decode["prompt_steps"])
    limits = bounds_of(decode_of(measured.cfg.decode, run), run.method, 0.0)
    if limits is None:
        return None
    low, high = limits
    return -np.inf if low is None else low, np.inf if high is None else high


# --- The three metrics, each with its interval ---


def control(measured: Measured, method: Method) -> Figure | None:
    """Percent of runs and seeds whose mean thinking is within the bounds; None without bounds."""
    told = [number for number, held in enumerate(method.held) if held is not None]
    if not told:
        return None
    columns = np.stack([np.asarray(method.held[n]) for n in told])  # [N, S, Q]
    low, high = (np.array([method.bounds[n][side] for n in told]) for side in (0, 1))

    def within(means: Float[np.ndarray, "R N S"]) -> Bool[np.ndarray, "R N S"]:
        return (low[:, None] <= means) & (means <= high[:, None])

    count, seeds, questions = columns.shape
    drawn = resampled_means(columns.reshape(count * seeds, questions).T, *measured.drawing)
    of_seeds = 100.0 * within(columns.mean(2)[None])[0].mean(0)
    draws = 100.0 * within(drawn.reshape(-1, count, seeds)).mean((1, 2))
    return figure_of(interval(float(of_seeds.mean()), draws), of_seeds, questions)


def scaling_of(measured: Measured, method: Method) -> Figure | None:
    """The paper's Scaling, points per doubling: the mean over pairs of runs.

    None if there is none, in all seeds together or in one of them.
    """
    found = scaling_interval(method.right.mean(0), method.tokens.mean(0), *measured.drawing)
    pairs = zip(method.right.mean(1), method.tokens.mean(1), strict=True)
    of_seeds = [scaling([*zip(tokens, right, strict=True)]) for right, tokens in pairs]
    slopes = [slope for slope in of_seeds if slope is not None]
    if found is None or len(slopes) < len(of_seeds):
        return None
    return figure_of(found, slopes, method.questions, signed=True)


def performance(measured: Measured, methods: Sequence[Method]) -> tuple[Figure, Drawn]:
    """Percent right in the best run of all these methods, and its resampled values.

    In each resample the best is taken anew, and so it is a little too good; the seeds' values are
    those of the run that is best on the mean.
    """
    right = np.concatenate([method.right for method in methods], axis=2)
    drawn = resampled_means(right.mean(0), *measured.drawing).max(1)
    means = right.mean((0, 1))
    best = int(means.argmax())
    found = interval(float(means[best]), drawn)
    return figure_of(found, right[:, :, best].mean(1), methods[0].questions), drawn


# --- The table ---


def table3(measured: Measured, asks: Mapping[tuple[str, str], Ask], seeds: Sequence[int]) -> Table:
    """The methods of the paper's table 3 by its three metrics."""
    methods = methods_of(measured, asks, seeds)
    metrics: dict[str, Any] = {}
    rows, points = [], []
    details: Rows = []
    for name, method in methods.items():
        metrics[name] = {
            "control": control(measured, method),
            "scaling": scaling_of(measured, method),
            "line": line(measured, method.answers),
            "performance": performance(measured, [method])[0],
        }
        model = {"TCC": "tokens", "SCC": "steps"}.get(name.removesuffix("+BF"), OURS)
        for run, answers in zip(method.runs, method.answers, strict=True):
            accuracy = measured.accuracy(answers)
            tokens, silent = float(answers.tokens.mean()), float(answers.unanswered.mean())
            points.append(Point(model, SEARCH, run.name, accuracy, tokens, silent))
            details.append([name, run.name, tokens, accuracy, silent])
        rows.append([name, len(method.runs), *metrics[name].values(), *PAPER[name]])
    return Table(
        "table3",
        "Table 3: ways to control the thinking",
        _ASKED,
        seeds,
        (
            *("method", "runs", "Control, %", "Scaling", "line", "Performance, %"),
            *(f"paper: {metric}" for metric in ("Control", "Scaling", "Performance")),
        ),
        rows,
        _claims(measured, methods, metrics),
        points=points,
        picture="methods.png",
        more={"metrics": metrics},
        details_head=("method", "run", "thinking tokens", "accuracy", "no answer, %"),
        details=details,
    )


_ASKED = (
    f"{SEARCH}. BF: budgets and ignored ends; TCC, SCC: models whose questions ask for tokens, or"
    " for steps, without and with a forced end; CCC: asked for short and for long thinking; RS:"
    f" rejection at temperature 1, up to {REJECTION_TRIES} tries (in the paper without an end),"
    " after which there is no answer.\n\n"
    "Control: percent of a method's runs and seeds whose mean thinking keeps to what it was told"
    " (an instructed step may have"
    f" {STEP_TOKENS} tokens; short and long are against the free run). Scaling: points of accuracy"
    " per doubling of the thinking, the mean slope over all pairs of runs, as the paper's values"
    " have it (its equation 2, as printed, divides by tokens). The paper has no line: it is the"
    " slope of the straight line through the runs. The claims take it, since two runs that think"
    " almost equally long can move Scaling at will. Performance: accuracy of the best run, which"
    " favours who has more of them; its interval lies a little too high. Thinking is all tokens"
    ' that were decoded for it or written into it, each "Wait" too. To this world\'s model the two'
    " English sentences of CCC are words it has never read: what they do is noise, and of two runs"
    " Control knows 0, 50 and 100 alone."
)


def _claims(
    measured: Measured, methods: Mapping[str, Method], metrics: Mapping[str, Any]
) -> list[Claim]:
    claims = [_control_claim(name, of["control"]) for name, of in metrics.items()]
    for name in metrics:
        if name != "SCC":  # 3 as a mean over pairs, and by the line it falls: nothing to agree with
            claims.append(_slope_claim(measured, name, methods[name]))
    best, drawn = performance(measured, [methods["BF"]])
    rivals = [method for name, method in methods.items() if name != "BF"]
    other, others = performance(measured, rivals)
    ours, theirs = (_of_the_best(some) for some in ([methods["BF"]], rivals))
    gain = interval(best.value - other.value, drawn - others)
    claims.append(
        Claim(
            "Budget forcing performs best (56.7%; the others at most 40.0%).",
            "the best run of BF less the best of all others",
            figure_of(gain, ours - theirs, methods["BF"].questions, signed=True),
        )
    )
    return claims


def _of_the_best(methods: Sequence[Method]) -> Float[np.ndarray, " S"]:
    """Percent right by seed, of the run that is best on the mean."""
    right = np.concatenate([method.right for method in methods], axis=2).mean(1)
    return right[:, int(right.mean(0).argmax())]


def _control_claim(name: str, found: Figure | None) -> Claim:
    paper = PAPER[name][0]
    if name in FORCED:
        return Claim(
            f"{name} keeps to what it is told (Control {paper}%).",
            f"Control of {name}",
            found,
            PERCENT,
            above=100.0,
            or_equal=True,
            by_construction=name != "SCC+BF",  # its steps are counted, and each may be long
        )
    return Claim(
        f"{name} does not keep to what it is told (Control {paper}%).",
        f"Control of {name} (agreement is to have less than {KEPT:g}%)",
        found,
        PERCENT,
        above=None,
        below=KEPT,
    )


def _slope_claim(measured: Measured, name: str, method: Method) -> Claim:
    paper = PAPER[name][1]
    runs, what, why = list(method.answers), "", ""
    if name == "RS":
        runs = [answers for answers in runs if answers.unanswered.mean() <= REJECTED]
        what = f" of the {len(runs)} runs that reject at most {REJECTED:g}%"
        why = f"fewer than two runs reject at most {REJECTED:g}%"
    slope = line(measured, runs) if len(runs) > 1 else None
    return Claim(
        f"{name} {'rises' if paper > 0 else 'falls'} with the thinking (Scaling {paper:+g}).",
        f"the slope of the line through {name}{what}",
        slope,
        PER_DOUBLING,
        above=0.0 if paper > 0 else None,
        below=None if paper > 0 else 0.0,
        by_construction=paper > 0 and name in FORCED,
        why_none=why,
    )
