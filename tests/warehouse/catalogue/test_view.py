"""Headers of views, split into their parts, and joins that multiply no rows."""

from prunescope.warehouse.catalogue.view import header_parts, joins
from prunescope.warehouse.tables import TABLES


def test_a_header_is_split_into_its_parts():
    found = header_parts(
        "Which one?\nAnd why?\ngrain: one row per a × b.\nkey: a, b\ninputs: x\n"
        "how to read: 1.5 is much; more\nis worse. NULL is nothing.\nreason: someone asks."
    )
    assert found == {
        "asks": "Which one? And why?",
        "grain": "one row per a × b.",
        "key": "a, b",
        "inputs": "x",
        "how to read": "1.5 is much; more is worse. NULL is nothing.",
        "reason": "someone asks.",
    }
    assert header_parts("") == header_parts("\n") == {"asks": ""}


def test_a_table_joins_where_it_has_the_others_whole_key():
    keys = {"a": ("x",), "b": ("x", "y"), "one_row": (), "c": ("x", "z")}
    assert joins("b", ["x", "y", "w"], keys) == {"a": ("x",)}
    assert joins("a", ["x"], keys) == {}
    assert "variants" in joins("generations", [c.name for c in TABLES["generations"].columns], {"variants": ("model",)})
