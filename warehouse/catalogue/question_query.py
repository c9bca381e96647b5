"""Queries of a question with filters as bound parameters; a filter selects rows and never changes them."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from prunescope.pipelines.core.quoting import quoted
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.warehouse.catalogue.database import connected
from prunescope.warehouse.catalogue.scope import narrow
from prunescope.warehouse.catalogue.sql_process import run_safe
from prunescope.warehouse.catalogue.view import View
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    import polars as pl

# The tables with prompts, small ones first.
_OF_PROMPTS = ("generations", "option_subspace", "decoding_steps", "layer_transitions")


@dataclass(frozen=True)
class RowFilter:
    """Filter of an answer's rows: every condition that is not empty must hold."""

    models: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    variants: tuple[tuple[str, str], ...] = ()


class Statement(NamedTuple):
    """A question as SQL.

    Attributes:
        parameters: values of the SQL's parameters; None without a filter.
        models: the models whose files it opens; None for all.
    """

    sql: str
    parameters: list[list[str]] | None
    models: frozenset[str] | None


def find_question(name: str) -> View:
    """Return a question by its name or number, such as `q01`.

    Raises:
        WarehouseError: there is none.
    """
    from prunescope.warehouse.catalogue.lineage import questions  # imports sqlglot

    views = questions()
    numbers = {view.partition("_")[0]: view for view in views}
    number = f"q{int(name[1:]):02}" if re.fullmatch("[qQ][0-9]+", name) else ""
    found = views.get(name) or views.get(numbers.get(number, ""))
    if found is None:
        hint = did_you_mean(name, sorted([*numbers, *views]), 3, "{!r}")
        raise WarehouseError(f"there is no question {name!r}; {hint}there are {', '.join(numbers)}")
    return found


def statement(root: Place | str, view: View, row_filter: RowFilter) -> Statement:
    """Return the SQL of a question whose filters select rows of the answer.

    A filter only selects rows: thresholds and comparisons are still computed over all that the question covers, and
    only the rounding of sums may differ. Files of other models are not opened, unless the view's header says that it
    relates models. The other filters are outside of the view; DuckDB pushes them down to the files if the question
    groups by the filtered column, which does not change the rows.

    Raises:
        WarehouseError: the view lacks a filtered column, or the warehouse has no such model, recipe or prompt.
    """
    filters = {
        ("--model", ("model",)): row_filter.models,
        ("--recipe", ("recipe",)): row_filter.recipes,
        ("--prompt", ("prompt_id",)): row_filter.prompts,
        ("--variant", ("model", "recipe")): ["@".join(pair) for pair in row_filter.variants],
    }
    conditions, parameters = [], []
    for (option, columns), values in filters.items():
        if values and (lacking := [name for name in columns if name not in view.columns]):
            usable = [flag for flag, names in filters if len(names) == 1 and names[0] in view.columns]
            fix = f"use {', '.join(usable)}" if usable else "ask it without filters"
            raise WarehouseError(f"{option}: {view.name} has no column {lacking[0]}; {fix}")
        if values:
            parameters.append(list(values))
            expression = " || '@' || ".join(columns)
            conditions.append(f"list_contains(${len(parameters)}, {expression})")
    models = {*row_filter.models, *(model for model, _ in row_filter.variants)}
    require(root, models, row_filter)
    query = f"SELECT * FROM {quoted(view.name)}{' WHERE ' * bool(conditions)}{' AND '.join(conditions)}"  # noqa: S608
    read = None if "across" in view.parts or not models else frozenset(models)
    return Statement(query, parameters or None, read)


def ask(root: Place | str, view: View, row_filter: RowFilter) -> pa.Table:
    """Return the rows of a question that the filters select, as `statement` says.

    Raises:
        WarehouseError: as `statement`.
        SqlError: as `sql_process.run_safe`.
    """
    query = statement(root, view, row_filter)
    return run_safe(root, query.sql, query.parameters, models=query.models)


def rows_within(root: Place | str, query: str, row_filter: RowFilter) -> "pl.DataFrame":
    """Run one of our queries as if the warehouse had only the selected models, recipes (and `dense`) and prompts.

    Raises:
        WarehouseError: the warehouse has no such model, recipe or prompt.
    """
    import polars as pl

    require(root, row_filter.models, row_filter)
    with connected(root) as connection:
        variants = connection.sql("SELECT DISTINCT model, coalesce(recipe, 'dense') FROM provenance").fetchall()
        models = row_filter.models or {model for model, _ in variants}
        recipes = {*row_filter.recipes, "dense"} if row_filter.recipes else {recipe for _, recipe in variants}
        narrow(connection, models, recipes, row_filter.prompts or None)
        return pl.DataFrame(connection.sql(query).to_arrow_table())


def require(root: Place | str, models: Collection[str], row_filter: RowFilter) -> None:
    """Raise WarehouseError for names that the warehouse lacks, which would otherwise give an empty answer."""
    if models or row_filter.recipes:
        partitions = [partition for table in TABLES.values() for partition in Store(root).partitions(table)]
        variants = {(partition.model, partition.recipe) for partition in partitions if partition.recipe}
        _require_known("model", models, {partition.model for partition in partitions})
        _require_known("recipe", row_filter.recipes, {recipe for _, recipe in variants})
        _require_known("variant", list(map("@".join, row_filter.variants)), set(map("@".join, variants)))
    prompts: set[str] = set()
    for table in _OF_PROMPTS:
        if not set(row_filter.prompts) <= prompts:
            query = f"SELECT DISTINCT prompt_id FROM {table}"  # noqa: S608 - one of ours
            with connected(root, models=models or None) as connection:
                prompts.update(prompt for (prompt,) in connection.execute(query).fetchall())
    _require_known("prompt", row_filter.prompts, prompts)


def _require_known(kind: str, names: Collection[str], known: Collection[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        hint = did_you_mean(unknown[0], sorted(known), 3, "{!r}")
        listed = ", ".join(sorted(known)[:20]) or "none yet"
        raise WarehouseError(f"there is no {kind} {unknown[0]!r} in the warehouse; {hint}there are {listed}")
