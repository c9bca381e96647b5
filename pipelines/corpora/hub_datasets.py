"""Documents of a data set on the hub or on disk, through the `datasets` library. No torch here.

Files of text, JSON and JSONL, and what comes with an installation, are `reading.py`'s.
"""

import hashlib
import json
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from prunescope.pipelines.core.errors import InputError

PREFIX = "hf:"
FORM = "hf:NAME[:CONFIG]:SPLIT[:COLUMN]"
# Documents are read from the beginning of the split, which may be larger than the disk.
MOST_DOCUMENTS = 10_000
Stamps = tuple[tuple[str, int, int], ...]


def split_source(source: str) -> tuple[str, str | None, str, str]:
    """Name, config, split and column of a source such as `hf:allenai/c4:en:train`.

    With a column the config is given too, if only as nothing between two colons; the column is else `text`.

    Raises:
        ValueError: it has another form.
    """
    parts = source.removeprefix(PREFIX).split(":")
    if len(parts) == 2:
        parts.insert(1, "")
    if not source.startswith(PREFIX) or len(parts) not in {3, 4} or not parts[0] or not all(parts[2:]):
        raise ValueError(f"{source!r} has not the form {FORM}")
    name, config, split, column = [*parts, "text"][:4]
    return name, config or None, split, column


def data_set_documents(source: str, what: str) -> tuple[str, ...]:
    """The first documents of a split.

    Args:
        source: `hf:NAME[:CONFIG]:SPLIT[:COLUMN]`; NAME is a data set of the hub, a folder of data files or one that
            `save_to_disk` wrote.
        what: what the source is for, as it stands in messages.

    Raises:
        InputError: there is no such set, config, split or column.
    """
    return _documents(source, what, _stamps(source))


def data_set_hash(source: str, what: str) -> str:
    """SHA-256 of the documents, remembered of a folder until it changes; arguments and errors as above."""
    stamps = _stamps(source)
    # Of what may change unseen the hash is that of the documents in hand, never one remembered of earlier ones.
    return _hash(source, what, stamps) if stamps else _hash.__wrapped__(source, what, stamps)


def _stamps(source: str) -> Stamps:
    """What changes when a file of the folder does; of a data set on the hub nothing is known."""
    folder = Path(split_source(source)[0]).expanduser()
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*")))


@lru_cache(maxsize=64)
def _hash(source: str, what: str, stamps: Stamps) -> str:
    return hashlib.sha256(json.dumps(_documents(source, what, stamps)).encode()).hexdigest()


@lru_cache(maxsize=1)  # they may be large
def _documents(source: str, what: str, stamps: Stamps) -> tuple[str, ...]:  # noqa: ARG001
    """The same, read once as long as nothing in its folder has changed."""
    name, config, split, column = split_source(source)
    import datasets

    try:
        rows = _rows(datasets, name, config, split)
        found = [row.get(column) for row in islice(rows, MOST_DOCUMENTS)]
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{what} {source}: {type(error).__name__}: {reason}; the form is {FORM}") from error
    texts = tuple(text for text in found if isinstance(text, str))
    if not texts or len(texts) < len(found):
        raise InputError(
            f"{what} {source}: column {column!r} of split {split!r} holds no texts; another is named by :COLUMN"
        )
    return texts


def _rows(datasets: Any, name: str, config: str | None, split: str) -> Any:  # noqa: ANN401 (imported when needed)
    folder = Path(name).expanduser()
    if any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        saved = datasets.load_from_disk(str(folder))
        return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
    # Rows come one by one: nothing but what is read is fetched.
    return datasets.load_dataset(str(folder) if folder.is_dir() else name, config, split=split, streaming=True)
