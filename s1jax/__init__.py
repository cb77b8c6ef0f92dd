"""s1 ("Simple test-time scaling", arXiv 2501.19393) in JAX: curate, fine-tune, think, evaluate."""

__version__ = "0.1.0"
