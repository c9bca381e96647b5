"""How large a partition will be before it is written: an estimate from its table's columns, within a factor of 2.

What is written in the end is the store's business.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Table

# Measured on the 75 partitions of the demo study (15.5 MB, which these give within 1 %; single tables within 0.6 to 1.1
# times their size). A column's header, statistics and checksums; then the share that LZ4 leaves of a float32 with its
# bytes split, of one in a row without a shift (where most are 0 and the rest repeats), of one in a list, of the rest.
_PER_COLUMN = 570
_FLOAT, _UNMOVED, _LISTED, _OTHER = 0.85, 0.135, 0.6, 0.03


def expected_bytes(table: Table, rows: int, unmoved: int = 0, listed: int = 0, packed: int = 0) -> int:
    """Bytes of a Parquet file.

    Args:
        table: the table.
        rows: all rows.
        unmoved: those among them that measure a shift of exactly zero.
        listed: numbers in list columns.
        packed: bytes in columns of bits, as they are.
    """
    floats = sum(4 for column in table.columns if pa.types.is_float32(column.type))
    others = sum(_width(column.type) for column in table.columns)
    body = (rows - unmoved) * floats * _FLOAT + unmoved * floats * _UNMOVED + rows * others * _OTHER
    return round(_PER_COLUMN * len(table.columns) + body + 4 * listed * _LISTED + packed)


def _width(of: pa.DataType) -> int:
    """Bytes of a value that is neither float32 nor bits: numbers by width, labels by index, texts by a guess."""
    if pa.types.is_float32(of) or pa.types.is_list(of) or pa.types.is_binary(of):
        return 0
    return of.bit_width // 8 if pa.types.is_primitive(of) else 4
