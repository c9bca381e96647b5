"""A catalogue narrowed to some models and recipes: every view then answers as if nothing else were there.

Which models and recipes those are is the caller's business.
"""

from collections.abc import Iterable

import duckdb

from warehouse.catalogue import PROVENANCE
from warehouse.quoting import literal
from warehouse.tables import TABLES


def narrow(
    connection: duckdb.DuckDBPyConnection,
    models: Iterable[str],
    recipes: Iterable[str],
    prompts: Iterable[str] | None = None,
) -> None:
    """Narrows an open catalogue, for as long as it is open; to all prompts where none are given."""
    these_prompts = None if prompts is None else ", ".join(map(literal, prompts)) or "NULL"
    these_models, these_recipes = (", ".join(map(literal, names)) or "NULL" for names in (models, recipes))
    for name in (*(table.name for table in TABLES.values() if table.is_of_studies), PROVENANCE):
        per_model = name in TABLES and TABLES[name].partitioning == "model"
        rows = f"model IN ({these_models})"
        rows += "" if per_model else f" AND coalesce(recipe, 'dense') IN ({these_recipes})"
        if these_prompts is not None and name in TABLES and "prompt_id" in TABLES[name].key:
            rows += f" AND prompt_id IN ({these_prompts})"
        # What lies under them is narrowed, so that who lists them finds each once.
        view = f"{name}_files"
        connection.execute(f"ALTER VIEW files.{view} RENAME TO {view}_whole")
        connection.execute(f"CREATE VIEW files.{view} AS SELECT * FROM files.{view}_whole WHERE {rows}")  # noqa: S608
