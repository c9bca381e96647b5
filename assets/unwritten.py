"""Tables that no asset here writes: Dagster knows them with their columns, so that answers can stand on them.

Nothing is computed.
"""

from dagster import AssetSpec

from assets.fingerprints import CODE_VERSIONS
from assets.metadata import table_metadata
from warehouse.tables import TABLES

UNWRITTEN = [
    AssetSpec(
        table.name,
        group_name="brought",
        kinds={"parquet"},
        description=table.grain,
        code_version=str(table.version),
        metadata=table_metadata(table),
    )
    for table in TABLES.values()
    if table.is_of_studies and table.name not in CODE_VERSIONS
]
