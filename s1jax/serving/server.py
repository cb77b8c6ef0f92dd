"""The HTTP server: who may ask, what is asked, and the replies, whole or as they grow.

Clients are strangers. A body is limited in size and time, a reader that does not read is dropped, a
client that hangs up frees its rows, and no text of a prompt and no token is ever logged. On
loopback the Host and Origin headers are checked, or any page open in a browser here could ask.
"""

import asyncio
import contextlib
import functools
import hmac
import ipaddress
import json
import logging
import secrets
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from s1jax.asking import Model
from s1jax.config import Serve
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import History, Output, Request
from s1jax.progress import say
from s1jax.serving.asks import requests_of, reserve
from s1jax.serving.choice import Choice
from s1jax.serving.objects import Delta, Reply, Usage
from s1jax.serving.protocol import ChatRequest, Refused, parse
from s1jax.serving.worker import Stopped, Told, Worker
from s1jax.types import UserError

GRACE_S = 30.0  # for what runs when the server is told to stop
IDLE_S = 30.0  # for a connection to send a request's head, first or next
BODY_S = 30.0  # for a body to come
WRITE_S = 30.0  # for a client to read what fills its connection
RETRY_S = 5  # after which a client should come again that found the queue full
ENGINE_S = 60.0  # for the engine to finish its segment, or a compilation, at the end


@dataclass
class Count:
    """What a request has cost, for its line in the log."""

    samples: int = 0
    usage: Usage | None = None

    def __str__(self) -> str:
        if self.usage is None:
            return ""
        of = self.usage
        answer = of.completion_tokens - of.reasoning_tokens
        n = f"n={self.samples}, " if self.samples > 1 else ""
        return f" {n}tokens: {of.prompt_tokens} + {of.reasoning_tokens} of thinking + {answer}"


@dataclass
class Running:
    """The samples of one request while they are made."""

    requests: Sequence[Request]
    choices: Sequence[Choice]
    events: asyncio.Queue[tuple[str, Told]] = field(default_factory=asyncio.Queue)

    @property
    def usage(self) -> Usage:
        """The tokens so far; the prompt counts once."""
        return Usage(
            len(self.requests[0].prompt),
            sum(choice.completion_tokens for choice in self.choices),
            sum(choice.reasoning_tokens for choice in self.choices),
        )


class Server:
    """One model behind one address."""

    def __init__(self, model: Model, engine: Engine, serve: Serve, name: str, token: str | None):
        self._model, self._serve, self._name = model, serve, name
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(engine, reserve(model), self._loop, self._fail)
        self._active: set[asyncio.Task[Any]] = set()  # of chat completions
        self._numbers = 0
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None

    # --- From start to end ---

    async def run(self, ready: Callable[[str], None]) -> None:
        """Serves until `stop()`; `ready` is told the address. Raises what the engine failed with.

        Raises UserError if the address cannot be listened on.
        """
        from aiohttp import web

        quiet = logging.Logger("s1jax.serving")  # of what is no HTTP: no traceback, no bytes of it
        quiet.addHandler(logging.NullHandler())
        runner = web.AppRunner(
            self._app(),
            access_log=None,
            logger=quiet,
            handler_cancellation=True,
            keepalive_timeout=IDLE_S,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        host, port = self._serve.host, self._serve.port
        site = web.TCPSite(runner, host, port)
        try:
            try:
                await site.start()
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"serve.host={host}, serve.port={port}: {reason}") from error
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{runner.addresses[0][1]}")
            await self._stopping.wait()
            await site.stop()
            if self._active:
                await asyncio.wait(self._active, timeout=GRACE_S)
            for task in self._active:
                task.cancel()
        finally:
            await runner.cleanup()
            await self._worker.close(ENGINE_S)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ends the serving: what runs has some time, asked a second time none."""
        if self._stopping.is_set():
            for task in self._active:
                task.cancel()
        self._stopping.set()

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._stopping.set()

    # --- Every request ---

    def _app(self) -> Any:
        from aiohttp import web

        @web.middleware
        async def guarded(request: web.Request, handler: Any) -> web.StreamResponse:
            began, count = time.monotonic(), Count()
            request["count"] = count
            status: int | str = "cut off"  # by its client, or by the end of the server
            try:
                try:
                    self._guard(request)
                    response = await handler(request)
                except Refused as refused:
                    response = _refusal(refused)
                except web.HTTPException as error:
                    response = _refusal(_refused(error), dict(error.headers))
                except (asyncio.CancelledError, ConnectionError):
                    raise
                except Exception:  # a fault of ours, of this request alone
                    traceback.print_exc(file=sys.stderr)
                    response = _refusal(Refused(500, "this server failed on the request"))
                status = response.status
                return response
            finally:
                route = request.match_info.route.resource
                path = route.canonical if route is not None else "(another path)"
                took = time.monotonic() - began
                say(f"{request.method} {path} {status}{count} in {took:.2f} s")

        app = web.Application(middlewares=[guarded], client_max_size=self._serve.max_body_bytes)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name:.+}", self._models)
        app.router.add_get("/health", self._health)
        return app

    def _guard(self, request: Any) -> None:
        """Raises Refused for who may not ask."""
        if is_loopback(self._serve.host):
            host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
            if not is_loopback(_host_of(f"//{host}")):
                raise Refused(403, "the Host header must name this machine, as localhost does")
            if origin is not None and not is_loopback(_host_of(origin)):
                raise Refused(403, "pages of other origins may not ask this server")
        if self._token is None or request.path == "/health":
            return
        scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
        given = sent.strip().encode(errors="surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._token.encode()):
            what = "the Authorization header must be Bearer and this server's token"
            raise Refused(401, what, code="invalid_api_key")

    async def _health(self, _: Any) -> Any:
        return _json({"status": "stopping" if self._stopping.is_set() else "ok"})

    async def _models(self, request: Any) -> Any:
        model = {"id": self._name, "object": "model", "created": 0, "owned_by": "s1jax"}
        name = request.match_info.get("name")
        if name is None:
            return _json({"object": "list", "data": [model]})
        if name != self._name:
            raise Refused(404, f"{self._name!r} is the model here", code="model_not_found")
        return _json(model)

    # --- Chat completions ---

    async def _chat(self, request: Any) -> Any:
        self._check_room(1)  # before a body is read for nothing
        body = await _read(request, self._serve.max_body_bytes)
        self._numbers += 1
        # Tokenizers take their time on a long text, and others' streams are to go on.
        asked, requests = await asyncio.to_thread(self._understand, body, self._numbers)
        # Who is slow to say what he wants has had no place in the queue until here.
        self._check_room(len(requests))
        task = asyncio.current_task()
        assert task is not None
        self._active.add(task)
        try:
            return await self._answer(request, asked, requests)
        finally:
            self._active.discard(task)

    def _check_room(self, samples: int) -> None:
        """Raises Refused if so many more cannot be taken now."""
        if self._stopping.is_set():
            raise Refused(503, "this server is about to stop")
        held, most = self._worker.samples, self._serve.max_queue
        if held + samples > most:
            left = f", and there is room for {most - held} more" if held < most else ""
            what = f"{held} samples wait or run already{left}; come again"
            raise Refused(429, what, code="queue_full")

    async def _answer(self, request: Any, asked: ChatRequest, requests: Sequence[Request]) -> Any:
        model = self._model
        told = (asked.stop, asked.max_tokens)
        choices = [Choice(model.tokenizer, model.chat, r, *told) for r in requests]
        running = Running(requests, choices)
        reply = Reply(f"chatcmpl-{secrets.token_hex(12)}", self._name)
        count: Count = request["count"]
        count.samples = len(requests)
        try:
            self._worker.ask(requests, lambda *event: running.events.put_nowait(event))
            if asked.stream:
                return await self._stream(request, asked, running, reply)
            async for _ in self._grows(running):
                pass
        except Stopped:
            raise Refused(503, "this server is about to stop") from None
        finally:
            self._worker.give_up([r.id for r in requests])
            count.usage = running.usage
        whole = [
            (c.reasoning_content if asked.decode.thinking else None, c.content, str(c.finish))
            for c in choices
        ]
        return _json(reply.completion(whole, running.usage))

    def _understand(self, body: bytes, number: int) -> tuple[ChatRequest, list[Request]]:
        most = min(self._serve.max_samples, self._serve.max_queue)
        asked = parse(body, self._name, self._model.cfg.decode, most)
        return asked, requests_of(self._model, asked, number)

    async def _grows(self, running: Running) -> AsyncIterator[tuple[int, Delta, str | None]]:
        """What the samples grow by until all are finished: which one, by what, and its finish.

        Raises Refused if the engine fails.
        """
        places = {request.id: index for index, request in enumerate(running.requests)}
        while places:
            name, told = await running.events.get()
            if isinstance(told, BaseException):
                raise Refused(500, "the engine failed; this server ends") from told
            if name not in places:  # cut at a stop string, while its last segment was under way
                continue
            choice, index = running.choices[places[name]], places[name]
            delta = choice.end(told) if isinstance(told, Output) else choice.feed(_part(told))
            if choice.finish is not None:
                del places[name]
                self._worker.give_up([name])
            yield index, delta, choice.finish

    async def _stream(
        self, request: Any, asked: ChatRequest, running: Running, reply: Reply
    ) -> Any:
        """The reply as server-sent events. What fails after its beginning is told in it."""
        from aiohttp import web

        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        response = web.StreamResponse(headers=headers)
        send = functools.partial(_send, request, response)
        await response.prepare(request)
        await send([reply.begin(index) for index in range(len(running.requests))])
        try:
            async for index, delta, finish in self._grows(running):
                chunks = reply.grow(index, delta)
                if finish is not None:
                    chunks.append(reply.finish(index, finish))
                await send(chunks)
        except Refused as refused:
            await send([refused.body])
            return response
        await send([reply.usage(running.usage)] if asked.include_usage else [], last=True)
        return response


def _part(told: Told) -> History:
    assert isinstance(told, History)
    return told


# --- HTTP ---


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(url: str) -> str:
    """The host of an address, "" if it has none."""
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


async def _read(request: Any, most: int) -> bytes:
    """The body. Refused if it is too large or too slow."""
    from aiohttp import web

    large = Refused(413, f"the body is larger than {most} bytes", code="body_too_large")
    if (request.content_length or 0) > most:
        raise large
    try:
        async with asyncio.timeout(BODY_S):
            return bytes(await request.read())
    except TimeoutError:
        raise Refused(408, f"the body did not come within {BODY_S:.0f} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise large from None


async def _send(
    request: Any, response: Any, objects: Sequence[dict[str, Any]], last: bool = False
) -> None:
    """Sends events; a client that does not read them in time is cut off."""
    text = "".join(f"data: {json.dumps(o, ensure_ascii=False)}\n\n" for o in objects)
    text += "data: [DONE]\n\n" if last else ""
    if not text:
        return
    try:
        async with asyncio.timeout(WRITE_S):
            await response.write(text.encode(errors="replace"))
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read") from None


def _json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Any:
    from aiohttp import web

    return web.json_response(body, status=status, headers=headers)


def _refusal(refused: Refused, headers: dict[str, str] | None = None) -> Any:
    extra = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": str(RETRY_S)}}
    extra[405] = {name: value for name, value in (headers or {}).items() if name == "Allow"}
    response = _json(refused.body, refused.status, extra.get(refused.status))
    if refused.status in (408, 413):
        response.force_close()  # the rest of the body is not waited for
    return response


def _refused(error: Any) -> Refused:
    """What the router says, as OpenAI says it."""
    if error.status == 404:
        what = "there is nothing here: POST /v1/chat/completions, GET /v1/models or GET /health"
        return Refused(404, what, code="unknown_url")
    if error.status == 405:
        what = f"{error.method} is not possible here, {', '.join(error.allowed_methods)} is"
        return Refused(405, what, code="method_not_allowed")
    return Refused(error.status, str(error.reason))
