"""A row of each of s1's 16 sources as a question, or None where s1 leaves it out.

A row is data: it is read, never run. Pure functions; a row without the columns of its source is a
KeyError, TypeError, ValueError, IndexError or AttributeError.
Reference: `data/collect_data.py`, `fix_gpqa.py` and `add_aime.py`. Where their reading has a bug
(a passage runs into its question, a context or options are lost, a known answer is not taken for
a missing solution), `pool.parity` has it too.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from s1jax.curation_config import Pool
from s1jax.types import Question, question_id

Row = Mapping[str, Any]

MAX_COLUMN_CHARS = 50_000  # of what is kept of a row besides: tests of programs have megabytes
CLUE = (
    "Solve the crossword puzzle. You are presented with a clue as input and the number of letters"
    " in brackets."
)


@dataclass(frozen=True)
class Part:
    """A split of a data set of the hub."""

    hub: str
    config: str | None = None
    split: str | None = "train"  # None: all
    revision: str | None = None  # a commit; None: the newest
    file: str | None = None  # a JSONL that holds the config: the data set is a program, not run

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return " ".join(filter(None, (self.hub, self.config, self.file or self.split)))


@dataclass(frozen=True)
class Reading:
    """What a row is read with."""

    part: Part  # where it comes from
    cfg: Pool
    seed: int = 0
    listed: frozenset[str] = frozenset()  # of HubSource.listed


def metadata_json(columns: Row) -> str:
    """Columns as a JSON object with sorted keys. Of one that is huge the name alone is kept."""
    text = _json(columns)
    if len(text) <= MAX_COLUMN_CHARS:
        return text
    huge = [name for name, value in columns.items() if len(_json(value)) > MAX_COLUMN_CHARS]
    kept = {name: value for name, value in columns.items() if name not in huge}
    return _json({**kept, "left_out": sorted(huge)})


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _question(
    row: Row,
    reading: Reading,
    question: Any,
    used: Iterable[str],  # the columns that are not told again in the metadata
    solution: Any = None,
    answer: Any = None,
    *,
    part: str = "",  # of the data set, in source_type
    **known: Any,  # cot_type, domain, difficulty
) -> Question:
    if not isinstance(question, str):
        raise TypeError(f"the question is no text but {type(question).__name__}")
    solution, answer = _text(solution), _text(answer)
    if solution is None and not reading.cfg.parity:
        solution = answer
    return Question(
        question=question,
        solution=solution,
        source_type=reading.part.hub + part,
        metadata=metadata_json({name: value for name, value in row.items() if name not in used}),
        answer=answer,
        **known,
    )


def _text(value: Any) -> str | None:
    """A value as text, several joined by commas; None if there is none."""
    if isinstance(value, list):
        value = ", ".join(str(item) for item in value)
    return None if value is None or value == "" else str(value)


# --- Each source ---

_WORKED = ("problem", "solution")
_ASKED = ("Question", "Answer")


def math(row: Row, reading: Reading) -> Question | None:
    """Every row of MATH; its subject is the domain."""
    return _question(
        row,
        reading,
        row["problem"],
        _WORKED,
        row["solution"],
        row.get("answer"),
        part="/" + row["subject"],
        domain=row["subject"],
    )


def olympic_arena(row: Row, reading: Reading) -> Question | None:
    """What is in English and without pictures."""
    if row["language"] != "EN" or row["modality"] != "text-only":
        return None
    return _question(
        row,
        reading,
        row["problem"],
        _WORKED,
        row["solution"],
        row.get("answer"),
        part="/" + row["subject"],
        cot_type={"Math": "math", "CS": "coding"}.get(row["subject"], "science"),
        domain=row["subject"],
    )


def theorem_qa(row: Row, reading: Reading) -> Question | None:
    """What has no picture."""
    if row["Picture"] is not None:
        return None
    answer, part = row["Answer"], "/" + row["Answer_type"]
    return _question(row, reading, row["Question"], _ASKED, answer, answer, part=part)


def numina_math(row: Row, reading: Reading) -> Question | None:
    """All of the AoPS forum, and what s1's 500 list of the rest."""
    if row["source"] != "aops_forum" and row["problem"] not in reading.listed:
        return None
    # Its messages are the problem and the solution again.
    used, part = (*_WORKED, "messages"), "/" + row["source"]
    return _question(row, reading, row["problem"], used, row["solution"], part=part)


def omni_math(row: Row, reading: Reading) -> Question | None:
    """Every row of Omni-MATH, with its difficulty from 1 to 10."""
    difficulty = row.get("difficulty")
    return _question(
        row,
        reading,
        row["problem"],
        _WORKED,
        row["solution"],
        row.get("answer"),
        difficulty=None if difficulty is None else float(difficulty),
    )


def sci_eval(row: Row, reading: Reading) -> Question | None:
    """What has an answer, without the word that asks for it."""
    if not row["answer"]:
        return None
    question = row["question"].split("\n\nAnswer:")[0]
    question = re.sub(
        r"\nOptimal (solvent|ligand|reactant):", r"\nWhat is the optimal \1?", question
    )
    health = row["task_name"] in ("MedQA", "PubMedQA")
    answer = row["answer"][0]
    return _question(
        row,
        reading,
        question,
        ("question", "answer"),
        answer,
        answer,
        part=f"/{row['category']}/{row['type']}/{row['task_name']}",
        cot_type="health science" if health else "science",
        domain=_text(row["category"]),
    )


def olympiad_bench(row: Row, reading: Reading) -> Question | None:
    """Every row of the four parts in English without pictures; the first solution."""
    question, context = row["question"], row.get("context")
    if context and not reading.cfg.parity:
        question = f"{context}\n\n{question}"
    return _question(
        row,
        reading,
        question,
        ("question", "solution"),
        row["solution"][0] if row["solution"] else None,
        row.get("final_answer"),
        part=f"/{row['question_type']}/{row['subject']}",
        domain=_text(row.get("subfield")),
    )


def jee_bench(row: Row, reading: Reading) -> Question | None:
    """Every row of JEEBench."""
    return _question(
        row,
        reading,
        row["question"],
        ("question", "gold"),
        row["gold"],
        row["gold"],
        part="/" + row["subject"],
        cot_type={"math": "math", "phy": "math", "chem": "science"}[row["subject"]],
    )


def agi_eval(row: Row, reading: Reading) -> Question | None:
    """Every row, but of its MATH those of level 5; with the options that it chooses from."""
    config = reading.part.config or ""
    if config == "math_agieval" and row["level"] not in (5, "5"):
        return None
    question, used = row["question"], ["question", "solution"]
    if config not in ("aqua_rat", "math_agieval"):
        used += ["passage", "options"]
        passage = (row["passage"] or "").strip()
        gap = "\n\n" if passage and not reading.cfg.parity else ""
        question = passage + gap + question + "\n" + "\n".join(row["options"] or ())
    elif row.get("options") and not reading.cfg.parity:
        used += ["options"]
        question += "\n" + "\n".join(row["options"])
    english = config in ("sat_en", "lsat_ar", "lsat_lr", "lsat_rc")
    return _question(
        row,
        reading,
        question,
        used,
        row["solution"],
        row.get("label") or row.get("answer"),
        part="/" + config,
        cot_type="english" if english else "math",
    )


def s1_prob(row: Row, reading: Reading) -> Question | None:
    """Every row of s1's own questions of probability."""
    return _question(row, reading, row["question"], ("question", "solution"), row["solution"])


def gpqa(row: Row, reading: Reading) -> Question | None:
    """What is not in the diamond set, with four choices in an order drawn by the question.

    So no row moves another's. In s1 they were added after all comparisons between questions.
    """
    if row["Question"] in reading.listed:
        return None
    right = row["Correct Answer"].strip("\n")
    choices = [row[f"Incorrect Answer {number}"].strip("\n") for number in (1, 2, 3)] + [right]
    rng = np.random.default_rng([reading.seed, int(question_id(row["Question"]), 16)])
    choices = [choices[at] for at in rng.permutation(4)]
    letter = "ABCD"[choices.index(right)]
    listed = "".join(f"\n({name}) {text}" for name, text in zip("ABCD", choices, strict=True))
    return _question(
        row,
        reading,
        f"{row['Question']}\nAnswer Choices:{listed}",
        ("Question", "Explanation"),
        "\n\n".join(filter(None, (row["Explanation"], f"Answer: {letter}"))),
        letter,
        cot_type="science",
        domain=_text(row.get("Subdomain")),
    )


def crossword(row: Row, reading: Reading) -> Question | None:
    """A clue with s1's sentence before it."""
    clue = row["input"].split("### Clue: ")[1]
    answer = re.search(r"### Answer: *(.*?) *(\n|$)", row["output"])
    return _question(
        row,
        reading,
        f"{CLUE}\n\n{clue}",
        ("input", "output"),
        row["output"],
        answer and answer[1],
        cot_type="crossword",
    )


def usaco(row: Row, reading: Reading) -> Question | None:
    """Every row of the Olympiad in Informatics; there is no solution."""
    return _question(row, reading, row["question"].strip(), ("question",), cot_type="coding")


def s1_teasers(row: Row, reading: Reading) -> Question | None:
    """Every row of s1's own brain teasers."""
    answer = row["Answer"]
    return _question(row, reading, row["Question"].strip(), _ASKED, answer, answer)


def live_code_bench(row: Row, reading: Reading) -> Question | None:
    """What is hard; there is no solution."""
    if row["difficulty"] != "hard":
        return None
    # Its tests are left out whatever their size: some are pickles.
    used = ("question_content", "public_test_cases", "private_test_cases")
    question = _question(row, reading, row["question_content"].strip(), used, cot_type="coding")
    return replace(question, source_type=f"LiveCodeBench/{reading.part.config}")


def aime(row: Row, reading: Reading) -> Question | None:
    """What was asked until `pool.aime_until`."""
    if int(row["ID"].split("-")[0]) > reading.cfg.aime_until:
        return None
    answer = row["Answer"]
    return _question(row, reading, row["Question"], _ASKED, answer, answer)
