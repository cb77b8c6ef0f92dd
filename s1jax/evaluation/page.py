"""samples.html: a page in which a reader looks at single samples, and at two beside each other.

One file that asks no network and works from a disk. What models wrote is hostile: it lies in the
page as JSON without a character that could end it, the page's script shows it as text alone, and
the browser is told to run no other script.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s1jax.data.rows import replaced
from s1jax.evaluation.page_style import BODY, SCRIPT, STYLE
from s1jax.evaluation.results import Results, Score
from s1jax.evaluation.samples import ANSWER, Sample
from s1jax.types import UserError

MOST_BYTES = 20_000_000  # of data; a browser opens that at once
_SCORE = (
    *("model", "task", "run", "id", "sample", "group", "gold", "answer", "correct", "reason"),
    *("judged", "thinking_tokens", "answer_tokens", "used_tokens", "ended", "ignored_ends"),
    "finish",
)
_Run = tuple[str, str, str]  # task, model and name


@dataclass(frozen=True)
class Shown:
    """A sample as the page has it: its verdict, what was asked, what was written."""

    score: Score
    prompt: str
    sample: Sample


def write_page(
    path: Path, results: Results, shown: Iterable[Shown], most_bytes: int = MOST_BYTES
) -> None:
    """Writes samples.html, whole or not at all.

    Of more data than `most_bytes` the first questions of each task are taken, the same ones of each
    run, and the page says how many of how many: at least one, whatever its size.
    Raises UserError if the file cannot be written.
    """
    text = page(results, shown, most_bytes)
    try:
        with replaced(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def page(results: Results, shown: Iterable[Shown], most_bytes: int = MOST_BYTES) -> str:
    """The text of samples.html."""
    fit = _Fit(most_bytes)
    for one in shown:
        fit.add(one)
    policy = (
        f"default-src 'none'; script-src '{_digest(SCRIPT)}'; style-src '{_digest(STYLE)}';"
        " base-uri 'none'; form-action 'none'"
    )
    return "".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="referrer" content="no-referrer">\n',
            f"<title>Samples of an evaluation</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            BODY,
            '<script type="application/json" id="data">',
            *fit.data(results),
            f"</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        )
    )


def _digest(text: str) -> str:
    """What a content security policy calls an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> str:
    """JSON in ASCII without a character that means something in HTML.

    They stand in strings alone, where their numbers say the same; as do lone surrogates.
    """
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@dataclass
class _Rank:
    """What the page holds of the questions of one rank, the nth of each task."""

    samples: list[tuple[int, _Run, str]] = field(default_factory=list)  # place, run, JSON
    prompts: dict[tuple[str, str, str], tuple[int, str]] = field(default_factory=dict)
    bytes: int = 0


class _Fit:
    """As many of the first questions as there is room for, of samples that come one by one.

    What has no room is dropped at once, so that not all of an evaluation is in memory.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._questions: dict[str, dict[str, int]] = {}  # rank by task and id
        self._ranks: dict[int, _Rank] = {}
        self._bytes = 0
        self._end: int | None = None  # the first rank without room
        self._total = self._prompts = 0
        self._counts: dict[_Run, tuple[set[str], int]] = {}  # ids, and how many samples

    def add(self, one: Shown) -> None:
        """Takes a sample, and drops the last questions if there is no room for it."""
        score = one.score
        known = self._questions.setdefault(score.task, {})
        rank = known.setdefault(score.id, len(known))
        run = (score.task, score.model, score.run)
        ids, samples = self._counts.get(run, (set(), 0))
        ids.add(score.id)
        self._counts[run] = ids, samples + 1
        self._total += 1
        if self._end is not None and rank >= self._end:
            return
        held = self._ranks.setdefault(rank, _Rank())
        before = held.bytes
        asked = (score.task, score.id, one.prompt)
        if asked not in held.prompts:
            held.prompts[asked] = self._prompts, _json(one.prompt)
            self._prompts += 1
            held.bytes += len(held.prompts[asked][1]) + 12
        text = _json(_fields(one, held.prompts[asked][0]))
        held.samples.append((self._total, run, text))
        held.bytes += len(text) + 1
        self._bytes += held.bytes - before
        while self._bytes > self._most and len(self._ranks) > 1:
            self._end = max(self._ranks)
            self._bytes -= self._ranks.pop(self._end).bytes

    def data(self, results: Results) -> Iterable[str]:
        """The page's JSON, in pieces."""
        ranks = self._ranks.values()
        samples = sorted(sample for rank in ranks for sample in rank.samples)
        prompts = sorted(prompt for rank in ranks for prompt in rank.prompts.values())
        parts = []
        for run, (ids, count) in self._counts.items():
            questions = sum(1 for name in ids if self._questions[run[0]][name] in self._ranks)
            there = sum(1 for _, other, _ in samples if other == run)
            parts.append(
                [*run, f"{questions:,} of {len(ids):,}", f"{there:,} of {count:,}"],
            )
        yield f'{{"models":{_json(results.models)},"total":{self._total},"parts":{_json(parts)},'
        yield '"prompts":{' + ",".join(f'"{number}":{text}' for number, text in prompts) + "},"
        yield '"samples":[' + ",".join(text for _, _, text in samples) + "]}"


def _fields(one: Shown, prompt: int) -> dict[str, Any]:
    text, start, pieces = one.sample.generation.text, 0, []
    for kind, length in one.sample.spans:
        pieces.append((kind, text[start : start + length]))
        start += length
    if text[start:]:  # a file of somebody else's: nothing of it is lost
        pieces.append((ANSWER, text[start:]))
    fields = {name: getattr(one.score, name) for name in _SCORE}
    forced = one.sample.generation.forced is not None
    return fields | {"prompt": prompt, "forced": forced, "pieces": pieces}
