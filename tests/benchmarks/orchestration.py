"""Cost of Dagster and of our use of it: loading, a run with nothing to do, ticks, the demo beside plain calls, scale.

Run by `python -m tests.benchmarks.orchestration [PART ...]`; each step runs in a process of its own, whose imports do
not count. The parts are those of `PARTS`; `demo` takes twice as long as `prunescope run demo`, the others some minutes
together.
"""

import contextlib
import io
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.benchmarks.measuring import Table, child, timed

# Targets on two idle cores.
MOST_SECONDS_NO_OP, MOST_SECONDS_TO_LOAD, MOST_TIMES_PLAIN, MOST_SECONDS_PER_TICK = 5.0, 3.0, 1.1, 1.0
VARIANTS = 100
Figures = dict[str, float]


def load() -> Figures:
    """Import the definitions, and build what Dagster's code server builds."""

    def work() -> None:
        from prunescope.assets.definitions import defs

        defs.get_repository_def().load_all_definitions()

    return timed(work) | {"torch": "torch" in sys.modules}


def command(*arguments: str) -> None:
    """Run a command of `prunescope` in this process."""
    from prunescope.assets.cli.application import run
    from prunescope.assets.cli.options import Globals

    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
        if run([*arguments], Globals()):
            raise RuntimeError(f"{arguments[0]} failed")


def import_all() -> None:
    """Import everything that computing needs, so that neither way is timed with imports."""
    from prunescope.pipelines.evaluation.traces import text_traces, trace_session  # noqa: F401
    from prunescope.pipelines.models import load  # noqa: F401
    from prunescope.pipelines.pruning import apply  # noqa: F401


def run(study: str, root: str) -> Figures:
    """Run a study by `prunescope run`; a run with nothing to do needs few imports."""
    if not Path(root, "_reports").exists():
        import_all()
    return timed(lambda: command("run", study, "--warehouse", root))


def direct(study: str, root: str) -> Figures:
    """Call the functions of the assets in the same order without Dagster, then those of the answers."""
    import_all()
    from dagster import build_asset_context

    from prunescope.assets.defs.answer_assets import figure_assets, paper_reference, question_assets, report
    from prunescope.assets.defs.resources import StudyResource, WarehouseResource
    from prunescope.assets.execution.compute import compute
    from prunescope.assets.execution.model_session import ModelSession
    from prunescope.assets.execution.task import ModelTask
    from prunescope.assets.planning.steps import partition_tables, steps_writing
    from prunescope.assets.planning.work_plan import StudyRequest

    def work() -> None:
        request, session = StudyRequest(study), ModelSession()
        chosen, wanted = request.load(), []
        for recipe in (None, *chosen.recipes):
            steps = steps_writing(partition_tables(chosen, recipe))
            wanted += [(recipe and recipe.name, step.name) for step in steps]
        for model in chosen.models:
            list(compute(ModelTask(request, root, model.name, tuple(wanted)), session))
        session.release()
        given = {"study": StudyResource(study=study), "warehouse": WarehouseResource(root=root)}
        for asset in (paper_reference, *question_assets(), *figure_assets(), report):
            needed = {name: given[name] for name in given.keys() & asset.required_resource_keys}
            with build_asset_context(resources=needed) as context:
                asset(context)

    return timed(work)


def tick(study: str, root: str) -> Figures:
    """Time the sensor's comparison: at first it reads every footer, later only the changed files."""
    from prunescope.assets.watching.backlog import FreshnessScanner
    from prunescope.warehouse.storage.partition_store import Store

    command("watch", study, "--warehouse", root)
    store, scanner = Store(root), FreshnessScanner()
    return {name: timed(lambda: scanner.scan(store))["processor"] for name in ("first", "later")}


def partitions(root: str, models: str, recipes: str) -> Figures:
    """Time so many materialized partitions: their keys, the status in the UI, the evaluation of a condition."""
    from dagster import (
        AssetKey,
        AssetMaterialization,
        AutomationCondition,
        Definitions,
        asset,
        evaluate_automation_conditions,
    )
    from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

    from prunescope.assets.defs.recipe_asset import MODELS, VARIANTS
    from prunescope.assets.instance.instance import open_instance

    @asset(partitions_def=MODELS)
    def model() -> None: ...

    @asset(partitions_def=VARIANTS, deps=[model], automation_condition=AutomationCondition.eager())
    def variant() -> None: ...

    with open_instance(Path(root)) as instance:
        instance.add_dynamic_partitions("model", [f"m{index}" for index in range(int(models))])
        instance.add_dynamic_partitions("recipe", [f"r{index}" for index in range(int(recipes))])
        keys = VARIANTS.get_partition_keys(dynamic_partitions_store=instance)
        instance.report_runless_asset_event(AssetMaterialization("variant", partition=keys[0]))
        # The others are copies of this event's row: reporting 30,000 would take many minutes.
        with sqlite3.connect(next(Path(root).rglob("index.db"))) as database:
            found = database.execute("SELECT * FROM event_logs WHERE partition = ?", keys[:1])
            names = [column[0] for column in found.description]
            row = dict(zip(names, found.fetchone(), strict=True)) | {"id": None}
            places = ", ".join(f":{name}" for name in names)
            database.executemany(
                f"INSERT INTO event_logs VALUES ({places})", (row | {"partition": k} for k in keys[1:])
            )
        key, both = AssetKey("variant"), Definitions(assets=[model, variant])
        works: dict[str, Callable[[], object]] = {
            "keys": lambda: VARIANTS.get_partition_keys(dynamic_partitions_store=instance),
            "status": lambda: get_and_update_asset_status_cache_value(
                instance, key, partitions_def=VARIANTS, dynamic_partitions_loader=instance
            ),
            "condition": lambda: evaluate_automation_conditions(both, instance),
        }
        return {name: timed(work)["processor"] for name, work in works.items()}


def of_definitions(table: Table, _: Path) -> None:
    """Load all definitions in new processes."""
    found = [child("orchestration", "load") for _ in range(3)]
    table.add("definitions load, s", min(each["seconds"] for each in found), most=MOST_SECONDS_TO_LOAD)
    table.add("processes that import torch for them", sum(each["torch"] for each in found), most=0)


def of_no_op(table: Table, folder: Path) -> None:
    """Run `prunescope run` on a study of 100 computed variants."""
    from tests.tiny_models import SHORT_TEXT, save_tiny

    save_tiny(folder / "model")
    keys = {
        "name": "tiny",
        "models": [{"name": "tiny", "source": str(folder / "model")}],
        "recipes": ["dense", *(f"magnitude-{index}" for index in range(1, VARIANTS))],
        "prompts": [{"id": "open", "kind": "open", "text": "Why is the sky blue?"}],
        "calibration": {"source": SHORT_TEXT, "sequences": 2, "length": 32},
        "generation": {"new_tokens": 2},
        "noise": [],
    }
    study, root = folder / "tiny.yaml", folder / "warehouse"
    study.write_text(yaml.safe_dump(keys), encoding="utf-8")
    for step in ("direct", "run"):  # the second writes the report
        child("orchestration", step, study, root)
    spent = child("orchestration", "run", study, root)
    table.add(f"nothing to do for {VARIANTS} variants, s", spent["seconds"], most=MOST_SECONDS_NO_OP)
    spent = child("orchestration", "tick", study, root)
    table.add(f"first tick over {VARIANTS} watched variants, processor s", spent["first"])
    table.add("a later tick, processor s", spent["later"], most=MOST_SECONDS_PER_TICK)


def of_demo(table: Table, folder: Path) -> None:
    """Compute the demo by `prunescope run` and by calling the same functions in the same order."""
    ours, plain = (child("orchestration", step, "demo", folder / step) for step in ("run", "direct"))
    table.add("the demo over plain calls, wall time", ours["seconds"] / plain["seconds"], most=MOST_TIMES_PLAIN)
    table.add("the demo over plain calls, processor time", ours["processor"] / plain["processor"])


def of_scale(table: Table, folder: Path) -> None:
    """Measure Dagster with 1,000 models × 30 recipes, and with a thirtieth of it."""
    for models in (34, 1000):
        for name, spent in child("orchestration", "partitions", folder / str(models), models, 30).items():
            table.add(f"{30 * models:,} partitions of a table: {name}, processor s", spent)


STEPS: dict[str, Callable[..., Figures]] = {each.__name__: each for each in (load, run, direct, tick, partitions)}
PARTS = {"definitions": of_definitions, "no-op": of_no_op, "scale": of_scale, "demo": of_demo}


def main() -> None:
    """Measure and print."""
    if unknown := set(sys.argv[1:]) - set(PARTS):
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    table = Table()
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](table, Path(folder))
    table.print()


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in STEPS:
        sys.stdout.write(json.dumps(STEPS[sys.argv[1]](*sys.argv[2:])) + "\n")
    else:
        main()
