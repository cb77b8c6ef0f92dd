"""Small pools with stored traces, and a server of OpenAI's protocol that replies as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from s1jax import config
from s1jax.config import Config
from s1jax.data.store import TraceStore
from s1jax.types import Trace, question_id

TEACHER = "replay:stored"


class FakeModel(ThreadingHTTPServer):
    """A server on a free port of loopback, as a context; `bodies` is what it was asked.

    `reply` makes the text of an answer, or the status of a refusal, out of the body of a request.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, reply: Callable[[dict[str, Any]], str | int], latency_s: float = 0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply, self.latency_s = reply, latency_s
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """What base_url is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def questions(self) -> list[str]:
        """What the user said in each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def fields(self, section: str, name: str = "model") -> dict[str, Any]:
        """The config's fields that make this server the one of a section."""
        values = {"via": "openai", "model": name, "base_url": self.url, "first_wait_s": 0.01}
        return {f"{section}.{key}": value for key, value in values.items()}

    def __enter__(self) -> "FakeModel":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Nothing: clients are stopped here, and break connections off."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeModel
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        time.sleep(self.server.latency_s)
        said = self.server.reply(body)
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        good = {"model": body["model"], "choices": [choice], "usage": {"prompt_tokens": 3}}
        refused = {"error": {"message": "not this one"}}
        data = json.dumps(good if isinstance(said, str) else refused).encode()
        self.send_response(200 if isinstance(said, str) else said)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def trace_of(question: str, thinking: str = "I think.", answer: str = "7", **changes: Any) -> Trace:
    """A good trace, but for the changes."""
    trace = Trace(question_id(question), TEACHER, 0, thinking, answer, "stop", version="1")
    return replace(trace, **changes)


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file; texts are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def store_traces(workdir: Path, traces: Sequence[Trace]) -> Path:
    """A workdir in which distill left these."""
    with TraceStore(workdir / "traces.db") as store:
        store.add(traces)
    return workdir


def fields_of(pool: Sequence[Path], tokenizer: Path, **changes: Any) -> dict[str, Any]:
    """The fields of a curation of stored traces, `curate__size` for `curate.size`."""
    quick = {
        "pool.sources": tuple(map(str, pool)),
        "pool.near_duplicates": 2.0,  # off
        "distill.via": "replay",
        "distill.model": "stored",
        "curate.tokenizer": str(tokenizer),
        "curate.difficulty": "none",
        "curate.domains": "given",
    }
    return quick | {name.replace("__", "."): value for name, value in changes.items()}


def make_config(values: Mapping[str, Any]) -> Config:
    """The resolved config of such fields."""
    made = config.default()
    made.update_from_flattened_dict(dict(values))
    return config.resolve(made)


def write_config(path: Path, values: Mapping[str, Any]) -> Path:
    """The same as a file for --config."""
    path.write_text(
        "from s1jax import config\n\n\ndef get_config():\n    c = config.default()\n"
        f"    c.update_from_flattened_dict({dict(values)!r})\n    return c\n"
    )
    return path
