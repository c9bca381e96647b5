"""The assets with their resources, and the job that refreshes questions, figures and report.

The job of a whole study is in `runs`.
"""

from dagster import AssetSelection, Definitions, define_asset_job, in_process_executor

from prunescope.assets.defs.answer_assets import figure_assets, paper_reference, question_assets, report
from prunescope.assets.defs.recipe_asset import recipe
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.defs.table_assets import EngineResource, table_assets

_WAREHOUSE = WarehouseResource.configure_at_launch()


ANSWERS_JOB = define_asset_job(
    "answers",
    AssetSelection.assets("paper_reference") | AssetSelection.groups("questions", "figures", "report"),
    description="Load the published numbers, answer the questions, draw the figures, write the report.",
)

definitions = Definitions(
    assets=[recipe, *table_assets(), paper_reference, *question_assets(), *figure_assets(), report],
    jobs=[ANSWERS_JOB],
    resources={"study": StudyResource(), "warehouse": _WAREHOUSE, "engine": EngineResource(warehouse=_WAREHOUSE)},
    # All steps share the run's process: the engine computes in it, unless Ray is used.
    executor=in_process_executor,
)
