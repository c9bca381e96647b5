"""Unexpected ends of a command: an error is one line, with --debug its traceback; an interrupt says what it leaves."""

import sys

import pytest

from prunescope.assets.cli import main
from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.instance import settings
from tests.assets.runs.test_refused_models import PanicException


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, RecursionError, PanicException])
@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_an_unexpected_error_is_one_line_and_a_traceback_with_debug_only(
    kind: type[BaseException],
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(_: object = None) -> str:
        raise kind("a pipe\nburst")

    monkeypatch.setattr(settings, "warehouse_root", broken)
    monkeypatch.setattr(sys, "argv", ["prunescope", *options, "tables"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert f"error: {kind.__name__}: a pipe burst" in said
    assert ("Traceback" in said) == ("--debug" in options)
    assert ("This is a bug" in said) != ("--debug" in options)


def test_an_interrupted_command_says_that_it_can_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object = None) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(settings, "warehouse_root", interrupted)
    assert run(["tables"], Globals()) == 130
    assert "run the command again to continue" in capsys.readouterr().err
