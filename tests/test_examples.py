"""Every kind of source gives the same examples, and a bad row is named by place and column."""

import hashlib
import json

import pytest
from fakes_chat import S1_ROWS

from s1jax.config import Data
from s1jax.data.examples import load_examples
from s1jax.types import Example, UserError

PLAIN = [
    {"id": "a", "question": "1 + 1?", "thinking": "one and one", "answer": "2"},
    {"id": "b", "question": "2 + 2?", "thinking": "two and two", "answer": "4"},
]
S1K = {"question": "1 + 1?", "thinking_trajectories": ["one", "and one"], "attempt": "2"}
S1K_1_1 = {
    "question": "1 + 1?",
    "gemini_thinking_trajectory": "gemini's",
    "gemini_attempt": "g",
    "deepseek_thinking_trajectory": "deepseek's",
    "deepseek_attempt": "d",
}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(path, **kwargs):
    return load_examples(Data(path=str(path), **kwargs))


def refusal(path, **kwargs):
    with pytest.raises(UserError) as error:
        load(path, **kwargs)
    return str(error.value)


def test_all_sources_give_the_same_examples(tmp_path):
    import datasets
    import pyarrow
    import pyarrow.parquet

    want = [Example(**row) for row in PLAIN]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PLAIN), tmp_path / "x.parquet")
    saved = datasets.Dataset.from_list(PLAIN)
    saved.save_to_disk(str(tmp_path / "saved"))
    other = datasets.Dataset.from_list(PLAIN[:1])
    datasets.DatasetDict(train=saved, test=other).save_to_disk(str(tmp_path / "splits"))
    assert load(jsonl(tmp_path / "x.jsonl", PLAIN)) == want
    assert load(tmp_path / "x.parquet") == want
    assert load(tmp_path / "saved") == want
    assert load(tmp_path / "splits") == want
    assert load(tmp_path / "splits", split="test") == want[:1]
    assert load(tmp_path / "x.jsonl", max_examples=1) == want[:1]
    assert 'has no split tests: did you mean "test"?' in refusal(tmp_path / "splits", split="tests")


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [json.dumps(row).encode() for row in PLAIN]
    path.write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\n  \n" + lines[1])
    assert load(path) == [Example(**row) for row in PLAIN]


def test_the_columns_of_s1k_and_s1k_1_1(tmp_path):
    hash_id = hashlib.sha256(b"1 + 1?").hexdigest()[:16]
    s1k = jsonl(tmp_path / "s1k.jsonl", [S1K])
    assert load(s1k) == [Example(hash_id, "1 + 1?", "one\nand one", "2")]
    both = jsonl(tmp_path / "both.jsonl", [S1K_1_1])
    deepseek = [Example(hash_id, "1 + 1?", "deepseek's", "d")]
    gemini = [Example(hash_id, "1 + 1?", "gemini's", "g")]
    assert load(both) == load(both, traces="deepseek") == deepseek
    assert load(both, traces="gemini") == gemini
    ours = {key: value for key, value in S1K_1_1.items() if "deepseek" not in key}
    one = jsonl(tmp_path / "one.jsonl", [ours])
    assert load(one) == gemini
    assert 'deepseek_thinking_trajectory (data.traces="deepseek")' in refusal(
        one, traces="deepseek"
    )


def test_the_real_rows_of_s1k(tmp_path):
    if not S1_ROWS.is_file():
        pytest.skip("the rows of s1K are not here")
    rows = [json.loads(line) for line in S1_ROWS.read_text().splitlines()]
    examples = load(S1_ROWS)
    assert [e.question for e in examples] == [row["question"] for row in rows]
    assert [e.thinking for e in examples] == [row["gemini_thinking_trajectory"] for row in rows]
    assert [e.answer for e in examples] == [row["gemini_attempt"] for row in rows]
    questions = S1_ROWS.with_name("s1k_questions_with_solutions.jsonl")
    assert "line 1: has no columns of thinking and answer" in refusal(questions)


GOOD = PLAIN[0]
BAD_ROWS = {
    "missing": ({**GOOD, "question": ...}, "has no column question"),
    "misspelt": (
        {"question": "?", "thinkng": "t", "answer": "a"},
        'has no column thinking: did you mean "thinkng"?',
    ),
    "null": ({**GOOD, "thinking": None}, "thinking must be a string, not null"),
    "number": ({**GOOD, "answer": 4}, "answer must be a string, not int"),
    "list": ({**GOOD, "answer": ["4"]}, "answer must be a string, not list"),
    "list of numbers": ({**GOOD, "thinking": ["a", 1]}, "thinking must hold strings, not int"),
    "empty": ({**GOOD, "answer": " \n"}, "answer is empty"),
    "empty list": ({**GOOD, "thinking": []}, "thinking is empty"),
    "no object": ([GOOD], "must be an object with a question, not list"),
    "surrogate": ({**GOOD, "thinking": "\ud800"}, "thinking holds half of a surrogate pair"),
    "float id": ({**GOOD, "id": 1.5}, "id must be a string or a whole number, not float"),
    "empty id": ({**GOOD, "id": ""}, "id is empty"),
    "same id": ({**PLAIN[1], "id": "a"}, "line 2: id 'a' is also that of"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, name):
    row, words = BAD_ROWS[name]
    if isinstance(row, dict):
        row = {key: value for key, value in row.items() if value is not ...}
    # A misspelt name is found in the first row; all else in the one where it is.
    rows = [row] if name == "misspelt" else [GOOD, row]
    path = jsonl(tmp_path / "x.jsonl", rows)
    message = refusal(path)
    assert f"{path}: line {len(rows)}: " in message
    assert words in message
    assert "\n" not in message


TEXTS = [{"id": 7, "text": " 1 + 1 = 2\n"}, {"text": "2 + 2 = 4", "question": "not read"}]


def test_texts_are_answers_to_nothing(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", TEXTS)
    named = hashlib.sha256(b"2 + 2 = 4").hexdigest()[:16]
    want = [Example("7", "", "", " 1 + 1 = 2\n"), Example(named, "", "", "2 + 2 = 4")]
    assert load_examples(Data(path=path), texts=True) == want
    # The controls: a text is no question, and a question is no text.
    assert "line 1: has no columns of thinking and answer" in refusal(path)
    plain = jsonl(tmp_path / "y.jsonl", PLAIN)
    with pytest.raises(UserError, match="line 1: has no column text"):
        load_examples(Data(path=plain), texts=True)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"txt": "a"}, 'line 2: has no column text: did you mean "txt"?'),
        ({"text": " \n"}, "line 2: text is empty"),
        ({"text": None}, "line 2: text must be a string, not null"),
        ({"text": ["a"]}, "line 2: text must be a string, not list"),
        ({"text": "\ud800"}, "line 2: text holds half of a surrogate pair"),
        (["a"], "line 2: must be an object with a text, not list"),
        ({"text": "a", "id": 1.5}, "line 2: id must be a string or a whole number, not float"),
        ({"text": "a", "id": ""}, "line 2: id is empty; without one the text's hash is taken"),
        ({"text": "a"}, "(the same text: give each an id)"),
    ],
)
def test_a_bad_text_is_named(tmp_path, row, words):
    path = jsonl(tmp_path / "x.jsonl", [{"text": "a"}, row])
    with pytest.raises(UserError) as error:
        load_examples(Data(path=path), texts=True)
    assert words in str(error.value)
    good = jsonl(tmp_path / "good.jsonl", [{"text": "a"}, {"text": "b"}])
    assert len(load_examples(Data(path=good), texts=True)) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"question": "?"', "line 2: is not JSON"),
        (b'{"question": "\xff"}', "line 2: is not UTF-8 (byte 14)"),
        (b"[" * 100_000, "line 2: is not JSON"),
    ],
)
def test_a_line_that_is_no_json_is_named(tmp_path, line, words):
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    assert words in refusal(path)


def test_the_same_question_twice_needs_ids(tmp_path):
    row = {key: value for key, value in GOOD.items() if key != "id"}
    assert "the same question: give each an id" in refusal(jsonl(tmp_path / "x.jsonl", [row, row]))
    path = jsonl(tmp_path / "y.jsonl", [row | {"id": 1}, row | {"id": 2}])
    assert [e.id for e in load(path)] == ["1", "2"]


def test_a_bad_row_of_parquet_and_of_datasets_is_named(tmp_path):
    import datasets
    import pyarrow
    import pyarrow.parquet

    rows = [GOOD, {**PLAIN[1], "answer": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    for source in ("x.parquet", "saved"):
        path = tmp_path / source
        assert refusal(path) == f"{path}: row 1 (from 0): answer must be a string, not null"


def test_sources_that_cannot_be_read(tmp_path, monkeypatch):
    assert "data.path is empty" in refusal("")
    assert "there is no such file" in refusal(tmp_path / "none.jsonl")
    (tmp_path / "x.csv").write_text("question\n")
    assert "must be a .jsonl, a .parquet or a directory" in refusal(tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no parquet")
    assert "x.parquet: cannot be read" in refusal(tmp_path / "x.parquet")
    (tmp_path / "empty").mkdir()
    assert "cannot be read as a directory of datasets" in refusal(tmp_path / "empty")
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "has no examples" in refusal(tmp_path / "empty.jsonl")


def test_a_hub_id_without_network_is_one_sentence(monkeypatch):
    import datasets

    def no_network(path, **kwargs):
        assert (path, kwargs) == (
            "simplescaling/s1K-1.1",
            {"revision": "abc", "split": "train"},
        )
        raise ConnectionError("Couldn't reach the hub\nat all")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    message = refusal("simplescaling/s1K-1.1", revision="abc")
    assert "cannot be loaded: Couldn't reach the hub" in message
    assert "\n" not in message
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(PLAIN)
    )
    assert load("simplescaling/s1K-1.1") == [Example(**row) for row in PLAIN]
    assert "there is no such file" in refusal("data/x.jsonl")
