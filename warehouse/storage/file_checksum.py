"""Checksum over every byte of a Parquet file, stored as a seal in the footer of the file itself."""

import os
import re
from pathlib import Path
from typing import BinaryIO

import xxhash

# Why a file is not intact, in messages.
ALTERED = "a byte differs from what was written"
_KEY = b"prunescope_seal"
_EMPTY = b"0" * 32
# Metadata of a file as it is first written; `seal` then replaces the zeros by the hash.
UNSEALED = {_KEY: _EMPTY}
# Thrift writes two bytes between a key and its value.
_SEAL = re.compile(re.escape(_KEY) + b"..([0-9a-f]{32})", re.DOTALL)
_PIECE = 1 << 20


def seal(path: Path) -> None:
    """Write the checksum into a file that was written with the metadata `UNSEALED`.

    Raises:
        ValueError: the file has no such metadata.
        OSError: the file cannot be read or written.
    """
    with path.open("r+b") as file:
        offset = _seal_offset(file)
        if offset is None:
            raise ValueError(f"{path} has no place for a seal")
        digest = _hash(file, offset)
        file.seek(offset)
        file.write(digest.encode())


def is_intact(file: BinaryIO) -> bool | None:
    """Return whether every byte is the same as when the file was sealed; None if the file has no seal."""
    offset = _seal_offset(file)
    if offset is None:
        return None
    file.seek(offset)
    return file.read(len(_EMPTY)).decode() == _hash(file, offset)


def _seal_offset(file: BinaryIO) -> int | None:
    """Return the offset of the seal's digits; the four bytes before the last four are the footer's length."""
    end = file.seek(0, os.SEEK_END)
    if end < 12:
        return None
    file.seek(end - 8)
    start = end - 8 - int.from_bytes(file.read(4), "little")
    if start < 0:
        return None
    file.seek(start)
    seals = list(_SEAL.finditer(file.read()))
    return start + seals[0].start(1) if len(seals) == 1 else None


def _hash(file: BinaryIO, offset: int) -> str:
    """Return 32 hexadecimal digits over the whole file, with zeros instead of the seal."""
    digest = xxhash.xxh3_128()
    file.seek(0)
    left = offset
    while left and (piece := file.read(min(left, _PIECE))):
        digest.update(piece)
        left -= len(piece)
    digest.update(_EMPTY)
    file.seek(offset + len(_EMPTY))
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()
