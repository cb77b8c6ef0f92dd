"""One typed default for every experiment, and `resolve()`, which refuses what is wrong with it.

A file in `configs/` starts from `default()` (an ml_collections ConfigDict, so that
`--config.a.b=c` overrides work), sets what differs, and returns it. `resolve()` turns that into
the frozen dataclasses below and reports every problem at once, before anything is loaded.
The values here are s1's (reference: `train/sft.sh` and paper, appendix D).
"""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from s1jax.curation_config import Curate, Pool, Teacher, check_curation, check_teacher
from s1jax.evaluation_config import Evaluate, Run, check_evaluation, sweep
from s1jax.sections import nearest, read_section, to_config_dict, with_texts
from s1jax.training_config import (
    Checkpoint,
    Data,
    Export,
    Mesh,
    Model,
    Optimizer,
    Plan,
    Train,
    check_mesh,
    check_training,
)
from s1jax.types import UserError

ORDERS = ("given", "longest")
PARITIES = ("none", "evaluator", "readme")
PROMPT_CLASSES = ("long", "short")
WHOLE_SWEEP = ("batch_size", "segment_steps", "order", "strict")  # no run has its own


@dataclass(frozen=True)
class Decode:
    """How a model is asked: budget forcing, the other controls of thinking, and sampling."""

    thinking: bool = True  # False: the answer alone
    max_thinking_tokens: int | None = None  # None: all that the context leaves
    min_thinking_tokens: int = 0
    ignore_ends: int = 0  # how many ends of thinking are ignored
    ignore_strings: tuple[str, ...] = ("Wait",)  # written in their place, in turn; (): nothing is
    force_string: str = "Final Answer:"  # opens the answer when the budget is spent
    max_answer_tokens: int = 2048
    parity: str = "none"  # whose accounting of the budget: s1's evaluator's, its README's, or ours
    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    thinking_temperature: float | None = None  # None, here and below: as the answer's
    thinking_top_k: int | None = None
    thinking_top_p: float | None = None
    thinking_min_p: float | None = None
    samples: int = 1  # of every prompt
    rejection_tries: int = 0  # above 0: thinking longer than the budget is sampled again
    rejection_force_last: bool = False  # the last try is forced to an answer
    prompt_tokens: int | None = None  # the question asks for so many tokens, or steps, or for
    prompt_steps: int | None = None
    prompt_class: str | None = None  # "long" or "short" thinking
    batch_size: int = 8  # rows decoded together
    segment_steps: int = 32  # steps between two looks of the host
    order: str = "given"  # which prompts start first
    strict: bool = False  # batches of 8; the same tokens whatever else is in them


@dataclass(frozen=True)
class Serve:
    """The server of the OpenAI protocol: what it answers to, and its limits."""

    host: str = "127.0.0.1"  # any other needs the token
    port: int = 8000  # 0: one that is free
    name: str | None = None  # of the model, as clients see it; None: the path's last part
    token_variable: str = "S1JAX_TOKEN"  # the environment variable with what clients must send
    max_queue: int = 256  # samples that wait or run; with more a client is told to come again
    max_body_bytes: int = 1_048_576
    max_samples: int = 16  # of one request (its `n`)
    # Of all its samples, what closes the thinking included; None: what the context leaves each.
    max_request_tokens: int | None = None
    warm_up: bool = False  # compile for every length at the start, not when it first comes


@dataclass(frozen=True)
class Config:
    """A whole experiment; every verb reads its part."""

    seed: int = 42
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    optimizer: Optimizer = field(default_factory=Optimizer)
    mesh: Mesh = field(default_factory=Mesh)
    decode: Decode = field(default_factory=Decode)
    pool: Pool = field(default_factory=Pool)
    distill: Teacher = field(default_factory=Teacher)
    curate: Curate = field(default_factory=Curate)
    evaluate: Evaluate = field(default_factory=Evaluate)
    serve: Serve = field(default_factory=Serve)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    export: Export = field(default_factory=Export)
    plan: Plan = field(default_factory=Plan)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts and lists, as JSON gives them back."""
        return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(self))))


def default() -> ConfigDict:
    """The default experiment as a locked ConfigDict: s1's recipe with no model and no data."""
    return to_config_dict(Config()).lock()


def overridden(config: ConfigDict, texts: Mapping[str, str]) -> ConfigDict:
    """The config with fields set by the command line, `{"data.batch_size": "8"}`.

    Nothing is refused here: `resolve` names what is no field or has the wrong type.
    """
    return with_texts(Config, config, texts)


def resolve(config: ConfigDict, name: str = "config") -> Config:
    """The frozen dataclasses of a ConfigDict.

    Raises UserError that lists every unknown field (with the nearest name), every value of the
    wrong type or out of range, and every combination that cannot run.
    """
    problems: list[str] = []
    resolved = read_section(Config, config.to_dict(), "", problems)
    if not problems:
        problems = check(resolved)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError("\n  ".join([f"{name}: {count}", *problems]))
    return typing.cast(Config, resolved)


def check(cfg: Config) -> list[str]:
    """Everything wrong with the values of a well-typed config, one line each."""
    return [
        *([f"seed={cfg.seed} must be at least 0"] if cfg.seed < 0 else []),
        *check_training(
            cfg.model, cfg.data, cfg.train, cfg.optimizer, cfg.checkpoint, cfg.export, cfg.plan
        ),
        *check_mesh(cfg.mesh, cfg.data, cfg.train),
        *check_curation(cfg.pool, cfg.distill, cfg.curate),
        *_check_decode(cfg.decode),
        *_check_evaluate(cfg),
        *_check_serve(cfg.serve),
    ]


def _check_decode(dec: Decode) -> list[str]:
    problems: list[str] = []

    def require(ok: bool, problem: str) -> None:
        if not ok:
            problems.append(f"decode.{problem}")

    words = {"parity": PARITIES, "order": ORDERS, "prompt_class": (None, *PROMPT_CLASSES)}
    for name, choices in words.items():
        value = getattr(dec, name)
        known = [choice for choice in choices if choice]
        require(value in choices, f'{name}="{value}" is unknown{nearest(str(value), known)}')

    for least, note, names in (
        (1, " (or None, all that the context leaves)", ("max_thinking_tokens",)),
        (1, " (or None)", ("prompt_tokens", "prompt_steps")),
        (1, "", ("max_answer_tokens", "samples", "batch_size", "segment_steps")),
        (0, "", ("min_thinking_tokens", "ignore_ends", "rejection_tries")),
        (0, ", 0 for off", ("top_k", "thinking_top_k")),
    ):
        for name in names:
            value = getattr(dec, name)
            if value is not None:
                require(value >= least, f"{name}={value} must be at least {least}{note}")
                require(value < 2**31, f"{name}={value} must be below 2**31")
    for prefix in ("", "thinking_"):
        values = {n: getattr(dec, prefix + n) for n in ("temperature", "top_p", "min_p")}
        given = {n: value for n, value in values.items() if value is not None}
        t, p, m = (given.get(n, d) for n, d in (("temperature", 0), ("top_p", 1), ("min_p", 0)))
        require(math.isfinite(t) and t >= 0, f"{prefix}temperature={t} must be at least 0")
        require(0 < p <= 1, f"{prefix}top_p={p} must be above 0 and at most 1")
        require(0 <= m < 1, f"{prefix}min_p={m} must be at least 0 and below 1")

    most = dec.max_thinking_tokens
    require(
        most is None or most < 1 or dec.min_thinking_tokens <= most,
        f"min_thinking_tokens={dec.min_thinking_tokens} must be at most"
        f" decode.max_thinking_tokens={most}",
    )
    require(
        "" not in dec.ignore_strings,
        f"ignore_strings={dec.ignore_strings} holds an empty string; () writes nothing at all",
    )
    names = ("prompt_tokens", "prompt_steps", "prompt_class")
    asked = [name for name in names if getattr(dec, name) is not None]
    require(len(asked) < 2, f"{' and decode.'.join(asked)}: only one of them may be set")
    require(
        dec.rejection_tries > 0 or not dec.rejection_force_last,
        "rejection_force_last=True needs decode.rejection_tries above 0: there is no last try",
    )
    if dec.rejection_tries > 0:
        hot = dec.temperature if dec.thinking_temperature is None else dec.thinking_temperature
        tries = f"rejection_tries={dec.rejection_tries}"
        require(hot != 0, f"{tries}: at temperature 0 of the thinking all tries are the same")
        forced = f'decode.parity="{dec.parity}" is of budget forcing, which this does without'
        require(dec.parity == "none", f"{tries}: {forced}")
    return problems


def decode_of(decode: Decode, run: Run) -> Decode:
    """How a run of the evaluation asks, where `decode` is the config's."""
    problems: list[str] = []
    made = read_section(Decode, dataclasses.asdict(decode) | dict(run.decode), "", problems)
    assert not problems, "resolve() would have refused them"
    return typing.cast(Decode, made)


def _check_evaluate(cfg: Config) -> list[str]:
    problems = check_evaluation(cfg.evaluate)
    problems += check_teacher("evaluate.judge", cfg.evaluate.judge)
    if _check_decode(cfg.decode):
        return problems  # which every run would repeat
    for run in sweep(cfg.evaluate):
        name = f'evaluate.runs "{run.name}"'
        wrong = [
            f"decode.{field} is for all runs: set it in decode"
            for field in run.decode
            if field in WHOLE_SWEEP
        ]
        decode = read_section(
            Decode, dataclasses.asdict(cfg.decode) | dict(run.decode), "decode.", wrong
        )
        wrong = wrong or _check_decode(decode)
        if not wrong and len(cfg.evaluate.seeds) > 1 and _is_greedy(decode):
            wrong = ["evaluate.seeds: at decode.temperature=0 all seeds give the same"]
        problems += [f"{name}: {problem}" for problem in wrong]
    return problems


def _is_greedy(decode: Decode) -> bool:
    return not decode.temperature and not decode.thinking_temperature


def _check_serve(serve: Serve) -> list[str]:
    problems = []
    for name in ("max_queue", "max_body_bytes", "max_samples", "max_request_tokens"):
        value = getattr(serve, name)
        if value is not None and value < 1:
            problems.append(f"serve.{name}={value} must be at least 1")
    if not 0 <= serve.port < 65536:
        problems.append(f"serve.port={serve.port} must be between 0 and 65535")
    return problems


def to_json(cfg: Config) -> str:
    """The resolved config as the text that is written into the workdir."""
    return json.dumps(cfg.to_dict(), indent=2) + "\n"
