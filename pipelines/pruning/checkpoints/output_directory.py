"""Where a folder appears: a place that is free, a hidden folder beside it while it is made, and what kills leave there.

What is written into it is `export.py`'s.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.scratch_directory import lock, remove_dead

_WRITING = ".writing-"


def check_place(folder: Path) -> None:
    """Refuses a place where no folder can be written.

    Raises:
        InputError: it is a file, is not empty, or the folder that it would lie in is missing.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise InputError(f"{folder}: {what}; choose a folder that does not exist yet")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"{folder}: the folder {folder.parent} does not exist; make it first")


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder beside the place, which gets the place's name at the end; gone after any error."""
    place = folder.absolute()
    with refusals_told(folder):
        _remove_leftovers(place)
        scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}{_WRITING}"))
        descriptor = os.open(scratch, os.O_RDONLY)
        try:
            lock(descriptor)
            yield scratch
            mask = os.umask(0)
            os.umask(mask)
            scratch.chmod(0o777 & ~mask)
            for path in (*scratch.iterdir(), scratch):
                _sync(path)
            scratch.rename(place)  # takes the place of an empty folder
            _sync(place.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(descriptor)


@contextmanager
def unfinished_beside(folder: Path) -> Iterator[Path]:
    """A folder beside the place for work that a killed run has finished, always the same one.

    It stays when the process is killed or interrupted, or fails in a way that nobody foresaw; it goes when the work is
    done and when it cannot be done, for then it cannot be done again either.

    Raises:
        InputError: another process works in it, or it cannot be made.
    """
    place = folder.absolute()
    scratch = place.parent / f".{place.name}.unfinished"
    with refusals_told(folder):
        scratch.mkdir(exist_ok=True)
        # In a folder that others may write to, a link of theirs would lead what is kept here to somewhere else.
        descriptor = os.open(scratch, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if lock(descriptor) is False:
            raise InputError(f"{folder}: another run is at work on it; wait for it or choose another place")
        try:
            yield scratch
        except (InputError, ComputationError):
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(descriptor)


def _remove_leftovers(place: Path) -> None:
    """Removes what killed processes left of the same place; what another one is writing stays."""
    # What follows in the name is tempfile's: the prefix of another place never looks like it.
    leftover = re.compile(re.escape(f".{place.name}{_WRITING}") + "[a-z0-9_]{8}")
    for path in place.parent.iterdir():
        if leftover.fullmatch(path.name):
            remove_dead(path)


@contextmanager
def refusals_told(folder: Path) -> Iterator[None]:
    """Turns what the system refuses while a folder is written into an InputError with the fix."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        is_full = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "No space" in str(error)
        fix = "the disk is full; free some space or choose another place" if is_full else f"{error}; choose another one"
        raise InputError(f"{folder}: cannot be written: {fix}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_room(scratch: Path, needed: int) -> None:
    """Refuses, with an InputError, to begin what the disk cannot hold."""
    free = shutil.disk_usage(scratch).free
    if free < needed:
        raise InputError(
            f"{scratch.parent}: {needed / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free; "
            "free some space or choose another place"
        )
