"""Asset checks that span tables: foreign keys, one check a key, shown at the table that holds it.

What a single table promises is checked where it is written, see `metadata.py`.
"""

from collections.abc import Iterator

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSpec,
    AssetKey,
    MetadataValue,
    multi_asset_check,
)

from assets.fingerprints import CODE_VERSIONS
from assets.resources import WarehouseResource
from warehouse.formats import render
from warehouse.references import check_name, orphans
from warehouse.tables import TABLES

SHOWN = 20
_REFERENCES = [(TABLES[name], reference) for name in CODE_VERSIONS for reference in TABLES[name].references]


@multi_asset_check(
    specs=[
        AssetCheckSpec(
            check_name(reference),
            asset=AssetKey(table.name),
            description=f"Every row has its row in {reference.table}: {reference}.",
        )
        for table, reference in _REFERENCES
    ],
)
def references(
    context: AssetCheckExecutionContext,  # noqa: ARG001 - Dagster's signature
    warehouse: WarehouseResource,
) -> Iterator[AssetCheckResult]:
    """Looks for rows whose model or variant nobody described."""
    for table, reference in _REFERENCES:
        missing = warehouse.ask(orphans(table, reference))
        yield AssetCheckResult(
            asset_key=AssetKey(table.name),
            check_name=check_name(reference),
            passed=missing.is_empty(),
            metadata={
                "missing": missing.height,
                "such as": MetadataValue.md(str(render(missing.head(SHOWN).to_arrow(), "markdown"))),
            },
        )
