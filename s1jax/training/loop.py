"""The loop over the steps of a run, and what it tells of each."""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax

from s1jax.checkpoint import Checkpoints
from s1jax.metrics import RunLog, peak_flops, train_flops
from s1jax.training.goodput import Stopwatch, Watcher
from s1jax.training.profile import Profile
from s1jax.training.programs import compile_steps, to_devices
from s1jax.training.run import Run
from s1jax.training.step import Metrics, TrainState
from s1jax.types import UserError


def run_steps(
    run: Run,
    state: TrainState,
    checkpoints: Checkpoints,
    asked: Callable[[int], bool],
    stopwatch: Stopwatch,
) -> TrainState:
    """The state after the last step, or after the one for which `asked` says to save and end.

    Raises UserError where loss or gradients are not finite too often, or a save fails.
    """
    cfg, batches = run.cfg, run.batches
    first, total = int(state.step), batches.total_steps
    if first == total:
        return state
    kinds = [device.device_kind for device in run.mesh.devices.flat]
    with stopwatch.spent("load"):
        new_log = RunLog(
            run.workdir,
            total_steps=total,
            resume_step=first,
            tensorboard=cfg.train.tensorboard,
            devices=len(kinds),
            peak=peak_flops(kinds),
        )
    new_profile = Profile(cfg.train, run.workdir / "profile", new_log.say)
    with (
        contextlib.closing(new_log) as log,
        contextlib.closing(Watcher()) as watcher,
        contextlib.closing(new_profile) as profile,
    ):
        with stopwatch.spent("compile"):
            programs = compile_steps(run, first, log.say)
        report = Report(run, log, watcher, stopwatch)
        for step in range(first, total):
            profile.before(step, state)
            with stopwatch.spent("data"):
                batch = to_devices(batches.arrays(step), run.mesh)
            dispatched = time.monotonic()
            with jax.profiler.StepTraceAnnotation("step", step_num=step):
                state, metrics = programs[batches.row_length_of(step)](state, batch)
            # Tells of the step before: the device already works on this one while we wait.
            report.add(step, metrics, dispatched)
            ending = asked(step + 1)
            saving = (step + 1) % cfg.checkpoint.every_steps == 0 or step + 1 == total
            if saving or ending:
                report.flush()
                with stopwatch.spent("save"):
                    checkpoints.save(step + 1, as_dict(state), run.meta)
            checkpoints.check()
            bad_steps = report.bad_steps
            if bad_steps >= cfg.train.max_bad_steps:
                report.flush()
                with stopwatch.spent("save"):
                    checkpoints.save(step + 1, as_dict(state), run.meta)
                break
            if ending:
                break
        profile.end(state)
        with stopwatch.spent("save"):
            checkpoints.close()
        log.add_times(stopwatch.rest())
    if bad_steps >= cfg.train.max_bad_steps:
        raise UserError(
            f"loss or gradients were not finite for {bad_steps} steps in a row; the parameters"
            f" of the last good step are saved in {run.checkpoints / str(step + 1)}: lower"
            " optimizer.learning_rate, or look at the examples named above"
        )
    return state


class Report:
    """Tells of each step in turn, and counts those that were not finite."""

    def __init__(self, run: Run, log: RunLog, watcher: Watcher, stopwatch: Stopwatch):
        self.run, self.log, self.watcher, self.stopwatch = run, log, watcher, stopwatch
        self.bad_steps = 0  # in a row, up to the last one told of
        self._waiting: tuple[int, Metrics, float, Future[float]] | None = None

    def add(self, step: int, metrics: Metrics, dispatched: float) -> None:
        """Takes a step that was handed to the device at that instant; tells of the one before."""
        before = self._waiting
        self._waiting = step, metrics, dispatched, self.watcher.end_of(metrics.loss)
        if before is not None:
            self._tell(*before)

    def flush(self) -> None:
        """Waits for the last step and tells of it."""
        if self._waiting is not None:
            self._tell(*self._waiting)
            self._waiting = None

    def _tell(self, step: int, metrics: Metrics, dispatched: float, ended: "Future[float]") -> None:
        times = self.stopwatch.step(dispatched, ended.result())
        told = {name: x.item() for name, x in jax.device_get(vars(metrics)).items()}
        batches = self.run.batches
        lengths = [len(batches.examples[i].tokens) for i in batches.chosen(step)]
        tokens, trained_tokens = batches.tokens(step)
        self.log.step(
            step,
            loss=told["loss"],
            learning_rate=told["learning_rate"],
            gradient_norm=told["gradient_norm"],
            tokens=tokens,
            trained_tokens=trained_tokens,
            row_tokens=batches.rows * batches.row_length_of(step),
            flops=train_flops(self.run.source.cfg, lengths),
            times=times,
        )
        self.bad_steps = 0 if told["finite"] else self.bad_steps + 1
        if not told["finite"]:
            self.log.say(
                f"step {step}: loss {told['loss']}, gradient norm {told['gradient_norm']}: not"
                f" finite, so nothing is updated; its examples: {', '.join(batches.ids(step))}"
            )


def as_dict(state: TrainState) -> dict[str, Any]:
    """The state as a checkpoint has it."""
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}
