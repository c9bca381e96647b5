"""A pruning method in a user's file, from the command line: only with --allow-python, and computed anew if changed."""

from pathlib import Path

import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.planning.work_plan import StudyRequest
from tests.assets.tiny_study import StudyFile, computed, partitions, rows, without_answers, written_since

METHOD = """
from pathlib import Path
Path("ran").touch()
def scores(weight, inputs, sparsity):
    return weight.abs() * inputs.second_moment.sqrt().float()
"""
SEARCH = {
    "remove": [0.2], "menu": [*(f"own.py-{share}" for share in (10, 20, 30, 40)), "drop"], "controls": [],
    "source": "c4", "texts": 2, "length": 16, "prompts": 0, "measurements": 1,
}  # fmt: skip


def test_a_method_in_a_file_runs_only_if_allowed_and_again_if_its_text_changes(
    study: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    without_answers(monkeypatch)
    Path("own.py").write_text(METHOD)
    study.write(recipes=["dense", "own.py-50"], tasks=[])
    warehouse, options = tmp_path / "warehouse", ["--warehouse", str(tmp_path / "warehouse")]
    for command in ("plan", "run"):
        assert run([command, str(study.path), *options], Globals()) == 2
        assert "own.py-50: runs the code of a file with all your rights; read it" in capsys.readouterr().err
    pruned = ["prune", study.model, "--recipe", "own.py-50", "-o", str(tmp_path / "pruned")]
    assert run(list(map(str, pruned)), Globals()) == 2
    assert "pass --allow-python" in capsys.readouterr().err
    with pytest.raises(Exception, match="pass --allow-python"):  # the UI, a sensor and Ray come this way
        computed(StudyRequest(str(study.path)), warehouse, ("models", "variants"), "own.py-50")
    assert not Path("ran").exists()
    assert not [name for name in partitions(warehouse) if "own.py" in name]

    allowed = ["run", str(study.path), "--allow-python", *options]
    assert run(allowed, Globals()) == 0
    assert Path("ran").exists()
    before = partitions(warehouse)
    assert any("recipe=own.py-50" in name for name in before)
    assert run(allowed, Globals()) == 0
    assert partitions(warehouse) == before
    Path("own.py").write_text(f"{METHOD}\n# another text\n")
    assert run(allowed, Globals()) == 0
    assert {name.split("/")[-2] for name in written_since(before, warehouse)} == {"recipe=own.py-50"}


def test_a_search_chooses_from_a_method_in_a_file(
    study: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(METHOD)
    study.write(search=SEARCH, tasks=[])
    warehouse = tmp_path / "warehouse"
    line = ["search", str(study.path), "--no-judge", "--warehouse", str(warehouse)]
    assert run(line, Globals()) == 2
    assert "own.py-10: runs the code of a file" in capsys.readouterr().err
    assert run([*line, "--allow-python"], Globals()) == 0
    found = capsys.readouterr().out
    assert "own.py-" in found
    first = rows(warehouse)["search_trials/model=tiny-a/part.parquet"]["search"].to_pylist()
    # Another text is another search, whose trials are measured anew.
    Path("own.py").write_text(METHOD.replace("abs()", "abs().sqrt()"))
    assert run([*line, "--allow-python"], Globals()) == 0
    both = rows(warehouse)["search_trials/model=tiny-a/part.parquet"]["search"].to_pylist()
    assert len({*both} - {*first}) == 1


def test_a_file_that_changes_during_the_search_ends_it_without_a_result(
    study: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(f"{METHOD}\nPath('own.py').write_text(Path('own.py').read_text() + '#')\n")
    study.write(search=SEARCH, tasks=[])
    line = ["search", str(study.path), "--no-judge", "--allow-python", "--warehouse", str(tmp_path / "warehouse")]
    assert run(line, Globals()) == 2
    assert "a method's file was changed during the search" in capsys.readouterr().err
    assert not [name for name in partitions(tmp_path / "warehouse") if name.startswith("search_")]
