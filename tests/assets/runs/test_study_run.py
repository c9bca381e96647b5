"""A study of a tiny model through Dagster: its partitions, its runs, and what is recomputed."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from dagster import AssetCheckKey, AssetKey, AssetRecordsFilter, DagsterInstance, DagsterRunStatus
from dagster._core.definitions.data_version import StaleStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.tags import SENSOR_NAME_TAG, USER_TAG
from dagster._serdes import serialize_value

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.definitions import defs
from prunescope.assets.defs.log_progress import LogListener
from prunescope.assets.defs.metadata import partition_key, unrecorded
from prunescope.assets.defs.recipe_asset import RECIPES as PRUNED
from prunescope.assets.defs.recipe_asset import latest_versions
from prunescope.assets.defs.resources import StudyResource
from prunescope.assets.instance.instance import STUDY_TAG, open_instance
from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.steps import MODEL_TABLES
from prunescope.assets.planning.steps import VARIANT_TABLES as ALL_VARIANT_TABLES
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.publishing.interface.staleness import Staleness
from prunescope.assets.runs.dagster_job import run_config
from prunescope.assets.runs.start import run_study
from prunescope.assets.runs.study_run import ANSWERS_NAME
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT
from prunescope.warehouse.catalogue import database
from prunescope.warehouse.maintenance.diagnostics import diagnose
from prunescope.warehouse.quality.plausibility_checks import PLAUSIBILITY_CHECKS
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import (
    RECIPES,
    ROOT,
    VARIANT_TABLES,
    Heard,
    StudyFile,
    computed,
    few_answers,
    materialized,
    partitions,
    without_answers,
    written_since,
)

# The first test that uses `computed_once` waits for that study, too.
pytestmark = pytest.mark.timeout(900)


def prunescope_run(study: StudyFile, warehouse: Path, *options: str) -> int:
    return run(["run", str(study.path), "--warehouse", str(warehouse), *options], Globals())


def of(recipe: str, names: set[str]) -> set[str]:
    return {name for name in names if f"recipe={recipe}/" in name}


def tables_of(names: set[str]) -> set[str]:
    return {name.split("/")[0] for name in names}


def configuration(study: StudyFile, warehouse: Path, *recipes: str, **options: bool) -> dict[str, object]:
    return run_config(StudyRequest(str(study.path), recipes=recipes, **options), Store(warehouse), {"address": ""})


def test_a_run_from_nothing_fills_every_table_and_writes_report_and_catalogue(computed_once: Path) -> None:
    assert len(partitions(computed_once)) == len(MODEL_TABLES) + len(RECIPES) * len(VARIANT_TABLES)
    assert len(list((computed_once / "paper_reference").rglob("*.parquet"))) == 4, "what others published, by model"
    assert not diagnose(computed_once)
    assert "wanda-2of4" in (computed_once / "_reports" / "tiny.html").read_text()
    with duckdb.connect(computed_once / "_catalogue" / "prunescope.duckdb", read_only=True) as connection:
        assert connection.execute("select count(*) > 1 from variant_summary").fetchone() == (True,)
    assert {path.name for path in computed_once.parent.iterdir()} == {"tiny.yaml", "warehouse"}, "nothing beside it"


def test_a_second_run_and_its_plan_compute_nothing_and_import_nothing_heavy(study: StudyFile, warehouse: Path) -> None:
    before = partitions(warehouse)
    database.connect(warehouse).close()  # otherwise the first command builds the views
    heavy = ("torch", "transformers", "dagster", "altair", "datasets", "numba", "pandas", "sqlglot")
    code = (
        "import sys; from prunescope.assets.cli.application import run;"
        "from prunescope.assets.cli.options import Globals;"
        f"codes = [run([verb, {str(study.path)!r}], Globals({str(warehouse)!r})) for verb in ('run', 'plan')];"
        f"sys.exit(' '.join(name for name in {heavy} if name in sys.modules) or any(codes))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing was computed" in done.stderr
    assert "nothing would be computed" in done.stderr
    assert "magnitude-50" in done.stdout
    assert partitions(warehouse) == before


@pytest.mark.exhaustive  # a variant that fails, below, does not stop the others either
def test_another_model_adds_its_own_partitions_and_a_missing_one_does_not_stop_it(
    study: StudyFile,
    warehouse: Path,
    other_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without_answers(monkeypatch)
    before = partitions(warehouse)
    places = {"gone": tmp_path / "gone", "tiny-b": other_folder}
    study.write(models=[{"name": name, "source": str(place)} for name, place in places.items()])
    assert prunescope_run(study, warehouse, "--recipe", "magnitude-50") == 2
    written = written_since(before, warehouse)
    assert {name.split("/")[1] for name in written} == {"model=tiny-b"}
    assert len(written) == len(MODEL_TABLES) + 2 * len(VARIANT_TABLES)
    said = capsys.readouterr().err
    assert "1 failed" in said
    assert str(places["gone"]) in said.replace("\n", "")


def test_a_run_computes_what_changed_or_is_new_goes_on_after_a_failure_and_makes_answers_stale(
    study: StudyFile, warehouse: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def is_stale(instance: DagsterInstance) -> list[bool]:
        answers = [AssetKey("q04_fit_of_theorem_3"), AssetKey(["figures", "generation"])]
        resolver = Staleness(instance, defs.resolve_asset_graph(), LoadingContextForTest(instance))
        return [resolver.get_status(key) == StaleStatus.STALE for key in answers]

    without_answers(monkeypatch)
    before = partitions(warehouse)
    less = {"name": "magnitude-50", "method": "magnitude", "sparsity": 0.4}
    # So small a share prunes nothing, which is a failure of the computation.
    nothing = {"name": "nothing", "method": "magnitude", "sparsity": 1e-6}
    study.write(recipes=["dense", nothing, less, "wanda-2of4", "attn-drop-1", "mlp-drop-1"])
    with open_instance(warehouse) as instance:
        assert is_stale(instance) == [False, False]
    assert prunescope_run(study, warehouse) == 1
    said = capsys.readouterr()
    assert "tiny-a@nothing: ComputationError: " in said.err
    assert "Traceback" not in said.err
    assert "mlp-drop-1" in said.out
    written = written_since(before, warehouse)
    again, new = of("magnitude-50", written), of("mlp-drop-1", written)
    assert tables_of(again) == tables_of(new) == set(VARIANT_TABLES)
    assert written == again | new
    assert len(list((warehouse / "_variants/tiny-a/magnitude-50").iterdir())) == 1, "the old parameters' masks are gone"
    with open_instance(warehouse) as instance:
        assert is_stale(instance) == [True, True]


def test_dagster_knows_every_partition_by_its_fingerprint_and_shows_each_asset_on_a_small_page(warehouse: Path) -> None:
    with open_instance(warehouse) as instance:
        for table in TABLES.values():
            for path in (warehouse / table.name).rglob("*.parquet"):
                footer = read_footer(path)
                # The published numbers are one asset of several files.
                is_whole = table.name == "paper_reference"
                keys = None if is_whole else [partition_key(footer.provenance.model, footer.provenance.recipe)]
                wanted = AssetRecordsFilter(AssetKey(table.name), asset_partitions=keys)
                (record,) = instance.fetch_materializations(wanted, limit=9).records
                seen = record.asset_materialization
                assert seen.tags["dagster/data_version"] == footer.provenance.fingerprint
                assert is_whole or seen.metadata["dagster/row_count"].value == footer.rows
        for node in defs.resolve_asset_graph().asset_nodes:
            event = instance.get_latest_materialization_event(node.key)
            if event is None:
                assert node.partitions_def is not None or not node.is_executable, node.key
                assert node.key.path[-1] not in VARIANT_TABLES, "only what the study asks nothing of"
                continue
            told = event.asset_materialization.metadata
            # A picture is a third larger as text.
            assert len(serialize_value(told)) < (140_000 if node.group_name == "figures" else 100_000), node.key
            if node.group_name == "figures":
                assert told["preview"].value.startswith("![")
                assert "data:image/png;base64," in told["preview"].value
            elif node.group_name == "questions":
                columns = {column.name for column in node.metadata["dagster/column_schema"].columns}
                assert set(told["dagster/column_lineage"].value.deps_by_column) == columns
            elif node.partitions_def not in {None, PRUNED}:
                assert {"dagster/row_count", "bytes", "seconds", "ask", "preview", "made from", "path"} <= set(told)
                assert told["made from"].value["inputs"]["weight_hash"]
        sound = {f"tiny-a|{recipe}": AssetCheckExecutionRecordStatus.SUCCEEDED for recipe in RECIPES}
        for table, drifts in PLAUSIBILITY_CHECKS.items():
            for drift in drifts:
                key = AssetCheckKey(AssetKey(table), drift.name)
                records = instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
                is_filled = (warehouse / table).exists()  # no text is sampled
                assert {record.partition: record.status for record in records} == (sound if is_filled else {})


@pytest.mark.exhaustive  # test_end_to_end.py launches the same jobs
def test_the_job_study_computes_missing_partitions_and_empties_those_without_texts(
    study: StudyFile, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_answers(monkeypatch)
    before = partitions(warehouse)
    study.write(texts=[])
    config = configuration(study, warehouse, *RECIPES, "mlp-drop-1")
    with open_instance(warehouse) as instance:
        job, tags = defs.resolve_job_def("study"), {SENSOR_NAME_TAG: "watch"}
        assert job.execute_in_process(instance=instance, run_config=config, tags=tags).success
        assert {record.status for record in instance.get_runs(limit=4)} == {DagsterRunStatus.SUCCESS}
        # By `prunescope run`, which has computed the warehouse.
        assert {run.tags[USER_TAG] for run in instance.get_runs() if run.job_name == "answers"} == {"command line"}
    written = written_since(before, warehouse)
    new = of("mlp-drop-1", written)
    assert len(new) == len(VARIANT_TABLES)
    # A study without texts leaves empty partitions of that table, and all others as they are.
    assert tables_of(written - new) == {"text_tokens"}
    assert len(written - new) == len(RECIPES)
    assert {read_footer(path).rows for path in (warehouse / "text_tokens").rglob("*.parquet")} == {0}
    assert not diagnose(warehouse)


def test_a_run_of_some_tables_that_is_executed_again_computes_no_others(study: StudyFile, tmp_path: Path) -> None:
    warehouse, request = tmp_path / "warehouse", StudyRequest(str(study.path), recipes=("dense",))
    run_study(request, warehouse, LogListener(logging.getLogger()), tables=["models", "variants"])
    filled = partitions(warehouse)
    shutil.rmtree(warehouse / "models")
    with open_instance(warehouse) as instance:
        (before,) = instance.get_runs()
        assert before.tags["dagster/max_retries"] == "2"
        job = defs.resolve_job_def("study")
        assert job.execute_in_process(instance=instance, run_config=before.run_config).success
    assert partitions(warehouse).keys() == filled.keys()
    assert tables_of(filled.keys()) == {"models", "variants"}


def test_answers_that_fail_are_a_failure_of_the_run(
    study: StudyFile, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_answers(monkeypatch)
    (warehouse / "_reports" / "tiny.html").unlink()
    (warehouse / "_reports" / "tiny.html").mkdir()  # the report cannot take its place
    listener = Heard()
    result = run_study(StudyRequest(str(study.path)), warehouse, listener)
    assert result.computed == ()
    (failure,) = result.failures
    assert listener.failures == [(failure.name, failure.message)]
    assert failure.name == ANSWERS_NAME
    assert "tiny.html cannot be written; a folder is where the file must be" in failure.message


def test_a_click_takes_the_request_of_the_last_run_with_its_partition(warehouse: Path) -> None:
    store = Store(warehouse)
    config = {"resources": {"warehouse": {"config": {"root": str(warehouse)}}}}
    with open_instance(warehouse) as instance:
        asked = StudyResource().request(store, instance)
        assert Path(asked.study).name == "tiny.yaml"
        assert StudyResource().request(store, instance, recipe="attn-drop-1") == asked
        assert StudyResource().request(store, instance, "tiny-a", "attn-drop-1") == asked
        assert StudyResource().request(store, instance, recipe="wanda-70") == StudyRequest("demo")
        assert materialized(instance, config, ["recipe"], "attn-drop-1").success
        # An older study of the same name may be another: the error names the one that is gone.
        gone = {"resources": {"study": {"config": {"study": "/gone/study.yaml"}}}}
        instance.create_run_for_job(defs.resolve_job_def("study"), run_config=gone, tags={STUDY_TAG: "tiny"})
        with pytest.raises(InputError, match="/gone/study.yaml"):
            StudyResource().request(store, instance, "tiny-a", "attn-drop-1")


def test_a_table_that_was_not_recorded_because_of_a_kill_is_recorded_by_the_next_run(
    study: StudyFile, warehouse: Path
) -> None:
    study.write(recipes=[*RECIPES, "mlp-drop-1"])
    request, key = StudyRequest(str(study.path)), "tiny-a|mlp-drop-1"
    (written,) = computed(study, warehouse, "variants", "mlp-drop-1")
    run_study(request, warehouse, LogListener(logging.getLogger()), tables=["variants", "mask_samples"])
    with open_instance(warehouse) as instance:
        assert latest_versions(instance, AssetKey("variants"))[key] == written.fingerprint
        wanted = AssetRecordsFilter(AssetKey("variants"), asset_partitions=[key])
        (record,) = instance.fetch_materializations(wanted, limit=9).records
        shown = record.asset_materialization.metadata
        assert (shown["dagster/row_count"].value, shown["path"].value) == (1, written.path)
        check = AssetCheckKey(AssetKey("variants"), "keeps_its_rules")
        history = instance.event_log_storage.get_asset_check_execution_history(check, limit=9)
        assert key not in {record.partition for record in history}, "nothing was checked"
        dense = find_model(request.load(), "tiny-a", SILENT)
        assert [*unrecorded(instance, request.load(), [dense], Store(warehouse))] == []


def test_a_click_without_permission_keeps_the_scores_of_programs_that_ran(
    study: StudyFile, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the answers of the study's task were programs.
    monkeypatch.setattr("prunescope.assets.planning.fingerprints.runs_code", lambda _: True)
    computed(StudyRequest(str(study.path), allow_code_execution=True), warehouse, "tasks", "dense")
    before, key = partitions(warehouse), partition_key("tiny-a", "dense")
    with open_instance(warehouse) as instance:
        for is_allowed, wanted in ((False, set()), (True, {"task_scores", "task_samples"})):
            config = configuration(study, warehouse, allow_code_execution=is_allowed)
            assert materialized(instance, config, ["task_scores"], key).success
            assert tables_of(written_since(before, warehouse)) == wanted
        seen = latest_versions(instance, AssetKey("task_samples"))[str(key)]
        assert seen == Store(warehouse).provenance(TABLES["task_samples"], "tiny-a", "dense").fingerprint


def test_the_job_of_a_variant_leaves_tables_alone_that_its_study_does_not_measure(
    study: StudyFile, warehouse: Path
) -> None:
    before = partitions(warehouse)
    study.write(prompts=[], texts=[], tasks=[], speed=[{"length": 8, "repeats": 1}])
    with open_instance(warehouse) as instance:
        key = partition_key("tiny-a", "magnitude-50")
        done = materialized(instance, configuration(study, warehouse), ALL_VARIANT_TABLES, key)
        assert done.success
        checked = {check.asset_key.to_user_string() for check in done.get_asset_check_evaluations()}
    assert checked == tables_of(written_since(before, warehouse)) == {"variants", "mask_samples", "speed"}
    assert set(before) <= set(partitions(warehouse))


def test_the_dagster_home_of_the_user_is_used_and_its_settings_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with open_instance(tmp_path / "warehouse") as instance:
        assert instance.root_directory == str(home)
    assert (home / "dagster.yaml").read_text() == "telemetry:\n  enabled: false\n"
    assert not (tmp_path / "warehouse").exists()


def test_without_a_dagster_home_the_instance_of_the_warehouse_has_our_settings(tmp_path: Path) -> None:
    with open_instance(tmp_path / "warehouse") as instance:
        assert not instance.telemetry_enabled
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
        assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 2)
        assert not instance.run_retries_retry_on_asset_or_op_failure


# test_plan.py plans the noise of a study, and the job of a variant, above, measures speed and nothing else.
@pytest.mark.exhaustive
def test_noise_a_changed_text_and_speed_are_measured_and_nothing_else(
    study: StudyFile, warehouse: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_answers(monkeypatch)
    before = partitions(warehouse)
    study.write(
        noise=["bfloat16", "batch"],
        texts=[{"id": "help", "source": "embedded", "context": 24, "max_tokens": 24}],
        speed=[{"batch": 2, "length": 8, "new_tokens": 2, "repeats": 1}],
    )
    assert prunescope_run(study, warehouse) == 0
    written = written_since(before, warehouse)
    noise = of("noise-bfloat16", written) | of("noise-batch", written)
    assert len(noise) == 2 * len((*VARIANT_TABLES, "speed"))
    # A changed text recomputes the table of texts only, timing that of speed.
    assert tables_of(written - noise) == {"text_tokens", "speed"}
    assert len(written - noise) == 2 * len(RECIPES)
    assert "noise" not in capsys.readouterr().out
    with database.connect(warehouse) as connection:
        (floor,) = connection.execute("select min(kl_p95_nats) from noise_floor where lens = 'normed'").fetchone()
        marked = connection.execute("select bool_or(is_below_noise) from variant_summary where recipe = 'dense'")
        assert floor > 0
        assert marked.fetchone() == (True,)
        timed = connection.execute("select recipe, sublayers_skipped from speed_summary where decode_speedup > 0")
        assert dict(timed.fetchall()) == dict.fromkeys(RECIPES, 0) | {"attn-drop-1": 1}
