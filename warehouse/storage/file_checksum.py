"""A seal over every byte of a Parquet file, kept in its own footer: pages, their headers, statistics, names, all.

Says whether a file is as it was written; what its rows mean, and whether they are right, is not known here.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import xxhash

_KEY = b"prunescope_seal"
_EMPTY = b"0" * 32
# Metadata that a file is written with; `seal` then puts the hash in the place of the zeros.
UNSEALED = {_KEY: _EMPTY}
# Thrift writes the value behind its key with two bytes of its own between them.
_PLACE = re.compile(re.escape(_KEY) + b"..([0-9a-f]{32})", re.DOTALL)
_PIECE = 1 << 20


def seal(path: Path) -> None:
    """Seals a file that was written with the metadata `UNSEALED`.

    Raises:
        ValueError: it was not.
        OSError: the system refused.
    """
    with path.open("r+b") as file:
        place = _place(file)
        if place is None:
            raise ValueError(f"{path} has no place for a seal")
        found = _hash(file, place)
        file.seek(place)
        file.write(found.encode())


def is_intact(file: BinaryIO) -> bool | None:
    """Whether every byte is as it was when the file was sealed; None where it has no seal that can be found."""
    place = _place(file)
    if place is None:
        return None
    file.seek(place)
    return file.read(len(_EMPTY)).decode() == _hash(file, place)


def _place(file: BinaryIO) -> int | None:
    """Where the seal's digits begin; the footer's length stands before the last four bytes."""
    end = file.seek(0, os.SEEK_END)
    if end < 12:
        return None
    file.seek(end - 8)
    start = end - 8 - int.from_bytes(file.read(4), "little")
    if start < 0:
        return None
    file.seek(start)
    found = list(_PLACE.finditer(file.read()))
    return start + found[0].start(1) if len(found) == 1 else None


def _hash(file: BinaryIO, place: int) -> str:
    """Over the whole file, with zeros in the place of the seal."""

    def pieces() -> Iterator[bytes]:
        file.seek(0)
        left = place
        while left and (piece := file.read(min(left, _PIECE))):
            yield piece
            left -= len(piece)
        yield _EMPTY
        file.seek(place + len(_EMPTY))
        while piece := file.read(_PIECE):
            yield piece

    return bytes_hash(pieces())


def bytes_hash(pieces: Iterable[bytes | memoryview]) -> str:
    """32 hexadecimal digits over some bytes, however they are cut into pieces."""
    found = xxhash.xxh3_128()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()
