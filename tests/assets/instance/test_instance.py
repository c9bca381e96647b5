"""The instance of a warehouse whose path has characters with a meaning in URLs."""

import os
from pathlib import Path

import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.instance.instance import open_instance
from prunescope.warehouse.catalogue.database import build_file

NAMES = ["a?b", "a?b=c&d", "100%", "a%41", "a%3Fb#c", "two words", 'it\'s "é"', "[x]*"]


@pytest.mark.parametrize("name", NAMES)
def test_the_history_lies_in_the_warehouse_whatever_its_name(tmp_path: Path, name: str) -> None:
    root = tmp_path / name / "warehouse"
    with open_instance(root) as instance:
        instance.add_dynamic_partitions("models", ["a"])
    with open_instance(root) as instance:
        assert instance.get_dynamic_partitions("models") == ["a"]
        assert Path(instance.root_directory).resolve() == root / "_dagster"
    assert (root / "_dagster" / "history" / "runs.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_interface_gets_a_path_without_a_question_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments[2]))
    root = tmp_path / "a?b"
    assert run(["ui", "--port", "3999", "--warehouse", str(root)], Globals()) == 0
    (environment,) = started
    assert not {"?", "%"} & set(environment["DAGSTER_HOME"])
    assert Path(environment["DAGSTER_HOME"]).resolve() == root / "_dagster"
    assert environment["PRUNESCOPE_WAREHOUSE"] == str(root)


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_is_written_whatever_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "_catalogue" / "prunescope.duckdb"
    build_file(tmp_path / name, path)
    assert path.stat().st_size
    assert [file.name for file in path.parent.iterdir()] == [path.name]
