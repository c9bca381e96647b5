"""The report asset: one HTML file per study, and the checks that compare several tables."""

import shlex

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    asset,
)

from prunescope.assets.defs.figure_assets import figure_key
from prunescope.assets.defs.resources import Ask, StudyResource, WarehouseResource
from prunescope.assets.planning import freshness
from prunescope.assets.publishing.explorer_data import documents
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.pipelines.reporting.explorer.page import render
from prunescope.warehouse.catalogue.database import SQL
from prunescope.warehouse.catalogue.lineage import questions
from prunescope.warehouse.quality.foreign_keys import assertions

ASSERTIONS = "sql_assertions"


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
def report(
    context: AssetExecutionContext,  # noqa: ARG001
    study: StudyResource,
    warehouse: WarehouseResource,
) -> MaterializeResult:
    """Render the report of the run's study."""
    store = warehouse.store()
    chosen = study.request(store).load()
    # Before anything is read: partitions that are written meanwhile then make the report outdated.
    version = freshness.report_version(store, chosen)
    with warehouse.only(chosen) as catalogue:
        broken = broken_assertions(catalogue.ask)
        data = documents(chosen, catalogue.connection, catalogue.ask, catalogue.figures).within()
        page = render(data, live=False)
    # A report on contradictory tables is written, but never counts as current.
    version = version if not broken else ""
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
