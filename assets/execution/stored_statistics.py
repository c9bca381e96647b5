"""What recipes are given to prune with: the model's tables, calibration tokens, and what earlier runs have left.

Which recipes run is `plan.py`'s, how they prune `prunescope.pipelines.pruning`'s.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import polars as pl

from prunescope.assets import settings
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.planning.fingerprints import inputs
from prunescope.assets.planning.work_plan import unfinished_folder
from prunescope.pipelines.recipes import DepthRecipe, Recipe
from prunescope.warehouse.storage.partition_store import to_arrow
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    from torch import Tensor

    from prunescope.pipelines.pruning.calibration.statistics import CalibrationResult
    from prunescope.pipelines.pruning.pruning_inputs import Statistics


def statistics_of(
    subject: PartitionContext,
    recipes: Sequence[Recipe],
    tokens: "Tensor | None",
    calibrated: "Callable[[], CalibrationResult]",
) -> "Statistics":
    """What some recipes of one model need that share a calibration.

    Args:
        subject: the variant of one of them.
        recipes: with the study's calibration, or all with the same of their own.
        tokens: that calibration's, where one of them reads any.
        calibrated: measures the model on it; the model's tables are of the study's.

    Raises:
        WarehouseError: a table of the model is missing or damaged.
    """
    from prunescope.pipelines.pruning.calibration.statistics import calibration_dtype
    from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished

    names = {name for recipe in recipes for name in recipe.needs}
    if names and subject.variant_recipe.calibration is not None:
        seen = calibrated()
        # Rounded as the tables are, so that another study's calibration prunes the very same.
        needed = {name: pl.DataFrame(to_arrow(TABLES[name], getattr(seen, name))) for name in names}
    else:
        needed = {name: subject.read(name) for name in names}
    folder, weight_hash = unfinished_folder(subject.store, subject.model), subject.dense.identity.weight_hash
    orders = [_known_order(subject, recipe) for recipe in recipes]
    return Statistics(
        needed.get("activation_stats"),
        needed.get("block_influence"),
        tokens,
        calibration_dtype(subject.study.calibrated_for(subject.variant_recipe).calibration),
        unfinished=Unfinished(folder, weight_hash),
        order=max(orders, key=len),
        cache=settings.cache_folder(),
    )


def _known_order(subject: PartitionContext, recipe: Recipe) -> list[tuple[str, float | None]]:
    """The longest order that a variant of the same model was found to drop the same units in, whatever its count."""
    if not isinstance(recipe, DepthRecipe) or recipe.by not in {"iterative", "greedy"}:
        return []
    wanted, found = _follows_from(subject, recipe), [list[tuple[str, float | None]]()]
    for partition in subject.store.partitions(TABLES["variants"]):
        if partition.model != subject.model or partition.recipe is None:
            continue
        given = read_footer(partition.path).provenance.inputs
        if {key: value for key, value in given.items() if key != "recipe_hash"} != wanted:
            continue
        row = subject.store.read(TABLES["variants"], partition.model, partition.recipe).to_pylist()[0]
        parameters = json.loads(row["parameters_json"])
        if (parameters.get("method"), parameters.get("by")) == (recipe.method, recipe.by):
            found.append(list(zip(row["drop_order"], row["drop_scores"], strict=True)))
    return max(found, key=len)


def _follows_from(subject: PartitionContext, recipe: Recipe) -> dict[str, str]:
    """Weights, type, tokens and code: all that an order follows from beside the recipe."""
    found = inputs("variants", subject.study, subject.dense.identity, recipe)
    return {key: value for key, value in found.items() if key != "recipe_hash"}
