"""The computation of a unit of work, a model with its variants: from the loaded model to written tables.

`compute` is called in the process of a run and on the machines of a Ray cluster. Below it is a function for each step:
from a partition's context and the session to the tables that it writes.
"""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import polars as pl

from prunescope.assets.execution.error_transport import is_error, is_out_of_memory, is_transient
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.execution.task import Event, ModelTask, StepBegun, StepFailed, TableWritten
from prunescope.assets.instance import settings
from prunescope.assets.planning.fingerprints import inputs, search_id, variant_file
from prunescope.assets.planning.steps import STEPS
from prunescope.assets.planning.work_plan import unfinished_folder
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.recipes import DepthRecipe, Recipe, require_python, shares_passes
from prunescope.warehouse.storage.atomic_write import translate_os_errors
from prunescope.warehouse.storage.partition_store import to_arrow
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    from prunescope.pipelines.pruning.pruning_inputs import Statistics
    from prunescope.pipelines.pruning.variant import Variant

# How often what failed outside of this process is tried again, and how long after.
_RETRIES, _RETRY_SECONDS = 2, 2.0
_LOG = logging.getLogger(__name__)

Events = Iterator[Event]
Tables = Iterator[TableWritten]
# Steps that several variants can be computed for in the same passes.
_TOGETHER = ("variants", "traces")


def compute(task: ModelTask, session: ModelSession, context: PartitionContext | None = None) -> Events:
    """Compute the wanted steps of a model's partitions; yield each table as it is written.

    The model's own steps come first, then all pruning, whose recipes share passes over the calibration tokens, then all
    traces, whose variants share the dense model's work, then the other steps variant by variant, then a search. An
    error ends the steps of its partition, those of all if it is the model's or the study's, and is yielded. What runs
    out of memory is repeated once with half of the batch. `context` is the model's; None finds it from the task.
    """
    try:
        run = _Run(task, session, context or PartitionContext.of(task))
        with session.halved() if task.halves_batches else nullcontext():
            yield from run.events()
    except BaseException as error:  # of the study or the model as a whole
        if not is_error(error):
            raise
        yield from task.failures(error)


@dataclass
class _Run:
    """The computation of one task.

    Attributes:
        context: of the model's own partition.
        ended: recipes whose partitions an error has ended; None for the model.
    """

    task: ModelTask
    session: ModelSession
    context: PartitionContext
    ended: set[str | None] = field(default_factory=set)

    def events(self) -> Events:
        own = [step for recipe, step in self.task.steps if recipe is None]
        variants = [(recipe, step) for recipe, step in self.task.steps if recipe is not None]
        for step in own:
            if step != "search" and None not in self.ended:
                yield from self._guarded(None, step)
        if None in self.ended:
            return
        yield from self._pruned([recipe for recipe, step in variants if step == "variants"])
        yield from self._traced([recipe for recipe, step in variants if step == "traces" and recipe not in self.ended])
        for recipe, step in variants:
            if step not in _TOGETHER and recipe not in self.ended:
                yield from self._guarded(recipe, step)
        if "search" in own:
            yield from self._guarded(None, "search")

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
        results, reason, seconds = dict[str, Any](), "", 0.0
        if len(recipes) > 1:
            yield StepBegun(recipes[0], step)
            started = time.perf_counter()
            try:
                results = _results(step, self.context, self.session, recipes)
            except BaseException as error:  # one after the other shows whose error it is, and needs less memory
                if not is_error(error):
                    raise
                reason = f"{type(error).__name__}: {error}"
            seconds = (time.perf_counter() - started) / len(recipes)
        for recipe in recipes:
            yield from self._guarded(recipe, step, results.pop(recipe, None), seconds)
        if reason and self.ended.isdisjoint(recipes):
            _LOG.warning("%s: %s failed in one pass and not one by one (%s)", step, ", ".join(recipes), reason)

    def _guarded(self, recipe: str | None, step: str, result: Any = None, seconds: float = 0.0) -> Events:  # noqa: ANN401
        """Compute a step, unless its result is given, and write it; if memory is too small, once more with half of it.

        What another attempt may solve, as after an object store did not answer, is tried twice more.

        The error that ends it is yielded.
        """
        yield StepBegun(recipe, step)
        context = replace(self.context, recipe=None if recipe is None else self.context.study.recipe(recipe))
        written, halves, retries = dict[str, TableWritten](), False, _RETRIES
        while True:
            try:
                with self.session.halved() if halves else nullcontext():
                    if result is None and step != "search":
                        result, seconds = _computed(step, context, self.session)
                    for table in (
                        _search(context, self.session)
                        if step == "search"
                        else _written(step, context, self.session, result, seconds)
                    ):
                        if table.table not in written:
                            yield replace(table, details=table.details | self._note(halves=halves))
                        written[table.table] = table
                _require_whole(written.values())
            except BaseException as error:
                if not is_error(error):
                    raise
                if isinstance(result, Exception):
                    result = None  # computed again after a failed computation, but not after a failed write
                # Only its text is kept: its traceback would keep the memory in use.
                failed = StepFailed.of(recipe, step, error)
                is_memory, may_pass = is_out_of_memory(error), is_transient(error)
                reason = (str(error).splitlines() or [type(error).__name__])[0]
            else:
                return
            if is_memory and not (halves or self.task.halves_batches):
                halves = True
            elif may_pass and retries:
                retries -= 1
                time.sleep(_RETRY_SECONDS)
            else:
                break
        if is_memory:
            advice = f"with half of the batch as well; `prunescope plan` says how much is needed ({reason})"
            failed = StepFailed.of(recipe, step, ComputationError(f"out of memory, {advice}"))
        self.ended.add(recipe)
        yield failed

    def _note(self, *, halves: bool) -> dict[str, str]:
        """Return the note on memory for a table's materialization."""
        if self.task.halves_batches:
            return {"memory": "its process was lost at first; half the batch size was enough"}
        return {"memory": "too small at first; half the batch size was enough"} if halves else {}


def _require_whole(tables: Iterable[TableWritten]) -> None:
    """Raise ComputationError with the rules that rows of written tables break."""
    broken = list[str]()
    for table in tables:
        broken += (f"{item.check} ({item.rows_failing} rows, first {item.example})" for item in table.violations)
        broken += (f"rows without their row in {other}" for other in table.orphaned)
    if broken:
        raise ComputationError(f"checks failed: {'; '.join(broken)}; run the study again, then report it")


def _computed(step: str, context: PartitionContext, session: ModelSession) -> tuple[Any, float]:
    """Compute a step of one partition; return its result and seconds, without those of the shared work done before."""
    session.results(step, context.dense, context.study)
    started, name = time.perf_counter(), context.recipe.name if context.recipe else ""
    result = _results(step, context, session, [name])[name]
    return result, time.perf_counter() - started


def _results(step: str, context: PartitionContext, session: ModelSession, recipes: Sequence[str]) -> dict[str, Any]:
    """Compute a step of some variants in the same passes, or of one partition; a recipe's error can be its result."""
    if step == "variants":
        from prunescope.pipelines.pruning.apply import prune_all

        chosen = [context.study.recipe(name) for name in recipes]
        require_python(chosen, is_allowed=context.study.allow_python)
        decoder, statistics = session.decoder(context.dense, context.study), _statistics(context, session, chosen)
        return dict(prune_all(decoder, chosen, statistics, session.progress))
    if step == "traces":
        traces = session.results(step, context.dense, context.study)
        return dict(traces.trace_all({name: context.variant(name) for name in recipes}, session.progress))
    return {recipes[0]: _rows(step, context, session)}


def _written(step: str, context: PartitionContext, session: ModelSession, result: Any, seconds: float) -> Tables:  # noqa: ANN401
    """Write a step's result: an error, a variant, or rows by table."""
    if isinstance(result, Exception):
        raise result
    if step == "variants":
        yield from _write_variant(context, session, result, seconds)
        return
    device = str(session.decoder(context.dense, context.study).device)
    for table in STEPS[step].tables:
        yield context.write(table, result[table], seconds, device)


def _statistics(context: PartitionContext, session: ModelSession, recipes: Sequence[Recipe]) -> "Statistics":
    """Collect the statistics that recipes need: all with the study's calibration, or all with the same of their own.

    They are the dense model's tables, calibration tokens, and drop orders of earlier variants.
    """
    from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_dtype
    from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished

    study, names = context.study.calibrated_for(recipes[0]), {name for recipe in recipes for name in recipe.needs}
    is_calibrated = any(recipe.is_calibrated for recipe in recipes)
    tokens = session.tokens(context.dense, study) if is_calibrated else None
    if names and recipes[0].calibration is not None:  # the model's tables hold the statistics of the study's
        decoder = session.decoder(context.dense, context.study)
        result = calibrate(decoder, study.calibration, context.model, session.progress)
        # Rounded as in the tables: a study with this calibration as its own must prune the same weights.
        needed = {name: pl.DataFrame(to_arrow(TABLES[name], getattr(result, name))) for name in names}
    else:
        needed = {name: context.current(name) for name in names}
    folder, weight_hash = unfinished_folder(context.store, context.model), context.dense.identity.weight_hash
    return Statistics(
        needed.get("activation_stats"),
        needed.get("block_influence"),
        tokens,
        calibration_dtype(study.calibration),
        unfinished=Unfinished(folder, weight_hash),
        order=max((_known_order(context, recipe) for recipe in recipes), key=len),
        cache=settings.cache_folder(),
        loaded=session.loaded,
    )


def _known_order(context: PartitionContext, recipe: Recipe) -> list[tuple[str, float | None]]:
    """Return the longest drop order among the model's variants of the same method, with any number of drops."""
    if not isinstance(recipe, DepthRecipe) or recipe.by not in {"iterative", "greedy"}:
        return []
    # Weights, dtype, tokens and code: the inputs of a drop order besides the recipe.
    own = inputs("variants", context.study, context.dense.identity, recipe) | {"recipe_hash": ""}
    orders = [list[tuple[str, float | None]]()]
    for partition, footer in context.store.footers(TABLES["variants"]):
        if partition.model != context.model or footer.provenance.inputs | {"recipe_hash": ""} != own:
            continue
        row = context.store.read(TABLES["variants"], partition.model, partition.recipe).to_pylist()[0]
        parameters = json.loads(row["parameters_json"])
        if (parameters.get("method"), parameters.get("by")) == (recipe.method, recipe.by):
            orders.append(list(zip(row["drop_order"], row["drop_scores"], strict=True)))
    return max(orders, key=len)


def _write_variant(context: PartitionContext, session: ModelSession, result: "Variant", seconds: float) -> Tables:
    """Write the masks to a file of their own, and their counts."""
    from prunescope.pipelines.pruning.calibration.statistics import tokens_hash
    from prunescope.pipelines.pruning.layer_checkpoints import discard
    from prunescope.pipelines.pruning.variant_row import variant_row

    recipe, decoder = context.variant_recipe, session.decoder(context.dense, context.study)
    file, weight_hash = variant_file(context.study, context.dense, recipe), context.dense.identity.weight_hash
    path = context.store.write_bytes(file, lambda temporary: result.save(temporary, recipe, weight_hash))
    study = context.study.calibrated_for(recipe)
    calibration = tokens_hash(session.tokens(context.dense, study)) if recipe.is_calibrated else None
    rows = variant_row(decoder, context.model, recipe, result, calibration, path.stat().st_size, seconds)
    yield context.write("variants", rows, seconds, str(decoder.device), {"masks": f"`{path}`"})
    discard(unfinished_folder(context.store, context.model) / recipe.name)
    for older in context.store.files(str(PurePosixPath(file).parent)):
        if older.name != path.name:
            older.unlink()


def _rows(step: str, context: PartitionContext, session: ModelSession) -> dict[str, pl.DataFrame]:
    """Compute the rows of a step's tables, by table."""
    decoder, progress = session.decoder(context.dense, context.study), session.progress
    if step == "models":
        from prunescope.pipelines.models.describe import model_row

        return {"models": model_row(decoder, context.model, context.dense.spec.source, context.dense.identity)}
    if step == "calibration":
        from prunescope.pipelines.pruning.calibration.statistics import calibrate

        return vars(calibrate(decoder, context.study.calibration, context.model, progress))
    rows = dict[str, pl.DataFrame]()
    recipe, dense = context.variant_recipe.name, session.results(step, context.dense, context.study)
    variant = context.variant(recipe)
    match step:
        case "mask_samples":
            from prunescope.pipelines.pruning.sampled_masks import mask_samples

            rows = {"mask_samples": mask_samples(decoder, context.model, recipe, variant)}
        case "sampling":
            rows = dense.trace(recipe, variant, progress)
        case "texts":
            rows = {"text_tokens": dense.trace(recipe, variant, progress)}
        case "tasks":
            rows = dense.score(recipe, variant, context.of_dense("task_samples"), progress)
        case "retrieval":
            rows = dense.measure(recipe, variant, progress)
        case "speed":
            from prunescope.pipelines.evaluation.speed import speed_rows

            rows = {"speed": speed_rows(decoder, recipe, variant, context.study.speed, progress=progress)}
    return rows


def _search(context: PartitionContext, session: ModelSession) -> Tables:
    from prunescope.pipelines.evaluation.search.run import end_search, run_search
    from prunescope.pipelines.pruning.calibration.statistics import calibration_dtype
    from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished

    started, identity = time.perf_counter(), context.dense.identity
    searched = context.study.search.recipes if context.study.search else ()
    require_python(searched, is_allowed=context.study.allow_python)
    search = search_id(context.study, identity)
    folder = unfinished_folder(context.store, context.model) / f"search-{search}"
    decoder, tokens = session.decoder(context.dense, context.study), session.tokens(context.dense, context.study)
    dtype = calibration_dtype(context.study.calibration)
    stored = context.current("activation_stats"), context.current("block_influence")
    unfinished = Unfinished(folder / "menu", identity.weight_hash)
    statistics = Statistics(*stored, tokens=tokens, dtype=dtype, unfinished=unfinished)
    earlier = {table: context.written(table) for table in STEPS["search"].tables}
    with translate_os_errors(folder):
        tables, left = run_search(
            decoder, context.study, context.model, search, statistics, folder, earlier, session.progress
        )
    if search_id(context.study, identity) != search:
        raise InputError("a method's file was changed during the search; run the study again")
    yield from _written("search", context, session, tables, time.perf_counter() - started)
    end_search(folder, left)
