"""What a run tells while it goes on: a progress line, JSONL, TensorBoard, and the picture of it."""

import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from s1jax import hardware
from s1jax.models.config import ModelConfig
from s1jax.progress import SECONDS_BETWEEN_LINES, format_count, format_seconds
from s1jax.training.goodput import PARTS, STEP_PARTS, added, times_of


def peak_flops(device_kinds: Sequence[str]) -> float | None:
    """Operations a second of all these devices together; None where a kind is not known."""
    peaks = [hardware.peak_flops(kind) for kind in device_kinds]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if len(known) == len(peaks) else None


def train_flops(cfg: ModelConfig, lengths: Sequence[int]) -> float:
    """Operations of one training step on examples of so many tokens each.

    A multiplication and an addition count as two, the backward pass as two forward passes, and
    recomputation not at all (it is the price of memory, not part of the work). Hence 6 for each
    parameter and token; the embedding table is looked up, not multiplied with, so it counts only
    where it is the head as well. Attention: a token meets the keys of its own example before it
    and itself, and for each key and each of heads x head_dim features there is one multiplication
    for the score and one for the sum of values. Padding counts nothing, nor does it matter how the
    examples lie in rows.
    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1; PaLM (arXiv 2204.02311), appendix
    B, which does not halve the attention.
    """
    matmul = cfg.parameters - (0 if cfg.tied else cfg.vocab_size * cfg.embed_dim)
    keys = sum(n * (n + 1) // 2 for n in lengths)
    return 6.0 * (matmul * sum(lengths) + 2 * cfg.layers * cfg.heads * cfg.head_dim * keys)


class RunLog:
    """One line a step in `metrics.jsonl`, TensorBoard, and a progress line on stderr.

    `step` counts from 0. A run that goes on at `resume_step` drops the lines from there on when
    it has the first of its own, so the file becomes that of a run never stopped, but for times.
    The time of the dropped lines is that line's `lost_s`: all lines together have the time of all
    processes of the run, up to what a killed one did after its last line. Only process 0 writes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        total_steps: int,
        resume_step: int = 0,
        tensorboard: bool = True,
        devices: int = 1,
        peak: float | None = None,
    ):
        self.path = Path(directory) / "metrics.jsonl"
        self.total_steps = total_steps
        self.resume_step = resume_step
        self.devices, self.peak = devices, peak
        self.active = jax.process_index() == 0
        self._in_place = sys.stderr.isatty()
        self._shown_at = -math.inf
        self._line_open = False
        self._times: deque[float] = deque(maxlen=20)
        self._file: Any = None
        self._tensorboard: Any = None
        if not self.active:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
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
        row_tokens: int,
        flops: float,
        times: Mapping[str, float],
    ) -> None:
        """Logs one step. `tokens` are those of examples, `row_tokens` have the padding as well.

        `trained_tokens` have a loss; `times` are the seconds since the line before, by the parts
        of s1jax.training.goodput. A number that is not finite becomes null: JSON has no other word
        for it.
        """
        if not self.active:
            return
        step_time_s = sum(times.get(part, 0.0) for part in STEP_PARTS)
        rate = tokens / step_time_s
        line = {
            "step": step,
            "loss": loss,
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm,
            "tokens": tokens,
            "trained_tokens": trained_tokens,
            "useful_share": tokens / row_tokens,
            "useful_tokens_per_s": rate,
            "device_tokens_per_s": rate / self.devices,
            "mfu": flops / step_time_s / self.peak if self.peak else None,
            "step_time_s": step_time_s,
            **_fields(times),
        }
        finite = {k: v if v is None or math.isfinite(v) else None for k, v in line.items()}
        if self._file is None:
            before = read_log(self.path)
            lost = sum(times_of([x for x in before if x["step"] >= self.resume_step]).values())
            finite |= _fields(added(times, {"lost": lost}))
            self._rewrite([*(x for x in before if x["step"] < self.resume_step), finite])
        else:
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()
        if self._tensorboard is not None:
            for name, value in line.items():
                if name != "step" and value is not None:
                    self._tensorboard.add_scalar(name, value, step)
        self._times.append(step_time_s)
        self._show(line)

    def add_times(self, times: Mapping[str, float]) -> None:
        """Adds time that was spent after the last step to its line."""
        if self._file is not None:
            *before, last = read_log(self.path)
            self._rewrite([*before, last | _fields(added(times_of([last]), times))])

    def _rewrite(self, lines: Sequence[dict[str, Any]]) -> None:
        """Puts these lines in the place of the file's, all at once, and goes on after them."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        if self._file is not None:
            self._file.close()
        temporary.replace(self.path)
        self._file = self.path.open("a")

    def say(self, text: str) -> None:
        """Prints a line of its own to stderr without breaking the progress line."""
        if self.active:
            self._end_line()
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the progress line and the files."""
        if self.active:
            self._end_line()
            if self._file is not None:
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


def _fields(times: Mapping[str, float]) -> dict[str, float]:
    return {f"{part}_s": times.get(part, 0.0) for part in PARTS}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl, without one that a killed run left unfinished.

    No lines if there is no such file.
    """
    if not path.exists():
        return []
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


def averages(lines: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Means over a whole log: the useful share by tokens, tokens a second of a device, the MFU.

    A mean of rates is that of the work over that of the time. None where a line has no figure.
    """

    def mean(name: str, weights: Sequence[float]) -> float | None:
        values = [line[name] for line in lines if line.get(name) is not None]
        if not values or len(values) < len(lines):
            return None
        return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)

    times = [line["step_time_s"] for line in lines]
    row_tokens = [line["tokens"] / line.get("useful_share", 1.0) for line in lines]
    return {
        "useful_share": mean("useful_share", row_tokens),
        "device_tokens_per_s": mean("device_tokens_per_s", times),
        "mfu": mean("mfu", times),
    }


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
