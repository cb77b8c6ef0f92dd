"""The tokenizer of the little world: byte-level BPE as Qwen's, some hundred tokens of its own."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from s1jax.tokenizer import CHATML

MERGED_SIZE = 480  # tokens before the control tokens: 256 bytes, the rest learned
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# Qwen2.5's: every digit is a token, words take the space before them.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(directory: Path, texts: Iterable[str]) -> dict[str, int]:
    """Trains on the texts, writes the files, and returns the ids of the control tokens."""
    tokenizer = _train([*texts, CHATML])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 1024,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHATML,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return {name: tokenizer.token_to_id(name) for name in CONTROLS}


def _train(texts: list[str]) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import BPE
    from tokenizers.normalizers import NFC
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(_SPLIT), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=MERGED_SIZE,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in CONTROLS])
    return tokenizer
