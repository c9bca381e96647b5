"""The wait of a step for a slot in Dagster's pool: it says what it waits for, and SIGINT and SIGTERM end it.

Dagster's own loop waits without a message, at full load, and looks at no signal.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagster import DagsterExecutionInterruptedError, DagsterInstance

# Dagster has no public names for the loop and for its flag of a caught signal; test_pool_wait runs both.
from dagster._core.execution.plan.active import ActiveExecution
from dagster._utils.interrupts import pop_captured_interrupt

from prunescope.assets.instance.instance import WAREHOUSE_TAG, pool_claims

# A longer wait is reported, and slots of dead runs are looked for as often.
MESSAGE_SECONDS = 5.0
# Between two looks at signals and at the pool.
_CHECK_SECONDS = 0.5


@contextmanager
def watch_pool_waits(
    instance: DagsterInstance, note: Callable[[str], None], recover: Callable[[str], object] = lambda _: None
) -> Iterator[None]:
    """Watch the waits of all runs that this process executes in the block.

    Args:
        instance: the instance of the runs.
        note: receives one message for each long wait.
        recover: frees the slots of dead runs; called with the waiting run's id, again and again during a wait.
    """
    original, waits = ActiveExecution.sleep_til_ready, dict[str, list[float]]()

    def wait(execution: ActiveExecution) -> None:
        if pop_captured_interrupt():
            raise DagsterExecutionInterruptedError
        claims = execution._instance_concurrency_context
        if claims is not None and claims.has_pending_claims():
            key = f"{claims._run_id} {claims.pending_claim_steps()}"
            seen = waits.setdefault(key, [time.monotonic()])
            if time.monotonic() - seen[-1] >= MESSAGE_SECONDS:
                seen.append(time.monotonic())
                if len(seen) == 2:
                    note(f"waiting for {_holders(instance, claims._run_id)}; Ctrl-C stops the wait")
                recover(claims._run_id)
        time.sleep(_CHECK_SECONDS)

    ActiveExecution.sleep_til_ready = wait  # type: ignore[method-assign]
    try:
        yield
    finally:
        ActiveExecution.sleep_til_ready = original  # type: ignore[method-assign]


def _holders(instance: DagsterInstance, waiting: str) -> str:
    """Name the other runs that hold a slot."""
    names = []
    for run_id in pool_claims(instance) - {waiting}:
        run = instance.get_run_by_id(run_id)
        warehouse = run.tags.get(WAREHOUSE_TAG) if run else None
        names.append(f"run {run_id[:8]}" + (f" of the warehouse {warehouse}" if warehouse else ""))
    return f"{', '.join(sorted(names)) or 'a slot'} in Dagster's pool (one model in memory at a time)"
