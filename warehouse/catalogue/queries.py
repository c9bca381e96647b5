"""Queries of single commands: variants by name, their verdicts, scores and tokens, and results of searches."""

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.warehouse.catalogue.database import SQL, connected
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

_STATES = """
    SELECT
        model, recipe, coalesce(parameters_json, '{}') AS parameters_json, list(DISTINCT study) AS studies,
        list(content_hash ORDER BY table_name) || [coalesce(any_value(said), '')] AS hashes
    FROM provenance
    JOIN (SELECT model, recipe, parameters_json FROM variants) USING (model, recipe)
    LEFT JOIN (SELECT model, recipe, CAST(verdicts AS VARCHAR) AS said FROM variant_verdict AS verdicts)
        USING (model, recipe)
    WHERE recipe IN (FROM (SELECT recipe FROM variants EXCEPT SELECT recipe FROM noise_variants))
    GROUP BY ALL ORDER BY ALL
"""
_TOKENS = """
    SELECT steps.step, steps.token_text_dense, steps.token_text_pruned, steps.kl_dense_pruned_nats,
           steps.is_top1_same, generations.prompt_text
    FROM decoding_at_reference AS steps JOIN generations USING (model, recipe, prompt_id)
    WHERE steps.variant = ? AND prompt_id = ? AND steps.trajectory = ?
    ORDER BY steps.step
"""
_SEARCH = """
    FROM search_front WHERE model = ? AND search = ? AND coalesce(list_contains(CAST(? AS DOUBLE[]), remove), true)
    ORDER BY remove, strategy <> 'searched', strategy
"""
_BETTER = """
    SELECT * FROM search_judgement
    WHERE model = ? AND recipe = ? AND list_contains(?, other_recipe) AND measure IN ('kl_texts', 'kl_prompts')
    QUALIFY
        bool_or(NOT is_better) OVER (PARTITION BY other_recipe)
        AND NOT coalesce(bool_or(is_better) OVER (PARTITION BY other_recipe), false)
    ORDER BY measure DESC, other_amount
"""
_WEIGHTS = """
    SELECT sublayer || '.' || layer, sum(CAST(in_features AS DOUBLE) * out_features) FROM activation_stats
    WHERE model = ? GROUP BY sublayer, layer
"""
_MILLISECONDS = """
    SELECT place, milliseconds_removed FROM stg_search_effects WHERE model = ? AND search = ? AND treatment = 'drop'
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


def variant_states(root: Place | str) -> list[dict[str, Any]]:
    """Return each variant but noise: `model`, `recipe`, `parameters_json`, its `studies`, and its rows' `hashes`."""
    with connected(root) as connection:
        # The last digits of a sum depend on the order in which threads add.
        connection.execute("SET threads = 1")
        return list(connection.sql(_STATES).to_arrow_table().to_pylist())


def variant_values(root: Place | str, name: str) -> dict[str, Any]:
    """Return the columns of `variant_verdict` and `variant_summary` for a variant; empty if they have no row."""
    verdicts = _rows(root, "FROM variant_verdict WHERE variant = ?", name)
    summary = _rows(root, "FROM variant_summary WHERE variant = ?", name)
    return {column: value for row in (*verdicts.to_pylist(), *summary.to_pylist()) for column, value in row.items()}


def variant_scores(root: Place | str, model: str, recipe: str) -> dict[str, float]:
    """Return the task scores of a variant by `task/metric`."""
    query = "SELECT task || '/' || metric, value FROM task_scores WHERE model = ? AND recipe = ?"
    return _pairs(root, query, model, recipe)


def token_rows(root: Place | str, name: str, prompt: str, trajectory: str) -> pa.Table:
    """Return a row for each step of a variant's text up to its end: tokens of both sides, KL, and the prompt's text."""
    return _rows(root, _TOKENS, name, prompt, trajectory)


def advised_verdicts(root: Place, model: str, recipes: Sequence[str], tolerance: float) -> pa.Table:
    """Return a row of `sql/comparisons/advise.sql` for each recipe, best first."""
    query = (SQL / "comparisons" / "advise.sql").read_text("utf-8")
    return _rows(root, query, model, list(recipes), tolerance)


def predicted_losses(root: Place, model: str) -> pa.Table:
    """Return the model's rows of `loss_predictions`."""
    return _rows(root, "FROM loss_predictions WHERE model = ?", model)


def search_results(root: Place, model: str, search: str, shares: Sequence[float]) -> pa.Table:
    """Return the rows of `search_front` of a search and its targets (none: all), own results first."""
    return _rows(root, _SEARCH, model, search, list(shares) or None)


def brought_back(root: Place, model: str, search: str) -> pa.Table:
    """Return the rows of `sql/comparisons/brought_back.sql`: the share of the start's KL that sets bring back."""
    query = (SQL / "comparisons" / "brought_back.sql").read_text("utf-8")
    return _rows(root, query, model, search)


def removed_weights(root: Place, model: str, search: str) -> int:
    """Return the weights that the result of a search from a start removes."""
    query = "SELECT sum(parameters_removed) FROM search_allocation WHERE model = ? AND search = ? AND strategy = ?"
    return int(_rows(root, query, model, search, "searched").columns[0][0].as_py())


def best_published(root: Place, model: str, recipe: str) -> pa.Table:
    """Return the rows of `search_judgement` that compare a mixed recipe with the best published one, by measure."""
    query = "FROM search_judgement WHERE model = ? AND recipe = ? AND is_best_published ORDER BY measure"
    return _rows(root, query, model, recipe)


def better_controls(root: Place, model: str, recipe: str, controls: Sequence[str]) -> pa.Table:
    """Return the rows of `search_judgement` of a mixed recipe and of controls whose KL is lower on the study's data.

    A control's KL is lower on texts or prompts, with an interval that excludes 0, and higher with one on neither. Rows
    of texts come first, the lowest KL first.
    """
    return _rows(root, _BETTER, model, recipe, list(controls))


def sublayer_weights(root: Place, model: str) -> dict[str, float]:
    """Return the weights of each sublayer, by label such as `attn.3`."""
    return _pairs(root, _WEIGHTS, model)


def sublayer_milliseconds(root: Place, model: str, search: str) -> dict[str, float]:
    """Return the time of each sublayer that a search drops in milliseconds, by label."""
    return _pairs(root, _MILLISECONDS, model, search)


def _rows(root: Place | str, query: str, *parameters: object) -> pa.Table:
    with connected(root) as connection:
        return connection.sql(query, params=list(parameters)).to_arrow_table()


def _pairs(root: Place | str, query: str, *parameters: object) -> dict[str, float]:
    columns = _rows(root, query, *parameters).columns
    return dict(zip(*(column.to_pylist() for column in columns), strict=True))
