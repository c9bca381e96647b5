"""The asset of speed: the variant and the dense model timed in turn.

One partition a variant, `model|recipe`.
"""

import time
from collections.abc import Iterator

from dagster import AssetCheckResult, AssetExecutionContext, AssetKey, MaterializeResult, ResourceParam, multi_asset

from assets.dense import GPU, table_spec
from assets.fingerprints import SPEED_TABLE
from assets.loaded import LoadedModels
from assets.metadata import check_specs, left_alone
from assets.partitions import VARIANTS
from assets.resources import StudyResource, Subject, WarehouseResource
from warehouse.tables import TABLES


@multi_asset(
    name=SPEED_TABLE,
    specs=[table_spec(SPEED_TABLE, "tasks", [AssetKey("variants")])],
    check_specs=check_specs([TABLES[SPEED_TABLE]]),
    partitions_def=VARIANTS,
    pool=GPU,
)
def speed(
    context: AssetExecutionContext,
    study: StudyResource,
    warehouse: WarehouseResource,
    loaded: ResourceParam[LoadedModels],
) -> Iterator[MaterializeResult | AssetCheckResult]:
    """Times the variant in turn with the dense model; a study without `speed`, nothing written."""
    from pipelines.speed import speed_rows

    subject = Subject.of(context, study, warehouse)
    if not subject.asks((SPEED_TABLE,)):
        yield from left_alone([TABLES[SPEED_TABLE]])
        return
    started, recipe = time.perf_counter(), subject.variant_recipe.name
    decoder = loaded.decoder(subject.dense, subject.study)
    rows = speed_rows(
        decoder, subject.model, recipe, subject.variant(recipe), subject.study.speed, progress=loaded.progress
    )
    yield subject.write(SPEED_TABLE, rows, time.perf_counter() - started, str(decoder.device))
