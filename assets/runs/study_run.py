"""Runs a study: finds what is stale and hands it to Dagster. With nothing to do, neither Dagster nor torch is imported.

Used by the command line and by the jobs that the UI starts.
"""

import dataclasses
import traceback
from collections.abc import Callable, Collection
from pathlib import Path

from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.planning.fingerprints import RETRIEVAL_TABLES, TASK_TABLES, VARIANT_TABLES, find_model
from prunescope.assets.planning.work_plan import Plan, StudyRequest, make_plan
from prunescope.assets.runs.outcome import Failure, Listener, RunResult
from prunescope.assets.runs.precompile import compiling_beside
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.studies import Study
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store


@compiling_beside()
def run_study(
    request: StudyRequest,
    root: Place | str,
    cache: Path,
    listener: Listener,
    *,
    replace: bool = False,
    tables: Collection[str] | None = None,
    computes_here: bool = True,
    place: RayClusterConfig | None = None,
    asked_by: str = "command line",
) -> RunResult:
    """Brings the warehouse up to date with a study.

    Of several models, those that cannot be found or do not fit the study are failures, and the others go on.

    Args:
        request: which study.
        root: the warehouse.
        cache: folder for fetched and converted models.
        listener: told how far it is.
        replace: recompute what another study computed from other inputs, instead of refusing.
        tables: only these are brought up to date, without questions and report; None for the whole study.
        computes_here: whether this process computes, which then holds the model; else the warehouse's worker does.
        place: the Ray cluster whose machines compute instead.
        asked_by: who asked, as the UI shows it.

    Raises:
        InputError: the study or all of its models are wrong, another study's partition is in the way, or the cluster
            is unfit.
        ComputationError: the cluster lost all of its workers.
        WarehouseError: the warehouse cannot be read or written.
        KeyboardInterrupt: SIGINT or SIGTERM came; whole partitions stay, no partial one does.
    """
    study, store = request.load(), Store(root)
    refused = _Refused(study, listener)
    refused.where(lambda name: find_model(study, name, cache, listener))

    def planned() -> Plan:
        return make_plan(study, store, cache, listener, replace=replace, tables=tables, without=refused.failures)

    if planned().is_empty:
        return refused.added_to(RunResult(study))
    from prunescope.assets.instance.instance import only_writer
    from prunescope.assets.runs.run_executor import execute

    with only_writer(store.local(cache), listener.waiting, store.url):
        # Whoever held the warehouse before may have done it meanwhile.
        plan = planned()
        if plan.models or plan.variants:
            from prunescope.pipelines.planning.preflight import check_study

            # What is not asked for is neither fetched nor refused.
            asked = set(tables or VARIANT_TABLES)
            unasked = {
                key: () for key, of in (("tasks", TASK_TABLES), ("retrieval", RETRIEVAL_TABLES)) if not asked & set(of)
            }
            checked = study.model_copy(update=unasked)
            refused.where(lambda name: check_study(checked, find_model(study, name, cache, listener).folder))
            plan = planned()
        if plan.is_empty:
            return refused.added_to(RunResult(study))
        outcome = execute(plan, request, store, listener, computes_here=computes_here, place=place, asked_by=asked_by)
        return refused.added_to(outcome)


class _Refused:
    """The models of a study that cannot be computed, each with the reason."""

    def __init__(self, study: Study, listener: Listener) -> None:
        self.failures: dict[str, Failure] = {}
        self._names, self._listener = [model.name for model in study.models], listener

    def where(self, check: Callable[[str], object]) -> None:
        """Refuses the models for whose names the check raises.

        Raises:
            InputError: that of the first model, where none is left.
        """
        errors = []
        for name in self._names:
            if name not in self.failures:
                try:
                    check(name)
                except InputError as error:
                    errors.append((name, error, traceback.format_exc()))
        if errors and len(self.failures) + len(errors) == len(self._names):
            raise errors[0][1]
        for name, error, where in errors:
            self.failures[name] = Failure(name, str(error), is_input=True, traceback=where)
            self._listener.failed(self.failures[name])

    def added_to(self, outcome: RunResult) -> RunResult:
        return dataclasses.replace(outcome, failures=(*self.failures.values(), *outcome.failures))
