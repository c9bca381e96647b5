"""The same metrics in MLflow's sqlite store: seconds to write and to read a million points.

Run by `tests.benchmarks.warehouse` with an interpreter that has mlflow-skinny, sqlalchemy and alembic; imports nothing
of the project. Prints JSON.
"""

import json
import math
import sys
import tempfile
import time
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric

# MLflow's own limit for one call of log_batch.
BATCH = 1000
STEPS = 64


def main() -> None:
    """Log the points as a study would, a history for every measure and sublayer, and read every history."""
    points = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        client = MlflowClient(f"sqlite:///{database}")
        run = client.create_run(client.create_experiment("bench")).info.run_id
        keys = [f"measure_{index:05d}" for index in range(math.ceil(points / STEPS))]
        metrics = [Metric(key, math.sin(step + 1e-3), 0, step) for key in keys for step in range(STEPS)][:points]
        start = time.perf_counter()
        for first in range(0, points, BATCH):
            client.log_batch(run, metrics[first : first + BATCH])
        ingested = time.perf_counter()
        found = sum(len(client.get_metric_history(run, key)) for key in keys)
        read = time.perf_counter()
        if found != points:
            sys.exit(f"MLflow gave {found} points back, not {points}")
        figures = {
            "mlflow": mlflow.__version__,
            "points": points,
            "ingest_points_per_second": points / (ingested - start),
            "read_points_per_second": points / (read - ingested),
            "bytes_per_point": database.stat().st_size / points,
        }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
