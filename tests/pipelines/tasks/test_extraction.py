"""The tasks that write, as shipped: what is asked, what is found in a text, and what counts as right."""

import re
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble

from pipelines.studies.measured import TaskSpec
from pipelines.tasks.definition import FOLDER, fields, runs_code
from pipelines.tasks.execution import passes, refusal
from pipelines.tasks.extraction import without_marks
from pipelines.tasks.loading import load_tasks
from pipelines.tasks.samples import rows

HARNESS = Path(lm_eval.__file__).parent / "tasks"
# Text written, strict answer, lenient answer; the right answer is 1000 throughout.
ANSWERS = [
    ("So it is 7.\n#### 1000", "1000", "1000"),
    ("#### 1,000", "1000", "1000"),
    ("#### 1,000.", "1000", "1000"),
    ("#### -1,000.50", "-1000.50", "-1000.50"),
    ("#### 1000 and #### 12", "1000", "12"),
    ("#### $1,000", None, "1000"),  # the strict form has no sign before its number
    ("####1000", None, "1000"),
    ("It costs $1,000.", None, "1000"),
    ("It costs 1000$.", None, "1000"),
    ("That makes 1000 km in 3 hours", None, "3"),
    ("1000 metres, or 1000m", None, "1000"),
    ("between -5 and -1000", None, "-1000"),
    ("1000 of them...", None, ".."),
    ("a thousand", None, None),
    ("#### １０００", None, None),  # digits of another script are none
    ("", None, None),
    ("####", None, None),
]


@pytest.fixture(scope="module")
def gsm8k() -> Any:
    (loaded,) = load_tasks([TaskSpec(name="gsm8k")])
    return loaded.task


@pytest.fixture(scope="module")
def humaneval() -> Any:
    (loaded,) = load_tasks([TaskSpec(name="humaneval")])
    return loaded.task


def answers(filters: list[Any], texts: list[str]) -> dict[str, list[str]]:
    found = {}
    for each in filters:
        asked = [Instance("generate_until", {}, ("", {}), index) for index in range(len(texts))]
        for one, text in zip(asked, texts, strict=True):
            one.resps = [text]
        each.apply(asked)
        found[each.name] = [one.filtered_resps[each.name] for one in asked]
    return found


def test_answers_are_found_strictly_and_leniently_in_any_form_of_a_number(gsm8k: Any) -> None:
    found = answers(gsm8k._filters, [text for text, *_ in ANSWERS])
    assert list(found) == ["strict-match", "flexible-extract"]
    assert found["strict-match"] == [strict or "[invalid]" for _, strict, _ in ANSWERS]
    assert found["flexible-extract"] == [lenient or "[invalid]" for *_, lenient in ANSWERS]


def test_scores_are_those_of_lm_evals_own_gsm8k(gsm8k: Any) -> None:
    config = fields(HARNESS / "gsm8k" / "gsm8k.yaml")
    theirs = [
        build_filter_ensemble(
            each["name"],
            [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in each["filter"]],
        )
        for each in config["filter_list"]
    ]
    texts = [text for text, *_ in ANSWERS]
    ours, own = answers(gsm8k._filters, texts), answers(theirs, texts)
    assert own != ours
    seen = set()
    for target in ("x\n#### 1000", "x\n#### 1,000", "x\n#### -1000.50", "#### 12"):
        for name in own:
            for mine, its in zip(ours[name], own[name], strict=True):
                doc = {"question": "?", "answer": target}
                right = gsm8k.process_results(doc, [mine])
                assert right == gsm8k.process_results(doc, [its])
                seen.add(right["exact_match"])
    assert seen == {0.0, 1.0}
    shipped = fields(FOLDER / "gsm8k.yaml")
    for key in ("doc_to_text", "doc_to_target", "metric_list", "num_fewshot", "output_type"):
        assert shipped[key] == config[key], key
    assert shipped["generation_kwargs"]["until"] == config["generation_kwargs"]["until"]


def test_marks_go_one_behind_the_other() -> None:
    assert without_marks([["1,000.$", "$.5", "3..", "[invalid]"]], []) == [["1000", ".5", "3.", "[invalid]"]]


def test_every_question_has_the_same_worked_examples_which_are_right_and_in_no_test(gsm8k: Any) -> None:
    examples = gsm8k.config.fewshot_config.samples
    questions = [doc["question"] for doc in gsm8k.eval_docs]
    assert len(questions) == 40
    assert len(examples) == 8
    for example in examples:
        assert example["question"] not in questions
        sums = re.findall(r"([\d +*/-]+) = (\d+)", example["answer"])
        assert sums
        for formula, result in sums:
            assert eval(formula) == int(result)  # noqa: S307
        assert example["answer"].endswith(f"#### {sums[-1][1]}")
    contexts = [gsm8k.fewshot_context(doc, 5) for doc in list(gsm8k.eval_docs)[:2]]
    shots = "\n\n".join(f"Question: {each['question']}\nAnswer: {each['answer']}" for each in examples[:5])
    assert contexts == [f"{shots}\n\nQuestion: {question}\nAnswer:" for question in questions[:2]]


def test_problems_are_asked_as_lm_eval_does_and_judged_by_running_them(humaneval: Any) -> None:
    config = fields(HARNESS / "humaneval" / "humaneval.yaml")
    for key in ("doc_to_text", "doc_to_target", "num_fewshot"):
        assert getattr(humaneval.config, key) == config[key]
    assert humaneval.config.generation_kwargs["until"] == config["generation_kwargs"]["until"]
    assert runs_code(TaskSpec(name="humaneval"))
    assert not runs_code(TaskSpec(name="gsm8k"))
    assert len(humaneval.eval_docs) == 20


@pytest.mark.namespaces
def test_the_published_solution_of_every_shipped_problem_passes_and_an_empty_one_does_not(humaneval: Any) -> None:
    if reason := refusal():
        pytest.skip(f"code cannot be shut in here: {reason}")
    published = rows("humaneval")["test"]
    for number, (doc, whole) in enumerate(zip(humaneval.eval_docs, published, strict=True)):
        asked = (humaneval.doc_to_target(doc), doc["entry_point"])
        assert passes(doc["prompt"], whole["canonical_solution"], *asked).outcome == "passed", whole["task_id"]
        if number < 4:
            assert passes(doc["prompt"], "    pass\n", *asked).reason.startswith("AssertionError")
