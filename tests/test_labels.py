"""What is trained is counted, shown, and refused where it is not what s1 trains."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from fakes_chat import QWEN, S1_ROWS, write_tokenizer

from s1jax import labels as verb
from s1jax.chat import ANSWER, CHATS, END, PROMPT, TEXT, THINKING, ChatTokenizer, render
from s1jax.config import Config, Data
from s1jax.data.batches import Batches
from s1jax.data.examples import load_examples
from s1jax.data.labels import Tokenized, check_labels, digest, label_stats, tokenize
from s1jax.types import Example, UserError

EXAMPLES = [
    Example("short", "1 + 1?", "It is 2.", "2"),
    Example("middle", "2 + 3?", "Let me see. " * 10, "5"),
    Example("long", "3 + 4?", "Wait, let me see. " * 20, "7"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return ChatTokenizer.load(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def whole(tokenizer):
    return tokenize(EXAMPLES, tokenizer, CHATS["s1"], 4096)


def test_tokenized_is_rendered_and_cut_on_the_right(tokenizer, whole):
    for example, tokenized in zip(EXAMPLES, whole, strict=True):
        rendered = render(tokenizer, CHATS["s1"], example)
        np.testing.assert_array_equal(tokenized.tokens, rendered.tokens)
        np.testing.assert_array_equal(tokenized.parts, rendered.parts)
    shorter = tokenize(EXAMPLES, tokenizer, CHATS["s1"], 100)
    for cut, full in zip(shorter, whole, strict=True):
        assert cut.full_length == full.full_length == len(full.tokens)
        assert len(cut.tokens) == len(cut.parts) == min(100, full.full_length)
        np.testing.assert_array_equal(cut.tokens, full.tokens[:100])
    assert [t.id for t in shorter] == ["short", "middle", "long"]


def test_more_examples_than_are_encoded_at_once(tokenizer):
    many = [replace(EXAMPLES[i % 3], id=str(i)) for i in range(130)]
    together = tokenize(many, tokenizer, CHATS["s1"], 4096)
    assert [t.id for t in together] == [str(i) for i in range(130)]
    assert {t.full_length for t in together[::3]} == {together[0].full_length}


def test_stats_count_what_is_there(whole):
    stats = label_stats(whole)
    for part in (PROMPT, THINKING, ANSWER, END):
        assert stats.part_tokens[part] == sum((t.parts == part).sum() for t in whole)
    lengths = sorted(t.full_length for t in whole)
    assert stats.lengths == tuple(lengths)
    assert (stats.length(0), stats.length(50), stats.length(100)) == tuple(lengths)
    assert stats.trained_tokens == sum(lengths) - stats.part_tokens[PROMPT]
    assert stats.useful_share(lengths[-1]) == pytest.approx(sum(lengths) / (3 * lengths[-1]))
    assert stats.useful_share(lengths[-1], rows=2) == pytest.approx(
        sum(lengths) / (2 * lengths[-1])
    )
    assert (stats.truncated, stats.answers_cut_share) == (0, 0)
    check_labels(stats, max_truncated_share=0)


def cut_to(tokenized, length):
    return replace(tokenized, tokens=tokenized.tokens[:length], parts=tokenized.parts[:length])


def refusal(tokenized, share=0.05):
    with pytest.raises(UserError) as error:
        check_labels(label_stats(tokenized), share)
    return str(error.value)


def test_answers_cut_off_are_refused_above_the_share(tokenizer, whole):
    short, middle, long = whole
    cut = tokenize(EXAMPLES, tokenizer, CHATS["s1"], middle.full_length)
    stats = label_stats(cut)
    assert (stats.truncated, stats.answers_cut) == (1, ("long",))
    check_labels(stats, max_truncated_share=0.34)
    message = refusal(cut, 0.33)
    assert "1 of 3 examples (33.3%: long) has the end of the answer cut off" in message
    assert f"data.row_length={middle.full_length}, more than" in message
    assert f"data.row_length={long.full_length} is enough for that" in message
    both = tokenize(EXAMPLES, tokenizer, CHATS["s1"], short.full_length)
    assert "(66.7%: long, middle) have" in refusal(both)
    assert f"data.row_length={middle.full_length} is enough for that" in refusal(both, 0.34)
    # Without its last newline an example has its answer and its end: nothing to refuse.
    almost = [short, middle, cut_to(long, long.full_length - 1)]
    assert label_stats(almost).truncated == 1
    check_labels(label_stats(almost), 0)
    assert "cut off" in refusal([short, middle, cut_to(long, long.full_length - 2)], 0)


def test_a_part_that_is_not_trained_is_refused(whole):
    def masked(tokenized, part):
        parts = np.where(tokenized.parts == part, PROMPT, tokenized.parts)
        return replace(tokenized, parts=parts.astype(np.uint8))

    for part, name in ((THINKING, "thinking"), (ANSWER, "answer"), (END, "end")):
        message = refusal([whole[0], masked(whole[1], part), whole[2]], 1.0)
        assert f"1 of 3 examples (33.3%: middle) has no {name} tokens in the labels" in message
        assert message.count("\n") == 1
    prompt = int((whole[2].parts == PROMPT).sum())
    fills = refusal([whole[0], whole[1], cut_to(whole[2], prompt)], 1.0)
    assert "33.3%: long) has nothing to train: the prompt alone fills a row" in fills
    check_labels(label_stats([whole[0], whole[1], cut_to(whole[2], prompt + 1)]), 1.0)


def test_only_the_worst_are_named(whole):
    cut = [replace(cut_to(whole[2], 90), id=str(i), full_length=1000 + i) for i in range(9)]
    assert "9 of 9 examples (100.0%: 8, 7, 6, ...) have" in refusal(cut)


def test_the_digest_knows_ids_tokens_and_parts(whole):
    def of(**changes):
        return digest([whole[0], replace(whole[1], **changes), whole[2]])

    parts = whole[1].parts.copy()
    parts[-1] = PROMPT
    same = of(tokens=whole[1].tokens.copy())
    assert same == digest(whole)
    changed = [of(id="other"), of(tokens=whole[1].tokens + 1), of(parts=parts)]
    assert len({same, *changed, digest(whole[::-1]), digest(whole[:2])}) == 6
    # The border between two examples counts, not just the bytes of both.
    a, b = (Tokenized("", np.array(t), np.zeros(len(t), np.uint8), 9) for t in ([1], [2, 3]))
    c, d = (Tokenized("", np.array(t), np.zeros(len(t), np.uint8), 9) for t in ([1, 2], [3]))
    assert digest([a, b]) != digest([c, d])


# --- Plain text ---


@pytest.fixture(scope="module")
def ending(tmp_path_factory):
    """A tokenizer that says what ends a text."""
    path = write_tokenizer(tmp_path_factory.mktemp("ending"))
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": "<|endoftext|>"}))
    return ChatTokenizer.load(path)


@pytest.fixture(scope="module")
def texts(ending):
    """Seven documents of very different lengths."""
    documents = [Example(f"t{n}", "", "", f"{n} + {n} = {2 * n}\n" * n) for n in range(1, 8)]
    return tokenize(documents, ending, TEXT, 4096)


def test_texts_are_trained_whole_but_for_their_first_tokens(texts):
    stats = label_stats(texts)
    assert stats.trained_tokens == sum(stats.lengths) - len(texts)
    assert stats.part_tokens[PROMPT] == stats.part_tokens[THINKING] == 0
    assert stats.part_tokens[END] == len(texts)
    check_labels(stats, 0, texts=True)
    # The control: where there should be a thinking, there is none.
    assert "7 of 7 examples (100.0%: t7, t6, t5, ...) have no thinking" in refusal(texts)


def test_texts_cut_off_are_refused_above_the_share(ending, texts):
    [cut] = tokenize([Example("t7", "", "", "7 + 7 = 14\n" * 7)], ending, TEXT, 30)
    stats = label_stats([*texts[:6], cut])
    check_labels(stats, 0.15, texts=True)
    with pytest.raises(
        UserError, match=r"not those of whole texts\n.*: t7\) has the end of the text"
    ):
        check_labels(stats, 0.14, texts=True)


@pytest.mark.parametrize("weighting", ["example", "token"])
@pytest.mark.parametrize("pack", [False, True])
def test_every_token_of_a_text_has_weight_but_the_first(texts, pack, weighting):
    cfg = Config(data=Data(batch_size=7, row_length=256, pack=pack))
    cfg = replace(cfg, train=replace(cfg.train, weighting=weighting))
    batches = Batches(texts, cfg, 1)
    arrays = batches.arrays(0)
    rows = batches.layout(0)
    assert (len(rows) < len(texts)) == pack
    seen = np.zeros_like(arrays.weights[0])
    for r, row in enumerate(rows):
        start = 0
        for i in row:
            n = len(texts[i].tokens)
            np.testing.assert_array_equal(arrays.tokens[0, r, start : start + n], texts[i].tokens)
            predicts = slice(start, start + n - 1)  # the last predicts no other text's first
            np.testing.assert_array_equal(arrays.targets[0, r, predicts], texts[i].tokens[1:])
            total = sum(len(t.tokens) - 1 for t in texts)
            each = 1 / total if weighting == "token" else 1 / (n - 1) / len(texts)
            seen[r, predicts] = each
            start += n
    np.testing.assert_allclose(arrays.weights[0], seen, rtol=1e-6)
    assert arrays.weights.sum() == pytest.approx(1, abs=1e-6)
    # The control: what a chat trains of the same text has another weight.
    parts = [np.where(np.arange(len(t.parts)) < 4, PROMPT, t.parts).astype(np.uint8) for t in texts]
    chats = [replace(t, parts=p) for t, p in zip(texts, parts, strict=True)]
    assert not np.allclose(Batches(chats, cfg, 1).arrays(0).weights[0], seen)


def test_s1_rows_are_tokenized_fast():
    if not (QWEN.is_dir() and S1_ROWS.is_file()):
        pytest.skip("the Qwen2.5 tokenizer or the rows of s1K are not here")
    tokenizer = ChatTokenizer.load(QWEN)
    rows = load_examples(Data(path=str(S1_ROWS)))
    many = [
        replace(row, id=f"{i}", thinking=f"{row.thinking} {i}") for i in range(20) for row in rows
    ]
    start = time.perf_counter()
    tokenized = tokenize(many, tokenizer, CHATS["s1"], 32768)
    elapsed = time.perf_counter() - start
    tokens = sum(t.full_length for t in tokenized)
    assert tokens > 500_000
    # Measured at 600,000 a second and more; a template rendered for each would be 20 times slower.
    assert tokens / elapsed > 50_000
    check_labels(label_stats(tokenized), 0)


# --- The verb ---


@pytest.fixture
def config_file(tmp_path, tokenizer):
    rows = [{"id": e.id, "question": e.question, "thinking": e.thinking} for e in EXAMPLES]
    lines = [json.dumps(row | {"answer": e.answer}) for row, e in zip(rows, EXAMPLES, strict=True)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    path = tmp_path / "experiment.py"
    path.write_text(
        "from s1jax.config import default\n"
        "def get_config():\n"
        "    config = default()\n"
        f"    config.model.path = {str(tokenizer.path)!r}\n"
        f"    config.data.path = {str(tmp_path / 'x.jsonl')!r}\n"
        "    config.data.row_length = 512\n"
        "    return config\n"
    )
    return path


def run(config_file, *flags):
    argv = ["labels", f"--config={config_file}", *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)  # where ml_collections looks for --config.a.b=c
        return verb.main(argv)


def test_the_verb_shows_the_examples_in_parts(config_file, capsys, whole):
    assert run(config_file, "--n=2", "--color=never") == 0
    out = capsys.readouterr().out
    assert "--- short: prompt" in out
    assert "--- middle: prompt" in out
    assert "--- long" not in out
    assert "«prompt»<|im_start|>system\n" in out
    assert "assistant\n«thinking»<|im_start|>think\nIt is 2." in out
    assert "\n«answer»<|im_start|>answer\nAnswer: 2«end»<|im_end|>⏎\n" in out
    assert "\033" not in out
    stats = label_stats(whole)
    assert f"3 examples, {sum(stats.lengths):,} tokens, {stats.trained_tokens:,} trained" in out
    assert re.search(rf"thinking +{stats.part_tokens[THINKING]:,} ", out)
    assert "cuts 0.0% of the examples" in out
    assert out.rstrip().endswith("training would start with these labels")


def test_colours_and_the_cut_are_shown(config_file, capsys):
    wide = ("--config.data.row_length=100", "--config.data.max_truncated_share=1.0")
    assert run(config_file, "--color=always", *wide) == 0
    out = capsys.readouterr().out
    assert "\033[2m<|im_start|>system" in out
    assert "\033[36m<|im_start|>think\n" in out
    assert "\033[1;35m<|im_end|>⏎\n\033[0m" in out
    assert "«" not in out
    assert re.search(r"--- cut here: \d+ of \d+ tokens are lost ---", out)


def test_the_verb_shows_texts(config_file, capsys, ending, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"id": "fact", "text": "1 + 1 = 2\\n"}\n')
    flags = ("--config.model.chat=text", f"--config.data.path={tmp_path / 'texts.jsonl'}")
    model = f"--config.model.path={ending.path}"
    assert run(config_file, *flags, model, "--color=never") == 0
    out = capsys.readouterr().out
    [tokens] = re.findall(r"--- fact: prompt 0, thinking 0, answer (\d+), end 1 tokens ---", out)
    assert "«answer»1 + 1 = 2\n«end»<|endoftext|>\n" in out
    assert f"1 examples, {int(tokens) + 1} tokens, {tokens} trained" in out
    assert out.rstrip().endswith("training would start with these labels")
    with pytest.raises(UserError, match="names no eos_token"):
        run(config_file, *flags)


def test_data_cannot_steer_the_terminal(tokenizer):
    example = Example("x", "1?\033[2J\x9b1m\a", "so", "2")
    [tokenized] = tokenize([example], tokenizer, CHATS["s1"], 512)
    shown = verb.show(tokenized, tokenizer, colour=False)
    assert "1?␛[2J�1m␇" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


def test_the_verb_refuses_what_training_refuses(config_file):
    command = [sys.executable, "-m", "s1jax.labels", f"--config={config_file}", "--n=0"]
    done = subprocess.run(
        [*command, "--config.data.row_length=100"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "100 cuts 66.7% of the examples" in done.stdout
    assert done.stderr.startswith("error: the labels are not those of s1's recipe\n")
    assert "Traceback" not in done.stderr
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.model.path=", "model.path is empty"),
        ("--config.model.path=/nowhere/at/all", "there is no such directory"),
        ("--config.model.chat=llama3", "has no token <|end_header_id|>"),
        ("--config.data.path=/nowhere.jsonl", "there is no such file"),
        ("--color=pink", "color"),
    ],
)
def test_mistakes_are_sentences(config_file, flag, words):
    with pytest.raises(UserError, match=re.escape(words)):
        run(config_file, flag)


def test_a_hub_id_without_network_is_one_sentence(config_file, monkeypatch):
    import huggingface_hub

    def no_network(name, **kwargs):
        assert (name, kwargs["revision"]) == ("Qwen/Qwen2.5-32B-Instruct", "abc")
        assert not any("safetensors" in pattern for pattern in kwargs["allow_patterns"])
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    hub = ("--config.model.path=Qwen/Qwen2.5-32B-Instruct", "--config.model.revision=abc")
    with pytest.raises(UserError, match=r"that name cannot be had: no route$"):
        run(config_file, *hub)


def test_the_embedded_default(tmp_path, config_file, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mini = ("--config.model.path=mini", "--config.data.path=mini", "--n=1")
    assert run(config_file, *mini, "--config.data.row_length=256") == 0
    out = capsys.readouterr().out
    assert "1,000 examples" in out
    assert "cuts 0.0% of the examples" in out
