"""Our engine as a model of lm-evaluation-harness; only lm_eval's registry imports this.

A context is a text that may hold control tokens, as lm_eval hands over what a chat template has
written: unlike anywhere else, those in a question are not told apart from the template's.
Reference: `lm_eval/models/huggingface.py`, and `vllm_causallms.py` of s1's fork.
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from s1jax import cli, config, mini
from s1jax.asking import Model, ask, open_model
from s1jax.chat import written_ids
from s1jax.config import Config, Decode
from s1jax.decoding.budget import CLOSED, INSERTED, THOUGHT
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import Output, Request
from s1jax.decoding.requests import Ask, requests_of, sample_id
from s1jax.decoding.scoring import score, text_of
from s1jax.distributed import refuse_several
from s1jax.gen_kwargs import AUTO, Asked, can_stop, cut, read_gen_kwargs
from s1jax.mesh import make_mesh
from s1jax.models.load import BytesProgress
from s1jax.progress import Progress, say
from s1jax.prompts import EVALUATOR_RESERVE, Delimiters, delimiters, room_tokens
from s1jax.sections import nearest
from s1jax.types import UserError

MAX_GEN_TOKS = 256  # as of lm_eval's own models

# Arguments that are fields of the config under another name.
FIELDS = {
    "pretrained": "model.path",
    "revision": "model.revision",
    "chat": "model.chat",
    "dtype": "model.compute_dtype",
    "batch_size": "decode.batch_size",
    "parity": "decode.parity",
    "seed": "seed",
}


@dataclass(frozen=True)
class Plan:
    """Requests of the same gen_kwargs, and by their ids where their answers belong."""

    asked: Asked
    requests: list[Request]
    numbers: dict[str, int]


class S1JaxLM(TemplateLM):
    """A model whose weights are read when something is asked; its arguments are in `harness.py`.

    Raises UserError for anything wrong with model, tokenizer or arguments.
    """

    def __init__(
        self,
        *,
        max_length: Any = None,
        max_gen_toks: Any = MAX_GEN_TOKS,
        max_batch_size: int | None = None,  # of lm_eval's search for a batch that fits
        device: str | None = None,  # lm_eval says cuda:0 everywhere; JAX takes all that is here
        **arguments: Any,
    ):
        super().__init__()
        refuse_several("harness")
        self.cfg = config_of(arguments)
        self.model: Model = open_model(self.cfg)
        self.tokenizer = self.model.tokenizer.hf
        context = self.model.source.cfg.max_positions
        self.max_length = context if max_length is None else max_length
        if type(self.max_length) is not int or not 2 <= self.max_length <= context:
            raise UserError(
                f"model_args: max_length={max_length!r} must be 2 to {context}, the model's context"
            )
        if type(max_gen_toks) is not int or max_gen_toks < 1:
            raise UserError(f"model_args: max_gen_toks={max_gen_toks!r} must be at least 1")
        self.max_gen_toks = max_gen_toks
        self._warned = False  # of contexts without the template's prompt

    @functools.cached_property
    def engine(self) -> Engine:
        """With the weights."""
        mesh = make_mesh(self.cfg.mesh)
        return self.model.engine(mesh, self.cfg.decode.batch_size, BytesProgress("read"))

    # --- Texts and ids ---

    @property
    def eot_token_id(self) -> int:
        """What ends any text."""
        own = self.tokenizer.eos_token_id
        return self.model.delimiters.stops[0][-1] if own is None else own

    @property
    def prefix_token_id(self) -> int:
        """What stands for a context where there is none."""
        own = self.tokenizer.bos_token_id
        return self.eot_token_id if own is None else own

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The ids of a text with control tokens, after what the tokenizer puts before any text.

        By default that is left out where the text begins with it, as lm_eval's own models do.
        """
        before, shown = self._before_text
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(shown)
        return before * add_special_tokens + written_ids(self.model.tokenizer, string)

    @functools.cached_property
    def _before_text(self) -> tuple[list[int], str]:
        """What the tokenizer puts before any text, as ids and as text."""
        ids = self.tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
        return ids, "".join(self.model.tokenizer.decode_pieces(ids))

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval's caches of prompts are told apart by."""
        return f"s1jax-{self.model.tokenizer.digest[:16]}"

    def chat_template(self, chat_template: bool | str | None = False) -> str | None:
        """The template, for the record; None if none is asked for."""
        if not chat_template:
            return None
        if isinstance(chat_template, str):
            raise UserError(
                f"--apply_chat_template={chat_template}: the model's default template is applied,"
                " give no name"
            )
        template = self.model.tokenizer.template
        return template if isinstance(template, str) else template["default"]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the template writes it. UserError if it fails."""
        return self.model.tokenizer.conversation(chat_history, add_generation_prompt)

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval writes into its results."""
        return {
            "model_num_parameters": self.model.source.cfg.parameters,
            "model_dtype": self.cfg.model.compute_dtype,
            "model_revision": self.cfg.model.revision,
            "chat": self.cfg.model.chat,
            "parity": self.cfg.decode.parity,
        }

    # --- Answers ---

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers to all requests; those with the same gen_kwargs are decoded together.

        The same request again is another sample. UserError for what cannot be asked, or fits no
        context, before anything is decoded.
        """
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            kwargs = json.dumps(request.args[1], sort_keys=True, default=str)
            groups.setdefault(kwargs, []).append(index)
        plans = [self._plan([requests[i] for i in group]) for group in groups.values()]
        texts = [""] * len(requests)
        progress = Progress("harness", "answers", len(requests))
        for plan, group in zip(plans, groups.values(), strict=True):
            for number, text in self._answers(plan):
                index = group[number]
                texts[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
                progress.done += 1
                if not disable_tqdm:
                    progress.show(last=progress.done == progress.total)
        return texts

    def _plan(self, group: Sequence[Any]) -> Plan:
        """What is decoded for requests of the same gen_kwargs."""
        chat, tokenizer = self.model.chat, self.model.tokenizer
        asked = read_gen_kwargs(group[0].args[1], self.cfg.decode, chat, self.max_gen_toks)
        if asked.samples:
            self._check_cache(group[0].args[1])
        found = delimiters(tokenizer, chat, asked.decode)
        stops = [tuple(written_ids(tokenizer, u)) for u in asked.until if can_stop(u, asked.until)]
        ends = found.ends
        if asked.decode.parity == "evaluator":  # of s1's evaluator they end the thinking as well
            ends += tuple(stop for stop in stops if len(stop) == 1)
        found = replace(found, ends=ends, stops=(*found.stops, *stops))
        prompts = self._prompts([request.args[0] for request in group], asked, found)
        decodes = self._budgets(asked, [len(ids) for ids in prompts], found)
        asks, seen = [], Counter[str]()
        for request, ids, decode in zip(group, prompts, decodes, strict=True):
            what = json.dumps(request.args, sort_keys=True, default=str)
            name = hashlib.sha256(what.encode()).hexdigest()[:16]
            where = f"{request.task_name}, document {request.doc_id}"
            asks.append(Ask(f"{name}:{seen[name]}", ids, decode, name=where))
            seen[name] += 1
        requests = requests_of(asks, found, self.max_length, self.cfg.seed)
        numbers = {sample_id(a.id, 0): number for number, a in enumerate(asks)}
        return Plan(asked, requests, numbers)

    def _check_cache(self, gen_kwargs: Mapping[str, Any]) -> None:
        """Raises UserError if lm_eval's cache would answer repeats of a request with one sample.

        It takes a request for greedy unless it has do_sample.
        """
        if self.cache_hook.dbdict is not None and not gen_kwargs.get("do_sample"):
            greedy = "" if gen_kwargs.get("temperature") else ",temperature=0"
            raise UserError(
                "--use_cache: lm_eval would take its cached sample for all repeats of a request,"
                f" as these gen_kwargs sample without saying so: give do_sample=True{greedy}"
            )

    def _prompts(
        self, contexts: Sequence[str], asked: Asked, found: Delimiters
    ) -> list[tuple[int, ...]]:
        """The ids of each context and of what opens the thinking, which a template may have done.

        They are cut on the left to what the rest leaves of the model's context, as in all of
        lm_eval's models; where it leaves nothing they are whole. In s1 the rest is max_gen_toks,
        and here with thinking its budget, what closes it and a token of the answer.
        """
        start, least = self.model.chat.thinking.rstrip("\n"), 0
        room = self.max_length - asked.decode.max_answer_tokens
        if asked.decode.thinking:
            self._check_generation_prompt(contexts)
            contexts = [c if c.rstrip("\n").endswith(start) else c + start for c in contexts]
            least = len(written_ids(self.model.tokenizer, start))
            room = self._room(asked, found)
        prompts = [self.tok_encode(context) or [self.prefix_token_id] for context in contexts]
        if room > least:
            if longer := sum(len(ids) > room for ids in prompts):
                say(f"{longer} of {len(prompts)} contexts are cut on the left to {room} tokens")
            prompts = [ids[-room:] for ids in prompts]
        return [tuple(ids) for ids in prompts]

    def _check_generation_prompt(self, contexts: Sequence[str]) -> None:
        """Says once if the model is to think where it has not learnt to."""
        start = self.model.chat.thinking.rstrip("\n")

        def before_thinking(text: str) -> str:
            return text.rstrip("\n").removesuffix(start).rstrip("\n")

        prompt = before_thinking(self.model.tokenizer.prompt[1])
        without = sum(not before_thinking(context).endswith(prompt) for context in contexts)
        if without and not self._warned:
            self._warned = True
            say(
                f"{without} of {len(contexts)} contexts do not end in the chat template's"
                " generation prompt, after which the model thinks: --apply_chat_template writes it"
            )

    def _room(self, asked: Asked, found: Delimiters) -> int:
        """The most that a prompt may have where there is thinking.

        An automatic budget leaves it all but the least of the thinking. In s1's evaluator it is
        one for all, so that to cut the longest would leave none of them more: there it is whole.
        """
        if isinstance(asked.budget, int):
            return self._left(asked, found) - asked.budget
        if asked.budget == AUTO and asked.decode.parity == "evaluator":
            return 0
        return self._left(asked, found) - max(asked.decode.min_thinking_tokens, 1)

    def _left(self, asked: Asked, found: Delimiters) -> int:
        """What is left to a prompt and its thinking together.

        An automatic budget leaves 100 tokens of max_gen_toks to the answer, as in s1.
        """
        decode, evaluator = asked.decode, asked.decode.parity == "evaluator"
        if asked.budget == AUTO:
            top = min(decode.max_answer_tokens, self.max_length)
            if evaluator:
                return top - len(found.force) - EVALUATOR_RESERVE
            return room_tokens(top, 0, found, decode) - EVALUATOR_RESERVE
        reserve = 1 if evaluator or asked.budget is not None else EVALUATOR_RESERVE
        return room_tokens(self.max_length, 0, found, decode) - reserve

    def _budgets(self, asked: Asked, lengths: Sequence[int], found: Delimiters) -> list[Decode]:
        """How each prompt is asked: with its budget, and an answer that fits what it leaves.

        Raises UserError where nothing is left to a budget that is the same for all.
        """
        decode, evaluator = asked.decode, asked.decode.parity == "evaluator"
        most, left = decode.max_answer_tokens, self._left(asked, found)
        if asked.budget == AUTO and evaluator and left <= max(lengths):
            raise UserError(
                f"gen_kwargs: a context of {max(lengths)} tokens leaves {left - max(lengths)} of"
                f" max_gen_toks={most} to the automatic budget, which parity=evaluator has the same"
                " for all: give more, or max_tokens_thinking a number"
            )
        decodes = []
        for length in lengths:
            if not decode.thinking:
                budget = 0
            elif isinstance(asked.budget, int):
                budget = asked.budget
            elif asked.budget == AUTO:
                budget = left - (max(lengths) if evaluator else length)
            else:
                budget = min(most, left - length)
            room = room_tokens(self.max_length, length, found, decode)
            # In s1's evaluator the context alone bounds the answer, and cuts it where it ends.
            answer = most if evaluator else max(1, min(most, room - budget))
            decodes.append(replace(decode, max_thinking_tokens=budget, max_answer_tokens=answer))
        return decodes

    def _answers(self, plan: Plan) -> Iterator[tuple[int, str]]:
        for output, _ in ask(self.engine, plan.requests, plan.asked.decode):
            yield plan.numbers[output.request.id], self._text(output, plan.asked.until)

    def _text(self, output: Output, until: Sequence[str]) -> str:
        """What s1's graders parse: thinking and answer, with all that is around them."""
        before, answer = (
            "".join(self.model.tokenizer.decode_pieces(ids))
            for ids in (output.of(THOUGHT, INSERTED, CLOSED), output.answer)
        )
        start = self.model.chat.thinking.rstrip("\n") if output.rules.thinking else ""
        return start + before + cut(answer, until)

    # --- Log-likelihoods ---

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one."""
        texts = []
        for index, (strings, context, ids) in enumerate(requests):
            if not 0 < len(ids) <= self.max_length:
                raise UserError(
                    f"a continuation has {len(ids)} tokens, it must have 1 to {self.max_length}:"
                    f" {(strings or ('', ''))[1][:80]!r}"
                )
            texts.append(text_of(index, tuple(context), tuple(ids), self.max_length))
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        progress = Progress("harness", "log-likelihoods", len(requests))
        for index, scored in score(self.engine, texts):
            found[index] = scored.logprob, scored.greedy
            if (strings := requests[index][0]) is not None:
                self.cache_hook.add_partial("loglikelihood", strings, found[index])
            progress.done += 1
            if not disable_tqdm:
                progress.show(last=progress.done == progress.total)
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each whole text, in windows of the context's length."""
        windows, owners = [], []
        for index, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            pairs = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            for pair in map(make_disjoint_window, pairs):
                windows.append((None, *pair))
                owners.append(index)
        totals = [0.0] * len(requests)
        scored = self._loglikelihood_tokens(windows, disable_tqdm)
        for owner, (logprob, _) in zip(owners, scored, strict=True):
            totals[owner] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals


def config_of(arguments: Mapping[str, Any]) -> Config:
    """The config that a model's arguments make. UserError, which lists all that is wrong."""
    given = {name: value for name, value in arguments.items() if value is not None}
    file = given.pop("config", None)
    if "pretrained" in given:
        given.setdefault("revision", "None")  # a config's pins another model's commit
    texts = {}
    for name, value in given.items():
        if name not in FIELDS and "." not in name:
            names = (*FIELDS, "config", "max_length", "max_gen_toks")
            raise UserError(f"model_args: {name} is no argument{nearest(name, names)}")
        if name not in ("dtype", "batch_size") or not str(value).startswith("auto"):
            texts[FIELDS.get(name, name)] = str(value)
    if file is None:
        cfg = config.resolve(config.overridden(config.default(), texts), "model_args")
    else:
        sets = [f"{path}={text}" for path, text in texts.items()]
        cfg = cli.config_of(SimpleNamespace(config=file, set=sets))
    if not cfg.model.path:
        raise UserError("model_args: pretrained is missing: for example pretrained=mini")
    if cfg.decode.parity == "readme":
        raise UserError(
            "model_args: parity must be none or evaluator, as the harness is the latter's"
        )
    return mini.resolve_model(cfg)
