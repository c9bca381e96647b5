"""Task scores as files of lm-evaluation-harness: ours read by the harness itself, and both read into the warehouse."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prunescope
from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.pipelines.evaluation.tasks.loading import load_tasks, quiet
from prunescope.pipelines.evaluation.tasks.score import TaskSession
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.export.lm_eval_import import evaluated_variant, parse_results
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.pipelines.evaluation.tasks import harness
from tests.warehouse.conftest import provenance_of, rows_of

Shell = Callable[..., str]
PRUNED = "magnitude-50"


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[TaskSpec]:
    """Return tasks with options, with letters, with texts to score and with texts to write."""
    folder = tmp_path_factory.mktemp("tasks")
    articles = harness.specs(folder)[-1]
    return [
        TaskSpec(name="openbookqa", samples=8),
        articles.model_copy(update={"context": None}),
        harness.writing_spec(folder),
    ]


def put(store: Store, table: str, rows: pl.DataFrame, model: str, recipe: str | None = None) -> None:
    store.write(TABLES[table], rows, provenance_of(model, recipe), model, recipe)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, specs: list[TaskSpec]) -> Path:
    """Return a warehouse with our scores of a tiny model and of a variant of it."""
    store, decoder = Store(tmp_path_factory.mktemp("scored")), load_decoder(tiny_folder)
    session = TaskSession(decoder, specs)
    models = rows_of(TABLES["models"], "tiny", None).with_columns(source=pl.lit(str(tiny_folder)))
    put(store, "models", models, "tiny")
    for recipe, variant in (("dense", Variant()), (PRUNED, prune(decoder, parse_recipe(PRUNED)))):
        put(store, "variants", rows_of(TABLES["variants"], "tiny", recipe), "tiny", recipe)
        scores = session.score(recipe, variant)["task_scores"]
        put(store, "task_scores", scores.with_columns(model=pl.lit("tiny"), recipe=pl.lit(recipe)), "tiny", recipe)
    return store.root


@pytest.fixture
def warehouse(scored: Path, tmp_path: Path) -> Path:
    return shutil.copytree(scored, tmp_path / "warehouse")


@pytest.fixture
def shell(warehouse: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    def call(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        found = run([*map(str, arguments)], Globals(warehouse=str(warehouse)))
        shown = capsys.readouterr()
        assert found == code, shown.err
        return shown.out + shown.err

    return call


def rows(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with prunescope.open(root) as connection:
        return connection.sql(sql).fetchall()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, specs: list[TaskSpec]) -> Path:
    """Evaluate the dense model with the harness's own `hf` model on the same tasks, and let it write its file."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    output = tmp_path_factory.mktemp("harness")
    tasks = [loaded.task for loaded in load_tasks(specs)]
    tracker = EvaluationTracker(output_path=str(output))
    with quiet(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)  # lists every package, which takes seconds
        results = simple_evaluate(
            "hf",
            model_args=f"pretrained={tiny_folder},dtype=float32",
            tasks=tasks,
            task_manager=TaskManager(include_defaults=False),  # its own thousands of tasks take seconds to list
            device="cpu",
            limit=8,
            bootstrap_iters=10,
            log_samples=False,
            evaluation_tracker=tracker,
        )
        tracker.save_results_aggregated(results)
    [file] = output.rglob("results_*.json")
    return file


def test_scores_of_the_harness_agree_with_ours_and_are_imported_once(
    warehouse: Path, theirs: Path, tmp_path: Path, shell: Shell
) -> None:
    shell("import-lm-eval", theirs)
    columns = "task, metric, difference, value_imported, n_imported"
    found = rows(warehouse, f"select {columns} from imported_comparisons where recipe = 'dense'")
    compared = {(task, metric): numbers for task, metric, *numbers, _ in found if numbers[0] is not None}
    assert compared.keys() == {
        *(("openbookqa", metric) for metric in ("accuracy", "accuracy_per_byte")),
        *(("wikitext2", metric) for metric in ("word_perplexity", "byte_perplexity")),
        *(("mine", metric) for metric in ("exact_match", "exact_match_lenient")),
    }
    for name, (difference, value) in compared.items():
        assert difference == pytest.approx(0, abs=1e-4 * value), name
    assert 0 < compared["openbookqa", "accuracy"][1] < 1, "a comparison of zeros shows nothing"
    assert {n for task, *_, n in found if task == "openbookqa"} == {8}

    [stored] = (warehouse / "imported_scores").rglob("part.parquet")
    before = stored.stat().st_mtime_ns, stored.stat().st_ino
    copy = shutil.copy(theirs, tmp_path / "copy.json")
    assert f"{copy}: was imported before" in shell("import-lm-eval", copy, theirs)
    assert (stored.stat().st_mtime_ns, stored.stat().st_ino) == before
    refusal = shell("import-lm-eval", theirs, "--variant", PRUNED, code=2)
    assert f"was imported for tiny@dense; delete {stored}" in refusal


def test_an_export_is_shown_by_the_harness_and_comes_back_with_the_same_numbers(
    warehouse: Path, tmp_path: Path, shell: Shell
) -> None:
    from lm_eval.utils import make_table

    assert "leave out --only" in shell("export", tmp_path, "--lm-eval", "--only", "q01", code=2)
    files = [Path(line) for line in shell("export", tmp_path / "out", "--lm-eval").splitlines()]
    assert len(files) == 2
    [file] = [file for file in files if file.parent.name == f"tiny@{PRUNED}"]
    assert re.fullmatch(r"results_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}\.json", file.name)
    content = json.loads(file.read_text())
    columns = "task, metric, value, standard_error, is_higher_better"
    stored = rows(warehouse, f"select {columns} from task_scores where recipe = '{PRUNED}'")
    for task, metric, value, error, is_higher_better in stored:
        if metric.startswith(("exact_match", "lm_eval/")):
            continue
        name = {"accuracy": "acc", "accuracy_per_byte": "acc_bytes"}.get(metric, metric)
        assert content["results"][task][f"{name},none"] == value
        assert content["results"][task][f"{name}_stderr,none"] == ("N/A" if error is None else error)
        assert content["higher_is_better"][task][name] == is_higher_better
        assert f"|{name}" in make_table(content).replace(" ", "")
    for task, values in content["results"].items():
        assert len(values) == 1 + 2 * sum(row[0] == task for row in stored), "each with alias and errors"

    shell("import-lm-eval", *files)
    # The harness has one number of samples for all metrics of a task, so that those of perplexities are lost.
    columns = (
        "model, recipe, task, metric, value, standard_error, if(metric like '%perplexity', null, n), shots, "
        "is_higher_better, harness"
    )
    exported = rows(warehouse, f"select {columns} from task_scores order by all")
    assert rows(warehouse, f"select {columns} from imported_scores order by all") == exported
    assert {row[3] for row in exported} >= {"accuracy_letter", "agreement", "exact_match_lenient", "token_perplexity"}
    everything = "select bool_and(difference = 0 and is_overlapping), count(*) from imported_comparisons"
    assert rows(warehouse, everything) == [(True, len(exported))]


MMLU = {
    "results": {
        "mmlu": {"alias": "mmlu", "acc,none": 0.4, "acc_stderr,none": 0.1},
        "mmlu_stem": {" ": " ", "alias": " - stem"},
        "mmlu_anatomy": {"alias": "anatomy", "acc,none": 0.4, "acc_stderr,none": "N/A", "acc_norm,none": 0.5},
        "hellaswag": {"acc,none": 0.25, "acc_norm,none": 0.5},
        "arc_easy": {"acc,none": 0.25, "acc_norm,none": 0.5, "acc_bytes,none": 0.75},
        "lambada": {"acc,none": 0.5, "perplexity,none": 90.5},
        "gsm8k": {"exact_match,flexible-extract": 0.5, "exact_match,strict-match": 0.25, "exact_match,last": 0.75},
    },
    "group_subtasks": {"mmlu": ["mmlu_stem"], "mmlu_stem": ["mmlu_anatomy"], "hellaswag": []},
    "configs": {
        "mmlu_anatomy": {"output_type": "multiple_choice", "doc_to_choice": ["A", "B", "C", "D"]},
        "lambada": {"output_type": "loglikelihood"},
    },
    "n-samples": {"hellaswag": {"original": 10042, "effective": 8}},
    "n-shot": {"mmlu_anatomy": 5},
    "versions": {"hellaswag": 1.0},
    "config": {"model_args": {"pretrained": "elsewhere/model"}},
}


def test_metrics_get_our_names_and_groups_are_marked() -> None:
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row in parse_results("r.json", json.dumps(MMLU).encode()).rows:
        by_task.setdefault(row["task"], []).append(row)
    assert {task: [row["metric"] for row in found] for task, found in by_task.items()} == {
        "mmlu": ["accuracy_letter"],
        "mmlu_anatomy": ["accuracy_letter", "lm_eval/acc_norm"],
        "hellaswag": ["accuracy", "accuracy_per_byte"],
        "arc_easy": ["accuracy", "lm_eval/acc_norm", "accuracy_per_byte"],
        "lambada": ["lm_eval/acc", "lm_eval/perplexity"],
        "gsm8k": ["exact_match_lenient", "exact_match", "lm_eval/exact_match,last"],
    }
    strict = by_task["gsm8k"][1]
    assert (strict["harness_metric"], strict["filter"], strict["value"]) == ("exact_match", "strict-match", 0.25)
    [mmlu], [anatomy, _], [hellaswag, _], *_ = by_task.values()
    assert [task for task, (row, *_) in by_task.items() if row["is_group"]] == ["mmlu"]
    assert (mmlu["standard_error"], anatomy["standard_error"]) == (0.1, None)
    assert (hellaswag["n"], hellaswag["task_version"]) == (8, "1.0")
    assert (anatomy["shots"], hellaswag["shots"]) == (5, None)


def changed(**of_task: object) -> bytes:
    return json.dumps({"results": {"boolq": {"acc,none": 0.5} | of_task}}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "r.json: is not JSON (Expecting property name"),
        (b"\xff", "r.json: is not JSON ('utf-8' codec"),
        (b"[" * 100_000, "r.json: is not JSON (maximum recursion"),
        (b'{"results": {"\\ud800": {"acc,none": 1}}}', "r.json: is not JSON ('utf-8' codec"),
        (b"[]", "r.json: has no `results`; give a results_*.json"),
        (b'{"results": []}', "r.json: has no `results`"),
        (b'{"results": {}}', "r.json: `results` has no score of the form METRIC,FILTER"),
        (b'{"results": {"boolq": {"acc": 0.5}}}', "r.json: `results` has no score of the form METRIC,FILTER"),
        (b'{"results": {"boolq": 0.5}}', "r.json: `results.boolq` is no mapping"),
        (changed(**{"acc,none": float("nan")}), "r.json: `results.boolq.acc,none` is NaN; a score is a finite number"),
        (changed(**{"acc,none": float("-inf")}), "r.json: `results.boolq.acc,none` is -Infinity;"),
        (changed(**{"acc,none": 10**400}), "r.json: `results.boolq.acc,none` is 1000"),
        (changed(**{"acc,none": True}), "r.json: `results.boolq.acc,none` is true;"),
        (changed(**{"acc,none": "N/A"}), 'r.json: `results.boolq.acc,none` is "N/A";'),
        (changed(**{"acc_stderr,none": float("nan")}), "r.json: `results.boolq.acc_stderr,none` is NaN;"),
        (changed(**{"acc_stderr,none": [1]}), "r.json: `results.boolq.acc_stderr,none` is [1];"),
        (changed(**{"acc_stderr,none": -1}), "r.json: `results.boolq.acc_stderr,none` is -1;"),
    ],
    ids=range(17),
)
def test_a_wrong_file_is_refused_in_one_line_with_its_key(content: bytes, message: str) -> None:
    with pytest.raises(WarehouseError) as caught:
        parse_results("r.json", content)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_one_wrong_file_among_several_imports_none(warehouse: Path, theirs: Path, tmp_path: Path, shell: Shell) -> None:
    wrong, other = tmp_path / "wrong.json", tmp_path / "other.json"
    wrong.write_bytes(changed(**{"acc,none": float("nan")}))
    other.write_text(json.dumps(MMLU))
    for bad, message in (
        (wrong, "wrong.json: `results.boolq.acc,none` is NaN; a score is a finite number, an error one from 0 on"),
        (tmp_path, f"{tmp_path}: Is a directory"),
        (tmp_path / "none.json", "none.json: No such file or directory"),
        (
            other,
            "other.json: `config.model_args` (pretrained=elsewhere/model) names no model of the warehouse; say with "
            "--variant MODEL@RECIPE which variant was evaluated, with the recipe `dense` for the dense model",
        ),
    ):
        [line] = shell("import-lm-eval", theirs, bad, code=2).splitlines()
        assert line.endswith(message)
    assert not (warehouse / "imported_scores").exists()
    assert "of tiny@magnitude-50" in shell("import-lm-eval", other, "--variant", PRUNED)


def test_the_evaluated_variant_is_that_of_the_arguments(warehouse: Path, tiny_folder: Path, tmp_path: Path) -> None:
    store = Store(warehouse)
    of_hub = rows_of(TABLES["models"], "hub", None).with_columns(source=pl.lit("org/name"), revision=pl.lit("abc"))
    put(store, "models", of_hub, "hub")
    put(store, "variants", rows_of(TABLES["variants"], "hub", "dense"), "hub", "dense")
    (tmp_path / "link").symlink_to(tiny_folder)

    def of(arguments: object, **config: object) -> str:
        whole = MMLU | {"config": {"model_args": arguments} | config}
        return "@".join(evaluated_variant(parse_results("r.json", json.dumps(whole).encode()), store))

    def assert_refused(arguments: object, **config: object) -> None:
        with pytest.raises(WarehouseError, match=r"^r.json: `config.model_args` \(pretrained=.*\) names no model"):
            of(arguments, **config)

    assert of(f"pretrained=tiny@{PRUNED}") == f"tiny@{PRUNED}"
    assert of(f"dtype=float32,pretrained={tmp_path / 'link'},load_in_4bit=False") == "tiny@dense"
    assert of({"pretrained": "org/name", "revision": "main"}) == of("pretrained=org/name") == "hub@dense"
    assert of("pretrained=org/name,revision=v1", model_sha="abc") == "hub@dense"
    for arguments in (
        "pretrained=org/name,peft=org/adapter",
        {"pretrained": "org/name", "load_in_8bit": True},
        "pretrained=org/name,revision=v1",
        "pretrained=org/name,revision=abcmain",
        "pretrained=",
        f"pretrained={'x' * 5000}",
        [1],
    ):
        assert_refused(arguments)
    assert_refused("pretrained=org/name", model_sha="other")

    [variant_hash] = store.read(TABLES["variants"], "tiny", PRUNED)["variant_hash"].to_pylist()
    about = {"model": "tiny", "recipe": PRUNED, "variant_hash": variant_hash}
    checkpoint, written = f"pretrained={tmp_path}", tmp_path / "prunescope.json"
    written.write_text(json.dumps(about))
    assert of(checkpoint) == f"tiny@{PRUNED}"
    assert_refused(f"{checkpoint},peft=org/adapter")
    for wrong in (about | {"variant_hash": "other"}, about | {"recipe": "none"}, [], {"model": "tiny"}):
        written.write_text(json.dumps(wrong))
        assert_refused(checkpoint)

    put(store, "models", of_hub.with_columns(model=pl.lit("same")), "same")
    assert of("pretrained=org/name") == "hub@dense", "the other has no dense variant"
    put(store, "variants", rows_of(TABLES["variants"], "same", "dense"), "same", "dense")
    with pytest.raises(WarehouseError, match="names hub@dense and same@dense; say with --variant"):
        of("pretrained=org/name")
