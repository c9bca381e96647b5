"""The two partition dimensions of the warehouse: models, recipes, and variants = model × recipe.

A single dimension `variant` would need a partition mapping of ours to the models, and Dagster loses such a mapping on
its way to the UI and the daemon: backfills of variants are then refused, and automation starts variants whose model was
never loaded. The only built-in mapping that fits is "all models", with which every new model makes every variant
stale. Model × recipe needs no mapping of ours, since Dagster infers MultiToSingleDimensionPartitionMapping, and each
run has the names of both. The UI shows pairs that no study names as missing, but only studies launch runs.
"""

from collections.abc import Sequence

from dagster import DagsterInstance, DynamicPartitionsDefinition, MultiPartitionsDefinition

from prunescope.pipelines.studies import Study

MODELS = DynamicPartitionsDefinition(name="model")
RECIPES = DynamicPartitionsDefinition(name="recipe")
VARIANTS = MultiPartitionsDefinition({"model": MODELS, "recipe": RECIPES})


def register(instance: DagsterInstance, dimension: DynamicPartitionsDefinition, keys: Sequence[str]) -> None:
    """Add keys to a dimension, as far as Dagster does not have them yet.

    Dagster accepts any key, even one with the `|` that joins dimensions; a study's names are checked when it is read.
    """
    known = set(dimension.get_partition_keys(dynamic_partitions_store=instance))
    if new := [key for key in keys if key not in known]:
        instance.add_dynamic_partitions(str(dimension.name), new)


def register_study(instance: DagsterInstance, study: Study) -> None:
    """Add a study's models and recipes to the dimensions."""
    register(instance, MODELS, [model.name for model in study.models])
    register(instance, RECIPES, [recipe.name for recipe in study.recipes])
