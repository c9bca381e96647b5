"""Tests that output directories are complete or absent, and that only leftovers of killed runs are removed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.pruning.checkpoints.output_directory import atomic_directory, unfinished_directory

KILLED = """
import os, signal, sys
from pathlib import Path
from prunescope.pipelines.pruning.checkpoints.output_directory import atomic_directory
with atomic_directory(Path(sys.argv[1])) as scratch:
    (scratch / "half.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_a_killed_run_are_removed_by_the_next(tmp_path: Path) -> None:
    others = ["out-b", ".out-settings", ".out.writing-notes", ".outwriting-abcdefgh"]
    for name in others:
        (tmp_path / name).mkdir()
    for name in ("out", "out.writing-b"):  # the second one is another place
        killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / name], check=False)
        assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".out.writing-*/half.safetensors"))) == 2
    with atomic_directory(tmp_path / "out") as scratch:
        (scratch / "mine").touch()
    left = {path.name for path in tmp_path.iterdir()} - {*others, "out"}
    assert [name.startswith(".out.writing-b.writing-") for name in left] == [True]
    assert os.listdir(tmp_path / "out") == ["mine"]  # noqa: PTH208 (names)


def test_the_output_of_a_running_process_stays(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as theirs:
        (theirs / "weights").touch()
        with atomic_directory(tmp_path / "out"):
            assert (theirs / "weights").exists()
        assert (theirs / "weights").exists()
        (tmp_path / "out").rmdir()  # the faster one's was empty
    assert (tmp_path / "out" / "weights").exists()


@pytest.mark.parametrize(
    ("error", "stays"),
    [(InputError, False), (ComputationError, False), (KeyboardInterrupt, True), (MemoryError, True), (None, False)],
)
def test_unfinished_work_stays_for_the_same_command(
    error: type[BaseException] | None, stays: bool, tmp_path: Path
) -> None:
    def work() -> None:
        with unfinished_directory(tmp_path / "out") as scratch:
            (scratch / "layer").touch()
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    assert [path.name for path in tmp_path.iterdir()] == ([".out.unfinished"] if stays else [])
    with unfinished_directory(tmp_path / "out") as scratch:
        assert (scratch / "layer").exists() == stays


def test_a_link_at_the_path_of_unfinished_work_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / ".out.unfinished").symlink_to("theirs")
    with pytest.raises(InputError, match="out: cannot be written"), unfinished_directory(tmp_path / "out"):
        pass
