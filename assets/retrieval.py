"""Asset of retrieval: what a variant's embeddings find, beside the dense model's.

One partition a variant, in studies that name a data set.
"""

import time
from collections.abc import Iterator

from dagster import AssetCheckResult, AssetExecutionContext, AssetKey, MaterializeResult, ResourceParam, multi_asset

from assets.dense import GPU, table_spec
from assets.fingerprints import RETRIEVAL_TABLES
from assets.loaded import LoadedModels
from assets.metadata import check_specs, left_alone
from assets.partitions import VARIANTS
from assets.resources import StudyResource, Subject, WarehouseResource
from warehouse.tables import TABLES


@multi_asset(
    name="retrieval",
    specs=[table_spec(table, "tasks", [AssetKey("variants")]) for table in RETRIEVAL_TABLES],
    check_specs=check_specs([TABLES[table] for table in RETRIEVAL_TABLES]),
    partitions_def=VARIANTS,
    pool=GPU,
)
def retrieval(
    context: AssetExecutionContext,
    study: StudyResource,
    warehouse: WarehouseResource,
    loaded: ResourceParam[LoadedModels],
) -> Iterator[MaterializeResult | AssetCheckResult]:
    """Embeds the study's queries and documents with the variant, and scores what they find."""
    subject = Subject.of(context, study, warehouse)
    if not subject.asks(RETRIEVAL_TABLES):
        yield from left_alone([TABLES[table] for table in RETRIEVAL_TABLES])
        return
    started = time.perf_counter()
    decoder, session = loaded.decoder(subject.dense, subject.study), loaded.retrieval(subject.dense, subject.study)
    recipe = subject.variant_recipe.name
    tables = session.measure(recipe, subject.variant(recipe), loaded.progress)
    seconds = time.perf_counter() - started
    told = {f"{row['data_set']} {row['metric']}": row["value"] for row in tables["retrieval_scores"].to_dicts()}
    for table in RETRIEVAL_TABLES:
        extra = told if table == "retrieval_scores" else None
        yield subject.write(table, tables[table], seconds, str(decoder.device), extra)
