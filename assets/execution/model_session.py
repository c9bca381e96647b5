"""The session of a process: one dense model with its dense results, loaded once for all of its variants.

Another model replaces it. Torch is imported at the first load, not before.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from prunescope.assets.planning.fingerprints import STUDY_INPUTS, DenseModel, calibration_hash
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.studies import Study
from prunescope.warehouse.storage.provenance import fingerprint

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunescope.pipelines.models.decoder import Decoder

# Variants traced in one batch, and bytes of their rows that may be in memory at once.
MAX_BATCH = 16
MAX_RESULT_BYTES = 2**30


@dataclass
class ModelSession:
    """The last decoder and the last dense results of each kind: prompts, texts, tasks, retrieval.

    Attributes:
        progress: receives the progress of long work.
        loaded: models by source that are in memory already, each with its tokenizer; they are not loaded again.
        batch_divisor: divides the usual number of sequences or tokens per forward pass.
    """

    progress: Progress = SILENT
    loaded: "Mapping[str, tuple[nn.Module, Any]]" = field(default_factory=dict)
    batch_divisor: int = field(default=1, init=False)
    _decoder: "tuple[tuple[str, ...], Decoder] | None" = field(default=None, init=False)
    # By kind: the hashes of its inputs, and the session.
    _sessions: dict[str, tuple[tuple[str, ...], Any]] = field(default_factory=dict, init=False)

    def decoder(self, dense: DenseModel, study: Study) -> "Decoder":
        """Return the model, loaded.

        Raises:
            InputError: it cannot be loaded, or its structure could not be verified.
        """
        key = (dense.identity.weight_hash, dense.identity.tokenizer_hash, study.dtype, study.device, str(study.memory))
        if self._decoder is None or self._decoder[0] != key:
            self.release()
            from prunescope.pipelines.models.chat_template import set_template_arguments
            from prunescope.pipelines.models.load import load_decoder
            from prunescope.pipelines.models.model_discovery import discover

            self.progress.start("load the model and verify its structure", 1)
            if dense.spec.source in self.loaded:
                decoder = discover(*self.loaded[dense.spec.source], dense.folder)
            else:
                decoder = load_decoder(dense.folder, study.dtype, study.device, study.memory)
            set_template_arguments(decoder.tokenizer, dense.spec.template_arguments)
            self.progress.done()
            self._decoder = (key, replace(decoder, split=self.batch_divisor))
        return self._decoder[1]

    def tokens(self, dense: DenseModel, study: Study) -> "Tensor":
        """Return the study's calibration tokens, (sequences, length).

        Raises:
            InputError: their source cannot be read, or the model cannot be loaded.
        """
        decoder = self.decoder(dense, study)
        from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens

        key = (dense.identity.tokenizer_hash, calibration_hash(study.calibration))
        tokens: Tensor = self._cached("tokens", key, partial(calibration_tokens, decoder.tokenizer, study.calibration))
        return tokens

    def results(self, step: str, dense: DenseModel, study: Study) -> Any:  # noqa: ANN401 - its class depends on the step
        """Return the dense model's results that a step compares variants with; None for a step without any.

        Raises:
            InputError: the model cannot be loaded, or a prompt, text, task or data set does not fit it.
        """
        decoder, name, progress = self.decoder(dense, study), dense.spec.name, self.progress
        create: Callable[[], object]
        match step:
            case "traces":
                from prunescope.pipelines.evaluation.traces.trace_session import TraceSession

                create = partial(TraceSession, decoder, name, study, progress)
            case "sampling":
                from prunescope.pipelines.evaluation.traces.sampled_texts import SamplingSession

                create = partial(SamplingSession, decoder, name, study, progress)
            case "texts":
                from prunescope.pipelines.evaluation.traces.text_traces import TextSession

                create = partial(TextSession, decoder, name, study, progress)
            case "tasks":
                from prunescope.pipelines.evaluation.tasks.score import TaskSession

                create = partial(TaskSession, decoder, study.tasks, allows_code=study.allow_code_execution)
            case "retrieval":
                from prunescope.pipelines.evaluation.retrieval.retrieval_session import RetrievalSession

                create = partial(RetrievalSession, decoder, name, study.retrieval, progress)
            case _:
                return None
        return self._cached(step, (name, fingerprint(STUDY_INPUTS[step](study))), create)

    def traces_at_once(self, dense: DenseModel, study: Study) -> int:
        """Return how many variants are traced in one batch."""
        size = self.results("traces", dense, study).bytes_per_variant
        return max(1, min(MAX_BATCH // self.batch_divisor, MAX_RESULT_BYTES // size))

    def _cached(self, kind: str, key: tuple[str, ...], create: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return the session of a kind; create it if its inputs have changed."""
        if kind not in self._sessions or self._sessions[kind][0] != key:
            self._sessions.pop(kind, None)  # its memory is needed for the new one
            self._sessions[kind] = (key, create())
        return self._sessions[kind][1]

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
        """Free everything."""
        is_empty = self._decoder is None and not self._sessions
        self._decoder, self._sessions = None, {}
        if not is_empty:  # to scan the objects of all libraries takes a third of a second
            gc.collect()
