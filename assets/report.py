"""The report asset: one HTML file a study, beside the tables, and the checks that span tables.

What it says and how it looks is the business of `pipelines.charts`; which SQL feeds it stands there too.
"""

import shlex
from pathlib import Path
from typing import Any

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

from assets import state
from assets.figures import figure_key
from assets.fingerprints import CODE_VERSIONS
from assets.lineage import questions
from assets.plan import REPORT_MARK, report_file
from assets.resources import Ask, StudyResource, WarehouseResource
from pipelines.charts.registry import FIGURES
from pipelines.charts.report import render_report
from pipelines.explorer.findings import QUERIES, findings
from pipelines.studies import Study
from warehouse.catalogue import SQL
from warehouse.references import assertions

ASSERTIONS = "sql_assertions"
_SUMMARY = "SELECT * FROM variant_summary ORDER BY model, recipe <> 'dense', recipe"
_TEXTS = """
SELECT one.model, one.recipe, one.prompt_id, one.prompt_text, one.text, dense.text AS text_dense,
       one.first_flip_step, one.collapse_step
FROM generations AS one
JOIN generations AS dense ON dense.model = one.model AND dense.prompt_id = one.prompt_id AND dense.recipe = 'dense'
ANTI JOIN noise_variants ON one.model = noise_variants.model AND one.recipe = noise_variants.recipe
ORDER BY one.model, one.prompt_id, one.recipe <> 'dense', one.recipe
"""


@asset(
    name="report",
    group_name="report",
    kinds={"html"},
    description="The study's findings, charts and texts as one HTML file that works offline.",
    deps=[
        AssetKey("paper_reference"),
        *(AssetKey(name) for name in questions()),
        *(figure_key(name) for name in FIGURES),
    ],
    code_version=state.charts_version(),
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
    with warehouse.only(chosen) as ask:
        broken = broken_assertions(ask)
        page = _page(chosen, ask)
    # A report on tables that contradict each other is shown, but never counts as done.
    version = state.report_version(store, chosen) if not broken else ""
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


def _page(study: Study, ask: Ask) -> str:
    figures = [
        (drawing.title, figure.caption, drawing.chart, figure.query)
        for figure in FIGURES.values()
        for drawing in figure.draw_all(ask(figure.query))
    ]
    told = findings({name: ask(query) for name, query in QUERIES.items()})
    return render_report(study.name, told, ask(_SUMMARY), figures, ask(_TEXTS), _facts(study, ask))


def _facts(study: Study, ask: Ask) -> dict[str, Any]:
    """What the reader needs to repeat the study."""
    made = ask("SELECT DISTINCT device, dtype, libraries_json FROM provenance ORDER BY ALL")
    return {
        "study": study.model_dump(mode="json", exclude={"prompts"}),
        "models": ask("SELECT model, source, revision, weight_hash FROM models ORDER BY model").to_dicts(),
        "hashes": {"prompts": study.prompts_hash, "settings": study.settings_hash},
        "code versions": CODE_VERSIONS,
        "computed with": made.to_dicts(),
    }


def _write(path: Path, page: str, version: str) -> None:
    path.write_text(f"{page.rstrip()}\n{REPORT_MARK}{version} -->\n", encoding="utf-8")
