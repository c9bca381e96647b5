"""The dense model's statistics for pruning: its tables, calibration tokens, and drop orders of earlier variants."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from prunescope.assets import settings
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.planning.fingerprints import inputs
from prunescope.assets.planning.work_plan import unfinished_folder
from prunescope.pipelines.recipes import DepthRecipe, Recipe
from prunescope.warehouse.storage.partition_store import to_arrow
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    from torch import Tensor

    from prunescope.pipelines.pruning.calibration.statistics import CalibrationResult
    from prunescope.pipelines.pruning.pruning_inputs import Statistics


def statistics_of(
    context: PartitionContext,
    recipes: Sequence[Recipe],
    tokens: "Tensor | None",
    measure: "Callable[[], CalibrationResult]",
) -> "Statistics":
    """Collect the statistics that recipes with one calibration need.

    Args:
        context: of the model, or of one of the recipes.
        recipes: all with the study's calibration, or all with the same calibration of their own.
        tokens: the calibration's tokens, if a recipe reads any.
        measure: measures the model on recipes' own calibration; the model's tables hold the study's.

    Raises:
        WarehouseError: a table of the model is missing or damaged.
    """
    from prunescope.pipelines.pruning.calibration.statistics import calibration_dtype
    from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished

    names = {name for recipe in recipes for name in recipe.needs}
    if names and recipes[0].calibration is not None:
        result = measure()
        # Rounded as in the tables: a study with this calibration as its own must prune the same weights.
        needed = {name: pl.DataFrame(to_arrow(TABLES[name], getattr(result, name))) for name in names}
    else:
        needed = {name: context.read(name) for name in names}
    folder, weight_hash = unfinished_folder(context.store, context.model), context.dense.identity.weight_hash
    orders = [_known_order(context, recipe) for recipe in recipes]
    return Statistics(
        needed.get("activation_stats"),
        needed.get("block_influence"),
        tokens,
        calibration_dtype(context.study.calibrated_for(recipes[0]).calibration),
        unfinished=Unfinished(folder, weight_hash),
        order=max(orders, key=len),
        cache=settings.cache_folder(),
    )


def statistics_of_search(context: PartitionContext, tokens: "Tensor") -> "Statistics":
    """Collect the statistics that the treatments of a search need, with the study's calibration.

    Raises:
        WarehouseError: a table of the model is missing or damaged.
    """
    from prunescope.pipelines.pruning.calibration.statistics import calibration_dtype
    from prunescope.pipelines.pruning.pruning_inputs import Statistics

    dtype = calibration_dtype(context.study.calibration)
    tables = context.read("activation_stats"), context.read("block_influence")
    return Statistics(*tables, tokens=tokens, dtype=dtype)


def _known_order(context: PartitionContext, recipe: Recipe) -> list[tuple[str, float | None]]:
    """Return the longest drop order among the model's variants of the same method, with any number of drops."""
    if not isinstance(recipe, DepthRecipe) or recipe.by not in {"iterative", "greedy"}:
        return []
    own = _inputs_of_order(inputs("variants", context.study, context.dense.identity, recipe))
    orders = [list[tuple[str, float | None]]()]
    for partition, footer in context.store.footers(TABLES["variants"]):
        if partition.model != context.model or _inputs_of_order(footer.provenance.inputs) != own:
            continue
        row = context.store.read(TABLES["variants"], partition.model, partition.recipe).to_pylist()[0]
        parameters = json.loads(row["parameters_json"])
        if (parameters.get("method"), parameters.get("by")) == (recipe.method, recipe.by):
            orders.append(list(zip(row["drop_order"], row["drop_scores"], strict=True)))
    return max(orders, key=len)


def _inputs_of_order(variant_inputs: Mapping[str, str]) -> dict[str, str]:
    """Return weights, dtype, tokens and code: the inputs of a drop order besides the recipe."""
    return {key: value for key, value in variant_inputs.items() if key != "recipe_hash"}
