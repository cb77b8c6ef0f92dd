"""The schedule is transformers', the update torch's AdamW, and biases do not decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from s1jax.config import Config, Optimizer, check
from s1jax.models import decoder
from s1jax.models.config import from_hf
from s1jax.training.optimizer import learning_rate, make_optimizer, warmup_steps

S1_STEPS, S1_WARMUP = 315, 16  # 1,000 examples, 16 a step, 5 epochs; 5% of it


def schedule(rate: float, steps: int, warmup: int) -> list[float]:
    """The rate of every update by transformers, and the one after the last."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = transformers.get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    rates = []
    for _ in range(steps + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_rates_of_s1():
    cfg = Optimizer()
    assert cfg.learning_rate == 1e-5 and warmup_steps(cfg, S1_STEPS) == S1_WARMUP
    expected = schedule(1e-5, S1_STEPS, S1_WARMUP)
    found = [float(learning_rate(cfg, S1_STEPS, step)) for step in range(S1_STEPS + 1)]
    for step in (0, 1, 16, 100, 315):
        print(f"\nstep {step:3}: {found[step]:.8e}, transformers {expected[step]:.8e}", end="")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)
    assert found[0] == found[S1_STEPS] == 0 and found[S1_WARMUP] == pytest.approx(1e-5)
    traced = jax.jit(lambda step: learning_rate(cfg, S1_STEPS, step))(jnp.int32(100))
    assert float(traced) == pytest.approx(expected[100], rel=1e-5)
    other = schedule(1e-5, S1_STEPS, S1_WARMUP - 1)
    assert not np.allclose(found, other, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("steps", "share"), [(1, 0.05), (2, 1.0), (7, 0.0), (40, 0.3)])
def test_the_rates_of_other_runs(steps, share):
    cfg = Optimizer(learning_rate=3e-4, warmup_share=share)
    expected = schedule(3e-4, steps, warmup_steps(cfg, steps))
    found = [float(learning_rate(cfg, steps, step)) for step in range(steps + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-10)


RAW = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 31,
    "max_position_embeddings": 64,
    "head_dim": 8,
}


def random_like(cfg, seed: int, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda spec: jnp.asarray(scale * rng.normal(size=spec.shape), jnp.float32),
        decoder.specs(cfg),
        is_leaf=lambda x: hasattr(x, "axes"),
    )


def by_name(tree) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves
    }


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_what_decays(family, decay_norms):
    """With gradients of zero nothing is left of the update but the decay."""
    cfg = from_hf(RAW | {"model_type": family})
    params = random_like(cfg, 0)
    optimizer = make_optimizer(Optimizer(weight_decay=0.1, decay_norms=decay_norms))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    params, updates = by_name(params), by_name(updates)
    kept = {name for name, update in updates.items() if not update.any()}
    biases = {f"layers/attn/{x}/bias" for x in "qkv"} if family == "qwen2" else set()
    norms = {name for name in params if name.endswith("scale")}
    assert len(norms) == (3 if family == "qwen2" else 5)
    assert kept == biases | (set() if decay_norms else norms)
    for name in params.keys() - kept:
        np.testing.assert_allclose(updates[name], 0.1 * params[name], rtol=1e-6)


def test_updates_are_those_of_torchs_adamw():
    """Five of them, so that both corrections of the moments' start matter."""
    cfg = from_hf(RAW | {"model_type": "qwen2"})
    settings = Optimizer(learning_rate=3e-3, weight_decay=0.1)
    params, rate = random_like(cfg, 0), settings.learning_rate
    theirs = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in by_name(params).items()}
    biases = [x for name, x in theirs.items() if name.endswith("bias")]
    others = [x for name, x in theirs.items() if not name.endswith("bias")]
    torchs = torch.optim.AdamW(
        [{"params": biases, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.1}],
        lr=rate,
        betas=(settings.b1, settings.b2),
        eps=settings.eps,
    )
    optimizer = make_optimizer(settings)
    variants = {"ours": optimizer, "control": optax.adamw(1.0, 0.9, 0.999, 1e-8, weight_decay=0.1)}
    found = {}
    for name, transformation in variants.items():
        ours, state = params, transformation.init(params)
        for step in range(5):
            gradients = random_like(cfg, 1 + step, scale=10.0 ** -(2 * step))
            updates, state = transformation.update(gradients, state, ours)
            sign = 1 if name == "ours" else -1  # optax's own has the sign of the descent in it
            ours = jax.tree.map(lambda p, u, s=sign: p - s * rate * u, ours, updates)
        found[name] = by_name(ours)
    for step in range(5):
        for name, gradient in by_name(
            random_like(cfg, 1 + step, scale=10.0 ** -(2 * step))
        ).items():
            theirs[name].grad = torch.tensor(gradient)
        torchs.step()
    for name, x in theirs.items():
        expected = x.detach().numpy()
        assert np.abs(expected - by_name(params)[name]).max() > rate
        np.testing.assert_allclose(found["ours"][name], expected, rtol=1e-5, atol=1e-6)
        assert np.abs(found["control"][name] - expected).max() > 1e-4, name


def runs(cfg: Optimizer, steps: int = 40) -> tuple[np.ndarray, optax.ScaleByAdamState]:
    """Parameters after some steps down a noisy slope, and Adam's state."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=300), jnp.float32)}
    target = jnp.asarray(rng.normal(size=300), jnp.float32)
    optimizer = make_optimizer(cfg)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        noise = jnp.asarray(rng.normal(size=300), jnp.float32)
        updates, state = update({"kernel": params["kernel"] - target + noise}, state, params)
        params = {"kernel": params["kernel"] - 0.03 * updates["kernel"]}
    return np.asarray(params["kernel"]), state[0]


def test_moments_are_kept_in_their_dtypes_and_computed_in_float32():
    exact, state = runs(Optimizer())
    assert [state.mu["kernel"].dtype.name, state.nu["kernel"].dtype.name] == ["float32"] * 2
    moved = np.abs(exact - runs(Optimizer(), steps=0)[0]).mean()
    for first, second in (("bfloat16", "float32"), ("bfloat16", "bfloat16")):
        cfg = Optimizer(first_moment_dtype=first, second_moment_dtype=second)
        found, state = runs(cfg)
        assert [state.mu["kernel"].dtype.name, state.nu["kernel"].dtype.name] == [first, second]
        off = np.abs(found - exact).mean() / moved
        print(f"\n{first}, {second}: {off:.2e} of the way off", end="")
        assert 0 < off < 5e-3


def test_a_second_moment_in_bfloat16_shrinks_as_far_as_the_config_allows():
    def after(b2: float, second: str) -> float:
        """A second moment that starts at 1 and sees 1,000 gradients of 0.01."""
        optimizer = make_optimizer(Optimizer(b2=b2, second_moment_dtype=second))
        params = {"kernel": jnp.zeros(4)}
        state = optimizer.init(params)
        state = (state[0]._replace(nu=jax.tree.map(jnp.ones_like, state[0].nu)), *state[1:])
        update = jax.jit(optimizer.update)
        for _ in range(1000):
            _, state = update({"kernel": jnp.full(4, 0.01)}, state, params)
        return float(state[0].nu["kernel"][0])

    for b2 in (0.95, 0.99):
        assert after(b2, "bfloat16") == pytest.approx(after(b2, "float32"), rel=0.3)
    # The control: of 0.999 each step is rounded away.
    assert after(0.999, "bfloat16") == 1.0 > 2 * after(0.999, "float32")
    near, too_near = (Optimizer(b2=b2, second_moment_dtype="bfloat16") for b2 in (0.99, 0.999))
    assert check(Config(optimizer=near)) == []
    assert "optimizer.b2=0.999 is too near 1" in check(Config(optimizer=too_near))[0]
