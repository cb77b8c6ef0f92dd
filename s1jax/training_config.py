"""What trains which model on what: the fields, and what is wrong with their values.

The values here are s1's (reference: `train/sft.sh` and paper, appendix D).
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from s1jax.curation_config import CONTROLS
from s1jax.hardware import HARDWARE
from s1jax.sections import nearest

ATTENTION = ("auto", "xla", "chunked", "triton", "cudnn", "splash")
CHATS = ("s1", "llama3", "think", "r1", "steps")
DTYPES = ("float32", "bfloat16")
PARAM_DTYPES = ("float32",)  # an update of 1e-5 is lost on a bfloat16 parameter: its steps are 0.4%
REMAT = ("none", "dots", "full", "offload")
TEXT = "text"  # in place of one of CHATS: each row is a text, of which every token is trained
TRACES = ("auto", "gemini", "deepseek")
WEIGHTINGS = ("example", "token")


@dataclass(frozen=True)
class Model:
    """Which weights, and in what arithmetic they are used."""

    path: str = ""  # a Hugging Face directory, a hub id, or "mini" (the embedded model)
    revision: str | None = None  # of a hub id: the commit to pin
    chat: str = "s1"  # delimiters and template, a name in s1jax.chat.CHATS; or "text": neither
    attention: str = "auto"  # a name in models.attention.ATTENTION; "auto": by the machine
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
    pack: bool = False  # a step's examples share rows of equal length, kept apart by segment ids
    packed_row_length: int | None = None  # of such a row at most; None: row_length
    buckets: int = 8  # lengths of packed rows that are compiled for, at most
    max_truncated_share: float = 0.05  # of the examples; more refuses to start


@dataclass(frozen=True)
class Train:
    """How long, and how a step is computed."""

    epochs: int = 5
    steps: int | None = None  # overrides epochs
    accumulation_steps: int = 1  # slices of a batch run one after the other
    weighting: str = "example"  # "example": mean over each one's tokens (s1's); "token": over all
    loss_chunk_tokens: int = 1024  # of a device, whose logits exist at the same time
    remat: str = "full"  # what the backward pass recomputes: a name in models.decoder.REMAT
    max_bad_steps: int = 5  # in a row, with a loss or gradient that is not finite
    tensorboard: bool = True
    profile_step: int | None = None  # from this one on a profiler's trace is written
    profile_steps: int = 3  # that it holds


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
    first_moment_dtype: str = "float32"
    second_moment_dtype: str = "float32"


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; one of them may be -1, "all that are left"."""

    data: int = 1
    fsdp: int = -1
    context: int = 1
    tensor: int = 1


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
class Plan:
    """The machines that a run is meant for; `s1jax.plan` and nothing else reads it."""

    hardware: str = ""  # a name in s1jax.hardware.HARDWARE; "": the config is for any machine
    devices: int | None = None  # needed where an axis of the mesh is -1
    mfu: float = 0.45  # assumed share of the peak, of which times and prices are reckoned
    price: float | None = None  # dollars for a device and hour; None: the table's
    # Of a data set that cannot be read here: how many, how long on average and at most. None: as
    # long as a row.
    examples: int = 1000
    example_tokens: int | None = None
    longest_tokens: int | None = None


def check_training(
    model: Model,
    data: Data,
    train: Train,
    optimizer: Optimizer,
    checkpoint: Checkpoint,
    export: Export,
    plan: Plan,
) -> list[str]:
    """Everything wrong with the values of these sections, one line each."""
    choices: dict[str, tuple[str, Iterable[str]]] = {
        "model.attention": (model.attention, ATTENTION),
        "model.chat": (model.chat, (*CHATS, TEXT)),
        "model.param_dtype": (model.param_dtype, PARAM_DTYPES),
        "model.compute_dtype": (model.compute_dtype, DTYPES),
        "optimizer.first_moment_dtype": (optimizer.first_moment_dtype, DTYPES),
        "optimizer.second_moment_dtype": (optimizer.second_moment_dtype, DTYPES),
        "export.dtype": (export.dtype, DTYPES),
        "data.traces": (data.traces, TRACES),
        "data.control": (data.control, CONTROLS),
        "train.remat": (train.remat, REMAT),
        "train.weighting": (train.weighting, WEIGHTINGS),
        "plan.hardware": (plan.hardware, ("", *HARDWARE)),
    }
    at_least = {
        "data.batch_size": (data.batch_size, 1),
        "data.row_length": (data.row_length, 2),
        "data.max_examples": (data.max_examples, 1),
        "data.buckets": (data.buckets, 1),
        "train.epochs": (train.epochs, 1),
        "train.steps": (train.steps, 1),
        "train.accumulation_steps": (train.accumulation_steps, 1),
        "train.loss_chunk_tokens": (train.loss_chunk_tokens, 1),
        "train.max_bad_steps": (train.max_bad_steps, 1),
        "train.profile_step": (train.profile_step, 0),
        "train.profile_steps": (train.profile_steps, 1),
        "checkpoint.every_steps": (checkpoint.every_steps, 1),
        "checkpoint.keep": (checkpoint.keep, 1),
        "export.shard_bytes": (export.shard_bytes, 1_000_000),
        "plan.devices": (plan.devices, 1),
        "plan.examples": (plan.examples, 1),
        "plan.example_tokens": (plan.example_tokens, 2),
        "plan.longest_tokens": (plan.longest_tokens, 2),
    }
    return [
        *(
            f'{path}="{value}" is unknown{nearest(value, filter(None, known))}'
            for path, (value, known) in choices.items()
            if value not in known
        ),
        *(
            f"{path}={value} must be at least {least}"
            for path, (value, least) in at_least.items()
            if value is not None and value < least
        ),
        *_check_numbers(data, optimizer, plan),
        *_check_control(model, data),
        *_check_cudnn(model, data),
    ]


def _check_numbers(data: Data, optimizer: Optimizer, plan: Plan) -> list[str]:
    problems = []
    above_zero = {
        "optimizer.learning_rate": optimizer.learning_rate,
        "optimizer.eps": optimizer.eps,
        "optimizer.clip_norm": optimizer.clip_norm,
        "plan.mfu": plan.mfu,
    }
    for path, number in above_zero.items():
        if not (math.isfinite(number) and number > 0):
            problems.append(f"{path}={number} must be above 0")
    if plan.mfu > 1:
        problems.append(f"plan.mfu={plan.mfu} must be at most 1: it is a share")
    for path, decay, dtype in (
        ("optimizer.b1", optimizer.b1, optimizer.first_moment_dtype),
        ("optimizer.b2", optimizer.b2, optimizer.second_moment_dtype),
    ):
        if not 0 <= decay < 1:
            problems.append(f"{path}={decay} must be at least 0 and below 1")
        elif dtype == "bfloat16" and 1 - decay < 2**-7:
            problems.append(
                f"{path}={decay} is too near 1 for a moment in bfloat16, which would never shrink:"
                " lower it to 0.99, or keep that moment in float32"
            )
    not_below_zero = {
        "optimizer.weight_decay": optimizer.weight_decay,
        "plan.price": plan.price or 0.0,
    }
    for path, number in not_below_zero.items():
        if not (math.isfinite(number) and number >= 0):
            problems.append(f"{path}={number} must be at least 0")
    shares = {
        "optimizer.warmup_share": optimizer.warmup_share,
        "data.max_truncated_share": data.max_truncated_share,
    }
    for path, share in shares.items():
        if not 0 <= share <= 1:
            problems.append(f"{path}={share} must be between 0 and 1")
    return problems


def _check_control(model: Model, data: Data) -> list[str]:
    if model.chat == TEXT:
        if data.control == "none":
            return []
        return [
            f'data.control="{data.control}" needs questions, and the rows of model.chat="{TEXT}"'
            " have none: set it to none"
        ]
    if (data.control == "steps") == (model.chat == "steps"):
        return []
    return [
        f'data.control="{data.control}" and model.chat="{model.chat}": steps are asked for'
        " and written, or neither; set both to steps, or none of them"
    ]


def _check_cudnn(model: Model, data: Data) -> list[str]:
    if model.attention != "cudnn":
        return []
    problems = []
    if data.pack:
        problems.append(
            'model.attention="cudnn" knows no segments, and data.pack=True puts several examples'
            ' into a row: set model.attention to "auto" or "triton"'
        )
    if model.compute_dtype == "float32":
        problems.append(
            'model.attention="cudnn" computes in 16 bits, and model.compute_dtype="float32": set'
            ' model.attention to "auto" or "triton"'
        )
    return problems


def check_mesh(mesh: Mesh, data: Data, train: Train) -> list[str]:
    """What is wrong with the mesh, and between it and the batch, one line each."""
    problems = []
    sizes = dataclasses.asdict(mesh)
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            problems.append(f"mesh.{axis}={size} must be at least 1, or -1 for all that are left")
    if list(sizes.values()).count(-1) > 1:
        problems.append("mesh: only one axis may be -1")
    if not problems and -1 not in sizes.values():
        problems += check_batch(data, train, sizes)
    packed = data.packed_row_length
    if packed is not None and not data.pack:
        problems.append(f"data.packed_row_length={packed} is of packed rows: set data.pack=True")
    elif packed is not None and packed < data.row_length:
        problems.append(
            f"data.packed_row_length={packed} must be at least data.row_length={data.row_length}:"
            " an example of that length lies whole in one row (or None, the same)"
        )
    return problems


def check_batch(data: Data, train: Train, sizes: dict[str, int]) -> list[str]:
    """What is wrong between the batch and a mesh whose sizes are all known, one line each."""
    problems = []
    shards = sizes["data"] * sizes["fsdp"]
    rows = shards * train.accumulation_steps
    if not data.pack and data.batch_size % rows:
        what = f"mesh.data x mesh.fsdp = {shards}"
        if train.accumulation_steps > 1:
            what = f"mesh.data x mesh.fsdp x train.accumulation_steps = {rows}"
        below = data.batch_size // rows * rows
        tries = f"{below} or {below + rows}" if below else f"{rows}"
        problems.append(
            f"data.batch_size={data.batch_size} must divide by {what}: try {tries}"
            + (" (or data.pack=True, which fills the rows that are needed)" if below else "")
        )
    if data.pack and data.batch_size < rows:
        problems.append(
            f"data.batch_size={data.batch_size} is less than the {rows} rows that mesh.data x"
            " mesh.fsdp x train.accumulation_steps need: rows would be empty; split rows instead,"
            " by mesh.context"
        )
    for name in ("row_length", "packed_row_length"):
        value = getattr(data, name)
        if value is not None and value % sizes["context"]:
            problems.append(f"data.{name}={value} must divide by mesh.context={sizes['context']}")
    return problems
