"""Fast checks, which hide no violation for any rows."""

import math

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prunescope.warehouse.quality import fast_checks
from prunescope.warehouse.quality.checks import violations
from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.storage.partition_store import to_arrow
from tests.examples import examples

LABEL = pa.dictionary(pa.int32(), pa.string())
TABLE = Table(
    name="small",
    grain="One row per id and side.",
    key=("id", "side", "temperature"),
    columns=(
        Column("id", pa.int32(), "Id.", minimum=-5, maximum=2**30),
        Column("side", LABEL, "Side.", values=("dense", "pruned")),
        Column("temperature", pa.float64(), "Temperature."),
        Column("share", pa.float32(), "Share.", minimum=0, maximum=1, nullable=True),
        Column("logits", pa.list_(pa.float32()), "Logits."),
        Column("name", LABEL, "Any name.", nullable=True),
    ),
    partitioning="model",
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
    arrays = [pa.array(values).cast(c.type) for c, values in zip(TABLE.columns, map(list, columns), strict=True)]
    return pa.table(arrays, names=[c.name for c in TABLE.columns])


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
def test_fast_checks_find_exactly_the_violations(rows):
    assert {violation.check for violation in violations(TABLE, table_of(rows))} == wrong_checks(rows)


@settings(deadline=None)
@given(ROWS)
def test_a_key_that_is_proved_unique_is_unique(rows):
    if fast_checks.is_key_unique(table_of(rows), TABLE.key):
        assert len({row[:3] for row in rows}) == len(rows)


def test_a_full_grid_is_proved_unique_and_one_repeated_row_is_noticed():
    grid = pl.DataFrame({"id": range(300)}).join(pl.DataFrame({"side": ["dense", "pruned"]}), how="cross")
    rows = grid.with_columns(temperature=1.0).to_arrow()
    assert fast_checks.is_key_unique(rows, TABLE.key)
    assert not fast_checks.is_key_unique(pa.concat_tables([rows, rows.slice(17, 1)]), TABLE.key)


def test_scattered_and_missing_keys_are_left_to_sql():
    far = pa.table({"id": [0, 2**40], "side": ["dense", "dense"], "temperature": [1.0, 1.0]})
    assert not fast_checks.is_key_unique(far, TABLE.key)
    assert not fast_checks.is_key_unique(pa.table({"id": [1, None]}), ("id",))


def test_a_dictionary_that_names_one_value_twice_proves_nothing():
    twice = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), ["dense", "dense"])
    assert not fast_checks.is_key_unique(pa.table({"side": twice}), ("side",))


@pytest.mark.parametrize("chunks", [1, 2, 0])
def test_values_come_in_one_array_however_many_chunks_there_are(chunks):
    values = pa.chunked_array([[1, 2]] * chunks, pa.int64())
    assert fast_checks.one_chunk(values).to_pylist() == [1, 2] * chunks


@settings(deadline=None)
@given(st.lists(st.none() | st.sampled_from(["b", "a", "", "ä"]), max_size=30))
def test_labels_are_coded_in_order_of_appearance_in_any_frame(labels):
    table = Table("t", "One row per row.", ("name",), (TABLE.columns[-1],), "model")
    expected = list(dict.fromkeys(label for label in labels if label is not None))
    for dtype in (pl.String, pl.Categorical, pl.Enum(["ä", "a", "b", ""])):
        found = to_arrow(table, pl.DataFrame({"name": pl.Series(labels, dtype=dtype)}))["name"].combine_chunks()
        assert found.to_pylist() == labels
        assert found.dictionary.to_pylist() == expected
