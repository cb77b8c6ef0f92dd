"""The tables: what is selected, what is written in place of an end, how long rows are.

The sentences on the paper are facts of arXiv 2501.19393.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from s1jax.mini.thinking import AGAIN
from s1jax.reproducing.claims import TOKENS, Claim, Point, Table
from s1jax.reproducing.compare import Asked, Asks, Rows
from s1jax.reproducing.controls import table3
from s1jax.reproducing.curves import ablation, figure1, parallel
from s1jax.reproducing.journal import place
from s1jax.reproducing.measured import Measured, paired
from s1jax.reproducing.plan import CURVE, EXTENDED, FAMILIES, NATURAL, OURS, PANELS, STRINGS, Ask


def tables_of(
    measured: Measured, wanted: Mapping[str, Sequence[Ask]], seeds: Sequence[int]
) -> list[Table]:
    """Every wanted table for which at least one seed is there, of all seeds that are."""
    made = []
    for name, asks in wanted.items():
        there = measured.seeds(asks, seeds)
        if there:
            made.append(_TABLES[name](measured, {(a.model, a.name): a for a in asks}, there))
    return made


# --- Table 2 ---


def table2(measured: Measured, asks: Asks, seeds: Sequence[int]) -> Table:
    """Our selection against others of the same pool."""
    asked = Asked(measured, asks, seeds)
    names = [OURS, *(model for model, name in asks if name == NATURAL)]
    evaluations = {name: CURVE if name == OURS else NATURAL for name in names}
    answers = {name: asked.get(name, of, FAMILIES, NATURAL) for name, of in evaluations.items()}
    points: list[Point] = []
    rows: Rows = []
    differences = {}
    for name, of in evaluations.items():
        mean = asked.point(name, of, FAMILIES, NATURAL)
        single = [asked.point(name, of, (task,), NATURAL) for task in FAMILIES]
        points += [mean, *single]
        differences[name] = asked.gain(answers[name], answers[OURS])
        cost = _cost(measured, name, seeds)
        rows.append([name, *cost, mean.accuracy, None if name == OURS else differences[name]])
        rows[-1] += [p.accuracy.value for p in single]
    claims = [
        Claim(
            sentence,
            f"ours less {name}, mean of the five families",
            asked.gain(answers[OURS], answers[name]),
        )
        for name, sentence in _WORSE.items()
    ]
    claims.append(
        Claim(
            _PAPER_FULL,
            f"{_full(measured, seeds)} less ours, mean of the five families (agreement is to be"
            f" less than {SAME:g} points apart)",
            differences["full"],
            above=-SAME,
            below=SAME,
        )
    )
    return Table(
        "table2",
        "Table 2: what is selected",
        "Five training sets of the same pool and traces, each model asked without any forcing."
        " Differences are paired by question and seed; in the mean each family has the same weight."
        " In the paper, too, most of its intervals (given in brackets) hold the 0, or end there.",
        seeds,
        ("training set", "examples", "steps", "training s", "accuracy", "less ours", *FAMILIES),
        rows,
        claims,
        points=points,
        picture="table2.png",
        more={"differences": differences},
    )


SAME = 5.0  # points; who is less apart gains "nothing substantial"
# In points less s1K, on AIME24, MATH500 and GPQA, with the paper's 95% intervals.
_WORSE = {
    "random": "1K-random is worse: -13.3 (-26.7 to -3.3), -2.4 (-4.8 to 0.0) and -5.6 (-12.6 to"
    " 2.5) points.",
    "diverse": "1K-diverse is worse: -23.3 (-40.0 to -10.0), -1.8 (-4.0 to 0.2) and -3.0 (-10.1 to"
    " 5.1) points.",
    "longest": "1K-longest is worse: -16.7 (-36.7 to 0.0), -2.6 (-5.0 to -0.2) and, not so, +2.0"
    " (-5.1 to 10.1) points.",
}
_PAPER_FULL = (
    "All 59K, 59 times the examples, gain nothing substantial: +3.3 (-13.3 to 20.0), -0.2 (-2.6 to"
    " 2.2) and +0.5 (-6.6 to 8.6) points."
)


def _full(measured: Measured, seeds: Sequence[int]) -> str:
    """All that passed the filters, and how many times ours that is."""
    ours, full = (
        measured.about([place(model, seed) for seed in seeds], "curate", "examples")
        for model in (OURS, "full")
    )
    times = f" ({full / ours:.1f} times the examples)" if ours and full else ""
    return f"full{times}"


def _cost(measured: Measured, model: str, seeds: Sequence[int]) -> list[float | None]:
    """Examples, steps and seconds of a model's training, the means over seeds."""
    places = [place(model, seed) for seed in seeds]
    notes = (("curate", "examples"), ("train", "steps"), ("train", "seconds"))
    return [measured.about(places, *note) for note in notes]


# --- Table 4 ---


def table4(measured: Measured, asks: Asks, seeds: Sequence[int]) -> Table:
    """What is written in place of an ignored end."""
    asked = Asked(measured, asks, seeds)
    wait = f"ignore-{EXTENDED}"
    runs = {"no extension": (CURVE, NATURAL), '"Wait"': (CURVE, wait)}
    runs |= {
        f'"{name}"' if strings else name: ("strings", f"ignore-{name}")
        for name, strings in STRINGS.items()
    }
    points: list[Point] = []
    rows: Rows = []
    for name, (of, run) in runs.items():
        mean = asked.point(OURS, of, PANELS, run)
        single = [asked.point(OURS, of, (task,), run) for task in PANELS]
        points += [replace(p, run=name) for p in (mean, *single)]
        rows.append([name, mean.tokens, mean.accuracy, *(p.accuracy for p in single)])
    answers = {name: asked.get(OURS, of, PANELS, run) for name, (of, run) in runs.items()}
    found = {
        "no extension": "50.0, 93.0, 57.6%",
        '"Hmm"': "50.0, 93.0, 59.6%",
        '"Alternatively"': "50.0, 92.2, 59.6%",
        "nothing": "50.0, 90.2, 55.1%",
    }
    claims = [
        Claim(
            f'Ignoring two ends with "Wait" (53.3, 93.0, 59.6%) is better than {name} ({paper}).',
            f'"Wait" less {name}, mean of the three families',
            asked.gain(answers['"Wait"'], answers[name]),
            by_construction=True,
        )
        for name, paper in found.items()
    ]
    return Table(
        "table4",
        "Table 4: what is written in place of an ignored end",
        f"{EXTENDED} ends ignored, each replaced by a word, or by nothing. The words are those that"
        f" the teacher goes on with, {_shares()}: the commonest is best by construction.",
        seeds,
        ("in its place", "thinking tokens", "accuracy", *PANELS),
        rows,
        claims,
        points=points,
    )


def _shares() -> str:
    return ", ".join(f'{share:.0%} "{word}"' for word, share in AGAIN.items())


# --- The length of rows ---


def rows_table(measured: Measured, asks: Asks, seeds: Sequence[int]) -> Table:
    """Training rows that cut a part of the examples."""
    asked = Asked(measured, asks, seeds)
    of = {OURS: CURVE, "short-rows": NATURAL}
    points = [
        asked.point(model, name, tasks, NATURAL)
        for model, name in of.items()
        for tasks in (FAMILIES, *((task,) for task in FAMILIES))
    ]
    whole, cut = (asked.get(model, name, FAMILIES, NATURAL) for model, name in of.items())
    lengths = {
        model: measured.about([place(model, seed) for seed in seeds], "train", "row_length")
        for model in of
    }
    table: Rows = [
        [p.model, lengths[p.model], p.task, p.tokens, p.accuracy, p.unanswered] for p in points
    ]
    claims = [
        Claim(
            "Rows of 4,096 tokens, which cut 74% of the examples, make it worse (30.0, 90.0, 52.5%"
            " against 50.0, 91.0, 53.0%).",
            "ours less short rows, accuracy, mean of the five families",
            asked.gain(whole, cut),
        ),
        Claim(
            "Such rows also make its thinking longer (20,721, 5,324, 6,841 tokens against 6,984,"
            " 3,268, 3,568), since its end is what was cut.",
            "short rows less ours, thinking, mean of the five families",
            measured.difference(paired(cut, whole, "tokens"), whole.ids),
            TOKENS,
        ),
    ]
    return Table(
        "rows",
        "Table 8: the length of training rows",
        "The same examples in rows that cut a third of them, asked without any forcing.",
        seeds,
        ("model", "row length", "family", "thinking tokens", "accuracy", "no answer, %"),
        table,
        claims,
        points=points,
    )


_TABLES = {
    "figure1": figure1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "parallel": parallel,
    "rows": rows_table,
    "ablation": ablation,
}
