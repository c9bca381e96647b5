"""Checks of rows: every kind reports the rows that violate it, and no others."""

import math

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prunescope.warehouse.quality.checks import Violation, check_names, violations
from prunescope.warehouse.schema.table import Column, Invariant, Table
from prunescope.warehouse.storage.partition_store import to_arrow
from prunescope.warehouse.tables import TABLES
from tests.examples import examples
from tests.warehouse.conftest import rows_of

SMALL = Table(
    name="small",
    grain="One row per id.",
    key=("id", "side"),
    columns=(
        Column(pa.int32(), "id", "Id.", minimum=0, maximum=9),
        Column(pa.dictionary(pa.int32(), pa.string()), "side", "Side.", values=("dense", "it's")),
        Column(pa.float32(), "share", "Share; NULL where unknown.", minimum=0, maximum=1, nullable=True),
        Column(pa.list_(pa.float32()), "logits", "Logits."),
        Column(pa.string(), "label", "Label."),
    ),
    invariants=(Invariant("share_is_small", "share < 0.9"),),
)
GOOD = {"id": [1, 1, 2], "side": ["dense", "it's", "dense"], "share": [0.5, None, 0], "logits": [[1.0], [], [2.0]]}
GOOD["label"] = ["a", "", "NaN"]


def found(**changes):
    """Return the violations of good rows with some columns changed, which may be NULL here."""
    fields = [field.with_nullable(True) for field in SMALL.arrow()]
    columns = GOOD | changes
    return violations(
        SMALL, pa.table([pa.array(columns[f.name]).cast(f.type) for f in fields], schema=pa.schema(fields))
    )


def test_good_rows_have_no_violation():
    assert found() == []


@pytest.mark.parametrize(
    ("column", "values", "violation"),
    [
        ("side", ["dense", "dense", "dense"], Violation("key_is_unique", 1, "id=1, side=dense repeats")),
        ("label", ["a", None, None], Violation("no_unexpected_null", 2, "label is NULL at id=1, side=it's")),
        ("share", [float("nan"), 0.0, 0.0], Violation("finite", 1, "share = nan at id=1, side=dense")),
        ("share", [0.0, float("inf"), 0.0], Violation("finite", 1, "share = inf at id=1, side=it's")),
        ("logits", [[1.0], [0.0, float("nan")], []], Violation("finite", 1, "logits = [0.0, nan] at id=1, side=it's")),
        ("id", [-1, 1, 2], Violation("in_range", 1, "id = -1 is below 0 at id=-1, side=dense")),
        ("id", [1, 1, 10], Violation("in_range", 1, "id = 10 is above 9 at id=10, side=dense")),
        ("share", [-0.5, 0.0, 0.0], Violation("in_range", 1, "share = -0.5 is below 0 at id=1, side=dense")),
        (
            "side",
            ["dense", "pruned", "dense"],
            Violation("legal_values", 1, "side = pruned is none of dense, it's at id=1, side=pruned"),
        ),
        ("share", [1.0, 0.0, 1.0], Violation("share_is_small", 2, "share < 0.9 is false at id=1, side=dense")),
    ],
)
def test_each_kind_of_violation_is_found_counted_and_shown(column, values, violation):
    broken = found(**{column: values})
    assert violation in broken
    assert {item.check for item in broken} <= {violation.check, "share_is_small"}


def test_nan_is_not_finite_and_not_small_and_not_also_out_of_range():
    assert [item.check for item in found(share=[float("nan"), 0.0, 0.0])] == ["finite", "share_is_small"]


def test_a_repeated_null_key_is_a_repeated_key():
    checks = [item.check for item in found(id=[None, None, 1], side=["dense", "dense", "dense"])]
    assert checks == ["key_is_unique", "no_unexpected_null"]


def test_a_partition_without_rows_is_a_violation_unless_the_table_allows_it():
    for table in TABLES.values():
        empty = [] if table.may_be_empty else [Violation("not_empty", 0, "the partition has no row")]
        assert violations(table, table.arrow().empty_table()) == empty


def test_names_list_what_is_checked_in_the_order_of_the_findings():
    assert check_names(SMALL) == [
        *("not_empty", "key_is_unique", "no_unexpected_null", "finite", "in_range", "legal_values", "share_is_small")
    ]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_each_bound_of_each_table_is_checked(table):
    good = rows_of(table)
    assert violations(table, to_arrow(table, good)) == []
    for bound, step in (("minimum", -1), ("maximum", 1)):
        bounded = {c.name: getattr(c, bound) + step for c in table.columns if getattr(c, bound) is not None}
        broken = good.with_columns(pl.lit(value).alias(name) for name, value in bounded.items())
        failing = [item for item in violations(table, to_arrow(table, broken)) if item.check == "in_range"]
        assert [item.example.partition(" = ")[0] for item in failing] == list(bounded)
        assert {item.rows_failing for item in failing} <= {good.height}
    labelled = [column.name for column in table.columns if column.values]
    broken = good.with_columns(pl.lit("nonsense").alias(name) for name in labelled)
    failing = [item for item in violations(table, to_arrow(table, broken)) if item.check == "legal_values"]
    assert [item.example.partition(" = ")[0] for item in failing] == labelled


def test_bounds_hold_exactly_at_the_bound():
    table = TABLES["layer_transitions"]
    rows = rows_of(table).with_columns(topk5_overlap=pl.lit(1.0), norm_h=pl.lit(0.0), temperature=pl.lit(1e-6))
    assert violations(table, to_arrow(table, rows)) == []


def test_sound_rows_whose_key_only_sql_can_prove_pass():
    table = TABLES["top_tokens"]
    rows = rows_of(table, rows=2000)
    shuffled = rows.sample(fraction=1, shuffle=True, seed=0)
    assert violations(table, to_arrow(table, rows)) == violations(table, to_arrow(table, shuffled)) == []


LABEL = pa.dictionary(pa.int32(), pa.string())
AWKWARD = Table(
    name="small",
    grain="One row per id and side.",
    key=("id", "side", "temperature"),
    columns=(
        Column(pa.int32(), "id", "Id.", minimum=-5, maximum=2**30),
        Column(LABEL, "side", "Side.", values=("dense", "pruned")),
        Column(pa.float64(), "temperature", "Temperature."),
        Column(pa.float32(), "share", "Share.", minimum=0, maximum=1, nullable=True),
        Column(pa.list_(pa.float32()), "logits", "Logits."),
        Column(LABEL, "name", "Any name.", nullable=True),
    ),
)
FLOATS = st.sampled_from([0.0, -0.0, 0.5, 1.0, 1.5, -0.25, math.inf, -math.inf, math.nan])
ROWS = st.lists(
    st.tuples(
        st.sampled_from([-6, -5, 0, 1, 2, 2**30, 2**31 - 1]),
        st.sampled_from(["dense", "pruned", "", "dense "]),
        st.sampled_from([0.5, 1.0, 1e300]),
        st.none() | FLOATS,
        st.lists(FLOATS | st.none(), max_size=2),
        st.none() | st.sampled_from(["ä", "a", "\x00"]),
    ),
    min_size=1,
    max_size=12,
)


def table_of(rows):
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values).cast(c.type) for c, values in zip(AWKWARD.columns, map(list, columns), strict=True)]
    return pa.table(arrays, names=[c.name for c in AWKWARD.columns])


def wrong_checks(rows):
    """Run the same checks row by row in Python."""
    shares, lists = [row[3] for row in rows if row[3] is not None], [x for row in rows for x in row[4] if x is not None]
    found = {
        "key_is_unique": len({row[:3] for row in rows}) < len(rows),
        "finite": any(not math.isfinite(x) for x in (*shares, *lists)),
        "in_range": any(not -5 <= row[0] <= 2**30 for row in rows)
        or any(math.isfinite(x) and not 0 <= x <= 1 for x in shares),
        "legal_values": any(row[1] not in {"dense", "pruned"} for row in rows),
    }
    return {name for name, is_wrong in found.items() if is_wrong}


@settings(deadline=None, max_examples=examples(60))
@given(ROWS)
@example([(1, "dense", 1.0, 0.5, [math.inf], None)])
@example([(1, "dense", 1.0, math.inf, [], None)])
def test_checks_find_exactly_the_violations_of_awkward_rows(rows):
    assert {violation.check for violation in violations(AWKWARD, table_of(rows))} == wrong_checks(rows)
