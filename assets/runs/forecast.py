"""The work of a study's steps and the seconds that they will take, for `prunescope plan`.

Seconds are those of earlier variants of the model, else they follow from sizes at this machine's measured speed.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from prunescope.assets.planning.fingerprints import DenseModel, accepted
from prunescope.assets.planning.steps import STEPS, TRACE_TABLES, steps_writing
from prunescope.assets.planning.work_plan import PartitionWork
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.planning.cost_model import Machine, Work
from prunescope.pipelines.recipes import Recipe, parse_recipe
from prunescope.pipelines.studies import Study
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:  # needs torch
    from prunescope.pipelines.planning.workload import Workload


@dataclass(frozen=True)
class StepWork:
    """The work of one step.

    Attributes:
        step: name of the step.
        work: its amount.
        recipe: the variant; None for the work of the dense model, which all variants share.
    """

    step: str
    work: Work
    recipe: Recipe | None = None


def trace_groups(load: "Workload", works: Sequence[PartitionWork]) -> list[Sequence[Recipe]]:
    """Return the recipes of one model that are traced together, in order."""
    from prunescope.assets.execution.model_session import MAX_BATCH, MAX_RESULT_BYTES

    traced = [work.recipe for work in works if work.recipe and set(work.tables) & set(TRACE_TABLES)]
    return load.groups(traced, MAX_BATCH, MAX_RESULT_BYTES)


def step_works(load: "Workload", works: Sequence[PartitionWork]) -> list[StepWork]:
    """Return the work of one model's partitions, first what all variants share."""
    todo = [(step.name, work.recipe) for work in works for step in steps_writing(work.tables)]
    groups, steps = len(trace_groups(load, works)), dict.fromkeys(step for step, _ in todo)
    shared = [StepWork(step, load.work(step, None, groups)) for step in steps]
    own = [StepWork(step, load.work(step, recipe), recipe) for step, recipe in todo if recipe is not None]
    return [*(one for one in shared if one.work != Work()), *own]


@dataclass(frozen=True)
class Forecast:
    """The prediction of one model's seconds.

    Attributes:
        machine: speeds of this machine.
        earlier: finished steps of the model's variants under the study's present settings, with their seconds.
    """

    machine: Machine
    earlier: Sequence[tuple[StepWork, float]] = ()

    @cached_property
    def known_steps(self) -> set[str]:
        """Steps whose seconds follow from earlier variants."""
        return {one.step for one, _ in self.earlier}

    def seconds(self, item: StepWork) -> float:
        """Return the seconds of a step, from earlier variants of the same method, else of any, else from sizes."""
        predicted, method = item.work.seconds(self.machine), item.recipe and item.recipe.method
        found = [(one, took) for one, took in self.earlier if one.step == item.step]
        alike = [(one, took) for one, took in found if one.recipe and one.recipe.method == method]
        if alike and not predicted:
            return sum(took for _, took in alike) / len(alike)
        for known in (alike, found):
            if size := sum(one.work.seconds(self.machine) for one, _ in known):
                return predicted * sum(took for _, took in known) / size
        return predicted


def forecast(
    study: Study, store: Store, dense: DenseModel | None, load: "Workload", works: Sequence[PartitionWork]
) -> Forecast:
    """Measure this machine, and read the seconds of the model's earlier variants from their footers.

    Args:
        study: the study.
        store: the warehouse.
        dense: the model; None if its weights are missing, because no partition can be known to be its own then.
        load: the study on the model.
        works: the partitions to compute.
    """
    import torch

    from prunescope.pipelines.core.device import resolve_device
    from prunescope.pipelines.planning.machine_speed import measure_machine

    device, tokens = resolve_device(study.device), max(load.lengths, default=study.calibration.length)
    machine = measure_machine(load.shape, getattr(torch, study.dtype), device, tokens)
    steps = {step.name for work in works if work.recipe for step in steps_writing(work.tables)}
    return Forecast(machine, [] if dense is None else list(_earlier(study, store, dense, load, steps, device)))


def _earlier(
    study: Study, store: Store, dense: DenseModel, load: "Workload", steps: Collection[str], device: str
) -> Iterator[tuple[StepWork, float]]:
    """Yield the finished steps of the variants of any study whose inputs are those of this study."""
    model = dense.spec.name
    for partition in store.partitions(TABLES["variants"]):
        if partition.model != model or partition.recipe is None:
            continue
        with suppress(InputError, WarehouseError):  # a recipe of another version, or a damaged file
            recipe = _recipe(study, store, model, partition.recipe)
            for step in steps:
                table = STEPS[step].tables[0]
                written = store.provenance(TABLES[table], model, recipe.name)
                if written is None or written.device != device:
                    continue
                if written.fingerprint in accepted(table, study, dense.identity, recipe):
                    yield StepWork(step, load.work(step, recipe), recipe), written.seconds


def _recipe(study: Study, store: Store, model: str, name: str) -> Recipe:
    """Return the recipe of a variant in the warehouse; that of the study if it has one of this name."""
    for recipe in study.recipes:
        if recipe.name == name:
            return recipe
    [row] = store.read(TABLES["variants"], model, name).to_pylist()
    return parse_recipe(json.dumps(json.loads(row["parameters_json"]) | {"name": name}))
