"""Staging views that follow from a table, with and without a file of computed columns."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from prunescope.warehouse.catalogue.column_docs import split_header
from prunescope.warehouse.catalogue.database import SQL, view_sql
from prunescope.warehouse.catalogue.staging import staging_sql
from prunescope.warehouse.catalogue.view import header_parts
from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import TABLES

OWN = """\
-- how to read: doubled is twice
--   the value.
-- columns:
--   doubled: Twice the value [nats] = 2·value
--   label: The label in upper case
select
    2 * value as doubled,
    upper(label) as label
from things
"""


def things(*key: str) -> Table:
    names = dict.fromkeys((*key, "label"))
    columns = (*(Column(pa.string(), name, name) for name in names), Column(pa.int32(), "value", "value"))
    return Table("things", "One row per thing, in studies with things.", key, columns)


def rows(sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    with duckdb.connect() as connection:
        connection.execute("create table things as select 'm' as model, 'r' as recipe, 'x' as label, 3 as value")
        answer = connection.execute(sql)
        return [column[0] for column in answer.description], answer.fetchall()


def test_a_table_without_a_file_has_its_columns_and_the_variant(tmp_path: Path) -> None:
    sql = staging_sql(things("model", "recipe"), tmp_path / "none.sql")
    assert rows(sql) == (["model", "recipe", "variant", "label", "value"], [("m", "r", "m@r", "x", 3)])


def test_a_table_whose_key_names_no_variant_has_none(tmp_path: Path) -> None:
    table = things("model")
    assert rows(staging_sql(table, tmp_path / "none.sql")) == (["model", "label", "value"], [("m", "x", 3)])


@pytest.mark.parametrize("own", [OWN, OWN.replace("select\n    ", "select ")])
def test_columns_of_a_file_come_last_and_replace_those_of_their_name(tmp_path: Path, own: str) -> None:
    (path := tmp_path / "own.sql").write_text(own)
    sql = staging_sql(things("model", "recipe"), path)
    names, values = rows(sql)
    assert names == ["model", "recipe", "variant", "value", "doubled", "label"]
    assert values == [("m", "r", "m@r", 3, 6, "X")]


def test_the_header_is_that_of_the_table_with_the_notes_of_the_file(tmp_path: Path) -> None:
    (path := tmp_path / "own.sql").write_text(OWN)
    sql = staging_sql(things("model", "recipe"), path)
    comment = [line for line in sql.splitlines() if line.startswith("--")]
    prose, notes = split_header(comment, path)
    parts = header_parts(prose)
    assert parts["grain"] == "one row per thing, in studies with things."
    assert (parts["key"], parts["inputs"]) == ("model, recipe", "things")
    assert parts["how to read"] == "doubled is twice the value."
    assert list(notes) == ["variant", "doubled", "label"]
    assert (notes["doubled"].unit, notes["doubled"].formula) == ("nats", "2·value")


def test_every_table_has_a_staging_view_and_every_file_belongs_to_one() -> None:
    staged = {name for name, view in view_sql().items() if view.layer == "staging"}
    assert staged == {f"stg_{name}" for name in TABLES}
    assert {path.stem for path in (SQL / "staging").iterdir()} <= staged
