"""From the clean pool to the candidates of the selection, with a reason for every drop."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s1jax import mini
from s1jax.attempts import Grade, ask_all, attempts, grade
from s1jax.config import Config
from s1jax.curation import CleanPool
from s1jax.curation_config import Curate
from s1jax.data.domains import classify_by_words, subject_of_reply, system_prompt, user_prompt
from s1jax.data.funnel import Candidate, Drop, Pick
from s1jax.data.grades import Known, read_grades
from s1jax.data.quality import quality_problem
from s1jax.data.select import is_of
from s1jax.data.store import TraceStore
from s1jax.data.teachers import Prompt, name_of
from s1jax.progress import Progress
from s1jax.tokenizer import ChatTokenizer, tokenizer_directory
from s1jax.types import Question, Trace, UserError, question_id

_TOGETHER = 256  # texts encoded at once
_BY_DOMAIN = ("s1", "diverse")  # the selections that draw domains: the others need none
UNKNOWN = "unknown"  # the domain that stands for none

Traced = tuple[Question, Trace]
NOTHING = Known()
_NO_GRADE = "no grade in the file"


@dataclass(frozen=True)
class Sifted:
    """What the selection chooses from, what fell through before it, and what was known."""

    candidates: list[Candidate]
    drops: list[Drop]
    known: dict[str, Known]


def tokenizer_of(cfg: Config) -> ChatTokenizer:
    """The tokenizer that counts thinking and writes the text. UserError if there is none."""
    own, model = cfg.curate.tokenizer, cfg.model
    field = "model.path" if model.path and not own else "curate.tokenizer"
    if own:
        model = replace(model, path=own, revision=None)
    model = mini.resolve_model(replace(cfg, model=model)).model
    return ChatTokenizer.load(tokenizer_directory(model.path, model.revision, field))


def sift(cfg: Config, pool: CleanPool, store: TraceStore, tokenizer: ChatTokenizer) -> Sifted:
    """The candidates, in the order of the pool: traces, quality, difficulty, domains.

    The ablations of s1 skip what they are without: only "s1" looks at the difficulty, and "full"
    takes every whole trace. Raises cli.Stopped after a SIGTERM, UserError if a model cannot
    be asked or nothing was distilled.
    """
    _check_asked(cfg)
    known = read_grades(Path(cfg.curate.grades).expanduser()) if cfg.curate.grades else {}
    drops: list[Drop] = []
    good = _good(cfg, _traced(cfg, pool, store, drops), drops)
    if cfg.curate.selection == "s1":
        good = _hard(cfg, good, known, store, drops)
    domains = _domains(cfg, [question for question, _ in good], known, store)
    placed = []
    for question, trace in good:
        if domains[question.id] is None and cfg.curate.selection in _BY_DOMAIN:
            why = "nobody named its subject" if cfg.curate.domains != "given" else "none is given"
            drops.append(Drop(question, "domains", "no domain", why))
        else:
            placed.append((question, trace))
    lengths = _lengths(placed, known, store, tokenizer)
    solved = _solved(cfg, placed, lengths, known, store)
    candidates = [
        Candidate(q, trace, domains[q.id] or UNKNOWN, lengths[q.id], solved.get(q.id))
        for q, trace in placed
    ]
    return Sifted(candidates, drops, known)


def _check_asked(cfg: Config) -> None:
    """Raises UserError if somebody is to be asked whom the config does not name.

    Here and not when their turn comes: those before them may be asked for hours.
    """
    cur, problems = cfg.curate, []
    attempted = cur.selection == "s1" and cur.difficulty == "attempts"
    if attempted and not (cur.first.via or cur.second.via):
        problems.append(
            'curate.difficulty="attempts" asks models: set curate.first.via (and'
            ' curate.second.via), or curate.difficulty="grades", "known" or "none"'
        )
    if cur.domains == "model" and cur.selection in _BY_DOMAIN and not cur.classifier.via:
        problems.append(
            'curate.domains="model" asks a model: set curate.classifier.via, or curate.domains='
            '"words" or "given"'
        )
    if problems:
        raise UserError("\n  ".join(problems))


def _traced(
    cfg: Config, pool: CleanPool, store: TraceStore, drops: list[Drop]
) -> list[list[Traced]]:
    """The samples of each question that was asked."""
    if not cfg.distill.via:
        raise UserError("distill.via is empty: whose traces? Curate with the config of distill")
    teacher = name_of(cfg.distill)
    outlines = store.traces(teacher, whole=False)
    if not outlines:
        there = ", ".join(store.teachers()) or "nobody"
        raise UserError(
            f"{store.path} has no traces of {teacher}, but of {there}: distill first, with the same"
            " config"
        )
    samples: dict[str, list[Trace]] = {}
    for (name, _), trace in outlines.items():
        samples.setdefault(name, []).append(trace)
    for question in pool.questions:
        if question.id not in samples:
            drops.append(Drop(question, "traces", "not asked", f"{teacher} has no row of it"))
    asked = [question for question in pool.questions if question.id in samples]
    return [[(question, trace) for trace in samples[question.id]] for question in asked]


def _good(cfg: Config, traced: Iterable[Sequence[Traced]], drops: list[Drop]) -> list[Traced]:
    """Each question with its first sample that has no problem."""
    good = []
    for samples in traced:
        problems = [quality_problem(question, trace) for question, trace in samples]
        if cfg.curate.selection == "full":
            blank = Question("")  # its text has no pattern: only the trace is looked at
            problems = [quality_problem(blank, trace) for _, trace in samples]
        fine = next((s for s, problem in zip(samples, problems, strict=True) if not problem), None)
        if fine is not None:
            good.append(fine)
        else:
            assert problems[0] is not None
            drops.append(Drop(samples[0][0], "quality", *problems[0]))
    return good


# --- Difficulty ---


def _hard(
    cfg: Config,
    good: Sequence[Traced],
    known: Mapping[str, Known],
    store: TraceStore,
    drops: list[Drop],
) -> list[Traced]:
    """What no model solved; s1 drops what is not graded as well."""
    cur, questions = cfg.curate, [question for question, _ in good]
    if cur.difficulty == "none":
        return list(good)
    if cur.difficulty == "known":
        why = {q.id: _too_easy(q, cur.min_difficulty) for q in questions}
    else:
        graded = _file_grades(cur, questions, known) if cur.difficulty == "grades" else {}
        for field in ("first", "second") if cur.difficulty == "attempts" else ():
            if (model := getattr(cur, field)).via:
                graded[field] = attempts(cfg, model, f"curate.{field}", questions, store)
        why = {q.id: _solved_by(q, graded) for q in questions}
    hard = []
    for question, trace in good:
        problem = why[question.id]
        if problem is None:
            hard.append((question, trace))
        else:
            drops.append(Drop(question, "difficulty", *problem))
    return hard


def _too_easy(question: Question, least: float) -> tuple[str, str] | None:
    if question.difficulty is None:
        return "no difficulty", "its source gives none"
    if question.difficulty < least:
        return "too easy", f"its difficulty is {question.difficulty:g}, below {least:g}"
    return None


def _file_grades(
    cur: Curate, questions: Sequence[Question], known: Mapping[str, Known]
) -> dict[str, dict[str, Grade]]:
    """The grades of a file, of the models that it has some of. UserError if it has none."""
    rows = {q.id: known[q.id] for q in questions if q.id in known}
    fields = [
        f for f in ("first", "second") if any(getattr(r, f) is not None for r in rows.values())
    ]
    if questions and not fields:
        raise UserError(
            f"curate.grades={cur.grades}: grades none of the {len(questions)} questions by first or"
            f" second model ({len(rows)} of them are in it); an id is the question's, 16 hex digits"
        )
    return {f: {name: _given(getattr(row, f)) for name, row in rows.items()} for f in fields}


def _given(value: bool | None) -> Grade:
    return Grade(value, "the file of grades" if value is not None else _NO_GRADE)


def _solved_by(
    question: Question, graded: Mapping[str, Mapping[str, Grade]]
) -> tuple[str, str] | None:
    for field, grades in graded.items():
        row = grades.get(question.id)
        if row is not None and row.correct:
            return f"solved by the {field} model", f"its answer is right ({row.reason})"
    for field, grades in graded.items():
        row = grades.get(question.id)
        if row is None or row.correct is None:
            why = row.reason if row is not None else _NO_GRADE
            return f"not graded: {why}", f"nobody knows whether the {field} model solved it: {why}"
    return None


# --- Domains ---


def _domains(
    cfg: Config, questions: Sequence[Question], known: Mapping[str, Known], store: TraceStore
) -> dict[str, str | None]:
    """The domain of each question; what a file of grades says of it comes first."""
    named = {q.id: known.get(q.id, NOTHING).domain or None for q in questions}
    idle = cfg.curate.domains == "model" and cfg.curate.selection not in _BY_DOMAIN
    if cfg.curate.domains == "given" or idle:  # idle: not worth what it costs
        return {q.id: named[q.id] or q.domain or None for q in questions}
    left = [question for question in questions if named[question.id] is None]
    if cfg.curate.domains == "words":
        titles = classify_by_words([question.question for question in left])
        return named | dict(zip((q.id for q in left), titles, strict=True))
    system = system_prompt()
    prompts = {}
    for question in left:
        text = user_prompt(question.question)
        prompts[question.id] = Prompt(question_id(system + text), text, system=system)
    rows = ask_all(cfg, cfg.curate.classifier, "curate.classifier", list(prompts.values()), store)
    replies = {name: rows.get((prompt.id, 0)) for name, prompt in prompts.items()}
    return named | {
        name: subject_of_reply(row.answer) if row is not None else None
        for name, row in replies.items()
    }


# --- Lengths, and who is right ---


def _lengths(
    traced: Sequence[Traced],
    known: Mapping[str, Known],
    store: TraceStore,
    tokenizer: ChatTokenizer,
) -> dict[str, int]:
    """Tokens of thinking by question: as the grades say, or counted, and kept for the next run."""
    lengths: dict[str, int] = {}
    waiting: list[Trace] = []
    there: dict[tuple[str, int], int] = {}
    if traced:
        there = store.lengths(traced[0][1].teacher, tokenizer.digest)
    for question, trace in traced:
        given = known.get(question.id, NOTHING).thinking_tokens
        given = there.get((question.id, trace.sample)) if given is None else given
        if given is None:
            waiting.append(trace)
        else:
            lengths[question.id] = given
    progress = Progress("counting tokens", "traces", len(waiting))
    for start in range(0, len(waiting), _TOGETHER):
        some = waiting[start : start + _TOGETHER]
        whole = [store.trace(t.question_id, t.teacher, t.sample).thinking for t in some]
        counts = [len(encoding.ids) for encoding in tokenizer.encode(whole)]
        found = {(t.question_id, t.sample): n for t, n in zip(some, counts, strict=True)}
        store.add_lengths(some[0].teacher, tokenizer.digest, found)
        lengths |= {name: count for (name, _), count in found.items()}
        progress.done += len(some)
        progress.show()
    if waiting:
        progress.show(last=True)
    return lengths


def _solved(
    cfg: Config,
    traced: Sequence[Traced],
    lengths: Mapping[str, int],
    known: Mapping[str, Known],
    store: TraceStore,
) -> dict[str, bool | None]:
    """Whether the teacher is right, of the questions where the selection asks for it."""
    cur = cfg.curate
    if cur.selection != "s1":
        return {}

    def asked_for(question: Question) -> bool:
        long = lengths[question.id] > cur.long_tokens
        parts = (*cur.benchmark_sources, *(cur.long_sources if long else ()))
        return any(is_of(question.source_type, part) for part in parts)

    wanted = [(question, trace) for question, trace in traced if asked_for(question)]
    return _right(cfg, wanted, known, store)


def correctness(
    cfg: Config, picks: Sequence[Pick], sifted: Sifted, store: TraceStore
) -> dict[str, bool | None]:
    """Whether each picked trace is right; None where nobody can tell."""
    traced = [(pick.candidate.question, pick.candidate.trace) for pick in picks]
    return _right(cfg, traced, sifted.known, store)


def _right(
    cfg: Config, traced: Sequence[Traced], known: Mapping[str, Known], store: TraceStore
) -> dict[str, bool | None]:
    given = {question.id: known.get(question.id, NOTHING).teacher for question, _ in traced}
    unknown = [(question, trace.answer) for question, trace in traced if given[question.id] is None]
    graded = grade(cfg, unknown, store)
    return given | {name: row.correct for name, row in graded.items()}
