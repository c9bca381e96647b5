"""Foreign keys: every row has the row to which it refers, and a missing one is reported for every table."""

import shutil
from collections.abc import Callable

import pytest

import prunescope
from prunescope.warehouse.maintenance.diagnostics import diagnose
from prunescope.warehouse.quality.foreign_keys import assertions
from prunescope.warehouse.schema.table import ForeignKey
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

Fill = Callable[[Store, str, str], None]


def found(store: Store) -> dict[str, list[tuple[str, ...]]]:
    with prunescope.open(store.root) as connection:
        rows = {name: connection.sql(query).fetchall() for name, query in assertions().items()}
    return {name: missing for name, missing in rows.items() if missing}


def test_a_foreign_key_holds_the_whole_key_of_its_table() -> None:
    for table in TABLES.values():
        for reference in table.references:
            assert reference.columns == TABLES[reference.table].key
    keyed = {name for name, table in TABLES.items() if table.references}
    assert set(TABLES) - keyed == {"models", "paper_reference"}
    assert str(ForeignKey("variants", ("model", "recipe"))) == "(model, recipe) references variants (model, recipe)"


@pytest.mark.parametrize("gone", [pytest.param("models", marks=pytest.mark.exhaustive), "variants"])
def test_references_to_missing_rows_are_found_in_every_table(store: Store, fill: Fill, gone: str) -> None:
    fill(store, "tiny", "wanda-50")
    fill(store, "o'brien", "dense")
    assert found(store) == {}
    assert diagnose(store.root) == []
    shutil.rmtree(store.root / gone / "model=o%27brien")
    missing = ("o'brien",) if gone == "models" else ("o'brien", "dense")
    referring = [name for name, table in TABLES.items() if gone in {each.table for each in table.references}]
    assert found(store) == {f"{name}_rows_have_their_{gone}": [missing] for name in referring}
    findings = diagnose(store.root)
    assert [(finding.level, finding.subject) for finding in findings] == [("error", name) for name in referring]
    what = "model" if gone == "models" else "model @ recipe"
    assert findings[0].message == f"1 of its {what} are not in {gone}, such as {'@'.join(missing)}"


def test_an_empty_warehouse_breaks_no_foreign_key(store: Store) -> None:
    assert found(store) == {}
