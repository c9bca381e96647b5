"""The computation of each step: one function per step, from partition context and model cache to written tables.

Engines call `compute` in this process, in the warehouse's worker or on other machines.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from prunescope.assets.execution.error_transport import is_out_of_memory
from prunescope.assets.execution.model_cache import MAX_BATCH, ModelCache
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.execution.stored_statistics import statistics_of, statistics_of_search
from prunescope.assets.execution.task import ComputeTask, TaskResult
from prunescope.assets.planning.fingerprints import search_id
from prunescope.assets.planning.steps import MASK_TABLE, SPEED_TABLE, STEPS, TEXT_TABLE
from prunescope.assets.planning.work_plan import unfinished_folder
from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.recipes import Recipe
from prunescope.warehouse.core.formats import render
from prunescope.warehouse.storage.atomic_write import translate_os_errors

if TYPE_CHECKING:
    from prunescope.pipelines.pruning.pruning_inputs import Statistics

Results = Iterator[TaskResult]


def compute(task: ComputeTask, cache: ModelCache) -> Results:
    """Compute one task and write its tables; yield a result as each table is written.

    A task that runs out of memory is repeated once with batches of half the size.

    Raises:
        InputError: the study, the model or the recipe is wrong.
        ComputationError: the arithmetic failed, or the memory is too small.
        WarehouseError: the rows do not fit their table, or the disk refused.
    """
    written = set[str]()
    try:
        with cache.halved() if task.halve_batch else nullcontext():
            for result in _results(task, cache):
                written.add(result.table)
                yield (
                    _with_note(result, "its worker was lost at first; half the batch size was enough")
                    if task.halve_batch
                    else result
                )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if task.halve_batch:
            raise ComputationError(_out_of_memory(task, first)) from error
    else:
        return
    # Outside of the handler, whose traceback would keep the memory in use.
    try:
        with cache.halved():
            for result in _results(task, cache):
                if result.table not in written:
                    yield _with_note(result, "too small at first; half the batch size was enough")
    except Exception as error:
        if is_out_of_memory(error):
            raise ComputationError(_out_of_memory(task, first)) from error
        raise


def _with_note(result: TaskResult, memory: str) -> TaskResult:
    """Note the halved batches in a result: its numbers may differ in the last digits."""
    return result if result.is_skipped else replace(result, details=result.details | {"memory": memory})


def _out_of_memory(task: ComputeTask, reason: str) -> str:
    usual, unit = _batch_size(task.step)
    tried = f"with {usual} {unit} at once and with {usual // 2}" if usual else "twice"
    return f"out of memory {tried}; `prunescope plan` says how much is needed ({reason})"


# By step, the constant of `prunescope.pipelines` that is its usual batch size, and the unit.
_BATCH_SIZES = {
    "calibration": ("pruning.calibration.layerwise_forward.BATCH", "sequences"),
    "variants": ("pruning.calibration.layerwise_forward.BATCH", "sequences"),
    "sampling": ("evaluation.traces.decoding.BATCH_TEXTS", "texts"),
    "texts": ("evaluation.traces.text_traces.PASS_TOKENS", "tokens"),
    "tasks": ("evaluation.tasks.lm_eval_model.PASS_TOKENS", "tokens"),
    "retrieval": ("evaluation.retrieval.embedding.BATCH_TOKENS", "tokens"),
}


def _batch_size(step: str) -> tuple[int, str]:
    """Return the usual batch size of a step and its unit; import nothing that the step has not imported."""
    if step == "traces":
        return MAX_BATCH, "variants"
    if step not in _BATCH_SIZES:
        return 0, ""
    constant, unit = _BATCH_SIZES[step]
    module, _, name = constant.rpartition(".")
    return int(getattr(import_module(f"prunescope.pipelines.{module}"), name)), unit


def _results(task: ComputeTask, cache: ModelCache) -> Results:
    context, step = PartitionContext.of(task), STEPS[task.step]
    if not context.requires(step.tables):
        yield from (TaskResult(table, is_skipped=True) for table in step.tables)
    else:
        if cache.begins is not None:
            cache.begins(task.partition, task.step)
        yield from _FUNCTIONS[task.step](task, context, cache)


def _models(_: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    from prunescope.pipelines.models.describe import model_row

    started = time.perf_counter()
    decoder = cache.decoder(context.dense, context.study)
    rows = model_row(decoder, context.model, context.dense.spec.source, context.dense.identity)
    yield context.write("models", rows, time.perf_counter() - started, str(decoder.device))


def _calibration(_: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    from prunescope.pipelines.pruning.calibration.statistics import calibrate

    started = time.perf_counter()
    decoder = cache.decoder(context.dense, context.study)
    result = calibrate(decoder, context.study.calibration, context.model, cache.progress)
    seconds = time.perf_counter() - started
    for table in STEPS["calibration"].tables:
        yield context.write(table, getattr(result, table), seconds, str(decoder.device))


def _variants(task: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    from prunescope.pipelines.pruning.calibration.statistics import calibrate, tokens_hash
    from prunescope.pipelines.pruning.layer_checkpoints import discard
    from prunescope.pipelines.pruning.variant_row import variant_row

    recipe, identity = context.variant_recipe, context.dense.identity
    decoder = cache.decoder(context.dense, context.study)
    study = context.study.calibrated_for(recipe)
    tokens = cache.tokens(context.dense, study) if recipe.is_calibrated else None

    def statistics(recipes: list[Recipe]) -> "Statistics":
        return statistics_of(
            context, recipes, tokens, lambda: calibrate(decoder, study.calibration, context.model, cache.progress)
        )

    variant, seconds = cache.pruned(context, task.batch_with, statistics)
    path = context.store.write_bytes(
        context.variant_file, lambda temporary: variant.save(temporary, recipe, identity.weight_hash)
    )
    calibration = None if tokens is None else tokens_hash(tokens)
    rows = variant_row(decoder, context.model, recipe, variant, calibration, path.stat().st_size, seconds)
    yield context.write("variants", rows, seconds, str(decoder.device), {"masks": f"`{path}`"})
    discard(unfinished_folder(context.store, context.model) / recipe.name)
    for older in context.store.files(str(PurePosixPath(context.variant_file).parent)):
        if older.name != path.name:
            older.unlink()


def _mask_samples(_: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    from prunescope.pipelines.pruning.sampled_masks import mask_samples

    started, recipe = time.perf_counter(), context.variant_recipe.name
    decoder = cache.decoder(context.dense, context.study)
    rows = mask_samples(decoder, context.model, recipe, context.variant(recipe))
    yield context.write(MASK_TABLE, rows, time.perf_counter() - started, str(decoder.device))


def _traces(task: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    tables, seconds = cache.traced(context, task.batch_with)
    device = str(cache.decoder(context.dense, context.study).device)
    for table in STEPS["traces"].tables:
        yield context.write(table, tables[table], seconds, device)


def _sampling(_: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    recipe, decoder = context.variant_recipe.name, cache.decoder(context.dense, context.study)
    session = cache.sampling(context.dense, context.study)
    started = time.perf_counter()
    tables = session.trace(recipe, context.variant(recipe), cache.progress)
    seconds = time.perf_counter() - started
    for table in STEPS["sampling"].tables:
        yield context.write(table, tables[table], seconds, str(decoder.device))


def _texts(_: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    recipe, decoder = context.variant_recipe.name, cache.decoder(context.dense, context.study)
    session = cache.texts(context.dense, context.study)
    started = time.perf_counter()
    rows = session.trace(recipe, context.variant(recipe), cache.progress)
    yield context.write(TEXT_TABLE, rows, time.perf_counter() - started, str(decoder.device))


def _tasks(_: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    from prunescope.pipelines.evaluation.tasks.score import flips

    decoder, session = cache.decoder(context.dense, context.study), cache.tasks(context.dense, context.study)
    started, recipe = time.perf_counter(), context.variant_recipe.name
    scored = session.score(recipe, context.variant(recipe), context.of_dense("task_samples"), cache.progress)
    seconds, device = time.perf_counter() - started, str(decoder.device)
    shown = scored.scores.select("task", "metric", "value", "standard_error", "n")
    scores = {"scores": str(render(shown.to_arrow(), "markdown"))}
    yield context.write("task_scores", scored.scores, seconds, device, scores)
    flipped = {"flips against dense": str(render(flips(scored.samples, session.dense).to_arrow(), "markdown"))}
    yield context.write("task_samples", scored.samples, seconds, device, flipped)


def _retrieval(_: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    decoder, session = cache.decoder(context.dense, context.study), cache.retrieval(context.dense, context.study)
    started, recipe = time.perf_counter(), context.variant_recipe.name
    tables = session.measure(recipe, context.variant(recipe), cache.progress)
    seconds = time.perf_counter() - started
    scores = {f"{row['data_set']} {row['metric']}": row["value"] for row in tables["retrieval_scores"].to_dicts()}
    for table in STEPS["retrieval"].tables:
        details = scores if table == "retrieval_scores" else None
        yield context.write(table, tables[table], seconds, str(decoder.device), details)


def _speed(_: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    from prunescope.pipelines.evaluation.speed import speed_rows

    started, recipe = time.perf_counter(), context.variant_recipe.name
    decoder, variant = cache.decoder(context.dense, context.study), context.variant(recipe)
    rows = speed_rows(decoder, context.model, recipe, variant, context.study.speed, progress=cache.progress)
    yield context.write(SPEED_TABLE, rows, time.perf_counter() - started, str(decoder.device))


def _search(_: ComputeTask, context: PartitionContext, cache: ModelCache) -> Results:
    from prunescope.pipelines.evaluation.search.run import SearchKey, end_search, run_search

    started, identity = time.perf_counter(), context.dense.identity
    key = SearchKey(context.model, search_id(context.study, identity), identity.weight_hash)
    decoder, tokens = cache.decoder(context.dense, context.study), cache.tokens(context.dense, context.study)
    statistics = statistics_of_search(context, tokens)
    earlier = {table: context.written(table) for table in STEPS["search"].tables}
    folder = unfinished_folder(context.store, context.model) / f"search-{key.search}"
    with translate_os_errors(folder):
        tables, left = run_search(decoder, context.study, key, statistics, folder, earlier, cache.progress)
    seconds = time.perf_counter() - started
    for table in STEPS["search"].tables:
        yield context.write(table, tables[table], seconds, str(decoder.device))
    end_search(folder, left)


_FUNCTIONS: dict[str, Callable[[ComputeTask, PartitionContext, ModelCache], Results]] = {
    "models": _models,
    "calibration": _calibration,
    "variants": _variants,
    "mask_samples": _mask_samples,
    "traces": _traces,
    "sampling": _sampling,
    "texts": _texts,
    "tasks": _tasks,
    "retrieval": _retrieval,
    "speed": _speed,
    "search": _search,
}
