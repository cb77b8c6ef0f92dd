"""Malformed checkpoints: each is refused with one line that names the file and what is wrong."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fakes_hf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from fakes_hf import add_tensor, edit_json, poke, read_raw, remove_tensor, write_raw

from s1jax import config
from s1jax.mesh import make_mesh
from s1jax.models import hf, safetensors
from s1jax.models.hf import open_checkpoint
from s1jax.models.safetensors import MAX_HEADER_BYTES, read_header
from s1jax.models.weights import load_params
from s1jax.types import UserError

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NORM = "model.norm.weight"
Q_BIAS = "model.layers.1.self_attn.q_proj.bias"
Q_KERNEL = "model.layers.0.self_attn.q_proj.weight"


@dataclass(frozen=True)
class Case:
    """A clean checkpoint, how it is damaged, and what the message must name."""

    name: str
    damage: Callable[[Path], object]
    names: tuple[str, ...]
    sharded: bool = False
    transformers_loads_it: bool = False


def entry(path: Path, name: str, **fields: object) -> None:
    """Overwrites fields of a tensor's header entry."""
    header, data = read_raw(path)
    header[name] |= fields
    write_raw(path, header, data)


def shift(path: Path, name: str, begin: int, end: int) -> None:
    header, _ = read_raw(path)
    old = header[name]["data_offsets"]
    entry(path, name, data_offsets=[old[0] + begin, old[1] + end])


def replace_tensor(path: Path, name: str, array: np.ndarray) -> None:
    remove_tensor(path, name)
    add_tensor(path, name, array)


def cut(path: Path, size: int) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:size])


def remap(directory: Path, name: str, file: object) -> None:
    content = json.loads((directory / INDEX).read_text())
    content["weight_map"][name] = file
    (directory / INDEX).write_text(json.dumps(content))


def move_outside(directory: Path, name: str, link: bool) -> Path:
    outside = directory.parent / "outside"
    outside.mkdir()
    shutil.move(directory / name, outside / name)
    if link:
        (directory / name).symlink_to(outside / name)
    return outside / name


def traversal(directory: Path) -> None:
    move_outside(directory, SECOND, link=False)
    content = json.loads((directory / INDEX).read_text())
    for name, file in content["weight_map"].items():
        if file == SECOND:
            content["weight_map"][name] = f"../outside/{SECOND}"
    (directory / INDEX).write_text(json.dumps(content))


def absolute(directory: Path) -> None:
    traversal(directory)
    text = (directory / INDEX).read_text()
    (directory / INDEX).write_text(text.replace("../outside", str(directory.parent / "outside")))


def linked_directory(directory: Path) -> None:
    traversal(directory)
    (directory / "inside").symlink_to(directory.parent / "outside")
    text = (directory / INDEX).read_text()
    (directory / INDEX).write_text(text.replace("../outside", "inside"))


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def duplicate_key(path: Path, text: str) -> None:
    raw = path.read_text()
    path.write_text("{" + text + "," + raw.lstrip()[1:])


def duplicate_header_key(path: Path) -> None:
    header, data = read_raw(path)
    text = json.dumps(header)
    twin = f'"{NORM}":' + json.dumps(header[NORM])
    write_raw(path, ("{" + twin + "," + text[1:]).encode(), data)


def only_pickle(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "pytorch_model.bin").write_bytes(b"junk")


def pickle_in_index(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"junk")
    remap(directory, NORM, "pytorch_model.bin")


def mutate_tokenizer(directory: Path, tokens: int) -> None:
    fakes_hf.make_tokenizer_files(directory, tokens)


def shard_twice(directory: Path) -> None:
    header, data = read_raw(directory / FIRST)
    begin, end = header[Q_KERNEL]["data_offsets"]
    add_tensor(directory / SECOND, Q_KERNEL, np.frombuffer(data[begin:end], "<f4").reshape(32, 32))


def nonfinite(value: float, name: str = Q_KERNEL) -> Callable[[Path], object]:
    return lambda d: poke(d / WEIGHTS, name, value)


def weights(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda d: change(d / WEIGHTS)


def configure(**fields: object) -> Callable[[Path], object]:
    return lambda d: edit_json(d / CONFIG, **fields)


def header_bytes(text: bytes) -> Callable[[Path], object]:
    return lambda d: write_raw(d / WEIGHTS, text, read_raw(d / WEIGHTS)[1])


def drop_config(field: str) -> Callable[[Path], object]:
    def damage(directory: Path) -> None:
        raw = json.loads((directory / CONFIG).read_text())
        del raw[field]
        (directory / CONFIG).write_text(json.dumps(raw))

    return damage


EXTRA = np.ones(3)
CASES = [
    # Tensors: missing, extra, duplicate, misshaped, of another dtype.
    Case(
        "missing norm",
        weights(lambda f: remove_tensor(f, NORM)),
        (WEIGHTS, NORM),
        transformers_loads_it=True,
    ),
    Case("missing bias", weights(lambda f: remove_tensor(f, Q_BIAS)), (WEIGHTS, Q_BIAS)),
    Case(
        "missing head of an untied model",
        weights(lambda f: remove_tensor(f, "lm_head.weight")),
        (WEIGHTS, "lm_head.weight", "tie_word_embeddings"),
        transformers_loads_it=True,
    ),
    Case(
        "extra tensor",
        weights(lambda f: add_tensor(f, "model.extra.weight", EXTRA)),
        (WEIGHTS, "model.extra.weight"),
        transformers_loads_it=True,
    ),
    Case(
        "norm of another family",
        weights(lambda f: add_tensor(f, "model.layers.0.self_attn.q_norm.weight", EXTRA)),
        (WEIGHTS, "self_attn.q_norm.weight", "qwen2"),
        transformers_loads_it=True,
    ),
    Case(
        "layer beyond the config's",
        weights(lambda f: add_tensor(f, "model.layers.2.mlp.up_proj.weight", EXTRA)),
        (WEIGHTS, "model.layers.2.mlp.up_proj.weight", "num_hidden_layers=2"),
        transformers_loads_it=True,
    ),
    Case(
        "layer written with a zero before",
        weights(lambda f: add_tensor(f, "model.layers.00.mlp.up_proj.weight", EXTRA)),
        (WEIGHTS, "model.layers.00.mlp.up_proj.weight"),
    ),
    Case(
        "name with control characters",
        weights(lambda f: add_tensor(f, "evil\n\x1b[31mname", EXTRA)),
        (WEIGHTS, r"evil\n\x1b[31mname"),
    ),
    Case("key twice in the header", weights(duplicate_header_key), (WEIGHTS, NORM, "twice")),
    Case("tensor in two shards", shard_twice, (SECOND, Q_KERNEL, FIRST), sharded=True),
    Case(
        "misshaped matrix",
        weights(lambda f: replace_tensor(f, Q_KERNEL, np.ones((16, 32)))),
        (WEIGHTS, Q_KERNEL, "[16, 32]", "[32, 32]"),
    ),
    Case(
        "transposed matrix",
        weights(
            lambda f: replace_tensor(f, "model.layers.0.mlp.up_proj.weight", np.ones((32, 64)))
        ),
        (WEIGHTS, "up_proj.weight", "[32, 64]", "intermediate_size"),
    ),
    Case(
        "right size in another shape",
        weights(lambda f: entry(f, NORM, shape=[4, 8])),
        (WEIGHTS, NORM, "[4, 8]"),
    ),
    Case(
        "scalar", weights(lambda f: replace_tensor(f, NORM, np.float32(1))), (WEIGHTS, NORM, "[]")
    ),
    Case(
        "empty tensor",
        weights(lambda f: replace_tensor(f, NORM, np.ones((0, 32)))),
        (WEIGHTS, NORM, "[0, 32]"),
    ),
    Case("integers", weights(lambda f: entry(f, NORM, dtype="I32")), (WEIGHTS, NORM, "I32")),
    Case("eight-bit floats", weights(lambda f: entry(f, NORM, dtype="F8_E4M3")), (NORM, "F8_E4M3")),
    Case("unknown dtype", weights(lambda f: entry(f, NORM, dtype="f32")), (WEIGHTS, NORM, "f32")),
    Case(
        "dtype that lies about the size",
        weights(lambda f: entry(f, NORM, dtype="BF16")),
        (WEIGHTS, NORM, "BF16"),
    ),
    # Values.
    Case("NaN", nonfinite(float("nan")), (WEIGHTS, Q_KERNEL, "NaN"), transformers_loads_it=True),
    Case("infinity", nonfinite(float("inf")), (WEIGHTS, Q_KERNEL), transformers_loads_it=True),
    Case("minus infinity", nonfinite(-float("inf"), NORM), (WEIGHTS, NORM)),
    Case("NaN in the head", nonfinite(float("nan"), "lm_head.weight"), (WEIGHTS, "lm_head.weight")),
    # The file: truncated, overlapping, with holes, not what it says.
    Case("last byte missing", weights(lambda f: cut(f, f.stat().st_size - 1)), (WEIGHTS, "trunc")),
    Case("cut in the header", weights(lambda f: cut(f, 100)), (WEIGHTS, "truncated")),
    Case("cut in the length", weights(lambda f: cut(f, 5)), (WEIGHTS, "5 bytes")),
    Case("zero bytes", weights(lambda f: cut(f, 0)), (WEIGHTS, "0 bytes")),
    Case(
        "trailing bytes",
        weights(lambda f: f.write_bytes(f.read_bytes() + b"PK")),
        (WEIGHTS, "2 bytes after"),
    ),
    Case("overlap", weights(lambda f: shift(f, NORM, -4, -4)), (WEIGHTS, NORM, "overlap")),
    Case("hole", weights(lambda f: remove_entry_only(f, Q_BIAS)), (WEIGHTS, "hole")),
    Case("offsets that swap", weights(lambda f: shift(f, NORM, 128, -128)), (WEIGHTS, NORM)),
    Case("offset below zero", weights(lambda f: entry(f, NORM, data_offsets=[-128, 0])), (NORM,)),
    Case("one offset", weights(lambda f: entry(f, NORM, data_offsets=[0])), (WEIGHTS, NORM)),
    Case("offset as text", weights(lambda f: entry(f, NORM, data_offsets=["0", "9"])), (NORM,)),
    Case("huge offsets", weights(lambda f: entry(f, NORM, data_offsets=[0, 2**70])), (NORM,)),
    Case("size below zero", weights(lambda f: entry(f, NORM, shape=[-32, -1])), (WEIGHTS, NORM)),
    Case("a thousand axes", weights(lambda f: entry(f, NORM, shape=[2**62] * 1000)), (NORM,)),
    Case("size as boolean", weights(lambda f: entry(f, NORM, shape=[True, 32])), (WEIGHTS, NORM)),
    Case("entry is a list", header_bytes(b'{"%s":[]}' % NORM.encode()), (WEIGHTS, NORM)),
    Case("header is a list", header_bytes(b"[]"), (WEIGHTS, "header")),
    Case("header is not JSON", header_bytes(b'{"a":'), (WEIGHTS, "header", "JSON")),
    Case("header is not UTF-8", header_bytes(b'{"\xff":1}'), (WEIGHTS, "header", "UTF-8")),
    Case("header nested too deep", header_bytes(b'{"a":' + b"[" * 100_000), (WEIGHTS, "header")),
    Case("header begins with a space", header_bytes(b' {"a":1}'), (WEIGHTS, "header")),
    Case("metadata that is no text", header_bytes(b'{"__metadata__":{"a":1}}'), ("__metadata__",)),
    Case(
        "header larger than allowed",
        weights(lambda f: f.write_bytes(struct.pack("<Q", 2**60) + b"{}")),
        (WEIGHTS, str(2**60), "too large"),
    ),
    # The index.
    Case(
        "missing shard",
        lambda d: (d / SECOND).unlink(),
        (INDEX, SECOND, "lm_head.weight"),
        sharded=True,
    ),
    Case(
        "tensor mapped to the wrong shard",
        lambda d: remap(d, Q_KERNEL, SECOND),
        (FIRST, Q_KERNEL, SECOND),
        sharded=True,
    ),
    Case(
        "tensor mapped but in no shard",
        lambda d: remap(d, "model.ghost.weight", FIRST),
        (FIRST, "model.ghost.weight"),
        sharded=True,
        transformers_loads_it=True,
    ),
    Case(
        "tensor that the index does not list",
        lambda d: add_tensor(d / FIRST, "model.extra.weight", EXTRA),
        (FIRST, "model.extra.weight", INDEX),
        sharded=True,
        transformers_loads_it=True,
    ),
    Case(
        "key twice in the index",
        lambda d: duplicate_key(d / INDEX, '"weight_map": {}'),
        (INDEX, "weight_map", "twice"),
        sharded=True,
    ),
    Case(
        "weight_map to ../",
        traversal,
        (INDEX, "outside", "lm_head.weight", f"../outside/{SECOND}"),
        sharded=True,
        transformers_loads_it=True,
    ),
    Case("weight_map to an absolute path", absolute, (INDEX, "lm_head.weight"), sharded=True),
    Case("weight_map through a linked directory", linked_directory, (INDEX, "lm_head"), True),
    Case("weight_map to a number", lambda d: remap(d, NORM, 7), (INDEX, NORM), sharded=True),
    Case("weight_map to a pickle", pickle_in_index, (INDEX, NORM, "pytorch_model.bin"), True),
    Case("weight_map to ..", lambda d: remap(d, NORM, ".."), (INDEX, NORM), sharded=True),
    Case("weight_map to the empty name", lambda d: remap(d, NORM, ""), (INDEX, NORM), sharded=True),
    Case("weight_map is empty", lambda d: edit_json(d / INDEX, weight_map={}), (INDEX,), True),
    Case("weight_map is a list", lambda d: edit_json(d / INDEX, weight_map=[]), (INDEX,), True),
    Case(
        "stale shard",
        lambda d: shutil.copy(d / FIRST, d / "model-00003-of-00003.safetensors"),
        ("model-00003-of-00003.safetensors", INDEX),
        sharded=True,
        transformers_loads_it=True,
    ),
    Case(
        "index beside a single file",
        lambda d: shutil.copy(d / FIRST, d / WEIGHTS),
        (WEIGHTS, INDEX),
        sharded=True,
    ),
    Case("shards without their index", lambda d: (d / INDEX).unlink(), ("neither", INDEX), True),
    # Files that are not what they seem.
    Case(
        "weights linked from outside",
        lambda d: move_outside(d, WEIGHTS, link=True),
        (WEIGHTS, "symlink"),
        transformers_loads_it=True,
    ),
    Case(
        "shard linked from outside",
        lambda d: move_outside(d, SECOND, link=True),
        (SECOND, "symlink"),
        sharded=True,
        transformers_loads_it=True,
    ),
    Case(
        "tokenizer linked from outside",
        lambda d: move_outside(d, "tokenizer.json", link=True),
        ("tokenizer.json", "symlink"),
    ),
    Case("config is a pipe", lambda d: replace_by_fifo(d / CONFIG), (CONFIG, "regular")),
    Case("weights are a pipe", lambda d: replace_by_fifo(d / WEIGHTS), (WEIGHTS, "regular")),
    Case(
        "tokenizer is a pipe",
        lambda d: replace_by_fifo(d / "tokenizer.json"),
        ("tokenizer.json", "regular"),
    ),
    Case(
        "weights are a directory",
        lambda d: ((d / WEIGHTS).unlink(), (d / WEIGHTS).mkdir()),
        (WEIGHTS, "regular"),
    ),
    Case(
        "link to itself",
        lambda d: ((d / WEIGHTS).unlink(), (d / WEIGHTS).symlink_to(WEIGHTS)),
        (WEIGHTS,),
    ),
    Case("pickle only", only_pickle, ("pytorch_model.bin", "pickle")),
    Case("no weights", lambda d: (d / WEIGHTS).unlink(), (WEIGHTS, INDEX)),
    Case("empty directory", lambda d: [p.unlink() for p in d.iterdir()], (CONFIG,)),
    # The config, and what contradicts it.
    Case("no config", lambda d: (d / CONFIG).unlink(), (CONFIG, "missing")),
    Case("config is a list", lambda d: (d / CONFIG).write_text("[]"), (CONFIG, "object")),
    Case("config is empty", lambda d: (d / CONFIG).write_text(""), (CONFIG, "JSON")),
    Case("config cut", lambda d: cut(d / CONFIG, 40), (CONFIG, "JSON")),
    Case(
        "config is not UTF-8",
        lambda d: (d / CONFIG).write_bytes(b'{"a": "\xe9"}'),
        (CONFIG, "UTF-8"),
    ),
    Case(
        "config with NaN",
        lambda d: duplicate_key(d / CONFIG, '"x": NaN'),
        (CONFIG, "NaN"),
        transformers_loads_it=True,
    ),
    Case(
        "key twice in the config",
        lambda d: duplicate_key(d / CONFIG, '"rms_norm_eps": 0.1'),
        (CONFIG, "rms_norm_eps", "twice"),
        transformers_loads_it=True,
    ),
    Case("model_type is a list", configure(model_type=["qwen2"]), (CONFIG,)),
    Case("layer_types is a number", configure(layer_types=3), (CONFIG,)),
    Case("another model type", configure(model_type="gpt2"), (CONFIG, "gpt2")),
    Case("no hidden size", drop_config("hidden_size"), (CONFIG, "hidden_size")),
    Case(
        "more layers than weights",
        configure(num_hidden_layers=3, layer_types=None),
        (WEIGHTS, "model.layers.2."),
        transformers_loads_it=True,
    ),
    Case(
        "fewer layers than weights",
        configure(num_hidden_layers=1, layer_types=None),
        (WEIGHTS, "model.layers.1.", "num_hidden_layers=1"),
        transformers_loads_it=True,
    ),
    Case(
        "other vocabulary than the weights",
        configure(vocab_size=128),
        (WEIGHTS, "lm_head.weight", "[96, 32]", "[128, 32]", "vocab_size"),
    ),
    Case(
        "other kv heads than the weights",
        configure(num_key_value_heads=1),
        (WEIGHTS, "k_proj.bias", "[16]", "[8]", "num_key_value_heads"),
    ),
    Case(
        "other family than the weights",
        configure(model_type="llama", architectures=["LlamaForCausalLM"]),
        (WEIGHTS, "k_proj.bias", "llama"),
        transformers_loads_it=True,
    ),
    Case(
        "tied config, head that differs",
        configure(tie_word_embeddings=True),
        (WEIGHTS, "lm_head.weight", "tie_word_embeddings"),
        transformers_loads_it=True,
    ),
    Case(
        "custom code",
        configure(auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}),
        (CONFIG, "auto_map"),
    ),
    Case(
        "custom tokenizer code",
        lambda d: edit_json(d / "tokenizer_config.json", auto_map={"AutoTokenizer": ["a.B", None]}),
        ("tokenizer_config.json", "auto_map"),
    ),
    # The tokenizer.
    Case(
        "vocabulary larger than the embedding",
        lambda d: mutate_tokenizer(d, 97),
        ("tokenizer.json", "id 96", "96 rows", "vocab_size"),
        transformers_loads_it=True,
    ),
    Case(
        "added token beyond the embedding",
        lambda d: (d / "added_tokens.json").write_text('{"<x>": 4000}'),
        ("added_tokens.json", "4000", "vocab_size"),
    ),
    Case(
        "token id that is text",
        lambda d: (d / "added_tokens.json").write_text('{"<x>": "7"}'),
        ("added_tokens.json", "id"),
    ),
    Case(
        "tokenizer is not JSON",
        lambda d: (d / "tokenizer.json").write_text("{"),
        ("tokenizer.json", "JSON"),
    ),
    Case(
        "generation config is not JSON",
        lambda d: (d / "generation_config.json").write_text("x"),
        ("generation_config.json", "JSON"),
    ),
]


def remove_entry_only(path: Path, name: str) -> None:
    """Takes a tensor out of the header and leaves its bytes."""
    header, data = read_raw(path)
    del header[name]
    write_raw(path, header, data)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    model = fakes_hf.make_model("qwen2", tie_word_embeddings=False)
    return fakes_hf.save(model, tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def sharded(single, tmp_path_factory) -> Path:
    """The same checkpoint in two shards."""
    directory = tmp_path_factory.mktemp("sharded") / "model"
    shutil.copytree(single, directory)
    header, data = read_raw(directory / WEIGHTS)
    metadata = header.pop("__metadata__")
    (directory / WEIGHTS).unlink()
    shards: dict[str, tuple[dict, bytes]] = {FIRST: ({}, b""), SECOND: ({}, b"")}
    for name, fields in header.items():
        file = FIRST if name.startswith("model.layers.0.") else SECOND
        begin, end = fields["data_offsets"]
        entries, stored = shards[file]
        entries[name] = fields | {"data_offsets": [len(stored), len(stored) + end - begin]}
        shards[file] = entries, stored + data[begin:end]
    for file, (entries, stored) in shards.items():
        write_raw(directory / file, {"__metadata__": metadata} | entries, stored)
    files = {name: file for file, (entries, _) in shards.items() for name in entries}
    index = {"metadata": {"total_size": len(data)}, "weight_map": files}
    (directory / INDEX).write_text(json.dumps(index))
    return directory


@pytest.fixture
def checkpoint(request, tmp_path) -> Path:
    case = request.node.callspec.params["case"]
    directory = tmp_path / "model"
    shutil.copytree(request.getfixturevalue("sharded" if case.sharded else "single"), directory)
    case.damage(directory)
    return directory


def load(directory: Path) -> dict:
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    return load_params(open_checkpoint(str(directory)), mesh, jnp.float32)


def test_there_are_enough_cases_and_none_twice():
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_with_one_line_that_names_what_is_wrong(case, checkpoint):
    with pytest.raises(UserError) as error:
        load(checkpoint)
    message = str(error.value)
    assert message.isprintable(), message
    assert len(message) < 600
    for name in case.names:
        assert name in message, message


def test_the_clean_checkpoints_load(single, sharded, capsys):
    """The control of every case above; both layouts hold the same weights."""
    from_single, from_sharded = load(single), load(sharded)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), from_single, from_sharded)
    assert all(jax.tree.leaves(same))
    assert capsys.readouterr().err == ""
    transformers.AutoModelForCausalLM.from_pretrained(sharded)


LENIENT = [case for case in CASES if case.transformers_loads_it]


@pytest.mark.parametrize("case", LENIENT, ids=lambda case: case.name)
def test_transformers_loads_it_without_an_error(case, checkpoint):
    """Why these checks exist; where transformers has become stricter, clear the case's mark."""
    transformers.AutoModelForCausalLM.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: (d / "pytorch_model.bin").write_bytes(b"never opened"),
        lambda d: (d / "modeling_evil.py").write_text("raise SystemExit('imported')"),
        lambda d: add_tensor(
            d / WEIGHTS, "model.layers.0.self_attn.rotary_emb.inv_freq", np.ones(4)
        ),
        lambda d: (d / "consolidated.safetensors").write_bytes(b"another layout, not read"),
        lambda d: (d / "tokenizer.json").unlink(),
        lambda d: (d / "special_tokens_map.json").symlink_to("tokenizer_config.json"),
    ],
    ids=["pickle beside", "code beside", "inv_freq", "consolidated", "no tokenizer", "link inside"],
)
def test_what_is_harmless_loads(change, single, tmp_path):
    shutil.copytree(single, tmp_path / "model")
    change(tmp_path / "model")
    assert load(tmp_path / "model")["embedding"].shape == (96, 32)


def test_a_wrong_total_size_is_said_and_not_used(sharded, tmp_path, capsys):
    shutil.copytree(sharded, tmp_path / "model")
    edit_json(tmp_path / "model" / INDEX, metadata={"total_size": 7})
    load(tmp_path / "model")
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "total_size is 7" in warning


def hub_cache(root: Path, source: Path) -> Path:
    """A snapshot as the hub's cache lays it out: every file a symlink to a blob."""
    repo = root / "models--a--b"
    (repo / "blobs").mkdir(parents=True)
    snapshot = repo / "snapshots" / ("c0ffee" * 6 + "beef")
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, repo / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(snapshot.name)
    return snapshot


def test_the_links_of_the_hubs_cache_are_followed_and_no_others(sharded, tmp_path):
    snapshot = hub_cache(tmp_path, sharded)
    assert load(snapshot)["embedding"].shape == (96, 32)
    plain = tmp_path / "elsewhere" / "snapshots" / "c0ffee"
    plain.parent.mkdir(parents=True)
    shutil.copytree(snapshot, plain, symlinks=True)
    shutil.copytree(snapshot.parent.parent / "blobs", tmp_path / "elsewhere" / "blobs")
    with pytest.raises(UserError, match="symlink that leads outside"):
        load(plain)
    (snapshot / SECOND).unlink()
    (snapshot / SECOND).symlink_to(sharded / SECOND)
    with pytest.raises(UserError, match=f"{SECOND} is a symlink that leads outside"):
        load(snapshot)


def test_a_hub_id_is_taken_from_the_cache_with_its_commit_told(
    sharded, tmp_path, monkeypatch, capsys
):
    """Offline, as on a compute node: huggingface_hub itself resolves the id in its cache."""
    snapshot = hub_cache(tmp_path, sharded)
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert open_checkpoint("a/b", revision=snapshot.name).directory == snapshot
    assert capsys.readouterr().err == ""
    assert open_checkpoint("a/b").directory == snapshot
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert snapshot.name in warning
    for path, revision in (("a/missing", None), ("a/b", "0" * 40)):
        with pytest.raises(UserError, match=f"'{path}' is no local directory") as error:
            open_checkpoint(path, revision)
        assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "path", ["no/such/dir", "./x", "~/nothing-there", "word", "a/b/c", "", "/"]
)
def test_what_is_no_model_is_said_so(path):
    with pytest.raises(UserError) as error:
        open_checkpoint(path)
    assert str(error.value).isprintable()


def test_a_file_that_changes_after_it_was_checked_is_refused(single, tmp_path):
    shutil.copytree(single, tmp_path / "model")
    checkpoint = open_checkpoint(str(tmp_path / "model"))
    cut(tmp_path / "model" / WEIGHTS, 20_000)
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    with pytest.raises(UserError, match=r"model.safetensors ended at byte 20000"):
        load_params(checkpoint, mesh, jnp.float32)


def test_every_byte_of_a_header_flipped_is_refused_or_harmless(single, tmp_path):
    """A flip that is accepted must have left names, dtypes, shapes and places as they were."""
    clean = read_header(single / WEIGHTS)
    raw = bytearray((single / WEIGHTS).read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    rng = np.random.default_rng(0)
    target = tmp_path / WEIGHTS
    refused = 0
    for position in rng.choice(8 + length, 250, replace=False):
        flipped = bytearray(raw)
        flipped[position] ^= 1 << int(rng.integers(8))
        target.write_bytes(flipped)
        try:
            found = read_header(target)
        except UserError as error:
            assert str(error).isprintable()
            refused += 1
        else:
            renamed = found.keys() ^ clean.keys()
            kept = {name: tensor for name, tensor in found.items() if name in clean}
            for name, tensor in kept.items():
                want = clean[name]
                assert (tensor.shape, tensor.dtype, tensor.offset) == (
                    want.shape,
                    want.dtype,
                    want.offset,
                )
            # A renamed tensor is one missing and one extra, which open_checkpoint refuses.
            assert len(renamed) in (0, 2)
    assert refused > 120


def test_nothing_outside_is_opened_and_no_code_is_imported(sharded, tmp_path):
    """Python's own audit hook watches a process that is given hostile directories."""
    hostile = tmp_path / "model"
    shutil.copytree(sharded, hostile)
    linked = tmp_path / "linked"
    shutil.copytree(sharded, linked)
    move_outside(linked, SECOND, link=True)
    remap(hostile, NORM, f"../outside/{SECOND}")
    (hostile / "modeling_evil.py").write_text("raise SystemExit(9)")
    code = """
import sys
from s1jax.models.hf import open_checkpoint
from s1jax.types import UserError
opened = []
def watch(event, args):
    if event == "open":
        opened.append(str(args[0]))
    if event in ("exec", "pickle.find_class", "subprocess.Popen", "os.system"):
        opened.append(event)
sys.addaudithook(watch)
for directory in sys.argv[1:]:
    try:
        open_checkpoint(directory)
    except UserError:
        continue
    raise SystemExit("it was opened")
print("\\n".join(opened))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(hostile), str(linked)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    opened = done.stdout.splitlines()
    assert str(hostile / CONFIG) in opened  # the hook sees what is opened
    assert not [path for path in opened if "/outside/" in path or "evil" in path]
    assert not {"exec", "pickle.find_class", "subprocess.Popen", "os.system"} & set(opened)


def test_a_header_at_the_limit_costs_bounded_time_and_memory(tmp_path):
    """A header that is all one list, or all keys, is read and refused without harm."""
    for text in (
        b'{"a":{"dtype":"F32","shape":[' + b"9," * (2 << 20) + b'9],"data_offsets":[0,4]}}',
        b'{"a":1' + b"".join(b',"k%d":1' % i for i in range(200_000)) + b',"a":1}',
        b'{"a":' + b"9" * (1 << 20) + b"}",
    ):
        assert len(text) < MAX_HEADER_BYTES
        write_raw(tmp_path / "x", text, b"\0" * 4)
        with pytest.raises(UserError) as error:
            read_header(tmp_path / "x")
        assert len(str(error.value)) < 600
    write_raw(tmp_path / "x", b"{" + b" " * MAX_HEADER_BYTES, b"")
    with pytest.raises(UserError, match="too large"):
        read_header(tmp_path / "x")


def test_the_constants_are_what_the_messages_say():
    assert set(safetensors.DTYPES) == {"F32", "BF16", "F16"}
    assert not hf.HARMLESS.fullmatch("model.layers.0.self_attn.rotary_emb.inv_freq.weight")
    assert hf.HARMLESS.fullmatch("model.layers.31.self_attn.rotary_emb.inv_freq")
