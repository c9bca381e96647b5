"""Hash of a table's rows, independent of file, compression, encoding and chunks.

It detects faults of disks, transfers and programs, not forgery: XXH3 (128 bits) runs at the speed of memory.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

# Name of this definition. If the definition changes, so must the name; older files are then no longer compared.
KIND = "xxh3-rows-1"


def rows_hash(rows: pa.Table) -> str:
    """Return the hash of a table, preceded by the name of its definition.

    It depends on the order of the rows and, for every column, on its name, its type (for a dictionary, the type of its
    values), the indices of its NULL rows, and its values. Numbers enter by their bits, so −0, 0 and every NaN differ.
    Texts enter as the distinct texts, and codes in the order of first appearance. Lists enter as lengths and items.
    Bytes under a NULL do not count.
    """
    whole = xxhash.xxh3_128()
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        whole.update(f"{len(name)}:{name}:".encode() + _digest(column.combine_chunks()))
    return f"{KIND}:{whole.hexdigest()}"


def _digest(values: pa.Array) -> bytes:
    kind, texts, items = str(without_codes(values.type)), list[Any](), b""
    if pa.types.is_dictionary(values.type) or pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        content, texts = _codes(values)
    elif pa.types.is_list(values.type):
        # The text of a list's type contains the name of its items, which Parquet changes.
        kind, items = "list", _digest(pc.list_flatten(values))
        content = pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64()).to_numpy().data
    else:
        content = _bits(values)
    nulls = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)).astype(np.int64)
    whole = xxhash.xxh3_128(f"{kind}:{len(values)}:".encode())
    whole.update(xxhash.xxh3_128_digest(nulls.data) + xxhash.xxh3_128_digest(content))
    for text in texts:
        encoded = text if isinstance(text, bytes) else text.encode()
        whole.update(len(encoded).to_bytes(8, "little") + encoded)
    whole.update(items)
    return whole.digest()


def _codes(values: pa.Array) -> tuple[memoryview, list[Any]]:
    """Return texts' codes in order of first appearance, as bytes, and the texts; a dictionary has any order."""
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    used, known = pc.unique(values.indices).drop_null(), dict[Any, int]()
    # One more at the end is for NULL, whose code is 0.
    codes = np.zeros(len(values.dictionary) + 1, np.int32)
    for index, text in zip(used.to_pylist(), values.dictionary.take(used).to_pylist(), strict=True):
        codes[index] = known.setdefault(text, len(known))
    return codes[pc.fill_null(values.indices, len(codes) - 1).to_numpy(zero_copy_only=False)].data, list(known)


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
