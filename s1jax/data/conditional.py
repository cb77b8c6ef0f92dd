"""Training sets whose questions say how much thinking they want: in tokens, or in steps.

Reference: paper, appendix E.1 and figure 10; s1 published no code of it. The amount is that of the
trace at hand, rounded up to a power of two, so that a model meets every amount often. What a
question says of it is what `decode.prompt_tokens` and `decode.prompt_steps` say at decoding.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from s1jax.chat import ChatTokenizer
from s1jax.prompts import think_for
from s1jax.types import Example

_ASKS = re.compile(r"\n\nThink for up to \d+ (?:tokens|steps)\.\Z")


def conditional(
    examples: Sequence[Example], tokenizer: ChatTokenizer, control: str
) -> tuple[Sequence[Example], list[list[str]] | None]:
    """The examples as `data.control` has them, and their thinking in steps if they have some."""
    if control == "none":
        return examples, None
    if control == "tokens":
        return by_tokens(examples, tokenizer), None
    assert control == "steps"
    pairs = [by_steps(example) for example in examples]
    return [example for example, _ in pairs], [steps for _, steps in pairs]


def by_tokens(examples: Sequence[Example], tokenizer: ChatTokenizer) -> list[Example]:
    """Each with the length of its thinking asked for by its question."""
    encodings = tokenizer.encode([example.thinking.strip() for example in examples])
    return [
        _asking(example, power_of_two(len(encoding.ids)), "tokens")
        for example, encoding in zip(examples, encodings, strict=True)
    ]


def by_steps(example: Example) -> tuple[Example, list[str]]:
    """The example with its steps asked for by its question, and the steps, counted down.

    The first has as many left as the question asks for: it is itself one of them.
    """
    steps = split_steps(example.thinking)
    most = power_of_two(len(steps))
    counted = [f"{most - done} steps left\n{step}" for done, step in enumerate(steps)]
    return _asking(example, most, "steps"), counted


def split_steps(thinking: str) -> list[str]:
    """What double newlines divide; there is at least one."""
    return [step.strip("\n") for step in thinking.split("\n\n") if step.strip()] or [""]


def power_of_two(count: int) -> int:
    """The least power of two that is not below a count; 1 for none."""
    return 1 << max(count - 1, 0).bit_length()


def _asking(example: Example, amount: int, unit: str) -> Example:
    """The question with what it asks for, in place of what one of `curate.control` asks for."""
    bare = _ASKS.sub("", example.question)
    return replace(example, question=bare + think_for(amount, unit))
