"""The folder of an export: all files are made aside, then take the place of the earlier export's, the manifest last.

What the files hold is the caller's business. Killed while making them, an export leaves the earlier one whole; killed
while putting them in place, it leaves a manifest that says so.
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
from types import TracebackType
from typing import Any, Self

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.atomic_write import temporaries, translate_os_errors, write_atomically

MANIFEST = "manifest.json"
_MADE_BY = "prunescope export"
_OURS = ".prunescope-"
_ASIDE = f"{_OURS}export-"


class ExportFolder:
    """An export in the making; used as a context, and finished by `finish`.

    Attributes:
        directory: the folder.
        hashes: SHA-256 of each file so far, by its name.
    """

    def __init__(self, directory: Path) -> None:
        """Looks at the folder and changes nothing.

        Raises:
            WarehouseError: it holds something else than an earlier export, or cannot be read.
        """
        self.directory = directory
        self.hashes: dict[str, str] = {}
        self._earlier = _earlier_files(directory)
        self._is_new = not directory.exists()

    def __enter__(self) -> Self:
        """Makes the place aside.

        Raises:
            WarehouseError: the system refused.
        """
        with _explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.directory)
            for temporary in temporaries(self.directory):  # a manifest whose writer died
                temporary.unlink(missing_ok=True)
            self._aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self.directory))
            self._lock = os.open(self._aside, os.O_RDONLY)
            # Whoever finds the folder unlocked knows that its writer is dead.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def add(self, name: str, content: bytes) -> None:
        """Writes one file aside.

        Raises:
            WarehouseError: the system refused.
            ValueError: there is a file of that name already, or it is no plain name.
        """
        if name in {"", MANIFEST, *self.hashes} or Path(name).name != name or name.startswith("."):
            raise ValueError(f"{name!r} is no name for another file of the export")
        with _explained(self.directory / name), (self._aside / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.hashes[name] = hashlib.sha256(content).hexdigest()

    def finish(self, told: dict[str, Any]) -> tuple[Path, ...]:
        """Puts all files in place, removes what only the earlier export had, and writes the manifest.

        Args:
            told: goes into the manifest beside the files' hashes.

        Returns:
            All files, the manifest last.

        Raises:
            WarehouseError: the system refused; the manifest then says that the export is incomplete.
        """
        names = sorted(self.hashes)
        # From here until the last step the folder holds files of two exports.
        both = dict.fromkeys(sorted({*self._earlier, *names}), "")
        self._tell({"made_by": _MADE_BY, "is_complete": False, "files": both})
        with _explained(self.directory):
            for name in names:
                (self._aside / name).replace(self.directory / name)
            for name in self._earlier - set(names):
                (self.directory / name).unlink(missing_ok=True)
        self._tell({"made_by": _MADE_BY, "is_complete": True, "files": self.hashes, **told})
        return tuple(self.directory / name for name in (*names, MANIFEST))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Removes the place aside, and the folder where it is new and nothing came of it."""
        shutil.rmtree(self._aside, ignore_errors=True)
        os.close(self._lock)
        if error is not None and self._is_new:
            with suppress(OSError):
                self.directory.rmdir()

    def _tell(self, manifest: dict[str, Any]) -> None:
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

        def write(temporary: Path) -> None:
            temporary.write_bytes(text.encode())

        with _explained(self.directory / MANIFEST):
            write_atomically(self.directory / MANIFEST, write)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Refusals of the system as errors whose fix is about this folder, not about the warehouse."""
    try:
        with translate_os_errors(path):
            yield
    except WarehouseError as error:
        raise WarehouseError(str(error).replace("place with --warehouse", "DIR")) from error


def _earlier_files(directory: Path) -> set[str]:
    """Names of the files that an earlier export wrote here; refuses a folder with anything else in charge of it."""
    with _explained(directory):
        if not directory.exists() or all(path.name.startswith(_OURS) for path in directory.iterdir()):
            return set()
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        made_by, files = manifest["made_by"], set(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        made_by, files = None, set()
    if made_by != _MADE_BY:
        raise WarehouseError(f"{directory} is not empty and no earlier export; choose a new folder")
    # A manifest from elsewhere must not name files to delete outside the folder.
    return {name for name in files if Path(name).name == name and name not in {"..", MANIFEST}}


def _remove_leftovers(directory: Path) -> None:
    """Removes what killed exports made aside; one that is still at work holds its lock."""
    for path in directory.glob(f"{_ASIDE}*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
        shutil.rmtree(path)
