"""Units of work as tasks of a Ray cluster: a model's own steps, then its variants in groups and its search.

Ray places the tasks and runs each in a process of its own; a lost one is sent again from here, in smaller parts. Ray's
`ActorPool` does neither: its actors keep the memory of earlier models, and it sends nothing again.
"""

import math
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunescope.assets.execution.compute import compute
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.partition_context import library_versions
from prunescope.assets.execution.ray.cluster import connected
from prunescope.assets.execution.task import Event, ModelTask, StepFailed
from prunescope.assets.instance import settings
from prunescope.assets.planning.steps import CODE_VERSIONS
from prunescope.pipelines.core.atomic_write import PREFIX, host
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store

# How often a part whose process was lost is sent again.
RETRIES = 2
# Variants of a part; eight share most of the dense model's work, which each part repeats.
MAX_VARIANTS = 8
# Seconds to wait for a machine with room for a part, after those that had it are gone.
PATIENCE_SECONDS = 300


def compute_on_ray(
    tasks: Sequence[ModelTask],
    address: str,
    log: Callable[[str], None],
    gpus_per_task: float | None = None,
    cpus_per_task: int | None = None,
) -> Iterator[tuple[ModelTask, Event]]:
    """Compute models, one per task, on a cluster; yield each event with its part of a task as soon as that has ended.

    `log` receives a line when a process, or the last machine with room for one, is lost. The address is as in
    `connected`, the numbers as in `room`.

    Raises:
        InputError: the cluster cannot be reached, has no room, or its machines cannot use this warehouse.
        ComputationError: the machines with room were lost, and none has come back.
    """
    if not tasks:
        return
    import ray
    from ray.exceptions import RayError, RayTaskError

    with connected(address), _marker_file(tasks[0].root) as marker:
        # As arguments, because Ray logs the environments that it sets itself.
        given = versions(), marker, socket.gethostname(), settings.carried_environment()
        cpus, gpus, at_once = room(ray.nodes(), gpus_per_task, cpus_per_task)
        # Each part has a process of its own, so none keeps a model in memory that another needs.
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=1)(compute_part)
        # By Ray's reference to the answer: the part, and how often its process was lost.
        sent: dict[Any, tuple[ModelTask, int]] = {}

        def send(parts: Sequence[ModelTask], losses: int = 0) -> None:
            for part in parts:
                halved = replace(part, halves_batches=part.halves_batches or losses >= RETRIES)
                sent[remote.remote(halved, *given)] = part, losses

        later, waited = dict[str, list[ModelTask]](), 0
        for task in tasks:
            own = task.only(lambda recipe, step: recipe is None and step != "search")
            others = groups(task.only(lambda recipe, step: recipe is not None or step == "search"), at_once=at_once)
            later[task.model] = others if own.steps else []
            send([own] if own.steps else others)
        try:
            while sent:
                # One second, because Ray holds Ctrl-C back until the wait ends.
                answered, _ = ray.wait(list(sent), timeout=1.0)
                waited = 0 if answered or parts_at_once(sizes_of(ray.nodes()), cpus, gpus) else waited + 1
                needed = f"{cpus} CPUs and {gpus:g} GPUs"
                if waited == 1:
                    log(f"the Ray cluster has lost its machines with {needed}; waiting for another one")
                if waited > PATIENCE_SECONDS:
                    raise ComputationError(
                        f"the Ray cluster has had no machine with {needed} for {PATIENCE_SECONDS} s; the same command "
                        "continues on the machines that there are then"
                    )
                for reference in answered:
                    part, losses = sent.pop(reference)
                    try:
                        events = ray.get(reference)
                    except RayTaskError as error:  # raised by the part itself
                        raise error.cause from error
                    except RayError as error:
                        reason = str(error).strip().partition("\n")[0]
                        names = ", ".join(dict.fromkeys(part.name(*step) for step in part.steps))
                        log(f"a process on the Ray cluster was lost computing {names} ({reason})")
                        # Only a variant whose process was lost while it was alone is given up.
                        if losses < RETRIES or len(part.recipes) > 1:
                            most = math.ceil(len(part.recipes) / 2) if losses < RETRIES else 1
                            send(groups(part, most=most), losses + 1)
                            continue
                        lost = f"{1 + losses} processes were lost computing it; the last one: {reason}"
                        events = part.failures(ComputationError(lost))
                    yield from ((part, event) for event in events)
                    # The first answer of a model is that of its own steps; a lost model ends what depends on it.
                    others = later.pop(part.model, [])
                    if not any(isinstance(event, StepFailed) and event.recipe is None for event in events):
                        send(others)
        finally:
            for reference in sent:
                ray.cancel(reference, force=True)


def groups(task: ModelTask, *, at_once: int = 1, most: int = MAX_VARIANTS) -> list[ModelTask]:
    """Divide a model's variants into parts of equal size, of at most `most` variants.

    The model's own steps are one more part.

    Each of the `at_once` parts that are computed at the same time has its share of the variants.
    """
    recipes = task.recipes
    rounds = math.ceil(len(recipes) / (at_once * max(1, most)))
    size = math.ceil(len(recipes) / (at_once * max(1, rounds))) or 1
    chosen = [recipes[start : start + size] for start in range(0, len(recipes), size)]
    parts = [task.only(lambda recipe, _, names=names: recipe in names) for names in [*chosen, [None]]]
    return [part for part in parts if part.steps]


def room(nodes: Sequence[dict[str, Any]], gpus: float | None = None, cpus: int | None = None) -> tuple[int, float, int]:
    """Return the CPUs and GPUs of a part, and how many parts fit at once on the machines of `ray.nodes()`.

    Without a number of GPUs, a part takes one if there is any; without one of CPUs, those that belong to its GPUs, or a
    whole machine: the largest one.

    Raises:
        InputError: no machine has that much, or the number of GPUs is above one and not whole.
    """
    if gpus is not None and gpus > 1 and gpus % 1:
        raise InputError(
            f"--gpus-per-task {gpus:g}: Ray divides one GPU only; give a whole number, or a part such as 0.5"
        )
    sizes = sizes_of(nodes)
    if gpus is None:
        gpus = float(any(has >= 1 for _, has in sizes))
    shares = (
        [cores // int(has / gpus) for cores, has in sizes if has >= gpus] if gpus else [cores for cores, _ in sizes]
    )
    cpus = cpus or max(1, (min if gpus else max)(shares, default=1))
    at_once = parts_at_once(sizes, cpus, gpus)
    if not at_once:
        needed = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        available = "; ".join(f"{cores} CPUs, {has:g} GPUs" for cores, has in sizes)
        raise InputError(
            f"no machine of the Ray cluster has {needed} for a task (it has {available or 'no machine'}); "
            "lower --gpus-per-task or --cpus-per-task"
        )
    return cpus, gpus, at_once


def sizes_of(nodes: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """Return the CPUs and GPUs of each machine of `ray.nodes()` that is alive."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    return [(int(has.get("CPU", 0)), has.get("GPU", 0)) for has in machines]


def parts_at_once(sizes: Sequence[tuple[int, float]], cpus: int, gpus: float) -> int:
    """Return how many parts of so many CPUs and GPUs machines of these sizes compute at the same time."""
    return sum(min(cores // cpus, int(has / gpus)) if gpus else cores // cpus for cores, has in sizes)


def compute_part(
    part: ModelTask, required: Mapping[str, str], marker: str, driver: str, environment: Mapping[str, str]
) -> list[Event]:
    """Compute a part in a process on a machine of the cluster; its errors name the machine, unless it is the driver's.

    `required` are the driver's `versions`, and `environment` its variables for storage and the hub; variables of this
    machine take precedence. `marker` is a file that the driver keeps in the warehouse, empty for an object store.

    Raises:
        InputError: the machine has other versions, or sees another folder than the driver.
        WarehouseError: it cannot use the warehouse.
    """
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    own, where = versions(), "" if socket.gethostname() == driver else f" (on {socket.gethostname()})"
    for name, version_there in required.items():
        if own.get(name) != version_there:
            raise InputError(
                f"{name} is {own.get(name)}, not {version_there}; install the same on every machine{where}"
            )
    try:
        Store(part.root).require()
    except WarehouseError as error:
        raise WarehouseError(f"{error}{where}") from error
    if marker and not Path(marker).exists():
        raise InputError(
            f"the folder {part.root} is not the one that the driver writes to; give a folder that all machines share, "
            f"or s3://BUCKET/PREFIX, as --warehouse{where}"
        )
    return [
        replace(event, message=event.message + where) if isinstance(event, StepFailed) else event
        for event in compute(part, ModelSession())
    ]


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all machines; builds of torch may differ."""
    libraries = {name: found.partition("+")[0] for name, found in library_versions().items()}
    return {f"code of {table}": code for table, code in CODE_VERSIONS.items()} | libraries


@contextmanager
def _marker_file(root: str) -> Iterator[str]:
    """Create a temporary file in a local warehouse, by which machines recognize that they see the same folder.

    Its name identifies this process, so that a later run removes the file if this process is killed.
    """
    if not isinstance(Store(root).root, Path):
        yield ""
        return
    Path(root).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f"{PREFIX}{host()}-{os.getpid()}-", dir=root) as file:
        yield file.name
