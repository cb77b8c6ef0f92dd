"""The server under load: so many clients at the same time, on a model of random weights.

    python benchmarks/serve.py [--clients 1 8 64] [--requests=4] [--rows=8] [--thinking=48]
        [--answer=16]

Every client streams its requests one after the other over a connection of its own, with a question
of its own; a quarter of all streams are hung up after their third chunk. Beside them, for as long
as they take, one client sends garbage, and one sends its request a byte at a time, reads its answer
and begins again; it must be answered whenever it has sent a whole one, and "slow" is how often that
was. A latency is that of the first token, from the moment the request is sent. Tokens are those
that came (thinking and answer) of the streams that were read to the end. The server runs in a
process of its own; every line has a run before it that compiles.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

HANG_UP_EVERY, HANG_UP_AFTER = 4, 3  # streams, chunks
SLOW_BYTE_S = 0.01  # between two bytes of the slow client


@dataclass
class Seen:
    """What the clients of a run have seen."""

    first_s: list[float] = field(default_factory=list)
    whole: int = 0
    tokens: int = 0
    hung_up: int = 0
    slow: int = 0


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--thinking", type=int, default=48)
    parser.add_argument("--answer", type=int, default=16)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        process, address = start(Path(directory), args)
        try:
            asyncio.run(table(address, args))
        finally:
            process.terminate()
            process.wait()


def start(directory: Path, args: argparse.Namespace) -> tuple[subprocess.Popen[str], str]:
    """A server of the embedded model at its random start; its process and address.

    Raises RuntimeError, with what it said, if it does not start.
    """
    config = directory / "config.py"
    fields = {
        "model.path": "mini",
        "model.compute_dtype": "float32",
        "serve.port": 0,
        "serve.max_queue": 1024,
        "decode.batch_size": args.rows,
        "decode.max_thinking_tokens": args.thinking,
        "decode.max_answer_tokens": args.answer,
        "decode.temperature": 1.0,
    }
    config.write_text(
        "from s1jax import config\n\n\ndef get_config():\n    c = config.default()\n"
        f"    c.update_from_flattened_dict({fields!r})\n    return c\n"
    )
    command = [sys.executable, "-m", "s1jax.serve", f"--config={config}"]
    environment = {"JAX_PLATFORMS": "cpu"} | os.environ
    log = directory / "stderr"  # a file: nobody reads a pipe while the server runs
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    if found is None:
        process.kill()
        process.wait()
        raise RuntimeError(f"the server did not start; it said\n{log.read_text()}")
    return process, found[0].removesuffix(";")


async def table(address: str, args: argparse.Namespace) -> None:
    """A line for each number of clients."""
    print("clients  requests/s  hung up  slow  first token p50  p95      tokens/s")
    for clients in args.clients:
        await run(address, clients, args.requests)
        began = time.monotonic()
        seen = await run(address, clients, args.requests)
        spent = time.monotonic() - began
        half, most = np.percentile(seen.first_s, [50, 95])
        print(
            f"{clients:7}  {seen.whole / spent:10.1f}  {seen.hung_up:7}  {seen.slow:4}"
            f"  {half:13.3f} s  {most:5.3f} s  {seen.tokens / spent:8.0f}"
        )


async def run(address: str, clients: int, requests: int) -> Seen:
    """What so many clients see, each of which asks so often."""
    seen = Seen()
    host, _, port = address.removeprefix("http://").removesuffix("/v1").rpartition(":")
    both = (garbage(host, port), slow(host, port, seen))
    others = [asyncio.create_task(task) for task in both]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"{address}/chat/completions"
        await asyncio.gather(*(client(session, url, n, requests, seen) for n in range(clients)))
    for task in others:
        task.cancel()
    for ended in await asyncio.gather(*others, return_exceptions=True):
        if not isinstance(ended, asyncio.CancelledError):
            assert isinstance(ended, BaseException)
            raise ended
    return seen


async def client(
    session: aiohttp.ClientSession, url: str, number: int, requests: int, seen: Seen
) -> None:
    """Asks one thing after the other."""
    for turn in range(requests):
        hangs_up = (number + turn) % HANG_UP_EVERY == 1
        question = f"What is {number} + {turn}?"
        body: dict[str, Any] = {
            "model": "mini",
            "messages": [{"role": "user", "content": question}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "seed": number * 1000 + turn,
        }
        began, chunks, first, done = time.monotonic(), 0, None, False
        async with session.post(url, json=body) as reply:
            assert reply.status == 200, await reply.text()
            async for line in reply.content:
                if not line.startswith(b"data: "):
                    continue
                chunks += 1
                if first is None and chunks > 1:  # the first one says only that it has begun
                    first = time.monotonic() - began
                    seen.first_s.append(first)
                if hangs_up and chunks == HANG_UP_AFTER:
                    break
                done = line == b"data: [DONE]\n"
                if not done and (usage := json.loads(line[6:]).get("usage")):
                    seen.tokens += usage["completion_tokens"]
        assert done or hangs_up, "a stream ended early"
        seen.whole += done
        seen.hung_up += not done


async def garbage(host: str, port: str) -> None:
    """Sends what is no HTTP, again and again."""
    rng = np.random.default_rng(0)
    while True:
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError):  # it may well be cut off
            writer.write(rng.bytes(4096))
            await reader.read(1000)
        writer.close()
        await asyncio.sleep(0.05)


async def slow(host: str, port: str, seen: Seen) -> None:
    """Sends a whole request a byte at a time, and reads what is answered; again and again."""
    asked = {"model": "mini", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
    body = json.dumps(asked)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    while True:
        reader, writer = await asyncio.open_connection(host, int(port))
        for byte in f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode():
            writer.write(bytes([byte]))
            await asyncio.sleep(SLOW_BYTE_S)
        reply = await reader.read()
        assert b" 200 " in reply.partition(b"\r\n")[0], reply
        writer.close()
        seen.slow += 1


if __name__ == "__main__":
    main()
