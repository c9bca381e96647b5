"""Preview of a partition in the UI: small enough to be printed in place, true to the rows, and safe in Markdown."""

import itertools
import shlex
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from dagster import AssetCheckSeverity

from prunescope.assets.defs.metadata import materialized
from prunescope.assets.execution.partition_context import MAX_CHARACTERS, command, made_from, preview
from prunescope.assets.execution.task import TableWritten
from prunescope.warehouse.catalogue.sql_process import run_safe
from prunescope.warehouse.quality.plausibility_checks import CheckResult
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import provenance_of, rows_of

HASH = "0123456789abcdef" * 4


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_table_has_a_preview_that_fits_in_place(table) -> None:
    rows = rows_of(table, rows=3)
    text = preview(table, rows)
    head, _, *body = text.splitlines()
    assert len(body) == rows.height
    assert [name for name in table.preview_columns if f"| {name} |" not in head] == []
    assert 0 < len(text) <= MAX_CHARACTERS


def test_a_preview_samples_a_partition_from_its_first_to_its_last_row() -> None:
    table = TABLES["decoding_steps"]
    rows = rows_of(table, rows=1000).with_columns(
        step=pl.int_range(1000, dtype=pl.Int32), prompt_id=pl.lit("one"), trajectory=pl.lit("free_running")
    )
    head, _, *body = preview(table, rows).splitlines()
    assert head.startswith("| step | token_text_dense |"), "what is the same in all rows is left out"
    shown = [int(line.split("|")[1]) for line in body]
    assert (shown[0], shown[-1]) == (0, 999)
    assert all(after - before > 100 for before, after in itertools.pairwise(shown))


def test_a_preview_of_nothing_is_empty_and_long_texts_are_cut() -> None:
    table = TABLES["generations"]
    assert preview(table, rows_of(table, rows=0)) == ""
    long = rows_of(table, rows=3).with_columns(text=pl.lit("<script>|" * 500))
    assert len(preview(table, long)) <= MAX_CHARACTERS
    assert "<script>" not in preview(table, long)


def test_the_origin_names_model_hashes_settings_and_libraries() -> None:
    made = provenance_of("tiny", "wanda-50", inputs={"weight_hash": HASH, "code": "7"}, seed=3)
    sent = TableWritten(None, "", "variants", details={"made from": made_from(made, "org/tiny@abc")})
    told = materialized(TABLES["variants"], sent).metadata["made from"]
    assert (told["source"], told["inputs"], told["seed"]) == ("org/tiny@abc", {"weight_hash": HASH, "code": "7"}, 3)
    assert (told["dtype"], told["device"], told["libraries"]["torch"]) == ("float32", "cpu", "2.9.0")
    assert str(date(2026, 1, 2)) in told["created_at"]


def test_the_command_reads_this_partition_in_valid_sql(tmp_path: Path) -> None:
    _, line, *_ = command("variants", "a-model", "wanda-50", str(tmp_path)).split("```")
    program, name, option, place, query = shlex.split(line.removeprefix("sh\n"))
    assert (program, name, option, place) == ("prunescope", "sql", "--warehouse", str(tmp_path))
    assert " ".join(query.split()) == "from variants where model = 'a-model' and recipe = 'wanda-50'"
    assert run_safe(tmp_path, query).num_rows == 0
    assert "recipe" not in command("models", "a-model", None, "wh")


def test_an_implausible_partition_warns_with_its_numbers() -> None:
    table = TABLES["task_samples"]
    drift = CheckResult("answers_are_graded", {"samples": 4, "share_not_graded": 0.25, "share_not_run": None}, True)
    sent = TableWritten(None, "", table.name, rows=4, drifts=(drift,))
    told = materialized(table, sent)
    [result] = [each for each in told.check_results if each.check_name == "answers_are_graded"]
    assert (result.passed, result.severity) == (False, AssetCheckSeverity.WARN)
    assert {name: value.value for name, value in result.metadata.items()} == drift.figures
