"""Assets of the variants: prune, then trace the pruned model beside the dense one, on prompts and on texts.

One partition a variant, `model|recipe`.
"""

import time
from collections.abc import Iterator
from pathlib import PurePosixPath

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    multi_asset,
)

from assets.dense import GPU, STATISTICS, table_spec
from assets.fingerprints import MASK_TABLE, TEXT_TABLE, TRACE_TABLES
from assets.inputs import RECIPE
from assets.loaded import LoadedModels
from assets.metadata import check_specs, left_alone
from assets.partitions import VARIANTS
from assets.plan import unfinished_folder
from assets.resources import StudyResource, Subject, WarehouseResource
from assets.statistics import statistics_of
from warehouse.tables import TABLES


@multi_asset(
    name="variants",
    specs=[table_spec("variants", "variants", [RECIPE, *(AssetKey(name) for name in ("models", *STATISTICS))])],
    check_specs=check_specs([TABLES["variants"]]),
    partitions_def=VARIANTS,
    pool=GPU,
)
def variants(
    context: AssetExecutionContext,
    study: StudyResource,
    warehouse: WarehouseResource,
    loaded: ResourceParam[LoadedModels],
) -> Iterator[MaterializeResult]:
    """Prunes: what changed goes into a small file that rebuilds the variant, its counts into a row."""
    from pipelines.calibration import tokens_hash
    from pipelines.pruning.layer_files import discard
    from pipelines.pruning.row import variant_row

    subject = Subject.of(context, study, warehouse)
    recipe, identity = subject.variant_recipe, subject.dense.identity
    decoder = loaded.decoder(subject.dense, subject.study)
    tokens = loaded.tokens(subject.dense, subject.study) if recipe.is_calibrated else None
    variant, seconds = loaded.pruned(
        subject.dense, subject.study, recipe, lambda recipes: statistics_of(subject, recipes, tokens)
    )
    path = subject.store.write_bytes(
        subject.variant_file, lambda temporary: variant.save(temporary, recipe, identity.weight_hash)
    )
    calibrated_on = None if tokens is None else tokens_hash(tokens)
    rows = variant_row(decoder, subject.model, recipe, variant, calibrated_on, path.stat().st_size, seconds)
    yield subject.write("variants", rows, seconds, str(decoder.device), {"masks": MetadataValue.path(str(path))})
    discard(unfinished_folder(subject.store, subject.model) / recipe.name)
    for older in subject.store.files(str(PurePosixPath(subject.variant_file).parent)):
        if older.name != path.name:
            older.unlink()


@multi_asset(
    name=MASK_TABLE,
    specs=[table_spec(MASK_TABLE, "variants", [AssetKey("variants")])],
    check_specs=check_specs([TABLES[MASK_TABLE]]),
    partitions_def=VARIANTS,
    pool=GPU,
)
def mask_samples(
    context: AssetExecutionContext,
    study: StudyResource,
    warehouse: WarehouseResource,
    loaded: ResourceParam[LoadedModels],
) -> Iterator[MaterializeResult]:
    """Looks at the variant's masks where every variant of the model is looked at."""
    from pipelines.pruning.mask_samples import mask_samples as sample

    subject = Subject.of(context, study, warehouse)
    started = time.perf_counter()
    decoder, recipe = loaded.decoder(subject.dense, subject.study), subject.variant_recipe.name
    rows = sample(decoder, subject.model, recipe, subject.variant(recipe))
    yield subject.write(MASK_TABLE, rows, time.perf_counter() - started, str(decoder.device))


@multi_asset(
    name="traces",
    specs=[table_spec(table, "traces", [AssetKey("variants")]) for table in TRACE_TABLES],
    check_specs=check_specs([TABLES[table] for table in TRACE_TABLES]),
    partitions_def=VARIANTS,
    pool=GPU,
)
def traces(
    context: AssetExecutionContext,
    study: StudyResource,
    warehouse: WarehouseResource,
    loaded: ResourceParam[LoadedModels],
) -> Iterator[MaterializeResult | AssetCheckResult]:
    """Measures the variant against the dense model, layer by layer and token by token."""
    subject = Subject.of(context, study, warehouse)
    if not subject.asks(TRACE_TABLES):
        yield from left_alone([TABLES[table] for table in TRACE_TABLES])
        return
    decoder = loaded.decoder(subject.dense, subject.study)
    tables, seconds = loaded.traced(subject.dense, subject.study, subject.variant_recipe.name, subject.variant)
    for table in TRACE_TABLES:
        yield subject.write(table, tables[table], seconds, str(decoder.device))


@multi_asset(
    name="texts",
    specs=[table_spec(TEXT_TABLE, "traces", [AssetKey("variants")])],
    check_specs=check_specs([TABLES[TEXT_TABLE]]),
    partitions_def=VARIANTS,
    pool=GPU,
)
def texts(
    context: AssetExecutionContext,
    study: StudyResource,
    warehouse: WarehouseResource,
    loaded: ResourceParam[LoadedModels],
) -> Iterator[MaterializeResult | AssetCheckResult]:
    """Measures the variant against the dense model on the study's texts; no text, no row."""
    subject = Subject.of(context, study, warehouse)
    if not subject.asks((TEXT_TABLE,)):
        yield from left_alone([TABLES[TEXT_TABLE]])
        return
    started = time.perf_counter()
    decoder = loaded.decoder(subject.dense, subject.study)
    session = loaded.texts(subject.dense, subject.study)
    variant = subject.variant(subject.variant_recipe.name)
    rows = session.trace(subject.variant_recipe.name, variant, loaded.progress)
    yield subject.write(TEXT_TABLE, rows, time.perf_counter() - started, str(decoder.device))
