"""The order in which a study's partitions go to a Ray cluster and are recorded in Dagster.

A model's tables come before its variants, a variant's masks before its measurements; all else runs in parallel. The
Dagster runs that record the results follow one after the other in one thread, because SQLite allows one writer.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from prunescope.assets.execution.ray.worker_pool import TaskGroup, WorkerPool
from prunescope.assets.execution.task import ComputeTask
from prunescope.assets.planning.steps import PRUNING_TABLES, SPEED_TABLE, steps_writing
from prunescope.assets.planning.work_plan import PartitionWork, Plan, StudyRequest


@dataclass
class RaySchedule:
    """The progress of a plan on a cluster.

    Attributes:
        root: the warehouse.
        record: runs Dagster for tables of a partition whose tasks have ended; the last argument says whether they are
            the last of the partition. Returns whether all succeeded.
        on_pruned: called when pruning of a model's variants has ended, with the model and its failed variants.
    """

    plan: Plan
    request: StudyRequest
    root: str
    pool: WorkerPool
    record: Callable[[PartitionWork, tuple[str, ...], bool], bool]
    on_pruned: Callable[[str, set[str]], None]
    _running: dict[str, tuple[PartitionWork, tuple[str, ...]]] = field(default_factory=dict, init=False)
    _to_prune: dict[str, int] = field(default_factory=dict, init=False)
    _failed: dict[str, set[str]] = field(default_factory=dict, init=False)

    def run(self) -> None:
        """Compute the plan, except `speed`, which is measured on the machine that the study is run from.

        Raises:
            InputError, ComputationError: as `WorkerPool.next_done`.
        """
        stale = {work.model for work in self.plan.models}
        for work in self.plan.models:
            self._add(work, work.tables)
        for model in self.plan.study.models:
            if model.name not in stale:
                self._add_variants(model.name)
                self._add_search(model.name)
        while not self.pool.is_idle:
            work, tables = self._running.pop(self.pool.next_done().name)
            if work.recipe is None:
                if self.record(work, tables, True) and not work.is_search:
                    self._add_variants(work.model)
                    self._add_search(work.model)
            elif tables == PRUNING_TABLES:
                self._after_pruning(work)
            else:
                self.record(work, tables, SPEED_TABLE not in work.tables)

    def _add_variants(self, model: str) -> None:
        """Queue the pruning of a model's variants, and the measurements of variants that are pruned already."""
        works = [work for work in self.plan.variants if work.model == model]
        self._to_prune[model] = sum("variants" in work.tables for work in works)
        self._failed[model] = set()
        for work in works:
            if "variants" in work.tables:
                self._add(work, PRUNING_TABLES)
            else:
                self._add_measurements(work)

    def _add_search(self, model: str) -> None:
        for work in self.plan.searches:
            if work.model == model:
                self._add(work, work.tables)

    def _after_pruning(self, work: PartitionWork) -> None:
        if self.record(work, PRUNING_TABLES, work.tables == PRUNING_TABLES):
            self._add_measurements(work)
        else:
            self._failed[work.model].add(work.name)
        self._to_prune[work.model] -= 1
        if not self._to_prune[work.model]:
            self.on_pruned(work.model, self._failed[work.model])

    def _add_measurements(self, work: PartitionWork) -> None:
        if tables := tuple(table for table in work.tables if table not in {*PRUNING_TABLES, SPEED_TABLE}):
            self._add(work, tables)

    def _add(self, work: PartitionWork, tables: Collection[str]) -> None:
        recipe = work.recipe.name if work.recipe else None
        tasks = tuple(
            ComputeTask(step.name, self.request, self.root, work.model, recipe) for step in steps_writing(tables)
        )
        self._running[work.name] = work, tuple(tables)
        self.pool.add(TaskGroup(work.name, tasks))
