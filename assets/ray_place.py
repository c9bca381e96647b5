"""Which Ray cluster a study is computed on. No Ray here: this is what a command line or a run's configuration says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RayPlace:
    """Which cluster, and how much of it a worker takes.

    Attributes:
        address: `local` starts one on this machine, `auto` takes the one that this machine belongs to, else
            `HOST:PORT` of its head (this machine belongs to it) or `ray://HOST:10001` (it does not).
        gpus_per_task: GPUs of a worker, a part of one too; none: one where the cluster has any.
        cpus_per_task: CPUs of a worker, and its threads; none: a machine's, divided among its workers.
    """

    address: str
    gpus_per_task: float | None = None
    cpus_per_task: int | None = None
