"""Estimates of a partition's size, close enough for a plan."""

import polars as pl

from prunescope.warehouse.schema.size_estimate import expected_bytes
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import noisy_rows, provenance_of

TABLE = TABLES["layer_transitions"]
VARIANT = ("tiny", "wanda-50")


def test_rows_of_floats_are_estimated_within_a_fifth(store):
    written = store.write(TABLE, noisy_rows(TABLE, 20_000, 1), provenance_of(*VARIANT), *VARIANT)
    assert 0.8 < expected_bytes(TABLE, 20_000) / written.bytes < 1.2


def test_a_half_of_rows_without_a_shift_is_expected_to_take_less_than_the_other_half(store):
    rows = noisy_rows(TABLE, 20_000, 1)
    still = rows.head(10_000).with_columns(pl.lit(0.0, pl.Float32).alias(name) for name in _floats(rows))
    written = store.write(TABLE, pl.concat([still, rows.tail(10_000)]), provenance_of(*VARIANT), *VARIANT)
    assert 0.8 < expected_bytes(TABLE, 20_000, unmoved=10_000) / written.bytes < 1.2


def _floats(rows):
    return [name for name, of in rows.schema.items() if of == pl.Float32]
