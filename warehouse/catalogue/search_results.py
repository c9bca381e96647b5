"""Queries of `prunescope search`: its results on a model, sizes of sublayers, and the best published recipes."""

from collections.abc import Sequence

import pyarrow as pa

from prunescope.warehouse.catalogue.database import connected
from prunescope.warehouse.storage.location import Place

_RESULTS = """
    from search_front where model = ? and search = ? and list_contains(?, remove)
    order by remove, strategy <> 'searched', strategy
"""
_BETTER = """
    select * from search_judgement
    where model = ? and recipe = ? and list_contains(?, other_recipe) and measure in ('kl_texts', 'kl_prompts')
    qualify
        bool_or(not is_better) over (partition by other_recipe)
        and not coalesce(bool_or(is_better) over (partition by other_recipe), false)
    order by measure desc, other_amount
"""
_WEIGHTS = """
    select sublayer || '.' || layer, sum(cast(in_features as double) * out_features) from activation_stats
    where model = ? group by sublayer, layer
"""
_MILLISECONDS = """
    select place, milliseconds_removed from stg_search_effects where model = ? and search = ? and treatment = 'drop'
"""


def search_results(root: Place, model: str, search: str, shares: Sequence[float]) -> pa.Table:
    """Return the rows of `search_front` of a search and its targets, those of its own strategy before the controls'."""
    return _rows(root, _RESULTS, model, search, list(shares))


def best_published(root: Place, model: str, recipe: str) -> pa.Table:
    """Return the rows of `search_judgement` of a mixed recipe beside the best published one, by measure."""
    query = "from search_judgement where model = ? and recipe = ? and is_best_published order by measure"
    return _rows(root, query, model, recipe)


def better_controls(root: Place, model: str, recipe: str, controls: Sequence[str]) -> pa.Table:
    """Return the rows of `search_judgement` of a mixed recipe and of controls whose KL is lower on the study's data.

    A control's KL is lower on texts or prompts, with an interval that excludes 0, and higher with one on neither. Rows
    of texts come first, the lowest KL first.
    """
    return _rows(root, _BETTER, model, recipe, list(controls))


def sublayer_weights(root: Place, model: str) -> dict[str, float]:
    """Return the weights of each sublayer, by label such as `attn.3`."""
    return _numbers(root, _WEIGHTS, model)


def sublayer_milliseconds(root: Place, model: str, search: str) -> dict[str, float]:
    """Return the time of each sublayer that a search drops in milliseconds, by label."""
    return _numbers(root, _MILLISECONDS, model, search)


def _rows(root: Place, query: str, *parameters: object) -> pa.Table:
    with connected(root) as connection:
        return connection.sql(query, params=list(parameters)).to_arrow_table()


def _numbers(root: Place, query: str, *parameters: object) -> dict[str, float]:
    columns = _rows(root, query, *parameters).columns
    return dict(zip(*(column.to_pylist() for column in columns), strict=True))
