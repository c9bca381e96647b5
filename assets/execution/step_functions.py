"""What each step computes and writes: one function a step, from the partition and the loaded models to reports.

No Dagster: engines call `compute` in this process, in a worker beside it or on other machines.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from prunescope.assets.execution.error_transport import is_out_of_memory
from prunescope.assets.execution.model_cache import MOST_TOGETHER, ModelCache
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.execution.stored_statistics import statistics_of
from prunescope.assets.execution.task import STEPS, ComputeTask, TaskResult
from prunescope.assets.planning.fingerprints import MASK_TABLE, SPEED_TABLE, TEXT_TABLE, VARIANT_TABLES
from prunescope.assets.planning.work_plan import unfinished_folder
from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.recipes import Recipe
from prunescope.warehouse.core.formats import render

if TYPE_CHECKING:
    from prunescope.pipelines.pruning.pruning_inputs import Statistics

Reports = Iterator[TaskResult]


def compute(part: ComputeTask, loaded: ModelCache) -> Reports:
    """Computes one part and writes its tables; gives a report as each is written.

    What does not fit into the memory is tried once more with half of what usually passes through the model at once.

    Raises:
        InputError: the study, the model or the recipe is wrong.
        ComputationError: the arithmetic failed, or the memory is too small.
        WarehouseError: the rows do not fit their table, or the disk refused.
    """
    told = set[str]()
    try:
        with loaded.halved() if part.is_halved else nullcontext():
            for report in _computed(part, loaded):
                told.add(report.table)
                yield (
                    _marked(report, "its worker was lost at first; half at once was enough")
                    if part.is_halved
                    else report
                )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).splitlines()[0]
        if part.is_halved:
            raise ComputationError(_too_small(part, first)) from error
    else:
        return
    # Outside of the handler, whose traceback would keep what fills the memory.
    try:
        with loaded.halved():
            for report in _computed(part, loaded):
                if report.table not in told:
                    yield _marked(report, "too small at first; half at once was enough")
    except Exception as error:
        if is_out_of_memory(error):
            raise ComputationError(_too_small(part, first)) from error
        raise


def _marked(report: TaskResult, memory: str) -> TaskResult:
    """Tells that half was computed at once: the numbers may differ in the last digits. Nothing where none were."""
    return report if report.is_left_alone else replace(report, shown=report.shown | {"memory": memory})


def _too_small(part: ComputeTask, told: str) -> str:
    """What was tried, in words."""
    usual, what = _at_once(part.step)
    tried = f"with {usual} {what} at once and with {usual // 2}" if usual else "twice"
    return f"out of memory {tried}; `prunescope plan` says how much is needed ({told})"


def _at_once(step: str) -> tuple[int, str]:
    """How much of what passes through the model at once in a step; imports nothing that the step has not."""
    if step == "traces":
        return MOST_TOGETHER, "variants"
    if step in {"calibration", "variants"}:
        from prunescope.pipelines.pruning.calibration.layerwise_forward import BATCH

        return BATCH, "sequences"
    if step == "texts":
        from prunescope.pipelines.evaluation.traces.text_traces import PASS_TOKENS

        return PASS_TOKENS, "tokens"
    if step == "tasks":
        from prunescope.pipelines.evaluation.tasks.lm_eval_model import PASS_TOKENS

        return PASS_TOKENS, "tokens"
    if step == "retrieval":
        from prunescope.pipelines.evaluation.retrieval.embedding import BATCH_TOKENS

        return BATCH_TOKENS, "tokens"
    return 0, ""


def _computed(part: ComputeTask, loaded: ModelCache) -> Reports:
    subject, tables = PartitionContext.of(part), STEPS[part.step]
    if set(tables) <= set(VARIANT_TABLES) and not subject.asks(tables):
        yield from (TaskResult(table, is_left_alone=True) for table in tables)
    else:
        yield from _STEPS[part.step](part, subject, loaded)


def _models(_: ComputeTask, subject: PartitionContext, loaded: ModelCache) -> Reports:
    """Loads a dense model, proves its structure, writes its sizes and hashes."""
    from prunescope.pipelines.models.describe import model_row

    started = time.perf_counter()
    decoder = loaded.decoder(subject.dense, subject.study)
    rows = model_row(decoder, subject.model, subject.dense.spec.source, subject.dense.identity)
    yield subject.write("models", rows, time.perf_counter() - started, str(decoder.device))


def _calibration(_: ComputeTask, subject: PartitionContext, loaded: ModelCache) -> Reports:
    """Runs the dense model once over the calibration tokens."""
    from prunescope.pipelines.pruning.calibration.statistics import calibrate

    started = time.perf_counter()
    decoder = loaded.decoder(subject.dense, subject.study)
    seen = calibrate(decoder, subject.study.calibration, subject.model, loaded.progress)
    seconds = time.perf_counter() - started
    yield subject.write("activation_stats", seen.activation_stats, seconds, str(decoder.device))
    yield subject.write("block_influence", seen.block_influence, seconds, str(decoder.device))


def _variants(part: ComputeTask, subject: PartitionContext, loaded: ModelCache) -> Reports:
    """Prunes: what changed goes into a small file that rebuilds the variant, its counts into a row."""
    from prunescope.pipelines.pruning.calibration.statistics import calibrate, tokens_hash
    from prunescope.pipelines.pruning.layer_checkpoints import discard
    from prunescope.pipelines.pruning.variant_row import variant_row

    recipe, identity = subject.variant_recipe, subject.dense.identity
    decoder = loaded.decoder(subject.dense, subject.study)
    study = subject.study.calibrated_for(recipe)
    tokens = loaded.tokens(subject.dense, study) if recipe.is_calibrated else None

    def statistics(recipes: list[Recipe]) -> "Statistics":
        return statistics_of(
            subject, recipes, tokens, lambda: calibrate(decoder, study.calibration, subject.model, loaded.progress)
        )

    variant, seconds = loaded.pruned(subject, part.beside, statistics)
    path = subject.store.write_bytes(
        subject.variant_file, lambda temporary: variant.save(temporary, recipe, identity.weight_hash)
    )
    calibrated_on = None if tokens is None else tokens_hash(tokens)
    rows = variant_row(decoder, subject.model, recipe, variant, calibrated_on, path.stat().st_size, seconds)
    yield subject.write("variants", rows, seconds, str(decoder.device), {"masks": f"`{path}`"})
    discard(unfinished_folder(subject.store, subject.model) / recipe.name)
    for older in subject.store.files(str(PurePosixPath(subject.variant_file).parent)):
        if older.name != path.name:
            older.unlink()


def _mask_samples(_: ComputeTask, subject: PartitionContext, loaded: ModelCache) -> Reports:
    """Looks at the variant's masks where every variant of the model is looked at."""
    from prunescope.pipelines.pruning.sampled_masks import mask_samples

    started, recipe = time.perf_counter(), subject.variant_recipe.name
    decoder = loaded.decoder(subject.dense, subject.study)
    rows = mask_samples(decoder, subject.model, recipe, subject.variant(recipe))
    yield subject.write(MASK_TABLE, rows, time.perf_counter() - started, str(decoder.device))


def _traces(part: ComputeTask, subject: PartitionContext, loaded: ModelCache) -> Reports:
    """Measures the variant against the dense model, layer by layer and token by token."""
    tables, seconds = loaded.traced(subject, part.beside)
    device = str(loaded.decoder(subject.dense, subject.study).device)
    for table in STEPS["traces"]:
        yield subject.write(table, tables[table], seconds, device)


def _texts(_: ComputeTask, subject: PartitionContext, loaded: ModelCache) -> Reports:
    """Measures the variant against the dense model on the study's texts; no text, no row."""
    recipe, decoder = subject.variant_recipe.name, loaded.decoder(subject.dense, subject.study)
    session = loaded.texts(subject.dense, subject.study)
    started = time.perf_counter()
    rows = session.trace(recipe, subject.variant(recipe), loaded.progress)
    yield subject.write(TEXT_TABLE, rows, time.perf_counter() - started, str(decoder.device))


def _tasks(_: ComputeTask, subject: PartitionContext, loaded: ModelCache) -> Reports:
    """Scores the variant on the study's tasks, and lays its answers beside the dense model's."""
    from prunescope.pipelines.evaluation.tasks.score import flips, shares

    decoder, session = loaded.decoder(subject.dense, subject.study), loaded.tasks(subject.dense, subject.study)
    started, recipe = time.perf_counter(), subject.variant_recipe.name
    scored = session.score(recipe, subject.variant(recipe), subject.of_dense("task_samples"), loaded.progress)
    seconds, device = time.perf_counter() - started, str(decoder.device)
    counted = {"scores": str(render(shares(scored.scores).to_arrow(), "markdown"))}
    yield subject.write("task_scores", scored.scores, seconds, device, counted)
    turned = {"flips against dense": str(render(flips(scored.samples, session.dense).to_arrow(), "markdown"))}
    yield subject.write("task_samples", scored.samples, seconds, device, turned)


def _retrieval(_: ComputeTask, subject: PartitionContext, loaded: ModelCache) -> Reports:
    """Embeds the study's queries and documents with the variant, and scores what they find."""
    decoder, session = loaded.decoder(subject.dense, subject.study), loaded.retrieval(subject.dense, subject.study)
    started, recipe = time.perf_counter(), subject.variant_recipe.name
    tables = session.measure(recipe, subject.variant(recipe), loaded.progress)
    seconds = time.perf_counter() - started
    told = {f"{row['data_set']} {row['metric']}": row["value"] for row in tables["retrieval_scores"].to_dicts()}
    for table in STEPS["retrieval"]:
        shown = told if table == "retrieval_scores" else None
        yield subject.write(table, tables[table], seconds, str(decoder.device), shown)


def _speed(_: ComputeTask, subject: PartitionContext, loaded: ModelCache) -> Reports:
    """Times the variant in turn with the dense model."""
    from prunescope.pipelines.evaluation.speed import speed_rows

    started, recipe = time.perf_counter(), subject.variant_recipe.name
    decoder, variant = loaded.decoder(subject.dense, subject.study), subject.variant(subject.variant_recipe.name)
    rows = speed_rows(decoder, subject.model, recipe, variant, subject.study.speed, progress=loaded.progress)
    yield subject.write(SPEED_TABLE, rows, time.perf_counter() - started, str(decoder.device))


_STEPS: dict[str, Callable[[ComputeTask, PartitionContext, ModelCache], Reports]] = {
    "models": _models,
    "calibration": _calibration,
    "variants": _variants,
    "mask_samples": _mask_samples,
    "traces": _traces,
    "texts": _texts,
    "tasks": _tasks,
    "retrieval": _retrieval,
    "speed": _speed,
}
