"""`Local`: a model of our own as a teacher, asked through the decoding engine.

Prompts that wait together are decoded together; a reply comes as soon as its row is done.
"""

import asyncio
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from s1jax.config import Config, Decode
from s1jax.curation_config import Teacher
from s1jax.data.asked import Asked, Prompt, Refused, Reply, name_of, settings_of
from s1jax.progress import say
from s1jax.types import UserError

if TYPE_CHECKING:
    from s1jax.decoding.record import Output

# Of decode: how the work is divided, which decides about no answer. All else may.
_DIVISION = ("samples", "batch_size", "segment_steps", "order")


class Local(Asked):
    """A Hugging Face directory, a hub id or a checkpoint, as config.decode and the mesh say.

    With `thinking` it thinks under its budget, else it answers at once, as base models do.
    Raises UserError if the model cannot be read.
    """

    at_once = 4096
    varies = False  # a sample is a function of its seed

    def __init__(self, cfg: Config, teacher: Teacher, *, thinking: bool):
        from s1jax.asking import open_model

        decode = decode_of(cfg.decode, teacher, thinking=thinking)
        model = replace(cfg.model, path=teacher.model, revision=None)
        self._cfg = replace(cfg, model=model, decode=decode)
        self._model = open_model(self._cfg)
        self.name = name_of(teacher)
        self.settings = {
            **settings_of(teacher),
            **{f"decode.{k}": v for k, v in asdict(decode).items() if k not in _DIVISION},
            "model.chat": cfg.model.chat,
            "model.compute_dtype": cfg.model.compute_dtype,
            "seed": cfg.seed,
        }
        self._engine: Any = None
        self._waiting: list[tuple[Prompt, asyncio.Future[Reply]]] = []
        self._decoding: asyncio.Task[None] | None = None
        self._closed = False

    async def ask(self, prompt: Prompt) -> Reply:
        """See asked.Asked."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, future))
        if self._decoding is None or self._decoding.done():
            self._decoding = asyncio.create_task(self._decode())
        return await future

    async def close(self) -> None:
        """See asked.Asked."""
        self._closed = True
        if self._decoding is not None:
            await asyncio.gather(self._decoding, return_exceptions=True)

    async def _decode(self) -> None:
        await asyncio.sleep(0.05)  # until all have asked who ask together
        loop = asyncio.get_running_loop()
        while self._waiting and not self._closed:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._answer, batch, loop)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _answer(
        self, batch: list[tuple[Prompt, "asyncio.Future[Reply]"]], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Decodes these prompts, in a thread of its own; replies go to the loop."""
        from s1jax import generations
        from s1jax.decoding.record import Request

        def tell(future: "asyncio.Future[Reply]", what: Reply | Exception) -> None:
            if future.done():
                return
            if isinstance(what, Exception):
                future.set_exception(what)
            else:
                future.set_result(what)

        requests: list[Request] = []
        futures: dict[str, asyncio.Future[Reply]] = {}
        for prompt, future in batch:
            text = prompt.text if prompt.system is None else f"{prompt.system}\n\n{prompt.text}"
            name = f"{prompt.id}:{prompt.sample}"  # its seed
            try:
                [request] = self._model.requests([generations.Prompt(name, text, self._cfg.decode)])
            except UserError as error:  # it does not fit the context
                loop.call_soon_threadsafe(tell, future, Refused(str(error), certain=True))
                continue
            requests.append(request)
            futures[request.id] = future
        if not requests:
            return
        if self._engine is None:
            self._engine = self._load(len(requests))

        def watch(*_: Any) -> None:
            if self._closed:
                raise _Closed

        try:
            for output in self._engine.run(requests, watch=watch):
                reply = self._reply(output)
                loop.call_soon_threadsafe(tell, futures[output.request.id], reply)
        except _Closed:
            return

    def _load(self, prompts: int) -> Any:
        from s1jax.mesh import make_mesh
        from s1jax.models.load import BytesProgress

        say(f"reading {self._cfg.model.path}")
        rows = min(self._cfg.decode.batch_size, prompts)
        return self._model.engine(make_mesh(self._cfg.mesh, None), rows, BytesProgress("read"))

    def _reply(self, output: "Output") -> Reply:
        pieces = self._model.tokenizer.decode_pieces
        thinking, answer = ("".join(pieces(ids)) for ids in (output.thinking, output.answer))
        finish = "length" if output.finish == "length" else "stop"
        return Reply(
            thinking.strip(),
            answer.strip().removeprefix("Answer:").strip(),
            finish,
            "" if finish == "stop" else "cut at its limit",
            prompt_tokens=len(output.request.prompt),
            thinking_tokens=len(output.thinking),
            answer_tokens=len(output.answer),
        )


class _Closed(Exception):
    """Nobody waits for the rest."""


def decode_of(decode: Decode, teacher: Teacher, *, thinking: bool) -> Decode:
    """How a local teacher is asked: the config's decoding, with what the teacher sets itself."""
    changes: dict[str, Any] = {"samples": 1, "rejection_tries": 0, "thinking": thinking}
    if teacher.temperature is not None:
        changes |= {"temperature": teacher.temperature, "thinking_temperature": None}
    if teacher.thinking_tokens is not None:
        changes["max_thinking_tokens"] = teacher.thinking_tokens
    if teacher.max_tokens is not None:
        changes["max_answer_tokens"] = teacher.max_tokens
    return replace(decode, **changes)
