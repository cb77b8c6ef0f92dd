"""The verb: what it shows, what it writes, how it goes on, and all that it refuses."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fakes_chat
import fakes_hf
import jax
import numpy as np
import pytest
from fakes_script import ENDLESS, config_file, script_config, write_script
from fakes_train import environment

from s1jax import asking, cli, convert, generate
from s1jax.chat import ChatTokenizer
from s1jax.decoding.budget import ANSWER, CLOSED, INSERTED, NOTHING, THOUGHT, Rules
from s1jax.decoding.record import History, Output, Request
from s1jax.generate import Asked
from s1jax.generations import (
    Generation,
    GenerationsFile,
    Prompt,
    differences,
    made_with,
    read_prompts,
)
from s1jax.models import load
from s1jax.stream import Stream
from s1jax.types import UserError

ROOT = Path(__file__).resolve().parent.parent
START, CLOSE, FORCED = (
    "<|im_start|>think",
    "<|im_start|>answer",
    "\n<|im_start|>answer\nFinal Answer:",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_script(tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> Path:
    return write_script(tmp_path_factory.mktemp("endless"), ENDLESS)


def run(path, asked, **fields):
    """The exit code of the verb on one device."""
    return generate.generate(script_config(path, **fields), asked, jax.devices()[:1])


def shown(path, capsys, *, prompt="What?", colour=False, **fields):
    assert run(path, Asked(prompt, colour=colour), **fields) == 0
    return capsys.readouterr().out


def write_prompts(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path):
    """The lines of a file of generations by prompt and sample."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {(line["id"], line["sample"]): line for line in lines}
    assert len(found) == len(lines)
    return found


# --- On the screen ---


def test_a_prompt_is_answered_and_its_record_told(model, capsys):
    assert shown(model, capsys) == (
        f"«thinking»\ngo é;«closing»{CLOSE}«answer»12\n"
        "[thinking: 6 tokens of at most 40; ended by itself; answer: 2 tokens, stop]\n"
    )


def test_ends_are_ignored_where_it_is_asked(model, capsys):
    out = shown(model, capsys, decode__ignore_ends=2)
    assert out == (
        f"«thinking»\ngo é;«inserted»Wait«thinking»34«inserted»Wait«thinking»34«closing»{CLOSE}"
        "«answer»12\n[thinking: 14 tokens of at most 40; 2 of 2 ends ignored (after 6, 10 tokens);"
        " ended by itself; answer: 2 tokens, stop]\n"
    )


def test_what_never_ends_is_cut_by_its_budget(endless, capsys):
    out = shown(endless, capsys, decode__max_thinking_tokens=6)
    assert out == (
        f"«thinking»\ngo.go.go«closing»{FORCED}«answer»98\n"
        "[thinking: 6 tokens of at most 6; ended by the budget; answer: 2 tokens, stop]\n"
    )


def test_a_character_cut_by_the_budget_is_thinking(model, capsys):
    out = shown(model, capsys, decode__max_thinking_tokens=4)
    assert out.startswith(f"«thinking»\ngo �«closing»{FORCED}«answer»98\n")


def test_colours_mark_the_parts(model, capsys):
    out = shown(model, capsys, colour=True, decode__ignore_ends=1)
    assert "\033[33mWait\033[0m" in out
    assert "\033[2m34\033[0m" in out
    assert f"\033[1;35m{CLOSE}\033[0m12\n" in out
    assert "«" not in out
    assert re.sub("\033\\[[0-9;]*m", "", out).startswith(f"\ngo é;Wait34{CLOSE}12\n[thinking")


def test_text_is_shown_while_it_is_made(endless, capsys, monkeypatch):
    seen = []
    watch = generate._Screen.watch

    def watching(self, *args):
        watch(self, *args)
        seen.append(capsys.readouterr().out)

    monkeypatch.setattr(generate._Screen, "watch", watching)
    shown(endless, capsys)
    assert len(seen) >= 5  # segments of 8 steps
    assert seen[0] == "«thinking»\ngo.go.go.go"
    assert seen[1] == ".go.go.go.go"


def test_several_samples_are_shown_in_turn_and_vote(model, capsys):
    out = shown(model, capsys, decode__samples=3, decode__temperature=0.5)
    blocks = re.findall(r"--- sample (\d) of 3 ---\n«thinking»\ngo é;.*?«answer»12\n\[", out, re.S)
    assert blocks == ["1", "2", "3"]
    assert out.endswith("\n\nmajority, 3 of 3: 12\n")


def test_rejected_tries_are_shown_and_counted(model, capsys):
    asked = {"decode__temperature": 0.5, "decode__rejection_tries": 2}
    out = shown(model, capsys, decode__max_thinking_tokens=6, **asked)
    assert out.count("[rejected: the next try]") == 1
    assert out.endswith("of at most 6; try 2; too long, rejected: no answer]\n")
    forced = {"decode__rejection_force_last": True, "decode__max_thinking_tokens": 6}
    out = shown(model, capsys, **forced, **asked)
    assert out.endswith("of at most 6; ended by the budget; try 2; answer: 2 tokens, stop]\n")
    out = shown(model, capsys, decode__max_thinking_tokens=7, **asked)
    assert out.endswith("of at most 7; ended by itself; try 1; answer: 2 tokens, stop]\n")


def test_an_answer_alone(model, capsys):
    out = shown(model, capsys, decode__thinking=False, decode__max_answer_tokens=3)
    assert out.startswith("«answer»")
    assert out.endswith("\n[answer: 3 tokens, cut at its budget]\n")


def test_what_ended_thinking_and_answer_is_told():
    rules = Rules(9, 4, force=(7,), force_newline=(7,), accounting="evaluator")
    rules = replace(rules, max_written_tokens=3)
    asked, kinds = Request("p/0", (1,), rules), (THOUGHT, THOUGHT, CLOSED, ANSWER)
    output = Output(asked, (2, 3, 7, 4), kinds, (), True, "length")
    assert output.thinking_ended == "budget"
    assert replace(output, forced=False).thinking_ended == "itself"
    longer = replace(output, tokens=(2, 2, *output.tokens[1:]), kinds=(THOUGHT, *kinds))
    assert longer.thinking_ended == "context"
    silent = replace(output, request=replace(asked, rules=replace(rules, thinking=False)))
    assert silent.thinking_ended is None

    one = Generation(
        "p", 0, "", "", "", "", "evaluator", 9, 0, 4, 3, 1, 0, (), "context", "", "length", 0
    )
    cut = "cut where the context ends"
    assert generate.describe(one) == (
        f"thinking: 3 tokens of at most 9 in each round; {cut}; answer: 1 tokens, {cut}"
    )
    other = replace(one, parity="readme", thinking_ended="budget", answer_tokens=4)
    assert generate.describe(other) == (
        "thinking: 3 tokens of at most 9 besides the inserted strings; ended by the budget;"
        " answer: 4 tokens, cut at its budget"
    )


def test_a_chat_answers_each_line_by_itself(model, monkeypatch, capsys):
    lines = iter(["What?", "", "x" * 2000, "What?", " exit "])
    monkeypatch.setattr("builtins.input", lambda sign: next(lines))
    assert run(model, Asked()) == 0
    out, err = capsys.readouterr()
    first, second = out.split("stop]\n")[:2]
    assert first == second
    assert first.startswith("«thinking»\ngo é;")
    assert out.count("stop]\n") == 2
    assert re.fullmatch(r"error: this question has \d+ tokens, .* context of 512\n", err)


def test_the_end_of_the_input_ends_a_chat(model, monkeypatch):
    def ends(sign):
        raise EOFError

    monkeypatch.setattr("builtins.input", ends)
    assert run(model, Asked()) == 0


# --- A stream takes nothing back ---


def history(*steps):
    token, kind, back = zip(*[(*step, 0)[:3] for step in steps], strict=True)
    arrays = (np.array(x, np.int32) for x in (token, kind, back, [0] * len(steps)))
    return History(*arrays)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return ChatTokenizer.load(fakes_chat.write_tokenizer(tmp_path_factory.mktemp("stream")))


def stream(tokenizer, *ends):
    rules = Rules(9, 9, ends=ends, stops=ends)
    return Stream(tokenizer, rules, colour=False)


def test_what_may_be_taken_back_is_held_back(tokenizer):
    a, b, c, d = (tokenizer.encode([x])[0].ids[0] for x in "abcd")
    its = stream(tokenizer, (b, c), (a, b, d))
    assert its.feed(history((a, THOUGHT))) == ""
    assert its.feed(history((b, THOUGHT))) == ""
    assert its.feed(history((a, THOUGHT))) == "«thinking»a"
    # The end (b, c) is complete: b goes, and a string comes in place of both.
    assert its.feed(history((b, THOUGHT), (d, INSERTED, 1), (d, INSERTED))) == "ba"
    assert its.feed(history((c, CLOSED), (c, ANSWER))) == "«inserted»dd"
    assert its.feed(history((0, NOTHING), (0, NOTHING))) == ""
    assert its.rest() == "«closing»c«answer»c"


def test_a_character_appears_with_its_last_token(tokenizer):
    ids = tokenizer.encode(["漢é"])[0].ids
    assert len(ids) == 5
    its = stream(tokenizer)
    parts = [its.feed(history((i, THOUGHT))) for i in ids]
    assert parts == ["", "", "«thinking»漢", "", "é"]
    its = stream(tokenizer)
    parts = [its.feed(history((i, THOUGHT))) for i in ids[:2]]
    assert [*parts, its.feed(history((ids[4], CLOSED)))] == ["", "", "«thinking»�"]
    assert its.rest() == "«closing»�"


def test_no_text_steers_the_terminal(tokenizer):
    ids = tokenizer.encode(["a\x1b[2J\x07\tb\nc\x9b"])[0].ids
    its = stream(tokenizer)
    out = its.feed(history(*((i, ANSWER) for i in ids))) + its.rest()
    assert out == "«answer»a␛[2J␇\tb\nc�"


# --- Files ---


def test_a_file_of_prompts_becomes_a_file_of_generations(model, tmp_path, capsys):
    prompts = write_prompts(
        tmp_path / "in.jsonl",
        {"prompt": "What?"},
        {"question": "Why?", "id": "q", "ignore_ends": 1, "source": "else"},
        {"problem": "How?", "max_thinking_tokens": 3, "seed": 5, "ignore_ends": None},
    )
    assert run(model, Asked(prompts=prompts, out=tmp_path / "new" / "out.jsonl")) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("3/3 samples")
    found = read(tmp_path / "new" / "out.jsonl")
    first = found["1", 0]
    assert first == {
        "id": "1",
        "sample": 0,
        "prompt": "What?",
        "thinking": "\ngo é;",
        "answer": "12",
        "text": f"{START}\ngo é;{CLOSE}12",
        "parity": "none",
        "requested_thinking_tokens": 40,
        "requested_min_thinking_tokens": 0,
        "requested_answer_tokens": 8,
        "thinking_tokens": 6,
        "answer_tokens": 2,
        "requested_ignore_ends": 0,
        "ignored_ends": [],
        "thinking_ended": "itself",
        "forced": None,
        "finish": "stop",
        "seed": first["seed"],
    }
    waited = found["q", 0]
    assert (waited["thinking"], waited["ignored_ends"]) == ("\ngo é;Wait34", [6])
    assert waited["requested_ignore_ends"] == 1
    cut = found["3", 0]
    assert (cut["thinking"], cut["forced"], cut["answer"]) == ("\ngo ", FORCED, "98")
    assert cut["text"] == f"{START}\ngo {FORCED}98"
    assert cut["requested_thinking_tokens"] == cut["thinking_tokens"] == 3
    assert cut["thinking_ended"] == "budget"
    manifest = json.loads((tmp_path / "new" / "out.jsonl.manifest.json").read_text())
    assert manifest["samples"] == {"wanted": 3, "done": 3}
    assert manifest["prompts"]["count"] == 3
    assert manifest["model"]["path"] == str(model)


def test_without_a_file_the_lines_go_to_stdout(model, tmp_path, capsys):
    prompts = write_prompts(tmp_path / "in.jsonl", {"prompt": "What?"})
    hot = {"decode__temperature": 0.5, "decode__samples": 2, "decode__rejection_tries": 4}
    assert run(model, Asked(prompts=prompts), **hot) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted((line["id"], line["sample"], line["tries"]) for line in lines) == [
        ("1", 0, 1),
        ("1", 1, 1),
    ]


def test_the_longest_start_first(model, tmp_path):
    lines = [{"prompt": "What?"}, {"prompt": "What? " * 20}]
    prompts = write_prompts(tmp_path / "in.jsonl", *lines)
    orders = {}
    for order in ("given", "longest"):
        out = tmp_path / order
        fields = {"decode__order": order, "decode__batch_size": 1}
        assert run(model, Asked(prompts=prompts, out=out), **fields) == 0
        orders[order] = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert orders == {"given": ["1", "2"], "longest": ["2", "1"]}


@pytest.fixture
def finished(model, tmp_path):
    """A command that has run, and how it was asked."""
    prompts = write_prompts(tmp_path / "in.jsonl", *({"prompt": f"What {n}?"} for n in range(3)))
    asked = Asked(prompts=prompts, out=tmp_path / "out.jsonl")
    assert run(model, asked) == 0
    return asked


def test_a_finished_file_is_left_as_it_is(model, finished, monkeypatch, capsys):
    before = finished.out.read_bytes()
    monkeypatch.setattr(asking.Model, "engine", None)  # no weights are read
    assert run(model, finished) == 0
    assert "3 of 3 samples are there already" in capsys.readouterr().err
    assert finished.out.read_bytes() == before


def test_a_broken_last_line_is_made_again(model, finished):
    whole = read(finished.out)
    *lines, last = finished.out.read_bytes().splitlines(keepends=True)
    for broken in (last[:20], last[:-1], last[:20] + b"\n", b"\xff\x00\n", b""):
        finished.out.write_bytes(b"".join(lines) + broken)
        assert run(model, finished) == 0
        assert read(finished.out) == whole
        assert finished.out.read_bytes().startswith(b"".join(lines))
    finished.out.write_bytes(b"".join(lines) + b'{"id": 3}\n')  # whole, and somebody else's
    with pytest.raises(UserError, match=r"line 3: is not what was written there; name a new file"):
        run(model, finished)
    finished.out.write_bytes(b"".join(lines) + last)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seed": 1}, "seed was 42 and is 1 now"),
        ({"decode__temperature": 0.5}, "decode.temperature was 0.0 and is 0.5 now"),
        ({"decode__ignore_strings": ("Hmm",)}, r"decode.ignore_strings was \['Wait'\]"),
        ({"model__compute_dtype": "bfloat16"}, "model.compute_dtype was 'float32'"),
        ({"decode__samples": 2}, "decode.samples was 1 and is 2 now"),
    ],
)
def test_a_file_of_another_config_is_refused(model, finished, fields, words):
    before = finished.out.read_bytes()
    with pytest.raises(UserError, match=rf"out.jsonl was made otherwise: {words}.*; name a new"):
        run(model, finished, **fields)
    assert finished.out.read_bytes() == before


def test_how_it_is_computed_may_change(model, finished):
    fields = {"decode__batch_size": 1, "decode__segment_steps": 4, "decode__order": "longest"}
    assert run(model, finished, **fields) == 0


def test_a_file_of_another_model_or_of_other_prompts_is_refused(model, finished, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert run(copy, finished) == 0  # the same model elsewhere
    file = copy / "model.safetensors"
    header, data = fakes_hf.read_raw(file)
    weights = bytearray(file.read_bytes())
    at = len(weights) - len(data) + header["model.embed_tokens.weight"]["data_offsets"][0]
    weights[at : at + 4] = np.float32(1.5).tobytes()
    file.write_bytes(weights)
    with pytest.raises(UserError, match="was made otherwise: with other weights; name a new"):
        run(copy, finished)
    with finished.prompts.open("a") as file:
        file.write('{"prompt": "More?"}\n')
    with pytest.raises(UserError, match="was made otherwise: with other prompts; name a new"):
        run(model, finished)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.with_name(f.name + ".manifest.json").unlink(), "holds something else: name"),
        (lambda f: f.with_name(f.name + ".manifest.json").write_text("{}"), "is none of ours"),
        (lambda f: f.write_text("notes\n" + f.read_text()), "line 1: is not what was written"),
        (lambda f: f.write_text(f.read_text() * 2), "line 4: is not asked for, or twice"),
        (lambda f: f.write_text('{"id": [1], "sample": 0}\n' * 2), "line 1: is not what was"),
        (lambda f: f.write_text("[" * 9999 + "\n" + f.read_text()), "line 1: is not what was"),
    ],
)
def test_a_file_that_is_something_else_is_refused(model, finished, spoil, words):
    spoil(finished.out)
    before = finished.out.read_bytes()
    with pytest.raises(UserError, match=words):
        run(model, finished)
    assert finished.out.read_bytes() == before


def test_a_file_that_cannot_be_made_is_named(model, tmp_path):
    prompts = write_prompts(tmp_path / "in.jsonl", {"prompt": "What?"})
    with pytest.raises(UserError, match=r"--out=.*in\.jsonl/out cannot be written: "):
        run(model, Asked(prompts=prompts, out=prompts / "out"))


def test_one_process_of_several_is_refused(model, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(
        UserError, match="SLURM_NTASKS says that this is one of several: start it once"
    ):
        run(model, Asked("What?"))


def test_a_vote_does_not_depend_on_which_sample_is_finished_first(model, monkeypatch, capsys):
    """Three answers, each once: the first sample's wins."""
    told = asking.Model.generation

    def numbered(*args):
        generation = told(*args)
        return replace(generation, answer=f"number {generation.sample}")

    def backwards(*args):
        return sorted(asking.ask(*args), key=lambda pair: pair[0].request.id, reverse=True)

    monkeypatch.setattr(asking.Model, "generation", numbered)
    monkeypatch.setattr(generate, "ask", backwards)
    out = shown(model, capsys, decode__samples=3, decode__temperature=0.5)
    assert out.endswith("\n\nmajority, 1 of 3: number 0\n")


def test_two_processes_do_not_write_one_file(tmp_path):
    cfg = script_config(tmp_path)
    prompts = [Prompt("1", "What?", cfg.decode)]
    digests = {"model_digest": "a", "tokenizer_digest": "b", "prompts": "in.jsonl"}
    manifest = made_with(cfg, model="m", asked=prompts, **digests)
    assert differences(manifest, manifest) == []
    first, second = (GenerationsFile(tmp_path / "out", manifest, [("1", 0)]) for _ in range(2))
    with first, pytest.raises(UserError, match="is being written by another process"), second:
        pass


# --- Killed and started again, as a user does it ---


def command(*flags, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "s1jax.generate", *map(str, flags)],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def until(process, path, lines):
    """Returns when a process has written so many lines."""
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_command_that_is_killed_goes_on_to_the_same_end(endless, tmp_path):
    lines = [{"prompt": f"What is {n}?", "id": f"p{n}"} for n in range(40)]
    prompts = write_prompts(tmp_path / "in.jsonl", *lines)
    fields = {"decode__temperature": 0.7, "decode__max_thinking_tokens": 300}
    config, out = config_file(tmp_path / "c.py", **fields), tmp_path / "out.jsonl"
    flags = [f"--config={config}", f"--model={endless}", f"--prompts={prompts}", f"--out={out}"]
    killed = command(*flags)
    until(killed, out, 2)
    killed.kill()
    killed.communicate()
    kept = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 2 <= len(kept) < 40

    stopped = command(*flags)
    until(stopped, out, len(kept) + 2)
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=60)
    assert stopped.returncode == cli.PREEMPTED, err
    done = len(read(out))
    assert len(kept) + 2 <= done < 40
    assert f"{len(kept)} of 40 samples are there already" in err
    assert err.endswith(
        f"stopped by SIGTERM; {done} of 40 samples are written, start again to go on\n"
    )
    manifest = json.loads(out.with_name("out.jsonl.manifest.json").read_text())
    assert manifest["samples"] == {"wanted": 40, "done": done}

    last = command(*flags)
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert out.read_bytes().startswith(b"".join(kept))
    whole = tmp_path / "whole.jsonl"
    assert run(endless, Asked(prompts=prompts, out=whole), **fields) == 0
    assert read(out) == read(whole)
    assert len(read(whole)) == 40


def test_the_command_reads_its_input(model, tmp_path):
    config = config_file(tmp_path / "c.py")
    bytes_too = {"encoding": "utf-8", "errors": "surrogateescape"}
    flags = f"--config={config}", f"--model={model}"
    chat = command(*flags, stdin=subprocess.PIPE, **bytes_too)
    out, err = chat.communicate("What?\n\udcff\nexit\n", timeout=120)
    assert chat.returncode == 0
    assert err == "error: this question: the question holds half of a surrogate pair, no text\n"
    assert out.startswith(f"«thinking»\ngo é;«closing»{CLOSE}«answer»12\n[thinking: 6 tokens")


# --- Where the model lies ---


def test_a_model_is_recognised_by_what_is_in_its_directory(model, tmp_path, capsys):
    expected = shown(model, capsys)
    run_ = tmp_path / "run"
    assert convert.main(["convert", f"--from={model}", f"--to={run_ / 'checkpoints'}"]) == 0
    capsys.readouterr()
    for path in (run_, run_ / "checkpoints", run_ / "checkpoints" / "0"):
        assert shown(path, capsys) == expected
    assert "ended by itself" in shown(run_, capsys, model__compute_dtype="bfloat16")
    early = load.pinned(load.open_source(str(run_)))
    shutil.copytree(run_ / "checkpoints" / "0", run_ / "checkpoints" / "1")
    assert load.pinned(load.open_source(str(run_))).step == 1
    assert (early.step, load.pinned(early).step) == (0, 0)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "hf").symlink_to(model)
    assert shown(tmp_path / "exported", capsys) == expected
    with pytest.raises(UserError, match="neither a directory nor a hub id"):
        run(tmp_path / "nowhere", Asked("What?"))
    # Ids that no embedding has are found there too.
    fakes_hf.edit_json(run_ / "checkpoints" / "model" / "config.json", vocab_size=100)
    with pytest.raises(UserError, match=r"the tokenizer writes ids up to \d+, the embedding has"):
        run(run_, Asked("What?"))


# --- Mistakes ---


@pytest.fixture
def no_weights(monkeypatch):
    def engine(*_):
        raise AssertionError("weights are read although something is wrong")

    monkeypatch.setattr(asking.Model, "engine", engine)


def refused(path, asked, words, **fields):
    with pytest.raises(UserError, match=words) as error:
        run(path, asked, **fields)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("prompt", "fields", "words"),
    [
        ("", {}, "^--prompt: the question is empty$"),
        (" \n", {}, "^--prompt: the question is empty$"),
        ("\udcff", {}, "half of a surrogate pair"),
        ("What? " * 300, {}, r"^--prompt has \d+ tokens, more than the model's context of 512$"),
        (
            "What?",
            {"decode__max_thinking_tokens": 600},
            r"--prompt has .*, 600 of thinking.*: decode.max_thinking_tokens=\d+ would fit",
        ),
        ("What?", {"decode__max_answer_tokens": 600}, "600 of the answer make .* would fit"),
        ("What?", {"model__chat": "think"}, "has no token </?think>.*; it has those of s1"),
    ],
)
def test_a_prompt_that_cannot_be(model, no_weights, prompt, fields, words):
    refused(model, Asked(prompt), words, **fields)


def test_a_string_that_the_tokenizer_cannot_write(model, no_weights, tmp_path):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    del parts["model"]["vocab"]["!"]
    merges = parts["model"]["merges"]
    parts["model"]["merges"] = [pair for pair in merges if "!" not in "".join(pair)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts))
    words = r"cannot write 'Wait!' \(decode.ignore_strings\)"
    refused(tmp_path, Asked("What?"), words, decode__ignore_strings=("Wait!",))


def test_a_tokenizer_beyond_the_embedding(no_weights, tmp_path):
    path = write_script(tmp_path / "world")
    parts = json.loads((path / "tokenizer.json").read_text())
    parts["added_tokens"].append(parts["added_tokens"][0] | {"id": 600, "content": "<|more|>"})
    (path / "tokenizer.json").write_text(json.dumps(parts))
    refused(path, Asked("What?"), "token id 600 is beyond the embedding, which has 512 rows")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "must be an object, not list"),
        ('{"id": 1}', "has no text under prompt, question or problem"),
        ('{"prompt": 1}', "has no text under"),
        ('{"prompt": "a", "id": [1]}', r"id=\[1\] must be a string or a whole number"),
        ('{"prompt": "a", "id": 1}', "id '1' is also that of .*, line 1"),
        ('{"prompt": " "}', "the question is empty"),
        ('{"prompt": "a", "max_thinking_tokens": 0}', "max_thinking_tokens=0 must be .* least 1"),
        ('{"prompt": "a", "ignore_ends": true}', "ignore_ends=True must be a whole number"),
        ('{"prompt": "a", "seed": "x"}', "seed='x' must be a whole number of at least 0"),
        ('{"prompt": "a", "min_thinking_tokens": 41}', "must be at most decode.max_thinking_t"),
        ('{"prompt": "a", "max_thinking_tokens": 900}', "has .* tokens, 900 of thinking"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(model, no_weights, tmp_path, line, words):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "What?"}\n\n' + line + "\n")
    out = tmp_path / "out.jsonl"
    refused(model, Asked(prompts=path, out=out), f"^{re.escape(str(path))}, line 3.*{words}")
    assert not out.exists()


def test_prompts_that_are_no_file(model, no_weights, tmp_path):
    refused(model, Asked(prompts=tmp_path / "no"), "--prompts=.*: No such file")
    refused(model, Asked(prompts=tmp_path), "--prompts=.*: Is a directory")
    (tmp_path / "empty").write_text("\n\n")
    refused(model, Asked(prompts=tmp_path / "empty"), "holds no prompts")
    (tmp_path / "latin").write_bytes(b'{"prompt": "\xe9"}\n')
    refused(model, Asked(prompts=tmp_path / "latin"), "latin, line 1: is not JSON")
    (tmp_path / "ok").write_text('{"prompt": "What?"}')
    refused(model, Asked(prompts=tmp_path / "ok", out=tmp_path), "--out=.* is a directory")
    refused(model, Asked(prompts=tmp_path / "ok", out=tmp_path / "ok"), "holds something else")
    assert len(read_prompts(tmp_path / "ok", script_config(model))) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prompt=a", "--prompts=b"], "--prompt and --prompts: only one"),
        (["--prompt=a", "--out=b"], "--out is for what a file of --prompts asks"),
        (["--prompt=a"], "--model is missing, and model.path is empty"),
        (["--model=mini", "--config.decode.max_thinking_tokens=0"], "must be at least 1"),
        (
            ["--model=mini", "--config.decode.min_thinking_tokens=50"],
            "min_thinking_tokens=50 must be at most decode.max_thinking_tokens=40",
        ),
        (["--prompt=a", "--color=pink"], "color"),
    ],
)
def test_flags_that_cannot_be(no_weights, tmp_path, flags, words):
    config = config_file(tmp_path / "c.py")
    with pytest.raises(UserError, match=words):
        generate.main(["generate", f"--config={config}", *flags])


def test_the_exit_code_of_a_mistake(model, tmp_path):
    config = config_file(tmp_path / "c.py")
    process = command(f"--config={config}", f"--model={model}", "--prompt=")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "error: --prompt: the question is empty\n"


# --- Votes ---


def test_answers_are_compared_without_their_prefix():
    for answer in ("\nAnswer: 12", " 12\n", "Final Answer: 12", "\nAnswer:12"):
        assert generate._normalised(answer) == "12"
    assert generate._normalised("The Answer: 12") == "The Answer: 12"
