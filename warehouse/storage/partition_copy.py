"""Copies of a warehouse's partitions in another one."""

import polars as pl

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES


def copy_partitions(origin: Store, target: Store) -> None:
    """Copy all partitions into another warehouse, except those that it has from the same inputs.

    Raises:
        WarehouseError: the other warehouse has a partition of one of these names from other inputs; nothing is copied.
    """
    missing = []
    for table in TABLES.values():
        for partition, footer in origin.footers(table):
            found = target.provenance(table, partition.model, partition.recipe)
            if found is not None and found.fingerprint != footer.provenance.fingerprint:
                name = f"{partition.model}@{partition.recipe}" if partition.recipe else partition.model
                raise WarehouseError(
                    f"the warehouse {target.root} has another {name}; measure again with another `model` or `name`"
                )
            if found is None:
                missing.append((table, partition, footer.provenance))
    for table, partition, provenance in missing:
        rows = pl.DataFrame(origin.read(table, partition.model, partition.recipe))
        target.write(table, rows, provenance, partition.model, partition.recipe)
