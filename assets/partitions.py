"""The two dimensions of the warehouse as Dagster partitions: models, recipes, and variants = model × recipe.

Dependencies between them need no explicit mapping: Dagster infers the built-in MultiToSingleDimensionPartitionMapping,
which, unlike a mapping of our own, also reaches the UI and the daemon.
"""

import re
from collections.abc import Sequence

from dagster import DagsterInstance, DynamicPartitionsDefinition, MultiPartitionKey, MultiPartitionsDefinition

from pipelines.errors import InputError

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
