"""What the report says, what is planned, and what is refused."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fakes_reproduce import QUESTIONS, SEEDS, TINY, done_line, make_up, plausible, tell
from fakes_train import make_config

from s1jax import reproduce
from s1jax.config import check
from s1jax.mini import thinking
from s1jax.mini.pool import held_out
from s1jax.reproducing import identity, plan, report
from s1jax.reproducing.identity import check_same
from s1jax.reproducing.journal import Journal, ask_key
from s1jax.reproducing.plan import FAMILIES, PANELS
from s1jax.reproducing.stages import stages_of
from s1jax.types import UserError


@pytest.fixture(scope="module")
def cfg():
    return make_config(TINY | {"pool.sources": ("mini",)})


@pytest.fixture(scope="module")
def there(cfg, tmp_path_factory):
    """A workdir of made-up scores with its report, and all figures."""
    workdir = tmp_path_factory.mktemp("there")
    make_up(workdir, cfg, plausible, seeds=SEEDS)
    return workdir, tell(cfg, workdir)


# The report.


def test_the_report_says_what_must_be_said(there):
    workdir, _ = there
    text = (workdir / "report.md").read_text()
    for words in (
        f"gives up with probability {thinking.STOPS:g}",
        "s1jax/mini/thinking.py",
        "Seeds 0, 1",
        "30 held-out questions",
        "nothing was chosen by them",
        "one single pre-training, whose",
        "at least 2 seeds and 30 questions",
        "2 of them are all on one side in 50% of all cases",
        f"says again with probability {thinking.LOOKS_AGAIN:g}",
        "The ablation shows",
        "2 cores",
        "| train | 20 | 20 min 20 s |",
        "intervals of 95%",
    ):
        assert words in text
    for name in ("figure1", "table2", "methods", "parallel", "ablation"):
        assert f"]({name}.png)" in text  # relative, so that it can be copied
        assert (workdir / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert str(workdir) not in text


def test_what_is_not_there_yet_is_said(cfg, tmp_path):
    make_up(tmp_path, cfg, plausible, seeds=(0,), tables=("table4", "rows"))
    make_up(tmp_path / "more", cfg, plausible, seeds=(1,), tables=("rows",))
    (tmp_path / "more" / "seed-1").rename(tmp_path / "seed-1")
    with (tmp_path / "stages.jsonl").open("a") as file:
        file.write((tmp_path / "more" / "stages.jsonl").read_text())
    assert set(tell(cfg, tmp_path)) == {"table4", "rows"}
    text = (tmp_path / "report.md").read_text()
    assert "Not run yet: figure1, table2, table3, parallel, ablation." in text
    assert "Table 4: what is written in place of an ignored end: so far seed 0 alone." in text
    assert "row length: so far" not in text
    # Where no table has all that is wanted, it is said as well.
    tell(cfg, tmp_path, only=("table4",))
    assert "so far seed 0 alone" in (tmp_path / "report.md").read_text()
    with pytest.raises(UserError, match=r"with --questions=31; those there have 30 questions: run"):
        reproduce.reproduce(cfg, tmp_path, questions=31, report=True)


@pytest.mark.parametrize(
    ("teacher", "words", "but_not"),
    [
        ({"model": "stops=0.45"}, "gives up with probability 0.45", "probability 0.7"),
        ({"via": "replay", "model": "a.jsonl"}, "`distill.via=replay`", "gives up"),
    ],
)
def test_what_is_built_in_is_the_runs_own(cfg, tmp_path, monkeypatch, teacher, words, but_not):
    monkeypatch.setattr(report, "plot", lambda table, workdir: None)
    cfg = replace(cfg, distill=replace(cfg.distill, **teacher))
    make_up(tmp_path, cfg, plausible, seeds=SEEDS, tables=("rows",))
    tell(cfg, tmp_path, only=("rows",))
    text = (tmp_path / "report.md").read_text()
    part = text.partition("What is built in on purpose")[2].partition("## What was varied")[0]
    assert words in part
    assert but_not not in part
    assert "The ablation shows" not in part


def test_time_and_interruptions_are_those_of_the_tables_own_stages(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "plot", lambda table, workdir: None)
    make_up(tmp_path, cfg, plausible, seeds=SEEDS, tables=("rows", "table4"))
    path = tmp_path / "stages.jsonl"
    made = [json.loads(line) for line in path.read_text().splitlines()]
    begun = "".join(done_line(line["name"], seconds=None) for line in made)

    def told(more, **flags):
        path.write_text(begun + "".join(json.dumps(line) + "\n" for line in made) + more)
        tell(cfg, tmp_path, only=("rows",), **flags)
        return json.loads((tmp_path / "reproduce.json").read_text())["about"]

    about = told("")
    assert (about["time"]["train"], about["interrupted"]) == ([4, 244.0], 0)
    # Done once more: all of it counts. Of another table, seed or model: nothing does.
    train = "seed-0/ours: train"
    again = done_line(train, seconds=None) + done_line(train, seconds=10.0)
    assert told(again)["time"]["train"] == [5, 254.0]
    others = [done_line(f"{at}: train", seconds=9.0) for at in ("seed-7/ours", "seed-0/random")]
    assert told("".join(others))["time"] == about["time"]
    assert told("", seeds=(0,))["time"]["train"] == [2, 122.0]
    # Begun in vain, and done later; one that runs now is not interrupted, nor one of another table.
    assert told(done_line(train, seconds=None) + again)["interrupted"] == 1
    assert told(done_line("seed-0/random: train", seconds=None))["interrupted"] == 0
    running = done_line("seed-2/ours: train", seconds=None)
    assert told(running, seeds=(0, 1, 2))["interrupted"] == 0
    assert "interrupted" not in (tmp_path / "report.md").read_text()


def test_what_no_stage_noted_is_left_empty(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "plot", lambda table, workdir: None)
    make_up(tmp_path, cfg, plausible, seeds=SEEDS, tables=("table2",))
    rows = tell(cfg, tmp_path)["table2"]["rows"]
    assert rows[0][1:4] == [1000, 315, 60.5]
    path = tmp_path / "stages.jsonl"
    kept = [line for line in path.read_text().splitlines() if "/ours: train" not in line]
    path.write_text("\n".join(kept) + "\n")
    assert tell(cfg, tmp_path)["table2"]["rows"][0][1:4] == [1000, None, None]


def test_nothing_at_all_is_an_error(cfg, tmp_path):
    with pytest.raises(UserError, match="no table is there yet"):
        tell(cfg, tmp_path / "none")


# The plan.


def test_every_evaluation_is_a_config_that_can_be(cfg, tmp_path):
    stages = stages_of(cfg, tmp_path, plan.needed(plan.asks_of(cfg)), SEEDS, QUESTIONS)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    assert names.count("base: evaluate curve") == 1
    for seed in SEEDS:
        trained = [n for n in names if n.startswith(f"seed-{seed}/") and n.endswith(": train")]
        assert len(trained) == len(plan.MODELS)
        order = [
            names.index(f"seed-{seed}/ours: {what}") for what in ("distill", "curate", "train")
        ]
        assert order == sorted(order)
        assert order[1] < names.index(f"seed-{seed}/random: curate")  # which copies its traces
        assert f"seed-{seed}/random: distill" not in names
        assert f"seed-{seed}/stops-{plan.STOPS[-1]:g}: distill" in names
        assert f"seed-{seed}/tokens: curate" not in names


def test_a_seed_changes_everything_but_the_questions(cfg):
    made = plan.config_of(cfg, 5, {"curate.selection": "random"})
    assert (made.seed, made.curate.selection) == (5, "random")
    assert check(made) == []
    with pytest.raises(UserError, match=r"cannot be\n.*data.control"):
        plan.config_of(cfg, 0, {"model.chat": "steps"})


def test_only_some_tables_need_only_some_models(cfg):
    asks = plan.needed(plan.chosen(plan.asks_of(cfg), ["table4"]))
    assert [(ask.model, ask.name) for ask in asks] == [("ours", "curve"), ("ours", "strings")]
    assert asks[1].tasks == PANELS
    with pytest.raises(UserError, match=r'"table5" is no table.*table'):
        plan.chosen(plan.asks_of(cfg), ["table5"])


def test_without_the_little_worlds_teacher_there_is_no_ablation(cfg):
    distill = replace(cfg.distill, via="replay", model="traces.jsonl")
    assert "ablation" not in plan.asks_of(replace(cfg, distill=distill))
    assert "ablation" in plan.asks_of(cfg)


# What is refused.


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds=0,0"], "--seeds=0,0 must be different whole numbers"),
        (["--seeds=one"], "--seeds=one must be"),
        (["--questions=0"], "--questions=0 must be at least 1"),
        (["--only=table9"], '"table9" is no table'),
    ],
)
def test_wrong_flags_are_refused(flags, words, tmp_path):
    new = tmp_path / "new"
    with pytest.raises(UserError, match=words):
        reproduce.main(["reproduce", "--config=configs/mini.py", f"--workdir={new}", *flags])
    assert not new.exists()


@pytest.fixture
def small_world(monkeypatch):
    """Few questions: all 5,500 take long where every signature is checked."""
    texts = [text for name in FAMILIES for text in held_out(name.removeprefix("mini_"))[:8]]
    few = [SimpleNamespace(question=text) for text in texts]
    monkeypatch.setattr(identity, "pool", lambda _: few)
    monkeypatch.setattr(identity, "evaluation_rows", lambda name: [])
    identity.world_sha256.cache_clear()
    yield
    identity.world_sha256.cache_clear()


def test_another_config_wants_another_workdir(cfg, tmp_path, small_world):
    check_same(cfg, tmp_path)
    check_same(replace(cfg, evaluate=replace(cfg.evaluate, resamples=7)), tmp_path)
    longer = replace(cfg, train=replace(cfg.train, steps=9))
    with pytest.raises(UserError, match=r"another train\.steps; use a new --workdir"):
        check_same(longer, tmp_path)
    path = tmp_path / "config.json"
    before = json.loads(path.read_text())
    before["train"]["of_an_older_version"] = 1
    path.write_text(json.dumps(before))
    with pytest.raises(UserError, match=r"another train\.of_an_older_version; use"):
        check_same(cfg, tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        check_same(cfg, tmp_path)


def test_another_little_world_wants_another_workdir(cfg, tmp_path, small_world, monkeypatch):
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", identity._commit() or "0" * 40)
    # Commits are noted, not compared.
    for commit in ("one", "another", None, "one"):
        monkeypatch.setattr(identity, "_commit", lambda commit=commit: commit)
        check_same(cfg, tmp_path)  # the control of what follows, too
    assert identity.commits_of(tmp_path) == ["one", "another"]
    for part, value in (("STOPS", 0.5), ("AGAIN", {"Wait": 1.0}), ("LOOKS_AGAIN", 0.4)):
        identity.world_sha256.cache_clear()
        with monkeypatch.context() as changed:
            changed.setattr(identity, part, value)
            with pytest.raises(UserError, match="another version of the little world"):
                check_same(cfg, tmp_path)
    identity.world_sha256.cache_clear()
    with monkeypatch.context() as changed:  # the same constants, and a teacher who uses them not
        changed.setattr(thinking.Thinker, "gives_up", lambda _: False)
        with pytest.raises(UserError, match="another version of the little world"):
            check_same(cfg, tmp_path)
    identity.world_sha256.cache_clear()
    check_same(cfg, tmp_path)


def test_only_telling_checks_as_well_and_writes_nothing(cfg, tmp_path, small_world):
    check_same(cfg, tmp_path, write=False)
    assert list(tmp_path.iterdir()) == []
    check_same(cfg, tmp_path)
    other = replace(cfg, train=replace(cfg.train, steps=9))
    with pytest.raises(UserError, match=r"another train\.steps"):
        tell(other, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_what_decides_marks_is_in_the_key(cfg):
    [ask] = plan.needed(plan.chosen(plan.asks_of(cfg), ["figure1"]))[:1]
    key = ask_key(ask, 5, cfg.evaluate)
    for name, value in {
        "paths": ("mini_search=a.jsonl",),
        "parity": True,
        "judge": replace(cfg.evaluate.judge, model="another"),
        "judge_decides": True,
    }.items():
        assert ask_key(ask, 5, replace(cfg.evaluate, **{name: value})) != key, name
    for name, value in {"resamples": 7, "grading_processes": 1, "max_questions": 3}.items():
        assert ask_key(ask, 5, replace(cfg.evaluate, **{name: value})) == key, name
    assert ask_key(ask, 6, cfg.evaluate) != key


def test_two_at_once_are_refused(cfg, tmp_path):
    with Journal(tmp_path), pytest.raises(UserError, match="written by another process"):
        Journal(tmp_path).__enter__()
