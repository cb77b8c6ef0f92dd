"""Sixteen CPU devices, no network, shapes checked at run time, compiled programs kept."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# Before anything imports jax; child processes of the tests inherit it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=16"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PYTHONPATH"] = str(ROOT)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

from jaxtyping import install_import_hook  # noqa: E402  (the environment comes first)

install_import_hook("s1jax", "checker.checked")

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of real inputs beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no directory of real inputs beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def qwen_tokenizer(shared: Path) -> Path:
    """The directory of the real Qwen2.5 tokenizer."""
    path = shared / "qwen2.5-tokenizer"
    if not path.is_dir():
        pytest.skip("the real Qwen2.5 tokenizer is not here")
    return path


@pytest.fixture(scope="session")
def s1_rows(shared: Path) -> Path:
    """Real rows of s1K with Gemini's traces, JSONL."""
    path = shared / "data" / "s1_rows_with_gemini_traces.jsonl"
    if not path.is_file():
        pytest.skip("the real s1 rows are not here")
    return path
