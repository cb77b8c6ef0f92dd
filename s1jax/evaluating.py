"""Generates what a sweep asks of a model and is not there yet.

Runs that differ only in their budget and in the ends they ignore are made from one generation of
each question: the longest is decoded, the others branch off its cache (see decoding.branches).
That is done exactly where it is exact: where the branch's rules are those of the run itself.
"""

import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from s1jax.asking import Model, ask, open_model
from s1jax.chat import ChatTokenizer
from s1jax.config import Config, Decode, decode_of
from s1jax.decoding.budget import ANSWER, CLOSED, INSERTED, THOUGHT
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import Branch, Output, Request, rules_of
from s1jax.distributed import meet
from s1jax.evaluation import samples
from s1jax.evaluation.measures import s1_lengths
from s1jax.evaluation.samples import Sample, SamplesFile
from s1jax.evaluation.tasks import Item
from s1jax.evaluation_config import Run
from s1jax.generations import Prompt
from s1jax.models.load import BytesProgress, digest, pinned
from s1jax.progress import Progress, format_count, say
from s1jax.prompts import delimiters
from s1jax.types import UserError

_KINDS = {
    THOUGHT: samples.THINKING,
    INSERTED: samples.INSERTED,
    CLOSED: samples.CLOSING,
    ANSWER: samples.ANSWER,
}

Plan = dict[
    str, dict[str, dict[str, list[str]]]
]  # task, run, id of the question: its samples' keys


@dataclass(frozen=True)
class Wanted:
    """One sample that a run wants."""

    key: str
    item: Item
    run: Run
    model: Model  # asked as the run says
    prompt: Prompt
    request: Request  # the number of the sample ends its id


class Evaluated:
    """A model under evaluation: what its runs want, and the making of it.

    Raises UserError, before any weights are read, if a question does not fit the context of a run.
    """

    def __init__(self, cfg: Config, runs: Sequence[Run], items: Mapping[str, Sequence[Item]]):
        opened = open_model(cfg)
        self.model = replace(opened, source=pinned(opened.source))
        self.digest = digest(self.model.source)
        self.runs = list(runs)
        self.decodes = {run.name: decode_of(cfg.decode, run) for run in runs}
        self.wanted: list[Wanted] = []
        self.plan: Plan = {task: {run.name: {} for run in self.runs} for task in items}
        for run in self.runs:
            for seed in cfg.evaluate.seeds or (cfg.seed,):
                self._want(run, seed, items)

    def _want(self, run: Run, seed: int, items: Mapping[str, Sequence[Item]]) -> None:
        cfg = self.model.cfg
        decode = self.decodes[run.name]
        model = replace(
            self.model,
            cfg=replace(cfg, decode=decode, seed=seed),
            delimiters=delimiters(self.model.tokenizer, self.model.chat, decode),
        )
        for task, asked in items.items():
            of = {f"{task}/{item.id}": item for item in asked}
            prompts = {
                name: Prompt(name, item.prompt, decode, name=f"{task}, question {item.id}")
                for name, item in of.items()
            }
            try:
                requests = _requests(model, run, list(prompts.values()))
            except UserError as error:
                raise UserError(f"run {run.name}: {error}") from error
            for request in requests:
                name = request.id.rpartition("/")[0]
                key = self._key(request, decode)
                self.wanted.append(Wanted(key, of[name], run, model, prompts[name], request))
                self.plan[task][run.name].setdefault(of[name].id, []).append(key)

    def _key(self, request: Request, decode: Decode) -> str:
        """The digest of all that decides about a sample."""
        what = [
            self.digest,
            self.model.tokenizer.digest,
            self.model.cfg.model.compute_dtype,
            self.model.chat.name,
            decode.strict,
            request.prompt,
            asdict(request.rules),
            asdict(request.thinking),
            asdict(request.answer),
            request.seed,
            [decode.rejection_tries, decode.rejection_force_last],
        ]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]

    def generate(
        self, mesh: jax.sharding.Mesh, known: SamplesFile, file: SamplesFile, label: str
    ) -> None:
        """Makes this process's share of the samples that are not known, each into the file at once.

        Process i of n has every n-th question, with all that is asked about it: runs that branch
        off one generation stay together, and whoever starts again has the same share.
        """
        count, index = jax.process_count(), jax.process_index()
        questions = dict.fromkeys((want.item.task, want.item.id) for want in self.wanted)
        own = set(list(questions)[index::count])
        wanted = [want for want in self.wanted if (want.item.task, want.item.id) in own]
        missing = {want.key: want for want in wanted if want.key not in known}
        total = len({want.key for want in wanted})
        if count > 1:
            # Checkpoints are read by all processes together or by none.
            meet(f"samples of {label}")
            label += f" (process {index} of {count})"
            if multihost_utils.process_allgather(np.array(bool(missing))).any() and not missing:
                self.model.engine(mesh, 1)
        if len(missing) < total:
            say(f"{label}: {total - len(missing)} of {total} samples are there already")
        if not missing:
            return
        made = reused(list(missing.values()))
        if made["branched"]:
            say(f"{label}: {made['generated']} generations serve {len(missing)} samples")
        rows = min(self.model.cfg.decode.batch_size, len(missing))
        engine = self.model.engine(mesh, rows, BytesProgress("read"))
        progress = Progress(f"evaluate {label}", "samples", total, total - len(missing))

        def tell(*_: object) -> None:
            counts = engine.counts
            progress.show(f"{format_count(counts.tokens)} tokens")

        for want, output, tries in _outputs(engine, list(missing.values()), tell):
            file.add(_sample(want, output, tries))
            progress.done += 1
        progress.show(f"{format_count(engine.counts.tokens)} tokens", last=True)


@contextlib.contextmanager
def open_samples(path: Path) -> Iterator[tuple[SamplesFile, SamplesFile]]:
    """The samples that are known, and the file that takes this process's own.

    With one process both are the file at `path`. With several each of the others writes a file
    beside it, and at the end, or at the next beginning, process 0 moves those samples into `path`.
    """
    index = jax.process_index()
    if index == 0:
        _gather(path)
    meet("samples gathered")
    known = SamplesFile(path)
    meet("samples read")
    own = known if index == 0 else SamplesFile(path.with_suffix(f".{index}{path.suffix}"))
    with own:
        yield known, own
    meet("samples made")
    if index == 0:
        _gather(path)


def _gather(path: Path) -> None:
    for part in sorted(path.parent.glob(f"{path.stem}.*{path.suffix}")):
        made = SamplesFile(part)
        with SamplesFile(path) as file:
            for key in made.keys - file.keys:
                file.add(made.get(key))
        part.unlink()


def _requests(model: Model, run: Run, prompts: Sequence[Prompt]) -> list[Request]:
    """The samples of a run's prompts.

    Without thinking an answer may have all that the context leaves, as in s1, or what the others
    may think and answer together. A greedy sample has no seed: it does not depend on any.
    """
    decode = model.cfg.decode
    plain = not decode.thinking and "max_answer_tokens" not in run.decode
    if plain:
        one = replace(decode, max_answer_tokens=1)  # more is seen to below
        prompts = [replace(prompt, decode=one) for prompt in prompts]
    requests = model.requests(prompts)
    if plain:
        most = decode.max_answer_tokens + (decode.max_thinking_tokens or 2**31)
        rooms = (model.source.cfg.max_positions - len(request.prompt) for request in requests)
        requests = [
            replace(
                request, rules=replace(request.rules, max_answer_tokens=max(1, min(room, most)))
            )
            for request, room in zip(requests, rooms, strict=True)
        ]
    greedy = decode.temperature == 0 and not decode.thinking_temperature
    return [replace(request, seed=0) for request in requests] if greedy else requests


def _outputs(
    engine: Engine, wanted: Sequence[Wanted], tell: Callable[..., None]
) -> Iterator[tuple[Wanted, Output, int | None]]:
    """Every wanted sample as it is finished, with its tries where there is rejection."""
    rejecting = [want for want in wanted if want.model.cfg.decode.rejection_tries]
    heads, of = _grouped([want for want in wanted if not want.model.cfg.decode.rejection_tries])
    for output in engine.run(heads, watch=tell):
        yield of[output.request.id, output.branch], output, None
    for _, run in groupby(rejecting, key=lambda want: (want.run.name, want.model.cfg.seed)):
        group = list(run)
        named = {f"{n}/{_sample_number(w)}": w for n, w in enumerate(group)}
        requests = [replace(want.request, id=name) for name, want in named.items()]
        for output, tries in ask(engine, requests, group[0].model.cfg.decode, tell):
            yield named[output.request.id], output, tries


def _grouped(
    wanted: Sequence[Wanted],
) -> tuple[list[Request], dict[tuple[str, Branch | None], Wanted]]:
    """Requests with branches for all of these samples, and which of them each one makes."""
    longest_first = sorted(
        wanted,
        key=lambda w: (w.request.rules.max_thinking_tokens, w.request.rules.ignore_ends),
        reverse=True,
    )
    heads: list[Request] = []
    of: dict[tuple[str, Branch | None], Wanted] = {}
    alike: dict[tuple, list[int]] = {}  # heads by what they share with their branches
    for want in longest_first:
        request, rules = want.request, want.request.rules
        branch = Branch(rules.max_thinking_tokens, rules.ignore_ends)
        shared = (request.prompt, request.thinking, request.answer, request.seed)
        for number in alike.get(shared, []):
            head = heads[number]
            if rules.ignore_ends <= head.rules.ignore_ends and rules_of(head, branch) == rules:
                heads[number] = replace(head, branches=(*head.branches, branch))
                of[head.id, branch] = want
                break
        else:
            head = replace(request, id=f"{len(heads)}/{_sample_number(want)}")
            alike.setdefault(shared, []).append(len(heads))
            heads.append(head)
            of[head.id, None] = want
    if wanted and wanted[0].model.cfg.decode.order == "given":
        place = {want.key: number for number, want in enumerate(wanted)}
        heads.sort(key=lambda head: place[of[head.id, None].key])
    return heads, of


def _sample_number(want: Wanted) -> str:
    return want.request.id.rpartition("/")[2]


def _sample(want: Wanted, output: Output, tries: int | None) -> Sample:
    model, tokenizer = want.model, want.model.tokenizer
    asked = replace(want.prompt, id=want.item.id)
    generation = model.generation(asked, output, tries)
    pieces = tokenizer.decode_pieces(output.tokens)
    spans = [(samples.START, len(generation.text) - sum(map(len, pieces)))]
    for kind, group in groupby(zip(output.kinds, pieces, strict=True), key=lambda piece: piece[0]):
        spans.append((_KINDS[kind], sum(len(text) for _, text in group)))
    thinking, answer = 0, _tokens(tokenizer, generation.text)
    # A model that was not told to think may have done so by itself.
    if output.rules.thinking or model.chat.answer.strip() in generation.text:
        count = functools.partial(_tokens, tokenizer)
        thinking, answer = s1_lengths(generation.text, model.chat, count)
    return Sample(
        key=want.key,
        task=want.item.task,
        id=want.item.id,
        s1_thinking_tokens=thinking,
        s1_answer_tokens=answer,
        spans=tuple(spans),
        generation=generation,
    )


def _tokens(tokenizer: ChatTokenizer, text: str) -> int:
    """As the tokenizer itself counts a text, control tokens in it included."""
    return len(tokenizer.hf.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def reused(wanted: Sequence[Wanted]) -> Counter:
    """How many of the samples are generated on their own, and how many branch off another."""
    heads, of = _grouped(wanted)
    return Counter({"generated": len(heads), "branched": len(of) - len(heads)})
