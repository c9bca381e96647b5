"""Output directories that appear complete or not at all, and hidden directories for unfinished work next to them."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from prunescope.pipelines.core.atomic_write import sync
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.scratch_directory import Scratch, lock


def require_free(folder: Path) -> None:
    """Raise an InputError if the path is a file or not empty, or its parent folder is missing."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise InputError(f"{folder}: {what}; choose a folder that does not exist yet")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"{folder}: the folder {folder.parent} does not exist; make it first")


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder that is renamed to `folder` at the end, or removed after an error."""
    target = folder.absolute()
    with explained_write_errors(folder):
        # Removes what killed processes left of this target, but not folders that another process is writing.
        own = Scratch(f".{target.name}.writing-", target.parent)
        scratch = own.folder
        try:
            yield scratch
            mask = os.umask(0)
            os.umask(mask)
            scratch.chmod(0o777 & ~mask)
            for path in (*scratch.iterdir(), scratch):
                sync(path)
            scratch.rename(target)  # replaces an empty folder
            sync(target.parent)
        finally:
            own.discard()


@contextmanager
def unfinished_directory(folder: Path) -> Iterator[Path]:
    """Yield the hidden folder next to `folder` from which a killed run resumes.

    The folder stays if the process is killed, interrupted, or fails unexpectedly. It is removed if the work is done, or
    failed with an error of the input or the computation, which would recur.

    Raises:
        InputError: another process works in it, or it cannot be created.
    """
    target = folder.absolute()
    scratch = target.parent / f".{target.name}.unfinished"
    with explained_write_errors(folder):
        scratch.mkdir(exist_ok=True)
        # In a shared directory, another user's link of that name must not redirect the files.
        descriptor = os.open(scratch, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if lock(descriptor) is False:
            raise InputError(f"{folder}: another run is at work on it; wait for it or choose another folder")
        try:
            yield scratch
        except (InputError, ComputationError):
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(descriptor)


@contextmanager
def explained_write_errors(folder: Path) -> Iterator[None]:
    """Translate system errors while writing a folder into an InputError with the fix."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        is_full = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "No space" in str(error)
        fix = "the disk is full; free some space or choose another place" if is_full else f"{error}; choose another one"
        raise InputError(f"{folder}: cannot be written: {fix}") from error


def require_room(scratch: Path, needed: int) -> None:
    """Raise an InputError if the disk cannot hold this many bytes."""
    free = shutil.disk_usage(scratch).free
    if free < needed:
        raise InputError(
            f"{scratch.parent}: {needed / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free; "
            "free some space or choose another place"
        )
