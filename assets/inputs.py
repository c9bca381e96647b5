"""The recipe asset: what a changed parameter makes stale in the UI.

Models enter through `dense.py`.
"""

from dagster import AssetExecutionContext, AssetKey, DataVersion, MaterializeResult, MetadataValue, asset

from assets.partitions import RECIPES
from assets.resources import StudyResource

RECIPE = AssetKey("recipe")


@asset(
    key=RECIPE,
    partitions_def=RECIPES,
    group_name="inputs",
    kinds={"yaml"},
    description="A recipe and its parameters. Its data version is the hash of the parameters: changing one makes "
    "exactly the variants of this recipe stale.",
)
def recipe(context: AssetExecutionContext, study: StudyResource) -> MaterializeResult:
    """Publishes the parameters of one recipe."""
    found = study.load().recipe(context.partition_key)
    return MaterializeResult(
        data_version=DataVersion(found.hash),
        metadata={"method": found.method, "parameters": MetadataValue.json(found.model_dump())},
    )
