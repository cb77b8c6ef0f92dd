"""A model, a tokenizer and examples small enough that a whole run takes a second or two.

As a script it is `s1jax.train` in a process that sends itself SIGTERM at a chosen moment:

    python tests/fakes_train.py reading|loading|compiling|stepping|exporting FLAGS
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s1jax import config
from s1jax.config import Config

SIZES = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "torch_dtype": "float32",
}
# What runs quickly and exactly: float32, a learning rate at which a wrong gradient shows.
QUICK = {
    "model.compute_dtype": "float32",
    "data.row_length": 256,
    "data.batch_size": 4,
    "train.remat": "none",
    "train.epochs": 2,
    "train.tensorboard": False,
    "optimizer.learning_rate": 3e-3,
    "mesh.fsdp": 1,
    "export.dtype": "float32",
}
WORLD = Path(__file__).parent / "world"  # a small tokenizer as Qwen's, examples of sums


@dataclass(frozen=True)
class World:
    """Where model and examples lie."""

    model: Path
    data: Path

    def fields(self, **fields: Any) -> dict[str, Any]:
        """The fields of a quick run here, as dotted names (`data__pack` for `data.pack`)."""
        paths = {"model.path": str(self.model), "data.path": str(self.data)}
        return QUICK | paths | dotted(fields)

    def config(self, **fields: Any) -> Config:
        """The resolved config of such a run."""
        return make_config(self.fields(**fields))

    def config_file(self, path: Path, **fields: Any) -> Path:
        """The same as a file for --config."""
        path.write_text(
            "from s1jax import config\n\n\ndef get_config():\n    c = config.default()\n"
            f"    c.update_from_flattened_dict({self.fields(**fields)!r})\n    return c\n"
        )
        return path


def dotted(fields: dict[str, Any]) -> dict[str, Any]:
    """`data__pack` as `data.pack`."""
    return {name.replace("__", "."): value for name, value in fields.items()}


def make_config(fields: dict[str, Any]) -> Config:
    """The default with these fields, by their dotted names."""
    values = config.default()
    values.update_from_flattened_dict(fields)
    return config.resolve(values)


def write_world(directory: Path, examples: int = 10, **sizes: Any) -> World:
    """A Qwen2 at its random start with a tokenizer as Qwen's, and so many examples of sums.

    Those of tests/world, whatever becomes of the package's own: golden numbers are of them.
    """
    world = World(directory / "model", directory / "examples.jsonl")
    world.model.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(WORLD / name, world.model / name)
    write_model(world.model, SIZES | sizes)
    lines = (WORLD / "examples.jsonl").read_text().splitlines(keepends=True)
    assert examples <= len(lines)
    world.data.write_text("".join(lines[:examples]))
    return world


def write_model(directory: Path, raw: dict[str, Any], scale: float = 0.05) -> None:
    """config.json and model.safetensors, norms near 1 and everything else near 0."""
    from safetensors.numpy import save_file

    from s1jax.models.config import from_hf
    from s1jax.models.names import entries

    rng = np.random.default_rng(0)
    tensors = {}
    for name, entry in entries(from_hf(raw)).items():
        noise = rng.standard_normal(entry.shape, np.float32) * np.float32(scale)
        tensors[name] = noise + np.float32(name.endswith("norm.weight"))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n")


# --- Runs in processes of their own ---


def command(config: Path, workdir: Path, *flags: str, moment: str | None = None) -> list[str]:
    """`python -m s1jax.train`, or the same with a SIGTERM at that moment."""
    program = ["-m", "s1jax.train"] if moment is None else [__file__, moment]
    return [sys.executable, *program, f"--config={config}", f"--workdir={workdir}", *flags]


def environment(devices: int = 1) -> dict[str, str]:
    """The environment of a process with so many CPU devices, which keeps all that it compiles."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flag, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def start(*args: Any, devices: int = 1, **kwargs: Any) -> subprocess.Popen[str]:
    """Starts `command(*args)`; stderr is a pipe."""
    return subprocess.Popen(
        command(*args, **kwargs), env=environment(devices), stderr=subprocess.PIPE, text=True
    )


def finish(*args: Any, code: int = 0, **kwargs: Any) -> str:
    """Runs `command(*args)` to its end and returns stderr; the exit code must be this one."""
    process = start(*args, **kwargs)
    _, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert "Traceback" not in err, err
    return err


# --- What a run leaves ---


def log(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: x for key, x in line.items() if not key.endswith("_s") and key != "mfu"}
        for line in lines
    ]


def losses(workdir: Path) -> list[float]:
    """The loss of each step."""
    return [line["loss"] for line in log(workdir)]


def exported(workdir: Path) -> dict[str, bytes]:
    """The files of the export."""
    return {path.name: path.read_bytes() for path in sorted((workdir / "hf").iterdir())}


def saved_arrays(workdir: Path, step: int) -> dict[str, bytes]:
    """The bits of every array of a checkpoint, read without s1jax."""
    import jax
    import orbax.checkpoint as ocp

    path, handler = workdir / "checkpoints" / str(step) / "state", ocp.PyTreeCheckpointHandler()
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree
    )
    tree = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in flat}


def steps_saved(workdir: Path) -> list[int]:
    """The steps of the checkpoints that are there whole."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def assert_same_end(workdir: Path, reference: Path) -> None:
    """Two runs ended with the same bits: last checkpoint, export and log."""
    last = steps_saved(reference)[-1]
    assert steps_saved(workdir)[-1] == last
    assert log(workdir) == log(reference)
    ours, theirs = saved_arrays(workdir, last), saved_arrays(reference, last)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert exported(workdir) == exported(reference)


# --- The script ---


def _terminate_in(moment: str) -> None:
    """SIGTERM to this process in the middle of what is named."""
    module, name, call = {
        "reading": (train, "load_examples", 0),
        "loading": (train, "load_params", 0),
        "compiling": (programs, "make_step", 0),
        "stepping": (loop, "to_devices", 6),
        "exporting": (train, "save_checkpoint", 0),
    }[moment]
    function, calls = getattr(module, name), itertools.count()

    def signalled(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return function(*args, **kwargs)

    setattr(module, name, signalled)


if __name__ == "__main__":
    from s1jax import cli, train
    from s1jax.training import loop, programs

    _terminate_in(sys.argv.pop(1))
    cli.run(train.main)
