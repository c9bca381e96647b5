"""The options of `humaneval_choice`: one passes the tests of its problem, the others fail them."""

import ast

import pytest

from prunescope.pipelines.evaluation.tasks.loading import load_tasks
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from tests.pipelines.evaluation.tasks.right_and_wrong_programs import (
    FILE,
    OPTIONS,
    body_of,
    passes,
    problems,
    program_of,
    sample,
    versions,
)

SHIPPED = {row["task_id"]: row for row in problems(FILE)}
PROBLEMS = {problem["task_id"]: problem for problem in problems()}


def test_a_version_differs_in_one_place() -> None:
    [function] = ast.parse("def f(a, b):\n    return min(a, 2) if a < b and not b else a * b").body
    assert {body_of({}, version).strip() for version in versions(function)} == {
        "return a * b if a < b and (not b) else min(a, 2)",
        "return max(a, 2) if a < b and (not b) else a * b",
        "return min(a, 3) if a < b and (not b) else a * b",
        "return min(a, 1) if a < b and (not b) else a * b",
        "return min(a, 2) if a < b or not b else a * b",
        "return min(a, 2) if a <= b and (not b) else a * b",
        "return min(a, 2) if a < b and (not b) else a + b",
    }


def test_a_program_that_does_not_end_or_takes_all_memory_fails() -> None:
    assert passes("assert 1 + 1 == 2")
    assert not passes("assert 1 + 1 == 3")
    assert not passes("while True: pass")
    assert not passes("bytearray(1 << 40)")


def test_the_right_program_is_anywhere_among_four_different_ones() -> None:
    assert len(SHIPPED) == 131
    assert {len(set(row["choices"])) for row in SHIPPED.values()} == {OPTIONS}
    assert {row["gold"] for row in SHIPPED.values()} == set(range(OPTIONS))
    assert all(row["query"] == PROBLEMS[name]["prompt"] for name, row in SHIPPED.items())


@pytest.mark.parametrize(
    "name",
    [
        name if number in {0, 60} else pytest.param(name, marks=pytest.mark.exhaustive)
        for number, name in enumerate(PROBLEMS)
    ],
)
def test_shipped_options_are_those_of_the_generator_and_one_alone_passes(name: str) -> None:
    row = SHIPPED.get(name)
    assert sample(PROBLEMS[name]) == row
    for index, body in enumerate(row["choices"] if row else ()):
        assert passes(program_of(PROBLEMS[name], body)) == (index == row["gold"])


def test_the_model_reads_the_problem_and_then_the_indented_program() -> None:
    (loaded,) = load_tasks([TaskSpec(name="humaneval_choice", samples=1)])
    (doc,) = loaded.docs
    assert loaded.task.config.target_delimiter == ""
    assert loaded.task.doc_to_text(doc) == doc["query"]
    assert loaded.task.doc_to_choice(doc) == doc["choices"]
    assert all(choice.startswith("    ") for choice in doc["choices"])
