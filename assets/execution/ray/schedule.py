"""In which order a study's partitions go to a cluster, and how the Dagster runs follow them.

A model's tables come before its variants, a variant's masks before its measures; all else goes side by side. Dagster
records a run when its parts are computed, one run after the other in one thread: its SQLite files bear no crowd.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from prunescope.assets.execution.ray.worker_pool import Task, WorkerPool
from prunescope.assets.execution.task import STEPS, ComputeTask
from prunescope.assets.planning.fingerprints import SPEED_TABLE
from prunescope.assets.planning.work_plan import PartitionWork, Plan, StudyRequest

_MASKS = ("variants",)


@dataclass
class RaySchedule:
    """What of a plan is under way.

    Attributes:
        plan: what is to be done.
        request: the study.
        root: the warehouse.
        fleet: who computes.
        record: has Dagster record some tables of a partition, which the fleet has computed or failed to; whether they
            are the partition's last ones, and gives whether all went well.
        pruned: called with a model and its variants that could not be pruned when all were tried.
    """

    plan: Plan
    request: StudyRequest
    root: str
    fleet: WorkerPool
    record: Callable[[PartitionWork, tuple[str, ...], bool], bool]
    pruned: Callable[[str, set[str]], None]
    _doing: dict[str, tuple[PartitionWork, tuple[str, ...]]] = field(default_factory=dict, init=False)
    _to_prune: dict[str, int] = field(default_factory=dict, init=False)
    _failed: dict[str, set[str]] = field(default_factory=dict, init=False)

    def everything(self) -> None:
        """Computes all of the plan but `speed`, which is of this machine and not of whichever is free.

        Raises:
            InputError, ComputationError: as `Fleet.next_done`.
        """
        behind = {work.model for work in self.plan.models}
        for work in self.plan.models:
            self._give(work, work.tables)
        for model in self.plan.study.models:
            if model.name not in behind:
                self._variants(model.name)
        while not self.fleet.is_idle:
            work, tables = self._doing.pop(self.fleet.next_done().name)
            if work.recipe is None:
                if self.record(work, tables, True):
                    self._variants(work.model)
            elif tables == _MASKS:
                self._after_pruning(work)
            else:
                self.record(work, tables, SPEED_TABLE not in work.tables)

    def _variants(self, model: str) -> None:
        """Has the variants of a model pruned, and those measured that are pruned already."""
        works = [work for work in self.plan.variants if work.model == model]
        self._to_prune[model] = sum("variants" in work.tables for work in works)
        self._failed[model] = set()
        for work in works:
            if "variants" in work.tables:
                self._give(work, _MASKS)
            else:
                self._measure(work)

    def _after_pruning(self, work: PartitionWork) -> None:
        if self.record(work, _MASKS, work.tables == _MASKS):
            self._measure(work)
        else:
            self._failed[work.model].add(work.name)
        self._to_prune[work.model] -= 1
        if not self._to_prune[work.model]:
            self.pruned(work.model, self._failed[work.model])

    def _measure(self, work: PartitionWork) -> None:
        if tables := tuple(table for table in work.tables if table not in {*_MASKS, SPEED_TABLE}):
            self._give(work, tables)

    def _give(self, work: PartitionWork, tables: Collection[str]) -> None:
        recipe = work.recipe.name if work.recipe else None
        steps = [step for step, made in STEPS.items() if set(made) & set(tables)]
        parts = tuple(ComputeTask(step, self.request, self.root, work.model, recipe) for step in steps)
        self._doing[work.name] = work, tuple(tables)
        self.fleet.add(Task(work.name, parts))
