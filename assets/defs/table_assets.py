"""The assets of the tables that studies fill: one asset a table, one computation a step, one partition a subject.

What a step computes stands in `compute.py`.
"""

from collections.abc import Iterator, Sequence

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    MaterializeResult,
    PartitionsDefinition,
    multi_asset,
)

from prunescope.assets.defs.automation_conditions import Outdated
from prunescope.assets.defs.engine_resource import EngineResource
from prunescope.assets.defs.metadata import check_specs, table_metadata
from prunescope.assets.defs.partitions import MODELS, VARIANTS
from prunescope.assets.defs.recipe_asset import RECIPE
from prunescope.assets.defs.resources import StudyResource
from prunescope.assets.execution.task import STEPS
from prunescope.assets.planning import fingerprints
from prunescope.warehouse.tables import ABOUT, TABLES

GPU = "gpu"
_MODEL, _VARIANT = [AssetKey("models")], [AssetKey("variants")]


def table_assets() -> list[AssetsDefinition]:
    """The asset of every step, in the order of the data flow."""
    pruned_from = [RECIPE, *map(AssetKey, fingerprints.MODEL_TABLES)]
    return [
        _step("models", "models", [], MODELS, "Load a dense model, prove its structure, write its sizes and hashes."),
        _step("calibration", "statistics", _MODEL, MODELS, "Run the dense model once over the calibration tokens."),
        _step("variants", "variants", pruned_from, VARIANTS, "Prune: keep what changed in a small file, count it."),
        _step("mask_samples", "variants", _VARIANT, VARIANTS, "Look at the masks where all variants are looked at."),
        _step("traces", "traces", _VARIANT, VARIANTS, "Measure layer by layer and token by token beside the dense."),
        _step("texts", "traces", _VARIANT, VARIANTS, "Measure on the study's texts beside the dense model."),
        _step("tasks", "tasks", _VARIANT, VARIANTS, "Score on the study's tasks."),
        _step("retrieval", "tasks", _VARIANT, VARIANTS, "Embed queries and documents, score what is found."),
        _step("speed", "tasks", _VARIANT, VARIANTS, "Time in turn with the dense model."),
    ]


def _step(
    step: str, group: str, deps: Sequence[AssetKey], partitions: PartitionsDefinition, description: str
) -> AssetsDefinition:
    @multi_asset(
        name=step,
        specs=[_spec(table, group, deps) for table in STEPS[step]],
        check_specs=check_specs([TABLES[table] for table in STEPS[step]], partitions),
        partitions_def=partitions,
        description=description,
        pool=GPU,
    )
    def computed(
        context: AssetExecutionContext, study: StudyResource, engine: EngineResource
    ) -> Iterator[MaterializeResult | AssetCheckResult]:
        yield from engine.outcomes(context, step, study)

    return computed


def _spec(table: str, group: str, deps: Sequence[AssetKey]) -> AssetSpec:
    """The asset of a table: everything that the UI shows comes from the table's definition."""
    return AssetSpec(
        table,
        group_name=group,
        kinds={"parquet", "pytorch"},
        description=f"{ABOUT[table]}\n\n{TABLES[table].grain}",
        deps=deps,
        code_version=fingerprints.CODE_VERSIONS[table],
        automation_condition=Outdated(),
        metadata=table_metadata(TABLES[table]),
        # Of most tables of variants a study may ask nothing.
        skippable=table in fingerprints.VARIANT_TABLES,
    )
