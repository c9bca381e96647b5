"""The explorer's documents of a study, from a connection that shows this study only."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import duckdb
import polars as pl

from prunescope.assets.planning.steps import CODE_VERSIONS
from prunescope.pipelines.reporting.charts.display_text import prose
from prunescope.pipelines.reporting.charts.figure_cache import FigureCache
from prunescope.pipelines.reporting.explorer.comparisons import Compared
from prunescope.pipelines.reporting.explorer.ordering import DisplayOrder
from prunescope.pipelines.reporting.explorer.query_cache import Ask, Document
from prunescope.pipelines.reporting.explorer.study_documents import Documents
from prunescope.pipelines.studies import Study
from prunescope.warehouse.catalogue.comparison import compare_pairs
from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.catalogue.materialized import Materialized
from prunescope.warehouse.storage.snapshot import damage_explained


def documents(
    study: Study | str,
    connection: duckdb.DuckDBPyConnection,
    ask: Ask | None = None,
    figures: FigureCache | None = None,
    *,
    is_live: bool = False,
) -> Documents:
    """Return the documents of a study, or of its name if its file is not available.

    The connection shows only this study's models and recipes; `ask` runs a query on it (default: `asking(connection)`).
    `figures` are the study's, if they were drawn before. A live study's documents are built one by one.
    """
    views = {view.name: view.sql for view in view_sql().values()}
    ask = ask or asking(connection)
    name, title, order = str(study), "", DisplayOrder()
    if isinstance(study, Study):
        names = ([model.name for model in study.models], [recipe.name for recipe in study.recipes])
        name, title, order = study.name, study.title, DisplayOrder(*names, [prompt.id for prompt in study.prompts])
    facts = _facts(study, ask)
    return Documents(ask, name, title, facts, views, order, partial(_compared, connection), figures, is_live=is_live)


def asking(connection: duckdb.DuckDBPyConnection) -> Ask:
    """Return a function that runs the package's own queries, and computes views that several share only once.

    It raises WarehouseError if a file that a query reads is damaged.
    """
    materialized = Materialized(connection)

    def ask(query: str) -> pl.DataFrame:
        with damage_explained(connection):
            materialized.prepare(query)
            return pl.DataFrame(connection.sql(query).to_arrow_table())

    return ask


def _compared(connection: duckdb.DuckDBPyConnection, model: str, pairs: Sequence[tuple[str, str]]) -> list[Compared]:
    with damage_explained(connection):
        comparisons = compare_pairs(connection, model, pairs)
    return [(pl.DataFrame(pair.rows), pair.prompts, pair.missing) for pair in comparisons]


def _facts(study: Study | str, ask: Ask) -> list[Document]:
    """Return what a reader needs to repeat the study."""
    runs = ask("SELECT DISTINCT device, dtype, libraries_json FROM provenance ORDER BY ALL").to_dicts()
    models = ask("SELECT model, source, revision, weight_format, weight_hash FROM models ORDER BY model").to_dicts()
    facts: dict[str, Any] = {
        "models": models,
        "code versions": CODE_VERSIONS,
        "computed with": [row | {"libraries_json": json.loads(row["libraries_json"] or "{}")} for row in runs],
    }
    if not isinstance(study, str):
        own = {"study": study.model_dump(mode="json", exclude={"prompts"})}
        facts = own | facts | {"hashes": {"prompts": study.prompts_hash, "settings": study.settings_hash}}
    return [
        {"name": name, "text": prose(json.dumps(value, ensure_ascii=False, indent=2, default=str), 20_000)}
        for name, value in facts.items()
    ]
