"""A Hugging Face model directory, read as a hostile one.

Every tensor's place is known before a weight is read: either each is what the decoder of
`config.json` needs, no fewer and no more, or the directory is refused with one sentence.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s1jax.models.config import ModelConfig, from_hf
from s1jax.models.names import EMBEDDING, HEAD, entries
from s1jax.models.safetensors import (
    Tensor,
    parse_object,
    read_bytes,
    read_header,
    regular_size,
    show,
)
from s1jax.types import UserError

# Buffers that old Llama checkpoints carry; rope's frequencies follow from the config.
HARMLESS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")

# What belongs to a model besides its weights and config, and travels with it byte for byte.
ASSETS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
MAX_JSON_BYTES = 128 << 20  # the largest tokenizers have 35 MB
HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class HFCheckpoint:
    """A directory whose every tensor is known to be in place; see `open_checkpoint`."""

    directory: Path
    cfg: ModelConfig
    raw: dict[str, Any]  # config.json
    tensors: dict[str, Tensor]

    @property
    def commit(self) -> str | None:
        """The commit of a snapshot of the hub's; None for a directory of the user's."""
        return self.directory.name if self.directory.parent.name == "snapshots" else None


def open_checkpoint(path: str, revision: str | None = None) -> HFCheckpoint:
    """The checkpoint of a local directory or a hub id, checked down to every tensor's place.

    Only headers are read here; NaN, Inf and files cut since then are found by `load_params`.
    Raises UserError that names the file and the tensor or field which is wrong.
    """
    directory = _locate(path, revision, HUB_FILES)
    raw = read_object(directory, "config.json")
    _refuse_code(directory, raw)
    cfg = _config_of(directory, raw)
    tensors = _match(cfg, *_read_weights(directory))
    _check_tokenizer(directory, cfg)
    return HFCheckpoint(directory, cfg, raw, tensors)


def open_config(path: str, revision: str | None = None) -> ModelConfig:
    """The sizes of a local directory's or a hub id's model; of the hub nothing else is fetched.

    Raises UserError as `open_checkpoint` does.
    """
    directory = _locate(path, revision, ["config.json"])
    return _config_of(directory, read_object(directory, "config.json"))


def _config_of(directory: Path, raw: dict[str, Any]) -> ModelConfig:
    where = str(directory / "config.json")
    try:
        return from_hf(raw, where)
    except (TypeError, AttributeError, OverflowError) as error:
        # A field holds a list or an object where every config has a number or a name.
        raise UserError(f"{where}: a field has a value of the wrong type ({error})") from error


def _locate(path: str, revision: str | None, files: list[str]) -> Path:
    local = Path(path).expanduser()
    if local.is_dir():
        return local.resolve()
    if local.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        raise UserError(
            f"{path!r} is neither a directory nor a hub id such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    import huggingface_hub

    try:
        snapshot = huggingface_hub.snapshot_download(
            path, revision=revision, allow_patterns=files, ignore_patterns=["*/*"]
        )
    except Exception as error:  # the errors of its HTTP client share no base class
        reason = show((str(error) or type(error).__name__).splitlines()[0])
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"{path!r} is no local directory and could not be had from the hub{at}: {reason}"
        ) from error
    if revision is None:
        commit = Path(snapshot).name
        print(
            f"warning: {path} has no pinned revision: took commit {commit}; pin it to get the"
            " same weights again",
            file=sys.stderr,
        )
    return Path(snapshot).resolve()


def contained(directory: Path, name: str) -> Path:
    """The path of a file of the directory, which need not exist.

    Raises UserError if the name or a symlink leads outside. The hub's cache keeps snapshots as
    symlinks to ../../blobs, and there only that is allowed.
    """
    path = directory / name
    if Path(name).name != name or "\\" in name or "\0" in name:
        raise UserError(f"{directory}: {show(name)} leads outside the directory")
    allowed = [directory]
    if directory.parent.name == "snapshots" and directory.parent.parent.name.startswith("models--"):
        allowed.append(directory.parent.parent / "blobs")
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of symlinks
        raise UserError(f"{path}: {error}") from error
    if target.parent not in allowed:
        raise UserError(f"{path} is a symlink that leads outside the directory, to {target}")
    return path


def read_object(directory: Path, name: str) -> dict[str, Any]:
    """A JSON file of the directory. UserError if it is missing or no JSON object."""
    path = contained(directory, name)
    if not path.exists():
        raise UserError(f"{path} is missing")
    return parse_object(read_bytes(path, MAX_JSON_BYTES), path)


def asset_files(directory: Path) -> list[Path]:
    """The tokenizer's files and generation_config.json, as far as they are there.

    Raises UserError for one that is no regular file or leads outside the directory.
    """
    paths = [contained(directory, name) for name in ASSETS]
    found = [path for path in paths if path.exists() or path.is_symlink()]
    for path in found:
        regular_size(path)
    return found


def _refuse_code(directory: Path, raw: dict[str, Any]) -> None:
    configs = {"config.json": raw}
    if contained(directory, "tokenizer_config.json").exists():
        configs["tokenizer_config.json"] = read_object(directory, "tokenizer_config.json")
    for name, config in configs.items():
        if config.get("auto_map"):
            raise UserError(
                f"{directory / name}: auto_map asks to run code that comes with the model;"
                " s1jax runs none"
            )


def _read_weights(directory: Path) -> tuple[dict[str, Tensor], Path]:
    """Every tensor of the directory's weights, and the file that lists them.

    Pickles beside safetensors are never opened; pickles alone are refused.
    """
    single, index = contained(directory, SINGLE), contained(directory, INDEX)
    listed = [path for path in (single, index) if path.exists() or path.is_symlink()]
    if len(listed) == 2:
        raise UserError(f"{directory} has both {SINGLE} and {INDEX}: remove the stale one")
    if not listed:
        pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
        if pickles:
            raise UserError(
                f"{directory / pickles[0]} is a pickle, which can run code when it is opened:"
                " convert the weights to safetensors first"
            )
        raise UserError(f"{directory} has no weights: neither {SINGLE} nor {INDEX}")
    if listed == [single]:
        _refuse_strays(directory, {SINGLE})
        return read_header(single), single
    return _read_sharded(directory, index), index


def _read_sharded(directory: Path, index: Path) -> dict[str, Tensor]:
    content = read_object(directory, INDEX)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: weight_map must be an object from tensors to files")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or "\\" in file or "\0" in file:
            raise UserError(
                f"{index}: weight_map puts tensor {show(name)} outside the directory,"
                f" into {show(str(file))}"
            )
        if not file.endswith(".safetensors"):
            raise UserError(
                f"{index}: weight_map puts tensor {show(name)} into {show(file)},"
                " which is no safetensors file"
            )
    files = set(weight_map.values())
    _refuse_strays(directory, files)
    tensors: dict[str, Tensor] = {}
    for file in sorted(files):
        path = contained(directory, file)
        if not path.exists():
            name = next(name for name, its_file in weight_map.items() if its_file == file)
            raise UserError(f"{index}: {file} is missing, which should hold tensor {show(name)}")
        for name, tensor in read_header(path).items():
            if name in tensors:
                raise UserError(f"{path}: tensor {show(name)} is also in {tensors[name].file.name}")
            if weight_map.get(name, file) != file:
                raise UserError(
                    f"{path}: tensor {show(name)} is here, and in {show(weight_map[name])} by"
                    f" the weight_map of {INDEX}"
                )
            if name not in weight_map:
                raise UserError(f"{path}: tensor {show(name)} is not in the weight_map of {INDEX}")
            tensors[name] = tensor
    for name, file in weight_map.items():
        if name not in tensors:
            path = directory / file
            raise UserError(f"{path}: tensor {show(name)} is missing, which {INDEX} puts there")
    _warn_of_total_size(content, tensors, index)
    return tensors


def _refuse_strays(directory: Path, files: set[str]) -> None:
    """Refuses a shard that nothing names: the left-over of another export, or a lost index."""
    strays = sorted({path.name for path in directory.glob("model*.safetensors")} - files)
    if strays:
        listing = SINGLE if files == {SINGLE} else INDEX
        raise UserError(
            f"{directory / show(strays[0])} is not part of the checkpoint that {listing} makes:"
            " remove it, or repair the index"
        )


def _warn_of_total_size(content: dict[str, Any], tensors: dict[str, Tensor], index: Path) -> None:
    """A wrong total_size is common and harmless: nothing here relies on it."""
    metadata = content.get("metadata")
    claimed = metadata.get("total_size") if isinstance(metadata, dict) else None
    held = sum(tensor.bytes for tensor in tensors.values())
    if claimed not in (None, held):
        claim = show(str(claimed))
        print(
            f"warning: {index}: total_size is {claim}, the tensors hold {held} bytes; not used",
            file=sys.stderr,
        )


def _match(cfg: ModelConfig, found: dict[str, Tensor], listing: Path) -> dict[str, Tensor]:
    """The tensors that the config needs, and no others: each is there once, in the right shape."""
    wanted = entries(cfg)
    tensors = {}
    for name, tensor in found.items():
        entry = wanted.get(EMBEDDING if cfg.tied and name == HEAD else name)
        if entry is not None:
            if tensor.shape != entry.shape:
                raise UserError(
                    f"{tensor.file}: tensor {name} has shape {list(tensor.shape)}, and"
                    f" {list(entry.shape)} by config.json ({entry.fields})"
                )
            tensors[name] = tensor
        elif not HARMLESS.fullmatch(name):
            layer = re.match(r"model\.layers\.(\d{1,9})\.", name)
            if layer and int(layer[1]) >= cfg.layers:
                why = f"and config.json has num_hidden_layers={cfg.layers}"
            else:
                why = f"which a {cfg.family} model with this config.json does not have"
            raise UserError(f"{tensor.file}: extra tensor {show(name)}, {why}")
    missing = [name for name in wanted if name not in tensors]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        hint = ", and tie_word_embeddings is not true" if missing[0] == HEAD else ""
        raise UserError(f"{listing}: tensor {missing[0]} is missing{more}{hint}")
    return tensors


def _check_tokenizer(directory: Path, cfg: ModelConfig) -> None:
    """Refuses a tokenizer whose ids go beyond the embedding, and assets that are not readable."""
    for path in asset_files(directory):
        if path.suffix != ".json":
            continue
        content = read_object(directory, path.name)
        ids = list(_token_ids(path.name, content))
        if any(type(i) is not int or i < 0 for i in ids):
            raise UserError(f"{path}: a token's id is not a whole number of at least 0")
        if ids and max(ids) >= cfg.vocab_size:
            raise UserError(
                f"{path}: token id {max(ids)} is beyond the embedding, which has"
                f" {cfg.vocab_size} rows (config.json: vocab_size)"
            )


def _token_ids(name: str, content: dict[str, Any]) -> Iterator[Any]:
    if name in ("vocab.json", "added_tokens.json"):
        yield from content.values()
    if name == "tokenizer_config.json":
        decoder = content.get("added_tokens_decoder")
        for key in decoder if isinstance(decoder, dict) else ():
            yield int(key) if key.isdecimal() and len(key) < 20 else key
    if name == "tokenizer.json":
        model = content.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocab, dict):
            yield from vocab.values()
        elif isinstance(vocab, list) and vocab:  # Unigram: a list, whose index is the id
            yield len(vocab) - 1
        added = content.get("added_tokens")
        for token in added if isinstance(added, list) else ():
            yield token.get("id") if isinstance(token, dict) else token
