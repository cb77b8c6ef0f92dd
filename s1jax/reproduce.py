"""The paper's figures and tables in miniature: trained, asked and told anew, over several seeds.

    python -m s1jax.reproduce --config=configs/mini.py --workdir=runs/reproduce
    python -m s1jax.reproduce --config=configs/mini.py --workdir=runs/reproduce --only=table2,rows
    python -m s1jax.reproduce --config=configs/mini.py --workdir=runs/reproduce --report

Tables: figure1, table2, table3, table4, parallel (sequential against parallel), rows (the length of
training rows), ablation (how often the teacher gives up). Each seed has a pool, traces, a selection
and an order of training of its own; the held-out questions are the same for all.

Leaves in the workdir: report.md with figure1.png, table2.png, methods.png, parallel.png and
ablation.png; reproduce.json, all figures; base/ and seed-N/MODEL/, a workdir of the other verbs for
each model; config.json, of what it is; stages.jsonl, what is done; log.txt, what the stages said;
compiled/, which may be deleted. The same command goes on where it stopped, and more seeds,
questions or tables add to what is there. --report runs nothing: it tells what is there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from s1jax import cli
from s1jax.config import Config
from s1jax.progress import say
from s1jax.reproducing.identity import check_same
from s1jax.reproducing.plan import asks_of, chosen, needed
from s1jax.reproducing.report import write_report
from s1jax.reproducing.stages import run_stages, stages_of
from s1jax.types import UserError

if TYPE_CHECKING:
    import jax

SEEDS, QUESTIONS = (0, 1, 2), 500


def main(argv: Sequence[str]) -> int:
    """Parses the flags, runs what is not there, and reports."""
    values = cli.new_flags()
    cli.add_config(values)
    flags.DEFINE_string("workdir", None, "where everything is written", flag_values=values)
    names = ",".join(map(str, SEEDS))
    flags.DEFINE_list("seeds", names, "whole numbers, a whole pipeline each", flag_values=values)
    flags.DEFINE_integer("questions", QUESTIONS, "of each task, at most", flag_values=values)
    flags.DEFINE_list("only", [], "the tables that are wanted", flag_values=values)
    flags.DEFINE_bool("report", False, "run nothing, tell what is there", flag_values=values)
    values = cli.parse(values, __doc__, argv)
    cfg, workdir = cli.config_of(values), cli.directory_of(values, "workdir")
    return reproduce(
        cfg,
        workdir,
        seeds=_seeds(values.seeds),
        questions=values.questions,
        only=values.only,
        report=values.report,
    )


def reproduce(
    cfg: Config,
    workdir: Path,
    *,
    seeds: Sequence[int] = SEEDS,
    questions: int = QUESTIONS,
    only: Sequence[str] = (),
    report: bool = False,
    devices: "Sequence[jax.Device] | None" = None,
) -> int:
    """Runs every stage that is not done, and writes the report; returns the exit code.

    Raises UserError for anything wrong with config, flags or workdir, or what a stage refuses.
    """
    if questions < 1:
        raise UserError(f"--questions={questions} must be at least 1")
    tables = chosen(asks_of(cfg), only)
    try:
        with cli.stops():
            check_same(cfg, workdir, write=not report)
            if not report:
                stages = stages_of(cfg, workdir, needed(tables), seeds, questions, devices)
                code = run_stages(stages, workdir)
                if code != cli.DONE:
                    raise cli.Stopped
            path = write_report(cfg, workdir, tables, seeds, questions)
    except cli.Stopped:
        say(f"stopped; what is done is in {workdir}: start again to go on")
        return cli.PREEMPTED
    print(f"report: {path}")
    return cli.DONE


def _seeds(texts: Sequence[str]) -> tuple[int, ...]:
    """The numbers of --seeds. UserError if they are none, or one is there twice."""
    good = bool(texts) and all(text.strip().isdecimal() for text in texts)
    seeds = tuple(int(text) for text in texts) if good else ()
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds={','.join(texts)} must be different whole numbers, as 0,1,2")
    return seeds


if __name__ == "__main__":
    cli.run(main)
