"""Whether a run fits its machines, how long it takes and what it costs, before any is booked.

    python -m s1jax.plan --config=configs/h100_16.py
    python -m s1jax.plan --config=configs/h100_16.py --what=decode
    python -m s1jax.plan --config=configs/h100_16.py --search
    python -m s1jax.plan --config=configs/h100_16.py --rehearse --meshes=fsdp=16,fsdp=2:context=8

Compiles the real step for the hardware that `plan.hardware` names, with XLA's own compiler for it:
no accelerator is needed, only that compiler (pip install 's1jax[plan-gpu]' or 's1jax[plan-tpu]').
Prints a card: memory, operations, collectives, kernels, and an estimate of time and price at an
assumed share of the peak. What does not fit is told with what to change. --search looks for the
fastest plan that fits.

--rehearse runs three real steps of a narrow copy of the model on as many virtual CPU devices as the
mesh has, for each mesh given, and compares their losses.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from s1jax import cli
from s1jax.config import Config
from s1jax.hardware import HARDWARE
from s1jax.noise import hushed
from s1jax.progress import say
from s1jax.sections import nearest
from s1jax.types import UserError
from s1jax.xla_flags import apply_flags

if TYPE_CHECKING:
    from s1jax.data.labels import Tokenized
    from s1jax.models.config import ModelConfig
    from s1jax.planning.card import Card

WHATS = ("train", "prefill", "decode")


def main(argv: Sequence[str]) -> int:
    """Parses the flags and prints the card, the search or the rehearsal."""
    values = cli.new_flags()
    cli.add_config(values)
    flags.DEFINE_enum("what", "train", WHATS, "the step to plan", flag_values=values)
    flags.DEFINE_bool("search", False, "look for the fastest plan that fits", flag_values=values)
    flags.DEFINE_bool("reckon", False, "compile nothing: seconds, and about", flag_values=values)
    flags.DEFINE_string("json", None, "a file for the card's figures", flag_values=values)
    flags.DEFINE_bool("rehearse", False, "run three steps on virtual devices", flag_values=values)
    flags.DEFINE_list("meshes", [], "to rehearse besides the config's", flag_values=values)
    values = cli.parse(values, __doc__, argv)
    cfg = cli.config_of(values)
    _refuse_together(values)
    try:
        with cli.stops():
            if values.rehearse:
                return rehearse(cfg, values.meshes)
            return plan(
                cfg, values.what, search=values.search, reckon=values.reckon, json_path=values.json
            )
    except cli.Stopped:
        say("stopped")
        return cli.PREEMPTED


def _refuse_together(values: Any) -> None:
    """UserError for flags of which one would be ignored."""
    given = {
        "--rehearse": values.rehearse,
        "--search": values.search,
        "--what": values.what != "train",
        "--json": values.json is not None,
        "--reckon": values.reckon,
    }
    if values.meshes and not values.rehearse:
        raise UserError("--meshes are rehearsed: add --rehearse")
    for one, others in {
        "--rehearse": ("--search", "--what", "--json", "--reckon"),
        "--search": ("--what", "--json"),
    }.items():
        both = [other for other in others if given[one] and given[other]]
        if both:
            raise UserError(f"{one} and {both[0]} are two things: give one of them")


def plan(
    cfg: Config,
    what: str,
    *,
    search: bool = False,
    reckon: bool = False,
    json_path: str | None = None,
) -> int:
    """Prints what is planned; returns the exit code. UserError if config or machines are wrong."""
    name = cfg.plan.hardware
    if not name:
        raise UserError(
            "plan.hardware is empty: say which machines are meant, as in"
            f" --config.plan.hardware=h100{nearest('', HARDWARE)}"
        )
    _start(HARDWARE[name].platform)
    from s1jax.planning import remedies
    from s1jax.planning.topology import missing

    lacking = missing(name)
    if lacking:
        say(f"{lacking}; all figures below are reckoned, not compiled")
    compiles = not (lacking or reckon)
    model = model_of(cfg)
    if what != "train":
        from s1jax.planning.decoding import plan_decode

        card = plan_decode(cfg, model, what, compiles=compiles)
        return _show(card, json_path)
    inputs = remedies.Inputs(model, *examples_of(cfg), compiles)
    if search:
        print(remedies.search(cfg, inputs), end="")
        return cli.DONE
    card = remedies.card_of(cfg, inputs)
    _show(card, json_path)
    if not card.fits:
        print(remedies.advice(cfg, inputs), end="")
    return cli.DONE


def _show(card: "Card", json_path: str | None) -> int:
    print(card.text(), end="", flush=True)
    if json_path is not None:
        try:
            Path(json_path).write_text(json.dumps(card.figures(), indent=2) + "\n")
        except OSError as error:
            raise UserError(f"--json={json_path} cannot be written: {error.strerror}") from error
    return cli.DONE


def rehearse(cfg: Config, meshes: Sequence[str]) -> int:
    """Prints the losses of a narrow copy on each mesh; 1 if they differ."""
    _start(None)
    from s1jax.planning.rehearsal import rehearsal

    model = model_of(cfg)
    told = rehearsal(cfg, model, meshes)
    print(told.text(), end="")
    return cli.DONE if told.agree else 1


def model_of(cfg: Config) -> "ModelConfig":
    """The sizes of the config's model: known ones without a network, no weights in any case.

    Raises UserError if there is no such model.
    """
    from s1jax import mini
    from s1jax.models.config import from_hf
    from s1jax.models.hf import open_config
    from s1jax.models.published import published

    if not cfg.model.path:
        raise UserError("model.path is empty: set it to a model directory, a hub id, or mini")
    path = str(mini.base()) if cfg.model.path == mini.MINI else cfg.model.path
    known = None if Path(path).expanduser().exists() else published(path)
    return from_hf(known, path) if known else open_config(path, cfg.model.revision)


def examples_of(cfg: Config) -> "tuple[list[Tokenized], str]":
    """The config's examples where data and tokenizer are on this machine, else assumed ones.

    And a sentence on where their lengths are from. Raises UserError if the data are wrong.
    """
    from s1jax import mini
    from s1jax.chat import ChatTokenizer, chat_of
    from s1jax.data.examples import load_examples
    from s1jax.data.labels import tokenize
    from s1jax.planning.workload import assumed_examples

    if cfg.model.path == mini.MINI or Path(cfg.model.path).expanduser().is_dir():
        files = mini.resolve(cfg, mini.cache_directory())
        if Path(files.data.path).expanduser().exists():
            tokenizer = ChatTokenizer.load(Path(files.model.path).expanduser())
            chat = chat_of(cfg.model.chat)
            read = load_examples(files.data, texts=chat.plain)
            examples = tokenize(read, tokenizer, chat, cfg.data.row_length, cfg.data.control)
            return examples, f"counted in {files.data.path}"
    return assumed_examples(cfg)


def _start(platform: str | None) -> None:
    """Imports jax with the flags that a run on that platform would have, on CPUs alone.

    A CUDA plugin without a GPU says so on stderr when it is found.
    """
    if platform is not None:
        apply_flags({"cuda": "gpu"}.get(platform, platform))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with hushed():
        import jax

        jax.config.update("jax_platforms", "cpu")
        if platform is not None:  # a rehearsal has yet to say how many devices there are
            jax.devices()


if __name__ == "__main__":
    cli.run(main)
