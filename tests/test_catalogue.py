"""The configs of evaluation hold s1's catalogue, eval/commands.sh: nothing missing, nothing else.

And docs/evaluation.md says of tasks, methods and fields what the code has.
"""

import ast
import dataclasses
import json
import re
import runpy
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from s1jax.chat import CHATS, ChatTokenizer
from s1jax.config import Decode, decode_of, overridden, resolve
from s1jax.decoding.record import Branch, Request
from s1jax.decoding.record import rules_of as rules_of_branch
from s1jax.decoding.requests import rules_of
from s1jax.evaluation_config import BASES, GRADERS, METHODS, TASKS, Evaluate, sweep, tasks_of
from s1jax.prompts import auto_budget, check_fits, delimiters, prompt_ids, room_tokens
from s1jax.types import UserError

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = 32_768  # of Qwen2.5
LONGEST_PROMPT = 1_000  # of MATH500, the longest that could be looked at, it is 899

QWEN, S1, S1_1 = "Qwen/Qwen2.5-32B-Instruct", "simplescaling/s1-32B", "simplescaling/s1.1-32B"
TCC, SCC = (f"simplescaling/{name}-conditional-control" for name in ("token", "step"))
ALL = ("aime24", "math500", "gpqa_diamond")  # of the commands' tasks without aime24_figures


@dataclass(frozen=True)
class Command:
    """A line of commands.sh: whom it asks what, and under which name a config has it."""

    line: int
    config: str
    run: str
    method: str
    model: str
    tasks: tuple[str, ...] = ALL
    decode: dict = field(default_factory=dict)  # what differs from our default


def commands():
    """Read off the file at simplescaling/s1@77272c6 by hand."""
    plain, sampled = {"thinking": False}, {"temperature": 1.0, "samples": 64}
    yield Command(11, "evaluate/qwen", "plain", "plain", QWEN, decode=plain)

    both = ("aime25", "aime24", "math500", "gpqa_diamond")
    yield Command(15, "evaluate/s1_1", "ignore-1", "BF", S1_1, ("aime25",), {"ignore_ends": 1})
    yield Command(17, "evaluate/s1_1", "auto", "BF", S1_1, both)
    yield Command(19, "evaluate/s1_1", "ignore-2", "BF", S1_1, both, {"ignore_ends": 2})

    yield Command(22, "evaluate/s1", "plain", "plain", S1, decode=plain)
    for line, budget in zip(range(25, 31), (500, 1000, 2000, 4000, 8000, 16000), strict=True):
        most = {"max_thinking_tokens": budget}
        yield Command(line, "evaluate/s1", f"budget-{budget}", "BF", S1, decode=most)
    yield Command(31, "evaluate/s1", "auto", "BF", S1)
    for line, ends in zip(range(32, 36), (1, 2, 4, 6), strict=True):
        yield Command(line, "evaluate/s1", f"ignore-{ends}", "BF", S1, decode={"ignore_ends": ends})

    for line, name, strings in (
        (38, "nothing", ()),
        (39, "hmm", ("Hmm",)),
        (40, "alternatively", ("Alternatively",)),
    ):
        fields = {"ignore_ends": 2, "ignore_strings": strings}
        yield Command(line, "evaluate/s1_strings", f"ignore-2-{name}", "other", S1, decode=fields)

    budgets = (3500, 4000, 5000, 6000, 8000, 16000)
    for line, budget in zip(range(43, 49), budgets, strict=True):
        fields = {"max_thinking_tokens": budget, "rejection_tries": 1000, "temperature": 1.0}
        name = f"rejection-{budget}"
        yield Command(line, "evaluate/s1_rejection", name, "RS", S1, ("aime24",), fields)

    for line, tokens in zip(range(51, 55), (2048, 4096, 8192, 16384), strict=True):
        asked = {"prompt_tokens": tokens}
        yield Command(line, "evaluate/s1_tcc", f"tokens-{tokens}", "TCC", TCC, decode=asked)
        forced = asked | {"max_thinking_tokens": tokens}
        name = f"tokens-{tokens}-forced"
        yield Command(line + 6, "evaluate/s1_tcc", name, "TCC+BF", TCC, decode=forced)

    # Its delimiters would end the first of these five where its first step does. The paper's
    # appendix E.1 tells of 123 steps for 16, which the model wrote and ended by itself.
    for line, steps in zip(range(63, 68), (16, 32, 64, 128, 256), strict=True):
        asked = {"prompt_steps": steps}
        free = asked | {"thinking": False}
        yield Command(line, "evaluate/s1_scc", f"steps-{steps}", "SCC", SCC, decode=free)
        name = f"steps-{steps}-forced"
        yield Command(line + 7, "evaluate/s1_scc", name, "SCC+BF", SCC, decode=asked)

    yield Command(87, "evaluate/s1", "long", "CCC", S1, decode={"prompt_class": "long"})
    yield Command(88, "evaluate/s1", "short", "CCC", S1, decode={"prompt_class": "short"})

    vote = plain | sampled
    yield Command(91, "evaluate/qwen", "majority-64", "majority", QWEN, decode=vote)
    vote = sampled | {"ignore_ends": 2}  # the line loads Qwen, which is a slip
    yield Command(92, "evaluate/s1_majority", "majority-64", "majority", S1, decode=vote)


CATALOGUE = list(commands())
# What the configs ask besides: the rest of table 4, and s1.1's one ignored end of other tasks.
BESIDES = [
    Command(31, "evaluate/s1_strings", "auto", "other", S1),
    Command(33, "evaluate/s1_strings", "ignore-2-wait", "other", S1, decode={"ignore_ends": 2}),
    Command(15, "evaluate/s1_1", "ignore-1", "BF", S1_1, ALL, {"ignore_ends": 1}),
]
OURS = ("max_answer_tokens", "min_thinking_tokens")  # see the comments in configs/evaluate/s1.py
NAMES = sorted({command.config for command in CATALOGUE})


def config_of(name, **overrides):
    texts = {path.replace("__", "."): str(value) for path, value in overrides.items()}
    made = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]()
    return resolve(overridden(made, texts), name)


def asked(config, run, method, model, tasks, decode):
    """One line for each task: what is compared."""
    fields = json.dumps(decode, sort_keys=True)
    return {(config, run, method, model, task, fields) for task in tasks}


def asked_by_commands(found):
    return set().union(
        *(asked(c.config, c.run, c.method, c.model, c.tasks, c.decode) for c in found)
    )


def changed(decode):
    """The fields that differ from the default, but for those of ours."""
    default = dataclasses.asdict(Decode())
    fields = dataclasses.asdict(decode)
    return {n: v for n, v in fields.items() if v != default[n] and n not in OURS}


def asked_by_config(name, cfg):
    return set().union(
        *(
            asked(
                name,
                run.name,
                run.method,
                cfg.model.path,
                cfg.evaluate.tasks,
                changed(decode_of(cfg.decode, run)),
            )
            for run in sweep(cfg.evaluate)
        )
    )


def asked_by_configs():
    return set().union(*(asked_by_config(name, config_of(name)) for name in NAMES))


# --- The catalogue ---


def test_the_configs_ask_what_the_commands_ask_and_nothing_else():
    there, wanted = asked_by_configs(), asked_by_commands(CATALOGUE + BESIDES)
    assert sorted(wanted - there) == []
    assert sorted(there - wanted) == []


def test_every_line_of_the_commands_is_there_once():
    lines = [command.line for command in CATALOGUE]
    assert len(lines) == len(set(lines)) == 47
    assert set(lines) == {
        *(11, 15, 17, 19, 22),
        *range(25, 36),
        *range(38, 41),
        *range(43, 49),
        *range(51, 55),
        *range(57, 61),
        *range(63, 68),
        *range(70, 75),
        *(87, 88, 91, 92),
    }
    assert {command.method for command in CATALOGUE} == set(METHODS)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("evaluate/s1", {"evaluate__budgets": "500,1000,2000,4000,8000"}),  # one is missing
        ("evaluate/s1", {"evaluate__ignore_ends": "1,2,4,6,8"}),  # one too many
        ("evaluate/s1", {"decode__temperature": 1.0}),
        ("evaluate/s1_1", {"evaluate__tasks": "aime24,math500,gpqa_diamond"}),
        ("evaluate/s1_rejection", {"decode__rejection_tries": 10}),
        ("evaluate/s1_tcc", {"model__path": S1}),
        ("evaluate/qwen", {"decode__thinking": True}),
    ],
)
def test_a_difference_is_found(name, overrides):
    there = asked_by_config(name, config_of(name, **overrides))
    wanted = {line for line in asked_by_commands(CATALOGUE + BESIDES) if line[0] == name}
    assert there != wanted
    assert asked_by_config(name, config_of(name)) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_all_are_computed_and_asked_alike(name):
    cfg = config_of(name)
    assert cfg.model.compute_dtype == "float32"
    assert (cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.context, cfg.mesh.tensor) == (1, 1, 1, 8)
    assert cfg.model.chat == ("steps" if name == "evaluate/s1_scc" else "s1")
    assert [task.name for task in tasks_of(cfg.evaluate)] == list(cfg.evaluate.tasks)
    # All but these is what Evaluate has by itself.
    own = {"tasks": (), "budgets": (), "ignore_ends": (), "runs": ()}
    assert replace(cfg.evaluate, **own) == Evaluate(base="none")


def test_there_is_no_other_config_of_evaluation():
    assert (
        sorted(
            f"evaluate/{path.stem}"
            for path in ROOT.glob("configs/evaluate/*")
            if path.suffix == ".py"
        )
        == NAMES
    )


# --- What fits, and what is generated once ---


@pytest.fixture(scope="module")
def qwen(qwen_tokenizer):
    return ChatTokenizer.load(qwen_tokenizer)


def check_run(qwen, cfg, run, prompt_tokens=LONGEST_PROMPT):
    """The budget that a run leaves a prompt. UserError if it does not fit."""
    decode = decode_of(cfg.decode, run)
    of = delimiters(qwen, CHATS[cfg.model.chat], decode)
    budgets = auto_budget(CONTEXT, [prompt_tokens], of, decode)
    if not decode.thinking:  # which answers as long as the context leaves
        decode = replace(decode, max_answer_tokens=CONTEXT - prompt_tokens)
    check_fits(CONTEXT, [prompt_tokens], budgets, of, decode)
    return budgets[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_run_fits_the_context(qwen, name):
    cfg = config_of(name)
    for run in sweep(cfg.evaluate):
        budget = check_run(qwen, cfg, run)
        decode = decode_of(cfg.decode, run)
        if decode.thinking and decode.max_thinking_tokens is None:
            assert budget == CONTEXT - LONGEST_PROMPT - 4096 - 7  # what closes it has 7 tokens


def test_s1s_own_limit_of_the_answer_would_not_fit(qwen):
    cfg = config_of("evaluate/s1", decode__max_answer_tokens=CONTEXT)
    runs = {run.name: run for run in sweep(cfg.evaluate)}
    for name in ("budget-500", "auto", "ignore-6"):
        with pytest.raises(UserError, match="more than the model's context of 32768"):
            check_run(qwen, cfg, runs[name])
    check_run(qwen, cfg, runs["plain"])


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n not in ("evaluate/s1_rejection", "evaluate/qwen")]
)
def test_the_evaluators_accounting_fits_with_its_own_limit(qwen, name):
    ours, cfg = (
        config_of(name),
        config_of(name, decode__parity="evaluator", decode__max_answer_tokens=CONTEXT),
    )
    for run in sweep(cfg.evaluate):
        budget, decode = check_run(qwen, cfg, run), decode_of(cfg.decode, run)
        if decode.thinking and decode.max_thinking_tokens is None:
            start, force = (1, 6) if name == "evaluate/s1_scc" else (2, 6)
            # s1's formula, whose prompt is without what opens the thinking.
            assert budget == CONTEXT - (LONGEST_PROMPT - start) - start - force - 100
            assert budget > check_run(qwen, ours, run)


def test_rejection_and_the_evaluators_accounting_do_not_go_together():
    with pytest.raises(UserError, match="is of budget forcing"):
        config_of("evaluate/s1_rejection", decode__parity="evaluator")


def test_no_question_that_could_be_looked_at_is_longer(qwen, shared):
    cfg = config_of("evaluate/s1")
    [long] = [run for run in cfg.evaluate.runs if run.name == "long"]
    for name in ("aime24", "math500"):
        lines = (shared / "data" / f"{name}.jsonl").read_text().splitlines()
        questions = [json.loads(line)["problem"] for line in lines]
        longest = max(
            len(prompt_ids(qwen, CHATS["s1"], question, decode_of(cfg.decode, long)))
            for question in questions
        )
        assert longest < LONGEST_PROMPT, name


def rules_of_runs(qwen, cfg, method):
    """What the engine is told of each run of a method."""
    found = {}
    for run in sweep(cfg.evaluate):
        if run.method == method:
            decode = decode_of(cfg.decode, run)
            of = delimiters(qwen, CHATS[cfg.model.chat], decode)
            [budget] = auto_budget(CONTEXT, [LONGEST_PROMPT], of, decode)
            room = room_tokens(CONTEXT, LONGEST_PROMPT, of, decode)
            found[run.name] = rules_of(decode, of, budget, room)
    return found


def served(rules):
    """The runs that the generation with the most thinking serves, itself included."""
    head = max(rules.values(), key=lambda r: (r.max_thinking_tokens, r.ignore_ends))
    request = Request("0", (1,), head)
    return {
        name
        for name, own in rules.items()
        if rules_of_branch(request, Branch(own.max_thinking_tokens, own.ignore_ends)) == own
    }


@pytest.mark.parametrize(("name", "runs"), [("evaluate/s1", 11), ("evaluate/s1_1", 3)])
def test_one_generation_serves_the_whole_curve(qwen, name, runs):
    rules = rules_of_runs(qwen, config_of(name), "BF")
    assert served(rules) == set(rules) and len(rules) == runs
    # The control: without the common minimum only the runs that ignore ends go together.
    apart = rules_of_runs(qwen, config_of(name, decode__min_thinking_tokens=0), "BF")
    assert served(apart) == {run for run in rules if run.startswith("ignore-")}


# --- docs/evaluation.md ---

PAGE = (ROOT / "docs/evaluation.md").read_text()


def rows_of(text, head):
    """The cells of the table whose first row begins so."""
    lines = text.partition(f"| {head} |")[2].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def told(task):
    source = "the embedded one" if task.path == "mini" else f"`{task.path}`"
    return [f"`{task.name}`", source, f"{task.questions:,}", f"`{task.grader}`"]


def test_the_page_has_the_tasks_as_they_are():
    assert rows_of(PAGE, "task") == [told(task) for task in TASKS.values()]
    changed = PAGE.replace("| 198 |", "| 448 |")  # the control
    assert rows_of(changed, "task") != [told(task) for task in TASKS.values()]


def test_the_page_has_the_methods_the_graders_and_the_catalogue():
    assert [name for name in (*METHODS, *GRADERS) if f"`{name}`" not in PAGE] == []
    asked = PAGE.partition("## Base and tuned")[2].partition("##")[0]
    assert [name for name in BASES if not re.search(rf'[`"]{name}[`"]', asked)] == []
    named = re.findall(
        r"`configs/(\w+/\w+)\.py`", " ".join(row[0] for row in rows_of(PAGE, "config"))
    )
    assert sorted(named) == NAMES


def test_the_page_has_the_files_that_are_left():
    promised = ast.get_docstring(ast.parse((ROOT / "s1jax/evaluate.py").read_text()))
    files = set(re.findall(r"\b\w+\.(?:jsonl?|md|png|html)\b", promised))
    told_of = {name for row in rows_of(PAGE, "file") for name in re.findall(r"`(\S+)`", row[0])}
    assert len(files) >= 9
    assert files <= told_of


def test_the_pages_own_task_is_a_config(tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "exam.py"
    path.write_text(code)
    cfg = resolve(runpy.run_path(str(path))["get_config"](), "exam.py")
    assert [task.name for task in tasks_of(cfg.evaluate)] == ["exam", "aime24"]
    assert [run.name for run in sweep(cfg.evaluate)] == [
        *("budget-1000", "budget-4000", "budget-16000"),
        "ignore-2",
    ]
    # As promised: what the task is takes ten lines at the most.
    assert len([line for line in code.partition("def ")[2].splitlines() if line]) <= 10
    path.write_text(code.replace('grader="exact"', 'grader="exactly"'))
    with pytest.raises(UserError, match="exactly"):
        resolve(runpy.run_path(str(path))["get_config"](), "exam.py")
