"""Secrets that stand in the environment of a run, and a look for them in whatever it left behind."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PLANTED = {
    "HF_TOKEN": "hf_PLANTEDtokenOfTheHub",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDOFTHESTORE",
    "AWS_SECRET_ACCESS_KEY": "PLANTED/secret+of/the/store",
    "AWS_SESSION_TOKEN": "PLANTEDsessionOfTheStore",
    "PGPASSWORD": "PLANTEDofTheDatabase",
}
# In every one of them, and in nothing else.
MARK = b"PLANTED"


def found_in(*folders: Path) -> list[str]:
    """The files below the folders that hold a planted secret, also where it is packed."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [str(path) for path in files if any(MARK in content for content in _contents(path))]


def _contents(path: Path) -> Iterator[bytes]:
    yield path.read_bytes()
    if path.suffix == ".parquet":  # pages are packed, and so are footers' schemas
        table = pq.read_table(path)
        yield str(table.schema.metadata).encode() + str(pq.read_metadata(path).metadata).encode()
        for column in table.columns:
            if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
                yield str(column.unique().to_pylist()).encode()
    elif path.suffix == ".db":
        with closing(sqlite3.connect(path)) as database:  # what its log holds is read, too
            yield "".join(database.iterdump()).encode()
