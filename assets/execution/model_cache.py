"""The cache of a process: one dense model with its dense results, loaded once for all of its variants.

Another model replaces the cached one. Torch is imported at the first load, not before.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.planning.fingerprints import DenseModel, calibration_hash, retrieval_hash, tasks_hash, texts_hash
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.recipes import Recipe, shares_passes
from prunescope.pipelines.studies import Study

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from prunescope.pipelines.evaluation.retrieval.retrieval_session import RetrievalSession
    from prunescope.pipelines.evaluation.tasks.score import TaskSession
    from prunescope.pipelines.evaluation.traces.sampled_texts import SamplingSession
    from prunescope.pipelines.evaluation.traces.text_traces import TextSession
    from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
    from prunescope.pipelines.models.decoder import Decoder
    from prunescope.pipelines.pruning.pruning_inputs import Statistics
    from prunescope.pipelines.pruning.variant import Variant

# Variants traced in one batch, and bytes of their rows that stay in memory until their own assets request them.
MAX_BATCH = 16
MAX_RESULT_BYTES = 2**30


Result = TypeVar("Result")
# By recipe: the path of the variant's file, a result computed in the batch of another recipe, its share of the
# seconds. The path changes with every input of the variant, so a result of older inputs is never used.
BatchResults = dict[str, tuple[str, Result, float]]


@dataclass
class ModelCache:
    """The last decoder and the last session of each kind: prompts, texts, tasks, retrieval.

    Attributes:
        progress: receives the progress of long work.
        begins: receives the partition and the step of each task that begins, if set.
        is_claimed: whether Dagster runs inside this process compute with this cache and ignore their configured engine.
        batch_divisor: divides the usual number of sequences or tokens per forward pass.
    """

    progress: Progress = SILENT
    is_claimed: bool = field(default=False, init=False)
    begins: Callable[[str, str], None] | None = field(default=None, init=False)
    batch_divisor: int = field(default=1, init=False)
    _shared: list[tuple[str, float]] = field(default_factory=list, init=False)
    _decoder: "tuple[tuple[str, ...], Decoder] | None" = field(default=None, init=False)
    # By kind: the hashes of its inputs, and the session.
    _sessions: dict[str, tuple[tuple[str, ...], Any]] = field(default_factory=dict, init=False)
    _pruned: "BatchResults[Variant | Exception]" = field(default_factory=dict, init=False)
    _traced: "BatchResults[dict[str, pl.DataFrame]]" = field(default_factory=dict, init=False)
    # Recipes whose batch failed; each is computed without others from then on.
    _unbatched: set[str] = field(default_factory=set, init=False)

    def decoder(self, dense: DenseModel, study: Study) -> "Decoder":
        """Return the model, loaded.

        Raises:
            InputError: it cannot be loaded, or its structure could not be verified.
        """
        key = (dense.identity.weight_hash, dense.identity.tokenizer_hash, study.dtype, study.device, str(study.memory))
        if self._decoder is None or self._decoder[0] != key:
            self.release()
            from prunescope.pipelines.models.load import load_decoder

            self.progress.start("load the model and verify its structure", 1)
            with self._timed("load the model"):
                decoder = load_decoder(dense.folder, study.dtype, study.device, study.memory)
            self.progress.done()
            self._decoder = (key, replace(decoder, split=self.batch_divisor))
        return self._decoder[1]

    def session(self, dense: DenseModel, study: Study) -> "TraceSession":
        """Return the dense results on the study's prompts.

        Raises:
            InputError: the model cannot be loaded, or a prompt exceeds its context length.
        """
        decoder = self.decoder(dense, study)

        def create() -> "TraceSession":
            from prunescope.pipelines.evaluation.traces.trace_session import TraceSession

            self._traced = {}
            return TraceSession(decoder, dense.spec.name, study, self.progress)

        key = (dense.spec.name, study.prompts_hash, study.settings_hash)
        return self._cached("prompts", key, "dense model on every prompt", create)

    def sampling(self, dense: DenseModel, study: Study) -> "SamplingSession":
        """Return the dense model's sampled texts.

        Raises:
            InputError: the model cannot be loaded, or a prompt exceeds its context length.
        """
        decoder = self.decoder(dense, study)

        def create() -> "SamplingSession":
            from prunescope.pipelines.evaluation.traces.sampled_texts import SamplingSession

            return SamplingSession(decoder, dense.spec.name, study, self.progress)

        key = (dense.spec.name, study.prompts_hash, study.decoding_hash)
        return self._cached("sampling", key, "dense model samples from every prompt", create)

    def tokens(self, dense: DenseModel, study: Study) -> "Tensor":
        """Return the study's calibration tokens, (sequences, length).

        Raises:
            InputError: their source cannot be read, or the model cannot be loaded.
        """
        decoder = self.decoder(dense, study)

        def create() -> "Tensor":
            from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens

            return calibration_tokens(decoder.tokenizer, study.calibration)

        key = (dense.identity.tokenizer_hash, calibration_hash(study.calibration))
        return self._cached("tokens", key, "", create)

    def texts(self, dense: DenseModel, study: Study) -> "TextSession":
        """Return the dense results on the study's texts.

        Raises:
            InputError: the model cannot be loaded, or a text does not fit it.
        """
        decoder = self.decoder(dense, study)

        def create() -> "TextSession":
            from prunescope.pipelines.evaluation.traces.text_traces import TextSession

            return TextSession(decoder, dense.spec.name, study, self.progress)

        key = (dense.spec.name, texts_hash(study.texts))
        return self._cached("texts", key, "dense model on every text", create)

    def tasks(self, dense: DenseModel, study: Study) -> "TaskSession":
        """Return the study's tasks, loaded.

        Raises:
            InputError: the model or a task cannot be loaded.
        """
        decoder = self.decoder(dense, study)

        def create() -> "TaskSession":
            from prunescope.pipelines.evaluation.tasks.score import TaskSession

            return TaskSession(decoder, dense.spec.name, study.tasks, allows_code=study.allow_code_execution)

        return self._cached("tasks", (dense.spec.name, tasks_hash(study)), "load the tasks", create)

    def retrieval(self, dense: DenseModel, study: Study) -> "RetrievalSession":
        """Return the dense embeddings of the study's retrieval data sets.

        Raises:
            InputError: the model cannot be loaded, or a data set is not valid.
        """
        decoder = self.decoder(dense, study)

        def create() -> "RetrievalSession":
            from prunescope.pipelines.evaluation.retrieval.retrieval_session import RetrievalSession

            return RetrievalSession(decoder, dense.spec.name, study.retrieval, self.progress)

        key = (dense.spec.name, retrieval_hash(study.retrieval))
        return self._cached("retrieval", key, "dense model on every query and document", create)

    def pruned(
        self,
        context: PartitionContext,
        batch_with: Sequence[str],
        statistics_of: "Callable[[list[Recipe]], Statistics]",
    ) -> "tuple[Variant, float]":
        """Return a recipe's variant and its share of the seconds; prune other recipes in the same passes.

        Args:
            context: the variant.
            batch_with: recipes that will be requested next.
            statistics_of: returns the dense model's statistics that some recipes need.

        Raises:
            InputError: the recipe does not fit the model; an error of another recipe is raised at its own request.
            ComputationError: its arithmetic failed, or it changes nothing.
        """
        from prunescope.pipelines.pruning.apply import prune_all

        self._pruned, recipe = _still_valid(self._pruned, context, batch_with), context.variant_recipe
        if recipe.name not in self._pruned:
            others = [
                other.name
                for other in map(context.study.recipe, batch_with if shares_passes(recipe) else ())
                if shares_passes(other) and other.calibration == recipe.calibration
            ]
            decoder = self.decoder(context.dense, context.study)
            with self._batch(recipe.name, others, "prune") as names:
                started, recipes = time.perf_counter(), [context.study.recipe(name) for name in names]
                variants = prune_all(decoder, recipes, statistics_of(recipes), self.progress)
            seconds = (time.perf_counter() - started) / len(variants)
            self._pruned |= {name: (context.file_of(name), variant, seconds) for name, variant in variants.items()}
        _, variant, seconds = self._pruned.pop(recipe.name)
        if isinstance(variant, Exception):
            raise variant
        return variant, seconds

    def traced(self, context: PartitionContext, batch_with: Sequence[str]) -> "tuple[dict[str, pl.DataFrame], float]":
        """Return a variant's trace tables and its share of the seconds; trace some others in the same batch.

        Args:
            context: the variant.
            batch_with: recipes that will be requested next.

        Raises:
            ComputationError: this variant's states are NaN or infinite; an error of another variant is raised at its
                own request.
        """
        session = self.session(context.dense, context.study)
        self._traced, recipe = _still_valid(self._traced, context, batch_with), context.variant_recipe.name
        if recipe not in self._traced:
            size = max(1, min(MAX_BATCH // self.batch_divisor, MAX_RESULT_BYTES // session.bytes_a_variant))
            started = time.perf_counter()
            try:
                with self._batch(recipe, batch_with[: size - 1], "trace") as names:
                    traces = session.trace_all({name: context.variant(name) for name in names}, self.progress)
            except (ComputationError, InputError):
                if len(names) == 1:
                    raise
                traces = {recipe: session.trace(recipe, context.variant(recipe), self.progress)}
            seconds = (time.perf_counter() - started) / len(traces)
            self._traced |= {name: (context.file_of(name), tables, seconds) for name, tables in traces.items()}
        _, tables, seconds = self._traced.pop(recipe)
        return tables, seconds

    def take_shared(self) -> list[tuple[str, float]]:
        """Return the work done for several partitions since the last call, each item with its seconds."""
        done, self._shared = self._shared, []
        return done

    def _cached(self, kind: str, key: tuple[str, ...], work: str, create: Callable[[], Result]) -> Result:
        """Return the session of a kind; create it where its inputs have changed, and count the time as shared work."""
        if kind not in self._sessions or self._sessions[kind][0] != key:
            self._sessions.pop(kind, None)  # its memory is needed for the new one
            with self._timed(work) if work else nullcontext():
                self._sessions[kind] = (key, create())
        session: Result = self._sessions[kind][1]
        return session

    @contextmanager
    def _timed(self, work: str) -> Iterator[None]:
        """Time work that several partitions share."""
        started = time.perf_counter()
        yield
        self._shared.append((work, time.perf_counter() - started))

    @contextmanager
    def _batch(self, recipe: str, others: Sequence[str], verb: str) -> Iterator[list[str]]:
        """Yield the recipes to compute in one batch; if it fails, compute each of them alone from then on."""
        is_alone = recipe in self._unbatched
        names = [recipe, *([] if is_alone else [name for name in others if name not in self._unbatched])]
        try:
            with self._timed(f"{verb} {', '.join(names)}") if len(names) > 1 else nullcontext():
                yield names
        except Exception:
            self._unbatched.update(names)
            raise
        self._unbatched.discard(recipe)

    @contextmanager
    def serving_runs(self, progress: Progress, begins: Callable[[str, str], None], *, claims: bool) -> Iterator[None]:
        """Redirect progress for the runs of a study, and free the model at the end.

        Args:
            progress: receives the progress of long work.
            begins: receives the partition and the step of each task that begins.
            claims: whether runs inside this process compute with this cache.
        """
        before, self.is_claimed = (self.is_claimed, self.begins), claims
        self.begins = begins
        try:
            with self.redirect_progress(progress):
                yield
        finally:
            self.is_claimed, self.begins = before
            self.release()

    @contextmanager
    def redirect_progress(self, progress: Progress) -> Iterator[None]:
        """Temporarily redirect progress."""
        self.progress, before = progress, self.progress
        try:
            yield
        finally:
            self.progress = before

    @contextmanager
    def halved(self) -> Iterator[None]:
        """Reload the model and halve every batch inside the block."""
        self.release()
        self.batch_divisor = 2
        try:
            yield
        finally:
            self.batch_divisor = 1
            self.release()

    def release(self) -> None:
        """Free everything; a batch that failed stays split, because freeing comes before its next try."""
        is_empty = self._decoder is None and not self._sessions
        self._decoder = None
        self._sessions, self._traced, self._pruned = {}, {}, {}
        if not is_empty:  # to scan the objects of all libraries takes a third of a second
            gc.collect()


def _still_valid(
    results: BatchResults[Result], context: PartitionContext, batch_with: Sequence[str]
) -> BatchResults[Result]:
    """Drop results that no task will request, as those of a study that ended early, and results of older inputs."""
    recipe = context.variant_recipe.name
    valid = {name: result for name, result in results.items() if name in {recipe, *batch_with}}
    if recipe in valid and valid[recipe][0] != context.variant_file:
        del valid[recipe]
    return valid


# One per process: all Dagster jobs of a process share the model in memory.
MODEL_CACHE = ModelCache()
