"""Budget forcing of a long-tailed mix of prompts, done in three ways.

    python benchmarks/budget.py [--prompts=500] [--rows=16] [--segment=16] [--parts=5]
                                [--loop-prompts=500]

Each prompt has a budget of thinking from a log-normal distribution cut to 16..512 tokens, and up to
two ends of its thinking that "Wait" takes the place of. The three ways:

- ours: rows are refilled as they finish, in the given order and with the largest budgets first;
- static batches of as many rows, in the given order, each waiting for its slowest row: their model
  steps, counted from what ours wrote, with the same forced tokens (nothing is read twice);
- the loop of s1's own program over transformers' generate, in the same batches: generate up to an
  end, take the end away, append "Wait" and read the whole context again; then close the thinking
  and read it all again for the answer. It keeps the contract of s1jax.decoding.budget, so that
  every prompt has to come out the same.

The model is no trained one: a Qwen2 of 5 million random weights, so large that greedy text varies
and the likeliest two tokens lie apart. Four of its 512 tokens are declared ends, and 16 stops of
the answer, chosen so that many rows end by themselves and the others by their budget. Where two
ways differ, the text must part at a near tie in double precision, else the run fails.

Ours and the loop take turns over parts of the prompts; what ours has to compile is compiled before.
Needs the `test` extra.
"""

import argparse
import os
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import torch
import transformers
from decode import import_model, make_model, spread, timed

from s1jax.decoding.budget import Ids, Rules
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import Output, Request

TIE = 1e-3  # logits nearer than this, of a deviation of 7, may come in either order
LEAST_BUDGET, LARGEST_BUDGET = 16, 512

# Ids have no meaning to the model. Its ends are four that many of its texts come to.
NEWLINES = range(0, 512, 16)
ENDS, STOPS = (487, 493, 498, 503), tuple(range(490, 506))
PROMPT_IDS = 470  # prompts have none from here on
WAIT, CLOSE, FORCE, FORCE_NEWLINE = (506,), (507, 508), (507, 508, 509, 510), (0, 507, 508, 509)

COMPILATION = "/jax/core/compile/backend_compile_duration"
compilations: Counter[str] = Counter()  # of each jitted function so far


def main() -> None:
    """Runs the three ways and prints how they compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"prompts": 500, "rows": 16, "segment": 16, "parts": 5, "loop-prompts": 500}
    model = {"vocab": 512, "width": 256, "mlp": 512, "layers": 8, "heads": 4, "kv-heads": 2}
    for name, default in {**sizes, **model}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--median", type=float, default=64, help="of the budgets")
    parser.add_argument("--sigma", type=float, default=1.0, help="of the logarithm of the budgets")
    parser.add_argument("--answer", type=int, default=16, help="largest answer")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    transformers.utils.logging.disable_progress_bar()
    theirs = make_model(
        transformers.Qwen2Config(
            vocab_size=args.vocab,
            hidden_size=args.width,
            intermediate_size=args.mlp,
            num_hidden_layers=args.layers,
            num_attention_heads=args.heads,
            num_key_value_heads=args.kv_heads,
            tie_word_embeddings=True,
            max_position_embeddings=4096,
        ),
        weights=0.06,
        embedding=0.5,
    )
    cfg, params, mesh = import_model(theirs)
    line_ends = np.zeros(args.vocab, np.bool_)
    line_ends[NEWLINES] = True
    jax.monitoring.register_event_duration_secs_listener(count_compilation)
    engine = Engine(
        cfg,
        params,
        mesh,
        vocab_size=args.vocab,
        line_ends=line_ends,
        rows=args.rows,
        segment_steps=args.segment,
    )
    requests = make_requests(args)
    print(
        f"{cfg.parameters / 1e6:.1f} M parameters, float32, {os.cpu_count()} cores,"
        f" {args.rows} rows, segments of {args.segment} steps"
    )
    given = count_steps(engine, requests)
    compare_clocks(engine, theirs, requests[: args.loop_prompts], given, args)


def make_requests(args: argparse.Namespace) -> list[Request]:
    """The prompts with their budgets."""
    rng = np.random.default_rng(0)
    requests = []
    for number in range(args.prompts):
        budget = args.median * rng.lognormal(0, args.sigma)
        prompt = rng.integers(0, PROMPT_IDS, rng.integers(16, 49))
        rules = Rules(
            int(np.clip(budget, LEAST_BUDGET, LARGEST_BUDGET)),
            args.answer,
            ends=tuple((end,) for end in ENDS),
            stops=tuple((stop,) for stop in STOPS),
            close=CLOSE,
            force=FORCE,
            force_newline=FORCE_NEWLINE,
            ignore_ends=int(rng.integers(0, 3)),
            ignore_strings=(WAIT,),
        )
        requests.append(Request(str(number), tuple(map(int, prompt)), rules))
    return requests


def longest_first(requests: Sequence[Request]) -> list[Request]:
    """Those with the largest budgets first."""
    return sorted(requests, key=lambda request: -request.rules.max_thinking_tokens)


# --- Model steps ---


def count_steps(engine: Engine, requests: Sequence[Request]) -> dict[str, Output]:
    """Prints the steps of ours and of static batches; the samples."""
    given, steps = run_counted(engine, requests)
    sorted_outputs, sorted_steps = run_counted(engine, longest_first(requests))
    assert len(given) == len(sorted_outputs) == len(requests)

    # A stop is sampled in a step of its own; an end is replaced in the step that samples it.
    lengths = [len(o.tokens) + (o.finish == "stop") for o in (given[r.id] for r in requests)]
    batches = [lengths[at : at + engine.rows] for at in range(0, len(lengths), engine.rows)]
    static = sum(map(max, batches))
    budgets = np.array([request.rules.max_thinking_tokens for request in requests])
    outputs = given.values()
    print(
        f"{len(requests)} prompts: budgets {budgets.min()}..{budgets.max()}, median"
        f" {np.median(budgets):.0f}, mean {budgets.mean():.0f};"
        f" {sum(not o.forced for o in outputs)} ended by themselves,"
        f" {sum(o.forced for o in outputs)} by their budget;"
        f" {sum(len(o.ignored_at) for o in outputs)} ends ignored;"
        f" {statistics.fmean(lengths):.0f} steps a row on average, {max(lengths)} at most"
    )
    print(
        f"model steps of {engine.rows} rows (the least possible: {sum(lengths) / engine.rows:.0f})"
    )
    print(f"  static batches         {static:6}")
    for name, count in {"given order": steps, "longest first": sorted_steps}.items():
        print(f"  ours, {name:16} {count:6}: {static / count:.2f} times fewer")
    differing = {i: (o.tokens, sorted_outputs[i].tokens) for i, o in given.items()}
    print(f"the two orders: {len(parting(differing))} of {len(given)} prompts differ")
    print(f"programs compiled: {compiled()}")
    return given


def run_counted(engine: Engine, requests: Sequence[Request]) -> tuple[dict[str, Output], int]:
    """The samples by id, and the model steps that they took."""
    before = engine.counts.steps
    outputs = {output.request.id: output for output in engine.run(requests)}
    return outputs, engine.counts.steps - before


def count_compilation(event: str, duration_secs: float, **about: str | int) -> None:
    """Notes what JAX compiles; the size of a jitted function's cache would count more than that."""
    if event == COMPILATION:
        compilations[str(about["fun_name"])] += 1


def compiled() -> str:
    """How many programs were compiled of each function."""
    return ", ".join(f"{count} of {name}" for name, count in sorted(compilations.items()))


# --- The clock ---


def compare_clocks(
    engine: Engine,
    theirs: Any,
    requests: Sequence[Request],
    given: dict[str, Output],
    args: argparse.Namespace,
) -> None:
    """Prints the times of ours and of the loop over the same parts, and where they differ."""
    size = -(-len(requests) // args.parts)
    parts = [requests[at : at + size] for at in range(0, len(requests), size)]
    loop = Loop(theirs, args.rows)
    warm_up(loop, requests[: args.rows])
    names = ("given order", "longest first", "loop")
    times: dict[str, list[float]] = {name: [] for name in names}
    written: dict[str, dict[str, Ids]] = {name: {} for name in names}
    for part in parts:
        runs: dict[str, Callable[[], dict[str, Ids]]] = {
            "given order": partial(ours, engine, part),
            "longest first": partial(ours, engine, longest_first(part)),
            "loop": partial(loop.run, part),
        }
        for name, run in runs.items():
            before = compilations.total()
            tokens, seconds = timed(run)
            if compilations.total() > before:  # once; then the sizes of this part are known
                tokens, seconds = timed(run)
            times[name].append(seconds)
            written[name] |= tokens

    print(f"time for {len(requests)} prompts in {len(parts)} parts, each begun with empty rows")
    total = sum(times["loop"])
    print(
        f"  generate, and again       {total:8.1f} s; {loop.calls} calls, {loop.steps} steps,"
        f" {loop.read_tokens} tokens read before them"
    )
    for name in names[:-1]:
        ratios = [b / a for a, b in zip(times[name], times["loop"], strict=True)]
        print(
            f"  ours, {name:16}    {sum(times[name]):8.1f} s:"
            f" {total / sum(times[name]):.2f} times faster; of the parts {spread(ratios)}"
        )
    for name in names:
        check_same(theirs, requests, given, name, written[name])
    print(f"programs compiled: {compiled()}")


def warm_up(loop: "Loop", requests: Sequence[Request]) -> None:
    """Runs the loop once, uncounted."""
    loop.run(requests)
    loop.calls = loop.steps = loop.read_tokens = 0


def ours(engine: Engine, requests: Sequence[Request]) -> dict[str, Ids]:
    """The tokens that ours writes, by id."""
    return {output.request.id: output.tokens for output in engine.run(requests)}


def parting(pairs: dict[str, tuple[Ids, Ids]]) -> dict[str, int]:
    """Where two texts part, of those that do."""
    return {
        name: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
        for name, (a, b) in pairs.items()
        if a != b
    }


def check_same(
    theirs: Any,
    requests: Sequence[Request],
    given: dict[str, Output],
    name: str,
    written: dict[str, Ids],
) -> None:
    """Prints how many prompts differ from our first run; raises if one does without a near tie."""
    pairs = {r.id: (given[r.id].tokens, written[r.id]) for r in requests}
    parted = parting(pairs)
    print(f"tokens of {name}: {len(requests) - len(parted)} of {len(requests)} prompts identical")
    for request in requests:
        if request.id not in parted:
            continue
        at = parted[request.id]
        gap = top_two_gap(theirs, [*request.prompt, *pairs[request.id][0][:at]])
        print(f"  prompt {request.id} parts at token {at}, where the top two lie {gap:.1e} apart")
        if not gap < TIE:
            raise AssertionError(f"prompt {request.id} comes out differently by {name}")


def top_two_gap(model: Any, context: Sequence[int]) -> float:
    """How far apart the next token's likeliest two logits are, in double precision."""
    with torch.no_grad():
        logits = model.double()(torch.tensor([context])).logits[0, -1]
    model.float()
    first, second = logits.topk(2).values.tolist()
    return first - second


# --- The loop that stops and reads everything again ---


@dataclass
class LoopRow:
    """A prompt in the loop and what was written for it."""

    request: Request
    text: list[int] = field(default_factory=list)
    charged: int = 0  # of the budget
    ignored: int = 0

    @property
    def context(self) -> list[int]:
        """All that the model has to read."""
        return [*self.request.prompt, *self.text]

    def take(self, ids: Sequence[int]) -> bool:
        """Adds a round of thinking, and what comes in place of its end; whether it goes on."""
        rules = self.request.rules
        ended = ids[-1] in ENDS
        self.text += ids[:-1] if ended else ids
        self.charged += len(ids) - ended
        if not ended:
            newline = self.text[-1] in NEWLINES
            self.text += rules.force if newline else rules.force_newline
            return False
        room = self.charged + len(WAIT) < rules.max_thinking_tokens
        if self.ignored < rules.ignore_ends and room:
            self.text += WAIT
            self.charged += len(WAIT)
            self.ignored += 1
            return True
        self.text += rules.close
        return False


class Spent(transformers.StoppingCriteria):
    """Stops each row when it has its own number of new tokens."""

    def __init__(self, read: int, limits: Sequence[int]):
        self.read = read
        self.limits = torch.tensor(limits)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Which rows are done."""
        return input_ids.shape[1] - self.read >= self.limits


class Loop:
    """Budget forcing as repeated generation in static batches."""

    def __init__(self, model: Any, rows: int):
        self.model = model
        self.rows = rows
        self.calls = self.steps = self.read_tokens = 0

    def run(self, requests: Sequence[Request]) -> dict[str, Ids]:
        """The tokens that are written, by id."""
        written: dict[str, Ids] = {}
        for at in range(0, len(requests), self.rows):
            rows = [LoopRow(request) for request in requests[at : at + self.rows]]
            thinking = rows
            while thinking:
                limits = [r.request.rules.max_thinking_tokens - r.charged for r in thinking]
                # All of a round have ignored as many ends; no end may follow one at once.
                least = 1 if thinking[0].ignored else None
                rounds = self._generate(thinking, limits, ENDS, least)
                pairs = zip(thinking, rounds, strict=True)
                thinking = [row for row, ids in pairs if row.take(ids)]
            limits = [row.request.rules.max_answer_tokens for row in rows]
            answers = self._generate(rows, limits, STOPS, None)
            for row, ids in zip(rows, answers, strict=True):
                row.text += ids[:-1] if ids[-1] in STOPS else ids
                written[row.request.id] = tuple(row.text)
        return written

    def _generate(
        self, rows: Sequence[LoopRow], limits: Sequence[int], ends: Ids, least: int | None
    ) -> list[list[int]]:
        """What the model writes after each context, with the end if there is one."""
        contexts = [row.context for row in rows]
        read = max(map(len, contexts))
        ids = torch.zeros((len(rows), read), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, context in enumerate(contexts):
            ids[row, read - len(context) :] = torch.tensor(context)
            mask[row, read - len(context) :] = 1
        whole = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(limits),
            min_new_tokens=least,
            eos_token_id=list(ends),
            pad_token_id=0,
            do_sample=False,
            stopping_criteria=transformers.StoppingCriteriaList([Spent(read, limits)]),
        )
        self.calls += 1
        self.steps += whole.shape[1] - read
        self.read_tokens += ids.numel()
        new = [row[:limit] for row, limit in zip(whole[:, read:].tolist(), limits, strict=True)]
        return [row[: next((i + 1 for i, t in enumerate(row) if t in ends), None)] for row in new]


if __name__ == "__main__":
    main()
