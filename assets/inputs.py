"""The recipe asset: what a changed parameter makes stale in the UI.

Models enter through `dense.py`.
"""

from dagster import AssetExecutionContext, DataVersion, MaterializeResult, MetadataValue, asset

from assets.conditions import RECIPE, Outdated
from assets.partitions import RECIPES
from assets.resources import StudyResource, WarehouseResource


@asset(
    key=RECIPE,
    partitions_def=RECIPES,
    group_name="inputs",
    kinds={"yaml"},
    automation_condition=Outdated(),
    description="A recipe and its parameters. Its data version is the hash of the parameters: changing one makes "
    "exactly the variants of this recipe stale.",
)
def recipe(context: AssetExecutionContext, study: StudyResource, warehouse: WarehouseResource) -> MaterializeResult:
    """Publishes the parameters of one recipe."""
    found = study.request(warehouse.store(), recipe=context.partition_key).load().recipe(context.partition_key)
    return MaterializeResult(
        data_version=DataVersion(found.hash),
        metadata={"method": found.method, "parameters": MetadataValue.json(found.model_dump())},
    )
