"""Estimates of `prunescope plan`: the partitions to compute or reuse. Their cost belongs to `forecast`.

Torch is imported only if partitions are to be computed.
"""

from collections.abc import Sequence
from typing import NamedTuple

from prunescope.assets.instance import settings
from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.steps import SEARCH_TABLES, partition_tables
from prunescope.assets.planning.work_plan import PartitionWork, model_work
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.evaluation.retrieval.beir_data import has_files
from prunescope.pipelines.models.sources import locate_config, shipped_outline
from prunescope.pipelines.studies import Study
from prunescope.warehouse.maintenance.verified_files import VerifiedFiles
from prunescope.warehouse.storage.partition_store import Store


class ModelEstimate(NamedTuple):
    """Cost of one model of a study.

    Attributes:
        rows: one row per partition; that of the model's own tables has the seconds of the dense model for all variants.
        warnings: sentences about what is missing or does not fit.
        lines: the other sentences of the summary.
    """

    rows: Sequence[dict[str, object]]
    warnings: Sequence[str]
    lines: Sequence[str]


def estimate_model(
    study: Study, store: Store, progress: Progress, name: str, *, replace: bool, gpu: int | None = None
) -> ModelEstimate:
    """Estimate what a run would do for one model; with `replace` it recomputes what other studies computed.

    With `gpu` it is planned for one GPU with so many bytes, which this machine need not have: no speed is measured.

    Raises:
        InputError: a run would refuse the study, too.
        WarehouseError: the warehouse cannot be read.
    """
    source, warnings, rows = study.model(name).source, list[str](), list[dict[str, object]]()
    try:
        folder, is_whole = locate_config(source, settings.cache_folder(), progress)
    except InputError:
        if (outline_folder := shipped_outline(source)) is None:
            raise
        folder, is_whole = outline_folder, False
    missing = [spec.name for spec in study.retrieval if not has_files(spec)]
    study = study.model_copy(update={"retrieval": tuple(spec for spec in study.retrieval if spec.name not in missing)})
    if is_whole:
        dense = find_model(study, name, progress)
        with VerifiedFiles(store.root, settings.cache_folder()) as files:
            works = model_work(study, store, dense, files, replace=replace)
    else:  # without the weights no partition can be known to be current
        recipes = (None, *study.recipes)
        dense, works = None, [PartitionWork(name, recipe, partition_tables(study, recipe)) for recipe in recipes]
        warnings.append("its weights are not all there; `run` needs them whole, this plan does not")
    warnings += [f"retrieval {one!r} has no files; this plan leaves it out, but `run` needs it" for one in missing]
    for work in works:
        wanted = () if work.is_search else partition_tables(study, work.recipe)
        current = [each for each in wanted if each not in (*work.tables, *SEARCH_TABLES)]
        tables = {"computed": ", ".join(work.tables) or None, "current": ", ".join(current) or None}
        rows.append({"model": name, "recipe": work.recipe and work.recipe.name} | tables)
    if not any(work.tables for work in works):
        return ModelEstimate(rows, warnings, ["everything is current; nothing would be computed"])
    from prunescope.assets.runs.forecast import model_costs

    costs, more, lines = model_costs(study, store, dense, folder, works, gpu)
    rows = [row | cost for row, cost in zip(rows, costs, strict=True)]
    return ModelEstimate(rows, [*warnings, *more], lines)
