"""The warehouse at N layer records: writing, every mart and question, opening 10,000 partitions, and MLflow beside it.

Run by `python -m tests.benchmarks.warehouse [ROWS] [MLFLOW_PYTHON]` (default 1e6); prints JSON, and figures as they
come. Two writers; each view in a process of its own, on as many threads as the machine has cores. 100 million rows take
12 GB of TMPDIR and half an hour.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tests.benchmarks.warehouse_rows import ROWS_A_VARIANT, Recipe, model_tables, variant_tables, variants
from warehouse.catalogue import view_sql
from warehouse.names import path_safe
from warehouse.provenance import Provenance
from warehouse.store import PART, Store
from warehouse.tables import TABLES

WRITERS = 2
PARTITIONS = 10_000
POINTS = 1_000_000
MEASURES = sum(pa.types.is_float32(column.type) for column in TABLES["layer_transitions"].columns)
HOW_TO_INSTALL = (
    "MLflow is left out; for it: python -m venv mlflow && mlflow/bin/pip install mlflow-skinny sqlalchemy alembic && "
    "python -m tests.benchmarks.warehouse ROWS mlflow/bin/python"
)


def told(name: str, figures: object) -> None:
    """Figures as they come: the whole takes many minutes."""
    sys.stderr.write(f"{name}: {json.dumps(figures)}\n")


def provenance(model: str, recipe: str | None) -> Provenance:
    """Of a partition that nothing computed."""
    libraries = {"duckdb": duckdb.__version__, "pyarrow": pa.__version__}
    return Provenance(
        "f" * 64, "bench", model, recipe, {}, "bench", libraries, 0, "cpu", "float32", 0.0, "2000-01-01T00:00:00+00:00"
    )


def write_variant(root: Path, model: str, recipe: Recipe) -> dict[str, float]:
    """Makes and writes one variant, and its model's tables with the dense one; what writing the layer records took."""
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
    """Writes a warehouse of so many layer records with two writers at once.

    A writer's time is that of `Store.write` alone: checks, hash and fsync included, the making of the rows left out.
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
    """The JSON that a process of its own prints."""
    root = Path(__file__).parents[2]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def asked(root: Path, views: Iterable[str]) -> dict[str, dict[str, float]]:
    """Seconds and memory of every view, each in a process of its own."""
    figures = {}
    for view in views:
        figures[view] = child(sys.executable, "-m", "tests.benchmarks.warehouse_view", str(root), view)
        told(view, figures[view])
    return figures


def open_many(root: Path) -> dict[str, float]:
    """Opening a catalogue over 10,000 partitions: one small variant under many names."""
    recipe = next(variants(1))[1]
    write_variant(root, "template", recipe)
    templates = sorted(root.rglob(f"recipe={path_safe(recipe.name)}/{PART}"))
    for index in range(PARTITIONS - len(templates)):
        template = templates[index % len(templates)]
        place = template.parents[2] / f"model=m{index}" / template.parent.name / PART
        place.parent.mkdir(parents=True)
        # A link, not a copy: what is measured is opening files and reading their footers.
        os.link(template, place)
    figures = asked(root, ["noise_variants"])["noise_variants"]
    return {"partitions": PARTITIONS, "open_seconds": figures["open_seconds"], "peak_gib": figures["peak_gib"]}


def against_mlflow(python: str | None, rows_per_second: float, root: Path) -> dict[str, Any]:
    """A million points in MLflow's sqlite store, against the same here: one writer, and a variant read back whole."""
    if python is None:
        return {"skipped": HOW_TO_INSTALL}
    theirs = child(python, "tests/benchmarks/mlflow_store.py", str(POINTS))
    model, recipe = next(variants(1))
    start = time.perf_counter()
    Store(root).read(TABLES["layer_transitions"], model, recipe.name)
    ingest, read = MEASURES * rows_per_second / WRITERS, MEASURES * ROWS_A_VARIANT / (time.perf_counter() - start)
    return theirs | {
        "ingest_points_per_second_here": ingest,
        "read_points_per_second_here": read,
        "times_faster_at_ingest": ingest / theirs["ingest_points_per_second"],
        "times_faster_at_reading_back": read / theirs["read_points_per_second"],
    }


def main() -> None:
    """Measures and prints."""
    rows = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    views = [view.name for view in view_sql().values() if view.layer != "staging"]
    with tempfile.TemporaryDirectory() as folder:
        root, tenth, many = (Path(folder) / name for name in ("whole", "tenth", "many"))
        written = write_warehouse(root, rows)
        told("write", written)
        write_warehouse(tenth, rows // 10)
        small, figures = asked(tenth, views), asked(root, views)
        shutil.rmtree(tenth)
        opening = open_many(many)
        told("catalogue", opening)
        mlflow = against_mlflow(sys.argv[2] if len(sys.argv) > 2 else None, written["rows_per_second"], root)
        result = {
            "write": written,
            "views": {
                name: each | {"times_a_tenth": each["cpu_seconds"] / small[name]["cpu_seconds"]}
                for name, each in figures.items()
            },
            "slowest_question": max(
                (each["seconds"], name) for name, each in figures.items() if view_sql()[name].layer == "questions"
            ),
            "largest_gib": max((each["peak_gib"], name) for name, each in figures.items()),
            "catalogue": opening,
            "mlflow": mlflow,
            "cores": os.cpu_count(),
            "duckdb": duckdb.__version__,
            "machine": platform.machine(),
        }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
