"""The partitions of the assets, models and recipes, and the recipe asset, whose new parameters make variants unsynced.

A single dimension `variant` would need a partition mapping of ours to the models, and Dagster loses such a mapping on
its way to the UI and the daemon: backfills of variants are then refused, and automation starts variants whose model was
never loaded. The only built-in mapping that fits is "all models", with which every new model makes every variant
unsynced. Model × recipe needs no mapping of ours, since Dagster infers MultiToSingleDimensionPartitionMapping, and each
run has the names of both. The UI shows pairs that no study names as missing, but only studies launch runs.
"""

from collections.abc import Iterator, Sequence

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    DagsterEventType,
    DagsterInstance,
    DataVersion,
    DynamicPartitionsDefinition,
    MaterializeResult,
    MetadataValue,
    MultiPartitionsDefinition,
    asset,
)

from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.pipelines.recipes import Recipe
from prunescope.pipelines.studies import Study

MODELS = DynamicPartitionsDefinition(name="model")
RECIPES = DynamicPartitionsDefinition(name="recipe")
VARIANTS = MultiPartitionsDefinition({"model": MODELS, "recipe": RECIPES})
RECIPE = AssetKey("recipe")
# Dagster has no public name for its tag; the tests of sensors and staleness depend on it.
DATA_VERSION_TAG = "dagster/data_version"


def register_study(instance: DagsterInstance, study: Study) -> None:
    """Add a study's models and recipes to the dimensions, as far as Dagster does not have them yet.

    Dagster accepts any key, even one with the `|` that joins dimensions; a study's names are checked when it is read.
    """
    instance.add_dynamic_partitions(str(MODELS.name), [model.name for model in study.models])
    instance.add_dynamic_partitions(str(RECIPES.name), [recipe.name for recipe in study.recipes])


@asset(
    key=RECIPE,
    partitions_def=RECIPES,
    group_name="inputs",
    kinds={"yaml"},
    description="A recipe and its parameters. Its data version is the hash of the parameters: changing one makes "
    "exactly the variants of this recipe unsynced, and everything downstream of them.",
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
    versions = latest_versions(instance, RECIPE)
    yield from (published(recipe) for recipe in recipes if versions.get(recipe.name) != recipe.hash)


def publish(context: AssetExecutionContext, recipe: Recipe) -> None:
    """Publish the recipe of a variant's run, unless its parameters are published already.

    They are not if the run was launched by hand. Published later, they would mark the new variant as unsynced.
    """
    for event in unpublished(context.instance, [recipe]):
        context.log_event(event)
        # Dagster read the input's version at the start of the step, before this event.
        context.get_step_execution_context().wipe_input_asset_version_info(RECIPE)


def latest_versions(instance: DagsterInstance, asset: AssetKey) -> dict[str, str]:
    """Return the latest data version of each partition of an asset in Dagster's event log."""
    # Far faster than Dagster's public queries, which load every event with its metadata.
    found = instance.event_log_storage.get_latest_tags_by_partition(
        asset, DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {partition: tags[DATA_VERSION_TAG] for partition, tags in found.items()}


def _metadata(recipe: Recipe) -> dict[str, MetadataValue | str]:
    return {"method": recipe.method, "parameters": MetadataValue.json(recipe.model_dump())}
