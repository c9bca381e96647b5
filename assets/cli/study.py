"""`prunescope run` and `prunescope plan`: compute a study, or estimate its cost."""

import dataclasses
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.options import Globals, absolute_model, absolute_study, inline_recipe, root
from prunescope.assets.cli.output import FAILED, WRONG_INPUT, Sink, emit, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.execution.error_transport import error_line
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import CatalogueError, DamagedFileError, WarehouseError
from prunescope.warehouse.core.quoting import literal

if TYPE_CHECKING:
    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.assets.runs.outcome import Failure, RunResult
    from prunescope.warehouse.storage.location import Place
    from prunescope.warehouse.storage.partition_store import Store


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
        help="Replaces the study's models: a folder with safetensors, a .gguf file, a hub id or `embedded:NAME`; "
        "`NAME=MODEL` names it. Repeatable.",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code-execution",
        help="Run the programs that variants write for tasks such as humaneval in a sandbox; otherwise these answers "
        "are not scored.",
    ),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        autocompletion=completion.recipes,
        help="Replaces the study's recipes: a name that `prunescope recipes` lists, several joined by +, "
        "`{name: mine, method: wanda, sparsity: 0.6}`, or the path of a .yaml file with such a mapping. Repeatable.",
    ),
]

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Compute on a Ray cluster: `auto` on one of its machines, HOST:PORT of its head, ray://HOST:10001 from "
        "outside, or `local` to start one here. All machines must see the warehouse, the models and the study's files.",
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option("--gpus-per-task", min=0, help="With --ray: GPUs per worker (default: one, if there is any)."),
]
Cpus = Annotated[
    int | None, typer.Option("--cpus-per-task", min=1, help="With --ray: CPUs per worker (default: all of a machine).")
]
Gpu = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="GB",
        help="Plan for one GPU with this much memory, which this machine need not have: memory, work, disk, no time.",
    ),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Recompute results that another study computed from other inputs.")
]


def run(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(
            help="Name of a shipped study (`demo`), or the path of a YAML file (default: all watched studies).",
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
) -> None:
    """Compute a study's missing and outdated results, and print a summary.

    Current results are not computed again. After an interruption, the same command continues where the run stopped.

    For example:

    - `prunescope run demo`
    - `prunescope run demo --model ./my-model --recipe wanda-50 --recipe wanda-2of4`
    - `prunescope run my-study.yaml --warehouse /data/prunescope`
    - `prunescope run my-study.yaml --ray auto --warehouse s3://bucket/prunescope`
    """
    from prunescope.assets.runs.outcome import Failure
    from prunescope.warehouse.storage.partition_store import Store

    if ray is None and (gpus_per_task, cpus_per_task) != (None, None):
        raise InputError("--gpus-per-task and --cpus-per-task apply to a Ray cluster; name it with --ray")
    cluster = None if ray is None else RayClusterConfig(ray, gpus_per_task, cpus_per_task)
    location = root(context)
    if study is None:
        requests = _watched_requests(Store(location), model, recipe, allow_code_execution)
    else:
        requests = [
            _with_added_models(Store(location), request_of(study, model or [], recipe or [], allow_code_execution))
        ]
    failures: list[Failure] = []
    for request in requests:
        try:
            failures += _run_study(request, location, cluster, replace=replace)
        except Exception as error:  # one broken study does not stop the others
            if study is not None:
                raise
            is_input = isinstance(error, InputError | WarehouseError)
            is_input = is_input and not isinstance(error, DamagedFileError | CatalogueError)
            failures.append(Failure(request.study, error_line(error), is_input, traceback.format_exc()))
    end(context, failures)


def plan(
    context: typer.Context,
    sink: Sink,
    study: StudyName,
    model: Models = None,
    recipe: Recipes = None,
    allow_code_execution: AllowCode = False,
    replace: Replace = False,
    gpu: Gpu = None,
    details: Annotated[
        bool, typer.Option("--details", help="Show every partition, item of work and item of memory, too.")
    ] = False,
) -> None:
    """Estimate what a run of the study would compute, reuse and cost on this machine; compute nothing.

    Says what a run would compute, its time, disk and memory, and which losses the verdicts will be able to tell apart.
    The time is that of the model's earlier variants with these settings, else it follows from sizes at this machine's
    speed, which is measured in a moment. --details and the other formats have memory, floating-point operations, rows
    and bytes by item. Reads a model's config, tokenizer and file header, but not its weights. A time by sizes leaves
    out the scores of pruning recipes and Python overhead: add about half on a CPU with small models, little with large
    ones. No time has loading and hashing weights, writing, questions and report.

    For example:

    - `prunescope plan demo`
    - `prunescope plan my-study.yaml --model ./my-7b-model --format json`
    - `prunescope plan paper-qwen7b --gpu 80`
    """
    location, gpu_bytes = root(context), _gpu_bytes(gpu)
    with RichProgress() as bars:
        from prunescope.assets.runs import estimate
        from prunescope.assets.runs.refused_models import refused
        from prunescope.warehouse.storage.partition_store import Store

        store, cache = Store(location), settings.cache_folder()
        chosen = _with_added_models(store, request_of(study, model or [], recipe or [], allow_code_execution)).load()
        estimates = list[estimate.ModelEstimate]()
        failures = refused(
            [spec.name for spec in chosen.models],
            lambda name: estimates.append(
                estimate.estimate_model(chosen, store, cache, bars, name, replace=replace, gpu=gpu_bytes)
            ),
            bars,
        )
        rows = estimate.table(estimates)
    for model_estimate in estimates:
        for message, is_warning in model_estimate.lines:
            log(message, "yellow" if is_warning else None)
    if sink.path is not None or sink.format != "table":
        emit(rows.to_arrow(), sink)
    elif details:
        for section in estimate.SECTIONS:
            section_rows = rows.filter(section=section).drop("section")
            filled = [column.name for column in section_rows if column.null_count() < len(section_rows)]
            if filled:
                emit(section_rows.select(filled).to_arrow())
    else:
        log("--details shows every partition, item of work and item of memory", "dim")
    end(context, list(failures.values()))


def _gpu_bytes(gigabytes: str | None) -> int | None:
    """Return the memory that --gpu names; refuse all but numbers from 1 to 10,000."""
    if gigabytes is None:
        return None
    with suppress(ValueError):
        if 1 <= float(gigabytes) <= 10_000:
            return int(float(gigabytes) * 1e9)
    raise InputError(f"--gpu {gigabytes}: give the GPU's memory in GB, for example 80")


def request_of(study: str, models: list[str], recipes: list[str], allow_code_execution: bool = False) -> "StudyRequest":
    """Return the request with absolute paths, because the UI may re-execute it from another folder."""
    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.pipelines.studies import load_study

    known = {model.name for model in load_study(study).models}
    sources = tuple(model if model in known else absolute_model(model) for model in models)
    return StudyRequest(absolute_study(study), sources, tuple(map(inline_recipe, recipes)), allow_code_execution)


def end(context: typer.Context, failures: "Sequence[Failure]") -> None:
    """Log the failures, if any, and exit with their code."""
    if failures:
        log(f"{len(failures)} failed:", "red")
        for failure in failures:
            log(f"  {failure.name}: {failure.message}", "red")
            if context.ensure_object(Globals).debug:
                log(failure.traceback)
        only_input = all(failure.is_input for failure in failures)
        raise typer.Exit(WRONG_INPUT if only_input else FAILED)


def _run_study(
    request: "StudyRequest", location: "Place", cluster: RayClusterConfig | None, *, replace: bool
) -> "Sequence[Failure]":
    """Run one study, print its summary, and return its failures."""
    from prunescope.assets.runs.run_study import run_study
    from prunescope.pipelines.evaluation.tasks.definition import runs_code

    unscored = [task.name for task in request.load().tasks if runs_code(task)]
    if unscored and not request.allow_code_execution:
        log(
            f"{', '.join(unscored)}: programs run only with --allow-code-execution; answers are kept, but not scored",
            "yellow",
        )
    with RichProgress() as bars:
        outcome = run_study(request, location, settings.cache_folder(), bars, replace=replace, cluster=cluster)
    if not outcome.computed and not outcome.failures:
        log("everything is current; nothing was computed")
    _print_summary(outcome, location)
    return outcome.failures


def _watched_requests(
    store: "Store", models: list[str] | None, recipes: list[str] | None, allow_code_execution: bool
) -> "list[StudyRequest]":
    from prunescope.assets.watching.watch_list import load_watch_state

    if models or recipes:
        raise InputError("--model and --recipe replace those of one study; name the study, such as `run demo`")
    watch = load_watch_state(store)
    for reason in watch.refused.values():
        log(f"not watched: {reason}", "yellow")
    if not watch.studies:
        raise InputError("no study is given and none is watched; name one, such as `prunescope run demo`")
    return [dataclasses.replace(study.request, allow_code_execution=allow_code_execution) for study in watch.studies]


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

    models = ", ".join(literal(model.name) for model in outcome.study.models)
    recipes = ", ".join(literal(recipe.name) for recipe in outcome.study.recipes)
    summary = f"""
        SELECT model, recipe, parameters_removed_share AS removed_share,
               kl_teacher_forced_median_nats AS kl_forced_nats, kl_own_text_median_nats AS kl_own_nats,
               top1_agreement, first_flip_step_median AS first_flip_step,
               prompts_collapsed || ' of ' || prompts AS looping,
               prompts_correct || ' of ' || prompts_graded AS right_answers, verdict
        FROM variant_summary LEFT JOIN (SELECT model, recipe, verdict FROM variant_verdict) USING (model, recipe)
        WHERE model IN ({models}) AND recipe IN ({recipes})
        ORDER BY list_position([{models}], model), list_position([{recipes}], recipe)
    """  # noqa: S608 - literals are quoted
    sets = ", ".join(literal(data_set.name) for data_set in outcome.study.retrieval)
    retrieval = f"""
        PIVOT (
            SELECT model, recipe, data_set, metric, value FROM retrieval_scores
            WHERE model IN ({models}) AND recipe IN ({recipes}) AND data_set IN ({sets})
        )
        ON metric IN ('ndcg_at_10', 'recall_at_100', 'mrr_at_10', 'embedding_cosine') USING any_value(value)
        ORDER BY list_position([{models}], model), list_position([{recipes}], recipe), data_set
    """  # noqa: S608 - literals are quoted
    queries = [summary] if outcome.study.prompts or outcome.study.texts else []
    queries += [retrieval] if sets else []
    with connected(location) as connection:
        tables = [connection.sql(query).to_arrow_table() for query in queries]
    for rows in tables:
        if rows.num_rows:
            emit(rows.drop_columns(["model"]) if len(outcome.study.models) == 1 else rows)
    report = location / report_file(outcome.study)
    if report.exists():
        log(f"report: {report}")
