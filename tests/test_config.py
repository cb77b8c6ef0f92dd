"""What is wrong with a config is said all at once, before anything runs."""

import dataclasses
import json
import math
import re
import subprocess
import sys

import pytest
from fakes_train import make_config
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from s1jax import config, training_config
from s1jax.chat import CHATS
from s1jax.data.examples import COLUMNS
from s1jax.models.attention import ATTENTION
from s1jax.models.decoder import REMAT
from s1jax.models.weights import EXPORT_DTYPES
from s1jax.prompts import conditioned
from s1jax.types import UserError


def refused(fields=None, texts=None):
    """What resolve() says of a default with these fields, by dotted names."""
    values = with_values(config.overridden(config.default(), texts or {}), fields or {})
    with pytest.raises(UserError) as error:
        config.resolve(values, "x.py")
    return str(error.value)


def with_values(values, fields):
    """A ConfigDict with these values, whatever they are, as a config file could make one."""
    values = values.to_dict()
    for path, value in fields.items():
        *sections, last = path.split(".")
        section = values
        for name in sections:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    return ConfigDict(values)


def every_field():
    """The dotted names of all fields with their types."""
    for section in dataclasses.fields(config.Config):
        if dataclasses.is_dataclass(section.type):
            for field in dataclasses.fields(section.type):
                yield f"{section.name}.{field.name}", field
        else:
            yield section.name, section


# The default.


def test_the_default_is_s1s_recipe():
    cfg = config.resolve(config.default())
    assert cfg == config.Config()
    assert (cfg.train.epochs, cfg.data.batch_size, cfg.data.row_length) == (5, 16, 32768)
    assert (cfg.model.param_dtype, cfg.model.compute_dtype) == ("float32", "bfloat16")
    assert (cfg.train.weighting, cfg.data.pack) == ("example", False)
    opt = cfg.optimizer
    assert (opt.learning_rate, opt.warmup_share, opt.clip_norm) == (1e-5, 0.05, 1.0)
    assert (opt.b1, opt.b2, opt.eps, opt.weight_decay) == (0.9, 0.95, 1e-8, 1e-4)
    assert math.ceil(opt.warmup_share * 315) == 16
    dec = cfg.decode
    assert (dec.thinking, dec.max_thinking_tokens, dec.min_thinking_tokens) == (True, None, 0)
    assert (dec.ignore_ends, dec.ignore_strings) == (0, ("Wait",))
    assert (dec.force_string, dec.parity) == ("Final Answer:", "none")
    assert (dec.temperature, dec.top_k, dec.top_p, dec.min_p) == (0.0, 0, 1.0, 0.0)


def test_the_json_in_the_workdir_is_the_whole_config():
    cfg = make_config({"data.path": "x.jsonl", "mesh.fsdp": 16})
    # JSON has lists where the dataclasses have tuples.
    assert json.loads(config.to_json(cfg)) == json.loads(json.dumps(dataclasses.asdict(cfg)))
    assert json.loads(config.to_json(cfg))["mesh"]["fsdp"] == 16
    assert config.resolve(ConfigDict(json.loads(config.to_json(cfg)))) == cfg


def test_the_choices_are_those_that_are_implemented():
    assert set(training_config.ATTENTION) - {"auto"} == set(ATTENTION)
    assert set(training_config.REMAT) == set(REMAT)
    assert set(training_config.CHATS) == set(CHATS)
    assert set(training_config.DTYPES) == set(EXPORT_DTYPES)
    assert set(training_config.TRACES) - {"auto"} <= set(COLUMNS)
    asked = {conditioned("?", config.Decode(prompt_class=name)) for name in config.PROMPT_CLASSES}
    assert len(asked - {"?"}) == 2


def test_every_field_is_read_somewhere(request):
    """A field that nothing reads promises the user what does not happen."""
    sources = [
        path.read_text()
        for path in (request.config.rootpath / "s1jax").rglob("*.py")
        if path.name not in ("config.py", "checkpoint.py")
    ]
    unread = [
        path
        for path, field in every_field()
        if not any(re.search(rf"\.{field.name}\b", text) for text in sources)
        and not path.startswith(("mesh.", "decode.thinking_"))  # read by name, all of them
    ]
    assert set(unread) <= {"decode.thinking"}
    assert not any(re.search(r"\.log_every_fortnight\b", text) for text in sources)


# All problems together.


def test_every_problem_is_reported_at_once():
    lines = refused(
        {"model.attention": "xal", "seed": -1, "optimizer.b2": 1.0, "mesh.fsdp": 0},
        {"data.bacth_size": "3", "train.epochs": "many"},
    ).splitlines()
    assert lines == [
        "x.py: 2 problems",
        '  data.bacth_size is not a field: did you mean "batch_size"?',
        "  train.epochs='many' must be int, not str",
    ]
    lines = refused(
        {"model.attention": "xal", "seed": -1, "optimizer.b2": 1.0, "mesh.fsdp": 0}
    ).splitlines()
    assert lines == [
        "x.py: 4 problems",
        "  seed=-1 must be at least 0",
        '  model.attention="xal" is unknown: did you mean "xla"?',
        "  optimizer.b2=1.0 must be at least 0 and below 1",
        "  mesh.fsdp=0 must be at least 1, or -1 for all that are left",
    ]
    assert refused({"seed": -1}).startswith("x.py: 1 problem\n")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.chat", "qwen", "the choices are s1, llama3, think, r1, steps, text"),
        ("model.param_dtype", "bfloat16", 'did you mean "float32"?'),
        ("model.compute_dtype", "bfloat", 'did you mean "bfloat16"?'),
        ("train.remat", "Full", 'did you mean "full"?'),
        ("train.weighting", "tokens", 'did you mean "token"?'),
        ("data.traces", "deepseeek", 'did you mean "deepseek"?'),
        ("export.dtype", "fp32", "the choices are float32, bfloat16"),
        ("data.batch_size", 0, "must be at least 1"),
        ("data.row_length", 1, "must be at least 2"),
        ("train.steps", 0, "must be at least 1"),
        ("optimizer.learning_rate", 0.0, "must be above 0"),
        ("optimizer.learning_rate", math.nan, "must be above 0"),
        ("optimizer.clip_norm", math.inf, "must be above 0"),
        ("optimizer.weight_decay", -0.1, "must be at least 0"),
        ("optimizer.warmup_share", 1.5, "must be between 0 and 1"),
        ("data.max_truncated_share", math.nan, "must be between 0 and 1"),
        ("export.shard_bytes", 5, "must be at least 1000000"),
        ("data.control", "token", 'did you mean "tokens"?'),
        ("decode.parity", "evaluater", 'did you mean "evaluator"?'),
        ("decode.order", "long", 'did you mean "longest"?'),
        ("decode.prompt_class", "shrt", 'did you mean "short"?'),
        (
            "decode.max_thinking_tokens",
            0,
            "=0 must be at least 1 (or None, all that the context leaves)",
        ),
        ("decode.min_thinking_tokens", -1, "must be at least 0"),
        ("decode.ignore_ends", -1, "must be at least 0"),
        ("decode.ignore_ends", 2**31, "must be below 2**31"),
        ("decode.max_answer_tokens", 0, "must be at least 1"),
        ("decode.samples", 0, "must be at least 1"),
        ("decode.batch_size", 0, "must be at least 1"),
        ("decode.segment_steps", 0, "must be at least 1"),
        ("decode.rejection_tries", -1, "must be at least 0"),
        ("decode.prompt_tokens", 0, "must be at least 1 (or None)"),
        ("decode.prompt_steps", -4, "must be at least 1 (or None)"),
        ("decode.top_k", -1, "must be at least 0, 0 for off"),
        ("decode.thinking_top_k", -1, "must be at least 0, 0 for off"),
        ("decode.temperature", -0.5, "must be at least 0"),
        ("decode.temperature", math.inf, "must be at least 0"),
        ("decode.thinking_temperature", math.nan, "must be at least 0"),
        ("decode.top_p", 0.0, "must be above 0 and at most 1"),
        ("decode.thinking_top_p", 1.01, "must be above 0 and at most 1"),
        ("decode.min_p", 1.0, "must be at least 0 and below 1"),
        ("decode.thinking_min_p", -0.1, "must be at least 0 and below 1"),
        ("decode.ignore_strings", ("Wait", ""), "holds an empty string; () writes nothing at all"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_would_be_right(path, value, words):
    line = refused({path: value}).splitlines()[1]
    assert line.startswith(f"  {path}=")
    assert line.endswith(words)


@pytest.mark.parametrize(
    ("path", "value", "want"),
    [
        ("data.batch_size", True, "int"),
        ("data.batch_size", 16.0, "int"),
        ("data.batch_size", None, "int"),
        ("data.path", 7, "str"),
        ("data.pack", 1, "bool"),
        ("optimizer.learning_rate", "1e-5", "float"),
        ("optimizer.learning_rate", False, "float"),
        ("train.steps", "10", "int | None"),
        ("decode.thinking_top_p", "1", "float | None"),
        ("decode.ignore_strings", "Wait", "a tuple of strings"),
        ("decode.ignore_strings", {"a": 1}, "a tuple of strings"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(path, value, want):
    line = refused({path: value}).splitlines()[1]
    assert line == f"  {path}={value!r} must be {want}, not {type(value).__name__}"


def test_whole_numbers_serve_as_floats_but_not_beyond_them():
    assert make_config({"optimizer.clip_norm": 2.0}).optimizer.clip_norm == 2.0
    values = config.overridden(config.default(), {"optimizer.clip_norm": "2"})
    assert type(config.resolve(values).optimizer.clip_norm) is float
    assert "optimizer.clip_norm" in refused(texts={"optimizer.clip_norm": "1" + "0" * 400})


# Decoding.


@pytest.mark.parametrize("value", [("Wait", 1), ["Wait", 1]])
def test_what_is_no_text_among_texts_is_named(value):
    line = refused({"decode.ignore_strings": value}).splitlines()[1]
    assert line == f"  decode.ignore_strings={value!r} must hold strings only, not int"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"decode.max_thinking_tokens": 8, "decode.min_thinking_tokens": 9},
            "decode.min_thinking_tokens=9 must be at most decode.max_thinking_tokens=8",
        ),
        (
            {"decode.prompt_tokens": 512, "decode.prompt_class": "long"},
            "decode.prompt_tokens and decode.prompt_class: only one of them may be set",
        ),
        (
            {"decode.rejection_tries": 4},
            "decode.rejection_tries=4: at temperature 0 of the thinking all tries are the same",
        ),
        (
            {
                "decode.rejection_tries": 4,
                "decode.temperature": 1.0,
                "decode.thinking_temperature": 0.0,
            },
            "at temperature 0 of the thinking",
        ),
        (
            {
                "decode.rejection_tries": 4,
                "decode.temperature": 1.0,
                "decode.parity": "readme",
            },
            'decode.rejection_tries=4: decode.parity="readme" is of budget forcing',
        ),
        ({"data.control": "steps"}, 'data.control="steps" and model.chat="s1": steps are'),
        ({"model.chat": "steps"}, 'data.control="none" and model.chat="steps": steps are'),
    ],
)
def test_fields_of_decoding_that_contradict_each_other(fields, words):
    message = refused(fields)
    assert message.startswith("x.py: 1 problem\n")
    assert words in message


def test_what_does_not_contradict_is_taken():
    """The controls of the test above."""
    for fields in (
        {"decode.max_thinking_tokens": 9, "decode.min_thinking_tokens": 9},
        {"decode.min_thinking_tokens": 9},
        {"decode.rejection_tries": 4, "decode.temperature": 1.0},
        {"decode.rejection_tries": 4, "decode.thinking_temperature": 1.0},
        {"decode.parity": "readme"},
        {"data.control": "steps", "model.chat": "steps"},
        {"data.control": "tokens"},
        {"decode.ignore_strings": ()},
    ):
        cfg = config.resolve(with_values(config.default(), fields))
        for path, value in fields.items():
            section, name = path.split(".")
            assert getattr(getattr(cfg, section), name) == value


def test_texts_are_tuples_wherever_they_come_from():
    values = config.default()
    assert values.decode.ignore_strings == ("Wait",)
    values.decode.ignore_strings = ["Hmm", "Wait"]
    values.decode.thinking_temperature = 1
    cfg = config.resolve(values)
    assert cfg.decode.ignore_strings == ("Hmm", "Wait")
    assert type(cfg.decode.thinking_temperature) is float
    assert hash(cfg.decode) != hash(config.Decode())
    again = config.resolve(ConfigDict(json.loads(config.to_json(cfg))))
    assert again == cfg
    assert type(again.decode.ignore_strings) is tuple


# Mesh and batch.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"mesh.fsdp": 16, "data.batch_size": 20},
            "data.batch_size=20 must divide by mesh.data x mesh.fsdp = 16: try 16 or 32",
        ),
        (
            {"mesh.fsdp": 16, "mesh.data": 2},
            "data.batch_size=16 must divide by mesh.data x mesh.fsdp = 32: try 32",
        ),
        (
            {"mesh.fsdp": 4, "train.accumulation_steps": 3},
            "mesh.data x mesh.fsdp x train.accumulation_steps = 12: try 12 or 24",
        ),
        (
            {"mesh.fsdp": 2, "mesh.context": 5},
            "data.row_length=32768 must divide by mesh.context=5",
        ),
        ({"mesh.fsdp": -1, "mesh.tensor": -1}, "mesh: only one axis may be -1"),
        ({"mesh.tensor": -2}, "mesh.tensor=-2 must be at least 1, or -1 for all that are left"),
    ],
)
def test_a_batch_that_does_not_fit_the_mesh_is_refused_with_what_would(fields, words):
    assert words in refused(fields)


def test_packing_fills_the_rows_that_the_mesh_needs():
    assert make_config({"mesh.fsdp": 16, "data.batch_size": 20, "data.pack": True})


# Overrides.


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("data.batch_size", "8", 8),
        ("data.pack", "true", True),
        ("data.pack", "False", False),
        ("data.path", "7", "7"),
        ("data.path", "", ""),
        ("data.path", "a=b.jsonl", "a=b.jsonl"),
        ("model.revision", "1e10", "1e10"),
        ("model.revision", "None", None),
        ("train.steps", "10", 10),
        ("train.steps", "None", None),
        ("optimizer.learning_rate", "2e-5", 2e-5),
        ("mesh.fsdp", "-1", -1),
        ("seed", "7", 7),
        ("decode.ignore_strings", "Wait,Hmm", ("Wait", "Hmm")),
        ("decode.ignore_strings", "Wait", ("Wait",)),
        ("decode.ignore_strings", "", ()),
        ("decode.ignore_strings", "()", ()),
        ("decode.ignore_strings", "1,2", ("1", "2")),
        ("decode.ignore_strings", " Wait, no", (" Wait", " no")),
        ("decode.ignore_strings", "('Wait, what','Hmm')", ("Wait, what", "Hmm")),
        ("decode.ignore_strings", "'Wait, what'", ("Wait, what",)),
        ("decode.ignore_strings", '["a"]', ("a",)),
        ("decode.ignore_strings", "(so", ("(so",)),
        ("decode.thinking_temperature", "1", 1.0),
        ("decode.thinking_temperature", "None", None),
        ("decode.prompt_class", "long", "long"),
        ("decode.force_string", "So: 1, 2", "So: 1, 2"),
    ],
)
def test_an_override_is_read_by_the_type_of_its_field(path, text, value):
    cfg = config.resolve(config.overridden(config.default(), {path: text}))
    for name in path.split("."):
        cfg = getattr(cfg, name)
    assert cfg == value
    assert type(cfg) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("data.bacth_size", "3", 'data.bacth_size is not a field: did you mean "batch_size"?'),
        ("dta.batch_size", "3", 'dta is not a field: did you mean "data"?'),
        ("zzz", "3", "zzz is not a field: the choices are seed, model, data"),
        ("data", "3", "data=3 must be a section of fields"),
        ("model.path.x", "3", "model.path={'x': 3} must be str, not dict"),
        ("data.batch_size", "3.5", "data.batch_size=3.5 must be int, not float"),
        ("data.batch_size", "three", "data.batch_size='three' must be int, not str"),
        ("data.batch_size", "[1", "data.batch_size='[1' must be int, not str"),
        ("data.pack", "maybe", "data.pack='maybe' must be bool, not str"),
        ("decode.ignore_strings", "('a',2)", "('a', 2) must hold strings only, not int"),
        ("decode.ignore_strings", "Wait,", "('Wait', '') holds an empty string"),
        ("decode.ignore_string", "x", 'is not a field: did you mean "ignore_strings"?'),
        ("", "3", " is not a field"),
        ("data.", "3", "data. is not a field"),
    ],
)
def test_a_wrong_override_is_named_with_the_nearest_field(path, text, words):
    assert words in refused(texts={path: text})


# Anything at all.

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 64),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["xla", "full", "token", "float32", "s1", "auto", "-1", "1e999", "0x10"]),
    st.lists(st.integers(), max_size=2),
    st.lists(st.text(max_size=3), max_size=2).map(tuple),
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(), max_size=2),
)
PATHS = st.one_of(
    st.sampled_from([path for path, _ in every_field()]),
    st.sampled_from(["data", "mesh", "model", "data.bacth_size", "x", "data.path.y"]),
    st.text(alphabet="abcdefgh_.", min_size=1, max_size=12),
)


def resolves_or_refuses(values):
    try:
        cfg = config.resolve(values, "x.py")
    except UserError as error:
        count, *problems = str(error).splitlines()
        assert re.fullmatch(r"x\.py: \d+ problems?", count)
        assert len(problems) >= 1
        return False
    assert isinstance(cfg, config.Config)
    # What is accepted survives the way through JSON and back.
    again = ConfigDict(json.loads(config.to_json(cfg)))
    assert config.resolve(again) == cfg
    return True


@settings(max_examples=1000, deadline=None)
@given(st.dictionaries(PATHS, VALUES.map(str), max_size=4))
def test_any_overrides_resolve_or_are_refused(texts):
    resolves_or_refuses(config.overridden(config.default(), texts))


@settings(max_examples=1000, deadline=None)
@given(st.dictionaries(PATHS, VALUES, max_size=4))
def test_any_values_resolve_or_are_refused(fields):
    resolves_or_refuses(with_values(config.default(), fields))


def test_the_fuzz_reaches_both_ends():
    assert resolves_or_refuses(config.default())
    assert not resolves_or_refuses(config.overridden(config.default(), {"seed": "x"}))


def test_the_config_needs_no_jax():
    program = (
        "import sys, s1jax.config as c; c.resolve(c.default());"
        " assert not {'jax', 'flax', 'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
