"""Which models are trained, what each is asked, and which tables follow from it: all of it data.

Reference: paper, figures 1 and 4, tables 2, 3, 4 and 8. Amounts of thinking were chosen by the
little world's traces, and by no held-out question: its searches have 12 to 116 tokens in 2 to 14
steps, 9 tokens a pair tried, the others 5 to 81 in 1 to 14. What questions ask for are the powers
of two that searches were trained with.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from s1jax.config import Config
from s1jax.config import check as problems_of
from s1jax.evaluation_config import Run
from s1jax.sections import nearest
from s1jax.types import UserError

SEARCH = "mini_search"
PANELS = (SEARCH, "mini_revision", "mini_iteration")  # as the three benchmarks of the paper
OTHERS = ("mini_paths", "mini_totals")  # whose thinking ends when it is done
FAMILIES = (*PANELS, *OTHERS)

BASE, OURS = "base", "ours"
CURVE, REST = "curve", "others"  # evaluations: of the panels, and of the other families
NATURAL = "natural"  # the run that is free: its thinking is neither cut short nor extended
VOTES = "votes"

BUDGETS = (8, 16, 32, 64, 128)  # where the config names none
EXTENDED = 2  # ends that are ignored in table 4, as in the paper
STRINGS = {"Hmm": ("Hmm",), "Alternatively": ("Alternatively",), "nothing": ()}  # beside "Wait"
TOKENS_ASKED = (16, 32, 64, 128)
STEPS_ASKED = (2, 4, 8, 16)
STEP_TOKENS = 10  # that an instructed step is allowed, where the paper allows its longer ones 100
REJECTION_BUDGETS = (40, 56, 80, 112)  # at the smallest the first place to give up is passed
REJECTION_TRIES = 16
SAMPLES = 8  # that vote
STOPS = (0.0, 0.9)  # how often other teachers give up
CUT_SHARE = 1 / 3  # of the examples that short rows cut
ROWS = 64  # decoded together: a model this small has room for them
SEGMENT_STEPS = 8  # its answers are so short that looking for finished ones more often pays


@dataclass(frozen=True)
class Model:
    """One that is trained, by the fields of the config in which it differs."""

    name: str
    what: str  # a phrase for the report
    fields: Mapping[str, Any] = field(default_factory=dict)
    traces: str = OURS  # the model whose teacher's traces it has; its own name: it has its own
    examples: str = ""  # the model whose training set it has; "": it selects its own
    cut_share: float = 0.0  # data.row_length is the length that this share exceeds; 0: as set


MODELS = {
    model.name: model
    for model in (
        Model(OURS, "the config's own selection"),
        *(
            Model(name, what, {"curate.selection": name})
            for name, what in (
                ("random", "as many at random"),
                ("longest", "as many, those with the longest thinking"),
                ("diverse", "as many, uniform over the domains"),
                ("full", "all that passed the filters"),
            )
        ),
        Model("tokens", "questions ask for tokens", {"data.control": "tokens"}, examples=OURS),
        Model(
            "steps",
            "questions ask for steps",
            {"data.control": "steps", "model.chat": "steps"},
            examples=OURS,
        ),
        Model(
            "short-rows",
            "rows that cut a third of the examples",
            {"data.max_truncated_share": 1.0},
            examples=OURS,
            cut_share=CUT_SHARE,
        ),
        *(
            Model(
                f"stops-{stops:g}",
                f"its teacher gives up with probability {stops:g}",
                {"distill.model": f"stops={stops:g}"},
                traces=f"stops-{stops:g}",
            )
            for stops in STOPS
        ),
    )
}
TEACHERS = tuple(name for name, model in MODELS.items() if model.traces == name != OURS)


def before(model: Model) -> list[Model]:
    """A model after those whose traces or training set it has."""
    others = [name for name in (model.traces, model.examples) if name and name != model.name]
    return [*(MODELS[name] for name in dict.fromkeys(others)), model]


@dataclass(frozen=True)
class Ask:
    """What one evaluation asks of a model: all of these runs on all of these tasks."""

    model: str
    name: str
    tasks: tuple[str, ...]
    runs: tuple[Run, ...]


def asks_of(cfg: Config) -> dict[str, tuple[Ask, ...]]:
    """What each table needs, by its name, in the order of the report.

    Budgets and numbers of ignored ends are the config's, so that its own evaluation is a part.
    """
    ends = tuple(sorted({*cfg.evaluate.ignore_ends, EXTENDED} - {0}))
    most = cfg.decode.max_thinking_tokens
    budgets = [n for n in cfg.evaluate.budgets or BUDGETS if most is None or n < most]
    free = Run(NATURAL, "BF")
    extended = tuple(Run(f"ignore-{n}", "BF", {"ignore_ends": n}) for n in ends)
    curve = (*(Run(f"budget-{n}", "BF", {"max_thinking_tokens": n}) for n in budgets), free)
    curve += extended
    # Of the families whose curve is flat by construction some points are enough.
    some = (*curve[len(budgets) // 2 :][: len(budgets) > 0], free, extended[-1])
    base, ours = (
        (Ask(model, CURVE, PANELS, curve), Ask(model, REST, OTHERS, some)) for model in (BASE, OURS)
    )
    naturals = {
        name: Ask(name, NATURAL, FAMILIES, (free,))
        for name in ("random", "longest", "diverse", "full", "short-rows")
    }
    asks = {
        "figure1": (*base, *ours),
        "table2": (*ours, *(ask for name, ask in naturals.items() if name != "short-rows")),
        "table3": (ours[0], *_controls()),
        "table4": (ours[0], Ask(OURS, "strings", PANELS, _strings())),
        "parallel": (ours[0], Ask(OURS, VOTES, (SEARCH,), (_votes(),))),
        "rows": (*ours, naturals["short-rows"]),
        "ablation": (
            ours[0],
            *(Ask(name, "ends", (SEARCH,), (free, *extended)) for name in TEACHERS),
        ),
    }
    if cfg.distill.via != "mini":  # no other teacher can be told how often to give up
        del asks["ablation"]
    return asks


def _strings() -> tuple[Run, ...]:
    return tuple(
        Run(f"ignore-{name}", "other", {"ignore_ends": EXTENDED, "ignore_strings": strings})
        for name, strings in STRINGS.items()
    )


def _votes() -> Run:
    return Run(VOTES, "majority", {"samples": SAMPLES, "temperature": 1.0})


def _controls() -> tuple[Ask, ...]:
    """The other ways of table 3 to control the thinking, as in s1's `eval/commands.sh`."""
    tokens, steps = [], []
    for n in TOKENS_ASKED:
        tokens.append(Run(f"tokens-{n}", "TCC", {"prompt_tokens": n}))
        tokens.append(
            Run(f"tokens-{n}-forced", "TCC+BF", {"prompt_tokens": n, "max_thinking_tokens": n})
        )
    for n in STEPS_ASKED:
        steps.append(Run(f"steps-{n}", "SCC", {"prompt_steps": n, "thinking": False}))
        steps.append(Run(f"steps-{n}-forced", "SCC+BF", {"prompt_steps": n}))  # ends at 0 left
    own = [Run(name, "CCC", {"prompt_class": name}) for name in ("short", "long")]
    for n in REJECTION_BUDGETS:
        tries = {"rejection_tries": REJECTION_TRIES, "temperature": 1.0}
        own.append(Run(f"rejection-{n}", "RS", {"max_thinking_tokens": n, **tries}))
    return (
        Ask("tokens", "told", (SEARCH,), tuple(tokens)),
        Ask("steps", "told", (SEARCH,), tuple(steps)),
        Ask(OURS, "controls", (SEARCH,), tuple(own)),
    )


def chosen(tables: Mapping[str, tuple[Ask, ...]], only: Iterable[str]) -> dict[str, list[Ask]]:
    """The tables that are asked for, all if none is named. UserError for one that is not there."""
    names = list(only)
    for name in names:
        if name not in tables:
            raise UserError(f'--only: "{name}" is no table{nearest(name, list(tables))}')
    return {name: list(asks) for name, asks in tables.items() if name in names or not names}


def needed(tables: Mapping[str, Iterable[Ask]]) -> list[Ask]:
    """Every evaluation that these tables need, once, a model's together."""
    asks = list(dict.fromkeys((ask.model, ask.name) for asks in tables.values() for ask in asks))
    by_key = {(ask.model, ask.name): ask for asks in tables.values() for ask in asks}
    order = [BASE, *MODELS]
    return [by_key[key] for key in sorted(asks, key=lambda key: order.index(key[0]))]


def config_of(cfg: Config, seed: int, fields: Mapping[str, Any] = {}) -> Config:
    """The config of a seed with these fields, by their dotted names.

    Raises UserError if they cannot go together with the config's others.
    """
    sections: dict[str, dict[str, Any]] = {"train": {"tensorboard": False}}
    for path, value in fields.items():
        section, _, name = path.partition(".")
        sections.setdefault(section, {})[name] = value
    changed = {name: replace(getattr(cfg, name), **values) for name, values in sections.items()}
    made = replace(cfg, seed=seed, **changed)
    if problems := problems_of(made):
        raise UserError("\n  ".join([f"seed {seed}, {dict(fields)}: cannot be", *problems]))
    return made
