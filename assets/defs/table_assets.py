"""The assets of the tables that studies fill: one asset per table, one multi-asset per step."""

from collections.abc import Iterator

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    MaterializeResult,
    multi_asset,
)

from prunescope.assets.defs.engine_resource import EngineResource
from prunescope.assets.defs.materialization_events import upstream
from prunescope.assets.defs.metadata import check_specs, table_metadata
from prunescope.assets.defs.partitions import MODELS, VARIANTS
from prunescope.assets.defs.resources import StudyResource
from prunescope.assets.planning.steps import CODE_VERSIONS, STEPS, Step
from prunescope.warehouse.tables import ABOUT, TABLES

GPU = "gpu"


def table_assets() -> list[AssetsDefinition]:
    """Return the multi-asset of every step, in the order of the data flow."""
    return [_asset(step) for step in STEPS.values()]


def _asset(step: Step) -> AssetsDefinition:
    partitions = MODELS if step.is_of_model else VARIANTS

    @multi_asset(
        name=step.name,
        specs=[_spec(step, table) for table in step.tables],
        check_specs=check_specs([TABLES[table] for table in step.tables], partitions),
        partitions_def=partitions,
        description=step.description,
        pool=GPU,
        # Without it Dagster wants the results of all checks, also of tables that a run leaves as they are.
        can_subset=True,
    )
    def computed(
        context: AssetExecutionContext, study: StudyResource, engine: EngineResource
    ) -> Iterator[MaterializeResult]:
        yield from engine.run_step(context, step.name, study)

    return computed


def _spec(step: Step, table: str) -> AssetSpec:
    return AssetSpec(
        table,
        group_name=step.group,
        kinds={"parquet", "pytorch"},
        description=f"{ABOUT[table]}\n\n{TABLES[table].grain}",
        deps=upstream(step),
        code_version=CODE_VERSIONS[table],
        metadata=table_metadata(TABLES[table]),
        # A study may request no table of this step.
        skippable=not step.is_of_model or bool(step.study_fields),
    )
