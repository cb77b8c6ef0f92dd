"""A Hugging Face tokenizer in two halves, and its chat template.

One half writes ordinary text and knows no control token, the other is the table of those. Of the
template only what it writes around messages is used, so that it never sees what they say.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from s1jax.types import UserError

# For tokenizers that bring no template: what Qwen2.5's writes when no tool and no system message
# is given, which is the text that s1 was trained on.
CHATML = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud."
    " You are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# Around what stands for a message while a template is rendered: space that may be stripped, and
# what no template writes.
_SPACE, _MARK = "\u2003", "\ue000"


@dataclass(frozen=True, eq=False)
class ChatTokenizer:
    """A Hugging Face tokenizer in two halves: ordinary text, and a table of control tokens."""

    path: Path
    hf: Any  # transformers' PreTrainedTokenizerFast, for its template and as the oracle
    text: Any  # tokenizers.Tokenizer without the added tokens
    controls: dict[str, int]

    @classmethod
    def load(cls, path: Path) -> "ChatTokenizer":
        """The tokenizer of a model directory, exactly as its tokenizer.json has it.

        No class of the model's own is used, neither remote code nor one of those of transformers
        that put their own pre-tokenizer in place of the file's. Raises UserError if there is no
        tokenizer.json or it cannot be read.
        """
        file = path / "tokenizer.json"
        if not file.is_file():
            raise UserError(
                f"{path}: has no tokenizer.json; only a fast tokenizer can keep control tokens"
                " and text apart, so convert the slow one with transformers first"
            )
        # Or transformers says at every start that it found no torch, which nothing here needs.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        try:
            hf = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
            parts = json.loads(hf.backend_tokenizer.to_str())
            controls = {token["content"]: token["id"] for token in parts["added_tokens"]}
            parts |= dict.fromkeys(("post_processor", "truncation", "padding"))
            text = Tokenizer.from_str(json.dumps(parts | {"added_tokens": []}))
        except Exception as error:  # tokenizers raises bare Exception, transformers all kinds
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{file}: cannot be read as a fast tokenizer: {reason}") from error
        return cls(path, hf, text, controls)

    @cached_property
    def vocab_size(self) -> int:
        """The highest id, plus one: what an embedding must have at least."""
        return 1 + max(self.hf.backend_tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def digest(self) -> str:
        """Sha256 of all that decides about ids: the tokenizer and the chat template."""
        what = [self.hf.backend_tokenizer.to_str(), self.template]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    @property
    def template(self) -> Any:
        """The tokenizer's own chat template (or templates by name), else ChatML in Qwen's words."""
        return self.hf.chat_template or CHATML

    @property
    def prompt(self) -> tuple[str, str, bool]:
        """The text before and after a question, and whether the template strips the question."""
        (head, tail), (strips,) = around(self, ("user",))
        return head, tail, strips

    def conversation(
        self, turns: Sequence[Mapping[str, str]], generation_prompt: bool = True
    ) -> str:
        """The turns as the template writes them, the last one left open if no answer is to follow.

        Each has a "role" and a "content". UserError if the template fails.
        """
        try:
            return self.hf.apply_chat_template(
                list(turns),
                chat_template=None if self.hf.chat_template else CHATML,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                continue_final_message=not generation_prompt,
                date_string="26 Jul 2024",  # or Llama's writes today's into the training data
            )
        except Exception as error:  # a template is a program and may raise anything
            raise UserError(f"{self.path}: its chat template fails: {error}") from error

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """The encodings of ordinary texts. UserError if one has a control token's id after all."""
        encodings = self.text.encode_batch(texts, add_special_tokens=False)
        control_ids = set(self.controls.values())
        for encoding in encodings:
            if not control_ids.isdisjoint(encoding.ids):
                name = next(t for t, i in self.controls.items() if i in encoding.ids)
                raise UserError(
                    f"{self.path}: writes control token {name!r} where it is ordinary text of an"
                    " example; its model must be byte-level BPE"
                )
        return encodings

    def decode_pieces(self, ids: Iterable[int] | Int[np.ndarray, " T"]) -> list[str]:
        """What each id shows: joined, they are the text.

        A character spread over several ids appears with its last one.
        """
        names = {i: name for name, i in self.controls.items()}
        pieces: list[str] = []
        waiting: list[int] = []
        for i in map(int, ids):
            if i in names:
                if waiting:
                    pieces[-1] = self.text.decode(waiting)
                pieces.append(names[i])
                waiting = []
                continue
            waiting.append(i)
            shown = self.text.decode(waiting)
            pieces.append("" if shown.endswith("�") and len(waiting) < 4 else shown)
            if pieces[-1]:
                waiting = []
        if waiting:
            pieces[-1] = self.text.decode(waiting)
        return pieces


@lru_cache(maxsize=64)
def around(tokenizer: ChatTokenizer, roles: tuple[str, ...]) -> tuple[list[str], list[bool]]:
    """The text before, between and after messages of these roles, and which are stripped.

    Raises UserError if the template does not write each of them once, in their order.
    """
    marks = [f"{_MARK}{number}{_MARK}" for number in range(len(roles))]
    contents = [_SPACE + mark + _SPACE for mark in marks]
    turns = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    text = tokenizer.conversation(turns)
    pieces = re.split(f"({_SPACE}?{_MARK}[0-9]+{_MARK}{_SPACE}?)", text)
    found = pieces[1::2]
    for role, content, mark in zip(roles, contents, marks, strict=True):
        if (times := found.count(content) + found.count(mark)) != 1:
            raise UserError(
                f"{tokenizer.path}: its chat template writes {'an' if role[0] in 'aeio' else 'a'}"
                f" {role}'s message {times} times as it is; it must do so once"
            )
    if [piece.strip(_SPACE) for piece in found] != marks:
        raise UserError(f"{tokenizer.path}: its chat template changes the messages' order")
    return pieces[::2], [piece in marks for piece in found]


def tokenizer_directory(path: str, revision: str | None = None, field: str = "model.path") -> Path:
    """The directory of a model; of a hub id, a download of just the tokenizer's files.

    Raises UserError, which names the config's field, if there is none.
    """
    if not path:
        raise UserError(f"{field} is empty: set it to a model directory or a hub id")
    directory = Path(path).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        raise UserError(f"{field}={path}: there is no such directory")
    from huggingface_hub import snapshot_download

    try:
        files = ["tokenizer*.json", "*.jinja", "special_tokens_map.json", "added_tokens.json"]
        return Path(snapshot_download(path, revision=revision, allow_patterns=files))
    except Exception as error:  # no network, no such model or revision: each its own class
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{field}={path}: is no directory here, and the hub's model of that name"
            f" cannot be had: {reason}"
        ) from error
