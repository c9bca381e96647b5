"""A pool of workers on a Ray cluster: as many as fit, each with one model in memory. One thread drives the pool."""

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from prunescope.assets import settings
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.ray.worker import TaskOutcome, Worker, WorkerConfig, versions
from prunescope.assets.execution.task import TASK, ComputeTask, TaskResult
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.storage.atomic_write import PREFIX
from prunescope.warehouse.storage.partition_store import Store

# After so many lost workers the task itself is taken for the cause.
MAX_DEATHS = 3
# Variants that one worker takes in one batch; four save most of the dense model's share.
MAX_BATCH = 4
# Seconds without any worker until a message, and until an error.
MESSAGE_SECONDS, GIVE_UP_SECONDS = 15.0, 300.0
# Ray's object store in bytes: only plans and results pass through it, and Ray's minimum is 75 MiB.
OBJECT_STORE = 80 << 20


@dataclass(frozen=True)
class WorkerSlot:
    """A place for one worker: the machine, its CPUs and GPUs."""

    node: str
    cpus: int
    gpus: float


def worker_slots(nodes: Sequence[dict[str, Any]], cluster: RayClusterConfig) -> list[WorkerSlot]:
    """Divide the machines of a cluster among workers.

    Args:
        nodes: the result of `ray.nodes()`.
        cluster: CPUs and GPUs of one worker.

    Raises:
        InputError: no machine has that much.
    """
    slots, gpus = [], cluster.gpus_per_task
    machines = [(node["NodeID"], node["Resources"]) for node in nodes if node["Alive"]]
    if gpus is None:
        gpus = float(any(resources.get("GPU", 0) >= 1 for _, resources in machines))
    for node, resources in machines:
        cpus = int(resources.get("CPU", 0))
        if gpus:
            count = int(resources.get("GPU", 0) / gpus)
        else:
            count = cpus // cluster.cpus_per_task if cluster.cpus_per_task else 1
        count = min(count, cpus // (cluster.cpus_per_task or 1))
        slots += [WorkerSlot(node, cluster.cpus_per_task or cpus // count, gpus) for _ in range(count)]
    if not slots:
        needed = f"{cluster.cpus_per_task or 1} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        available = "; ".join(f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs" for _, has in machines)
        raise InputError(
            f"no machine of the Ray cluster has {needed} for a worker (it has {available or 'no machine'}); "
            "lower --gpus-per-task or --cpus-per-task"
        )
    return slots


@dataclass
class TaskGroup:
    """Tasks of one variant or model that one worker computes in order."""

    name: str
    tasks: tuple[ComputeTask, ...]
    deaths: int = 0


@dataclass(eq=False)
class _WorkerHandle:
    """A worker: its actor, and its unfinished tasks by Ray's references to their outcomes."""

    slot: WorkerSlot
    actor: Any
    ready: Any | None
    assigned: dict[Any, tuple[TaskGroup, ComputeTask]] = field(default_factory=dict)
    model: str = ""


Key = tuple[str, str, str | None]


def _key(task: ComputeTask) -> Key:
    return task.step, task.model, task.recipe


class WorkerPool:
    """Workers on a Ray cluster, the queue of tasks, and the outcomes of finished tasks."""

    def __init__(self, cluster: RayClusterConfig, log: Callable[[str], None], max_workers: int | None = None) -> None:
        """Store the configuration; `next_done` and `results` connect.

        Args:
            cluster: the cluster.
            log: receives a line when workers are missing or lost.
            max_workers: limit on the number of workers.
        """
        self._cluster, self._log, self._max_workers = cluster, log, max_workers
        self._stack = ExitStack()
        self._config: WorkerConfig | None = None
        self._workers: list[_WorkerHandle] = []
        self._waiting: list[TaskGroup] = []
        self._running: list[TaskGroup] = []
        self._outcomes: dict[Key, TaskOutcome] = {}
        self._slots = 0
        self._deaths_at_start = 0
        self._empty_since: float | None = None
        self._has_logged = False

    @property
    def is_idle(self) -> bool:
        """Return whether no task waits and none is running."""
        return not (self._waiting or self._running)

    def add(self, group: TaskGroup) -> None:
        """Queue a group for the next free worker."""
        self._waiting.append(group)

    def next_done(self) -> TaskGroup:
        """Wait until all tasks of some group have ended; `results` returns the results or raises the error of each.

        Raises:
            InputError: the cluster cannot be reached, has no room, or its machines cannot use this warehouse.
            ComputationError: the pool lost its workers and got no new one.
        """
        while True:
            for group in self._running:
                if all(_key(task) in self._outcomes for task in group.tasks):
                    self._running.remove(group)
                    return group
            self._step((self._waiting or self._running)[0].tasks[0].root)

    def results(self, task: ComputeTask) -> Iterator[TaskResult]:
        """Yield the results of a task; compute it first unless it was queued before.

        Raises:
            InputError, ComputationError, WarehouseError: as `compute` and `next_done`.
        """
        if _key(task) not in self._outcomes:
            self.add(group := TaskGroup(task.name, (task,)))
            while _key(task) not in self._outcomes:
                self._step(task.root)
            self._running.remove(group)
        outcome = self._outcomes.pop(_key(task))
        yield from outcome.results
        if outcome.error is not None:
            raise outcome.error

    def __enter__(self) -> Self:
        """Register the pool for all Dagster runs in this process."""
        _POOLS.append(self)
        self._stack.callback(_POOLS.remove, self)
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the workers and disconnect."""
        self._stack.close()

    def _step(self, root: str) -> None:
        """Assign waiting groups and take the next outcome, or none within a second."""
        import ray

        if self._config is None:
            self._start(root)
        self._assign()
        owners = {
            ref: worker for worker in self._workers for ref in (worker.ready, *worker.assigned) if ref is not None
        }
        answered, _ = ray.wait(list(owners), num_returns=1, timeout=1.0)
        for ref in answered:
            self._receive(owners[ref], ref)
        self._require_workers()

    def _start(self, root: str) -> None:
        import ray

        self._stack.enter_context(connected(self._cluster.address))
        marker = self._stack.enter_context(_marker_file(root))
        self._config = WorkerConfig(settings.carried_environment(), versions(), root, marker, socket.gethostname())
        self._stack.callback(lambda: [ray.kill(worker.actor) for worker in self._workers])
        slots = worker_slots(ray.nodes(), self._cluster)[: self._max_workers]
        self._slots = len(slots)
        for slot in slots:
            self._launch(slot)

    def _launch(self, slot: WorkerSlot) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Soft: if the machine is gone, the worker may start on any other.
        where = NodeAffinitySchedulingStrategy(slot.node, soft=True)
        actor = ray.remote(Worker).options(num_cpus=slot.cpus, num_gpus=slot.gpus, scheduling_strategy=where).remote()
        self._workers.append(_WorkerHandle(slot, actor, actor.prepare.remote(self._config)))

    def _assign(self) -> None:
        """Assign some groups to every free worker, preferably of the model that it has in memory."""
        for worker in self._workers:
            if worker.ready is not None or worker.assigned or not self._waiting:
                continue
            fitting = [group for group in self._waiting if group.tasks[0].model == worker.model] or self._waiting
            first = fitting[0].tasks[0]
            alike = [
                group for group in fitting if (group.tasks[0].model, group.tasks[0].step) == (first.model, first.step)
            ]
            # Fewer and fewer towards the end, so that all workers end at the same time.
            batch = alike[: min(MAX_BATCH, -(-len(alike) // len(self._workers)))]
            for number, group in enumerate(batch, start=1):
                self._waiting.remove(group)
                self._running.append(group)
                for task in [task for task in group.tasks if _key(task) not in self._outcomes]:
                    later = [other for later in batch[number:] for other in later.tasks if other.step == task.step]
                    request = replace(task, batch_with=tuple(other.recipe for other in later if other.recipe))
                    worker.assigned[worker.actor.compute.remote(TASK.dump_json(request))] = (group, task)
            worker.model = first.model

    def _receive(self, worker: _WorkerHandle, ref: Any) -> None:  # noqa: ANN401 - Ray's references
        """Store a worker's answer, or replace the worker if it is dead."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = ray.get(ref)
        except RayTaskError:
            raise  # a bug in the worker's own code
        except RayError as error:
            self._replace(worker, error)
            return
        if ref == worker.ready:
            worker.ready, self._deaths_at_start = None, 0
            if answer is not None:
                raise answer
        else:
            _, task = worker.assigned.pop(ref)
            self._outcomes[_key(task)] = answer

    def _replace(self, worker: _WorkerHandle, error: Exception) -> None:
        """Queue a dead worker's groups again and launch a new worker in its slot."""
        import ray

        reason = str(error).strip().partition("\n")[0]
        self._workers.remove(worker)
        ray.kill(worker.actor)  # it may be alive but out of reach
        if worker.ready is not None:
            self._deaths_at_start += 1
            if self._deaths_at_start >= MAX_DEATHS * self._slots:
                raise ComputationError(f"workers on the Ray cluster die as they start: {error}")
        unfinished = list(dict.fromkeys(group.name for group, _ in worker.assigned.values()))
        for group in [group for group in self._running if group.name in unfinished]:
            group.deaths += group.name == unfinished[0]  # the others had not begun
            if group.deaths >= MAX_DEATHS:
                failure = ComputationError(f"{MAX_DEATHS} workers died computing it; the last one: {reason}")
                for task in group.tasks:
                    self._outcomes.setdefault(_key(task), TaskOutcome(error=failure))
            else:
                if group.deaths == MAX_DEATHS - 1 and _may_be_memory(error):
                    group.tasks = tuple(replace(task, halve_batch=True) for task in group.tasks)
                self._running.remove(group)
                self._waiting.insert(0, group)
        if unfinished:
            self._log(f"a Ray worker died; another one will compute {', '.join(unfinished)} ({reason})")
        self._launch(worker.slot)

    def _require_workers(self) -> None:
        """Log that no worker is ready, and give up in the end.

        Raises:
            ComputationError: none was ready in time.
        """
        if any(worker.ready is None for worker in self._workers):
            self._empty_since, self._has_logged = None, False
            return
        self._empty_since = self._empty_since or time.monotonic()
        waited = time.monotonic() - self._empty_since
        if waited > MESSAGE_SECONDS and not self._has_logged:
            self._has_logged = True
            self._log("waiting for room on the Ray cluster; `ray status` on one of its machines shows what uses it")
        if waited > GIVE_UP_SECONDS:
            raise ComputationError(f"no worker started on the Ray cluster within {GIVE_UP_SECONDS:.0f} s; is it busy?")


def _may_be_memory(error: Exception) -> bool:
    """Return whether only the worker's process died, as when the system kills it, and not its machine or network."""
    from ray.exceptions import ActorUnavailableError

    return not isinstance(error, ActorUnavailableError) and "its node has died" not in str(error)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to the cluster through dagster-ray for the block; a local cluster starts and ends with it.

    Raises:
        InputError: Ray is not installed, or there is no cluster.
    """
    try:
        from prunescope.assets.execution.ray.cluster import Connection
    except ModuleNotFoundError as error:
        raise InputError(f"a Ray cluster needs {error.name}; pip install 'prunescope[ray]'") from error
    from dagster import build_init_resource_context
    from dagster_ray import Lifecycle

    # No usage reports from a cluster that starts here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Connecting inside `yield_for_execution` would log a traceback of errors that are one line here.
    lifecycle = Lifecycle(connect=False, cleanup="never")
    connection = Connection(address=address, object_store_bytes=OBJECT_STORE, lifecycle=lifecycle)
    context = build_init_resource_context()
    with connection.yield_for_execution(context):
        connection.connect(context)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray has replaced them
                signal.signal(number, handler)
        yield


@contextmanager
def _marker_file(root: str) -> Iterator[str]:
    """Create a temporary file in a local warehouse, by which workers recognize that they see the same folder."""
    if not isinstance(Store(root).root, Path):
        yield ""
        return
    Path(root).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f"{PREFIX}ray-", dir=root) as file:
        yield file.name


# The pools of this process: the Dagster runs of one study share one.
_POOLS: list[WorkerPool] = []


@contextmanager
def shared_pool(cluster: RayClusterConfig, log: Callable[[str], None]) -> Iterator[WorkerPool]:
    """Yield the pool of this process, or else a new one with a single worker."""
    if _POOLS:
        yield _POOLS[-1]
    else:
        with WorkerPool(cluster, log, max_workers=1) as pool:
            yield pool
