"""Tables and views in polars, Arrow and Hugging Face, equal to those in SQL row for row."""

from functools import partial

import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import prunescope
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.schema.table import sql_type
from prunescope.warehouse.storage.provenance import footer_json
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import provenance_of, put

WAYS = {
    "polars": lambda name, root: prunescope.scan(name, root).collect().to_dicts(),
    "arrow": lambda name, root: prunescope.arrow(name, root).to_table().to_pylist(),
    "hugging face": lambda name, root: prunescope.dataset(name, root).to_list(),
}


def in_sql(name, root):
    with prunescope.open(root) as connection:
        return connection.sql(f"SELECT * FROM {name}").to_arrow_table().to_pylist()


def sorted_rows(rows):
    return sorted(rows, key=repr)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    from prunescope.warehouse.storage.partition_store import Store

    store = Store(tmp_path_factory.mktemp("frames") / "a'b [c]*")
    for table in TABLES.values():
        for recipe in ("dense", "o'brien/%é"):
            put(store, table, recipe=recipe)
    return store.root


# The last way makes a data set of what Arrow gives.
@pytest.mark.parametrize("way", ["polars", "arrow", pytest.param("hugging face", marks=pytest.mark.exhaustive)])
def test_every_table_has_the_rows_of_sql(root, way):
    with prunescope.open(root) as connection:
        for name, table in TABLES.items():
            wanted = connection.sql(f"SELECT * FROM {name}").to_arrow_table().to_pylist()
            assert wanted, name
            found = WAYS[way](name, root)
            assert [*found[0]] == [column.name for column in table.columns], name
            assert sorted_rows(found) == sorted_rows(wanted), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["stg_variants", "variant_summary", "provenance"])
def test_a_view_has_the_rows_of_sql(root, way, name):
    wanted = in_sql(name, root)
    assert sorted_rows(WAYS[way](name, root)) == sorted_rows(wanted)
    assert wanted


@pytest.mark.parametrize("way", WAYS)
def test_a_table_without_a_file_has_its_columns_and_no_row(tmp_path, way):
    assert WAYS[way]("generations", tmp_path) == []
    assert prunescope.scan("generations", tmp_path).collect_schema().names() == TABLES["generations"].arrow().names
    assert prunescope.dataset("generations", tmp_path).column_names == TABLES["generations"].arrow().names


def test_a_lazy_scan_reads_only_the_needed_columns_and_files(root):
    plan = prunescope.scan("variants", root).filter(pl.col("recipe") == "dense").select("model", "sparsity").explain()
    assert "Parquet SCAN" in plan
    assert "PROJECT 2/" in plan or "PROJECT 3/" in plan
    assert isinstance(prunescope.arrow("variants", root), pyarrow.dataset.FileSystemDataset)


@pytest.mark.parametrize("read", [*WAYS.values(), in_sql], ids=[*WAYS, "sql"])
def test_files_of_another_version_have_null_in_missing_columns(store, read):
    table = TABLES["variants"]
    put(store, table)
    path = store.path(table, "tiny", "older")
    path.parent.mkdir()
    footer = {b"prunescope": footer_json(provenance_of("tiny", "older"), ())}
    old = pa.table(
        {"recipe": ["older"], "surplus": [1], "model": ["tiny"], "weights_masked": pa.array([7], pa.int32())}
    )
    pq.write_table(old.replace_schema_metadata(footer), path)
    rows = {row["recipe"]: row for row in read("variants", store.root)}
    assert [*rows["older"]] == table.arrow().names
    assert (rows["older"]["weights_masked"], rows["older"]["method"]) == (7, None)
    assert (rows["wanda-50"]["weights_masked"], rows["wanda-50"]["method"]) == (0, "method 0")
    with prunescope.open(store.root) as connection:
        shown = connection.sql("SELECT column_name, column_type FROM (DESCRIBE variants)").fetchall()
    assert shown == [(column.name, sql_type(column.type)) for column in table.columns]


@pytest.mark.parametrize("way", WAYS)
def test_an_unknown_name_is_refused(tmp_path, way):
    with pytest.raises(WarehouseError, match="there is no table or view 'x; drop'"):
        WAYS[way]("x; drop", tmp_path)


def test_the_warehouse_is_found_as_on_the_command_line(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRUNESCOPE_WAREHOUSE", raising=False)
    with prunescope.open() as connection:
        assert connection.execute("SELECT count(*) FROM models").fetchall() == [(0,)]
    monkeypatch.setenv("PRUNESCOPE_WAREHOUSE", str(root))
    with prunescope.open() as connection:
        assert connection.execute("SELECT count(*) FROM models").fetchall() == [(1,)]
    assert prunescope.scan("models").collect().height == 1
    assert prunescope.arrow("models").count_rows() == 1


@pytest.mark.parametrize(
    "way_in", [prunescope.open, partial(prunescope.scan, "models"), partial(prunescope.arrow, "models")]
)
def test_a_file_is_no_warehouse(way_in, tmp_path):
    (tmp_path / "passwd").write_text("x")
    with pytest.raises(WarehouseError, match="passwd is a file, not a warehouse; give the folder"):
        way_in(root=tmp_path / "passwd")
