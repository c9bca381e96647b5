"""Snapshots: a connection sees one state of every partition, and damaged files are named by path."""

import dataclasses
import gc
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunescope.warehouse.catalogue.database import connect
from prunescope.warehouse.catalogue.sql_process import run_safe
from prunescope.warehouse.core.errors import DamagedFileError, DamagedFileWarning
from prunescope.warehouse.storage import snapshot
from prunescope.warehouse.storage.footer_probe import TAIL_BYTES, recognised
from prunescope.warehouse.storage.provenance import FOOTER_KEY
from prunescope.warehouse.storage.snapshot import Snapshot, damage_explained
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import noisy_rows, put, rows_of

TABLE = TABLES["top_tokens"]


def write(store, recipe, generation, rows=3):
    frame = rows_of(TABLE, "tiny", recipe, rows=rows).with_columns(token_id=pl.lit(generation, pl.Int32))
    put(store, TABLE, recipe=recipe, rows=frame)


def by_path(monkeypatch):
    monkeypatch.setattr(snapshot, "_DESCRIPTORS", Path("/nowhere"))


def open_files():
    gc.collect()  # close files of earlier tests now, not in between
    return len(list(Path("/proc/self/fd").iterdir()))


# The first and the last part read the same partition, with more rows between than DuckDB reads ahead.
MIXABLE = """
    SELECT token_id FROM top_tokens
    UNION ALL SELECT -1 FROM range(3000000)
    UNION ALL SELECT token_id FROM top_tokens
"""


def generations_in_an_answer_during_a_replacement(store):
    write(store, "wanda-50", 1)
    with connect(store.root) as connection:
        connection.execute("SET threads = 1")
        reader = connection.sql(MIXABLE).to_arrow_reader(1000)
        seen = set(reader.read_next_batch()[0].to_pylist())
        write(store, "wanda-50", 2)
        for batch in reader:
            seen |= set(batch[0].to_pylist())
    return seen - {-1}


def test_an_answer_never_mixes_two_versions_of_a_partition(store):
    assert generations_in_an_answer_during_a_replacement(store) == {1}


def test_an_answer_read_by_path_would_mix_them(store, monkeypatch):
    by_path(monkeypatch)
    assert generations_in_an_answer_during_a_replacement(store) == {1, 2}


def test_earlier_connections_still_read_replaced_or_removed_partitions(store):
    write(store, "a", 1)
    write(store, "b", 1)
    with connect(store.root, safe=True) as connection:
        write(store, "a", 2)
        store.path(TABLE, "tiny", "b").unlink()
        query = "SELECT DISTINCT recipe, token_id FROM top_tokens ORDER BY ALL"
        assert connection.execute(query).fetchall() == [("a", 1), ("b", 1)]
        assert connection.execute("SELECT recipe FROM provenance ORDER BY ALL").fetchall() == [("a",), ("b",)]
        with connect(store.root) as later:
            assert later.execute(query).fetchall() == [("a", 2)]


def test_cursors_and_relations_keep_the_files_and_the_last_one_closes_them(store):
    write(store, "a", 1)
    before = open_files()
    connection = connect(store.root)
    cursor, relation = connection.cursor(), connection.sql("SELECT max(token_id) FROM top_tokens")
    del connection
    gc.collect()
    assert relation.fetchall() == [(1,)]
    del relation
    gc.collect()
    assert cursor.execute("SELECT min(token_id) FROM top_tokens").fetchall() == [(1,)]
    assert open_files() > before
    del cursor
    gc.collect()
    assert open_files() == before


@pytest.mark.parametrize("is_held", [True, False])
def test_a_closed_or_failed_opening_leaves_no_file_open(store, monkeypatch, is_held):
    write(store, "a", 1)
    write(store, "b", 1)
    if not is_held:
        by_path(monkeypatch)
    before = open_files()
    connect(store.root).close()
    assert open_files() == before
    path = store.path(TABLE, "tiny", "b")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(DamagedFileWarning):
        connect(store.root).close()
    assert open_files() == before


def test_the_limit_of_open_files_is_raised_or_paths_are_read(store):
    for recipe in ("a", "b"):
        write(store, recipe, 1)
    program = f"""
import resource
from prunescope.warehouse.storage.snapshot import Snapshot
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.catalogue.database import connect

for soft, hard in ((64, 400), (64, 64)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    snapshot = Snapshot(Store({str(store.root)!r}))
    snapshot.close()
    with connect({str(store.root)!r}, safe=True) as connection:
        rows = connection.execute("SELECT count(DISTINCT recipe) FROM top_tokens").fetchall()
    print(snapshot.is_held, resource.getrlimit(resource.RLIMIT_NOFILE), rows)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True (400, 400) [(2,)]", "False (64, 64) [(2,)]"]


def test_a_locked_connection_opens_no_other_open_file(store, tmp_path):
    write(store, "a", 1)
    (tmp_path / "secret.csv").write_text("password\n")
    with (tmp_path / "secret.csv").open() as secret, connect(store.root, safe=True) as connection:
        for reads in ("read_text", "read_csv", "read_blob"):
            with pytest.raises(duckdb.PermissionException):
                connection.execute(f"SELECT * FROM {reads}('/proc/self/fd/{secret.fileno()}')").fetchall()


def spoil(path, begin, end):
    """Write zeros between two offsets of a file's body, given as shares."""
    content = path.read_bytes()
    body = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    first, last = 4 + int((body - 4) * begin), 4 + int((body - 4) * end)
    path.write_bytes(content[:first] + bytes(last - first) + content[last:])


@pytest.mark.parametrize("is_held", [True, False])
def test_a_damaged_body_names_the_partition_and_does_not_blame_the_sql(store, monkeypatch, is_held):
    table = TABLES["layer_transitions"]
    path = put(store, table, rows=noisy_rows(table, 5000, seed=0)).path
    spoil(path, 0.4, 0.6)
    if not is_held:
        by_path(monkeypatch)
    message = rf"^{re.escape(str(path))} is damaged \(\w.*\); run its study again, or move it away$"
    query = "SELECT sum(COLUMNS('norm.*')) FROM layer_transitions"
    with pytest.raises(DamagedFileError, match=message):
        run_safe(store.root, query)
    with connect(store.root) as connection:
        if is_held:  # a damaged file that was replaced by a new one is still named
            put(store, table)
        with pytest.raises(DamagedFileError, match=message), damage_explained(connection):
            connection.sql(query).fetchall()


@pytest.mark.parametrize("begin", [0, 0.2, 0.4, 0.6, 0.8])
def test_damage_anywhere_names_the_partition(store, begin):
    for recipe in ("a", "b", "c"):
        write(store, recipe, 1, rows=20_000)
    path = store.path(TABLE, "tiny", "b")
    assert path.stat().st_size > TAIL_BYTES, "smaller files are compared with their seal at opening"
    spoil(path, begin, begin + 0.2)
    with pytest.raises(DamagedFileError, match=rf"^{re.escape(str(path))} is damaged \("):
        run_safe(store.root, "SELECT sum(hash(COLUMNS(*))) FROM top_tokens")


def test_other_errors_pass(store):
    with connect(store.root) as connection, pytest.raises(duckdb.ConversionException), damage_explained(connection):
        connection.execute("SELECT '/proc/self/fd/0'::INTEGER").fetchall()


def test_every_table_that_the_store_writes_is_recognised_by_its_last_bytes(store, fill):
    fill(store, "tiny", "wanda-50")
    for table in TABLES.values():
        [partition] = store.partitions(table)
        assert recognised(table, partition.path.read_bytes()[-TAIL_BYTES:]), table.name
        others = [other for other in TABLES.values() if other is not table]
        assert not any(recognised(other, partition.path.read_bytes()) for other in others)


def with_footer(path, schema=None, metadata=None):
    """Write a file with the table's columns, or with another schema, and with other metadata."""
    rows = pq.read_table(path)
    rows = rows.cast(schema) if schema else rows
    buffer = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata(metadata or rows.schema.metadata), buffer)
    return buffer.getvalue().to_pybytes()


def test_files_with_other_columns_types_or_provenance_are_not_recognised(store):
    write(store, "a", 1)
    path = store.path(TABLE, "tiny", "a")
    content = path.read_bytes()
    assert recognised(TABLE, with_footer(path))
    schema = pq.read_schema(path)
    place = schema.get_field_index("token_id")
    wider = schema.set(place, pa.field("token_id", pa.int64(), nullable=False))
    assert not recognised(TABLE, with_footer(path, wider))
    assert not recognised(replace_columns(TABLE, TABLE.columns[:-1]), content)
    assert not recognised(replace_columns(TABLE, TABLE.columns[::-1]), content)
    assert not recognised(TABLE, with_footer(path, metadata={"other": "1"}))
    for broken in (b"", b"{", b"[]", b'{"model": "tiny"}'):
        assert not recognised(TABLE, with_footer(path, metadata={FOOTER_KEY: broken})), broken


def replace_columns(table, columns):
    return dataclasses.replace(table, columns=tuple(columns), preview_columns=())


def test_a_cut_at_any_percent_and_any_wrong_byte_at_the_end_is_named_at_opening(store):
    write(store, "a", 1)
    path = store.path(TABLE, "tiny", "a")
    content = path.read_bytes()
    cuts = [content[: len(content) * part // 100] for part in range(100)]
    size = len(content)
    ends = [content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :] for place in range(size - 8, size)]
    for damaged in [*cuts, *ends]:
        path.write_bytes(damaged)
        with pytest.warns(DamagedFileWarning, match=rf"^{re.escape(str(path))} is damaged \("):
            assert Snapshot(store).files == []


def test_only_the_partitions_of_the_requested_models_are_opened(store, fill):
    fill(store, "one", "a")
    fill(store, "two", "a")
    with connect(store.root, models=["two"]) as connection:
        for name, table in TABLES.items():
            # Tables that no study computes are opened for every model.
            seen = [("two",)] if table.is_study_output else [("one",), ("two",)]
            assert connection.execute(f"SELECT DISTINCT model FROM {name} ORDER BY ALL").fetchall() == seen
    with connect(store.root, models=[]) as connection:
        of_none = [(name,) for name, table in TABLES.items() if not table.is_study_output]
        assert connection.execute("SELECT DISTINCT table_name FROM provenance").fetchall() == of_none
