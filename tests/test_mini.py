"""The little world is whole, the same everywhere, and loads like any Hugging Face model."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from s1jax import mini
from s1jax.chat import CHATS, ChatTokenizer, render
from s1jax.config import Config, Data, Model
from s1jax.data.examples import load_examples
from s1jax.data.labels import check_labels, label_stats, tokenize
from s1jax.mini.tasks import TASKS, think, verify
from s1jax.types import UserError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return mini.build(tmp_path_factory.mktemp("world") / "deep" / "mini")


def contents(directory):
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_another_process_builds_the_same_bytes(world, tmp_path):
    program = (
        "import sys, pathlib; from s1jax import mini; mini.build(pathlib.Path(sys.argv[1]));"
        "assert 'jax' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    again = tmp_path / "again"
    subprocess.run([sys.executable, "-c", program, str(again)], check=True, env=environment)
    assert contents(again) == contents(world.data.parent)
    other = contents(mini.build(tmp_path / "other", seed=1).model)
    assert other["model.safetensors"] != contents(world.model)["model.safetensors"]


def test_transformers_loads_the_model(world):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, report = AutoModelForCausalLM.from_pretrained(world.model, output_loading_info=True)
    assert not any(report.values()), report
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert 300_000 < model.num_parameters() < 800_000
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert (model.model.norm.weight == 1).all()
    assert (model.model.layers[3].self_attn.k_proj.bias == 0).all()

    tokenizer = AutoTokenizer.from_pretrained(world.model)
    ours = ChatTokenizer.load(world.model)
    example = load_examples(Data(path=str(world.data)))[0]
    rendered = render(ours, CHATS["s1"], example)
    text = "".join(ours.decode_pieces(rendered.tokens))
    assert tokenizer(text).input_ids == rendered.tokens.tolist()
    assert tokenizer.decode(rendered.tokens) == text
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert model.generation_config.eos_token_id == [
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    ]
    assert ours.vocab_size <= model.config.vocab_size
    logits = model(torch.tensor(rendered.tokens[None].astype(np.int64))).logits
    assert logits.shape == (1, len(rendered.tokens), model.config.vocab_size)
    assert torch.isfinite(logits).all()


def test_digits_are_single_tokens(world):
    tokenizer = ChatTokenizer.load(world.model)
    [number] = tokenizer.encode(["1234567890"])
    assert tokenizer.decode_pieces(number.ids) == list("1234567890")
    [word] = tokenizer.encode(["smallest"])
    assert len(word.ids) < len("smallest")


def test_examples_fit_a_row_and_are_right(world):
    examples = load_examples(Data(path=str(world.data)))
    assert len(examples) == len({e.question for e in examples}) == 400
    assert [asdict(e) for e in examples] == [
        json.loads(line) for line in world.data.read_text().splitlines()
    ]
    assert all(verify(e.question, e.answer) for e in examples)
    assert 100 < sum("Wait" in e.thinking for e in examples) < 300
    tokenizer = ChatTokenizer.load(world.model)
    stats = label_stats(tokenize(examples, tokenizer, CHATS["s1"], 256))
    assert stats.truncated == 0
    check_labels(stats, 0)


@pytest.mark.parametrize("name", TASKS)
def test_the_verifier_knows_right_from_wrong(name):
    rng = np.random.default_rng(1)
    for _ in range(200):
        question = TASKS[name].ask(rng)
        thinking, answer = think(question, rng)
        assert re.fullmatch(TASKS[name].form, question)
        assert sum(bool(re.fullmatch(task.form, question)) for task in TASKS.values()) == 1
        assert verify(question, f" {answer}\n")
        assert not verify(question, answer + "1")
        assert not verify(question, "")
        assert thinking.count("Wait") <= thinking.count("\n") + 1
    assert not verify("What is 10 + 11?", "22")
    assert not verify("Sort these numbers: 12, 11.", "12, 11")
    assert verify("Which number times 4 is 20?", "5")


def test_an_error_in_the_thinking_is_always_taken_back(world):
    """Every equation that is not followed by a "Wait" holds."""
    wrong = 0
    for line in world.data.read_text().splitlines():
        thinking = json.loads(line)["thinking"]
        for left, right, after in re.findall(r"([\d x+]+) = (\d+)(\. Wait)?", thinking):
            holds = eval(left.replace("x", "*")) == int(right)
            assert holds != bool(after), thinking
            wrong += not holds
    assert wrong > 50


def test_what_is_whole_is_left_alone_and_what_is_damaged_is_rebuilt(tmp_path, monkeypatch):
    paths = mini.build(tmp_path / "mini")
    before = contents(tmp_path / "mini")
    stamp = paths.data.stat().st_mtime_ns
    assert mini.build(tmp_path / "mini") == paths
    assert paths.data.stat().st_mtime_ns == stamp

    with (paths.model / "model.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    mini.build(tmp_path / "mini")
    assert contents(tmp_path / "mini") == before

    paths.data.unlink()
    mini.build(tmp_path / "mini")
    assert contents(tmp_path / "mini") == before

    monkeypatch.setattr(mini, "VERSION", 99)
    mini.build(tmp_path / "mini")
    assert json.loads((tmp_path / "mini" / "mini.json").read_text())["version"] == 99
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


def test_a_config_that_says_mini_gets_its_files(tmp_path):
    cfg = Config(model=Model(path="mini"), data=Data(path="mine.jsonl"))
    resolved = mini.resolve(cfg, tmp_path / "mini")
    assert resolved == replace(cfg, model=Model(path=str(tmp_path / "mini" / "model")))
    both = mini.resolve(replace(cfg, data=Data(path="mini", split="x")), tmp_path / "mini")
    assert both.data == Data(path=str(tmp_path / "mini" / "examples.jsonl"), split="x")
    neither = Config(model=Model(path="a/b"), data=Data(path="mine.jsonl"))
    assert mini.resolve(neither, tmp_path / "unused") is neither
    assert not (tmp_path / "unused").exists()


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mini, "write_model", full)
    with pytest.raises(UserError, match="mini: cannot be written: No space left on device"):
        mini.build(tmp_path / "mini")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(UserError, match="is not empty"):
        mini.build(tmp_path)
    assert (tmp_path / "precious").read_text() == "data"
    (tmp_path / "empty").mkdir()
    assert mini.build(tmp_path / "empty").data.is_file()


def test_two_processes_may_build_at_once(tmp_path):
    program = "import sys, pathlib; from s1jax import mini; mini.build(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path / "mini")]
    builders = [subprocess.Popen(command) for _ in range(3)]
    assert [builder.wait() for builder in builders] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]
