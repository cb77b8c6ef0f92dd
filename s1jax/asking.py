"""A model that is asked: questions go in, generations come out.

`open_model()` knows everything but the weights, so that whatever is wrong with a question, a
budget or a tokenizer is said before they are read.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from s1jax.chat import Chat, ChatTokenizer, chat_of
from s1jax.config import Config, Decode
from s1jax.decoding.budget import CLOSED
from s1jax.decoding.controls import sample_within_budget
from s1jax.decoding.engine import Engine, Watch
from s1jax.decoding.record import Output, Request
from s1jax.decoding.requests import Ask, requests_of
from s1jax.generations import Generation, Prompt
from s1jax.mesh import DECODING, use_rules
from s1jax.models.apart import take_apart
from s1jax.models.load import Source, load, open_source
from s1jax.models.weights import Progress
from s1jax.prompts import Delimiters, delimiters, line_ends, prompt_ids
from s1jax.types import UserError


@dataclass(frozen=True)
class Model:
    """A model, its tokenizer, and how it is asked; its weights may not have been read yet."""

    cfg: Config
    source: Source
    tokenizer: ChatTokenizer
    chat: Chat
    delimiters: Delimiters

    def requests(self, prompts: Sequence[Prompt]) -> list[Request]:
        """The samples of all prompts. UserError, with the prompt's name, for what cannot be."""
        asks = []
        for prompt in prompts:
            try:
                ids = prompt_ids(self.tokenizer, self.chat, prompt.text, prompt.decode)
            except UserError as error:
                raise UserError(f"{prompt.name}: {error}") from error
            asks.append(Ask(prompt.id, tuple(ids), prompt.decode, prompt.seed, prompt.name))
        return requests_of(asks, self.delimiters, self.source.cfg.max_positions, self.cfg.seed)

    def engine(
        self, mesh: jax.sharding.Mesh, rows: int, progress: Progress | None = None
    ) -> Engine:
        """Reads the weights. UserError if they are damaged or do not divide by the mesh."""
        dtype = jnp.dtype(self.cfg.model.compute_dtype)
        with jax.set_mesh(mesh), use_rules(DECODING):
            params = load(self.source, mesh, dtype, progress)
            params = take_apart(self.source.cfg, params)
        return Engine(
            self.source.cfg,
            params,
            mesh,
            vocab_size=self.tokenizer.vocab_size,
            line_ends=line_ends(self.tokenizer),
            rows=rows,
            segment_steps=self.cfg.decode.segment_steps,
            dtype=dtype,
            strict=self.cfg.decode.strict,
        )

    def generation(self, prompt: Prompt, output: Output, tries: int | None) -> Generation:
        """What is told of a sample of this prompt."""
        request, rules = output.request, output.rules
        rejected = output.finish == "rejected"
        start = self.chat.thinking.rstrip("\n") if rules.thinking else ""
        return Generation(
            id=prompt.id,
            sample=int(request.id.rpartition("/")[2]),
            prompt=prompt.text,
            thinking=self._text(output.thinking),
            answer=self._text(output.answer),
            text=start + self._text(output.tokens),
            parity=rules.accounting,
            requested_thinking_tokens=rules.max_thinking_tokens,
            requested_min_thinking_tokens=rules.min_thinking_tokens,
            requested_answer_tokens=rules.max_answer_tokens,
            thinking_tokens=len(output.thinking),
            answer_tokens=len(output.answer),
            requested_ignore_ends=rules.ignore_ends,
            ignored_ends=output.ignored_at,
            thinking_ended=output.thinking_ended,
            forced=self._text(output.of(CLOSED)) if output.forced and not rejected else None,
            finish=output.finish,
            seed=request.seed,
            tries=tries,
        )

    def _text(self, ids: Sequence[int]) -> str:
        return "".join(self.tokenizer.decode_pieces(ids))


def open_model(cfg: Config) -> Model:
    """The model of `cfg.model`, weights not read.

    Raises UserError if it is malformed, or its tokenizer cannot write what decoding needs.
    """
    source = open_source(cfg.model.path, cfg.model.revision)
    tokenizer = ChatTokenizer.load(source.directory)
    if tokenizer.vocab_size > source.cfg.vocab_size:
        raise UserError(
            f"{source.directory}: the tokenizer writes ids up to {tokenizer.vocab_size - 1}, the"
            f" embedding has {source.cfg.vocab_size} rows"
        )
    chat = chat_of(cfg.model.chat)
    return Model(cfg, source, tokenizer, chat, delimiters(tokenizer, chat, cfg.decode))


def ask(
    engine: Engine, requests: Sequence[Request], decode: Decode, watch: Watch | None = None
) -> Iterator[tuple[Output, int | None]]:
    """Samples as they are finished, and with rejection how many tries each of them took."""
    run, tries = functools.partial(engine.run, watch=watch), decode.rejection_tries
    if tries:
        force = decode.rejection_force_last
        yield from sample_within_budget(run, requests, tries, force_last=force)
    else:
        yield from ((output, None) for output in run(requests))
