"""Layer-by-layer pruning on the inputs that the previous layers produce; only one layer's statistics are in memory."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder, Layer
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.models.weight_offload import on_device
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.calibration.layerwise_forward import Streams
from prunescope.pipelines.pruning.layer_checkpoints import LayerFiles, layered_changes, overlay
from prunescope.pipelines.pruning.methods import MatrixContext, change_of
from prunescope.pipelines.pruning.module_selection import is_chosen
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_to_layer, swap_outer_parameters
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import LayerwiseRecipe, MatrixRecipe
from prunescope.pipelines.recipes.mixed import part_of

# The result of a recipe that failed.
Failure = InputError | ComputationError


@dataclass(frozen=True)
class PruningJob:
    """One recipe and its inputs, for pruning together with others.

    Attributes:
        recipe: the recipe.
        sparsities: sparsity by label of the changed sublayer, or by place in a mixed recipe; None if the recipe has no
            sparsity.
        moments: inputs by matrix name, if known without running the model; then it runs only for Gram matrices.
        files: where finished layers are stored; None keeps the changes in memory.
        origin: the weights that methods treat as dense: a checkpoint at the start of the composition, or the model.
    """

    recipe: LayerwiseRecipe
    sparsities: Mapping[str, float | None]
    moments: Mapping[str, ActivationMoments] | None = None
    files: LayerFiles | None = None
    origin: Variant = field(default_factory=Variant)

    @property
    def needs_forward(self) -> bool:
        """Return whether the job needs a run of the model on the tokens."""
        return self.is_measured(self.recipe)

    def sparsity(self, label: str, matrix: str) -> float | None:
        """Return the share to set to zero of a matrix in the sublayer with this label."""
        part = f"{label}.{part_of(matrix)}"
        return self.sparsities[part if part in self.sparsities else label]

    def is_measured(self, recipe: LayerwiseRecipe) -> bool:
        """Return whether the statistics that a recipe or treatment reads have to be measured."""
        return recipe.reads == "gram" or (recipe.reads == "moments" and self.moments is None)


@torch.inference_mode()
def prune_layers(
    decoder: Decoder,
    jobs: Sequence[PruningJob],
    base: Variant,
    statistics: Statistics,
    progress: Progress = SILENT,
) -> list[Variant | Failure]:
    """Change every included matrix, from the first layer to the last, for several recipes at once.

    Jobs with dense predecessors share one pass over the tokens and its statistics. Each job with pruned predecessors
    passes the tokens through its own pruned layers. In the first layer all jobs have the same inputs. Every variant is
    bit for bit the one that its recipe gives alone.

    `base` is the result of the earlier recipes of a composition. Jobs that run the model need the statistics' tokens.
    The result is, for each job, the base with the recipe's changes, or the error; a failed recipe does not stop the
    others.
    """
    runs = [_JobRun(decoder, job, base) for job in jobs]
    groups = _grouped(runs)
    measuring = [group for group in groups if group.needs_forward and not group.is_finished]
    others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    tokens = cast(Tensor, statistics.tokens)
    with swap_outer_parameters(decoder, base):
        if measuring:
            streams = Streams(decoder, tokens, statistics.dtype)
            for group in measuring:
                group.streams = streams.copy()
        count = tokens.numel() if measuring else 0
        progress.start(f"prune {jobs[0].recipe.name}{others}", len(decoder.layers), count)
        for index, layer in enumerate(decoder.layers):
            with on_device(layer.module):
                _prune_layer(index, layer, groups, base)
            progress.advance()
        progress.done()
    return [run.result(base) for run in runs]


class _Target(NamedTuple):
    """A matrix to change, the recipe that changes it, and the share of its weights to set to zero."""

    matrix: Matrix
    recipe: MatrixRecipe
    sparsity: float | None


class _JobRun:
    """A job and its results so far: its targets by layer, the error that ended it, the changes in the latest layer."""

    def __init__(self, decoder: Decoder, job: PruningJob, base: Variant) -> None:
        self.job = job
        self.targets: list[dict[str, _Target]] = [{} for _ in decoder.layers]
        for sublayer in decoder.sublayers:
            for name, matrix in sublayer.matrices.items() if sublayer.label not in base.dropped else ():
                recipe = job.recipe.treatment(sublayer.label, name)
                if recipe is not None and is_chosen(recipe, sublayer.kind, name):
                    sparsity = job.sparsity(sublayer.label, name)
                    self.targets[sublayer.layer][name] = _Target(matrix, recipe, sparsity)
        self.failure: Failure | None = None
        self.latest: Mapping[str, WeightDelta] = {}
        self._changes: dict[str, WeightDelta] = {}
        self._names: list[list[str]] = []
        self._facts: dict[str, Any] = deepcopy(dict(base.facts))
        self._stored_layers = 0
        if job.files is not None:
            while self._stored_layers < len(self.targets) and job.files.read(self._stored_layers) is not None:
                self._stored_layers += 1

    def is_stored(self, index: int) -> bool:
        """Return whether an earlier run has stored this layer."""
        return index < self._stored_layers

    def unmeasured(self, index: int) -> dict[str, _Target]:
        """Return the matrices of a layer whose inputs are not yet measured, by name."""
        targets = {} if self.is_stored(index) else self.targets[index]
        return {name: target for name, target in targets.items() if self.job.is_measured(target.recipe)}

    def change_layer(
        self, index: int, base: Variant, dense: Mapping[str, Tensor], measured: Mapping[str, ActivationMoments]
    ) -> None:
        """Change a layer's matrices, which currently have the base's weights, or read their stored changes."""
        files = self.job.files
        if files is not None and self.is_stored(index) and (stored := files.read(index)) is not None:
            self.latest, self._facts = stored
            self._names.append(list(self.latest))
            return
        changes = dict[str, WeightDelta]()
        try:
            for name, (matrix, recipe, sparsity) in self.targets[index].items():
                inputs = measured if self.job.is_measured(recipe) else self.job.moments or {}
                before, origin = base.changes.get(name), self.job.origin.changes.get(name)
                mask = None if before is None else before.mask
                target = dense[name] if origin is None else origin.weight(dense[name])
                context = MatrixContext(name, matrix.weight, target, mask, inputs.get(name), sparsity, self._facts)
                change = change_of(context, recipe)
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
        """Return the variant or the error."""
        if self.failure is not None:
            return self.failure
        files = self.job.files
        changes = self._changes if files is None else layered_changes(files, self._names)
        return Variant(overlay(changes, base.changes), base.parameters, base.dropped, facts=self._facts)


class _Group:
    """Jobs with the same predecessors, and therefore the same inputs.

    If the predecessors are pruned (`sees_pruned`), the group has one job. `streams` are those before the next layer;
    None if the model is not run.
    """

    def __init__(self, runs: list[_JobRun]) -> None:
        self._runs = runs
        self.needs_forward = runs[0].job.needs_forward
        self.sees_pruned = runs[0].job.recipe.predecessors == "pruned"
        self.streams: Streams | None = None

    @property
    def runs(self) -> list[_JobRun]:
        """The jobs that have not failed."""
        return [run for run in self._runs if run.failure is None]

    @property
    def is_finished(self) -> bool:
        """Return whether earlier runs have stored all layers."""
        return all(run.is_stored(len(run.targets) - 1) for run in self.runs)

    def unmeasured(self, index: int) -> list[tuple[str, _Target]]:
        """Return the matrices of a layer whose inputs are not yet measured, with their names, for each job."""
        return [item for run in self.runs for item in run.unmeasured(index).items()]

    def reads_after(self, index: int) -> bool:
        """Return whether inputs of a later layer are not yet measured."""
        return any(self.unmeasured(later) for later in range(index + 1, len(self._runs[0].targets)))


def _grouped(runs: list[_JobRun]) -> list[_Group]:
    groups: dict[object, list[_JobRun]] = {"no forward": [], "dense": []}
    for number, run in enumerate(runs):
        kind = run.job.recipe.predecessors if run.job.needs_forward else "no forward"
        groups.setdefault(number if kind == "pruned" else kind, []).append(run)
    return [_Group(group) for group in groups.values() if group]


def _prune_layer(index: int, layer: Layer, groups: list[_Group], base: Variant) -> None:
    dense = {name: matrix.weight for sublayer in layer.sublayers for name, matrix in sublayer.matrices.items()}
    measuring = [group for group in groups if group.streams is not None and group.runs]
    measured: Mapping[str, ActivationMoments] = {}
    for group in groups:
        with apply_to_layer(layer, base):
            # Before the first layer nothing is pruned, so the first group measures for all.
            if group.streams is not None and group.runs and (index > 0 or group is measuring[0]):
                measured = _measured(index, group, group.streams, measuring if index == 0 else [group])
            for run in group.runs:
                run.change_layer(index, base, dense, measured)
        if group.streams is not None and group.sees_pruned and group.reads_after(index):
            pruned = Variant(overlay(group.runs[0].latest, base.changes), base.parameters, base.dropped)
            with apply_to_layer(layer, pruned):
                group.streams.advance(index)


def _measured(
    index: int, group: _Group, streams: Streams, readers: Sequence[_Group]
) -> Mapping[str, ActivationMoments]:
    """Return the inputs of a layer's matrices; the same pass advances a group with dense predecessors."""
    targets = [item for reader in readers for item in reader.unmeasured(index)]
    try:
        return streams.measure(
            index,
            {name: target.matrix for name, target in targets},
            grams={name for name, target in targets if target.recipe.reads == "gram"},
            advances=not group.sees_pruned and group.reads_after(index),
        )
    except ComputationError as failure:
        for reader in readers:
            for run in reader.runs:
                run.failure = failure
        return {}
