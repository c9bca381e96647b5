"""Task scores as the files `results_TIME.json` that lm-evaluation-harness writes, for tools that read those.

Metrics that the harness does not have keep our names; its readers show them like any other.
"""

import json
import re
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.atomic_write import write_atomically
from prunescope.warehouse.storage.path_names import path_safe
from prunescope.warehouse.tables.columns import OTHER_METRICS

# The harness's metric and filter of each of our metrics. Its acc_norm divides by characters; ours and acc_bytes divide
# by bytes.
_NAMES = {
    "accuracy": "acc,none",
    "accuracy_per_byte": "acc_bytes,none",
    "exact_match": "exact_match,strict-match",
    "exact_match_lenient": "exact_match,flexible-extract",
}
_IS_NUMBER = re.compile(r"\d+(\.\d+)?")
_QUERY = """
    SELECT scores.*, strftime(provenance.created_at, '%Y-%m-%dT%H-%M-%S.%f') AS date
    FROM task_scores AS scores
    JOIN provenance ON provenance.table_name = 'task_scores'
        AND provenance.model = scores.model AND provenance.recipe = scores.recipe
    ORDER BY scores.model, scores.recipe, scores.task, scores.metric
"""


def write_results(connection: duckdb.DuckDBPyConnection, directory: Path) -> list[Path]:
    """Write `MODEL@RECIPE/results_TIME.json` for each variant with task scores, and return the files.

    TIME is that of the measurement. The connection shows only the variants to write.

    Raises:
        WarehouseError: no variant has a task score, or the folder cannot be written.
    """
    rows = connection.sql(_QUERY).to_arrow_table().to_pylist()
    if not rows:
        raise WarehouseError("no variant has a task score; run a study with `tasks`")
    files = []
    for (model, recipe), of_variant in groupby(rows, key=itemgetter("model", "recipe")):
        scores = list(of_variant)
        files.append(directory / f"{path_safe(model)}@{path_safe(recipe)}" / f"results_{scores[0]['date']}.json")
        content = json.dumps(_results(f"{model}@{recipe}", scores), indent=2, ensure_ascii=False) + "\n"
        write_atomically(files[-1], partial(Path.write_text, data=content, encoding="utf-8"))
    return files


def _results(name: str, scores: list[dict[str, Any]]) -> dict[str, Any]:
    tasks = {row["task"]: row for row in scores}
    results: dict[str, dict[str, Any]] = {task: {"alias": task} for task in tasks}
    higher: dict[str, dict[str, bool]] = {task: {} for task in tasks}
    groups: dict[str, list[str]] = {}
    for row in scores:
        key, error = _key(row["metric"]), row["standard_error"]
        metric, _, by = key.partition(",")
        results[row["task"]] |= {key: row["value"], f"{metric}_stderr,{by}": "N/A" if error is None else error}
        higher[row["task"]][metric] = row["is_higher_better"]
    for task, row in tasks.items():
        if row["task_group"]:
            groups.setdefault(row["task_group"], []).append(task)
    versions = {task: row["task_version"] for task, row in tasks.items()}
    return {
        "results": results,
        "group_subtasks": groups,
        "versions": {task: float(of) if _IS_NUMBER.fullmatch(of) else of for task, of in versions.items()},
        "n-shot": {task: row["shots"] for task, row in tasks.items()},
        "higher_is_better": higher,
        # The full number of samples is not stored.
        "n-samples": {task: {"original": None, "effective": row["n"]} for task, row in tasks.items()},
        "config": {"model": "prunescope", "model_args": f"pretrained={name}"},
        "lm_eval_version": scores[0]["harness"].removeprefix("lm_eval "),
        "model_source": "prunescope",
        "model_name": name,
        "model_name_sanitized": name,
        "task_hashes": {task: row["task_hash"] for task, row in tasks.items()},
    }


def _key(metric: str) -> str:
    """Return the harness's `metric,filter` of one of our metrics."""
    if metric.startswith(OTHER_METRICS):
        metric = metric.removeprefix(OTHER_METRICS)
        return metric if "," in metric else f"{metric},none"
    return _NAMES.get(metric, f"{metric},none")
