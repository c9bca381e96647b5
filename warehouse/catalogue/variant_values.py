"""Queries of one variant: names, verdict, summary, scores, tokens, and the studies that computed it."""

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from prunescope.warehouse.catalogue.database import connected
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.suggestions import did_you_mean
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

_STATES = """
    SELECT model, recipe, list(content_hash ORDER BY table_name) || [coalesce(any_value(said), '')] AS hashes
    FROM provenance
    LEFT JOIN (SELECT model, recipe, CAST(verdicts AS VARCHAR) AS said FROM variant_verdict AS verdicts)
        USING (model, recipe)
    WHERE recipe IN (FROM (SELECT recipe FROM variants EXCEPT SELECT recipe FROM noise_variants))
    GROUP BY ALL ORDER BY ALL
"""
_OF_VARIANT = "WHERE model = $model AND recipe = $recipe"
_TOKENS = """
    SELECT steps.step, steps.token_text_dense, steps.token_text_pruned, steps.kl_dense_pruned_nats,
           steps.is_top1_same, generations.prompt_text
    FROM decoding_at_reference AS steps JOIN generations USING (model, recipe, prompt_id)
    WHERE steps.variant = $name AND prompt_id = $prompt AND steps.trajectory = $trajectory
    ORDER BY steps.step
"""


def stored_variants(root: Place | str) -> list[tuple[str, str]]:
    """Return model and recipe of every variant in the order of their names; no file is opened."""
    return sorted((partition.model, partition.recipe or "") for partition in Store(root).partitions(TABLES["variants"]))


def find_variant(name: str, variants: Collection[tuple[str, str]]) -> tuple[str, str]:
    """Return model and recipe of a variant by MODEL@RECIPE, or by RECIPE where one model has it.

    Raises:
        WarehouseError: there is none, or several models have the recipe.
    """
    if not variants:
        raise WarehouseError("the warehouse is empty; run a study first, such as `prunescope run demo`")
    matches = [pair for pair in variants if name in {"@".join(pair), pair[1]}]
    if not matches:
        hint = did_you_mean(name, {text for pair in variants for text in ("@".join(pair), pair[1])})
        raise WarehouseError(f"there is no variant {name!r}; {hint}see `prunescope variants`")
    if len(matches) > 1:
        raise WarehouseError(f"{name!r} is a recipe of {', '.join(model for model, _ in matches)}; write MODEL@RECIPE")
    return matches[0]


def variant_states(root: Place | str) -> dict[tuple[str, str], list[str]]:
    """Return the hashes of the rows of each variant's tables by model and recipe, without noise."""
    with connected(root) as connection:
        # The last digits of a sum depend on the order in which threads add.
        connection.execute("SET threads = 1")
        return {(model, recipe): hashes for model, recipe, hashes in connection.sql(_STATES).fetchall()}


def variant_values(root: Place | str, name: str) -> dict[str, Any]:
    """Return the columns of `variant_verdict` and `variant_summary` for a variant; empty where they have no row."""
    rows: dict[str, Any] = {}
    with connected(root) as connection:
        for view in ("variant_verdict", "variant_summary"):
            query = f"SELECT * FROM {view} WHERE variant = $name"  # noqa: S608 - one of ours
            for row in connection.sql(query, params={"name": name}).to_arrow_table().to_pylist():
                rows |= row
    return rows


def variant_scores(root: Place | str, model: str, recipe: str) -> dict[str, float]:
    """Return the task scores of a variant by `task/metric`."""
    query = f"SELECT task || '/' || metric, value FROM task_scores {_OF_VARIANT}"  # noqa: S608 - ours
    with connected(root) as connection:
        return dict(connection.sql(query, params={"model": model, "recipe": recipe}).fetchall())


def variant_origin(root: Place | str, model: str, recipe: str) -> tuple[str, set[str]]:
    """Return the parameters of a variant's recipe as JSON, and the names of the studies that computed it."""
    own = {"model": model, "recipe": recipe}
    with connected(root) as connection:
        rows = connection.sql(f"SELECT parameters_json FROM variants {_OF_VARIANT}", params=own)  # noqa: S608 - ours
        [(parameters,)] = rows.fetchall()
        studies = connection.sql(f"SELECT DISTINCT study FROM provenance {_OF_VARIANT}", params=own)  # noqa: S608 - ours
        return parameters or "{}", {study for (study,) in studies.fetchall()}


def token_rows(root: Place | str, name: str, prompt: str, trajectory: str) -> pa.Table:
    """Return a row for each step of a variant's text up to its end: tokens of both sides, KL, and the prompt's text."""
    with connected(root) as connection:
        values = {"name": name, "prompt": prompt, "trajectory": trajectory}
        return connection.sql(_TOKENS, params=values).to_arrow_table()
