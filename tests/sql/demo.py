"""The demo as a warehouse: a part of what `make demo` measures, kept in `demo/` as one file a table.

`python -m tests.sql.demo WAREHOUSE` takes the part anew from a warehouse; tests read what is stored.
"""

import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from prunescope.warehouse.catalogue import database
from prunescope.warehouse.schema.migrations import upgraded
from prunescope.warehouse.tables import TABLES
from tests.sql.warehouse_builder import Memory

FOLDER = Path(__file__).parent / "demo"
# Few layers keep it small: the first, a middle and the last one, and one that the drops dropped.
KEPT = {
    "models": "true",
    "variants": "true",
    "block_influence": "true",
    "decoding_steps": "true",
    "generations": "true",
    "option_subspace": "true",
    "text_tokens": "window_id < 2",
    "top_tokens": "rank <= 2",
    "layer_transitions": """
        layer in (0, 15, 29) or (recipe like '%drop%' and layer in (
            select min(changed.layer) from layer_transitions as changed
            where changed.recipe = layer_transitions.recipe and is_changed and changed.layer not in (0, 15, 29)
        ))
    """,
}


def opened() -> duckdb.DuckDBPyConnection:
    """Open the catalogue on the stored rows, in memory."""
    memory = Memory()
    for name in KEPT:
        # A column that came after the rows were measured is NULL.
        rows = upgraded(TABLES[name], pq.read_table(FOLDER / f"{name}.parquet"))
        memory.fill_table(TABLES[name], rows, checked=False)
    return memory.connection


def take(root: Path) -> None:
    """Store the part of a warehouse that tests read."""
    with database.connect(root) as connection:
        for name, kept in KEPT.items():
            rows = connection.sql(f"select * from {name} where {kept} order by all").pl()
            rows.write_parquet(FOLDER / f"{name}.parquet", compression="zstd", compression_level=19)


if __name__ == "__main__":
    take(Path(sys.argv[1]))
