"""Secrets of the environment, which no file and no message of a run may contain."""

import sqlite3
import traceback
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.instance.instance import open_instance
from prunescope.assets.planning.steps import MODEL_TABLES
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.studies import load_study
from tests.assets.tiny_study import StudyFile, materialized
from tests.canary_secrets import MARK, found_in

ADDRESS = "https://me:CANARY@host/place"
SIGNED = "https://host/place?X-Amz-Signature=CANARY"


def test_the_files_of_a_study_contain_no_secret_of_its_environment(computed_once: Path, cache: Path) -> None:
    written = [path for path in computed_once.rglob("*") if path.is_file()]
    assert {".parquet", ".db", ".html", ".duckdb", ".safetensors", ".yaml"} <= {path.suffix for path in written}
    assert not found_in(computed_once.parent, cache)


def test_the_search_for_secrets_finds_compressed_ones(tmp_path: Path) -> None:
    pl.DataFrame({"text": [f"x{n} {MARK.decode()}" for n in range(9)]}).write_parquet(tmp_path / "part.parquet")
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        database.execute("CREATE TABLE runs (body TEXT)")
        database.execute("INSERT INTO runs VALUES (?)", [MARK.decode()])
        database.commit()
    assert found_in(tmp_path) == [str(tmp_path / name) for name in ("part.parquet", "runs.db")]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", f"{ADDRESS}.yaml"],
        ["run", "STUDY", "--model", ADDRESS],
        ["run", "STUDY", "--model", ADDRESS.replace("//", "/")],
        ["watch", f"{ADDRESS}.yaml"],
        ["watch", f"{ADDRESS}.yaml".replace("//", "/")],
        ["watch", f"{SIGNED}.yaml".replace("//", "/")],
        ["run", "STUDY", "--model", f"mine={SIGNED}"],
        ["run", "STUDY", "--recipe", f"{{name: mine, method: external, source: '{ADDRESS}'}}"],
        ["run", "STUDY", "--warehouse", "s3://me:CANARY@bucket/x"],
        ["sql", "SELECT 1", "--warehouse", "postgresql://me:CANARY@host/x"],
        ["doctor", "--model", ADDRESS],
        ["prune", ADDRESS, "--recipe", "magnitude-50", "--output", "out"],
        ["prune", "STUDY", "--recipe", "wanda-50", "--output", "out", "--calibration", ADDRESS],
    ],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(
    arguments: list[str], debug: bool, study: StudyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(study.path) if each == "STUDY" else each for each in arguments]
    assert run([*asked, *["--debug"] * debug], Globals()) == 2
    captured = capsys.readouterr()
    assert MARK.decode() not in captured.out + captured.err
    assert not found_in(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"models": [{"name": "tiny-a", "source": ADDRESS}]},
        {"texts": [{"id": "mine", "source": ADDRESS}]},
        {"calibration": {"source": SIGNED}},
        {"tasks": [{"name": "mine", "definition": f"{ADDRESS}.yaml"}]},
        {"tasks": [{"name": "boolq", "data": ADDRESS}]},
        {"retrieval": [{"name": "mine", "folder": ADDRESS}]},
        {"recipes": ["dense", {"name": "mine", "method": "external", "source": ADDRESS}]},
    ],
)
def test_a_study_with_a_secret_in_an_address_is_refused(changes: dict[str, object], study: StudyFile) -> None:
    with pytest.raises(InputError, match="holds credentials or a signed address") as refused:
        load_study(str(study.write(**changes)))
    # Dagster keeps an error with all that caused it.
    assert MARK.decode() not in "".join(traceback.format_exception(refused.value))


def test_a_run_of_the_interface_that_fails_on_a_secret_stores_none(study: StudyFile, tmp_path: Path) -> None:
    path = study.write(texts=[{"id": "mine", "source": ADDRESS}])
    config = {"study": {"config": {"study": str(path)}}, "warehouse": {"config": {"root": str(tmp_path / "warehouse")}}}
    with open_instance(tmp_path / "warehouse") as instance:
        instance.add_dynamic_partitions("model", ["tiny-a"])
        done = materialized(instance, {"resources": config}, MODEL_TABLES, "tiny-a")
    errors = [event.step_failure_data.error for event in done.all_events if event.is_step_failure]
    assert any("holds credentials or a signed address" in error.to_string() for error in errors)
    path.unlink()
    assert not found_in(tmp_path)
