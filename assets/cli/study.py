"""`prunescope run` and `prunescope plan`: compute a study, or estimate its cost."""

import dataclasses
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets.cli import options
from prunescope.assets.cli.output import FAILED, WRONG_INPUT, Sink, emit, emit_list, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.execution.error_transport import error_line
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import CatalogueError, DamagedFileError, WarehouseError

if TYPE_CHECKING:
    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.assets.runs.study_run import Failure, RunResult
    from prunescope.warehouse.storage.location import Place
    from prunescope.warehouse.storage.partition_store import Store


def run(
    context: typer.Context,
    study: options.AnyStudy = None,
    model: options.Models = (),
    recipe: options.Recipes = (),
    replace: options.Replace = False,
    allow_code_execution: options.AllowCode = False,
    allow_python: options.AllowPython = False,
    ray: str | None = None,
    gpus_per_task: Annotated[float | None, typer.Option(min=0)] = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Compute a study's missing and outdated results, and print a summary.

    Current results are not computed again. After an interruption, the same command continues where the run stopped.

    For example:

    - `prunescope run demo`
    - `prunescope run demo --model ./my-model --recipe wanda-50 --recipe wanda-2of4`
    - `prunescope run my-study.yaml --warehouse /data/prunescope`
    - `prunescope run my-study.yaml --ray auto --warehouse s3://bucket/prunescope`

    Options:
        study: Name of a shipped study (`demo`), or the path of a YAML file (default: all watched studies).
        ray (ADDRESS): Compute on a Ray cluster: `auto` on one of its machines, HOST:PORT of its head, ray://HOST:10001
            from outside, or `local` to start one here. All machines must see the warehouse, the models and the study's
            files.
        gpus_per_task: With --ray: GPUs per task (default: one, if there is any).
        cpus_per_task: With --ray: CPUs per task (default: those that belong to its GPUs, or all of the largest
            machine).
    """
    from prunescope.assets.runs.study_run import Failure
    from prunescope.warehouse.storage.partition_store import Store

    if ray is None and (gpus_per_task, cpus_per_task) != (None, None):
        raise InputError("--gpus-per-task and --cpus-per-task apply to a Ray cluster; name it with --ray")
    engine = dict[str, object](address=ray, gpus_per_task=gpus_per_task, cpus_per_task=cpus_per_task)
    cluster = None if ray is None else engine
    location = options.root(context)
    if study is not None:
        request = _with_added_models(
            Store(location), request_of(study, model, recipe, allow_code_execution, allow_python)
        )
        end(context, _run_study(request, location, cluster, replace=replace))
        return
    if model or recipe:
        raise InputError("--model and --recipe replace those of one study; name the study, such as `run demo`")
    failures: list[Failure] = []
    for request in _watched_requests(Store(location), allow_code_execution, allow_python):
        try:
            failures += _run_study(request, location, cluster, replace=replace)
        except Exception as error:  # one broken study does not stop the others
            is_input = isinstance(error, InputError | WarehouseError)
            is_input = is_input and not isinstance(error, DamagedFileError | CatalogueError)
            failures.append(Failure(request.study, error_line(error), is_input, traceback.format_exc()))
    end(context, failures)


def plan(
    context: typer.Context,
    sink: Sink,
    study: options.StudyName,
    model: options.Models = (),
    recipe: options.Recipes = (),
    allow_code_execution: options.AllowCode = False,
    allow_python: options.AllowPython = False,
    replace: options.Replace = False,
    gpu: Annotated[float | None, typer.Option(min=1, max=10_000)] = None,
    details: bool = False,
) -> None:
    """Estimate what a run of the study would compute, reuse and cost on this machine; compute nothing.

    Says what a run would compute, its time and memory, and which losses the verdicts will be able to tell apart. The
    time is that of the model's earlier variants with these settings, else it follows from counted operations at this
    machine's speed, which is measured in a moment. --details and the other formats have tables, time and memory of
    every partition. Reads a model's config, tokenizer and file header, but not its weights. A time by operations leaves
    out the scores of pruning recipes and Python overhead: add about half on a CPU with small models, little with large
    ones. No time has loading and hashing weights, writing, questions and report.

    For example:

    - `prunescope plan demo`
    - `prunescope plan my-study.yaml --model ./my-7b-model --format json`
    - `prunescope plan paper-qwen7b --gpu 80`

    Options:
        gpu (GB): Plan for one GPU with this much memory, which this machine need not have: memory and work, no time.
        details: Show a table with every partition, too.
    """
    location, gpu_bytes = options.root(context), None if gpu is None else int(gpu * 1e9)
    with RichProgress() as bars:
        from prunescope.assets.runs.estimate import ModelEstimate, estimate_model
        from prunescope.assets.runs.study_run import refused
        from prunescope.warehouse.storage.partition_store import Store

        store = Store(location)
        chosen = _with_added_models(store, request_of(study, model, recipe, allow_code_execution, allow_python)).load()
        estimates = dict[str, ModelEstimate]()

        def estimate(name: str) -> None:
            estimates[name] = estimate_model(chosen, store, bars, name, replace=replace, gpu=gpu_bytes)

        failures = refused([spec.name for spec in chosen.models], estimate, bars)
    for name, found in estimates.items():
        for line in found.lines:
            log(f"{name}: {line}")
        for warning in found.warnings:
            log(f"{name}: {warning}", "yellow")
    if details or sink.path is not None or sink.format != "table":
        rows = [row for found in estimates.values() for row in found.rows]
        emit_list(rows, sink, model=str, recipe=str, computed=str, current=str, seconds=int, memory_bytes=int)
    else:
        log("--details shows every partition", "dim")
    end(context, list(failures.values()))


def request_of(
    study: str,
    models: Sequence[str],
    recipes: Sequence[str],
    allow_code_execution: bool = False,
    allow_python: bool = False,
) -> "StudyRequest":
    """Return the request with absolute paths, because the UI may re-execute it from another folder."""
    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.pipelines.studies import load_study

    known = {model.name for model in load_study(study).models}
    sources = tuple(model if model in known else options.absolute_model(model) for model in models)
    return StudyRequest(
        options.absolute_study(study),
        sources,
        tuple(map(options.inline_recipe, recipes)),
        allow_code_execution,
        allow_python=allow_python,
    )


def end(context: typer.Context, failures: "Sequence[Failure]") -> None:
    """Log the failures, if any, and exit with their code."""
    if failures:
        log(f"{len(failures)} failed:", "red")
        for failure in failures:
            log(f"  {failure.name}: {failure.message}", "red")
            if context.ensure_object(options.Globals).debug:
                log(failure.traceback)
        only_input = all(failure.is_input for failure in failures)
        raise typer.Exit(WRONG_INPUT if only_input else FAILED)


def _run_study(
    request: "StudyRequest", location: "Place", cluster: Mapping[str, object] | None, *, replace: bool
) -> "Sequence[Failure]":
    """Run one study, print its summary, and return its failures."""
    from prunescope.assets.runs.start import run_study
    from prunescope.pipelines.evaluation.tasks.definition import runs_code

    unscored = [task.name for task in request.load().tasks if runs_code(task)]
    if unscored and not request.allow_code_execution:
        log(
            f"{', '.join(unscored)}: programs run only with --allow-code-execution; answers are kept, but not scored",
            "yellow",
        )
    with RichProgress() as bars:
        outcome = run_study(request, location, bars, replace=replace, cluster=cluster)
    if not outcome.computed and not outcome.failures:
        log("everything is current; nothing was computed")
    _print_summary(outcome, location)
    return outcome.failures


def _watched_requests(store: "Store", allow_code_execution: bool, allow_python: bool) -> "list[StudyRequest]":
    from prunescope.assets.watching.watch_list import load_watch_state

    watch = load_watch_state(store)
    for reason in watch.refused.values():
        log(f"not watched: {reason}", "yellow")
    if not watch.studies:
        raise InputError("no study is given and none is watched; name one, such as `prunescope run demo`")
    allowed = {"allow_code_execution": allow_code_execution, "allow_python": allow_python}
    return [dataclasses.replace(study.request, **allowed) for study in watch.studies]


def _with_added_models(store: "Store", request: "StudyRequest") -> "StudyRequest":
    """Add to the request of a watched study the models added to it, unless the user named models."""
    from prunescope.assets.watching.watch_list import load_watch_state, read_list

    if request.models or request.study not in read_list(store).studies:
        return request
    watched = (study.request for study in load_watch_state(store).studies)
    added = next((other.added for other in watched if other.study == request.study), ())
    return dataclasses.replace(request, added=added)


def _print_summary(outcome: "RunResult", location: "Place") -> None:
    """Print the main numbers of each variant, and log the path of the report."""
    from prunescope.assets.planning.freshness import report_file
    from prunescope.warehouse.catalogue.database import connected

    study, where = outcome.study, "WHERE list_contains($models, model) AND list_contains($recipes, recipe)"
    order = "ORDER BY list_position($models, model), list_position($recipes, recipe)"
    summary = f"""
        SELECT model, recipe, parameters_removed_share AS removed_share,
               kl_teacher_forced_median_nats AS kl_forced_nats, kl_own_text_median_nats AS kl_own_nats,
               top1_agreement, first_flip_step_median AS first_flip_step,
               prompts_collapsed || ' of ' || prompts AS looping,
               prompts_correct || ' of ' || prompts_graded AS right_answers, verdict
        FROM variant_summary LEFT JOIN (SELECT model, recipe, verdict FROM variant_verdict) USING (model, recipe)
        {where} {order}
    """  # noqa: S608 - ours
    retrieval = f"""
        PIVOT (
            SELECT model, recipe, data_set, metric, value FROM retrieval_scores
            {where} AND list_contains($data_sets, data_set)
        )
        ON metric IN ('ndcg_at_10', 'recall_at_100', 'mrr_at_10', 'embedding_cosine') USING any_value(value)
        {order}, data_set
    """  # noqa: S608 - ours
    names = {key: [one.name for one in getattr(study, key)] for key in ("models", "recipes")}
    queries = [(summary, names)] if study.prompts or study.texts else []
    queries += [(retrieval, names | {"data_sets": [one.name for one in study.retrieval]})] if study.retrieval else []
    with connected(location) as connection:
        tables = [connection.sql(query, params=values).to_arrow_table() for query, values in queries]
    for rows in tables:
        if rows.num_rows:
            emit(rows.drop_columns(["model"]) if len(study.models) == 1 else rows)
    report = location / report_file(study)
    if report.exists():
        log(f"report: {report}")
