"""Rules for every view: empty warehouse, declared key, header, style of the file."""

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from prunescope.warehouse.catalogue import database
from prunescope.warehouse.catalogue.column_docs import explain
from tests.sql.built_whole import NO_ROWS
from tests.sql.warehouse_builder import materialized, rows_of

VIEWS = database.view_sql()
EXPLAINED = explain(VIEWS.values())
KEYED = [name for name, view in VIEWS.items() if view.layer != "staging"]
STAGED = [name for name, view in VIEWS.items() if view.layer == "staging"]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with database.connect(tmp_path_factory.mktemp("empty")) as connection:
        yield connection


@pytest.fixture(scope="module")
def empty_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Return the views over an empty warehouse, each computed once."""
    with materialized(database.connect(tmp_path_factory.mktemp("empty"))) as connection:
        yield connection


def key_of(name: str) -> list[str]:
    lines = re.findall(r"^key: (.+)$", VIEWS[name].header, re.MULTILINE)
    assert len(lines) == 1, f"{name} declares {len(lines)} keys"
    return lines[0].split(", ")


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_over_an_empty_warehouse_has_its_columns_and_no_rows(
    name: str, empty_tables: duckdb.DuckDBPyConnection, whole: duckdb.DuckDBPyConnection
) -> None:
    result = empty_tables.execute(f"select * from {name}")
    shown = whole.execute(f"select * from {name} limit 0")
    expected = shown.description
    assert shown.fetchall() == []

    assert [column[:2] for column in result.description] == [column[:2] for column in expected]
    assert result.fetchall() == []


def test_no_count_has_a_type_that_other_tools_read_as_a_decimal(empty: duckdb.DuckDBPyConnection) -> None:
    query = "select table_name, column_name from duckdb_columns() where data_type similar to '(HUGEINT|DECIMAL).*'"
    assert empty.execute(query).fetchall() == []


@pytest.mark.parametrize("name", KEYED)
def test_a_declared_key_identifies_the_rows_among_equal_names_of_two_models(
    name: str, crowded: duckdb.DuckDBPyConnection
) -> None:
    key = key_of(name)
    nulls = " or ".join(f"{column} is null" for column in key)
    query = f"select count(*), count(distinct row({', '.join(key)})), count_if({nulls}) from {name}"
    [(rows, keys, without)] = crowded.execute(query).fetchall()

    assert rows > 0, f"{name} has no rows: {NO_ROWS}"
    assert keys == rows
    assert without == 0


@pytest.mark.parametrize("name", STAGED)
def test_a_staging_view_keeps_every_column_of_its_table(name: str, empty: duckdb.DuckDBPyConnection) -> None:
    table = name.removeprefix("stg_")
    stored = [row["column_name"] for row in rows_of(empty, f"describe {table}")]
    staged = [row["column_name"] for row in rows_of(empty, f"describe {name}")]

    assert set(stored) <= set(staged)
    assert VIEWS[name].depends_on == (table,)


@pytest.mark.parametrize("name", VIEWS)
def test_a_header_says_grain_key_inputs_and_reason(name: str) -> None:
    header = VIEWS[name].header
    inputs = VIEWS[name].parts["inputs"].split(", ")

    assert re.search(r"^grain: one row per .+\.$", header, re.MULTILINE)
    assert re.search(r"^reason: .+", header, re.MULTILINE)
    assert key_of(name)
    assert sorted(inputs) == sorted(VIEWS[name].depends_on)


@pytest.mark.parametrize("name", VIEWS)
def test_every_column_of_a_view_is_explained_and_nothing_else(name: str, empty: duckdb.DuckDBPyConnection) -> None:
    query = f"select column_name, comment from duckdb_columns() where table_name = '{name}' order by column_index"
    shown = {row["column_name"]: row["comment"] for row in rows_of(empty, query)}

    described = list(shown)
    assert list(VIEWS[name].columns) == described
    assert [column for column in described if column not in EXPLAINED[name]] == []
    assert set(VIEWS[name].notes) <= set(described)
    assert shown == {column: EXPLAINED[name][column].comment() for column in described}
    assert "columns:" not in VIEWS[name].header


@pytest.mark.parametrize("name", [name for name in VIEWS if VIEWS[name].layer == "questions"])
def test_a_question_is_named_by_its_number_and_opens_with_a_question(name: str) -> None:
    assert re.fullmatch(r"q\d\d_[a-z0-9_]+", name)
    assert VIEWS[name].header.splitlines()[0].endswith("?")
    assert "how to read: " in VIEWS[name].header


def test_no_view_reads_more_than_the_layer_below_allows() -> None:
    below = {"staging", "intermediate", "marts"}
    allowed = {"staging": set(), "intermediate": below, "marts": below, "questions": below}
    for name, view in VIEWS.items():
        layers = {VIEWS[read].layer for read in view.depends_on if read in VIEWS}
        assert layers <= allowed[view.layer], name


def test_every_sql_file_is_a_view_a_macro_an_assertion_a_comparison_or_a_statement() -> None:
    files = {path.relative_to(database.SQL) for path in database.SQL.rglob("*.sql")}
    views = {view.path.relative_to(database.SQL) for view in VIEWS.values()}

    assert all(
        path.parts[0] in {"macros", "comparisons", "figures", "explorer"}
        or (path.parts[0] == "tests" and path.name.startswith("assert_"))
        for path in files - views
    )
    assert {Path(path.parts[0]) for path in files} == {
        Path(name) for name in (*database.LAYERS, "macros", "comparisons", "tests", "figures", "explorer")
    }
