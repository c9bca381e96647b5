"""What `prunescope plan --workers` tells: how long a study like this takes at 10, 100 and 1,000 models × 30 recipes.

Seconds come from the footers of partitions that are there, else from the estimate; Dagster's bookkeeping, writing and
reading of footers are measured while one waits. The simulation is `prunescope.pipelines.planning.cluster`.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from prunescope.assets.execution.task import STEPS, TaskResult
from prunescope.assets.instance.instance import databases_kept_open
from prunescope.assets.planning.fingerprints import MODEL_TABLES, find_model, variant_tables
from prunescope.assets.planning.work_plan import model_work
from prunescope.assets.runs.estimate import ModelEstimate, bytes_of, estimate, gib
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.models.meta_model import load_outline, shape_of
from prunescope.pipelines.models.sources import locate_outline
from prunescope.pipelines.planning.cluster import SimulatedRun, StageTimes, simulate
from prunescope.pipelines.studies import Study
from prunescope.warehouse.maintenance.garbage_collection import DISK_TEST
from prunescope.warehouse.quality.plausibility_checks import CheckResult, drifts_of
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import Provenance, read_footer
from prunescope.warehouse.tables import TABLES

MODELS_OF_SCALE, RECIPES_OF_SCALE = (10, 100, 1000), 30
SECTIONS = ("steps", "scale")
# Weights from a local disk into memory, with hashes and the proof of the structure, bytes a second.
_LOADED = 5e8
# Questions, figures and report of the demo, and what the questions add for every million layer records, on two cores;
# the latter up to a hundred million, by `tests.benchmarks.warehouse`. How figures grow is not counted.
_ANSWERS, _ANSWERS_A_MILLION = 13.0, 0.8
# How often a run reads the footer of a partition before it computes: `run` plans, and plans again as only writer.
_READ = 2
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
class Step:
    """Seconds of one kind of work.

    Attributes:
        item: what it is.
        when: how often it is paid.
        seconds: mean.
        source: where they come from.
    """

    item: str
    when: str
    seconds: float
    source: str


@dataclass(frozen=True)
class Scale:
    """What a study costs a model and a variant, and what it comes to.

    Attributes:
        steps: where every second comes from.
        pace: the same for the simulation, questions and figures apart.
        bytes_a_variant: of Parquet.
        records_a_variant: rows of `layer_transitions`.
        workers: that compute at once.
    """

    steps: Sequence[Step]
    pace: StageTimes
    bytes_a_variant: int
    records_a_variant: int
    workers: int

    def simulated(self, models: int, recipes: int) -> SimulatedRun:
        """The whole run of so many models with so many recipes each."""
        answers = _ANSWERS + _ANSWERS_A_MILLION * self.records_a_variant * models * recipes / 1e6
        pace = StageTimes(**(vars(self.pace) | {"answers": answers}))
        return simulate(pace, models, recipes, self.workers)


_ONCE, _MODEL, _VARIANT = "a worker and model", "a model", "a variant"


def scale(study: Study, store: Store, cache: Path, progress: Progress, workers: int) -> Scale:
    """Gathers what a study takes a model and a variant, as means over those that it names.

    Raises:
        InputError: a run would refuse the study, too.
        WarehouseError: the warehouse cannot be read.
    """
    with tempfile.TemporaryDirectory() as nothing:
        estimates = estimate(study, Store(nothing), cache, progress)
    told = _seconds(study, store, cache, progress)
    steps = [*_load(study, cache, progress, told), *_computed(estimates, told)]
    rows = [each.rows[recipe.name] for each in estimates for recipe in study.recipes if recipe.name in each.rows]
    size = round(fmean(bytes_of(each) for each in rows))
    records = fmean(sum(one.rows for one in each if one.table == "layer_transitions") for each in rows)
    steps += [*_bookkeeping(study), *_storage(study, size, store.local(cache))]

    def of(when: str, *items: str) -> float:
        return sum(step.seconds for step in steps if step.when == when and (not items or step.item in items))

    serial = ("Dagster", "reading footers", "writing")
    pace = StageTimes(
        load=of(_ONCE, "model load"),
        model=of(_MODEL) - of(_MODEL, "Dagster"),
        dense=of(_ONCE) - of(_ONCE, "model load"),
        variant=of(_VARIANT) - of(_VARIANT, *serial),
        model_told=of(_MODEL, "Dagster"),
        variant_told=of(_VARIANT, "Dagster"),
        planned=of(_VARIANT, "reading footers"),
        written=of(_VARIANT, "writing"),
    )
    return Scale(steps, pace, size, round(records), workers)


def table(found: Scale, study: Study) -> pl.DataFrame:
    """Seconds of every step, then the runs: the study's own, and 10, 100 and 1,000 models × 30 recipes."""
    steps = [{"section": "steps", **vars(step)} for step in found.steps]
    sizes = [(len(study.models), len(study.recipes)), *((models, RECIPES_OF_SCALE) for models in MODELS_OF_SCALE)]
    return pl.DataFrame([*steps, *(_line(found, *size) for size in sizes)], schema=_SCHEMA)


def verdict(found: Scale) -> str:
    """What a person should know, in a sentence."""
    pace = found.pace
    busy = pace.variant + pace.variant_told + pace.written
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


def _seconds(study: Study, store: Store, cache: Path, progress: Progress) -> dict[str, dict[str, list[float]]]:
    """Seconds of every step in the footers of current partitions, by step and recipe (empty: of the model)."""
    found: dict[str, dict[str, list[float]]] = {step: {} for step in STEPS}
    for spec in study.models:
        _, is_whole = locate_outline(spec.source, cache, progress)
        works = model_work(study, store, find_model(study, spec.name, cache, progress), replace=True) * is_whole
        for work in works:
            name = work.recipe.name if work.recipe else None
            there = set(variant_tables(study) if name else MODEL_TABLES) - set(work.tables)
            for step, (first, *_) in STEPS.items():
                if first in there and (made := store.provenance(TABLES[first], spec.name, name)):
                    found[step].setdefault(name or "", []).append(made.seconds)
    return found


def _load(study: Study, cache: Path, progress: Progress, told: dict[str, dict[str, list[float]]]) -> Iterator[Step]:
    if seconds := told["models"].get(""):
        yield Step("model load", _ONCE, fmean(seconds), f"measured, {len(seconds)} partitions")
        return
    shapes = [shape_of(load_outline(locate_outline(spec.source, cache, progress)[0])) for spec in study.models]
    size = fmean(shape.parameters for shape in shapes) * (4 if study.dtype == "float32" else 2)
    yield Step("model load", _ONCE, size / _LOADED, f"assumed, {_LOADED / 1e9:g} GB/s")


def _computed(estimates: Sequence[ModelEstimate], told: dict[str, dict[str, list[float]]]) -> Iterator[Step]:
    """What workers compute: as measured, else as estimated; the dense side in proportion to what stands beside it."""

    def estimated(step: str, *, shared: bool) -> float:
        per_model = [
            [each.shared] if shared else [steps for recipe, steps in each.costs.items() if recipe != "dense"]
            for each in estimates
        ]
        every = [
            sum(cost.seconds(each.machine) for cost in steps.get(step, ()))
            for each, all_steps in zip(estimates, per_model, strict=True)
            for steps in all_steps
        ]
        return fmean(every) if every else 0.0

    calibrated = [seconds for found in told["calibration"].values() for seconds in found]
    if calibrated:
        yield Step("calibration", _MODEL, fmean(calibrated), f"measured, {len(calibrated)} partitions")
    else:
        yield Step("calibration", _MODEL, estimated("calibration", shared=True), "estimated")
    for step in ("variants", "mask_samples", "traces", "texts", "tasks", "retrieval", "speed"):
        guess, dense = estimated(step, shared=False), estimated(step, shared=True)
        # The dense model's own partition has the dense side in it, wherever that is computed with the first variant.
        measured = [seconds for recipe, found in told[step].items() if recipe != "dense" for seconds in found]
        if measured:
            mean = fmean(measured)
            dense *= mean / guess if guess else 1.0
            yield Step(step, _VARIANT, mean, f"measured, {len(measured)} partitions")
        elif guess:
            yield Step(step, _VARIANT, guess, "estimated")
        if dense:
            yield Step(f"{step}, dense side", _ONCE, dense, "estimated, in proportion" if measured else "estimated")


class _Idle(EngineResource):
    """Computes nothing and says that all was written: what is left of a run is Dagster's bookkeeping."""

    def outcomes(self, context: AssetExecutionContext, step: str, study: StudyResource) -> Iterator[MaterializeResult]:  # noqa: ARG002
        for name in STEPS[step]:
            drifts = tuple(CheckResult(drift.name, {}, is_warning=False) for drift in drifts_of(TABLES[name]))
            yield materialized(TABLES[name], TaskResult(name, fingerprint="0" * 64, drifts=drifts))


def _bookkeeping(study: Study) -> Iterator[Step]:
    """Runs of the real assets that compute nothing, in a Dagster instance of their own."""

    def run(job: str, partition: str, tables: Sequence[str]) -> None:
        done = idle.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=partition,
            asset_selection=[AssetKey(name) for name in tables],
            run_config={
                "resources": {"warehouse": {"config": {"root": str(Path(folder) / "warehouse")}}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )
        if not done.success:
            raise RuntimeError("a run that computes nothing failed")

    def variant() -> None:
        masks, *rest = variant_tables(study)
        run("variant_tables", key, [masks])
        if rest:
            run("variant_tables", key, rest)

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
        # Processor time: with its databases kept open, Dagster waits for nothing else.
        of_model = _fastest(lambda: run("model_tables", "model", MODEL_TABLES), time.process_time)
        of_variant = _fastest(variant, time.process_time)
    for when, seconds in ((_MODEL, of_model), (_VARIANT, of_variant)):
        yield Step("Dagster", when, seconds, "measured now, on SQLite")


def _storage(study: Study, size: int, local: Path) -> Iterator[Step]:
    """Partitions of made-up numbers, written with checks, hash and fsync to the disk of the warehouse's folder.

    Where that cannot be written, to the one of the folder for temporary files. Nothing of it stays.
    """
    number = len(variant_tables(study))
    there = next(folder for folder in (local, *local.absolute().parents) if folder.is_dir())
    beside = there if os.access(there, os.W_OK) else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=DISK_TEST, dir=beside) as folder:
        store, kind = Store(folder), TABLES["layer_transitions"]
        small, large = _rows(100), _rows(40_000)

        def write(rows: pl.DataFrame) -> int:
            return store.write(kind, rows, _NOBODY, "model", "recipe").bytes

        path, written = store.path(kind, "model", "recipe"), write(large)

        def of_variant(clock: Callable[[], float]) -> float:
            """Its files, of which most are small, and its bytes."""
            each, seconds = _fastest(lambda: write(small), clock), _fastest(lambda: write(large), clock)
            return number * each + max(0.0, seconds - each) * size / written

        packing, whole = of_variant(time.process_time), of_variant(time.perf_counter)
        reading = _fastest(lambda: [read_footer(path) for _ in range(20)], time.process_time) / 20
    yield Step("reading footers", _VARIANT, _READ * number * reading, "measured now")
    yield Step("checks and packing", _VARIANT, packing, "measured now")
    yield Step("writing", _VARIANT, max(0.0, whole - packing), f"measured now in {beside}")


_NOBODY = Provenance("0" * 64, "plan", "model", "recipe", {}, "", {}, 0, "cpu", "float32", 0.0, "2000-01-01T00:00:00")


def _rows(number: int) -> pl.DataFrame:
    """Rows of `layer_transitions` that compress as little as real ones."""
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


def _fastest(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest of three calls: the first pays for imports, and others share the machine."""
    seconds = []
    for _ in range(3):
        started = clock()
        work()
        seconds.append(clock() - started)
    return min(seconds)
