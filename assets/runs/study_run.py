"""The run of a study: finds stale partitions and executes them with Dagster.

With nothing to do, neither Dagster nor torch is imported.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.planning.fingerprints import DenseModel, find_model
from prunescope.assets.planning.steps import STEPS, VARIANT_TABLES
from prunescope.assets.planning.work_plan import Plan, StudyRequest, make_plan
from prunescope.assets.runs.outcome import Listener, RunResult
from prunescope.assets.runs.precompile import compiling_beside
from prunescope.assets.runs.refused_models import RefusedModels
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store

if TYPE_CHECKING:  # needs torch
    from prunescope.pipelines.planning.workload import Workload


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
    cluster: RayClusterConfig | None = None,
    launched_by: str = "command line",
) -> RunResult:
    """Bring the warehouse up to date with a study.

    Of several models, those that cannot be found or read or do not fit the study are failures, and the others go on.

    Args:
        request: the study.
        root: the warehouse.
        cache: folder for fetched and converted models.
        listener: receives the progress.
        replace: recompute partitions that another study computed from other inputs, instead of refusing.
        tables: update these tables only, without questions and report; None for the whole study.
        computes_here: whether this process loads the model and computes; else the warehouse's worker does.
        cluster: the Ray cluster that computes instead, if any.
        launched_by: the launcher of the runs that the UI shows.

    Raises:
        InputError: the study or all of its models are wrong, another study's partition is in the way, or the cluster
            does not fit.
        ComputationError: the cluster lost all of its workers.
        WarehouseError: the warehouse cannot be read or written.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; complete partitions stay, and no partial one is left.
    """
    study, store = request.load(), Store(root)
    refused = RefusedModels(study, listener)
    refused.check(lambda name: find_model(study, name, cache, listener))

    def planned() -> Plan:
        return make_plan(study, store, cache, listener, replace=replace, tables=tables, without=refused.failures)

    plan = planned()
    if plan.unread:
        listener.note(f"{plan.unread} current partitions are kept unread; `prunescope verify` checks them")
    if plan.is_empty:
        return refused.added_to(RunResult(study))
    from prunescope.assets.instance.instance import writer_lock
    from prunescope.assets.runs.forecast import stages
    from prunescope.assets.runs.run_executor import execute

    with writer_lock(store.local(cache), listener.waiting, store.url):
        loads: dict[str, tuple[DenseModel, Workload]] = {}
        # Planned again, because the process that held the lock may have computed the same.
        plan = planned()
        if plan.has_partitions:
            from prunescope.pipelines.planning.preflight import check_study

            # Tasks and retrieval are neither fetched nor checked if their tables were not requested.
            requested = set(tables or VARIANT_TABLES)
            unused: dict[str, object] = {
                name: () for name in ("tasks", "retrieval") if not requested & set(STEPS[name].tables)
            }
            if "tasks" in unused and study.search is not None and requested & set(STEPS["search"].tables):
                # A search may measure the answers to one of them.
                unused["tasks"] = tuple(task for task in study.tasks if study.search.objective == f"task:{task.name}")
            checked = study.model_copy(update=unused)

            def check(name: str) -> None:
                dense = find_model(study, name, cache, listener)
                loads[name] = dense, check_study(checked, dense.folder)

            refused.check(check)
            plan = planned()
        if plan.is_empty:
            return refused.added_to(RunResult(study))
        # Only bars show the time that is left, and a cluster does not tell them what it begins.
        foreseen = stages(plan, store, loads) if computes_here and cluster is None else ()
        result = execute(
            plan,
            request,
            store,
            listener,
            foreseen,
            computes_here=computes_here,
            cluster=cluster,
            launched_by=launched_by,
        )
        return refused.added_to(result)
