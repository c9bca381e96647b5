"""`prunescope init` and `prunescope schema`: studies that are accepted as they are written, and their schema."""

import json
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.pipelines.studies import FOLDER, load_study, study_names
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from prunescope.pipelines.studies.schema import FILE, schema_text

Capture = pytest.CaptureFixture[str]
# A study in short forms, each of which stands for the mapping below it.
SHORT = """
models: [./a-model, {source: org/Other-7B@main}]
recipes: [dense, wanda-50, {method: magnitude, sparsity: 0.3}, {method: composed, parts: [attn-drop-1, rtn-4bit]}]
noise: []
prompts: [{source: maths, samples: 2}, {text: 'Why is the sky blue?'}, open]
texts: [wikitext2, {source: ./my text.txt, context: 64}]
tasks: [boolq, {definition: ./my-task.yaml}, {data: ./quiz.jsonl, question: q, options: [a, b]}]
retrieval: [python-help, {folder: beir/scifact}]
memory: {cpu: 8GiB}
"""


def test_short_forms_get_the_names_of_what_they_stand_for(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(SHORT)
    study = load_study(str(tmp_path / "short.yaml"))
    assert study.name == "short"
    assert {model.name: model.source for model in study.models} == {
        "a-model": "./a-model",
        "other-7b": "org/Other-7B@main",
    }
    assert [recipe.name for recipe in study.recipes] == ["dense", "wanda-50", "magnitude-30", "composed"]
    assert study.recipes[2].hash == study.recipe("magnitude-30").hash
    assert [prompt.id for prompt in study.prompts][2] == "prompt-2"
    assert [text.id for text in study.texts] == ["wikitext2", "my-text"]
    assert [task.name for task in study.tasks] == ["boolq", "my-task", "quiz"]
    assert study.tasks[0].hash == TaskSpec(name="boolq").hash
    assert [spec.name for spec in study.retrieval] == ["python-help", "scifact"]


def test_the_schema_accepts_what_the_code_does(tmp_path: Path) -> None:
    schema = json.loads(schema_text())
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    texts = {name: (FOLDER / f"{name}.yaml").read_text(encoding="utf-8") for name in study_names()}
    for name, text in (texts | {"short": SHORT}).items():
        assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == [], name
    for wrong in ({"subset": "x"}, {"promts": []}, {"recipes": [5]}, {"prompts": [{"text": 5}]}, {"device": "gpu"}):
        assert not validator.is_valid(yaml.safe_load(SHORT) | wrong), wrong
    assert all(key["description"] for key in schema["properties"].values())


def test_the_first_line_of_every_study_names_the_schema(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "studies").mkdir()
    assert run(["init", "studies/mine"], Globals()) == 0
    for study in (*(FOLDER / f"{name}.yaml" for name in study_names()), tmp_path / "studies" / "mine.yaml"):
        first, _, _ = study.read_text(encoding="utf-8").partition("\n")
        named = study.parent / first.removeprefix("# yaml-language-server: $schema=")
        assert named.resolve() == FILE.resolve(), study
    capsys.readouterr()
    assert run(["schema"], Globals()) == 0
    assert capsys.readouterr().out == schema_text()


def test_init_writes_a_study_that_plan_accepts(tmp_path: Path, tiny_folder: Path, capsys: Capture) -> None:
    (tmp_path / "own.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    options = ["--recipe", "wanda-50", "--recipe", "{method: magnitude, sparsity: 0.3}", "--prompts", "own.jsonl"]
    assert run(["init", "mine", "--model", str(tiny_folder), *options], Globals()) == 0
    shown = capsys.readouterr()
    assert (shown.out, "wrote mine.yaml" in shown.err) == ("", True)
    text = (tmp_path / "mine.yaml").read_text()
    assert 22 <= len(text.splitlines()) <= 32
    assert max(map(len, text.splitlines())) < 120 + len(str(tiny_folder))
    study = load_study("mine.yaml")
    assert [recipe.name for recipe in study.recipes][:3] == ["dense", "wanda-50", "magnitude-30"]
    assert [prompt.text for prompt in study.prompts] == ["1 + 1?"]
    # Its default lengths are over the tiny model's context.
    small = "texts: []\ntasks: []\ncalibration: {sequences: 1, length: 8}\n"
    keys = yaml.safe_dump(yaml.safe_load(text) | yaml.safe_load(small))
    (tmp_path / "mine.yaml").write_text(keys)
    assert run(["plan", "mine.yaml", "--warehouse", str(tmp_path / "new")], Globals()) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "Missing argument 'name'"),
        ("there", "there.yaml: exists already; choose another name, or replace it with --force"),
        ("'a b'", "a b.yaml: `name`: 'a b' is not a valid name: letters, digits and . _ + -"),
        ("../", "`name`: '..' is not a valid name"),
        ("no/where", "there is no folder no; make it first"),
        ("demo", "'demo' is a study of the package; choose another name, such as my-demo"),
        ("new --recipe wonda-50", "unknown recipe 'wonda-50'; did you mean wanda-50"),
        ("new --prompts gone.jsonl", "source 'gone.jsonl': no such set or file"),
    ],
)
def test_init_refuses_and_writes_nothing_unless_told_to_replace(
    tmp_path: Path, capsys: Capture, line: str, message: str
) -> None:
    (tmp_path / "there.yaml").write_text("mine")
    assert run(["init", *shlex.split(line)], Globals()) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]
    assert (tmp_path / "there.yaml").read_text() == "mine"
    if line == "there":
        assert run(["init", "there", "--force"], Globals()) == 0, capsys.readouterr().err
        assert load_study("there.yaml").name == "there"
