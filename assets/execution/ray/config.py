"""Which Ray cluster a study is computed on. No Ray here: this is what a command line or a run's configuration says."""

from dataclasses import dataclass

from prunescope.pipelines.core.errors import InputError


@dataclass(frozen=True)
class RayClusterConfig:
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

    def __post_init__(self) -> None:
        """Refuses what Ray would refuse later.

        Raises:
            InputError: more than one GPU, and a part of one.
        """
        gpus = self.gpus_per_task
        if gpus is not None and gpus > 1 and gpus % 1:
            raise InputError(
                f"--gpus-per-task {gpus:g}: Ray divides one GPU only; give a whole number, or a part such as 0.5"
            )
