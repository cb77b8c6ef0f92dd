"""Import and export against transformers, on one device and on sixteen."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fakes_hf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from s1jax import config
from s1jax.mesh import make_mesh, shardings
from s1jax.models import decoder
from s1jax.models.config import from_hf
from s1jax.models.hf import ASSETS, open_checkpoint
from s1jax.models.names import TABLE, entries, flat_specs
from s1jax.models.safetensors import Tensor, read_blocks, read_header
from s1jax.models.weights import load_params, save_checkpoint
from s1jax.types import UserError

FAMILIES = {
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-untied": ("qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "llama": ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 1}),
}


def one_device() -> jax.sharding.Mesh:
    return make_mesh(config.Mesh(), jax.devices()[:1])


def our_logits(cfg, params, ids: np.ndarray) -> np.ndarray:
    tokens = jnp.asarray(ids)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    hidden, _ = decoder.apply(cfg, params, tokens, positions, jnp.ones_like(tokens))
    return np.asarray(decoder.logits(cfg, params, hidden))


def their_logits(model, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))).logits.float().numpy()


def leaves(params) -> dict[str, np.ndarray]:
    flat = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def assert_bit_equal(ours, theirs) -> None:
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        assert leaf.dtype == theirs[path].dtype, path
        assert leaf.tobytes() == theirs[path].tobytes(), path


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 96, (2, 7), dtype=np.int32)


@pytest.fixture(scope="module", params=list(FAMILIES))
def model_and_directory(request, tmp_path_factory):
    family, fields = FAMILIES[request.param]
    model = fakes_hf.make_model(family, **fields)
    return model, fakes_hf.save(model, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory) -> Path:
    model = fakes_hf.make_model("qwen2", tie_word_embeddings=False)
    return fakes_hf.save(model, tmp_path_factory.mktemp("qwen2"), max_shard_size="20KB")


def test_the_table_covers_every_parameter_of_every_family_once():
    for family, fields in FAMILIES.values():
        raw = {"model_type": family, **fakes_hf.SIZES, **fields}
        cfg = from_hf(raw)
        found = entries(cfg)
        covered = [(entry.path, entry.layer) for entry in found.values()]
        assert len(covered) == len(set(covered))
        assert {path for path, _ in covered} == set(flat_specs(cfg))
        assert sum(int(np.prod(entry.shape)) for entry in found.values()) == cfg.parameters
    patterns = [name for name, *_ in TABLE]
    assert len(patterns) == len(set(patterns))


def test_import_gives_transformers_logits(model_and_directory, ids):
    model, directory = model_and_directory
    checkpoint = open_checkpoint(str(directory))
    params = load_params(checkpoint, one_device(), jnp.float32)
    ours, theirs = our_logits(checkpoint.cfg, params, ids), their_logits(model, ids)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    # The control: two layers exchanged are another model.
    swapped = params | {"layers": jax.tree.map(lambda leaf: leaf[::-1], params["layers"])}
    assert np.abs(our_logits(checkpoint.cfg, swapped, ids) - theirs).max() > 1e-2


def test_export_is_what_transformers_saved(model_and_directory, tmp_path, ids):
    model, directory = model_and_directory
    checkpoint = open_checkpoint(str(directory))
    params = load_params(checkpoint, one_device(), jnp.float32)
    out = tmp_path / "out"
    save_checkpoint(out, checkpoint.raw, params, assets=directory, dtype="float32", card="# x\n")

    ours, theirs = (
        read_header(out / "model.safetensors"),
        read_header(directory / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert values(tensor).tobytes() == values(theirs[name]).tobytes(), name
    assert_bit_equal(load_params(open_checkpoint(str(out)), one_device(), jnp.float32), params)

    reloaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    np.testing.assert_array_equal(their_logits(reloaded, ids), their_logits(model, ids))
    assert (out / "README.md").read_text() == "# x\n"


def values(tensor: Tensor) -> np.ndarray:
    return np.concatenate([block.copy() for _, block in read_blocks(tensor, tensor.shape)])


def test_bfloat16_round_trip_is_bit_equal_and_loads(model_and_directory, tmp_path, ids):
    model, directory = model_and_directory
    checkpoint = open_checkpoint(str(directory))
    params = load_params(checkpoint, one_device(), jnp.bfloat16)
    save_checkpoint(tmp_path / "out", checkpoint.raw, params, assets=directory)
    exported = open_checkpoint(str(tmp_path / "out"))
    assert {tensor.dtype for tensor in exported.tensors.values()} == {"BF16"}
    assert_bit_equal(load_params(exported, one_device(), jnp.bfloat16), params)
    with pytest.raises(AssertionError):  # float32 weights are not those bfloat16 ones
        assert_bit_equal(load_params(checkpoint, one_device(), jnp.float32), params)

    spelling = "dtype" if "dtype" in checkpoint.raw else "torch_dtype"
    assert exported.raw == checkpoint.raw | {spelling: "bfloat16"}
    assert list(exported.raw) == list(checkpoint.raw)
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert reloaded.dtype == torch.bfloat16
    want = their_logits(model.to(torch.bfloat16), ids)
    model.to(torch.float32)
    np.testing.assert_allclose(their_logits(reloaded, ids), want, atol=2e-2)


def test_export_rounds_float32_as_torch_does(qwen2, tmp_path):
    checkpoint = open_checkpoint(str(qwen2))
    params = load_params(checkpoint, one_device(), jnp.float32)
    save_checkpoint(tmp_path / "out", checkpoint.raw, params, assets=qwen2)
    ours = read_header(tmp_path / "out" / "model.safetensors")
    for name, tensor in checkpoint.tensors.items():
        want = torch.from_numpy(values(tensor)).to(torch.bfloat16).view(torch.int16).numpy()
        assert values(ours[name]).tobytes() == want.tobytes(), name


def test_assets_travel_byte_for_byte(qwen2, tmp_path):
    (qwen2 / "chat_template.jinja").write_bytes(b"{{ x }}\r\n\xc3\xa9")
    checkpoint = open_checkpoint(str(qwen2))
    params = load_params(checkpoint, one_device(), jnp.float32)
    save_checkpoint(tmp_path / "out", checkpoint.raw, params, assets=qwen2)
    names = [name for name in ASSETS if (qwen2 / name).exists()]
    assert {"tokenizer.json", "generation_config.json", "chat_template.jinja"} <= set(names)
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (qwen2 / name).read_bytes(), name
    (qwen2 / "chat_template.jinja").unlink()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 89


@pytest.mark.parametrize("spelling", ["dtype", "torch_dtype"])
def test_config_keeps_its_spelling_of_the_dtype(qwen2, tmp_path, spelling):
    checkpoint = open_checkpoint(str(qwen2))
    raw = {k: v for k, v in checkpoint.raw.items() if k not in ("dtype", "torch_dtype")}
    params = load_params(checkpoint, one_device(), jnp.float32)
    save_checkpoint(tmp_path / "out", raw | {spelling: "float16"}, params, assets=qwen2)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == raw | {spelling: "bfloat16"}


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_files_are_cast_as_they_go(tmp_path, stored, ids):
    model = fakes_hf.make_model("qwen2", tie_word_embeddings=True).to(getattr(torch, stored))
    checkpoint = open_checkpoint(str(fakes_hf.save(model, tmp_path / "model")))
    params = load_params(checkpoint, one_device(), jnp.float32)
    ours = our_logits(checkpoint.cfg, params, ids)
    np.testing.assert_allclose(ours, their_logits(model.float(), ids), atol=1e-4)


def test_shards_stay_within_their_size_and_transformers_reads_the_index(qwen2, tmp_path, ids):
    checkpoint = open_checkpoint(str(qwen2))
    assert len({tensor.file for tensor in checkpoint.tensors.values()}) > 2
    params = load_params(checkpoint, one_device(), jnp.float32)
    out, limit = tmp_path / "out", 30_000
    save_checkpoint(out, checkpoint.raw, params, assets=qwen2, dtype="float32", shard_bytes=limit)
    files = sorted(out.glob("model-*.safetensors"))
    assert len(files) > 2
    assert all(path.stat().st_size <= limit for path in files)
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    sizes = sum(tensor.bytes for tensor in open_checkpoint(str(out)).tensors.values())
    assert index["metadata"]["total_size"] == sizes
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(out)
    original = transformers.AutoModelForCausalLM.from_pretrained(qwen2)
    np.testing.assert_array_equal(their_logits(reloaded, ids), their_logits(original, ids))


def test_a_tied_checkpoint_may_carry_its_head_again(tmp_path):
    directory = fakes_hf.save(
        fakes_hf.make_model("qwen2", tie_word_embeddings=True), tmp_path / "model"
    )
    file = directory / "model.safetensors"
    embedding = values(read_header(file)["model.embed_tokens.weight"])
    fakes_hf.add_tensor(file, "lm_head.weight", embedding)
    checkpoint = open_checkpoint(str(directory))
    params = load_params(checkpoint, one_device(), jnp.float32)
    assert "head_kernel" not in params
    fakes_hf.poke(file, "lm_head.weight", 1.0)
    checkpoint = open_checkpoint(str(directory))
    with pytest.raises(UserError, match=r"model.safetensors: tensor lm_head.weight is not bit"):
        load_params(checkpoint, one_device(), jnp.float32)


@pytest.mark.parametrize("sizes", [(1, 16, 1, 1), (1, 8, 1, 2), (2, 4, 1, 2), (1, 4, 4, 1)])
def test_each_device_gets_just_its_slices(qwen2, tmp_path, sizes):
    if jax.device_count() < 16:
        pytest.skip("needs 16 devices: XLA_FLAGS=--xla_force_host_platform_device_count=16")
    mesh = make_mesh(config.Mesh(*sizes), jax.devices()[:16])
    checkpoint = open_checkpoint(str(qwen2))
    params = load_params(checkpoint, mesh, jnp.float32)
    want = shardings(decoder.specs(checkpoint.cfg), mesh)
    jax.tree.map(lambda leaf, layout: check_layout(leaf, layout), params, want)
    assert_bit_equal(params, load_params(checkpoint, one_device(), jnp.float32))
    q_kernel = params["layers"]["attn"]["q"]["kernel"]
    ways = sizes[1] * sizes[2] * sizes[3]
    assert {shard.data.size * ways for shard in q_kernel.addressable_shards} == {q_kernel.size}

    save_checkpoint(tmp_path / "out", checkpoint.raw, params, assets=qwen2, dtype="float32")
    again = open_checkpoint(str(tmp_path / "out"))
    assert_bit_equal(load_params(again, one_device(), jnp.float32), params)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_number_on_one_of_sixteen_devices_is_found(qwen2, tmp_path, value):
    if jax.device_count() < 16:
        pytest.skip("needs 16 devices: XLA_FLAGS=--xla_force_host_platform_device_count=16")
    shutil.copytree(qwen2, tmp_path / "model")
    mesh = make_mesh(config.Mesh(1, 8, 1, 2), jax.devices()[:16])
    name = "model.layers.1.mlp.up_proj.weight"
    file = open_checkpoint(str(tmp_path / "model")).tensors[name].file
    fakes_hf.poke(file, name, 1.0)
    load_params(open_checkpoint(str(tmp_path / "model")), mesh, jnp.bfloat16)
    fakes_hf.poke(file, name, value)
    checkpoint = open_checkpoint(str(tmp_path / "model"))
    with pytest.raises(UserError, match=f"{file.name}: tensor {name} holds NaN or Inf"):
        load_params(checkpoint, mesh, jnp.bfloat16)


def check_layout(leaf: jax.Array, layout: jax.sharding.NamedSharding) -> None:
    assert leaf.sharding.is_equivalent_to(layout, leaf.ndim), (leaf.sharding, layout)


def test_two_processes_import_and_export_together(qwen2, tmp_path):
    """Each of two processes has half of the devices, and reads and holds only its part."""
    code = """
import sys, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
from pathlib import Path
import jax.numpy as jnp
from s1jax import config
from s1jax.mesh import make_mesh
from s1jax.models.hf import open_checkpoint
from s1jax.models.weights import load_params, save_checkpoint
checkpoint = open_checkpoint(sys.argv[3])
params = load_params(checkpoint, make_mesh(config.Mesh(fsdp=2, tensor=2)), jnp.float32)
assert len(params["embedding"].addressable_shards) == 2
save_checkpoint(Path(sys.argv[4]), checkpoint.raw, params, assets=Path(sys.argv[3]),
                dtype="float32")
"""
    import socket

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    root = Path(__file__).parent.parent
    out = tmp_path / "out"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, port, str(index), str(qwen2), str(out)],
            env=environment,
            cwd=root,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    ours, base = (open_checkpoint(str(path)) for path in (out, qwen2))
    assert_bit_equal(
        load_params(ours, one_device(), jnp.float32), load_params(base, one_device(), jnp.float32)
    )


@pytest.fixture
def exportable(qwen2):
    checkpoint = open_checkpoint(str(qwen2))
    return checkpoint, load_params(checkpoint, one_device(), jnp.float32)


def test_an_earlier_export_is_replaced_and_nothing_else(exportable, qwen2, tmp_path):
    checkpoint, params = exportable
    out = tmp_path / "out"

    def export(dtype: str = "bfloat16") -> None:
        save_checkpoint(out, checkpoint.raw, params, assets=qwen2, dtype=dtype)

    out.mkdir()
    export()  # an empty directory may be there
    export("float32")
    assert {t.dtype for t in open_checkpoint(str(out)).tensors.values()} == {"F32"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes.txt, which no export writes"):
        export()
    assert (out / "notes.txt").read_text() == "mine"

    foreign = tmp_path / "foreign"
    shutil.copytree(qwen2, foreign)
    with pytest.raises(UserError, match=r"holds a model that s1jax did not write"):
        save_checkpoint(foreign, checkpoint.raw, params, assets=qwen2)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UserError, match=r"is a file"):
        save_checkpoint(file, checkpoint.raw, params, assets=qwen2)


def test_a_full_disk_leaves_the_earlier_export(exportable, qwen2, tmp_path):
    resource = pytest.importorskip("resource")
    checkpoint, params = exportable
    out = tmp_path / "out"
    save_checkpoint(out, checkpoint.raw, params, assets=qwen2)
    before = (out / "model.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # writing beyond fails as when full
    try:
        with pytest.raises(UserError, match=r"out could not be written: File too large") as error:
            save_checkpoint(out, checkpoint.raw, params, assets=qwen2, dtype="float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "model.safetensors").read_bytes() == before


def test_a_model_that_is_not_finite_is_not_exported(exportable, qwen2, tmp_path):
    checkpoint, params = exportable
    kernel = params["layers"]["mlp"]["up"]["kernel"].at[1, 2, 3].set(jnp.inf)
    params["layers"]["mlp"]["up"]["kernel"] = kernel
    with pytest.raises(UserError, match=r"layers/mlp/up/kernel holds NaN or Inf"):
        save_checkpoint(tmp_path / "out", checkpoint.raw, params, assets=qwen2)
    assert not list(tmp_path.iterdir())


def test_an_export_killed_half_way_is_taken_up_again(exportable, qwen2, tmp_path):
    checkpoint, params = exportable
    leftover = tmp_path / ".out.s1jax-partial"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path / "out", checkpoint.raw, params, assets=qwen2)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_progress_counts_every_byte(qwen2, tmp_path):
    checkpoint = open_checkpoint(str(qwen2))
    seen: list[tuple[int, int]] = []
    params = load_params(checkpoint, one_device(), jnp.float32, lambda *state: seen.append(state))
    held = sum(tensor.bytes for tensor in checkpoint.tensors.values())
    assert len(seen) == len(checkpoint.tensors)
    assert seen[-1] == (held, held)
    seen.clear()
    save_checkpoint(
        tmp_path / "out",
        checkpoint.raw,
        params,
        assets=qwen2,
        progress=lambda *state: seen.append(state),
    )
    assert seen[-1] == (held // 2, held // 2)
    assert seen == sorted(seen)


def test_blocks_are_bounded_and_cover_the_tensor(tmp_path):
    array = np.arange(7 * 3 * 2, dtype=np.float32).reshape(7, 3, 2)
    fakes_hf.write_raw(tmp_path / "x", {}, b"")
    fakes_hf.add_tensor(tmp_path / "x", "x", array)
    tensor = read_header(tmp_path / "x")["x"]
    found = [
        (start, block.copy())
        for start, block in read_blocks(tensor, tensor.shape, block_bytes=2 * 24)
    ]
    assert [(start, len(block)) for start, block in found] == [(0, 2), (2, 2), (4, 2), (6, 1)]
    np.testing.assert_array_equal(np.concatenate([block for _, block in found]), array)
    ((start, block),) = read_blocks(tensor, tensor.shape, range(3, 5))
    assert start == 3
    np.testing.assert_array_equal(block, array[3:5])


def test_llama_cpp_knows_every_exported_name(model_and_directory, tmp_path):
    gguf = pytest.importorskip("gguf")
    _, directory = model_and_directory
    checkpoint = open_checkpoint(str(directory))
    params = load_params(checkpoint, one_device(), jnp.float32)
    save_checkpoint(tmp_path / "out", checkpoint.raw, params, assets=directory, dtype="float32")
    cfg = checkpoint.cfg
    arch = gguf.MODEL_ARCH[cfg.family.upper()]
    names = gguf.get_tensor_name_map(arch, cfg.layers)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", gguf.MODEL_ARCH_NAMES[arch])
    exported = open_checkpoint(str(tmp_path / "out")).tensors
    mapped = {}
    for name, tensor in exported.items():
        mapped[name] = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert mapped[name] is not None, name
        writer.add_tensor(mapped[name], values(tensor))
    assert len(set(mapped.values())) == len(exported)
    assert names.get_name("model.layers.0.self_attn.query.weight", (".weight",)) is None
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    for name, tensor in exported.items():
        assert list(reversed(read[mapped[name]].shape.tolist())) == list(tensor.shape), name
    blocks = {name for name in mapped.values() if name.startswith("blk.0.")}
    kinds = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"]
    kinds += ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
    assert {f"blk.0.{kind}.weight" for kind in kinds} <= blocks
    assert {"token_embd.weight", "output_norm.weight"} <= set(mapped.values())
    assert ("output.weight" in mapped.values()) == (not cfg.tied)
