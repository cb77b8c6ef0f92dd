"""A server in a thread of this process, as the verb starts it, and clients of it."""

import asyncio
import contextlib
import inspect
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax

from s1jax.asking import Model
from s1jax.config import Config
from s1jax.decoding.engine import Engine
from s1jax.serve import opened
from s1jax.serving.server import Server

NAME = "script"


@dataclass
class Running:
    """A server that listens."""

    model: Model
    engine: Engine
    alone: Engine | None = None  # the same model, of which the server knows nothing
    address: str = ""
    server: Server | None = None
    raised: list[BaseException] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        assert self.loop is not None and self.server is not None
        self.loop.call_soon_threadsafe(self.server.stop)

    def client(self, **fields: Any) -> Any:
        import openai

        made = {"api_key": "none", "max_retries": 0} | fields
        return openai.OpenAI(base_url=f"{self.address}/v1", **made)

    def ask(self, text: str = "What?", **fields: Any) -> Any:
        """The completion that the real client gets; fields that it does not know as they are."""
        known = {*inspect.signature(self.client().chat.completions.create).parameters}
        asked: dict[str, Any] = {
            "model": NAME,
            "messages": [{"role": "user", "content": text}],
            **{name: value for name, value in fields.items() if name in known},
        }
        extra = {name: value for name, value in fields.items() if name not in known}
        return self.client().chat.completions.create(**asked, extra_body=extra)

    def post(
        self, body: Any, path: str = "/v1/chat/completions", method: str = "POST", **headers: str
    ) -> tuple[int, Any, Any]:
        """Status, headers and object of a reply to a body, which may be bytes that are no JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | headers
        asked = urllib.request.Request(self.address + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as reply:
                return reply.status, reply.headers, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, error.headers, json.loads(error.read())

    def connect(self) -> socket.socket:
        host, _, port = self.address.removeprefix("http://").rpartition(":")
        return socket.create_connection((host, int(port)), timeout=60)

    def wait_until_idle(self, seconds: float = 30) -> None:
        """Returns when no row runs any more, and nobody waits."""
        assert self.server is not None
        end = time.monotonic() + seconds
        while self.server._active or self.server._worker._listeners or self._moves():
            assert time.monotonic() < end, "something still runs"

    def _moves(self) -> bool:
        before = self.engine.counts.steps
        time.sleep(0.1)
        return self.engine.counts.steps != before


@contextlib.contextmanager
def serving(cfg: Config, token: str | None = None) -> Iterator[Running]:
    """Within it a server of this config listens on a free port."""
    model, engine = opened(cfg, jax.devices()[:1])
    running, ready = Running(model, engine), threading.Event()

    async def serve() -> None:
        running.loop = asyncio.get_running_loop()
        running.server = Server(model, engine, cfg.serve, NAME, token)

        def listens(address: str) -> None:
            running.address = address
            ready.set()

        await running.server.run(listens)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            running.raised.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(60) and running.address, running.raised
        yield running
    finally:
        if thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                running.stop()
        thread.join(60)
        assert not thread.is_alive()


def deltas(chunks: Any) -> list[dict[str, Any]]:
    """What each chunk of a stream adds to its only sample."""
    return [c.choices[0].delta.model_dump(exclude_none=True) for c in chunks if c.choices]


def told(running: Running, body: dict[str, Any]) -> bytes:
    """A whole HTTP request."""
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
