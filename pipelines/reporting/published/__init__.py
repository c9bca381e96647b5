"""Published numbers, from `numbers.yaml` in this folder, as rows of the table `paper_reference`.

It only reads. SQL decides which of our numbers are compared with them.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import yaml

NUMBERS = Path(__file__).parent / "numbers.yaml"
_WHOLE_MODEL = -1


def _numbers(publication: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one figure, whose curves run over drops or layers, or of one table, with a method per column.

    Percents become shares. A column is named by a method, and by how much it drops.
    """
    whole = 100 if publication["unit"] == "percent" else 1
    of_layers = publication.get("over") == "layer"

    def row(of: dict[str, Any], method: str, dropped: int, layer: int, value: float) -> dict[str, Any]:
        names = {name: publication[name] for name in ("model", "source")} | {"method": method, "dropped": dropped}
        return names | {"task": of["task"], "metric": of["metric"], "layer": layer, "value": value / whole}

    for curve in publication.get("curves", ()):
        for method, values in curve["values"].items():
            for place, value in enumerate(values):
                dropped = 1 if of_layers else 0 if method == "dense" else place + 1
                yield row(curve, method, dropped, place if of_layers else _WHOLE_MODEL, value)
    for own in publication.get("rows", ()):
        for column, value in zip(publication["methods"], own["values"], strict=True):
            method, _, count = column.partition(" ")
            yield row(own, method, int(count or 0), _WHOLE_MODEL, value)


@cache  # parsing takes a fifth of a second, and a report uses several facts
def published() -> pl.DataFrame:
    """Return all published numbers, in the order of the file, with the columns of `paper_reference`."""
    publications = yaml.safe_load(NUMBERS.read_text(encoding="utf-8"))
    return pl.DataFrame([number for publication in publications for number in _numbers(publication)])


@cache
def fact(task: str, metric: str) -> float:
    """Return the only number that was published under these names, for a rule or a sentence that depends on it.

    Raises:
        ValueError: there is none, or more than one.
    """
    return float(published().filter(pl.col("task") == task, pl.col("metric") == metric)["value"].item())


def contents_hash() -> str:
    """Return the SHA-256 of the numbers and of the code that reads them."""
    return hashlib.sha256(NUMBERS.read_bytes() + Path(__file__).read_bytes()).hexdigest()
