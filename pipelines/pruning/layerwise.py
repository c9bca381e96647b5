"""Changes the matrices of a model layer by layer, each on the inputs that the layers before give it.

What becomes of one matrix is `prunescope.pipelines.pruning.methods`'s; only one layer's statistics are in memory at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder, Layer
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.models.weight_offload import on_device
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.calibration.layerwise_forward import States, Streams
from prunescope.pipelines.pruning.layer_checkpoints import LayeredChanges, LayerFiles, Overlay
from prunescope.pipelines.pruning.methods import MatrixContext, change_of
from prunescope.pipelines.pruning.module_selection import chosen_matrices
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import outside, swap_weights
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import MatrixRecipe

# What stands in for a variant where the recipe failed.
Failure = InputError | ComputationError


@dataclass(frozen=True)
class PruningJob:
    """One recipe of a family that is pruned together.

    Attributes:
        recipe: what to do.
        sparsities: of every layer; None where the recipe's are no shares.
        moments: inputs by matrix name, where they are known without running the model; then it is not run.
        files: where finished layers are kept; None keeps the changes in memory.
        origin: what methods take for dense: a checkpoint that the composition begins with, or the model itself.
    """

    recipe: MatrixRecipe
    sparsities: Sequence[float | None]
    moments: Mapping[str, ActivationMoments] | None = None
    files: LayerFiles | None = None
    origin: Variant = field(default_factory=Variant)

    @property
    def runs_the_model(self) -> bool:
        """Whether tokens have to pass the layers for it."""
        return self.recipe.reads != "nothing" and self.moments is None


@torch.inference_mode()
def prune_layers(
    decoder: Decoder,
    jobs: Sequence[PruningJob],
    base: Variant,
    tokens: Int[Tensor, "sequences length"] | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = SILENT,
) -> list[Variant | Failure]:
    """Changes every included matrix, from the first layer to the last, for several recipes at once.

    All with dense predecessors share one pass over the tokens and its statistics. Each with pruned predecessors moves
    a stream of its own through its own layers; in the first layer they are all alike. Every variant is bit for bit
    the one that its recipe gives alone.

    Args:
        decoder: the dense model; its weights are read, not changed.
        jobs: the recipes.
        base: what earlier recipes of a composition did.
        tokens: calibration tokens, where a job runs the model.
        dtype: type in which they pass the layers; None is the model's own.
        progress: one step a layer.

    Returns:
        For each job the base with the recipe's changes, or why it failed; a failed recipe does not stop the others.
    """
    works = [_Work(decoder, job, base) for job in jobs]
    lanes = _lanes(works)
    running = [lane for lane in lanes if lane.reads_inputs and not lane.is_finished]
    others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    with outside(decoder, base):
        streams = Streams(decoder, tokens, dtype) if running and tokens is not None else None
        for lane in running:
            lane.states = streams.begin() if streams else None
        progress.start(f"prune {jobs[0].recipe.name}{others}", len(decoder.layers))
        for index in range(len(decoder.layers)):
            with on_device(decoder.layers[index].module):
                _through_layer(decoder, index, lanes, base, streams)
            progress.advance()
        progress.done()
    return [work.result(base) for work in works]


class _Work:
    """A job on its way through the layers."""

    def __init__(self, decoder: Decoder, job: PruningJob, base: Variant) -> None:
        self.job = job
        self.chosen = [chosen_matrices(layer, job.recipe, base.dropped) for layer in decoder.layers]
        self.failure: Failure | None = None
        # Of the layer that it was in last.
        self.latest: Mapping[str, WeightDelta] = {}
        self._changes: dict[str, WeightDelta] = {}
        self._names: list[list[str]] = []
        self._facts: dict[str, Any] = deepcopy(dict(base.facts))
        self._finished = 0
        if job.files is not None:
            while self._finished < len(self.chosen) and job.files.read(self._finished) is not None:
                self._finished += 1

    def has(self, index: int) -> bool:
        """Whether a run before this one has finished a layer."""
        return index < self._finished

    def layer(
        self, index: int, base: Variant, dense: Mapping[str, Tensor], inputs: Mapping[str, ActivationMoments]
    ) -> None:
        """Changes a layer's matrices, which are as the base has them, or reads what was made of them before."""
        files, recipe = self.job.files, self.job.recipe
        if files is not None and self.has(index) and (found := files.read(index)) is not None:
            self.latest, self._facts = found
            self._names.append(list(self.latest))
            return
        sparsity, changes = self.job.sparsities[index], dict[str, WeightDelta]()
        try:
            for name, matrix in self.chosen[index].items():
                before = base.changes.get(name)
                kept = None if before is None else before.mask
                first = self.job.origin.changes.get(name)
                whole = dense[name] if first is None else first.weight(dense[name])
                given = MatrixContext(name, index, matrix.weight, whole, kept, inputs.get(name), sparsity, self._facts)
                change = change_of(given, recipe)
                if change is not None:
                    changes[name] = change if before is None else before.then(change, dense[name])
        except (InputError, ComputationError) as failure:
            self.failure = failure
            return
        self.latest = changes
        self._names.append(list(changes))
        if files is None:
            self._changes |= changes
        else:
            files.write(index, changes, self._facts)

    def result(self, base: Variant) -> Variant | Failure:
        """The variant, or why there is none."""
        if self.failure is not None:
            return self.failure
        files = self.job.files
        changes = self._changes if files is None else LayeredChanges(files, self._names)
        return Variant(Overlay(changes, base.changes), base.parameters, base.dropped, facts=self._facts)


class _Lane:
    """Jobs that see the same predecessors, and with them the same inputs.

    Attributes:
        reads_inputs: whether tokens have to pass the layers for them.
        states: where the tokens are; None where none are needed.
    """

    def __init__(self, works: list[_Work]) -> None:
        self._works = works
        self.reads_inputs = works[0].job.runs_the_model
        self.states: States | None = None

    @property
    def works(self) -> list[_Work]:
        """Those that have not failed."""
        return [work for work in self._works if work.failure is None]

    @property
    def sees_pruned(self) -> bool:
        """Whether the layers before are pruned ones; then it has one job."""
        return self._works[0].job.recipe.predecessors == "pruned"

    @property
    def is_finished(self) -> bool:
        """Whether a run before this one has done all of it."""
        return all(work.has(len(work.chosen) - 1) for work in self.works)

    @property
    def reads_gram(self) -> bool:
        """Whether a job reads Gram matrices."""
        return any(work.job.recipe.reads == "gram" for work in self.works)

    def unfinished(self, index: int) -> dict[str, Matrix]:
        """Matrices of a layer that are still to be changed."""
        return {name: m for work in self.works if not work.has(index) for name, m in work.chosen[index].items()}

    def after(self, base: Variant) -> Variant:
        """What the layer that it was in last computes with for those behind it."""
        if not self.sees_pruned:
            return base
        return Variant(Overlay(self.works[0].latest, base.changes), base.parameters, base.dropped)


def _lanes(works: list[_Work]) -> list[_Lane]:
    still = [work for work in works if not work.job.runs_the_model]
    running = [work for work in works if work.job.runs_the_model]
    shared = [work for work in running if work.job.recipe.predecessors == "dense"]
    own = [[work] for work in running if work.job.recipe.predecessors == "pruned"]
    return [_Lane(each) for each in (still, shared, *own) if each]


def _through_layer(decoder: Decoder, index: int, lanes: list[_Lane], base: Variant, streams: Streams | None) -> None:
    """Takes all jobs through one layer."""
    layer, is_last = decoder.layers[index], index + 1 == len(decoder.layers)
    dense = {name: matrix.weight for sublayer in layer.sublayers for name, matrix in sublayer.matrices.items()}
    running = [lane for lane in lanes if lane.states is not None and lane.works]
    inputs: Mapping[str, ActivationMoments] = {}
    for lane in lanes:
        with worn(layer, base):
            # In front of the first layer nothing is pruned yet: the first lane measures for all.
            if lane in running and (index > 0 or lane is running[0]):
                inputs = _measured(streams, index, lane, running if index == 0 else [lane], is_last=is_last)
            for work in lane.works:
                work.layer(index, base, dense, inputs if lane.reads_inputs else work.job.moments or {})
        if streams and lane.states is not None and lane.works and lane.sees_pruned and not is_last:
            with worn(layer, lane.after(base)):
                streams.advance(index, lane.states)


def _measured(
    streams: Streams | None, index: int, lane: _Lane, readers: Sequence[_Lane], *, is_last: bool
) -> Mapping[str, ActivationMoments]:
    """Inputs of a layer's matrices; a lane of dense predecessors moves on in the same pass."""
    wanted = {name: matrix for each in readers for name, matrix in each.unfinished(index).items()}
    if streams is None or lane.states is None:
        return {}
    try:
        return streams.measure(
            index,
            lane.states,
            wanted,
            with_gram=any(each.reads_gram for each in readers),
            advances=not lane.sees_pruned and not is_last,
        )
    except ComputationError as failure:
        for each in readers:
            for work in each.works:
                work.failure = failure
        return {}


@contextmanager
def worn(layer: Layer, variant: Variant) -> Iterator[None]:
    """The sublayers of one layer compute as a variant's do for a while; what is around them, `outside` wears."""
    with ExitStack() as stack:
        for sublayer in layer.sublayers:
            stack.enter_context(swap_weights([sublayer], variant.weights(sublayer)))
            if sublayer.label in variant.dropped:
                stack.enter_context(sublayer.dropped())
        yield
