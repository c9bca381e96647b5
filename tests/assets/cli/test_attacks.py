"""Attacks on `prunescope sql`: one line of message, the right exit code, and nothing written."""

import io
from pathlib import Path

import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from tests.warehouse.attacks import Attack, attacks


@pytest.mark.parametrize(
    "attack",
    [
        # Those of one kind differ for DuckDB and not for the command; test_sql_process.py runs all.
        pytest.param(attack, id=attack.name, marks=[pytest.mark.exhaustive] if index % 40 else [])
        for index, attack in enumerate(attacks())
    ],
)
def test_the_command_ends_an_attack_in_one_line(
    attack: Attack,
    computed_once: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(attack.at(computed_once, tmp_path).sql))
    limits = ["--seconds", str(attack.seconds), "--memory", "0.5"]
    code = run(["sql", "-", *limits, "-o", str(tmp_path / "rows.csv")], Globals(warehouse=str(computed_once)))
    said = capfdbinary.readouterr().err.decode()
    assert "Traceback" not in said
    has_rows = (tmp_path / "rows.csv").exists()
    assert has_rows == (code == 0)
    if code:
        assert len(said.splitlines()) == 1
    attack.check(None if has_rows else said.removeprefix("error: ").strip(), has_rows and attack.expected != "empty")
    if attack.expected.startswith("wrong"):
        assert code == (1 if "needs more memory" in said else 2)
    if attack.expected == "stopped":
        assert code == 1
