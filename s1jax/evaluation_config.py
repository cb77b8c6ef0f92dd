"""The part of the config that asks how good a model is: tasks, runs of a sweep, the judge.

A task is a data description, so that a user's own takes ten lines of a config file; a run is a
name for some fields of `decode`. (s1: the task files of `eval/lm-evaluation-harness`, and
`eval/commands.sh`.)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from s1jax.curation_config import Teacher
from s1jax.sections import nearest

BASES = ("plain", "same", "none")
GRADERS = ("math", "integer", "choice", "exact")
# "other" runs are on no curve.
METHODS = ("plain", "BF", "TCC", "TCC+BF", "SCC", "SCC+BF", "CCC", "RS", "majority", "other")


@dataclass(frozen=True)
class Task:
    """A benchmark: where its questions are, what is asked, what is right."""

    name: str
    path: str  # .jsonl, .parquet, a hub id, or "mini"
    subset: str | None = None  # of a hub id, as its split and revision
    split: str = "test"
    revision: str | None = None  # the commit to pin
    question: str = "question"  # these four are columns
    answer: str = "answer"
    id: str | None = None  # None: the row's number, from 0
    group: str | None = None  # accuracy is told by it as well: subject, level
    # Multiple choice: the columns of the choices, the right one's among them and named by
    # `answer`; or one column with a list, and `answer` is a letter, a number from 0, or the text.
    choices: tuple[str, ...] = ()
    # Of the choices, a letter a row: which of the permutations in lexicographic order. Empty: as
    # given for a list, else drawn from the question's digest.
    orders: str = ""
    prompt: str = "{question}"
    grader: str = "math"  # "integer" (AIME), "choice" (a letter), "exact" (the same text)
    questions: int | None = None  # how many there are; another number is refused


# Of GPQA-Diamond, row by row: what Python's random.Random(0) shuffles s1's list of choices into,
# the three wrong ones and the right one. In s1 it depends on what was drawn before.
_GPQA_ORDERS = (
    "mbchnvnvgefalvvujqpohhsmkqiwvhfeuxwkuitljrkjrlgkvsvlobtldvqaetghkc"
    "hejkfaxpraperlxkljdqgxrkkpsamdjehhrfsuqtesvcrmsfjtrxmonojgxktpmvfa"
    "etxkhaijqxqblvdmlduemtdpolscpwfvdphuhqmmpkqkapptcxupxwkwlswobweetv"
)

TASKS = {
    task.name: task
    for task in (
        Task(
            "aime24",
            "simplescaling/aime24_nofigures",
            split="train",
            question="problem",
            id="id",
            grader="integer",
            questions=30,
        ),
        Task("aime25", "TIGER-Lab/AIME25", split="train", grader="integer", questions=30),
        Task(
            "math500",
            "simplescaling/openaimath",
            question="problem",
            id="unique_id",
            group="subject",
            questions=500,
        ),
        Task(
            "gpqa_diamond",
            "Idavidrein/gpqa",
            subset="gpqa_diamond",
            split="train",
            question="Question",
            answer="Correct Answer",
            id="Record ID",
            group="High-level domain",
            choices=(
                "Incorrect Answer 1",
                "Incorrect Answer 2",
                "Incorrect Answer 3",
                "Correct Answer",
            ),
            orders=_GPQA_ORDERS,
            prompt="{question}\n\n{choices}",
            grader="choice",
            questions=198,
        ),
        Task("gsm8k", "openai/gsm8k", subset="main", questions=1319),
        # Of the embedded world: a hundred questions of each family, and the families one by one.
        Task("mini", "mini", group="family", grader="exact", questions=500),
        *(
            Task(f"mini_{name}", "mini", subset=name, grader="exact", questions=500)
            for name in ("search", "revision", "iteration", "paths", "totals")
        ),
    )
}


@dataclass(frozen=True)
class Run:
    """One point of a sweep: `decode` with these fields, under a name of its own."""

    name: str
    method: str  # of METHODS: whose curve the point is on
    decode: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluate:
    """Which questions, how they are asked, and who grades."""

    tasks: tuple[str, ...] = ()  # names in TASKS, or in own_tasks
    own_tasks: tuple[Task, ...] = ()
    paths: tuple[str, ...] = ()  # where a task's questions are instead: "aime24=DIR/aime24.jsonl"
    revisions: tuple[str, ...] = ()  # commits of tasks' sets on the hub, "math500=0f1e..."
    max_questions: int | None = None  # the first so many of each task
    # The sweep: a run each, which has the other fields from `decode`. None of them: `decode` alone.
    budgets: tuple[int, ...] = ()  # of max_thinking_tokens
    ignore_ends: tuple[int, ...] = ()
    runs: tuple[Run, ...] = ()  # and any others
    only: tuple[str, ...] = ()  # of all these the ones of these names; (): all
    seeds: tuple[int, ...] = ()  # samples with each of these `seed`s; (): the config's alone
    # What is asked of the model that training began from (model.path), where another is evaluated:
    # its "plain" answer as in s1, the "same" runs, or "none".
    base: str = "plain"
    parity: bool = False  # s1's quirks of extraction; an unparsed choice counts as A
    # Looks at what the local grader decided, question, reference and answer; "" for none.
    judge: Teacher = field(default_factory=lambda: Teacher(temperature=0.0, max_tokens=2048))
    judge_decides: bool = False  # its verdicts count; else they are listed where they differ
    resamples: int = 10_000  # of the bootstrap
    grading_processes: int = 2


def sweep(evaluate: Evaluate) -> list[Run]:
    """All runs of a sweep, in the order in which they are told; `only` has been applied."""
    runs = [Run(f"budget-{n}", "BF", {"max_thinking_tokens": n}) for n in evaluate.budgets]
    runs += [Run(f"ignore-{n}", "BF", {"ignore_ends": n}) for n in evaluate.ignore_ends]
    runs += evaluate.runs
    if not runs:
        runs = [Run("as-configured", "BF")]
    return [run for run in runs if not evaluate.only or run.name in evaluate.only]


def tasks_of(evaluate: Evaluate) -> list[Task]:
    """The tasks that are asked for; unknown names are left out, see `check_evaluation`."""
    known = TASKS | {task.name: task for task in evaluate.own_tasks}
    return [known[name] for name in evaluate.tasks if name in known]


def check_evaluation(evaluate: Evaluate) -> list[str]:
    """Everything wrong with the values of this section but for its runs' fields of decode."""
    problems: list[str] = []

    def require(ok: bool, problem: str) -> None:
        if not ok:
            problems.append(f"evaluate.{problem}")

    def unique(path: str, names: Iterable[str]) -> None:
        counted = list(names)
        for name in dict.fromkeys(n for n in counted if counted.count(n) > 1):
            require(False, f'{path} has "{name}" twice')

    known = [*TASKS, *(task.name for task in evaluate.own_tasks)]
    unique("tasks", evaluate.tasks)
    unique("own_tasks", (task.name for task in evaluate.own_tasks))
    for task in evaluate.own_tasks:
        require(task.name not in TASKS, f'own_tasks: "{task.name}" is there already: name another')
    for name in evaluate.tasks:
        require(name in known, f'tasks: "{name}" is unknown{nearest(name, known)}')
    for path, pairs in {"paths": evaluate.paths, "revisions": evaluate.revisions}.items():
        for pair in pairs:
            name, equals, value = pair.partition("=")
            whole = bool(equals and value)
            require(whole, f'{path}: "{pair}" must be a task and its {path[:-1]}, "gsm8k=..."')
            require(
                not whole or name in known, f'{path}: "{name}" is no task{nearest(name, known)}'
            )
        unique(path, (pair.partition("=")[0] for pair in pairs))
    for task in evaluate.own_tasks:
        problems += _check_task(task)
    require(
        evaluate.base in BASES, f'base="{evaluate.base}" is unknown{nearest(evaluate.base, BASES)}'
    )
    for least, names in ((0, ("ignore_ends", "seeds")), (1, ("budgets",))):
        for name in names:
            values = getattr(evaluate, name)
            wrong = [n for n in values if n < least or n >= 2**31]
            require(not wrong, f"{name}={values} must hold numbers from {least} to 2**31 - 1")
            unique(name, map(str, values))
    every = sweep(
        Evaluate(budgets=evaluate.budgets, ignore_ends=evaluate.ignore_ends, runs=evaluate.runs)
    )
    runs = [run.name for run in every]
    unique("runs", runs)
    for name in evaluate.only:
        require(name in runs, f'only: "{name}" is no run{nearest(name, runs)}')
    for run in evaluate.runs:
        require(bool(run.name), "runs: one has no name")
        known_method = run.method in METHODS
        require(
            known_method,
            f'runs: "{run.name}".method="{run.method}" is unknown{nearest(run.method, METHODS)}',
        )
    for name in ("max_questions", "resamples", "grading_processes"):
        value = getattr(evaluate, name)
        require(value is None or value >= 1, f"{name}={value} must be at least 1")
    judge = bool(evaluate.judge.via)
    require(judge or not evaluate.judge_decides, "judge_decides=True needs evaluate.judge.via")
    return problems


def _check_task(task: Task) -> list[str]:
    problems: list[str] = []

    def require(ok: bool, problem: str) -> None:
        if not ok:
            problems.append(f'evaluate.own_tasks "{task.name}": {problem}')

    require(bool(task.name), "it has no name")
    require(bool(task.path), "path is empty")
    require(
        task.grader in GRADERS, f'grader="{task.grader}" is unknown{nearest(task.grader, GRADERS)}'
    )
    require(
        (task.grader == "choice") == bool(task.choices),
        f'grader="{task.grader}" and choices={task.choices}: choices are graded by "choice"',
    )
    require("{question}" in task.prompt, f'prompt="{task.prompt}" does not hold {{question}}')
    require(bool(task.question and task.answer), "question and answer must name columns")
    require(bool(task.choices) or not task.orders, "orders are of choices, and there are none")
    require(
        not task.choices or "{choices}" in task.prompt,
        f'prompt="{task.prompt}" does not hold {{choices}}',
    )
    return problems
