"""Rows that fit each table of the warehouse and violate no check."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from prunescope.pipelines.core.atomic_write import PREFIX
from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.storage.partition_store import PartitionFile, Store
from prunescope.warehouse.storage.provenance import Provenance
from prunescope.warehouse.tables import TABLES

PROVENANCE = Provenance(
    fingerprint="f" * 64,
    study="demo",
    model="tiny",
    recipe="wanda-50",
    inputs={"weight_hash": "a", "recipe_hash": "b"},
    code_version="0.1.0",
    libraries={"torch": "2.9.0"},
    seed=0,
    device="cpu",
    dtype="float32",
    seconds=1.5,
    created_at="2026-01-02T03:04:05+00:00",
)


def provenance_of(model: str, recipe: str | None, **changes: object) -> Provenance:
    """Return the provenance of a partition."""
    return Provenance(**{**vars(PROVENANCE), "model": model, "recipe": recipe, **changes})


def _value(column: Column, row: int) -> object:
    of, minimum = column.type, column.minimum or 0
    if column.values:
        return column.values[row % len(column.values)]
    if pa.types.is_list(of):
        item = of.value_type
        return [f"o{row}"] if pa.types.is_string(item) else [0.25] if pa.types.is_floating(item) else [row + 1]
    if pa.types.is_boolean(of):
        return True
    if pa.types.is_binary(of):
        return bytes([1])
    if pa.types.is_floating(of):
        return 1.0 if column.name == "temperature" else max(minimum, 0.0)
    return int(minimum) + row if pa.types.is_integer(of) else f"{column.name} {row}"


# Columns that follow from others, in three rows.
_OF_OPTIONS, _OF_TEXT = [[0.5], [0.25], None], [None, None, 1]
_FITTING: dict[str, dict[str, list[object]]] = {
    "task_scores": {
        "metric": ["accuracy", "token_perplexity", "word_perplexity"],
        "value": [0.5, 1.0, 1.0],
        "kind": ["generative", "perplexity", "perplexity"],
        "is_higher_better": [True, False, False],
    },
    "task_samples": {
        "options": [["A"], ["A"], None],
        "text": [None, None, "so it is"],
        "answer_lenient": [None, None, "12"],
        "is_correct_lenient": [None, None, True],
        "verdict": [None, None, "passed"],
        "option_log_likelihoods": _OF_OPTIONS,
        "option_log_likelihoods_per_byte": _OF_OPTIONS,
        "target_index": [0, 0, None],
        "tokens_generated": _OF_TEXT,
        "token_ids": [None, None, [7]],
        "first_flip_step": [None, None, 0],
        "text_fork": [None, None, "so it is"],
    },
    "search_effects": {"n_items": [1, 1, 1]},
    "search_trials": {
        "parent": [None, 0, 1],
        "difference_nats": [None, 0.0, 0.0],
        "n_items": [1, 1, 1],
        "treatments_json": ["{}", '{"attn.0": "drop"}', '{"attn.0": "drop", "mlp.1": "wanda-50"}'],
    },
    "paper_reference": {"dropped": [0, 0, 0]},
}


def rows_of(table: Table, model: str = "tiny", recipe: str | None = "wanda-50", rows: int = 3) -> pl.DataFrame:
    """Return rows that pass every check: quantities are zero, ranks one, keys count up."""
    names = {"model": model, "recipe": recipe}
    columns = {}
    for column in table.columns:
        values = [names.get(column.name) or _value(column, row) for row in range(rows)]
        if column.name in {"rank_of_dense_top1", "rank_of_pruned_top1"}:
            values = [1] * rows
        if column.name.startswith("weights_"):
            values = [0] * rows
        if table.name in _FITTING and column.name in _FITTING[table.name]:
            values = [_FITTING[table.name][column.name][row % 3] for row in range(rows)]
        columns[column.name] = values
    if table.key == ("model",) or table.key == ("model", "recipe"):
        columns = {name: values[:1] for name, values in columns.items()}
    return pl.DataFrame(columns)


def noisy_rows(table: Table, rows: int, seed: int) -> pl.DataFrame:
    """Return rows with noise in their float columns, as measured ones have; they may violate invariants."""
    random = np.random.default_rng(seed)
    frame = rows_of(table, rows=rows)
    noise = [
        pl.Series(column.name, random.random(rows, dtype=np.float32))
        for column in table.columns
        if pa.types.is_float32(column.type)
    ]
    return frame.with_columns(noise)


def put(
    store: Store,
    table: Table,
    model: str = "tiny",
    recipe: str = "wanda-50",
    *,
    rows: pl.DataFrame | None = None,
    **provenance: object,
) -> PartitionFile:
    """Write a partition of good rows, or of those given; one of a model has no recipe."""
    of = recipe if table.partitioning == "variant" else None
    rows = rows_of(table, model, of) if rows is None else rows
    return store.write(table, rows, provenance_of(model, of, **provenance), model, of)


def leftovers(root: Path) -> list[str]:
    """Return the names of the temporary files below a folder."""
    return [path.name for path in root.rglob("*") if path.name.startswith(PREFIX)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store in a folder that does not exist yet."""
    return Store(tmp_path / "warehouse")


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Write a store with one partition of every table, once for all tests."""

    @cache
    def written(model: str, recipe: str) -> Path:
        store = Store(tmp_path_factory.mktemp("written"))
        for table in TABLES.values():
            put(store, table, model, recipe)
        return store.root

    return written


@pytest.fixture
def fill(_written: Callable[[str, str], Path]) -> Callable[[Store, str, str], None]:
    """Copy one written partition of every table into a local store."""

    def copy(store: Store, model: str, recipe: str) -> None:
        shutil.copytree(_written(model, recipe), store.root, dirs_exist_ok=True)

    return copy
