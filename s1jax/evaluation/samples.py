"""The generations of an evaluation: a line a sample, found again by what it was made of.

A sample's key is a digest of all that decides about it (weights, tokenizer, ids of the prompt,
rules, sampling, seed). A sweep that was stopped, or changed, makes what has no line yet.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from s1jax.generations import Generation
from s1jax.lines import AppendedLines

START, THINKING, INSERTED, CLOSING, ANSWER = "start", "thinking", "inserted", "closing", "answer"


@dataclass(frozen=True)
class Sample:
    """A generation, of which question it is, and its length by s1's definition."""

    key: str
    task: str
    id: str  # of the question, in its task
    s1_thinking_tokens: int  # see measures.s1_parts()
    s1_answer_tokens: int
    spans: tuple[tuple[str, int], ...]  # kind (START, ...) and characters; all of generation.text
    generation: Generation

    def to_json(self) -> str:
        """One line of generations.jsonl: these fields, and those of the generation among them."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "generation"}
        return json.dumps(asdict(self.generation) | own, ensure_ascii=False) + "\n"

    @property
    def answer_text(self) -> str:
        """What follows the thinking, what closed it included; "" if the thinking never ended."""
        kinds = [kind for kind, _ in self.spans]
        first = next((n for n, kind in enumerate(kinds) if kind in (CLOSING, ANSWER)), len(kinds))
        return self.generation.text[sum(chars for _, chars in self.spans[:first]) :]


def sample_of(line: Mapping[str, Any]) -> Sample:
    """The sample of a line's fields. KeyError, TypeError or ValueError for others."""
    made = {f.name: line[f.name] for f in fields(Generation) if f.name in line}
    made["ignored_ends"] = tuple(made["ignored_ends"])
    own = {f.name: line[f.name] for f in fields(Sample) if f.name != "generation"}
    own["spans"] = tuple((str(kind), int(chars)) for kind, chars in own["spans"])
    texts = (made["text"], made["prompt"], made["finish"], own["key"], own["task"], own["id"])
    counts = (made["thinking_tokens"], own["s1_thinking_tokens"], own["s1_answer_tokens"])
    if not all(isinstance(x, str) for x in texts) or not all(type(n) is int for n in counts):
        raise TypeError("a field is of another type")
    if sum(chars for _, chars in own["spans"]) != len(made["text"]):
        raise ValueError("the spans are not those of the text")
    return Sample(**own, generation=Generation(**made))


class SamplesFile:
    """generations.jsonl: which samples are there, and each of them when it is asked for.

    As a context it is open for `add()`. Raises UserError if a line is none, or another process
    writes.
    """

    def __init__(self, path: Path):
        advice = "delete that line: its sample is made again"
        self._lines = AppendedLines(path, str(path), advice)
        self._places: dict[str, tuple[int, int]] = {}
        self._lines.read(self._take)

    def _take(self, line: Any, start: int, end: int) -> None:
        self._places[sample_of(line).key] = start, end

    def __contains__(self, key: str) -> bool:
        return key in self._places

    @property
    def keys(self) -> set[str]:
        """The keys of all samples that are there."""
        return set(self._places)

    def get(self, key: str) -> Sample:
        """The sample of a key that is there."""
        start, end = self._places[key]
        with self._lines.path.open("rb") as file:
            file.seek(start)
            return sample_of(json.loads(file.read(end - start)))

    def __enter__(self) -> "SamplesFile":
        self._lines.__enter__()
        return self

    def add(self, sample: Sample) -> None:
        """Appends a sample, which is in the file when this returns."""
        self._places[sample.key] = self._lines.add(sample.to_json())

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()
