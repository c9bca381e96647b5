"""The computation of a unit of work, a model with its variants: from the loaded model to written tables.

`compute` is called in the process of a run and on the machines of a Ray cluster. Below it
is a function for each step: from a partition's context and the session to the tables that it writes.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from prunescope.assets.execution.error_transport import is_error, is_out_of_memory, is_transient
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.execution.stored_statistics import statistics_of, statistics_of_search
from prunescope.assets.execution.task import Event, ModelTask, StepBegun, StepFailed, TableWritten
from prunescope.assets.planning.fingerprints import search_id
from prunescope.assets.planning.steps import MASK_TABLE, SPEED_TABLE, STEPS, TEXT_TABLE
from prunescope.assets.planning.work_plan import unfinished_folder
from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.recipes import shares_passes
from prunescope.warehouse.core.formats import render
from prunescope.warehouse.storage.atomic_write import translate_os_errors

if TYPE_CHECKING:
    import polars as pl

    from prunescope.pipelines.pruning.variant import Variant

    Pruned = Variant | Exception
    Rows = dict[str, pl.DataFrame]

_LOG = logging.getLogger(__name__)

Events = Iterator[Event]
Tables = Iterator[TableWritten]
# From a partition's context to its tables, as they are written.
Work = Callable[[PartitionContext, ModelSession], Tables]
# After an error that may not occur again, such as storage that does not answer.
_RETRIES, _RETRY_SECONDS = 2, 2.0


def compute(task: ModelTask, session: ModelSession) -> Events:
    """Compute the wanted steps of a model's partitions; yield each table as it is written.

    The model's own steps come first, then all pruning, whose recipes share passes over the calibration tokens, then all
    traces, whose variants share the dense model's work, then the other steps variant by variant, then a search. An
    error ends the steps of its partition, those of all if it is the model's or the study's, and is yielded. What runs
    out of memory is repeated once with half of the batch; what failed outside of this process is repeated twice.
    """
    try:
        run = _Run(task, session, PartitionContext.of(task))
        with session.halved() if task.halves_batches else nullcontext():
            yield from run.events()
    except BaseException as error:  # of the study or the model as a whole
        if not is_error(error):
            raise
        yield from task.failed(error)


@dataclass
class _Run:
    """The computation of one task.

    Attributes:
        context: of the model's own partition.
        failed: recipes whose partitions an error has ended; None for the model.
    """

    task: ModelTask
    session: ModelSession
    context: PartitionContext
    failed: set[str | None] = field(default_factory=set)

    def events(self) -> Events:
        own = [step for recipe, step in self.task.steps if recipe is None]
        variants = [(recipe, step) for recipe, step in self.task.steps if recipe is not None]
        for step in own:
            if step != "search" and None not in self.failed:
                yield from self._guarded(None, step, partial(_measured, step))
        if None in self.failed:
            return
        yield from self._pruned([recipe for recipe, step in variants if step == "variants"])
        yield from self._traced([recipe for recipe, step in variants if step == "traces" and recipe not in self.failed])
        for recipe, step in variants:
            if step not in _TOGETHER and recipe not in self.failed:
                yield from self._guarded(recipe, step, partial(_measured, step))
        if "search" in own:
            yield from self._guarded(None, "search", _search)

    def _pruned(self, recipes: list[str]) -> Events:
        together = defaultdict[str, list[str]](list)
        for name in recipes:
            recipe = self.context.study.recipe(name)
            together[f"reads {recipe.calibration}" if shares_passes(recipe) else f"alone {name}"].append(name)
        for names in together.values():
            yield from self._together("variants", names)
        folder = unfinished_folder(self.context.store, self.context.model)
        with suppress(OSError):  # a failed variant's layers are kept for its next attempt, or there is no folder
            folder.rmdir()

    def _traced(self, recipes: list[str]) -> Events:
        left = list(recipes)
        while left:
            yield StepBegun(left[0], "traces")
            try:
                size = self.session.traces_at_once(self.context.dense, self.context.study)
            except BaseException as error:  # raised again for each variant, which then fails by it
                if not is_error(error):
                    raise
                size = 1
            yield from self._together("traces", left[:size])
            del left[:size]

    def _together(self, step: str, recipes: Sequence[str]) -> Events:
        """Compute a step of several variants in the same passes; if that fails, one variant after the other."""
        results, reason, (compute_all, write) = dict[str, object](), "", _TOGETHER[step]
        if len(recipes) > 1:
            yield StepBegun(recipes[0], step)
            started = time.perf_counter()
            try:
                results = compute_all(self.context, self.session, recipes)
            except BaseException as error:  # one after the other shows whose error it is, and needs less memory
                if not is_error(error):
                    raise
                reason = f"{type(error).__name__}: {error}"
            seconds = (time.perf_counter() - started) / len(recipes)
        for recipe in recipes:
            if recipe in results:
                work: Work = partial(write, result=results.pop(recipe), seconds=seconds)
            else:
                work = partial(_alone, step)
            yield from self._guarded(recipe, step, work)
        if reason and self.failed.isdisjoint(recipes):
            _LOG.warning("%s: %s failed in one pass and not one by one (%s)", step, ", ".join(recipes), reason)

    def _guarded(self, recipe: str | None, step: str, work: Work) -> Events:
        """Do the work of a step; repeat it if another attempt may succeed, and yield the error that ends it."""
        yield StepBegun(recipe, step)
        context = replace(self.context, recipe=None if recipe is None else self.context.study.recipe(recipe))
        written, halves, retries, note = set[str](), False, _RETRIES, {}
        if self.task.halves_batches:
            note = {"memory": "its process was lost at first; half the batch size was enough"}
        failed: StepFailed | None = None
        while True:
            broken = list[str]()
            try:
                with self.session.halved() if halves else nullcontext():
                    for table in work(context, self.session):
                        if table.table not in written:
                            written.add(table.table)
                            yield replace(table, details=table.details | note)
                        broken += _broken_rules(table)
                _require_whole(broken)
                break
            except BaseException as error:
                if not is_error(error):
                    raise
                # Only its text is kept: its traceback would keep the memory in use.
                failed = StepFailed.of(recipe, step, error)
                is_memory, is_passing = is_out_of_memory(error), is_transient(error)
                reason = (str(error).splitlines() or [type(error).__name__])[0]
            if is_memory and not (halves or self.task.halves_batches):
                halves, note = True, {"memory": "too small at first; half the batch size was enough"}
            elif is_passing and retries:
                retries -= 1
                time.sleep(_RETRY_SECONDS)
            else:
                if is_memory:
                    advice = f"with half of the batch as well; `prunescope plan` says how much is needed ({reason})"
                    failed = StepFailed.of(recipe, step, ComputationError(f"out of memory, {advice}"))
                self.failed.add(recipe)
                yield failed
                break


def _broken_rules(table: TableWritten) -> list[str]:
    """Describe the rules of a written table that its rows break."""
    rules = [f"{item.check} ({item.rows_failing} rows, first {item.example})" for item in table.violations]
    return [*rules, *(f"rows without their row in {other}" for other in table.orphaned)]


def _require_whole(broken: Sequence[str]) -> None:
    if broken:
        raise ComputationError(f"checks failed: {'; '.join(broken)}; run the study again, then report it")


def _prune_all(context: PartitionContext, session: ModelSession, recipes: Sequence[str]) -> "dict[str, Pruned]":
    """Prune with recipes whose calibration is the same; a recipe's error is its result."""
    from prunescope.pipelines.pruning.apply import prune_all
    from prunescope.pipelines.pruning.calibration.statistics import calibrate

    chosen = [context.study.recipe(name) for name in recipes]
    decoder, study = session.decoder(context.dense, context.study), context.study.calibrated_for(chosen[0])
    tokens = session.tokens(context.dense, study) if any(recipe.is_calibrated for recipe in chosen) else None
    statistics = statistics_of(
        context, chosen, tokens, lambda: calibrate(decoder, study.calibration, context.model, session.progress)
    )
    return prune_all(decoder, chosen, statistics, session.progress)


def _write_variant(context: PartitionContext, session: ModelSession, result: "Pruned", seconds: float) -> Tables:
    """Write the masks to a file of their own, and their counts."""
    from prunescope.pipelines.pruning.calibration.statistics import tokens_hash
    from prunescope.pipelines.pruning.layer_checkpoints import discard
    from prunescope.pipelines.pruning.variant_row import variant_row

    if isinstance(result, Exception):
        raise result
    recipe, decoder = context.variant_recipe, session.decoder(context.dense, context.study)
    file, weight_hash = context.file_of(recipe.name), context.dense.identity.weight_hash
    path = context.store.write_bytes(file, lambda temporary: result.save(temporary, recipe, weight_hash))
    study = context.study.calibrated_for(recipe)
    calibration = tokens_hash(session.tokens(context.dense, study)) if recipe.is_calibrated else None
    rows = variant_row(decoder, context.model, recipe, result, calibration, path.stat().st_size, seconds)
    yield context.write("variants", rows, seconds, str(decoder.device), {"masks": f"`{path}`"})
    discard(unfinished_folder(context.store, context.model) / recipe.name)
    for older in context.store.files(str(PurePosixPath(file).parent)):
        if older.name != path.name:
            older.unlink()


def _trace_all(context: PartitionContext, session: ModelSession, recipes: Sequence[str]) -> "dict[str, Rows]":
    traces = session.results("traces", context.dense, context.study)
    found: dict[str, Rows] = traces.trace_all({name: context.variant(name) for name in recipes}, session.progress)
    return found


def _write_all(
    step: str,
    context: PartitionContext,
    session: ModelSession,
    result: "Rows",
    seconds: float,
    shared: Any = None,  # noqa: ANN401
) -> Tables:
    device = str(session.decoder(context.dense, context.study).device)
    for table in STEPS[step].tables:
        yield context.write(table, result[table], seconds, device, _details(table, result[table], shared))


def _details(table: str, rows: "pl.DataFrame", shared: Any) -> dict[str, float | str]:  # noqa: ANN401
    """Return what the page of a partition in the UI shows in addition to some of its rows; `shared` as in `_rows`."""
    match table:
        case "task_scores":
            scores = rows.select("task", "metric", "value", "standard_error", "n")
            return {"scores": str(render(scores.to_arrow(), "markdown"))}
        case "task_samples":
            from prunescope.pipelines.evaluation.tasks.score import flips

            return {"flips against dense": str(render(flips(rows, shared.dense).to_arrow(), "markdown"))}
        case "retrieval_scores":
            return {f"{row['data_set']} {row['metric']}": row["value"] for row in rows.to_dicts()}
    return {}


# By step, what computes several variants in the same passes, and what turns the result of one into its tables.
_TOGETHER: dict[str, tuple[Callable[..., dict[str, Any]], Callable[..., Tables]]] = {
    "variants": (_prune_all, _write_variant),
    "traces": (_trace_all, partial(_write_all, "traces")),
}


def _alone(step: str, context: PartitionContext, session: ModelSession) -> Tables:
    """Compute one variant in passes of its own."""
    (compute_all, write), recipe, started = _TOGETHER[step], context.variant_recipe.name, time.perf_counter()
    result = compute_all(context, session, [recipe])[recipe]
    yield from write(context, session, result, time.perf_counter() - started)


def _measured(step: str, context: PartitionContext, session: ModelSession) -> Tables:
    """Compute and write a step's tables; the seconds leave out what all variants share, which is loaded before."""
    shared = session.results(step, context.dense, context.study)
    started = time.perf_counter()
    rows = _rows(step, context, session, shared)
    yield from _write_all(step, context, session, rows, time.perf_counter() - started, shared)


def _rows(step: str, context: PartitionContext, session: ModelSession, shared: Any) -> "Rows":  # noqa: ANN401
    """Compute the rows of a step's tables; `shared` are the dense model's, if the step compares a variant with any."""
    decoder, progress = session.decoder(context.dense, context.study), session.progress
    if step == "models":
        from prunescope.pipelines.models.describe import model_row

        return {"models": model_row(decoder, context.model, context.dense.spec.source, context.dense.identity)}
    if step == "calibration":
        from prunescope.pipelines.pruning.calibration.statistics import calibrate

        return vars(calibrate(decoder, context.study.calibration, context.model, progress))
    rows: Rows = {}
    recipe = context.variant_recipe.name
    variant = context.variant(recipe)
    match step:
        case "mask_samples":
            from prunescope.pipelines.pruning.sampled_masks import mask_samples

            rows = {MASK_TABLE: mask_samples(decoder, context.model, recipe, variant)}
        case "sampling":
            rows = shared.trace(recipe, variant, progress)
        case "texts":
            rows = {TEXT_TABLE: shared.trace(recipe, variant, progress)}
        case "tasks":
            scored = shared.score(recipe, variant, context.of_dense("task_samples"), progress)
            rows = {"task_scores": scored.scores, "task_samples": scored.samples}
        case "retrieval":
            rows = shared.measure(recipe, variant, progress)
        case "speed":
            from prunescope.pipelines.evaluation.speed import speed_rows

            timed = speed_rows(decoder, context.model, recipe, variant, context.study.speed, progress=progress)
            rows = {SPEED_TABLE: timed}
    return rows


def _search(context: PartitionContext, session: ModelSession) -> Tables:
    from prunescope.pipelines.evaluation.search.run import SearchKey, end_search, run_search

    started, identity = time.perf_counter(), context.dense.identity
    key = SearchKey(context.model, search_id(context.study, identity), identity.weight_hash)
    decoder, tokens = session.decoder(context.dense, context.study), session.tokens(context.dense, context.study)
    statistics = statistics_of_search(context, tokens)
    earlier = {table: context.written(table) for table in STEPS["search"].tables}
    folder = unfinished_folder(context.store, context.model) / f"search-{key.search}"
    with translate_os_errors(folder):
        tables, left = run_search(decoder, context.study, key, statistics, folder, earlier, session.progress)
    yield from _write_all("search", context, session, tables, time.perf_counter() - started)
    end_search(folder, left)
