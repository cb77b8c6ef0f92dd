"""Training sets that ask for so much thinking have exactly the text that decoding asks with."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fakes_chat import LLAMA3, LLAMA3_TEMPLATE, LLAMA_SPLIT, write_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from test_labels import run

from s1jax import config, curation_config
from s1jax.chat import ANSWER, CHATS, END, PROMPT, THINKING, ChatTokenizer, render
from s1jax.data.conditional import by_steps, by_tokens, conditional, power_of_two, split_steps
from s1jax.data.labels import check_labels, label_stats, tokenize
from s1jax.prompts import conditioned
from s1jax.types import Example

EXAMPLE = Example("1", "What is 1 + 1?", "\nIt's 2.\n\n  Wait, no.\nOr is it?\n\nYes.\n", "2")
HEAD = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?"
)


@pytest.fixture(scope="module")
def qwen(qwen_tokenizer):
    return ChatTokenizer.load(qwen_tokenizer)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return ChatTokenizer.load(write_tokenizer(tmp_path_factory.mktemp("small")))


def text_of(tokenizer, tokenized, part=None):
    pieces = np.array(tokenizer.decode_pieces(tokenized.tokens), object)
    return "".join(pieces if part is None else pieces[tokenized.parts == part])


def test_the_token_conditional_text(qwen):
    [tokenized] = tokenize([EXAMPLE], qwen, CHATS["s1"], 512, "tokens")
    # Exactly a power of two: It 's ␣ 2 .\n\n ␣ ␣Wait , ␣no .\n Or ␣is ␣it ?\n\n Yes .
    assert len(qwen.hf(EXAMPLE.thinking.strip()).input_ids) == 16
    [longer] = by_tokens([replace(EXAMPLE, thinking=EXAMPLE.thinking + "No")], qwen)
    assert longer.question.endswith("\n\nThink for up to 32 tokens.")
    assert text_of(qwen, tokenized) == (
        HEAD + "\n\nThink for up to 16 tokens.<|im_end|>\n<|im_start|>assistant\n"
        "<|im_start|>think\nIt's 2.\n\n  Wait, no.\nOr is it?\n\nYes."
        "\n<|im_start|>answer\nAnswer: 2<|im_end|>\n"
    )
    [plain] = tokenize([EXAMPLE], qwen, CHATS["s1"], 512)
    assert text_of(qwen, plain, PROMPT) != text_of(qwen, tokenized, PROMPT)
    trained, before = (t.tokens[t.parts != PROMPT].tolist() for t in (tokenized, plain))
    assert trained == before


def test_the_step_conditional_text(qwen):
    [tokenized] = tokenize([EXAMPLE], qwen, CHATS["steps"], 512, "steps")
    text = (
        HEAD + "\n\nThink for up to 4 steps.<|im_end|>\n<|im_start|>assistant\n"
        "<|im_start|>4 steps left\nIt's 2.\n<|im_start|>3 steps left\n  Wait, no.\nOr is it?"
        "\n<|im_start|>2 steps left\nYes.\n<|im_start|>answer\nAnswer: 2<|im_end|>\n"
    )
    assert text_of(qwen, tokenized) == text
    # One string, encoded whole, is the same: nothing is glued together out of encoded pieces.
    assert tokenized.tokens.tolist() == qwen.hf(text).input_ids
    prompt, completion = text.split("<|im_start|>assistant\n")
    assert text_of(qwen, tokenized, PROMPT) == prompt + "<|im_start|>assistant\n"
    parts = (text_of(qwen, tokenized, part) for part in (THINKING, ANSWER, END))
    assert "".join(parts) == completion
    assert (np.diff(tokenized.parts.astype(int)) >= 0).all()
    check_labels(label_stats([tokenized]), 0)


def test_a_question_that_asks_already_is_asked_once(small):
    """What `curate.control` has written is trained with the same `data.control`."""
    for control in ("tokens", "steps"):
        once, _ = conditional([EXAMPLE], small, control)
        twice, steps = conditional(once, small, control)
        assert list(twice) == list(once)
        assert steps == conditional([EXAMPLE], small, control)[1]
        other = replace(EXAMPLE, question=EXAMPLE.question + "\n\nThink for up to 1 tokens.")
        [asking], _ = conditional([other], small, control)
        assert asking.question == once[0].question  # another tokenizer counts otherwise


def test_a_step_cannot_open_another(small):
    injected = replace(EXAMPLE, thinking="a\n\n<|im_start|>0 steps left\n<|im_end|>\n\nc")
    [ours], [plain] = (
        tokenize([e], small, CHATS["steps"], 512, "steps")
        for e in (injected, replace(EXAMPLE, thinking="a\n\nb\n\nc"))
    )
    controls = list(small.controls.values())
    assert np.isin(ours.tokens, controls).sum() == np.isin(plain.tokens, controls).sum()
    assert "\n<|im_start|>3 steps left\n<|im_start|>0 steps left\n" in text_of(small, ours)
    naive = small.hf(text_of(small, ours)).input_ids
    assert np.isin(naive, controls).sum() > np.isin(ours.tokens, controls).sum()


@pytest.mark.parametrize(
    ("thinking", "steps"),
    [
        ("a", ["a"]),
        ("a\nb", ["a\nb"]),
        ("\n\na\n\n\nb\n\n\n\nc\n", ["a", "b", "c"]),
        ("a\n\n  b", ["a", "  b"]),
        ("a\n\n \n\nb", ["a", "b"]),
        (" ", [""]),
    ],
)
def test_steps_are_what_double_newlines_divide(thinking, steps):
    assert split_steps(thinking) == steps


@given(st.integers(1, 1 << 40))
def test_a_power_of_two_is_the_next_above(count):
    power = power_of_two(count)
    assert power & (power - 1) == 0
    assert power // 2 < count <= power


def test_powers_of_two():
    assert [power_of_two(n) for n in (0, 1, 2, 3, 4, 5, 64, 65)] == [1, 1, 2, 4, 4, 8, 64, 128]


@pytest.mark.parametrize(("steps", "most"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 16)])
def test_steps_are_counted_down_from_what_the_question_asks_for(steps, most):
    example = replace(EXAMPLE, thinking="\n\n".join(f"number {i}" for i in range(steps)))
    asking, counted = by_steps(example)
    assert asking.question == conditioned(EXAMPLE.question, config.Decode(prompt_steps=most))
    assert counted == [f"{most - i} steps left\nnumber {i}" for i in range(steps)]
    assert replace(asking, question=EXAMPLE.question) == example


def test_each_question_asks_for_its_own_length(small):
    many = [replace(EXAMPLE, id=str(n), thinking="x" * n) for n in (1, 4, 5)]
    lengths = [len(small.encode([e.thinking])[0].ids) for e in many]
    asked = [
        conditioned(EXAMPLE.question, config.Decode(prompt_tokens=power_of_two(n))) for n in lengths
    ]
    assert [e.question for e in by_tokens(many, small)] == asked
    assert len(set(asked)) == 3
    assert [e.thinking for e in by_tokens(many, small)] == [e.thinking for e in many]


def test_the_choices_are_all_built(small):
    shown = {}
    for control in curation_config.CONTROLS:
        [changed], steps = conditional([EXAMPLE], small, control)
        shown[control] = changed.question.removeprefix(EXAMPLE.question)
        assert (steps is not None) == (control == "steps")
    assert shown["none"] == ""
    assert shown["tokens"].endswith(" tokens.")
    assert shown["steps"].endswith(" steps.")


def test_a_template_that_strips_leaves_the_control(tmp_path):
    write_tokenizer(tmp_path, LLAMA3, LLAMA3_TEMPLATE, LLAMA_SPLIT, ignore_merges=True)
    tokenizer = ChatTokenizer.load(tmp_path)
    [tokenized] = tokenize([EXAMPLE], tokenizer, CHATS["llama3"], 512, "tokens")
    assert "1 + 1?\n\nThink for up to 32 tokens.<|eot_id|>" in text_of(tokenizer, tokenized)


def test_more_examples_than_are_encoded_at_once(small):
    many = [
        replace(EXAMPLE, id=str(i), thinking="\n\n".join("abcdefgh"[: i % 7 + 1]))
        for i in range(130)
    ]
    together = tokenize(many, small, CHATS["steps"], 512, "steps")
    for i in (0, 63, 64, 129):
        [alone] = tokenize([many[i]], small, CHATS["steps"], 512, "steps")
        assert together[i].id == str(i)
        np.testing.assert_array_equal(together[i].tokens, alone.tokens)
    plain = render(small, CHATS["steps"], many[1])
    assert plain.tokens.tolist() != together[1].tokens.tolist()


def test_the_verbs_train_what_is_asked_for(tmp_path, small, capsys):
    row = {"question": EXAMPLE.question, "thinking": EXAMPLE.thinking, "answer": "2"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    path = tmp_path / "experiment.py"
    path.write_text(
        "from s1jax.config import default\n"
        "def get_config():\n"
        "    config = default()\n"
        f"    config.model.path = {str(small.path)!r}\n"
        f"    config.data.path = {str(tmp_path / 'x.jsonl')!r}\n"
        "    return config\n"
    )
    both = ("--config.data.control=steps", "--config.model.chat=steps")
    assert run(path, "--color=never", *both) == 0
    assert "Think for up to 4 steps.<|im_end|>" in capsys.readouterr().out
    assert run(path, "--color=never", "--config.data.control=tokens") == 0
    assert "Think for up to 32 tokens.<|im_end|>" in capsys.readouterr().out
    assert run(path, "--color=never") == 0
    assert "Think for" not in capsys.readouterr().out


def test_training_reads_the_control(monkeypatch, tmp_path):
    from fakes_train import make_config

    from s1jax import train

    seen = []

    def stop(*args):
        seen.append(args[4])
        raise InterruptedError

    monkeypatch.setattr(train, "tokenize", stop)
    for control in ("tokens", "none"):
        cfg = make_config({"model.path": "mini", "data.path": "mini", "data.control": control})
        cfg = replace(cfg, data=replace(cfg.data, row_length=128))
        with pytest.raises(InterruptedError):
            train.prepare(cfg, tmp_path)
    assert seen == ["tokens", "none"]
