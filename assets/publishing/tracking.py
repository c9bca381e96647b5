"""Variants as runs of an MLflow experiment, for teams that compare models there.

MLflow is an optional dependency, imported here alone.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import Progress
from prunescope.warehouse.catalogue.queries import SCORES, query_pairs, variant_states, variant_values
from prunescope.warehouse.catalogue.question_query import RowFilter, require, rows_within
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store

VARIANT_TAG, STATE_TAG = "prunescope.variant", "prunescope.state"
# Characters that MLflow takes in the name of a metric.
_NOT_A_NAME = re.compile(r"[^\w\-. :/]")
# Longest value of a parameter, in characters.
_LONGEST = 6_000
# Ends the name of the report of a study's subset of models or recipes.
_SUBSET = re.compile(r"-[0-9a-f]{8}$")
# The texts of a variant's values that describe it; all other texts are results.
_PARAMETERS = ("model", "recipe", "method")


def log_variants(
    root: Place | str,
    uri: str | None,
    experiment: str,
    variants: Collection[tuple[str, str]],
    figures: Collection[str],
    progress: Progress,
) -> tuple[list[str], list[str]]:
    """Write one MLflow run for each of these variants, or all but noise, that has none with the same results.

    A run has the recipe as parameters, `variant_summary`, `variant_verdict` and `task_scores` as metrics, the verdict
    as a tag, and those of the figures that have rows as artifacts; that of the dense model has the report. Without a
    `uri`, MLFLOW_TRACKING_URI names the server. An experiment that does not exist is created.

    Returns:
        The names of the variants that were logged, and of those that were there.

    Raises:
        InputError: MLflow is not installed, or a variant is noise.
        ComputationError: MLflow refuses, or does not answer.
        WarehouseError: the warehouse has no such variant or figure.
    """
    # A server that does not answer is given up after seconds, not minutes.
    for name, value in (("MAX_RETRIES", "1"), ("TIMEOUT", "20")):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    try:
        import mlflow
    except ImportError as error:
        raise InputError("MLflow is not installed; pip install 'prunescope[mlflow]'") from error
    states = {(state["model"], state["recipe"]): state for state in variant_states(root)}
    require(root, {model for model, _ in variants}, RowFilter(variants=tuple(variants)))
    if noise := [f"{model}@{recipe}" for model, recipe in variants if (model, recipe) not in states]:
        raise InputError(f"--variant {noise[0]}: a noise variant is not a result; its floor is in every verdict")
    chosen = {pair: state for pair, state in states.items() if not variants or pair in variants}
    logged, present = list[str](), list[str]()
    progress.start(f"log {len(chosen)} variants to MLflow", len(chosen))
    try:
        if uri is not None:
            mlflow.set_tracking_uri(uri)
        identity = mlflow.set_experiment(experiment).experiment_id
        for pair, state in chosen.items():
            name, reports = "@".join(pair), _reports(root, state)
            # A run with other figures is another run, and so is one of the dense model with another report.
            whole = str([*state["hashes"], *sorted(figures), *reports.values()])
            digest = hashlib.sha256(whole.encode()).hexdigest()
            finished = f"tags.`{STATE_TAG}` = '{digest}' and attributes.status = 'FINISHED'"
            if mlflow.search_runs([identity], finished, output_format="list"):
                present.append(name)
            else:
                with mlflow.start_run(run_name=name, tags={VARIANT_TAG: name, STATE_TAG: digest}):
                    _log(root, state, figures)
                    for file, report in reports.items():
                        mlflow.log_text(report, f"reports/{file}")
                logged.append(name)
            progress.advance()
    except mlflow.MlflowException as error:
        raise ComputationError(f"MLflow: {error.message}") from error
    progress.done()
    return logged, present


def _log(root: Place | str, state: Mapping[str, Any], figures: Collection[str]) -> None:
    """Log a variant's parameters, metrics, verdict and figures to the active run."""
    import mlflow
    import vl_convert

    from prunescope.pipelines.reporting.charts.registry import find_figure

    model, recipe = state["model"], state["recipe"]
    summary = variant_values(root, f"{model}@{recipe}")
    values = {"model": model, "recipe": recipe} | summary | query_pairs(root, SCORES, model=model, recipe=recipe)
    numbers = {key: value for key, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}
    mlflow.log_metrics({_NOT_A_NAME.sub("_", key): float(value) for key, value in numbers.items()})
    described = {key: values.get(key) for key in _PARAMETERS} | json.loads(state["parameters_json"])
    mlflow.log_params({key: str(value)[:_LONGEST] for key, value in described.items() if value is not None})
    mlflow.set_tag("prunescope.verdict", str(values.get("verdict")))
    for name in figures:
        figure = find_figure(name)
        rows = rows_within(root, figure.query, RowFilter((model,), (recipe,)))
        for number, drawing in enumerate(figure.draw_all(rows) if len(rows) else (), start=1):
            svg = vl_convert.vegalite_to_svg(drawing.specification)
            mlflow.log_text(svg, f"figures/{name}-{number}.svg")


def _reports(root: Place | str, state: Mapping[str, Any]) -> dict[str, str]:
    """Return the reports of the studies of a dense model by file name: they are large, and of all its variants."""
    return {
        report.name: report.read_text(encoding="utf-8")
        for report in (Store(root).files("_reports") if state["recipe"] == "dense" else ())
        if report.suffix == ".html" and {report.stem, _SUBSET.sub("", report.stem)} & {*state["studies"]}
    }
