"""The recipe asset: a changed parameter makes its variants stale in the UI."""

from collections.abc import Iterator, Sequence

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    DagsterEventType,
    DagsterInstance,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    asset,
)

from prunescope.assets.defs.partitions import RECIPES
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.pipelines.recipes import Recipe

RECIPE = AssetKey("recipe")
# Dagster has no public name for its tag; the tests of sensors and staleness depend on it.
DATA_VERSION_TAG = "dagster/data_version"


@asset(
    key=RECIPE,
    partitions_def=RECIPES,
    group_name="inputs",
    kinds={"yaml"},
    description="A recipe and its parameters. Its data version is the hash of the parameters: changing one makes "
    "exactly the variants of this recipe stale, and everything downstream of them.",
)
def recipe(context: AssetExecutionContext, study: StudyResource, warehouse: WarehouseResource) -> MaterializeResult:
    """Publish the parameters of one recipe."""
    name = context.partition_key
    own = study.request(warehouse.store(), context.instance, recipe=name).load().recipe(name)
    return MaterializeResult(data_version=DataVersion(own.hash), metadata=_metadata(own))


def published(recipe: Recipe) -> AssetMaterialization:
    """Return the event that publishes a recipe's parameters and their version."""
    return AssetMaterialization(
        RECIPE, metadata=_metadata(recipe), partition=recipe.name, tags={DATA_VERSION_TAG: recipe.hash}
    )


def unpublished(instance: DagsterInstance, recipes: Sequence[Recipe]) -> Iterator[AssetMaterialization]:
    """Yield the events of recipes whose parameters Dagster does not know yet."""
    versions = published_recipes(instance, [recipe.name for recipe in recipes])
    yield from (published(recipe) for recipe in recipes if versions.get(recipe.name) != recipe.hash)


def publish(context: AssetExecutionContext, recipe: Recipe) -> None:
    """Publish the recipe of a variant's run, unless its parameters are published already.

    They are not if the run was launched by hand. Published later, they would mark the new variant as stale.
    """
    for event in unpublished(context.instance, [recipe]):
        context.log_event(event)
        # Dagster read the input's version at the start of the step, before this event.
        context.get_step_execution_context().wipe_input_asset_version_info(RECIPE)


def published_recipes(instance: DagsterInstance, names: list[str]) -> dict[str, str]:
    """Return the versions of recipes in Dagster's event log; recipes that were never published are left out."""
    versions = latest_versions(instance, RECIPE)
    return {name: versions[name] for name in names if name in versions}


def latest_versions(instance: DagsterInstance, asset: AssetKey) -> dict[str, str]:
    """Return the latest data version of each partition of an asset in Dagster's event log."""
    # Far faster than Dagster's public queries, which load every event with its metadata.
    found = instance.event_log_storage.get_latest_tags_by_partition(
        asset, DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {partition: tags[DATA_VERSION_TAG] for partition, tags in found.items()}


def _metadata(recipe: Recipe) -> dict[str, MetadataValue | str]:
    return {"method": recipe.method, "parameters": MetadataValue.json(recipe.model_dump())}
