"""The cost of a model's partitions for `prunescope plan`: the work of their steps, its seconds, and memory.

Seconds are those of earlier variants of the model, else they follow from sizes at this machine's measured speed.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from prunescope.assets.execution.model_session import MAX_BATCH, MAX_RESULT_BYTES
from prunescope.assets.planning.fingerprints import DenseModel, accepted
from prunescope.assets.planning.steps import SEARCH_TABLES, STEPS, TRACE_TABLES, steps_writing
from prunescope.assets.planning.work_plan import PartitionWork
from prunescope.pipelines.core.device import available_bytes
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.definition import find
from prunescope.pipelines.models.chat_template import set_template_arguments
from prunescope.pipelines.models.meta_model import load_meta_model
from prunescope.pipelines.planning.machine_speed import measure_machine
from prunescope.pipelines.planning.memory import memory_items
from prunescope.pipelines.planning.power import verdict_power
from prunescope.pipelines.planning.preflight import check_outline, unmatched
from prunescope.pipelines.planning.workload import TYPICAL_SHARE, Machine, Work, Workload
from prunescope.pipelines.pruning.variant_row import peak_memory_bytes
from prunescope.pipelines.recipes import Recipe, parse_recipe
from prunescope.pipelines.studies import Study
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES


class StepWork(NamedTuple):
    """The work of one step for a variant; without a recipe that of the dense model, which all variants share."""

    step: str
    work: Work
    recipe: Recipe | None = None


class Forecast(NamedTuple):
    """The prediction of one model's seconds.

    Attributes:
        machine: speeds of this machine.
        earlier: finished steps of the model's variants under the study's present settings, with their seconds.
    """

    machine: Machine
    earlier: Sequence[tuple[StepWork, float]] = ()

    def seconds(self, item: StepWork) -> float:
        """Return the seconds of a step, from earlier variants of the same method, else of any, else from sizes."""
        predicted, method = item.work.seconds(self.machine), item.recipe and item.recipe.method
        found = [(one, took) for one, took in self.earlier if one.step == item.step]
        alike = [(one, took) for one, took in found if one.recipe and one.recipe.method == method]
        size = sum(one.work.seconds(self.machine) for one, _ in alike or found)
        took = sum(took for _, took in alike or found)
        if size:
            return predicted * took / size
        return took / len(alike) if alike else predicted


def model_costs(
    study: Study, store: Store, dense: DenseModel | None, folder: Path, works: Sequence[PartitionWork], gpu: int | None
) -> tuple[list[dict[str, int | None]], list[str], list[str]]:
    """Return the cost of each partition, as cells of its row, then warnings, then the other sentences of the summary.

    `dense` is None if the weights of the model are missing, because no partition can be known to be its own then. The
    folder has its config, tokenizer and header. `gpu` is as in `estimate_model`.
    """
    outline = load_meta_model(folder)
    arguments = study.model(works[0].model).template_arguments
    set_template_arguments(outline.tokenizer, arguments)
    local = [task for task in study.tasks if find(task).is_local and outline.tokenizer is not None]
    load = check_outline(study if gpu is None else study.model_copy(update={"device": "auto"}), outline, local)
    if gpu is not None:  # it need not be here
        there = study.model_copy(update={"device": "cuda:0", "memory": None})
        load = dataclasses.replace(load, study=there, workers=1)
    steps, memory = step_works(load, works), _memory(load, works, gpu)
    prediction = forecast(store, dense, load, works) if gpu is None else None
    costs = list[dict[str, int | None]]()
    for work in works:
        own = [] if work.is_search else [step for step in steps if step.recipe == work.recipe]
        seconds = None if prediction is None else math.ceil(sum(map(prediction.seconds, own)))
        needed = sum(memory[work.recipe.name].values()) if work.recipe and work.tables else None
        costs.append({"seconds": seconds, "memory_bytes": needed})
    lines = [_names_in_words(works), _work_in_words(steps, prediction)]
    warnings = [f"{reason}; `run` refuses it" for reason in unmatched(study, outline)]
    if outline.tokenizer is None:
        warnings.append("its tokenizer is not there: four characters count as a token, tasks do not count")
    calibrations = [study.calibration, *(recipe.calibration for recipe in study.recipes)]
    chats = [not each.ids and (each.template or study.template or "chat") == "chat" for each in study.prompts]
    if arguments and not any([*chats, *(spec.template for spec in calibrations if spec)]):
        warnings.append("`template_arguments` change nothing: no prompt is in the model's chat template")
    if answers := [f"{task.answer_tokens:.0f} tokens ({task.name})" for task in load.tasks if task.new_tokens]:
        lines.append(f"written answers count with {TYPICAL_SHARE} of their limit: {', '.join(answers)}")
    if study.search and any(set(SEARCH_TABLES) & set(work.tables) for work in works):
        lines.append(f"not counted is the search, which begins no trial after {study.search.minutes:g} min")
    if uncounted := [task.name for task in study.tasks if task not in local]:
        lines.append(f"not counted are tasks whose samples `run` fetches: {', '.join(uncounted)}")
    if load.moved_bytes:
        moved = _gib(load.moved_bytes)
        lines.append(f"not counted is the loading of {moved} of layers for every pass and every token written")
    if memory:
        needed_in_words, fits = _memory_in_words(memory, gpu or available_bytes(load.device))
        (lines if fits else warnings).append(needed_in_words)
    return costs, warnings, lines + (verdict_power(study, load.tasks) if study.prompts or load.tasks else [])


def step_works(load: Workload, works: Sequence[PartitionWork]) -> list[StepWork]:
    """Return the work of one model's partitions, first what all variants share."""
    todo = [(step.name, work.recipe) for work in works for step in steps_writing(work.tables)]
    groups, steps = len(_trace_groups(load, works)), dict.fromkeys(step for step, _ in todo)
    shared = [StepWork(step, load.work(step, None, groups)) for step in steps]
    own = [StepWork(step, load.work(step, recipe), recipe) for step, recipe in todo if recipe is not None]
    return [*(one for one in shared if one.work != Work()), *own]


def _trace_groups(load: Workload, works: Sequence[PartitionWork]) -> list[Sequence[Recipe]]:
    """Return the recipes of one model that are traced together, in order."""
    traced = [work.recipe for work in works if work.recipe and set(work.tables) & set(TRACE_TABLES)]
    size = max(1, min(MAX_BATCH, MAX_RESULT_BYTES // load.bytes_per_variant))
    return [traced[start : start + size] for start in range(0, len(traced), size)]


def forecast(store: Store, dense: DenseModel | None, load: Workload, works: Sequence[PartitionWork]) -> Forecast:
    """Measure this machine, and read from footers the seconds of the model's earlier variants, of any study."""
    tokens = max(load.lengths, default=load.study.calibration.length)
    machine = measure_machine(load.shape, getattr(torch, load.study.dtype), load.device, tokens)
    steps = {step.name for work in works if work.recipe for step in steps_writing(work.tables)}
    earlier = list[tuple[StepWork, float]]()
    for partition in store.partitions(TABLES["variants"]):
        model, name = partition.model, partition.recipe
        if dense is None or model != dense.spec.name:
            continue
        with suppress(InputError, WarehouseError):  # a recipe of another version, or a damaged file
            [row] = store.read(TABLES["variants"], model, name).to_pylist()
            recipe = parse_recipe(json.dumps(json.loads(row["parameters_json"]) | {"name": name}))
            for step in steps:
                table = STEPS[step].tables[0]
                written = store.provenance(TABLES[table], model, name)
                if written is None or written.device != load.device:
                    continue
                if written.fingerprint in accepted(table, load.study, dense.identity, recipe):
                    earlier.append((StepWork(step, load.work(step, recipe), recipe), written.seconds))
    return Forecast(machine, earlier)


def _memory(load: Workload, works: Sequence[PartitionWork], gpu: int | None) -> dict[str, dict[str, int]]:
    """Return the bytes of each variant with tables to compute, in the phase that needs most, by item."""
    process = peak_memory_bytes() if load.device == "cpu" else 0
    group_of = {recipe.name: group for group in _trace_groups(load, works) for recipe in group}
    recipes = [work.recipe for work in works if work.recipe and work.tables]
    phases = {one.name: memory_items(load, one, group_of.get(one.name, [one]), process, gpu) for one in recipes}
    return {name: max(each.values(), key=lambda items: sum(items.values())) for name, each in phases.items()}


def _names_in_words(works: Sequence[PartitionWork]) -> str:
    own = {True: "a search", False: "the model's own tables"}
    names = [work.recipe.name if work.recipe else own[work.is_search] for work in works if work.tables]
    return f"computes {', '.join(names)} ({len(names)} partitions; {len(works) - len(names)} are current)"


def _work_in_words(steps: Sequence[StepWork], prediction: Forecast | None) -> str:
    """Return the time of the work and where it is known from, or the amount without a prediction."""
    if prediction is None:
        layers, head = (sum(getattr(step.work, part) for step in steps) / 1e15 for part in ("layers", "head"))
        return f"{layers:,.1f} PFLOP in the layers, and as long as {head:,.1f} PFLOP in the head"
    earlier = {one.step for one, _ in prediction.earlier}
    known = sum(prediction.seconds(step) for step in steps if step.step in earlier)
    counted = sum(prediction.seconds(step) for step in steps if step.step not in earlier)
    speeds = " and ".join(f"{speed / 1e9:,.0f}" for speed in prediction.machine)
    parts = [f"{_minutes(known)} as long as earlier variants took"] if known else []
    if counted or not known:
        speed = f"at this machine's measured speed ({speeds} GFLOP/s in layers and head)"
        parts.append(f"{_minutes(counted)} by operations {speed}")
    return f"about {_minutes(known + counted)} of work: {'; '.join(parts)}"


def _memory_in_words(memory: Mapping[str, Mapping[str, int]], free: int) -> tuple[str, bool]:
    """Return how much memory the largest variant needs, and whether it fits or may fit."""
    peaks = {recipe: sum(items.values()) for recipe, items in memory.items()}
    recipe = max(peaks, key=peaks.__getitem__)
    sizes = sorted(memory[recipe].items(), key=lambda item: -item[1])
    largest = ", ".join(f"{item} {_gib(size)}" for item, size in sizes[:3])
    most = f"at most {_gib(peaks[recipe])} of memory ({recipe}; {largest})"
    if peaks[recipe] <= free:
        return f"{most}, {_gib(free)} are free: it fits", True
    fitting = ", ".join(name for name, size in peaks.items() if size <= free)
    advice = f"these fit: {fitting}" if fitting else "none of its variants does"
    way_out = "the key `memory` lets layers rest on disk until they run"
    return f"{most}, but {_gib(free)} are free: IT DOES NOT FIT; {advice}; {way_out}", False


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
