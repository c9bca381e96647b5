"""The one dense model that a process holds in memory, with its dense traces: loaded once, it serves every variant.

Freed when another model comes. Torch is imported at the first load, not before.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assets.fingerprints import DenseModel, calibration_hash, retrieval_hash, tasks_hash, texts_hash
from pipelines.errors import ComputationError, InputError
from pipelines.progress import SILENT, Progress
from pipelines.pruning.recipes import Recipe, shares_passes
from pipelines.studies import Study

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from pipelines.models.decoder import Decoder
    from pipelines.pruning.statistics import Statistics
    from pipelines.pruning.variant import Variant
    from pipelines.retrieval.session import RetrievalSession
    from pipelines.tasks.score import TaskSession
    from pipelines.traces.session import Session
    from pipelines.traces.texts import TextSession

# Variants traced side by side, and bytes of rows that wait in memory until their own asset asks for them.
MOST_TOGETHER = 16
MOST_WAITING = 2**30


@dataclass
class LoadedModels:
    """Keeps the last decoder and the last session of each kind: prompts, texts, tasks, retrieval.

    Attributes:
        progress: told about long work in the asset bodies that use the model.
    """

    progress: Progress = SILENT
    _decoder: "tuple[tuple[str, ...], Decoder] | None" = field(default=None, init=False)
    _session: "tuple[tuple[str, ...], Session] | None" = field(default=None, init=False)
    _texts: "tuple[tuple[str, ...], TextSession] | None" = field(default=None, init=False)
    _tasks: "tuple[tuple[str, ...], TaskSession] | None" = field(default=None, init=False)
    _retrieval: "tuple[tuple[str, ...], RetrievalSession] | None" = field(default=None, init=False)
    _tokens: "tuple[tuple[str, str], Tensor] | None" = field(default=None, init=False)
    _family: list[Recipe] = field(default_factory=list, init=False)
    _pruned: "dict[str, tuple[Variant | Exception, float]]" = field(default_factory=dict, init=False)
    _announced: list[str] = field(default_factory=list, init=False)
    _traced: "dict[str, tuple[dict[str, pl.DataFrame], float]]" = field(default_factory=dict, init=False)

    def decoder(self, dense: DenseModel, study: Study) -> "Decoder":
        """The loaded model.

        Raises:
            InputError: it cannot be loaded, or a part of it could not be proved.
        """
        key = (dense.identity.weight_hash, dense.identity.tokenizer_hash, study.dtype, study.device, str(study.memory))
        if self._decoder is None or self._decoder[0] != key:
            self.release()
            from pipelines.models.load import load_decoder

            self._decoder = (key, load_decoder(dense.folder, study.dtype, study.device, study.memory))
        return self._decoder[1]

    def session(self, dense: DenseModel, study: Study) -> "Session":
        """The dense side of the study's prompts on the loaded model.

        Raises:
            InputError: the model cannot be loaded, or a prompt does not fit into its context.
        """
        decoder = self.decoder(dense, study)
        key = (dense.spec.name, study.prompts_hash, study.settings_hash)
        if self._session is None or self._session[0] != key:
            from pipelines.traces.session import Session

            self._session, self._traced = None, {}
            self._session = (key, Session(decoder, dense.spec.name, study, self.progress))
        return self._session[1]

    def tokens(self, dense: DenseModel, study: Study) -> "Tensor":
        """The study's calibration tokens, (sequences, length).

        Raises:
            InputError: their source cannot be read, or the model cannot be loaded.
        """
        decoder = self.decoder(dense, study)
        key = (dense.identity.tokenizer_hash, calibration_hash(study.calibration))
        if self._tokens is None or self._tokens[0] != key:
            from pipelines.calibration import calibration_tokens

            self._tokens = (key, calibration_tokens(decoder.tokenizer, study.calibration))
        return self._tokens[1]

    def announce_family(self, recipes: Iterable[Recipe]) -> None:
        """Names the recipes that will be pruned next: those that can share a pass over the tokens come together."""
        self._family, self._pruned = [recipe for recipe in recipes if shares_passes(recipe)], {}

    def pruned(
        self, dense: DenseModel, study: Study, recipe: Recipe, statistics_of: "Callable[[list[Recipe]], Statistics]"
    ) -> "tuple[Variant, float]":
        """The variant of a recipe and its share of the seconds; announced recipes are pruned along with it.

        Args:
            dense: the model.
            study: its calibration.
            recipe: what to do.
            statistics_of: what some recipes need of the dense model.

        Raises:
            InputError: the recipe does not fit the model; others that fail wait for their own turn.
            ComputationError: its arithmetic failed, or it changes nothing.
        """
        from pipelines.pruning.apply import prune_all

        if recipe.name not in self._pruned:
            is_announced = any(other.name == recipe.name for other in self._family)
            together = self._family if is_announced else [recipe]
            self._family = [] if is_announced else self._family
            decoder, started = self.decoder(dense, study), time.perf_counter()
            found = prune_all(decoder, together, statistics_of(together), self.progress)
            seconds = (time.perf_counter() - started) / len(found)
            self._pruned |= {name: (variant, seconds) for name, variant in found.items()}
        variant, seconds = self._pruned.pop(recipe.name)
        if isinstance(variant, Exception):
            raise variant
        return variant, seconds

    def announce(self, recipes: Iterable[str]) -> None:
        """Names the recipes whose pruned variants will be traced next, so that the first one brings the others."""
        self._announced, self._traced = list(recipes), {}

    def traced(
        self, dense: DenseModel, study: Study, recipe: str, variant_of: "Callable[[str], Variant]"
    ) -> "tuple[dict[str, pl.DataFrame], float]":
        """The trace tables of a variant and its share of the seconds; announced variants are traced along with it.

        Args:
            dense: the model.
            study: prompts and settings.
            recipe: name of the variant's recipe.
            variant_of: the pruned variant of a recipe.

        Raises:
            ComputationError: this variant's states are NaN or infinite; others that fail wait for their own turn.
        """
        session = self.session(dense, study)
        if recipe not in self._traced:
            beside = max(1, min(MOST_TOGETHER, MOST_WAITING // session.bytes_a_variant)) - 1
            others = [name for name in self._announced if name != recipe][:beside]
            together = [recipe, *others] if recipe in self._announced else [recipe]
            self._announced = [name for name in self._announced if name not in together]
            started = time.perf_counter()
            try:
                found = session.trace_all({name: variant_of(name) for name in together}, self.progress)
            except (ComputationError, InputError):
                if len(together) == 1:
                    raise
                found = {recipe: session.trace(recipe, variant_of(recipe), self.progress)}
            seconds = (time.perf_counter() - started) / len(found)
            self._traced |= {name: (tables, seconds) for name, tables in found.items()}
        return self._traced.pop(recipe)

    def texts(self, dense: DenseModel, study: Study) -> "TextSession":
        """The dense side of the study's texts on the loaded model.

        Raises:
            InputError: the model cannot be loaded, or a text does not fit it.
        """
        decoder = self.decoder(dense, study)
        key = (dense.spec.name, texts_hash(study.texts))
        if self._texts is None or self._texts[0] != key:
            from pipelines.traces.texts import TextSession

            self._texts = None
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
            from pipelines.tasks.score import TaskSession

            self._tasks = None
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
            from pipelines.retrieval.session import RetrievalSession

            self._retrieval = None
            self._retrieval = (key, RetrievalSession(decoder, dense.spec.name, study.retrieval, self.progress))
        return self._retrieval[1]

    @contextmanager
    def telling(self, progress: Progress) -> Iterator[None]:
        """Tells somebody about long work for a while, and frees the model at the end."""
        self.progress, before = progress, self.progress
        try:
            yield
        finally:
            self.progress = before
            self.release()

    def release(self) -> None:
        """Frees everything."""
        self._retrieval = self._tasks = self._texts = self._session = self._decoder = None
        self._announced, self._traced = [], {}
        self._family, self._pruned, self._tokens = [], {}, None
        gc.collect()


# Dagster wants the very same object in every job of a process, and one model in memory is the point.
LOADED = LoadedModels()
