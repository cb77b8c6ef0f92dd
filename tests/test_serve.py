"""The server by the real client: what it answers, what it refuses, and whom it outlives."""

import argparse
import asyncio
import concurrent.futures
import importlib.util
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from fakes_script import ENDLESS, config_file, script_config, write_script
from fakes_serve import NAME, deltas, serving, told
from fakes_train import environment, write_world
from hypothesis import given
from hypothesis import strategies as st

from s1jax import serve
from s1jax.asking import ask, open_model
from s1jax.config import Decode
from s1jax.decoding import engine as engine_module
from s1jax.decoding.budget import ANSWER, CLOSED, INSERTED, NOTHING, THOUGHT, Rules
from s1jax.decoding.cache import bucket
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import History, Output, Request
from s1jax.generations import Prompt
from s1jax.mesh import make_mesh
from s1jax.models.cache import empty_cache
from s1jax.progress import format_bytes
from s1jax.serving import memory
from s1jax.serving import server as server_module
from s1jax.serving.asks import Limits, limits_of, requests_of
from s1jax.serving.choice import Choice
from s1jax.serving.protocol import ChatRequest, Message, Refused, parse
from s1jax.serving.worker import Worker
from s1jax.types import UserError

openai = pytest.importorskip("openai")

USER = [{"role": "user", "content": "What?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_script(tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="module")
def script(model):
    """A server whose model thinks "go é;" and answers 12."""
    with serving(script_config(model, serve__port=0, serve__max_samples=4)) as running:
        yield running


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A server whose model thinks "go.gogo..." for ever, and answers 98 when it is made to."""
    path = write_script(tmp_path_factory.mktemp("endless"), ENDLESS)
    fields = {"decode__max_thinking_tokens": 400, "decode__batch_size": 2}
    with serving(script_config(path, serve__port=0, serve__max_queue=3, **fields)) as running:
        yield running


@pytest.fixture(scope="module")
def dice(tmp_path_factory):
    """A server of a random model at temperature 1: all kinds of text, by the seed."""
    world = write_world(tmp_path_factory.mktemp("dice"), examples=1)
    fields = {
        "decode__temperature": 1.0,
        "decode__max_thinking_tokens": 24,
        "decode__max_answer_tokens": 12,
        "decode__batch_size": 8,
        "serve__max_body_bytes": 20_000,
    }
    with serving(script_config(world.model, serve__port=0, **fields)) as running:
        yield running


# --- What is answered ---


def test_an_answer_has_thinking_content_and_usage(script):
    reply = script.ask()
    choice = reply.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "12")
    assert (choice.message.reasoning_content, choice.finish_reason) == ("go é;", "stop")
    [request] = script.model.requests([Prompt("p", "What?", script.model.cfg.decode)])
    closing = len(script.model.delimiters.close)
    usage = reply.usage
    assert usage.prompt_tokens == len(request.prompt)
    assert usage.completion_tokens_details.reasoning_tokens == 6
    assert usage.completion_tokens == 6 + closing + 2
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (reply.model, reply.object) == (NAME, "chat.completion")
    assert reply.id != script.ask().id


def test_a_stream_is_the_same_in_parts(script):
    chunks = list(script.ask(stream=True, stream_options={"include_usage": True}))
    first, *parts, last = deltas(chunks)
    assert first == {"role": "assistant", "content": ""} and last == {}
    names = [name for part in parts for name in part]
    assert names == sorted(names, reverse=True)  # the thinking first
    assert "".join(part.get("reasoning_content", "") for part in parts) == "go é;"
    assert "".join(part.get("content", "") for part in parts) == "12"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert not chunks[-1].choices and chunks[-1].usage == script.ask().usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in script.ask(stream=True))


def test_a_stream_comes_while_it_is_made(endless):
    began, times = time.monotonic(), []
    for chunk in endless.ask(stream=True, thinking_token_budget=300):
        if chunk.choices and chunk.choices[0].delta.model_dump().get("reasoning_content"):
            times.append(time.monotonic() - began)
    assert len(times) >= 300 // 8 - 1  # a segment has 8 steps
    assert times[0] < times[-1] / 2


def test_ends_are_ignored_as_it_is_asked(script):
    reply = script.ask(ignore_ends=2)
    assert reply.choices[0].message.reasoning_content == "go é;Wait34Wait34"
    assert reply.usage.completion_tokens_details.reasoning_tokens == 14
    other = script.ask(ignore_ends=1, ignore_strings=["Hmm", "Wait"])
    assert other.choices[0].message.reasoning_content.startswith("go é;Hmm")
    assert script.ask(ignore_ends=0).choices[0].message.reasoning_content == "go é;"


@pytest.mark.parametrize("budget", [1, 6, 7])
def test_a_budget_is_obeyed(endless, budget):
    reply = endless.ask(thinking_token_budget=budget)
    assert reply.usage.completion_tokens_details.reasoning_tokens == budget
    assert reply.choices[0].message.content == "Final Answer:98"
    assert len(reply.choices[0].message.reasoning_content) < 3 * budget
    assert reply.choices[0].finish_reason == "stop"


def test_a_minimum_is_obeyed(script):
    least = script.ask(min_thinking_tokens=20).usage.completion_tokens_details.reasoning_tokens
    assert least >= 20 > script.ask().usage.completion_tokens_details.reasoning_tokens


@pytest.mark.parametrize("limit", [24, 40, 60])
def test_all_that_is_written_is_within_its_limit(endless, limit):
    for name in ("max_tokens", "max_completion_tokens"):
        reply = endless.ask(**{name: limit})
        thinking = reply.usage.completion_tokens_details.reasoning_tokens
        assert reply.usage.completion_tokens <= limit
        assert 0 < thinking < limit and reply.choices[0].message.content
    assert endless.ask(thinking_token_budget=200).usage.completion_tokens > 200  # the control


def test_an_answer_alone(script):
    """The model thinks whenever it can: only a thinking that is closed keeps it from that."""
    for off in (
        {"thinking": False},
        {"thinking": {"type": "disabled"}},
        {"reasoning_effort": "none"},
    ):
        reply = script.ask(**off)
        message = reply.choices[0].message
        assert not hasattr(message, "reasoning_content")
        assert (message.content, reply.choices[0].finish_reason) == ("12", "stop")
        assert reply.usage.completion_tokens_details.reasoning_tokens == 0
        assert reply.usage.completion_tokens == 2
        chunks = deltas(script.ask(**off, stream=True))
        assert "".join(chunk.get("content", "") for chunk in chunks) == "12"
        assert not any("reasoning_content" in chunk for chunk in chunks)
    short = script.ask(thinking=False, max_tokens=1)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("1", "length")
    thought = script.ask(thinking={"type": "enabled"}).choices[0].message
    assert thought.reasoning_content == "go é;"


def test_a_model_that_is_not_to_think_gets_its_prompt_alone(model):
    """With decode.thinking=False it is one that does not know how, as a base model."""
    shown = {}
    for thinks in (True, False):
        opened = open_model(script_config(model, decode__thinking=thinks))
        for wanted in (True, False):
            decode = replace(opened.cfg.decode, thinking=wanted)
            [request] = requests_of(opened, ChatRequest((Message("user", "?"),), decode), 1)
            text = "".join(opened.tokenizer.decode_pieces(request.prompt))
            shown[thinks, wanted] = text.partition("<|im_start|>assistant\n")[2]
    opening = "<|im_start|>think"
    closed = f"{opening}\n\n<|im_start|>answer"
    assert shown == {
        (True, True): opening,
        (True, False): closed,
        (False, True): opening,
        (False, False): "",
    }


@pytest.mark.parametrize(
    ("stop", "content"), [("2", "1"), (["12"], ""), (["x", "2", "12"], ""), (["123", "x"], "12")]
)
def test_stop_strings_cut_the_content(script, stop, content):
    reply = script.ask(stop=stop)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (content, "stop")
    assert reply.choices[0].message.reasoning_content == "go é;"
    parts = deltas(script.ask(stop=stop, stream=True))
    assert "".join(part.get("content", "") for part in parts) == content


def test_several_samples_are_those_of_their_seeds(dice):
    one, again, other = (dice.ask(n=3, seed=seed) for seed in (5, 5, 6))

    def texts(reply):
        return [(c.message.reasoning_content, c.message.content) for c in reply.choices]

    assert [choice.index for choice in one.choices] == [0, 1, 2]
    assert texts(one) == texts(again) != texts(other)
    assert len(set(texts(one))) == 3
    assert one.usage.prompt_tokens == dice.ask(n=1).usage.prompt_tokens
    grown: dict[int, str] = {}
    for chunk in dice.ask(n=3, seed=5, stream=True):
        choice = chunk.choices[0]
        grown[choice.index] = grown.get(choice.index, "") + (choice.delta.content or "")
    assert list(dict(sorted(grown.items())).values()) == [content for _, content in texts(one)]
    # Without a seed of its own a request has another one than the one before it.
    assert texts(dice.ask()) != texts(dice.ask())


def generated(running, text, seed, **decode):
    """The first sample of `s1jax.generate` for a line of prompts with this seed."""
    model = running.model
    prompt = Prompt("line", text, replace(model.cfg.decode, **decode), seed)
    [(output, tries)] = ask(running.alone, model.requests([prompt]), model.cfg.decode)
    return model.generation(prompt, output, tries)


@pytest.fixture(scope="module")
def alone(dice):
    """The same model in an engine of one row, which the server knows nothing of."""
    its = dice.engine
    dice.alone = Engine(
        its.static.cfg,
        its.params,
        its.mesh,
        vocab_size=its.static.vocab_size,
        line_ends=its.line_ends[: dice.model.tokenizer.vocab_size],
        rows=1,
    )
    return dice


def parts_of(generation):
    """Thinking and content as the server tells them."""
    content = (generation.forced or "").partition("<|im_start|>answer")[2] + generation.answer
    return generation.thinking.lstrip("\n"), content.lstrip("\n")


def parts(message):
    return message.reasoning_content, message.content


def test_answers_are_those_of_generate(alone):
    for seed, text in enumerate(["What?", "What is 1 + 1?", "é 漢 <|im_end|>"]):
        message = alone.ask(text, seed=seed).choices[0].message
        assert parts(message) == parts_of(generated(alone, text, seed))
        assert parts(message) != parts_of(generated(alone, text, seed + 1))
        longer = alone.ask(text, seed=seed, thinking_token_budget=30, ignore_ends=2)
        wanted = generated(alone, text, seed, max_thinking_tokens=30, ignore_ends=2)
        assert parts(longer.choices[0].message) == parts_of(wanted)


def test_a_conversation_is_more_than_its_last_question(script, dice):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "12", "reasoning_content": "dropped", "tool_calls": None},
        {"role": "user", "content": "Why?"},
    ]
    own = script.model.tokenizer.hf.apply_chat_template(
        [{**turns[0]}, USER[0], {"role": "assistant", "content": "12"}, turns[3]],
        add_generation_prompt=True,
        return_dict=False,
        tokenize=True,
    )
    usage = script.ask(messages=turns).usage
    assert usage.prompt_tokens == len(own) + len(script.model.delimiters.start)
    developer = [{**turns[0], "role": "developer"}, *turns[1:]]
    assert script.ask(messages=developer).usage == usage
    first, second = (dice.ask(messages=m, seed=1) for m in (turns, turns[3:]))
    assert first.choices[0].message != second.choices[0].message


def test_the_model_is_listed(script):
    client = script.client()
    assert [model.id for model in client.models.list().data] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    assert script.post(None, "/health", "GET")[::2] == (200, {"status": "ok"})
    status, _, body = script.post(None, "/v1/models/other", "GET")
    assert (status, body["error"]["code"]) == (404, "model_not_found")


# --- What is refused ---


def refusal(running, body, *, status=400, param=None, words="", **headers):
    got, sent, reply = running.post(body, **headers)
    error = reply["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (got, error["param"]) == (status, param), error
    assert re.search(words, error["message"]), error
    return sent, error


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": None}, "model", "^model is missing: 'script' is served here$"),
        ({"model": 3}, "model", "must be a string"),
        ({"messages": None}, "messages", "must be a list that is not empty"),
        ({"messages": []}, "messages", "must be a list"),
        ({"messages": "What?"}, "messages", "must be a list"),
        ({"messages": USER * 1025}, "messages", "1025 entries; it may have 1024"),
        ({"messages": ["What?"]}, "messages[0]", "must be an object, not a string"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", "role=None must be one of system"),
        ({"messages": [{"role": ["user"]}]}, "messages[0].role", "must be one of"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "'tool' must be"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "must be a string .* not null"),
        ({"messages": [{**USER[0], "nam": "me"}]}, "messages[0].nam", "is unknown"),
        (
            {"messages": [{"role": "assistant", "audio": {"id": "a"}}, *USER]},
            "messages[0].audio",
            "",
        ),
        ({"messages": [{"role": "system"}, *USER]}, "messages[0].content", "not null"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
            "text alone",
        ),
        ({"messages": [*USER, {"role": "assistant", "content": "a"}]}, "messages", "the last of"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "the question is empty"),
        (
            {"messages": [{"role": "user", "content": "\ud800"}]},
            "messages[0].content",
            "half of a surrogate pair",
        ),
        ({"messages": [{"role": "user", "content": "a b " * 400}]}, "messages", "context of 512"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported here"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"temprature": 1}, "temprature", 'unknown: did you mean "temperature"'),
        ({"x" * 5000: 1}, "x" * 57 + "...", "is unknown"),
        ({"temperature": 2.5}, "temperature", "must be a number from 0 to 2"),
        ({"temperature": True}, "temperature", "must be a number"),
        ({"temperature": float("nan")}, "temperature", "must be a number"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"min_p": 1}, "min_p", "below 1"),
        ({"top_k": -2}, "top_k", "a whole number of at least -1"),
        ({"repetition_penalty": 1.1}, "repetition_penalty", "not supported"),
        ({"n": 5}, "n", "n=5 must be at most 4"),
        ({"n": 0}, "n", "at least 1"),
        ({"n": 1.0}, "n", "a whole number"),
        ({"seed": "1"}, "seed", "a whole number from"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "1 to 256 characters"),
        ({"stream": 1}, "stream", "true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "for stream=true"),
        ({"stream": True, "stream_options": {"usage": 1}}, "stream_options.usage", "did you mean"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 9, "max_completion_tokens": 8}, "max_tokens", "say the same"),
        ({"max_tokens": 900}, "max_tokens", r"context of 512: max_tokens=\d+ would fit"),
        (
            {"max_tokens": 2, "min_thinking_tokens": 9, "thinking_token_budget": 8},
            "min_thinking_tokens",
            "at most thinking_token_budget=8",
        ),
        ({"thinking_token_budget": 0}, "thinking_token_budget", "at least 1"),
        ({"thinking_token_budget": 600}, "thinking_token_budget", r"_budget=\d+ would fit"),
        (
            {"thinking_token_budget": 90, "max_tokens": 60},
            "thinking_token_budget",
            "leaves nothing to the answer",
        ),
        (
            {"min_thinking_tokens": 9, "thinking_token_budget": 8},
            "min_thinking_tokens",
            "must be at most thinking_token_budget=8",
        ),
        ({"min_thinking_tokens": 600}, "min_thinking_tokens", "would fit"),
        ({"thinking": False, "ignore_ends": 1}, "ignore_ends", "of the thinking, which is off"),
        ({"thinking": "yes"}, "thinking", "true or false"),
        ({"thinking": {"type": "maybe"}}, "thinking.type", '"enabled" or "disabled"'),
        ({"thinking": True, "reasoning_effort": "none"}, "reasoning_effort", "the opposite"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "thinking_token_budget says how much"),
        ({"ignore_strings": ["a"] * 6}, "ignore_strings", r"may be 5 strings of \d+ tokens"),
        ({"ignore_strings": ["a b c d " * 9]}, "ignore_strings", "may be 5 strings"),
        (
            {"ignore_strings": ["Wait", "So<|im_end|>"]},
            "ignore_strings",
            "'<|im_end|>', which is a",
        ),
        ({"ignore_strings": "<|im_start|>answer"}, "ignore_strings", "control token"),
        ({"ignore_ends": 2**31}, "ignore_ends", "whole number"),
    ],
)
def test_a_body_that_cannot_be_obeyed(script, fields, param, words):
    body = {"model": NAME, "messages": USER} | fields
    _, error = refusal(script, body, param=param, words=words)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 700 and str(script.model.tokenizer.path) not in str(error)


def test_what_asks_for_nothing_is_no_mistake(script):
    neutral = {"tools": [], "logprobs": False, "presence_penalty": 0, "user": "me", "top_k": None}
    neutral |= {"response_format": {"type": "text"}, "logit_bias": {}, "stop": None}
    assert script.ask(**neutral).choices[0].message.content == "12"
    neutral = {"metadata": {"a": "b"}, "store": True, "prompt_cache_key": "k", "top_k": -1}
    neutral |= {"safety_identifier": "s", "service_tier": "flex", "repetition_penalty": 1.0}
    assert script.ask(**neutral).choices[0].message.content == "12"


def test_a_reply_may_be_sent_back_as_it_is(script):
    """As clients keep a conversation: the whole message, nulls and all."""
    own = script.ask().choices[0].message.model_dump()
    assert own["refusal"] is None and own["reasoning_content"]
    extra = {"reasoning_details": [{"text": "a"}], "annotations": [{"url": "b"}], "audio": None}
    user = {**USER[0], "name": "me"}

    def tokens(said):
        return script.ask(messages=[user, said, user]).usage.prompt_tokens

    plain = tokens({"role": "assistant", "content": "12"})
    assert tokens(own) == tokens(own | extra) == plain
    assert tokens(own | {"content": None}) == tokens({"role": "assistant", "content": ""}) < plain


@pytest.mark.parametrize("name", ["script", "endless"])
def test_a_probe_of_few_tokens_is_answered(name, request):
    """Too few to close the thinking: it ends there, as any answer that is cut."""
    running = request.getfixturevalue(name)
    own = running.model.delimiters
    closing = max(map(len, (own.close, own.force, own.force_newline)))
    whole = running.ask(max_tokens=100)
    for most in (1, 2, 5, 6, 7, closing, closing + 1):
        reply = running.ask(max_tokens=most)
        choice, usage = reply.choices[0], reply.usage
        thought = usage.completion_tokens_details.reasoning_tokens
        assert 1 <= thought <= usage.completion_tokens <= most
        assert whole.choices[0].message.reasoning_content.startswith(
            choice.message.reasoning_content
        )
        ended = name == "script" and most >= whole.usage.completion_tokens
        assert choice.finish_reason == ("stop" if ended else "length")
        assert thought == (min(most, 6) if name == "script" else most)
        assert choice.message.content == ("12" if ended else choice.message.content)
        chunks = list(running.ask(max_tokens=most, stream=True))
        assert chunks[-1].choices[0].finish_reason == choice.finish_reason
    assert running.ask(max_tokens=2, min_thinking_tokens=9).usage.completion_tokens == 2
    assert running.ask(max_tokens=2, thinking_token_budget=1).usage.completion_tokens == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 15_000, "not JSON"),
        (b"[1]", "must be an object, not a list"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_body_that_is_no_object(script, body, words):
    assert refusal(script, body, words=words)[1]["code"] == "invalid_json"


def test_other_models_paths_and_methods(script):
    body = {"model": "gpt-4", "messages": USER}
    words = "the model 'gpt-4' is not served here, 'script' is"
    _, error = refusal(script, body, status=404, param="model", words=words)
    assert error["code"] == "model_not_found"
    refusal(script, {}, status=404, words="there is nothing here", path="/v1/completions")
    sent, _ = refusal(script, None, status=405, words="GET is not possible", method="GET")
    assert sent["Allow"] == "POST"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:80"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "["}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_a_page_of_another_origin_may_not_ask(script, headers, status):
    assert script.post(None, "/v1/models", "GET", **headers)[0] == status


def test_a_token_is_asked_for(model, capsys):
    with serving(script_config(model, serve__port=0), token="a-secret-é") as running:
        for key in ("none", "a-secret", "a-secret-é1", ""):
            sent, error = refusal(
                running,
                {"model": NAME, "messages": USER},
                status=401,
                words="must be Bearer and this server's token",
                Authorization=f"Bearer {key}".encode().decode("latin1"),
            )
            assert (sent["WWW-Authenticate"], error["type"]) == ("Bearer", "authentication_error")
        assert running.post(None, "/v1/models", "GET")[0] == 401
        assert running.post(None, "/health", "GET")[0] == 200
        key = "Bearer a-secret-é".encode().decode("latin1")
        assert running.post(None, "/v1/models", "GET", Authorization=key)[0] == 200
    assert "a-secret" not in "".join(capsys.readouterr())


def test_the_token_is_needed_where_others_can_ask(model, monkeypatch):
    monkeypatch.delenv("S1JAX_TOKEN", raising=False)
    monkeypatch.setattr(Engine, "__init__", None)
    for host in ("0.0.0.0", "", "192.168.0.1", "example.org", "::"):
        with pytest.raises(UserError, match="can be reached from elsewhere: set S1JAX_TOKEN"):
            serve.opened(script_config(model, serve__host=host))
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        assert serve.token_of(script_config(model, serve__host=host)) is None
    monkeypatch.setenv("S1JAX_TOKEN", "abc")
    assert serve.token_of(script_config(model, serve__host="0.0.0.0")) == "abc"
    monkeypatch.setenv("S1JAX_TOKEN", "abc\n")
    with pytest.raises(UserError, match="printable ASCII"):
        serve.token_of(script_config(model))


def test_what_no_server_can_do(model, monkeypatch):
    monkeypatch.setattr(Engine, "__init__", None)
    with pytest.raises(UserError, match=r"decode\.parity='evaluator': a server has 'none' only"):
        serve.opened(script_config(model, decode__parity="evaluator"))
    tries = {"decode__rejection_tries": 2, "decode__temperature": 1.0}
    with pytest.raises(UserError, match=r"decode\.rejection_tries=2"):
        serve.opened(script_config(model, **tries))
    several = {"decode__samples": 4, "decode__temperature": 1.0}
    with pytest.raises(UserError, match=r"decode\.samples=4: a server has 1 only; a request says"):
        serve.opened(script_config(model, **several))
    with pytest.raises(UserError, match=r"every request would be refused: serve\.max_request_tok"):
        serve.opened(script_config(model, serve__max_request_tokens=3), jax.devices()[:1])


def test_a_cache_that_does_not_fit_is_refused_with_what_would(model, monkeypatch, capsys):
    """Before any weights are read; checked against the arrays that the engine makes."""
    cfg = script_config(model, decode__batch_size=6)
    opened, engine = serve.opened(cfg, jax.devices()[:1])
    said = capsys.readouterr().err
    context = opened.source.cfg.max_positions

    def ring(rows):
        columns = bucket(context + 8)
        cache = empty_cache(opened.source.cfg, rows, columns, "float32")
        return sum(x.nbytes for x in jax.tree.leaves(cache)) - 4  # without the column itself

    weights = sum(x.nbytes for x in jax.tree.leaves(engine.params))
    assert f"up to {format_bytes(ring(6))} on each device, for 6 rows of the whole" in said
    monkeypatch.setattr(Engine, "__init__", None)

    def opens(limit, **fields):
        wants = script_config(model, decode__batch_size=6, **fields)
        with pytest.raises((UserError, TypeError)) as raised:
            serve.opened(wants, jax.devices()[:1], lambda device: {"bytes_limit": limit})
        return str(raised.value)

    assert "NoneType" in opens(weights + 2 * ring(6))  # it fits, and the engine is made
    for rows in (5, 1):
        words = opens(weights + 2 * ring(rows + 1) - 1)
        assert words.startswith("decode.batch_size=6: the cache of 6 rows of the whole context")
        assert words.endswith(f"that there are: decode.batch_size={rows} would fit")
    assert opens(weights + 2 * ring(1) - 1).endswith("mesh.tensor would hold more")
    strictly = opens(weights + 2 * ring(8) - 1, decode__strict=True)
    assert "8 rows of" in strictly
    assert strictly.endswith("decode.strict=False and decode.batch_size=7 would fit")


def test_parts_of_a_cache_on_a_mesh_are_counted(model):
    """Rows over fsdp, kv heads over tensor: what lies on a device is what it must have."""
    cfg = open_model(script_config(model)).source.cfg
    mesh = make_mesh(replace(script_config(model).mesh, fsdp=4, tensor=2), jax.devices()[:8])
    whole = make_mesh(script_config(model).mesh, jax.devices()[:1])

    def counted(mesh, rows):
        return memory.cache_bytes(cfg, mesh, rows, 256, "bfloat16")

    kv = 2 * cfg.layers * 8 * cfg.kv_heads * 256 * cfg.head_dim * 2
    assert counted(whole, 8) == kv + 2 * 8 * 256 * 4
    assert counted(mesh, 8) == kv // 8 + 2 * 2 * 256 * 4
    parts, alone = (memory.parameter_bytes(cfg, m, "bfloat16") for m in (mesh, whole))
    assert alone / 2 <= parts < alone  # norms lie whole on each


@pytest.mark.slow
def test_a_warm_server_compiles_nothing_more(tmp_path, caplog, capsys):
    path = write_script(tmp_path, max_position_embeddings=160)
    names = r"Compiling jit\((decode|admit|prefill|resize|halt)\)"

    def compiled(**fields):
        with serving(script_config(path, serve__port=0, **fields)) as running:
            caplog.clear()
            jax.config.update("jax_log_compiles", True)  # in all threads, the engine's too
            for text in ("What?", "What is " * 9, "What is " * 20):
                assert running.ask(text, n=2).choices[0].message.content == "12"
                running.ask(text, min_thinking_tokens=15, max_tokens=38)
            jax.config.update("jax_log_compiles", False)
        return re.findall(names, caplog.text)

    assert not compiled(serve__warm_up=True, decode__batch_size=1)
    assert re.search(r"warm up: 7/7 sizes", capsys.readouterr().err)
    assert compiled(decode__batch_size=3)  # the control: no other test has as many rows


def test_a_body_is_limited_in_size_and_time(dice, monkeypatch):
    body = {"model": NAME, "messages": [{"role": "user", "content": "x" * 30_000}]}
    refusal(dice, body, status=413, words="larger than 20000 bytes")
    chunked = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    with dice.connect() as lying:
        lying.sendall(chunked + b"Transfer-Encoding: chunked\r\n\r\n")
        lying.sendall((b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 2)
        assert b" 413 " in lying.recv(1000)
    monkeypatch.setattr(server_module, "BODY_S", 0.2)
    with dice.connect() as slow:
        slow.sendall(chunked + b"Content-Length: 100\r\n\r\n{")
        assert b" 408 " in slow.recv(1000)


def test_a_full_queue_says_when_to_come_again(endless):
    slow = [endless.ask(stream=True) for _ in range(3)]
    sent, error = refusal(
        endless, {"model": NAME, "messages": USER}, status=429, words="^3 samples wait or run"
    )
    assert int(sent["Retry-After"]) >= 1 and error["type"] == "rate_limit_error"
    for stream in slow:
        stream.close()
    endless.wait_until_idle()
    assert endless.ask(thinking_token_budget=3).choices[0].message.content == "Final Answer:98"


def test_samples_are_counted_and_not_requests(endless):
    one = endless.ask(stream=True)
    two = {"model": NAME, "messages": USER, "thinking_token_budget": 3, "n": 2}
    assert endless.post(two)[0] == 200
    words = "^1 samples wait or run already, and there is room for 2 more; come again"
    refusal(endless, two | {"n": 3}, status=429, words=words)
    refusal(endless, two | {"n": 4}, param="n", words="n=4 must be at most 3")  # it never would fit
    one.close()
    endless.wait_until_idle()
    assert endless.post(two | {"n": 3})[0] == 200


def test_who_is_slow_to_ask_holds_no_place(endless):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Length: 99\r\n\r\n{"
    slow = [endless.connect() for _ in range(9)]
    for client in slow:
        client.sendall(head)
    time.sleep(0.2)  # until they are all read as far as they go
    for _ in range(3):
        assert endless.ask(thinking_token_budget=3).choices[0].message.content
    for client in slow:
        client.close()


def test_all_samples_of_a_request_have_one_limit(model):
    with serving(script_config(model, serve__port=0, serve__max_request_tokens=80)) as running:
        for n in (1, 2):
            reply = running.ask(n=n, min_thinking_tokens=15)
            assert n * 15 < reply.usage.completion_tokens <= 80
        body = {"model": NAME, "messages": USER}
        words = "max_tokens=41: .* leaves 40 tokens to each of 2 samples: max_tokens=40 would fit"
        refusal(running, body | {"n": 2, "max_tokens": 41}, param="max_tokens", words=words)
        assert running.ask(n=2, max_tokens=40).usage.completion_tokens <= 80
        words = r"leaves 10 tokens to each of 8 samples, which needs at least \d+: n=\d would fit"
        _, error = refusal(running, body | {"n": 8}, param="n", words=words)
        assert running.post(body | {"n": int(error["message"].split("n=")[-1][0])})[0] == 200
        words = r"thinking_token_budget=79 leaves nothing to the answer"
        wants = {"thinking_token_budget": 79}
        _, error = refusal(running, body | wants, param="thinking_token_budget", words=words)
        assert error["code"] == "invalid_value"


class Idle(Engine):
    """It runs nothing: its worker is asked what it would hand over."""

    def __init__(self):
        pass

    def run(self, *_, **__):
        return iter(())


def nothing(*_):
    pass


def asking(worker, name, count=1):
    worker.ask([Request(f"{name}{n}", (1,), Rules(1, 1)) for n in range(count)], nothing)


LOOP = asyncio.new_event_loop()  # in which nothing runs


def ids(some):
    return [request.id for request in some]


def test_rows_go_to_one_sample_of_each_request_in_turn():
    worker = Worker(Idle(), [], LOOP, nothing)
    for name, count in {"a": 3, "b": 1, "c": 2}.items():
        asking(worker, name, count)
    assert worker.samples == 6
    assert ids(worker.coming(9)) == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert ids(worker.take(2, False)) == ["a0", "b0"]
    asking(worker, "d")
    assert ids(worker.coming(3)) == ["c0", "a1", "d0"]
    worker.give_up(["a1", "c0", "c1", "b0"])
    assert worker.given_up() == {"b0"}  # it alone was handed over
    assert ids(worker.take(9, False)) == ["a2", "d0"]
    assert ids(worker.take(9, False)) == ids(worker.coming(9)) == []


@given(st.lists(st.integers(1, 5), max_size=6), st.lists(st.integers(0, 4), max_size=30))
def test_what_is_coming_is_what_is_taken(counts, frees):
    worker = Worker(Idle(), [], LOOP, nothing)
    for n, count in enumerate(counts):
        asking(worker, f"{n}/", count)
    taken = []
    for free in frees:
        wanted = ids(worker.coming(free))
        assert wanted == ids(worker.take(free, False))
        taken += wanted
    # Nobody has two samples more than another one who still waits.
    for at in range(len(taken)):
        so_far = [sum(i.startswith(f"{n}/") for i in taken[: at + 1]) for n in range(len(counts))]
        waits = [had for had, count in zip(so_far, counts, strict=True) if had < count]
        assert not waits or max(so_far) <= min(waits) + 1


def test_a_short_request_is_not_kept_by_long_ones(tmp_path):
    path = write_script(tmp_path, ENDLESS)
    fields = {"decode__batch_size": 2, "serve__max_queue": 97, "decode__max_thinking_tokens": 12}
    ended = []
    with serving(script_config(path, serve__port=0, **fields)) as running:

        def asks(name, n):
            running.ask(name, n=n)
            ended.append((name, running.server._worker.samples))

        long = [threading.Thread(target=asks, args=(f"long {n}", 16)) for n in range(6)]
        for thread in long:
            thread.start()
        end = time.monotonic() + 60
        while running.server._numbers < 6 and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(0.05)
        asks("short", 1)
        for thread in long:
            thread.join(60)
    assert [name for name, _ in ended].index("short") == 0
    assert ended[0][1] > 48  # of 97, when the short one had its answer
    assert len(ended) == 7


# --- Whom it outlives ---


def test_who_hangs_up_frees_the_row(endless):
    before = endless.engine.counts.tokens
    for streams in (True, False):
        with endless.connect() as client:
            body = {"model": NAME, "messages": USER, "stream": streams, "n": 2}
            client.sendall(told(endless, body | {"thinking_token_budget": 400}))
            time.sleep(0.05)
        endless.wait_until_idle()
    assert endless.engine.counts.tokens - before < 2 * 400  # of 1,600


@pytest.mark.parametrize("segment", [1, 3, 8])
@given(data=st.data())
def test_a_sample_is_told_alike_however_it_comes(script, segment, data):
    """Pieces of any size, whole characters, no part of a stop string, and the same counts."""
    tokenizer, chat = script.model.tokenizer, script.model.chat
    words = st.sampled_from(["a", "ab", " go", "é", "漢字", "\n", "b\n\n", "Wait"])
    thinking, answer = (
        tokenizer.text.encode("".join(data.draw(st.lists(words, max_size=8)))).ids for _ in "ab"
    )
    forced = data.draw(st.booleans())
    delimiters = script.model.delimiters
    closing = delimiters.force if forced else delimiters.close
    kinds = [THOUGHT] * len(thinking) + [CLOSED] * len(closing) + [ANSWER] * len(answer)
    tokens = [*thinking, *closing, *answer]
    if data.draw(st.booleans()):
        inserted = tokenizer.text.encode("Wait").ids
        thinking = [*inserted, *thinking]
        tokens, kinds = inserted + tokens, [INSERTED] * len(inserted) + kinds
    stop = data.draw(st.lists(st.sampled_from(["ab", "aba", "漢", "\n\nWait", "bb"]), max_size=2))
    request = Request("r", (1,), Rules(99, 99, ends=((1, 2, 3),)))
    output = Output(request, tuple(tokens), tuple(kinds), (), forced, "length")

    def run(size):
        choice, reasoning, content = Choice(tokenizer, chat, request, stop), "", ""
        for at in range(0, len(tokens) + 1, size):
            here = slice(at, at + size)
            padding = [0] * (size - len(tokens[here]))
            columns = (tokens[here] + padding, kinds[here] + [NOTHING] * len(padding))
            token, kind = (np.array(column, np.int32) for column in columns)
            delta = choice.feed(History(token, kind, np.zeros_like(kind), np.zeros_like(kind)))
            assert "�" not in delta.content + delta.reasoning_content
            reasoning, content = reasoning + delta.reasoning_content, content + delta.content
        delta = choice.end(output)
        reasoning, content = reasoning + delta.reasoning_content, content + delta.content
        assert (choice.reasoning_content, choice.content) == (reasoning, content)
        return reasoning, content, choice.finish, choice.completion_tokens, choice.reasoning_tokens

    whole = "".join(tokenizer.decode_pieces(answer))
    whole = ("Final Answer:" * forced + whole).lstrip("\n")
    cuts = [whole.find(s) for s in stop if s in whole]
    reasoning, content, finish, written, thought = told_so = run(segment)
    assert told_so == run(len(tokens) + 1)
    assert content == (whole[: min(cuts)] if cuts else whole)
    assert finish == ("stop" if cuts else "length")
    assert thought == len(thinking) and (cuts or written == len(tokens))
    assert reasoning == "".join(tokenizer.decode_pieces(thinking)).lstrip("\n")


def test_64_clients_get_what_they_would_get_alone(alone):
    """Some hang up, one sends garbage, one is slow, and one sends nothing at all."""
    texts = [f"What is {n} + {n * 7 % 11}?" for n in range(64)]
    wanted = [generated(alone, text, n) for n, text in enumerate(texts)]

    def answered(number):
        text, seed = texts[number], number
        if number % 4 == 1:  # hangs up after the first chunks
            stream = alone.ask(text, seed=seed, stream=True, thinking_token_budget=200)
            for _ in range(number % 3):
                next(iter(stream))
            stream.close()
            return None
        if number % 4 == 3:
            grown = deltas(alone.ask(text, seed=seed, stream=True))
            names = ("reasoning_content", "content")
            return tuple("".join(delta.get(name, "") for delta in grown) for name in names)
        return parts(alone.ask(text, seed=seed).choices[0].message)

    with alone.connect() as silent, alone.connect() as slow, alone.connect() as garbage:
        garbage.sendall(bytes(range(256)) * 20)
        slow_body = told(alone, {"model": NAME, "messages": USER, "seed": 1})
        slow.sendall(slow_body[:40])
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            found = list(pool.map(answered, range(64)))
        for byte in slow_body[40:]:
            slow.sendall(bytes([byte]))
        reply = slow.recv(100_000)
        assert b" 200 " in reply.splitlines()[0]
        assert b" 400 " in garbage.recv(1000).splitlines()[0]
        silent.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in silent.recv(1000)
    assert found.count(None) == 16
    for number, text in enumerate(found):
        if text is not None:
            assert text == parts_of(wanted[number]), number
            assert text != parts_of(wanted[(number + 1) % 64])
    alone.wait_until_idle()


def test_who_does_not_read_is_cut_off(monkeypatch):
    monkeypatch.setattr(server_module, "WRITE_S", 0.05)
    cut = []

    class Full:
        transport = type("T", (), {"abort": lambda self: cut.append(True)})()

        async def write(self, data):
            await asyncio.sleep(10 if len(data) > 100 else 0)

    async def send(text):
        await server_module._send(Full(), Full(), [{"a": text}])

    asyncio.run(send("short"))
    assert not cut
    with pytest.raises(ConnectionResetError, match="does not read"):
        asyncio.run(send("long" * 100))
    assert cut


def test_one_line_a_request_and_no_text(script, capfd):
    capfd.readouterr()
    script.ask("A secret question")
    script.post(b"{secret")
    script.post(None, "/secret", "GET")
    lines = capfd.readouterr().err.splitlines()
    tokens = r"tokens: \d+ \+ 6 of thinking \+ \d+"
    assert re.fullmatch(rf"POST /v1/chat/completions 200 {tokens} in \d+\.\d\d s", lines[0])
    assert lines[1].startswith("POST /v1/chat/completions 400 in ")
    assert lines[2].startswith("GET (another path) 404 in ")
    assert len(lines) == 3 and "secret" not in str(lines)


def test_an_engine_that_fails_ends_the_server(model, monkeypatch):
    class Broken(Exception):
        pass

    def segment(_):
        raise Broken("of a test")

    with serving(script_config(model, serve__port=0)) as running:
        stream = running.ask(stream=True, min_thinking_tokens=400)
        next(iter(stream))
        monkeypatch.setattr(engine_module._Run, "_segment", segment)
        with pytest.raises(openai.APIError, match="the engine failed; this server ends"):
            list(stream)
    assert [type(error) for error in running.raised] == [Broken]


def test_an_engine_that_fails_is_no_answer(model, monkeypatch):
    with serving(script_config(model, serve__port=0)) as running:
        monkeypatch.setattr(engine_module._Run, "_fill", None)
        _, error = refusal(running, {"model": NAME, "messages": USER}, status=500, words="engine")
        assert error["type"] == "server_error"
    assert [type(error) for error in running.raised] == [TypeError]


# --- The command ---


def command(*flags):
    """`python -m s1jax.serve` in a process of its own."""
    args = [sys.executable, "-m", "s1jax.serve", *flags, "--config.serve.port=0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(args, env=environment(), **pipes)


def test_the_command_serves_until_it_is_told_to_stop(tmp_path):
    path = write_script(tmp_path / "model", ENDLESS)
    config = config_file(tmp_path / "c.py", decode__max_thinking_tokens=400, decode__batch_size=1)
    process = command(f"--config={config}", f"--model={path}")
    try:
        address = re.search(r"http://127.0.0.1:\d+", process.stdout.readline())[0]
        curl = process.stdout.readline().strip()
        assert curl.startswith(f"curl {address}/v1/chat/completions -d '")
        body = curl.partition("-d ")[2].strip("'").encode()
        assert json.loads(body)["model"] == path.name
        body = json.dumps(json.loads(body) | {"stream": True}).encode()
        asked = urllib.request.Request(f"{address}/v1/chat/completions", body)
        with urllib.request.urlopen(asked, timeout=60) as reply:
            assert reply.readline().startswith(b"data: ")  # it is being answered
            process.send_signal(signal.SIGTERM)
            rest = [line.removeprefix(b"data: ") for line in reply.read().splitlines() if line]
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert rest.pop() == b"[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in rest]
    content = "".join(delta.get("content") or "" for delta in deltas)
    assert content.startswith("Final Answer:98")
    assert err.splitlines()[-1] == "stopped" and "Traceback" not in err


def test_an_address_that_is_taken_is_said(model, script):
    port = int(script.address.rpartition(":")[2])
    with (
        pytest.raises(AssertionError, match="ddress already in use"),
        serving(script_config(model, serve__port=port)),
    ):
        pass


def test_the_benchmark_says_why_its_server_did_not_start(tmp_path):
    path = Path(__file__).parent.parent / "benchmarks" / "serve.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_serve", path)
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # its dataclasses look themselves up there
    try:
        spec.loader.exec_module(benchmark)
    finally:
        del sys.modules[spec.name]
    args = argparse.Namespace(rows=-1, thinking=8, answer=4)
    with pytest.raises(RuntimeError, match=r"did not start; it said\n.*\n.*batch_size=-1 must be"):
        benchmark.start(tmp_path, args)


# --- Budgets ---


def asked(max_tokens=None, own=(), **decode):
    fields = {"max_answer_tokens": 40} | decode
    return ChatRequest((Message("user", "?"),), Decode(**fields), frozenset(own), max_tokens)


@pytest.mark.parametrize(
    ("request_", "prompt", "expected"),
    [
        (asked(max_thinking_tokens=100), 12, (100, 0, 40)),  # as configured
        (asked(), 12, (960, 0, 40)),  # all that the answer leaves
        (asked(max_thinking_tokens=100), 912, (75, 0, 40)),  # the context's end is near
        (asked(max_thinking_tokens=100), 1009, (2, 0, 3)),
        (asked(max_thinking_tokens=100, max_tokens=62), 12, (38, 0, 50)),
        (asked(max_tokens=1012), 12, (960, 0, 1000)),
        (asked(62, ["thinking_token_budget"], max_thinking_tokens=49), 12, (49, 0, 50)),
        (
            asked(None, ["min_thinking_tokens"], max_thinking_tokens=10, min_thinking_tokens=30),
            12,
            (30, 30, 40),
        ),
        (asked(max_thinking_tokens=10, min_thinking_tokens=30), 12, (10, 10, 40)),
        (asked(thinking=False, max_tokens=7), 12, (0, 0, 7)),
        (asked(thinking=False), 1000, (0, 0, 24)),
        (asked(max_tokens=14), 12, (1, 0, 2)),
    ],
)
def test_what_a_request_may_write(request_, prompt, expected):
    limits = limits_of(request_, prompt, 1024, 12)
    found = (limits.thinking_tokens, limits.min_thinking_tokens, limits.answer_tokens)
    assert found == expected
    closing = 12 if request_.decode.thinking else 0
    assert limits.written_tokens + closing == (request_.max_tokens or 1024 - prompt)


@pytest.mark.parametrize(
    ("request_", "prompt", "share", "expected"),
    [
        (asked(), 12, 112, Limits(75, 0, 40, 100)),
        (asked(), 12, 5000, limits_of(asked(), 12, 1024, 12)),
        (asked(max_tokens=62), 12, 62, limits_of(asked(max_tokens=62), 12, 1024, 12)),
        (asked(max_tokens=13), 12, None, Limits(13, 0, 13, 13, no_answer=True)),
        (asked(max_tokens=1), 12, 3, Limits(1, 0, 1, 1, no_answer=True)),
        (asked(max_tokens=13, max_thinking_tokens=4), 12, None, Limits(4, 0, 13, 13, True)),
        (asked(max_tokens=13), 1010, None, Limits(2, 0, 2, 2, True)),  # the context is near
        (asked(max_tokens=5, thinking=False), 12, 9, Limits(0, 0, 5, 5)),
    ],
)
def test_a_share_and_no_room_for_an_answer(request_, prompt, share, expected):
    assert limits_of(request_, prompt, 1024, 12, share) == expected


@given(st.integers(1, 200), st.integers(0, 200), st.integers(1, 200), st.integers(0, 9))
def test_budgets_always_leave_an_answer(max_tokens, prompt, thinking, least):
    for own in ([], ["thinking_token_budget"], ["min_thinking_tokens"]):
        decode = {"max_thinking_tokens": thinking, "min_thinking_tokens": least}
        try:
            limits = limits_of(asked(max_tokens, own, **decode), prompt, 256, 5)
        except Refused as refused:
            assert refused.status == 400
            continue
        assert prompt + 5 + limits.written_tokens <= 256
        if max_tokens < 7:
            assert limits.no_answer and 1 <= limits.thinking_tokens <= limits.written_tokens
            assert limits.min_thinking_tokens <= limits.thinking_tokens <= max_tokens
            continue
        assert 1 <= limits.thinking_tokens < limits.written_tokens
        assert limits.min_thinking_tokens <= limits.thinking_tokens
        assert prompt + 5 + limits.written_tokens <= 256
        assert 5 + limits.written_tokens <= max_tokens


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=8,
    ),
    st.sampled_from(["messages", "model", "n", "stop", "thinking", "stream_options", "tools"]),
)
def test_any_body_is_understood_or_refused(value, name):
    body = {"model": NAME, "messages": USER, name: value}
    try:
        parse(json.dumps(body).encode(), NAME, Decode(), 4)
    except Refused as refused:
        assert refused.status in (400, 404)
        json.dumps(refused.body)
