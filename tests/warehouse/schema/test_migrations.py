"""Files of earlier versions are read as if the present version had written them."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prunescope
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.maintenance.diagnostics import diagnose
from prunescope.warehouse.schema.migrations import lacks, relation, upgraded, version_of
from prunescope.warehouse.schema.table import Column, Migration, Table
from prunescope.warehouse.storage.file_checksum import UNSEALED
from prunescope.warehouse.storage.footer_probe import recognised
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import FOOTER_KEY
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import put as write

# Written by the store of commits cb48a24, f8c1493, 0c69cda and bd9eeb0, whose names are the files' code versions.
OLD = sorted((Path(__file__).parent / "old").glob("*.parquet"))
VARIANTS = TABLES["variants"]
ADDED_SINCE_2 = ["weights_updated", "bytes_removed", "drop_order", "drop_scores", "facts_json"]


def table_and_version(path: Path) -> tuple[Table, int]:
    name, version, _ = path.name.split(".")
    return TABLES[name], int(version)


def put(path: Path, store: Store, recipe: str = "wanda-50") -> Path:
    """Store the old file as the partition of a variant of tiny, with the variant's name in its footer."""
    table, _ = table_and_version(path)
    place = store.path(table, "tiny", recipe if table.partitioning == "variant" else None)
    place.parent.mkdir(parents=True)
    shutil.copy(path, place)
    if recipe != "wanda-50":
        rows = pq.read_table(path)
        footer = rows.schema.metadata[FOOTER_KEY].replace(b'"wanda-50"', f'"{recipe}"'.encode())
        kept = {key: value for key, value in rows.schema.metadata.items() if key not in UNSEALED}
        pq.write_table(rows.replace_schema_metadata(kept | {FOOTER_KEY: footer}), place)
    return place


def read(store: Store, table: Table) -> pa.Table:
    return store.read(table, "tiny", "wanda-50" if table.partitioning == "variant" else None)


@pytest.mark.parametrize("path", OLD, ids=[path.stem for path in OLD])
def test_an_old_file_is_recognised_by_its_columns_alone(path: Path) -> None:
    table, version = table_and_version(path)
    schema = pq.read_schema(path)
    # The first files named no version.
    assert schema.metadata.get(b"version", str(version).encode()) == str(version).encode()
    assert version_of(table, schema) == version_of(table, schema.remove_metadata()) == version < table.version


@pytest.mark.parametrize("path", OLD, ids=[path.stem for path in OLD])
def test_an_old_file_reads_alike_through_sql_the_store_polars_and_arrow(path: Path, store: Store) -> None:
    table, version = table_and_version(path)
    stored = pq.read_table(path)
    put(path, store)
    back = read(store, table)
    with prunescope.open(store.root) as connection:
        through_sql = connection.sql(f"SELECT * FROM {table.name}")
        rows = [dict(zip(through_sql.columns, row, strict=True)) for row in through_sql.fetchall()]
    assert back.column_names == [column.name for column in table.columns]
    assert back.schema.types == table.arrow().types
    assert rows == back.to_pylist() == pl.DataFrame(back).to_dicts() == upgraded(table, stored).to_pylist()
    unchanged = [name for name in stored.column_names if name in back.column_names]
    assert back.select(unchanged).to_pylist() == stored.select(unchanged).to_pylist()
    lacking = lacks(table, version)
    assert lacking
    assert all(back[name].null_count == stored.num_rows for name in lacking)
    assert all(back[name].null_count < stored.num_rows for name in back.column_names if name not in lacking) or (
        table.name in {"variants", "option_subspace"}
    )


def test_the_renamed_hash_of_a_variant_has_its_new_name(store: Store) -> None:
    put(OLD[[path.name for path in OLD].index("variants.1.parquet")], store)
    assert read(store, VARIANTS)["variant_hash"].to_pylist() == ["mask_hash 0"]
    with prunescope.open(store.root) as connection:
        hashes = connection.sql("SELECT variant_hash, weights_updated FROM stg_variants").fetchall()
    assert hashes == [("mask_hash 0", None)]
    assert lacks(VARIANTS, 1) == lacks(VARIANTS, 2) == ADDED_SINCE_2
    assert lacks(VARIANTS, 3) == ["bytes_removed"]


def test_files_of_all_versions_are_one_table(store: Store) -> None:
    by_name = {path.name: path for path in OLD}
    put(by_name["variants.1.parquet"], store, "first")
    put(by_name["variants.2.parquet"], store, "second")
    put(by_name["variants.3.parquet"], store, "third")
    write(store, VARIANTS)
    with prunescope.open(store.root) as connection:
        rows = connection.sql(
            "SELECT variant_hash, weights_updated, bytes_removed FROM variants ORDER BY ALL"
        ).fetchall()
    now, earlier = ("variant_hash 0", 0, 0), [("variant_hash 0", 0, None), ("variant_hash 0", None, None)]
    assert rows == [("mask_hash 0", None, None), now, *earlier]


def test_the_doctor_distinguishes_old_files_from_those_of_no_version(store: Store, fill) -> None:
    fill(store, "tiny", "wanda-50")
    variants = next(path for path in OLD if path.name == "variants.1.parquet")
    place = store.path(VARIANTS, "tiny", "wanda-50")
    shutil.copy(variants, place)
    [finding] = diagnose(store.root)
    assert (finding.level, finding.subject) == ("warning", str(place))
    assert finding.message == (
        "was written by version 1 of its table, which has 4 now: it is read with NULL for "
        "weights_updated, bytes_removed, drop_order, drop_scores, facts_json"
    )


def test_new_files_name_their_version(store: Store) -> None:
    for table in TABLES.values():
        assert pq.read_schema(write(store, table).path).metadata[b"version"] == str(table.version).encode()


@pytest.mark.parametrize(("told", "is_known"), [(b"4", True), (b"3", False), (b"44", False), (None, False)])
def test_the_same_columns_of_another_version_are_not_recognised_by_their_bytes(
    store: Store, tmp_path: Path, told: bytes | None, is_known: bool
) -> None:
    path = write(store, VARIANTS).path
    rows = pq.read_table(path)
    metadata = {key: value for key, value in rows.schema.metadata.items() if key != b"version"}
    told_rows = rows.replace_schema_metadata(metadata | ({} if told is None else {b"version": told}))
    pq.write_table(told_rows, tmp_path / "told.parquet")
    assert (recognised(VARIANTS, (tmp_path / "told.parquet").read_bytes()) is not None) == is_known


THREE = Table(
    name="three",
    grain="One row per id.",
    key=("id",),
    columns=(
        Column(pa.int64(), "id", "Id."),
        Column(pa.float64(), "share", "Share, once a percentage in text.", since=3),
        Column(pa.string(), "note", "Note.", since=2, nullable=True),
    ),
    version=3,
    migrations=(
        Migration(2, (Column(pa.int32(), "number", "Id."),), {"id": "number * 10"}),
        Migration(3, (Column(pa.string(), "share", "Percentage."),), {"share": "CAST(share AS DOUBLE) / 100"}),
    ),
)


def three(*columns: Column) -> Table:
    return Table(**{**vars(THREE), "columns": columns})


FIRST = pa.table({"number": pa.array([2, 1, 2**31 - 1], pa.int32()), "share": ["50", None, "1e2"]})


def test_renamed_and_retyped_columns_go_through_every_migration_in_order_of_rows() -> None:
    table = three(replace(THREE.columns[0], since=2), *THREE.columns[1:])
    assert [version_of(table, FIRST.schema), table.stored(1)] == [1, {"share": pa.string(), "number": pa.int32()}]
    wanted = {"id": [20, 10, 21474836470], "share": [0.5, None, 1.0], "note": [None] * 3}
    # In SQL an int32 times 10 must not overflow unseen: it raises, and the expression has to be wide enough.
    with pytest.raises(Exception, match="Overflow"):
        upgraded(table, FIRST)
    table = Table(**{**vars(table), "migrations": (widened(table.migrations[0]), table.migrations[1])})
    assert upgraded(table, FIRST).to_pydict() == wanted
    with warehouse_of(FIRST) as connection:
        query = relation(table, {1: "old"})
        assert connection.sql(query).to_arrow_table().to_pydict() == wanted


def widened(migration: Migration) -> Migration:
    return Migration(migration.to, migration.replaced, {"id": "CAST(number AS BIGINT) * 10"})


def warehouse_of(old: pa.Table):
    import duckdb

    connection = duckdb.connect()
    connection.register("old", old)
    return connection


def test_the_named_version_decides_where_two_versions_have_equal_columns() -> None:
    columns = (Column(pa.int64(), "id", "Id."), Column(pa.float64(), "share", "Share.", since=2))
    percent = Migration(2, (Column(pa.float64(), "share", "Per cent."),), {"share": "share / 100"})
    table = Table(**{**vars(THREE), "columns": columns, "version": 2, "migrations": (percent,)})
    rows = pa.table({"id": [1], "share": [50.0]})
    told = {version: rows.replace_schema_metadata({b"version": version}) for version in (b"1", b"2", b"3")}
    assert version_of(table, rows.schema) == 2
    assert {key: version_of(table, each.schema) for key, each in told.items()} == {b"1": 1, b"2": 2, b"3": None}
    assert upgraded(table, told[b"1"])["share"].to_pylist() == [0.5]
    assert upgraded(table, told[b"2"])["share"].to_pylist() == [50.0]


def test_a_file_of_no_version_that_cannot_be_cast_is_refused_by_name() -> None:
    table = three(*THREE.columns)
    strange = pa.table({"id": ["a"], "other": [1]})
    assert version_of(table, strange.schema) is None
    with pytest.raises(
        WarehouseError,
        match="table three: a file of other columns does not fit it .Conversion Error.* column id",
    ):
        upgraded(table, strange)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_parts_of_a_definition_fit_together(table: Table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert set(names) >= {*table.key, *table.preview_columns}
    for reference in table.references:
        assert set(reference.columns) <= set(names)
        assert set(reference.columns) == set(TABLES[reference.table].key), "so it refers to one row"
    steps = [migration.to for migration in table.migrations]
    assert steps == sorted(set(steps))
    assert set(steps) <= set(range(2, table.version + 1)), "a migration leads to a version"
    assert max(column.since for column in table.columns) <= table.version


KNOWN = {
    "models": (2, "f5c2d4716e37"),
    "activation_stats": (2, "f8e5b0463d10"),
    "block_influence": (1, "cfe408647862"),
    "variants": (4, "bf7ea164df5f"),
    "mask_samples": (1, "42e5a32f3bc1"),
    "layer_transitions": (3, "0f9eaa687575"),
    "decoding_steps": (3, "c1b828e6298f"),
    "top_tokens": (1, "edfd15c04401"),
    "option_subspace": (2, "1e9249ff14fa"),
    "generations": (3, "ea0903bc7673"),
    "text_tokens": (2, "281e4cd8648c"),
    "hidden_states": (1, "16c709a59620"),
    "sampled_generations": (2, "2c79ff12dfe7"),
    "sampled_steps": (2, "d9c2f362c135"),
    "search_effects": (2, "e2c5991aed9d"),
    "search_trials": (2, "0b31df3430cd"),
    "task_scores": (2, "721f43c46c81"),
    "task_samples": (2, "e63aa2c6e56f"),
    "retrieval_scores": (1, "08113d352c9a"),
    "retrieval_queries": (1, "51077a48fa69"),
    "retrieval_embeddings": (1, "e15ae9386c36"),
    "speed": (1, "32addccda877"),
    "paper_reference": (1, "dde1acbdc2fc"),
    "imported_scores": (1, "633e00618315"),
}


def fingerprint_of(table: Table) -> str:
    columns = sorted((name, str(of)) for name, of in table.stored(table.version).items())
    return hashlib.sha256(repr(columns).encode()).hexdigest()[:12]


def test_a_table_whose_columns_changed_has_a_new_version() -> None:
    # A change of columns shows here: raise the table's version, add `since` or a migration, then update this list.
    found = {table.name: (table.version, fingerprint_of(table)) for table in TABLES.values()}
    assert found == KNOWN
