"""The model card of an export: where its weights come from and how they were trained."""

from collections.abc import Mapping

from s1jax.config import Config
from s1jax.training_config import TEXT


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
    on_text = cfg.model.chat == TEXT
    trained = "every token but the first of each" if on_text else "what follows the prompt"
    recipe = {
        "steps": f"{steps} of {cfg.data.batch_size} examples",
        "loss": f'mean over {trained}, weighted by "{cfg.train.weighting}"',
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
    name = cfg.model.path.rstrip("/").rsplit("/", 1)[-1]
    about = [
        f"# {name}, fine-tuned to think",
        "",
        "Fine-tuned with s1jax by the recipe of s1 (arXiv 2501.19393). It thinks between the"
        f' delimiters of the chat format "{cfg.model.chat}", then answers.',
    ]
    if on_text:
        about = [
            f"# {name}, trained on text",
            "",
            "Pre-training continued with s1jax, on whole texts with no chat format.",
        ]
    base = cfg.model.path + (f" at commit {commit}" if commit else "")
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [s1jax]" if on_text else "tags: [s1, reasoning, test-time-scaling]",
        "---",
        "",
        *about,
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
