"""Messages with names from elsewhere: invisible characters are escaped on every path to the terminal."""

import os
import stat
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from rich.progress import TimeRemainingColumn

from prunescope.assets.cli import output, progress_bars
from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.cli.output import log, write_file
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.warehouse.core import formats

HOSTILE, SEEN = "m\x1b]0;x\x07\x9b2J\u202e[red]", "m\\x1b]0;x\\x07\\x9b2J\\u202e[red]"


def test_invisible_characters_are_escaped_in_messages_and_bars_and_lines_kept(capsys) -> None:
    with RichProgress() as bars:
        bars.planned(2)
        bars.start(HOSTILE, 1)
        [shown] = [
            column.render(bars._bars.tasks[-1]) for column in bars._bars.columns if hasattr(column, "text_format")
        ]
        bars.computed(HOSTILE, 1.0)
        bars.note(HOSTILE)
        bars.failed(HOSTILE, HOSTILE)
    assert str(shown) == SEEN
    log(f"{HOSTILE}\n\tnext")
    lines = [f"{SEEN}: 1.0 s", SEEN, f"{SEEN}: failed: {SEEN}", SEEN, "\tnext".expandtabs()]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("is_terminal", [True, False])
def test_rows_of_every_format_are_escaped_on_a_terminal_and_exact_elsewhere(capsys, monkeypatch, is_terminal) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    output.emit_bytes(f"text\n{HOSTILE}\n".encode(), None)
    assert capsys.readouterr().out == f"text\n{SEEN if is_terminal else HOSTILE}\n"


def test_in_a_pipe_a_long_task_is_reported_while_it_runs(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress_bars, "STATUS_SECONDS", 0.01)
    with RichProgress() as bars:
        bars.start("load the dense model", 7)
        bars.advance(3)
        said = ""
        while "3 of 7" not in said:
            said += capsys.readouterr().err
    assert "still at work: load the dense model, 3 of 7\n" in said


@pytest.fixture
def clock() -> SimpleNamespace:
    """Return seconds that a test sets."""
    return SimpleNamespace(now=0.0)


@pytest.fixture
def bars(clock: SimpleNamespace) -> Iterator[RichProgress]:
    with RichProgress() as shown:
        shown._bars.get_time = lambda: clock.now
        shown.planned(2)
        shown.begins("m", "calibration")
        yield shown


def test_a_log_has_a_line_per_long_step_and_partition(bars, clock, capsys) -> None:
    clock.now = 11.0
    bars.begins("m@a", "traces")
    clock.now = 11.5  # too short for a line of its own
    bars.computed("m@a", 0.5)
    bars.begins("m@b", "traces")
    clock.now = 23.0
    bars.failed("m@b", "no")
    lines = ["m: calibration: 11.0 s", "m@a: 0.5 s", "m@b: failed: no"]
    assert capsys.readouterr().err.splitlines() == lines


def test_bars_show_partitions_tokens_per_second_and_the_time_left(bars, clock) -> None:
    bars.start("calibrate", 4, 1000)
    whole, task = bars._bars.tasks
    assert whole.description == "m: calibration"
    clock.now = 5.0
    bars.advance(2)
    assert progress_bars.amount(task) == "2 of 4, 100 tokens/s"
    bars.computed("m", 5.0)
    clock.now = 10.0
    assert (progress_bars.amount(whole), whole.percentage, whole.elapsed) == ("1 of 2", 50, 10)
    bars.start("load", 1)
    assert progress_bars.amount(bars._bars.tasks[-1]) == ""
    assert any(isinstance(column, TimeRemainingColumn) for column in bars._bars.columns)


@pytest.mark.parametrize("is_debug", [False, True])
def test_a_library_warning_is_one_line_without_code_unless_debugging(capsys, monkeypatch, is_debug) -> None:
    def command(**_: object) -> None:
        for _ in range(2):
            warnings.warn("the model is\n  slow", UserWarning, stacklevel=1)

    monkeypatch.setattr(sys.modules["prunescope.assets.cli.application"], "app", command)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, file, *_: sys.stderr.write(f"{file}: {message}\n")
        assert run(["anything"], Globals(debug=is_debug)) == 0
    shown = capsys.readouterr().err
    assert shown == (f"{__file__}: the model is\n  slow\n" * 2 if is_debug else "warning: the model is slow\n")


def test_a_file_behind_a_link_is_replaced_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("file.csv")
    write_file(tmp_path / "link.csv", b"new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "file.csv").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_bytes)
        write_file(tmp_path / "pipe", b"rows")
        assert read.result(60) == b"rows"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_the_formats_of_the_command_line_are_those_of_the_warehouse() -> None:
    assert get_args(output.Format) == formats.FORMATS
