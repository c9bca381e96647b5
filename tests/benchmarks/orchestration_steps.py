"""The steps of `orchestration.py`, each run in a process of its own: prints one line of JSON, seconds after imports."""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Figures = dict[str, float]


def timed(work: Callable[[], object]) -> Figures:
    """Return seconds and processor seconds of a call; discard its output."""
    started, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
        work()
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}


def definitions() -> Figures:
    """Import the definitions, and build what Dagster's code server builds."""

    def load() -> None:
        from prunescope.assets.definitions import defs

        defs.get_repository_def().load_all_definitions()

    return timed(load) | {"torch": "torch" in sys.modules}


def run(study: str, root: str) -> Figures:
    """Run `prunescope run` after importing everything that it may need; a run with nothing to do needs little of it."""
    from prunescope.assets.cli.application import run as command
    from prunescope.assets.cli.options import Globals

    if not Path(root, "_reports").exists():
        import_all()

    def work() -> None:
        if command(["run", study, "--warehouse", root], Globals()):
            raise RuntimeError("the run failed")

    return timed(work)


def import_all() -> None:
    """Import everything that computing needs, so that neither way is timed with imports."""
    from prunescope.pipelines.evaluation.traces import text_traces, trace_session  # noqa: F401
    from prunescope.pipelines.models import load  # noqa: F401
    from prunescope.pipelines.pruning import apply  # noqa: F401


def direct(study: str, root: str) -> Figures:
    """Call the functions of the assets in the same order without Dagster, then those of the answers."""
    import_all()
    from dagster import build_asset_context

    from prunescope.assets.defs.answer_assets import figure_assets, question_assets, report
    from prunescope.assets.defs.reference_asset import paper_reference
    from prunescope.assets.defs.resources import StudyResource, WarehouseResource
    from prunescope.assets.execution.compute import compute
    from prunescope.assets.execution.model_session import ModelSession
    from prunescope.assets.execution.task import ModelTask
    from prunescope.assets.planning.steps import partition_tables, steps_writing
    from prunescope.assets.planning.work_plan import StudyRequest

    def work() -> None:
        request, session = StudyRequest(study), ModelSession()
        chosen = request.load()
        steps = tuple(
            (recipe and recipe.name, step.name)
            for recipe in (None, *chosen.recipes)
            for step in steps_writing(partition_tables(chosen, recipe))
        )
        for model in chosen.models:
            list(compute(ModelTask(request, root, model.name, steps), session))
        session.release()
        given = {"study": StudyResource(study=study), "warehouse": WarehouseResource(root=root)}
        for asset in (paper_reference, *question_assets(), *figure_assets(), report):
            with build_asset_context(
                resources={name: given[name] for name in given.keys() & asset.required_resource_keys}
            ) as context:
                asset(context)

    return timed(work)


def registered(study: str, root: str) -> Figures:
    """Register a study's models and recipes with Dagster, as its first run does."""
    from prunescope.assets.defs.partitions import MODELS, RECIPES, register
    from prunescope.assets.instance.instance import open_instance
    from prunescope.assets.planning.work_plan import StudyRequest

    chosen = StudyRequest(study).load()
    with open_instance(Path(root)) as instance:
        register(instance, MODELS, [spec.name for spec in chosen.models])
        register(instance, RECIPES, [each.name for each in chosen.recipes])
    return {}


def cluster(study: str, root: str, workers: str) -> Figures:
    """Compute a study's tables by so many workers of one thread: one in this process, more on a Ray cluster.

    The clock starts when all workers are there.
    """
    import torch

    from prunescope.assets.cli.application import run as command
    from prunescope.assets.cli.options import Globals
    from prunescope.assets.runs import study_job

    study_job.answer = lambda *_: (0.0, None)

    def tables(*place: str) -> None:
        if command(["run", study, "--warehouse", root, *place], Globals()):
            raise RuntimeError("the run failed")

    import_all()
    if int(workers) == 1:
        torch.set_num_threads(1)
        return timed(tables)

    from ray.cluster_utils import Cluster

    from prunescope.assets.execution.ray.pool import _Pool

    begun = list[float]()
    assign = _Pool._assign

    def assign_together(pool: _Pool) -> None:
        is_new = [not worker.is_ready for worker in pool._workers]
        if not any(is_new):
            begun.append(time.perf_counter())
        if not any(is_new) or all(is_new):
            assign(pool)

    _Pool._assign = assign_together
    machine = {"num_cpus": 1, "object_store_memory": 80 << 20}
    machines = Cluster(initialize_head=True, head_node_args=machine | {"include_dashboard": False})
    try:
        for _ in range(int(workers) - 1):
            machines.add_node(**machine)
        timed(lambda: tables("--ray", machines.address))
        return {"seconds": time.perf_counter() - begun[0]}
    finally:
        machines.shutdown()


def partitions(root: str, models: str, recipes: str) -> Figures:
    """Time so many materialized partitions: their keys, the status in the UI, the evaluation of a condition."""
    import sqlite3

    from dagster import (
        AssetKey,
        AssetMaterialization,
        AutomationCondition,
        Definitions,
        asset,
        evaluate_automation_conditions,
    )
    from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

    from prunescope.assets.defs.partitions import MODELS, RECIPES, VARIANTS, register
    from prunescope.assets.instance.instance import open_instance

    @asset(partitions_def=MODELS)
    def model() -> None: ...

    @asset(partitions_def=VARIANTS, deps=[model], automation_condition=AutomationCondition.eager())
    def variant() -> None: ...

    with open_instance(Path(root)) as instance:
        register(instance, MODELS, [f"m{index}" for index in range(int(models))])
        register(instance, RECIPES, [f"r{index}" for index in range(int(recipes))])
        keys = VARIANTS.get_partition_keys(dynamic_partitions_store=instance)
        instance.report_runless_asset_event(AssetMaterialization("variant", partition=keys[0]))
        # The others are copies of this event's row: reporting 30,000 would take many minutes.
        (file,) = Path(root).rglob("index.db")
        with sqlite3.connect(file) as database:
            (names,) = zip(*((row[1],) for row in database.execute("PRAGMA table_info(event_logs)")), strict=True)
            rest = [name for name in names if name != "id"]
            (row,) = database.execute(
                f"SELECT {', '.join(rest)} FROM event_logs WHERE partition = ? LIMIT 1",
                [keys[0]],
            ).fetchall()
            rows = (
                [key if name == "partition" else value for name, value in zip(rest, row, strict=True)]
                for key in keys[1:]
            )
            database.executemany(
                f"INSERT INTO event_logs ({', '.join(rest)}) VALUES ({', '.join('?' * len(rest))})",
                rows,
            )
        figures = {"partitions": len(keys)}
        figures["keys"] = timed(lambda: VARIANTS.get_partition_keys(dynamic_partitions_store=instance))["cpu"]
        key = AssetKey("variant")
        figures["status"] = timed(
            lambda: get_and_update_asset_status_cache_value(
                instance, key, partitions_def=VARIANTS, dynamic_partitions_loader=instance
            )
        )["cpu"]
        both = Definitions(assets=[model, variant])
        figures["condition"] = timed(lambda: evaluate_automation_conditions(both, instance))["cpu"]
    return figures


def tick(study: str, root: str) -> Figures:
    """Time the sensor and the conditions: at first they read every footer, later only the changed files."""
    from prunescope.assets.cli.application import run as command
    from prunescope.assets.cli.options import Globals
    from prunescope.assets.watching.backlog import FreshnessScanner
    from prunescope.warehouse.storage.partition_store import Store

    if command(["watch", study, "--warehouse", root], Globals()):
        raise RuntimeError("the study cannot be watched")
    store, surveyor = Store(root), FreshnessScanner()
    first = timed(lambda: surveyor.scan(store))
    return {"first": first["cpu"], "later": timed(lambda: surveyor.scan(store))["cpu"]}


def answers(root: str, rows: str) -> Figures:
    """Compute questions and figures over generated variants; the report is part of the demo's figures."""
    from dagster import build_asset_context

    from prunescope.assets.defs.answer_assets import figure_assets, question_assets
    from prunescope.assets.defs.resources import WarehouseResource
    from tests.benchmarks.warehouse import write_warehouse

    write_warehouse(Path(root), int(rows))

    def work() -> None:
        for asset in (*question_assets(), *figure_assets()):
            with build_asset_context(resources={"warehouse": WarehouseResource(root=root)}) as context:
                asset(context)

    return timed(work)


PARTS: dict[str, Callable[..., Figures]] = {
    each.__name__: each for each in (definitions, run, direct, registered, cluster, partitions, tick, answers)
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])) + "\n")
