"""The hash of rows, which depends on all their values and nothing else."""

import io
import itertools
import math
import struct

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunescope.warehouse.maintenance.verification import verify_file
from prunescope.warehouse.storage import file_checksum
from prunescope.warehouse.storage.row_hash import rows_hash
from prunescope.warehouse.tables import TABLES
from tests.examples import examples
from tests.warehouse.conftest import noisy_rows, provenance_of, rows_of

TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
NUMBER = st.none() | st.floats(width=32)
ROWS = st.lists(
    st.tuples(TEXT, NUMBER, st.none() | st.booleans(), st.none() | st.lists(NUMBER, max_size=3)), max_size=12
)
SCHEMA = pa.schema(
    {
        "label": pa.dictionary(pa.int32(), pa.string()),
        "x": pa.float32(),
        "is": pa.bool_(),
        "list": pa.list_(pa.float32()),
    }
)


def table(rows, schema=SCHEMA):
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def bits(value):
    """Return the value with floats as bits, so that −0 differs from 0 and NaN equals itself."""
    if isinstance(value, float):
        return struct.pack("<f", value)
    return tuple(bits(each) for each in value) if isinstance(value, list | tuple) else value


@given(ROWS, st.lists(st.integers(0, 12)), st.sampled_from(["zstd", "none", "lz4"]), st.integers(1, 5))
@settings(max_examples=examples(60), deadline=None)
def test_neither_pieces_nor_file_nor_dictionary_change_the_hash(rows, cuts, compression, group):
    whole = table(rows)
    wanted = rows_hash(whole)
    places = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    # Each piece made anew, so that its dictionary holds what it needs, in an order of its own.
    pieces = [
        table(rows[start:end]) if start % 2 else whole.slice(start, end - start)
        for start, end in itertools.pairwise(places)
    ]
    assert rows_hash(pa.concat_tables(pieces)) == wanted
    plain = SCHEMA.set(0, pa.field("label", pa.string()))
    assert rows_hash(table(rows, plain)) == wanted
    file = io.BytesIO()
    pq.write_table(whole, file, compression=compression, row_group_size=group)
    assert rows_hash(pq.read_table(file)) == wanted


@given(ROWS, ROWS)
@settings(max_examples=examples(80), deadline=None)
def test_different_rows_have_different_hashes(one, other):
    assert (rows_hash(table(one)) == rows_hash(table(other))) == (bits(one) == bits(other))


def test_hidden_values_under_a_null_do_not_count():
    mask = np.array([False, True, False])
    one, other = (pa.table({"x": pa.array(np.array(of, np.float32), mask=mask)}) for of in ([1, 2, 3], [1, 9, 3]))
    assert rows_hash(one) == rows_hash(other)
    assert rows_hash(one) != rows_hash(pa.table({"x": pa.array([1, 0, 3], pa.float32())}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"x": [1]}, {"y": [1]}),
        ({"x": [1]}, {"x": [1.0]}),
        ({"x": [0.0]}, {"x": [-0.0]}),
        ({"x": [math.nan]}, {"x": [None]}),
        ({"x": ["a", "b"]}, {"x": ["b", "a"]}),
        ({"x": ["ab", "c"]}, {"x": ["a", "bc"]}),
        ({"x": [""]}, {"x": [None]}),
        ({"x": [[], [1]]}, {"x": [None, [1]]}),
        ({"x": [[1], [2, 3]]}, {"x": [[1, 2], [3]]}),
        ({"x": [None, 1]}, {"x": [1, None]}),
        ({"x": ["a"], "y": ["b"]}, {"y": ["b"], "x": ["a"]}),
        ({"x": [b"a"]}, {"x": ["a"]}),
        ({"x": []}, {"x": [None]}),
    ],
)
def test_similar_values_have_different_hashes(one, other):
    def typed(columns):
        return pa.table(
            {name: pa.array(of, pa.float64() if of == [None] or of == [] else None) for name, of in columns.items()}
        )

    assert rows_hash(typed(one)) != rows_hash(typed(other))


@pytest.mark.parametrize("of", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("rows", [0, 1, 40])
def test_every_table_is_verified_as_it_was_written(store, monkeypatch, of, rows):
    recipe = "wanda-50" if of.partitioning == "variant" else None
    frame = rows_of(of, "tiny", recipe, rows=max(rows, 1))
    if rows == 40 and frame.height > 1:
        frame = noisy_rows(of, rows, 1)
    nullable = [column.name for column in of.columns if column.nullable]
    if rows == 1:
        frame = frame.with_columns(pl.lit(None).alias(name) for name in nullable)
    path = store.write(of, frame.head(rows), provenance_of("tiny", recipe), "tiny", recipe).path
    assert verify_file(path).reason == ""
    monkeypatch.setattr(file_checksum, "_PIECE", 100)
    assert verify_file(path).reason == "", "read in other pieces than it was sealed in"


def test_the_hash_never_changes():
    """A changed definition would report every file as changed, so it needs another name."""
    rows = table([("a", 1.5, True, [1.0, None]), (None, -0.0, None, None), ("b", math.inf, False, [])])
    assert rows_hash(rows) == "xxh3-rows-1:c91cb161f775ccb8f341de12fac96fe4"


def test_a_type_without_a_hash_is_refused():
    with pytest.raises(TypeError, match="struct.* have no hash yet"):
        rows_hash(pa.table({"x": [{"a": 1}]}))
