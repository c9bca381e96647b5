"""Journal of an unfinished search: every measurement is stored as it ends, so that a killed search goes on."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class Journal:
    """Arrays of finished measurements, one file each.

    Args:
        folder: created with the first measurement; None keeps nothing.
        fingerprint: of everything that measurements depend on beside their keys.
    """

    def __init__(self, folder: Path | None, fingerprint: str = "") -> None:
        self._folder, self._fingerprint = folder, fingerprint

    def remember(self, key: object, measure: Callable[[], Arrays]) -> Arrays:
        """Return a measurement from the journal, or measure and store it.

        Args:
            key: of the measurement, as JSON knows it.
            measure: measures; its names and arrays are stored whole or not at all.
        """
        if self._folder is None:
            return measure()
        name = hashlib.sha256(json.dumps([self._fingerprint, key], sort_keys=True).encode()).hexdigest()
        file = self._folder / f"{name[:32]}.npz"
        damaged = (OSError, ValueError, EOFError, BadZipFile)
        with suppress(*damaged), file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return dict(stored)
        arrays = measure()
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.savez(stream, **dict[str, Any](arrays))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        return arrays
