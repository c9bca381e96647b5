"""Hash of a table's rows, independent of file, compression, encoding and chunks.

It detects faults of disks, transfers and programs, not forgery: XXH3 (128 bits) runs at the speed of memory.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

# Name of the definition below; with another definition and name, older files are no longer compared.
KIND = "xxh3-rows-1"


class RowsHash:
    """Incremental hash of a table; it depends on the order of the rows, and not on their division into pieces.

    For every column: its name, its type (a dictionary counts as its values' type), the indices of its NULL rows, and
    its values. Numbers enter by their bits, so that −0, 0 and every NaN differ; texts as codes in order of first
    appearance and the distinct texts; lists as lengths and items. Bytes under a NULL do not count.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._names = schema.names
        self._columns = [_ColumnHash(without_codes(field.type)) for field in schema]

    def update(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add the next rows."""
        for column, values in zip(self._columns, rows.columns, strict=True):
            for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
                column.update(chunk)

    def hexdigest(self) -> str:
        """Return the hash, after the name of its definition."""
        whole = xxhash.xxh3_128()
        for name, column in zip(self._names, self._columns, strict=True):
            whole.update(f"{len(name)}:{name}:".encode() + column.digest())
        return f"{KIND}:{whole.hexdigest()}"


def rows_hash(rows: pa.Table) -> str:
    """Return the hash of a table in memory."""
    digest = RowsHash(rows.schema)
    digest.update(rows)
    return digest.hexdigest()


class _ColumnHash:
    def __init__(self, of: pa.DataType) -> None:
        self._type, self._rows = of, 0
        self._nulls, self._values = xxhash.xxh3_128(), xxhash.xxh3_128()
        self._items = _ColumnHash(without_codes(of.value_type)) if pa.types.is_list(of) else None
        self._codes: dict[Any, int] = {}

    def update(self, values: pa.Array) -> None:
        if values.null_count:
            where = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)) + self._rows
            self._nulls.update(where.astype(np.int64).data)
        self._rows += len(values)
        if pa.types.is_dictionary(values.type) or _is_text(values.type):
            self._texts(values)
        elif self._items is not None:
            lengths = pc.fill_null(pc.list_value_length(values), 0)
            self._values.update(lengths.cast(pa.int64()).to_numpy().data)
            self._items.update(pc.list_flatten(values))
        else:
            self._values.update(_bits(values))

    def _texts(self, values: pa.Array) -> None:
        """Add codes in order of first appearance over all pieces: the order of a dictionary is arbitrary."""
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        used = pc.unique(values.indices).drop_null()
        # The additional last one is for NULL, whose code is 0.
        codes = np.zeros(len(values.dictionary) + 1, np.int32)
        for index, text in zip(used.to_pylist(), values.dictionary.take(used).to_pylist(), strict=True):
            codes[index] = self._codes.setdefault(text, len(self._codes))
        self._values.update(codes[pc.fill_null(values.indices, len(codes) - 1).to_numpy(zero_copy_only=False)].data)

    def digest(self) -> bytes:
        # The text of a list's type contains the name of its items, which Parquet changes.
        kind = "list" if self._items is not None else str(self._type)
        whole = xxhash.xxh3_128(f"{kind}:{self._rows}:".encode())
        whole.update(self._nulls.digest() + self._values.digest())
        for text in self._codes:
            encoded = text if isinstance(text, bytes) else text.encode()
            whole.update(len(encoded).to_bytes(8, "little") + encoded)
        if self._items is not None:
            whole.update(self._items.digest())
        return whole.digest()


def _bits(values: pa.Array) -> memoryview:
    """Return numbers as little-endian bytes, with zero for NULL."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    elif not pa.types.is_primitive(values.type):
        raise TypeError(f"values of type {values.type} have no hash yet")
    if values.null_count:
        values = values.fill_null(0)
    width = values.type.bit_width // 8
    whole = memoryview(values.buffers()[1] or b"").cast("B")
    return whole[values.offset * width : (values.offset + len(values)) * width]


def without_codes(of: pa.DataType) -> pa.DataType:
    """Return the type of a dictionary's values, and any other type as it is."""
    return of.value_type if pa.types.is_dictionary(of) else of


def _is_text(of: pa.DataType) -> bool:
    return bool(pa.types.is_string(of) or pa.types.is_binary(of))
