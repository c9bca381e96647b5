"""The process that compiles kernels beside a first run: its start, its folders and its end."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from prunescope.assets.runs import precompile
from prunescope.assets.runs.precompile import compiling_beside
from prunescope.pipelines.metrics.logit_blocks import run_kernels
from tests.assets.tiny_study import ROOT


def beside() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "prunescope.assets.runs.precompile" in command_line(each)]


def command_line(process: psutil.Process) -> list[str]:
    """Return the arguments of a child, which has none until the system has loaded its program."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if arguments := process.cmdline():
            return arguments
    return []


def test_compilation_starts_where_kernels_are_missing_or_older_than_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precompile, "_FOLDER", tmp_path)
    (tmp_path / "fused_kernels.py").touch()
    kept = tmp_path / "__pycache__" / "fused_kernels.shift_rows-1.py311.nbi"
    assert precompile._is_missing()
    kept.parent.mkdir()
    kept.touch()
    assert not precompile._is_missing()
    os.utime(kept, (0, 0))
    assert precompile._is_missing()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert not precompile._is_missing()


def test_compiled_kernels_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    run_kernels()
    assert not precompile._is_missing()
    with compiling_beside():
        assert not beside()


def test_compilation_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precompile, "_is_missing", lambda: True)
    with compiling_beside():
        assert len(beside()) == 1
    assert not beside()


@pytest.mark.exhaustive  # imports everything that a run does
def test_compilation_works_from_a_folder_with_modules_of_the_same_names(tmp_path: Path) -> None:
    for name in ("torch", "yaml", "assets"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    command = [sys.executable, "-P", "-m", "prunescope.assets.runs.precompile"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / ".src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
