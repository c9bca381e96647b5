"""Assets of the dense models: identity, and what one pass over the calibration tokens shows.

One partition a model.
"""

import time
from collections.abc import Iterator

from dagster import AssetExecutionContext, AssetKey, AssetSpec, MaterializeResult, ResourceParam, multi_asset

from assets import fingerprints
from assets.loaded import LoadedModels
from assets.metadata import check_specs, table_metadata
from assets.partitions import MODELS
from assets.resources import StudyResource, Subject, WarehouseResource
from warehouse.tables import TABLES

GPU = "gpu"
STATISTICS = ("activation_stats", "block_influence")


def table_spec(table: str, group: str, deps: list[AssetKey]) -> AssetSpec:
    """The asset of a table: everything that the UI shows comes from the table's definition."""
    return AssetSpec(
        table,
        group_name=group,
        kinds={"parquet", "pytorch"},
        description=TABLES[table].grain,
        deps=deps,
        code_version=fingerprints.CODE_VERSIONS[table],
        metadata=table_metadata(TABLES[table]),
        # Of most tables of variants a study may ask nothing.
        skippable=table in fingerprints.VARIANT_TABLES,
    )


@multi_asset(
    name="models",
    specs=[table_spec("models", "models", [])],
    check_specs=check_specs([TABLES["models"]]),
    partitions_def=MODELS,
    pool=GPU,
)
def models(
    context: AssetExecutionContext,
    study: StudyResource,
    warehouse: WarehouseResource,
    loaded: ResourceParam[LoadedModels],
) -> Iterator[MaterializeResult]:
    """Loads a dense model, proves its structure, writes its sizes and hashes."""
    from pipelines.models.describe import model_row

    subject = Subject.of(context, study, warehouse)
    started = time.perf_counter()
    decoder = loaded.decoder(subject.dense, subject.study)
    rows = model_row(decoder, subject.model, subject.dense.spec.source, subject.dense.identity)
    yield subject.write("models", rows, time.perf_counter() - started, str(decoder.device))


@multi_asset(
    name="calibration",
    specs=[table_spec(table, "statistics", [AssetKey("models")]) for table in STATISTICS],
    check_specs=check_specs([TABLES[table] for table in STATISTICS]),
    partitions_def=MODELS,
    pool=GPU,
)
def calibration(
    context: AssetExecutionContext,
    study: StudyResource,
    warehouse: WarehouseResource,
    loaded: ResourceParam[LoadedModels],
) -> Iterator[MaterializeResult]:
    """Runs the dense model once over the calibration tokens."""
    from pipelines.calibration import calibrate

    subject = Subject.of(context, study, warehouse)
    started = time.perf_counter()
    decoder = loaded.decoder(subject.dense, subject.study)
    seen = calibrate(decoder, subject.study.calibration, subject.model, loaded.progress)
    seconds = time.perf_counter() - started
    yield subject.write("activation_stats", seen.activation_stats, seconds, str(decoder.device))
    yield subject.write("block_influence", seen.block_influence, seconds, str(decoder.device))
