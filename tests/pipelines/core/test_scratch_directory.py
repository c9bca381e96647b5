"""Tests that scratch folders of running processes are kept and those of killed processes are removed."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prunescope.pipelines.core import scratch_directory

# Makes a folder, prints its path, and waits to be killed.
KEEPER = (
    "import signal; from prunescope.pipelines.core.scratch_directory import Scratch; "
    "print(Scratch().folder, flush=True); signal.pause()"
)


def test_the_next_process_removes_the_folder_of_a_killed_one(temporary: Path) -> None:
    command, environment = [sys.executable, "-c", KEEPER], os.environ | {"TMPDIR": str(temporary)}
    root = Path(__file__).parents[3]
    keeper = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
    with keeper:
        try:
            theirs = Path(keeper.stdout.readline().strip())
            assert theirs.parent == temporary
            (theirs / "layer").touch()
            own = scratch_directory.Scratch()
            scratch_directory.clean()
            assert (theirs / "layer").exists(), "its process is at work"
        finally:
            keeper.kill()
    scratch_directory.clean()
    assert not theirs.exists()
    assert own.folder.exists()
    own.discard()
    assert not list(temporary.iterdir())


def test_a_link_of_that_name_is_not_followed_and_other_folders_stay(temporary: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious" / "file"
    precious.parent.mkdir()
    precious.touch()
    (temporary / "prunescope-layers-linklink").symlink_to(precious.parent)
    others = [temporary / name for name in ("prunescope-layers", "prunescope-layers-of-models")]
    for other in others:
        other.mkdir()
    scratch_directory.clean()
    assert precious.exists()
    assert all(other.exists() for other in others)


def test_without_locks_nobody_knows_who_is_at_work_and_all_folders_stay(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(scratch_directory.fcntl, "flock", refuse)
    folder = temporary / "prunescope-layers-abcdefgh"
    folder.mkdir()
    scratch_directory.clean()
    assert folder.exists()


def test_a_folder_removed_by_another_process_is_made_again(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], scratch_directory.tempfile.mkdtemp

    def mkdtemp(**named: str | None) -> str:
        made.append(make(**named))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(scratch_directory.tempfile, "mkdtemp", mkdtemp)
    own = scratch_directory.Scratch()
    assert [str(own.folder)] == made[1:]
    assert own.folder.exists()
    own.discard()
