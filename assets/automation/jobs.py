"""The jobs `demo` and `study`, which run a whole study.

A study consists of several partitioned runs (models, variants, the report); its job launches them.
"""

from collections.abc import Mapping, Sequence

from dagster import Config, DagsterLogManager, OpExecutionContext, graph, op
from dagster import Failure as StepFailure

# Dagster has no public names for its tags; the tests of sensors and schedules read the same ones.
from dagster._core.storage.tags import SCHEDULE_NAME_TAG, SENSOR_NAME_TAG, USER_TAG
from pydantic import Field

from prunescope.assets import settings
from prunescope.assets.defs.engine_resource import RayConfig
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.planning.steps import CODE_VERSIONS
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.outcome import Failure
from prunescope.assets.runs.remaining_time import Stage
from prunescope.assets.runs.study_run import run_study
from prunescope.pipelines.core.log_progress import LogProgress
from prunescope.warehouse.storage.partition_store import Store


class WholeStudy(Config):
    """Options of a study's job in addition to its resource `study`."""

    replace: bool = False
    ray: RayConfig | None = Field(
        default=None, description="The Ray cluster to compute on; default: that of RAY_ADDRESS, else this machine."
    )
    answers: bool = Field(default=True, description="Whether to make questions, figures and report at the end.")


@op(description="Computes what the study still needs: one run per model and per variant, one for the answers.")
def whole_study(
    context: OpExecutionContext, config: WholeStudy, study: StudyResource, warehouse: WarehouseResource
) -> None:
    """Launch the runs of a study, as `prunescope run` does."""
    store = warehouse.store()
    cluster = config.ray or (RayConfig() if settings.ray_address() else None)
    result = run_study(
        study.request(store),
        store.root,
        settings.cache_folder(),
        LogListener(context.log),
        replace=config.replace,
        tables=None if config.answers else set(CODE_VERSIONS),
        computes_here=False,
        cluster=cluster.without_dagster() if cluster else None,
        launched_by=_launcher(context.run_tags),
    )
    if result.failures:
        raise StepFailure("\n".join(f"{failure.name}: {failure.message}" for failure in result.failures))


def _launcher(tags: Mapping[str, str]) -> str:
    for kind, tag in (("sensor", SENSOR_NAME_TAG), ("schedule", SCHEDULE_NAME_TAG)):
        if name := tags.get(tag):
            return f"{kind} {name}"
    return tags.get(USER_TAG, "a click")


@graph(description="Run a whole study: models, variants, answers and report. What is current is not computed again.")
def whole() -> None:
    """Define the one step of `demo` and `study`."""
    whole_study()


class LogListener(LogProgress):
    """The receiver of a study's progress that writes to the log of the Dagster run."""

    def __init__(self, log: DagsterLogManager) -> None:
        super().__init__(log.info, "progress")
        self._dagster_log = log

    def waiting(self, holder: str) -> None:
        """Log that another process computes in this warehouse."""
        self._dagster_log.info(f"another run uses this warehouse; waiting for {holder}")

    def planned(self, partitions: int, stages: Sequence[Stage] = ()) -> None:  # noqa: ARG002
        """Log the number of partitions to compute."""
        self._dagster_log.info(f"{partitions} partitions to compute")

    def begins(self, name: str, step: str) -> None:
        """Log nothing: each step is a run of its own."""

    def computed(self, name: str, seconds: float) -> None:
        """Log a finished partition."""
        self._dagster_log.info(f"{name}: {seconds:.1f} s")

    def shared(self, name: str, seconds: float) -> None:
        """Log finished work that several partitions share."""
        self.computed(name, seconds)

    def note(self, message: str) -> None:
        """Log a warning to the user."""
        self._dagster_log.warning(message)

    def failed(self, failure: Failure) -> None:
        """Log a failed partition."""
        self._dagster_log.error(f"{failure.name}: {failure.message}")


def run_config(request: StudyRequest, store: Store, *, answers: bool = True) -> dict[str, object]:
    """Return a run's configuration, which the UI shows and can execute again.

    Args:
        request: the study.
        store: the warehouse.
        answers: for the jobs of a whole study, whether to make questions, figures and report at the end.
    """
    resources = {
        "study": {"config": StudyResource.config_of(request)},
        "warehouse": {"config": {"root": str(store.root)}},
    }
    ops = {} if answers else {"ops": {"whole_study": {"config": {"answers": False}}}}
    return {"resources": resources} | ops


STUDY = whole.to_job(name="study")
JOBS = [whole.to_job(name="demo", config={"resources": {"study": {"config": {"study": "demo"}}}}), STUDY]
