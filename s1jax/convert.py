"""Converts a Hugging Face model into a checkpoint, or a checkpoint into a Hugging Face directory.

    python -m s1jax.convert --from=Qwen/Qwen2.5-0.5B-Instruct --to=/tmp/qwen
    python -m s1jax.convert --from=/tmp/run/checkpoints --to=/tmp/hf [--dtype=bfloat16] [--step=N]

--from is a Hugging Face directory, a hub id, or a checkpoint directory, recognised by what is in
it; --to is the other kind. A checkpoint keeps the weights' own precision (float32 where bfloat16
cannot hold them), and the tokenizer and config.json, so that it alone can be exported.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from s1jax import cli
from s1jax.types import UserError

if TYPE_CHECKING:
    import jax

    from s1jax.models.config import ModelConfig


def main(argv: Sequence[str]) -> int:
    """Does the conversion that --from and --to ask for."""
    values = cli.new_flags()
    flags.DEFINE_string("from", None, "HF directory, hub id or checkpoint", flag_values=values)
    flags.DEFINE_string("to", None, "the directory to write", flag_values=values)
    flags.DEFINE_string("revision", None, "commit of a hub id", flag_values=values)
    flags.DEFINE_enum(
        "dtype", "bfloat16", ["bfloat16", "float32"], "of exported weights", flag_values=values
    )
    flags.DEFINE_integer("step", None, "of the checkpoint; the last by default", flag_values=values)
    cli.parse(values, __doc__, argv)
    source, target = values["from"].value, cli.directory_of(values, "to")
    if not source:
        raise UserError("--from is missing: an HF directory, a hub id, or a checkpoint directory")

    # Imported when the flags are known to be right: JAX takes a second to load.
    from s1jax.checkpoint import is_checkpoint
    from s1jax.models.load import checkpoint_in

    path = Path(source).expanduser()
    checkpoint, one_step = checkpoint_in(path) or (None, None)
    if one_step is not None:
        raise UserError(f"{path} is one step: give --from={path.parent} --step={path.name}")
    given = [name for name in ("dtype", "step", "revision") if values[name].present]
    wrong = [name for name in given if (name == "revision") == (checkpoint is not None)]
    if wrong:
        kind = "an HF model" if checkpoint is None else "a checkpoint"
        raise UserError(f"--{wrong[0]} has no meaning when --from is {kind}, as {source} is")
    if checkpoint is not None:
        to_hf(checkpoint, target, values.dtype, values.step)
    elif is_checkpoint(target):
        raise UserError(f"--to={target} holds checkpoints already; name a new directory")
    else:
        to_checkpoint(source, values.revision, target)
    return cli.DONE


def to_checkpoint(source: str, revision: str | None, target: Path) -> None:
    """Writes an HF model as step 0 of a new checkpoint directory.

    Raises UserError if the model is malformed, or the target is in use or cannot be written.
    """
    import jax.numpy as jnp

    from s1jax.checkpoint import Checkpoints, save_assets
    from s1jax.models.hf import open_checkpoint
    from s1jax.models.load import BytesProgress
    from s1jax.models.names import entries
    from s1jax.models.weights import load_params

    if target.exists():
        ours = ("model", ".model.new", ".model.old")  # of a conversion that was killed
        names = sorted(path.name for path in target.iterdir())
        foreign = [n for n in names if n not in ours and ".orbax-checkpoint-tmp" not in n]
        if foreign:
            raise UserError(f"--to={target} holds {foreign[0]}; name a new or an empty directory")
    opened = open_checkpoint(source, revision)
    stored = {opened.tensors[name].dtype for name in entries(opened.cfg)}
    dtype = jnp.bfloat16 if stored == {"BF16"} else jnp.float32
    params = load_params(opened, _mesh(opened.cfg), dtype, BytesProgress("read"))
    try:
        save_assets(target, opened.directory)
    except OSError as error:
        raise UserError(f"{target} could not be written: {error.strerror or error}") from error
    checkpoints = Checkpoints(target)
    checkpoints.save(0, {"params": params}, {"model": opened.raw, "source": source})
    checkpoints.close()
    print(f"wrote {target}: {opened.cfg.parameters:,} parameters in {jnp.dtype(dtype).name}")


def to_hf(source: Path, target: Path, dtype: str, step: int | None) -> None:
    """Writes the parameters of a checkpoint as an HF directory.

    Raises UserError if no step is good, it is of another model than its config.json says, or the
    target cannot be written.
    """
    from s1jax.models.load import BytesProgress, open_saved, restore
    from s1jax.models.weights import save_checkpoint

    saved = open_saved(source, step)
    params, restored_step = restore(saved, _mesh(saved.cfg))
    save_checkpoint(
        target,
        saved.raw,
        params,
        assets=saved.directory,
        dtype=dtype,
        progress=BytesProgress("written"),
    )
    print(f"wrote {target}: {saved.cfg.parameters:,} parameters of step {restored_step} in {dtype}")


def _mesh(cfg: "ModelConfig") -> "jax.sharding.Mesh":
    """All the devices that the model's width can be split over."""
    import jax

    from s1jax import config
    from s1jax.mesh import make_mesh

    return make_mesh(config.Mesh(), jax.devices()[: math.gcd(cfg.embed_dim, jax.device_count())])


if __name__ == "__main__":
    cli.run(main)
