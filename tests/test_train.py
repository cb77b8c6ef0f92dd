"""The verb in this process: what a run says and leaves, what it refuses, what it never applies."""

import contextlib
import io
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes_train import (
    SIZES,
    exported,
    finish,
    log,
    losses,
    saved_arrays,
    steps_saved,
    write_model,
    write_world,
)

from s1jax import train
from s1jax.cli import USER_ERROR
from s1jax.models import decoder
from s1jax.models.hf import open_checkpoint
from s1jax.models.names import flat_specs
from s1jax.models.weights import unflatten
from s1jax.training import loop
from s1jax.types import UserError

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


# What a run leaves.


@pytest.fixture(scope="module")
def ended(world, tmp_path_factory):
    """A run that has ended, with what it said: (workdir, config, text)."""
    workdir = tmp_path_factory.mktemp("ended")
    cfg = world.config(train__epochs=8, train__tensorboard=True, checkpoint__every_steps=10)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train.train(cfg, workdir, ONE) == 0
    return workdir, cfg, said.getvalue()


def test_it_leaves_what_it_promises(ended):
    workdir, cfg, _ = ended
    there = {path.name for path in workdir.iterdir()}
    wanted = {"checkpoints", "metrics.jsonl", "tensorboard", "loss.png", "config.json", "hf"}
    assert there == wanted | {"done.json"}
    assert json.loads((workdir / "config.json").read_text()) == cfg.to_dict()
    assert (workdir / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert steps_saved(workdir) == [20, 24]
    done = json.loads((workdir / "done.json").read_text())
    assert done["step"] == 24
    assert done["loss over the last 10 steps"] == pytest.approx(np.mean(losses(workdir)[-10:]))


def test_the_header_comes_before_the_first_compile(ended):
    said = ended[2]
    header, rest = said.split("compiling ...")
    assert re.search(r"model +\S+/model: qwen2, 140k parameters in float32", header)
    assert re.search(r"mesh +one device on 1 x cpu", header)
    memory = re.search(r"memory +about (\S+ \w+) a device: .*", header)[0]
    for part in ("parameters", "moments", "gradients", "activations"):
        assert re.search(rf"\d+\.\d [KMG]iB {part}", memory), part
    assert re.search(r"10 examples, [\d,]+ trained tokens, 0\.0% of the examples truncated", header)
    assert re.search(r"steps +24 of 4 examples in 4 rows of 256 tokens, \d+\.\d% of them", header)
    assert "compiled in" in rest
    assert rest.rstrip().endswith(f"done: {ended[0] / 'hf'}")


def test_the_model_learns_by_s1s_schedule(ended):
    workdir, cfg, _ = ended
    lines = log(workdir)
    assert [line["step"] for line in lines] == list(range(24))
    warmup = math.ceil(0.05 * 24)
    peak = cfg.optimizer.learning_rate
    for line in lines:
        step = line["step"]
        falling = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (24 - warmup)))
        want = peak * (step / warmup if step < warmup else falling)
        assert line["learning_rate"] == pytest.approx(want, rel=1e-5, abs=1e-12)
    # The first update has rate 0, so the second loss is that of the first parameters.
    assert lines[0]["loss"] == pytest.approx(math.log(SIZES["vocab_size"]), abs=0.3)
    assert lines[-1]["loss"] < lines[0]["loss"] - 2


def test_transformers_loads_the_export_and_computes_the_same(ended, world):
    import torch
    import transformers

    workdir = ended[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(workdir / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(workdir / "hf")
    base = transformers.AutoTokenizer.from_pretrained(world.model)
    assert tokenizer.chat_template == base.chat_template
    ids = tokenizer("What is 12 + 30?<|im_end|>", return_tensors="np").input_ids
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    cfg = open_checkpoint(str(workdir / "hf")).cfg
    saved = saved_arrays(workdir, 24)
    leaves = unflatten(
        {
            path: jnp.asarray(np.frombuffer(saved[f"['params']{key(path)}"], np.float32)).reshape(
                spec.shape
            )
            for path, spec in flat_specs(cfg).items()
        }
    )
    tokens = jnp.asarray(ids, jnp.int32)
    positions = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
    hidden, _ = decoder.apply(cfg, leaves, tokens, positions, jnp.ones_like(tokens))
    ours = np.asarray(decoder.logits(cfg, leaves, hidden))
    assert np.abs(ours - theirs).max() < 1e-4
    untrained = transformers.AutoModelForCausalLM.from_pretrained(world.model).eval()
    with torch.no_grad():
        assert np.abs(ours - untrained(torch.tensor(ids)).logits.numpy()).max() > 1e-1


def key(path):
    """`['layers']['attn']` for `layers/attn`."""
    return "".join(f"[{name!r}]" for name in path.split("/"))


def test_the_card_says_how_it_was_made(ended):
    workdir, cfg, _ = ended
    card = (workdir / "hf" / "README.md").read_text()
    done = json.loads((workdir / "done.json").read_text())
    for words in (cfg.model.path, done["data_digest"], "24 of 4 examples", "1 x cpu"):
        assert words in card
    assert f"{done['loss over the last 10 steps']:.6g}" in card


def test_a_finished_run_says_so_and_changes_nothing(ended, capsys):
    workdir, cfg, _ = ended
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    assert train.train(cfg, workdir, ONE) == 0
    assert f"this run is done: {workdir / 'hf'}; nothing is left" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


def test_an_export_that_was_removed_is_written_again(world, tmp_path):
    cfg = world.config(train__epochs=1)
    assert train.train(cfg, tmp_path, ONE) == 0
    first = exported(tmp_path)
    (tmp_path / "done.json").unlink()
    for path in (tmp_path / "hf").iterdir():
        path.unlink()
    assert train.train(cfg, tmp_path, ONE) == 0
    assert exported(tmp_path) == first
    # Without its log there is nothing to draw, and the export is as good.
    (tmp_path / "done.json").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    assert train.train(cfg, tmp_path, ONE) == 0
    assert exported(tmp_path)["model.safetensors"] == first["model.safetensors"]


def test_bfloat16_computes_and_float32_remembers(ended, world, tmp_path):
    """s1's precision, and its remat, are near float32's losses and export half the bytes."""
    cfg = world.config(
        train__epochs=8,
        model__compute_dtype="bfloat16",
        train__remat="full",
        export__dtype="bfloat16",
    )
    run = train.prepare(cfg, tmp_path / "none", ONE)
    dtypes = {x.dtype.name for x in jax.tree.leaves((run.abstract.params, run.abstract.opt_state))}
    assert dtypes == {"float32", "int32"}
    assert train.train(cfg, tmp_path, ONE) == 0
    difference = np.abs(np.subtract(losses(ended[0]), losses(tmp_path)))
    assert 0 < difference.max() < 0.03
    exact, mixed = (len(exported(d)["model.safetensors"]) for d in (ended[0], tmp_path))
    assert mixed / exact == pytest.approx(0.5, abs=0.01)


GOLDEN = [6.3744, 6.38981, 6.0558, 5.77065]


def test_the_losses_are_what_they_were(ended):
    assert losses(ended[0])[:4] == pytest.approx(GOLDEN, rel=1e-4), (
        "model, data, loss or optimizer compute something else now: if that is what you want,"
        " write the new losses here and say why in BUILD_NOTES.md"
    )


# Plain text.


def of_transformers(cfg, texts, batches, decay=1.0):
    """The losses of each step, by transformers' own loss of a document and torch's AdamW."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(cfg.model.path)
    model = transformers.AutoModelForCausalLM.from_pretrained(cfg.model.path, dtype=torch.float32)
    rate, total = cfg.optimizer.learning_rate, batches.total_steps
    optimizer = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.95), 1e-8, 1e-4)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 1, total)
    told = []
    for step in range(total):
        ids = [
            torch.tensor([[*tokenizer(texts[name]).input_ids, tokenizer.eos_token_id]])
            for name in batches.ids(step)
        ]
        loss = sum(model(input_ids=i, labels=i).loss for i in ids) / len(ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        told.append(loss.item())
    return told


@pytest.mark.parametrize("pack", [False, True])
def test_training_on_text_is_transformers_loss_of_each_document(world, tmp_path, pack):
    texts = {f"t{n}": f"  {n} + 30 = {n + 30}\n" * (1 + n % 5) for n in range(1, 11)}
    rows = [json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()]
    (tmp_path / "texts.jsonl").write_text("".join(rows))
    cfg = world.config(
        model__chat="text",
        data__path=str(tmp_path / "texts.jsonl"),
        data__pack=pack,
        train__steps=3,
    )
    assert train.train(cfg, tmp_path / "run", ONE) == 0
    ours = losses(tmp_path / "run")
    batches = train.prepare(cfg, tmp_path / "none", ONE).batches
    assert ours == pytest.approx(of_transformers(cfg, texts, batches), rel=1e-5)
    stripped = {name: text.strip() for name, text in texts.items()}  # the control
    assert ours != pytest.approx(of_transformers(cfg, stripped, batches), rel=1e-3)
    card = (tmp_path / "run" / "hf" / "README.md").read_text()
    assert "# model, trained on text" in card and "think" not in card


# What it refuses.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model.path": ""}, "model.path is empty: set it to"),
        ({"data.path": ""}, "data.path is empty: set it to"),
        ({"model.path": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"data.path": "/nowhere.jsonl"}, "data.path=/nowhere.jsonl: there is no such file"),
        (
            {"data.row_length": 1024},
            r"data.row_length=1024 is more than the model's context of 512 tokens",
        ),
        ({"mesh.fsdp": 4}, "needs 4 devices and 1 are here"),
        ({"data.row_length": 64}, "the end of the answer cut off by data.row_length=64"),
        ({"model.chat": "r1"}, "has no token"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(world, tmp_path, fields, words):
    given = {name.replace(".", "__"): value for name, value in fields.items()}
    with pytest.raises(UserError, match=re.escape(words)):
        train.train(world.config(**given), tmp_path / "run", ONE)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_devices_cannot_share_is_refused(world, tmp_path):
    with pytest.raises(UserError, match=r"data.batch_size=4 must divide .* = 16: try 16"):
        train.train(world.config(mesh__fsdp=-1), tmp_path, jax.devices())


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    world = write_world(tmp_path, vocab_size=400)
    with pytest.raises(UserError, match=r"token id \d+ is beyond the embedding, .* 400 rows"):
        train.train(world.config(), tmp_path / "run", ONE)


def test_a_workdir_that_cannot_be_written_is_one_sentence(world, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"config\.json cannot be written: Not a directory"):
        train.train(world.config(), tmp_path / "file" / "run", ONE)


# What it never applies.


def spoil(monkeypatch, steps):
    """Makes the loss of these steps infinite."""
    to_devices = loop.to_devices
    seen = iter(range(10**6))

    def spoiled(arrays, mesh):
        if next(seen) in steps:
            arrays.weights[arrays.weights > 0] = np.inf
        return to_devices(arrays, mesh)

    monkeypatch.setattr(loop, "to_devices", spoiled)


def test_a_step_that_is_not_finite_changes_nothing_and_is_named(
    world, tmp_path, monkeypatch, capsys
):
    cfg = world.config(checkpoint__every_steps=1, checkpoint__keep=100)
    spoil(monkeypatch, {2, 4})
    assert train.train(cfg, tmp_path, ONE) == 0
    err = capsys.readouterr().err
    batches = train.prepare(cfg, tmp_path, ONE).batches
    for step in (2, 4):
        assert f"step {step}: loss inf" in err or f"step {step}: loss nan" in err
        assert f"nothing is updated; its examples: {', '.join(batches.ids(step))}" in err
        before, after = saved_arrays(tmp_path, step), saved_arrays(tmp_path, step + 1)
        assert {name for name in before if before[name] != after[name]} == {"['step']"}
    # The control: a good step changes every parameter and every moment.
    before, after = saved_arrays(tmp_path, 3), saved_arrays(tmp_path, 4)
    assert {name for name in before if before[name] != after[name]} == set(before)
    parameters = flat_specs(open_checkpoint(str(world.model)).cfg)
    assert len(before) == 2 + 3 * len(parameters)
    told = losses(tmp_path)
    assert [step for step, loss in enumerate(told) if loss is None] == [2, 4]
    assert "step 3:" not in err


def test_a_run_of_bad_steps_stops_the_job_with_the_last_good_state(
    world, tmp_path, monkeypatch, capsys
):
    cfg = world.config(
        train__epochs=4, train__max_bad_steps=3, checkpoint__every_steps=4, checkpoint__keep=9
    )
    with monkeypatch.context() as patch:
        spoil(patch, range(4, 100))
        with pytest.raises(UserError, match=r"not finite for [34] steps in a row") as error:
            train.train(cfg, tmp_path, ONE)
    stopped = steps_saved(tmp_path)[-1]
    assert 7 <= stopped <= 8
    assert str(tmp_path / "checkpoints" / str(stopped)) in str(error.value)
    good, last = saved_arrays(tmp_path, 4), saved_arrays(tmp_path, stopped)
    assert {name for name in good if good[name] != last[name]} == {"['step']"}
    assert [line["step"] for line in log(tmp_path)] == list(range(stopped))
    assert not (tmp_path / "hf").exists()
    capsys.readouterr()
    # When the cause is gone, the same command goes on.
    assert train.train(cfg, tmp_path, ONE) == 0
    assert f"going on after step {stopped} of 12" in capsys.readouterr().err
    assert [line["step"] for line in log(tmp_path)] == list(range(12))


def test_good_steps_between_bad_ones_do_not_stop_it(world, tmp_path, monkeypatch):
    spoil(monkeypatch, {0, 1, 3, 4})
    assert train.train(world.config(train__max_bad_steps=3), tmp_path, ONE) == 0
    assert losses(tmp_path).count(None) == 4


def test_weights_that_overflow_end_the_command_with_2(tmp_path):
    world = write_world(tmp_path / "world")
    write_model(world.model, SIZES, scale=1e20)
    config = world.config_file(tmp_path / "x.py", train__max_bad_steps=2)
    err = finish(config, tmp_path / "run", code=USER_ERROR)
    assert "error: loss or gradients were not finite for 2 steps in a row" in err
    assert "its examples: mini-" in err
