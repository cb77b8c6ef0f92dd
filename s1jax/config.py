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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from s1jax.curation_config import CONTROLS, Curate, Pool, Teacher, check_curation, check_teacher
from s1jax.evaluation_config import Evaluate, Run, check_evaluation, sweep
from s1jax.sections import nearest, read_section, to_config_dict, with_texts
from s1jax.types import UserError

ATTENTION = ("xla",)
CHATS = ("s1", "llama3", "think", "r1", "steps")
DTYPES = ("float32", "bfloat16")
ORDERS = ("given", "longest")
PARAM_DTYPES = ("float32",)  # an update of 1e-5 is lost on a bfloat16 parameter: its steps are 0.4%
PARITIES = ("none", "evaluator", "readme")
PROMPT_CLASSES = ("long", "short")
REMAT = ("none", "dots", "full")
TEXT = "text"  # in place of one of CHATS: each row is a text, of which every token is trained
TRACES = ("auto", "gemini", "deepseek")
WEIGHTINGS = ("example", "token")
WHOLE_SWEEP = ("batch_size", "segment_steps", "order", "strict")  # no run has its own


@dataclass(frozen=True)
class Model:
    """Which weights, and in what arithmetic they are used."""

    path: str = ""  # a Hugging Face directory, a hub id, or "mini" (the embedded model)
    revision: str | None = None  # of a hub id: the commit to pin
    chat: str = "s1"  # delimiters and template, a name in s1jax.chat.CHATS; or "text": neither
    attention: str = "xla"
    param_dtype: str = "float32"
    compute_dtype: str = "bfloat16"


@dataclass(frozen=True)
class Data:
    """Which examples, and how they are laid into batches."""

    path: str = ""  # .jsonl, .parquet, a `datasets` directory, a hub id, or "mini"
    revision: str | None = None
    split: str = "train"
    traces: str = "auto"  # whose thinking, where a row has several teachers' (s1K-1.1)
    control: str = "none"  # questions that ask for so much thinking, in tokens or in steps
    max_examples: int | None = None
    batch_size: int = 16  # examples a step, over the whole mesh
    row_length: int = 32768  # tokens; longer examples are cut on the right (s1's block_size)
    pack: bool = False  # several examples of a step in one row, kept apart by segment ids
    max_truncated_share: float = 0.05  # of the examples; more refuses to start


@dataclass(frozen=True)
class Train:
    """How long, and how a step is computed."""

    epochs: int = 5
    steps: int | None = None  # overrides epochs
    accumulation_steps: int = 1  # slices of a batch run one after the other
    weighting: str = "example"  # "example": mean over each one's tokens (s1's); "token": over all
    loss_chunk_tokens: int = 1024  # tokens whose logits exist at the same time, per row
    remat: str = "full"  # what the backward pass recomputes: a name in models.decoder.REMAT
    max_bad_steps: int = 5  # in a row, with a loss or gradient that is not finite
    tensorboard: bool = True


@dataclass(frozen=True)
class Optimizer:
    """AdamW with linear warm-up from 0 and a cosine to 0."""

    learning_rate: float = 1e-5
    warmup_share: float = 0.05  # of all steps, rounded up: 16 of 315
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 1e-4
    decay_norms: bool = True  # as s1's transformers 4.46.1 did; biases are never decayed
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; one of them may be -1, "all that are left"."""

    data: int = 1
    fsdp: int = -1
    context: int = 1
    tensor: int = 1


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
class Checkpoint:
    """When the state is saved, and how strictly it is taken up again."""

    every_steps: int = 50
    keep: int = 2
    allow_changes: bool = False  # go on under another config, data set or tokenizer


@dataclass(frozen=True)
class Export:
    """The Hugging Face directory at the end of the run."""

    dtype: str = "bfloat16"
    shard_bytes: int = 5_000_000_000


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
    problems: list[str] = []

    def require(ok: bool, problem: str) -> None:
        if not ok:
            problems.append(problem)

    def choice(path: str, value: str, choices: Iterable[str]) -> None:
        require(value in choices, f'{path}="{value}" is unknown{nearest(value, choices)}')

    choice("model.attention", cfg.model.attention, ATTENTION)
    choice("model.chat", cfg.model.chat, (*CHATS, TEXT))
    choice("model.param_dtype", cfg.model.param_dtype, PARAM_DTYPES)
    choice("model.compute_dtype", cfg.model.compute_dtype, DTYPES)
    choice("export.dtype", cfg.export.dtype, DTYPES)
    choice("data.traces", cfg.data.traces, TRACES)
    choice("data.control", cfg.data.control, CONTROLS)
    choice("decode.parity", cfg.decode.parity, PARITIES)
    choice("decode.order", cfg.decode.order, ORDERS)
    if cfg.decode.prompt_class is not None:
        choice("decode.prompt_class", cfg.decode.prompt_class, PROMPT_CLASSES)
    choice("train.remat", cfg.train.remat, REMAT)
    choice("train.weighting", cfg.train.weighting, WEIGHTINGS)

    at_least = {
        "data.batch_size": (cfg.data.batch_size, 1),
        "data.row_length": (cfg.data.row_length, 2),
        "data.max_examples": (cfg.data.max_examples, 1),
        "train.epochs": (cfg.train.epochs, 1),
        "train.steps": (cfg.train.steps, 1),
        "train.accumulation_steps": (cfg.train.accumulation_steps, 1),
        "train.loss_chunk_tokens": (cfg.train.loss_chunk_tokens, 1),
        "train.max_bad_steps": (cfg.train.max_bad_steps, 1),
        "checkpoint.every_steps": (cfg.checkpoint.every_steps, 1),
        "checkpoint.keep": (cfg.checkpoint.keep, 1),
        "export.shard_bytes": (cfg.export.shard_bytes, 1_000_000),
        "seed": (cfg.seed, 0),
    }
    for path, (value, least) in at_least.items():
        require(value is None or value >= least, f"{path}={value} must be at least {least}")

    opt = cfg.optimizer
    for path, rate in {
        "optimizer.learning_rate": opt.learning_rate,
        "optimizer.eps": opt.eps,
        "optimizer.clip_norm": opt.clip_norm,
    }.items():
        require(math.isfinite(rate) and rate > 0, f"{path}={rate} must be above 0")
    for path, decay in {"optimizer.b1": opt.b1, "optimizer.b2": opt.b2}.items():
        require(0 <= decay < 1, f"{path}={decay} must be at least 0 and below 1")
    require(
        math.isfinite(opt.weight_decay) and opt.weight_decay >= 0,
        f"optimizer.weight_decay={opt.weight_decay} must be at least 0",
    )
    for path, share in {
        "optimizer.warmup_share": opt.warmup_share,
        "data.max_truncated_share": cfg.data.max_truncated_share,
    }.items():
        require(0 <= share <= 1, f"{path}={share} must be between 0 and 1")

    require(
        cfg.model.chat != TEXT or cfg.data.control == "none",
        f'data.control="{cfg.data.control}" needs questions, and the rows of model.chat="{TEXT}"'
        " have none: set it to none",
    )
    require(
        cfg.model.chat == TEXT or (cfg.data.control == "steps") == (cfg.model.chat == "steps"),
        f'data.control="{cfg.data.control}" and model.chat="{cfg.model.chat}": steps are asked for'
        " and written, or neither; set both to steps, or none of them",
    )
    problems += check_curation(cfg.pool, cfg.distill, cfg.curate)
    problems += _check_decode(cfg.decode)
    problems += _check_evaluate(cfg)
    problems += _check_serve(cfg.serve)
    problems += _check_mesh(cfg)
    return problems


def _check_decode(dec: Decode) -> list[str]:
    problems: list[str] = []

    def require(ok: bool, problem: str) -> None:
        if not ok:
            problems.append(f"decode.{problem}")

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


def _check_mesh(cfg: Config) -> list[str]:
    problems = []
    sizes = dataclasses.asdict(cfg.mesh)
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            problems.append(f"mesh.{axis}={size} must be at least 1, or -1 for all that are left")
    if list(sizes.values()).count(-1) > 1:
        problems.append("mesh: only one axis may be -1")
    if not problems and -1 not in sizes.values():
        problems += check_batch(cfg, sizes)
    return problems


def check_batch(cfg: Config, sizes: dict[str, int]) -> list[str]:
    """What is wrong between the batch and a mesh whose sizes are all known, one line each."""
    problems = []
    shards = sizes["data"] * sizes["fsdp"]
    rows = shards * cfg.train.accumulation_steps
    if not cfg.data.pack and cfg.data.batch_size % rows:
        what = f"mesh.data x mesh.fsdp = {shards}"
        if cfg.train.accumulation_steps > 1:
            what = f"mesh.data x mesh.fsdp x train.accumulation_steps = {rows}"
        below = cfg.data.batch_size // rows * rows
        tries = f"{below} or {below + rows}" if below else f"{rows}"
        problems.append(
            f"data.batch_size={cfg.data.batch_size} must divide by {what}: try {tries}"
            " (or data.pack=True, which fills the rows that are needed)"
        )
    if cfg.data.row_length % sizes["context"]:
        problems.append(
            f"data.row_length={cfg.data.row_length} must divide by mesh.context={sizes['context']}"
        )
    return problems


def to_json(cfg: Config) -> str:
    """The resolved config as the text that is written into the workdir."""
    return json.dumps(cfg.to_dict(), indent=2) + "\n"
