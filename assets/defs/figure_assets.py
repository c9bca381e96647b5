"""One asset a figure: its picture in the metadata, where the UI shows it.

How a figure looks and which SQL feeds it is the business of `prunescope.pipelines.reporting.charts`.
"""

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
from prunescope.assets.planning.answer_version import charts_version, data_version
from prunescope.pipelines.reporting.charts.files import preview
from prunescope.pipelines.reporting.charts.publication_size import Specification
from prunescope.pipelines.reporting.charts.registry import FIGURES, Figure
from prunescope.warehouse.catalogue.lineage import reading
from prunescope.warehouse.core.formats import markdown_escaped
from prunescope.warehouse.storage.provenance import fingerprint

# Of a preview: metadata are kept in Dagster's database and sent to the browser as a whole.
_MOST_BYTES = 100_000


def figure_assets() -> list[AssetsDefinition]:
    """An unpartitioned asset for every figure."""
    return [_figure(figure) for figure in FIGURES.values()]


def figure_key(name: str) -> AssetKey:
    """Figures have a prefix: their short names are words that a table may want."""
    return AssetKey(["figures", name])


def _figure(figure: Figure) -> AssetsDefinition:
    found = reading(figure.query)
    code = fingerprint({"sql": found.sql_hash, "charts": charts_version()})

    @asset(
        key=figure_key(figure.name),
        group_name="figures",
        kinds={"altair", "duckdb"},
        description=f"**{figure.title}**\n\n{figure.caption}\n\nThe preview is its first drawing; the report has all.",
        deps=[AssetKey(name) for name in (*found.tables, *found.questions)],
        code_version=code,
        metadata={"SQL": MetadataValue.md(f"```sql\n{figure.query}\n```")},
    )
    def preview_of(context: AssetExecutionContext, warehouse: WarehouseResource) -> MaterializeResult:  # noqa: ARG001
        drawn = warehouse.drawn()
        first = next(drawn.drawings(figure))
        return MaterializeResult(
            data_version=DataVersion(fingerprint({"data": data_version(warehouse.store(), found), "code": code})),
            metadata={
                "dagster/row_count": drawn.answer(figure.query).height,
                "preview": MetadataValue.md(_embedded(*first)),
            },
        )

    return preview_of


def _embedded(title: str, specification: Specification) -> str:
    """A drawing as a picture inside Markdown, smaller where it would be too large."""
    picture = base64.b64encode(preview(specification, _MOST_BYTES)).decode()
    return f"![{markdown_escaped(title)}](data:image/png;base64,{picture})"
