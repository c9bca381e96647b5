"""The folder of an export: files wait in a temporary folder, then replace the earlier export, manifest last.

Killed while it computes, an export leaves the earlier one whole; killed while it replaces files, it leaves a manifest
with `is_complete` false.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.atomic_write import temporaries, translate_os_errors, write_atomically

MANIFEST = "manifest.json"
_MADE_BY = "prunescope export"


class ExportFolder(AbstractContextManager["ExportFolder"]):
    """Context in which an export is written, until `finish`.

    `hashes` has the SHA-256 of each file by name. `removed` has the names of the earlier export's files that are gone.
    """

    def __init__(self, directory: Path) -> None:
        """Read the manifest of an earlier export, without changing the folder.

        Raises:
            WarehouseError: the folder has files that are not from an earlier export, or cannot be read.
        """
        self.directory = directory
        self.hashes: dict[str, str] = {}
        self.removed: tuple[str, ...] = ()
        self._earlier = _earlier_files(directory)
        self._temporary = TemporaryDirectory(prefix="prunescope-export-")

    def __exit__(self, *_: object) -> None:
        """Remove the temporary folder."""
        self._temporary.cleanup()

    def add(self, name: str, content: bytes) -> None:
        """Write one file to the temporary folder.

        Raises:
            ValueError: the name is taken, or no plain file name.
        """
        if name in {"", MANIFEST, *self.hashes} or Path(name).name != name or name.startswith("."):
            raise ValueError(f"{name!r} cannot name another file of the export")
        Path(self._temporary.name, name).write_bytes(content)
        self.hashes[name] = hashlib.sha256(content).hexdigest()

    def finish(self, facts: dict[str, Any]) -> tuple[Path, ...]:
        """Copy all files into place, remove those of the earlier export, and write the manifest with these facts.

        Returns:
            All files, the manifest last.

        Raises:
            WarehouseError: a file cannot be written or removed; the manifest then marks the export incomplete.
        """
        with _explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            for temporary in temporaries(self.directory):  # of an export that was killed
                temporary.unlink(missing_ok=True)
        names = sorted(self.hashes)
        # Until the last step the folder holds files of two exports.
        both = dict.fromkeys(sorted({*self._earlier, *names}), "")
        self._write_manifest({"made_by": _MADE_BY, "is_complete": False, "files": both})
        for name in names:
            with _explained(self.directory / name):
                write_atomically(self.directory / name, partial(shutil.copyfile, Path(self._temporary.name, name)))
        self.removed = tuple(sorted(self._earlier - {*names, MANIFEST}))
        with _explained(self.directory):
            for name in self.removed:
                (self.directory / name).unlink(missing_ok=True)
        self._write_manifest({"made_by": _MADE_BY, "is_complete": True, "files": self.hashes, **facts})
        return tuple(self.directory / name for name in (*names, MANIFEST))

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        with _explained(self.directory / MANIFEST):
            write_atomically(self.directory / MANIFEST, lambda temporary: temporary.write_bytes(text.encode()))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of the system into errors whose fix names this folder instead of the warehouse."""
    try:
        with translate_os_errors(path):
            yield
    except WarehouseError as error:
        raise WarehouseError(str(error).replace("place with --warehouse", "DIR")) from error


def _earlier_files(directory: Path) -> set[str]:
    """Return the names of an earlier export's files; raise WarehouseError if other files are in the folder."""
    with _explained(directory):
        if not directory.exists() or all(path.name.startswith(".prunescope-") for path in directory.iterdir()):
            return set()
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        made_by, files = manifest["made_by"], set(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        made_by, files = None, set()
    if made_by != _MADE_BY:
        raise WarehouseError(f"{directory} is not empty and holds no earlier export; choose a new folder")
    # A manifest from elsewhere could name files outside the folder, which must not be deleted.
    return {name for name in files if Path(name).name == name and name not in {"..", MANIFEST}}
