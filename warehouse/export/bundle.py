"""Folder of an export: files are written to a temporary folder, then replace the earlier export, manifest last.

If an export is killed while it writes, the earlier one stays whole. If it is killed while it replaces files, the
manifest has `is_complete` false.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.atomic_write import temporaries, translate_os_errors, write_atomically

MANIFEST = "manifest.json"
_MADE_BY = "prunescope export"
_OURS = ".prunescope-"
_TEMPORARY = f"{_OURS}export-"


class ExportFolder:
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
        self._is_new = not directory.exists()

    def __enter__(self) -> Self:
        """Make the temporary folder.

        Raises:
            WarehouseError: the folder cannot be made.
        """
        with _explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.directory)
            for temporary in temporaries(self.directory):  # a manifest whose writer was killed
                temporary.unlink(missing_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.directory))
            self._lock = os.open(self._temporary, os.O_RDONLY)
            # The lock shows other exports that the writer of this folder is alive.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def add(self, name: str, content: bytes) -> None:
        """Write one file to the temporary folder.

        Raises:
            WarehouseError: the file cannot be written.
            ValueError: the name is taken, or is not a plain file name.
        """
        if name in {"", MANIFEST, *self.hashes} or Path(name).name != name or name.startswith("."):
            raise ValueError(f"{name!r} cannot name another file of the export")
        with _explained(self.directory / name), (self._temporary / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.hashes[name] = hashlib.sha256(content).hexdigest()

    def finish(self, facts: dict[str, Any]) -> tuple[Path, ...]:
        """Move all files into place, remove those of the earlier export, and write the manifest with these facts.

        Returns:
            All files, the manifest last.

        Raises:
            WarehouseError: a file cannot be moved, removed or written; the manifest then marks the export incomplete.
        """
        names = sorted(self.hashes)
        # Until the last step the folder holds files of two exports.
        both = dict.fromkeys(sorted({*self._earlier, *names}), "")
        self._write_manifest({"made_by": _MADE_BY, "is_complete": False, "files": both})
        with _explained(self.directory):
            for name in names:
                (self._temporary / name).replace(self.directory / name)
            self.removed = tuple(sorted(self._earlier - {*names, MANIFEST}))
            for name in self.removed:
                (self.directory / name).unlink(missing_ok=True)
        self._write_manifest({"made_by": _MADE_BY, "is_complete": True, "files": self.hashes, **facts})
        return tuple(self.directory / name for name in (*names, MANIFEST))

    def __exit__(self, kind: object, *_: object) -> None:
        """Remove the temporary folder, and the export's folder if it is new and the export failed."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        os.close(self._lock)
        if kind is not None and self._is_new:
            with suppress(OSError):
                self.directory.rmdir()

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
        if not directory.exists() or all(path.name.startswith(_OURS) for path in directory.iterdir()):
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


def _remove_leftovers(directory: Path) -> None:
    """Remove the temporary folders of killed exports; a running export holds the lock of its own."""
    for path in directory.glob(f"{_TEMPORARY}*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
        shutil.rmtree(path)
