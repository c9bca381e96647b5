"""Definitions that Dagster loads: assets, groups, dependencies and partitions."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from dagster import AssetKey, DagsterInstance, materialize

from prunescope.assets.definitions import defs
from prunescope.assets.defs.answer_assets import paper_reference, report
from prunescope.assets.defs.metadata import materialized, table_metadata
from prunescope.assets.defs.recipe_asset import MODELS, RECIPES, VARIANTS
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.execution.task import TableWritten
from prunescope.assets.planning.steps import CODE_VERSIONS, STEPS, TRACE_TABLES
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.warehouse.catalogue.lineage import origins, questions, reading
from prunescope.warehouse.quality.plausibility_checks import PLAUSIBILITY_CHECKS
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import ROOT, StudyFile

GRAPH = defs.resolve_asset_graph()


def test_definitions_load_without_torch() -> None:
    code = (
        "import sys; from prunescope.assets.definitions import defs; defs.get_repository_def().load_all_definitions();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_dagster_and_dg_load_these_definitions_in_a_checkout() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    project = tools["dg"]["project"]
    assert project["code_location_target_module"] == tools["dagster"]["module_name"]
    assert import_module(project["code_location_target_module"]).defs is defs
    assert (ROOT / project["root_module"] / "__init__.py").exists(), "dg looks for it"


# Imported scores are no asset, because no run computes them.
COMPUTED = {name: table for name, table in TABLES.items() if name != "imported_scores"}


def test_the_ui_shows_four_digits_and_leaves_counts_and_texts() -> None:
    result = TableWritten(
        None, "models", "models", rows=123_456, bytes=7, seconds=12.34567, details={"share": 1 / 3, "scores": "|a|"}
    )
    shown = materialized(TABLES["models"], result).metadata
    assert (shown["seconds"], shown["share"], shown["dagster/row_count"]) == (12.35, 0.3333, 123_456)


def test_the_tables_form_this_graph() -> None:
    found = {
        key.to_user_string(): (
            node.group_name,
            sorted(k.to_user_string() for k in node.parent_keys),
            node.partitions_def,
        )
        for key in [AssetKey("recipe"), *map(AssetKey, COMPUTED)]
        if (node := GRAPH.get(key))
    }
    statistics = ["activation_stats", "block_influence"]
    assert found == {
        "recipe": ("inputs", [], RECIPES),
        "models": ("models", [], MODELS),
        "activation_stats": ("statistics", ["models"], MODELS),
        "block_influence": ("statistics", ["models"], MODELS),
        "variants": ("variants", [*statistics, "models", "recipe"], VARIANTS),
        "mask_samples": ("variants", ["variants"], VARIANTS),
        "speed": ("tasks", ["variants"], VARIANTS),
        "paper_reference": ("inputs", [], None),
        "search_effects": ("search", [*statistics, "models"], MODELS),
        "search_trials": ("search", [*statistics, "models"], MODELS),
        **{
            table: ("traces", ["variants"], VARIANTS)
            for table in (*TRACE_TABLES, *STEPS["sampling"].tables, "text_tokens")
        },
        **{table: ("tasks", ["variants"], VARIANTS) for table in (*STEPS["tasks"].tables, *STEPS["retrieval"].tables)},
    }


def test_every_question_is_an_asset_on_the_tables_that_its_sql_reads() -> None:
    for name, view in questions().items():
        node = GRAPH.get(AssetKey(name))
        assert node.group_name == "questions"
        assert {key.to_user_string() for key in node.parent_keys} == set(reading(view.sql).tables)
        assert node.parent_keys


def test_every_figure_is_an_asset_on_the_tables_and_questions_that_its_query_reads() -> None:
    assert reading(FIGURES["spikes"].query).questions == ("q01_spike_predictors",)
    for name, figure in FIGURES.items():
        node = GRAPH.get(AssetKey(["figures", name]))
        assert node.group_name == "figures"
        found = reading(figure.query)
        assert {key.to_user_string() for key in node.parent_keys} == {*found.tables, *found.questions}


def test_the_report_depends_on_all_questions_and_figures() -> None:
    wanted = {"paper_reference", *questions(), *(f"figures/{name}" for name in FIGURES)}
    assert {key.to_user_string() for key in GRAPH.get(AssetKey("report")).parent_keys} == wanted


def test_every_asset_has_a_description_and_no_owner() -> None:
    for node in GRAPH.asset_nodes:
        assert node.description
        assert node.kinds
        assert not node.owners
        assert node.code_version or node.key == AssetKey("recipe")


@pytest.mark.parametrize("table", COMPUTED.values(), ids=list(COMPUTED))
def test_a_tables_asset_shows_all_columns_and_is_checked(table) -> None:
    node = GRAPH.get(AssetKey(table.name))
    shown = node.metadata["dagster/column_schema"].columns
    assert [column.name for column in shown] == [column.name for column in table.columns]
    assert [column.constraints.nullable for column in shown] == [column.nullable for column in table.columns]
    assert all(column.description for column in shown)
    checks = {key.name: GRAPH.get(key).blocking for key in GRAPH.asset_check_keys if key.asset_key == node.key}
    references = {f"rows_have_their_{reference.table}": True for reference in table.references}
    drifts = {drift.name: False for drift in PLAUSIBILITY_CHECKS.get(table.name, ())}
    assert checks == {"keeps_its_rules": True} | references | drifts


def test_a_question_shows_every_column_with_its_meaning_and_its_sql() -> None:
    for name, view in questions().items():
        node = GRAPH.get(AssetKey(name))
        shown = node.metadata["dagster/column_schema"].columns
        assert [column.name for column in shown] == list(view.columns)
        assert all(column.description for column in shown)
        assert view.sql in node.metadata["SQL"].value
        assert node.description.startswith(f"**{view.header.splitlines()[0]}")


def test_the_columns_of_a_question_have_the_lineage_of_table_columns() -> None:
    below = origins()["q11_first_flip"]
    assert below["margin_pruned"] == {("decoding_steps", "margin_pruned")}
    assert below["first_flip_step"] == {("generations", "first_flip_step")}
    for name, view in questions().items():
        assert list(origins()[name]) == list(view.columns)
        for column, found in origins()[name].items():
            assert {table for table, _ in found} <= set(reading(view.sql).tables), (name, column)
            assert all(read in TABLES[table].arrow().names for table, read in found)
        # Counts and labels come from no column; all else does.
        assert sum(not found for found in origins()[name].values()) <= 3


def test_a_column_shows_its_unit_formula_bounds_and_reference() -> None:
    shown = {
        column.name: column for column in table_metadata(TABLES["layer_transitions"])["dagster/column_schema"].columns
    }
    column = shown["one_minus_cos_h"]
    assert "[1 - cosine] = 1 − cos(h, h+Δh) (2603.24652 Theorem 1)" in column.description
    assert column.constraints.other == [">= 0", "<= 2"]
    assert shown["recipe"].constraints.other == ["part of the key", "references variants"]
    rules = table_metadata(TABLES["layer_transitions"])["dagster/column_schema"].constraints.other
    assert rules[:2] == [
        "key: model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature",
        "(model, recipe) references variants (model, recipe)",
    ]


def test_assets_that_load_a_model_share_the_gpu_pool() -> None:
    pools = {key.to_user_string(): GRAPH.get(key).pools for key in map(AssetKey, CODE_VERSIONS)}
    assert pools == {key: {"gpu"} for key in CODE_VERSIONS}


def test_the_inferred_mapping_links_a_variant_to_its_model_and_recipe_only() -> None:
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("model", ["a", "b"])
        instance.add_dynamic_partitions("recipe", ["x", "y"])
        for parent, wanted in (("models", "a"), ("recipe", "x")):
            mapping = GRAPH.get_partition_mapping(AssetKey("variants"), AssetKey(parent))
            definition = GRAPH.get(AssetKey(parent)).partitions_def
            subset = VARIANTS.empty_subset().with_partition_keys(["a|x"])
            with_store = {"dynamic_partitions_store": instance}
            found = mapping.get_upstream_mapped_partitions_result_for_partitions(
                downstream_partitions_subset=subset,
                downstream_partitions_def=VARIANTS,
                upstream_partitions_def=definition,
                **with_store,
            )
            assert set(found.partitions_subset.get_partition_keys()) == {wanted}


@pytest.mark.parametrize("name", ["study", "answers"])
def test_jobs_can_be_resolved(name: str) -> None:
    assert defs.resolve_job_def(name).name == name


def test_a_click_on_published_numbers_or_the_report_holds_the_writer_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: StudyFile
) -> None:
    held, written = [False], list[bool]()

    @contextmanager
    def locked(*_: object) -> Iterator[None]:
        held[0] = True
        yield
        held[0] = False

    def write(store: Store, *arguments: object) -> object:
        written.append(held[0])
        return whole(store, *arguments)

    whole = Store.write_bytes
    monkeypatch.setattr(Store, "write_bytes", write)
    monkeypatch.setattr("prunescope.assets.defs.resources.writer_lock", locked)
    module = "prunescope.assets.defs"
    nothing = TableWritten(None, "", "paper_reference")
    monkeypatch.setattr(f"{module}.answer_assets.write_published", lambda _: written.append(held[0]) or nothing)
    monkeypatch.setattr(f"{module}.answer_assets.documents", lambda *_: SimpleNamespace(within=dict))
    monkeypatch.setattr(f"{module}.answer_assets.render_page", lambda *_, **__: "page")
    monkeypatch.setattr(f"{module}.answer_assets.broken_assertions", lambda _: {})
    given = {"study": StudyResource(study=str(study.path)), "warehouse": WarehouseResource(root=str(tmp_path / "new"))}
    assert materialize([paper_reference, report], resources=given).success
    assert written == [True, True]


def test_a_run_without_configuration_writes_into_the_warehouse_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNESCOPE_WAREHOUSE", str(tmp_path / "chosen"))
    assert WarehouseResource().store().root == tmp_path / "chosen"
