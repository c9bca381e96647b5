"""Small tasks and their output by lm-eval's evaluator with any of its models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, quiet
from prunescope.pipelines.studies.evaluation_specs import TaskSpec

ARTICLES = """ = First =\x20

 Robert is an English film , television and theatre actor . He had a guest @-@ starring role in 2000 .

 = = Career = =

 In 2006 , he starred alongside an ( unnamed ) actor .

 = Second =\x20

 Du Fu was a prominent poet of the " Tang " dynasty ; his work was initially little @-@ known .
"""
WRITING = """task: mine
custom_dataset: !function prunescope.pipelines.evaluation.tasks.samples.rows
dataset_kwargs: {{file: "{data}"}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n", "o"], do_sample: false, max_gen_toks: 12}}
filter_list:
  - {{name: strict, filter: [{{function: regex, regex_pattern: "^ ?(\\\\S+)"}}, {{function: take_first}}]}}
  - {{name: lenient, filter: [{{function: regex, regex_pattern: "(\\\\S)"}}, {{function: take_first}}]}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 3}}
"""


def specs(folder: Path) -> list[TaskSpec]:
    """Return every kind of non-generative task: options and letters, with and without examples, too long, and texts."""
    (folder / "articles.txt").write_text(ARTICLES)
    return [
        TaskSpec(name="arc_challenge", samples=3),
        TaskSpec(name="openbookqa", samples=3, shots=2, seed=5),
        TaskSpec(name="boolq", samples=2),
        TaskSpec(name="wikitext2", data=str(folder / "articles.txt"), context=24),
    ]


def writing_spec(folder: Path) -> TaskSpec:
    """Return a user's generative task, without a download."""
    data = folder / "questions.jsonl"
    data.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n{"question": "Why?", "answer": "So"}\n')
    path = folder / "mine.yaml"
    path.write_text(WRITING.format(data=data))
    return TaskSpec(name="mine", definition=str(path), allow_functions=True)


def choosing_spec(
    folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "mine", metrics: Sequence[str] = ("acc",), **keys: Any
) -> TaskSpec:
    """Return a user's task of options over a file of rows; `keys` are further keys of its definition, or others."""
    data, path = folder / f"{name}.jsonl", folder / f"{name}.yaml"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    definition = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": each, "aggregation": "mean", "higher_is_better": True} for each in metrics],
    }
    path.write_text(yaml.safe_dump(definition | keys))
    return TaskSpec(name=name, definition=str(path))


def answers(model: HFLM, loaded: LoadedTask) -> list[list[Any]]:
    """Return log-likelihoods or texts of every sample from the evaluator's log."""
    samples = evaluated(model, loaded)
    return [[_value(each) for each in s["resps"]] for s in samples if s["filter"] == samples[0]["filter"]]


def evaluated(model: HFLM, loaded: LoadedTask) -> Sequence[Mapping[str, Any]]:
    loaded.task.set_fewshot_seed(loaded.spec.seed)
    with quiet():
        tasks = {"tasks": {loaded.name: loaded.task}, "groups": {}}
        found = evaluate(model, tasks, limit=loaded.spec.samples, bootstrap_iters=0)
    return list(found["samples"][loaded.name])


def _value(responses: Sequence[Any]) -> Any:
    (response,) = responses
    return response[0] if isinstance(response, tuple) else response
