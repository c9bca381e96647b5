"""Where parts are computed, as run configuration, and how their reports become what Dagster records.

What is computed stands in `compute.py`.
"""

from collections.abc import Iterator
from typing import Literal

from dagster import AssetCheckResult, AssetExecutionContext, ConfigurableResource, MaterializeResult, MultiPartitionKey
from pydantic import Field

from assets.loaded import LOADED
from assets.metadata import left_alone, materialized
from assets.parts import Part
from assets.resources import StudyResource, WarehouseResource
from warehouse.tables import TABLES


class EngineResource(ConfigurableResource):
    """Where a run's parts are computed."""

    kind: Literal["inline"] = Field(default="inline", description="`inline`: in the process of the run.")
    beside: list[str] = Field(
        default=[],
        description="Recipes that other runs ask for next: what several of them need is computed once, along with "
        "this one's.",
    )

    def outcomes(
        self, context: AssetExecutionContext, step: str, study: StudyResource, warehouse: WarehouseResource
    ) -> Iterator[MaterializeResult | AssetCheckResult]:
        """Computes a step of the run's partition, and tells Dagster of every table as it is written.

        Raises:
            InputError, ComputationError, WarehouseError: as `compute`.
        """
        from assets.compute import compute

        key = context.partition_key
        names = key.keys_by_dimension if isinstance(key, MultiPartitionKey) else {"model": key}
        beside, root = tuple(self.beside), str(warehouse.store().root)
        part = Part(step, study.request(), root, names["model"], names.get("recipe"), beside)
        for report in compute(part, LOADED):
            table = TABLES[report.table]
            yield from left_alone(table) if report.is_left_alone else [materialized(table, report)]
