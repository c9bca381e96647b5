"""The warehouse at N layer records: writing, every mart and question, opening 10,000 partitions, and MLflow.

Run by `python -m tests.benchmarks.warehouse [ROWS ...] [--only questions] [--mlflow PYTHON]` (default 1e6), sizes in
ascending order; figures as they come go to standard error as JSON, a table with the targets to standard output. Two
writers; each view in a process of its own, on as many threads as the machine has cores. 100 million rows take 9 GB of
TMPDIR.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import duckdb
import pyarrow as pa

from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.storage.partition_store import PART, Store
from prunescope.warehouse.storage.path_names import path_safe
from prunescope.warehouse.storage.provenance import Provenance
from prunescope.warehouse.tables import TABLES
from tests.benchmarks.measuring import told
from tests.benchmarks.warehouse_rows import ROWS_A_VARIANT, Recipe, model_tables, variant_tables, variants

WRITERS = 2
PARTITIONS = 10_000
POINTS = 1_000_000
MEASURES = sum(pa.types.is_float32(column.type) for column in TABLES["layer_transitions"].columns)
HOW_TO_INSTALL = (
    "MLflow is left out; for it: python -m venv mlflow && mlflow/bin/pip install mlflow-skinny sqlalchemy alembic && "
    "python -m tests.benchmarks.warehouse ROWS --mlflow mlflow/bin/python"
)
# Targets for two cores at a hundred million records, and at any smaller size.
MOST_SECONDS, MOST_GIB, MOST_SECONDS_TO_OPEN = 10, 4, 2
LEAST_ROWS_PER_SECOND, LEAST_TIMES_AT_INGEST, LEAST_TIMES_AT_READING = 2e6, 100, 20


def provenance(model: str, recipe: str | None) -> Provenance:
    """Return the provenance of a generated partition."""
    libraries = {"duckdb": duckdb.__version__, "pyarrow": pa.__version__}
    return Provenance(
        "f" * 64, "bench", model, recipe, {}, "bench", libraries, 0, "cpu", "float32", 0.0, "2000-01-01T00:00:00+00:00"
    )


def write_variant(root: Path, model: str, recipe: Recipe) -> dict[str, float]:
    """Generate and write one variant, and with the dense one its model's tables; return seconds of layer records."""
    store, figures = Store(root), {}
    frames = variant_tables(model, recipe) | (model_tables(model) if recipe.name == "dense" else {})
    for name, rows in frames.items():
        of = None if TABLES[name].partitioning == "model" else recipe.name
        start, cpu = time.perf_counter(), time.process_time()
        written = store.write(TABLES[name], rows, provenance(model, of), model, of)
        if written.violations:
            raise RuntimeError(f"{name} of {model}@{recipe.name}: {written.violations[0]}")
        if name == "layer_transitions":
            figures = {
                "rows": written.rows,
                "bytes": written.bytes,
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - cpu,
            }
    return figures


def write_warehouse(root: Path, rows: int) -> dict[str, float]:
    """Write a warehouse of so many layer records with two writers at once.

    A writer's time is that of `Store.write` alone, with checks, hash and fsync, without generating the rows.
    """
    with ProcessPoolExecutor(WRITERS, mp_context=get_context("spawn")) as pool:
        done = list(pool.map(write_variant, *zip(*((root, *each) for each in variants(rows)), strict=True)))
    total = {name: sum(each[name] for each in done) for name in done[0]}
    files = list(root.rglob("*.parquet"))
    return {
        "rows": total["rows"],
        "rows_per_second": WRITERS * total["rows"] / total["seconds"],
        "rows_per_cpu_second": total["rows"] / total["cpu_seconds"],
        "bytes_per_row": total["bytes"] / total["rows"],
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def child(*arguments: str) -> dict[str, float]:
    """Return the JSON that a process of its own prints."""
    root = Path(__file__).parents[2]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def asked(root: Path, views: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return seconds and memory of every view, each in a process of its own."""
    figures = {}
    for view in views:
        figures[view] = child(sys.executable, "-m", "tests.benchmarks.warehouse_view", str(root), view)
        told(view, figures[view])
    return figures


def open_many(root: Path) -> dict[str, float]:
    """Open a catalogue over 10,000 partitions: one small variant under many names."""
    recipe = next(variants(1))[1]
    write_variant(root, "template", recipe)
    templates = sorted(root.rglob(f"recipe={path_safe(recipe.name)}/{PART}"))
    for index in range(PARTITIONS - len(templates)):
        template = templates[index % len(templates)]
        place = template.parents[2] / f"model=m{index}" / template.parent.name / PART
        place.parent.mkdir(parents=True)
        # A link, not a copy: only opening files and reading their footers is measured.
        os.link(template, place)
    found = asked(root, ["noise_variants"])["noise_variants"]
    return {"partitions": PARTITIONS} | {name: found[name] for name in ("open_seconds", "open_cpu_seconds", "peak_gib")}


def against_mlflow(python: str, rows_per_second: float, root: Path) -> dict[str, float]:
    """Compare a million points in MLflow's sqlite store with the same here: one writer, and a variant read back."""
    theirs = child(python, "tests/benchmarks/mlflow_store.py", str(POINTS))
    model, recipe = next(variants(1))
    start = time.perf_counter()
    Store(root).read(TABLES["layer_transitions"], model, recipe.name)
    ingest, read = MEASURES * rows_per_second / WRITERS, MEASURES * ROWS_A_VARIANT / (time.perf_counter() - start)
    return theirs | {
        "times_faster_at_ingest": ingest / theirs["ingest_points_per_second"],
        "times_faster_at_reading_back": read / theirs["read_points_per_second"],
    }


def verdict(*kept: bool) -> str:
    """Return whether a target was met, as text."""
    return "met" if all(kept) else "MISSED"


def lines(
    written: dict[str, float], figures: dict[str, dict[str, float]], before: dict[str, dict[str, float]], growth: float
) -> Iterator[str]:
    """Return the table of one size.

    Args:
        written: the result of `write_warehouse`.
        figures: the result of `asked`.
        before: the same of the size before; empty for the first.
        growth: how many times as many rows this size has as that one.
    """
    speed = written["rows_per_second"]
    yield f"{written['rows']:,} records: {written['files']:,} files, {written['bytes'] / 1e9:.2f} GB"
    yield f"  written {speed / 1e6:.2f} million records/s: {verdict(speed >= LEAST_ROWS_PER_SECOND)}"
    yield f"  {'view':40}{'seconds':>9}{'GiB':>7}{'CPU s':>8}{'CPU/rows':>10}  target"
    for name, each in figures.items():
        kept = verdict(each["seconds"] <= MOST_SECONDS, each["peak_gib"] <= MOST_GIB)
        # 1 where processor time grows as the rows do; the fixed cost of a process makes it smaller.
        linear = f"{each['cpu_seconds'] / before[name]['cpu_seconds'] / growth:.2f}" if before else "-"
        yield (
            f"  {name:40}{each['seconds']:9.2f}{each['peak_gib']:7.2f}{each['cpu_seconds']:8.1f}{linear:>10}  "
            f"{kept if is_question(name) else '-'}"
        )


def is_question(view: str) -> bool:
    """Return whether the targets hold for the view."""
    return view_sql()[view].layer == "questions"


def main() -> None:
    """Measure and print; return exit code 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", type=float, default=[1e6], help="numbers of layer records, ascending")
    parser.add_argument("--only", choices=["questions"], help="leave out the marts, the catalogue and MLflow")
    parser.add_argument("--mlflow", metavar="PYTHON", help="an interpreter that has MLflow")
    given = parser.parse_args()
    views = sorted(name for name, view in view_sql().items() if view.layer != "staging")
    if given.only:
        views = [name for name in views if is_question(name)]
    printed: list[str] = []

    def show(line: str) -> None:
        printed.append(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    before: dict[str, dict[str, float]] = {}
    rows_before = 1.0
    sys.stdout.write(f"{os.cpu_count()} cores, DuckDB {duckdb.__version__}; targets are those of two quiet cores\n")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "warehouse"
        for rows in given.rows:
            shutil.rmtree(root, ignore_errors=True)
            written = write_warehouse(root, int(rows))
            told("write", written)
            figures = asked(root, views)
            for line in lines(written, figures, before, written["rows"] / rows_before):
                show(line)
            before, rows_before = figures, written["rows"]
        if not given.only:
            opening = open_many(Path(folder) / "many")
            show(
                f"catalogue over {PARTITIONS:,} partitions: {opening['open_seconds']:.2f} s, "
                f"{opening['peak_gib']:.2f} GiB: {verdict(opening['open_seconds'] <= MOST_SECONDS_TO_OPEN)}"
            )
            if given.mlflow is None:
                show(HOW_TO_INSTALL)
            else:
                times = against_mlflow(given.mlflow, written["rows_per_second"], root)
                told("mlflow", times)
                ingest, reading = times["times_faster_at_ingest"], times["times_faster_at_reading_back"]
                is_kept = verdict(ingest >= LEAST_TIMES_AT_INGEST, reading >= LEAST_TIMES_AT_READING)
                show(
                    f"MLflow {times['mlflow']} takes {ingest:,.0f} times as long to write a million points and "
                    f"{reading:,.0f} times to read them back: {is_kept}"
                )
    sys.exit(any(verdict(False) in line for line in printed))


if __name__ == "__main__":
    main()
