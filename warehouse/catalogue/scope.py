"""Restriction of a catalogue to some models and recipes: every view then answers as if there were no others."""

from collections.abc import Iterable

import duckdb

from prunescope.pipelines.core.quoting import literal
from prunescope.warehouse.catalogue.database import PROVENANCE
from prunescope.warehouse.tables import TABLES


def is_whole(connection: duckdb.DuckDBPyConnection, models: Iterable[str], recipes: Iterable[str]) -> bool:
    """Return whether all study results in an open catalogue are of these models and recipes.

    Narrowing to them then drops no such row; only `provenance` would lose files of no study.
    """
    tables = ", ".join(literal(table.name) for table in TABLES.values() if table.is_study_output)
    others = f"FROM {PROVENANCE} WHERE table_name IN ({tables}) AND ({_condition(models, recipes)}) IS NOT TRUE"
    return not connection.execute(f"SELECT 1 {others} LIMIT 1").fetchall()


def narrow(
    connection: duckdb.DuckDBPyConnection,
    models: Iterable[str],
    recipes: Iterable[str],
    prompts: Iterable[str] | None = None,
) -> None:
    """Restrict an open catalogue until it is closed; None for `prompts` keeps all prompts."""
    models, recipes = list(models), list(recipes)
    names = None if prompts is None else list(prompts)
    for name in (*(table.name for table in TABLES.values() if table.is_study_output), PROVENANCE):
        per_model = name in TABLES and TABLES[name].partitioning == "model"
        rows = _condition(models, None if per_model else recipes)
        if names is not None and name in TABLES and "prompt_id" in TABLES[name].key:
            rows += f" AND prompt_id IN ({_list(names)})"
        # The views under the tables are restricted, so that a list of tables has each once.
        view = f"{name}_files"
        connection.execute(f"ALTER VIEW files.{view} RENAME TO {view}_whole")
        connection.execute(f"CREATE VIEW files.{view} AS SELECT * FROM files.{view}_whole WHERE {rows}")  # noqa: S608


def _condition(models: Iterable[str], recipes: Iterable[str] | None) -> str:
    """Return the condition for rows of models and recipes; rows without a recipe count as `dense`."""
    of_recipes = "" if recipes is None else f" AND coalesce(recipe, 'dense') IN ({_list(recipes)})"
    return f"model IN ({_list(models)}){of_recipes}"


def _list(texts: Iterable[str]) -> str:
    return ", ".join(map(literal, texts)) or "NULL"
