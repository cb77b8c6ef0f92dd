"""Who solved what: attempts of models at questions, and their grades.

A reference with a final answer is compared locally. One that is a proof is shown to a judge, if
there is one; its replies lie in the store like those of every other teacher, by the digest of what
it was asked, so that nothing is judged twice. (s1: `data/bulk_inference.py`, and the grading of
`data/featurization.py`.)
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from s1jax.cli import Stopped
from s1jax.config import Config
from s1jax.curation import open_teacher
from s1jax.curation_config import Teacher
from s1jax.data.collect import Counts, collect
from s1jax.data.store import TraceStore
from s1jax.data.teachers import Prompt
from s1jax.evaluation.answers import reference_answer
from s1jax.evaluation.grading import Grader, version
from s1jax.progress import Progress
from s1jax.types import Question, Trace, UserError, question_id

Verdict = tuple[bool | None, str]  # as the store keeps them

GRADING = version()  # verdicts by other rules are not taken up

JUDGE = (
    "You compare a student's attempt at a problem with the reference solution. Decide whether the"
    " attempt is correct. Where the reference ends in a result, the attempt must reach the same"
    " result. Where it is a proof, every step of the attempt's argument must hold and together they"
    " must prove what was asked; another way than the reference's is fine. Say what you found, then"
    ' write, alone on the last line, "Yes" if the attempt is correct and "No" if it is not.'
)


@dataclass(frozen=True)
class Grade:
    """Whether an answer to a question is right, and how that was found."""

    correct: bool | None  # None: nobody could tell
    reason: str


def attempts(
    cfg: Config, model: Teacher, field: str, questions: Sequence[Question], store: TraceStore
) -> dict[str, Grade]:
    """The grades of one model's attempts at these questions, by their ids.

    Raises Stopped after a SIGTERM, UserError if the model cannot be asked.
    """
    prompts = [Prompt(question.id, question.question) for question in questions]
    rows = ask_all(cfg, model, field, prompts, store)
    # A refused question was not attempted. One that was cut off, or answered with nothing, was.
    made = {key: row for (key, _), row in rows.items() if row.finish not in ("error", "blocked")}
    good = {key: row for key, row in made.items() if row.answer.strip()}
    grades = grade(cfg, [(q, good[q.id].answer) for q in questions if q.id in good], store)
    silent = {q.id: Grade(False, "it gave no answer") for q in questions if q.id in made}
    unasked = {q.id: Grade(None, "no attempt") for q in questions if q.id not in made}
    return silent | unasked | grades


def ask_all(
    cfg: Config, model: Teacher, field: str, prompts: Sequence[Prompt], store: TraceStore
) -> dict[tuple[str, int], Trace]:
    """The model's rows, after it was asked what it has none of.

    Raises Stopped after a SIGTERM, UserError if some were not answered.
    """
    teacher = open_teacher(cfg, model, thinking=False, field=field)
    counts = collect(prompts, teacher, model, store, verb=field, needs_thinking=False)
    check_whole(counts, field)
    return store.traces(teacher.name, whole=False)


def check_whole(counts: Counts, field: str) -> None:
    """Raises Stopped or UserError if a run ended before all was answered."""
    if counts.ended == "stopped":
        raise Stopped
    if counts.ended or counts.unanswered:
        [(failure, _)] = counts.failures.most_common(1) or [("nobody says why", 0)]
        why = counts.ended or f"{counts.unanswered} requests were not answered ({failure})"
        raise UserError(f"{field}: {why}; start again to go on")


def grade(
    cfg: Config, answers: Iterable[tuple[Question, str]], store: TraceStore
) -> dict[str, Grade]:
    """Grades of answers to questions, by the questions' ids; earlier verdicts are taken up."""
    local: dict[str, tuple[str, str]] = {}
    proofs: list[tuple[Question, str]] = []
    grades: dict[str, Grade] = {}
    for question, answer in answers:
        reference = reference_answer(question)
        if reference is not None:
            local[question.id] = reference, answer
        elif question.solution is None:
            grades[question.id] = Grade(None, "no reference")
        else:
            proofs.append((question, answer))
    return grades | _compared(local, store) | _judged(cfg, proofs, store)


def _compared(pairs: Mapping[str, tuple[str, str]], store: TraceStore) -> dict[str, Grade]:
    """The local verdicts, in the order of the pairs."""
    known = store.verdicts()
    keys = {name: _key(*pair) for name, pair in pairs.items()}
    fresh = {keys[name]: pair for name, pair in pairs.items() if keys[name] not in known}
    if fresh:
        progress = Progress("grading", "answers", len(pairs), len(pairs) - len(fresh))
        # Measured values are given to three digits; an easy question that passes is worse than a
        # hard one that is lost.
        with Grader(rounded=True) as grader:
            found: dict[str, Verdict] = {}
            for key, verdict in zip(fresh, grader.grade(fresh.values()), strict=True):
                found[key] = verdict.correct, verdict.reason
                progress.done += 1
                progress.show()
                if len(found) >= 500:
                    store.add_verdicts(_lasting(found))
                    known, found = known | found, {}
        store.add_verdicts(_lasting(found))
        known |= found
        progress.show(last=True)
    return {name: Grade(*known[key]) for name, key in keys.items()}


def _lasting(found: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Without those that a busy machine has not come to: another time it may."""
    return {key: verdict for key, verdict in found.items() if verdict[0] is not None}


def _key(reference: str, answer: str) -> str:
    parts = "\0".join((GRADING, reference, answer))
    return hashlib.sha256(parts.encode()).hexdigest()


def _judged(
    cfg: Config, proofs: Sequence[tuple[Question, str]], store: TraceStore
) -> dict[str, Grade]:
    """The judge's verdicts; without a judge nobody can tell."""
    judge = cfg.curate.judge
    if not judge.via or not proofs:
        return {question.id: Grade(None, "a proof, and no judge") for question, _ in proofs}
    prompts = {question.id: judge_prompt(question, answer) for question, answer in proofs}
    rows = ask_all(cfg, judge, "curate.judge", list(prompts.values()), store)
    return {name: _verdict(rows.get((prompt.id, 0))) for name, prompt in prompts.items()}


def judge_prompt(question: Question, answer: str) -> Prompt:
    """What the judge is asked, in s1's form of it; the id is the digest of all of it."""
    text = (
        f"## Problem\n{question.question}\n\n## Attempt\n{answer}\n\n"
        f"## Correct answer\n{question.solution}"
    )
    return Prompt(question_id(JUDGE + text), text, system=JUDGE)


def judged_by(row: Trace | None) -> bool | None:
    """What a judge's reply says; None unless its last line is exactly Yes or No, as in s1."""
    last = row.answer.rstrip().split("\n")[-1] if row is not None else ""
    return {"Yes": True, "No": False}.get(last)


def _verdict(row: Trace | None) -> Grade:
    correct = judged_by(row)
    none = "the judge's reply ends in neither Yes nor No"
    return Grade(correct, none if correct is None else "judge")
