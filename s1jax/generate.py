r"""Asks a model and shows it think: one prompt, a file of prompts, or one after the other.

    python -m s1jax.generate --config=configs/mini.py --model=runs/mini \
        --prompt="Sort seven three nine one"
    python -m s1jax.generate --config=F --model=PATH --prompts=FILE.jsonl --out=FILE.jsonl
    python -m s1jax.generate --config=F --model=PATH

--model is a Hugging Face directory, a hub id, "mini", a checkpoint directory (or one step of it),
or the workdir of a run; config.model.path by default. How it is asked is in config.decode:
--config.decode.max_thinking_tokens=200, --config.decode.ignore_ends=1 and so on.

A line of --prompts has a "prompt" (or "question", "problem"), and may have an "id" (else it is
the line's number), "seed", "max_thinking_tokens", "min_thinking_tokens", "ignore_ends" and
"max_answer_tokens". The same command again goes on with an --out that is not complete; without
--out the lines go to stdout.

With neither, each line typed is a question of its own (nothing is remembered); `exit` or the end
of the input ends.
"""

import contextlib
import io
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from absl import flags

from s1jax import cli, mini, xla_flags
from s1jax.asking import Model, ask, open_model
from s1jax.compile_cache import keep_compiled
from s1jax.config import Config
from s1jax.decoding.controls import majority_vote
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import Branch, History, Request
from s1jax.distributed import refuse_several
from s1jax.generations import Generation, GenerationsFile, Prompt, made_with, read_prompts
from s1jax.mesh import make_mesh
from s1jax.models.load import BytesProgress, digest, pinned
from s1jax.progress import SECONDS_BETWEEN_LINES, format_count, format_seconds
from s1jax.stream import Stream
from s1jax.terminal import add_color, harmless, has_colours
from s1jax.types import UserError


@dataclass(frozen=True)
class Asked:
    """What the command line asks for besides the config."""

    prompt: str | None = None
    prompts: Path | None = None
    out: Path | None = None
    colour: bool = False


def main(argv: Sequence[str]) -> int:
    """Parses the flags and generates."""
    values = cli.new_flags()
    cli.add_config(values)
    flags.DEFINE_string("model", None, "whose weights", flag_values=values)
    flags.DEFINE_string("prompt", None, "a question", flag_values=values)
    flags.DEFINE_string("prompts", None, "questions, a JSONL file", flag_values=values)
    flags.DEFINE_string("out", None, "the JSONL file to write", flag_values=values)
    add_color(values)
    values = cli.parse(values, __doc__, argv)
    cfg = cli.config_of(values)
    if values.prompt is not None and values.prompts is not None:
        raise UserError("--prompt and --prompts: only one of them may be given")
    if values.out is not None and values.prompts is None:
        raise UserError("--out is for what a file of --prompts asks; --prompt is shown")
    if values.model is not None and values.model != cfg.model.path:
        # A revision pins another model's commit.
        cfg = replace(cfg, model=replace(cfg.model, path=values.model, revision=None))
    if not cfg.model.path:
        raise UserError("--model is missing, and model.path is empty: for example --model=mini")
    prompts, out = (
        None if text is None else Path(text).expanduser() for text in (values.prompts, values.out)
    )
    xla_flags.apply_flags(xla_flags.find_accelerator())
    keep_compiled()
    return generate(cfg, Asked(values.prompt, prompts, out, has_colours(values.color)))


def generate(cfg: Config, asked: Asked, devices: Sequence[jax.Device] | None = None) -> int:
    """Answers what is asked; returns the exit code.

    Raises UserError for anything wrong with model, prompts or config.
    """
    refuse_several("generate")
    name, mesh = cfg.model.path, make_mesh(cfg.mesh, devices)
    cfg = mini.resolve_model(cfg)
    if asked.prompts is not None:
        prompts = read_prompts(asked.prompts, cfg)
        return _File(cfg, name, open_model(cfg), mesh, prompts, asked).answer()
    model = open_model(cfg)
    if asked.prompt is None:
        return _chat(model, mesh, asked.colour)
    prompt = Prompt("prompt", asked.prompt, cfg.decode, name="--prompt")
    requests = model.requests([prompt])
    _show(model, _engine(model, mesh, len(requests)), prompt, requests, asked.colour)
    return cli.DONE


def _engine(model: Model, mesh: jax.sharding.Mesh, requests: int, stop: Any = None) -> Engine:
    progress = BytesProgress("read")

    def told(done: int, total: int) -> None:
        progress(done, total)
        if stop is not None:
            stop.check()

    return model.engine(mesh, min(model.cfg.decode.batch_size, requests), told)


# --- On the screen ---


def _chat(model: Model, mesh: jax.sharding.Mesh, colour: bool) -> int:
    """Answers each line of the input by itself."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() its editing and history)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a prompt of them is refused, not us ended
    sign = "> " if sys.stdin.isatty() else ""
    engine = _engine(model, mesh, model.cfg.decode.samples)
    turn = 0
    while True:
        try:
            text = input(sign)
        except EOFError:
            return cli.DONE
        if text.strip() == "exit":
            return cli.DONE
        if not text.strip():
            continue
        turn += 1
        prompt = Prompt(str(turn), text, model.cfg.decode, name="this question")
        try:
            _show(model, engine, prompt, model.requests([prompt]), colour)
        except UserError as error:  # the next question may be a better one
            print(f"error: {error}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("\n(stopped)", flush=True)


def _show(
    model: Model, engine: Engine, prompt: Prompt, requests: Sequence[Request], colour: bool
) -> None:
    """Shows the samples of a prompt while they are made, one after the other."""
    screen = _Screen(model, requests, colour)
    made = []
    for output, number in ask(engine, requests, model.cfg.decode, screen.watch):
        generation = model.generation(prompt, output, number)
        screen.finish(output.request, f"\n[{describe(generation)}]\n")
        made.append(generation)
    made.sort(key=lambda generation: generation.sample)  # of equals the first sample's wins
    answers = [_normalised(g.answer) for g in made if g.finish != "rejected"]
    if len(requests) > 1 and answers:
        best = majority_vote(answers)
        print(f"\nmajority, {answers.count(best)} of {len(made)}: {harmless(best)}", flush=True)


class _Screen:
    """Several samples on one screen: the first that is not finished is shown as it grows."""

    def __init__(self, model: Model, requests: Sequence[Request], colour: bool):
        self._model, self._colour = model, colour
        self._several = len(requests) > 1
        self._order = [request.id for request in requests]
        self._finished: set[str] = set()
        self._texts = dict.fromkeys(self._order, "")  # to be shown when their turn comes
        self._streams: dict[str, tuple[int, Stream]] = {}  # of the try with this seed
        if self._several:
            for number, name in enumerate(self._order, 1):
                self._texts[name] = f"--- sample {number} of {len(self._order)} ---\n"

    def watch(self, request: Request, _: Branch | None, part: History) -> None:
        """Shows what can be of what a row has written."""
        seed, stream = self._streams.get(request.id, (None, None))
        if stream is None or seed != request.seed:
            if stream is not None:
                self._texts[request.id] += stream.rest() + "\n[rejected: the next try]\n"
            stream = Stream(self._model.tokenizer, request.rules, self._colour)
            self._streams[request.id] = (request.seed, stream)
        self._texts[request.id] += stream.feed(part)
        self._print()

    def finish(self, request: Request, text: str) -> None:
        """Ends a sample with this text."""
        self._texts[request.id] += self._streams[request.id][1].rest() + text
        self._finished.add(request.id)
        self._print()

    def _print(self) -> None:
        while self._order:
            name = self._order[0]
            print(self._texts[name], end="", flush=True)
            self._texts[name] = ""
            if name not in self._finished:
                return
            self._order.pop(0)


_COUNTED = {
    "none": "",
    "evaluator": " in each round",
    "readme": " besides the inserted strings",
}


def describe(generation: Generation) -> str:
    """The record of a sample in one line."""
    g, parts = generation, []
    most, asked = g.requested_thinking_tokens, g.requested_ignore_ends
    if most:
        parts.append(f"thinking: {g.thinking_tokens} tokens of at most {most}{_COUNTED[g.parity]}")
    if most and asked:
        at = f" (after {', '.join(map(str, g.ignored_ends))} tokens)" if g.ignored_ends else ""
        parts.append(f"{len(g.ignored_ends)} of {asked} ends ignored{at}")
    if most and g.finish != "rejected":
        by = {"itself": "ended by itself", "budget": "ended by the budget"}
        parts.append(by.get(g.thinking_ended or "", "cut where the context ends"))
    if g.tries is not None:
        parts.append(f"try {g.tries}")
    if g.finish == "rejected":
        parts.append("too long, rejected: no answer")
    else:
        spent = g.answer_tokens == g.requested_answer_tokens
        cut = "cut at its budget" if spent else "cut where the context ends"
        parts.append(f"answer: {g.answer_tokens} tokens, {'stop' if g.finish == 'stop' else cut}")
    return "; ".join(parts)


def _normalised(answer: str) -> str:
    text = answer.strip()
    for prefix in ("Final Answer:", "Answer:"):
        text = text.removeprefix(prefix).strip()
    return text


# --- Into a file ---


class _Stopped(Exception):
    """SIGTERM came, and what was finished by then is written."""


class _Stop:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self.asked = False
        self._seen_at: int | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within it SIGTERM ends nothing by itself."""
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, _: int, __: FrameType | None) -> None:
        self.asked = True

    def check(self, steps: int = 0) -> None:
        """Raises _Stopped if it was; after the samples of the segment that it came in."""
        if not self.asked:
            return
        if self._seen_at is None and steps:
            self._seen_at = steps
        if self._seen_at is None or steps > self._seen_at:
            raise _Stopped


class _File:
    """The prompts of a file, answered into another or to stdout."""

    def __init__(
        self,
        cfg: Config,
        name: str,
        model: Model,
        mesh: jax.sharding.Mesh,
        prompts: Sequence[Prompt],
        asked: Asked,
    ):
        if asked.out is not None:  # a run that trains it may save another step meanwhile
            model = replace(model, source=pinned(model.source))
        self.model, self.mesh = model, mesh
        self.prompts = {prompt.id: prompt for prompt in prompts}
        self.requests = model.requests(prompts)
        self.stop = _Stop()
        self.file: GenerationsFile | None = None
        if asked.out is not None:
            manifest = made_with(
                cfg,
                model=name,
                model_digest=digest(model.source),
                tokenizer_digest=model.tokenizer.digest,
                prompts=str(asked.prompts),
                asked=prompts,
            )
            wanted = [self._sample(request) for request in self.requests]
            self.file = GenerationsFile(asked.out, manifest, wanted)

    def answer(self) -> int:
        """Answers what is not answered yet; the exit code."""
        done = self.file.done if self.file is not None else set()
        requests = [r for r in self.requests if self._sample(r) not in done]
        if done:
            _say(f"{len(done)} of {len(self.requests)} samples are there already")
        with self.stop.watching(), self.file or contextlib.nullcontext():
            try:
                if requests:
                    self._answer(requests)
            except _Stopped:
                written = f"; {len(done)} of {len(self.requests)} samples are written, start again"
                _say(f"stopped by SIGTERM{written + ' to go on' if self.file else ''}")
                return cli.PREEMPTED
        return cli.DONE

    def _answer(self, requests: Sequence[Request]) -> None:
        engine = _engine(self.model, self.mesh, len(requests), self.stop)
        progress = _Progress(engine, len(self.requests) - len(requests), len(self.requests))

        def watch(*_: Any) -> None:
            self.stop.check(engine.counts.steps)
            progress.show()

        for output, number in ask(engine, requests, self.model.cfg.decode, watch):
            prompt = self.prompts[self._sample(output.request)[0]]
            generation = self.model.generation(prompt, output, number)
            if self.file is not None:
                self.file.add(generation)
            else:
                print(generation.to_json(), end="", flush=True)
            progress.done += 1
        progress.show(last=True)

    def _sample(self, request: Request) -> tuple[str, int]:
        """The prompt and which of its samples it is."""
        prompt, _, sample = request.id.rpartition("/")
        return prompt, int(sample)


class _Progress:
    """A line on stderr with rate and time left."""

    def __init__(self, engine: Engine, done: int, total: int):
        self.done, self._total = done, total
        self._counts = engine.counts
        self._in_place = sys.stderr.isatty()
        self._shown = time.monotonic()
        self._start: tuple[float, int, int] | None = None  # after the first segment was compiled

    def show(self, last: bool = False) -> None:
        """Shows the line if the last one is old, and at the end."""
        now, tokens = time.monotonic(), self._counts.tokens
        if self._start is None:
            self._start = now, tokens, self.done
        if not last and now - self._shown < (0.2 if self._in_place else SECONDS_BETWEEN_LINES):
            return
        self._shown = now
        spent, made = now - self._start[0], self.done - self._start[2]
        text = f"{self.done}/{self._total} samples"
        if spent > 0 and tokens > self._start[1]:
            text += f"  {format_count((tokens - self._start[1]) / spent)} tokens/s"
        if made and not last:
            text += f"  {format_seconds((self._total - self.done) * spent / made)} left"
        before, after = ("\r", "\x1b[K") if self._in_place else ("", "\n")
        print(f"{before}{text}{after}", end="\n" * (self._in_place and last), file=sys.stderr)
        sys.stderr.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
