"""The objects of the OpenAI chat completions protocol that are replied, whole and in chunks.

The thinking is `reasoning_content`, the name that clients know from DeepSeek and vLLM.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """The tokens of a request: its prompt's, all that were written, and the thinking's."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(frozen=True)
class Delta:
    """What a sample has grown by."""

    reasoning_content: str = ""
    content: str = ""

    def __bool__(self) -> bool:
        return bool(self.reasoning_content or self.content)


@dataclass(frozen=True)
class Reply:
    """What all objects that answer one request share."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(
        self, choices: Sequence[tuple[str | None, str, str]], usage: Usage
    ) -> dict[str, Any]:
        """The whole answer; of each sample reasoning_content (None without), content, finish."""
        objects = []
        for index, (reasoning, content, finish) in enumerate(choices):
            message: dict[str, Any] = {"role": "assistant", "content": content}
            if reasoning is not None:
                message["reasoning_content"] = reasoning
            choice = {"index": index, "message": message, "finish_reason": finish, "logprobs": None}
            objects.append(choice)
        return self._object("chat.completion", objects) | {"usage": usage.to_dict()}

    def begin(self, index: int) -> dict[str, Any]:
        """The first chunk of a sample, before there is any text."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None)

    def grow(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """The chunks of what a sample has grown by: the thinking's before the answer's."""
        texts = asdict(delta)
        return [self._chunk(index, {name: text}, None) for name, text in texts.items() if text]

    def finish(self, index: int, reason: str) -> dict[str, Any]:
        """The last chunk of a sample."""
        return self._chunk(index, {}, reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The last chunk of all, where it was asked for."""
        return self._object("chat.completion.chunk", []) | {"usage": usage.to_dict()}

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._object("chat.completion.chunk", [choice])

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
