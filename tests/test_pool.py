"""Sources of every kind become questions in their order; what is no question is named and counted.

The hub is a dict of real `datasets.Dataset`s behind `load_dataset`: there is no network.
"""

import json
import logging
import time
from collections import Counter
from pathlib import Path

import pytest
from test_sources import ROWS

from s1jax.curation_config import Pool
from s1jax.data.pool import Source, read_questions, read_sources
from s1jax.data.sources import SOURCES
from s1jax.types import Question, UserError


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parquet(path, rows, **types):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path)
    return str(path)


def read(*sources, embedded=None, seed=0, **cfg):
    return read_sources(Pool(sources=sources, **cfg), seed, embedded or {})


def refusal(*sources, **kwargs):
    with pytest.raises(UserError) as error:
        read(*sources, **kwargs)
    return str(error.value)


# --- Files ---


def test_columns_of_a_file(tmp_path):
    rows = [
        {"question": "1+1?", "solution": "It is 2.", "answer": 2, "source_type": "sums"},
        {"problem": "2+2?", "answer": 4.5, "source": "other", "difficulty": 3, "domain": "Sums"},
        {"prompt": "Why?", "cot_type": "science", "metadata": "{'of': 's1'}", "question": None},
        {"question": "x", "metadata": {"b": 1, "a": "é"}},
        {"question": "y", "metadata": "kept", "level": 5, "id": 7},
        {"question": "z", "answer": "", "solution": "", "source_type": "", "cot_type": None},
    ]
    (source,) = read(jsonl(tmp_path / "sums.jsonl", rows))
    at = [f"{tmp_path}/sums.jsonl: line {n}" for n in range(1, 7)]
    assert source == Source(
        str(tmp_path / "sums.jsonl"),
        [
            Question("1+1?", "It is 2.", source_type="sums", answer="2", place=at[0]),
            Question("2+2?", "4.5", "math", "other", "{}", "4.5", "Sums", 3.0, place=at[1]),
            Question("Why?", None, "science", "sums", "{'of': 's1'}", place=at[2]),
            Question("x", source_type="sums", metadata='{"a": "é", "b": 1}', place=at[3]),
            Question(
                "y",
                source_type="sums",
                metadata='{"id": 7, "level": 5, "metadata": "kept"}',
                place=at[4],
            ),
            Question("z", source_type="sums", place=at[5]),
        ],
        [],
    )


def test_parquet_gives_the_same_questions(tmp_path):
    rows = [{"question": f"q {n}", "answer": n, "level": n % 5} for n in range(600)]
    (lines,) = read(jsonl(tmp_path / "x.jsonl", rows))
    (table,) = read(parquet(tmp_path / "x.parquet", rows))
    assert len(table.questions) == 600
    assert [q.place for q in table.questions[299:301]] == [
        f"{tmp_path}/x.parquet: row {n} (from 0)" for n in (299, 300)
    ]
    bare = [[vars(q) | {"place": ""} for q in source.questions] for source in (lines, table)]
    assert bare[0] == bare[1]


def test_of_text_that_is_not_utf_8_in_parquet_the_row_is_set_aside(tmp_path):
    import pyarrow
    import pyarrow.parquet

    texts = [f"question {n}".encode() for n in range(400)]
    texts[300] = b"caf\xe9"
    column = pyarrow.Array.from_buffers(
        pyarrow.string(), 400, pyarrow.array(texts, pyarrow.binary()).buffers()
    )
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": column}), path)
    (source,) = read(str(path))
    assert len(source.questions) == 399
    assert [(bad.place, bad.reason) for bad in source.set_aside] == [
        (f"{path}: row 300 (from 0)", "not UTF-8")
    ]


BAD = {  # the line, its reason, words of the detail
    "cut": (b'{"question": "1', "not JSON", "is not JSON: "),
    "deep": (b"[" * 100_000, "not JSON", "recursion"),
    "latin-1": (b'{"question": "caf\xe9"}', "not UTF-8", "is not UTF-8 (byte 17)"),
    "utf-16": ('{"question": "a"}'.encode("utf-16"), "not UTF-8", "(byte 0)"),
    "a list": (b'["question"]', "not an object", "must be an object, not list"),
    "null": (b"null", "not an object", "not null"),
    "no question": (b'{"answer": "2"}', "missing question", "no column question or problem"),
    "null question": (b'{"question": null}', "missing question", "has no column"),
    "a number": (b'{"question": 3}', "wrong type", "question must be a string, not int"),
    "an empty one": (b'{"question": " \\n"}', "empty question", "question is empty"),
    "a list of answers": (b'{"question": "a", "answer": ["1"]}', "wrong type", "answer must be"),
    "true": (b'{"question": "a", "answer": true}', "wrong type", "answer must be a string"),
    "not a number": (b'{"question": "a", "answer": NaN}', "wrong type", "not float"),
    "a solution": (b'{"question": "a", "solution": {}}', "wrong type", "solution must be"),
    "a cot_type": (b'{"question": "a", "cot_type": 3}', "wrong type", "cot_type must be"),
    "a source": (b'{"question": "a", "source": ["x"]}', "wrong type", "source must be"),
    "half a pair": (b'{"question": "a\\ud800"}', "half a surrogate", "question holds half"),
    # Its detail must be text: the token that holds it is not named.
    "half in a token": (
        '{"question": "Say <｜\\ud800｜> now"}'.encode(),
        "half a surrogate",
        "question holds half of a surrogate pair, no text",
    ),
    "half in a solution": (
        b'{"question": "a", "solution": "\\udc00"}',
        "half a surrogate",
        "solution holds half",
    ),
    "half in a column": (b'{"question": "a", "x": "\\udc00"}', "half a surrogate", "metadata"),
    "too long": (
        json.dumps({"question": "a " * 500_000}).encode(),
        "too long",
        "question has 1,000,000 characters, more than 20,000 (pool.max_question_chars)",
    ),
} | {
    token: (json.dumps({"question": f"Say {token} now"}).encode(), "control token", token)
    for token in (
        *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<think>", "</think>"),
        *("<｜User｜>", "<｜end▁of▁sentence｜>", "<tool_call>", "<end_of_turn>"),
    )
}
GOOD = b'{"question": "What is 1+1?"}'


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_set_aside_by_name(tmp_path, name):
    line, reason, words = BAD[name]
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b"\n".join([GOOD, b"", line.replace(b"\n", b""), GOOD]))
    (source,) = read(str(path))
    assert [q.place for q in source.questions] == [f"{path}: line {n}" for n in (1, 4)]
    (bad,) = source.set_aside
    assert (bad.place, bad.reason) == (f"{path}: line 3", reason)
    assert words in bad.detail
    assert len(bad.detail) < 200 and "\n" not in bad.detail


def test_all_bad_rows_together_are_counted(tmp_path):
    path = tmp_path / "pool.jsonl"
    lines = [line.replace(b"\n", b"") for line, _, _ in BAD.values()]
    path.write_bytes(b"\n".join(line for bad in lines for line in (bad, GOOD)))
    (source,) = read(str(path))
    assert len(source.questions) == len(BAD)
    assert Counter(bad.reason for bad in source.set_aside) == Counter(r for _, r, _ in BAD.values())


@pytest.mark.parametrize(
    ("columns", "metadata"),
    [
        ('"difficulty": "hard"', {"difficulty": "hard"}),
        ('"difficulty": true', {"difficulty": True}),
        ('"difficulty": NaN', {"difficulty": float("nan")}),
        ('"difficulty": -1e999', {"difficulty": float("-inf")}),
        (f'"difficulty": 1{"0" * 400}', {"difficulty": 10**400}),
        ('"domain": ["Sums", "Sets"]', {"domain": ["Sums", "Sets"]}),
        ('"domain": 3, "difficulty": {}', {"difficulty": {}, "domain": 3}),
    ],
    ids=["a string", "true", "nan", "endless", "a huge number", "domains", "both"],
)
def test_what_is_of_no_use_stays_in_the_metadata(tmp_path, columns, metadata):
    path = tmp_path / "x.jsonl"
    useful = '{"question": "b", "difficulty": 2, "domain": "Sums"}'
    path.write_text(f'{{"question": "a", {columns}}}\n{useful}\n')
    (source,) = read(str(path))
    assert not source.set_aside
    bad, good = source.questions
    assert (bad.difficulty, bad.domain) == (None, None)
    assert repr(json.loads(bad.metadata)) == repr(metadata)  # nan is not equal to itself
    # The control: what is of use is there, and not in the metadata.
    assert (good.difficulty, good.domain, good.metadata) == (2.0, "Sums", "{}")


def test_a_solution_that_is_a_number_is_text(tmp_path):
    rows = [{"question": "a", "solution": 4}, {"question": "b", "solution": 0.5, "answer": 7}]
    (source,) = read(jsonl(tmp_path / "x.jsonl", rows))
    assert [(q.solution, q.answer) for q in source.questions] == [("4", None), ("0.5", "7")]
    assert not source.set_aside


@pytest.mark.parametrize(
    "text",
    [
        "<|x|> is the norm",
        "a <| b |> c",
        "if a<b|c then d|>e",
        "<thinking>",
        "a < think > b",
        "😀 \u2028 é",
        "x" * 20_000,
    ],
)
def test_what_only_looks_bad_is_a_question(tmp_path, text):
    (source,) = read(jsonl(tmp_path / "x.jsonl", [{"question": text}]))
    assert [q.question for q in source.questions] == [text]
    assert not source.set_aside


def test_no_line_of_noise_stops_it(tmp_path):
    from hypothesis import given, settings
    from hypothesis import strategies as st

    path = tmp_path / "noise.jsonl"
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=2),
        max_leaves=3,
    )
    names = st.sampled_from(["question", "answer", "solution", "metadata", "difficulty", "domain"])
    rows = st.dictionaries(names, values).map(lambda row: json.dumps(row).encode())

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.binary(min_size=1, max_size=30) | rows, min_size=1, max_size=5))
    def holds(lines):
        lines = [line.replace(b"\n", b"?") for line in lines]
        path.write_bytes(b"\n".join([*lines, GOOD]))
        (source,) = read(str(path))
        blank = sum(not line.strip() for line in lines)
        assert len(source.questions) + len(source.set_aside) == len(lines) - blank + 1
        for question in source.questions:
            json.dumps(vars(question)).encode()
            question.metadata.encode()

    holds()


def test_what_is_no_source(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "dir.jsonl").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not")
    good = jsonl(tmp_path / "x.jsonl", [{"question": "a"}])
    assert refusal().startswith("pool.sources is empty")
    assert refusal(f"{tmp_path}/empty.jsonl").endswith("empty.jsonl: has no rows")
    assert "dir.jsonl: is a directory" in refusal(f"{tmp_path}/dir.jsonl")
    assert "no.jsonl: there is no such file" in refusal(f"{tmp_path}/no.jsonl")
    assert "broken.parquet: cannot be read after row 0" in refusal(f"{tmp_path}/broken.parquet")
    assert 'did you mean "JEEBench"?' in refusal("JEEBensh")
    assert "the choices are s1, mini, MATH" in refusal("???", embedded={"mini": list})
    assert f"pool.sources has {good} twice" in refusal(good, good)
    assert "pool.sources has MATH twice" in refusal("s1", "MATH")
    both = refusal(good, f"{tmp_path}/empty.jsonl", f"{tmp_path}/no.jsonl").splitlines()
    assert both[0] == "2 of the 3 sources of the pool cannot be read:"
    assert [line.endswith(end) for line, end in zip(both[1:], ("rows", "file"), strict=True)]


def test_what_is_embedded_and_the_order_of_sources(tmp_path):
    file = jsonl(tmp_path / "x.jsonl", [{"question": "from a file"}])
    embedded = {"mini": lambda: [Question("a"), Question("say </think>", place="mini: 2")]}
    sources = read("mini", file, embedded=embedded)
    assert [source.name for source in sources] == ["mini", file]
    assert [source.name for source in read(file, "mini", embedded=embedded)] == [file, "mini"]
    assert sources[0].questions == [Question("a")]
    assert [(bad.place, bad.reason) for bad in sources[0].set_aside] == [
        ("mini: 2", "control token")
    ]


def test_the_real_pool(shared):
    path = shared / "data" / "question_pool.jsonl"
    if not path.is_file():
        pytest.skip("the real pool is not here")
    (source,) = read(str(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [q.question for q in source.questions] == [row["question"] for row in rows]
    assert not source.set_aside
    families = Counter(q.source_type.split("/")[0] for q in source.questions)
    assert families == {
        **{"AGIEval": 1474, "AIME": 982, "TheoremQA": 747},
        **{"OlympiadBench": 675, "SciBench": 580},
    }
    short = read(str(path), max_question_chars=500)[0]
    too_long = sum(len(row["question"]) > 500 for row in rows)
    assert 0 < too_long == len(short.set_aside)


@pytest.mark.slow
def test_a_pool_of_s1s_size_in_seconds(tmp_path):
    rows = [{"question": f"{n} " + "x" * 400, "solution": "y" * 800} for n in range(59_029)]
    path = jsonl(tmp_path / "x.jsonl", rows)
    start = time.monotonic()
    (source,) = read(path)
    assert len(source.questions) == 59_029
    assert time.monotonic() - start < 30  # with its signatures checked at run time


# --- Evaluation sets ---


def test_the_questions_of_evaluation_sets(tmp_path, shared):
    for name, count in (("aime24", 30), ("math500", 500), ("gsm8k_test", 1319)):
        path = shared / "data" / f"{name}.jsonl"
        if not path.is_file():
            pytest.skip("the real evaluation sets are not here")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        texts = read_questions(str(path))
        assert len(texts) == count
        assert texts == [row.get("problem") or row.get("question") for row in rows]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "line 2: is not JSON"),
        (b'{"question": "\xff"}', "line 2: is not UTF-8 (byte 14)"),
        (b"[]", "line 2: must be an object with a question, not list"),
        (b'{"text": "a"}', "line 2: has no column question or problem or prompt"),
        (b'{"problem": 3}', "line 2: problem must be a string, not int"),
        (b'{"problem": "a\\udc00"}', "line 2: problem holds half of a surrogate pair, no text"),
    ],
)
def test_a_bad_row_of_an_evaluation_set_is_an_error(tmp_path, line, words):
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD + b"\n" + line)
    with pytest.raises(UserError, match="line 2") as error:
        read_questions(str(path))
    assert words in str(error.value)
    path.write_bytes(GOOD)
    assert read_questions(str(path)) == ["What is 1+1?"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("no.jsonl", "no such file"), ("notes.txt", "must be a .jsonl"), ("empty.jsonl", "has no")],
)
def test_what_is_no_evaluation_set(tmp_path, name, words):
    (tmp_path / "notes.txt").write_text("?")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match=words):
        read_questions(str(tmp_path / name))


# --- The hub ---


class Hub:
    """What `load_dataset` gives, from rows by data set and config; it knows what it was asked."""

    def __init__(self, sets):
        self.sets = sets
        self.asked = []

    def load_dataset(self, path, name=None, *, data_files=None, revision=None, split=None):
        import datasets

        self.asked.append((path, name, revision, split))
        key = path if name is None else f"{path} {name}"
        if data_files is not None:
            (key,) = data_files.values()
        if key not in self.sets:
            raise ConnectionError(f"Couldn't reach '{key}' on the Hub\nand much more")
        splits = {of: datasets.Dataset.from_list(rows) for of, rows in self.sets[key].items()}
        return datasets.DatasetDict(splits) if split is None else splits[split]


def hub(monkeypatch, sets):
    import datasets

    fake = Hub(sets)
    monkeypatch.setattr(datasets, "load_dataset", fake.load_dataset)
    return fake


def all_of_s1():
    """Every part of every source with one row that says which part it is of."""
    sets = {}
    for name, source in SOURCES.items():
        for number, part in enumerate(source.parts):
            key = " ".join(filter(None, (part.hub, part.config)))
            if part.file:
                key = f"hf://datasets/{part.hub}/{part.file}"
            row = dict(ROWS[name])
            for column in ("question", "problem", "Question", "question_content"):
                if column in row:
                    row[column] = f"{name} {number}"
            if name == "AGIEval":
                row["level"] = 5
            sets.setdefault(key, {})[part.split] = [row]
    sets["simplescaling/numinamath_500"] = {"train": [{"problem": "NuminaMath listed"}]}
    sets["Idavidrein/gpqa gpqa_diamond"] = {"train": [{"Question": "diamond"}]}
    listed = ROWS["NuminaMath"] | {"source": "cn_k12", "problem": "NuminaMath listed"}
    sets["AI-MO/NuminaMath-CoT"]["train"] += [
        listed,
        listed | {"problem": "not listed"},
    ]
    sets["Idavidrein/gpqa gpqa_extended"]["train"] += [ROWS["GPQA"] | {"Question": "diamond"}]
    return sets


@pytest.fixture
def offline(monkeypatch):
    """A machine that knows of no failure yet; as it was before when the test is over."""
    import datasets
    import huggingface_hub

    switches = (datasets.config, huggingface_hub.constants)
    for switch in switches:
        monkeypatch.setattr(switch, "HF_HUB_OFFLINE", False)
    return lambda: [switch.HF_HUB_OFFLINE for switch in switches]


def test_all_sources_of_s1_from_the_hub(monkeypatch):
    fake = hub(monkeypatch, all_of_s1())
    sources = read("s1")
    assert [source.name for source in sources] == list(SOURCES)
    assert not any(source.set_aside for source in sources)
    counts = {source.name: len(source.questions) for source in sources}
    more = {"OlympicArena": 14, "AGIEval": 16, "OlympiadBench": 4, "LiveCodeBench": 3}
    assert counts == dict.fromkeys(SOURCES, 1) | more | {"NuminaMath": 2, "SciEval": 2}
    by_name = {source.name: source.questions for source in sources}
    assert [q.question for q in by_name["NuminaMath"]] == ["NuminaMath 0", "NuminaMath listed"]
    assert by_name["AIME"][0].place == "qq8933/AIME_1983_2024 train: row 0 (from 0)"
    assert [q.source_type for q in by_name["LiveCodeBench"]] == [
        f"LiveCodeBench/release_v{n}" for n in (1, 2, 3)
    ]
    revisions = {path: revision for path, _, revision, _ in fake.asked}
    assert revisions["baber/agieval"] == "refs/convert/parquet"
    assert read("s1", seed=0) == sources
    assert read("GPQA", seed=3)[0].questions != by_name["GPQA"]


def test_each_source_that_cannot_be_loaded_has_its_line(monkeypatch, offline):
    sets = all_of_s1()
    del sets["simplescaling/openaimath"], sets["Idavidrein/gpqa gpqa_diamond"]
    hub(monkeypatch, sets)
    lines = refusal("s1").splitlines()
    assert lines == [
        "2 of the 16 sources of the pool cannot be read:",
        "  MATH: simplescaling/openaimath cannot be loaded from the hub: Couldn't reach"
        " 'simplescaling/openaimath' on the Hub",
        "  GPQA: Idavidrein/gpqa gpqa_diamond cannot be loaded from the hub: Couldn't reach"
        " 'Idavidrein/gpqa gpqa_diamond' on the Hub",
    ]


def test_a_hub_that_cannot_be_reached_is_not_tried_again(monkeypatch, offline):
    hub(monkeypatch, all_of_s1())
    read("AIME", "MATH")
    assert offline() == [False, False]
    with pytest.raises(UserError, match="o/none cannot be loaded"):
        read_questions("o/none")  # a ConnectionError
    assert offline() == [True, True]


@pytest.mark.parametrize(
    ("error", "tried_no_more"),
    [
        (ConnectionError("reset"), True),
        (OSError("Cannot connect to host huggingface.co:443"), True),
        (FileNotFoundError("there is no such data set"), False),
        (ValueError("Couldn't connect the columns"), False),
    ],
    ids=["connection", "connect", "no set", "no fault of the network"],
)
@pytest.mark.parametrize("caused", [False, True])
def test_only_a_connection_that_fails_ends_the_tries(
    monkeypatch, offline, error, tried_no_more, caused
):
    def load(*_, **__):
        if not caused:
            raise error
        raise RuntimeError("it cannot be had") from error

    monkeypatch.setattr("datasets.load_dataset", load)
    assert "cannot be loaded from the hub" in refusal("MATH")
    assert offline() == [tried_no_more] * 2


def test_the_retries_of_the_hub_are_no_news(monkeypatch):
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    try:
        logger.setLevel(logging.WARNING)
        hub(monkeypatch, all_of_s1())
        read("MATH")
        assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)
        assert logger.isEnabledFor(logging.ERROR)
    finally:
        logger.setLevel(before)


COMMIT = "0f1e" * 10


def test_a_source_is_read_at_the_commit_that_is_pinned(monkeypatch):
    sets = all_of_s1()
    files = [key for key in sets if key.startswith("hf://datasets/livecodebench/")]
    assert len(files) == 3
    for key in files:
        hub_id = "livecodebench/code_generation_lite"
        sets[key.replace(hub_id, f"{hub_id}@{COMMIT}")] = sets[key]
    fake = hub(monkeypatch, sets)
    names = ("MATH", "AGIEval", "LiveCodeBench", "GPQA", "NuminaMath", "AIME")
    plain = read(*names)
    revisions = {path: revision for path, _, revision, _ in fake.asked}
    assert {path: at for path, at in revisions.items() if at} == {
        "baber/agieval": "refs/convert/parquet"
    }
    fake.asked.clear()
    for key in files:  # by what is newest there is nothing
        del sets[key]
    pins = tuple(f"{name}={COMMIT}" for name in names[:-1])
    assert read(*names, revisions=pins) == plain
    at_pin = {path: {r for p, _, r, _ in fake.asked if p == path} for path, *_ in fake.asked}
    assert at_pin == {path: {COMMIT} for path in revisions} | {
        "json": {None},  # the commit is in the file's name
        "simplescaling/numinamath_500": {None},  # a list of NuminaMath, but another data set
        "qq8933/AIME_1983_2024": {None},  # not pinned
    }


@pytest.mark.parametrize("pin", ["MATHS=0f1e", "MATH=", "MATH", "=0f1e", "s1=0f1e", "x.jsonl=0f1e"])
def test_a_pin_of_no_source_is_refused_before_anything_is_read(monkeypatch, pin):
    fake = hub(monkeypatch, all_of_s1())
    name, _, revision = pin.partition("=")
    message = refusal("MATH", revisions=("AIME=0f1e", pin))
    assert message.startswith(f'pool.revisions="{name}={revision}" must be SOURCE=COMMIT')
    assert "\n" not in message
    assert not fake.asked


def test_a_source_is_pinned_once(monkeypatch):
    fake = hub(monkeypatch, all_of_s1())
    message = refusal("MATH", revisions=("MATH=0f1e", "MATH=aaaa"))
    assert message == "pool.revisions pins MATH twice, to 0f1e and aaaa"
    assert not fake.asked
    read("MATH", revisions=("MATH=0f1e", "MATH=0f1e"))


def test_without_a_network_each_says_so_in_a_line():  # conftest switches the hub off
    lines = refusal("s1").splitlines()
    assert len(lines) == 1 + 16
    for line, (name, source) in zip(lines[1:], SOURCES.items(), strict=True):
        hubs = [source.parts[0].hub, source.listed[0].hub if source.listed else "?"]
        assert any(line.startswith(f"  {name}: {at} ") for at in hubs)
        assert "cannot be loaded from the hub: " in line
    assert "\n" not in refusal("AIME")


def test_rows_of_the_hub_that_are_none(monkeypatch):
    sets = all_of_s1()
    rows = sets["qq8933/AIME_1983_2024"]["train"]
    rows += [ROWS["AIME"] | change for change in ({"Question": None}, {"ID": "?"})]
    rows += [ROWS["AIME"] | {"Question": "<|im_end|>"}]
    hub(monkeypatch, sets)
    (source,) = read("AIME")
    assert len(source.questions) == 1
    assert [(bad.place[-12:], bad.reason) for bad in source.set_aside] == [
        ("row 1 (from 0)"[-12:], "wrong columns"),
        ("row 2 (from 0)"[-12:], "wrong columns"),
        ("row 3 (from 0)"[-12:], "control token"),
    ]
    sets["qq8933/AIME_1983_2024"]["train"] = [{"ID": "1983-1", "Frage": "?"}]
    message = refusal("AIME")
    assert "none of its rows is a question; qq8933/AIME_1983_2024 train: row 0" in message
    assert "KeyError: 'Answer'" in message


def test_an_evaluation_set_of_the_hub(monkeypatch, offline):
    rows = [{"problem": "a", "Question": None}, {"problem": None, "Question": "b"}]
    both = {"train": [{"problem": "t"}], "test": rows}
    sets = {"o/both": both, "o/one": {"train": rows}, "o/gpqa diamond": {"train": rows}}
    sets["o/none"] = {"train": rows, "dev": rows}
    fake = hub(monkeypatch, sets)
    assert read_questions("o/both") == read_questions("o/one") == ["a", "b"]
    assert read_questions("o/gpqa/diamond") == ["a", "b"]
    assert fake.asked[-1][:2] == ("o/gpqa", "diamond")
    with pytest.raises(UserError, match="has no split test, but train, dev"):
        read_questions("o/none")
    with pytest.raises(UserError, match="o/missing cannot be loaded from the hub"):
        read_questions("o/missing")


def test_nothing_of_a_row_is_run():
    import ast

    for module in ("pool", "sources", "source_rows"):
        path = Path(__file__).parent.parent / "s1jax" / "data" / f"{module}.py"
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "id")}
        assert not names & {"eval", "exec", "compile", "literal_eval", "pickle"}
        assert "trust_remote_code" not in path.read_text()
