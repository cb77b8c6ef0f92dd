"""Shows what is trained: the first examples coloured by part, and the counts of all of them.

    python -m s1jax.labels --config=configs/mini.py --n=3

Exits with 2 and the reason if training would refuse these labels.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags

from s1jax import cli, mini
from s1jax.chat import END, PARTS, PROMPT, chat_of
from s1jax.data.examples import load_examples
from s1jax.data.labels import LabelStats, Tokenized, check_labels, label_stats, tokenize
from s1jax.terminal import CYAN, DIM, GREEN, MAGENTA, add_color, harmless, has_colours, painted
from s1jax.tokenizer import ChatTokenizer, tokenizer_directory

_COLOURS = (DIM, CYAN, GREEN, MAGENTA)  # of chat.PARTS; dim is not trained
_BARS, _BAR_WIDTH = 12, 40


def main(argv: Sequence[str]) -> int:
    """Prints examples, counts and the verdict of the labels; raises UserError if it is no."""
    values = cli.new_flags()
    cli.add_config(values)
    flags.DEFINE_integer("n", 3, "examples to show", lower_bound=0, flag_values=values)
    add_color(values)
    cfg = cli.config_of(cli.parse(values, __doc__, argv))
    colour = has_colours(values.color)

    cfg = mini.resolve(cfg, mini.cache_directory())
    chat = chat_of(cfg.model.chat)
    examples = load_examples(cfg.data, texts=chat.plain)
    tokenizer = ChatTokenizer.load(tokenizer_directory(cfg.model.path, cfg.model.revision))
    tokenized = tokenize(examples, tokenizer, chat, cfg.data.row_length, cfg.data.control)
    for example in tokenized[: values.n]:
        print(show(example, tokenizer, colour), end="\n\n")
    stats = label_stats(tokenized)
    print(describe(stats, cfg.data.row_length))
    check_labels(stats, cfg.data.max_truncated_share, texts=chat.plain)
    print("training would start with these labels")
    return cli.DONE


def show(example: Tokenized, tokenizer: ChatTokenizer, colour: bool) -> str:
    """The text of an example with its parts coloured, or named where they begin."""
    counts = np.bincount(example.parts, minlength=len(PARTS))
    title = ", ".join(f"{name} {n}" for name, n in zip(PARTS, counts, strict=True))
    lines = [f"--- {example.id}: {title} tokens ---"]
    pieces = tokenizer.decode_pieces(example.tokens)
    borders = np.flatnonzero(np.diff(example.parts)) + 1
    shown = ""
    for ids in np.split(np.arange(len(pieces)), borders):
        part = example.parts[ids[0]]
        text = harmless("".join(pieces[i] for i in ids))
        if part == END:
            text = text.replace("\n", "⏎\n")
        shown += painted(text, _COLOURS[part]) if colour else f"«{PARTS[part]}»{text}"
    lines.append(shown.rstrip("\n"))
    if cut := example.full_length - len(example.tokens):
        lines.append(f"--- cut here: {cut} of {example.full_length} tokens are lost ---")
    return "\n".join(lines)


def describe(stats: LabelStats, row_length: int) -> str:
    """Counts per part, lengths with a histogram, and what is cut, as text."""
    total = sum(stats.part_tokens)
    lines = [f"{stats.examples:,} examples, {total:,} tokens, {stats.trained_tokens:,} trained"]
    for part, name in enumerate(PARTS):
        count = stats.part_tokens[part]
        note = "not trained" if part == PROMPT else "trained"
        lines.append(f"  {name:<9}{count:>12,} {count / total:7.1%}  {note}")
    percents = ", ".join(f"{p}% {stats.length(p):,}" for p in (5, 50, 95, 99))
    lines.append(f"length in tokens: {percents}, longest {stats.length(100):,}")
    lines += _histogram(np.array(stats.lengths), row_length)
    lines.append(
        f"data.row_length={row_length:,} cuts {stats.truncated_share:.1%} of the examples,"
        f" {stats.answers_cut_share:.1%} before the end of the answer;"
        f" one example a row fills {stats.useful_share(row_length):.1%} of the tokens"
    )
    return "\n".join(lines)


def _histogram(lengths: np.ndarray, row_length: int) -> list[str]:
    counts, edges = np.histogram(lengths, bins=_BARS)
    lines = []
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "█" * -(-int(count) * _BAR_WIDTH // int(counts.max()))
        cut = "  cut" if high > row_length else ""
        lines.append(f"  {low:>8,.0f} - {high:>8,.0f} {count:>7,} {bar}{cut}")
    return lines


if __name__ == "__main__":
    cli.run(main)
