"""What is wrong with the sections of pool, teachers and selection is said all at once."""

import runpy
from pathlib import Path

import pytest
from fakes_curate import make_config

from s1jax import config, curation_config, sifting
from s1jax.curation_config import Curate, Pool, Teacher, check_curation
from s1jax.types import UserError

GOOD = {"via": "openai", "model": "m", "base_url": "http://localhost:8000/v1"}
PRICED = {"max_tokens": 100, "input_price": 1.0, "output_price": 2.0}


def problems(section, **values):
    """What is wrong with a config of these values of one section, else the default."""
    sections = {"pool": Pool(), "distill": Teacher(), "curate": Curate()}
    return check_curation(*(sections | {section: sections_with(section, values)}).values())


def sections_with(section, values):
    return {"pool": Pool, "distill": Teacher, "curate": Curate}[section](**values)


def test_the_default_is_s1s():
    cfg = make_config({})
    assert problems("curate") == []
    assert (cfg.curate.size, cfg.curate.uniform_until, cfg.curate.long_tokens) == (1000, 700, 5600)
    assert cfg.curate.first == cfg.curate.second
    assert (cfg.curate.first.temperature, cfg.curate.first.max_tokens) == (0.05, 32768)
    assert (cfg.curate.judge.temperature, cfg.curate.judge.max_tokens) == (0.0, 8192)
    assert cfg.curate.benchmark_sources == ("aime", "gpqa")
    assert (cfg.pool.earlier_sources, cfg.pool.aime_until) == (True, 2021)
    # Nobody is asked unless the config names him.
    sections = (cfg.distill, cfg.curate.first, cfg.curate.judge, cfg.curate.classifier)
    assert {teacher.via for teacher in sections} == {""}


WRONG = [
    ("pool", {"decontaminate": "strickt"}, 'pool.decontaminate="strickt" is unknown: did you mean'),
    ("pool", {"near_duplicates": 0.0}, "pool.near_duplicates=0.0 must be above 0"),
    ("pool", {"near_duplicates": float("nan")}, "pool.near_duplicates=nan must be above 0"),
    ("pool", {"max_question_chars": 0}, "pool.max_question_chars=0 must be at least 1"),
    ("curate", {"selection": "longst"}, 'curate.selection="longst" is unknown: did you mean'),
    ("curate", {"mode": "papr"}, 'curate.mode="papr" is unknown: did you mean "paper"?'),
    ("curate", {"control": "step"}, 'curate.control="step" is unknown: did you mean "steps"?'),
    ("curate", {"difficulty": "x"}, 'curate.difficulty="x" is unknown'),
    ("curate", {"domains": "word"}, 'curate.domains="word" is unknown: did you mean "words"?'),
    ("curate", {"size": 0}, "curate.size=0 must be at least 1"),
    ("curate", {"long_tokens": -1}, "curate.long_tokens=-1 must be at least 0"),
    ("curate", {"uniform_until": -1}, "curate.uniform_until=-1 must be at least 0"),
    ("curate", {"min_difficulty": float("nan")}, "curate.min_difficulty=nan is no number"),
    ("curate", {"difficulty": "grades"}, 'curate.difficulty="grades" needs curate.grades'),
    ("curate", {"judge": Teacher(via="opnai", model="m")}, 'curate.judge.via="opnai" is unknown'),
    ("distill", {"via": "gemini"}, 'distill.model is empty: whom via "gemini"?'),
    ("distill", {**GOOD, "base_url": None}, 'distill.base_url is missing: via="openai" needs'),
    ("distill", {"samples": 0}, "distill.samples=0 must be at least 1"),
    ("distill", {"concurrency": 0}, "distill.concurrency=0 must be at least 1"),
    ("distill", {"tries": 0}, "distill.tries=0 must be at least 1"),
    ("distill", {"asks_again": -1}, "distill.asks_again=-1 must be at least 0"),
    ("distill", {"max_tokens": 0}, "distill.max_tokens=0 must be at least 1 (or None)"),
    ("distill", {"requests_per_minute": 0}, "distill.requests_per_minute=0 must be at least 1"),
    ("distill", {"timeout_s": float("inf")}, "distill.timeout_s=inf must be above 0"),
    ("distill", {"first_wait_s": 0.0}, "distill.first_wait_s=0.0 must be above 0"),
    ("distill", {"temperature": -0.1}, "distill.temperature=-0.1 must be at least 0"),
    ("distill", {"input_price": float("nan")}, "distill.input_price=nan must be at least 0"),
    ("distill", {"max_cost": -1.0, **PRICED}, "distill.max_cost=-1.0 must be at least 0"),
    (
        "distill",
        {**PRICED, "max_cost": 1.0, "max_tokens": None},
        "distill.max_cost=1.0 needs distill.max_tokens: without it",
    ),
    *(
        (
            "distill",
            {**PRICED, "max_cost": 1.0, **free},
            "distill.max_cost=1.0 needs distill.input_price and distill.output_price",
        )
        for free in ({"input_price": 0.0}, {"output_price": 0.0})
    ),
    ("distill", {"thinking_tokens": -2}, "distill.thinking_tokens=-2 must be at least -1"),
    (
        "distill",
        {"ask_again": ("lenght",)},
        'distill.ask_again="lenght" is unknown: did you mean "length"?',
    ),
    # Good traces are not asked for again.
    ("distill", {"ask_again": ("error", "stop")}, 'distill.ask_again="stop" is unknown'),
    *(
        (
            "curate",
            {name: Teacher(samples=2)},
            f"curate.{name}.samples=2 must be 1: only distill asks for more",
        )
        for name in ("first", "second", "judge", "classifier")
    ),
]


@pytest.mark.parametrize(("section", "values", "text"), WRONG, ids=[w[2][:60] for w in WRONG])
def test_a_wrong_value_is_one_line(section, values, text):
    [problem] = problems(section, **values)
    assert problem.startswith(text)
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("pool", {"near_duplicates": 2.0, "sources": ("s1",), "decontaminate": "none"}),
        ("curate", {"difficulty": "grades", "grades": "x.jsonl"}),
        ("curate", {"size": 1, "long_tokens": 0, "uniform_until": 0}),
        ("distill", GOOD),
        ("distill", {"via": "mini"}),
        ("distill", {"max_cost": 0.0, **PRICED}),
        ("distill", {"samples": 4, "ask_again": ("length", "blocked", "incomplete", "error")}),
        *(("distill", {"thinking_tokens": budget}) for budget in (-1, 0, 4096)),
        ("distill", {"temperature": 0.0, "asks_again": 0, "requests_per_minute": 1}),
    ],
)
def test_a_right_value_is_none(section, values):
    assert problems(section, **values) == []


def test_everything_wrong_is_said_at_once():
    wrong = {
        "curate.first.via": "opnai",
        "curate.mode": "papr",
        "curate.size": 0,
        "distill.samples": 0,
        "distill.via": "gemini",
        "pool.decontaminate": "strickt",
        "train.epochs": 0,
    }
    with pytest.raises(UserError) as error:
        make_config(wrong)
    first, *lines = str(error.value).splitlines()
    # A via that is unknown has no model either.
    assert first == "config: 8 problems" and len(lines) == 8
    for field in (*wrong, "curate.first.model"):
        assert sum(line.strip().startswith((f"{field}=", f"{field} ")) for line in lines) >= (
            field != "distill.via"
        )
    assert any(line.strip().startswith("distill.model is empty") for line in lines)


def test_s1s_config_has_a_limit_wherever_money_is_spent():
    path = Path(__file__).parent.parent / "configs" / "s1k.py"
    cfg = config.resolve(runpy.run_path(str(path))["get_config"]())
    teachers = {
        "distill": cfg.distill,
        **{name: getattr(cfg.curate, name) for name in ("first", "second", "judge", "classifier")},
    }
    paid = {name for name, teacher in teachers.items() if teacher.via == "gemini"}
    assert paid == {"distill", "judge", "classifier"}
    for name, teacher in teachers.items():
        assert (teacher.max_cost is not None) == (name in paid), name
        assert (teacher.input_price > 0 and teacher.output_price > 0) == (name in paid), name
        # vLLM refuses more than what its context leaves.
        assert (teacher.max_tokens is None) == (name not in paid), name


def test_an_unknown_field_of_a_teacher_is_named():
    values = config.default().to_dict()
    values["curate"]["first"]["temprature"] = 0.1
    with pytest.raises(UserError, match=r"curate\.first\.temprature .*temperature"):
        config.resolve(config.ConfigDict(values))


def test_the_defaults_are_among_the_choices():
    cur = Curate()
    for value, choices in {
        cur.selection: curation_config.SELECTIONS,
        cur.control: curation_config.CONTROLS,
        cur.difficulty: curation_config.DIFFICULTIES,
        cur.domains: curation_config.DOMAINS,
        Pool().decontaminate: curation_config.DECONTAMINATIONS,
    }.items():
        assert value in choices and len(set(choices)) == len(choices)
    assert cur.mode in curation_config.MODES
    assert set(sifting._BY_DOMAIN) < set(curation_config.SELECTIONS)
