"""The dense model's statistics for pruning: its tables, calibration tokens, and drop orders of earlier variants."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from prunescope.assets import settings
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.planning.fingerprints import inputs
from prunescope.assets.planning.work_plan import unfinished_folder
from prunescope.pipelines.recipes import DepthRecipe, Recipe
from prunescope.warehouse.storage.partition_store import to_arrow
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    from prunescope.pipelines.pruning.pruning_inputs import Statistics


def statistics_of(context: PartitionContext, session: ModelSession, recipes: Sequence[Recipe]) -> "Statistics":
    """Collect the statistics that recipes need: all with the study's calibration, or all with the same of their own.

    Raises:
        WarehouseError: a table of the model is missing or damaged.
    """
    from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_dtype
    from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished

    study, names = context.study.calibrated_for(recipes[0]), {name for recipe in recipes for name in recipe.needs}
    is_calibrated = any(recipe.is_calibrated for recipe in recipes)
    tokens = session.tokens(context.dense, study) if is_calibrated else None
    if names and recipes[0].calibration is not None:  # the model's tables hold the statistics of the study's
        decoder = session.decoder(context.dense, context.study)
        result = calibrate(decoder, study.calibration, context.model, session.progress)
        # Rounded as in the tables: a study with this calibration as its own must prune the same weights.
        needed = {name: pl.DataFrame(to_arrow(TABLES[name], getattr(result, name))) for name in names}
    else:
        needed = {name: context.read(name) for name in names}
    folder, weight_hash = unfinished_folder(context.store, context.model), context.dense.identity.weight_hash
    return Statistics(
        needed.get("activation_stats"),
        needed.get("block_influence"),
        tokens,
        calibration_dtype(study.calibration),
        unfinished=Unfinished(folder, weight_hash),
        order=max((_known_order(context, recipe) for recipe in recipes), key=len),
        cache=settings.cache_folder(),
    )


def _known_order(context: PartitionContext, recipe: Recipe) -> list[tuple[str, float | None]]:
    """Return the longest drop order among the model's variants of the same method, with any number of drops."""
    if not isinstance(recipe, DepthRecipe) or recipe.by not in {"iterative", "greedy"}:
        return []
    # Weights, dtype, tokens and code: the inputs of a drop order besides the recipe.
    own = inputs("variants", context.study, context.dense.identity, recipe) | {"recipe_hash": ""}
    orders = [list[tuple[str, float | None]]()]
    for partition, footer in context.store.footers(TABLES["variants"]):
        if partition.model != context.model or footer.provenance.inputs | {"recipe_hash": ""} != own:
            continue
        row = context.store.read(TABLES["variants"], partition.model, partition.recipe).to_pylist()[0]
        parameters = json.loads(row["parameters_json"])
        if (parameters.get("method"), parameters.get("by")) == (recipe.method, recipe.by):
            orders.append(list(zip(row["drop_order"], row["drop_scores"], strict=True)))
    return max(orders, key=len)
