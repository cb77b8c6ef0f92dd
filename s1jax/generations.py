"""Prompts out of a file, and what was generated for them into another that can be gone on with.

Beside `OUT.jsonl`, a line a sample, lies `OUT.jsonl.manifest.json`: how it is made, how much of it
is there. The same command again keeps the whole lines and makes what is missing.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from s1jax.config import Config, Decode, check
from s1jax.lines import AppendedLines
from s1jax.types import UserError

QUESTIONS = ("prompt", "question", "problem")  # what the text may be called, the first wins
OVERRIDES = {  # fields of decode that a line may have otherwise, and their least values
    "max_thinking_tokens": 1,
    "min_thinking_tokens": 0,
    "ignore_ends": 0,
    "max_answer_tokens": 1,
}

# Of decode: how the work is divided. Without strict mode the last bits of logits depend on it.
_MAY_CHANGE = ("batch_size", "segment_steps", "order")


@dataclass(frozen=True)
class Prompt:
    """A question and how it is asked."""

    id: str
    text: str
    decode: Decode
    seed: int | None = None
    name: str = ""  # in a message


@dataclass(frozen=True)
class Generation:
    """A sample: what was asked, what came, and what it cost. Special tokens are in its texts."""

    id: str  # of the prompt
    sample: int  # of that prompt, from 0
    prompt: str
    thinking: str
    answer: str
    text: str  # the thinking's start, the thinking, what closes it, and the answer
    parity: str  # whose accounting
    requested_thinking_tokens: int  # at most
    requested_min_thinking_tokens: int  # 1 where ends are ignored and less was asked
    requested_answer_tokens: int
    thinking_tokens: int
    answer_tokens: int
    requested_ignore_ends: int
    ignored_ends: tuple[int, ...]  # after how many tokens of thinking, each
    thinking_ended: str | None  # by "itself", the "budget" or the "context"; None: no thinking
    forced: str | None  # what was written because the budget was spent; None if it was not
    finish: str  # "stop", "length" (of the answer) or "rejected" (the thinking was too long)
    seed: int
    tries: int | None = None  # of rejection sampling; None without it

    def to_json(self) -> str:
        """One line of a file."""
        fields = asdict(self)
        if self.tries is None:
            del fields["tries"]
        return json.dumps(fields) + "\n"


# --- Prompts ---


def read_prompts(path: Path, cfg: Config) -> list[Prompt]:
    """The prompts of a JSONL file. UserError, with the line, for what is none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"--prompts={path}: {error.strerror}") from error
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = f"{path}, line {number}"
        prompt = _prompt(_object(line, name), name, number, cfg)
        if prompt.id in prompts:
            raise UserError(f"{name}: id {prompt.id!r} is also that of {prompts[prompt.id].name}")
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f"--prompts={path} holds no prompts")
    return list(prompts.values())


def _object(line: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{name}: must be an object, not {type(value).__name__}")
    return value


def _prompt(fields: Mapping[str, Any], name: str, number: int, cfg: Config) -> Prompt:
    text = next((fields[key] for key in QUESTIONS if key in fields), None)
    if not isinstance(text, str):
        raise UserError(f"{name}: has no text under {', '.join(QUESTIONS[:-1])} or {QUESTIONS[-1]}")
    given = {key: fields[key] for key in (*OVERRIDES, "seed") if fields.get(key) is not None}
    for key, value in given.items():
        if type(value) is not int or value < OVERRIDES.get(key, 0):
            least = OVERRIDES.get(key, 0)
            raise UserError(f"{name}: {key}={value!r} must be a whole number of at least {least}")
    seed = given.pop("seed", None)
    decode = replace(cfg.decode, **given) if given else cfg.decode
    if given and (problems := check(replace(cfg, decode=decode))):
        raise UserError(f"{name}: {'; '.join(problems)}")
    identity = fields.get("id", number)
    if type(identity) not in (str, int):
        raise UserError(f"{name}: id={identity!r} must be a string or a whole number")
    return Prompt(str(identity), text, decode, seed, name)


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Sha256 of all that decides about what is asked, but for the config that all share."""
    asked = [
        [p.id, p.text, p.seed, *(getattr(p.decode, key) for key in OVERRIDES)] for p in prompts
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


# --- Generations ---


class GenerationsFile:
    """The file of a command's generations, and the manifest beside it.

    As a context it is open for `add()`; before that nothing is written. Raises UserError if what
    is there is something else, or another process has it.
    """

    def __init__(self, path: Path, made_with: dict[str, Any], wanted: Sequence[tuple[str, int]]):
        self.path, self.wanted = path, len(wanted)
        self.manifest = path.with_name(path.name + ".manifest.json")
        self._made_with = made_with
        self.done: set[tuple[str, int]] = set()  # prompt and sample
        if path.is_dir():
            raise UserError(f"--out={path} is a directory; it must be a file (it may be new)")
        self._lines = AppendedLines(path, f"--out={path}")
        if path.exists() and path.stat().st_size:
            self._check_same()
            self._read(set(wanted))

    def _check_same(self) -> None:
        other = f"--out={self.path} holds something else: name a new file"
        if not self.manifest.is_file():
            raise UserError(f"{other} ({self.manifest.name} is not beside it)")
        try:
            before = json.loads(self.manifest.read_text())
            changes = differences(before, self._made_with)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{other} ({self.manifest.name} is none of ours)") from error
        if changes:
            raise UserError(
                f"--out={self.path} was made otherwise: {'; '.join(changes)}; name a new file, or"
                " undo the change"
            )

    def _read(self, wanted: set[tuple[str, int]]) -> None:
        def take(fields: Any, *_: int) -> None:
            sample = (fields["id"], fields["sample"])
            if sample not in wanted or sample in self.done:
                raise UserError("is not asked for, or twice; name a new file")
            self.done.add(sample)

        self._lines.read(take)

    def __enter__(self) -> "GenerationsFile":
        self._lines.__enter__()
        self._note()
        return self

    def add(self, generation: Generation) -> None:
        """Appends a line, which is in the file when this returns."""
        self._lines.add(generation.to_json())
        self.done.add((generation.id, generation.sample))

    def __exit__(self, *_: object) -> None:
        self._note()
        self._lines.__exit__()

    def _note(self) -> None:
        counts = {"wanted": self.wanted, "done": len(self.done)}
        partial = self.manifest.with_name(self.manifest.name + ".partial")
        partial.write_text(json.dumps(self._made_with | {"samples": counts}, indent=2) + "\n")
        partial.replace(self.manifest)


def made_with(
    cfg: Config,
    *,
    model: str,
    model_digest: str,
    tokenizer_digest: str,
    prompts: str,
    asked: Sequence[Prompt],
) -> dict[str, Any]:
    """What a file of generations depends on, as its manifest has it."""
    manifest = {
        "command": "generate",
        "model": {"path": model, "sha256": model_digest, "tokenizer_sha256": tokenizer_digest},
        "prompts": {"path": prompts, "sha256": prompts_digest(asked), "count": len(asked)},
        "config": cfg.to_dict(),
    }
    return json.loads(json.dumps(manifest))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Why generations made with the one are not those of the other."""
    was, is_ = _digests(before), _digests(now)
    others = [f"with other {what}" for what, value in is_.items() if was[what] != value]
    was, is_ = _fields(before["config"]), _fields(now["config"])
    changes = [key for key, value in is_.items() if was.get(key) != value]
    return others + [f"{key} was {was.get(key)!r} and is {is_[key]!r} now" for key in changes]


def _digests(manifest: Mapping[str, Any]) -> dict[str, Any]:
    model = manifest["model"]
    return {
        "weights": model["sha256"],
        "tokens (another tokenizer or template)": model["tokenizer_sha256"],
        "prompts": manifest["prompts"]["sha256"],
    }


def _fields(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config that decide about what is generated."""
    fields = {"seed": cfg["seed"]}
    fields |= {f"model.{key}": cfg["model"][key] for key in ("chat", "compute_dtype")}
    given = cfg["decode"].items()
    return fields | {f"decode.{key}": x for key, x in given if key not in _MAY_CHANGE}
