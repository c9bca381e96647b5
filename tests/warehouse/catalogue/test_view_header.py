"""Headers of views, split into their parts, and joins that multiply no rows."""

from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.catalogue.view_header import joins, parse
from prunescope.warehouse.tables import TABLES


def test_a_header_is_split_into_its_parts():
    found = parse(
        "Which one?\nAnd why?\ngrain: one row per a × b.\nkey: a, b\ninputs: x\n"
        "how to read: 1.5 is much; more\nis worse. NULL is nothing.\nreason: someone asks."
    )
    assert (found.asks, found.grain, found.key) == ("Which one? And why?", "one row per a × b", ("a", "b"))
    assert found.how_to_read == "1.5 is much; more is worse. NULL is nothing."
    assert found.reading() == "1.5 is much"
    assert found.reason == "someone asks."
    assert parse("") == parse("\n")
    assert parse("Only this.").key == ()


def test_every_question_has_a_question_grain_key_and_how_to_read():
    for view in view_sql().values():
        if view.layer == "questions":
            found = parse(view.header)
            assert found.asks.endswith("?"), view.name
            assert found.grain.startswith("one row per "), view.name
            assert found.key, view.name
            assert set(found.key) <= set(view.columns), view.name
            assert found.reading(), view.name
            assert "\n" not in found.reading()


def test_a_table_joins_where_it_has_the_others_whole_key():
    keys = {"a": ("x",), "b": ("x", "y"), "one_row": (), "c": ("x", "z")}
    assert joins("b", ["x", "y", "w"], keys) == {"a": ("x",)}
    assert joins("a", ["x"], keys) == {}
    assert "variants" in joins("generations", [c.name for c in TABLES["generations"].columns], {"variants": ("model",)})
