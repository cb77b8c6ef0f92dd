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
            row_tokens=2048,
            flops=1e9,
            times={"device": 0.375, "data": 0.125},
        )


def run_log(directory, **kwargs):
    return RunLog(directory, **{"total_steps": 6, "tensorboard": False} | kwargs)


def test_a_line_a_step(tmp_path):
    log = run_log(tmp_path, devices=4, peak=4e9)
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
        "useful_share": 1001 / 2048,
        "useful_tokens_per_s": 2002.0,
        "device_tokens_per_s": 500.5,
        "mfu": 0.5,
        "step_time_s": 0.5,
        "load_s": 0.0,
        "compile_s": 0.0,
        "data_s": 0.125,
        "device_s": 0.375,
        "save_s": 0.0,
        "other_s": 0.0,
        "lost_s": 0.0,
    }
    assert [line["step"] for line in lines] == [0, 1]


def test_no_peak_no_mfu(tmp_path):
    log = run_log(tmp_path)
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
    # Nothing is dropped before there is something in its place.
    assert [line["step"] for line in metrics.read_log(again.path)] == [0, 1, 2, 3, 4]
    log_steps(again, 3, 6)
    again.close()
    ours, theirs = metrics.read_log(killed.path), metrics.read_log(whole.path)
    assert [line.pop("lost_s") for line in ours] == [0, 0, 0, 2 * 0.5, 0, 0]
    assert [line.pop("lost_s") for line in theirs] == [0] * 6
    assert ours == theirs
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
        row_tokens=1,
        flops=1.0,
        times={"device": 1.0},
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
    log = run_log(tmp_path, peak=4e9)
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


def test_time_after_the_last_step_is_on_its_line(tmp_path):
    log = run_log(tmp_path)
    log.add_times({"save": 1.0})  # before any step there is no line
    assert not log.path.exists()
    log_steps(log, 0, 3)
    log.add_times({"save": 2.0, "other": 1.0})
    log_steps(log, 3, 4)
    log.close()
    lines = metrics.read_log(log.path)
    assert [line["save_s"] for line in lines] == [0, 0, 2, 0]
    assert [line["other_s"] for line in lines] == [0, 0, 1, 0]
    assert [line["step_time_s"] for line in lines] == [0.5] * 4  # what the rates are of
    for line in lines:
        line.update(save_s=0.0, other_s=0.0)
    plain = run_log(tmp_path / "plain")
    log_steps(plain, 0, 4)
    plain.close()
    assert lines == metrics.read_log(plain.path)


def test_averages_are_of_the_work_over_the_time(tmp_path):
    log = run_log(tmp_path, devices=2, peak=1e3)
    for step, (tokens, row_tokens, seconds) in enumerate([(100, 200, 1.0), (300, 320, 3.0)]):
        log.step(
            step,
            loss=1.0,
            learning_rate=1.0,
            gradient_norm=1.0,
            tokens=tokens,
            trained_tokens=1,
            row_tokens=row_tokens,
            flops=4.0 * tokens,
            times={"device": seconds, "compile": 100.0, "lost": 10.0},
        )
    log.close()
    lines = metrics.read_log(log.path)
    assert metrics.averages(lines) == {
        "useful_share": pytest.approx(400 / 520),
        "device_tokens_per_s": pytest.approx(400 / 4.0 / 2),
        "mfu": pytest.approx(4.0 * 400 / 4.0 / 1e3),
    }
    assert metrics.averages(lines)["useful_share"] != pytest.approx((100 / 200 + 300 / 320) / 2)
    del lines[1]["mfu"]
    assert metrics.averages(lines)["mfu"] is None
    assert set(metrics.averages([]).values()) == {None}


def test_train_flops_of_every_multiplication():
    """Counted by hand, matrix by matrix, forward once and backward twice."""
    lengths = [128, 1, 57, 2, 128]
    d, f, v, h, k = 64, 128, 1000, 4 * 16, 2 * 16
    matrices = 3 * (d * h + 2 * d * k + h * d + 3 * d * f) + d * v
    small = CFG.parameters - v * d - matrices  # norms and biases
    multiplications = 0
    for length in lengths:
        for token in range(length):
            multiplications += matrices + small
            for _ in range(token + 1):  # the keys that it sees
                multiplications += 3 * 2 * h  # layers, scores and values
    forward = 2 * multiplications  # and as many additions
    assert metrics.train_flops(CFG, lengths) == 3 * forward
    assert small < 0.02 * matrices
    tied = dataclasses.replace(CFG, tied=True)  # the one table is multiplied with, as the head
    assert metrics.train_flops(tied, lengths) == 3 * forward
    # However they lie in rows, and never as one long example.
    assert metrics.train_flops(CFG, sorted(lengths)) == 3 * forward
    assert metrics.train_flops(CFG, [sum(lengths)]) > 1.01 * 3 * forward


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
    token = metrics.train_flops(cfg, [1])
    assert token == pytest.approx(6 * 31.98e9, rel=1e-3)
    assert 1.05 < metrics.train_flops(cfg, [10_000]) / 10_000 / token < 1.15


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
