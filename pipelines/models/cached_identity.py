"""What is known of a model without fetching, converting or reading its weights, for those who look every half minute.

Files whose hash was remembered and have not changed since are known; all others are the next run's business.
"""

import hashlib
from pathlib import Path

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.sources import (
    EMBEDDED_SHA256,
    ENCODER,
    TOKENIZER_FILES,
    ModelIdentity,
    check_folder,
    converted_folder,
    identify,
    remembered_hash,
)


def known_folder(source: str, cache: Path) -> Path | None:
    """The folder of safetensors that `locate` would give, where it would have nothing to fetch and nothing to convert.

    Args:
        source: as for `locate`.
        cache: folder for what was fetched or converted.
    """
    path = Path(source).expanduser()
    if source == "embedded":
        folder = converted_folder(EMBEDDED_SHA256, cache)
    elif source == "embedded-encoder":
        folder = converted_folder(ENCODER.sha256, cache)
    elif path.is_dir():
        return path.resolve()
    elif path.is_file():
        found = remembered_hash(path, cache) if path.suffix == ".gguf" else None
        if found is None:
            return None
        folder = converted_folder(found, cache)
    else:
        return _from_hub_cache(source)
    return folder if folder.exists() else None


def known_identity(folder: Path, cache: Path) -> ModelIdentity | None:
    """The hashes of a model whose files were all hashed before; None where one is new or has changed.

    Raises:
        InputError: a file is missing, cut short or a pickle.
    """
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    files = [folder / "config.json", *check_folder(folder), *tokenizer]
    if any(remembered_hash(file, cache) is None for file in files):
        return None
    return identify(folder, cache)


def require_whole(model: Path) -> None:
    """Refuses a folder or a GGUF file of which something is missing or cut short, as far as headers tell.

    Raises:
        InputError: names the file and the reason.
    """
    if model.is_file():
        with model.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise InputError(f"{model}: not a GGUF file, or damaged; fetch it again")
        return
    check_folder(model)
    if not any((model / name).exists() for name in TOKENIZER_FILES):
        raise InputError(f"{model}: holds no tokenizer (tokenizer.json or the like)")


def stamp(model: Path) -> str:
    """Changes whenever a file of a model's folder, or a GGUF file, does; nothing is read.

    Raises:
        OSError: it is gone.
    """
    files = sorted(model.iterdir()) if model.is_dir() else [model]
    found = [(file.name, status.st_size, status.st_mtime_ns) for file in files for status in (file.stat(),)]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _from_hub_cache(source: str) -> Path | None:
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name, _, revision = source.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
