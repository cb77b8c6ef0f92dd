"""What a run tells while it goes on: a progress line, JSONL, TensorBoard, and the picture of it."""

import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from s1jax import hardware
from s1jax.models.config import ModelConfig
from s1jax.progress import SECONDS_BETWEEN_LINES, format_count, format_seconds


def peak_flops(device_kinds: Sequence[str]) -> float | None:
    """Operations a second of all these devices together; None where a kind is not known."""
    peaks = [hardware.peak_flops(kind) for kind in device_kinds]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if len(known) == len(peaks) else None


def train_flops(cfg: ModelConfig, tokens: int, row_length: int) -> float:
    """Operations of one training step on that many tokens, in rows of that length.

    A multiplication and an addition count as two, the backward pass as two forward passes, and
    recomputation not at all (it is the price of memory, not part of the work). Hence 6 for each
    parameter and token; the embedding table is looked up, not multiplied with, so it counts only
    where it is the head as well. Attention: a token meets (row_length + 1) / 2 keys on average
    when it sees only those before it and itself, and for each key and each of heads x head_dim
    features there is one multiplication for the score and one for the sum of values. Rows that
    hold several examples need less than that.
    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1; PaLM (arXiv 2204.02311), appendix
    B, which does not halve the attention.
    """
    matmul = cfg.parameters - (0 if cfg.tied else cfg.vocab_size * cfg.embed_dim)
    keys = (row_length + 1) / 2
    attention = cfg.layers * 2 * cfg.heads * cfg.head_dim * keys
    return 6.0 * tokens * (matmul + attention)


class RunLog:
    """One line a step in `metrics.jsonl`, TensorBoard, and a progress line on stderr.

    `step` counts from 0. A run that goes on at `resume_step` drops the lines from there on, so
    the file becomes that of a run never stopped, but for times. Only process 0 writes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        total_steps: int,
        resume_step: int = 0,
        tensorboard: bool = True,
        flops_per_token: float = 0.0,
        peak: float | None = None,
    ):
        self.path = Path(directory) / "metrics.jsonl"
        self.total_steps = total_steps
        self.flops_per_token, self.peak = flops_per_token, peak
        self.active = jax.process_index() == 0
        self._in_place = sys.stderr.isatty()
        self._shown_at = -math.inf
        self._line_open = False
        self._times: deque[float] = deque(maxlen=20)
        self._tensorboard: Any = None
        if not self.active:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _keep_lines_before(self.path, resume_step)
        self._file = self.path.open("a")
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(
                str(self.path.parent / "tensorboard"), purge_step=resume_step or None
            )

    def step(
        self,
        step: int,
        *,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        tokens: int,
        trained_tokens: int,
        step_time_s: float,
    ) -> None:
        """Logs one step. `tokens` are those of examples, not padding; `trained_tokens` have a loss.

        A number that is not finite becomes null: JSON has no other word for it.
        """
        if not self.active:
            return
        rate = tokens / step_time_s
        line = {
            "step": step,
            "loss": loss,
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm,
            "tokens": tokens,
            "trained_tokens": trained_tokens,
            "useful_tokens_per_s": rate,
            "step_time_s": step_time_s,
            "mfu": rate * self.flops_per_token / self.peak if self.peak else None,
        }
        finite = {k: v if v is None or math.isfinite(v) else None for k, v in line.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in line.items():
                if name != "step" and value is not None:
                    self._tensorboard.add_scalar(name, value, step)
        self._times.append(step_time_s)
        self._show(line)

    def say(self, text: str) -> None:
        """Prints a line of its own to stderr without breaking the progress line."""
        if self.active:
            self._end_line()
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the progress line and the files."""
        if self.active:
            self._end_line()
            self._file.close()
            if self._tensorboard is not None:
                self._tensorboard.close()

    def _show(self, line: dict[str, Any]) -> None:
        last = line["step"] + 1 >= self.total_steps
        now = time.monotonic()
        if not self._in_place and not last and now - self._shown_at < SECONDS_BETWEEN_LINES:
            return
        self._shown_at = now
        text = progress(line, self.total_steps, eta(line["step"], self.total_steps, self._times))
        if self._in_place:
            sys.stderr.write(f"\r{text}\x1b[K")  # back to the margin; clear what is left
            self._line_open = True
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def _end_line(self) -> None:
        if self._line_open:
            sys.stderr.write("\n")
            self._line_open = False


def _keep_lines_before(path: Path, step: int) -> None:
    """Drops the lines from that step on, and a last one that a killed run left unfinished."""
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in read_log(path) if line["step"] < step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def progress(line: dict[str, Any], total_steps: int, eta_s: float) -> str:
    """`step  12/315  loss 1.2345  lr 7.50e-06  ...`, of one line of the log."""
    width = len(str(total_steps))
    parts = [
        f"step {line['step'] + 1:>{width}}/{total_steps}",
        f"loss {line['loss']:.4f}",
        f"lr {line['learning_rate']:.2e}",
        f"grad {line['gradient_norm']:.3g}",
        f"{format_count(line['useful_tokens_per_s'])} tokens/s",
    ]
    if line["mfu"] is not None:
        parts.append(f"mfu {line['mfu']:.1%}")
    return "  ".join([*parts, f"{format_seconds(eta_s)} left"])


def eta(step: int, total_steps: int, step_times_s: Sequence[float] | deque[float]) -> float:
    """Seconds left after that step, by the median of recent ones: compilation does not count."""
    return (total_steps - step - 1) * statistics.median(step_times_s)


def plot_loss(jsonl: Path, out: Path) -> None:
    """Draws loss and learning rate over the steps of a log. ValueError if the log is empty."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lines = read_log(jsonl)
    if not lines:
        raise ValueError(f"{jsonl} has no steps to draw")
    steps = [line["step"] + 1 for line in lines]
    losses = [math.nan if line["loss"] is None else line["loss"] for line in lines]
    rates = [line["learning_rate"] for line in lines]

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    dots = "." if len(steps) <= 30 else ""
    top.plot(steps, losses, dots + "-", color="#9db7d5", linewidth=1, label="each step")
    top.plot(steps, smoothed(losses), color="#1f4e79", linewidth=2, label="smoothed")
    top.set_ylabel("loss")
    top.legend(frameon=False)
    bottom.plot(steps, rates, color="#b0532a", linewidth=1.5)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    bottom.set_ylim(bottom=0)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.ticklabel_format(axis="y", scilimits=(0, 0))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
    temporary = out.with_suffix(".tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(out)


def smoothed(values: Sequence[float]) -> list[float]:
    """Means over a window of about a twentieth of the steps around each; NaNs left out."""
    half = max(1, len(values) // 40)
    means = []
    for i in range(len(values)):
        # Narrower at the ends, so that the curve is not bent towards the middle.
        reach = min(half, i, len(values) - 1 - i)
        window = [v for v in values[i - reach : i + reach + 1] if not math.isnan(v)]
        means.append(statistics.fmean(window) if window else math.nan)
    return means
