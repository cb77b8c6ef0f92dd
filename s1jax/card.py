"""The model card of an export: where its weights come from and how they were trained."""

from collections.abc import Mapping

from s1jax.config import Config


def model_card(
    cfg: Config,
    *,
    commit: str | None,
    data_digest: str,
    examples: int,
    steps: int,
    metrics: Mapping[str, float],
    hardware: str,
) -> str:
    """README.md of an exported model, with the front matter that the hub reads."""
    recipe = {
        "steps": f"{steps} of {cfg.data.batch_size} examples",
        "loss": f'mean over what follows the prompt, weighted by "{cfg.train.weighting}"',
        "optimizer": f"AdamW, b1 {cfg.optimizer.b1}, b2 {cfg.optimizer.b2},"
        f" eps {cfg.optimizer.eps}, weight decay {cfg.optimizer.weight_decay},"
        f" gradients clipped to {cfg.optimizer.clip_norm}",
        "learning rate": f"{cfg.optimizer.learning_rate}, linear warm-up over"
        f" {cfg.optimizer.warmup_share:.0%} of the steps, cosine to 0",
        "row length": f"{cfg.data.row_length} tokens",
        "precision": f"{cfg.model.param_dtype} parameters, {cfg.model.compute_dtype} compute",
        "seed": str(cfg.seed),
        "hardware": hardware,
    }
    base = cfg.model.path + (f" at commit {commit}" if commit else "")
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [s1, reasoning, test-time-scaling]",
        "---",
        "",
        f"# {cfg.model.path.rstrip('/').rsplit('/', 1)[-1]}, fine-tuned to think",
        "",
        "Fine-tuned with s1jax by the recipe of s1 (arXiv 2501.19393). It thinks between the"
        f' delimiters of the chat format "{cfg.model.chat}", then answers.',
        "",
        f"- **Base model**: {base}",
        f"- **Data**: {examples} examples, {cfg.data.path}; sha256 of their tokens and labels"
        f" {data_digest}",
        *(f"- **{key.capitalize()}**: {value}" for key, value in recipe.items()),
        *(f"- **{key.capitalize()}**: {value:.6g}" for key, value in metrics.items()),
        "",
        "Traces written by another model's provider carry that provider's terms.",
        "",
    ]
    return "\n".join(lines)
