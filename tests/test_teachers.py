"""Each teacher against its server's protocol; what was stored; a model of our own; a program."""

import asyncio
import json
import time
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import fakes_gemini as fakes
import jax
import pytest
from fakes_gemini import FakeTeacher
from fakes_script import script_config
from fakes_train import write_world

from s1jax import generate, mesh
from s1jax.config import Config
from s1jax.curation import open_teacher
from s1jax.curation_config import Teacher
from s1jax.data.asked import (
    ROLES,
    Asked,
    Failed,
    Passing,
    Prompt,
    Refused,
    Reply,
    Unknown,
    delay_of,
    key_of,
    said,
)
from s1jax.data.store import TraceStore
from s1jax.data.teachers import Gemini, OpenAI, Replay
from s1jax.local import Local
from s1jax.mini.pool import Program, pool
from s1jax.types import Trace, UserError, question_id

QUESTION = "What is 2 + 2?"
THINKING, ANSWER = fakes.thinking_of(QUESTION), fakes.answer_of(QUESTION)


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", fakes.KEY)
    monkeypatch.setenv("OPENAI_API_KEY", fakes.KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


def ask(teacher: Asked, *texts: str, sample: int = 0, system: str | None = None) -> list[Any]:
    """A reply, or what was raised, to each text."""

    async def all_of_them() -> list[Any]:
        prompts = [Prompt(question_id(text), text, sample, system) for text in texts]
        try:
            return await asyncio.gather(*map(teacher.ask, prompts), return_exceptions=True)
        finally:
            await teacher.close()

    return asyncio.run(all_of_them())


def gemini(server: FakeTeacher, **fields: Any) -> Gemini:
    cfg = Teacher(via="gemini", model=fakes.MODEL, base_url=server.url, timeout_s=0.4)
    return Gemini(replace(cfg, **fields))


def openai(server: FakeTeacher, **fields: Any) -> OpenAI:
    cfg = Teacher(via="openai", model="r1", base_url=server.url + "/v1", timeout_s=0.4)
    cfg = replace(cfg, key_variable="OPENAI_API_KEY")
    return OpenAI(replace(cfg, **fields))


def reply_of(kind: str, make: Any = gemini, **fields: Any) -> Any:
    """What comes of one request that meets this kind."""
    with FakeTeacher(always={QUESTION: kind}) as server:
        [reply] = ask(make(server, **fields), QUESTION)
        assert len(server.log) == 1, "a call is one request"
        return reply


# --- Gemini ---


@pytest.mark.parametrize("kind", fakes.GOOD)
def test_gemini_tells_thoughts_from_the_answer(kind):
    assert reply_of(kind) == Reply(
        THINKING,
        ANSWER,
        "stop",
        is_summary=True,
        version="gemini-2.5-flash-001",
        prompt_tokens=9,
        thinking_tokens=60,
        answer_tokens=20,
        written_tokens=80,
    )


def test_gemini_is_asked_as_configured():
    with FakeTeacher() as server:
        teacher = gemini(server, temperature=0.3, max_tokens=99, thinking_tokens=50)
        ask(teacher, QUESTION, system="Be brief.")
        [asked] = server.log
    settings = asked.body["generationConfig"]
    assert (settings["temperature"], settings["maxOutputTokens"]) == (0.3, 99)
    assert settings["thinkingConfig"] == {"include_thoughts": True, "thinking_budget": 50}
    assert asked.body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    assert asked.body["contents"] == [{"parts": [{"text": QUESTION}], "role": "user"}]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("SAFETY", ("", "", "blocked", "stopped by SAFETY")),
        ("RECITATION", ("", "", "blocked", "stopped by RECITATION")),
        ("MAX_TOKENS", (THINKING, ANSWER[: len(ANSWER) // 2], "length", "cut at its limit")),
        ("missing thought", ("", ANSWER, "stop", "")),
        ("empty candidates", ("", "", "incomplete", "the reply has no candidates")),
        ("no candidates", ("", "", "incomplete", "the reply has no candidates")),
    ],
)
def test_gemini_says_how_it_ended(kind, expected):
    reply = reply_of(kind)
    assert (reply.thinking, reply.answer, reply.finish, reply.detail) == expected
    assert reply.prompt_tokens == 9


@pytest.mark.parametrize(
    ("kind", "error", "delay_s", "charged"),
    [
        ("429 RetryInfo", Passing, 0.02, False),
        ("429 Retry-After", Passing, 0.02, False),
        ("500", Passing, None, False),
        ("503", Passing, None, False),
        ("504", Passing, None, True),
        ("524", Passing, None, True),
        ("reset", Passing, None, True),
        ("reset halfway", Passing, None, True),
        ("truncated", Passing, None, True),
        ("400", Refused, None, False),
        ("403", Refused, None, False),
        ("blocked prompt", Refused, None, True),
    ],
)
@pytest.mark.parametrize("make", [gemini, openai])
def test_failures_are_told_apart(make, kind, error, delay_s, charged):
    if make is openai and (kind == "blocked prompt" or "RetryInfo" in kind):
        return  # Gemini's alone
    reply = reply_of(kind, make)
    assert type(reply) is error, reply
    assert reply.charged is charged
    assert getattr(reply, "delay_s", None) == delay_s


@pytest.mark.parametrize("make", [gemini, openai])
def test_a_server_that_hangs_is_left(make):
    began = time.monotonic()
    assert isinstance(reply_of("timeout", make), TimeoutError)  # collect.py says what that means
    assert time.monotonic() - began < 1.4


@pytest.mark.parametrize("make", [gemini, openai])
def test_keys_in_messages_are_blacked_out(make):
    assert "[key]" in str(reply_of("500 echo", make))
    assert fakes.KEY not in str(reply_of("500 echo", make))


def test_what_is_wrong_for_all_prompts_is_the_users():
    for make, name in ((gemini, "GEMINI_API_KEY"), (openai, "OPENAI_API_KEY")):
        reply = reply_of("401", make)
        assert isinstance(reply, UserError)
        assert f"refuses the key in {name}: HTTP 401" in str(reply)
        # It may be the region, or the question.
        assert str(reply_of("403", make)).endswith(f" (asked with the key in {name})")
    for make in (gemini, openai):
        reply = reply_of("good", make, model="missing")
        assert "knows no such model or path" in str(reply)
    assert "wants to be paid" in str(reply_of("402", openai))


def test_messages_name_who_was_asked():
    """One model may be teacher and judge."""
    with FakeTeacher(always={QUESTION: "401"}) as server:
        for make in (gemini, openai):
            teacher = make(server)
            teacher.name = f"judge {teacher.name}"
            [error] = ask(teacher, QUESTION)
            assert str(error).startswith(f"judge {'gemini' if make is gemini else 'openai'}:")


@pytest.mark.parametrize("make", [gemini, openai])
@pytest.mark.parametrize("where", ["closed port", "no such name", "no TLS", "no address"])
def test_what_was_not_sent_is_not_charged(where, make):
    with FakeTeacher() as server, fakes.closed_port() as closed:
        port = server.server_address[1]
        url = {
            "closed port": closed,
            "no such name": "http://no-such-host.invalid",
            "no TLS": f"https://127.0.0.1:{port}",
            "no address": "http://127.0.0.1:99999999",
        }[where]
        server.errors.clear()
        # google-genai's own client takes no such address: it raises something else.
        [error] = ask(make(server, base_url=url, timeout_s=5.0), QUESTION)
        assert isinstance(error, Passing)
        assert not error.charged, error
        assert not server.log
        [reset] = ask(make(server, timeout_s=5.0), QUESTION)  # the control: it was sent
        assert isinstance(reset, Reply)


@pytest.mark.parametrize("make", [gemini, openai])
def test_proxies_of_the_environment_are_used(make, monkeypatch):
    with FakeTeacher() as server, fakes.closed_port() as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        [error] = ask(make(server), QUESTION)
        assert "ClientProxyConnectionError" in str(error)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert isinstance(ask(make(server), QUESTION)[0], Reply)


def test_a_key_is_stronger_than_netrc(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with FakeTeacher() as server:
        assert isinstance(ask(openai(server), QUESTION)[0], Reply)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
        with pytest.raises(UserError, match="http_proxy in the environment must begin with"):
            openai(server)


def test_the_thinking_model_of_s1s_time_says_it_in_two_parts():
    """Reference: s1's data/gemini.py reads parts 0 and 1."""
    parts = [{"text": "hmm"}, {"text": "4"}, {"text": "!"}]
    body = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    with FakeTeacher() as server:
        reply = gemini(server, model="gemini-2.0-flash-thinking-exp-1219")._reply(body)
        plain = gemini(server)._reply(body)  # the control: of others it is all answer
    assert (reply.thinking, reply.answer, reply.is_summary) == ("hmm", "4!", False)
    assert (plain.thinking, plain.answer, plain.is_summary) == ("", "hmm4!", False)


# --- OpenAI's protocol ---


@pytest.mark.parametrize(
    "kind", ["good", "reasoning", "tags", "no opening tag", "duplicate answers", "parts", "nested"]
)
def test_thinking_is_found_wherever_a_server_puts_it(kind):
    assert reply_of(kind, openai) == Reply(
        THINKING,
        ANSWER,
        "stop",
        version="r1-001",
        prompt_tokens=9,
        thinking_tokens=60,
        answer_tokens=20,
        written_tokens=80,
    )


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("good", (60, 20, 80)),
        ("no details", (None, None, 80)),  # of the thinking nobody says how much it is
        ("none by details", (None, None, 80)),
        ("no details, no thinking", (None, 80, 80)),
        ("usage is text", (None, None, None)),
    ],
)
def test_tokens_are_those_that_were_counted(kind, counts):
    reply = reply_of(kind, openai)
    assert (reply.thinking_tokens, reply.answer_tokens, reply.written_tokens) == counts


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing thought", ("", ANSWER, "stop")),
        ("MAX_TOKENS", (THINKING, ANSWER, "length")),
        ("cut in thinking", (THINKING, "", "length")),
        ("SAFETY", (THINKING, ANSWER, "blocked")),
        ("error", (THINKING, ANSWER, "incomplete")),
        ("usage is text", (THINKING, ANSWER, "stop")),
    ],
)
def test_how_a_completion_ended(kind, expected):
    reply = reply_of(kind, openai)
    assert (reply.thinking, reply.answer, reply.finish) == expected
    if kind == "usage is text":
        assert (reply.prompt_tokens, reply.answer_tokens) == (None, None)


@pytest.mark.parametrize("kind", ["no choices", "no message", "text is a list", "truncated"])
def test_broken_bodies_pass(kind):
    reply = reply_of(kind, openai)
    assert isinstance(reply, Passing)
    assert str(reply) == "the reply is broken off, or no chat completion"


def test_a_server_is_asked_as_configured():
    with FakeTeacher() as server:
        fields = {"temperature": 0.0, "max_tokens": 77, "thinking_tokens": 5}
        ask(openai(server, **fields), QUESTION, system="Be brief.")
        ask(openai(server), QUESTION)
        full, bare = (asked.body for asked in server.log)
    assert full == {
        "model": "r1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
        ],
        "temperature": 0.0,
        "max_tokens": 77,
        "thinking_token_budget": 5,
    }
    assert bare == {"model": "r1", "messages": [{"role": "user", "content": QUESTION}]}


def test_openais_key_is_for_openai(monkeypatch):
    """A key that is not named for a server is not sent there: it is somebody else's."""
    own = Teacher(via="openai", model="m", base_url="https://api.openai.com/v1")
    assert key_of(own)
    with FakeTeacher() as server:
        [refused] = ask(openai(server, key_variable=None), QUESTION)
        assert isinstance(refused, UserError)
        assert "openai:r1 wants a key; name its key_variable: HTTP 40" in str(refused)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set: openai:m needs a key"):
        key_of(own)
    monkeypatch.setattr(fakes, "KEY", "")  # the server's: it expects none
    with FakeTeacher() as server:
        assert ask(openai(server, key_variable=None), QUESTION)[0].finish == "stop"


def test_an_address_needs_its_protocol():
    with pytest.raises(UserError, match="must begin with http"):
        OpenAI(Teacher(via="openai", model="m", base_url="localhost:8000/v1"))


def test_the_usual_servers_are_known_by_address():
    own = OpenAI(
        Teacher(via="openai", model="o", base_url="https://api.openai.com/v1", max_tokens=3)
    )
    assert own._body(Prompt("", "?"))["max_completion_tokens"] == 3


# --- Keys and delays ---


def test_keys_come_from_the_environment_alone(monkeypatch):
    assert key_of(Teacher(via="gemini", model="m")) == fakes.KEY
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(UserError, match="GEMINI_API_KEY and GOOGLE_API_KEY are not set"):
        key_of(Teacher(via="gemini", model="m"))
    monkeypatch.setenv("GOOGLE_API_KEY", "other")
    assert key_of(Teacher(via="gemini", model="m")) == "other"
    monkeypatch.setenv("MY_KEY", "mi\nne")
    with pytest.raises(UserError, match="characters that no key has") as caught:
        key_of(Teacher(via="openai", model="m", key_variable="MY_KEY"))
    assert "mi" not in str(caught.value).replace("MY_KEY", "")


def test_a_message_is_one_short_line_without_the_key():
    assert said(f"a\n b {fakes.KEY}\t{fakes.KEY} c", fakes.KEY) == "a b [key] [key] c"
    # No part of a key is left where the message is cut.
    for before in range(360, 400):
        assert "AIza" not in said("x" * before + fakes.KEY, fakes.KEY)
    assert said("\ud83d", None) == "?"


@pytest.mark.parametrize(
    ("headers", "details", "seconds"),
    [
        ({}, [], None),
        ({"Retry-After": "7"}, [], 7.0),
        ({"RETRY-AFTER": " 1.5 "}, [], 1.5),
        ({"retry-after-ms": "250"}, [], 0.25),
        ({"Retry-After": "soon"}, [], None),
        ({"Retry-After": "-3"}, [], None),
        ({}, [{"retryDelay": "13s"}], 13.0),
        ({}, [{"retryDelay": "0.5s"}, {"retryDelay": "2.25s"}], 2.25),
        ({"Retry-After": "5"}, [{"retryDelay": "2s"}], 5.0),
        ({}, [{"retryDelay": 3}, {"retryDelay": None}, "x", {"retryDelay": "1m"}], None),
    ],
)
def test_the_delay_a_server_asks_for(headers, details, seconds):
    body = {"error": {"code": 429, "details": details}}
    assert delay_of(headers, body) == seconds
    assert delay_of(headers, [body]) == seconds


def test_a_delay_may_be_a_date():
    date = formatdate(time.time() + 30, usegmt=True)
    assert delay_of({"Retry-After": date}, None) == pytest.approx(30, abs=2)
    assert delay_of({"Retry-After": formatdate(time.time() - 30, usegmt=True)}, "x") == 0.0


# --- Stored traces ---


def test_replay_of_examples(s1_rows):
    rows = fakes.read(s1_rows)
    questions = [row["question"] for row in rows[:5]]
    *replies, unknown = ask(Replay(Teacher(via="replay", model=str(s1_rows))), *questions, "new")
    for row, reply in zip(rows, replies, strict=False):
        thinking = row.get("gemini_thinking_trajectory") or row["thinking_trajectories"][0]
        assert reply.thinking.strip() == thinking.strip()
        assert reply.finish == "stop"
    assert isinstance(unknown, Unknown)


def test_replay_of_s1s_columns(tmp_path):
    row = f'{{"question": "{QUESTION}", "thinking_trajectories": ["hm"], "attempt": "4"}}\n'
    (tmp_path / "traces.jsonl").write_text(row)
    teacher = Replay(Teacher(via="replay", model=str(tmp_path / "traces.jsonl")))
    assert ask(teacher, QUESTION) == [Reply("hm", "4", "stop")]


def test_replay_of_another_workdir(tmp_path):
    path = tmp_path / "odd name?#%41.db"
    good = Trace(question_id(QUESTION), "t", 0, "hm", "4", "stop", version="v9", thinking_tokens=1)
    bad = Trace(question_id("Q2"), "t", 0, "hm", "", "length", error="cut at its limit")
    with TraceStore(path) as store:
        store.add([good, bad])
    reply, unknown = ask(Replay(Teacher(via="replay", model=str(path))), QUESTION, "Q2")
    assert (reply.thinking, reply.answer, reply.version) == ("hm", "4", "v9")
    assert isinstance(unknown, Unknown)
    with pytest.raises(UserError, match="there is no such file"):
        Replay(Teacher(via="replay", model=str(tmp_path / "none.db")))


def test_replay_takes_no_attempt_for_a_trace(tmp_path):
    path = tmp_path / "traces.db"
    one = Trace(question_id(QUESTION), "gemini:a#b", 0, "hm", "4", "stop")
    with TraceStore(path) as store:
        store.add([one, *(replace(one, teacher=f"{role} x", answer="no") for role in ROLES)])
    [reply] = ask(Replay(Teacher(via="replay", model=str(path))), QUESTION)
    assert reply.answer == "4"
    with TraceStore(path) as store:
        store.add([replace(one, teacher="openai:c", answer="5")])
    with pytest.raises(UserError, match=r'traces.db#gemini:a#b"'):
        Replay(Teacher(via="replay", model=str(path)))
    for name, answer in (("gemini:a#b", "4"), ("openai:c", "5")):
        teacher = Replay(Teacher(via="replay", model=f"{path}#{name}"))
        assert ask(teacher, QUESTION)[0].answer == answer


# --- The program ---


def test_the_program_depends_on_seed_question_and_sample_alone():
    texts = [question.question for question in pool()[:200]]

    def said_by(seed: int, asked: list[str], sample: int = 0) -> list[str]:
        teacher = Program(Teacher(via="mini"), seed)
        replies = ask(teacher, *asked, sample=sample)
        return [repr(reply) for reply in replies]

    first = said_by(0, texts)
    assert said_by(0, texts[::-1])[::-1] == first
    assert said_by(0, texts, sample=1) != first
    assert said_by(1, texts) != first
    kinds = [type(r) for r in ask(Program(Teacher(via="mini"), 0), *texts)]
    assert kinds.count(Reply) > 150
    assert any(issubclass(kind, Failed) for kind in kinds)


# --- A model of our own ---


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights: what it says depends on every draw."""
    return write_world(tmp_path_factory.mktemp("world"), examples=1).model


@pytest.fixture
def one_device(monkeypatch):
    make = mesh.make_mesh
    monkeypatch.setattr(mesh, "make_mesh", lambda cfg, _: make(cfg, jax.devices()[:1]))


def local(path: Any, thinking: bool = True, **fields: Any) -> Local:
    cfg = script_config(path, decode__temperature=1.0, **fields)
    teacher = open_teacher(
        cfg, Teacher(via="local", model=str(path)), thinking=thinking, field="distill"
    )
    assert isinstance(teacher, Local)
    return teacher


def test_a_local_model_says_what_generate_says(model, one_device, tmp_path):
    texts = ["What?", "Why?", "When?"]
    names = {(text, n): f"{question_id(text)}:{n}" for n in (0, 1) for text in texts}
    lines = [json.dumps({"id": name, "prompt": text}) for (text, _), name in names.items()]
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("\n".join(lines))
    cfg = script_config(model, decode__temperature=1.0)
    asked = generate.Asked(prompts=prompts, out=out)
    assert generate.generate(cfg, asked, jax.devices()[:1]) == 0
    generated = {line["id"]: line for line in fakes.read(out)}
    ours = {
        (text, n): reply
        for n in (0, 1)
        for text, reply in zip(texts, ask(local(model), *texts, sample=n), strict=True)
    }
    for key, reply in ours.items():
        line = generated[names[key]]
        assert (reply.thinking, reply.answer) == (line["thinking"].strip(), line["answer"].strip())
        assert reply.thinking_tokens == line["thinking_tokens"] > 0
        assert reply.answer_tokens == line["answer_tokens"]
    # The control: a sample is another answer.
    assert all(ours[text, 0].thinking != ours[text, 1].thinking for text in texts)


def test_a_local_model_that_does_not_think_answers_at_once(model, one_device):
    [reply] = ask(local(model, thinking=False), "What?")
    assert (reply.thinking, reply.thinking_tokens) == ("", 0)
    assert reply.answer_tokens > 0


def test_a_prompt_beyond_the_context_is_refused_alone(model, one_device):
    short, long = ask(local(model), "What?", "What? " * 600)
    assert isinstance(short, Reply)
    assert isinstance(long, Refused)
    assert long.certain  # of ten such in a row the next may still be answered


def test_settings_of_a_local_model_are_what_decides_about_its_answers(model):
    """All of decode but how the work is divided."""
    settings = local(model).settings
    for field, value in {
        "decode.force_string": "So:",
        "decode.thinking_top_k": 3,
        "decode.strict": True,
        "decode.prompt_tokens": 100,
        "model.compute_dtype": "bfloat16",
        "seed": 7,
    }.items():
        changed = local(model, **{field.replace(".", "__"): value}).settings
        assert {key for key in settings if settings[key] != changed[key]} == {field}
    for field, value in {
        "decode.batch_size": 3,
        "decode.segment_steps": 16,
        "decode.order": "longest",
    }.items():
        assert local(model, **{field.replace(".", "__"): value}).settings == settings


def test_fewer_prompts_than_devices(model):
    [reply] = ask(local(model, mesh__data=-1), "What?")
    assert isinstance(reply, Reply), reply


def test_a_local_model_stops_when_nobody_waits(model, one_device, monkeypatch):
    teacher, written = local(model), []
    reply = teacher._reply
    monkeypatch.setattr(teacher, "_reply", lambda output: [written.append(1), reply(output)][1])

    async def leave() -> None:
        texts = [f"What is {n}?" for n in range(60)]
        asked = [asyncio.create_task(teacher.ask(Prompt(t, t))) for t in texts]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        for task in asked:
            task.cancel()
        await teacher.close()

    asyncio.run(leave())
    assert 0 < len(written) < 60


def test_whose_key_is_missing_is_said(monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY")
    asked = Teacher(via="gemini", model="m")
    for field in ("distill", "curate.judge"):
        with pytest.raises(UserError, match=rf"^{field}: GEMINI_API_KEY and GOOGLE_API_KEY are"):
            open_teacher(Config(), asked, thinking=False, field=field)
