"""The assets of the figures: one per figure, with a preview picture in its metadata."""

import base64

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    asset,
)

from prunescope.assets.defs.resources import WarehouseResource
from prunescope.assets.planning.freshness import answer_version, charts_version
from prunescope.pipelines.reporting.charts.files import preview
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.warehouse.catalogue.lineage import reading
from prunescope.warehouse.core.formats import markdown_escaped
from prunescope.warehouse.storage.provenance import fingerprint

# Limit for the preview: Dagster stores metadata in its database and sends them whole to the browser.
_MAX_BYTES = 100_000


def figure_assets() -> list[AssetsDefinition]:
    """Return an unpartitioned asset for every figure."""
    return [_figure(figure) for figure in FIGURES.values()]


def figure_key(name: str) -> AssetKey:
    """Return a figure's asset key; the prefix keeps figures and tables of the same name apart."""
    return AssetKey(["figures", name])


def _figure(figure: Figure) -> AssetsDefinition:
    query = reading(figure.query)
    code = fingerprint({"sql": query.sql_hash, "charts": charts_version()})

    @asset(
        key=figure_key(figure.name),
        group_name="figures",
        kinds={"altair", "duckdb"},
        description=f"**{figure.title}**\n\n{figure.caption}\n\nThe preview shows its first chart; the report has all.",
        deps=[AssetKey(name) for name in (*query.tables, *query.questions)],
        code_version=code,
        metadata={"SQL": MetadataValue.md(f"```sql\n{figure.query}\n```")},
    )
    def preview_of(context: AssetExecutionContext, warehouse: WarehouseResource) -> MaterializeResult:  # noqa: ARG001
        figures = warehouse.figures()
        title, _ = next(figures.drawings(figure))
        return MaterializeResult(
            data_version=DataVersion(fingerprint({"data": answer_version(warehouse.store(), query), "code": code})),
            metadata={
                "dagster/row_count": figures.answer(figure.query).height,
                "preview": MetadataValue.md(_embedded(title, figures.svg(figure))),
            },
        )

    return preview_of


def _embedded(title: str, svg: str) -> str:
    """Return a drawing as a picture inside Markdown, scaled down to the size limit."""
    picture = base64.b64encode(preview(svg, _MAX_BYTES)).decode()
    return f"![{markdown_escaped(title)}](data:image/png;base64,{picture})"
