"""Documentation of columns: by their own note, the column that they pass on, or the names of errors and intervals."""

from pathlib import Path

import pytest

from prunescope.warehouse.catalogue.column_docs import explain
from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.core.errors import CatalogueError
from prunescope.warehouse.schema.table import ColumnDoc
from prunescope.warehouse.tables import TABLES


def views_of(folder: Path, **files: str) -> Path:
    """Write a folder of marts."""
    (folder / "marts").mkdir()
    for name, sql in files.items():
        (folder / "marts" / f"{name}.sql").write_text(sql, encoding="utf-8")
    return folder


NOTED = """-- What it is.
-- key: model
-- columns:
--   n: Layers, embedding left out; 1 is none [layers] = max(layer) + 1
--   is_deep: Whether there are more than ten of them,
--     which is a long story = n > 10
--   both: Two [a; b for c]
--   bare: Only words: with a colon, and x=1 is no formula
-- reason: because.
select model, max(layer) + 1 as n, n > 10 as is_deep, 1 as both, 2 as bare from block_influence group by model
"""


def test_a_note_has_a_sentence_and_may_have_a_unit_a_formula_and_a_second_line(tmp_path: Path) -> None:
    view = view_sql(views_of(tmp_path, a=NOTED))["a"]
    assert view.columns == ("model", "n", "is_deep", "both", "bare")
    assert dict(view.notes) == {
        "n": ColumnDoc("Layers, embedding left out; 1 is none", "layers", "max(layer) + 1"),
        "is_deep": ColumnDoc("Whether there are more than ten of them, which is a long story", "", "n > 10"),
        "both": ColumnDoc("Two", "a; b for c"),
        "bare": ColumnDoc("Only words: with a colon, and x=1 is no formula"),
    }
    assert view.header == "What it is.\nkey: model\nreason: because."
    assert view.notes["n"].comment() == "Layers, embedding left out; 1 is none [layers] = max(layer) + 1"


def test_a_column_without_a_note_has_the_note_of_its_source(tmp_path: Path) -> None:
    folder = views_of(tmp_path, a=NOTED, b="select model, n, is_deep from a")
    explained = explain(view_sql(folder).values())
    model = TABLES["block_influence"].columns[0]
    assert explained["a"]["model"] == explained["b"]["model"] == ColumnDoc(model.doc)
    assert explained["b"]["n"] == explained["a"]["n"]
    assert explained["layer_transitions"]["t1_h"].source == "2603.24652 Theorem 1"


def test_a_note_on_one_end_of_an_interval_is_one_on_the_other(tmp_path: Path) -> None:
    notes = "-- columns:\n--   n_low_nats: Lower end of its interval [nats]\n--   n_p10: Low"
    folder = views_of(tmp_path, a=f"{notes}\nselect 1 as n_low_nats, 2 as n_high_nats, 1 as n_p10, 2 as n_p90")
    explained = explain(view_sql(folder).values())["a"]
    assert explained["n_high_nats"] == ColumnDoc("Upper end of its interval", "nats")
    assert "n_p90" not in explained


def test_a_standard_error_has_the_unit_of_its_column(tmp_path: Path) -> None:
    notes = "-- columns:\n--   n: Number [nats]"
    folder = views_of(tmp_path, a=f"{notes}\nselect 1 as n, 2 as n_se, 3 as n_se_iid, 4 as other_se")
    assert explain(view_sql(folder).values())["a"] == {
        "n": ColumnDoc("Number", "nats"),
        "n_se": ColumnDoc("Standard error of n", "nats"),
        "n_se_iid": ColumnDoc("Standard error of n as if all tokens were independent", "nats"),
    }


def test_a_column_that_two_sources_explain_differently_needs_a_note(tmp_path: Path) -> None:
    a, b = (
        next(column.doc for column in TABLES[name].columns if column.name == "step")
        for name in ("layer_transitions", "decoding_steps")
    )
    assert a != b
    query = "select t.step, t.model from layer_transitions as t join decoding_steps as d using (model)"
    noted = f"-- columns:\n--   step: Either\n{query}"
    explained = explain(view_sql(views_of(tmp_path, a=query, b=noted)).values())
    assert set(explained["a"]) == {"model"}
    assert explained["b"]["step"] == ColumnDoc("Either")


def test_a_new_column_without_a_note_stays_unexplained(tmp_path: Path) -> None:
    explained = explain(view_sql(views_of(tmp_path, a="select model, 1 as one from models")).values())
    assert set(explained["a"]) == {"model"}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("-- columns:\n--   no colon here", r"a\.sql: 'no colon here' is not a note"),
        ("-- columns:\n--   n: Once\n--   n: Twice", r"a\.sql: column n is explained twice"),
    ],
)
def test_a_note_that_cannot_be_read_names_its_file(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        view_sql(views_of(tmp_path, a=f"{header}\nselect 1 as n"))
