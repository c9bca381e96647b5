"""The estimate of `prunescope plan`: partitions to compute or reuse, and their cost on this machine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.steps import MODEL_TABLES, STEPS, partition_tables, variant_tables
from prunescope.assets.planning.work_plan import PartitionWork, model_work
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.evaluation.retrieval.beir_data import is_there as has_files
from prunescope.pipelines.evaluation.tasks.definition import find
from prunescope.pipelines.models.sources import locate_config
from prunescope.pipelines.planning.cost_model import Cost, MemoryItem, RowCount, peak
from prunescope.pipelines.studies import Study
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from prunescope.warehouse.schema.size_estimate import expected_bytes
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

# Modules that need torch are imported only if there is something to compute.
if TYPE_CHECKING:
    from prunescope.pipelines.models.meta_model import MetaModel
    from prunescope.pipelines.planning.evaluation_workload import TaskSize
    from prunescope.pipelines.planning.machine_speed import Machine
    from prunescope.pipelines.planning.workload import Workload

# By name of the step.
StepCosts = dict[str, Sequence[Cost]]

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
    """The cost of one model of a study.

    Attributes:
        is_whole: whether all of its weights are on disk.
        missing_data: retrieval data sets without files; the estimate leaves them out.
        tables: the tables of every variant.
        works: every partition with its tables to compute, which may be none.
        shared: by step, work that all variants share, and work for the model's own tables.
        costs: by recipe and step, work of each variant that has tables to compute.
        memory: by recipe, memory of each such variant.
        rows: by recipe, rows that would be written.
        machine: measured speeds; None if there is nothing to compute.
        available: free bytes; None if the system does not report them, or there is nothing to compute.
        uncounted: tasks whose samples only a run would fetch.
        offloadable: bytes of layers on the device that could be offloaded.
        offloaded: bytes of layers that every pass loads onto the device.
        device: the device, as the study's `memory` names it.
        refused: recipes that a run would refuse, with the reason.
    """

    model: str
    is_whole: bool
    missing_data: Sequence[str]
    tables: Sequence[str]
    works: Sequence[PartitionWork]
    shared: StepCosts = field(default_factory=dict)
    costs: Mapping[str, StepCosts] = field(default_factory=dict)
    memory: Mapping[str, Sequence[MemoryItem]] = field(default_factory=dict)
    rows: Mapping[str | None, Sequence[RowCount]] = field(default_factory=dict)
    machine: "Machine | None" = None
    available: int | None = None
    uncounted: Sequence[str] = ()
    offloadable: int = 0
    offloaded: int = 0
    device: str = "cpu"
    refused: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Return the time of all work at the machine's measured speed."""
        return sum(cost.seconds(self.machine) for cost in self.all_costs)

    @property
    def all_costs(self) -> list[Cost]:
        """Return all work, shared work first."""
        return [cost for steps in (self.shared, *self.costs.values()) for costs in steps.values() for cost in costs]

    @property
    def peaks(self) -> dict[str, int]:
        """Return the peak memory in bytes of each variant to compute."""
        return {recipe: peak(items) for recipe, items in self.memory.items()}


def estimate(
    study: Study, store: Store, cache: Path, progress: Progress, *, replace: bool = False
) -> list[ModelEstimate]:
    """Estimate all work of a run, model by model; `replace` includes partitions of other studies, as in a run.

    Raises:
        InputError: a run would refuse the study, too.
        WarehouseError: the warehouse cannot be read.
    """
    return [_model(study, store, cache, progress, spec.name, replace=replace) for spec in study.models]


def _model(study: Study, store: Store, cache: Path, progress: Progress, name: str, *, replace: bool) -> ModelEstimate:
    missing_data = [spec.name for spec in study.retrieval if not has_files(spec)]
    study = study.model_copy(update={"retrieval": tuple(spec for spec in study.retrieval if has_files(spec))})
    folder, is_whole = locate_config(study.model(name).source, cache, progress)
    if is_whole:
        works = model_work(study, store, find_model(study, name, cache, progress), replace=replace)
    else:  # without its weights no partition can be current
        works = [PartitionWork(name, recipe, partition_tables(study, recipe)) for recipe in (None, *study.recipes)]
    tables = variant_tables(study)
    if not any(work.tables for work in works):
        return ModelEstimate(name, is_whole, missing_data, tables, works)
    from prunescope.assets.execution.model_cache import MAX_BATCH, MAX_RESULT_BYTES
    from prunescope.pipelines.core.device import available_bytes, resolve_device, workers_on
    from prunescope.pipelines.models.meta_model import load_meta_model, shape_of
    from prunescope.pipelines.planning.machine_speed import measured
    from prunescope.pipelines.planning.preflight import check_outline, unmatched
    from prunescope.pipelines.planning.workload import Workload
    from prunescope.pipelines.pruning.variant_row import peak_memory_bytes

    outline = load_meta_model(folder)
    prompts, texts, embedded = check_outline(study, outline)
    shape = shape_of(outline)
    device = resolve_device(study.device)
    lengths, windows = [len(prompt.ids) for prompt in prompts], [len(text.windows) for text in texts]
    local = [task for task in study.tasks if find(task).is_local]
    sizes = task_sizes(local, outline) if local else []
    limit = None if study.memory is None else study.memory.get("cuda:0" if device == "cuda" else device, 0)
    load = Workload(study, shape, lengths, windows, workers_on(device), sizes, embedded, limit)
    process = 0 if device.startswith("cuda") else peak_memory_bytes()
    machine = measured(
        shape, load.dtype, device, max(load.lengths, default=study.calibration.length), len(study.measure.temperatures)
    )
    variants = [work for work in works if work.recipe]
    # By step, the recipes that still need it.
    stale = {
        name: [work.recipe for work in variants if work.recipe and set(work.tables) & set(step.tables)]
        for name, step in STEPS.items()
    }
    groups = load.groups(stale["traces"], MAX_BATCH, MAX_RESULT_BYTES)
    group_of = {recipe.name: group for group in groups for recipe in group}
    calibrates = any(set(work.tables) & set(STEPS["calibration"].tables) for work in works if work.recipe is None)
    step_costs = {
        "variants": load.pruning,
        "traces": load.variant,
        "texts": lambda _: load.text_variant(),
        "tasks": lambda _: load.measured.task_variant(),
        "retrieval": load.measured.retrieval_variant,
        "speed": load.measured.speed_variant,
    }
    return ModelEstimate(
        model=name,
        is_whole=is_whole,
        missing_data=missing_data,
        tables=tables,
        works=works,
        shared={
            "calibration": load.calibration() if calibrates else (),
            "traces": load.dense(len(groups)) if groups else (),
            "texts": load.text_dense() if stale["texts"] else (),
            "retrieval": load.measured.retrieval_dense() if stale["retrieval"] else (),
        },
        costs={
            recipe.name: {step: cost(recipe) if recipe in stale[step] else () for step, cost in step_costs.items()}
            for recipe in study.recipes
            if any(recipe in stale[step] for step in step_costs)
        },
        memory={
            work.recipe.name: load.held(work.recipe, group_of.get(work.recipe.name, [work.recipe]), process)
            for work in works
            if work.recipe and work.tables
        },
        rows={work.recipe and work.recipe.name: _rows(load, work) for work in works if work.tables},
        machine=machine,
        available=available_bytes(device),
        offloadable=0 if study.speed else load.layers_bytes if limit is None else min(limit, load.layers_bytes),
        offloaded=0 if limit is None else max(0, load.layers_bytes - limit),
        device="cuda:0" if device == "cuda" else device,
        uncounted=[task.name for task in study.tasks if task not in local],
        refused=unmatched(study, outline),
    )


def task_sizes(tasks: Sequence[TaskSpec], outline: "MetaModel") -> "list[TaskSize]":
    """Return the sizes of tasks, counted in the model's tokens.

    Raises:
        InputError: a task cannot be loaded, or does not fit into the model's context.
    """
    from prunescope.pipelines.evaluation.tasks.loading import load_tasks
    from prunescope.pipelines.planning.task_workload import check_lengths, size_of

    loaded = load_tasks(tasks)
    check_lengths(loaded, outline.context_length)
    return [size_of(task, outline.tokenizer) for task in loaded]


def _rows(load: "Workload", work: PartitionWork) -> list[RowCount]:
    rows = load.model_rows() if work.recipe is None else load.variant_rows(work.recipe)
    return [count for count in rows if count.table in work.tables]


def bytes_of(counts: Sequence[RowCount]) -> int:
    """Return the size of rows as Parquet in bytes."""
    return sum(
        expected_bytes(TABLES[count.table], count.rows, count.unmoved, count.listed, count.packed) for count in counts
    )


def table(estimates: Sequence[ModelEstimate]) -> pl.DataFrame:
    """Return the estimates in long form: one row per partition and action, per item of work, per item of memory."""
    rows = [row for found in estimates for row in (*_partitions(found), *_work(found), *_memory(found))]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _partitions(found: ModelEstimate) -> Iterator[dict[str, object]]:
    """Yield reused and computed partitions, with the rows and bytes of Parquet that would be written."""
    for work in found.works:
        recipe = work.recipe.name if work.recipe else None
        base = {"section": "partitions", "model": found.model, "recipe": recipe}
        tables = MODEL_TABLES if recipe is None else found.tables
        if reused := [name for name in tables if name not in work.tables]:
            yield base | {"when": "reused", "item": ", ".join(reused)}
        if work.tables:
            counts = found.rows[recipe]
            costs = [cost for step in found.costs.get(recipe or "", {}).values() for cost in step]
            yield base | {
                "when": "computed",
                "item": ", ".join(work.tables),
                "rows": sum(count.rows for count in counts),
                "bytes": bytes_of(counts),
                "seconds": sum(cost.seconds(found.machine) for cost in costs) if costs else None,
            }


def _work(found: ModelEstimate) -> Iterator[dict[str, object]]:
    """Yield every item of work, summed over the variants that need it."""
    costs = found.all_costs
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
    """Yield the memory items of the largest variant, and the peak of every variant."""
    base = {"section": "memory", "model": found.model}
    peaks = found.peaks
    if peaks:
        largest = max(peaks, key=peaks.__getitem__)
        for item in found.memory[largest]:
            if item.bytes:
                yield base | {"recipe": largest, "item": item.item, "when": item.phase, "bytes": item.bytes}
    for recipe, size in peaks.items():
        yield base | {"recipe": recipe, "item": "peak", "when": "at once", "bytes": size}
    if found.available is not None:
        yield base | {"item": "available on this machine", "bytes": found.available}


def verdict(found: ModelEstimate) -> list[tuple[str, bool]]:
    """Return the estimate in sentences, each with whether it is a warning."""
    lines = []
    if not found.is_whole:
        lines.append((f"{found.model}: its weights are not all there; `run` needs them, this plan does not", True))
    lines += [
        (f"{found.model}: retrieval {name!r} has no files; this plan leaves it out, but `run` needs it", True)
        for name in found.missing_data
    ]
    lines += [(f"{found.model}: {reason}; `run` refuses it", True) for reason in found.refused]
    if not found.memory and not any(work.tables for work in found.works):
        return [*lines, (f"{found.model}: everything is current; nothing would be computed", False)]
    if found.uncounted:
        names = ", ".join(found.uncounted)
        lines.append((f"{found.model}: tasks whose samples `run` fetches are not counted: {names}", False))
    machine = found.machine
    lines.append(
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
        items = sorted(found.memory[recipe], key=lambda item: -item.bytes)[:3]
        largest = ", ".join(f"{item.item} {gib(item.bytes)}" for item in items)
        most = f"{found.model}: at most {gib(peaks[recipe])} of memory ({recipe}; {largest})"
        if available is None:
            lines.append((f"{most}; this system does not report its free memory", False))
        elif peaks[recipe] <= available:
            lines.append((f"{most}, {gib(available)} are free: it fits", False))
        else:
            small = [name for name, size in peaks.items() if size <= available]
            advice = f"these fit: {', '.join(small)}" if small else "none of its variants does"
            limit = found.offloadable - (peaks[recipe] - available)
            if limit > 0:
                setting = f"`memory: {{{found.device}: {limit // 2**20}MiB}}`"
                advice += f"; with {setting} all fit: other layers stay on disk until they run"
            lines.append((f"{most}, but {gib(available)} are free: IT DOES NOT FIT; {advice}", True))
    if found.offloaded:
        lines.append(
            (
                f"{found.model}: every pass over the layers, and every generated token, loads "
                f"{gib(found.offloaded)} of offloaded layers; the time does not include that",
                False,
            )
        )
    return lines


def minutes(seconds: float) -> str:
    """Format a duration."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def gib(size: int) -> str:
    """Format bytes in GiB."""
    return f"{size / 2**30:.1f} GiB"
