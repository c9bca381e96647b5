"""Task scores as the files `results_TIME.json` that lm-evaluation-harness writes, for tools that read those.

Metrics that the harness does not have keep our names; its readers show them like any other.
"""

import json
import re
from functools import partial
from pathlib import Path

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
    by_variant: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in rows:
        by_variant.setdefault((row["model"], row["recipe"]), []).append(row)
    files = []
    for (model, recipe), scores in by_variant.items():
        files.append(directory / f"{path_safe(model)}@{path_safe(recipe)}" / f"results_{scores[0]['date']}.json")
        content = json.dumps(_results(f"{model}@{recipe}", scores), indent=2, ensure_ascii=False) + "\n"
        write_atomically(files[-1], partial(Path.write_text, data=content, encoding="utf-8"))
    return files


def _results(name: str, scores: list[dict[str, object]]) -> dict[str, object]:
    results: dict[str, dict[str, object]] = {}
    higher: dict[str, dict[str, object]] = {}
    groups: dict[str, list[str]] = {}
    counts, versions, shots = dict[str, object](), dict[str, object](), dict[str, object]()
    for row in scores:
        task, key = str(row["task"]), _key(str(row["metric"]))
        metric, _, by = key.partition(",")
        error = row["standard_error"]
        own = results.setdefault(task, {"alias": task})
        own |= {key: row["value"], f"{metric}_stderr,{by}": "N/A" if error is None else error}
        higher.setdefault(task, {})[metric] = row["is_higher_better"]
        if row["task_group"]:
            groups.setdefault(str(row["task_group"]), []).append(task)
        counts[task] = {"original": None, "effective": row["n"]}  # the full number of samples is not stored
        version = str(row["task_version"])
        versions[task] = float(version) if _IS_NUMBER.fullmatch(version) else version
        shots[task] = row["shots"]
    return {
        "results": results,
        "group_subtasks": {group: list(dict.fromkeys(tasks)) for group, tasks in groups.items()},
        "versions": versions,
        "n-shot": shots,
        "higher_is_better": higher,
        "n-samples": counts,
        "config": {"model": "prunescope", "model_args": f"pretrained={name}"},
        "lm_eval_version": str(scores[0]["harness"]).removeprefix("lm_eval "),
        "model_source": "prunescope",
        "model_name": name,
        "model_name_sanitized": name,
        "task_hashes": {str(row["task"]): row["task_hash"] for row in scores},
    }


def _key(metric: str) -> str:
    """Return the harness's `metric,filter` of one of our metrics."""
    if metric.startswith(OTHER_METRICS):
        metric = metric.removeprefix(OTHER_METRICS)
        return metric if "," in metric else f"{metric},none"
    return _NAMES.get(metric, f"{metric},none")
