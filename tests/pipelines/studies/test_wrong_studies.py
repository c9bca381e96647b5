"""The exact words about wrong studies: file, line and key, what was found, what is allowed, the nearest name."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.recipes import KINDS, ComposedRecipe
from prunescope.pipelines.studies import load_study

STUDY = """\
# A study.
name: mine
models:
  - name: tiny
    source: ./tiny
recipes:
  - dense
  - wanda-50
prompts:
  - id: sky
    text: Why is the sky blue?
"""
METHODS = [method for kind in (*KINDS, ComposedRecipe) for method in get_args(kind.model_fields["method"].annotation)]
CASES = yaml.safe_load(
    Path(__file__)
    .with_name("wrong_studies.yaml")
    .read_text(encoding="utf-8")
    .replace("ALL_METHODS", ", ".join(map(repr, METHODS)))
)
# Words of the validation library.
FOREIGN = re.compile(
    r"input should|validation|pydantic|extra_forbidden|type=|unable to|a valid (?!name)", re.IGNORECASE
)


def refusal(text: str) -> str:
    Path("study.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_study("study.yaml")
    return str(error.value)


def test_a_wrong_study_is_refused_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(CASES) >= 40
    told = []
    for case in CASES:
        old = STUDY if case["instead of"] == "(all)" else case["instead of"]
        assert old in STUDY
        told.append(case | {"says": refusal(STUDY.replace(old, case["written"])).removeprefix("study.yaml: ")})
    assert told == CASES
    assert not [case["says"] for case in told if FOREIGN.search(case["says"])]


def test_every_wrong_key_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = STUDY.replace("source: ./tiny", "sorce: ./tiny").replace("wanda-50", "{name: w, method: wanda, sparsity: 7}")
    text = (
        text.replace("text: Why", "txt: Why") + "dtype: float8\nmeasure: {temperatures: [0], lense: [raw]}\nseed: 1\n"
    )
    told = refusal(text).split("\n")
    found = [re.fullmatch(r"study.yaml: line (\d+): `([a-z.0]+)`: .+[;:].+", line) for line in told]
    assert {(int(each[1]), each[2]) for each in found if each} == {
        (5, "models.0.sorce"),
        (8, "recipes.w.sparsity"),
        (11, "prompts.0.txt"),
        (12, "dtype"),
        (13, "measure.temperatures.0"),
        (13, "measure.lense"),
        (14, "seed"),
    }
    assert len(told) == 7
    # What is left out because it is wrong is not missed.
    assert len(refusal(STUDY.replace("text: Why", "txt: Why")).split("\n")) == 1


def test_what_was_found_is_shown_short_and_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"https://user:{'hunter2' * 12}@example.org/"
    told = refusal(STUDY.replace("prompts:", f"dtype: {address}\nprompts:"))
    assert "line 9: `dtype`: 'https://…@example.org/' is none of 'float32'" in told
    assert "…' is none of" in refusal(STUDY.replace("prompts:", f"dtype: {'x' * 5000}\nprompts:"))
