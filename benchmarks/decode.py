"""Our decoding against transformers' generate: the same weights, prompts and arithmetic.

    python benchmarks/decode.py [--models smollm2 small] [--batches 1 8] [--tokens=128] [--pairs=7]

Both continue the same prompts greedily in float32 on this machine's cores, from one checkpoint of
random weights, and must write the same tokens. The weights are so large that the text does not
repeat itself and the likeliest two tokens lie apart. What is timed of ours is the whole of
Engine.run, of theirs the whole of model.generate, each with its prefill, after a run that compiled.
Runs alternate, so that what disturbs the machine disturbs both; the medians of the pairs' ratios
are what counts. A step has to read the weights once and the keys and values of the rows' tokens;
how fast ours does, as a share of the rate of a large copy between the pairs, shows how near it is
to what the memory allows. Needs the `test` extra.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from s1jax import config
from s1jax.decoding.budget import Ids, Rules
from s1jax.decoding.engine import Engine
from s1jax.decoding.record import Branch, History, Request
from s1jax.mesh import DECODING, make_mesh, use_rules
from s1jax.models.apart import take_apart
from s1jax.models.config import ModelConfig
from s1jax.models.decoder import Params
from s1jax.models.hf import open_checkpoint
from s1jax.models.weights import load_params

COPY_BYTES = 256 << 20  # of the array whose copy measures the machine

MODELS = {
    "smollm2": transformers.LlamaConfig(  # the sizes of SmolLM2-135M
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    ),
    "small": transformers.Qwen2Config(
        vocab_size=8192,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=30,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    ),
}


def main() -> None:
    """Prints a table for each model and batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    for name, default in {"prompt": 32, "tokens": 128, "pairs": 7, "segment": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    transformers.utils.logging.disable_progress_bar()
    print(f"float32, {os.cpu_count()} cores, prompts of {args.prompt} tokens, {args.pairs} pairs")
    for name in args.models:
        theirs = make_model(MODELS[name], weights=0.05, embedding=0.1)
        model, params, mesh = import_model(theirs)
        read = read_bytes(model, params)
        print(f"\n{name}: {model.parameters / 1e6:.1f} M parameters")
        for batch in args.batches:
            engine = Engine(
                model,
                params,
                mesh,
                vocab_size=model.vocab_size,
                line_ends=np.zeros(model.vocab_size, np.bool_),
                rows=batch,
                segment_steps=args.segment,
            )
            compare(engine, theirs, read, args)


def compare(engine: Engine, theirs: Any, weight_bytes: int, args: argparse.Namespace) -> None:
    """Runs the pairs of one batch and prints what they took."""
    model, batch = engine.static.cfg, engine.rows
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, model.vocab_size, (batch, args.prompt))
    segments: list[float] = []  # seconds of those that prefilled nothing
    runs: dict[str, Callable[[], list[Ids]]] = {
        "s1jax": lambda: our_run(engine, prompts, args.tokens, segments),
        "transformers": lambda: their_run(theirs, prompts, args.tokens),
    }
    copy = copy_run()
    expected = runs["transformers"]()
    assert all(len(tokens) == args.tokens for tokens in expected)
    assert runs["s1jax"]() == expected, "the two write different tokens"
    segments.clear()
    times: dict[str, list[float]] = {name: [] for name in (*runs, "copy")}
    for _ in range(args.pairs):
        for name, run in runs.items():
            tokens, seconds = timed(run)
            assert tokens == expected, f"{name} does not repeat itself"
            times[name].append(seconds)
        times["copy"].append(timed(copy)[1])

    varied = len({token for tokens in expected for token in tokens})
    print(f"batch {batch}, {args.tokens} tokens each, {varied} different; the same from both")
    for name in runs:
        median = statistics.median(times[name])
        print(
            f"  {name:13} {batch * args.tokens / median:8.1f} tokens/s"
            f" {1e3 * median / args.tokens:8.2f} ms a token of each row"
        )
    ratios = [b / a for a, b in zip(times["s1jax"], times["transformers"], strict=True)]
    print(f"  speed of s1jax over transformers: {spread(ratios)}")
    # On average a row has its prompt and half of what it writes.
    per_token = 2 * model.layers * model.kv_heads * model.head_dim * 4
    cached = batch * per_token * (args.prompt + args.tokens // 2)
    steps = -(-args.tokens // args.segment) * args.segment
    copied = [COPY_BYTES / t for t in times["copy"]]
    whole = [(weight_bytes + cached) * steps / t for t in times["s1jax"]]
    step = statistics.median(segments) / args.segment if segments else float("nan")
    print(
        f"  a step reads {weight_bytes / 1e6:.1f} MB of weights and {cached / 1e6:.1f} MB of keys"
        f" and values; alone it takes {1e3 * step:.2f} ms"
    )
    rate = statistics.median(copied)
    for label, times_moved in (("bytes read + bytes written", 2), ("bytes copied", 1)):
        shares = [a / (times_moved * b) for a, b in zip(whole, copied, strict=True)]
        print(
            f"  copy {times_moved * rate / 1e9:6.2f} GB/s ({label}); share of it: of whole runs"
            f" {spread(shares)}; of a step alone"
            f" {(weight_bytes + cached) / step / (times_moved * rate):.2f}"
        )


def make_model(hf: Any, *, weights: float, embedding: float) -> Any:
    """A transformers model with normal weights and biases and norms; nothing ends its text."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(hf)
    for name, parameter in model.named_parameters():
        std = 1.0 if "norm" in name else embedding if "embed" in name else weights
        torch.nn.init.normal_(parameter, std=std)
    model.generation_config.bos_token_id = model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def import_model(theirs: Any) -> tuple[ModelConfig, Params, jax.sharding.Mesh]:
    """Their model as ours, ready to decode, by way of its files."""
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    with tempfile.TemporaryDirectory() as scratch:
        theirs.save_pretrained(Path(scratch))
        checkpoint = open_checkpoint(scratch)
        with jax.set_mesh(mesh), use_rules(DECODING):
            params = load_params(checkpoint, mesh, jnp.float32)
            params = take_apart(checkpoint.cfg, params)
    return checkpoint.cfg, params, mesh


def read_bytes(model: ModelConfig, params: Params) -> int:
    """Bytes of the parameters that a step reads whole: not an embedding beside a head."""
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return total - (0 if model.tied else params["embedding"].nbytes)


def our_run(engine: Engine, prompts: np.ndarray, tokens: int, segments: list[float]) -> list[Ids]:
    """What ours writes after each prompt; appends how long segments took after the first."""
    rules = Rules(0, tokens, thinking=False)
    requests = [Request(str(i), tuple(map(int, p)), rules) for i, p in enumerate(prompts)]
    ends: list[float] = []

    def watch(request: Request, branch: Branch | None, part: History) -> None:
        if request.id == "0":
            ends.append(time.perf_counter())

    outputs = {output.request.id: output for output in engine.run(requests, watch=watch)}
    segments += np.diff(ends).tolist()
    return [outputs[request.id].tokens for request in requests]


def their_run(model: Any, prompts: np.ndarray, tokens: int) -> list[Ids]:
    """What transformers writes after each prompt."""
    ids = torch.tensor(prompts, dtype=torch.long)
    whole = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
    )
    return [tuple(row) for row in whole[:, ids.shape[1] :].tolist()]


def copy_run() -> Callable[[], Any]:
    """Copies a large array, with all cores."""
    source, target = (torch.ones(COPY_BYTES // 4) for _ in range(2))
    target.copy_(source)  # touches the memory
    return lambda: target.copy_(source)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a run returns, and its seconds."""
    started = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"median {statistics.median(values):.2f} (from {min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
