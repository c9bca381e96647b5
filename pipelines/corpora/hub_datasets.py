"""Rows and documents of a data set on the hub or on disk, through the `datasets` library. No torch here."""

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.frozen_model import SOURCE
from prunescope.pipelines.core.regular_files import local_path, require_regular

PREFIX = "hf:"
FORM = "hf:NAME[:CONFIG]:SPLIT[:COLUMN]"
# Only the first documents of a split are read, because it may be larger than the disk.
MAX_DOCUMENTS = 10_000
FileStates = tuple[tuple[str, int, int], ...]


def split_source(source: str) -> tuple[str, str | None, str, str]:
    """Return name, config, split and column of a source such as `hf:allenai/c4:en:train`.

    The default column is `text`. A source with a column but no config has two colons before the split.

    Raises:
        InputError: the source has another form.
    """
    parts = source.removeprefix(PREFIX).split(":")
    if len(parts) == 2:
        parts.insert(1, "")
    if not source.startswith(PREFIX) or len(parts) not in {3, 4} or not parts[0] or not all(parts[2:]):
        raise InputError(f"{source!r} does not have the form {FORM}")
    name, config, split, column = [*parts, "text"][:4]
    return name, config or None, split, column


def _checked(source: str) -> str:
    if source.startswith(PREFIX):
        try:
            split_source(source)
        except InputError as error:  # pydantic adds the key to a ValueError
            raise ValueError(str(error)) from error
    return source


# Source of a text. One that begins with PREFIX must have the form of a data set.
TEXT_SOURCE = Annotated[SOURCE, AfterValidator(_checked)]


def data_set_documents(source: str, what: str) -> tuple[str, ...]:
    """Return the first documents of a split, `hf:NAME[:CONFIG]:SPLIT[:COLUMN]`.

    NAME is a data set of the hub, a folder of data files, or a folder that `save_to_disk` wrote. `what` names the use
    of the source, for messages.

    Raises:
        InputError: the set, config, split or column does not exist.
    """
    return _documents(source, what, data_set_state(source))


def data_set_hash(source: str, what: str) -> str:
    """Return the SHA-256 of the documents, cached until a folder changes; see `data_set_documents`."""
    return _hash(source, what, data_set_state(source))


def data_set_rows(source: str, what: str) -> Iterator[dict[str, Any]]:
    """Yield the first rows of a split; arguments and errors as in `data_set_documents`."""
    name, config, split, _ = split_source(source)
    import datasets

    try:
        yield from islice(_rows(datasets, name, config, split), MAX_DOCUMENTS)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{what} {source}: {type(error).__name__}: {reason}; the form is {FORM}") from error


def data_set_state(source: str) -> FileStates:
    """Return paths, times and sizes of a folder's files, none for a set on the hub; InputError for another form."""
    files = sorted(local_path(split_source(source)[0], "data set").rglob("*"))
    for file in files:
        if not file.is_dir():
            require_regular(file)
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files)


@lru_cache(maxsize=64)
def _hash(source: str, what: str, states: FileStates) -> str:
    return hashlib.sha256(json.dumps(_documents(source, what, states)).encode()).hexdigest()


@lru_cache(maxsize=1)  # documents may be large
def _documents(source: str, what: str, states: FileStates) -> tuple[str, ...]:  # noqa: ARG001 (key of the cache)
    _, _, split, column = split_source(source)
    values = [row.get(column) for row in data_set_rows(source, what)]
    texts = tuple(text for text in values if isinstance(text, str))
    if not texts or len(texts) < len(values):
        raise InputError(
            f"{what} {source}: column {column!r} of split {split!r} holds no texts; name another by :COLUMN"
        )
    return texts


def _rows(datasets: Any, name: str, config: str | None, split: str) -> Any:  # noqa: ANN401 (imported when needed)
    folder = Path(name).expanduser()
    if any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        saved = datasets.load_from_disk(str(folder))
        return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
    # Streaming fetches only the rows that are read.
    return datasets.load_dataset(str(folder) if folder.is_dir() else name, config, split=split, streaming=True)
