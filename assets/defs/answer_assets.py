"""The assets of the answers: published numbers, questions, figures, and the report with checks of several tables.

A question is a view in `sql/questions/` with a preview, its SQL and its column lineage. A figure has a preview picture.
The views between questions and tables are no assets: they hold no data, a changed one changes the code version of each
question above it, and fifty more nodes would clutter the graph.
"""

import base64
import shlex
from collections.abc import Mapping

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableColumnDep,
    TableColumnLineage,
    TableSchema,
    asset,
)

from prunescope.assets.defs.metadata import check_specs, materialized, table_metadata
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.execution import partition_context
from prunescope.assets.execution.task import TableWritten
from prunescope.assets.planning import freshness
from prunescope.assets.publishing.explorer_data import documents
from prunescope.pipelines.core.quoting import quoted
from prunescope.pipelines.reporting.charts.files import preview
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.pipelines.reporting.explorer.page import render as render_page
from prunescope.pipelines.reporting.explorer.query_cache import Ask
from prunescope.pipelines.reporting.published import contents_hash, published
from prunescope.warehouse.catalogue.column_docs import explain
from prunescope.warehouse.catalogue.database import SQL, view_sql
from prunescope.warehouse.catalogue.lineage import origins, questions, reading
from prunescope.warehouse.catalogue.view import View
from prunescope.warehouse.core.formats import markdown_escaped, render
from prunescope.warehouse.maintenance.verification import verify_file
from prunescope.warehouse.quality.foreign_keys import assertions
from prunescope.warehouse.schema.table import ColumnDoc
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import Provenance, fingerprint
from prunescope.warehouse.tables import ABOUT, TABLES

PREVIEW_ROWS = 20
# Limit for the preview: Dagster stores metadata in its database and sends them whole to the browser.
_MAX_BYTES = 100_000
ASSERTIONS = "sql_assertions"
PUBLISHED = TABLES["paper_reference"]


@asset(
    name=PUBLISHED.name,
    group_name="inputs",
    kinds={"parquet"},
    description=f"{ABOUT[PUBLISHED.name]}\n\n{PUBLISHED.grain}",
    code_version=contents_hash(),
    metadata=table_metadata(PUBLISHED),
    check_specs=check_specs([PUBLISHED]),
)
def paper_reference(context: AssetExecutionContext, warehouse: WarehouseResource) -> MaterializeResult:
    """Write the published numbers of the package to the warehouse."""
    with warehouse.locked(context.log.info) as store:
        return materialized(PUBLISHED, write_published(store))


def write_published(store: Store) -> TableWritten:
    """Write the numbers of each model unless they are current; return the result for the whole table.

    Raises:
        WarehouseError: the numbers do not fit the table, or the disk refused.
    """
    inputs = {"published_hash": contents_hash()}
    version = fingerprint(inputs)
    rows, violations = published(), ()
    for (model,), own in rows.group_by("model", maintain_order=True):
        path = store.path(PUBLISHED, str(model), None)
        if not store.is_current(PUBLISHED, str(model), None, version) or verify_file(path).state == "changed":
            provenance = Provenance.of_read_rows("published", str(model), None, inputs, str(PUBLISHED.version))
            violations += store.write(PUBLISHED, own, provenance, str(model), None).violations
    size = sum(int(partition.path.stat().st_size) for partition in store.partitions(PUBLISHED))
    return TableWritten(
        None,
        "",
        PUBLISHED.name,
        fingerprint=version,
        rows=rows.height,
        bytes=size,
        path=str(store.root / PUBLISHED.name),
        violations=violations,
        details={"preview": partition_context.preview(PUBLISHED, rows)},
    )


def question_assets() -> list[AssetsDefinition]:
    """Return an unpartitioned asset for every question; it depends on all partitions of its tables."""
    docs = explain(view_sql().values())
    return [_question(view, docs[view.name]) for view in questions().values()]


def _question(view: View, docs: Mapping[str, ColumnDoc]) -> AssetsDefinition:
    query, parts = reading(view.sql), view.parts
    columns = [TableColumn(name, "", description=doc.comment()) for name, doc in docs.items()]

    @asset(
        name=view.name,
        group_name="questions",
        kinds={"sql", "duckdb"},
        description=f"**{parts['asks']}**\n\nRows: {parts['grain']}\n\nReason: {parts['reason']}\n\n"
        f"How to read it: {parts['how to read']}",
        deps=[AssetKey(table) for table in query.tables],
        code_version=query.sql_hash,
        metadata={
            "dagster/column_schema": TableSchema(columns),
            "ask": f"prunescope question {view.name.partition('_')[0]}",
            "SQL": MetadataValue.md(f"```sql\n{view.sql}\n```"),
        },
    )
    def answer(warehouse: WarehouseResource) -> MaterializeResult:
        rows = warehouse.ask(f"FROM {quoted(view.name)}")
        lineage = {
            column: [TableColumnDep(AssetKey(table), name) for table, name in sorted(columns)]
            for column, columns in origins()[view.name].items()
        }
        return MaterializeResult(
            data_version=DataVersion(freshness.answer_version(warehouse.store(), query)),
            metadata={
                "dagster/row_count": rows.height,
                "dagster/column_lineage": TableColumnLineage(lineage),
                "preview": MetadataValue.md(str(render(rows.head(PREVIEW_ROWS).to_arrow(), "markdown"))),
            },
        )

    return answer


def figure_assets() -> list[AssetsDefinition]:
    """Return an unpartitioned asset for every figure."""
    return [_figure(figure) for figure in FIGURES.values()]


def figure_key(name: str) -> AssetKey:
    """Return a figure's asset key; the prefix keeps figures and tables of the same name apart."""
    return AssetKey(["figures", name])


def _figure(figure: Figure) -> AssetsDefinition:
    query = reading(figure.query)
    code = fingerprint({"sql": query.sql_hash, "charts": freshness.charts_version()})

    @asset(
        key=figure_key(figure.name),
        group_name="figures",
        kinds={"altair", "duckdb"},
        description=f"**{figure.title}**\n\n{figure.caption}\n\nThe preview shows its first chart; the report has all.",
        deps=[AssetKey(name) for name in (*query.tables, *query.questions)],
        code_version=code,
        metadata={"SQL": MetadataValue.md(f"```sql\n{figure.query}\n```")},
    )
    def preview_of(warehouse: WarehouseResource) -> MaterializeResult:
        figures = warehouse.figures()
        title, _ = next(figures.drawings(figure))
        picture = base64.b64encode(preview(figures.svg(figure), _MAX_BYTES)).decode()
        return MaterializeResult(
            data_version=DataVersion(
                fingerprint({"data": freshness.answer_version(warehouse.store(), query), "code": code})
            ),
            metadata={
                "dagster/row_count": figures.answer(figure.query).height,
                "preview": MetadataValue.md(f"![{markdown_escaped(title)}](data:image/png;base64,{picture})"),
            },
        )

    return preview_of


@asset(
    name="report",
    group_name="report",
    kinds={"html"},
    description="The study as one HTML file that works offline: answers, findings, figures, every text token by token.",
    deps=[
        AssetKey("paper_reference"),
        *(AssetKey(name) for name in questions()),
        *(figure_key(name) for name in FIGURES),
    ],
    code_version=freshness.explorer_version(),
    check_specs=[
        AssetCheckSpec(
            ASSERTIONS,
            asset="report",
            blocking=True,
            description="No file of sql/tests and no foreign key returns a row: the tables agree with each other.",
        )
    ],
)
def report(context: AssetExecutionContext, study: StudyResource, warehouse: WarehouseResource) -> MaterializeResult:
    """Render the report of the run's study."""
    store = warehouse.store()
    chosen = study.request(store, context.instance).load()
    # Before anything is read: partitions that are written meanwhile then make the report outdated.
    version = freshness.report_version(store, chosen)
    with warehouse.only(chosen) as (connection, ask, figures):
        broken = broken_assertions(ask)
        data = documents(chosen, connection, ask, figures).within()
        page = render_page(data, live=False)
    # A report on contradictory tables is written, but never counts as current.
    version = version if not broken else ""
    with warehouse.locked(context.log.info):
        path = store.write_bytes(
            freshness.report_file(chosen), lambda temporary: freshness.write_report(temporary, page, version)
        )
    return MaterializeResult(
        data_version=DataVersion(version or "broken"),
        metadata={
            "path": MetadataValue.path(str(path)),
            "bytes": path.stat().st_size,
            "study": chosen.name,
            "read it": f"prunescope report {path.stem} -o report.html --warehouse {shlex.quote(str(store.root))}",
        },
        check_results=[AssetCheckResult(check_name=ASSERTIONS, passed=not broken, metadata=broken)],
    )


def broken_assertions(ask: Ask) -> dict[str, int]:
    """Run the files of `sql/tests` and the foreign keys; return the number of rows of those that return any."""
    queries = {path.stem: path.read_text(encoding="utf-8") for path in sorted((SQL / "tests").glob("assert_*.sql"))}
    counts = {name: ask(query.strip().removesuffix(";")).height for name, query in (queries | assertions()).items()}
    return {name: count for name, count in counts.items() if count}
