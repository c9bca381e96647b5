"""Tests that published numbers equal those of the sources, in the table's units and names."""

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from prunescope.pipelines.evaluation.tasks import loading, score_rows
from prunescope.pipelines.evaluation.tasks.definition import fields, find, runs_code
from prunescope.pipelines.reporting.published import contents_hash, fact, published
from prunescope.pipelines.studies import Study, load_study
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import fingerprint
from prunescope.warehouse.tables import TABLES
from prunescope.warehouse.tables.columns import RETRIEVAL_METRICS

NUMBERS = published()
PATTERNS = ("50", "4of8", "2of4")
# What the paper says of single layers, one text and its estimates; no study scores it.
UNASKED = ["layerwise", "generation", "options", "estimates"]


def value(model: str, task: str, metric: str, method: str = "dense", dropped: int = 0, layer: int = -1) -> float:
    """Return the single number with these names."""
    wanted = {"model": model, "task": task, "metric": metric, "method": method, "dropped": dropped, "layer": layer}
    [found] = NUMBERS.filter(*(pl.col(name) == one for name, one in wanted.items()))["value"].to_list()
    return round(found, 6)


def test_single_numbers_are_found_by_their_printed_names() -> None:
    assert value("qwen2.5-7b-instruct", "gsm8k", "exact_match") == 0.75588
    assert value("qwen2.5-7b-instruct", "gsm8k", "exact_match", "attn-drop", 4) == 0.30023
    assert value("qwen2.5-7b-instruct", "mmlu", "accuracy_letter", "mlp-drop", 12) == 0.2662
    assert value("qwen2.5-7b-instruct", "humaneval", "pass_at_1", "block-drop", 1) == 0.52
    assert value("qwen2.5-7b-instruct", "layerwise", "cosine_z", "attn-drop", 1, 0) == 0.07
    assert value("qwen2.5-7b-instruct", "layerwise", "cosine_p", "mlp-drop", 1, 27) == 0.616
    assert value("mistral-7b-instruct-v0.3", "boolq", "accuracy", "attn-drop", 8) == 0.86
    assert value("mistral-7b-instruct-v0.3", "nq_open", "exact_match", "mlp-drop", 8) == 0.02
    assert value("e5-mistral-7b-instruct", "climate-fever", "ndcg_at_10", "mlp-drop", 8) == 0.384
    assert value("llama-2-7b", "wikitext2", "token_perplexity") == 5.12
    assert value("llama-2-7b", "wikitext2", "token_perplexity", "magnitude-2of4") == 54.59


def test_every_figure_and_table_is_complete() -> None:
    found = dict(NUMBERS.group_by("source").len().iter_rows())
    # Figure 1: four tasks, three kinds of drop from 1 to 12, and dense; Figure 4: three spaces, two kinds, 28 layers.
    assert found == {
        "2603.24652 Figure 1; metrics inferred": 4 * (3 * 12 + 1),
        "2603.24652 Figure 4": 3 * 2 * 28,
        "2603.24652 retrieval table": 13 * 3,
        "2603.24652 Mistral-7B table; metrics inferred": 10 * 3,
        "2306.11695 README, context 4096": 10,
        "2603.24652 generation step by step": 4 + 3,
        "2603.24652 option subspace": 1 + 2 * 4,
        "2603.24652 figure of the estimates": 3,
    }


def stored_by(study: Study) -> Iterator[tuple[str, str]]:
    """Return the tasks, data sets and texts of a study with the metrics that it would store, from their definitions."""
    for spec in study.tasks:
        definition = find(spec)
        files = definition.files
        if definition.is_group:  # whose tasks are of one form
            files = tuple(path for path in files[0].parent.glob("*.yaml") if "group" not in fields(path))[:1]
        for file in files:
            asked = fields(file)
            if runs_code(spec):
                yield spec.name, "pass_at_1"
            is_letter = asked.get("doc_to_choice") == list("ABCD")
            scoring = "letter" if is_letter else loading._SCORINGS[asked["output_type"]]
            loaded: Any = SimpleNamespace(scoring=scoring, task=SimpleNamespace(OUTPUT_TYPE=asked["output_type"]))
            filters = [each["name"] for each in asked.get("filter_list", [{"name": "none"}])]
            for metric in asked["metric_list"]:
                yield from (
                    (spec.name, score_rows._metric_name(loaded, metric["metric"], by, filters)) for by in filters
                )
    for metric in RETRIEVAL_METRICS:
        yield from ((spec.name, metric) for spec in study.retrieval)
    yield from ((text.id, "token_perplexity") for text in study.texts)


@pytest.mark.parametrize("name", ["paper-qwen7b", "paper-mistral7b", "paper-retrieval", "paper-llama2-7b"])
def test_every_published_score_has_a_metric_of_the_papers_study(name: str) -> None:
    study = load_study(name)
    (model,) = study.models
    stored = set(stored_by(study))
    own = NUMBERS.filter(pl.col("model") == model.name, ~pl.col("task").is_in(UNASKED))
    assert own.height
    for task, metric in own.select("task", "metric").unique().iter_rows():
        # Of texts the name need only begin so, as the view has it.
        texts = {(task, kind) for text, kind in stored if kind == "token_perplexity" and text.startswith(task)}
        assert (task, metric) in stored | texts
    methods = {recipe.name.rsplit("-", 1)[0] if "drop" in recipe.name else recipe.name for recipe in study.recipes}
    assert set(own["method"]) <= methods


@pytest.mark.parametrize("name", ["paper-qwen7b", "paper-mistral7b", "paper-llama3-8b"])
def test_the_papers_studies_ask_as_the_authors_scripts_do(name: str) -> None:
    study = load_study(name)
    shots = {task.name: task.shots for task in study.tasks if task.shots is not None}
    assert shots == {"hellaswag": 10, "arc_challenge": 25, "mmlu": 5, "winogrande": 5}
    kinds = Counter(prompt.kind for prompt in study.prompts)
    assert kinds["choice"] == 100
    assert {text.step for text in study.texts} == {text.context for text in study.texts}  # no overlap
    for recipe in study.recipes:
        if recipe.needs == ("block_influence",):
            assert study.calibrated_for(recipe).calibration.sequences == 256
        elif recipe.is_calibrated:
            assert study.calibrated_for(recipe).calibration.sequences == 128
    assert {f"{method}-{pattern}" for method in ("magnitude", "wanda", "sparsegpt") for pattern in PATTERNS} <= {
        recipe.name for recipe in study.recipes
    }


def test_a_fact_is_the_single_number_of_its_names() -> None:
    assert (fact("generation", "kl_step0_nats"), fact("options", "mass")) == (0.6, 4e-5)
    for names in (("options", "p_option_a"), ("options", "unheard of")):
        with pytest.raises(ValueError, match="item"):
            fact(*names)


def test_the_rows_pass_their_tables_checks_and_are_written_once(tmp_path) -> None:
    from prunescope.assets.defs.answer_assets import write_published

    store, table = Store(tmp_path), TABLES["paper_reference"]
    written = write_published(store)
    assert (written.violations, written.rows, written.fingerprint) == (
        (),
        NUMBERS.height,
        fingerprint({"published_hash": contents_hash()}),
    )
    before = {partition.path: partition.path.stat().st_mtime_ns for partition in store.partitions(table)}
    assert len(before) == NUMBERS["model"].n_unique()
    first, *others = before
    first.unlink()
    write_published(store)
    assert {path: path.stat().st_mtime_ns for path in others} == {path: before[path] for path in others}
    assert first.is_file()
