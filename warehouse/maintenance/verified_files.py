"""The files of a warehouse that were found intact, remembered by size and time, so that each is read once."""

import hashlib
import json
import os
import warnings
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from prunescope.warehouse.core.errors import DamagedFileWarning, WarehouseError
from prunescope.warehouse.maintenance.verification import verify_file
from prunescope.warehouse.storage.atomic_write import write_atomically
from prunescope.warehouse.storage.file_state import stamp_of
from prunescope.warehouse.storage.location import Place


class VerifiedFiles(AbstractContextManager["VerifiedFiles"]):
    """A memory in the user's cache, written at the end of a `with` block; files of an object store are not read.

    A disk that alters bytes without a change of the file's time deceives it; `prunescope verify` reads every file.

    Attributes:
        unread: the files of an object store that were asked for.
    """

    def __init__(self, root: Place, cache: Path) -> None:
        self.unread = set[Place]()
        self._file = cache / "verified" / f"{hashlib.sha256(os.fsencode(str(root))).hexdigest()[:16]}.json"
        self._before: dict[str, str] = {}
        with suppress(OSError, ValueError):  # there is no memory yet, or it is damaged
            found = json.loads(self._file.read_text(encoding="utf-8"))
            self._before = found if isinstance(found, dict) else {}
        self._intact: dict[str, str] = {}

    def __exit__(self, *_: object) -> None:
        """Write the memory; files that are gone are forgotten."""
        intact = {path: stamp for path, stamp in self._before.items() if Path(path).exists()} | self._intact
        if intact != self._before:
            with suppress(WarehouseError):  # the next run reads the files again
                write_atomically(self._file, lambda temporary: temporary.write_text(json.dumps(intact)))

    def is_damaged(self, path: Place) -> bool:
        """Return whether a partition is not as it was written, with a warning; it is read only if it has changed since.

        A file of another partition, one that cannot be read, and a link, folder, FIFO or device are damaged too.
        """
        if not isinstance(path, Path):
            self.unread.add(path)
            return False
        name, stamp = str(path), stamp_of(path)
        if stamp is None:
            return False
        if stamp not in {self._intact.get(name), self._before.get(name)}:
            result = verify_file(path)
            if result.state in {"changed", "unreadable"}:
                then = "move it away: a run cannot write there" if path.is_dir() else "a run replaces it"
                warnings.warn(f"{path} is damaged ({result.reason}); {then}", DamagedFileWarning, stacklevel=2)
                return True
            self._intact[name] = stamp
        return False
