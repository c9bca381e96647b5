"""Estimates of `prunescope plan`: the partitions to compute or reuse, and their cost on this machine.

The cost model is `prunescope.pipelines.planning`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.steps import MODEL_TABLES, SEARCH_TABLES, variant_tables
from prunescope.assets.planning.work_plan import PartitionWork, model_work
from prunescope.assets.runs.stages import Steps, shared_work, trace_groups, variant_work
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.evaluation.retrieval.beir_data import is_there
from prunescope.pipelines.evaluation.tasks.definition import find
from prunescope.pipelines.models.sources import locate_config, shipped_outline
from prunescope.pipelines.planning.cost_model import Cost, MemoryItem, RowCount, peak
from prunescope.pipelines.studies import Study
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from prunescope.warehouse.maintenance.verified_files import VerifiedFiles
from prunescope.warehouse.schema.size_estimate import expected_bytes
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

# Torch is imported only where partitions are to be computed.
if TYPE_CHECKING:
    from prunescope.pipelines.models.meta_model import MetaModel
    from prunescope.pipelines.planning.machine_speed import Machine
    from prunescope.pipelines.planning.task_workload import TaskSize
    from prunescope.pipelines.planning.workload import Workload

# Most partitions that a sentence names.
_MAX_LISTED = 12
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
    """Cost of one model of a study.

    Attributes:
        model: its name.
        is_whole: whether all of its weights are present.
        missing_data: retrieval data sets whose files are missing; the estimate leaves them out.
        tables: the tables of every variant.
        works: every partition, with the tables to compute, which may be none.
        shared: work that all variants share, and that of the model's own tables, by step.
        costs: work of each variant that has tables to compute, by step.
        memory: memory of each such variant.
        rows: rows of each partition that would be written, by its name, without those of a search.
        machine: measured speeds; None if nothing is to be computed, or a GPU is planned that need not be here.
        has_tokenizer: whether the model's tokenizer was there to count tokens.
        available: free bytes; None where the system does not report them, or nothing is to be computed.
        uncounted: tasks whose samples a run would download.
        movable: bytes of layers on the device that the study's `memory` could move to disk.
        streamed: bytes of layers that every pass loads onto the device.
        device: the device, as the study's `memory` calls it.
        refused: recipes that a run would refuse once it has found the layers, and why.
        power: which losses the verdicts will be able to tell apart.
        search_minutes: after which the search begins no further trial; 0 without a search to run.
    """

    model: str
    is_whole: bool
    missing_data: Sequence[str]
    tables: Sequence[str]
    works: Sequence[PartitionWork]
    shared: Steps = field(default_factory=dict)
    costs: Mapping[str, Steps] = field(default_factory=dict)
    memory: Mapping[str, Sequence[MemoryItem]] = field(default_factory=dict)
    rows: Mapping[str, Sequence[RowCount]] = field(default_factory=dict)
    machine: "Machine | None" = None
    has_tokenizer: bool = True
    available: int | None = None
    uncounted: Sequence[str] = ()
    movable: int = 0
    streamed: int = 0
    device: str = "cpu"
    refused: Sequence[str] = ()
    power: Sequence[str] = ()
    search_minutes: float = 0

    @property
    def all_costs(self) -> list[Cost]:
        """All work, the shared work first."""
        return [cost for steps in (self.shared, *self.costs.values()) for costs in steps.values() for cost in costs]

    @property
    def peaks(self) -> dict[str, int]:
        """Peak memory in bytes of each variant that is to be computed."""
        return {recipe: peak(items) for recipe, items in self.memory.items()}


def estimate_model(
    study: Study, store: Store, cache: Path, progress: Progress, name: str, *, replace: bool, gpu: int | None = None
) -> ModelEstimate:
    """Estimate what a run would do for one model; with `replace` it recomputes what other studies computed.

    With `gpu` it is planned for one GPU with so many bytes, which this machine need not have: no speed is measured.

    Raises:
        InputError: a run would refuse the study, too.
        WarehouseError: the warehouse cannot be read.
    """
    missing_data = [spec.name for spec in study.retrieval if not is_there(spec)]
    study = study.model_copy(update={"retrieval": tuple(spec for spec in study.retrieval if is_there(spec))})
    source = study.model(name).source
    try:
        folder, is_whole = locate_config(source, cache, progress)
    except InputError:
        if (outline_folder := shipped_outline(source)) is None:
            raise
        folder, is_whole = outline_folder, False
    tables = variant_tables(study)
    if is_whole:
        with VerifiedFiles(store.root, cache) as files:
            works = model_work(study, store, find_model(study, name, cache, progress), files, replace=replace)
    else:  # without the weights no partition can be known to be current
        works = [PartitionWork(name, recipe, tables if recipe else MODEL_TABLES) for recipe in (None, *study.recipes)]
        works += [PartitionWork(name, None, SEARCH_TABLES)] if study.search else []
    to_compute = {table for work in works for table in work.tables}
    if not to_compute:
        return ModelEstimate(name, is_whole, missing_data, tables, works)
    import torch

    from prunescope.pipelines.core.device import available_bytes, resolve_device
    from prunescope.pipelines.models.meta_model import load_meta_model
    from prunescope.pipelines.planning.machine_speed import measure_machine
    from prunescope.pipelines.planning.memory import memory_items
    from prunescope.pipelines.planning.power import verdict_power
    from prunescope.pipelines.planning.preflight import assumed_workload, check_outline, unmatched, workload
    from prunescope.pipelines.pruning.variant_row import peak_memory_bytes

    outline = load_meta_model(folder)
    local = [task for task in study.tasks if find(task).is_local and outline.tokenizer is not None]
    tasks = _task_sizes(local, outline) if local else []
    if gpu is not None:
        study = study.model_copy(update={"device": "cuda:0", "memory": None})
    if outline.tokenizer is None:
        load = assumed_workload(study, outline)
    else:
        here = study.model_copy(update={"device": "auto"}) if gpu is not None else study
        load = workload(study, outline, check_outline(here, outline), tasks)
    device = resolve_device(study.device)
    resident = load.resident_bytes
    process = 0 if device.startswith("cuda") else peak_memory_bytes()
    dtype = getattr(torch, study.dtype)
    longest = max(load.lengths, default=study.calibration.length)
    machine = None
    if gpu is None:
        machine = measure_machine(load.shape, dtype, device, longest, len(study.measure.temperatures))
    variants = [(work.recipe, work.tables) for work in works if work.recipe and work.tables]
    groups = trace_groups(load, works)
    group_of = {recipe.name: group for group in groups for recipe in group}
    return ModelEstimate(
        model=name,
        is_whole=is_whole,
        missing_data=missing_data,
        tables=tables,
        works=works,
        shared=shared_work(load, to_compute, len(groups)),
        costs={recipe.name: variant_work(load, recipe, todo) for recipe, todo in variants},
        memory={
            recipe.name: memory_items(load, recipe, group_of.get(recipe.name, [recipe]), process, gpu)
            for recipe, _ in variants
        },
        rows={work.name: _rows(load, work) for work in works if work.tables and not work.is_search},
        machine=machine,
        available=gpu or available_bytes(device),
        has_tokenizer=outline.tokenizer is not None,
        movable=0 if study.speed else load.layers_bytes if resident is None else min(resident, load.layers_bytes),
        streamed=0 if resident is None else max(0, load.layers_bytes - resident),
        device=device,
        uncounted=[task.name for task in study.tasks if task not in local],
        refused=unmatched(study, outline),
        power=verdict_power(study, tasks) if study.prompts or tasks else (),
        search_minutes=study.search.minutes if study.search and any(work.is_search for work in works) else 0,
    )


def _task_sizes(tasks: Sequence[TaskSpec], outline: "MetaModel") -> "list[TaskSize]":
    from prunescope.pipelines.evaluation.tasks.loading import load_tasks
    from prunescope.pipelines.planning.task_workload import check_lengths, task_size

    loaded = load_tasks(tasks)
    check_lengths(loaded, outline.context_length)
    return [task_size(task, outline.tokenizer) for task in loaded]


def _rows(load: "Workload", work: PartitionWork) -> list[RowCount]:
    from prunescope.pipelines.planning.rows import model_rows, variant_rows

    counts = model_rows(load) if work.recipe is None else variant_rows(load, work.recipe)
    return [count for count in counts if count.table in work.tables]


def bytes_of(counts: Sequence[RowCount]) -> int:
    """Return the bytes of Parquet that the rows take."""
    return sum(
        expected_bytes(TABLES[count.table], count.rows, count.unmoved, count.listed, count.packed) for count in counts
    )


def table(estimates: Sequence[ModelEstimate]) -> pl.DataFrame:
    """Return the estimates in long form: one row per partition and action, per item of work, per item of memory."""
    rows = [row for found in estimates for row in (*_partitions(found), *_work(found), *_memory(found))]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _partitions(found: ModelEstimate) -> Iterator[dict[str, object]]:
    """Yield the tables of each partition that are reused, and those computed with the rows and bytes to write."""
    for work in found.works:
        recipe = work.recipe.name if work.recipe else None
        common = {"section": "partitions", "model": found.model, "recipe": recipe}
        tables = () if work.is_search else MODEL_TABLES if recipe is None else found.tables
        if reused := [name for name in tables if name not in work.tables]:
            yield common | {"when": "reused", "item": ", ".join(reused)}
        if work.is_search:
            yield common | {"when": "computed", "item": ", ".join(work.tables)}
        elif work.tables:
            counts = found.rows[work.name]
            costs = [cost for step in found.costs.get(recipe or "", {}).values() for cost in step]
            yield common | {
                "when": "computed",
                "item": ", ".join(work.tables),
                "rows": sum(count.rows for count in counts),
                "bytes": bytes_of(counts),
                "seconds": _seconds(found, costs) if costs else None,
            }


def _work(found: ModelEstimate) -> Iterator[dict[str, object]]:
    """Yield every item of work, summed over the variants that need it."""
    by_item: dict[str, list[Cost]] = {}
    for cost in found.all_costs:
        by_item.setdefault(cost.item, []).append(cost)
    for item, costs in by_item.items():
        amount, kind = sum(cost.amount for cost in costs), costs[0].kind
        yield {
            "section": "work",
            "model": found.model,
            "item": item,
            "when": "once" if len(costs) == 1 else f"{len(costs)} variants",
            "flop": amount if kind in {"head", "body"} else None,
            "bytes": round(amount) if kind == "memory" else None,
            "seconds": _seconds(found, costs),
        }


def _seconds(found: ModelEstimate, costs: Sequence[Cost]) -> float | None:
    """Return the time of some work; None if no speed was measured."""
    return None if found.machine is None else sum(cost.seconds(found.machine) for cost in costs)


def _memory(found: ModelEstimate) -> Iterator[dict[str, object]]:
    """Yield the memory of the variant with the highest peak, item by item, and the peak of every variant."""
    common = {"section": "memory", "model": found.model}
    peaks = found.peaks
    if peaks:
        largest = max(peaks, key=peaks.__getitem__)
        for item in found.memory[largest]:
            if item.bytes:
                yield common | {"recipe": largest, "item": item.item, "when": item.phase, "bytes": item.bytes}
    for recipe, size in peaks.items():
        yield common | {"recipe": recipe, "item": "peak", "when": "at once", "bytes": size}
    if found.available is not None:
        yield common | {"item": "available on this machine", "bytes": found.available}


def summary_line(found: ModelEstimate) -> list[tuple[str, bool]]:
    """Return the sentences of the summary of a model, each with whether it is a warning."""
    warnings = [] if found.is_whole else ["its weights are not all there; `run` needs them whole, this plan does not"]
    warnings += [
        f"retrieval {name!r} has no files; this plan leaves it out, but `run` needs it" for name in found.missing_data
    ]
    if not found.has_tokenizer:
        warnings.append("its tokenizer is not there: four characters count as a token, and tasks are not counted")
    warnings += [f"{reason}; `run` refuses it" for reason in found.refused]
    lines = [(line, True) for line in warnings]
    if not any(work.tables for work in found.works):
        lines.append(("everything is current; nothing would be computed", False))
    else:
        lines += _costs_in_words(found)
        lines += [(line, False) for line in found.power]
    return [(f"{found.model}: {line}", is_warning) for line, is_warning in lines]


def _costs_in_words(found: ModelEstimate) -> Iterator[tuple[str, bool]]:
    """Yield what is computed, its time, disk and memory, and what these leave out."""
    names = [
        work.recipe.name if work.recipe else "a search" if work.is_search else "the model's own tables"
        for work in found.works
        if work.tables
    ]
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    current = sum(not work.tables for work in found.works)
    yield (f"computes {', '.join(names[:_MAX_LISTED])}{more} ({len(names)} partitions; {current} are current)", False)
    machine = found.machine
    if machine is None:
        amount: dict[str, float] = defaultdict(float)
        for cost in found.all_costs:
            amount[cost.kind] += cost.amount
        yield (
            f"{(amount['head'] + amount['body']) / 1e15:,.1f} PFLOP in layers and head, "
            f"{amount['memory'] / 1e12:,.1f} TB of weights read to decode, and "
            f"{amount['vocabulary'] / 1e9:,.0f} billion logits measured",
            False,
        )
    else:
        yield (
            f"about {_minutes(sum(cost.seconds(machine) for cost in found.all_costs))} of work at this machine's "
            f"measured speed (head {machine.head / 1e9:,.0f} and layers {machine.body / 1e9:,.0f} GFLOP/s, "
            f"weights {machine.memory / 1e9:.1f} GB/s, logits {machine.vocabulary / 1e6:,.0f} million/s)",
            False,
        )
    if found.search_minutes:
        yield f"not counted is the search, which begins no trial after {found.search_minutes:g} min", False
    if found.uncounted:
        yield f"not counted are tasks whose samples `run` fetches: {', '.join(found.uncounted)}", False
    counts = [count for rows in found.rows.values() for count in rows]
    yield (
        f"writes about {bytes_of(counts) / 2**20:,.1f} MiB of tables ({sum(count.rows for count in counts):,} rows)",
        False,
    )
    peaks, available = found.peaks, found.available
    if peaks:
        recipe = max(peaks, key=peaks.__getitem__)
        # An item of several phases once.
        sizes = {item.item: item.bytes for item in sorted(found.memory[recipe], key=lambda item: item.bytes)}
        largest = ", ".join(f"{item} {gib(size)}" for item, size in list(sizes.items())[:-4:-1])
        most = f"at most {gib(peaks[recipe])} of memory ({recipe}; {largest})"
        if available is None:
            yield f"{most}; this system does not tell how much is free", False
        elif peaks[recipe] <= available:
            yield f"{most}, {gib(available)} are free: it fits", False
        else:
            small = [name for name, size in peaks.items() if size <= available]
            advice = f"these fit: {', '.join(small)}" if small else "none of its variants does"
            resident = found.movable - (peaks[recipe] - available)
            if resident > 0:
                limit = f"`memory: {{{found.device}: {resident // 2**20}MiB}}`"
                advice += f"; {limit} lets all fit: layers beyond it rest on disk until they run"
            yield f"{most}, but {gib(available)} are free: IT DOES NOT FIT; {advice}", True
    if found.streamed:
        yield (
            "every pass over the layers, and every token that is written, brings "
            f"{gib(found.streamed)} of them from where they rest, which is not in the time",
            False,
        )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def gib(size: int) -> str:
    """Format bytes in GiB."""
    return f"{size / 2**30:.1f} GiB"
