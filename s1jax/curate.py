"""Selects a training set from the teacher's traces: quality, difficulty, diversity.

    python -m s1jax.curate --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.curate --config=configs/mini.py --workdir=runs/mini --explain=QUESTION_ID

Reads traces.db of the workdir (see s1jax.distill) and leaves there: curated.jsonl and .parquet in
s1K's columns; README.md, their data card; curate.json, the counts; funnel.png, domains.png and
lengths.png; decisions.jsonl, why each question was kept or dropped, which --explain reads.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from absl import flags

from s1jax import cli, sifting
from s1jax.chat import CHATS, Chat, ChatTokenizer, chat_of, chat_text, check_asks
from s1jax.config import Config, to_json
from s1jax.curation import (
    DECISIONS,
    DROPPED,
    TRACES,
    CleanPool,
    clean_pool,
    digests_of,
    licences,
    pool_manifest,
    write_decisions,
    write_manifest,
)
from s1jax.data.conditional import conditional
from s1jax.data.data_card import Card, data_card
from s1jax.data.funnel import Candidate, Pick, Stage, funnel_table, stages
from s1jax.data.report import plot_domains, plot_funnel, plot_lengths
from s1jax.data.rows import s1_row, write_rows
from s1jax.data.select import select
from s1jax.data.store import TraceStore
from s1jax.progress import say
from s1jax.terminal import harmless
from s1jax.types import Example, Question, UserError

_FIELDS = ("seed", "model", "pool", "distill", "curate")  # of the config, that decide


def main(argv: Sequence[str]) -> int:
    """Parses the flags and curates, or explains one question."""
    values = cli.new_flags()
    cli.add_config(values)
    flags.DEFINE_string("workdir", None, "where everything is written", flag_values=values)
    flags.DEFINE_string("explain", None, "the id of a question", flag_values=values)
    values = cli.parse(values, __doc__, argv)
    workdir = cli.directory_of(values, "workdir")
    if values.explain is not None:
        print(harmless(explain(workdir, values.explain)))  # it shows a question
        return cli.DONE
    return curate(cli.config_of(values), workdir)


def curate(cfg: Config, workdir: Path) -> int:
    """Selects, and writes what it selected; returns the exit code.

    Raises UserError for anything wrong with pool, traces, grades or models that are asked.
    """
    try:
        with cli.stops():
            return _curate(cfg, workdir)
    except cli.Stopped:
        say("stopped; every answer is in the store: start again to go on")
        return cli.PREEMPTED


def _curate(cfg: Config, workdir: Path) -> int:
    check_asks(_chat(cfg))  # before anybody is asked to grade
    if not (workdir / TRACES).is_file():
        raise UserError(f"{workdir / TRACES}: there is no such file; distill into --workdir first")
    _tell_another_pool(cfg, workdir / "distill.json")
    pool = clean_pool(cfg.pool, cfg.seed)
    tokenizer = sifting.tokenizer_of(cfg)
    with TraceStore(workdir / TRACES) as store:
        sifted = sifting.sift(cfg, pool, store, tokenizer)
        picks, undrawn = select(sifted.candidates, cfg.curate, cfg.seed)
        place = {question.id: number for number, question in enumerate(pool.questions)}
        picks = sorted(picks, key=lambda pick: place[pick.candidate.question.id])
        correct = sifting.correctness(cfg, picks, sifted, store)
        spent = {teacher: store.spent(teacher) for teacher in store.teachers()}
        digests = write_rows(_rows(cfg, picks, correct, store, tokenizer), workdir / "curated")
    drops = [*pool.drops, *sifted.drops, *undrawn]
    funnel = stages(pool.rows, pool.set_aside, drops)
    print(funnel_table(funnel))
    write_decisions(workdir / DECISIONS, picks, drops, pool.set_aside)
    manifest = _manifest(cfg, pool, funnel, picks, correct, digests, spent, tokenizer)
    write_manifest(workdir / "curate.json", manifest)
    _draw(workdir, sifted.candidates, picks, funnel)
    card = _card(cfg, workdir.name, pool, funnel, picks, correct)
    (workdir / "README.md").write_text(data_card(card), encoding="utf-8")
    if 0 < len(picks) < cfg.curate.size and cfg.curate.selection != "full":
        say(f"only {len(picks)} of curate.size={cfg.curate.size}: no more were left")
    if not picks:
        emptied = next(stage.name for stage in funnel if not stage.after)
        raise UserError(f"no question is left after {emptied}: see {workdir / DECISIONS} for why")
    print(f"curated: {workdir / 'curated.jsonl'}, {len(picks)} examples; see README.md beside it")
    return cli.DONE


def _tell_another_pool(cfg: Config, manifest: Path) -> None:
    """Says what of the pool is not as it was when the teacher was asked."""
    if not manifest.is_file():
        return
    try:
        before = json.loads(manifest.read_text(encoding="utf-8"))["config"]["pool"]
    except (ValueError, KeyError, TypeError):
        return  # it is only a hint
    now = cfg.to_dict()["pool"]
    changed = [
        f"pool.{name} was {before.get(name)}" for name in now if before.get(name) != now[name]
    ]
    if changed:
        say(f"this is not the pool that was distilled: {'; '.join(changed)}")


def _chat(cfg: Config) -> Chat:
    """In which the examples' `text` is written."""
    if cfg.curate.control == "steps":
        return CHATS["steps"]
    # A config whose training divides these into steps (data.control) has them whole here.
    return CHATS["s1"] if cfg.model.chat == "steps" else chat_of(cfg.model.chat)


def _rows(
    cfg: Config,
    picks: Sequence[Pick],
    correct: dict[str, bool | None],
    store: TraceStore,
    tokenizer: ChatTokenizer,
) -> Iterator[dict[str, Any]]:
    """The examples in s1K's columns, with s1's `text`, and how each came to be picked.

    With `curate.control` question and text ask for so much thinking; the id stays.
    """
    chat = _chat(cfg)
    for pick in picks:
        question, outline = pick.candidate.question, pick.candidate.trace
        trace = store.trace(question.id, outline.teacher, outline.sample)
        example = Example(question.id, question.question, trace.thinking, trace.answer)
        [asking], steps = conditional([example], tokenizer, cfg.curate.control)
        yield s1_row(question, trace) | {
            "question": asking.question,
            "text": chat_text(tokenizer, chat, asking, steps[0] if steps else None),
            "domain": pick.candidate.domain,
            "thinking_tokens": pick.candidate.thinking_tokens,
            "correct": correct[question.id],
            "picked": f"{pick.reason}: {pick.detail}",
        }


# --- What became of each question ---


def explain(workdir: Path, name: str) -> str:
    """Why the question with this id, or with one that begins so, was kept or dropped.

    Before curate has run, of what distill did not ask. Raises UserError if there is no such
    question, or neither has run here.
    """
    paths = [workdir / name for name in (DECISIONS, DROPPED)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{paths[0]}: there is no such file; curate first, then ask why")
    found = []
    wanted = name.partition("/")[0]  # of a further sample the question's
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            decision = json.loads(line)
            if decision["id"] is not None and decision["id"].startswith(wanted):
                found.append(decision)
    ids = {decision["id"] for decision in found}
    if len(ids) > 1:
        raise UserError(f"--explain={name}: {len(ids)} questions begin so; write more of the id")
    if not found or not name:
        raise UserError(
            f"--explain={name}: no question has this id; ids are in {path}, and in the first 16 hex"
            " digits of a question's sha256"
        )
    return "\n".join(_told(decision) for decision in found)


def _told(decision: dict[str, Any]) -> str:
    verb = "kept" if decision["kept"] else "dropped"
    return (
        f"{decision['id']} ({decision['source_type']}, {decision['place']})\n"
        f"  {decision['question']}\n"
        f"  {verb} by {decision['stage']}: {decision['reason']}: {decision['detail']}"
    )


# --- What is told of the whole ---


def _manifest(
    cfg: Config,
    pool: CleanPool,
    funnel: Sequence[Stage],
    picks: Sequence[Pick],
    correct: dict[str, bool | None],
    digests: dict[str, str],
    spent: dict[str, float],
    tokenizer: ChatTokenizer,
) -> dict[str, Any]:
    right, wrong = _counted(correct)
    traces = [pick.candidate.trace for pick in picks]
    return {
        "command": "curate",
        "config": {name: cfg.to_dict()[name] for name in _FIELDS},
        "tokenizer_sha256": tokenizer.digest,
        "read_sha256": digests_of(
            [*cfg.pool.sources, *cfg.pool.evaluation_sets, cfg.curate.grades]
        ),
        "pool": pool_manifest(pool),
        "funnel": [asdict(stage) for stage in funnel],
        "picks": dict(Counter(pick.reason for pick in picks).most_common()),
        "domains": dict(Counter(pick.candidate.domain for pick in picks).most_common()),
        "thinking_tokens": sum(pick.candidate.thinking_tokens for pick in picks),
        "graded": {"correct": right, "wrong": wrong},
        "teachers": dict(Counter(f"{t.teacher} {t.version}".strip() for t in traces)),
        "cost": {"of_the_picked": sum(trace.cost or 0.0 for trace in traces), "spent": spent},
        "sha256": digests,
    }


def _counted(correct: Mapping[str, bool | None]) -> tuple[int, int]:
    values = list(correct.values())
    return values.count(True), values.count(False)


def _draw(
    workdir: Path, candidates: Sequence[Candidate], picks: Sequence[Pick], funnel: Sequence[Stage]
) -> None:
    def domains(some: Sequence[Candidate]) -> Counter[str]:
        return Counter(candidate.domain for candidate in some)

    def lengths(some: Sequence[Candidate]) -> list[int]:
        return [candidate.thinking_tokens for candidate in some]

    chosen = [pick.candidate for pick in picks]
    plot_funnel(funnel, workdir / "funnel.png")
    plot_domains(domains(candidates), domains(chosen), workdir / "domains.png")
    plot_lengths(lengths(candidates), lengths(chosen), workdir / "lengths.png")


def _card(
    cfg: Config,
    name: str,
    pool: CleanPool,
    funnel: Sequence[Stage],
    picks: Sequence[Pick],
    correct: Mapping[str, bool | None],
) -> Card:
    source_of, rows = _sources(pool)
    tokens: dict[str, list[int]] = {source: [] for source in rows}
    for pick in picks:
        tokens[source_of(pick.candidate.question)].append(pick.candidate.thinking_tokens)
    right, wrong = _counted(correct)
    return Card(
        name=name,
        command=f"python -m s1jax.curate --config=CONFIG --workdir={name}",
        seed=cfg.seed,
        config_digest=hashlib.sha256(to_json(cfg).encode()).hexdigest(),
        pool=cfg.pool,
        curate=cfg.curate,
        funnel=funnel,
        picks=picks,
        sources=rows,
        kept=Counter(map(source_of, pool.questions)),
        selected={source: len(lengths) for source, lengths in tokens.items()},
        tokens=tokens,
        licences=licences(rows),
        evaluation_sets=pool.evaluation_sets,
        correct=right,
        wrong=wrong,
    )


def _sources(pool: CleanPool) -> tuple[Callable[[Question], str], Mapping[str, int]]:
    """Which source a question is of, and the rows of each: of a single file, its source_types'."""
    if len(pool.sources) > 1:
        return lambda question: pool.source_of[question.id], pool.sources

    def family(question: Question) -> str:
        return question.source_type.partition("/")[0]

    everything = [*pool.questions, *(drop.question for drop in pool.drops)]
    return family, Counter(map(family, everything))


if __name__ == "__main__":
    cli.run(main)
