"""Jobs: one per kind of partition, which `prunescope run` executes, and `demo` and `study`, which do a whole study.

A whole study spans models, variants and the report, that is several partitioned runs, so its job starts those.
"""

from dagster import (
    AssetKey,
    AssetSelection,
    Config,
    DagsterLogManager,
    OpExecutionContext,
    define_asset_job,
    graph,
    op,
)
from dagster import Failure as StepFailure

from assets import settings
from assets.fingerprints import MODEL_TABLES, VARIANT_TABLES
from assets.inputs import RECIPE
from assets.resources import StudyResource, WarehouseResource
from assets.run import Failure, run_study
from assets.telling import Lines


class WholeStudy(Config):
    """What is asked beside the study itself, which stands in its resource."""

    replace: bool = False


@op(description="Computes what the study still needs: one run per model and per variant, one for the answers.")
def whole_study(
    context: OpExecutionContext, config: WholeStudy, study: StudyResource, warehouse: WarehouseResource
) -> None:
    """Starts the runs of a study, as `prunescope run` does."""
    request = study.request()
    listener = LogListener(context.log)
    root = warehouse.store().root
    outcome = run_study(request, root, settings.cache_folder(), listener, replace=config.replace, computes_here=False)
    if outcome.failures:
        raise StepFailure("\n".join(f"{failure.name}: {failure.message}" for failure in outcome.failures))


@graph(description="Run a whole study: models, variants, answers and report. What is current is not computed again.")
def whole() -> None:
    """The one step of `demo` and `study`."""
    whole_study()


class LogListener(Lines):
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

    def failed(self, failure: Failure) -> None:
        """A partition failed."""
        self._log.error(f"{failure.name}: {failure.message}")


def _tables(names: tuple[str, ...]) -> AssetSelection:
    return AssetSelection.assets(*(AssetKey(name) for name in names))


JOBS = [
    whole.to_job(name="demo", config={"resources": {"study": {"config": {"study": "demo"}}}}),
    whole.to_job(name="study"),
    define_asset_job("recipes", AssetSelection.assets(RECIPE), description="Publish a recipe's parameters."),
    define_asset_job("model_tables", _tables(MODEL_TABLES), description="Load and calibrate one dense model."),
    define_asset_job("variant_tables", _tables(VARIANT_TABLES), description="Prune and trace one variant."),
    define_asset_job(
        "answers",
        _tables(("paper_reference",)) | AssetSelection.groups("questions", "figures", "report"),
        description="Bring the published numbers, answer the questions, draw the figures, write the report.",
    ),
]
