"""One partition with all that its computation needs: the study, the model found on disk, the recipe, the warehouse.

No Dagster and no torch; what is computed stands in `compute.py`.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Self

import polars as pl

from prunescope.assets import settings
from prunescope.assets.execution.partition_preview import command, origin, preview
from prunescope.assets.execution.task import ComputeTask, TaskResult
from prunescope.assets.planning import fingerprints
from prunescope.assets.planning.fingerprints import DenseModel
from prunescope.pipelines.core.progress import SILENT
from prunescope.pipelines.recipes import Recipe
from prunescope.pipelines.studies import Study
from prunescope.warehouse.quality.plausibility_checks import measured
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import Provenance, fingerprint
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    from prunescope.pipelines.pruning.variant import Variant

LIBRARIES = ("torch", "transformers", "safetensors", "numpy", "polars")


@cache
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


@dataclass(frozen=True)
class PartitionContext:
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
    def of(cls, part: ComputeTask) -> Self:
        """What a part is about.

        Raises:
            InputError: the study, its model or its recipe is not there or not as it should be.
        """
        study = part.request.load()
        dense = fingerprints.find_model(study, part.model, settings.cache_folder(), SILENT)
        recipe = None if part.recipe is None else study.recipe(part.recipe)
        return cls(study, dense, recipe, Store(part.root))

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
        return self.file_of(self.variant_recipe.name)

    def file_of(self, recipe: str) -> str:
        """Where the masks of one of the study's recipes lie in the warehouse."""
        return fingerprints.variant_file(self.study, self.dense, self.study.recipe(recipe))

    def variant(self, recipe: str) -> "Variant":
        """The pruned variant of one of the study's recipes, read back from the warehouse.

        Raises:
            InputError: it was not pruned, or its file is damaged.
        """
        from prunescope.pipelines.pruning.variant import DamagedVariantError, load_variant

        file = self.file_of(recipe)
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
        self, table: str, rows: pl.DataFrame, seconds: float, device: str, shown: dict[str, float | str] | None = None
    ) -> TaskResult:
        """Stores the partition with its provenance.

        Args:
            table: name of the table.
            rows: all of the partition's rows.
            seconds: how long they took to compute.
            device: where.
            shown: what people are shown besides, as in Report.

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
            seed=(self.study.calibrated_for(self.recipe) if self.recipe else self.study).calibration.seed,
            device=device,
            dtype=self.study.dtype,
            seconds=seconds,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        written = self.store.write(TABLES[table], rows, provenance, self.model, recipe)
        return TaskResult(
            table,
            fingerprint=provenance.fingerprint,
            rows=written.rows,
            bytes=written.bytes,
            path=str(written.path),
            violations=written.violations,
            # A table that others refer to has one row a partition, so that row is there where the partition is.
            orphaned=tuple(
                reference.table
                for reference in TABLES[table].references
                if self.store.provenance(TABLES[reference.table], *self._partition(reference.table)) is None
            ),
            drifts=tuple(measured(TABLES[table], rows, written.violations)),
            seconds=seconds,
            device=device,
            shown={
                "ask": command(table, self.model, recipe, str(self.store.root)),
                "preview": preview(TABLES[table], rows),
                "made from": origin(provenance, self.dense.spec.source),
                **(shown or {}),
            },
        )

    def _partition(self, table: str) -> tuple[str, str | None]:
        """Where the rows of this model or variant lie in a table."""
        return self.model, self.variant_recipe.name if TABLES[table].partitioning == "variant" else None
