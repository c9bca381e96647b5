"""Readers that query all views while a writer replaces partitions."""

import json
import subprocess
import sys
import time

import polars as pl
import pyarrow as pa
import pytest

from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import provenance_of, rows_of

READERS = 2
SECONDS = 2
RECIPES = ("dense", "wanda-50", "attn-drop-4")

# A column of each table in which every row of a partition holds the number of the write that made it.
MARKS = {
    name: next(column.name for column in table.columns if pa.types.is_float32(column.type))
    for name, table in TABLES.items()
    if any(pa.types.is_float32(column.type) for column in table.columns)
}

READER = """
import json, sys, time
from prunescope.warehouse.catalogue.database import connect, view_sql

root, marks, seconds, reader = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
marts = [name for name, view in view_sql().items() if view.layer == "marts"][:: int(sys.argv[5])]
rounds, generations, torn = 0, set(), []
end = time.monotonic() + seconds
# On a busy machine as long as it takes to see enough.
while time.monotonic() < end or rounds < 2 or len(generations) < 10:
    with connect(root) as connection:
        # DuckDB takes a program without a file for a person at a terminal, and draws where the answer is printed.
        connection.execute("SET enable_progress_bar = false")

        def answers():
            some = marts[(rounds + reader * 2) % 4 :: 4]  # all marts in two rounds of two readers
            return {mart: len(connection.execute(f'SELECT * FROM "{mart}"').fetchall()) for mart in some}

        def marked():
            return {
                table: connection.execute(
                    f"SELECT {key}, count(*), min({mark}), max({mark}) FROM {table} GROUP BY ALL ORDER BY ALL"
                ).fetchall()
                for table, (mark, key) in marks.items()
            }

        first, before = marked(), answers()
        if (marked(), answers()) != (first, before):
            torn.append("two queries of one connection saw two states")
        for table, rows in first.items():
            for *of, count, low, high in rows:
                generations.add(low)
                # A write of generation g puts g rows into the partition.
                if low != high or count != low:
                    torn.append(f"{table} {of}: {count} rows of generations {low} to {high}")
    rounds += 1
print(json.dumps(torn))
"""


def write(store, table, recipe, generation):
    of = recipe if table.partitioning == "variant" else None
    frame = rows_of(table, "tiny", of, rows=3)
    # The rows only have to be of one kind: violated checks are in the footer and do not affect readers.
    frame = pl.concat([frame[:1]] * generation).with_columns(pl.lit(generation, pl.Float32).alias(MARKS[table.name]))
    store.write(table, frame, provenance_of("tiny", of), "tiny", of)


@pytest.mark.timeout(240)
@pytest.mark.exhaustive  # test_crashes.py shows that a file is the old or the new one
@pytest.mark.parametrize("every", [4, 1])  # which marts they query
def test_readers_beside_a_writer_see_no_mixed_state_and_do_not_block(store, every):
    tables = [table for table in TABLES.values() if table.name in MARKS]
    for table in tables:
        for recipe in RECIPES:
            write(store, table, recipe, 1)
    marks = {
        table.name: (MARKS[table.name], "model" if table.partitioning == "model" else "model, recipe")
        for table in tables
    }
    command = [sys.executable, "-c", READER, str(store.root), json.dumps(marks), str(SECONDS)]
    readers = [
        subprocess.Popen([*command, str(reader), str(every)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for reader in range(READERS)
    ]
    written = 0
    while any(reader.poll() is None for reader in readers):
        written += 1
        time.sleep(0.02)  # readers need the processor too
        table = tables[written % len(tables)]
        write(store, table, RECIPES[written // len(tables) % len(RECIPES)], 2 + written % 50)
    for reader in readers:
        out, err = reader.communicate()
        assert reader.returncode == 0, err
        assert json.loads(out) == []
    assert written > len(tables)
