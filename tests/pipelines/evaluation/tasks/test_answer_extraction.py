"""Tests of the shipped generative tasks: prompts, extracted answers, and correctness."""

import json
import re
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble

from prunescope.pipelines.evaluation.tasks.answer_extraction import f1_of_words, same_answer, without_marks
from prunescope.pipelines.evaluation.tasks.definition import FOLDER, fields, runs_code
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, load_tasks
from prunescope.pipelines.evaluation.tasks.samples import rows
from prunescope.pipelines.evaluation.tasks.sandbox_client import refusal, run_tests
from prunescope.pipelines.studies.evaluation_specs import TaskSpec

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


def test_answer_marks_are_removed_in_order() -> None:
    assert without_marks([["1,000.$", "$.5", "3..", "[invalid]"]], []) == [["1000", ".5", "3.", "[invalid]"]]


def test_every_question_has_the_same_correct_worked_examples(gsm8k: Any) -> None:
    examples = gsm8k.config.fewshot_config.samples
    questions = [doc["question"] for doc in gsm8k.eval_docs]
    assert len(questions) == 200
    assert len(examples) == 8
    for example in examples:
        assert example["question"] not in questions
        sums = re.findall(r"([\d +*/-]+) = \$?(\d+)", example["answer"])
        assert sums
        for formula, result in sums:
            assert eval(formula) == int(result)  # noqa: S307
        assert example["answer"].endswith(f"#### {sums[-1][1]}")
    contexts = [gsm8k.fewshot_context(doc, 5) for doc in list(gsm8k.eval_docs)[:2]]
    shots = "\n\n".join(f"Question: {each['question']}\nAnswer: {each['answer']}" for each in examples[:5])
    assert contexts == [f"{shots}\n\nQuestion: {question}\nAnswer:" for question in questions[:2]]


def test_humaneval_prompts_equal_lm_evals_and_programs_are_run(humaneval: Any) -> None:
    config = fields(HARNESS / "humaneval" / "humaneval.yaml")
    for key in ("doc_to_text", "doc_to_target", "num_fewshot"):
        assert getattr(humaneval.config, key) == config[key]
    assert humaneval.config.generation_kwargs["until"] == config["generation_kwargs"]["until"]
    assert runs_code(TaskSpec(name="humaneval"))
    assert not runs_code(TaskSpec(name="gsm8k"))
    assert [doc["task_id"] for doc in rows("humaneval")["test"]] == [f"HumanEval/{number}" for number in range(164)]
    assert len(humaneval.eval_docs) == 164


@pytest.mark.namespaces
def test_every_published_solution_passes_and_an_empty_one_fails(humaneval: Any) -> None:
    if reason := refusal():
        pytest.skip(f"code cannot be shut in here: {reason}")
    published = rows("humaneval")["test"]
    for number, (doc, whole) in enumerate(zip(humaneval.eval_docs, published, strict=True)):
        asked = (humaneval.doc_to_target(doc), doc["entry_point"])
        assert run_tests(doc["prompt"], whole["canonical_solution"], *asked).outcome == "passed", whole["task_id"]
        if number < 4:
            assert run_tests(doc["prompt"], "    pass\n", *asked).reason.startswith("AssertionError")


def over_files(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, **splits: list[dict[str, Any]]) -> LoadedTask:
    """Load a shipped task with local files instead of a download."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "data sets")
    for split, docs in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    files = {split: str(folder / f"{split}.jsonl") for split in splits}
    path = folder / f"{name}.yaml"
    path.write_text(
        f"include: {FOLDER / name}.yaml\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {json.dumps(files)}}}\n"
    )
    (loaded,) = load_tasks([TaskSpec(name=name, definition=str(path), allow_functions=True)])
    return loaded


def problem(number: int, code: str, *tests: str) -> dict[str, Any]:
    return {"task_id": number, "text": f"Write function {number}.", "code": code, "test_list": list(tests)}


@pytest.mark.namespaces
def test_mbpp_prompts_equal_lm_evals_and_programs_run_in_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = ("assert set(twice( [1])) == {2}", "assert twice([]) == []", "assert twice([2, 3]) == [4, 6]")
    code = "def helped(x):\r\n  return 2 * x\r\ndef twice(xs):\r\n  return [helped(x) for x in xs]"
    examples = [problem(n, f"def f{n}(): return {n}", *[f"assert f{n}() == {n}"] * 3) for n in range(1, 6)]
    wanted = [problem(11, code, *tests), problem(12, "f = abs", *["assert f(-1) == 1"] * 3)]
    mbpp = over_files(tmp_path, monkeypatch, "mbpp", test=wanted, prompt=examples)
    config = fields(HARNESS / "mbpp" / "mbpp.yaml")
    for key in ("doc_to_text", "num_fewshot", "target_delimiter"):
        assert getattr(mbpp.task.config, key) == config[key]
    assert mbpp.task.config.generation_kwargs["until"] == config["generation_kwargs"]["until"]
    assert mbpp.runs_code
    assert mbpp.task.config.metric_list == []
    asked = mbpp.task.fewshot_context(mbpp.docs[0], 3)
    shots = "\n\n".join(mbpp.task.doc_to_text(each) + each["code"] + "\n[DONE]" for each in examples[1:4])
    assert asked == f"{shots}\n\n{mbpp.task.doc_to_text(wanted[0])}"
    assert [doc["entry_point"] for doc in mbpp.docs] == ["twice", "f"]
    if reason := refusal():
        pytest.skip(f"code cannot be shut in here: {reason}")
    doc = mbpp.docs[0]
    for written, outcome in ((code, "passed"), (code.replace("2 *", "3 *"), "failed"), ("", "failed")):
        judged = run_tests(doc["prompt"], written, mbpp.task.doc_to_target(doc), doc["entry_point"])
        assert judged.outcome == outcome, judged


def test_coqa_answers_score_their_best_f1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doc = {"context": "A fox ran. It hid.", "question": "Where?", "answers": ["In the barn", "under a big, red barn"]}
    story = over_files(tmp_path, monkeypatch, "narrativeqa", test=[doc])
    assert story.task.fewshot_context(story.docs[0], 0) == "A fox ran. It hid.\n\nQuestion: Where?\nAnswer:"
    assert story.task.process_results(doc, [" In barn."]) == {"f1": 1.0}
    # Two of three words, and two of four, are the second answer's: 2 · 2 / (3 + 4).
    assert f1_of_words(doc, ["a Red RED barn"]) == {"f1": pytest.approx(4 / 7)}
    assert f1_of_words(doc, [""]) == f1_of_words(doc, ["the fox"]) == {"f1": 0.0}


@pytest.mark.parametrize(
    ("answer", "written", "is_same"),
    [
        ("3.5", "3.50", True),
        ("3.5", "35", False),
        ("-5", "5", False),
        ("-5", "−5", True),
        ("1000", "$1,000.0", True),
        ("7", "seven", False),
        ("Paris", "paris!", True),
        ("Paris", "Rome", False),
        ("rock 'n' roll", "Rock n Roll", True),
        ("1/2", "12", False),
        ("1/2", "It's 1/2.", False),
        ("about 1/2", "About 1/2!", True),
        ("2,4", "24", False),
        ("-5 °C", "5 °C", False),
        ("5 apples", "(5) apples.", True),
        ("+", "-", False),
        ("?", "", False),
    ],
)
def test_own_answers_are_compared_as_numbers_where_they_are_and_else_as_words(
    answer: str, written: str, is_same: bool
) -> None:
    assert same_answer({"answer": answer}, [written]) == {"exact_match": float(is_same)}
