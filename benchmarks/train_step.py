"""Our training step against transformers and torch: the same model, shapes and arithmetic.

    python benchmarks/train_step.py [--rows=2] [--length=1024] [--layers=30] [--pairs=7]

Both train a model of SmolLM2-135M's sizes from random weights in float32: forward, loss, backward,
clipping, AdamW. Steps alternate, ours and theirs, so that what disturbs the machine disturbs both;
the medians of the pairs' ratios are what counts. The rate of a large matrix product, measured
between the pairs, is the machine's own limit. Needs the `test` extra.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from s1jax import config
from s1jax.metrics import train_flops
from s1jax.models import decoder
from s1jax.models.config import ModelConfig, from_hf
from s1jax.training.step import Batch, init_state, make_step

MATMUL = 2048  # rows and columns of the product that measures the machine


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"rows": 2, "length": 1024, "layers": 30, "pairs": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    hf = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=args.layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )
    model = from_hf(hf.to_dict())
    tokens = np.random.default_rng(0).integers(0, 49152, (args.rows, args.length), dtype=np.int32)
    steps = {"s1jax": our_step(model, tokens), "torch": their_step(hf, tokens)}
    product = matrix_product()
    for step in (*steps.values(), product):
        step()  # compiles, and touches the memory
    times: dict[str, list[float]] = {name: [] for name in (*steps, "product")}
    for _ in range(args.pairs):
        for name, step in steps.items():
            times[name].append(timed(step))
        times["product"].append(timed(product))

    flops = train_flops(model, [args.length] * args.rows)
    rates = [2 * MATMUL**3 / t / 1e9 for t in times["product"]]
    ratios = [b / a for a, b in zip(times["s1jax"], times["torch"], strict=True)]
    shares = [flops / t / 1e9 / r for t, r in zip(times["s1jax"], rates, strict=True)]
    print(
        f"{model.parameters / 1e6:.1f} M parameters, {args.rows} rows of {args.length} tokens,"
        f" float32, {os.cpu_count()} cores, {args.pairs} pairs"
    )
    for name in steps:
        median = statistics.median(times[name])
        print(f"{name:8} {median:7.3f} s a step {tokens.size / median:8.0f} tokens/s")
    print(f"product  {statistics.median(rates):7.1f} GFLOP/s ({MATMUL} x {MATMUL} x {MATMUL})")
    print(f"speed of s1jax over torch: {spread(ratios)}")
    print(f"s1jax's share of the product's rate: {spread(shares)}")


def our_step(model: ModelConfig, tokens: np.ndarray) -> Callable[[], None]:
    """Runs one step of ours and waits for it."""
    cfg = config.Config()
    cfg = replace(
        cfg,
        model=replace(cfg.model, compute_dtype="float32"),
        train=replace(cfg.train, remat="none"),
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda spec: jnp.asarray(rng.normal(scale=0.02, size=spec.shape), jnp.float32),
        decoder.specs(model),
        is_leaf=lambda x: hasattr(x, "axes"),
    )
    state = init_state(cfg, params)
    shape = (1, *tokens.shape)
    weights = np.zeros(shape, np.float32)
    weights[:, :, :-1] = 1 / (tokens.size - len(tokens))
    batch = Batch(
        tokens=jnp.asarray(tokens[None]),
        targets=jnp.asarray(np.roll(tokens, -1, axis=1)[None]),
        weights=jnp.asarray(weights),
        positions=jnp.broadcast_to(jnp.arange(shape[2], dtype=jnp.int32), shape),
        segments=jnp.ones(shape, jnp.int32),
    )
    step = jax.jit(make_step(cfg, model, 100), donate_argnums=0)

    def run() -> None:
        nonlocal state
        state, _ = step(state, batch)
        jax.block_until_ready(state)

    return run


def their_step(hf: transformers.LlamaConfig, tokens: np.ndarray) -> Callable[[], None]:
    """Runs one step of transformers' model and torch's AdamW."""
    torch.set_num_threads(os.cpu_count() or 1)
    model = transformers.LlamaForCausalLM(hf).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=1e-4
    )
    ids = torch.tensor(tokens, dtype=torch.long)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


def matrix_product() -> Callable[[], None]:
    """Runs one large product of ours."""
    square = jnp.ones((MATMUL, MATMUL), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return lambda: jax.block_until_ready(product(square))


def timed(run: Callable[[], None]) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"median {statistics.median(values):.2f} (from {min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
