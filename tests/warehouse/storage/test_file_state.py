"""A changed file is detected without opening it, on a disk and on a store."""

from pathlib import Path

import pytest
from upath import UPath

from prunescope.warehouse.storage.file_state import stamps
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store


@pytest.fixture(params=["disk", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    place = Store(tmp_path if request.param == "disk" else f"memory://stamps/{tmp_path.name}").root
    assert isinstance(place, UPath) == (request.param == "store")
    return place


def test_a_stamp_changes_with_its_file_and_is_missing_where_there_is_none(root: Place) -> None:
    paths = {name: root / "models" / f"model={name}" / "part.parquet" for name in ("a", "b", "c")}
    assert stamps(root, paths) == {}
    for name in ("a", "b"):
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_bytes(b"1")
    before = stamps(root, paths)
    assert {name: path for name, (path, _) in before.items()} == {name: paths[name] for name in ("a", "b")}
    paths["a"].write_bytes(b"22")
    after = stamps(root, paths)
    assert after["a"] != before["a"]
    assert after["b"] == before["b"]
