"""The little world is true, the same everywhere, and loads like any Hugging Face model."""

import functools
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from itertools import islice, permutations
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from fakes_mini import (
    EVERY,
    NUMBERS,
    WORDS,
    about,
    answer_to,
    chances,
    misspoken,
    numbers_in,
    parted,
    runs_of,
    steps_to,
    untrue,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from s1jax import mini
from s1jax.chat import CHATS, render
from s1jax.config import Config, Data, Model
from s1jax.data.examples import load_examples
from s1jax.data.labels import check_labels, label_stats, tokenize
from s1jax.mini import pretraining
from s1jax.mini import texts as mini_texts
from s1jax.mini.pool import held_out, pool
from s1jax.mini.tasks import ANSWER, FAMILIES, difficulty, family, solve, steps, think, verify
from s1jax.mini.texts import texts
from s1jax.mini.thinking import AGAIN, STOPS
from s1jax.models.hf import open_checkpoint
from s1jax.models.weights import load_params
from s1jax.tokenizer import ChatTokenizer
from s1jax.types import UserError

families = pytest.mark.parametrize("name", FAMILIES)


def asked(name, count, seed=0):
    """Questions of a family."""
    rng = np.random.default_rng([seed, 77])
    return [FAMILIES[name].ask(rng) for _ in range(count)]


@functools.cache
def thought_of(name, stops):
    rng = np.random.default_rng(78)
    return [(question, *think(question, rng, stops)) for question in asked(name, 400)]


def thought(name, stops, count=200):
    """Questions of a family, each with its thinking and its answer."""
    return thought_of(name, stops)[:count]


# --- Questions and their answers ---


def test_the_families_are_five_and_their_shares_a_whole():
    assert list(FAMILIES) == ["search", "revision", "iteration", "paths", "totals"]
    assert sum(one.share for one in FAMILIES.values()) == pytest.approx(1)


@families
def test_a_family_has_many_questions_and_knows_them(name):
    # Of 10,000, all as likely, 4,000 draws would find so many; of less, or uneven ones, fewer.
    draws, enough = 4000, 10_000 * (1 - math.exp(-0.4))
    questions = asked(name, draws)
    assert len(set(questions)) > enough
    for question in questions[:300]:
        forms = [other for other, one in FAMILIES.items() if re.fullmatch(one.form, question)]
        assert forms == [name] == [family(question)]
    if name == "revision":  # the control: one of its lengths would not do
        rng = np.random.default_rng(0)
        few = {FAMILIES[name].ask(rng, range(3, 4)) for _ in range(draws)}
        assert len(few) < enough - 500


@pytest.mark.parametrize(
    "text", ["", "Sort three", "Reach two:", "Sort one two\n", "Go on", "Sort 1 2"]
)
def test_what_is_no_question_is_of_no_family(text):
    with pytest.raises(ValueError, match="is no question of the little world"):
        family(text)


@families
def test_thinking_solving_and_a_reference_find_the_same(name):
    lengths = Counter()
    for question, thinking, answer in thought(name, stops=0, count=400):
        assert answer_to(name, question) == solve(question) == answer
        taken = steps(question)
        assert steps_to(name, question) == difficulty(question) == len(taken)
        assert parted(thinking)[0][: len(taken)] == taken
        lengths[len(taken)] += 1
    assert len(lengths) >= 4  # easy ones and hard ones
    assert max(lengths.values()) < 320


@families
def test_the_verifier_takes_the_right_answer_and_no_other(name):
    for question in asked(name, 60):
        right = answer_to(name, question)
        assert verify(question, right) and verify(question, f" {ANSWER}{right}\n")
        words = right.split()
        others = {"", ANSWER, "?", right + " " + words[-1], right.replace(" ", ", ") + "."}
        others |= {" ".join(words[:-1]), " ".join(some) if (some := words[1:]) else "none"}
        for at, word in enumerate(words):
            for by in (1, -1, 10):
                other = chr(ord(word) + by) if name == "paths" else shifted(word, by)
                others.add(" ".join([*words[:at], other, *words[at + 1 :]]))
        orders = {" ".join(some) for some in islice(permutations(words), 50)}
        for other in (others | orders) - {right}:
            assert not verify(question, other), (question, other)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(list(FAMILIES)), st.integers(0, 10**6), st.text() | st.integers())
def test_the_verifier_takes_no_text_for_an_answer(name, seed, text):
    [question] = asked(name, 1, seed)
    words, right = str(text).split(), answer_to(name, question).split()
    assert verify(question, str(text)) == (words == right and str(text).strip() == " ".join(right))


# --- Thinking ---


def shifted(word, by=1):
    """Another number."""
    return list(NUMBERS)[(NUMBERS[word] + by) % len(NUMBERS)]


def changed(step, rng):
    """A step with another number, letter or word in one place."""
    words = re.findall(r"\d+|[a-z]+|[A-Z]|[^\w]", step)
    at = int(rng.choice([at for at, word in enumerate(words) if word != " "]))
    word = words[at]
    if word in NUMBERS:
        words[at] = shifted(word)
    elif len(word) == 1:
        words[at] = chr(ord(word) + 1)
    else:
        words[at] = {"yes": "no", "no": "yes"}.get(word, "perhaps")
    return "".join(words)


@families
def test_every_step_is_true_and_follows_from_the_one_before(name):
    rng = np.random.default_rng(3)
    for stops in (0, STOPS):
        for question, thinking, _ in thought(name, stops):
            taken, _ = parted(thinking)
            assert list(untrue(name, question, taken)) == [], (question, thinking)
            # The controls: a step that says something else, and one that is left out.
            at = int(rng.integers(len(taken)))
            spoilt = [*taken[:at], changed(taken[at], rng), *taken[at + 1 :]]
            assert list(untrue(name, question, spoilt)), (question, spoilt)
            if len(set(taken)) == len(taken) > at + 1:
                assert list(untrue(name, question, taken[:at] + taken[at + 1 :])), (question, at)


@families
def test_words_are_said_where_a_thinker_could_have_stopped_and_only_there(name):
    said = Counter()
    for stops in (0, 0.3, STOPS):
        for question, thinking, _ in thought(name, stops):
            assert list(misspoken(name, question, thinking)) == [], (question, thinking)
            said.update(word for word in parted(thinking)[1] if word)
            if "\n\n" in thinking:  # the control
                more = thinking.replace("\n\n", "\nPerhaps\n\n", 1)
                assert list(misspoken(name, question, more))
    assert set(said) == set(WORDS) == set(AGAIN)
    for word, share in AGAIN.items():
        assert about(said[word], share, said.total()), (word, said)
    assert not about(said["Hmm"], AGAIN["Wait"], said.total())


@families
def test_a_thinker_gives_up_as_often_as_it_is_told(name):
    for stops in (0, 0.3, STOPS, 0.9):
        met = given_up = 0
        for question, thinking, answer in thought(name, stops, count=400):
            taken, _ = parted(thinking)
            needed, could = steps_to(name, question), chances(name, question)
            ended = len(taken) >= needed
            met += could if ended else len(taken) // EVERY[name]
            given_up += not ended
            assert ended or could
            assert not ended or verify(question, answer)
        assert (met > 0) == (name in ("search", "revision", "iteration"))
        if not (stops and met):
            assert given_up == 0
        else:
            assert about(given_up, stops, met), (stops, given_up, met)
            assert not about(given_up, stops / 2, met)  # the measure tells them apart


def test_who_gives_up_answers_with_what_there_is():
    for question, thinking, answer in thought("search", 0.9):
        taken, _ = parted(thinking)
        tried, [target, *numbers] = len(taken), numbers_in(question)
        gave_up = taken[-1].endswith("no")
        assert verify(question, answer) != gave_up
        assert (sum(numbers_in(answer)) == target) != gave_up
        if gave_up:
            assert numbers_in(answer) == numbers[tried - 1 : tried + 1]
    for question, thinking, answer in thought("iteration", 0.9):
        assert answer == parted(thinking)[0][-1].removeprefix("pass ")
        assert verify(question, answer) == (len(parted(thinking)[0]) >= difficulty(question))
    for question, thinking, answer in thought("revision", 0.9):
        columns = numbers_in(parted(thinking)[0][-1])
        assert numbers_in(answer) == [column % 10 for column in columns]
        assert verify(question, answer) == (max(columns) < 10)


# --- What the base model reads ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return mini.build(tmp_path_factory.mktemp("world") / "deep" / "mini")


@functools.cache
def read_texts():
    return list(islice(texts(1), 3000))


def test_texts_are_single_steps_and_lists():
    read = read_texts()
    kinds, alone, ordered, three = Counter(), 0, 0, 0
    for text in read:
        assert not re.search(rf"{'|'.join(WORDS)}|nswer|<\||think|user", text), text
        question, *pieces = re.split(r"(?<!\n)\n(?!\n)", text)
        if question.startswith("list "):
            assert pieces == [question] * 2 and 4 <= len(question.split()) - 1 <= 11
            kinds["list"] += 1
            continue
        name = family(question)
        kinds[name] += 1
        assert steps_to(name, question) >= 3
        whole = steps(question, looks_again=True)
        assert list(untrue(name, question, whole)) == []
        assert len(pieces) == min(len(whole), 3 if name in ("revision", "iteration") else 4)
        ends = []
        for piece in pieces:
            some = piece.split("\n\n")
            places = [at for at in range(len(whole)) if whole[max(at - 1, 0) : at + 1] == some]
            assert places, text
            ends.append(places[-1])
            alone += len(some) == 1
        assert len(set(ends)) == len(ends)  # no step twice
        three += len(ends) == 3
        ordered += len(ends) == 3 and ends == sorted(ends)
        assert "\n\n".join(whole[:3]) not in text
    assert about(kinds["list"], 0.1, len(read))
    turns = {name: 1 if name == "paths" else 2 for name in FAMILIES}
    assert all(about(kinds[name], 0.9 * turns[name] / 9, len(read)) for name in FAMILIES)
    assert alone > 300
    assert about(ordered, 1 / 6, three)  # in no order
    assert list(islice(texts(1), 100)) == read[:100] != list(islice(texts(2), 100))


def test_texts_hold_no_held_out_question(monkeypatch):
    def asked_in(read):
        return {text.partition("\n")[0] for text in read if not text.startswith("list ")}

    assert asked_in(read_texts()).isdisjoint(held_out())
    # The control: what is there otherwise is not, once it is held out.
    there = asked_in(read_texts()[:200])
    monkeypatch.setattr(mini_texts, "held_out", lambda: tuple(there))
    assert len(there) > 100 and asked_in(islice(texts(1), 400)).isdisjoint(there)


def test_another_process_writes_the_same_bytes(tmp_path, world):
    program = (
        "import hashlib, sys; from itertools import islice; from pathlib import Path;"
        "from s1jax import mini; from s1jax.mini.pool import held_out, pool;"
        "from s1jax.mini.texts import texts;"
        "data = mini.build(Path(sys.argv[1])).data.read_bytes();"
        "made = repr((pool(), held_out(), list(islice(texts(1), 500)))).encode() + data;"
        "print(hashlib.sha256(made).hexdigest());"
        "assert 'jax' not in sys.modules and 'tokenizers' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "there")],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        check=True,
        capture_output=True,
        text=True,
    )

    questions, data = pool(), world.data.read_bytes()

    def here(seed):
        made = repr((questions, held_out(), list(islice(texts(seed), 500)))).encode() + data
        return hashlib.sha256(made).hexdigest()

    assert done.stdout.strip() == here(1) != here(2)


# --- The base model and its tokenizer ---


@pytest.fixture(scope="module")
def tokenizer():
    return ChatTokenizer.load(mini.BASE)


def test_words_and_numbers_of_the_world_are_single_tokens(tokenizer):
    written = {f" {name}" for name in NUMBERS} | {":", "\n", "\n\n"}
    written |= {f" {letter}" for letter in "abcdefghijklABCDEFGHIJKL"}
    for name in FAMILIES:
        for question, thinking, answer in thought(name, 0.3, count=60):
            text = f"{question}\n{thinking}\n{ANSWER}{answer}"
            written |= set(re.findall(r"[ :]?[A-Za-z]+|:$", text))
    split = [word for word in sorted(written) if len(tokenizer.encode([word])[0].ids) != 1]
    assert split == [] and len(written) > 80
    for other in (" 10", " Alternatively", " elephant"):  # the controls
        assert len(tokenizer.encode([other])[0].ids) > 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text):
    tokenizer = ChatTokenizer.load(mini.BASE)
    [encoding] = tokenizer.encode([text])
    assert tokenizer.text.decode(encoding.ids) == text


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The directory of a pre-training that has not begun: start/ and texts.jsonl."""
    directory = tmp_path_factory.mktemp("pretraining")
    pretraining.write(directory, count=20)
    return directory


def test_pretraining_writes_what_is_read(pretrained):
    rows = [json.loads(line) for line in (pretrained / "texts.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == list(islice(texts(1), 20))
    read = load_examples(Data(path=str(pretrained / "texts.jsonl")), texts=True)
    assert [example.answer for example in read] == [row["text"] for row in rows]


def test_pretraining_begins_with_the_tokenizer_of_the_base(pretrained, tokenizer):
    start = ChatTokenizer.load(pretrained / "start")
    assert start.hf.get_vocab() == tokenizer.hf.get_vocab()
    assert start.template == tokenizer.template and start.controls == tokenizer.controls
    ours, theirs = (
        json.loads((path / "tokenizer.json").read_text())["model"]["merges"]
        for path in (pretrained / "start", mini.BASE)
    )
    assert ours == theirs
    shapes, base = (
        {name: tensor.shape for name, tensor in open_checkpoint(str(path)).tensors.items()}
        for path in (pretrained / "start", mini.BASE)
    )
    assert shapes == base and len(shapes) > 40


def test_transformers_splits_all_that_is_written_as_a_new_tokenizer_does(pretrained, tmp_path):
    from transformers import AutoTokenizer

    def ours(directory):
        return [encoding.ids for encoding in ChatTokenizer.load(directory).encode(written)]

    written = read_texts()[:200]
    for name in FAMILIES:
        for question, thinking, answer in thought(name, STOPS, count=60):
            written += [question, thinking, f"{question}\n{thinking}\n{ANSWER}{answer}"]
    theirs = AutoTokenizer.from_pretrained(pretrained / "start")(written).input_ids
    assert theirs == ours(pretrained / "start")
    # The control: it takes Qwen2's own split, so files that say another one are read differently.
    shutil.copytree(pretrained / "start", tmp_path / "start")
    file = tmp_path / "start" / "tokenizer.json"
    saved = json.loads(file.read_text())
    saved["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "[a-z]+"}
    file.write_text(json.dumps(saved))
    assert theirs != ours(tmp_path / "start")


def test_transformers_reads_the_base_as_we_do(tokenizer):
    import torch
    from fakes_torch import one_device, our_logits, their_logits, worst
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, report = AutoModelForCausalLM.from_pretrained(mini.base(), output_loading_info=True)
    assert not any(report.values()), report
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert 500_000 < model.num_parameters() < 2_000_000
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}

    # Which takes Qwen2's own class for a model of its kind, and so its split, whatever files say.
    theirs = AutoTokenizer.from_pretrained(mini.BASE)
    for example in mini.make_examples(0, 50):
        rendered = render(tokenizer, CHATS["s1"], example)
        text = "".join(tokenizer.decode_pieces(rendered.tokens))
        assert theirs(text).input_ids == rendered.tokens.tolist()
        assert theirs.decode(rendered.tokens) == text
    assert "You are Qwen" not in text  # which would be the longest part of every prompt
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    stops = [theirs.eos_token_id, theirs.pad_token_id]
    assert model.generation_config.eos_token_id == stops
    assert tokenizer.vocab_size <= model.config.vocab_size

    checkpoint = open_checkpoint(str(mini.BASE))
    params = load_params(checkpoint, one_device(), jnp.float32)
    ids = rendered.tokens[None]
    positions = np.arange(ids.shape[1], dtype=np.int32)[None]
    expected = their_logits(model.eval(), ids, positions)
    ours = our_logits(checkpoint.cfg, params, ids, positions)
    size = max(1.0, float(np.abs(expected).max()))
    assert worst(ours, expected) < 1e-4 * size
    shifted = our_logits(checkpoint.cfg, params, np.roll(ids, 1), positions)
    assert worst(shifted, expected) > 0.1 * size  # the control


def _base_in(directory: Path) -> Path:
    """`mini.base()`, if it lay in another directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini, "BASE", directory)
        return mini.base()


def test_a_damaged_base_is_refused(tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(mini.BASE, copy)
    assert _base_in(copy) == copy
    weights = copy / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    told = r"model.safetensors: is damaged \(sha256 [0-9a-f]{16}\.\.\.\): install s1jax again"
    with pytest.raises(UserError, match=told):
        _base_in(copy)
    weights.unlink()
    told = r"model.safetensors: cannot be read \(No such file or directory\): install s1jax"
    with pytest.raises(UserError, match=told):
        _base_in(copy)


# --- Its examples ---


def test_examples_are_thinkings_of_the_teacher(world, tokenizer):
    examples = load_examples(Data(path=str(world.data)))
    assert len(examples) == len({e.question for e in examples}) == mini.EXAMPLES == 1000
    assert [asdict(e) for e in examples] == [
        json.loads(line) for line in world.data.read_text().splitlines()
    ]
    assert mini.make_examples(0, 50) == mini.make_examples(0, 50) != mini.make_examples(1, 50)
    forbidden = {run for text in held_out() for run in runs_of(text)}
    assert all(forbidden.isdisjoint(runs_of(example.question)) for example in examples)
    counts = Counter(family(e.question) for e in examples)
    assert all(about(counts[name], one.share, 1000) for name, one in FAMILIES.items())
    whole, expected, variance = 0, 0.0, 0.0
    for example in examples:
        name = family(example.question)
        taken, _ = parted(example.thinking)
        assert list(untrue(name, example.question, taken)) == []
        assert example.answer.startswith(ANSWER)
        ended = len(taken) >= steps_to(name, example.question)
        assert verify(example.question, example.answer) or not ended
        whole += ended
        share = (1 - STOPS) ** chances(name, example.question)
        expected, variance = expected + share, variance + share * (1 - share)
    assert abs(whole - expected) < 4 * variance**0.5
    assert 0.5 * len(examples) < whole < 0.95 * len(examples)
    stats = label_stats(tokenize(examples, tokenizer, CHATS["s1"], 512))
    assert stats.truncated == 0
    check_labels(stats, 0)


def test_examples_would_share_words_with_held_out_questions_by_chance(monkeypatch):
    monkeypatch.setattr(mini, "held_out", lambda: ())
    forbidden = {run for text in held_out() for run in runs_of(text)}
    examples = mini.make_examples(0)
    assert not all(forbidden.isdisjoint(runs_of(example.question)) for example in examples)


def test_what_is_whole_is_left_alone_and_what_is_damaged_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(mini, "make_examples", functools.cache(mini.make_examples))
    data = mini.build(tmp_path).data
    before, stamp = data.read_bytes(), data.stat().st_mtime_ns
    assert mini.build(tmp_path) == mini.MiniPaths(mini.BASE, data)
    assert data.stat().st_mtime_ns == stamp
    for damaged in (before[:-30], b"\xff\xfe" + before, b""):
        data.write_bytes(damaged)
        mini.build(tmp_path)
        assert data.read_bytes() == before
    data.unlink()
    mini.build(tmp_path)
    assert data.read_bytes() == before
    assert list(tmp_path.iterdir()) == [data]


def test_a_config_that_says_mini_gets_its_files(tmp_path):
    cfg = Config(model=Model(path="mini"), data=Data(path="mine.jsonl"))
    resolved = mini.resolve(cfg, tmp_path / "unused")
    assert resolved == replace(cfg, model=Model(path=str(mini.BASE))) == mini.resolve_model(cfg)
    both = mini.resolve(replace(cfg, data=Data(path="mini", split="x")), tmp_path / "mini")
    assert both.data == Data(path=str(tmp_path / "mini" / "examples.jsonl"), split="x")
    assert both.model == resolved.model
    neither = Config(model=Model(path="a/b"), data=Data(path="mine.jsonl"))
    assert mini.resolve(neither, tmp_path / "unused") is neither
    assert mini.resolve_model(neither) is neither
    assert not (tmp_path / "unused").exists()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert mini.cache_directory() == tmp_path / "s1jax" / "mini"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert mini.cache_directory() == Path.home() / ".cache" / "s1jax" / "mini"


def test_examples_that_cannot_be_written_leave_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"jsonl: cannot be written: No space left on device"):
        mini.build(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="cannot be written"):
        mini.build(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_several_processes_may_write_at_once(tmp_path, world):
    program = "import sys, pathlib; from s1jax import mini; mini.build(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path / "mini")]
    builders = [subprocess.Popen(command) for _ in range(3)]
    assert [builder.wait() for builder in builders] == [0, 0, 0]
    assert [path.name for path in (tmp_path / "mini").iterdir()] == ["examples.jsonl"]
    text = (tmp_path / "mini" / "examples.jsonl").read_bytes()
    assert text == world.data.read_bytes()
