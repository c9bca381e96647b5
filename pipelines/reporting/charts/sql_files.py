"""SQL statements of figures and of the explorer, from the files of `sql/`."""

from functools import cache
from importlib.resources import files


@cache
def read_sql(folder: str, name: str) -> tuple[str, str]:
    """Return title and statement of a file of `sql/figures` or `sql/explorer`, given its path there without suffix.

    The title is the header's first paragraph without the final period. The statement has no header.
    """
    lines = files("prunescope.sql").joinpath(folder, f"{name}.sql").read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    header = " ".join(line.removeprefix("--").strip() for line in lines[:end])
    return header.partition(" grain: ")[0].removesuffix("."), "\n".join(lines[end:])
