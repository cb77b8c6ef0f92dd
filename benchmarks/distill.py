"""How near asking comes to what a server allows: 10,000 requests, 64 together, 50 ms each.

    python benchmarks/distill.py [--via gemini openai] [--requests=10000] [--runs=3] [--profile]

The server is a process of its own on loopback, as light as a protocol can be: it waits 50 ms and
sends the same bytes to everybody. So 64 / 0.05 s = 1280 answers a second are possible, and what is
measured is all of ours: the adapter (of Gemini the real google-genai client), the runner and the
SQLite file with every answer in it, written and synced. The time is from the first request to the
last row on the disk.
"""

import argparse
import asyncio
import cProfile
import json
import multiprocessing
import os
import pstats
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from s1jax.curation_config import Teacher
from s1jax.data.asked import Asked, Prompt
from s1jax.data.collect import collect
from s1jax.data.store import TraceStore
from s1jax.data.teachers import Gemini, OpenAI

LATENCY_S, CONCURRENCY = 0.05, 64
IDEAL = CONCURRENCY / LATENCY_S
THINKING, ANSWER = "First I look at the question. " * 100, "The answer is 42. " * 10

BODIES = {
    "gemini": {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [{"text": THINKING, "thought": True}, {"text": ANSWER}],
                },
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 10,
            "thoughtsTokenCount": 700,
            "candidatesTokenCount": 50,
            "totalTokenCount": 760,
        },
        "modelVersion": "gemini-2.5-flash",
    },
    "openai": {
        "model": "r1",
        "choices": [
            {
                "index": 0,
                "message": {"content": ANSWER, "reasoning_content": THINKING},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 750},
    },
}


class _Server(asyncio.Protocol):
    """Answers each request of a connection after the latency."""

    def __init__(self, reply: bytes):
        self._reply = reply
        self._got = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Looks for the end of a request; a client sends the next after the answer."""
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self._got = b""
            self._loop.call_later(LATENCY_S, self._transport.write, self._reply)


def _serve(via: str, told: Connection) -> None:
    body = json.dumps(BODIES[via]).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Server(head.encode() + body), "127.0.0.1", 0, backlog=256
        )
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--via", nargs="+", choices=list(BODIES), default=list(BODIES))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    asked = parser.parse_args()
    os.environ["GEMINI_API_KEY"] = "none-is-needed"
    for via in asked.via:
        shares = [_measure(via, asked.requests, asked.profile) for _ in range(asked.runs)]
        middle = statistics.median(shares)
        print(f"{via}: {middle:.0%} of the ideal {IDEAL:.0f}/s (median of {len(shares)})")


def _measure(via: str, requests: int, profile: bool) -> float:
    """The rate of one run, as a share of the ideal one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(via, theirs), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    cfg = Teacher(
        via=via,
        model="gemini-2.5-flash" if via == "gemini" else "r1",
        base_url=url + ("/v1" if via == "openai" else ""),
        concurrency=CONCURRENCY,
    )
    prompts = [Prompt(f"{n:016x}", f"What is {n} + {n}?") for n in range(requests)]
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as workdir, TraceStore(Path(workdir) / "t.db") as store:
        teacher: Asked = Gemini(cfg) if via == "gemini" else OpenAI(cfg)
        if profile:
            profiler.enable()
        started, cpu = time.perf_counter(), time.process_time()
        counts = collect(prompts, teacher, cfg, store)
        took, used = time.perf_counter() - started, time.process_time() - cpu
        profiler.disable()
        assert counts.good == requests, counts
        assert len(store.done(teacher.name)) == requests
    server.terminate()
    server.join()
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    rate = requests / took
    print(f"{via}: {rate:.0f}/s, {rate / IDEAL:.1%}; {1e6 * used / requests:.0f} us of CPU each")
    return rate / IDEAL


if __name__ == "__main__":
    main()
