"""The log of a run that was stopped is that of one that was not, and its figures are right."""

import dataclasses
import io
import json
import math
import struct
import sys

import jax
import pytest

from s1jax import metrics
from s1jax.metrics import RunLog
from s1jax.models.config import ModelConfig, Rope

CFG = ModelConfig(
    family="qwen2",
    vocab_size=1000,
    embed_dim=64,
    mlp_dim=128,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    rope=Rope(1e6),
    norm_eps=1e-6,
    tied=False,
    qkv_bias=True,
    qk_norm=False,
    max_positions=4096,
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def log_steps(log, first, last):
    for step in range(first, last):
        log.step(
            step,
            loss=2.0 / (step + 1),
            learning_rate=1e-5 * step,
            gradient_norm=0.5,
            tokens=1000 + step,
            trained_tokens=900,
            step_time_s=0.5,
        )


def run_log(directory, **kwargs):
    return RunLog(directory, **{"total_steps": 6, "tensorboard": False} | kwargs)


def test_a_line_a_step(tmp_path):
    log = run_log(tmp_path, flops_per_token=1e6, peak=4e9)
    log_steps(log, 0, 2)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[1] == {
        "step": 1,
        "loss": 1.0,
        "learning_rate": 1e-5,
        "gradient_norm": 0.5,
        "tokens": 1001,
        "trained_tokens": 900,
        "useful_tokens_per_s": 2002.0,
        "step_time_s": 0.5,
        "mfu": 2002.0 * 1e6 / 4e9,
    }
    assert [line["step"] for line in lines] == [0, 1]


def test_no_peak_no_mfu(tmp_path):
    log = run_log(tmp_path, flops_per_token=1e6)
    log_steps(log, 0, 1)
    log.close()
    assert metrics.read_log(log.path)[0]["mfu"] is None


def test_a_stopped_run_leaves_the_log_of_one_never_stopped(tmp_path):
    whole = run_log(tmp_path / "whole")
    log_steps(whole, 0, 6)
    whole.close()
    # Killed after step 4, in the middle of a line; the checkpoint is of step 3.
    killed = run_log(tmp_path / "killed")
    log_steps(killed, 0, 5)
    killed.close()
    with killed.path.open("a") as file:
        file.write('{"step": 5, "lo')
    again = run_log(tmp_path / "killed", resume_step=3)
    assert [line["step"] for line in metrics.read_log(again.path)] == [0, 1, 2]
    log_steps(again, 3, 6)
    again.close()
    assert killed.path.read_bytes() == whole.path.read_bytes()
    assert [p.name for p in killed.path.parent.iterdir()] == ["metrics.jsonl"]


def test_not_a_number_is_null(tmp_path, capsys):
    log = run_log(tmp_path)
    log.step(
        0,
        loss=math.nan,
        learning_rate=1e-5,
        gradient_norm=math.inf,
        tokens=1,
        trained_tokens=1,
        step_time_s=1.0,
    )
    log.close()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    line = json.loads(log.path.read_text(), parse_constant=refuse)
    assert line["loss"] is None and line["gradient_norm"] is None
    assert "loss nan" in capsys.readouterr().err


def test_only_process_0_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    log = run_log(tmp_path / "run", tensorboard=True)
    log_steps(log, 0, 2)
    log.say("a warning")
    log.close()
    assert not (tmp_path / "run").exists() and capsys.readouterr().err == ""


def test_progress_in_place_on_a_terminal(tmp_path, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    log = run_log(tmp_path, flops_per_token=1e6, peak=4e9)
    log_steps(log, 0, 2)
    log.say("a warning")
    log_steps(log, 2, 6)
    log.close()
    first, second, *_ = stream.getvalue().split("\r")[1:]
    want = "step 1/6  loss 2.0000  lr 0.00e+00  grad 0.5  2k tokens/s  mfu 50.0%  2 s left\x1b[K"
    assert first == want
    assert second.endswith("\x1b[K\na warning\n")  # on a line of its own
    assert stream.getvalue().count("\r") == 6
    assert stream.getvalue().endswith("\n")


def test_progress_in_lines_elsewhere(tmp_path, monkeypatch, capsys):
    clock = iter([100.0, 101.0, 104.9, 105.0, 106.0, 107.0])
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    log = run_log(tmp_path)
    log_steps(log, 0, 6)
    log.close()
    shown = capsys.readouterr().err
    steps = [line.split()[1] for line in shown.splitlines()]
    assert steps == ["1/6", "4/6", "6/6"]  # the first, 5 s later, and the last in any case
    assert "\r" not in shown and "mfu" not in shown


def test_tensorboard_holds_the_same_numbers(tmp_path):
    log = run_log(tmp_path, tensorboard=True)
    log_steps(log, 0, 3)
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    data = events.read_bytes()
    # TFRecord: length, its checksum, the event, its checksum; the first event is the version.
    count = 0
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        count += b"learning_rate" in data[12 : 12 + size]
        data = data[16 + size :]
    assert count == 3


def test_train_flops_of_every_multiplication():
    """Counted by hand, matrix by matrix, forward once and backward twice."""
    length, tokens = 128, 4 * 128
    d, f, v, h, k = 64, 128, 1000, 4 * 16, 2 * 16
    matrices = 3 * (d * h + 2 * d * k + h * d + 3 * d * f) + d * v
    small = CFG.parameters - v * d - matrices  # norms and biases
    keys = sum(range(1, length + 1))  # of all tokens of a row: 1 for the first, then 2, ...
    attention = 4 * 3 * 2 * keys * h  # rows, layers, scores and values
    forward = 2 * (tokens * (matrices + small) + attention)
    assert metrics.train_flops(CFG, tokens, length) == 3 * forward
    assert small < 0.02 * matrices
    tied = dataclasses.replace(CFG, tied=True)  # the one table is multiplied with, as the head
    assert metrics.train_flops(tied, tokens, length) == 3 * forward
    assert metrics.train_flops(CFG, tokens, 2 * length) > 3 * forward


def test_train_flops_of_qwen_32b():
    """6 x 32.5e9 a token, less the embedding, and about a tenth for attention at 10,000."""
    cfg = dataclasses.replace(
        CFG,
        vocab_size=152064,
        embed_dim=5120,
        mlp_dim=27648,
        layers=64,
        heads=40,
        kv_heads=8,
        head_dim=128,
    )
    assert cfg.parameters == pytest.approx(32.76e9, rel=1e-3)
    assert metrics.train_flops(cfg, 1, 1) == pytest.approx(6 * 31.98e9, rel=1e-3)
    assert 1.05 < metrics.train_flops(cfg, 1, 10_000) / metrics.train_flops(cfg, 1, 1) < 1.15


def test_peak_flops():
    h100 = "NVIDIA H100 80GB HBM3"
    assert metrics.peak_flops([h100] * 16) == 16 * 989e12
    assert metrics.peak_flops([h100, "cpu"]) is None
    assert metrics.peak_flops([jax.devices("cpu")[0].device_kind]) is None


def test_eta_is_not_fooled_by_the_compilation():
    assert metrics.eta(3, 104, [60.0, 1.0, 1.1, 0.9]) == pytest.approx(100 * 1.05)
    assert metrics.eta(103, 104, [1.0]) == 0


def test_smoothing_keeps_lines_and_skips_gaps():
    line = [0.5 * i for i in range(200)]
    assert metrics.smoothed(line) == pytest.approx(line)
    noisy = [(-1.0) ** i for i in range(200)]
    assert max(abs(x) for x in metrics.smoothed(noisy)[20:-20]) < 0.2
    gap = [1.0, math.nan, 1.0, 1.0]
    assert metrics.smoothed(gap) == [1.0, 1.0, 1.0, 1.0]
    assert math.isnan(metrics.smoothed([math.nan])[0])


def test_plot_loss(tmp_path):
    log = run_log(tmp_path, total_steps=40)
    log_steps(log, 0, 40)
    log.close()
    metrics.plot_loss(log.path, tmp_path / "loss.png")
    data = (tmp_path / "loss.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1200, 750)
    assert not (tmp_path / "loss.tmp").exists()
    other = run_log(tmp_path / "other", total_steps=40)
    log_steps(other, 0, 20)
    other.close()
    metrics.plot_loss(other.path, tmp_path / "other.png")
    assert (tmp_path / "other.png").read_bytes() != data
    log.path.write_text("")
    with pytest.raises(ValueError, match="no steps to draw"):
        metrics.plot_loss(log.path, tmp_path / "loss.png")
