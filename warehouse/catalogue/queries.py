"""Queries of single commands: variants by name, their verdicts, scores and tokens, and results of searches."""

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.warehouse.catalogue.database import SQL, connected
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

# Statements for `query_rows` and `query_pairs`.
# A row per step of one text up to its end, with the tokens of both sides, KL, and the prompt's text.
TOKENS = """
    SELECT steps.step, steps.token_text_dense, steps.token_text_pruned, steps.kl_dense_pruned_nats,
           steps.is_top1_same, generations.prompt_text
    FROM decoding_at_reference AS steps JOIN generations USING (model, recipe, prompt_id)
    WHERE steps.variant = $variant AND prompt_id = $prompt AND steps.trajectory = $trajectory
    ORDER BY steps.step
"""
PREDICTED_LOSSES = "FROM loss_predictions WHERE model = $model"
# The results of a search at some targets, or at all if `targets` is NULL; its own come before those of controls.
SEARCH_RESULTS = """
    FROM search_front
    WHERE model = $model AND search = $search AND coalesce(list_contains(CAST($targets AS DOUBLE[]), remove), true)
    ORDER BY remove, strategy <> 'searched', strategy
"""
# The number of weights that the result of a search from a start removes.
REMOVED_WEIGHTS = """
    SELECT CAST(sum(parameters_removed) AS BIGINT) FROM search_allocation
    WHERE model = $model AND search = $search AND strategy = 'searched'
"""
# Comparisons of a mixed recipe with the best published one, by measure.
BEST_PUBLISHED = """
    FROM search_judgement WHERE model = $model AND recipe = $recipe AND is_best_published ORDER BY measure
"""
# Comparisons of a mixed recipe with the controls that beat it: their KL is lower on the study's texts or prompts, with
# an interval that excludes 0, and on neither it is higher with such an interval. Texts come first, the lowest KL first.
BETTER_CONTROLS = """
    SELECT * FROM search_judgement
    WHERE model = $model AND recipe = $recipe AND list_contains($controls, other_recipe)
        AND measure IN ('kl_texts', 'kl_prompts')
    QUALIFY
        bool_or(NOT is_better) OVER (PARTITION BY other_recipe)
        AND NOT coalesce(bool_or(is_better) OVER (PARTITION BY other_recipe), false)
    ORDER BY measure DESC, other_amount
"""
# The number of weights of each sublayer of a model, by label such as `attn.3`.
SUBLAYER_WEIGHTS = """
    SELECT sublayer || '.' || layer, sum(CAST(in_features AS DOUBLE) * out_features) FROM activation_stats
    WHERE model = $model GROUP BY sublayer, layer
"""
# The milliseconds that the drop of each sublayer saves in a search, by label.
SUBLAYER_MILLISECONDS = """
    SELECT place, milliseconds_removed FROM stg_search_effects
    WHERE model = $model AND search = $search AND treatment = 'drop'
"""


def stored_variants(root: Place | str) -> list[tuple[str, str]]:
    """Return model and recipe of every variant in the order of their names; no file is opened."""
    return sorted((partition.model, partition.recipe or "") for partition in Store(root).partitions(TABLES["variants"]))


def find_variant(name: str, variants: Collection[tuple[str, str]]) -> tuple[str, str]:
    """Return model and recipe of a variant by MODEL@RECIPE, or by RECIPE if one model has it.

    Raises:
        WarehouseError: there is none, or several models have the recipe.
    """
    if not variants:
        raise WarehouseError("the warehouse is empty; run a study first, such as `prunescope run demo`")
    matches = [pair for pair in variants if name in {"@".join(pair), pair[1]}]
    if not matches:
        hint = did_you_mean(name, sorted({text for pair in variants for text in ("@".join(pair), pair[1])}), 3, "{!r}")
        raise WarehouseError(f"there is no variant {name!r}; {hint}see `prunescope variants`")
    if len(matches) > 1:
        raise WarehouseError(f"{name!r} is a recipe of {', '.join(model for model, _ in matches)}; write MODEL@RECIPE")
    return matches[0]


def variant_values(root: Place | str, name: str) -> dict[str, Any]:
    """Return the columns of `variant_verdict` and `variant_summary` for a variant; empty if they have no row."""
    verdicts = query_rows(root, "FROM variant_verdict WHERE variant = $name", name=name)
    summary = query_rows(root, "FROM variant_summary WHERE variant = $name", name=name)
    return {column: value for row in (*verdicts.to_pylist(), *summary.to_pylist()) for column, value in row.items()}


def comparison_rows(root: Place, name: str, *parameters: object) -> pa.Table:
    """Return the rows of a file of `sql/comparisons`, whose header says what its parameters and rows are."""
    statement = (SQL / "comparisons" / f"{name}.sql").read_text("utf-8")
    with connected(root) as connection:
        return connection.sql(statement, params=list(parameters)).to_arrow_table()


def query_rows(root: Place | str, statement: str, **parameters: object) -> pa.Table:
    """Return the rows of a statement with these values of its parameters, such as `$model`."""
    with connected(root) as connection:
        return connection.sql(statement, params=parameters).to_arrow_table()


def query_pairs(root: Place | str, statement: str, **parameters: object) -> dict[str, float]:
    """Return the second column of a statement's rows by the first."""
    columns = query_rows(root, statement, **parameters).columns
    return dict(zip(*(column.to_pylist() for column in columns), strict=True))
