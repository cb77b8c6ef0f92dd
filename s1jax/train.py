"""Fine-tunes a model by s1's recipe.

    python -m s1jax.train --config=configs/mini.py --workdir=/tmp/s1jax

Leaves in the workdir: checkpoints/, metrics.jsonl, tensorboard/, loss.png, config.json, and hf/,
the fine-tuned model as a Hugging Face directory. The same command goes on where it stopped. With
--config.train.profile_step=20 also profile/, the trace of a few steps from that one on.
"""

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from s1jax import cli, mini, xla_flags
from s1jax.card import model_card
from s1jax.chat import ChatTokenizer, chat_of
from s1jax.checkpoint import Checkpoints, check_same, save_assets
from s1jax.compile_cache import keep_compiled
from s1jax.config import Config
from s1jax.data.batches import Batches
from s1jax.data.examples import load_examples
from s1jax.data.labels import check_labels, digest, label_stats, tokenize
from s1jax.distributed import check_shared, run_together
from s1jax.mesh import exact_products, make_mesh
from s1jax.metrics import averages, plot_loss, read_log
from s1jax.models.attention import choose
from s1jax.models.hf import open_checkpoint
from s1jax.models.weights import load_params, refuse_foreign, save_checkpoint
from s1jax.progress import format_bytes, format_count, format_seconds
from s1jax.training.goodput import Stopwatch, added, goodput, sentence, times_of
from s1jax.training.loop import as_dict, run_steps
from s1jax.training.memory import memory
from s1jax.training.run import Run
from s1jax.training.step import TrainState, abstract_state, init_state
from s1jax.training_config import check_batch
from s1jax.types import UserError


class Preempted(Exception):
    """SIGTERM came while there was nothing to save that is not saved."""


class Stop:
    """Whether this job was asked to end; every process of it gives the same answer for a step."""

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> "Stop":
        # In a job of several processes jax.distributed watches for SIGTERM, on each of them.
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, _: int, __: FrameType | None) -> None:
        self._asked = True

    def asked(self, step: int) -> bool:
        """Whether to save and end after this many steps."""
        if jax.process_count() > 1:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self._asked

    def check(self, *_: object) -> None:
        """Raises Preempted if this process was asked to end; a progress callback."""
        if self._asked:
            raise Preempted


def main(argv: Sequence[str]) -> int:
    """Parses the flags and trains."""
    values = cli.new_flags()
    cli.add_config(values)
    flags.DEFINE_string("workdir", None, "where everything is written", flag_values=values)
    values = cli.parse(values, __doc__, argv)
    cfg, workdir = cli.config_of(values), cli.directory_of(values, "workdir")
    xla_flags.apply_flags(xla_flags.find_accelerator())
    keep_compiled(workdir)
    return run_together(lambda: train(cfg, workdir))


def train(cfg: Config, workdir: Path, devices: Sequence[jax.Device] | None = None) -> int:
    """Trains, or goes on training, in `workdir`; returns the exit code.

    Raises UserError for anything wrong with config, model, data or checkpoints.
    """
    stopwatch = Stopwatch()
    with Stop() as stop:
        try:
            with stopwatch.spent("load"):
                check_shared(workdir)
                run = prepare(cfg, workdir, devices)
                print_header(run)
            with jax.set_mesh(run.mesh), exact_products(cfg.model.compute_dtype):
                return _train(run, stop, stopwatch)
        except Preempted:
            say("stopped by SIGTERM; start again to go on")
            return cli.PREEMPTED


def prepare(cfg: Config, workdir: Path, devices: Sequence[jax.Device] | None = None) -> Run:
    """Reads and checks everything that a run needs, weights excepted.

    Raises UserError for anything wrong with config, model or data.
    """
    if not cfg.model.path:
        raise UserError("model.path is empty: set it to a model directory, a hub id, or mini")
    if not cfg.data.path:
        raise UserError("data.path is empty: set it to a .jsonl or .parquet file, or mini")
    # Before anything is downloaded.
    refuse_foreign(workdir / "hf")
    mesh = make_mesh(cfg.mesh, devices)
    if problems := check_batch(cfg.data, cfg.train, dict(mesh.shape)):
        raise UserError("\n  ".join(["config", *problems]))
    files = mini.resolve(cfg, workdir / "mini")
    source = open_checkpoint(files.model.path, files.model.revision)
    tokenizer = ChatTokenizer.load(source.directory)
    if tokenizer.vocab_size > source.cfg.vocab_size:
        raise UserError(
            f"{source.directory}: the tokenizer writes ids up to {tokenizer.vocab_size - 1}, the"
            f" embedding has {source.cfg.vocab_size} rows"
        )
    if cfg.data.row_length > source.cfg.max_positions:
        raise UserError(
            f"data.row_length={cfg.data.row_length} is more than the model's context of"
            f" {source.cfg.max_positions} tokens (max_position_embeddings)"
        )
    abstract = abstract_state(cfg, source.cfg, mesh)

    chat = chat_of(cfg.model.chat)
    examples = load_examples(files.data, texts=chat.plain)
    tokenized = tokenize(examples, tokenizer, chat, cfg.data.row_length, cfg.data.control)
    labels = label_stats(tokenized)
    check_labels(labels, cfg.data.max_truncated_share, texts=chat.plain)
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    batches = Batches(tokenized, cfg, shards, mesh.shape["context"])
    kernel = choose(
        cfg.model.attention,
        mesh.devices.flat[0].platform,
        row_length=batches.row_length,  # one for rows of all lengths
        packed=cfg.data.pack,
        dtype=cfg.model.compute_dtype,
    )
    meta = {
        "config": cfg.to_dict(),
        "data_digest": digest(tokenized),
        "tokenizer_digest": tokenizer.digest,
        "model": source.raw,
    }
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, attention=kernel))
    return Run(cfg, workdir, source, mesh, batches, labels, abstract, meta)


def _train(run: Run, stop: Stop, stopwatch: Stopwatch) -> int:
    checkpoints = Checkpoints(run.checkpoints, run.cfg.checkpoint.keep)
    total = run.batches.total_steps
    with stopwatch.spent("load"):
        state = _restore(run, checkpoints)
    if state is not None and int(state.step) == total and _is_done(run):
        say(f"this run is done: {run.workdir / 'hf'}; nothing is left to do")
        return cli.DONE
    if jax.process_index() == 0:
        config = json.dumps(run.meta["config"], indent=2)  # as it was given: "auto" stays so
        _write(run.workdir / "config.json", config + "\n")
    if state is None:
        with stopwatch.spent("load"):
            state = _load(run, stop)
            save_assets(run.checkpoints, run.source.directory)
    state = run_steps(run, state, checkpoints, stop.asked, stopwatch)
    if int(state.step) < total:
        say(f"stopped by SIGTERM after step {int(state.step)} of {total}; start again to go on")
        return cli.PREEMPTED
    with stopwatch.spent("save"):
        metrics = _export(run, state, stop)
    _conclude(run, metrics, stopwatch)
    return cli.DONE


def _restore(run: Run, checkpoints: Checkpoints) -> TrainState | None:
    """The newest good state, or None for a run that is new."""
    saved = checkpoints.latest(warn=say)
    if saved is None:
        return None
    check_same(saved.meta, run.meta, run.cfg.checkpoint.allow_changes)
    restored = checkpoints.restore(as_dict(run.abstract), warn=say)
    assert restored is not None
    say(f"going on after step {restored.step} of {run.batches.total_steps}")
    return TrainState(**restored.state)


def _load(run: Run, stop: Stop) -> TrainState:
    """The state before the first step, from the weights of the model directory."""
    started = time.monotonic()
    params = load_params(run.source, run.mesh, run.cfg.model.param_dtype, stop.check)
    layouts = jax.tree.map(lambda x: x.sharding, run.abstract)
    make = jax.jit(lambda p: init_state(run.cfg, p), out_shardings=layouts, donate_argnums=0)
    state = jax.block_until_ready(make(params))
    say(f"weights loaded in {format_seconds(time.monotonic() - started)}")
    return state


def _export(run: Run, state: TrainState, stop: Stop) -> dict[str, float]:
    """Writes the picture and the model; returns what the model's card says of the training."""
    losses = [line["loss"] for line in read_log(run.workdir / "metrics.jsonl")]
    last = [loss for loss in losses[-10:] if loss is not None]
    metrics = {"loss over the last 10 steps": float(np.mean(last))} if last else {}
    if jax.process_index() == 0 and losses:
        plot_loss(run.workdir / "metrics.jsonl", run.workdir / "loss.png")
    save_checkpoint(
        run.workdir / "hf",
        run.source.raw,
        state.params,
        assets=run.source.directory,
        dtype=run.cfg.export.dtype,
        shard_bytes=run.cfg.export.shard_bytes,
        card=model_card(
            run.cfg,
            commit=run.source.commit,
            data_digest=run.meta["data_digest"],
            examples=run.labels.examples,
            steps=run.batches.total_steps,
            metrics=metrics,
            hardware=_hardware(run.mesh),
        ),
        progress=stop.check,
    )
    return metrics


def _conclude(run: Run, metrics: dict[str, float], stopwatch: Stopwatch) -> None:
    """Notes that the run is done, with where its time went, and says so."""
    if jax.process_index() != 0:
        return
    lines = read_log(run.workdir / "metrics.jsonl")
    times = added(times_of(lines), stopwatch.rest())
    means = averages(lines)
    result = {
        "step": run.batches.total_steps,
        "dtype": run.cfg.export.dtype,
        "data_digest": run.meta["data_digest"],
        **metrics,
        **means,
        "goodput": goodput(times),
        "times_s": times,
    }
    _write(run.done, json.dumps(result, indent=2) + "\n")
    say(f"time    {sentence(times)}")
    if means["device_tokens_per_s"] is not None:
        mfu = "" if means["mfu"] is None else f", mfu {means['mfu']:.1%}"
        say(
            f"tokens  {means['useful_share']:.1%} useful, of these"
            f" {format_count(means['device_tokens_per_s'])} a second and device{mfu}"
        )
    say(f"done: {run.workdir / 'hf'}")


def _is_done(run: Run) -> bool:
    try:
        result = json.loads(run.done.read_text())
    except (OSError, ValueError):
        return False
    there = (run.workdir / "hf" / "config.json").is_file()
    wanted = {"step": run.batches.total_steps, "dtype": run.cfg.export.dtype}
    return there and wanted.items() <= result.items()


def print_header(run: Run) -> None:
    """Says what will run and what it will keep on a device, before anything is compiled."""
    cfg, model, batches = run.cfg, run.source.cfg, run.batches
    sizes = " x ".join(f"{axis}={n}" for axis, n in run.mesh.shape.items() if n > 1)
    held = memory(cfg, model, run.abstract, run.mesh, batches.rows, batches.row_length)
    parts = ", ".join(
        f"{format_bytes(getattr(held, f.name))} {f.name}" for f in dataclasses.fields(held)
    )
    say(
        f"model   {cfg.model.path}: {model.family}, {format_count(model.parameters)} parameters in"
        f" {cfg.model.param_dtype}, computed in {cfg.model.compute_dtype},"
        f" remat {cfg.train.remat}, attention {cfg.model.attention}\n"
        f"mesh    {sizes or 'one device'} on {_hardware(run.mesh)}\n"
        f"memory  about {format_bytes(held.total)} a device: {parts}\n"
        f"data    {run.labels.examples} examples, {run.labels.trained_tokens:,} trained tokens,"
        f" {run.labels.truncated_share:.1%} of the examples truncated\n"
        f"steps   {batches.total_steps} of {cfg.data.batch_size} examples in {batches.rows} rows of"
        f" {' or '.join(map(str, batches.row_lengths))} tokens,"
        f" {batches.useful_share():.1%} of them useful"
    )


def _hardware(mesh: jax.sharding.Mesh) -> str:
    kinds = {device.device_kind for device in mesh.devices.flatten()}
    return f"{mesh.size} x {', '.join(sorted(kinds))}"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.rename(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def say(text: str) -> None:
    """Prints to stderr, from one process of the job."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
