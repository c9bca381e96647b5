"""Identity of a model from cached hashes, cheap enough for frequent checks; nothing is fetched, converted or hashed."""

import hashlib
from pathlib import Path

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import local_path, open_regular
from prunescope.pipelines.models.embedded import embedded_model
from prunescope.pipelines.models.file_validation import TOKENIZER_FILES
from prunescope.pipelines.models.sources import (
    ModelIdentity,
    check_folder,
    converted_folder,
    identify,
    is_hub_id,
    remembered_hash,
    tokenizer_files,
)


def known_folder(source: str, cache: Path) -> Path | None:
    """Return the folder that `locate` would return, or None if `locate` would have to fetch or convert."""
    path = local_path(source, "model")
    if (model := embedded_model(source)) is not None:
        folder = converted_folder(model.sha256, cache)
    elif path.is_dir():
        return path.resolve()
    elif path.is_file():
        digest = remembered_hash(path, cache) if path.suffix == ".gguf" else None
        if digest is None:
            return None
        folder = converted_folder(digest, cache)
    elif is_hub_id(source):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        name, _, revision = source.partition("@")
        try:
            folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, OSError):
            return None
    else:
        return None
    return folder if folder.exists() else None


def known_identity(folder: Path, cache: Path) -> ModelIdentity | None:
    """Return a model's hashes, or None if a file is new or changed since it was hashed; errors as in `check_folder`."""
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    files = [folder / "config.json", *check_folder(folder), *tokenizer]
    if any(remembered_hash(file, cache) is None for file in files):
        return None
    return identify(folder, cache)


def require_whole(model: Path) -> None:
    """Raise an InputError if a folder or GGUF file is incomplete; only file headers are read."""
    if not model.is_dir():
        with open_regular(model) as stream:
            if stream.read(4) != b"GGUF":
                raise InputError(f"{model}: not a GGUF file, or damaged; fetch it again")
        return
    check_folder(model)
    tokenizer_files(model)


def stamp(model: Path) -> str:
    """Return a hash of the names, sizes and times of a model's files, not of their contents; OSError if one is gone."""
    files = sorted(model.iterdir()) if model.is_dir() else [model]
    states = [(file.name, status.st_size, status.st_mtime_ns) for file in files for status in (file.stat(),)]
    return hashlib.sha256(repr(states).encode()).hexdigest()
