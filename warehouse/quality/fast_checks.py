"""Quick proofs that rows keep their checks: from extremes, null counts and codes, without looking at single rows.

What cannot be proved here is not wrong yet: `checks` counts it in SQL and says where it stands.
"""

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prunescope.warehouse.schema.table import Column

# Places in the bitmap of keys, for each row: a full grid of prompts, positions and layers has one.
_SPARSEST_GRID = 64


def is_key_unique(rows: pa.Table, key: tuple[str, ...]) -> bool:
    """Whether no two rows share their key, as far as one pass over the key's codes can prove it.

    The codes of the columns make one number a row, whose place in a bitmap is taken once. A key with NULL, or one whose
    values are so scattered that the bitmap would be over 64 times the rows, is not proved.

    Args:
        rows: at least one row.
        key: columns of the key.
    """
    place = np.zeros(rows.num_rows, dtype=np.int64)
    places = 1
    for name in key:
        column = one_chunk(rows[name])
        if column.null_count:
            return False
        codes, size = _codes(column)
        if size == 0 or places * size > _SPARSEST_GRID * max(rows.num_rows, 1024):
            return False
        if size > 1:
            place *= size
            place += codes
            places *= size
    taken = np.zeros(places, dtype=bool)
    taken[place] = True
    return bool(np.count_nonzero(taken) == rows.num_rows)


def is_sound(column: Column, values: pa.ChunkedArray) -> bool:
    """Whether every check of the column itself certainly holds: NULL, finite, range and legal values.

    Args:
        column: the definition.
        values: its values, in its type.
    """
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
    """The values in one array, copied only where there are several chunks."""
    return values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks or [pa.array([], values.type)])


def _is_between(column: Column, smallest: float, largest: float) -> bool:
    low = -math.inf if column.minimum is None else column.minimum
    high = math.inf if column.maximum is None else column.maximum
    # A bound of a list is one that no check of its own covers yet.
    is_checked = not pa.types.is_list(column.type) or (low, high) == (-math.inf, math.inf)
    return is_checked and math.isfinite(smallest) and math.isfinite(largest) and low <= smallest and largest <= high


def _float_extremes(values: pa.Array) -> tuple[float, float]:
    numbers = values.to_numpy(zero_copy_only=True)
    # NaN comes through both, and infinity is an extreme.
    return float(numbers.min()), float(numbers.max())


def _codes(column: pa.Array) -> tuple[npt.NDArray[np.int64], int]:
    """A number from 0 for every value, the same for equal ones, and how many there may be; 0 where that is unknown."""
    if pa.types.is_integer(column.type):
        numbers = column.to_numpy(zero_copy_only=True)
        low, high = int(numbers.min()), int(numbers.max())
        return numbers - np.int64(low), high - low + 1
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if len(column.dictionary.unique()) < len(column.dictionary):
        return np.zeros(0, dtype=np.int64), 0
    return column.indices.to_numpy(zero_copy_only=True), len(column.dictionary)
