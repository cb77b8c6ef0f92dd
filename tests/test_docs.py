"""What README.md, docs/ and the docstrings of configs and verbs name is there."""

import ast
import contextlib
import functools
import importlib
import io
import re
import runpy
import shlex
from pathlib import Path

import pytest

from s1jax import config
from s1jax.config import Config, overridden
from s1jax.data.sources import table
from s1jax.sections import read_section
from s1jax.types import UserError

ROOT = Path(__file__).resolve().parent.parent
VERBS = (
    *("distill", "curate", "labels", "plan", "train", "generate", "evaluate", "convert"),
    *("serve", "harness", "reproduce"),
)
# Flags that are only there or not.
SWITCHES = ("--grade", "--report", "--apply_chat_template", "--search", "--reckon", "--rehearse")
SECTIONS = "|".join(sorted(set(config.default()) - {"seed"}))


def texts():
    """The documents by their paths: Markdown whole, of Python the docstring."""
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    modules = [*sorted(ROOT.glob("configs/**/*.py")), *(ROOT / f"s1jax/{v}.py" for v in VERBS)]
    found = {page: page.read_text() for page in pages}
    found |= {path: ast.get_docstring(ast.parse(path.read_text())) for path in modules}
    return {str(path.relative_to(ROOT)): text for path, text in found.items()}


TEXTS = texts()


# --- Commands ---


def commands(text):
    """The words of each command `python -m s1jax.VERB`; lines that a backslash ends are joined."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found = [line.partition("python -m s1jax.") for line in lines]
    written = [rest for head, verb, rest in found if verb and not head.strip(" ")]
    return [shlex.split(re.sub(r"[\[\]]", "", rest), comments=True) for rest in written]


@functools.cache
def flags_of(verb):
    """The names of a verb's flags, as its --help has them."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        importlib.import_module(f"s1jax.{verb}").main([verb, "--help"])
    return set(re.findall(r"^\s+(?:-\w,)?--(?:\[no\])?(\w+):", shown.getvalue(), re.MULTILINE))


def wrong_command(words):
    """What is wrong with a command; fields are read into the config that it names."""
    verb, *rest = words
    if verb not in VERBS:
        return [f"{verb} is no verb"]
    if words[:2] == ["harness", "run"]:  # the rest is of lm_eval's own command line
        return []
    problems, overrides, path = [], {}, None
    for word in rest:
        name, equals, value = word.partition("=")
        if word in SWITCHES:
            equals = "="
        if not name.startswith("--") or not equals:
            problems.append(f"{word} is no --name=value")
        elif name.startswith("--config."):
            overrides[name.removeprefix("--config.")] = value
        elif name.removeprefix("--") not in flags_of(verb):
            problems.append(f"{verb} has no {name}")
        elif name == "--config" and value.startswith("configs/"):
            path = ROOT / value
    if path is not None and not path.is_file():
        return [*problems, f"{path} is not there"]
    made = runpy.run_path(str(path))["get_config"]() if path else config.default()
    with_them = overridden(made, overrides)
    if path is None:
        return problems + wrong_fields(with_them)
    try:
        config.resolve(with_them)
    except UserError as error:
        problems.append(str(error))
    return problems


def wrong_fields(made):
    """The fields that are none, or of another type; not whether they go together."""
    problems = []
    read_section(Config, made.to_dict(), "", problems)
    return problems


def wrong_overrides(text):
    """What is wrong with the `--config.a.b=c` of a text, wherever they are."""
    overrides = dict(re.findall(r"--config\.([\w.]+)=('[^']*'|[^\s`,;)]+(?:,\w+)*)", text))
    overrides = {name: value.strip("'").rstrip(".") for name, value in overrides.items()}
    return wrong_fields(overridden(config.default(), overrides))


def wrong_names(text):
    """The names like pool.sources that are fields of no section."""
    found = re.findall(rf"(?<![\w./-])({SECTIONS})((?:\.[a-z_]\w*)+)(?![\w/(])", text)
    names = {section + rest for section, rest in found}
    names = {n for n in names if not re.search(r"\.(py|md|db|json|jsonl|parquet|png|sh)$", n)}
    return sorted(name for name in names if not is_field(name))


def is_field(name):
    section = config.default().to_dict()
    for part in name.split("."):
        if not isinstance(section, dict) or part not in section:
            return False
        section = section[part]
    return True


@pytest.mark.parametrize("name", TEXTS)
def test_commands_and_fields_are_there(name):
    text = TEXTS[name]
    assert [problem for words in commands(text) for problem in wrong_command(words)] == []
    assert wrong_overrides(text) == []
    assert wrong_names(text) == []


def test_there_are_commands_and_fields_to_be_looked_at():
    assert {name for name, text in TEXTS.items() if commands(text)} == set(TEXTS) - {
        *("docs/data.md", "docs/mini.md")
    }
    verbs = [words[0] for text in TEXTS.values() for words in commands(text)]
    assert set(verbs) == set(VERBS) and len(verbs) > 25
    assert len(re.findall(rf"`(?:{SECTIONS})\.\w", TEXTS["docs/data.md"])) > 15
    assert "--config.distill.ask_again=" in TEXTS["README.md"]
    assert flags_of("curate") >= {"config", "set", "workdir", "explain", "help"}
    assert "explain" not in flags_of("train")


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("curat --config=configs/mini.py", "curat is no verb"),
        ("curate --confg=configs/mini.py", "curate has no --confg"),
        ("train --explain=X", "train has no --explain"),
        ("curate --config=configs/none.py", "is not there"),
        ("curate --config=configs/mini.py --config.pool.sorces=x", "pool.sorces is not a field"),
        ("curate \\\n    --config.curate.size=many", "curate.size='many' must be int"),
        ("curate --config=configs/mini.py --config.curate.size=0", "must be at least 1"),
        ("train --config configs/mini.py", "--config is no --name=value"),
    ],
)
def test_a_wrong_command_is_found(command, problem):
    [words] = commands(f"So:\n\n    python -m s1jax.{command}  # a remark")
    found = wrong_command(words)
    assert found and problem in found[0]


def test_wrong_fields_are_found():
    assert wrong_overrides("use `--config.distill.ask_agian=length,error`.") != []
    assert wrong_overrides("use `--config.distill.ask_again=length,error`.") == []
    assert wrong_overrides("or (--config.curate.size=7, --config.seed=x)") != []
    text = "`pool.sorces=(1)`, `curate.first.vai`, pool.sources; pool.py, data.read() and a.pool.x"
    assert wrong_names(text) == ["curate.first.vai", "pool.sorces"]


# --- Files ---


def test_the_table_of_the_sources_is_the_codes():
    assert table() in TEXTS["docs/data.md"]
    assert table().replace("59,029", "59,000") not in TEXTS["docs/data.md"]  # the control


def missing_paths(text, directory):
    """The files that a text names by their directory, or links to, and that are not there."""
    named = re.findall(r"(?<![\w/.-])(?:configs|launch|docs|benchmarks|tests)/\w+\.\w+", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    places = {name: ROOT / name for name in named} | {link: directory / link for link in links}
    return sorted(name for name, place in places.items() if not place.is_file())


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_named_are_there(name):
    assert missing_paths(TEXTS[name], (ROOT / name).parent) == []


def test_a_file_that_is_not_there_is_found():
    text = "See configs/mini.py, configs/none.py, [this](docs/none.md) and [that](http://x/y.md)."
    assert missing_paths(text, ROOT) == ["configs/none.py", "docs/none.md"]


def test_the_configs_of_the_readme_are_those_that_there_are():
    rows = [line for line in TEXTS["README.md"].splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+\.py)`", row.split("|")[1])}
    assert named == {path.name for path in ROOT.glob("configs/*.py")}
    assert any("`evaluate/*.py`" in row for row in rows)  # their table is in docs/evaluation.md


def test_the_goals_of_make_that_the_readme_names_are_there():
    goals = set(re.findall(r"^    make (\w+)", TEXTS["README.md"], re.MULTILINE))
    there = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert goals and goals <= there


def tree(text):
    """The Python files of the README's tree, and its directories."""
    block = text.partition("## The files\n")[2].strip("\n").partition("\n\n")[0]
    files, directories, here = set(), set(), ""
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent == 4:
            named = re.findall(r"(\w+)/", line)
            directories |= set(named)
            here = top = named[0]
            continue
        if indent == 6:
            inner = re.match(r"\s+([\w/]+)/\s", line)
            here = f"{top}/{inner[1]}" if inner else top
            directories |= {here}
        files |= {f"{here}/{name}" for name in re.findall(r"\w+\.py", line)}
    return files, directories


def test_the_tree_of_the_readme_is_that_of_the_package():
    files, directories = tree(TEXTS["README.md"])
    assert sorted(name for name in directories if not (ROOT / name).is_dir()) == []
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("s1jax/**/*.py")}
    modules = {name for name in modules if not name.endswith("__init__.py")}
    assert sorted(files - modules) == []
    # The little world's files are told by what they hold.
    assert sorted(modules - files) == sorted(m for m in modules if m.startswith("s1jax/mini/"))
