"""The recipe asset: what a changed parameter makes stale in the UI.

Models enter through `dense.py`.
"""

from dagster import AssetExecutionContext, AssetMaterialization, DataVersion, MaterializeResult, MetadataValue, asset
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from prunescope.assets.defs.automation_conditions import RECIPE, Outdated, published_recipes
from prunescope.assets.defs.partitions import RECIPES
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.pipelines.recipes import Recipe


@asset(
    key=RECIPE,
    partitions_def=RECIPES,
    group_name="inputs",
    kinds={"yaml"},
    automation_condition=Outdated(),
    description="A recipe and its parameters. Its data version is the hash of the parameters: changing one makes "
    "exactly the variants of this recipe stale, and all that stands on them.",
)
def recipe(context: AssetExecutionContext, study: StudyResource, warehouse: WarehouseResource) -> MaterializeResult:
    """Publishes the parameters of one recipe."""
    found = study.request(warehouse.store(), recipe=context.partition_key).load().recipe(context.partition_key)
    return MaterializeResult(data_version=DataVersion(found.hash), metadata=_shown(found))


def published(found: Recipe) -> AssetMaterialization:
    """Make the event that tells Dagster a recipe's parameters and their version."""
    return AssetMaterialization(
        RECIPE, metadata=_shown(found), partition=found.name, tags={DATA_VERSION_TAG: found.hash}
    )


def publish(context: AssetExecutionContext, found: Recipe) -> None:
    """Lets the run that makes a variant publish its recipe where that was not done, as when it is started by hand.

    Published later, the parameters would make the variant stale that was made from them.
    """
    if published_recipes(context.instance, [found.name]).get(found.name) != found.hash:
        context.log_event(published(found))
        # What Dagster has read at the beginning of the step is not what the variant is made from.
        context.get_step_execution_context().wipe_input_asset_version_info(RECIPE)


def _shown(found: Recipe) -> dict[str, MetadataValue | str]:
    return {"method": found.method, "parameters": MetadataValue.json(found.model_dump())}
