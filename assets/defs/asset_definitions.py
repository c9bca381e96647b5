"""The assets with their resources, and one job per kind of partition; jobs of whole studies are in `automation`."""

from dagster import AssetKey, AssetSelection, Definitions, define_asset_job, in_process_executor

from prunescope.assets.defs.engine_resource import EngineResource
from prunescope.assets.defs.figure_assets import figure_assets
from prunescope.assets.defs.question_assets import question_assets
from prunescope.assets.defs.recipe_asset import RECIPE, recipe
from prunescope.assets.defs.reference_asset import paper_reference
from prunescope.assets.defs.report_asset import report
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.defs.table_assets import table_assets
from prunescope.assets.planning.steps import MODEL_TABLES, SEARCH_TABLES, VARIANT_TABLES

_WAREHOUSE = WarehouseResource.configure_at_launch()


def _tables(names: tuple[str, ...]) -> AssetSelection:
    return AssetSelection.assets(*(AssetKey(name) for name in names))


MODEL_JOB = define_asset_job("model_tables", _tables(MODEL_TABLES), description="Load and calibrate one dense model.")
SEARCH_JOB = define_asset_job(
    "search_tables", _tables(SEARCH_TABLES), description="Search the treatments of one model's sublayers."
)
VARIANT_JOB = define_asset_job("variant_tables", _tables(VARIANT_TABLES), description="Prune and trace one variant.")
ANSWERS = define_asset_job(
    "answers",
    _tables(("paper_reference",)) | AssetSelection.groups("questions", "figures", "report"),
    description="Load the published numbers, answer the questions, draw the figures, write the report.",
)
_RECIPES = define_asset_job("recipes", AssetSelection.assets(RECIPE), description="Publish a recipe's parameters.")

definitions = Definitions(
    assets=[recipe, *table_assets(), paper_reference, *question_assets(), *figure_assets(), report],
    jobs=[_RECIPES, MODEL_JOB, VARIANT_JOB, SEARCH_JOB, ANSWERS],
    resources={"study": StudyResource(), "warehouse": _WAREHOUSE, "engine": EngineResource(warehouse=_WAREHOUSE)},
    # A run does little itself: an engine computes.
    executor=in_process_executor,
)
