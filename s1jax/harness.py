"""Runs the tasks of lm-evaluation-harness on our engine, with budget forcing.

    python -m s1jax.harness --model_args=pretrained=runs/mini,dtype=float32 --tasks=gsm8k \\
        --num_fewshot=0 --apply_chat_template \\
        --gen_kwargs=max_tokens_thinking=300,thinking_n_ignore=1,thinking_n_ignore_str=Wait
    python -m s1jax.harness run --help

It is lm_eval's own command line (pip install 's1jax[harness]') with `--model s1jax`: all its flags
are passed on. In Python, `import s1jax.harness` makes "s1jax" a model of
`lm_eval.simple_evaluate(model="s1jax", model_args={...}, ...)`.

Of --model_args:
  pretrained   a Hugging Face directory, a hub id, "mini", a checkpoint, or the workdir of a run
  revision     the commit of a hub id
  chat         delimiters of the thinking, by family (s1)
  dtype        of the arithmetic: float32, bfloat16, or auto: the config's
  batch_size   rows decoded together; auto: the config's
  config       a file as in configs/, to start from
  max_length   of context and answer together; the model's by default
  max_gen_toks where a task says nothing (256)
  parity       evaluator: the budget is accounted for as s1's evaluator does; none
  seed         of sampling
  and any field of the config by its name, as mesh.tensor=4

Of --gen_kwargs, besides a task's own (until, do_sample, temperature, top_k, top_p, min_p,
max_gen_toks), those of s1's evaluator:
  max_tokens_thinking     the budget, or auto: all that the context leaves
  min_tokens_thinking     no end of the thinking before
  thinking_n_ignore       ends of the thinking that are ignored
  thinking_n_ignore_str   written in their place
  rejection_sample        true, or so many tries (at least 2): until the thinking ends in budget
  temperature_thinking, top_k_thinking, top_p_thinking, min_p_thinking
  thinking_start, thinking_end, until_thinking, until_thinking_2: must be those of the chat
With any of these the model thinks, and its answer to the task is all that it wrote: what opens the
thinking, the thinking, what closes it, the answer. A temperature that is given counts even beside
do_sample=False, as in s1. Chats need lm_eval's --apply_chat_template, as all of s1's tasks do.
A context that is too long loses its beginning; stderr tells how many do.

lm_eval's cache (--use_cache) knows a request by its context and gen_kwargs alone: nothing of model,
parity, seed or chat is in its key, so give each of them a file of its own. What is sampled needs
do_sample=True beside it, which keeps it out of the cache: or all repeats were one sample.
"""

import contextlib
import sys
import traceback
from collections.abc import Sequence

from absl import flags

from s1jax import cli
from s1jax.types import UserError

NAME = "s1jax"  # of the model, for lm_eval


def main(argv: Sequence[str]) -> int:
    """Runs lm_eval's command line with our model. UserError if it is not installed."""
    if len(argv) < 2 or argv[1] in ("--help", "-h", "-help"):
        _show_help(argv)
    register()
    from lm_eval.__main__ import cli_evaluate

    args = [*argv[1:]]
    command = args.pop(0) if args[0] in ("run", "ls", "validate") else "run"
    if command == "run" and not {"--help", "-h"} & set(args):
        names = {arg.partition("=")[0] for arg in args}
        if {"--model", "-M"} & names:
            raise UserError(f"--model is {NAME} here; lm_eval's own command runs other models")
        if not {"--tasks", "-t", "--config", "-C"} & names:
            raise UserError("--tasks is missing: for example --tasks=gsm8k")
        args += ["--model", NAME]
        if not {"--batch_size", "-b"} & names:
            args += ["--batch_size", "auto"]  # lm_eval's default is one row
    before = sys.argv
    sys.argv = ["lm-eval", command, *args]
    try:
        cli_evaluate()
    except (ValueError, OSError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].startswith("lm_eval.config"):  # which reads the flags
            raise UserError(f"lm_eval: {error}") from error
        raise
    finally:
        sys.argv = before
    return cli.DONE


def _show_help(argv: Sequence[str]) -> None:
    values = cli.new_flags()
    for name, what in {
        "model_args": "see above",
        "gen_kwargs": "see above",
        "tasks": "names of lm_eval's tasks, or YAML files, with commas between",
        "include_path": "a directory with further tasks",
        "limit": "the first so many documents of each task",
        "num_fewshot": "examples before each question; a task's own number by default",
        "apply_chat_template": "given without a value: contexts are written by the template",
        "batch_size": "rows decoded together",
        "use_cache": "a file that keeps answers; see above",
        "output_path": "where results are written",
    }.items():
        flags.DEFINE_string(name, None, what, flag_values=values)
    cli.parse(values, __doc__, [argv[0], "--help"])


def register() -> None:
    """Makes "s1jax" a name of lm_eval's models. UserError if lm_eval is not installed."""
    try:
        import lm_eval.models  # noqa: F401  (the others, which a registry with one name would lack)
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise UserError(
            f"lm_eval cannot be imported ({error}): pip install 's1jax[harness]'"
        ) from error
    if NAME not in model_registry:
        model_registry.register(NAME, target="s1jax.harness_model:S1JaxLM")


with contextlib.suppress(UserError):  # without lm_eval: main() says so
    register()


if __name__ == "__main__":
    cli.run(main)
