"""Checksums over every byte of a Parquet file and over its footer, stored as seals in the footer itself."""

import os
import re
from pathlib import Path
from typing import BinaryIO

import xxhash

# Why a file is not intact, in messages.
ALTERED = "a byte differs from what was written"
_KEY, _FOOTER_KEY = b"prunescope_seal", b"prunescope_footer_seal"
_EMPTY = b"0" * 32
# Metadata of a file as it is first written; `seal` then replaces the zeros by the hashes.
UNSEALED = {_KEY: _EMPTY, _FOOTER_KEY: _EMPTY}
# Thrift writes two bytes between a key and its value.
_SEAL, _FOOTER_SEAL = (re.compile(re.escape(key) + b"..([0-9a-f]{32})", re.DOTALL) for key in UNSEALED)
_PIECE = 1 << 20


def seal(path: Path) -> None:
    """Write the checksums into a file that was written with the metadata `UNSEALED`.

    Raises:
        ValueError: the file has no such metadata.
        OSError: the file cannot be read or written.
    """
    with path.open("r+b") as file:
        start, footer = _footer(file)
        place, offset = _FOOTER_SEAL.search(footer), _seal_offset(file)
        if place is None or offset is None:
            raise ValueError(f"{path} has no place for a seal")
        file.seek(start + place.start(1))
        file.write(_footer_hash(footer))
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


def is_footer_intact(file: BinaryIO) -> bool | None:
    """Return `is_intact` of the footer alone, which takes as long for a large file as for a small one."""
    _, footer = _footer(file)
    found = _FOOTER_SEAL.search(footer)
    return found[1] == _footer_hash(footer) if found else None


def _footer(file: BinaryIO) -> tuple[int, bytes]:
    """Return where the footer begins, and its bytes; the four before the last four of the file are its length."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 8))
    start = end - 8 - int.from_bytes(file.read(4), "little")
    if start < 0:
        return 0, b""
    file.seek(start)
    return start, file.read()


def _footer_hash(footer: bytes) -> bytes:
    """Return 32 hexadecimal digits over a footer, with zeros instead of the seals."""
    for each in (_SEAL, _FOOTER_SEAL):
        footer = each.sub(lambda found: found[0][: -len(_EMPTY)] + _EMPTY, footer)
    return xxhash.xxh3_128(footer).hexdigest().encode()


def _seal_offset(file: BinaryIO) -> int | None:
    start, footer = _footer(file)
    seals = list(_SEAL.finditer(footer))
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
