"""The files of a warehouse that were found intact, remembered by size and time, so that each is read once."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.maintenance.verification import verify_file
from prunescope.warehouse.storage.atomic_write import write_atomically
from prunescope.warehouse.storage.file_checksum import is_intact
from prunescope.warehouse.storage.file_state import stamp_of
from prunescope.warehouse.storage.location import Place


class VerifiedFiles:
    """A memory in the user's cache, written at the end of a `with` block; files of an object store are not read.

    A disk that alters bytes without a change of the file's time deceives it; `prunescope verify` reads every file.

    Attributes:
        unread: the files of an object store that were asked for.
    """

    def __init__(self, root: Place, cache: Path) -> None:
        """Read what was found earlier.

        Args:
            root: the warehouse.
            cache: the user's cache folder.
        """
        self.unread = set[Place]()
        self._file = cache / "verified" / f"{hashlib.sha256(os.fsencode(str(root))).hexdigest()[:16]}.json"
        self._before = _read(self._file)
        self._intact: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the memory; files that are gone are forgotten."""
        intact = {path: stamp for path, stamp in self._before.items() if Path(path).exists()} | self._intact
        if intact != self._before:
            with suppress(WarehouseError):  # the next run reads the files again
                write_atomically(self._file, lambda temporary: temporary.write_text(json.dumps(intact)))

    def is_damaged(self, path: Place) -> bool:
        """Return whether a byte of a partition is not as it was written; it is read only if it has changed since."""
        if not isinstance(path, Path):
            self.unread.add(path)
            return False
        name, stamp = str(path), stamp_of(path)
        if stamp is None:
            return False
        if stamp not in {self._intact.get(name), self._before.get(name)}:
            if not _is_whole(path):
                return True
            self._intact[name] = stamp
        return False


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        intact = is_intact(file)
    # Without a seal the file is from an early version, or the seal itself is damaged.
    return verify_file(path).state != "changed" if intact is None else intact


def _read(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
