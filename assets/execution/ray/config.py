"""The configuration of a Ray cluster, without importing Ray."""

from dataclasses import dataclass

from prunescope.pipelines.core.errors import InputError


@dataclass(frozen=True)
class RayClusterConfig:
    """The cluster to compute on, and the share of it that each worker takes.

    Attributes:
        address: `local` starts a cluster on this machine; `auto` uses the one that this machine belongs to;
            `HOST:PORT` is the head of a cluster that this machine belongs to, `ray://HOST:10001` of another one.
        gpus_per_task: GPUs of a worker, or a fraction of one; None: one if the cluster has any.
        cpus_per_task: CPUs and threads of a worker; None: those of its machine, divided among the machine's workers.
    """

    address: str
    gpus_per_task: float | None = None
    cpus_per_task: int | None = None

    def __post_init__(self) -> None:
        """Check early what Ray would refuse later.

        Raises:
            InputError: the number of GPUs is above one and not whole.
        """
        gpus = self.gpus_per_task
        if gpus is not None and gpus > 1 and gpus % 1:
            raise InputError(
                f"--gpus-per-task {gpus:g}: Ray divides one GPU only; give a whole number, or a part such as 0.5"
            )
