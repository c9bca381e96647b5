"""The instance of a warehouse whose path has characters with a meaning in URLs."""

from pathlib import Path

import pytest

from prunescope.assets.instance.instance import open_instance
from prunescope.warehouse.catalogue.database import build_file
from prunescope.warehouse.core.errors import WarehouseError

NAMES = ["100%", "two words", 'it\'s "é"', "[x]*"]
IN_URLS = ["a?b", "a?b=c&d", "a%41", "a%3Fb#c"]


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


@pytest.mark.parametrize("name", IN_URLS)
def test_a_history_whose_path_has_a_meaning_in_urls_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WarehouseError, match="choose another place"), open_instance(tmp_path / name):
        pass


@pytest.mark.parametrize("name", [*NAMES, *IN_URLS])
def test_the_catalogue_is_written_whatever_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "_catalogue" / "prunescope.duckdb"
    build_file(tmp_path / name, path)
    assert path.stat().st_size
    assert [file.name for file in path.parent.iterdir()] == [path.name]
