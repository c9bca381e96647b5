"""The report asset: one HTML file a study, beside the tables, and the checks that span tables.

What it says and how it looks is the business of `prunescope.pipelines.reporting.explorer`; which SQL feeds it stands there too.
"""

import shlex
from pathlib import Path

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
from prunescope.assets.planning import answer_version
from prunescope.assets.planning.work_plan import REPORT_MARK, report_file
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
    code_version=answer_version.explorer_version(),
    check_specs=[
        AssetCheckSpec(
            ASSERTIONS,
            asset="report",
            blocking=True,
            description="Every file of sql/tests and every foreign key returns no row: what has to agree does.",
        )
    ],
)
def report(
    context: AssetExecutionContext,  # noqa: ARG001
    study: StudyResource,
    warehouse: WarehouseResource,
) -> MaterializeResult:
    """Renders the report of the run's study."""
    store = warehouse.store()
    chosen = study.request(store).load()
    # Before anything is read: what is written meanwhile makes the report outdated, never current by mistake.
    version = answer_version.report_version(store, chosen)
    with warehouse.only(chosen) as seen:
        broken = broken_assertions(seen.ask)
        page = render(documents(chosen, seen.connection, seen.ask, seen.drawn).within(), live=False)
    # A report on tables that contradict each other is shown, but never counts as done.
    version = version if not broken else ""
    path = store.write_bytes(report_file(chosen), lambda temporary: _write(temporary, page, version))
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
    """The files of `sql/tests` and the foreign keys that return rows, with how many."""
    queries = {path.stem: path.read_text(encoding="utf-8") for path in sorted((SQL / "tests").glob("assert_*.sql"))}
    counts = {name: ask(query.strip().removesuffix(";")).height for name, query in (queries | assertions()).items()}
    return {name: count for name, count in counts.items() if count}


def _write(path: Path, page: str, version: str) -> None:
    path.write_text(f"{page.rstrip()}\n{REPORT_MARK}{version} -->\n", encoding="utf-8")
