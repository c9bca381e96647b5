"""A warehouse on an S3 server, with the same guarantees as one on a disk."""

import os
import sys
import threading
import time
from pathlib import Path

import boto3
import duckdb
import pyarrow.parquet as pq
import pytest

from prunescope.warehouse.catalogue.database import build_file, connect
from prunescope.warehouse.catalogue.sql_process import run_safe
from prunescope.warehouse.core.errors import DamagedFileError, SqlError, WarehouseError
from prunescope.warehouse.maintenance.diagnostics import diagnose
from prunescope.warehouse.storage.object_store import OpenFiles
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.snapshot import damage_explained
from prunescope.warehouse.tables import TABLES
from tests.object_store import KEY, SECRET, s3_server
from tests.warehouse.conftest import put, rows_of

pytestmark = pytest.mark.integration
VARIANTS, MODELS = TABLES["variants"], TABLES["models"]
# Characters of patterns and of URLs in the prefix.
PREFIX = "pre fix [a-b]*/ü?"
HOSTILE = ["../../x", "a=b/c", "é", "e\u0301", "x" * 300, "con", "line\nfeed", "100%", "a*[b]?", "'quoted\"", "..", " "]


@pytest.fixture(scope="module")
def server():
    with s3_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield environment["AWS_ENDPOINT_URL"]


@pytest.fixture
def remote(server, request):
    return Store(f"s3://bucket/{PREFIX}/{request.node.name[-40:]}")


def write(store, *names, **changes):
    return put(store, VARIANTS, *names, **changes)


def keys():
    found = boto3.client("s3").list_objects_v2(Bucket="bucket").get("Contents", [])
    return {each["Key"] for each in found}


# On a disk `test_partition_store.py` does this with every table.
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["models", "variants", "text_tokens", "paper_reference"], id="few"),
        pytest.param([*TABLES], id="all", marks=pytest.mark.exhaustive),
    ],
)
def test_tables_survive_and_views_answer(remote, names):
    for table in map(TABLES.get, names):
        put(remote, table, "tiny", "dense")
    for table in map(TABLES.get, names):
        recipe = "dense" if table.partitioning == "variant" else None
        assert remote.read(table, "tiny", recipe).to_pylist() == rows_of(table, "tiny", recipe).to_dicts()
        assert remote.is_current(table, "tiny", recipe, "f" * 64)
    with connect(remote.root) as connection:
        for table in names:
            assert connection.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0] > 0
        assert connection.sql("SELECT count(*) FROM variant_summary").fetchall() == [(1,)]
        assert connection.sql("SELECT count(*) FROM provenance").fetchall() == [(len(names),)]
    assert diagnose(remote.root) == []


def test_an_empty_prefix_is_an_empty_warehouse(remote):
    assert remote.partitions(VARIANTS) == []
    assert run_safe(remote.root, "SELECT count(*) AS n FROM variant_summary").to_pylist() == [{"n": 0}]
    with pytest.raises(WarehouseError, match="has nothing for tiny@dense"):
        remote.read(VARIANTS, "tiny", "dense")


def test_hostile_names_stay_below_the_prefix_and_survive(remote):
    for name in HOSTILE:
        write(remote, name, name)
    assert sorted((each.model, each.recipe) for each in remote.partitions(VARIANTS)) == sorted(
        zip(HOSTILE, HOSTILE, strict=True)
    )
    with connect(remote.root) as connection:
        found = connection.sql("SELECT model, recipe FROM variants").fetchall()
    assert sorted(found) == sorted(zip(HOSTILE, HOSTILE, strict=True))
    prefix = str(remote.root).removeprefix("s3://bucket/")
    assert sum(key.startswith(f"{prefix}/variants/model=") for key in keys()) == len(HOSTILE)


def test_a_replacement_is_seen_by_the_next_connection_only(remote):
    write(remote, fingerprint="old")
    query = "SELECT fingerprint FROM provenance"
    with connect(remote.root) as before:
        assert before.sql("SELECT count(*) FROM variants").fetchall() == [(1,)]
        # Another machine writes, unknown to the lists and caches of this process.
        copy = Store(remote.root)
        write(copy, fingerprint="new")
        write(copy, recipe="later", fingerprint="new")
        assert before.sql("SELECT count(*) FROM variants").fetchall() == [(1,)]
    with connect(remote.root) as after:
        assert after.sql(query).fetchall() == [("new",), ("new",)]
    assert remote.is_current(VARIANTS, "tiny", "wanda-50", "new")


def test_a_partition_replaced_before_its_first_read_is_refused(remote, monkeypatch):
    monkeypatch.setattr("prunescope.warehouse.storage.object_store._BLOCK", 0)  # so that nothing is kept
    write(remote, fingerprint="old")
    with connect(remote.root) as connection:
        write(remote, fingerprint="new")
        refused = pytest.raises(WarehouseError, match="^bucket/.* was replaced after .*; open the warehouse again$")
        with refused, damage_explained(connection):
            connection.sql("SELECT * FROM variants").fetchall()


def test_readers_beside_a_writer_see_the_old_or_the_new_partition(remote):
    write(remote, fingerprint="0")
    until, seen, errors = time.monotonic() + 1, set(), []

    def read():
        while time.monotonic() < until:
            footer = remote.provenance(VARIANTS, "tiny", "wanda-50")
            seen.add(footer.fingerprint)
            errors.extend([] if remote.read(VARIANTS, "tiny", "wanda-50").num_rows == 1 else ["torn"])

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    count = 0
    while time.monotonic() < until:
        count += 1
        write(remote, fingerprint=str(count))
    for reader in readers:
        reader.join()
    assert not errors
    assert len(seen) > 1


@pytest.mark.exhaustive  # test_sql_process.py, on files
def test_safe_sql_reads_only_the_tables(remote):
    write(remote)
    remote.write_bytes("_reports/secret.txt", lambda path: path.write_text("secret"))
    assert run_safe(remote.root, "SELECT recipe FROM variants").to_pylist() == [{"recipe": "wanda-50"}]
    for statement in (f"SELECT * FROM read_text('{remote.root}/_reports/secret.txt')", "COPY (SELECT 1) TO 's3://x/y'"):
        with pytest.raises(SqlError):
            run_safe(remote.root, statement)
    # The second barrier alone, without the first.
    with connect(remote.root, safe=True) as connection:
        assert connection.sql("SELECT recipe FROM variants").fetchall() == [("wanda-50",)]
        for statement in (
            f"SELECT * FROM read_text('{remote.root}/_reports/secret.txt')",
            f"SELECT * FROM read_text('{remote.root}/variants/../_reports/secret.txt')",
            "SELECT * FROM read_text('/etc/hostname')",
            f"COPY (SELECT 1) TO '{remote.root}/_reports/new.parquet'",
            f"COPY (SELECT 1) TO '{remote.root}/variants/new.parquet'",
            "SET enable_external_access = true",
        ):
            with pytest.raises((duckdb.Error, OSError)):
                connection.sql(statement).fetchall()
    assert not any("new.parquet" in key for key in keys())


def test_a_damaged_object_is_named(remote):
    path = write(remote).path
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(DamagedFileError, match=r"part\.parquet is damaged"):
        remote.read(VARIANTS, "tiny", "wanda-50")
    assert not remote.is_current(VARIANTS, "tiny", "wanda-50", "f" * 64)


def test_the_catalogue_as_a_file_is_uploaded_whole(remote, tmp_path):
    write(remote)
    build_file(remote.root, remote.root / "_catalogue/prunescope.duckdb")
    copy = remote.local_file("_catalogue/prunescope.duckdb", tmp_path)
    with duckdb.connect(copy, read_only=True) as connection:
        assert ("variants",) in connection.sql("SELECT view_name FROM duckdb_views()").fetchall()


def test_errors_of_the_store_are_reported_without_credentials(server, monkeypatch):
    with pytest.raises(WarehouseError, match="there is no bucket 'nosuch'"):
        Store("s3://nosuch/x").require()
    with pytest.raises(
        WarehouseError, match=r"part\.parquet cannot be written; .*check that the bucket exists"
    ) as error:
        write(Store("s3://nosuch/x"))
    assert KEY not in str(error.value)
    assert SECRET not in str(error.value)
    Store("s3://bucket/x").require()


def test_credentials_are_stored_nowhere(remote, tmp_path):
    path = write(remote).path
    local = tmp_path / "part.parquet"
    local.write_bytes(path.read_bytes())
    content = local.read_bytes() + str(pq.read_metadata(local).metadata).encode()
    with connect(remote.root) as connection:
        content += str(connection.sql("SELECT * FROM provenance").fetchall()).encode()
    for secret in (KEY, SECRET):
        assert secret.encode() not in content
        assert secret not in f"{remote.root} {remote.root!r} {remote.local(tmp_path)}"


def test_threads_that_share_a_file_read_from_their_own_positions(tmp_path: Path) -> None:
    content = bytes(range(256)) * 64
    (tmp_path / "file").write_bytes(content)
    wrong, before = [], sys.getswitchinterval()
    file = OpenFiles([str(tmp_path / "file")]).open(str(tmp_path / "file"))

    def read(seed: int) -> None:
        for index in range(1000):
            start = (977 * seed + 31 * index) % (len(content) - 8)
            file.seek(start)
            if file.read(8) != content[start : start + 8] or file.tell() != start + 8:
                wrong.append(start)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong
    assert (file.seek(-3, os.SEEK_END), file.read(), file.seek(-1, os.SEEK_CUR)) == (
        len(content) - 3,
        content[-3:],
        len(content) - 1,
    )
