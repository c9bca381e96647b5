"""The asset of what others published: one small file a model, written where it is missing or another one.

It stands on no study; every study is laid beside it.
"""

import datetime

from dagster import AssetExecutionContext, MaterializeResult, asset

from prunescope.assets.defs.metadata import check_specs, materialized, table_metadata
from prunescope.assets.defs.resources import WarehouseResource
from prunescope.assets.execution.partition_preview import preview
from prunescope.assets.execution.task import TaskResult
from prunescope.pipelines.reporting.published import contents_hash, published
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
def paper_reference(context: AssetExecutionContext, warehouse: WarehouseResource) -> MaterializeResult:  # noqa: ARG001
    """Brings the published numbers of the package into the warehouse."""
    return materialized(TABLE, write_published(warehouse.store()))


def write_published(store: Store) -> TaskResult:
    """Writes each model's numbers unless they are there; tells what lies there in all.

    Raises:
        WarehouseError: the numbers do not fit the table, or the disk refused.
    """
    inputs = {"published_hash": contents_hash()}
    version = fingerprint(inputs)
    rows, violations = published(), ()
    for (model,), own in rows.group_by("model", maintain_order=True):
        if not store.is_current(TABLE, str(model), None, version):
            made = Provenance(
                fingerprint=version,
                study="published",
                model=str(model),
                recipe=None,
                inputs=inputs,
                code_version=str(TABLE.version),
                libraries={},
                seed=0,
                device="",
                dtype="",
                seconds=0.0,
                created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            )
            violations += store.write(TABLE, own, made, str(model), None).violations
    files = [partition.path for partition in store.partitions(TABLE)]
    size = sum(int(file.stat().st_size) for file in files)
    return TaskResult(
        TABLE.name,
        fingerprint=version,
        rows=rows.height,
        bytes=size,
        path=str(store.root / TABLE.name),
        violations=violations,
        shown={"preview": preview(TABLE, rows)},
    )
