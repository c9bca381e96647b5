"""The assets of the questions: one per view in `sql/questions/`, with a preview, its SQL and its column lineage.

The views between questions and tables are no assets: they hold no data, a changed one changes the code version of each
question above it, and fifty more nodes would clutter the graph.
"""

from collections.abc import Mapping

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    TableColumnDep,
    TableColumnLineage,
    asset,
)

from prunescope.assets.defs.metadata import view_schema
from prunescope.assets.defs.resources import WarehouseResource
from prunescope.assets.planning.freshness import answer_version
from prunescope.warehouse.catalogue import view_header
from prunescope.warehouse.catalogue.column_docs import explain
from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.catalogue.lineage import origins, questions, reading
from prunescope.warehouse.catalogue.view import ColumnDoc, View
from prunescope.warehouse.core.formats import render
from prunescope.warehouse.core.quoting import quoted

PREVIEW_ROWS = 20


def question_assets() -> list[AssetsDefinition]:
    """Return an unpartitioned asset for every question; it depends on all partitions of its tables."""
    docs = explain(view_sql().values())
    return [_question(view, docs[view.name]) for view in questions().values()]


def _question(view: View, docs: Mapping[str, ColumnDoc]) -> AssetsDefinition:
    query = reading(view.sql)

    @asset(
        name=view.name,
        group_name="questions",
        kinds={"sql", "duckdb"},
        description=_description(view),
        deps=[AssetKey(table) for table in query.tables],
        code_version=query.sql_hash,
        metadata={
            "dagster/column_schema": view_schema(docs, {}, {}),
            "ask": f"prunescope question {view.name.partition('_')[0]}",
            "SQL": MetadataValue.md(f"```sql\n{view.sql}\n```"),
        },
    )
    def answer(context: AssetExecutionContext, warehouse: WarehouseResource) -> MaterializeResult:  # noqa: ARG001
        rows = warehouse.ask(f"FROM {quoted(view.name)}")
        types = warehouse.ask(f"DESCRIBE {quoted(view.name)}").select("column_name", "column_type")
        return MaterializeResult(
            data_version=DataVersion(answer_version(warehouse.store(), query)),
            metadata={
                "dagster/row_count": rows.height,
                "dagster/column_schema": view_schema(docs, dict(types.iter_rows()), origins()[view.name]),
                "dagster/column_lineage": _column_lineage(view.name),
                "preview": MetadataValue.md(str(render(rows.head(PREVIEW_ROWS).to_arrow(), "markdown"))),
            },
        )

    return answer


def _description(view: View) -> str:
    header = view_header.parse(view.header)
    return "\n\n".join(
        [
            f"**{header.asks}**",
            f"{_sentence(header.reason)} {_sentence(header.grain)}",
            f"How to read it: {header.how_to_read}",
            f"It reads {header.inputs}.",
        ]
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _column_lineage(question: str) -> TableColumnLineage:
    return TableColumnLineage(
        {
            column: [TableColumnDep(AssetKey(table), name) for table, name in sorted(columns)]
            for column, columns in origins()[question].items()
        }
    )
