"""stages.jsonl: which stages of a reproduction are done, under which names, and what they took."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from s1jax.evaluation_config import Evaluate
from s1jax.lines import AppendedLines
from s1jax.reproducing.plan import BASE, Ask

JOURNAL = "stages.jsonl"
# Fields of the config's `evaluate`, beside what is asked, that decide answers or marks.
_DECIDE = ("own_tasks", "paths", "revisions", "parity", "judge", "judge_decides")
# Before there is any experience: seconds on two cores, for the time that is left.
_GUESSED = {"distill": 10.0, "curate": 10.0, "train": 80.0, "evaluate": 40.0}


@dataclass(frozen=True)
class Stage:
    """One piece of work that is done once."""

    directory: str  # under the workdir, the seed's first: "seed-0/ours"
    what: str  # "distill", "curate", "train" or "evaluate"
    run: Callable[[], int]  # returns an exit code of cli
    about: Callable[[], dict[str, Any]] = dict  # what is worth noting of it when it is done
    key: str = ""  # changes where the stage would have to be done again

    @property
    def name(self) -> str:
        """As the journal has it."""
        return f"{self.directory}: {self.what}"

    @property
    def alike(self) -> str:
        """What it is in every seed."""
        return self.name.partition("/")[2] or self.name


@dataclass(frozen=True)
class Done:
    """A line of the journal: a stage that was done, or (without seconds) begun."""

    name: str
    key: str = ""
    seconds: float | None = None
    about: dict[str, Any] = field(default_factory=dict)


class Journal:
    """stages.jsonl: which stages are done, and what they took. As a context it may be added to.

    Raises UserError if another process does so, or a line is none.
    """

    def __init__(self, workdir: Path):
        path = workdir / JOURNAL
        self._lines = AppendedLines(path, str(path), "delete that line: its stage is done again")
        self.done: dict[str, Done] = {}
        self.took: dict[str, list[float]] = {}  # seconds, each time that a stage was done
        self._begun: Counter[str] = Counter()
        self._lines.read(self._take)

    def _take(self, line: Any, *_: int) -> None:
        self._note(Done(**line))

    def _note(self, done: Done) -> None:
        if done.seconds is None:
            self._begun[done.name] += 1
        else:
            self.took.setdefault(done.name, []).append(done.seconds)
            self.done[done.name] = done

    def __enter__(self) -> "Journal":
        self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def add(self, done: Done) -> None:
        """Notes it, and it is in the file when this returns."""
        self._lines.add(json.dumps(asdict(done)) + "\n")
        self._note(done)

    def has(self, name: str, key: str) -> bool:
        """Whether the stage was done with this key."""
        return name in self.done and self.done[name].key == key

    def interrupted(self, name: str) -> int:
        """How often a stage that was done was begun besides; 0 for one that was never done."""
        ended = len(self.took.get(name, []))
        return max(self._begun[name] - ended, 0) if ended else 0

    def expected(self, stages: Iterable[Stage]) -> float:
        """Seconds that stages will take: as long as they took in other seeds, or those like them.

        A stage that was interrupted is known by its last go alone.
        """
        took: dict[str, list[float]] = {}
        for name, done in self.done.items():
            what = name.partition(": ")[2].partition(" ")[0]
            for known in (name.partition("/")[2] or name, what):
                took.setdefault(known, []).append(done.seconds or 0.0)
        guesses = ((stage.alike, stage.what.partition(" ")[0]) for stage in stages)
        return sum(
            fmean(next((took[k] for k in known if k in took), [_GUESSED[known[1]]]))
            for known in guesses
        )


# --- Names ---


def stage_name(ask: Ask, seed: int) -> str:
    """What the journal calls an evaluation, of the base in all seeds the same."""
    return f"{place(ask.model, seed)}: evaluate {ask.name}"


def place(model: str, seed: int) -> str:
    """Where a model of a seed lies under the workdir."""
    return BASE if model == BASE else f"seed-{seed}/{model}"


def ask_key(ask: Ask, questions: int, evaluate: Evaluate) -> str:
    """A digest of what is asked, and of how it is marked."""
    what = {
        "tasks": ask.tasks,
        "runs": [asdict(run) for run in ask.runs],
        "questions": questions,
        **{name: value for name, value in asdict(evaluate).items() if name in _DECIDE},
    }
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
