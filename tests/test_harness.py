"""lm_eval's own tasks on our engine: what its Hugging Face model says, ours says as well."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_DATASETS_OFFLINE"] = "1"  # before anything imports datasets

import fakes_chat
import fakes_train
import jax
import pytest
from fakes_script import ENDLESS, FIELDS, write_script
from hypothesis import given
from hypothesis import strategies as st

from s1jax import asking, cli, config, harness
from s1jax.chat import CHATS, ChatTokenizer
from s1jax.config import Decode
from s1jax.gen_kwargs import AUTO, can_stop, cut, read_gen_kwargs
from s1jax.generations import Prompt
from s1jax.mesh import make_mesh
from s1jax.prompts import check_fits
from s1jax.types import UserError

pytest.importorskip("lm_eval", reason="pip install 's1jax[harness]'")

ROOT = Path(__file__).resolve().parent.parent
START, CLOSE, FORCED = (
    "<|im_start|>think",
    "<|im_start|>answer",
    "\n<|im_start|>answer\nFinal Answer:",
)
TOLERANCE = 5e-5  # of a sum of some ten log-probabilities; measured: 1.1e-5


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The sixteen devices of the tests would each get a row."""
    from s1jax import harness_model

    monkeypatch.setattr(harness_model, "make_mesh", lambda cfg: make_mesh(cfg, jax.devices()[:1]))


def write_random(directory, scale):
    """A Qwen2 whose embedding has a row for each token of its tokenizer and no more."""
    path = fakes_train.write_world(directory, examples=1).model
    sizes = {"vocab_size": ChatTokenizer.load(path).vocab_size, "torch_dtype": "float32"}
    fakes_train.write_model(path, fakes_train.SIZES | sizes, scale)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("model"), 0.3)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("other"), 0.2)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return write_script(tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    return write_script(tmp_path_factory.mktemp("endless"), ENDLESS)


def lm_of(path, **arguments):
    from s1jax.harness_model import S1JaxLM

    fields = {name: value for name, value in FIELDS.items() if "compute_dtype" in name}
    fields |= {"decode.segment_steps": 8, "batch_size": 2}
    return S1JaxLM(**{"pretrained": str(path), **fields, **arguments})


def instances(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [
        Instance(kind, {}, args, 0, metadata=("task", number, 1))
        for number, args in enumerate(arguments)
    ]


def answers(lm, *arguments):
    return lm.generate_until(instances("generate_until", *arguments), disable_tqdm=True)


# --- Real tasks ---


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A directory with a task that is answered and one that is chosen from, and their data."""
    directory = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "question": f"What is {n} + {n * n}{'?' * (1 + n % 3)}",
            "answer": str(n + n * n),
            "choices": [f" {n + n * n}", f" {n}", " go on", " é: none of these"][: 2 + n % 3],
        }
        for n in range(7)
    ]
    data = directory / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(directory / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "{{question}}\n",
    }
    own = {
        "answered": {
            "output_type": "generate_until",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n\n", "7", "zz"], "max_gen_toks": 20},
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
        },
        "repeated": {
            "output_type": "generate_until",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"max_gen_toks": 8, "do_sample": False},
            "repeats": 3,
        },
        "chosen": {
            "output_type": "multiple_choice",
            "doc_to_target": 0,
            "doc_to_choice": "{{choices}}",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        },
    }
    for name, fields in own.items():
        text = json.dumps({"task": name} | shared | fields)  # is YAML, too
        (directory / f"{name}.yaml").write_text(text)
    return directory


def evaluated(model, tasks, arguments, names=("answered", "chosen"), **more):
    """What lm_eval reports, and its samples by task, in order."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=list(names),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        **more,
    )
    samples = {name: sorted(results["samples"][name], key=lambda s: s["doc_id"]) for name in names}
    return results, samples


def chances(samples):
    """Log-probability and greedy flag of every choice."""
    return [pair for sample in samples["chosen"] for [pair] in sample["resps"]]


def test_tasks_run_as_on_the_hugging_face_model(model, other, tasks):
    pytest.importorskip("accelerate", reason="lm_eval's hf model needs it")
    ours = {"pretrained": str(model), "dtype": "float32"}
    theirs = ours | {"device": "cpu", "max_length": 512}
    results, found = evaluated("s1jax", tasks, ours, batch_size=3)
    _, expected = evaluated("hf", tasks, theirs, batch_size=4)

    pairs = list(zip(chances(found), chances(expected), strict=True))
    assert len(pairs) == 20
    assert max(abs(a[0] - b[0]) for a, b in pairs) < TOLERANCE
    assert [a[1] for a, _ in pairs] == [b[1] for _, b in pairs]
    _, wrong = evaluated("s1jax", tasks, ours | {"pretrained": str(other)}, ["chosen"])
    pairs = zip(chances(wrong), chances(expected), strict=True)
    assert max(abs(a[0] - b[0]) for a, b in pairs) > 0.1

    texts, their_texts = ([s["resps"][0][0] for s in x["answered"]] for x in (found, expected))
    controls = fakes_chat.QWEN3  # which transformers leave out of what they show
    assert [without(text, controls) for text in texts] == their_texts
    assert len(set(texts)) > 1 and all(texts)
    assert {"acc,none", "exact_match,none"} <= {
        name for metrics in results["results"].values() for name in metrics
    }
    assert results["config"]["model"] == "s1jax" and results["config"]["model_num_parameters"] > 0


def without(text, strings):
    for string in strings:
        text = text.replace(string, "")
    return text


def test_thinking_is_what_asking_gives(script, tasks):
    """With s1's names, on the prompts of the chat template."""
    kwargs = {
        "max_gen_toks": 40,
        "max_tokens_thinking": 30,
        "thinking_n_ignore": 2,
        "thinking_n_ignore_str": "Wait",
        "until": [],
    }
    arguments = {"pretrained": str(script), "dtype": "float32"}
    _, found = evaluated(
        "s1jax", tasks, arguments, ["answered"], apply_chat_template=True, gen_kwargs=kwargs
    )
    decode = {"max_thinking_tokens": 30, "max_answer_tokens": 40, "ignore_ends": 2}
    cfg = fakes_train.make_config(
        FIELDS | {"model.path": str(script)} | {f"decode.{k}": v for k, v in decode.items()}
    )
    asked = asking.open_model(cfg)
    engine = asked.engine(make_mesh(cfg.mesh, jax.devices()[:1]), 2)
    expected = []
    for sample in found["answered"]:
        prompt = Prompt("p", f"{sample['doc']['question']}\n", cfg.decode)
        [(output, _)] = asking.ask(engine, asked.requests([prompt]), cfg.decode)
        expected.append(asked.generation(prompt, output, None).text)
    texts = [sample["resps"][0][0] for sample in found["answered"]]
    assert texts == expected
    assert texts[0] == f"{START}\ngo é;Wait34Wait34{CLOSE}12"


@pytest.mark.slow
def test_the_command_runs_a_task_and_writes_its_results(script, tasks, tmp_path, capsys):
    argv = [
        "harness",
        f"--model_args=pretrained={script},dtype=float32",
        "--tasks=answered",
        f"--include_path={tasks}",
        "--limit=2",
        "--apply_chat_template",
        "--gen_kwargs=max_gen_toks=400,max_tokens_thinking=auto",
        f"--output_path={tmp_path}",
        "--log_samples",
    ]
    before = list(sys.argv)
    assert harness.main(argv) == cli.DONE
    assert sys.argv == before
    assert "|answered|" in capsys.readouterr().out
    [results] = tmp_path.rglob("results*.json")
    assert json.loads(results.read_text())["config"]["batch_size"] == "auto"
    [samples] = tmp_path.rglob("samples*.jsonl")
    texts = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    assert texts == [f"{START}\ngo é;{CLOSE}12"] * 2


def test_answers_come_out_of_lm_evals_cache(script, tasks, tmp_path, monkeypatch):
    from s1jax import harness_model

    arguments = {"pretrained": str(script), "dtype": "float32"}
    how = {"use_cache": str(tmp_path / "cache"), "gen_kwargs": {"max_gen_toks": 9}}
    _, first = evaluated("s1jax", tasks, arguments, **how)
    monkeypatch.setattr(harness_model, "ask", None)
    monkeypatch.setattr(harness_model, "score", None)
    _, again = evaluated("s1jax", tasks, arguments, **how)
    for name in first:
        assert [s["resps"] for s in again[name]] == [s["resps"] for s in first[name]]
    with pytest.raises(TypeError):
        evaluated("s1jax", tasks, arguments, ["answered"], gen_kwargs={"max_gen_toks": 9})


@pytest.mark.slow
def test_repeats_are_samples_of_their_own_beside_lm_evals_cache(
    model, tasks, tmp_path, monkeypatch
):
    from s1jax.harness_model import S1JaxLM

    def repeats(name, **kwargs):
        arguments = {"pretrained": str(model), "dtype": "float32"}
        how = {"use_cache": str(tmp_path / name), "gen_kwargs": kwargs, "limit": 2}
        _, found = evaluated("s1jax", tasks, arguments, ["repeated"], **how)
        return [sample["resps"][0] for sample in found["repeated"]]

    for _ in range(2):
        with pytest.raises(UserError, match=r"gen_kwargs sample without .*: give do_sample=True$"):
            repeats("cache", temperature=1.0)
    first = repeats("cache", temperature=1.0, do_sample=True)
    assert repeats("cache", temperature=1.0, do_sample=True) == first
    assert [len(set(texts)) for texts in first] == [3, 3]
    assert [len(set(texts)) for texts in repeats("cache")] == [1, 1]  # greedy
    # The control: what lm_eval's cache would make of them.
    monkeypatch.setattr(S1JaxLM, "_check_cache", lambda *_: None)
    assert [len(set(texts)) for texts in repeats("other", temperature=1.0)] == [3, 3]
    assert [len(set(texts)) for texts in repeats("other", temperature=1.0)] == [1, 1]


@pytest.mark.parametrize(
    ("kwargs", "advice"),
    [
        ({"temperature": 0.5, "do_sample": False}, "give do_sample=True"),
        ({"temperature_thinking": 1}, "give do_sample=True,temperature=0"),
        (
            {"rejection_sample": 3, "max_tokens_thinking": 8, "temperature": 1},
            "give do_sample=True",
        ),
        ({"do_sample": 1}, None),
        ({"temperature_thinking": 1, "do_sample": True, "temperature": 0}, None),
        ({"max_tokens_thinking": 8}, None),
        ({"temperature": 1, "temperature_thinking": 0, "do_sample": True}, None),
    ],
)
def test_what_lm_evals_cache_takes_for_greedy_is(script, kwargs, advice):
    lm = lm_of(script)
    asked = instances("generate_until", ("Q", {"max_gen_toks": 9} | kwargs))
    lm._plan(asked)
    lm.cache_hook = SimpleNamespace(dbdict={})
    if advice is None:
        lm._plan(asked)
    else:
        with pytest.raises(UserError, match=f"^--use_cache: .*: {advice}$"):
            lm._plan(asked)


def documented(text):
    """The words of the command that a text gives as an example."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    [line] = [x for x in lines if "python -m s1jax.harness --model_args" in x]
    return shlex.split(line)[3:]


@pytest.mark.slow
def test_the_command_of_the_documents_runs(script, tasks, tmp_path, capfd):
    """On a task that is here, and another model than the one it names."""
    words = documented(harness.__doc__)
    for name in ("README.md", "docs/evaluation.md"):
        assert documented((ROOT / name).read_text()) == words
    ours = {"runs/mini": str(script), "--tasks=gsm8k": "--tasks=answered"}
    for old, new in ours.items():
        assert sum(old in word for word in words) == 1
        words = [word.replace(old, new) for word in words]
    words += [f"--include_path={tasks}", f"--output_path={tmp_path}", "--log_samples"]
    assert harness.main(["harness", *words, "--limit=2", "--batch_size=2"]) == cli.DONE
    out, err = capfd.readouterr()
    assert "|answered|" in out and "contexts" not in err.replace("Building contexts", "")
    [samples] = tmp_path.rglob("samples*.jsonl")
    texts = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    assert texts == [f"{START}\ngo é;Wait34{CLOSE}12"] * 2


def test_rolling_log_likelihoods_are_those_of_the_hugging_face_model(model):
    pytest.importorskip("accelerate", reason="lm_eval's hf model needs it")
    from lm_eval.models.huggingface import HFLM

    texts = ["So 47 + 85.\n" * 12, "é", "<|im_start|>think\nWait, no.", "Let me see. " * 7]
    theirs = HFLM(str(model), dtype="float32", device="cpu", max_length=20, batch_size=1)
    ours = lm_of(model, max_length=20)
    requests = instances("loglikelihood_rolling", *((text,) for text in [*texts, ""]))
    found = ours.loglikelihood_rolling(requests, disable_tqdm=True)
    expected = theirs.loglikelihood_rolling(requests[:-1], disable_tqdm=True)
    assert len(theirs.tok_encode(texts[0])) > 60
    assert found == pytest.approx([*expected, 0.0], abs=1e-4)
    assert lm_of(model, max_length=30).loglikelihood_rolling(requests[:1], True) != pytest.approx(
        expected[:1], abs=1e-2
    )


def test_pairs_are_encoded_as_by_the_hugging_face_model(model):
    """The space between the two, an empty context, and contexts that are too long."""
    pytest.importorskip("accelerate", reason="lm_eval's hf model needs it")
    from lm_eval.models.huggingface import HFLM

    pairs = [("So ", "4"), ("", "Wait"), ("<|im_end|>\n", "go"), ("see " * 40, "12 x"), ("a", "b")]
    theirs = HFLM(str(model), dtype="float32", device="cpu", max_length=20, batch_size=2)
    requests = instances("loglikelihood", *pairs)
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    found = lm_of(model, max_length=20).loglikelihood(requests, disable_tqdm=True)
    assert [a for a, _ in found] == pytest.approx([a for a, _ in expected], abs=TOLERANCE)
    assert [b for _, b in found] == [b for _, b in expected]
    assert lm_of(model).loglikelihood(requests, True)[3] != pytest.approx(expected[3], abs=1e-2)
    with pytest.raises(UserError, match="a continuation has 0 tokens, it must have 1 to 20: ''"):
        lm_of(model, max_length=20)._loglikelihood_tokens([(("a", ""), [1], [])])


@pytest.mark.parametrize("family", ["qwen", "llama3"])
def test_texts_are_encoded_as_by_transformers(family, tmp_path, model):
    from transformers import PreTrainedTokenizerFast

    chat = "s1"
    if family == "llama3":
        controls, chat = fakes_chat.LLAMA3, "llama3"
        fakes_chat.write_tokenizer(
            tmp_path, controls, fakes_chat.LLAMA3_TEMPLATE, fakes_chat.LLAMA_SPLIT
        )
        add_bos(tmp_path / "tokenizer.json", controls[0])
        tokens = ChatTokenizer.load(tmp_path).vocab_size
        sizes = fakes_train.SIZES | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": tokens,
        }
        fakes_train.write_model(tmp_path, sizes)
        model = tmp_path
    hf = PreTrainedTokenizerFast.from_pretrained(model)
    lm = lm_of(model, chat=chat)
    texts = ["So 1234 + 5", "", " Wait\n\n", "<|begin_of_text|>So", "x<|eot_id|>y<|im_end|>"]
    for text in texts:
        again = text.startswith("<|begin") and family == "llama3"
        assert lm.tok_encode(text) == hf.encode(text, add_special_tokens=not again)
        for special in (True, False):
            assert lm.tok_encode(text, special) == hf.encode(text, add_special_tokens=special)
    assert (lm.tok_encode("") == []) == (family == "qwen")
    turns = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "<|im_end|>"},
    ]
    for history, prompt in ((turns, True), (turns[:2], False)):
        expected = hf.apply_chat_template(
            history,
            tokenize=False,
            add_generation_prompt=prompt,
            continue_final_message=not prompt,
            date_string="26 Jul 2024",
        )
        assert lm.apply_chat_template(history, prompt) == expected
    assert lm.chat_template(True) == hf.chat_template and lm.chat_template(False) is None
    with pytest.raises(UserError, match="give no name"):
        lm.chat_template("tool_use")
    with pytest.raises(UserError, match="its chat template fails"):
        lm.apply_chat_template([{"content": "2 + 2?"}])


def add_bos(file, token):
    """Makes a tokenizer write a token before any text, as Llama's does."""
    parts = json.loads(file.read_text())
    [number] = [t["id"] for t in parts["added_tokens"] if t["content"] == token]
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    parts["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
    file.write_text(json.dumps(parts))


# --- Answers ---


def test_every_argument_has_its_effect(script):
    lm = lm_of(script)
    thinks = {"max_tokens_thinking": 30, "max_gen_toks": 20}
    found = answers(
        lm,
        ("Q", thinks),
        ("Q", thinks | {"thinking_n_ignore": 1, "thinking_n_ignore_str": "Wait"}),
        ("Q", thinks | {"max_tokens_thinking": 2}),
        ("Q", thinks | {"until": ["2"]}),
        ("Q", thinks | {"until": "go"}),
        (f"Q{START}", thinks),
        ("Wait", {"max_gen_toks": 20}),
        ("Wait", {"max_gen_toks": 20, "until": ["x", "<|im_start|>"]}),
        ("Wait", {"max_gen_toks": 1}),
    )
    natural = f"{START}\ngo é;{CLOSE}12"
    assert found == [
        natural,
        f"{START}\ngo é;Wait34{CLOSE}12",
        f"{START}\ngo{FORCED}98",
        f"{START}\ngo é;{CLOSE}1",
        natural,
        natural,
        found[6],
        "34",
        "3",
    ]
    assert found[6].startswith("34<|im_start|>")


def test_a_tasks_strings_end_the_thinking_as_well_in_s1s_evaluator(script):
    asked = ("Q", {"max_tokens_thinking": 30, "max_gen_toks": 20, "until": ["é"]})
    [ours] = answers(lm_of(script), asked)
    assert ours == f"{START}\ngo é;{CLOSE}12"
    lm = lm_of(script, parity="evaluator")
    [plan] = [lm._plan(instances("generate_until", asked))]
    rules = plan.requests[0].rules
    assert rules.accounting == "evaluator"
    single = ("Q", asked[1] | {"until": [";"]})
    more = lm._plan(instances("generate_until", single)).requests[0].rules
    assert set(more.ends) - set(rules.ends) and len(more.stops) == len(rules.stops)


def test_answers_keep_their_order_and_are_what_they_are_alone(model):
    lm = lm_of(model, **{"decode.strict": True})
    greedy, hot = {"max_gen_toks": 6}, {"max_gen_toks": 6, "temperature": 1.0}
    asked = [("one", greedy), ("two", hot), ("three", greedy), ("two", hot), ("four", hot)]
    found = answers(lm, *asked)
    assert found == answers(lm, *asked)
    assert [answers(lm, one)[0] for one in asked[:3]] == found[:3]
    assert found[1] != found[3]  # another sample
    assert answers(lm_of(model, seed=7, **{"decode.strict": True}), *asked)[1] != found[1]


def test_rejected_samples_have_no_answer(endless):
    lm = lm_of(endless)
    asked = {"max_tokens_thinking": 5, "max_gen_toks": 9, "temperature": 0.01, "do_sample": False}
    [forced] = answers(lm, ("Q", asked))
    assert forced == f"{START}\ngo.go.{FORCED}98"
    [rejected] = answers(lm, ("Q", asked | {"rejection_sample": 3}))
    assert rejected == f"{START}\ngo.go."


def test_budgets_are_those_of_the_reference(script):
    """`auto` is max_gen_toks without the longest prompt, what opens and closes, and 100."""
    evaluator, none = lm_of(script, parity="evaluator"), lm_of(script)
    requests = instances(
        "generate_until",
        *((text, {"max_gen_toks": 400, "max_tokens_thinking": AUTO}) for text in ("Q" * 30, "Q")),
    )
    lengths = [len(none.tok_encode(r.args[0])) for r in requests]
    start = len(none.tok_encode(START))
    end, ours = (len(none.tok_encode(text)) for text in (FORCED[1:], FORCED))
    rules = [r.rules for r in evaluator._plan(requests).requests]
    assert [r.max_thinking_tokens for r in rules] == [400 - max(lengths) - start - end - 100] * 2
    assert {r.max_answer_tokens for r in rules} == {400}
    rules = [r.rules for r in none._plan(requests).requests]
    assert [r.max_thinking_tokens for r in rules] == [400 - n - start - ours - 100 for n in lengths]
    assert [r.max_answer_tokens for r in rules] == [512 - 300] * 2
    everything = instances("generate_until", ("Q", {"max_gen_toks": 999, "min_tokens_thinking": 1}))
    for lm, left in ((evaluator, 1), (none, 100)):
        [request] = lm._plan(everything).requests
        room = 512 - len(request.prompt) - ours
        assert request.rules.max_thinking_tokens == room - left


@pytest.mark.parametrize("parity", ["none", "evaluator"])
def test_an_answer_as_long_as_the_context_is_what_is_left_of_it(script, parity):
    """s1's commands ask for 32,768 tokens of 32,768."""
    lm = lm_of(script, parity=parity, max_length=40)
    for words, length in (("Q", 1), ("Q" * 30, 30)):
        asked = instances("generate_until", (words, {"max_gen_toks": 40}))
        [request] = lm._plan(asked).requests
        assert len(request.prompt) == length
        rules = request.rules
        assert min(rules.max_answer_tokens, rules.max_written_tokens) == 40 - length
    with pytest.raises(UserError, match=r"document 0 has 50 tokens, more than .* context of 40"):
        answers(lm, ("Q" * 50, {"max_gen_toks": 40}))


def test_long_contexts_lose_their_beginning(model, capsys):
    lm = lm_of(model, max_length=24)
    words = " ".join(f"{n} + {n}" for n in range(40))
    [whole, cut_before] = answers(lm, (words, {"max_gen_toks": 6}), (words, {"max_gen_toks": 7}))
    assert "1 of 1 contexts are cut on the left to 18 tokens" in capsys.readouterr().err
    ids = lm.tok_encode(words)[-18:]
    text = "".join(lm.model.tokenizer.decode_pieces(ids))
    assert lm.tok_encode(text) == ids
    assert answers(lm, (text, {"max_gen_toks": 6})) == [whole]
    assert cut_before[: len(whole)] != whole  # it has read a token less


@pytest.mark.parametrize("parity", ["none", "evaluator"])
def test_long_contexts_that_are_thought_about_lose_their_beginning(script, parity, capsys):
    """All but budget, what closes the thinking and a token of the answer is the context's."""
    lm = lm_of(script, parity=parity, max_length=60)
    start, closing = (len(lm.tok_encode(text)) for text in (START, FORCED))
    words = " ".join(f"{n} + {n}" for n in range(40))
    whole = lm.tok_encode(words + START)
    least = 60 - closing - 1 - start  # a budget that leaves nothing to the context
    for budget in (5, least - 1):
        kwargs = {"max_gen_toks": 9, "max_tokens_thinking": budget}
        lm._warned, keep = True, 60 - budget - closing - 1
        [short, long] = lm._plan(
            instances("generate_until", ("Q", kwargs), (words, kwargs))
        ).requests
        assert capsys.readouterr().err == f"1 of 2 contexts are cut on the left to {keep} tokens\n"
        assert short.prompt == tuple(lm.tok_encode("Q" + START)) and len(long.prompt) == keep
        assert long.prompt == tuple(whole[-keep:])
        assert long.rules.max_thinking_tokens == budget
        with pytest.raises(UserError, match="make 61, more than"):  # a token more is too many
            check_fits(
                60,
                [keep + 1],
                [budget],
                lm.model.delimiters,
                replace(read(**kwargs).decode, max_answer_tokens=1, parity=parity),
            )
    thought = {"max_gen_toks": 9, "max_tokens_thinking": 5}
    thinking = f"{START}\ngo é{FORCED}"
    assert answers(lm, ("Q", thought), (words, thought)) == [thinking + "98", thinking + "9"]
    with pytest.raises(UserError, match=r"document 0 has .* tokens.* more than the model's"):
        answers(lm, (words, thought | {"max_tokens_thinking": least}))


def test_long_contexts_leave_the_least_to_an_automatic_budget(script):
    lm, evaluator = lm_of(script), lm_of(script, parity="evaluator")
    words = " ".join(f"{n} + {n}" for n in range(200))
    for budget, least in (({"max_tokens_thinking": AUTO}, 1), ({"min_tokens_thinking": 7}, 7)):
        kwargs = {"max_gen_toks": 450} | budget
        short, long = lm._plan(instances("generate_until", ("Q", kwargs), (words, kwargs))).requests
        assert long.rules.max_thinking_tokens == least < short.rules.max_thinking_tokens
        assert long.rules.max_answer_tokens >= 100
    auto = {"max_gen_toks": 450, "max_tokens_thinking": AUTO}
    with pytest.raises(UserError, match=r"tokens leaves -\d+ of max_gen_toks=450 to the automatic"):
        answers(evaluator, ("Q", auto), (words, auto))


def test_thinking_after_no_generation_prompt_is_told_once(script, capsys):
    lm, thinks = lm_of(script), {"max_gen_toks": 9, "max_tokens_thinking": 5}
    prompt = lm.apply_chat_template([{"role": "user", "content": "Q"}])
    for fine in ((prompt, thinks), (f"{prompt}{START}\n", thinks), ("Q", {"max_gen_toks": 9})):
        lm._plan(instances("generate_until", fine))
    assert capsys.readouterr().err == ""
    for _ in range(2):
        lm._plan(instances("generate_until", (prompt, thinks), ("Q", thinks)))
    said = "1 of 2 contexts do not end in the chat template's generation prompt, after which the"
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        (
            {"max_gen_toks": 9, "max_tokens_thinking": 600},
            "task, document 0 has .* 600 of thinking, .* would fit",
        ),
        (
            {"max_gen_toks": 90, "max_tokens_thinking": AUTO},
            "task, document 0 has .* tokens, which leaves 0 of the model's context",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_decoded(script, kwargs, sentence):
    lm = lm_of(script)
    with pytest.raises(UserError, match=sentence):
        answers(lm, ("Q", kwargs), ("Q", {"max_gen_toks": 9}))
    assert "engine" not in vars(lm)


# --- gen_kwargs ---


def read(chat="s1", decode=None, **kwargs):
    return read_gen_kwargs(kwargs, decode or Decode(), CHATS[chat], 256)


@pytest.mark.parametrize(
    ("kwargs", "fields"),
    [
        ({}, {"thinking": False, "max_answer_tokens": 256, "temperature": 0.0}),
        ({"max_tokens": "32"}, {"max_answer_tokens": 32}),
        ({"max_new_tokens": 5, "max_gen_toks": 7}, {"max_answer_tokens": 7}),
        ({"temperature": 0.5, "top_k": -1}, {"temperature": 0.5, "top_k": 0, "thinking": False}),
        ({"do_sample": False, "temperature": 1}, {"temperature": 1.0}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": 1}, {"temperature": 1.0}),
        ({"do_sample": "true"}, {"temperature": 1.0}),
        ({"do_sample": 0}, {"temperature": 0.0}),
        ({"do_sample": "False", "temperature": 0.5}, {"temperature": 0.5}),
        ({"do_sample": False, "num_beams": 1}, {"temperature": 0.0}),
        ({"top_p": "0.9", "min_p_thinking": 0.1}, {"top_p": 0.9, "thinking_min_p": 0.1}),
        ({"max_tokens_thinking": AUTO}, {"thinking": True, "max_thinking_tokens": None}),
        ({"max_tokens_thinking": 9}, {"thinking": True, "max_thinking_tokens": 9}),
        ({"thinking_n_ignore": 2}, {"thinking": True, "ignore_ends": 2, "ignore_strings": ()}),
        (
            {"thinking_n_ignore": "2", "thinking_n_ignore_str": "Hmm"},
            {"ignore_ends": 2, "ignore_strings": ("Hmm",)},
        ),
        ({"min_tokens_thinking": 3}, {"thinking": True, "min_thinking_tokens": 3}),
        ({"temperature_thinking": 1}, {"temperature": 0.0, "thinking_temperature": 1.0}),
        (
            {"rejection_sample": True, "max_tokens_thinking": 8, "temperature": 1},
            {"thinking": True, "rejection_tries": 1000},
        ),
        ({"rejection_sample": False}, {"thinking": False, "rejection_tries": 0}),
        (
            {"rejection_sample": 2, "max_tokens_thinking": 8, "temperature": 1},
            {"thinking": True, "rejection_tries": 2},
        ),
        ({"until_thinking": ["<|im_start|>"]}, {"thinking": True}),
        ({"until_thinking_2": ["<|im_end|>", "<|im_start|>"]}, {"thinking": True}),
        (
            {
                "thinking_start": "<|im_start|>think",
                "thinking_end": "<|im_start|>answer",
                "until_thinking": "<|im_start|>",
                "until_thinking_2": "<|im_end|>",
            },
            {"thinking": True},
        ),
    ],
)
def test_names_of_s1_and_of_lm_eval(kwargs, fields):
    asked = read(**kwargs).decode
    assert {name: getattr(asked, name) for name in fields} == fields


def test_a_config_decides_only_what_has_no_name_here():
    own = Decode(
        temperature=0.7,
        thinking_top_k=5,
        ignore_ends=3,
        samples=4,
        prompt_class="long",
        force_string="So:",
        batch_size=3,
    )
    assert read(decode=own).decode == replace(read().decode, force_string="So:", batch_size=3)


def test_steps_of_s1s_commands():
    """`eval/commands.sh`: thinking in counted steps."""
    kwargs = {
        "thinking_start": "<|im_start|>",
        "thinking_end": "<|im_start|>answer",
        "until_thinking": "<|im_start|>0",
    }
    assert read("steps", **kwargs).decode.thinking
    with pytest.raises(UserError, match=r'thinking_start=.* chat="s1", whose is .*think'):
        read("s1", **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"max_token_thinking": 5}, 'max_token_thinking=5 cannot be had: did you mean "max_tokens'),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 cannot be had"),
        ({"num_beams": 4}, "num_beams=4 cannot be had"),
        ({"max_tokens_thinking": "much"}, "max_tokens_thinking='much' must be a whole number"),
        ({"max_gen_toks": 2.5}, "max_gen_toks=2.5 must be a whole number"),
        ({"max_gen_toks": True}, "max_gen_toks=True must be a whole number"),
        ({"max_gen_toks": float("inf")}, "must be a whole number"),
        ({"max_gen_toks": 0}, "max_answer_tokens=0 must be at least 1"),
        ({"temperature": "hot"}, "temperature='hot' must be a number"),
        ({"temperature": True}, "temperature=True must be a number"),
        ({"temperature_thinking": False}, "temperature_thinking=False must be a number"),
        ({"do_sample": "maybe"}, "do_sample='maybe' must be true or false"),
        ({"do_sample": 2}, "do_sample=2 must be true or false"),
        ({"do_sample": [True]}, "do_sample=[True] must be true or false"),
        ({"temperature": -1}, "temperature=-1.0 must be at least 0"),
        ({"top_k": 0.5}, "top_k=0.5 must be a whole number"),
        ({"thinking_n_ignore_str": ""}, "holds an empty string"),
        ({"rejection_sample": True}, "rejection_sample needs max_tokens_thinking"),
        ({"rejection_sample": 2, "max_tokens_thinking": 9}, "all tries are the same"),
        (
            {"rejection_sample": 1, "max_tokens_thinking": 9, "temperature": 1},
            "rejection_sample=1 is no limit in s1 and would be a single try here: give true",
        ),
        ({"until_thinking": ["<|im_start|>", "x"]}, "until_thinking=['<|im_start|>', 'x'] cannot"),
        ({"until_thinking": []}, "until_thinking=[] cannot be had"),
        ({"thinking_end": ["<|im_start|>answer"]}, "thinking_end=['<|im_start|>answer'] cannot"),
        ({"until": 5}, "until=5 must be a string or a list of strings"),
        ({"until": ["a", 5]}, "must be a string or a list of strings"),
        ({"until_thinking": "<|im_end|>"}, "until_thinking='<|im_end|>' cannot be had"),
        ({"thinking_start": "<think>"}, "whose is '<|im_start|>think'; other chats are llama3, "),
    ],
)
def test_what_cannot_be_had_is_refused(kwargs, sentence):
    with pytest.raises(UserError) as error:
        read(**kwargs)
    assert sentence in str(error.value) and str(error.value).startswith("gen_kwargs: ")


pieces = st.text("ab\n", min_size=1, max_size=3)


@given(st.lists(pieces, max_size=12), st.lists(pieces, max_size=3))
def test_stopping_at_tokens_changes_no_text(tokens, until):
    """Of decoding that ends where the last token completes one of the strings."""
    assert stopped(tokens, until, [u for u in until if can_stop(u, until)]) == cut(
        "".join(tokens), until
    )


def stopped(tokens, until, stops):
    for end in range(len(tokens)):
        for begin in range(end + 1):
            if "".join(tokens[begin : end + 1]) in stops:
                return cut("".join(tokens[:begin]), until)
    return cut("".join(tokens), until)


def test_some_strings_may_not_stop_decoding():
    tokens, until = ["a", "\n", "\n\n"], ["\n\n"]
    assert cut("".join(tokens), until) == "a" != stopped(tokens, until, until)
    assert not can_stop("\n\n", until) and can_stop("\n", ["\n"])
    assert can_stop("Question:", ["Question:", "</s>", "<|im_end|>"])


# --- Arguments of the model, and the command ---


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"chta": "s1"}, 'model_args: chta is no argument: did you mean "chat"?'),
        ({"trust_remote_code": True}, "model_args: trust_remote_code is no argument"),
        ({"chat": "s2"}, 'model_args: 1 problem\n  model.chat="s2" is unknown'),
        ({"dtype": "int8"}, 'model.compute_dtype="int8" is unknown'),
        ({"mesh.tensr": 2}, "mesh.tensr is not a field"),
        ({"parity": "readme"}, "parity must be none or evaluator"),
        ({"max_length": 4096}, "max_length=4096 must be 2 to 512, the model's context"),
        ({"max_length": "long"}, "max_length='long' must be 2 to 512"),
        ({"max_gen_toks": 0}, "max_gen_toks=0 must be at least 1"),
        ({"config": "no.py"}, "--config=no.py: there is no such file"),
        ({"pretrained": "no/where/at/all"}, "no/where/at/all"),
        ({"pretrained": None}, "pretrained is missing: for example pretrained=mini"),
        ({"chat": "think"}, "has no token </think>"),
    ],
)
def test_wrong_arguments_are_sentences(script, arguments, sentence):
    with pytest.raises(UserError) as error:
        lm_of(script, **arguments)
    assert sentence in str(error.value)


def test_a_config_is_where_arguments_start_from(script, tmp_path):
    from s1jax.harness_model import config_of

    file = tmp_path / "c.py"
    file.write_text(
        "from s1jax import config\n\n\ndef get_config():\n    c = config.default()\n"
        "    c.model.path = 'a'\n    c.model.revision = 'b'\n    c.decode.force_string = 'So:'\n"
        "    c.model.compute_dtype = 'float32'\n    c.decode.batch_size = 3\n    return c\n"
    )
    arguments = {"config": str(file), "dtype": "auto", "batch_size": "auto:4"}
    cfg = config_of(arguments)
    assert (cfg.model.path, cfg.model.revision) == ("a", "b")
    assert (cfg.model.compute_dtype, cfg.decode.batch_size) == ("float32", 3)
    cfg = config_of(arguments | {"pretrained": str(script), "batch_size": 5, "seed": 1})
    assert (cfg.model.path, cfg.model.revision) == (str(script), None)
    assert (cfg.decode.batch_size, cfg.seed, cfg.decode.force_string) == (5, 1, "So:")
    assert config_of({"pretrained": "x", "mesh.tensor": 2}).mesh == replace(config.Mesh(), tensor=2)


def test_the_embedded_model_needs_no_path(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lm = lm_of("mini")
    assert lm.max_length == 1024 and lm.tokenizer_name.startswith("s1jax-")
    assert lm.eot_token_id == lm.prefix_token_id == lm.tok_encode("<|im_end|>")[0]


def test_one_process_is_one_process(script, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(UserError, match="SLURM_NTASKS says that this is one of several"):
        lm_of(script)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model=hf", "--tasks=x"], "--model is s1jax here"),
        (["--model_args=pretrained=mini"], "--tasks is missing"),
        (["--tasks=x", "--log_samples"], "lm_eval: Specify --output_path"),
    ],
)
def test_wrong_commands_are_sentences(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        harness.main(["harness", *flags])


def python(program, *flags):
    return subprocess.run(
        [sys.executable, "-c", program, *flags], capture_output=True, text=True, cwd=ROOT
    )


WITHOUT = "import sys; sys.modules['lm_eval'] = None\nfrom s1jax import cli, harness\n"


def test_without_lm_eval_there_is_help_and_a_sentence():
    done = python(WITHOUT + "cli.run(harness.main)", "--help")
    assert done.returncode == 0 and "--model_args:" in done.stdout, done.stderr
    done = python(WITHOUT + "cli.run(harness.main)", "--tasks=x")
    assert done.returncode == cli.USER_ERROR
    assert done.stderr.startswith("error: lm_eval cannot be imported")
    assert done.stderr.endswith("pip install 's1jax[harness]'\n")


def test_help_loads_no_jax():
    libraries = "'jax' in sys.modules, 'lm_eval' in sys.modules"
    done = python(f"import sys\nfrom s1jax import harness\nprint({libraries})")
    assert done.stdout == "False True\n", done.stderr


def test_lm_evals_other_models_stay_known():
    from lm_eval.api.registry import model_registry

    harness.register()
    assert {"s1jax", "hf", "vllm"} <= set(model_registry.keys())
