"""Scores in the files `results_TIME.json` of lm-evaluation-harness, read into the table `imported_scores`.

Files of versions before 0.4 do not name filters and are refused.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import Provenance
from prunescope.warehouse.tables import TABLES
from prunescope.warehouse.tables.columns import OTHER_METRICS, TASK_METRICS

TABLE = TABLES["imported_scores"]
# Groups contain groups, as in mmlu; a damaged file could make this endless.
_MAX_DEPTH = 9
_LARGEST = sys.float_info.max
_FIX = "give a results_*.json that lm-evaluation-harness wrote"
# Our name of a metric of the harness that scores the answers themselves.
_METRICS = {"acc": "accuracy", "acc_bytes": "accuracy_per_byte", "acc_norm": "accuracy_per_byte"}
_LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
# Arguments with which the harness evaluates other weights than those of `pretrained`.
_OTHER_WEIGHTS = ("peft", "delta", "gguf_file", "autogptq", "gptqmodel", "load_in_4bit", "load_in_8bit")
Row = dict[str, Any]


@dataclass(frozen=True)
class HarnessResults:
    """Contents of one results file.

    Attributes:
        file: its path, as the user gave it.
        hash: SHA-256 of its bytes.
        arguments: the harness's `model_args`, by name.
        model_commit: commit of the evaluated model on the hub; empty if the file names none.
        rows: rows of `imported_scores` without model and recipe.
    """

    file: str
    hash: str
    arguments: Mapping[str, str]
    model_commit: str
    rows: Sequence[Row]


def parse_results(file: str, content: bytes) -> HarnessResults:
    """Read the scores of a results file from its bytes; `file` is its path.

    Raises:
        WarehouseError: it is not JSON or not a results file, or a score or error in it is not finite.
    """
    try:
        whole = json.loads(content)
        digest = hashlib.sha256(content).hexdigest()
        if not isinstance(_at(whole, "results"), dict):
            raise WarehouseError(f"{file}: has no `results`; {_FIX}")
        rows = [
            {"source_hash": digest, "source_file": file} | row
            for task in whole["results"]
            for row in _task_rows(file, whole, task)
        ]
        json.dumps(rows, ensure_ascii=False).encode()  # half of a surrogate pair is not text
    except (ValueError, RecursionError) as error:
        raise WarehouseError(f"{file}: is not JSON ({str(error).partition(chr(10))[0]}); {_FIX}") from error
    if not rows:
        raise WarehouseError(f"{file}: `results` has no score of the form METRIC,FILTER; {_FIX}, version 0.4 or later")
    arguments = _at(whole, "config", "model_args")
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    named = {str(name): str(value) for name, value in arguments.items()} if isinstance(arguments, dict) else {}
    revision = named.get("revision", "main")
    commit = _at(whole, "config", "model_sha") or ("" if revision == "main" else revision)
    return HarnessResults(file, digest, named, str(commit), rows)


def evaluated_variant(results: HarnessResults, store: Store) -> tuple[str, str]:
    """Return model and recipe of the variant that a results file names.

    `pretrained` is MODEL@RECIPE in our exports. Otherwise it is the source of a dense model, by name or path, or the
    folder of `prunescope checkpoint`, which names the variant and its hash.

    Raises:
        WarehouseError: it names no variant of the warehouse, or more than one.
    """
    source = results.arguments.get("pretrained", "")
    variants = {(partition.model, partition.recipe or "") for partition in store.partitions(TABLES["variants"])}
    is_source_alone = all(results.arguments.get(name) in {None, "", "None", "False"} for name in _OTHER_WEIGHTS)
    own = _of_checkpoint(source, store) if is_source_alone else None
    named = {pair for pair in variants if "@".join(pair) == source or pair == own}
    if is_source_alone:
        for partition in store.partitions(TABLES["models"]):
            [model] = store.read(TABLES["models"], partition.model, None).to_pylist()
            is_commit = results.model_commit in {"", model["revision"]}
            if is_commit and _is_same_source(source, model["source"]) and (model["model"], "dense") in variants:
                named.add((model["model"], "dense"))
    if len(named) == 1:
        return named.pop()
    problem = f"names {' and '.join(sorted(map('@'.join, named)))}" if named else "names no model of the warehouse"
    raise WarehouseError(
        f"{results.file}: `config.model_args` (pretrained={source[:200]}) {problem}; say with --variant MODEL@RECIPE "
        "which variant was evaluated, with the recipe `dense` for the dense model"
    )


def _of_checkpoint(source: str, store: Store) -> tuple[str, str] | None:
    """Return the variant that a folder of `prunescope checkpoint` was written from; None if it is not stored here."""
    with suppress(OSError, RuntimeError, ValueError, TypeError, KeyError, WarehouseError):
        file = Path(source).expanduser() / "prunescope.json"
        if source and file.is_file():
            names = json.loads(file.read_text(encoding="utf-8"))
            pair = str(names["model"]), str(names["recipe"])
            [row] = store.read(TABLES["variants"], *pair).to_pylist()
            return pair if row["variant_hash"] == names["variant_hash"] else None
    return None


def import_results(store: Store, evaluated: Iterable[tuple[HarnessResults, tuple[str, str]]]) -> list[int]:
    """Write the scores of results files, each with its variant; return how many rows each file added.

    A file that was imported before adds no rows.

    Raises:
        WarehouseError: a file was imported for another variant, or the warehouse cannot be written.
    """
    present: dict[tuple[str, str], list[Row]] = {}
    variants: dict[str, tuple[str, str]] = {}
    for partition in store.partitions(TABLE):
        pair = partition.model, partition.recipe or ""
        present[pair] = store.read(TABLE, *pair).to_pylist()
        variants |= dict.fromkeys((row["source_hash"] for row in present[pair]), pair)
    added, changed = list[int](), set[tuple[str, str]]()
    for results, pair in evaluated:
        before = variants.setdefault(results.hash, pair)
        if before != pair:
            raise WarehouseError(
                f"{results.file}: was imported for {'@'.join(before)}; delete {store.path(TABLE, *before)} to import "
                f"it for {'@'.join(pair)}"
            )
        rows = present.setdefault(pair, [])
        if any(row["source_hash"] == results.hash for row in rows):
            added.append(0)
            continue
        rows += [{"model": pair[0], "recipe": pair[1]} | row for row in results.rows]
        changed.add(pair)
        added.append(len(results.rows))
    schema = pl.DataFrame(TABLE.arrow().empty_table()).schema
    for pair in sorted(changed):
        inputs = {f"results {row['source_hash'][:12]}": row["source_hash"] for row in present[pair]}
        provenance = Provenance.of_read_rows("imported", *pair, inputs, str(TABLE.version))
        store.write(TABLE, pl.DataFrame(present[pair], schema=schema), provenance, *pair)
    return added


def _task_rows(file: str, whole: Any, task: str) -> Iterable[Row]:  # noqa: ANN401 - any JSON
    """Yield one row per metric and filter of a task or group."""
    scores, subtasks = whole["results"][task], _at(whole, "group_subtasks")
    if not isinstance(scores, dict):
        raise WarehouseError(f"{file}: `results.{task}` is no mapping of metrics to scores; {_FIX}")
    version = _at(whole, "versions", task)
    columns = {
        "task": task,
        "is_group": bool(_at(subtasks, task)),
        "n": _count(_at(whole, "n-samples", task, "effective")),
        "shots": _count(_at(whole, "n-shot", task)),
        "task_version": "" if version is None else str(version),
        "harness": f"lm_eval {_at(whole, 'lm_eval_version') or ''}".strip(),
    }
    leaf = task
    for _ in range(_MAX_DEPTH):  # a group is scored like its tasks
        children = _at(subtasks, leaf)
        leaf = str(children[0]) if isinstance(children, list) and children else leaf
    for key, value in scores.items():
        metric, comma, by = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = scores.get(f"{metric}_stderr,{by}", "N/A")
        better = _at(whole, "higher_is_better", task, metric)
        yield columns | {
            "harness_metric": metric,
            "filter": by,
            "metric": _metric(metric, by, list(scores), _at(whole, "configs", leaf)),
            "value": _number(value, f"{file}: `results.{task}.{key}`"),
            # The harness writes N/A if it computes no error.
            "standard_error": None
            if error is None or error == "N/A"
            else _number(error, f"{file}: `results.{task}.{metric}_stderr,{by}`", at_least=0),
            "is_higher_better": better if isinstance(better, bool) else None,
        }


def _metric(metric: str, by: str, keys: Sequence[str], definition: Any) -> str:  # noqa: ANN401 - any JSON
    """Return our name of a metric of the harness under one of its filters."""
    if metric == "exact_match":
        filters = [key.partition(",")[2] for key in keys if key.startswith("exact_match,")]
        strict = next((name for name in filters if "strict" in name), filters[0])
        lenient = next((name for name in filters if "flexible" in name or "lenient" in name), strict)
        if by in {strict, lenient}:
            return metric if by == strict else f"{metric}_lenient"
    elif metric in TASK_METRICS:
        return metric
    elif metric in _METRICS and _at(definition, "output_type") in (None, "multiple_choice"):
        choices = _at(definition, "doc_to_choice")
        is_lettered = isinstance(choices, list) and [str(one).strip() for one in choices] == _LETTERS[: len(choices)]
        if metric == "acc" and is_lettered:
            return "accuracy_letter"
        if metric != "acc_norm" or not (is_lettered or f"acc_bytes,{by}" in keys):
            return _METRICS[metric]
    return f"{OTHER_METRICS}{metric}" + ("" if by == "none" else f",{by}")


def _number(value: Any, where: str, at_least: float = -_LARGEST) -> float:  # noqa: ANN401 - any JSON
    """Return a finite number; `where` names file and key in the error."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value <= _LARGEST:
        raise WarehouseError(f"{where} is {json.dumps(value)[:60]}; a score is a finite number, an error one from 0 on")
    return float(value)


def _count(value: Any) -> int | None:  # noqa: ANN401 - any JSON
    return value if type(value) is int and 0 <= value < 2**31 else None


def _at(value: Any, *names: str) -> Any:  # noqa: ANN401 - any JSON
    """Return the value under nested keys of JSON; None if one is missing."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _is_same_source(one: str, other: str) -> bool:
    """Return whether two sources of a model are the same hub id or the same existing path."""
    if one == other or one == other.partition("@")[0] != "":
        return True
    with suppress(OSError, RuntimeError, ValueError):  # no such file, or not a path
        return Path(one).expanduser().samefile(Path(other).expanduser())
    return False
