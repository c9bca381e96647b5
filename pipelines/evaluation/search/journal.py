"""Journal of an unfinished search: every measurement is stored when it ends, so that an interrupted search resumes."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from prunescope.pipelines.core.atomic_write import replace_file

Arrays = Mapping[str, NDArray[Any]]


class Journal:
    """Arrays of measurements, one file each; `fingerprint` is the hash of all that they depend on besides keys."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint

    def __contains__(self, key: object) -> bool:
        """Return whether a measurement is stored."""
        return self._file(key).exists()

    def _file(self, key: object) -> Path:
        name = hashlib.sha256(json.dumps([self._fingerprint, key], sort_keys=True).encode()).hexdigest()
        return self._folder / f"{name[:32]}.npz"

    def remember(self, key: object, measure: Callable[[], Arrays]) -> Arrays:
        """Return the measurement of a JSON key from the journal, or measure and store it; OSErrors pass."""
        file = self._file(key)
        damaged = (ValueError, EOFError, BadZipFile)
        with suppress(FileNotFoundError, *damaged), file.open("rb") as opened, np.load(opened) as stored:
            return dict(stored)
        arrays = measure()

        def write(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                np.savez(stream, **dict[str, Any](arrays))

        replace_file(file, write)
        return arrays
