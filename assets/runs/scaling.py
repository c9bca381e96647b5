"""The estimate of `prunescope plan --workers`: the time of a study at 10, 100 and 1,000 models × 30 recipes.

Seconds come from the footers of existing partitions, else from the estimate; the times of Dagster's bookkeeping, of
writing and of reading footers are measured on the spot. `prunescope.pipelines.planning.cluster` simulates the run.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import polars as pl
import pyarrow as pa
from dagster import (
    AssetExecutionContext,
    AssetKey,
    DagsterInstance,
    Definitions,
    MaterializeResult,
    in_process_executor,
)

from prunescope.assets.defs.asset_definitions import MODEL_JOB, VARIANT_JOB
from prunescope.assets.defs.engine_resource import EngineResource
from prunescope.assets.defs.metadata import materialized
from prunescope.assets.defs.partitions import MODELS, RECIPES, register, variant_key
from prunescope.assets.defs.recipe_asset import recipe as published_recipe
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.defs.table_assets import table_assets
from prunescope.assets.execution.task import TaskResult
from prunescope.assets.instance.instance import databases_kept_open
from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.steps import MODEL_TABLES, STEPS, partition_tables, variant_tables
from prunescope.assets.planning.work_plan import model_work
from prunescope.assets.runs.estimate import ModelEstimate, bytes_of, estimate_model, gib
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.models.meta_model import load_meta_model, shape_of
from prunescope.pipelines.models.sources import locate_config
from prunescope.pipelines.planning.cluster import SimulatedRun, StageTimes, simulate
from prunescope.pipelines.studies import Study
from prunescope.warehouse.maintenance.garbage_collection import DISK_TEST
from prunescope.warehouse.maintenance.verified_files import VerifiedFiles
from prunescope.warehouse.quality.plausibility_checks import PLAUSIBILITY_CHECKS, CheckResult
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import Provenance, read_footer
from prunescope.warehouse.tables import TABLES

MODELS_OF_SCALE, RECIPES_OF_SCALE = (10, 100, 1000), 30
SECTIONS = ("steps", "scale")
# Bytes per second of loading weights from a local disk, with hashes and the verification of the structure.
_LOAD_SPEED = 5e8
# Seconds of questions, figures and report of the demo, and seconds of the questions per million layer records, on two
# cores; the latter holds up to a hundred million, see `tests.benchmarks.warehouse`. The growth of figures is left out.
_ANSWERS, _ANSWERS_PER_MILLION = 13.0, 0.8
# Times that a run reads a partition's footer before it computes: `run` plans, and plans again under the writer lock.
_READS = 2
_SCHEMA = pl.Schema(
    {
        "section": pl.String,
        "item": pl.String,
        "when": pl.String,
        "source": pl.String,
        "seconds": pl.Float64,
        "models": pl.Int64,
        "recipes": pl.Int64,
        "workers": pl.Int64,
        "hours": pl.Float64,
        "variants_an_hour": pl.Float64,
        "computing_hours": pl.Float64,
        "repeated_hours": pl.Float64,
        "serial_hours": pl.Float64,
        "bytes": pl.Int64,
        "saturates_first": pl.String,
        "at_workers": pl.Int64,
    }
)


@dataclass(frozen=True)
class StepTime:
    """Seconds of one kind of work.

    Attributes:
        item: kind of work.
        when: unit of work that the seconds refer to.
        seconds: mean.
        source: origin of the seconds.
    """

    item: str
    when: str
    seconds: float
    source: str


@dataclass(frozen=True)
class Scale:
    """The cost of a study per model and per variant.

    Attributes:
        steps: the seconds of every kind of work.
        pace: the same as input of the simulation, without questions and figures.
        bytes_a_variant: Parquet per variant.
        records_a_variant: rows of `layer_transitions` per variant.
    """

    steps: Sequence[StepTime]
    pace: StageTimes
    bytes_a_variant: int
    records_a_variant: int
    workers: int

    def simulated(self, models: int, recipes: int) -> SimulatedRun:
        """Simulate a run of so many models with so many recipes each."""
        answers = _ANSWERS + _ANSWERS_PER_MILLION * self.records_a_variant * models * recipes / 1e6
        return simulate(replace(self.pace, answers=answers), models, recipes, self.workers)


_ONCE, _MODEL, _VARIANT = "a worker and model", "a model", "a variant"


def scale(study: Study, store: Store, cache: Path, progress: Progress, workers: int) -> Scale:
    """Collect the cost of a study per model and per variant, as means over its models and variants.

    Raises:
        InputError: a run would refuse the study, too.
        WarehouseError: the warehouse cannot be read.
    """
    with tempfile.TemporaryDirectory() as empty:
        estimates = [
            estimate_model(study, Store(empty), cache, progress, model.name, replace=False) for model in study.models
        ]
    measured = _measured_seconds(study, store, cache, progress)
    steps = [*_load(study, cache, progress, measured), *_computation(estimates, measured)]
    names = [f"{found.model}@{recipe.name}" for found in estimates for recipe in study.recipes]
    rows = [found.rows[name] for found in estimates for name in names if name in found.rows]
    size = round(fmean(bytes_of(counts) for counts in rows))
    records = fmean(sum(count.rows for count in counts if count.table == "layer_transitions") for counts in rows)
    steps += [*_bookkeeping(study), *_storage(study, size, store.local(cache))]

    def of(when: str, *items: str) -> float:
        return sum(step.seconds for step in steps if step.when == when and (not items or step.item in items))

    serial = ("Dagster", "reading footers", "writing")
    pace = StageTimes(
        load=of(_ONCE, "model load"),
        model=of(_MODEL) - of(_MODEL, "Dagster"),
        dense=of(_ONCE) - of(_ONCE, "model load"),
        variant=of(_VARIANT) - of(_VARIANT, *serial),
        model_bookkeeping=of(_MODEL, "Dagster"),
        variant_bookkeeping=of(_VARIANT, "Dagster"),
        planning=of(_VARIANT, "reading footers"),
        writing=of(_VARIANT, "writing"),
    )
    return Scale(steps, pace, size, round(records), workers)


def table(found: Scale, study: Study) -> pl.DataFrame:
    """Return the seconds of every step, then simulated runs of the study's own size and of MODELS_OF_SCALE."""
    steps = [{"section": "steps", **vars(step)} for step in found.steps]
    sizes = [(len(study.models), len(study.recipes)), *((models, RECIPES_OF_SCALE) for models in MODELS_OF_SCALE)]
    return pl.DataFrame([*steps, *(_line(found, *size) for size in sizes)], schema=_SCHEMA)


def summary_line(found: Scale) -> str:
    """Return the result in a sentence."""
    pace = found.pace
    busy = pace.variant + pace.variant_bookkeeping + pace.writing
    name, workers = found.simulated(MODELS_OF_SCALE[-1], RECIPES_OF_SCALE).first_limit
    return (
        f"one worker computes {3600 / busy:,.0f} variants an hour, a thousand of them take "
        f"{gib(found.bytes_a_variant * 1000)}; at {MODELS_OF_SCALE[-1]:,} models more than {max(1, round(workers)):,} "
        f"workers wait for one thing first: {name}"
    )


def _line(found: Scale, models: int, recipes: int) -> dict[str, object]:
    run = found.simulated(models, recipes)
    name, at = run.first_limit
    return {
        "section": "scale",
        "models": models,
        "recipes": recipes,
        "workers": found.workers,
        "hours": run.seconds / 3600,
        "variants_an_hour": models * recipes / run.seconds * 3600,
        "computing_hours": run.computing / 3600,
        "repeated_hours": run.repeated / 3600,
        "serial_hours": sum(run.serial.values()) / 3600,
        "bytes": found.bytes_a_variant * models * recipes,
        "saturates_first": name,
        "at_workers": max(1, round(at)),
    }


def _measured_seconds(study: Study, store: Store, cache: Path, progress: Progress) -> dict[str, dict[str, list[float]]]:
    """Read the seconds in the footers of current partitions, by step and recipe (empty for a model)."""
    seconds: dict[str, dict[str, list[float]]] = {step: {} for step in STEPS}
    for spec in study.models:
        _, is_whole = locate_config(spec.source, cache, progress)
        if not is_whole:
            continue
        with VerifiedFiles(store.root, cache) as files:
            works = model_work(study, store, find_model(study, spec.name, cache, progress), files, replace=True)
        for work in (work for work in works if not work.is_search):
            name = work.recipe.name if work.recipe else None
            current = set(partition_tables(study, name)) - set(work.tables)
            for step in STEPS.values():
                first = step.tables[0]
                if first in current and (provenance := store.provenance(TABLES[first], spec.name, name)):
                    seconds[step.name].setdefault(name or "", []).append(provenance.seconds)
    return seconds


def _load(
    study: Study, cache: Path, progress: Progress, measured: dict[str, dict[str, list[float]]]
) -> Iterator[StepTime]:
    if seconds := measured["models"].get(""):
        yield StepTime("model load", _ONCE, fmean(seconds), f"measured, {len(seconds)} partitions")
        return
    shapes = [shape_of(load_meta_model(locate_config(spec.source, cache, progress)[0])) for spec in study.models]
    size = fmean(shape.parameters for shape in shapes) * (4 if study.dtype == "float32" else 2)
    yield StepTime("model load", _ONCE, size / _LOAD_SPEED, f"assumed, {_LOAD_SPEED / 1e9:g} GB/s")


def _computation(estimates: Sequence[ModelEstimate], measured: dict[str, dict[str, list[float]]]) -> Iterator[StepTime]:
    """Yield the workers' seconds, measured or else estimated; the dense model's share is scaled like its variants'."""

    def estimated(step: str, *, shared: bool) -> float:
        seconds = [
            sum(cost.seconds(found.machine) for cost in costs.get(step, ()))
            for found in estimates
            for costs in (
                [found.shared] if shared else [costs for recipe, costs in found.costs.items() if recipe != "dense"]
            )
        ]
        return fmean(seconds) if seconds else 0.0

    calibrations = [seconds for values in measured["calibration"].values() for seconds in values]
    if calibrations:
        yield StepTime("calibration", _MODEL, fmean(calibrations), f"measured, {len(calibrations)} partitions")
    else:
        yield StepTime("calibration", _MODEL, estimated("calibration", shared=True), "estimated")
    for step in [step.name for step in STEPS.values() if not step.is_of_model]:
        guess, dense = estimated(step, shared=False), estimated(step, shared=True)
        # The dense model's own partition is left out: its seconds may include work for all variants.
        own = [seconds for recipe, values in measured[step].items() if recipe != "dense" for seconds in values]
        if own:
            mean = fmean(own)
            dense *= mean / guess if guess else 1.0
            yield StepTime(step, _VARIANT, mean, f"measured, {len(own)} partitions")
        elif guess:
            yield StepTime(step, _VARIANT, guess, "estimated")
        if dense:
            yield StepTime(f"{step}, dense side", _ONCE, dense, "estimated, in proportion" if own else "estimated")


class _Idle(EngineResource):
    """An engine that computes nothing and reports every table as written, to time Dagster's bookkeeping."""

    def run_step(self, context: AssetExecutionContext, step: str, study: StudyResource) -> Iterator[MaterializeResult]:  # noqa: ARG002
        for name in STEPS[step].tables:
            drifts = tuple(CheckResult(drift.name, {}, is_warning=False) for drift in PLAUSIBILITY_CHECKS.get(name, ()))
            yield materialized(TABLES[name], TaskResult(name, fingerprint="0" * 64, drifts=drifts))


def _bookkeeping(study: Study) -> Iterator[StepTime]:
    """Time runs of the real assets that compute nothing, in a temporary Dagster instance."""

    def run(job: str, partition: str, tables: Sequence[str]) -> None:
        result = idle.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=partition,
            asset_selection=[AssetKey(name) for name in tables],
            run_config={
                "resources": {"warehouse": {"config": {"root": str(Path(folder) / "warehouse")}}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )
        if not result.success:
            raise RuntimeError("a run that computes nothing failed")

    def variant() -> None:
        masks, *others = variant_tables(study)
        run("variant_tables", key, [masks])
        if others:
            run("variant_tables", key, others)

    with (
        tempfile.TemporaryDirectory() as folder,
        databases_kept_open(),
        DagsterInstance.local_temp(folder, {"telemetry": {"enabled": False}}) as instance,
    ):
        warehouse, key = WarehouseResource.configure_at_launch(), variant_key("model", "dense")
        idle = Definitions(
            assets=[published_recipe, *table_assets()],
            jobs=[MODEL_JOB, VARIANT_JOB],
            resources={"study": StudyResource(), "warehouse": warehouse, "engine": _Idle(warehouse=warehouse)},
            executor=in_process_executor,
        )
        register(instance, MODELS, ["model"])
        register(instance, RECIPES, ["dense"])
        # Processor time: as its databases stay open, Dagster waits for nothing else.
        of_model = _fastest(lambda: run("model_tables", "model", MODEL_TABLES), time.process_time)
        of_variant = _fastest(variant, time.process_time)
    for when, seconds in ((_MODEL, of_model), (_VARIANT, of_variant)):
        yield StepTime("Dagster", when, seconds, "measured now, on SQLite")


def _storage(study: Study, size: int, local: Path) -> Iterator[StepTime]:
    """Time the writing of random partitions, with checks, hash and fsync, to the disk of the warehouse's folder.

    If that is not writable, use the folder for temporary files. All files are deleted at the end.
    """
    number = len(variant_tables(study))
    existing = next(folder for folder in (local, *local.absolute().parents) if folder.is_dir())
    parent = existing if os.access(existing, os.W_OK) else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=DISK_TEST, dir=parent) as folder:
        store, kind = Store(folder), TABLES["layer_transitions"]
        small, large = _rows(100), _rows(40_000)

        def write(rows: pl.DataFrame) -> int:
            return store.write(kind, rows, _PROVENANCE, "model", "recipe").bytes

        path, written = store.path(kind, "model", "recipe"), write(large)

        def of_variant(clock: Callable[[], float]) -> float:
            """Return the seconds of a variant's files, most of them small, plus those of its bytes."""
            per_file, seconds = _fastest(lambda: write(small), clock), _fastest(lambda: write(large), clock)
            return number * per_file + max(0.0, seconds - per_file) * size / written

        packing, whole = of_variant(time.process_time), of_variant(time.perf_counter)
        reading = _fastest(lambda: [read_footer(path) for _ in range(20)], time.process_time) / 20
    yield StepTime("reading footers", _VARIANT, _READS * number * reading, "measured now")
    yield StepTime("checks and packing", _VARIANT, packing, "measured now")
    yield StepTime("writing", _VARIANT, max(0.0, whole - packing), f"measured now in {parent}")


_PROVENANCE = Provenance(
    "0" * 64, "plan", "model", "recipe", {}, "", {}, 0, "cpu", "float32", 0.0, "2000-01-01T00:00:00"
)


def _rows(number: int) -> pl.DataFrame:
    """Return rows of `layer_transitions` that compress as little as real ones."""
    random, columns = np.random.default_rng(0), {}
    for column in TABLES["layer_transitions"].columns:
        if pa.types.is_floating(column.type):
            columns[column.name] = random.random(number, dtype=np.float32)
        elif pa.types.is_integer(column.type):
            columns[column.name] = np.arange(number) % 100
        elif pa.types.is_boolean(column.type):
            columns[column.name] = np.ones(number, dtype=bool)
        else:
            columns[column.name] = [column.values[0] if column.values else column.name] * number
    return pl.DataFrame(columns)


def _fastest(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds of the fastest of three calls; the first includes imports, and the machine may be busy."""
    seconds = []
    for _ in range(3):
        started = clock()
        work()
        seconds.append(clock() - started)
    return min(seconds)
