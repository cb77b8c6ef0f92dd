"""How good a model is, and whether it gets better when it thinks longer.

    python -m s1jax.evaluate --config=configs/mini.py --workdir=runs/mini
    python -m s1jax.evaluate --config=F --model=PATH --workdir=DIR
    python -m s1jax.evaluate --config=F --workdir=DIR --grade

--model is a Hugging Face directory, a hub id, a checkpoint directory or the workdir of a run: by
default the run in --workdir, else config.model.path. Where another model than config.model.path is
evaluated, that one is the base, and asked as well (evaluate.base). config.evaluate says which
tasks, and which runs.

Leaves in the workdir: generations.jsonl, a line a sample as it was made; scores.jsonl, whether each
is right; results.json and report.md, what follows; scaling.png, methods.png, thinking.png,
waits.png; samples.html, to look at single samples. The same command goes on where it stopped, and
a changed sweep makes what is new in it. --grade generates nothing: it grades what is there.

In a job of several processes each asks every n-th question, on its own devices, and the first one
grades and reports.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from s1jax import cli, xla_flags
from s1jax.compile_cache import keep_compiled
from s1jax.config import Config
from s1jax.distributed import (
    check_shared,
    meet,
    process_index,
    refuse_several,
    run_together,
)
from s1jax.evaluation.results import BASE, MODEL
from s1jax.evaluation_config import Run, sweep
from s1jax.outcomes import (
    GENERATIONS,
    MANIFEST,
    PLAIN,
    Evaluation,
    Items,
    check_judge,
    read_tasks,
    summary,
    tell,
    versions,
)
from s1jax.progress import say
from s1jax.types import UserError

if TYPE_CHECKING:
    import jax


def main(argv: Sequence[str]) -> int:
    """Parses the flags and evaluates."""
    values = cli.new_flags()
    cli.add_config(values)
    flags.DEFINE_string("workdir", None, "where everything is written", flag_values=values)
    flags.DEFINE_string("model", None, "whose weights", flag_values=values)
    flags.DEFINE_bool("grade", False, "generate nothing, grade what is there", flag_values=values)
    values = cli.parse(values, __doc__, argv)
    cfg, workdir = cli.config_of(values), cli.directory_of(values, "workdir")
    if values.grade and values.model is not None:
        raise UserError("--grade and --model: the models are those whose generations are there")
    if values.grade:
        refuse_several("evaluate --grade")
    else:
        xla_flags.apply_flags(xla_flags.find_accelerator())
        keep_compiled(workdir)
    return run_together(lambda: evaluate(cfg, workdir, values.model, grade=values.grade))


def evaluate(
    cfg: Config,
    workdir: Path,
    model: str | None = None,
    *,
    grade: bool = False,
    devices: "Sequence[jax.Device] | None" = None,
) -> int:
    """Generates what is not there yet, grades all and reports; returns the exit code.

    Raises UserError for anything wrong with tasks, models, runs or what lies in the workdir.
    """
    try:
        with cli.stops():
            check_shared(workdir)
            items = read_tasks(cfg.evaluate)
            check_judge(cfg)
            if cfg.evaluate.judge.via == "local":  # only the first process would ask it
                refuse_several('evaluate with evaluate.judge.via="local"')
            if grade:
                evaluation = Evaluation.read(workdir / MANIFEST)
            else:
                evaluation = _generate(cfg, workdir, _models(cfg, workdir, model), items, devices)
                if process_index() > 0:
                    meet("results told")
                    return cli.DONE
            results = tell(cfg, workdir, evaluation, items, asked_now=not grade)
            meet("results told")
    except cli.Stopped:
        say(f"stopped; every sample is in {workdir / GENERATIONS}: start again to go on")
        return cli.PREEMPTED
    print(summary(results))
    print(f"report: {workdir / 'report.md'}, samples: {workdir / 'samples.html'}")
    return cli.DONE


def _models(cfg: Config, workdir: Path, model: str | None) -> dict[str, str]:
    """The paths of the model, and of its base if there is one."""
    if model is None:
        trained = any((workdir / name).is_dir() for name in ("checkpoints", "hf"))
        model = str(workdir) if trained else cfg.model.path
    if not model:
        raise UserError("--model is missing, and model.path is empty: for example --model=mini")
    base = cfg.model.path
    same = base == model or Path(base).expanduser().resolve() == Path(model).expanduser().resolve()
    if cfg.evaluate.base == "none" or not base or same:
        return {MODEL: model}
    say(f"base model: {base} (evaluate.base={cfg.evaluate.base})")
    return {MODEL: model, BASE: base}


def _generate(
    cfg: Config,
    workdir: Path,
    models: dict[str, str],
    items: Items,
    devices: "Sequence[jax.Device] | None",
) -> Evaluation:
    """Makes the samples that are not there; who was asked what."""
    import jax

    from s1jax import mini
    from s1jax.evaluating import Evaluated, open_samples
    from s1jax.mesh import make_mesh

    # Each process of a job decodes by itself: rows of a batch need nothing of each other.
    mesh = make_mesh(cfg.mesh, devices or jax.local_devices())
    evaluated = {}
    for label, path in models.items():
        revision = cfg.model.revision if path == cfg.model.path else None
        own = replace(cfg, model=replace(cfg.model, path=path, revision=revision))
        own = mini.resolve_model(own)
        runs = _runs(cfg, label)
        evaluated[label] = Evaluated(own, runs, items)
    workdir.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation(
        config=cfg.to_dict(),
        models={
            label: {
                "path": models[label],
                "sha256": one.digest,
                "tokenizer_sha256": one.model.tokenizer.digest,
            }
            for label, one in evaluated.items()
        },
        runs={label: one.runs for label, one in evaluated.items()},
        decodes={label: one.decodes for label, one in evaluated.items()},
        plan={label: one.plan for label, one in evaluated.items()},
        about={
            "versions": versions(),
            "devices": sorted({device.device_kind for device in mesh.devices.flat}),
            "mesh": dict(zip(mesh.axis_names, mesh.devices.shape, strict=True)),
            "platform": jax.default_backend(),
        },
    )
    with open_samples(workdir / GENERATIONS) as (known, samples):
        if jax.process_index() == 0:
            evaluation.write(workdir / MANIFEST)
        for label, one in evaluated.items():
            one.generate(mesh, known, samples, label)
    return evaluation


def _runs(cfg: Config, label: str) -> list[Run]:
    """What a model is asked: the sweep, or of a base its plain answer."""
    if label == BASE and cfg.evaluate.base == "plain":
        return [Run(PLAIN, "plain", {"thinking": False})]
    return sweep(cfg.evaluate)


if __name__ == "__main__":
    cli.run(main)
