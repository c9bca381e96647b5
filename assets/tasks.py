"""The asset of the tasks: every variant answers what the study asks, and is laid beside the dense model.

One partition a variant, `model|recipe`.
"""

import time
from collections.abc import Iterator

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    multi_asset,
)

from assets.dense import GPU, table_spec
from assets.fingerprints import TASK_TABLES
from assets.loaded import LoadedModels
from assets.metadata import check_specs, left_alone
from assets.partitions import VARIANTS
from assets.resources import StudyResource, Subject, WarehouseResource
from warehouse.formats import render
from warehouse.tables import TABLES


@multi_asset(
    name="tasks",
    specs=[table_spec(table, "tasks", [AssetKey("variants")]) for table in TASK_TABLES],
    check_specs=check_specs([TABLES[table] for table in TASK_TABLES]),
    partitions_def=VARIANTS,
    pool=GPU,
)
def tasks(
    context: AssetExecutionContext,
    study: StudyResource,
    warehouse: WarehouseResource,
    loaded: ResourceParam[LoadedModels],
) -> Iterator[MaterializeResult | AssetCheckResult]:
    """Scores the variant on the study's tasks; no task, nothing written."""
    from pipelines.tasks.score import flips, shares

    subject = Subject.of(context, study, warehouse)
    if not subject.asks(TASK_TABLES):
        yield from left_alone([TABLES[table] for table in TASK_TABLES])
        return
    started = time.perf_counter()
    decoder, recipe = loaded.decoder(subject.dense, subject.study), subject.variant_recipe.name
    session = loaded.tasks(subject.dense, subject.study)
    scored = session.score(recipe, subject.variant(recipe), subject.of_dense("task_samples"), loaded.progress)
    seconds = time.perf_counter() - started
    about = {
        "task_scores": ("scores", shares(scored.scores)),
        "task_samples": ("flips against dense", flips(scored.samples, session.dense)),
    }
    for table, rows in (("task_scores", scored.scores), ("task_samples", scored.samples)):
        name, frame = about[table]
        shown = {name: MetadataValue.md(str(render(frame.to_arrow(), "markdown")))}
        yield subject.write(table, rows, seconds, str(decoder.device), shown)
