"""Marked secrets for the environment of a run, and a search for them in the files that it wrote."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CANARY = {
    "HF_TOKEN": "hf_CANARYtokenOfTheHub",
    "AWS_ACCESS_KEY_ID": "AKIACANARYOFTHESTORE",
    "AWS_SECRET_ACCESS_KEY": "CANARY/secret+of/the/store",
    "AWS_SESSION_TOKEN": "CANARYsessionOfTheStore",
    "PGPASSWORD": "CANARYofTheDatabase",
}
# Part of every one of them, and of nothing else.
MARK = b"CANARY"


def found_in(*folders: Path) -> list[str]:
    """Return the files below the folders that contain a marked secret, also compressed."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [str(path) for path in files if any(MARK in content for content in _contents(path))]


def _contents(path: Path) -> Iterator[bytes]:
    yield path.read_bytes()
    if path.suffix == ".parquet":  # pages and the schemas in footers are compressed
        table = pq.read_table(path)
        yield str(table.schema.metadata).encode() + str(pq.read_metadata(path).metadata).encode()
        for column in table.columns:
            if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
                yield str(column.unique().to_pylist()).encode()
    elif path.suffix == ".db":
        with closing(sqlite3.connect(path)) as database:  # with the contents of its log
            yield "".join(database.iterdump()).encode()
