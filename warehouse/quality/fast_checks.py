"""Fast proofs that checks hold, from extremes, null counts and codes.

Where a proof fails the check may still hold: `checks` then counts violations in SQL.
"""

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prunescope.warehouse.schema.table import Column

# Maximal entries per row in the bitmap of keys; a full grid of prompts, positions and layers has one.
_MAX_GRID_PER_ROW = 64


def is_key_unique(rows: pa.Table, key: tuple[str, ...]) -> bool:
    """Return whether one pass over the key's codes proves that no two rows share their key.

    The codes of the columns combine to one number per row, the index into a bitmap. A key with NULL, or with values so
    scattered that the bitmap would have over 64 entries per row, is not proved.
    """
    indices = np.zeros(rows.num_rows, dtype=np.int64)
    length = 1
    for name in key:
        column = one_chunk(rows[name])
        if column.null_count:
            return False
        codes, size = _codes(column)
        if size == 0 or length * size > _MAX_GRID_PER_ROW * max(rows.num_rows, 1024):
            return False
        if size > 1:
            indices *= size
            indices += codes
            length *= size
    bitmap = np.zeros(length, dtype=bool)
    bitmap[indices] = True
    return bool(np.count_nonzero(bitmap) == rows.num_rows)


def is_sound(column: Column, values: pa.ChunkedArray) -> bool:
    """Return whether all checks of the column (NULL, finite, range, legal values) are proved to hold."""
    if values.null_count and not column.nullable:
        return False
    present = one_chunk(values)
    if pa.types.is_list(column.type):
        present = present.flatten()
    present = present.drop_null()
    if len(present) == 0:
        return True
    if column.values:
        used = present.dictionary if pa.types.is_dictionary(present.type) else present.unique()
        return set(used.to_pylist()) <= set(column.values)
    if pa.types.is_floating(present.type):
        return _is_between(column, *_float_extremes(present))
    if column.minimum is None and column.maximum is None:
        return True
    extremes = pc.min_max(present)
    return _is_between(column, extremes["min"].as_py(), extremes["max"].as_py())


def one_chunk(values: pa.ChunkedArray) -> pa.Array:
    """Return the values in one array, copied only where there are several chunks."""
    return values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks or [pa.array([], values.type)])


def _is_between(column: Column, smallest: float, largest: float) -> bool:
    low = -math.inf if column.minimum is None else column.minimum
    high = math.inf if column.maximum is None else column.maximum
    # No check supports bounds of a list yet.
    is_checked = not pa.types.is_list(column.type) or (low, high) == (-math.inf, math.inf)
    return is_checked and math.isfinite(smallest) and math.isfinite(largest) and low <= smallest and largest <= high


def _float_extremes(values: pa.Array) -> tuple[float, float]:
    numbers = values.to_numpy(zero_copy_only=True)
    # NaN propagates through both, and infinity is an extreme.
    return float(numbers.min()), float(numbers.max())


def _codes(column: pa.Array) -> tuple[npt.NDArray[np.int64], int]:
    """Return a code from 0 for every value, equal for equal values, and the number of codes; 0 where it is unknown."""
    if pa.types.is_integer(column.type):
        numbers = column.to_numpy(zero_copy_only=True)
        low, high = int(numbers.min()), int(numbers.max())
        return numbers - np.int64(low), high - low + 1
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if len(column.dictionary.unique()) < len(column.dictionary):
        return np.zeros(0, dtype=np.int64), 0
    return column.indices.to_numpy(zero_copy_only=True), len(column.dictionary)
