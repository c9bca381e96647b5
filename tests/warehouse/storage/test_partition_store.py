"""The partition store, which writes exactly the given rows or raises an error with the reason."""

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunescope.warehouse.core.errors import DamagedFileError, WarehouseError
from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.storage.partition_store import Store, to_arrow
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import noisy_rows, provenance_of, put, rows_of
from tests.warehouse.storage.test_path_names import HOSTILE

TRANSITIONS, MODELS = TABLES["layer_transitions"], TABLES["models"]
VARIANT = ("tiny", "wanda-50")


def write(store, rows=None, **changes):
    return put(store, TRANSITIONS, rows=rows, **changes)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_is_read_as_it_was_written(store, table):
    recipe = "wanda-50" if table.partitioning == "variant" else None
    rows = rows_of(table, "tiny", recipe)
    written = put(store, table)
    back = store.read(table, "tiny", recipe)
    assert back.schema.equals(table.arrow())
    assert back.to_pylist() == rows.to_dicts()
    assert written.violations == ()
    assert (written.rows, written.bytes) == (rows.height, written.path.stat().st_size)
    assert all(back.schema.field(c.name).metadata[b"doc"].decode() == c.doc for c in table.columns)


def test_the_order_of_rows_is_kept_and_that_of_columns_is_the_tables(store):
    rows = noisy_rows(TRANSITIONS, 500, seed=1).sample(fraction=1, shuffle=True, seed=2)
    write(store, rows.select(reversed(rows.columns)))
    back = store.read(TRANSITIONS, *VARIANT)
    assert back.column_names == [column.name for column in TRANSITIONS.columns]
    assert back["position"].to_pylist() == rows["position"].to_list()


def pages(path):
    """Return the file up to its footer: all data pages."""
    content = path.read_bytes()
    return content[: -8 - int.from_bytes(content[-8:-4], "little")]


def test_equal_rows_give_equal_pages_from_any_frame(store):
    rows = noisy_rows(TRANSITIONS, 2000, seed=3)
    first = pages(write(store, rows).path)
    chunked = pl.concat([rows[:7], rows[7:1200], rows[1200:]], rechunk=False)
    categorical = chunked.with_columns(
        pl.col("prompt_id", "scope").cast(pl.Categorical), pl.col("layer").cast(pl.Int64)
    )
    again = pages(write(store, categorical, seconds=99.0, created_at="2027-01-01T00:00:00+00:00").path)
    assert first == again


def test_floats_are_split_and_labels_have_a_dictionary(store):
    group = pq.read_metadata(write(store, noisy_rows(TRANSITIONS, 2000, seed=4)).path).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in columns["norm_h"].encodings
    assert columns["scope"].has_dictionary_page
    assert {column.compression for column in columns.values()} == {"LZ4"}


def test_missing_and_unexpected_columns_are_named(store):
    rows = rows_of(TRANSITIONS).drop("norm_h").with_columns(surplus=pl.lit(1))
    with pytest.raises(WarehouseError, match="lacks norm_h and has unexpected surplus"):
        write(store, rows)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("norm_h", None, "column norm_h has 3 NULLs"),
        ("model", "other", "column model holds 'other'"),
        ("recipe", "other", "column recipe holds 'other'"),
        ("layer", 40_000, "column layer does not fit int16"),
        ("layer", 1.5, "column layer does not fit int16"),
        ("norm_h", "long", "column norm_h does not fit float"),
        ("scope", [1], "column scope does not fit"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_nothing_written(store, column, value, message):
    with pytest.raises(WarehouseError, match=message):
        write(store, rows_of(TRANSITIONS).with_columns(pl.lit(value).alias(column)))
    assert not store.root.exists()


def test_a_null_with_a_meaning_is_kept(store):
    write(store, rows_of(TRANSITIONS).with_columns(step=pl.lit(None)))
    assert store.read(TRANSITIONS, *VARIANT)["step"].null_count == 3


def test_rows_that_break_a_check_are_kept_but_never_current(store):
    written = write(store, rows_of(TRANSITIONS).with_columns(norm_h=pl.lit(float("nan"))))
    assert [violation.check for violation in written.violations] == ["finite"]
    assert store.read(TRANSITIONS, *VARIANT).num_rows == 3
    assert not store.is_current(TRANSITIONS, *VARIANT, "f" * 64)


def test_a_partition_is_current_for_its_fingerprint_only(store):
    assert not store.is_current(TRANSITIONS, *VARIANT, "f" * 64)
    assert store.provenance(TRANSITIONS, *VARIANT) is None
    write(store)
    assert store.is_current(TRANSITIONS, *VARIANT, "f" * 64)
    assert not store.is_current(TRANSITIONS, *VARIANT, "e" * 64)
    assert store.provenance(TRANSITIONS, *VARIANT) == provenance_of(*VARIANT)


def test_a_partition_with_the_columns_of_another_version_is_not_current(store):
    path = write(store).path
    footer = pq.read_metadata(path).metadata
    rows = store.read(TRANSITIONS, *VARIANT).drop_columns(["js_nats"])
    pq.write_table(rows.replace_schema_metadata({b"prunescope": footer[b"prunescope"]}), path)
    assert store.provenance(TRANSITIONS, *VARIANT) == provenance_of(*VARIANT)
    assert not store.is_current(TRANSITIONS, *VARIANT, "f" * 64)


def test_a_partition_needs_a_recipe_exactly_where_its_table_has_one(store):
    with pytest.raises(WarehouseError, match="stored per model: give no recipe"):
        store.write(MODELS, rows_of(MODELS), provenance_of(*VARIANT), *VARIANT)
    with pytest.raises(WarehouseError, match="stored per variant: give a recipe"):
        store.read(TRANSITIONS, "tiny", None)


def test_provenance_of_another_partition_is_refused(store):
    with pytest.raises(WarehouseError, match="provenance names tiny@dense, the partition is tiny@wanda-50"):
        store.write(TRANSITIONS, rows_of(TRANSITIONS), provenance_of("tiny", "dense"), *VARIANT)


def test_a_missing_partition_is_named(store):
    with pytest.raises(WarehouseError, match="layer_transitions has nothing for tiny@wanda-50; run its study first"):
        store.read(TRANSITIONS, *VARIANT)


@given(model=HOSTILE, recipe=HOSTILE)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_is_written_below_the_root_and_found_again(tmp_path, model, recipe):
    store = Store(tmp_path / "warehouse")
    path = put(store, TABLES["variants"], model, recipe).path
    assert store.root in path.resolve().parents
    assert (model, recipe) in [(part.model, part.recipe) for part in store.partitions(TABLES["variants"])]
    assert store.read(TABLES["variants"], model, recipe)["model"].to_pylist() == [model]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://x.org/a", "files appear there in parts or cannot be written"),
        ("sftp://host/a", "files appear there in parts"),
        ("simplecache::s3://bucket/x", "files appear there in parts"),
        ("nosuch://bucket/x", "files appear there in parts"),
        ("s3://", "names no bucket"),
        ("s3://KEYCANARY:SECRETCANARY@bucket/x", "has credentials in its address; leave them out"),
        ("s3:/KEYCANARY:SECRETCANARY@bucket/x", "has credentials in its address; leave them out"),
        ("gs://CANARY@bucket/x", "has credentials in its address"),
        ("postgresql://me:CANARY@host/x", "has credentials in its address"),
    ],
)
def test_a_url_that_can_hold_no_warehouse_is_refused_with_the_reason(url, reason):
    with pytest.raises(WarehouseError, match=reason) as error:
        Store(url)
    assert "CANARY" not in str(error.value)


def test_a_url_with_one_slash_is_the_same_place():
    assert str(Store("s3:/bucket/x").root) == str(Store("s3://bucket/x").root) == "s3://bucket/x"


def test_a_file_url_is_a_local_folder(tmp_path):
    assert Store(f"file://{tmp_path}/x").root == tmp_path / "x"


@pytest.mark.parametrize("metadata", [None, {b"prunescope": b"{}"}, {b"prunescope": b"[]"}, {b"prunescope": b"\xff{"}])
def test_a_parquet_file_without_provenance_is_refused(store, metadata):
    path = store.path(TRANSITIONS, *VARIANT)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(metadata), path)
    with pytest.raises(DamagedFileError, match=r"is damaged"):
        store.provenance(TRANSITIONS, *VARIANT)


def test_other_files_are_written_below_underscore_folders(store):
    def fill(place):
        place.write_bytes(b"mask")

    path = store.write_bytes("_variants/tiny/wanda-50.safetensors", fill)
    assert path == store.root / "_variants/tiny/wanda-50.safetensors"
    assert path.read_bytes() == b"mask"
    assert list(path.parent.iterdir()) == [path]


@given(place=HOSTILE | st.lists(HOSTILE, max_size=3).map("/".join) | HOSTILE.map("_a/{}".format))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_other_file_is_written_outside_its_folder(tmp_path, place):
    store = Store(tmp_path / "warehouse")
    try:
        path = store.write_bytes(place, lambda path: path.write_bytes(b"x"))
    except WarehouseError:
        return
    assert store.root in path.resolve().parents
    assert path.relative_to(store.root).parts[0].startswith("_")
    path.unlink()


@pytest.mark.parametrize("place", ["/etc/x", "../x/y", "_a/../../x", "models/x", "_x", "", "_a/.."])
def test_other_files_cannot_leave_their_folders(store, place):
    with pytest.raises(WarehouseError, match="is not a place for a file"):
        store.write_bytes(place, lambda path: path.touch())


@settings(deadline=None)
@given(st.lists(st.none() | st.sampled_from(["b", "a", "", "ä"]), max_size=30))
def test_labels_are_coded_in_order_of_appearance_in_any_frame(labels):
    column = Column(pa.dictionary(pa.int32(), pa.string()), "name", "Any name.", nullable=True)
    table = Table("t", "One row per row.", ("name",), (column,))
    expected = list(dict.fromkeys(label for label in labels if label is not None))
    for dtype in (pl.String, pl.Categorical, pl.Enum(["ä", "a", "b", ""])):
        found = to_arrow(table, pl.DataFrame({"name": pl.Series(labels, dtype=dtype)}))["name"].combine_chunks()
        assert found.to_pylist() == labels
        assert found.dictionary.to_pylist() == expected
