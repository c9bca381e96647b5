"""One asset a question view: its answer as a preview, its SQL, and the tables that it stands on.

The questions themselves are files of `sql/questions/`; nothing is listed here.
"""

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    asset,
)

from assets.lineage import questions, reading
from assets.resources import WarehouseResource
from assets.state import data_version
from warehouse.catalogue import View
from warehouse.formats import render
from warehouse.quoting import quoted

PREVIEW_ROWS = 20


def question_assets() -> list[AssetsDefinition]:
    """An unpartitioned asset for every question; it depends on all partitions of its tables."""
    return [_question(view) for view in questions().values()]


def _question(view: View) -> AssetsDefinition:
    found = reading(view.sql)

    @asset(
        name=view.name,
        group_name="questions",
        kinds={"sql", "duckdb"},
        description=view.header,
        deps=[AssetKey(table) for table in found.tables],
        code_version=found.sql_hash,
    )
    def answer(context: AssetExecutionContext, warehouse: WarehouseResource) -> MaterializeResult:  # noqa: ARG001
        rows = warehouse.ask(f"SELECT * FROM {quoted(view.name)}")  # noqa: S608 - the name of a file of ours
        return MaterializeResult(
            data_version=DataVersion(data_version(warehouse.store(), found)),
            metadata={
                "dagster/row_count": rows.height,
                "preview": MetadataValue.md(str(render(rows.head(PREVIEW_ROWS).to_arrow(), "markdown"))),
                "SQL": MetadataValue.md(f"```sql\n{view.sql}\n```"),
            },
        )

    return answer
