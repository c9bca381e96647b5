"""The one dense model that a process holds in memory, with its dense traces: loaded once, it serves every variant.

Freed when another model comes. Torch is imported at the first load, not before.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

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
    from prunescope.pipelines.evaluation.traces.text_traces import TextSession
    from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
    from prunescope.pipelines.models.decoder import Decoder
    from prunescope.pipelines.pruning.pruning_inputs import Statistics
    from prunescope.pipelines.pruning.variant import Variant

# Variants traced side by side, and bytes of rows that wait in memory until their own asset asks for them.
MOST_TOGETHER = 16
MOST_WAITING = 2**30


Found = TypeVar("Found")
# What came along with another recipe, with its share of the seconds, by recipe. The name of the variant's file tells
# all that the variant follows from: what waits for an earlier version of the recipe is never handed out.
Waiting = dict[str, tuple[str, Found, float]]


@dataclass
class ModelCache:
    """Keeps the last decoder and the last session of each kind: prompts, texts, tasks, retrieval.

    Attributes:
        progress: told about long work.
        is_claimed: whether runs inside this process compute with it, rather than where their configuration says.
        split: into how many parts what usually passes through the model at once is split.
    """

    progress: Progress = SILENT
    is_claimed: bool = field(default=False, init=False)
    split: int = field(default=1, init=False)
    _shared: list[tuple[str, float]] = field(default_factory=list, init=False)
    _decoder: "tuple[tuple[str, ...], Decoder] | None" = field(default=None, init=False)
    _session: "tuple[tuple[str, ...], TraceSession] | None" = field(default=None, init=False)
    _texts: "tuple[tuple[str, ...], TextSession] | None" = field(default=None, init=False)
    _tasks: "tuple[tuple[str, ...], TaskSession] | None" = field(default=None, init=False)
    _retrieval: "tuple[tuple[str, ...], RetrievalSession] | None" = field(default=None, init=False)
    _tokens: "tuple[tuple[str, str], Tensor] | None" = field(default=None, init=False)
    _pruned: "Waiting[Variant | Exception]" = field(default_factory=dict, init=False)
    _alone: set[str] = field(default_factory=set, init=False)
    _traced: "Waiting[dict[str, pl.DataFrame]]" = field(default_factory=dict, init=False)

    def decoder(self, dense: DenseModel, study: Study) -> "Decoder":
        """The loaded model.

        Raises:
            InputError: it cannot be loaded, or a part of it could not be proved.
        """
        key = (dense.identity.weight_hash, dense.identity.tokenizer_hash, study.dtype, study.device, str(study.memory))
        if self._decoder is None or self._decoder[0] != key:
            self.release()
            from prunescope.pipelines.models.load import load_decoder

            self.progress.start("load the model and prove its structure", 1)
            with self._sharing("load the model"):
                decoder = load_decoder(dense.folder, study.dtype, study.device, study.memory)
            self.progress.done()
            self._decoder = (key, replace(decoder, split=self.split))
        return self._decoder[1]

    def session(self, dense: DenseModel, study: Study) -> "TraceSession":
        """The dense side of the study's prompts on the loaded model.

        Raises:
            InputError: the model cannot be loaded, or a prompt does not fit into its context.
        """
        decoder = self.decoder(dense, study)
        key = (dense.spec.name, study.prompts_hash, study.settings_hash)
        if self._session is None or self._session[0] != key:
            from prunescope.pipelines.evaluation.traces.trace_session import TraceSession

            self._session, self._traced = None, {}
            with self._sharing("dense model on every prompt"):
                self._session = (key, TraceSession(decoder, dense.spec.name, study, self.progress))
        return self._session[1]

    def tokens(self, dense: DenseModel, study: Study) -> "Tensor":
        """The study's calibration tokens, (sequences, length); those of a recipe are the study's for that recipe.

        Raises:
            InputError: their source cannot be read, or the model cannot be loaded.
        """
        decoder = self.decoder(dense, study)
        key = (dense.identity.tokenizer_hash, calibration_hash(study.calibration))
        if self._tokens is None or self._tokens[0] != key:
            from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens

            self._tokens = (key, calibration_tokens(decoder.tokenizer, study.calibration))
        return self._tokens[1]

    def pruned(
        self, subject: PartitionContext, beside: Sequence[str], statistics_of: "Callable[[list[Recipe]], Statistics]"
    ) -> "tuple[Variant, float]":
        """The variant of a recipe and its share of the seconds; those beside it that share passes come along.

        Args:
            subject: the variant.
            beside: names of the recipes that will be asked for next.
            statistics_of: what some recipes need of the dense model.

        Raises:
            InputError: the recipe does not fit the model; others that fail wait for their own turn.
            ComputationError: its arithmetic failed, or it changes nothing.
        """
        from prunescope.pipelines.pruning.apply import prune_all

        self._pruned, recipe = _kept(self._pruned, subject, beside), subject.variant_recipe
        if recipe.name not in self._pruned:
            coming = map(subject.study.recipe, beside if shares_passes(recipe) else ())
            others = [each for each in coming if shares_passes(each) and each.calibration == recipe.calibration]
            decoder = self.decoder(subject.dense, subject.study)
            with self._together(recipe.name, [other.name for other in others], "prune") as names:
                started, together = time.perf_counter(), [subject.study.recipe(name) for name in names]
                found = prune_all(decoder, together, statistics_of(together), self.progress)
            seconds = (time.perf_counter() - started) / len(found)
            self._pruned |= {name: (subject.file_of(name), variant, seconds) for name, variant in found.items()}
        _, variant, seconds = self._pruned.pop(subject.variant_recipe.name)
        if isinstance(variant, Exception):
            raise variant
        return variant, seconds

    def traced(self, subject: PartitionContext, beside: Sequence[str]) -> "tuple[dict[str, pl.DataFrame], float]":
        """The trace tables of a variant and its share of the seconds; some of those beside it are traced along.

        Args:
            subject: the variant.
            beside: names of the recipes that will be asked for next.

        Raises:
            ComputationError: this variant's states are NaN or infinite; others that fail wait for their own turn.
        """
        session = self.session(subject.dense, subject.study)
        self._traced, recipe = _kept(self._traced, subject, beside), subject.variant_recipe.name
        if recipe not in self._traced:
            most = max(1, min(MOST_TOGETHER // self.split, MOST_WAITING // session.bytes_a_variant))
            started = time.perf_counter()
            try:
                with self._together(recipe, beside[: most - 1], "trace") as names:
                    found = session.trace_all({name: subject.variant(name) for name in names}, self.progress)
            except (ComputationError, InputError):
                if len(names) == 1:
                    raise
                found = {recipe: session.trace(recipe, subject.variant(recipe), self.progress)}
            seconds = (time.perf_counter() - started) / len(found)
            self._traced |= {name: (subject.file_of(name), tables, seconds) for name, tables in found.items()}
        _, tables, seconds = self._traced.pop(recipe)
        return tables, seconds

    def shared(self) -> list[tuple[str, float]]:
        """Return what was done for several partitions since the last call, each with its seconds."""
        done, self._shared = self._shared, []
        return done

    @contextmanager
    def _sharing(self, what: str) -> Iterator[None]:
        """Time work that several partitions share."""
        started = time.perf_counter()
        yield
        self._shared.append((what, time.perf_counter() - started))

    @contextmanager
    def _together(self, recipe: str, others: Sequence[str], verb: str) -> Iterator[list[str]]:
        """Names the recipes that one computation serves; where it fails, each of them goes alone from then on."""
        is_alone = recipe in self._alone
        names = [recipe, *([] if is_alone else [name for name in others if name not in self._alone])]
        try:
            with self._sharing(f"{verb} {', '.join(names)}") if len(names) > 1 else nullcontext():
                yield names
        except Exception:
            self._alone.update(names)
            raise
        self._alone.discard(recipe)

    def texts(self, dense: DenseModel, study: Study) -> "TextSession":
        """The dense side of the study's texts on the loaded model.

        Raises:
            InputError: the model cannot be loaded, or a text does not fit it.
        """
        decoder = self.decoder(dense, study)
        key = (dense.spec.name, texts_hash(study.texts))
        if self._texts is None or self._texts[0] != key:
            from prunescope.pipelines.evaluation.traces.text_traces import TextSession

            self._texts = None
            with self._sharing("dense model on every text"):
                self._texts = (key, TextSession(decoder, dense.spec.name, study, self.progress))
        return self._texts[1]

    def tasks(self, dense: DenseModel, study: Study) -> "TaskSession":
        """The study's tasks on the loaded model.

        Raises:
            InputError: the model or a task cannot be loaded.
        """
        decoder = self.decoder(dense, study)
        key = (dense.spec.name, tasks_hash(study))
        if self._tasks is None or self._tasks[0] != key:
            from prunescope.pipelines.evaluation.tasks.score import TaskSession

            self._tasks = None
            with self._sharing("load the tasks"):
                self._tasks = (
                    key,
                    TaskSession(decoder, dense.spec.name, study.tasks, allows_code=study.allow_code_execution),
                )
        return self._tasks[1]

    def retrieval(self, dense: DenseModel, study: Study) -> "RetrievalSession":
        """The dense side of the study's retrieval on the loaded model.

        Raises:
            InputError: the model cannot be loaded, or a data set is not as it should be.
        """
        decoder = self.decoder(dense, study)
        key = (dense.spec.name, retrieval_hash(study.retrieval))
        if self._retrieval is None or self._retrieval[0] != key:
            from prunescope.pipelines.evaluation.retrieval.retrieval_session import RetrievalSession

            self._retrieval = None
            with self._sharing("dense model on every query and document"):
                self._retrieval = (key, RetrievalSession(decoder, dense.spec.name, study.retrieval, self.progress))
        return self._retrieval[1]

    @contextmanager
    def telling(self, progress: Progress, *, claims: bool) -> Iterator[None]:
        """Tells somebody about long work for a while, and frees the model at the end.

        Args:
            progress: who is told.
            claims: whether runs inside this process compute here meanwhile.
        """
        before, self.is_claimed = self.is_claimed, claims
        try:
            with self.told_to(progress):
                yield
        finally:
            self.is_claimed = before
            self.release()

    @contextmanager
    def told_to(self, progress: Progress) -> Iterator[None]:
        """Tells somebody else for a while."""
        self.progress, before = progress, self.progress
        try:
            yield
        finally:
            self.progress = before

    @contextmanager
    def halved(self) -> Iterator[None]:
        """Loads anew, and lets half of what usually passes at once pass for a while."""
        self.release()
        self.split = 2
        try:
            yield
        finally:
            self.split = 1
            self.release()

    def release(self) -> None:
        """Frees everything."""
        self._retrieval = self._tasks = self._texts = self._session = self._decoder = None
        self._traced, self._pruned, self._alone, self._tokens = {}, {}, set(), None
        gc.collect()


def _kept(waiting: Waiting[Found], subject: PartitionContext, beside: Sequence[str]) -> Waiting[Found]:
    """What will still be asked for: a study that ended early leaves rows for which nobody comes."""
    recipe = subject.variant_recipe.name
    kept = {name: found for name, found in waiting.items() if name in {recipe, *beside}}
    if recipe in kept and kept[recipe][0] != subject.variant_file:
        del kept[recipe]
    return kept


# Dagster wants the very same object in every job of a process, and one model in memory is the point.
LOADED = ModelCache()
