"""The two dimensions of the warehouse as Dagster partitions: models, recipes, and variants = model × recipe.

Why not one dimension `variant` with a mapping of its own to the model: both were tried in interface and daemon. The
mapping is lost on the way to them. What is left takes `a@x` for a model: a backfill of two variants is refused as
depending on models that do not exist, and automation starts a variant whose model was never loaded. Of the built-in
mappings only "all models" fits, by which every new model makes every variant stale. Model × recipe needs no mapping of
ours (Dagster infers MultiToSingleDimensionPartitionMapping), and each run carries the names of both. Its price: pairs
that no study names are shown as missing; nothing asks for them, for what is wanted is told by studies alone.
"""

import re
from collections.abc import Sequence

from dagster import DagsterInstance, DynamicPartitionsDefinition, MultiPartitionKey, MultiPartitionsDefinition

from prunescope.pipelines.core.errors import InputError

MODELS = DynamicPartitionsDefinition(name="model")
RECIPES = DynamicPartitionsDefinition(name="recipe")
VARIANTS = MultiPartitionsDefinition({"model": MODELS, "recipe": RECIPES})

# Dagster takes any key, even an empty one or one with the `|` that joins dimensions.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def register(instance: DagsterInstance, dimension: DynamicPartitionsDefinition, keys: Sequence[str]) -> None:
    """Makes keys known to Dagster; known ones stay.

    Raises:
        InputError: a key is not a name of letters, digits and `._+-`.
    """
    for key in keys:
        if not _KEY.fullmatch(key):
            raise InputError(f"{dimension.name} {key!r}: a name has letters, digits and ._+- and at most 100 of them")
    known = set(dimension.get_partition_keys(dynamic_partitions_store=instance))
    if new := [key for key in keys if key not in known]:
        instance.add_dynamic_partitions(str(dimension.name), new)


def variant_key(model: str, recipe: str) -> MultiPartitionKey:
    """The key of a variant, `model|recipe`."""
    return MultiPartitionKey({"model": model, "recipe": recipe})
