"""Asks a teacher every question of the pool, and keeps its thinking.

    python -m s1jax.distill --config=configs/mini.py --workdir=runs/mini

Leaves in the workdir: traces.db, a row for each answer as it arrived; traces.jsonl and .parquet,
the good ones in s1K's columns; failed.jsonl, what was asked in vain; dropped.jsonl, what of the
pool is not asked, and why; distill.json, the counts. The same command goes on where it stopped:
nothing is asked twice, but for rows whose finish distill.ask_again names, as in ("length",).
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from absl import flags

from s1jax import cli
from s1jax.config import Config
from s1jax.curation import (
    DROPPED,
    TRACES,
    CleanPool,
    clean_pool,
    open_teacher,
    pool_manifest,
    write_decisions,
    write_manifest,
)
from s1jax.data.asked import Prompt
from s1jax.data.collect import Counts, collect
from s1jax.data.funnel import stages
from s1jax.data.rows import digest_of, replaced, s1_row, write_rows
from s1jax.data.store import TraceStore
from s1jax.progress import say
from s1jax.types import Question, Trace, UserError

Row = tuple[Question, Trace]  # its thinking may not be whole


def main(argv: Sequence[str]) -> int:
    """Parses the flags and asks."""
    values = cli.new_flags()
    cli.add_config(values)
    flags.DEFINE_string("workdir", None, "where everything is written", flag_values=values)
    values = cli.parse(values, __doc__, argv)
    return distill(cli.config_of(values), cli.directory_of(values, "workdir"))


def distill(cfg: Config, workdir: Path) -> int:
    """Asks what was not asked yet, and exports all answers; returns the exit code.

    Raises UserError for anything wrong with pool, teacher or store.
    """
    try:
        with cli.stops():
            return _distill(cfg, workdir)
    except cli.Stopped:
        say(f"stopped; every answer is in {workdir / TRACES}: start again to go on")
        return cli.PREEMPTED


def _distill(cfg: Config, workdir: Path) -> int:
    teacher = open_teacher(cfg, cfg.distill, thinking=True, field="distill")
    pool = clean_pool(cfg.pool, cfg.seed)
    _tell_pool(pool)
    workdir.mkdir(parents=True, exist_ok=True)
    write_decisions(workdir / DROPPED, [], pool.drops, pool.set_aside)
    prompts = [
        Prompt(question.id, question.question, sample)
        for question in pool.questions
        for sample in range(cfg.distill.samples)
    ]
    with TraceStore(workdir / TRACES) as store:
        store.name_questions({question.id: question.question for question in pool.questions})
        counts = collect(prompts, teacher, cfg.distill, store)
        _tell_counts(counts)
        if counts.ended == "stopped":
            raise cli.Stopped
        rows = _rows(pool, cfg.distill.samples, store.traces(teacher.name, whole=False))
        manifest = _export(pool, rows, teacher.name, store, workdir)
        manifest = {"command": "distill", "config": _config(cfg), **manifest}
        spent = _made(counts, rows, store.spent(teacher.name))
        write_manifest(workdir / "distill.json", manifest | spent)
    if counts.unknown and not rows:
        raise UserError(
            f"{teacher.name} has no trace of any of the {len(pool.questions)} questions"
        )
    _tell_unknown(counts, cfg.distill.samples, teacher.name)
    if counts.ended or counts.unanswered:
        left = len(prompts) - manifest["rows"]["asked"]
        why = counts.ended or f"{counts.unanswered} questions were not answered"
        raise UserError(f"{why}; {left} of {len(prompts)} are left: start again to go on")
    print(f"traces: {workdir / 'traces.jsonl'}, {manifest['rows']['good']} of {len(prompts)}")
    finishes = sorted({trace.finish for _, trace in rows if trace.error is not None})
    if finishes:
        named = "".join(f'"{finish}",' for finish in finishes)
        say(f"failed: {workdir / 'failed.jsonl'}; distill.ask_again=({named}) asks these again")
    return cli.DONE


def _tell_pool(pool: CleanPool) -> None:
    dropped = Counter(drop.stage for drop in pool.drops)
    parts = [f"pool: {len(pool.questions)} of {pool.rows} questions"]
    parts += [f"{count} dropped by {stage}" for stage, count in dropped.items()]
    parts += [f"{len(pool.set_aside)} set aside"] if pool.set_aside else []
    say(", ".join(parts))
    for row in pool.set_aside[:5]:
        say(f"  set aside: {row.place}: {row.detail}")
    if len(pool.set_aside) > 5:
        say(f"  ... and {len(pool.set_aside) - 5} more, see the manifest")


def _tell_counts(counts: Counts) -> None:
    for why, count in counts.failures.most_common(5):
        say(f"  {count} {'try' if count == 1 else 'tries'} failed: {why}")


def _tell_unknown(counts: Counts, samples: int, teacher: str) -> None:
    if counts.unknown:
        one = "question" if samples == 1 else "sample"
        what = f"1 {one}" if counts.unknown == 1 else f"{counts.unknown} {one}s"
        say(f"{what}: {teacher} has no trace of {'it' if counts.unknown == 1 else 'them'}")


def _rows(pool: CleanPool, samples: int, outlines: Mapping[tuple[str, int], Trace]) -> list[Row]:
    """The rows of this config, in the order of the pool; earlier ones may have asked for more."""
    keys = [(question, (question.id, n)) for question in pool.questions for n in range(samples)]
    return [(question, outlines[key]) for question, key in keys if key in outlines]


def _export(
    pool: CleanPool, asked: Sequence[Row], teacher: str, store: TraceStore, workdir: Path
) -> dict[str, Any]:
    """Writes these answers; counts and digests."""
    good = [(question, trace) for question, trace in asked if trace.error is None]

    def rows() -> Iterator[dict[str, Any]]:
        for question, trace in good:
            whole = store.trace(trace.question_id, teacher, trace.sample)
            yield s1_row(question, whole)

    digests = write_rows(rows(), workdir / "traces")
    failed = workdir / "failed.jsonl"
    lines = [
        {"id": question.id, "question": question.question, "sample": trace.sample}
        | {"finish": trace.finish, "error": trace.error}
        for question, trace in asked
        if trace.error is not None
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with replaced(failed) as partial:
        partial.write_text(text, encoding="utf-8")
    whys = Counter(f"{trace.finish}: {trace.error}" for _, trace in asked if trace.error)
    return {
        "funnel": [asdict(stage) for stage in stages(pool.rows, pool.set_aside, pool.drops)[:3]],
        "pool": pool_manifest(pool),
        "teacher": teacher,
        "rows": {"asked": len(asked), "good": len(good), "failed": dict(whys.most_common())},
        "sha256": digests | {failed.name: digest_of(failed)},
    }


def _config(cfg: Config) -> dict[str, Any]:
    return {name: cfg.to_dict()[name] for name in ("seed", "pool", "distill")}


def _made(counts: Counts, rows: Sequence[Row], spent: float) -> dict[str, Any]:
    """What differs from run to run."""
    costs = [trace.cost for _, trace in rows if trace.cost is not None]
    return {
        "cost_of_rows": sum(costs) if costs else None,
        "spent_at_most": spent,
        "this_run": dict(vars(counts)),
    }


if __name__ == "__main__":
    cli.run(main)
