"""What an asset needs beside its partition: the study as run configuration, the warehouse, and both for one partition.

Run configuration is what the UI shows and executes again, so all that a run depends on stands there.
"""

import datetime
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

import duckdb
import polars as pl
from dagster import (
    AssetExecutionContext,
    ConfigurableResource,
    InitResourceContext,
    MaterializeResult,
    MultiPartitionKey,
)
from pydantic import Field, PrivateAttr

from assets import fingerprints, settings
from assets.fingerprints import DenseModel
from assets.metadata import materialized
from assets.plan import Request
from pipelines.progress import SILENT
from pipelines.pruning.recipes import Recipe
from pipelines.studies import Study
from warehouse.catalogue import connect
from warehouse.provenance import Provenance, fingerprint
from warehouse.snapshots import damage_explained
from warehouse.store import Store
from warehouse.subset import narrow
from warehouse.tables import TABLES

if TYPE_CHECKING:
    from pipelines.pruning.variant import Variant

Ask = Callable[[str], pl.DataFrame]
LIBRARIES = ("torch", "transformers", "safetensors", "numpy", "polars")


class StudyResource(ConfigurableResource):
    """Which study, with the command line's replacements."""

    study: str = Field(default="demo", description="Name of a shipped study, or the path of a YAML file.")
    models: list[str] = Field(
        default=[], description="Models in place of the study's: a folder, a .gguf file, a hub id, or NAME=SOURCE."
    )
    recipes: list[str] = Field(default=[], description="Recipes in place of the study's; `dense` always stays.")
    allow_code_execution: bool = Field(
        default=False, description="Whether programs that variants write for tasks may run, locked up."
    )

    def request(self) -> Request:
        """What is asked for."""
        return Request(self.study, tuple(self.models), tuple(self.recipes), self.allow_code_execution)

    def load(self) -> Study:
        """Reads and checks the study; InputError where it is not valid."""
        return self.request().load()


class WarehouseResource(ConfigurableResource):
    """Where results are kept."""

    root: str = Field(default="", description="Folder or URL; empty: PRUNESCOPE_WAREHOUSE, else warehouse/data.")

    _connection: duckdb.DuckDBPyConnection | None = PrivateAttr(default=None)

    def store(self) -> Store:
        """The Parquet store."""
        return Store(settings.warehouse_root(self.root or None))

    def ask(self, query: str) -> pl.DataFrame:
        """The rows of one of our own queries, all in one run of the same state of the warehouse.

        Raises:
            WarehouseError: the views cannot be built, or a file is damaged.
        """
        if self._connection is None:
            self._connection = connect(self.store().root, explained=False)
        return _frame(self._connection, query)

    def teardown_after_execution(self, context: InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        """Closes the catalogue at the end of a run."""
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def only(self, study: Study) -> Iterator[Ask]:
        """Asks as if the warehouse held this study's models and recipes and nothing else."""
        with connect(self.store().root, explained=False) as connection:
            narrow(connection, [model.name for model in study.models], [recipe.name for recipe in study.recipes])
            yield lambda query: _frame(connection, query)


@cache
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _frame(connection: duckdb.DuckDBPyConnection, query: str) -> pl.DataFrame:
    with damage_explained(connection):
        return pl.DataFrame(connection.sql(query).to_arrow_table())


@dataclass(frozen=True)
class Subject:
    """What one partition is about.

    Attributes:
        study: the study.
        dense: its model, found on disk.
        recipe: its recipe; None in model partitions.
        store: the warehouse.
    """

    study: Study
    dense: DenseModel
    recipe: Recipe | None
    store: Store

    @classmethod
    def of(cls, context: AssetExecutionContext, study: StudyResource, warehouse: WarehouseResource) -> Self:
        """The subject of the run's partition, `model` or `model|recipe`."""
        loaded = study.load()
        key = context.partition_key
        names = key.keys_by_dimension if isinstance(key, MultiPartitionKey) else {"model": key}
        dense = fingerprints.find_model(loaded, names["model"], settings.cache_folder(), SILENT)
        recipe = loaded.recipe(names["recipe"]) if "recipe" in names else None
        return cls(loaded, dense, recipe, warehouse.store())

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.dense.spec.name

    @property
    def variant_recipe(self) -> Recipe:
        """The recipe of a variant partition."""
        if self.recipe is None:
            raise ValueError("a model partition has no recipe")
        return self.recipe

    def asks(self, tables: Iterable[str]) -> bool:
        """Whether the study fills these tables; what it does not belongs to other studies of the variant."""
        return set(tables) <= set(fingerprints.variant_tables(self.study))

    @property
    def variant_file(self) -> str:
        """Where the variant's masks lie in the warehouse."""
        return fingerprints.variant_file(self.study, self.dense, self.variant_recipe)

    def variant(self, recipe: str) -> "Variant":
        """The pruned variant of one of the study's recipes, read back from the warehouse.

        Raises:
            InputError: it was not pruned, or its file is damaged.
        """
        from pipelines.pruning.variant import DamagedVariantError, load_variant

        file = fingerprints.variant_file(self.study, self.dense, self.study.recipe(recipe))
        try:
            return load_variant(self.store.local_file(file, settings.cache_folder()), self.dense.identity.weight_hash)
        except DamagedVariantError:
            (self.store.root / file).unlink()  # so that the next run prunes again instead of failing again
            raise

    def read(self, table: str) -> pl.DataFrame:
        """The model's rows of a table that is kept per model."""
        return pl.DataFrame(self.store.read(TABLES[table], self.model, None))

    def of_dense(self, table: str) -> pl.DataFrame | None:
        """The dense model's rows of a table that is kept per variant; None where they are not current."""
        recipe = self.study.recipe("dense")
        wanted = fingerprints.accepted(table, self.study, self.dense.identity, recipe)
        if not any(self.store.is_current(TABLES[table], self.model, recipe.name, each) for each in wanted):
            return None
        rows = pl.DataFrame(self.store.read(TABLES[table], self.model, recipe.name))
        return rows.with_columns(pl.col(pl.Categorical).cast(pl.String))  # names as text, as they are computed

    def write(
        self,
        table: str,
        rows: pl.DataFrame,
        seconds: float,
        device: str,
        extra: dict[str, Any] | None = None,
    ) -> MaterializeResult:
        """Stores the partition with its provenance and reports it to Dagster.

        Raises:
            WarehouseError: the rows do not fit the table, or the disk refused.
        """
        recipe = self.recipe.name if self.recipe else None
        inputs = fingerprints.inputs(table, self.study, self.dense.identity, self.recipe)
        provenance = Provenance(
            fingerprint=fingerprint(inputs),
            study=self.study.name,
            model=self.model,
            recipe=recipe,
            inputs=inputs,
            code_version=fingerprints.CODE_VERSIONS[table],
            libraries=_libraries(),
            seed=self.study.calibration.seed,
            device=device,
            dtype=self.study.dtype,
            seconds=seconds,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        written = self.store.write(TABLES[table], rows, provenance, self.model, recipe)
        # A table that others refer to has one row a partition, so that row is there where the partition is.
        orphaned = [
            reference
            for reference in TABLES[table].references
            if self.store.provenance(TABLES[reference.table], *self._partition(reference.table)) is None
        ]
        told = {"seconds": seconds, **(extra or {})}
        return materialized(TABLES[table], written, provenance.fingerprint, orphaned, told)

    def _partition(self, table: str) -> tuple[str, str | None]:
        """Where the rows of this model or variant lie in a table."""
        return self.model, self.variant_recipe.name if TABLES[table].partitioning == "variant" else None
