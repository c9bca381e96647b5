"""What `prunescope plan` tells: what would be computed and what reused, and what it would cost on this machine.

The costs themselves are the business of `prunescope.pipelines.planning`; nothing is computed or written here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from prunescope.assets.planning.fingerprints import (
    MODEL_TABLES,
    RETRIEVAL_TABLES,
    SPEED_TABLE,
    TASK_TABLES,
    TEXT_TABLE,
    TRACE_TABLES,
    find_model,
    variant_tables,
)
from prunescope.assets.planning.work_plan import PartitionWork, model_work
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.evaluation.retrieval.beir_data import is_there
from prunescope.pipelines.evaluation.tasks.definition import find
from prunescope.pipelines.models.sources import locate_config
from prunescope.pipelines.planning.cost_model import Cost, MemoryItem, RowCount, peak
from prunescope.pipelines.studies import Study
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from prunescope.warehouse.schema.size_estimate import expected_bytes
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

# What needs torch is imported where something is to be computed.
if TYPE_CHECKING:
    from prunescope.pipelines.models.meta_model import MetaModel
    from prunescope.pipelines.planning.evaluation_workload import TaskSize
    from prunescope.pipelines.planning.machine_speed import Machine
    from prunescope.pipelines.planning.workload import Workload

# Work by step.
Steps = dict[str, Sequence[Cost]]

SECTIONS = ("partitions", "work", "memory")
_SCHEMA = pl.Schema(
    {
        "section": pl.String,
        "model": pl.String,
        "recipe": pl.String,
        "item": pl.String,
        "when": pl.String,
        "flop": pl.Float64,
        "bytes": pl.Int64,
        "rows": pl.Int64,
        "seconds": pl.Float64,
    }
)


@dataclass(frozen=True)
class ModelEstimate:
    """What one model of a study would cost.

    Attributes:
        model: its name.
        is_whole: whether all of its weights are there.
        lacking: retrieval data sets whose files are not there; nothing of them is in the estimate.
        tables: those of every variant.
        works: every partition, with the tables to compute, which may be none.
        shared: work that all variants share, and that of the model's own tables, by step.
        costs: work of each variant that has tables to compute, by step.
        held: memory of each such variant.
        rows: rows of each partition that would be written.
        machine: measured speeds; None where nothing is to be computed.
        available: bytes that may be filled; None where the system does not tell, or nothing is to be computed.
        uncounted: tasks whose samples a run would fetch.
        movable: bytes of layers on the device that could rest on disk.
        read: bytes of layers that every pass brings to it.
        place: the device, as the study's `memory` calls it.
        refused: recipes that a run would refuse once the layers are found, and why.
    """

    model: str
    is_whole: bool
    lacking: Sequence[str]
    tables: Sequence[str]
    works: Sequence[PartitionWork]
    shared: Steps = field(default_factory=dict)
    costs: Mapping[str, Steps] = field(default_factory=dict)
    held: Mapping[str, Sequence[MemoryItem]] = field(default_factory=dict)
    rows: Mapping[str | None, Sequence[RowCount]] = field(default_factory=dict)
    machine: "Machine | None" = None
    available: int | None = None
    uncounted: Sequence[str] = ()
    movable: int = 0
    read: int = 0
    place: str = "cpu"
    refused: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """All work at the machine's measured speed."""
        return sum(cost.seconds(self.machine) for cost in self.every_cost)

    @property
    def every_cost(self) -> list[Cost]:
        """All work, what is shared first."""
        return [cost for each in (self.shared, *self.costs.values()) for costs in each.values() for cost in costs]

    @property
    def peaks(self) -> dict[str, int]:
        """Bytes at the peak of each variant that is to be computed."""
        return {recipe: peak(held) for recipe, held in self.held.items()}


def estimate(
    study: Study, store: Store, cache: Path, progress: Progress, *, replace: bool = False
) -> list[ModelEstimate]:
    """Everything that a run would do, model by model; with `replace` in place of what other studies computed.

    Raises:
        InputError: a run would refuse the study, too.
        WarehouseError: the warehouse cannot be read.
    """
    return [_model(study, store, cache, progress, spec.name, replace=replace) for spec in study.models]


def _model(study: Study, store: Store, cache: Path, progress: Progress, name: str, *, replace: bool) -> ModelEstimate:
    lacking = [each.name for each in study.retrieval if not is_there(each)]
    study = study.model_copy(update={"retrieval": tuple(each for each in study.retrieval if is_there(each))})
    place, is_whole = locate_config(study.model(name).source, cache, progress)
    works = (
        model_work(study, store, find_model(study, name, cache, progress), replace=replace)
        if is_whole
        else _all(study, name)
    )
    tables = variant_tables(study)
    if not any(work.tables for work in works):
        return ModelEstimate(name, is_whole, lacking, tables, works)
    from prunescope.assets.execution.model_cache import MOST_TOGETHER, MOST_WAITING
    from prunescope.pipelines.core.device import available_bytes, resolve_device, workers_on
    from prunescope.pipelines.models.meta_model import load_meta_model, shape_of
    from prunescope.pipelines.planning.machine_speed import measured
    from prunescope.pipelines.planning.preflight import check_outline, unmatched
    from prunescope.pipelines.planning.workload import Workload
    from prunescope.pipelines.pruning.variant_row import peak_memory_bytes

    outline = load_meta_model(place)
    prompts, texts, embedded = check_outline(study, outline)
    shape = shape_of(outline)
    device = resolve_device(study.device)
    lengths, windows = [len(prompt.ids) for prompt in prompts], [len(text.windows) for text in texts]
    local = [task for task in study.tasks if find(task).is_local]
    sizes = task_sizes(local, outline) if local else []
    stays = None if study.memory is None else study.memory.get("cuda:0" if device == "cuda" else device, 0)
    load = Workload(study, shape, lengths, windows, workers_on(device), sizes, embedded, stays)
    process = 0 if device.startswith("cuda") else peak_memory_bytes()
    machine = measured(
        shape, load.dtype, device, max(load.lengths, default=study.calibration.length), len(study.measure.temperatures)
    )
    traced = [work.recipe for work in works if work.recipe and set(work.tables) & set(TRACE_TABLES)]
    groups = load.groups(traced, MOST_TOGETHER, MOST_WAITING)
    group_of = {recipe.name: group for group in groups for recipe in group}
    read = [work.recipe for work in works if work.recipe and TEXT_TABLE in work.tables]
    asked = [work.recipe for work in works if work.recipe and set(work.tables) & set(TASK_TABLES)]
    timed = [work.recipe for work in works if work.recipe and SPEED_TABLE in work.tables]
    searched = [work.recipe for work in works if work.recipe and set(work.tables) & set(RETRIEVAL_TABLES)]
    pruned = [work.recipe for work in works if work.recipe and "variants" in work.tables]
    statistics = any(set(work.tables) & set(MODEL_TABLES[1:]) for work in works if work.recipe is None)
    return ModelEstimate(
        model=name,
        is_whole=is_whole,
        lacking=lacking,
        tables=tables,
        works=works,
        shared={
            "calibration": load.calibration() if statistics else (),
            "traces": load.dense(len(groups)) if groups else (),
            "texts": load.text_dense() if read else (),
            "retrieval": load.measured.retrieval_dense() if searched else (),
        },
        costs={
            recipe.name: {
                "variants": load.pruning(recipe) if recipe in pruned else (),
                "traces": load.variant(recipe) if recipe in traced else (),
                "texts": load.text_variant() if recipe in read else (),
                "tasks": load.measured.task_variant() if recipe in asked else (),
                "retrieval": load.measured.retrieval_variant(recipe) if recipe in searched else (),
                "speed": load.measured.speed_variant(recipe) if recipe in timed else (),
            }
            for recipe in study.recipes
            if recipe in (*traced, *read, *asked, *searched, *timed, *pruned)
        },
        held={
            work.recipe.name: load.held(work.recipe, group_of.get(work.recipe.name, [work.recipe]), process)
            for work in works
            if work.recipe and work.tables
        },
        rows={work.recipe and work.recipe.name: _rows(load, work) for work in works if work.tables},
        machine=machine,
        available=available_bytes(device),
        movable=0 if study.speed else load.layers_bytes if stays is None else min(stays, load.layers_bytes),
        read=0 if stays is None else max(0, load.layers_bytes - stays),
        place="cuda:0" if device == "cuda" else device,
        uncounted=[task.name for task in study.tasks if task not in local],
        refused=unmatched(study, outline),
    )


def task_sizes(tasks: Sequence[TaskSpec], outline: "MetaModel") -> "list[TaskSize]":
    """What tasks ask, counted in the model's tokens.

    Raises:
        InputError: a task cannot be loaded, or leaves the model no room.
    """
    from prunescope.pipelines.evaluation.tasks.loading import load_tasks
    from prunescope.pipelines.planning.task_workload import check_lengths, size_of

    loaded = load_tasks(tasks)
    check_lengths(loaded, outline.context_length)
    return [size_of(each, outline.tokenizer) for each in loaded]


def _all(study: Study, name: str) -> list[PartitionWork]:
    """Of weights that are not there nothing can be current."""
    return [
        PartitionWork(name, None, MODEL_TABLES),
        *(PartitionWork(name, recipe, variant_tables(study)) for recipe in study.recipes),
    ]


def _rows(load: "Workload", work: PartitionWork) -> list[RowCount]:
    rows = load.model_rows() if work.recipe is None else load.variant_rows(work.recipe)
    return [each for each in rows if each.table in work.tables]


def bytes_of(written: Sequence[RowCount]) -> int:
    """Bytes of Parquet."""
    return sum(
        expected_bytes(TABLES[each.table], each.rows, each.unmoved, each.listed, each.packed) for each in written
    )


def table(estimates: Sequence[ModelEstimate]) -> pl.DataFrame:
    """The estimates in long form: one row per partition and action, per item of work, per item of memory."""
    rows = [row for each in estimates for row in (*_partitions(each), *_work(each), *_memory(each))]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _partitions(found: ModelEstimate) -> Iterator[dict[str, object]]:
    """What is reused and what computed, with the rows and bytes of Parquet that would be written."""
    for work in found.works:
        recipe = work.recipe.name if work.recipe else None
        about = {"section": "partitions", "model": found.model, "recipe": recipe}
        whole = MODEL_TABLES if recipe is None else found.tables
        if reused := [name for name in whole if name not in work.tables]:
            yield about | {"when": "reused", "item": ", ".join(reused)}
        if work.tables:
            written = found.rows[recipe]
            costs = [cost for each in found.costs.get(recipe or "", {}).values() for cost in each]
            yield about | {
                "when": "computed",
                "item": ", ".join(work.tables),
                "rows": sum(each.rows for each in written),
                "bytes": bytes_of(written),
                "seconds": sum(cost.seconds(found.machine) for cost in costs) if costs else None,
            }


def _work(found: ModelEstimate) -> Iterator[dict[str, object]]:
    """Every item of work, summed over the variants that need it."""
    costs = found.every_cost
    for item in dict.fromkeys(cost.item for cost in costs):
        same = [cost for cost in costs if cost.item == item]
        amount = sum(cost.amount for cost in same)
        kind = same[0].kind
        yield {
            "section": "work",
            "model": found.model,
            "item": item,
            "when": "once" if len(same) == 1 else f"{len(same)} variants",
            "flop": amount if kind in {"head", "body"} else None,
            "bytes": round(amount) if kind == "memory" else None,
            "seconds": sum(cost.seconds(found.machine) for cost in same),
        }


def _memory(found: ModelEstimate) -> Iterator[dict[str, object]]:
    """What the hungriest variant holds, item by item, and the peak of every variant."""
    about = {"section": "memory", "model": found.model}
    peaks = found.peaks
    if peaks:
        hungriest = max(peaks, key=peaks.__getitem__)
        for each in found.held[hungriest]:
            if each.bytes:
                yield about | {"recipe": hungriest, "item": each.item, "when": each.phase, "bytes": each.bytes}
    for recipe, size in peaks.items():
        yield about | {"recipe": recipe, "item": "peak", "when": "at once", "bytes": size}
    if found.available is not None:
        yield about | {"item": "available on this machine", "bytes": found.available}


def verdict(found: ModelEstimate) -> list[tuple[str, bool]]:
    """What a person should know, sentence by sentence, and whether each is a warning."""
    told = []
    if not found.is_whole:
        told.append((f"{found.model}: its weights are not all there; `run` needs them whole, this plan does not", True))
    told += [
        (f"{found.model}: retrieval {name!r} is not there; `run` needs it, this plan leaves it out", True)
        for name in found.lacking
    ]
    told += [(f"{found.model}: {reason}; `run` refuses it", True) for reason in found.refused]
    if not found.held and not any(work.tables for work in found.works):
        return [*told, (f"{found.model}: everything is current; nothing would be computed", False)]
    if found.uncounted:
        names = ", ".join(found.uncounted)
        told.append((f"{found.model}: not counted are tasks whose samples `run` fetches: {names}", False))
    machine = found.machine
    told.append(
        (
            f"{found.model}: about {minutes(found.seconds)} of work at this machine's measured speed "
            f"(head {machine.head / 1e9:,.0f} and layers {machine.body / 1e9:,.0f} GFLOP/s, "
            f"weights {machine.memory / 1e9:.1f} GB/s, logits {machine.vocabulary / 1e6:,.0f} million/s)",
            False,
        )
    )
    peaks, available = found.peaks, found.available
    if peaks:
        recipe = max(peaks, key=peaks.__getitem__)
        held = sorted(found.held[recipe], key=lambda each: -each.bytes)[:3]
        largest = ", ".join(f"{each.item} {gib(each.bytes)}" for each in held)
        most = f"{found.model}: at most {gib(peaks[recipe])} of memory ({recipe}; {largest})"
        if available is None:
            told.append((f"{most}; this system does not tell how much is free", False))
        elif peaks[recipe] <= available:
            told.append((f"{most}, {gib(available)} are free: it fits", False))
        else:
            small = [name for name, size in peaks.items() if size <= available]
            advice = f"these fit: {', '.join(small)}" if small else "none of its variants does"
            stays = found.movable - (peaks[recipe] - available)
            if stays > 0:
                limit = f"`memory: {{{found.place}: {stays // 2**20}MiB}}`"
                advice += f"; {limit} lets all fit: layers beyond it rest on disk until they run"
            told.append((f"{most}, but {gib(available)} are free: IT DOES NOT FIT; {advice}", True))
    if found.read:
        told.append(
            (
                f"{found.model}: every pass over the layers, and every token that is written, brings "
                f"{gib(found.read)} of them from where they rest, which is not in the time",
                False,
            )
        )
    return told


def minutes(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def gib(size: int) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.1f} GiB"
