"""Scores and samples of variants: recomputed from the log-likelihoods and texts in the rows."""

import json
import math
import statistics
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from lm_eval.tasks import TaskManager

from prunescope.pipelines.core import bounded_regex
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks import lm_eval_model, score_rows
from prunescope.pipelines.evaluation.tasks.batched_generation import generate_greedy
from prunescope.pipelines.evaluation.tasks.sandbox_client import refusal
from prunescope.pipelines.evaluation.tasks.score import TaskSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from prunescope.warehouse.tables import TABLES
from tests.pipelines.evaluation.tasks import harness

RECIPE = "magnitude-50"
Tables = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[TaskSpec]:
    folder = tmp_path_factory.mktemp("tasks")
    return [
        TaskSpec(name="arc_challenge", samples=12),
        TaskSpec(name="examples", definition="openbookqa", samples=4, shots=1),
        harness.specs(folder)[-1],
        harness.writing_spec(folder),
    ]


@pytest.fixture(scope="module")
def session(decoder: Decoder, specs: list[TaskSpec]) -> TaskSession:
    return TaskSession(decoder, specs)


@pytest.fixture(scope="module")
def pruned(decoder: Decoder) -> Variant:
    return prune(decoder, parse_recipe(RECIPE))


@pytest.fixture(scope="module")
def dense(session: TaskSession) -> Tables:
    return session.score("dense", Variant())


@pytest.fixture(scope="module")
def scored(session: TaskSession, pruned: Variant, dense: Tables) -> Tables:
    return session.score(RECIPE, pruned)


def values(found: Tables, task: str) -> dict[str, Any]:
    return {row["metric"]: row for row in found["task_scores"].filter(task=task).iter_rows(named=True)}


def samples(found: Tables, task: str, scoring: str) -> list[dict[str, Any]]:
    return list(found["task_samples"].filter(task=task, scoring=scoring).iter_rows(named=True))


def test_rows_have_the_columns_of_their_tables(scored: Tables) -> None:
    for table, rows in scored.items():
        assert ["model", "recipe", *rows.columns] == [column.name for column in TABLES[table].columns]


def test_accuracies_are_the_shares_of_right_options(scored: Tables) -> None:
    for task in ("arc_challenge", "examples"):
        full, letter = samples(scored, task, "full_text"), samples(scored, task, "letter")
        rows = values(scored, task)
        ways = {
            "accuracy": (full, "option_log_likelihoods"),
            "accuracy_per_byte": (full, "option_log_likelihoods_per_byte"),
            "accuracy_letter": (letter, "option_log_likelihoods"),
        }
        for metric, (own, column) in ways.items():
            right = [row[column].index(max(row[column])) == row["target_index"] for row in own]
            assert rows[metric]["value"] == pytest.approx(statistics.mean(right))
            assert rows[metric]["standard_error"] == pytest.approx(statistics.stdev(right) / math.sqrt(len(right)))
            assert rows[metric]["n"] == len(right)
        assert all(rows[metric]["kind"] == "non_generative" for metric in ways)


def test_letters_and_texts_use_the_same_samples(scored: Tables) -> None:
    full, letter = samples(scored, "arc_challenge", "full_text"), samples(scored, "arc_challenge", "letter")
    for one, other in zip(full, letter, strict=True):
        assert one["sample_id"] == other["sample_id"]
        assert one["target_index"] == other["target_index"]
        assert one["target"] == one["options"][one["target_index"]]
        assert other["target"] == "ABCD"[other["target_index"]]
        assert other["question"].startswith(one["question"].removesuffix("Answer:"))
        for option in one["options"]:
            assert option in other["question"]
        sizes = [len(option.encode()) for option in one["options"]]
        per_byte = [value / size for value, size in zip(one["option_log_likelihoods"], sizes, strict=True)]
        assert one["option_log_likelihoods_per_byte"] == pytest.approx(per_byte, rel=1e-6)
        assert one["answer"] == one["options"][one["option_log_likelihoods"].index(max(one["option_log_likelihoods"]))]
        assert one["is_correct"] == (one["answer"] == one["target"])


def test_a_slow_pattern_of_a_task_is_named_with_its_task(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_regex, "SECONDS", 0.02)
    spec = harness.writing_spec(tmp_path)
    definition = Path(spec.source)
    definition.write_text(definition.read_text().replace('"(\\\\S)"', '"((?:[^q]|[^q]{0,2}|[^q]{1,3}){1,200})(?=q)"'))
    with pytest.raises(InputError, match=r"^task mine: regular expression .*: over 0.02 seconds"):
        TaskSession(decoder, [spec]).score("dense", Variant())


def test_options_are_measured_in_bytes_and_not_in_characters(decoder: Decoder, tmp_path: Path) -> None:
    data = tmp_path / "umlauts.jsonl"
    data.write_text(json.dumps({"query": "Was?", "choices": ["äöü", "abc"], "gold": 0}))
    found = TaskSession(decoder, [TaskSpec(name="openbookqa", data=str(data))]).score("dense", Variant())
    (row,) = samples(found, "openbookqa", "full_text")
    totals = row["option_log_likelihoods"]
    assert row["option_log_likelihoods_per_byte"] == pytest.approx([totals[0] / 6, totals[1] / 3])
    right = values(found, "openbookqa")["accuracy_per_byte"]["value"]
    assert right == float(totals[0] / 6 > totals[1] / 3)


def test_perplexities_follow_from_the_log_likelihoods_of_the_texts(scored: Tables) -> None:
    read, rows = samples(scored, "wikitext2", "rolling"), values(scored, "wikitext2")
    totals = [row["option_log_likelihoods"][0] for row in read]
    pages = [part for part in harness.ARTICLES.split("\n = Second") if part]
    pages = [pages[0] + "\n", " = Second" + pages[1]]
    sizes = {
        "word_perplexity": [len(page.split()) for page in pages],
        "byte_perplexity": [len(page.encode()) for page in pages],
    }
    assert rows["byte_perplexity"]["n"] == sum(sizes["byte_perplexity"])
    assert abs(rows["word_perplexity"]["n"] - sum(sizes["word_perplexity"])) <= 2 * len(pages)  # blank ends count too
    for metric in ("word_perplexity", "byte_perplexity", "token_perplexity"):
        row = rows[metric]
        assert row["value"] == pytest.approx(math.exp(-sum(totals) / row["n"]), rel=1e-5)
        assert row["kind"] == "perplexity"
        assert row["standard_error"] > 0
        assert not row["is_higher_better"]


def test_the_error_of_a_perplexity_is_that_of_its_exponent_where_texts_have_one_size() -> None:
    likelihoods = [-30.0, -24.0, -27.0, -29.5]
    value = math.exp(-sum(likelihoods) / 40)
    error, n = score_rows._standard_error("byte_perplexity", [(each, 10) for each in likelihoods], value)
    per_byte = [each / 10 for each in likelihoods]
    assert error == pytest.approx(value * statistics.stdev(per_byte) / 2)
    assert n == 40
    assert score_rows._standard_error("byte_perplexity", [(-30.0, 10)], 20.0) == (None, 10)


def test_generated_answers_are_found_strictly_and_leniently(scored: Tables) -> None:
    written, rows = samples(scored, "mine", "greedy"), values(scored, "mine")
    for row in written:
        strict = row["text"].removeprefix(" ").split() if row["text"][:1].strip() or row["text"][:1] == " " else []
        assert row["answer"] == (strict[0] if strict else None)
        assert row["answer_lenient"] == (row["text"].strip()[:1] or None)
        assert row["is_correct"] == (row["answer"] == row["target"])
        assert 0 < row["tokens_generated"] <= 12
        assert row["option_log_likelihoods"] is None
        assert row["question"].endswith("\nAnswer:")
    assert rows["exact_match"]["value"] == statistics.mean(bool(row["is_correct"]) for row in written)
    assert rows["exact_match_lenient"]["value"] == statistics.mean(bool(row["is_correct_lenient"]) for row in written)
    assert rows["exact_match"]["task_version"] == "3"


def test_agreement_is_the_share_of_the_dense_models_own_answers(scored: Tables, dense: Tables) -> None:
    assert dense["task_scores"].filter(metric="agreement")["value"].to_list() == [1.0] * 3
    for task, scoring, answer in (("arc_challenge", "full_text", "answer"), ("mine", "greedy", "answer_lenient")):
        pairs = zip(samples(scored, task, scoring), samples(dense, task, scoring), strict=True)
        same = [one[answer] == other[answer] for one, other in pairs if other[answer] is not None]
        assert values(scored, task)["agreement"]["value"] == statistics.mean(same)
        assert values(scored, task)["agreement"]["n"] == len(same)
    assert scored["task_scores"].filter(task="wikitext2", metric="agreement").is_empty()


def test_a_task_of_letters_alone_has_agreement(
    decoder: Decoder, pruned: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "data sets")
    keys = {"doc_to_text": "{{query}}\nAnswer:", "doc_to_choice": ["A", "B"], "metrics": ("acc", "acc_norm")}
    spec = harness.choosing_spec(tmp_path, [{"query": f"{n}?", "gold": 0} for n in range(6)], "letters", **keys)
    session = TaskSession(decoder, [spec])
    dense, found = session.score("dense", Variant()), session.score(RECIPE, pruned)
    pairs = zip(samples(found, "letters", "letter"), samples(dense, "letters", "letter"), strict=True)
    same = [one["answer"] == other["answer"] for one, other in pairs]
    assert values(found, "letters")["agreement"]["value"] == pytest.approx(statistics.mean(same))
    assert values(found, "letters")["agreement"]["n"] == 6


def test_accuracy_over_lengths_has_one_name() -> None:
    loaded = SimpleNamespace(scoring="full_text", task=SimpleNamespace(OUTPUT_TYPE="multiple_choice"))
    assert score_rows._metric_name(loaded, "acc_norm", "none", ["none"]) == "accuracy_per_byte"
    assert score_rows._metric_name(loaded, "acc_bytes", "none", ["none"]) == "accuracy_per_byte"


def test_the_dense_models_texts_draft_those_of_a_variant(
    session: TaskSession, pruned: Variant, dense: Tables, scored: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[list[list[int]]] = []

    def spy(decoder: Decoder, *given: Any, others: list[list[int]], **named: Any) -> Any:
        known.append([list(tokens) for tokens in others])
        return generate_greedy(decoder, *given, others=others, **named)

    monkeypatch.setattr(lm_eval_model, "generate_greedy", spy)
    of_dense, own = ([row["token_ids"] for row in samples(found, "mine", "greedy")] for found in (dense, scored))
    assert session.score(RECIPE, pruned, dense["task_samples"])["task_samples"].equals(scored["task_samples"])
    flipped = [tokens for tokens, others in zip(own, of_dense, strict=True) if tokens != others]
    assert known == [of_dense, flipped]
    assert all(of_dense)
    assert flipped
    assert session.score("dense", Variant())["task_samples"].equals(dense["task_samples"])
    assert known[2:] == [[[]] * len(of_dense)]


def test_known_dense_rows_are_not_computed_again(
    decoder: Decoder, specs: list[TaskSpec], pruned: Variant, dense: Tables, scored: Tables
) -> None:
    asked = TaskSession(decoder, specs[:1])
    again = asked.score(RECIPE, pruned, dense["task_samples"])
    assert again["task_samples"].equals(scored["task_samples"].filter(task="arc_challenge"))
    others = dense["task_samples"].with_columns(answer=pl.lit("another"))
    compared = TaskSession(decoder, specs[:1]).score(RECIPE, pruned, others)["task_samples"]
    assert not compared.filter(scoring="full_text")["is_answer_same"].any()
    alone = TaskSession(decoder, specs[:1]).score(RECIPE, pruned)
    assert alone["task_samples"].equals(again["task_samples"])


def test_every_variant_has_the_same_samples_and_another_seed_has_others(
    decoder: Decoder, specs: list[TaskSpec], scored: Tables, dense: Tables
) -> None:
    assert scored["task_samples"]["sample_hash"].to_list() == dense["task_samples"]["sample_hash"].to_list()
    assert scored["task_samples"]["sample_hash"].n_unique() == len(scored["task_samples"])
    assert scored["task_scores"]["task_hash"].to_list() == dense["task_scores"]["task_hash"].to_list()
    seeds = dict(scored["task_scores"].select("task", "fewshot_seed").iter_rows())
    assert (seeds["arc_challenge"], seeds["examples"]) == (None, 1234)
    other = TaskSession(decoder, [specs[1].model_copy(update={"seed": 7})]).score("dense", Variant())
    mine = dense["task_samples"].filter(task="examples")
    assert not set(other["task_samples"]["sample_hash"]) & set(mine["sample_hash"])
    assert other["task_samples"]["question"].to_list() == mine["question"].to_list()


def test_a_group_of_lm_eval_adds_its_tasks_under_its_name(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"both": tmp_path / "_both.yaml"}
    names["both"].write_text("group: both\ntask: [both_one, both_two]\n")
    for count, name in enumerate(("both_one", "both_two"), start=1):
        rows = [{"query": "Which?", "choices": ["a", "b"], "gold": 1}] * count
        names[name] = Path(harness.choosing_spec(tmp_path, rows, name).source)
    # Replaces the index of lm-eval's own tasks, whose samples would be downloaded.
    monkeypatch.setattr("prunescope.pipelines.evaluation.tasks.definition.harness_names", lambda: names)
    index = partial(TaskManager, include_path=str(tmp_path))
    monkeypatch.setattr(
        "prunescope.pipelines.evaluation.tasks.loading.TaskManager", lambda **_: index(include_defaults=False)
    )
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "data sets")
    specs = [TaskSpec(name="both"), TaskSpec(name="alone", definition="both_two", samples=1)]
    found = TaskSession(decoder, specs).score("dense", Variant())
    rows = {row["task"]: row for row in found["task_scores"].filter(metric="accuracy").iter_rows(named=True)}
    assert {task: (row["task_group"], row["n"]) for task, row in rows.items()} == {
        "both_one": ("both", 1),
        "both_two": ("both", 2),
        "alone": (None, 1),
    }
    agreements = found["task_scores"].filter(metric="agreement")
    assert dict(agreements.select("task", "task_group").iter_rows()) == {
        t: row["task_group"] for t, row in rows.items()
    }
    assert sorted(found["task_samples"]["task"]) == ["alone", "both_one", "both_two", "both_two"]


def test_programs_are_scored_only_if_allowed_to_run(decoder: Decoder, tmp_path: Path) -> None:
    # Any token after the sign of a comment changes nothing.
    programs = [
        {
            "prompt": f"def number():\n    return {value}\n\n\n#",
            "test": "def check(found):\n    assert found() == 1",
            "entry_point": "number",
        }
        for value in (1, 2)
    ]
    data = tmp_path / "programs.jsonl"
    data.write_text("\n".join(map(json.dumps, programs)))
    spec = TaskSpec(name="humaneval", data=str(data), max_new_tokens=1)
    kept = TaskSession(decoder, [spec]).score("dense", Variant())
    assert kept["task_scores"]["metric"].to_list() == ["agreement"]
    assert values(kept, "humaneval")["agreement"]["n"] == 2
    assert values(kept, "humaneval")["agreement"]["kind"] == "generative"
    assert kept["task_samples"]["verdict"].to_list() == ["not_run"] * 2
    assert kept["task_samples"]["ended"].to_list() == [False] * 2, "one token is the limit"
    assert kept["task_samples"]["is_correct"].to_list() == [None, None]
    judged = TaskSession(decoder, [spec], allows_code=True).score("dense", Variant())
    if reason := refusal():
        pytest.skip(reason)
    assert judged["task_samples"]["verdict"].to_list() == ["passed", "failed"]
    assert judged["task_samples"]["is_correct"].to_list() == [True, False]
    assert values(judged, "humaneval")["pass_at_1"]["value"] == 0.5
    assert judged["task_samples"]["text"].to_list() == kept["task_samples"]["text"].to_list()
