"""The warehouse at N layer records: writing, every mart and question, and opening 10,000 partitions.

Run by `python -m tests.benchmarks.warehouse [ROWS ...] [--of WAREHOUSE] [--only questions]` (default 1e6), sizes in
ascending order; the records are grown from those of a smaller warehouse (default: that of `make demo`). Two writers;
each view in a process of its own, on as many threads as the machine has cores. 100 million rows take 9 GB of TMPDIR.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.storage.partition_store import PART
from prunescope.warehouse.storage.path_names import path_safe
from tests.benchmarks.grown_warehouse import Copy, variants_of, write
from tests.benchmarks.measuring import Table, child, told

WRITERS = 2
PARTITIONS = 10_000
# Copies of the demo's prompts, so that a partition has a quarter of a million records.
PROMPTS = 14
# Targets for two cores at a hundred million records, and at any smaller size.
MOST_SECONDS, MOST_GIB, MOST_SECONDS_TO_OPEN = 10, 4, 2
LEAST_ROWS_PER_SECOND = 2e6


def write_warehouse(small: Path, root: Path, rows: int) -> dict[str, float]:
    """Write a warehouse of about so many layer records with two writers at once; return the sums over its variants.

    A writer's time is that of `Store.write` alone, with checks, hash and fsync, without generating the rows.
    """
    known, done, written = variants_of(small), list[dict[str, float]](), 0.0
    with ProcessPoolExecutor(WRITERS, mp_context=get_context("spawn")) as pool:
        while written < rows:
            names = [f"bench/model-{len(done) + n:03d}" for n in range(WRITERS)]
            copies = [Copy(of, name, of[1], PROMPTS, PROMPTS) for name in names for of in known]
            done += pool.map(write, *zip(*((small, root, copy) for copy in copies), strict=True))
            written = sum(each.get("rows", 0) for each in done)
    return {name: sum(each.get(name, 0) for each in done) for name in ("rows", "bytes", "seconds", "processor")}


def asked(root: Path, views: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return seconds and memory of every view, each in a process of its own."""
    figures = {}
    for view in views:
        figures[view] = child("warehouse_view", root, view)
        told(view, figures[view])
    return figures


def open_many(small: Path, root: Path) -> dict[str, float]:
    """Open a catalogue over 10,000 partitions: one small variant under many names."""
    of = variants_of(small)[0]
    write(small, root, Copy(of, "template", of[1], 1, 1))
    templates = sorted(root.rglob(f"recipe={path_safe(of[1])}/{PART}"))
    for index in range(PARTITIONS - len(templates)):
        template = templates[index % len(templates)]
        place = template.parents[2] / f"model=m{index}" / template.parent.name / PART
        place.parent.mkdir(parents=True)
        # A link, not a copy: only opening files and reading their footers is measured.
        os.link(template, place)
    return asked(root, ["noise_variants"])["noise_variants"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", type=float, default=[1e6], help="numbers of layer records, ascending")
    parser.add_argument("--of", type=Path, default=Path("warehouse/data"), help="the smaller warehouse")
    parser.add_argument("--only", choices=["questions"], help="leave out the marts and the catalogue")
    given = parser.parse_args()
    layers = {name: view.layer for name, view in sorted(view_sql().items()) if view.layer != "staging"}
    views = [name for name, layer in layers.items() if layer == "questions" or not given.only]
    table, before, rows_before = Table(), dict[str, dict[str, float]](), 1.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "warehouse"
        for rows in given.rows:
            shutil.rmtree(root, ignore_errors=True)
            written = write_warehouse(given.of, root, int(rows))
            size, speed = written["rows"], WRITERS * written["rows"] / written["seconds"]
            files = [path.stat().st_size for path in root.rglob("*.parquet")]
            table.add(f"{size:,} records: files", len(files))
            table.add(f"{size:,} records: bytes", sum(files))
            table.add(f"{size:,} records: written per second", speed, least=LEAST_ROWS_PER_SECOND)
            found = asked(root, views)
            for view, each in found.items():
                # No user waits for a mart alone: the targets are those of questions.
                is_question = layers[view] == "questions"
                table.add(f"{view}, s", each["seconds"], most=MOST_SECONDS if is_question else None)
                table.add(f"{view}, GiB", each["peak_gib"], most=MOST_GIB if is_question else None)
                if before:
                    # 1 if processor time grows as the rows do; the fixed cost of a process makes it smaller.
                    growth = each["processor"] / before[view]["processor"] / (size / rows_before)
                    table.add(f"{view}, growth of processor time over that of the rows", growth)
            before, rows_before = found, size
        if not given.only:
            opening = open_many(given.of, Path(folder) / "many")
            table.add(f"opening {PARTITIONS:,} partitions, s", opening["open_seconds"], most=MOST_SECONDS_TO_OPEN)
            table.add(f"opening {PARTITIONS:,} partitions, GiB", opening["peak_gib"])
    table.print()


if __name__ == "__main__":
    main()
