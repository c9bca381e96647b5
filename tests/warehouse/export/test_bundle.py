"""Export folders, which replace an earlier export as a whole, keep other files, and record an interruption."""

import hashlib
import json
import socket
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.export.bundle import MANIFEST, ExportFolder

ROOT = Path(__file__).parents[3]


def export(folder: Path, files: dict[str, str]) -> None:
    with ExportFolder(folder) as made:
        for name, text in files.items():
            made.add(name, text.encode())
        made.finish({"contents": sorted(files)})


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_manifest_has_the_hash_of_every_file_and_the_given_facts(tmp_path: Path) -> None:
    export(tmp_path / "deep" / "out", {"b.csv": "2", "a.csv": "1"})
    files = content(tmp_path / "deep" / "out")
    manifest = json.loads(files.pop(MANIFEST))
    assert manifest == {
        "made_by": "prunescope export",
        "is_complete": True,
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        "contents": ["a.csv", "b.csv"],
    }


def test_the_earlier_export_is_replaced_and_other_files_are_left_alone(tmp_path: Path) -> None:
    export(tmp_path, {"a.csv": "1", "b.csv": "2"})
    (tmp_path / "mine.txt").write_text("mine")
    export(tmp_path, {"b.csv": "3"})
    assert set(content(tmp_path)) == {"b.csv", "mine.txt", MANIFEST}
    assert content(tmp_path)["b.csv"] == "3"


def test_an_export_that_fails_leaves_the_earlier_one_whole(tmp_path: Path) -> None:
    export(tmp_path, {"a.csv": "1"})
    before = content(tmp_path)
    with pytest.raises(ValueError, match="cannot name"):
        export(tmp_path, {"a.csv": "2", "c.csv": "2", "../x": ""})
    assert content(tmp_path) == before


def test_a_failed_export_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        export(tmp_path / "new", {"a.csv": "1", "../x": ""})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", "x"),
        (MANIFEST, "{}"),
        (MANIFEST, "[1]"),
        (MANIFEST, "{"),
        (MANIFEST, '{"made_by": 1, "files": {}}'),
        (MANIFEST, '{"made_by": "prunescope export"}'),
    ],
)
def test_a_folder_that_is_no_earlier_export_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(WarehouseError, match="is not empty and holds no earlier export; choose a new folder"):
        ExportFolder(tmp_path)
    assert content(tmp_path) == {name: text}


def test_a_manifest_from_elsewhere_cannot_delete_files_outside(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / "out").mkdir()
    files = {"../precious": "", "..": "", ".": "", "/etc/passwd": ""}
    (tmp_path / "out" / MANIFEST).write_text(json.dumps({"made_by": "prunescope export", "files": files}))
    export(tmp_path / "out", {"a.csv": "1"})
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("name", ["../a", "/a", "a/b", MANIFEST, ".hidden", ""])
def test_a_name_that_leaves_the_folder_or_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    with ExportFolder(tmp_path / "out") as made:
        made.add("twice", b"")
        for wrong in (name, "twice"):
            with pytest.raises(ValueError, match="cannot name another file"):
                made.add(wrong, b"")


def test_a_file_in_the_place_of_the_folder_is_refused_with_a_fix_about_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WarehouseError, match="a part of the path is a file, not a folder: choose another DIR"):
            export(place, {})


def test_temporary_files_of_a_killed_export_are_removed_by_the_next(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    (tmp_path / f".prunescope-tmp-{host}-{dead.pid}-0.json").touch()
    export(tmp_path, {"a.csv": "1"})
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", MANIFEST}


# Kills an export of B over one of A before each of its file operations in turn. Prints what each kill left.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from prunescope.warehouse.export.bundle import ExportFolder

def export(folder, version):
    with ExportFolder(folder) as made:
        for number in range(4):
            made.add(f"{version if number % 3 else ''}{number}.csv", version.encode() * 1000)
        made.finish({})

root, left, was_killed = Path(sys.argv[1]), [], True
while was_killed:
    folder = root / str(len(left) % 3)  # each export finds the remains of an earlier one
    export(folder, "A")
    child = os.fork()
    if child == 0:
        seen = []
        def kill(event, given):
            if event in {"open", "os.rename", "os.remove", "os.mkdir"}:
                seen.append(event)
                if len(seen) > len(left):
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill)
        export(folder, "B")
        os._exit(0)
    was_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    texts = {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".prunescope")}
    left.append(texts)
print(json.dumps(left))
"""


def test_an_export_killed_before_any_file_operation_is_complete_or_marked_incomplete(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    made = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT / ".src")}, capture_output=True, check=True)
    found = []
    for texts in json.loads(made.stdout):
        manifest = json.loads(texts.pop(MANIFEST))
        versions = "".join(sorted({text[0] for text in texts.values()}))
        found.append(versions if manifest["is_complete"] else "incomplete")
        if manifest["is_complete"]:
            assert {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()} == manifest[
                "files"
            ]
    # The old export, then a marked mixture, then the new one: never complete with files of both.
    assert [version for version, _ in groupby(found)] == ["A", "incomplete", "B"]
    assert found.count("incomplete") > 20
    export(tmp_path / "0", {"a.csv": "1"})
    assert set(content(tmp_path / "0")) == {"a.csv", MANIFEST}


def test_an_export_that_fails_between_two_files_is_marked_incomplete_until_the_next(tmp_path: Path) -> None:
    export(tmp_path, {"a.csv": "1", "b.csv": "1", "c.csv": "1"})
    (tmp_path / "b.csv").unlink()
    (tmp_path / "b.csv").mkdir()  # a file cannot take its place
    with pytest.raises(WarehouseError, match="a folder is where the file must be"):
        export(tmp_path, {"a.csv": "2", "b.csv": "2", "d.csv": "2"})
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert not manifest["is_complete"]
    assert set(manifest["files"]) == {"a.csv", "b.csv", "c.csv", "d.csv"}, "whatever either of them had"
    (tmp_path / "b.csv").rmdir()
    export(tmp_path, {"d.csv": "3"})
    assert set(content(tmp_path)) == {"d.csv", MANIFEST}
    assert json.loads((tmp_path / MANIFEST).read_text())["is_complete"]
