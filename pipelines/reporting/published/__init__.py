"""Published numbers, from `numbers.yaml` in this folder, as rows of the table `paper_reference`.

It only reads. SQL decides which of our numbers are compared with them.
"""

import hashlib
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict

NUMBERS = Path(__file__).parent / "numbers.yaml"
_WHOLE_MODEL = -1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Curve(_Strict):
    """Numbers of one task by method, one per drop or layer."""

    task: str
    metric: str
    values: dict[str, list[float]]


class _Row(_Strict):
    """Numbers of one task, one per method of its table."""

    task: str
    metric: str
    values: list[float]


class _Publication(_Strict):
    """One figure or table.

    Attributes:
        model: name of the model.
        source: where it was published.
        unit: unit of its numbers; percents become shares.
        over: what its curves run over.
        curves: a figure's curves.
        methods: the columns of a table, each a method and the number of what it drops.
        rows: a table's rows.
    """

    model: str
    source: str
    unit: Literal["percent", "share", "perplexity", "nats", "ratio"]
    over: Literal["dropped", "layer"] | None = None
    curves: list[_Curve] = []
    methods: list[str] = []
    rows: list[_Row] = []

    def numbers(self) -> Iterator[dict[str, Any]]:
        for curve in self.curves:
            for method, values in curve.values.items():
                for place, value in enumerate(values):
                    of_layer = self.over == "layer"
                    dropped = 1 if of_layer else 0 if method == "dense" else place + 1
                    yield self._number(curve, method, dropped, place if of_layer else _WHOLE_MODEL, value)
        for row in self.rows:
            for column, value in zip(self.methods, row.values, strict=True):
                method, _, count = column.partition(" ")
                yield self._number(row, method, int(count or 0), _WHOLE_MODEL, value)

    def _number(self, of: _Curve | _Row, method: str, dropped: int, layer: int, value: float) -> dict[str, Any]:
        return {
            "model": self.model,
            "source": self.source,
            "method": method,
            "dropped": dropped,
            "task": of.task,
            "metric": of.metric,
            "layer": layer,
            "value": value / 100 if self.unit == "percent" else value,
        }


def published() -> pl.DataFrame:
    """Return all published numbers, in the order of the file, with the columns of `paper_reference`."""
    return _frame(NUMBERS.read_text(encoding="utf-8"))


@lru_cache(1)  # parsing takes a fifth of a second, and a report uses several facts
def _frame(text: str) -> pl.DataFrame:
    publications = [_Publication(**given) for given in yaml.safe_load(text)]
    return pl.DataFrame([number for publication in publications for number in publication.numbers()])


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
