"""Who imports whom: what is to the left never imports what is to the right."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "s1jax"

ROOMS = (
    {"types"},
    {
        "config",
        "curation_config",
        "evaluation_config",
        "training_config",
        "hardware",
        "sections",
        "cli",
        "chat",
        "tokenizer",
        "prompts",
        "lines",
        "generations",
        "mesh",
        "distributed",
        "xla_flags",
        "compile_cache",
        "noise",
        "digest",
        "terminal",
        "progress",
    },
    {"models", "checkpoint", "metrics", "data", "training", "card"},
    {"decoding"},
    {"planning"},
    {"evaluation"},
    {"asking", "stream"},
    {"mini"},
    {"serving", "gen_kwargs", "harness_model"},
    {"local"},
    {"curation"},
    {"attempts"},
    {"sifting", "outcomes", "evaluating"},
)
VERBS = {
    *("distill", "curate", "labels", "plan", "train", "generate", "evaluate", "convert"),
    *("serve", "harness", "reproduce"),
}
ABOVE = {"reproducing", "reproduce"}  # the room above the verbs, which runs them
WITHOUT_JAX = (
    "types",
    "config",
    "curation_config",
    "evaluation_config",
    "training_config",
    "hardware",
    "sections",
    "cli",
    "chat",
    "tokenizer",
    "prompts",
    "lines",
    "generations",
    "terminal",
    "progress",
    "data",
    "evaluation",
    "mini",
    "curation",
    "attempts",
    "sifting",
    "outcomes",
    "curate",
    "distill",
    "evaluate",
    "reproducing",
    "reproduce",
)
INSIDE_FUNCTIONS = {
    "aiohttp",
    "datasets",
    "google",
    "huggingface_hub",
    "latex2sympy2_extended",
    "lm_eval",
    "math_verify",
    "matplotlib",
    "pyarrow",
    "safetensors",
    "scipy",
    "sympy",
    "tensorboardX",
    "tokenizers",
    "transformers",
}
ONLY_IN_TESTS = {"torch", "gguf", "datasketch", "beartype", "hypothesis", "openai", "pytest"}


def modules():
    """Every module of the package by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(tree, inside=False):
    """(dotted name, line, inside a function) of everything that a module imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno, inside
        else:
            into_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(node, inside or into_function)


def room(name):
    """The top module of a dotted name in the package: `data` of `s1jax.data.labels.tokenize`."""
    return name.split(".")[1] if "." in name else ""


def rank(top):
    if top in ABOVE:
        return len(ROOMS) + 1
    return next((i for i, tops in enumerate(ROOMS) if top in tops), len(ROOMS))


def problems(name, source):
    """What is wrong with the imports of one module."""
    for imported, line, inside in imports(ast.parse(source)):
        where, library = f"{name}:{line}", imported.split(".")[0]
        if library == "s1jax":
            ours, theirs = room(name), room(imported)
            if theirs in VERBS - ABOVE and ours != theirs and ours not in ABOVE:
                yield f"{where}: imports the verb {theirs}"
            elif theirs and ours != theirs and rank(theirs) > rank(ours):
                yield f"{where}: {ours} imports {theirs}, which is to its right"
        if library in ONLY_IN_TESTS:
            yield f"{where}: {library} is for tests"
        # Its class is made of lm_eval's; the verb imports that module when it has the library.
        harness = (library, room(name)) == ("lm_eval", "harness_model")
        if library in INSIDE_FUNCTIONS and not inside and not harness:
            yield f"{where}: {library} is imported inside the function that needs it"
        if library == "safetensors" and room(name) != "mini":
            yield f"{where}: safetensors is read and written by models.safetensors"


def test_imports_go_from_right_to_left():
    found = [p for name, path in modules().items() for p in problems(name, path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("s1jax.config", "from s1jax.mesh import AXES", None),
        ("s1jax.config", "from s1jax.models import hf", "config imports models"),
        ("s1jax.data.labels", "import s1jax.mini", "data imports mini"),
        ("s1jax.models.hf", "def f():\n    from s1jax import train", "imports the verb train"),
        ("s1jax.labels", "from s1jax.train import main", "imports the verb train"),
        ("s1jax.reproducing.stages", "from s1jax.train import train", None),
        ("s1jax.train", "from s1jax.reproducing import plan", "to its right"),
        ("s1jax.outcomes", "import s1jax.reproduce", "to its right"),
        ("s1jax.chat", "import transformers", "inside the function"),
        ("s1jax.chat", "def f():\n    import transformers.utils", None),
        ("s1jax.chat", "if True:\n    from google.genai import Client", "inside the function"),
        ("s1jax.training.step", "def f():\n    import torch", "torch is for tests"),
        ("s1jax.card", "def f():\n    from safetensors import safe_open", "models.safetensors"),
    ],
)
def test_the_check_sees_what_it_should(name, source, words):
    found = list(problems(name, source))
    assert (found == []) if words is None else (words in found[0])


def test_every_module_has_its_place():
    tops = {room(name) for name in modules()} - {""}
    assert tops == set.union(*ROOMS) | VERBS | ABOVE


def test_verbs_are_what_runs():
    """Each has a main(argv) that the command line reaches through cli.run."""
    for verb in VERBS:
        source = (PACKAGE / f"{verb}.py").read_text()
        assert source.endswith('\n\nif __name__ == "__main__":\n    cli.run(main)\n')
        assert f"python -m s1jax.{verb} " in ast.get_docstring(ast.parse(source))


def loaded_by(*names):
    """The libraries that a fresh interpreter has loaded after importing these modules."""
    program = f"import sys, {', '.join(names)}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_what_runs_on_a_laptop_loads_no_jax():
    names = [n for n in modules() if room(n) in WITHOUT_JAX] + ["s1jax"]
    loaded = loaded_by(*names)
    assert {"s1jax", "numpy"} <= loaded
    heavy = {"jax", "jaxlib", "flax", "optax", "orbax"} | INSIDE_FUNCTIONS | ONLY_IN_TESTS
    assert loaded & heavy == set()


def test_no_verb_loads_what_it_may_not_need():
    verbs = VERBS - {"harness"}  # to import that one is to register the model with lm_eval
    loaded = loaded_by(*(f"s1jax.{verb}" for verb in sorted(verbs)))
    assert "jax" in loaded
    assert (
        loaded & (ONLY_IN_TESTS | {"datasets", "lm_eval", "matplotlib", "pyarrow", "transformers"})
        == set()
    )


def test_data_is_never_code():
    """No eval, exec or pickle of what a user downloads, anywhere."""
    calls = {"eval", "exec", "compile", "__import__"}
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in calls, f"{name}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert getattr(node.value, "value", True) is False, f"{name}:{node.value.lineno}"
        libraries = {n.split(".")[0] for n, *_ in imports(ast.parse(path.read_text()))}
        assert not libraries & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, name


def test_files_and_functions_stay_readable():
    """Longer is a sign to look for the second idea in it."""
    for name, path in modules().items():
        source = path.read_text()
        assert len(source.splitlines()) <= 480, name
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 80, f"{name}.{node.name} has {length} lines"
