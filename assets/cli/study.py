"""`prunescope run` and `prunescope plan`: bring the warehouse up to date with a study, or say what that would cost.

The work itself is `prunescope.assets.runs.study_run`, the estimate `prunescope.assets.runs.estimate`.
"""

# ruff: noqa: ARG001 - `--warehouse` and `--debug` are kept by their callbacks, see options.py

import dataclasses
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.options import (
    Debug,
    Format,
    Globals,
    Output,
    Warehouse,
    absolute_model,
    absolute_study,
    root,
)
from prunescope.assets.cli.output import chosen_format, emit, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import CatalogueError, DamagedFileError, WarehouseError
from prunescope.warehouse.core.quoting import literal

if TYPE_CHECKING:
    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.assets.runs.outcome import Failure, RunResult
    from prunescope.warehouse.storage.location import Place
    from prunescope.warehouse.storage.partition_store import Store

FAILED, WRONG_INPUT = 1, 2


StudyName = Annotated[
    str,
    typer.Argument(
        help="Name of a shipped study (`demo`), or the path of a YAML file.", autocompletion=completion.studies
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="In place of the study's models: a folder with safetensors, a .gguf file or a hub id; "
        "`NAME=MODEL` names it. Repeatable.",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code-execution",
        help="Run the programs that variants write for tasks such as humaneval, locked up; else nobody judges them.",
    ),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        autocompletion=completion.recipes,
        help="In place of the study's recipes: a name that `prunescope recipes` lists, several joined by +, or "
        "`{name: mine, method: wanda, sparsity: 0.6}`. Repeatable.",
    ),
]

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Compute on a Ray cluster: `auto` on one of its machines, HOST:PORT of its head, ray://HOST:10001 from "
        "elsewhere, or `local` to start one here. All machines see the warehouse, the models and the study's files.",
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option("--gpus-per-task", min=0, help="With --ray: GPUs of a worker; by default one where there are any."),
]
Cpus = Annotated[
    int | None,
    typer.Option("--cpus-per-task", min=1, help="With --ray: CPUs of a worker; by default a whole machine's."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Instead of the plan, how far the study goes with so many workers: seconds of every step, and how long "
        "10, 100 and 1,000 models × 30 recipes take.",
    ),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Compute again what another study computed from other inputs.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(name="run")(run)
    app.command(name="plan")(plan)


def run(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(
            help="A shipped study (`demo`), or the path of a YAML file; without one, all watched studies.",
            autocompletion=completion.studies,
        ),
    ] = None,
    model: Models = None,
    recipe: Recipes = None,
    replace: Replace = False,
    allow_code_execution: AllowCode = False,
    ray: Ray = None,
    gpus_per_task: Gpus = None,
    cpus_per_task: Cpus = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Compute what a study still needs, and print its findings.

    What is current is not computed again. A killed or interrupted run is taken up where it stopped.

    For example:

    - `prunescope run demo`
    - `prunescope run demo --model ./my-model --recipe wanda-50 --recipe wanda-2of4`
    - `prunescope run my-study.yaml --warehouse /data/prunescope`
    - `prunescope run my-study.yaml --ray auto --warehouse s3://bucket/prunescope`
    """
    from prunescope.assets.runs.outcome import Failure
    from prunescope.warehouse.storage.partition_store import Store

    if ray is None and (gpus_per_task, cpus_per_task) != (None, None):
        raise InputError("--gpus-per-task and --cpus-per-task are of workers on a cluster; name it with --ray")
    cluster = None if ray is None else RayClusterConfig(ray, gpus_per_task, cpus_per_task)
    place = root(context)
    if study is None:
        requests = _watched(Store(place), model, recipe, allow_code_execution)
    else:
        requests = [_with_added(Store(place), request_of(study, model or [], recipe or [], allow_code_execution))]
    failures: list[Failure] = []
    for request in requests:
        try:
            failures += _computed(request, place, cluster, replace=replace)
        except (InputError, WarehouseError) as error:
            if study is not None:
                raise
            is_input = not isinstance(error, DamagedFileError | CatalogueError)
            failures.append(Failure(request.study, str(error), is_input, traceback.format_exc()))
    end(context, failures)


def plan(
    context: typer.Context,
    study: StudyName,
    model: Models = None,
    recipe: Recipes = None,
    allow_code_execution: AllowCode = False,
    replace: Replace = False,
    workers: Workers = None,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Say what a run of the study would compute and reuse, and what it would cost here; nothing is computed.

    Memory by item, floating-point operations by item, rows and bytes of Parquet, and the time at this machine's speed,
    which is measured for two seconds. Config, tokenizer and header of a model are enough: weights are not read.
    Not counted are loading and hashing the weights, scores of pruning recipes, Python between the products, writing,
    questions and report: add about half on a CPU with small models, little with large ones.

    With `--workers` a run is simulated instead, from seconds that the warehouse's partitions tell or, where there are
    none, from the estimate; Dagster's bookkeeping and writing are measured. It says what saturates first.

    For example:

    - `prunescope plan demo`
    - `prunescope plan my-study.yaml --model ./my-7b-model --format json`
    - `prunescope plan demo --workers 8`
    """
    chosen_format(format_, output)
    place = root(context)
    with RichProgress() as bars:
        from prunescope.warehouse.storage.partition_store import Store

        store = Store(place)
        chosen = _with_added(store, request_of(study, model or [], recipe or [], allow_code_execution)).load()
        if workers is None:
            from prunescope.assets.runs import estimate

            found = estimate.estimate(chosen, store, settings.cache_folder(), bars, replace=replace)
            sections, rows = estimate.SECTIONS, estimate.table(found)
            told = [line for each in found for line in estimate.verdict(each)]
        else:
            from prunescope.assets.runs import scaling

            scale = scaling.scale(chosen, store, settings.cache_folder(), bars, workers)
            sections, rows, told = scaling.SECTIONS, scaling.table(scale, chosen), [(scaling.verdict(scale), False)]
    if output is None and chosen_format(format_, output) == "table":
        for section in sections:
            part = rows.filter(section=section).drop("section")
            filled = [column.name for column in part if column.null_count() < len(part)]
            if filled:
                emit(part.select(filled).to_arrow())
    else:
        emit(rows.to_arrow(), format_, output)
    for message, is_warning in told:
        log(message, "yellow" if is_warning else None)


def request_of(study: str, models: list[str], recipes: list[str], allow_code_execution: bool = False) -> "StudyRequest":
    """The request with absolute paths: the UI may execute it again from another folder."""
    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.pipelines.studies import load_study

    known = {model.name for model in load_study(study).models}
    named = tuple(model if model in known else absolute_model(model) for model in models)
    return StudyRequest(absolute_study(study), named, tuple(recipes), allow_code_execution)


def end(context: typer.Context, failures: "Sequence[Failure]") -> None:
    """Says what failed, and ends the command with the exit code for it."""
    if failures:
        log(f"{len(failures)} failed:", "red")
        for failure in failures:
            log(f"  {failure.name}: {failure.message}", "red")
            if context.ensure_object(Globals).debug:
                log(failure.traceback)
        only_input = all(failure.is_input for failure in failures)
        raise typer.Exit(WRONG_INPUT if only_input else FAILED)


def _computed(
    request: "StudyRequest", place: "Place", cluster: RayClusterConfig | None, *, replace: bool
) -> "Sequence[Failure]":
    """Runs one study and shows its findings; gives what failed."""
    from prunescope.assets.runs.study_run import run_study

    _tell_of_code(request)
    with RichProgress() as bars:
        outcome = run_study(request, place, settings.cache_folder(), bars, replace=replace, cluster=cluster)
    if not outcome.computed and not outcome.failures:
        log("everything is current; nothing was computed")
    _show(outcome, place)
    return outcome.failures


def _watched(
    store: "Store", models: list[str] | None, recipes: list[str] | None, allow_code_execution: bool
) -> "list[StudyRequest]":
    """The requests of all watched studies."""
    from prunescope.assets.watching.watch_list import load_watch_state

    if models or recipes:
        raise InputError("--model and --recipe stand in place of those of a study; name it, such as `run demo`")
    watch = load_watch_state(store)
    for reason in watch.refused.values():
        log(f"not watched: {reason}", "yellow")
    if not watch.studies:
        raise InputError("no study is named and none is watched; name one, such as `prunescope run demo`")
    return [dataclasses.replace(each.request, allow_code_execution=allow_code_execution) for each in watch.studies]


def _with_added(store: "Store", request: "StudyRequest") -> "StudyRequest":
    """The request with the models that a watched study has beside its own; models that were named stand alone."""
    from prunescope.assets.watching.watch_list import load_watch_state, read_list

    if request.models or request.study not in read_list(store).studies:
        return request
    added = (each.request.added for each in load_watch_state(store).studies if each.request.study == request.study)
    return dataclasses.replace(request, added=next(added, ()))


def _tell_of_code(request: "StudyRequest") -> None:
    """Says which answers will not be judged."""
    from prunescope.pipelines.evaluation.tasks.definition import runs_code

    unjudged = [task.name for task in request.load().tasks if runs_code(task)]
    if unjudged and not request.allow_code_execution:
        names = ", ".join(unjudged)
        log(f"{names}: programs do not run without --allow-code-execution; answers are kept, but not judged", "yellow")


def _show(outcome: "RunResult", place: "Place") -> None:
    """Findings to standard output, the report's place to standard error."""
    from prunescope.assets.planning.freshness import report_file
    from prunescope.warehouse.catalogue.database import connected

    models = ", ".join(literal(model.name) for model in outcome.study.models)
    recipes = ", ".join(literal(recipe.name) for recipe in outcome.study.recipes)
    measured = f"""
        SELECT model, recipe, parameters_removed_share AS removed_share, kl_step0_nats,
               kl_teacher_forced_median_nats AS kl_forced_nats, kl_free_running_median_nats AS kl_free_nats,
               top1_agreement, first_flip_step_median AS first_flip_step,
               options_argmax_kept || ' of ' || questions AS options_kept
        FROM variant_summary
        WHERE model IN ({models}) AND recipe IN ({recipes})
        ORDER BY list_position([{models}], model), list_position([{recipes}], recipe)
    """  # noqa: S608 - literals are quoted
    sets = ", ".join(literal(each.name) for each in outcome.study.retrieval)
    found = f"""
        PIVOT (
            SELECT model, recipe, data_set, metric, value FROM retrieval_scores
            WHERE model IN ({models}) AND recipe IN ({recipes}) AND data_set IN ({sets})
        )
        ON metric IN ('ndcg_at_10', 'recall_at_100', 'mrr_at_10', 'embedding_cosine') USING any_value(value)
        ORDER BY list_position([{models}], model), list_position([{recipes}], recipe), data_set
    """  # noqa: S608 - literals are quoted
    queries = [measured] if outcome.study.prompts or outcome.study.texts else []
    with connected(place) as connection:
        answers = [connection.sql(query).to_arrow_table() for query in (*queries, *([found] if sets else []))]
    for rows in answers:
        if rows.num_rows:
            emit(rows.drop_columns(["model"]) if len(outcome.study.models) == 1 else rows)
    report = place / report_file(outcome.study)
    if report.exists():
        log(f"report: {report}")
