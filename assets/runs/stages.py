"""The work of a study's steps, and the stages of a run with their cost; `remaining_time` follows them."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from prunescope.assets.planning.steps import (
    MODEL_TABLES,
    RETRIEVAL_TABLES,
    SAMPLED_TABLES,
    SPEED_TABLE,
    TASK_TABLES,
    TEXT_TABLE,
    TRACE_TABLES,
    steps_writing,
)
from prunescope.assets.planning.work_plan import PartitionWork, Plan
from prunescope.assets.runs.remaining_time import Stage
from prunescope.pipelines.planning.cost_model import Cost
from prunescope.pipelines.recipes import Recipe, shares_passes

if TYPE_CHECKING:  # needs torch
    from prunescope.pipelines.planning.workload import Workload

# Work by step.
Steps = dict[str, Sequence[Cost]]

ANSWERS = "questions, figures and report"
# Measured on two cores: two thirds of it are the figures.
_ANSWERS_SECONDS = 20.0


def trace_groups(load: "Workload", works: Sequence[PartitionWork]) -> list[Sequence[Recipe]]:
    """Return the recipes of one model that are traced together, in order."""
    from prunescope.assets.execution.model_session import MAX_BATCH, MAX_RESULT_BYTES

    traced = [work.recipe for work in works if work.recipe and set(work.tables) & set(TRACE_TABLES)]
    return load.groups(traced, MAX_BATCH, MAX_RESULT_BYTES)


def shared_work(load: "Workload", tables: Collection[str], groups: int) -> Steps:
    """Return the work that all variants share, and that of the model's own tables.

    Args:
        load: the study on the model.
        tables: all tables to compute.
        groups: how many groups of variants are traced.
    """
    todo = set(tables)
    return {
        "calibration": load.calibration() if todo & set(MODEL_TABLES[1:]) else (),
        "traces": load.dense(groups) if groups else (),
        "sampling": load.sampling_dense() if todo & set(SAMPLED_TABLES) else (),
        "texts": load.text_dense() if TEXT_TABLE in todo else (),
        "retrieval": load.retrieval_dense() if todo & set(RETRIEVAL_TABLES) else (),
    }


def variant_work(load: "Workload", recipe: Recipe, tables: Collection[str]) -> Steps:
    """Return the work of one variant's tables."""
    todo = set(tables)
    return {
        "variants": load.pruning(recipe) if "variants" in todo else (),
        "traces": load.variant(recipe) if todo & set(TRACE_TABLES) else (),
        "sampling": load.sampling_variant() if todo & set(SAMPLED_TABLES) else (),
        "texts": load.text_variant() if TEXT_TABLE in todo else (),
        "tasks": load.task_variant(recipe) if todo & set(TASK_TABLES) else (),
        "retrieval": load.retrieval_variant(recipe) if todo & set(RETRIEVAL_TABLES) else (),
        "speed": load.speed_variant(recipe) if SPEED_TABLE in todo else (),
    }


def stages(plan: Plan, loads: Mapping[str, "Workload"]) -> list[Stage]:
    """Return the stages of a run.

    Args:
        plan: the run's work.
        loads: the study on each model, by its name.
    """
    found = [
        Stage(work.name, "search", 0.0, 60 * plan.study.search.minutes)
        for work in plan.searches
        if plan.study.search is not None
    ]
    for name, load in loads.items():
        own = [work for work in plan.models if work.model == name]
        found += _model_stages(load, own, [work for work in plan.variants if work.model == name])
    return [*found, Stage(ANSWERS, "answers", 0.0, _ANSWERS_SECONDS)] if plan.is_report_stale else found


def _model_stages(load: "Workload", own: Sequence[PartitionWork], variants: Sequence[PartitionWork]) -> list[Stage]:
    """Return the stages of one model; work that several variants share counts in the first of them."""
    from prunescope.pipelines.core.device import resolve_device
    from prunescope.pipelines.planning.machine_speed import typical_machine

    machine = typical_machine(resolve_device(load.study.device))
    costs: dict[tuple[str, str], float] = {}
    groups = trace_groups(load, variants)
    first = {recipe.name: group[0].name for group in groups for recipe in group}
    pruned = [work.recipe for work in variants if work.recipe and "variants" in work.tables]
    shared = shared_work(load, {table for work in (*own, *variants) for table in work.tables}, len(groups))
    for work in (*own, *variants):
        for step in steps_writing(work.tables):
            costs[work.name, step.name] = 0.0
            if step.name in shared:
                costs[work.name, step.name] += sum(cost.seconds(machine) for cost in shared.pop(step.name))
    for work in variants:
        if work.recipe is None:
            continue
        for step, items in variant_work(load, work.recipe, work.tables).items():
            leader = work.recipe.name
            if step == "traces":
                leader = first.get(leader, leader)
            elif step == "variants" and shares_passes(work.recipe):
                batch = (it for it in pruned if shares_passes(it) and it.calibration == work.recipe.calibration)
                leader = next((recipe.name for recipe in batch), leader)
            if items:
                costs[f"{work.model}@{leader}", step] += sum(cost.seconds(machine) for cost in items)
    return [Stage(name, step, cost) for (name, step), cost in costs.items()]
