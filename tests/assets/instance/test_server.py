"""A study as a server runs it: Dagster's history in PostgreSQL, the warehouse on S3, and machines that take turns."""

import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import boto3
import psycopg2
import pyarrow as pa
import pytest
from dagster import AssetMaterialization

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.instance.instance import open_instance, writer_lock
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import ROOT, StudyFile, few_answers, one_thread, rows
from tests.object_store import s3_server
from tests.postgres_server import postgres_server

pytestmark = [pytest.mark.postgres, pytest.mark.integration, pytest.mark.timeout(900)]
WAREHOUSE = "s3://bucket/warehouse"
CONFIG = ROOT / "assets" / "instance" / "deploy" / "dagster.yaml"
# Of the tiny study's recipes; `dense` always stays.
RECIPE = "magnitude-50"


# A whole study; an event and, in `test_object_store.py`, tables prove that both places are used.
STUDY = pytest.mark.exhaustive


@dataclass(frozen=True)
class Server:
    """The environment of PostgreSQL and S3, and the result of `prunescope run` there."""

    environment: dict[str, str]
    study: StudyFile
    code: int
    err: str


def asked(environment: dict[str, str], query: str) -> list[tuple[object, ...]]:
    """Return rows of PostgreSQL, without Dagster in between."""
    of = {name.removeprefix("PRUNESCOPE_POSTGRES_"): value for name, value in environment.items()}
    with (
        psycopg2.connect(
            host=of["HOST"], port=of["PORT"], dbname=of["DB"], user=of["USER"], password=of["PASSWORD"]
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(query)
        return cursor.fetchall()


def objects() -> dict[str, object]:
    """Return the objects on the server with their times of change."""
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket="bucket")
    return {each["Key"]: each["LastModified"] for page in pages for each in page.get("Contents", [])}


def computed(study: StudyFile) -> tuple[int, str]:
    err = io.StringIO()
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")), redirect_stderr(err), one_thread():
        code = run(["run", str(study.path), "--recipe", RECIPE, "--warehouse", WAREHOUSE], Globals())
    return code, err.getvalue()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("server")
    home = folder / "home"
    home.mkdir()
    shutil.copy(CONFIG, home)
    with postgres_server() as postgres, s3_server() as s3, pytest.MonkeyPatch.context() as patch:
        places = {"DAGSTER_HOME": str(home), "PRUNESCOPE_LOGS": str(folder / "logs"), "PRUNESCOPE_CACHE": str(cache)}
        found = postgres | s3 | places
        for name, value in found.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield found


@pytest.fixture(scope="module")
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Server:
    study = StudyFile(tmp_path_factory.mktemp("study") / "tiny.yaml", tiny_folder)
    with pytest.MonkeyPatch.context() as patch:
        few_answers(patch)
        return Server(environment, study, *computed(study))


@pytest.fixture(autouse=True)
def _there(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def stored() -> dict[str, pa.Table]:
    """Return the same as `rows` of a local warehouse."""
    store, found = Store(WAREHOUSE), {}
    for table in TABLES.values():
        timing = {column.name for column in table.columns if column.is_timing}
        for each in store.partitions(table):
            read = store.read(table, each.model, each.recipe)
            kept = read.drop_columns([name for name in read.column_names if name in timing])
            found[str(each.path).removeprefix(f"{WAREHOUSE}/")] = kept.replace_schema_metadata(None)
    return found


@STUDY
def test_a_study_runs_to_its_end_and_writes_the_tables_of_a_local_warehouse(
    server: Server, computed_once: Path
) -> None:
    assert server.code == 0, server.err
    found = stored()
    wanted = {
        name: table
        for name, table in rows(computed_once).items()
        if "recipe=" not in name or any(f"recipe={recipe}/" in name for recipe in ("dense", RECIPE))
    }
    assert set(found) == set(wanted)
    assert [name for name, table in found.items() if not table.equals(wanted[name])] == []
    beside = {
        Path(name).suffix for name in objects() if name.startswith(("warehouse/_reports/", "warehouse/_catalogue/"))
    }
    assert beside == {".html", ".duckdb"}


@STUDY
def test_the_history_is_in_postgresql_only(server: Server) -> None:
    assert asked(server.environment, "select distinct status from runs") == [("SUCCESS",)]
    known = asked(
        server.environment,
        "select distinct asset_key::json ->> 0 || '/model=' || replace(partition, '|', '/recipe=') from event_logs "
        "where dagster_event_type = 'ASSET_MATERIALIZATION' and partition is not null",
    )
    for name in stored():
        assert name.startswith("paper_reference/") or (name.removesuffix("/part.parquet"),) in known
    home = Path(server.environment["DAGSTER_HOME"])
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["dagster.yaml"]


@STUDY
def test_a_second_run_computes_nothing(server: Server) -> None:
    before, events = objects(), asked(server.environment, "select count(*) from event_logs")
    code, err = computed(server.study)
    assert code == 0
    assert "nothing was computed" in err
    assert objects() == before
    assert asked(server.environment, "select count(*) from event_logs") == events


@dataclass
class Machine:
    """Another machine: its own folder, the same database."""

    cache: Path
    url: str = WAREHOUSE

    def __post_init__(self) -> None:
        self.waits, self.has, self.leaves = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._writes)

    def _writes(self) -> None:
        with writer_lock(Store(self.url).local(self.cache), lambda _: self.waits.set(), self.url):
            self.has.set()
            self.leaves.wait(60)

    def __enter__(self) -> "Machine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leaves.set()
        self._thread.join(60)


def test_machines_take_turns_in_one_warehouse(tmp_path: Path) -> None:
    with Machine(tmp_path / "a") as first:
        assert first.has.wait(60)
        with Machine(tmp_path / "b") as second, Machine(tmp_path / "c", "s3://bucket/another") as other:
            assert other.has.wait(60)
            assert second.waits.wait(60)
            assert not second.has.is_set()
            first.leaves.set()
            assert second.has.wait(60)
    assert not first.waits.is_set()
    assert not other.waits.is_set()


def test_a_dead_machine_holds_no_lock(environment: dict[str, str], tmp_path: Path) -> None:
    with Machine(tmp_path / "a") as first:
        assert first.has.wait(60)
        with Machine(tmp_path / "b") as second:
            assert second.waits.wait(60)
            held = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted"
            assert asked(environment, held) == [(True,)]
            assert second.has.wait(60)


def test_an_event_is_kept_in_postgresql(environment: dict[str, str], tmp_path: Path) -> None:
    with open_instance(tmp_path) as instance:
        instance.report_runless_asset_event(AssetMaterialization("kept", partition="p"))
    assert asked(environment, "select partition from event_logs where asset_key like '%kept%'") == [("p",)]
