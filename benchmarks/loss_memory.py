"""Memory of the loss and its gradients, in chunks and with all logits at once.

    python benchmarks/loss_memory.py [--tokens=4096] [--width=256] [--chunk=256]

Compiles both for this machine's first device at Qwen's vocabulary and reports what the compiler
plans to hold besides arguments and results; nothing is run. The goal: at most a quarter.
"""

import argparse
import re
from collections.abc import Callable
from math import prod

import jax
import jax.numpy as jnp
from jax import Array

from s1jax.training.loss import cross_entropy

MIB = 1 << 20


def main() -> None:
    """Compiles and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=152_064)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    args = parser.parse_args()
    rows = {
        f"in chunks of {args.chunk}": lambda *x: cross_entropy(*x, args.chunk),
        "all at once": all_at_once,
    }
    print(f"{args.tokens} tokens, embed {args.width}, vocabulary {args.vocab}, {args.dtype}")
    planned = {}
    for name, function in rows.items():
        planned[name], largest = plan(function, args)
        logits = args.tokens * args.vocab
        note = "holds all logits" if largest >= logits else f"{largest / logits:.3f} of the logits"
        print(f"{name:20} {planned[name] / MIB:8.0f} MiB; largest array: {note}")
    chunked, whole = planned.values()
    verdict = "within" if chunked <= whole / 4 else "ABOVE"
    print(f"{chunked / whole:.3f} of it: {verdict} the goal of a quarter")


def plan(function: Callable[..., Array], args: argparse.Namespace) -> tuple[int, int]:
    """Bytes of temporaries, and elements of the largest array of the program."""
    shapes = {
        "hidden": jax.ShapeDtypeStruct((1, args.tokens, args.width), jnp.dtype(args.dtype)),
        "head": jax.ShapeDtypeStruct((args.vocab, args.width), jnp.float32),
        "targets": jax.ShapeDtypeStruct((1, args.tokens), jnp.int32),
        "weights": jax.ShapeDtypeStruct((1, args.tokens), jnp.float32),
    }
    differentiate = jax.jit(jax.value_and_grad(function, argnums=(0, 1)))
    compiled = differentiate.lower(*shapes.values()).compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text is not None and memory is not None  # every backend that we know tells
    found = re.findall(r"\b(?:f32|bf16|s32|pred)\[([\d,]+)\]", text)
    return memory.temp_size_in_bytes, max(prod(map(int, x.split(","))) for x in set(found))


def all_at_once(hidden: Array, head: Array, targets: Array, weights: Array) -> Array:
    """The same loss as it is usually written."""
    logits = jnp.einsum(
        "btd,vd->btv", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
    return -(picked[..., 0] * weights).sum()


if __name__ == "__main__":
    main()
