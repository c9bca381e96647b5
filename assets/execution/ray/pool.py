"""Units of work on a Ray cluster: a model first, then its variants in chunks, on as many workers as fit.

Ray restarts a worker that dies and repeats its task; what ends here is which task goes to which worker.
"""

import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunescope.assets import settings
from prunescope.assets.execution.ray.cluster import connected
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.ray.worker import Worker, WorkerConfig, versions
from prunescope.assets.execution.task import Event, ModelTask, StepFailed
from prunescope.pipelines.core.atomic_write import PREFIX, host
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.storage.partition_store import Store

# How often Ray starts a worker again, and repeats the task that it died of.
RESTARTS = 2
# Variants that one worker takes together; four save most of the dense model's share.
MAX_VARIANTS = 4
# Seconds without any worker until a message, and until an error.
MESSAGE_SECONDS, GIVE_UP_SECONDS = 15.0, 300.0


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


@dataclass(eq=False)
class _Handle:
    """A worker: its actor, whether it has said that it can work, and the model that it has in memory."""

    slot: WorkerSlot
    actor: Any
    is_ready: bool = False
    model: str = ""


def compute_on_ray(
    tasks: Sequence[ModelTask], cluster: RayClusterConfig, log: Callable[[str], None]
) -> Iterator[tuple[ModelTask, Event]]:
    """Compute tasks on a cluster; yield each event with its task as soon as its worker has ended its share.

    Args:
        tasks: one for each model.
        cluster: the cluster, and the share of it that a worker takes.
        log: receives a line when workers are missing or lost.

    Raises:
        InputError: the cluster cannot be reached, has no room, or its machines cannot use this warehouse.
        ComputationError: the cluster has lost all of its workers.
    """
    if not tasks:
        return
    import ray

    with connected(cluster.address), _marker_file(tasks[0].root) as marker:
        config = WorkerConfig(settings.carried_environment(), versions(), tasks[0].root, marker, socket.gethostname())
        workers = [_Handle(slot, _started(slot, config)) for slot in worker_slots(ray.nodes(), cluster)]
        try:
            yield from _Pool(workers, config, log).events(tasks)
        finally:
            for worker in workers:
                ray.kill(worker.actor)


def chunks(task: ModelTask, workers: int) -> Iterator[ModelTask]:
    """Divide a model's variants among workers, and its search from them.

    A worker gets up to four variants together, because they share the dense model's work; fewer if there would be none
    left for other workers.
    """
    recipes = list(dict.fromkeys(recipe for recipe, _ in task.steps if recipe is not None))
    size = max(1, min(MAX_VARIANTS, len(recipes) // workers))
    for start in range(0, len(recipes), size):
        yield task.only(lambda recipe, _, chosen=recipes[start : start + size]: recipe in chosen)
    if (search := task.only(lambda _, step: step == "search")).steps:
        yield search


class _Pool:
    """The workers, and the tasks that wait or run."""

    def __init__(self, workers: list[_Handle], config: WorkerConfig, log: Callable[[str], None]) -> None:
        self._workers, self._config, self._log = workers, config, log
        self._waiting: deque[ModelTask] = deque()
        # By Ray's reference to the answer; no task if a new worker says whether it can work.
        self._running: dict[Any, tuple[_Handle, ModelTask | None]] = {}
        self._lost_at_start = 0
        self._empty_since, self._has_logged = time.monotonic(), False

    def events(self, tasks: Sequence[ModelTask]) -> Iterator[tuple[ModelTask, Event]]:
        """Compute the tasks, each model's own steps before its variants."""
        import ray

        variants = dict[str, list[ModelTask]]()
        for task in tasks:
            own = task.only(lambda recipe, step: recipe is None and step != "search")
            later = list(chunks(task, len(self._workers)))
            self._waiting.extend([own] if own.steps else later)
            if own.steps:
                variants[task.model] = later
        by_model = {task.model: task for task in tasks}
        while self._waiting or any(task for _, task in self._running.values()):
            self._assign()
            for reference in ray.wait(list(self._running), num_returns=1, timeout=1.0)[0]:
                worker, task = self._running.pop(reference)
                events = self._answer(reference, worker, task)
                if task is None:
                    continue
                for event in events:
                    yield by_model[task.model], event
                # The first answer of a model is that of its own steps.
                if not any(isinstance(event, StepFailed) and event.recipe is None for event in events):
                    self._waiting.extend(variants.pop(task.model, []))
            self._require_workers()

    def _assign(self) -> None:
        """Give every free worker a task, preferably of the model that it has in memory."""
        busy = {worker for worker, _ in self._running.values()}
        for worker in self._workers:
            if worker in busy:
                continue
            if not worker.is_ready:
                self._running[worker.actor.refusal.remote()] = worker, None
            elif self._waiting:
                task = next((task for task in self._waiting if task.model == worker.model), self._waiting[0])
                self._waiting.remove(task)
                worker.model = task.model
                self._running[worker.actor.compute.remote(task)] = worker, task

    def _answer(self, reference: Any, worker: _Handle, task: ModelTask | None) -> list[Event]:  # noqa: ANN401
        """Return the events of a task; if its worker died again and again, begin each of its partitions anew."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = ray.get(reference)
        except RayTaskError:
            raise  # a bug in the worker's own code
        except RayError as error:
            reason = str(error).strip().partition("\n")[0]
            ray.kill(worker.actor)  # it may be alive but out of reach
            worker.actor, worker.is_ready, worker.model = _started(worker.slot, self._config), False, ""
            if task is None:
                self._lost_at_start += 1
                if self._lost_at_start > RESTARTS * len(self._workers):
                    raise ComputationError(f"workers on the Ray cluster die as they start: {reason}") from error
                return []
            self._log(f"{1 + RESTARTS} Ray workers died computing {task.title} ({reason})")
            recipes = dict.fromkeys(recipe for recipe, _ in task.steps)
            if len(recipes) > 1:
                self._waiting.extendleft(task.only(lambda other, _, own=own: other == own) for own in recipes)
                return []
            return task.failed(ComputationError(f"{1 + RESTARTS} workers died computing it; the last one: {reason}"))
        if task is not None:
            return list(answer)
        worker.is_ready, self._lost_at_start = True, 0
        if answer is not None:
            raise answer
        return []

    def _require_workers(self) -> None:
        """Log that no worker is ready, and give up in the end.

        Raises:
            ComputationError: none was ready in time.
        """
        if any(worker.is_ready for worker in self._workers):
            self._empty_since, self._has_logged = time.monotonic(), False
            return
        waited = time.monotonic() - self._empty_since
        if waited > MESSAGE_SECONDS and not self._has_logged:
            self._has_logged = True
            self._log("waiting for room on the Ray cluster; `ray status` on one of its machines shows what uses it")
        if waited > GIVE_UP_SECONDS:
            raise ComputationError(f"no worker started on the Ray cluster within {GIVE_UP_SECONDS:.0f} s; is it busy?")


def _started(slot: WorkerSlot, config: WorkerConfig) -> Any:  # noqa: ANN401 - Ray's handle
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Soft: if the machine is gone, the worker may start on any other.
    options = {
        "num_cpus": slot.cpus,
        "num_gpus": slot.gpus,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(slot.node, soft=True),
        "max_restarts": RESTARTS,
        "max_task_retries": RESTARTS,
    }
    return ray.remote(Worker).options(**options).remote(config)


@contextmanager
def _marker_file(root: str) -> Iterator[str]:
    """Create a temporary file in a local warehouse, by which workers recognize that they see the same folder.

    Its name identifies this process, so that a later run removes the file if this process is killed.
    """
    if not isinstance(Store(root).root, Path):
        yield ""
        return
    Path(root).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f"{PREFIX}{host()}-{os.getpid()}-", dir=root) as file:
        yield file.name
