"""Thirty steps of the whole `train` verb are thirty steps of a plain loop in torch."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers
from fakes_torch import Case, scratch_model

from s1jax import config, mini
from s1jax.chat import CHATS, PROMPT, ChatTokenizer
from s1jax.data.batches import Batches
from s1jax.data.examples import load_examples
from s1jax.data.labels import tokenize
from s1jax.train import train

RATE, STEPS, BATCH, EXAMPLES = (
    2e-3,
    30,
    4,
    22,
)  # an epoch is 6 steps, the last one filled up from its start
# The largest difference of a loss, relative to it; and of a tensor's elements, relative to its
# largest element.
TOLERANCE = 1e-4

TINY = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 512}
VARIANTS = {
    "qwen2": (Case("qwen2", "qwen2", "untied, biases", fields=TINY), {}, {}),
    "qwen3-tied-packed": (
        Case("qwen3", "qwen3", "tied", fields=TINY | {"head_dim": 16, "tie_word_embeddings": True}),
        {"pack": True},
        {"accumulation_steps": 2, "remat": "none"},
    ),
}


@dataclasses.dataclass
class Setting:
    cfg: config.Config
    model: str
    batches: Batches  # for the order of the examples


@pytest.fixture(scope="module", params=list(VARIANTS))
def setting(request, tmp_path_factory) -> Setting:
    """A small model with the little world's tokenizer, and a few of its examples."""
    directory = tmp_path_factory.mktemp(request.param)
    case, data, training = VARIANTS[request.param]
    world = mini.build(directory / "mini")
    model = directory / "model"
    scratch_model(case, model)
    for file in world.model.glob("tokenizer*"):
        shutil.copy(file, model)
    lines = sorted(world.data.read_text().splitlines(), key=len)
    chosen = lines[: EXAMPLES // 2] + lines[-EXAMPLES // 2 :]  # of very different lengths
    (directory / "examples.jsonl").write_text("\n".join(chosen) + "\n")
    cfg = config.Config(
        seed=7,
        model=config.Model(path=str(model), compute_dtype="float32"),
        data=config.Data(
            path=str(directory / "examples.jsonl"), batch_size=BATCH, row_length=256, **data
        ),
        train=config.Train(epochs=5, loss_chunk_tokens=50, tensorboard=False, **training),
        optimizer=config.Optimizer(learning_rate=RATE),
        checkpoint=config.Checkpoint(every_steps=STEPS),
        export=config.Export(dtype="float32"),
    )
    tokenizer = ChatTokenizer.load(model)
    examples = tokenize(load_examples(cfg.data), tokenizer, CHATS[cfg.model.chat], 256)
    return Setting(cfg, str(model), Batches(examples, cfg, 1))


def torchs(setting: Setting, weighting: str = "example", seed: int | None = None) -> tuple:
    """Losses of each step and final parameters, of s1's recipe written down in torch."""
    cfg, examples = setting.cfg, setting.batches.examples
    order = setting.batches
    if seed is not None:
        order = Batches(examples, dataclasses.replace(cfg, seed=seed), 1)
    model = transformers.AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if not n.endswith("bias")], "weight_decay": 1e-4},
        {"params": [p for n, p in named if n.endswith("bias")], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    scheduler = transformers.get_cosine_schedule_with_warmup(optimizer, 2, STEPS)
    losses = []
    for step in range(STEPS):
        some = [examples[i] for i in order.chosen(step)]
        ids = padded([np.int64(example.tokens) for example in some])
        trained = padded([example.parts[1:] != PROMPT for example in some])
        logits = model(ids).logits[:, :-1]  # no token sees the padding to its right
        each = torch.nn.functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
        sums, counts = (each * trained).sum(1), trained.sum(1)
        loss = (sums / counts).mean() if weighting == "example" else sums.sum() / counts.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return np.array(losses), tensors(model)


def padded(rows: list[np.ndarray]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def tensors(model) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def load(directory) -> dict[str, np.ndarray]:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    return tensors(model)


def worst_of(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    assert ours.keys() == theirs.keys()
    return {
        name: float(np.abs(ours[name] - x).max() / np.abs(x).max()) for name, x in theirs.items()
    }


def test_losses_and_parameters_are_those_of_the_loop_in_torch(setting, tmp_path):
    assert len(setting.batches.examples) == EXAMPLES and setting.batches.total_steps == STEPS
    assert train(setting.cfg, tmp_path, jax.devices()[:1]) == 0
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    ours = np.array([json.loads(line)["loss"] for line in lines])
    found = load(tmp_path / "hf")

    losses, expected = torchs(setting)
    moved = worst_of(load(setting.model), expected)
    apart = worst_of(found, expected)
    by_loss = np.abs(ours - losses) / losses
    name = max(apart, key=apart.__getitem__)
    print(
        f"\nloss {losses[0]:.4f} -> {losses[-1]:.4f}; largest difference {by_loss.max():.1e} of it"
        f"\nparameters moved by {min(moved.values()):.1e} to {max(moved.values()):.1e};"
        f" largest difference {apart[name]:.1e} ({name})"
    )
    assert losses[-1] < 0.8 * losses[0]
    assert min(moved.values()) > 20 * TOLERANCE
    assert by_loss.max() < TOLERANCE
    assert apart[name] < TOLERANCE

    for control in ({"weighting": "token"}, {"seed": 8}):
        losses, expected = torchs(setting, **control)
        apart = worst_of(found, expected)
        by_loss = np.abs(ours - losses) / losses
        print(
            f"control {control}: losses {by_loss.max():.1e},"
            f" parameters {min(apart.values()):.1e} to {max(apart.values()):.1e}"
        )
        assert by_loss.max() > 10 * TOLERANCE
        assert min(apart.values()) > 10 * TOLERANCE
