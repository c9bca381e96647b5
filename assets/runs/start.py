"""The start of a study's run by a command. With nothing to do, neither Dagster nor torch is imported."""

from collections.abc import Collection, Mapping

from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.study_run import Listener, RunResult, StudyRun
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store


def run_study(
    request: StudyRequest,
    root: Place | str,
    listener: Listener,
    *,
    replace: bool = False,
    tables: Collection[str] | None = None,
    cluster: Mapping[str, object] | None = None,
) -> RunResult:
    """Bring the warehouse up to date with a study, in this process or on a cluster.

    If some models cannot be found or read or do not fit the study, they are failures and the others go on. With
    `replace`, partitions that another study computed from other inputs are recomputed instead of refused. `tables`
    updates these tables only, without questions and report. `cluster` has the fields of `EngineResource`.

    Raises:
        InputError: the study or all of its models are wrong, another study's partition is in the way, or the cluster
            does not fit.
        ComputationError: the cluster lost all of its workers.
        WarehouseError: the warehouse cannot be read or written.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; complete partitions stay, and no partial one is left.
    """
    run = StudyRun(request, Store(root), listener, replace=replace, tables=tables)
    plan = run.plan()
    if plan.unread:
        listener.note(f"{plan.unread} current partitions are kept unread; `prunescope verify` checks them")
    if not plan.is_empty:
        from prunescope.assets.runs.dagster_job import run_in_this_process

        run_in_this_process(run, cluster)
    return run.result
