"""Everything that Dagster loads: assets, jobs, resources, one process a run.

`dagster dev -m assets.definitions`; `prunescope ui` does that with the right instance.
"""

from dagster import Definitions, in_process_executor

from assets.dense import calibration, models
from assets.figures import figure_assets
from assets.inputs import recipe
from assets.jobs import JOBS
from assets.loaded import LOADED
from assets.published import paper_reference
from assets.questions import question_assets
from assets.report import report
from assets.resources import StudyResource, WarehouseResource
from assets.retrieval import retrieval
from assets.speed import speed
from assets.tasks import tasks
from assets.unwritten import UNWRITTEN
from assets.variants import mask_samples, texts, traces, variants

defs = Definitions(
    assets=[
        *(recipe, models, calibration, variants, mask_samples, traces, texts, tasks, retrieval, speed),
        *UNWRITTEN,
        paper_reference,
        *question_assets(),
        *figure_assets(),
        report,
    ],
    jobs=JOBS,
    resources={"study": StudyResource(), "warehouse": WarehouseResource(), "loaded": LOADED},
    # One process per run: steps share the loaded model.
    executor=in_process_executor,
)
