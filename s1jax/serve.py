"""Serves a model over the OpenAI chat completions protocol, with budget forcing.

    python -m s1jax.serve --config=configs/mini.py --model=runs/mini

--model is what `s1jax.generate` takes, config.model.path by default. Who asks may set, besides
OpenAI's fields, thinking_token_budget, min_thinking_tokens, ignore_ends, ignore_strings, thinking,
top_k and min_p; what is not set is as config.decode has it. config.serve has the address and the
limits. Requests are answered together, --config.decode.batch_size=8 at a time.

The first request of a length that none had before stops all streams while programs are compiled
for it. --config.serve.warm_up=True compiles them all at the start instead, which takes longer the
longer the context is. What takes a tenth of a second to compile is kept for the next start, with
JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 in the environment all of it.

Only this machine can ask, unless --config.serve.host is another address. That takes a token, in the
environment variable that config.serve.token_variable names (S1JAX_TOKEN), which clients send as
their API key.

SIGTERM or Ctrl-C ends it: what runs is finished within 30 seconds. A second one ends it at once.
"""

import asyncio
import json
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from s1jax import cli, mini, xla_flags
from s1jax.asking import Model, open_model
from s1jax.compile_cache import keep_compiled
from s1jax.config import Config
from s1jax.decoding.engine import Engine
from s1jax.distributed import refuse_several
from s1jax.mesh import make_mesh
from s1jax.models.load import BytesProgress
from s1jax.progress import Progress, say
from s1jax.serving.asks import reserve, warm_up
from s1jax.serving.memory import Stats, check_memory, stats_of
from s1jax.serving.protocol import Refused
from s1jax.serving.server import Server, is_loopback
from s1jax.types import UserError

SEGMENT_STEPS = 8  # at most: a client sees nothing between two looks of the host


def main(argv: Sequence[str]) -> int:
    """Parses the flags and serves."""
    values = cli.new_flags()
    cli.add_config(values)
    flags.DEFINE_string("model", None, "whose weights", flag_values=values)
    values = cli.parse(values, __doc__, argv)
    cfg = cli.config_of(values)
    if values.model is not None and values.model != cfg.model.path:
        # A revision pins another model's commit.
        cfg = replace(cfg, model=replace(cfg.model, path=values.model, revision=None))
    if not cfg.model.path:
        raise UserError("--model is missing, and model.path is empty: for example --model=mini")
    xla_flags.apply_flags(xla_flags.find_accelerator())
    keep_compiled()
    try:
        with cli.stops():
            model, engine = opened(cfg)
    except cli.Stopped:
        return cli.DONE  # it had not begun
    asyncio.run(_serve(model, engine, name_of(cfg), token_of(cfg)))
    return cli.DONE


def opened(
    cfg: Config, devices: Sequence[jax.Device] | None = None, stats: Stats = stats_of
) -> tuple[Model, Engine]:
    """The model and its engine, weights read and programs compiled.

    Raises UserError for anything wrong with model, config or environment, before that takes long.
    """
    refuse_several("serve")
    token_of(cfg)
    for field, value in (("parity", "none"), ("rejection_tries", 0), ("samples", 1)):
        if (found := getattr(cfg.decode, field)) != value:
            own = "; a request says how many it wants (n)" if field == "samples" else ""
            raise UserError(f"decode.{field}={found!r}: a server has {value!r} only{own}")
    mesh = make_mesh(cfg.mesh, devices)
    cfg = mini.resolve_model(cfg)
    steps = min(cfg.decode.segment_steps, SEGMENT_STEPS)
    cfg = replace(cfg, decode=replace(cfg.decode, segment_steps=steps))
    model = open_model(cfg)
    try:
        first = warm_up(model)
    except Refused as refused:
        raise UserError(f"every request would be refused: {refused}") from refused
    dtype = jnp.dtype(cfg.model.compute_dtype)
    check_memory(model.source.cfg, mesh, cfg.decode, dtype, stats)
    engine = model.engine(mesh, cfg.decode.batch_size, BytesProgress("read"))
    if cfg.serve.warm_up:
        _compile_all(model, engine)
    list(engine.run(first, reserve=reserve(model)))
    return model, engine


def _compile_all(model: Model, engine: Engine) -> None:
    """Compiles for every length there is, and says how far it is."""
    progress = Progress("warm up", "sizes", 0)
    for done, total in engine.warm_up(model.source.cfg.max_positions, reserve(model)):
        progress.done, progress.total = done, total
        progress.show(last=done == total)


def name_of(cfg: Config) -> str:
    """What clients call the model."""
    return cfg.serve.name or Path(cfg.model.path).expanduser().name or "model"


def token_of(cfg: Config) -> str | None:
    """What clients must send, None if anyone may ask. UserError where strangers could."""
    variable = cfg.serve.token_variable
    token = os.environ.get(variable, "")
    if token and (token != token.strip() or not token.isascii() or not token.isprintable()):
        raise UserError(f"{variable} must be of printable ASCII characters, without space around")
    if not token and not is_loopback(cfg.serve.host):
        raise UserError(
            f"serve.host={cfg.serve.host} can be reached from elsewhere: set {variable} to a token"
            " that clients must send, or serve.host=127.0.0.1"
        )
    return token or None


async def _serve(model: Model, engine: Engine, name: str, token: str | None) -> None:
    server = Server(model, engine, model.cfg.serve, name, token)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop(server))

    def ready(address: str) -> None:
        message = {"role": "user", "content": "Sort seven three nine one"}
        body = {"model": name, "messages": [message]}
        key = f'-H "Authorization: Bearer ${model.cfg.serve.token_variable}" ' if token else ""
        curl = f"curl {address}/v1/chat/completions {key}-d {shlex.quote(json.dumps(body))}"
        print(f"{name} is served at {address}/v1; for example\n  {curl}", flush=True)

    await server.run(ready)
    say("stopped")


def _stop(server: Server) -> Callable[[], None]:
    def stop() -> None:
        say("stopping, when what runs is finished; a second signal stops at once")
        server.stop()

    return stop


if __name__ == "__main__":
    cli.run(main)
