"""One asset a question view: its answer as a preview, its SQL, the tables and columns that it stands on.

The questions themselves are files of `sql/questions/`; nothing is listed here. The views between them and the tables
are no assets: they hold no data, a changed one shows in the code version of each question above it, and fifty more
nodes would hide the path that a reader looks for.
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
from prunescope.assets.planning.answer_version import data_version
from prunescope.warehouse.catalogue import view_header
from prunescope.warehouse.catalogue.column_docs import ColumnDoc, explain
from prunescope.warehouse.catalogue.database import View, view_sql
from prunescope.warehouse.catalogue.lineage import origins, questions, reading
from prunescope.warehouse.core.formats import render
from prunescope.warehouse.core.quoting import quoted

PREVIEW_ROWS = 20


def question_assets() -> list[AssetsDefinition]:
    """An unpartitioned asset for every question; it depends on all partitions of its tables."""
    explained = explain(view_sql().values())
    return [_question(view, explained[view.name]) for view in questions().values()]


def _question(view: View, explained: Mapping[str, ColumnDoc]) -> AssetsDefinition:
    found = reading(view.sql)

    @asset(
        name=view.name,
        group_name="questions",
        kinds={"sql", "duckdb"},
        description=_description(view),
        deps=[AssetKey(table) for table in found.tables],
        code_version=found.sql_hash,
        metadata={
            "dagster/column_schema": view_schema(explained, {}, {}),
            "ask": f"prunescope question {view.name.partition('_')[0]}",
            "SQL": MetadataValue.md(f"```sql\n{view.sql}\n```"),
        },
    )
    def answer(context: AssetExecutionContext, warehouse: WarehouseResource) -> MaterializeResult:  # noqa: ARG001
        rows = warehouse.ask(f"FROM {quoted(view.name)}")
        types = warehouse.ask(f"DESCRIBE {quoted(view.name)}").select("column_name", "column_type")
        return MaterializeResult(
            data_version=DataVersion(data_version(warehouse.store(), found)),
            metadata={
                "dagster/row_count": rows.height,
                "dagster/column_schema": view_schema(explained, dict(types.iter_rows()), origins()[view.name]),
                "dagster/column_lineage": _column_lineage(view.name),
                "preview": MetadataValue.md(str(render(rows.head(PREVIEW_ROWS).to_arrow(), "markdown"))),
            },
        )

    return answer


def _description(view: View) -> str:
    """The question, what a row of the answer is, why one asks and how to read it."""
    header = view_header.parse(view.header)
    reason, grain = _sentence(header.reason), _sentence(header.grain)
    told = [f"**{header.asks}**", f"{reason} {grain}", f"How to read it: {header.how_to_read}"]
    return "\n\n".join([*told, f"It reads {header.inputs}."])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _column_lineage(question: str) -> TableColumnLineage:
    return TableColumnLineage(
        {
            column: [TableColumnDep(AssetKey(table), name) for table, name in sorted(below)]
            for column, below in origins()[question].items()
        }
    )
