"""The computation of a unit of work, a model with its variants: from the loaded model to written tables.

`compute` is called in the process of a run, in its child process and on the machines of a Ray cluster. Below it
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

from prunescope.assets.execution.error_transport import is_out_of_memory, is_transient
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
    Traces = dict[str, pl.DataFrame]

_LOG = logging.getLogger(__name__)

Events = Iterator[Event]
Tables = Iterator[TableWritten]
Work = Callable[[PartitionContext, ModelSession], Tables]
# From the model's context and some recipes to the result of each, which `Write` turns into tables.
ComputeAll = Callable[[PartitionContext, ModelSession, Sequence[str]], dict[str, Any]]
# After an error that may not occur again, such as storage that does not answer.
_RETRIES, _RETRY_SECONDS = 2, 2.0
# Steps that compute several variants in the same passes.
_TOGETHER = ("variants", "traces")


def compute(task: ModelTask, session: ModelSession) -> Events:
    """Compute the wanted partitions of a model; yield each table as it is written.

    The model's own steps come first, then all pruning, whose recipes share passes over the calibration tokens, then all
    traces, whose variants share the dense model's work, then the other steps variant by variant, then a search. An
    error ends the steps of its partition, those of all if it is the model's, and is yielded. What runs out of memory is
    repeated once with half of the batch; what failed outside of this process is repeated twice.

    Raises:
        InputError: the study is not valid, or the model cannot be found or read.
        WarehouseError: the warehouse cannot be opened.
    """
    run = _Run(task, session, PartitionContext.of(task))
    with session.halved() if task.halves_batches else nullcontext():
        yield from run.events()


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
        own = [step for wanted in self.task.wanted if wanted.recipe is None for step in wanted.steps]
        variants = [(wanted.recipe, wanted.steps) for wanted in self.task.wanted if wanted.recipe is not None]
        for step in own:
            if step != "search" and None not in self.failed:
                yield from self._alone(None, step)
        if None in self.failed:
            return
        yield from self._pruned([recipe for recipe, steps in variants if "variants" in steps])
        yield from self._traced(
            [recipe for recipe, steps in variants if "traces" in steps and recipe not in self.failed]
        )
        for recipe, steps in variants:
            for step in steps:
                if step not in _TOGETHER and recipe not in self.failed:
                    yield from self._alone(recipe, step)
        if "search" in own:
            yield from self._alone(None, "search")

    def _pruned(self, recipes: list[str]) -> Events:
        together = defaultdict[str, list[str]](list)
        for name in recipes:
            recipe = self.context.study.recipe(name)
            together[f"reads {recipe.calibration}" if shares_passes(recipe) else f"alone {name}"].append(name)
        for names in together.values():
            yield from self._together("variants", names, _prune_all, _write_variant)
        folder = unfinished_folder(self.context.store, self.context.model)
        with suppress(OSError):  # a failed variant's layers are kept for its next attempt, or there is no folder
            folder.rmdir()

    def _traced(self, recipes: list[str]) -> Events:
        left = list(recipes)
        while left:
            try:
                size = self.session.traces_at_once(self.context.dense, self.context.study)
            except Exception:  # raised again for each variant, which then fails by it
                size = 1
            yield from self._together("traces", left[:size], _trace_all, partial(_write_all, "traces"))
            del left[:size]

    def _together(
        self, step: str, recipes: Sequence[str], compute_all: ComputeAll, write: Callable[..., Tables]
    ) -> Events:
        """Compute a step of several variants in the same passes; if that fails, one variant after the other."""
        results, reason = dict[str, object](), ""
        if len(recipes) > 1:
            yield StepBegun(self.task.name(recipes[0], step), step)
            started = time.perf_counter()
            try:
                results = compute_all(self.context, self.session, recipes)
            except Exception as error:  # one after the other shows whose error it is, and needs less memory
                reason = f"{type(error).__name__}: {error}"
            seconds = (time.perf_counter() - started) / len(recipes)
        for recipe in recipes:
            if recipe in results:
                yield from self._guarded(recipe, step, partial(write, result=results.pop(recipe), seconds=seconds))
            else:
                yield from self._alone(recipe, step)
        if reason and self.failed.isdisjoint(recipes):
            _LOG.warning("%s: %s failed in one pass and not one by one (%s)", step, ", ".join(recipes), reason)

    def _alone(self, recipe: str | None, step: str) -> Events:
        """Compute a step of one partition; a step that the study does not request leaves its tables as they are."""
        if self._context_of(recipe).requires(STEPS[step].tables):
            yield from self._guarded(recipe, step, _STEPS[step])
        else:
            yield from (TableWritten(recipe, step, table, is_skipped=True) for table in STEPS[step].tables)

    def _guarded(self, recipe: str | None, step: str, work: Work) -> Events:
        """Do the work of a step; repeat it if another attempt may succeed, and yield the error that ends it."""
        yield StepBegun(self.task.name(recipe, step), step)
        context, written, halves, retries, note = self._context_of(recipe), set[str](), False, _RETRIES, {}
        broken = list[str]()
        if self.task.halves_batches:
            note = {"memory": "its worker was lost at first; half the batch size was enough"}
        failed: StepFailed | None = None
        while True:
            try:
                with self.session.halved() if halves else nullcontext():
                    for table in work(context, self.session):
                        if table.table not in written:
                            written.add(table.table)
                            yield replace(table, details=table.details | note)
                            broken += _broken_rules(table)
                _require_whole(broken)
                break
            except Exception as error:
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
                    told = f"with half of the batch as well; `prunescope plan` says how much is needed ({reason})"
                    failed = StepFailed.of(recipe, step, ComputationError(f"out of memory, {told}"))
                self.failed.add(recipe)
                yield failed
                break

    def _context_of(self, recipe: str | None) -> PartitionContext:
        return replace(self.context, recipe=None if recipe is None else self.context.study.recipe(recipe))


def _broken_rules(table: TableWritten) -> list[str]:
    """Describe the rules of a written table that its rows break."""
    rules = [f"{item.check} ({item.rows_failing} rows, first {item.example})" for item in table.violations]
    return [*rules, *(f"rows without their row in {other}" for other in table.orphaned)]


def _require_whole(broken: Sequence[str]) -> None:
    if broken:
        raise ComputationError(f"checks failed: {'; '.join(broken)}; run the study again, then report it")


def _models(context: PartitionContext, session: ModelSession) -> Tables:
    from prunescope.pipelines.models.describe import model_row

    started = time.perf_counter()
    decoder = session.decoder(context.dense, context.study)
    rows = model_row(decoder, context.model, context.dense.spec.source, context.dense.identity)
    yield context.write("models", rows, time.perf_counter() - started, str(decoder.device))


def _calibration(context: PartitionContext, session: ModelSession) -> Tables:
    from prunescope.pipelines.pruning.calibration.statistics import calibrate

    started = time.perf_counter()
    decoder = session.decoder(context.dense, context.study)
    result = calibrate(decoder, context.study.calibration, context.model, session.progress)
    yield from _write_all("calibration", context, session, vars(result), time.perf_counter() - started)


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
    path = context.store.write_bytes(
        context.variant_file, lambda temporary: result.save(temporary, recipe, context.dense.identity.weight_hash)
    )
    study = context.study.calibrated_for(recipe)
    calibration = tokens_hash(session.tokens(context.dense, study)) if recipe.is_calibrated else None
    rows = variant_row(decoder, context.model, recipe, result, calibration, path.stat().st_size, seconds)
    yield context.write("variants", rows, seconds, str(decoder.device), {"masks": f"`{path}`"})
    discard(unfinished_folder(context.store, context.model) / recipe.name)
    for older in context.store.files(str(PurePosixPath(context.variant_file).parent)):
        if older.name != path.name:
            older.unlink()


def _variants(context: PartitionContext, session: ModelSession) -> Tables:
    started, recipe = time.perf_counter(), context.variant_recipe.name
    result = _prune_all(context, session, [recipe])[recipe]
    yield from _write_variant(context, session, result, time.perf_counter() - started)


def _mask_samples(context: PartitionContext, session: ModelSession) -> Tables:
    from prunescope.pipelines.pruning.sampled_masks import mask_samples

    started, recipe = time.perf_counter(), context.variant_recipe.name
    decoder = session.decoder(context.dense, context.study)
    rows = mask_samples(decoder, context.model, recipe, context.variant(recipe))
    yield context.write(MASK_TABLE, rows, time.perf_counter() - started, str(decoder.device))


def _trace_all(context: PartitionContext, session: ModelSession, recipes: Sequence[str]) -> "dict[str, Traces]":
    traces = session.traces(context.dense, context.study)
    return traces.trace_all({name: context.variant(name) for name in recipes}, session.progress)


def _write_all(step: str, context: PartitionContext, session: ModelSession, result: "Traces", seconds: float) -> Tables:
    device = str(session.decoder(context.dense, context.study).device)
    for table in STEPS[step].tables:
        yield context.write(table, result[table], seconds, device)


def _traces(context: PartitionContext, session: ModelSession) -> Tables:
    recipe, traces = context.variant_recipe.name, session.traces(context.dense, context.study)
    started = time.perf_counter()
    result = traces.trace(recipe, context.variant(recipe), session.progress)
    yield from _write_all("traces", context, session, result, time.perf_counter() - started)


def _sampling(context: PartitionContext, session: ModelSession) -> Tables:
    sampling, started = session.sampling(context.dense, context.study), time.perf_counter()
    recipe = context.variant_recipe.name
    result = sampling.trace(recipe, context.variant(recipe), session.progress)
    yield from _write_all("sampling", context, session, result, time.perf_counter() - started)


def _texts(context: PartitionContext, session: ModelSession) -> Tables:
    texts, started = session.texts(context.dense, context.study), time.perf_counter()
    recipe = context.variant_recipe.name
    rows = texts.trace(recipe, context.variant(recipe), session.progress)
    yield from _write_all("texts", context, session, {TEXT_TABLE: rows}, time.perf_counter() - started)


def _tasks(context: PartitionContext, session: ModelSession) -> Tables:
    from prunescope.pipelines.evaluation.tasks.score import flips

    decoder, tasks = session.decoder(context.dense, context.study), session.tasks(context.dense, context.study)
    started, recipe = time.perf_counter(), context.variant_recipe.name
    scored = tasks.score(recipe, context.variant(recipe), context.of_dense("task_samples"), session.progress)
    seconds, device = time.perf_counter() - started, str(decoder.device)
    shown = scored.scores.select("task", "metric", "value", "standard_error", "n")
    scores = {"scores": str(render(shown.to_arrow(), "markdown"))}
    yield context.write("task_scores", scored.scores, seconds, device, scores)
    flipped = {"flips against dense": str(render(flips(scored.samples, tasks.dense).to_arrow(), "markdown"))}
    yield context.write("task_samples", scored.samples, seconds, device, flipped)


def _retrieval(context: PartitionContext, session: ModelSession) -> Tables:
    decoder, retrieval = session.decoder(context.dense, context.study), session.retrieval(context.dense, context.study)
    started, recipe = time.perf_counter(), context.variant_recipe.name
    tables = retrieval.measure(recipe, context.variant(recipe), session.progress)
    seconds = time.perf_counter() - started
    scores = {f"{row['data_set']} {row['metric']}": row["value"] for row in tables["retrieval_scores"].to_dicts()}
    for table in STEPS["retrieval"].tables:
        details = scores if table == "retrieval_scores" else None
        yield context.write(table, tables[table], seconds, str(decoder.device), details)


def _speed(context: PartitionContext, session: ModelSession) -> Tables:
    from prunescope.pipelines.evaluation.speed import speed_rows

    started, recipe = time.perf_counter(), context.variant_recipe.name
    decoder, variant = session.decoder(context.dense, context.study), context.variant(recipe)
    rows = speed_rows(decoder, context.model, recipe, variant, context.study.speed, progress=session.progress)
    yield context.write(SPEED_TABLE, rows, time.perf_counter() - started, str(decoder.device))


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


_STEPS: dict[str, Work] = {
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
