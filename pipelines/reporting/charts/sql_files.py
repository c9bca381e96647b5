"""SQL statements of figures and of the explorer, from the files of `sql/`."""

from functools import cache
from importlib.resources import files
from typing import NamedTuple


class SqlFile(NamedTuple):
    """A statement without its header, and its title: the header's first paragraph without the final period."""

    title: str
    statement: str


@cache
def read_sql(folder: str, name: str) -> SqlFile:
    """Read the file of `sql/figures` or `sql/explorer` that has this path there, without suffix."""
    lines = files("prunescope.sql").joinpath(folder, f"{name}.sql").read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    header = " ".join(line.removeprefix("--").strip() for line in lines[:end])
    return SqlFile(header.partition(" grain: ")[0].removesuffix("."), "\n".join(lines[end:]))
