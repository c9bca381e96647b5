"""Workers on a Ray cluster: as many as it has room for, each with a model in memory, fed with tasks until all are done.

What a worker does is `ray_worker.py`'s, the order of a study `ray_order.py`'s. One thread drives everything.
"""

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
from prunescope.assets.execution.task import ComputeTask, TaskResult
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.storage.atomic_write import PREFIX
from prunescope.warehouse.storage.location import is_local
from prunescope.warehouse.storage.partition_store import Store

# Times that a task may lose its worker before the task itself is held to be the reason.
MOST_DEATHS = 3
# Variants that one worker takes together: the dense side's work is theirs together, and four save most of it.
MOST_TOGETHER = 4
# Seconds without any worker after which it is said, and after which it is given up.
SAID_AFTER, GIVEN_UP_AFTER = 15.0, 300.0
# Ray's own store of objects, in bytes; only plans and reports pass through it, and 75 MiB are its least.
OBJECT_STORE = 80 << 20


@dataclass(frozen=True)
class WorkerSlot:
    """Room for one worker: the machine, its CPUs and GPUs."""

    node: str
    cpus: int
    gpus: float


def seats(nodes: Sequence[dict[str, Any]], place: RayClusterConfig) -> list[WorkerSlot]:
    """Where workers fit.

    Args:
        nodes: as `ray.nodes()` lists them.
        place: how much a worker takes.

    Raises:
        InputError: no machine has that much.
    """
    found, gpus = [], place.gpus_per_task
    owned = [(node["NodeID"], node["Resources"]) for node in nodes if node["Alive"]]
    if gpus is None:
        gpus = float(any(has.get("GPU", 0) >= 1 for _, has in owned))
    for node, has in owned:
        cpus = int(has.get("CPU", 0))
        most = int(has.get("GPU", 0) / gpus) if gpus else cpus // place.cpus_per_task if place.cpus_per_task else 1
        most = min(most, cpus // (place.cpus_per_task or 1))
        found += [WorkerSlot(node, place.cpus_per_task or cpus // most, gpus) for _ in range(most)]
    if not found:
        wanted = f"{place.cpus_per_task or 1} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        there = "; ".join(f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs" for _, has in owned)
        raise InputError(
            f"no machine of the Ray cluster has {wanted} for a worker (it has {there or 'no machine'}); "
            "lower --gpus-per-task or --cpus-per-task"
        )
    return found


@dataclass
class Task:
    """Parts of one variant or model that one worker computes in their order."""

    name: str
    parts: tuple[ComputeTask, ...]
    deaths: int = 0


@dataclass(eq=False)
class _WorkerHandle:
    """A worker: its actor, and what it was asked for, by the references to the answers."""

    seat: WorkerSlot
    actor: Any
    ready: Any | None
    asked: dict[Any, tuple[Task, ComputeTask]] = field(default_factory=dict)
    model: str = ""


Key = tuple[str, str, str | None]


def _key(part: ComputeTask) -> Key:
    return part.step, part.model, part.recipe


class WorkerPool:
    """The workers, the tasks that wait for one, and what has come of those that do not."""

    def __init__(self, place: RayClusterConfig, tell: Callable[[str], None], most: int | None = None) -> None:
        """Contacts nobody yet.

        Args:
            place: which cluster.
            tell: called with a line about workers that are waited for or were lost.
            most: at most so many workers.
        """
        self._place, self._tell, self._most = place, tell, most
        self._stack = ExitStack()
        self._given: WorkerConfig | None = None
        self._hired: list[_WorkerHandle] = []
        self._waiting: list[Task] = []
        self._busy: list[Task] = []
        self._found: dict[Key, TaskOutcome] = {}
        self._seats = 0
        self._deaths_at_start = 0
        self._alone_since: float | None = None
        self._has_told = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is computed."""
        return not (self._waiting or self._busy)

    def add(self, task: Task) -> None:
        """Has a task computed as soon as a worker is free."""
        self._waiting.append(task)

    def next_done(self) -> Task:
        """Waits until all parts of some task have been computed or have failed; `reports` tells what came of each.

        Raises:
            InputError: the cluster cannot be reached, has no room, or its machines cannot work for this warehouse.
            ComputationError: no worker is left, and none comes.
        """
        while True:
            for task in self._busy:
                if all(_key(part) in self._found for part in task.parts):
                    self._busy.remove(task)
                    return task
            self._step((self._waiting or self._busy)[0].parts[0].root)

    def reports(self, part: ComputeTask) -> Iterator[TaskResult]:
        """What came of a part; it is computed first where nobody has asked for it yet.

        Raises:
            InputError, ComputationError, WarehouseError: as `compute`, and as `next_done`.
        """
        if _key(part) not in self._found:
            self.add(task := Task(part.name, (part,)))
            while _key(part) not in self._found:
                self._step(part.root)
            self._busy.remove(task)
        done = self._found.pop(_key(part))
        yield from done.reports
        if done.error is not None:
            raise done.error

    def __enter__(self) -> Self:
        """Makes this the fleet of the runs in this process."""
        self._stack.enter_context(_in_use(self))
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the workers, whatever they do, and leaves the cluster."""
        self._stack.close()

    def _step(self, root: str) -> None:
        """Hands out what waits and takes the next answer, or none within a second."""
        import ray

        if self._given is None:
            self._start(root)
        self._hand_out()
        owners = {ref: hired for hired in self._hired for ref in (hired.ready, *hired.asked) if ref is not None}
        answered, _ = ray.wait(list(owners), num_returns=1, timeout=1.0)
        for ref in answered:
            self._heard(owners[ref], ref)
        self._require_workers()

    def _start(self, root: str) -> None:
        """Connects and hires."""
        import ray

        self._stack.enter_context(connected(self._place.address))
        mark = self._stack.enter_context(_marked(root))
        self._given = WorkerConfig(settings.carried_environment(), versions(), root, mark, socket.gethostname())
        self._stack.callback(lambda: [ray.kill(hired.actor) for hired in self._hired])
        found = seats(ray.nodes(), self._place)[: self._most]
        self._seats = len(found)
        for seat in found:
            self._hire(seat)

    def _hire(self, seat: WorkerSlot) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Soft: a machine that is gone leaves its worker's place to any other.
        where = NodeAffinitySchedulingStrategy(seat.node, soft=True)
        actor = ray.remote(Worker).options(num_cpus=seat.cpus, num_gpus=seat.gpus, scheduling_strategy=where).remote()
        self._hired.append(_WorkerHandle(seat, actor, actor.prepare.remote(self._given)))

    def _hand_out(self) -> None:
        """Gives every free worker some tasks, those of the model that it holds before others."""
        for hired in self._hired:
            if hired.ready is not None or hired.asked or not self._waiting:
                continue
            fitting = [task for task in self._waiting if task.parts[0].model == hired.model] or self._waiting
            first = fitting[0].parts[0]
            alike = [task for task in fitting if (task.parts[0].model, task.parts[0].step) == (first.model, first.step)]
            # Ever fewer towards the end, so that all workers end together.
            together = alike[: min(MOST_TOGETHER, -(-len(alike) // len(self._hired)))]
            for number, task in enumerate(together, start=1):
                self._waiting.remove(task)
                self._busy.append(task)
                for part in [each for each in task.parts if _key(each) not in self._found]:
                    others = [each for other in together[number:] for each in other.parts if each.step == part.step]
                    asked = replace(part, beside=tuple(each.recipe for each in others if each.recipe))
                    hired.asked[hired.actor.compute.remote(asked.to_json())] = (task, part)
            hired.model = first.model

    def _heard(self, hired: _WorkerHandle, ref: Any) -> None:  # noqa: ANN401 - Ray's references
        """Takes what a worker has answered, or notes that it is dead."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = ray.get(ref)
        except RayTaskError:
            raise  # a bug in the worker's own code
        except RayError as error:
            self._lost(hired, error)
            return
        if ref == hired.ready:
            hired.ready, self._deaths_at_start = None, 0
            if answer is not None:
                raise answer
        else:
            _, part = hired.asked.pop(ref)
            self._found[_key(part)] = answer

    def _lost(self, hired: _WorkerHandle, error: Exception) -> None:
        """Gives a dead worker's tasks to others and its place to a new one."""
        import ray

        reason = str(error).strip().partition("\n")[0]
        self._hired.remove(hired)
        ray.kill(hired.actor)  # it may only be out of reach
        if hired.ready is not None:
            self._deaths_at_start += 1
            if self._deaths_at_start >= MOST_DEATHS * self._seats:
                raise ComputationError(f"workers on the Ray cluster die as they start: {error}")
        open_tasks = list(dict.fromkeys(task.name for task, _ in hired.asked.values()))
        for task in [task for task in self._busy if task.name in open_tasks]:
            task.deaths += task.name == open_tasks[0]  # the others had not begun
            if task.deaths >= MOST_DEATHS:
                why = ComputationError(f"{MOST_DEATHS} workers died computing it; the last one: {reason}")
                for part in task.parts:
                    self._found.setdefault(_key(part), TaskOutcome(error=why))
            else:
                if task.deaths == MOST_DEATHS - 1 and _may_be_memory(error):
                    task.parts = tuple(replace(part, is_halved=True) for part in task.parts)
                self._busy.remove(task)
                self._waiting.insert(0, task)
        if open_tasks:
            self._tell(f"a Ray worker died; {', '.join(open_tasks)} will be taken up by another ({reason})")
        self._hire(hired.seat)

    def _require_workers(self) -> None:
        """Says that there is no worker, and gives up in the end.

        Raises:
            ComputationError: none came.
        """
        if any(hired.ready is None for hired in self._hired):
            self._alone_since, self._has_told = None, False
            return
        self._alone_since = self._alone_since or time.monotonic()
        waited = time.monotonic() - self._alone_since
        if waited > SAID_AFTER and not self._has_told:
            self._has_told = True
            self._tell("waiting for room on the Ray cluster; `ray status` on one of its machines says who uses it")
        if waited > GIVEN_UP_AFTER:
            raise ComputationError(f"no worker started on the Ray cluster within {GIVEN_UP_AFTER:.0f} s; is it busy?")


def _may_be_memory(error: Exception) -> bool:
    """Whether the worker alone died, as the system kills it; not its machine, and not the way to it."""
    from ray.exceptions import ActorUnavailableError

    return not isinstance(error, ActorUnavailableError) and "its node has died" not in str(error)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the cluster, by dagster-ray; it ends with the block, and a local cluster with it.

    Raises:
        InputError: Ray is not installed, or there is no cluster.
    """
    try:
        from prunescope.assets.execution.ray.cluster import Connection
    except ModuleNotFoundError as error:
        raise InputError(f"a Ray cluster needs {error.name}; pip install 'prunescope[ray]'") from error
    from dagster import build_init_resource_context
    from dagster_ray import Lifecycle

    # A cluster that starts here calls nobody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Connected here: dagster-ray would log the traceback of what is told in one line.
    lifecycle = Lifecycle(connect=False, cleanup="never")
    connection = Connection(address=address, object_store_bytes=OBJECT_STORE, lifecycle=lifecycle)
    context = build_init_resource_context()
    with connection.yield_for_execution(context):
        connection.connect(context)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)
        yield


@contextmanager
def _marked(root: str) -> Iterator[str]:
    """A file in the warehouse while the block lasts, by which a worker knows that it sees the same folder."""
    place = Store(root).root
    if not is_local(place):
        yield ""
        return
    Path(root).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f"{PREFIX}ray-", dir=root) as file:
        yield file.name


# The fleet of this process, which every run in it uses: several Dagster runs make one study.
_IN_USE: list[WorkerPool] = []


@contextmanager
def _in_use(fleet: WorkerPool) -> Iterator[None]:
    _IN_USE.append(fleet)
    try:
        yield
    finally:
        _IN_USE.remove(fleet)


@contextmanager
def fleet_of(place: RayClusterConfig, tell: Callable[[str], None]) -> Iterator[WorkerPool]:
    """The fleet of this process; where there is none, one of a single worker for a run on its own."""
    if _IN_USE:
        yield _IN_USE[-1]
    else:
        with WorkerPool(place, tell, most=1) as fleet:
            yield fleet
