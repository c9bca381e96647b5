"""The jobs `demo` and `study`, which run a whole study.

A study spans models, variants and the report, that is several partitioned runs, so its job starts those.
"""

from collections.abc import Mapping

from dagster import (
    Config,
    DagsterLogManager,
    OpExecutionContext,
    graph,
    op,
)
from dagster import Failure as StepFailure
from dagster._core.storage.tags import SCHEDULE_NAME_TAG, SENSOR_NAME_TAG, USER_TAG
from pydantic import Field

from prunescope.assets import settings
from prunescope.assets.defs.engine_resource import RayConfig
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.planning.fingerprints import MODEL_TABLES, VARIANT_TABLES
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.outcome import Failure
from prunescope.assets.runs.study_run import run_study
from prunescope.pipelines.core.log_progress import LogProgress
from prunescope.warehouse.storage.partition_store import Store


class WholeStudy(Config):
    """What is asked beside the study itself, which stands in its resource."""

    replace: bool = False
    ray: RayConfig | None = Field(
        default=None, description="The Ray cluster that computes, by default that of RAY_ADDRESS; none: this machine."
    )
    answers: bool = Field(default=True, description="Whether questions, figures and report are made in the end.")


@op(description="Computes what the study still needs: one run per model and per variant, one for the answers.")
def whole_study(
    context: OpExecutionContext, config: WholeStudy, study: StudyResource, warehouse: WarehouseResource
) -> None:
    """Starts the runs of a study, as `prunescope run` does."""
    store, cache = warehouse.store(), settings.cache_folder()
    request, listener = study.request(store), LogListener(context.log)
    cluster = config.ray or (RayConfig() if settings.ray_address() else None)
    tables = None if config.answers else {*MODEL_TABLES, *VARIANT_TABLES}
    outcome = run_study(
        request,
        store.root,
        cache,
        listener,
        replace=config.replace,
        tables=tables,
        computes_here=False,
        place=cluster.place() if cluster else None,
        asked_by=_starter(context.run_tags),
    )
    if outcome.failures:
        raise StepFailure("\n".join(f"{failure.name}: {failure.message}" for failure in outcome.failures))


def _starter(tags: Mapping[str, str]) -> str:
    """Who started a run."""
    for kind, tag in (("sensor", SENSOR_NAME_TAG), ("schedule", SCHEDULE_NAME_TAG)):
        if name := tags.get(tag):
            return f"{kind} {name}"
    return tags.get(USER_TAG, "a click")


@graph(description="Run a whole study: models, variants, answers and report. What is current is not computed again.")
def whole() -> None:
    """The one step of `demo` and `study`."""
    whole_study()


class LogListener(LogProgress):
    """Tells Dagster's log of the run how far a study is."""

    def __init__(self, log: DagsterLogManager) -> None:
        super().__init__(log.info, "progress")
        self._log = log

    def waiting(self) -> None:
        """Another process computes in this warehouse."""
        self._log.info("another run is at work in this warehouse; waiting for it")

    def planned(self, partitions: int) -> None:
        """That many partitions will be computed."""
        self._log.info(f"{partitions} partitions to compute")

    def computed(self, name: str, seconds: float) -> None:
        """A partition is done."""
        self._log.info(f"{name}: {seconds:.1f} s")

    def shared(self, name: str, seconds: float) -> None:
        """Work is done that several partitions share."""
        self.computed(name, seconds)

    def note(self, message: str) -> None:
        """Something that the user should know."""
        self._log.warning(message)

    def failed(self, failure: Failure) -> None:
        """A partition failed."""
        self._log.error(f"{failure.name}: {failure.message}")


def run_config(request: StudyRequest, store: Store, *, answers: bool = True) -> dict[str, object]:
    """What a run is told, so that the UI shows it and can execute the run again.

    Args:
        request: which study.
        store: the warehouse.
        answers: for the jobs of a whole study, whether questions, figures and report are made in the end.
    """
    resources = {
        "study": {"config": StudyResource.config_of(request)},
        "warehouse": {"config": {"root": str(store.root)}},
    }
    ops = {} if answers else {"ops": {"whole_study": {"config": {"answers": False}}}}
    return {"resources": resources} | ops


STUDY = whole.to_job(name="study")
JOBS = [whole.to_job(name="demo", config={"resources": {"study": {"config": {"study": "demo"}}}}), STUDY]
