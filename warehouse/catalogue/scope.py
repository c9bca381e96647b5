"""A catalogue narrowed to some models and recipes: every view then answers as if nothing else were there.

Which models and recipes those are is the caller's business.
"""

from collections.abc import Iterable

import duckdb

from prunescope.warehouse.catalogue.database import PROVENANCE
from prunescope.warehouse.core.quoting import literal
from prunescope.warehouse.tables import TABLES


def is_whole(connection: duckdb.DuckDBPyConnection, models: Iterable[str], recipes: Iterable[str]) -> bool:
    """Whether an open catalogue has nothing that a study computes but of these models and recipes.

    No row of such a table is lost by narrowing it to them; `provenance` would still lose what is of no study.
    """
    tables = ", ".join(literal(table.name) for table in TABLES.values() if table.is_study_output)
    others = (
        f"SELECT 1 FROM {PROVENANCE} WHERE table_name IN ({tables}) AND ({_those(models, recipes)}) IS NOT TRUE LIMIT 1"  # noqa: S608
    )
    return not connection.execute(others).fetchall()


def narrow(
    connection: duckdb.DuckDBPyConnection,
    models: Iterable[str],
    recipes: Iterable[str],
    prompts: Iterable[str] | None = None,
) -> None:
    """Narrows an open catalogue, for as long as it is open; to all prompts where none are given."""
    these_prompts = None if prompts is None else ", ".join(map(literal, prompts)) or "NULL"
    models, recipes = list(models), list(recipes)
    for name in (*(table.name for table in TABLES.values() if table.is_study_output), PROVENANCE):
        per_model = name in TABLES and TABLES[name].partitioning == "model"
        rows = _those(models, None if per_model else recipes)
        if these_prompts is not None and name in TABLES and "prompt_id" in TABLES[name].key:
            rows += f" AND prompt_id IN ({these_prompts})"
        # What lies under them is narrowed, so that who lists them finds each once.
        view = f"{name}_files"
        connection.execute(f"ALTER VIEW files.{view} RENAME TO {view}_whole")
        connection.execute(f"CREATE VIEW files.{view} AS SELECT * FROM files.{view}_whole WHERE {rows}")  # noqa: S608


def _those(models: Iterable[str], recipes: Iterable[str] | None) -> str:
    """The condition for rows of some models and recipes; what is of a model alone goes with its dense recipe."""
    these_models, these_recipes = (", ".join(map(literal, names)) or "NULL" for names in (models, recipes or ()))
    return f"model IN ({these_models})" + (
        "" if recipes is None else f" AND coalesce(recipe, 'dense') IN ({these_recipes})"
    )
