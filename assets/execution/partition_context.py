"""The context of one partition's computation: the study, the model on disk, the recipe, the warehouse; and its preview.

Without Dagster and torch.
"""

import datetime
import re
import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from prunescope.assets.execution.task import ModelTask, TableWritten
from prunescope.assets.instance import settings
from prunescope.assets.planning import fingerprints, freshness
from prunescope.assets.planning.fingerprints import DenseModel
from prunescope.assets.planning.steps import CODE_VERSIONS, STEP_OF_TABLE
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT
from prunescope.pipelines.core.quoting import literal
from prunescope.pipelines.recipes import Recipe
from prunescope.pipelines.studies import Study
from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.core.formats import render
from prunescope.warehouse.quality.plausibility_checks import measured
from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import Provenance, fingerprint
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    from prunescope.pipelines.pruning.variant import Variant

# The UI hides Markdown of a thousand characters or more behind a link.
MAX_CHARACTERS = 999
_ROWS = 8
_CELL = 40


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that numbers depend on."""
    return {name: version(name) for name in ("torch", "transformers", "safetensors", "numpy", "polars")}


@dataclass(frozen=True)
class PartitionContext:
    """The context of one partition's computation.

    Attributes:
        dense: its model, located on disk.
        recipe: its recipe; None in model partitions.
    """

    study: Study
    dense: DenseModel
    recipe: Recipe | None
    store: Store

    @classmethod
    def of(cls, task: ModelTask) -> Self:
        """Load the context of a task's model.

        Raises:
            InputError: the study or its model is missing or not valid.
        """
        study = task.request.load()
        dense = fingerprints.find_model(study, task.model, SILENT)
        return cls(study, dense, None, Store(task.root))

    @property
    def model(self) -> str:
        """Return the name of the model."""
        return self.dense.spec.name

    @property
    def variant_recipe(self) -> Recipe:
        """Return the recipe of a variant partition."""
        if self.recipe is None:
            raise ValueError("a model partition has no recipe")
        return self.recipe

    def variant(self, recipe: str) -> "Variant":
        """Load the pruned variant of one of the study's recipes from the warehouse.

        Raises:
            InputError: it was never pruned, or its file is damaged.
        """
        from prunescope.pipelines.pruning.variant import DamagedVariantError, load_variant

        file = fingerprints.variant_file(self.study, self.dense, self.study.recipe(recipe))
        try:
            return load_variant(self.store.local_file(file, settings.cache_folder()), self.dense.identity.weight_hash)
        except DamagedVariantError:
            (self.store.root / file).unlink()  # the next run prunes again instead of failing again
            raise

    def current(self, table: str) -> pl.DataFrame:
        """Read the model's rows of a table with one partition per model.

        Raises:
            InputError: the partition is missing, or was computed from other inputs, such as earlier weights.
        """
        if not freshness.is_current(self.store, table, self.study, self.dense, None):
            raise InputError(f"{table} of {self.model} is missing or outdated; compute it first")
        return pl.DataFrame(self.store.read(TABLES[table], self.model, None))

    def written(self, table: str) -> pl.DataFrame:
        """Read the model's rows of a table; no columns if the partition is missing or damaged."""
        with suppress(DamagedFileError):
            if self.store.provenance(TABLES[table], self.model, None) is not None:
                return pl.DataFrame(self.store.read(TABLES[table], self.model, None))
        return pl.DataFrame()

    def of_dense(self, table: str) -> pl.DataFrame | None:
        """Read the dense model's rows of a table with one partition per variant; None unless they are current."""
        recipe = self.study.recipe("dense")
        if not freshness.is_current(self.store, table, self.study, self.dense, recipe):
            return None
        rows = pl.DataFrame(self.store.read(TABLES[table], self.model, recipe.name))
        return rows.with_columns(pl.col(pl.Categorical).cast(pl.String))  # as strings, like rows just computed

    def write(
        self, table: str, rows: pl.DataFrame, seconds: float, device: str, details: dict[str, float | str] | None = None
    ) -> TableWritten:
        """Write the partition with its provenance; `details` are added to those of the result.

        Rows need not name their model and recipe; a frame without rows may lack all columns.

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
            code_version=CODE_VERSIONS[table],
            libraries=library_versions(),
            seed=(self.study.calibrated_for(self.recipe) if self.recipe else self.study).calibration.seed,
            device=device,
            dtype=self.study.dtype,
            seconds=seconds,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        names = {"model": pl.lit(self.model)} | ({} if recipe is None else {"recipe": pl.lit(recipe)})
        empty = pl.DataFrame(TABLES[table].arrow().empty_table())
        rows = empty if rows.is_empty() else rows.with_columns(**names)
        written = self.store.write(TABLES[table], rows, provenance, self.model, recipe)
        return TableWritten(
            recipe,
            STEP_OF_TABLE[table].name,
            table,
            fingerprint=provenance.fingerprint,
            rows=written.rows,
            bytes=written.bytes,
            path=str(written.path),
            violations=written.violations,
            orphaned=tuple(reference.table for reference in TABLES[table].references if not self._has(reference.table)),
            drifts=tuple(measured(TABLES[table], rows)),
            seconds=seconds,
            details={
                "ask": command(table, self.model, recipe, str(self.store.root)),
                "preview": preview(TABLES[table], rows),
                "made from": made_from(provenance, self.dense.spec.source),
                **(details or {}),
            },
        )

    def _has(self, table: str) -> bool:
        """Return whether a table that others refer to has their row; it has one per partition."""
        recipe = self.variant_recipe.name if TABLES[table].partitioning == "variant" else None
        return self.store.provenance(TABLES[table], self.model, recipe) is not None


def preview(table: Table, rows: pl.DataFrame) -> str:
    """Return evenly spaced rows of a partition as a Markdown table of the key and the table's preview columns.

    Key columns with one value, such as model and recipe, are left out.
    """
    key = [name for name in table.key if rows.height and (rows[name] != rows[name][0]).any()]
    names = [*key, *table.preview_columns]
    for count in range(min(_ROWS, rows.height), 0, -1):
        indices = [index * (rows.height - 1) // max(count - 1, 1) for index in range(count)]
        sample = rows.select(names)[indices].with_columns(pl.col(pl.Categorical).cast(pl.String))
        sample = sample.with_columns(pl.col(pl.String).str.head(_CELL))
        # The padding to columns would count as characters, and the browser aligns the table itself.
        text = re.sub("-{3,}", "---", re.sub(" {2,}", " ", str(render(sample.to_arrow(), "markdown"))))
        if len(text) <= MAX_CHARACTERS:
            return text
    return ""


def made_from(provenance: Provenance, source: str) -> dict[str, Any]:
    """Return the provenance in the footer of a partition, and the source of its model, including its revision."""
    return {"source": source} | asdict(provenance)


def command(table: str, model: str, recipe: str | None, root: str) -> str:
    """Return the command that queries a partition, as Markdown; partition keys need no escaping."""
    where = f"model = {literal(model)}" + (f"\n    and recipe = {literal(recipe)}" if recipe else "")
    # In short lines, because the UI scrolls wide ones.
    return f'```sh\nprunescope sql --warehouse {shlex.quote(root)} "\n  from {table}\n  where {where}"\n```'
