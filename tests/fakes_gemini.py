"""Teachers on loopback: the REST API of Gemini and OpenAI's chat completions, with faults.

What is answered depends on the question alone; which fault a request meets, on the seed, the
question and how often it was asked. So every run meets the same faults, whatever its timing.
"""

import contextlib
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from s1jax import config
from s1jax.data.examples import jsonl_rows

KEY = "AIzaSy-canary-4f9c1e77d20b"
MODEL = "gemini-2.5-flash"
IN, OUT = 1000.0, 2000.0  # dollars for a million tokens
# What the issue names; of a kind with two faces each request draws one.
KINDS = {
    "429 with a delay": ("429 RetryInfo", "429 Retry-After", "429 echo"),
    "500 and 503": ("500", "503", "500 echo"),
    "timeout": ("timeout",),
    "reset": ("reset", "reset halfway"),
    "truncated JSON": ("truncated",),
    "empty candidates": ("empty candidates", "no candidates"),
    "SAFETY and RECITATION": ("SAFETY", "RECITATION"),
    "MAX_TOKENS": ("MAX_TOKENS",),
    "missing thought": ("missing thought",),
    "duplicate answers": ("duplicate answers",),
}
GOOD = ("good", "duplicate answers")


def questions(count: int) -> list[str]:
    """So many questions, no two alike."""
    words = np.random.default_rng(7).integers(10, 99, (count, 4))
    return [f"What is {a} + {b} · {c} - {d}, in case {i}?" for i, (a, b, c, d) in enumerate(words)]


def thinking_of(question: str) -> str:
    """What a teacher thinks."""
    digest = hashlib.sha256(question.encode()).hexdigest()
    return f"The question is: {question}\nSo I compute… {' '.join(digest[:24])}."


def answer_of(question: str) -> str:
    """What it answers."""
    return f"The answer is {int(hashlib.sha256(question.encode()).hexdigest()[:6], 16)}."


@dataclass
class Asked:
    """A request as the server saw it."""

    question: str
    kind: str
    at: float  # time.monotonic()
    life: int  # of the client: how often it was killed before
    delivered: bool = False  # the whole body was handed to the socket
    body: dict[str, Any] = field(default_factory=dict)


class FakeTeacher(ThreadingHTTPServer):
    """A server on a free port of loopback, as a context.

    `shares` is how probable each kind is; `always` sets the kind of a question for good.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self,
        shares: dict[str, float] | None = None,
        seed: int = 0,
        always: dict[str, str] | None = None,
        delay_s: float = 0.02,  # asked for by a 429
        hangs_s: float = 1.5,
        latency_s: float = 0.0,
        tokens: tuple[int, int] = (60, 20),  # of thinking and answer
    ):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.shares, self.seed, self.always = shares or {}, seed, always or {}
        self.delay_s, self.hangs_s, self.latency_s, self.tokens = (
            delay_s,
            hangs_s,
            latency_s,
            tokens,
        )
        self.log: list[Asked] = []
        self.errors: list[BaseException] = []
        self.dollars = 0.0  # what it charges
        self.life = 0
        self.under_way = self.most_under_way = 0
        self.guard = threading.Lock()
        self._asked: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "FakeTeacher":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        if self.errors:
            raise self.errors[0]

    def handle_error(self, *_: Any) -> None:
        """Keeps what is a fault of the fake's; clients are killed here, and break off."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.errors.append(error)

    def draw(self, question: str) -> str:
        """What becomes of the next request for this question."""
        with self.guard:
            self._asked[question] += 1
            count = self._asked[question]
        if question in self.always:
            return self.always[question]
        digest = hashlib.sha256(f"{self.seed} {count} {question}".encode()).digest()
        draw, face = np.random.default_rng(list(digest)).random(2)
        for kind, share in self.shares.items():
            draw -= share
            if draw < 0:
                return KINDS[kind][int(face * len(KINDS[kind]))]
        return "good"

    def kinds(self) -> Counter[str]:
        """How many requests met which kind."""
        kind_of = {face: kind for kind, faces in KINDS.items() for face in faces}
        return Counter(kind_of.get(asked.kind, asked.kind) for asked in self.log)

    def asked(self, question: str) -> list[Asked]:
        """The requests for a question."""
        return [asked for asked in self.log if asked.question == question]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeTeacher

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        gemini = re.fullmatch(r"/v1beta/models/([^/:]+):generateContent", self.path)
        if gemini:
            question = body["contents"][-1]["parts"][0]["text"]
            key, model = self.headers.get("x-goog-api-key"), gemini[1]
        else:
            question = body["messages"][-1]["content"]
            key, model = (
                self.headers.get("Authorization", "").removeprefix("Bearer "),
                body["model"],
            )
        kind = self.server.draw(question)
        if key != KEY:
            kind = "400 key" if gemini else "401"
        elif model == "missing" or not (gemini or self.path == "/v1/chat/completions"):
            kind = "404"
        asked = Asked(question, kind, time.monotonic(), self.server.life, body=body)
        with self.server.guard:
            self.server.log.append(asked)
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        try:
            reply = _gemini(question, kind, self.server, body) if gemini else None
            self._serve(asked, reply or _openai(question, kind, self.server, body))
        finally:
            with self.server.guard:
                self.server.under_way -= 1

    def _serve(self, asked: Asked, reply: dict[str, Any]) -> None:
        server, kind = self.server, asked.kind
        if "error" not in reply:  # errors are free
            usage = reply["usageMetadata"] if "usageMetadata" in reply else reply["usage"]
            counts = [n for n in usage.values() if isinstance(n, int)] or [0]
            with server.guard:
                server.dollars += (counts[0] * IN + sum(counts[1:]) * OUT) / 1e6
        time.sleep(server.latency_s)
        if kind == "timeout":
            time.sleep(server.hangs_s)
            self.close_connection = True
            return
        if kind == "reset":
            self._reset()
            return
        status = int(kind[:3]) if kind[:3].isdecimal() else 200
        raw = json.dumps(reply, ensure_ascii=kind == "surrogate").encode()
        if kind == "truncated":
            raw = raw[: len(raw) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(raw) + 100 * (kind == "reset halfway")))
        if kind == "429 Retry-After":
            self.send_header("Retry-After", f"{server.delay_s:g}")
        self.end_headers()
        self.wfile.write(raw)
        self.wfile.flush()
        if kind == "reset halfway":
            self._reset()
        asked.delivered = True

    def _reset(self) -> None:
        """Ends the connection with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _google_error(code: int, status: str, message: str, *details: Any) -> dict[str, Any]:
    error = {"code": code, "message": message, "status": status, "details": list(details)}
    return {"error": error}


def _gemini(question: str, kind: str, server: FakeTeacher, body: dict[str, Any]) -> dict[str, Any]:
    """A reply of generateContent."""
    thinks = body["generationConfig"]["thinkingConfig"]
    assert thinks.get("includeThoughts") or thinks["include_thoughts"]  # the client's spelling
    type_ = "type.googleapis.com/google.rpc."
    if kind == "400 key":
        info = {"@type": type_ + "ErrorInfo", "reason": "API_KEY_INVALID"}
        return _google_error(400, "INVALID_ARGUMENT", "API key expired. Renew it.", info)
    if kind.startswith("429"):
        info = {"@type": type_ + "RetryInfo", "retryDelay": f"{server.delay_s:g}s"}
        details = [] if kind == "429 Retry-After" else [info]
        text = f"Too many requests of {KEY}" if "echo" in kind else "Resource has been exhausted"
        return _google_error(429, "RESOURCE_EXHAUSTED", text, *details)
    if kind[:3].isdecimal():
        text = f"An error of the key {KEY}: {KEY}" if "echo" in kind else f"An error, {kind}."
        return _google_error(int(kind[:3]), "INTERNAL", text)
    thinking, answer = thinking_of(question), answer_of(question)
    thoughts, written = server.tokens
    limit = body["generationConfig"].get("maxOutputTokens")
    if kind == "MAX_TOKENS":
        answer = answer[: len(answer) // 2]
        written = written if limit is None else limit - thoughts
    parts = [{"text": thinking, "thought": True}, {"text": answer}]
    if kind == "missing thought":
        parts = parts[1:]
    finish = kind if kind in ("SAFETY", "RECITATION", "MAX_TOKENS") else "STOP"
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish in ("SAFETY", "RECITATION"):
        del candidate["content"]
    candidate["finishReason"] = finish
    reply = {
        "candidates": [candidate] * (2 if kind == "duplicate answers" else 1),
        "usageMetadata": {
            "promptTokenCount": len(question.split()) + 4,
            "thoughtsTokenCount": thoughts,
            "candidatesTokenCount": written,
        },
        "modelVersion": MODEL + "-001",
        "responseId": "r1",
    }
    if kind == "empty candidates":
        reply["candidates"] = []
    if kind in ("no candidates", "blocked prompt"):
        del reply["candidates"]
    if kind == "blocked prompt":
        reply["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
    return reply


def _openai(question: str, kind: str, server: FakeTeacher, body: dict[str, Any]) -> dict[str, Any]:
    """A reply of chat completions."""
    if kind[:3].isdecimal():
        text = f"An error of {KEY}" if "echo" in kind else f"An error, {kind}."
        return {"error": {"message": text, "type": "error", "code": None}}
    thinking, answer = thinking_of(question), answer_of(question)
    thoughts, written = server.tokens
    message: dict[str, Any] = {"role": "assistant", "content": answer}
    if kind == "tags":
        message["content"] = f"<think>\n{thinking}\n</think>\n\n{answer}"
    elif kind == "no opening tag":
        message["content"] = f"{thinking}\n</think>\n\n{answer}"
    elif kind == "cut in thinking":
        message["content"] = f"<think>\n{thinking}"
    elif kind == "reasoning":
        message["reasoning"] = thinking
    elif kind == "parts":
        parts = [{"type": "reasoning", "text": thinking}, {"type": "text", "text": answer}]
        message["content"] = parts
    elif kind == "nested":  # Mistral's way
        inner = [{"type": "text", "text": part} for part in (thinking[:9], thinking[9:])]
        parts = [{"type": "thinking", "thinking": inner}, {"type": "text", "text": answer}]
        message["content"] = parts
    elif kind not in ("missing thought", "no details, no thinking"):
        message["reasoning_content"] = thinking
    finish = {
        "MAX_TOKENS": "length",
        "cut in thinking": "length",
        "SAFETY": "content_filter",
        "error": "error",
    }.get(kind, "stop")
    choice = {"index": 0, "message": message, "finish_reason": finish}
    reply: dict[str, Any] = {
        "id": "c1",
        "object": "chat.completion",
        "model": body["model"] + "-001",
        "choices": [choice] * (2 if kind == "duplicate answers" else 1),
        "usage": {
            "prompt_tokens": len(question.split()) + 4,
            "completion_tokens": thoughts + written,
            "completion_tokens_details": {"reasoning_tokens": thoughts},
        },
    }
    total = {"completion_tokens": thoughts + written}
    damages: dict[str, dict[str, Any]] = {
        "no choices": {"choices": []},
        "no message": {"choices": [{"index": 0}]},
        "text is a list": {"choices": [choice | {"message": {"content": [answer]}}]},
        "no details": {"usage": total},
        "no details, no thinking": {"usage": total},
        "none by details": {
            "usage": total | {"completion_tokens_details": {"reasoning_tokens": 0}},
        },
        "usage is text": {"usage": {"prompt_tokens": "7", "completion_tokens": None}},
        "surrogate": {"choices": [choice | {"message": message | {"content": answer + "\ud83d"}}]},
    }
    return reply | damages.get(kind, {})


# --- The run ---


def fields(teacher: FakeTeacher, pool: Path, **changes: Any) -> dict[str, Any]:
    """The fields of a run that asks this teacher a pool, as dotted names."""
    quick = {
        "pool.sources": (str(pool),),
        "pool.near_duplicates": 2.0,  # off
        "distill.via": "gemini",
        "distill.model": MODEL,
        "distill.base_url": teacher.url,
        "distill.concurrency": 16,
        "distill.timeout_s": 0.5,
        "distill.first_wait_s": 0.002,
        "distill.tries": 50,
        "distill.asks_again": 100,
    }
    return quick | {name.replace("__", "."): value for name, value in changes.items()}


def make_config(values: dict[str, Any]) -> config.Config:
    """The resolved config of such fields."""
    made = config.default()
    made.update_from_flattened_dict(values)
    return config.resolve(made)


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """The same as a file for --config."""
    path.write_text(
        "from s1jax import config\n\n\ndef get_config():\n    c = config.default()\n"
        f"    c.update_from_flattened_dict({values!r})\n    return c\n"
    )
    return path


def write_pool(path: Path, texts: list[str]) -> Path:
    """A pool of these questions."""
    rows = [{"question": text, "answer": "7", "source_type": "fake"} for text in texts]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    rows = [row for _, row in jsonl_rows(path)]
    assert all(isinstance(row, dict) for row in rows)
    return rows


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """An address where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
