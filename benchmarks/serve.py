"""The server under load: so many clients at the same time, on a model of random weights.

    python benchmarks/serve.py [--clients 1 8 64] [--requests=4] [--rows=8] [--thinking=48]
        [--answer=16]

Every client streams its requests one after the other over a connection of its own, with a question
of its own; a quarter of all streams are hung up after their third chunk, and beside them one client
sends garbage and one a byte of its request at a time, for as long as the others take. A latency is
that of the first token, from the moment the request is sent. Tokens are those that came (thinking
and answer) of the streams that were read to the end. The server runs in a process of its own; every
line has a run before it that compiles.
"""

import argparse
import asyncio
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


@dataclass
class Seen:
    """What the clients of a run have seen."""

    first_s: list[float] = field(default_factory=list)
    whole: int = 0
    tokens: int = 0
    hung_up: int = 0


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
    """A server of the embedded model at its random start; its process and address."""
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
    quiet = subprocess.DEVNULL
    environment = {"JAX_PLATFORMS": "cpu"} | os.environ
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=quiet, text=True, env=environment
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None, "the server did not start"
    return process, found[0].removesuffix(";")


async def table(address: str, args: argparse.Namespace) -> None:
    """A line for each number of clients."""
    print("clients  requests/s  hung up  first token p50  p95      tokens/s")
    for clients in args.clients:
        await run(address, clients, args.requests)
        began = time.monotonic()
        seen = await run(address, clients, args.requests)
        spent = time.monotonic() - began
        half, most = np.percentile(seen.first_s, [50, 95])
        print(
            f"{clients:7}  {seen.whole / spent:10.1f}  {seen.hung_up:7}  {half:13.3f} s"
            f"  {most:5.3f} s  {seen.tokens / spent:8.0f}"
        )


async def run(address: str, clients: int, requests: int) -> Seen:
    """What so many clients see, each of which asks so often."""
    seen = Seen()
    host, _, port = address.removeprefix("http://").removesuffix("/v1").rpartition(":")
    others = [asyncio.create_task(task) for task in (garbage(host, port), slow(host, port))]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"{address}/chat/completions"
        await asyncio.gather(*(client(session, url, n, requests, seen) for n in range(clients)))
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
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
        writer.write(rng.bytes(4096))
        await reader.read(1000)
        writer.close()
        await asyncio.sleep(0.05)


async def slow(host: str, port: str) -> None:
    """Sends a request's head a byte at a time."""
    _, writer = await asyncio.open_connection(host, int(port))
    for byte in b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 999:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    main()
