"""Staleness in the interface: everything behind a change, at once, until it is recomputed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
from dagster._core.definitions import data_version
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.temporal_context import TemporalContext
from dagster._core.workspace import context
from dagster._time import get_current_datetime

from prunescope.assets.definitions import defs
from prunescope.assets.defs.answer_assets import figure_assets, paper_reference, question_assets, report
from prunescope.assets.defs.recipe_asset import RECIPE, latest_versions, recipe
from prunescope.assets.defs.table_assets import table_assets
from prunescope.assets.instance.instance import open_instance
from prunescope.assets.planning import steps
from prunescope.assets.planning.steps import VARIANT_TABLES
from prunescope.assets.publishing.interface.staleness import install
from tests.assets.tiny_study import ANSWERS, StudyFile, materialized
from tests.assets.tiny_study import RECIPES as NAMES
from tests.assets.tiny_study import VARIANT_TABLES as FILLED

# The first test waits for the tiny study to be computed.
pytestmark = pytest.mark.timeout(900)
GRAPH = defs.resolve_asset_graph()
DAGSTERS = context.CachingStaleStatusResolver
LESS = {"name": "magnitude-50", "method": "magnitude", "sparsity": 0.4}


@pytest.fixture
def instance(warehouse: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    monkeypatch.setenv("PRUNESCOPE_WAREHOUSE", str(warehouse))
    monkeypatch.setattr(context, "CachingStaleStatusResolver", DAGSTERS)
    threshold = "SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD"
    monkeypatch.setattr(data_version, threshold, getattr(data_version, threshold))
    install()
    with open_instance(warehouse) as found:
        yield found


def stale(instance: DagsterInstance, graph: AssetGraph = GRAPH, compare: type | None = None) -> set[str]:
    now = TemporalContext(effective_dt=get_current_datetime(), last_event_id=None)
    view = AssetGraphView(temporal_context=now, instance=instance, asset_graph=graph)
    resolver = (compare or context.CachingStaleStatusResolver)(instance, asset_graph=graph, loading_context=view)
    found = set()
    for key in graph.toposorted_asset_keys:
        partitions = graph.get(key).partitions_def
        for one in partitions.get_partition_keys(dynamic_partitions_store=instance) if partitions else [None]:
            if resolver.get_status(key, one).value == "STALE":
                found.add(key.to_user_string() + (f"[{one}]" if one else ""))
    return found


def run(instance: DagsterInstance, study: StudyFile, partition: str, *assets: str) -> None:
    resources = {"study": {"config": {"study": str(study.path)}}}
    if "variants" in assets:
        resources["engine"] = {"config": {"address": ""}}
    assert materialized(instance, {"resources": resources}, assets, partition).success


def of(recipe: str, tables: tuple[str, ...] = FILLED) -> set[str]:
    return {f"{table}[tiny-a|{recipe}]" for table in tables}


def test_a_variant_computed_by_hand_publishes_its_parameters_and_is_current(
    instance: DagsterInstance, study: StudyFile
) -> None:
    before = latest_versions(instance, RECIPE)
    study.write(recipes=["dense", LESS, "wanda-2of4", "attn-drop-1"])
    run(instance, study, "tiny-a|magnitude-50", "variants")
    published = latest_versions(instance, RECIPE)
    assert {name for name in NAMES if published[name] != before[name]} == {"magnitude-50"}
    behind = of("magnitude-50", FILLED[1:]) | ANSWERS
    assert stale(instance) == behind
    assert stale(instance, compare=DAGSTERS) < behind, "Dagster itself stops at the first asset"
    # With these recipes an answer has more variants than Dagster itself compares.
    instance.add_dynamic_partitions("recipe", [f"magnitude-0.{number}" for number in range(100, 200)])
    run(instance, study, "magnitude-50", "recipe")
    assert latest_versions(instance, RECIPE) == published
    assert stale(instance) == behind, "a run that publishes the same changes nothing"


def test_a_recipe_published_for_the_first_time_makes_nothing_stale(instance: DagsterInstance, study: StudyFile) -> None:
    study.write(recipes=[*NAMES, "mlp-drop-1"])
    instance.add_dynamic_partitions("recipe", ["mlp-drop-1"])
    run(instance, study, "mlp-drop-1", "recipe")
    assert stale(instance) == set()
    run(instance, study, "tiny-a|mlp-drop-1", *VARIANT_TABLES)
    assert stale(instance) == ANSWERS, "which know nothing of the new variant"


def test_a_changed_program_makes_the_tables_behind_it_stale_and_no_answer(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(steps.CODE_VERSIONS, "variants", "another")
    assets = [recipe, *table_assets(), paper_reference, *question_assets(), *figure_assets(), report]
    assert stale(instance, AssetGraph.from_assets(assets)) == {key for name in NAMES for key in of(name)}
