"""The asset of published numbers: one small file per model, independent of any study."""

from dagster import AssetExecutionContext, MaterializeResult, asset

from prunescope.assets.defs.metadata import check_specs, materialized, table_metadata
from prunescope.assets.defs.resources import WarehouseResource
from prunescope.assets.execution.partition_context import preview
from prunescope.assets.execution.task import TableWritten
from prunescope.pipelines.reporting.published import contents_hash, published
from prunescope.warehouse.maintenance.verification import verify_file
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import Provenance, fingerprint
from prunescope.warehouse.tables import ABOUT, TABLES

TABLE = TABLES["paper_reference"]


@asset(
    name=TABLE.name,
    group_name="inputs",
    kinds={"parquet"},
    description=f"{ABOUT[TABLE.name]}\n\n{TABLE.grain}",
    code_version=contents_hash(),
    metadata=table_metadata(TABLE),
    check_specs=check_specs([TABLE]),
)
def paper_reference(context: AssetExecutionContext, warehouse: WarehouseResource) -> MaterializeResult:
    """Write the published numbers of the package to the warehouse."""
    with warehouse.locked(context.log.info) as store:
        return materialized(TABLE, write_published(store))


def write_published(store: Store) -> TableWritten:
    """Write the numbers of each model unless they are current; return the result for the whole table.

    Raises:
        WarehouseError: the numbers do not fit the table, or the disk refused.
    """
    inputs = {"published_hash": contents_hash()}
    version = fingerprint(inputs)
    rows, violations = published(), ()
    for (model,), own in rows.group_by("model", maintain_order=True):
        path = store.path(TABLE, str(model), None)
        if not store.is_current(TABLE, str(model), None, version) or verify_file(path).state == "changed":
            provenance = Provenance.of_read_rows("published", str(model), None, inputs, str(TABLE.version))
            violations += store.write(TABLE, own, provenance, str(model), None).violations
    size = sum(int(partition.path.stat().st_size) for partition in store.partitions(TABLE))
    return TableWritten(
        None,
        "",
        TABLE.name,
        fingerprint=version,
        rows=rows.height,
        bytes=size,
        path=str(store.root / TABLE.name),
        violations=violations,
        details={"preview": preview(TABLE, rows)},
    )
