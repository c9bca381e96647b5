"""One question with filters as bound parameters.

A filter chooses rows of the answer and never changes them; safe_sql runs the statement.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import pyarrow as pa

from prunescope.warehouse.catalogue import view_header
from prunescope.warehouse.catalogue.database import View, connect
from prunescope.warehouse.catalogue.safe_sql import run_safe
from prunescope.warehouse.catalogue.scope import narrow
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.limits import GIBIBYTES, SECONDS
from prunescope.warehouse.core.quoting import quoted
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    import polars as pl

# The tables that know prompts, the small ones first.
_OF_PROMPTS = ("generations", "option_subspace", "decoding_steps", "layer_transitions")


@dataclass(frozen=True)
class RowFilter:
    """Which rows of an answer: each filter that is not empty must hold.

    Attributes:
        models: names of models.
        recipes: names of recipes.
        prompts: prompt ids.
        variants: pairs of model and recipe.
    """

    models: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    variants: tuple[tuple[str, str], ...] = ()


def ask(
    root: Place | str, view: View, wanted: RowFilter, *, seconds: float = SECONDS, gibibytes: float = GIBIBYTES
) -> pa.Table:
    """The rows of the answer that are wanted.

    Rows mean what they mean without a filter: a threshold over a variant stays over the whole variant, a variant is
    compared with the others that the question compares it with, and only the rounding of sums may differ. Of other
    models no file is opened, but where the view's header says that it relates models. The other filters stand outside
    the view; DuckDB moves them to the files where that changes nothing, which is where the question groups by the
    filtered column.

    Args:
        root: the warehouse.
        view: the question, or any other view.
        wanted: the filters.
        seconds: longest time that it may take.
        gibibytes: most memory that it may use.

    Raises:
        WarehouseError: the view lacks a filtered column, or the warehouse has nothing of a model, recipe or prompt
            that is named.
        SqlError: as `run_safe`.
    """
    filters = list(_filters(view, wanted))
    models = {*wanted.models, *(model for model, _ in wanted.variants)}
    require(root, models, wanted)
    conditions = " AND ".join(condition for condition, _ in filters)
    where = f" WHERE {conditions}" if filters else ""
    parameters = {name: value for _, values in filters for name, value in values.items()}
    query = f"SELECT * FROM {quoted(view.name)}{where}"  # noqa: S608 - a file's name and our own parameters
    read = None if view_header.parse(view.header).across else models or None
    return run_safe(root, query, parameters or None, models=read, seconds=seconds, gibibytes=gibibytes)


def rows_within(root: Place | str, query: str, wanted: RowFilter) -> "pl.DataFrame":
    """Run a query of ours as if the warehouse held only the wanted models, recipes (and `dense`) and prompts.

    Raises:
        WarehouseError: the warehouse has no such model, recipe or prompt.
    """
    import polars as pl

    require(root, wanted.models, wanted)
    with connect(root) as connection:
        found = connection.sql("SELECT DISTINCT model, coalesce(recipe, 'dense') FROM provenance").fetchall()
        models = wanted.models or {model for model, _ in found}
        recipes = {*wanted.recipes, "dense"} if wanted.recipes else {recipe for _, recipe in found}
        narrow(connection, models, recipes, wanted.prompts or None)
        return pl.DataFrame(connection.sql(query).to_arrow_table())


def _filters(view: View, wanted: RowFilter) -> Iterator[tuple[str, dict[str, str]]]:
    """Each filter as a condition with its parameters."""
    for option, column, values in (
        ("--model", "model", wanted.models),
        ("--recipe", "recipe", wanted.recipes),
        ("--prompt", "prompt_id", wanted.prompts),
    ):
        if values:
            _require_column(view, option, column)
            parameters = {f"{column}_{index}": value for index, value in enumerate(values)}
            yield f"{column} IN ({', '.join(f'${name}' for name in parameters)})", parameters
    if wanted.variants:
        for column in ("model", "recipe"):
            _require_column(view, "--variant", column)
        parameters, pairs = {}, []
        for index, (model, recipe) in enumerate(wanted.variants):
            parameters |= {f"variant_model_{index}": model, f"variant_recipe_{index}": recipe}
            pairs.append(f"(model = $variant_model_{index} AND recipe = $variant_recipe_{index})")
        yield f"({' OR '.join(pairs)})", parameters


def _require_column(view: View, option: str, column: str) -> None:
    if column not in view.columns:
        usable = {"model": "--model", "recipe": "--recipe", "prompt_id": "--prompt"}
        others = [usable[name] for name in usable if name in view.columns]
        fix = f"use {', '.join(others)}" if others else "ask it without filters"
        raise WarehouseError(f"{option}: {view.name} has no column {column}; {fix}")


def require(root: Place | str, models: Collection[str], wanted: RowFilter) -> None:
    """Refuses names of which the warehouse has nothing, where an empty answer would say something else."""
    if models or wanted.recipes:
        store = Store(root)
        found = [partition for table in TABLES.values() for partition in store.partitions(table)]
        _require_known("model", models, {partition.model for partition in found})
        _require_known("recipe", wanted.recipes, {partition.recipe for partition in found if partition.recipe})
        variants = {f"{partition.model}@{partition.recipe}" for partition in found if partition.recipe}
        _require_known("variant", [f"{model}@{recipe}" for model, recipe in wanted.variants], variants)
    prompts: set[str] = set()
    for table in _OF_PROMPTS:
        if not set(wanted.prompts) <= prompts:
            query = f"SELECT DISTINCT prompt_id FROM {table}"  # noqa: S608 - one of ours
            prompts.update(run_safe(root, query, models=models or None)["prompt_id"].to_pylist())
    _require_known("prompt", wanted.prompts, prompts)


def _require_known(kind: str, names: Collection[str], known: Collection[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        like = get_close_matches(unknown[0], known, n=3)
        hint = f"did you mean {' or '.join(map(repr, like))}? " if like else ""
        listed = ", ".join(sorted(known)[:20]) or "none yet"
        raise WarehouseError(f"there is no {kind} {unknown[0]!r} in the warehouse; {hint}there are {listed}")
