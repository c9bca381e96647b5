"""Estimates of `prunescope plan`: the partitions to compute or reuse, and their cost on this machine.

`prunescope.pipelines.planning` counts the sizes, `prunescope.assets.runs.forecast` predicts their seconds.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.steps import MODEL_TABLES, SEARCH_TABLES, partition_tables
from prunescope.assets.planning.work_plan import PartitionWork, model_work
from prunescope.assets.runs.forecast import (
    Forecast,
    StepWork,
    forecast,
    step_works,
    trace_groups,
)
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.evaluation.retrieval.beir_data import has_files
from prunescope.pipelines.evaluation.tasks.definition import find
from prunescope.pipelines.models.sources import locate_config, shipped_outline
from prunescope.pipelines.planning.cost_model import TYPICAL_SHARE, TaskSize, Work, peak
from prunescope.pipelines.studies import Study
from prunescope.warehouse.maintenance.verified_files import VerifiedFiles
from prunescope.warehouse.schema.size_estimate import expected_bytes
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

# Torch is imported only if partitions are to be computed.
if TYPE_CHECKING:
    from prunescope.pipelines.planning.rows import Counts
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
        "seconds_from": pl.String,
    }
)
Row = dict[str, object]


@dataclass
class ModelEstimate:
    """Cost of one model of a study.

    Attributes:
        model: its name.
        rows: one row per partition and action, per step, and per item of memory.
        lines: the sentences of the summary, each with whether it is a warning.
        memory: bytes of each variant that has tables to compute, by phase and item.
    """

    model: str
    rows: list[Row] = field(default_factory=list)
    lines: list[tuple[str, bool]] = field(default_factory=list)
    memory: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)

    @property
    def peaks(self) -> dict[str, int]:
        """Peak memory in bytes of each variant that is to be computed."""
        return {recipe: peak(items) for recipe, items in self.memory.items()}

    def say(self, *lines: str) -> None:
        """Add sentences to the summary."""
        self.lines += [(f"{self.model}: {line}", False) for line in lines]

    def warn(self, *lines: str) -> None:
        """Add warnings to the summary."""
        self.lines += [(f"{self.model}: {line}", True) for line in lines]

    def add(self, section: str, rows: Iterator[Row]) -> None:
        """Add rows of a section."""
        self.rows += [{"section": section, "model": self.model} | row for row in rows]


def estimate_model(
    study: Study, store: Store, cache: Path, progress: Progress, name: str, *, replace: bool, gpu: int | None = None
) -> ModelEstimate:
    """Estimate what a run would do for one model; with `replace` it recomputes what other studies computed.

    With `gpu` it is planned for one GPU with so many bytes, which this machine need not have: no speed is measured.

    Raises:
        InputError: a run would refuse the study, too.
        WarehouseError: the warehouse cannot be read.
    """
    found, source = ModelEstimate(name), study.model(name).source
    try:
        folder, is_whole = locate_config(source, cache, progress)
    except InputError:
        if (outline_folder := shipped_outline(source)) is None:
            raise
        folder, is_whole = outline_folder, False
    missing = [spec.name for spec in study.retrieval if not has_files(spec)]
    study = study.model_copy(update={"retrieval": tuple(spec for spec in study.retrieval if spec.name not in missing)})
    if is_whole:
        dense = find_model(study, name, cache, progress)
        with VerifiedFiles(store.root, cache) as files:
            works = model_work(study, store, dense, files, replace=replace)
    else:  # without the weights no partition can be known to be current
        dense, works = None, [PartitionWork(name, None, MODEL_TABLES)]
        works += [PartitionWork(name, recipe, partition_tables(study, recipe)) for recipe in study.recipes]
        works += [PartitionWork(name, None, SEARCH_TABLES)] if study.search else []
        found.warn("its weights are not all there; `run` needs them whole, this plan does not")
    found.warn(*(f"retrieval {one!r} has no files; this plan leaves it out, but `run` needs it" for one in missing))
    if not any(work.tables for work in works):
        found.add("partitions", _partitions(study, works, {}, [], None))
        found.say("everything is current; nothing would be computed")
        return found
    from prunescope.pipelines.models.meta_model import load_meta_model
    from prunescope.pipelines.planning.power import verdict_power
    from prunescope.pipelines.planning.preflight import check_outline, unmatched

    outline = load_meta_model(folder)
    local = [task for task in study.tasks if find(task).is_local and outline.tokenizer is not None]
    tasks = list[TaskSize]()
    if local:  # imports lm-eval, which takes seconds
        from prunescope.pipelines.evaluation.tasks.loading import load_tasks
        from prunescope.pipelines.planning.task_workload import task_sizes

        tasks = task_sizes(load_tasks(local), outline.tokenizer, outline.context_length)
    load = check_outline(study if gpu is None else study.model_copy(update={"device": "auto"}), outline)
    load = dataclasses.replace(load, tasks=tasks)
    if gpu is not None:  # it need not be here
        there = study.model_copy(update={"device": "cuda:0", "memory": None})
        load = dataclasses.replace(load, study=there, workers=1, resident_bytes=None)
    if outline.tokenizer is None:
        found.warn("its tokenizer is not there: four characters count as a token, and tasks are not counted")
    found.warn(*(f"{reason}; `run` refuses it" for reason in unmatched(study, outline)))
    _add_costs(found, works, load, forecast(study, store, dense, load, works) if gpu is None else None, gpu)
    if uncounted := [task.name for task in study.tasks if task not in local]:
        found.say(f"not counted are tasks whose samples `run` fetches: {', '.join(uncounted)}")
    found.say(*(verdict_power(study, tasks) if study.prompts or tasks else ()))
    return found


def _add_costs(
    found: ModelEstimate, works: Sequence[PartitionWork], load: "Workload", prediction: Forecast | None, gpu: int | None
) -> None:
    """Add what is computed, its time, disk and memory, and what these leave out."""
    from prunescope.pipelines.core.device import available_bytes, resolve_device
    from prunescope.pipelines.planning.memory import memory_items
    from prunescope.pipelines.planning.rows import rows_of
    from prunescope.pipelines.pruning.variant_row import peak_memory_bytes

    device, steps, search = resolve_device(load.study.device), step_works(load, works), load.study.search
    group_of = {recipe.name: group for group in trace_groups(load, works) for recipe in group}
    process, available = 0 if device.startswith("cuda") else peak_memory_bytes(), gpu or available_bytes(device)
    found.memory = {
        work.recipe.name: memory_items(load, work.recipe, group_of.get(work.recipe.name, [work.recipe]), process, gpu)
        for work in works
        if work.recipe and work.tables
    }
    written = {
        work.name: {table: counts for table, counts in rows_of(load, work.recipe).items() if table in work.tables}
        for work in works
        if work.tables and not work.is_search
    }
    found.add("partitions", _partitions(load.study, works, written, steps, prediction))
    found.add("work", _work(steps, prediction))
    found.add("memory", _memory(found, available))
    found.say(_names_in_words(works), _work_in_words(steps, prediction))
    if answers := [f"{task.answer_tokens:.0f} tokens ({task.name})" for task in load.tasks if task.new_tokens]:
        found.say(f"written answers count with {TYPICAL_SHARE} of their limit: {', '.join(answers)}")
    if search and any(work.is_search for work in works):
        found.say(f"not counted is the search, which begins no trial after {search.minutes:g} min")
    sizes, rows = sum(map(_bytes, written.values())), sum(map(_rows, written.values()))
    found.say(f"writes about {sizes / 2**20:,.1f} MiB of tables ({rows:,} rows)")
    if found.memory:
        _say_memory(found, load, device, available)
    if load.resident_bytes is not None and load.layers_bytes > load.resident_bytes:
        found.say(
            "every pass over the layers, and every token that is written, brings "
            f"{_gib(load.layers_bytes - load.resident_bytes)} of them from where they rest, which is not in the time"
        )


def _bytes(tables: "Mapping[str, Counts]") -> int:
    """Return the bytes of Parquet that the rows take."""
    return sum(expected_bytes(TABLES[table], *counts) for table, counts in tables.items())


def _rows(tables: "Mapping[str, Counts]") -> int:
    return sum(rows for rows, *_ in tables.values())


def table(estimates: Sequence[ModelEstimate]) -> pl.DataFrame:
    """Return the rows of all estimates."""
    return pl.DataFrame([row for found in estimates for row in found.rows], schema=_SCHEMA)


def _partitions(
    study: Study,
    works: Sequence[PartitionWork],
    written: "Mapping[str, Mapping[str, Counts]]",
    steps: Sequence[StepWork],
    prediction: Forecast | None,
) -> Iterator[Row]:
    """Yield the tables of each partition that are reused, and those computed with the rows and bytes to write."""
    for work in works:
        common: Row = {"recipe": work.recipe and work.recipe.name}
        tables = () if work.is_search else partition_tables(study, work.recipe) if work.recipe else MODEL_TABLES
        if reused := [name for name in tables if name not in work.tables]:
            yield common | {"when": "reused", "item": ", ".join(reused)}
        if work.tables:
            common |= {"when": "computed", "item": ", ".join(work.tables)}
            if counts := written.get(work.name):
                common |= {"rows": _rows(counts), "bytes": _bytes(counts)}
            if work.recipe and prediction:
                own = [step for step in steps if step.recipe == work.recipe]
                common |= {"seconds": sum(map(prediction.seconds, own))}
            yield common


def _work(steps: Sequence[StepWork], prediction: Forecast | None) -> Iterator[Row]:
    """Yield the work of each step, that of the dense model apart from the sum over the variants."""
    for name, is_shared in dict.fromkeys((step.step, step.recipe is None) for step in steps):
        own = [step for step in steps if (step.step, step.recipe is None) == (name, is_shared)]
        work, is_known = sum((step.work for step in own), Work()), prediction and name in prediction.known_steps
        if work != Work() or is_known:
            yield {
                "item": f"{name}, dense model" if is_shared else name,
                "when": "once" if is_shared else f"{len(own)} variant{'s' * (len(own) > 1)}",
                "flop": work.layers + work.head,
                "seconds": prediction and sum(map(prediction.seconds, own)),
                "seconds_from": prediction and ("earlier variants" if is_known else "sizes"),
            }


def _memory(found: ModelEstimate, available: int | None) -> Iterator[Row]:
    """Yield the memory of the variant with the highest peak, item by item, and the peak of every variant."""
    peaks = found.peaks
    if peaks:
        largest = max(peaks, key=peaks.__getitem__)
        for phase, items in found.memory[largest].items():
            for item, size in items.items():
                if size:
                    yield {"recipe": largest, "item": item, "when": phase, "bytes": size}
    for recipe, size in peaks.items():
        yield {"recipe": recipe, "item": "peak", "when": "at once", "bytes": size}
    if available is not None:
        yield {"item": "available on this machine", "bytes": available}


def _names_in_words(works: Sequence[PartitionWork]) -> str:
    names = [
        work.recipe.name if work.recipe else "a search" if work.is_search else "the model's own tables"
        for work in works
        if work.tables
    ]
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    current = len(works) - len(names)
    return f"computes {', '.join(names[:_MAX_LISTED])}{more} ({len(names)} partitions; {current} are current)"


def _work_in_words(steps: Sequence[StepWork], prediction: Forecast | None) -> str:
    """Return the time of the work and where it is known from, or the amount without a prediction."""
    work = sum((step.work for step in steps), Work())
    if prediction is None:
        return (
            f"{work.layers / 1e15:,.1f} PFLOP in the layers, and as long as {work.head / 1e15:,.1f} PFLOP in the head"
        )
    machine, known = prediction.machine, [step for step in steps if step.step in prediction.known_steps]
    total = f"about {_minutes(prediction, steps)} of work"
    if steps and len(known) == len(steps):
        return f"{total}, as long as earlier variants took"
    part = f", {_minutes(prediction, known)} of it as long as earlier variants took, the rest" if known else ""
    return (
        f"{total}{part} at this machine's measured speed (head {machine.head / 1e9:,.0f} and layers "
        f"{machine.layers / 1e9:,.0f} GFLOP/s)"
    )


def _say_memory(found: ModelEstimate, load: "Workload", device: str, available: int | None) -> None:
    """Say how much memory the largest variant needs, and if that is too much, what fits."""
    peaks = found.peaks
    recipe = max(peaks, key=peaks.__getitem__)
    # An item of several phases once.
    sizes = [(size, item) for items in found.memory[recipe].values() for item, size in items.items()]
    largest = ", ".join(f"{item} {_gib(size)}" for size, item in sorted(dict.fromkeys(sizes), reverse=True)[:3])
    most = f"at most {_gib(peaks[recipe])} of memory ({recipe}; {largest})"
    if available is None:
        found.say(f"{most}; this system does not tell how much is free")
    elif peaks[recipe] <= available:
        found.say(f"{most}, {_gib(available)} are free: it fits")
    else:
        small = [name for name, size in peaks.items() if size <= available]
        advice = f"these fit: {', '.join(small)}" if small else "none of its variants does"
        # `speed` times the whole model on the device; other layers may move to disk.
        resident = 0 if load.study.speed else load.layers_bytes
        if load.resident_bytes is not None:
            resident = min(resident, load.resident_bytes)
        resident -= peaks[recipe] - available
        if resident > 0:
            limit = f"`memory: {{{device}: {resident // 2**20}MiB}}`"
            advice += f"; {limit} lets all fit: layers beyond it rest on disk until they run"
        found.warn(f"{most}, but {_gib(available)} are free: IT DOES NOT FIT; {advice}")


def _minutes(prediction: Forecast, steps: Sequence[StepWork]) -> str:
    """Return the time of some work."""
    seconds = sum(map(prediction.seconds, steps))
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
