"""Everything that Dagster loads: assets, jobs, resources, one process a run.

`dagster dev -m assets.definitions`; `prunescope ui` does that with the right instance.
"""

from dagster import Definitions, in_process_executor

from assets.engines import EngineResource
from assets.figures import figure_assets
from assets.inputs import recipe
from assets.jobs import JOBS
from assets.published import paper_reference
from assets.questions import question_assets
from assets.report import report
from assets.resources import StudyResource, WarehouseResource
from assets.tables import table_assets

_WAREHOUSE = WarehouseResource.configure_at_launch()

defs = Definitions(
    assets=[
        recipe,
        *table_assets(),
        paper_reference,
        *question_assets(),
        *figure_assets(),
        report,
    ],
    jobs=JOBS,
    resources={"study": StudyResource(), "warehouse": _WAREHOUSE, "engine": EngineResource(warehouse=_WAREHOUSE)},
    # A run is little work of its own: what is heavy happens in an engine.
    executor=in_process_executor,
)
