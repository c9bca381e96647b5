"""`prunescope advise`: the same probes as `run`, computed once, and no change to other tables of the study."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.ask import _probe_request
from prunescope.assets.cli.options import Globals
from prunescope.assets.planning.steps import PROBE_TABLES
from prunescope.pipelines.planning.power import verdict_power
from prunescope.pipelines.reporting.advice import TOO_LITTLE
from prunescope.pipelines.studies import load_study
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.tiny_study import RECIPES, StudyFile, partitions, written_since

Capture = pytest.CaptureFixture[str]


def advised(capsys: Capture, *arguments: object, code: int = 0) -> tuple[list[dict[str, object]], str]:
    found = run(["advise", *map(str, arguments), "--format", "json"], Globals())
    shown = capsys.readouterr()
    assert found == code, shown.err
    return (json.loads(shown.out) if shown.out else []), shown.err


@pytest.mark.exhaustive  # a probe is what a run computes, for fewer tokens
def test_a_new_recipe_of_a_known_model_is_probed_and_nothing_else_is_written(
    study: StudyFile, warehouse: Path, capsys: Capture
) -> None:
    before, of = partitions(warehouse), ("--warehouse", warehouse, "--study", study.path)
    command = ("tiny-a", *of, "--recipe", "wanda-2of4", "--recipe", "mlp-drop-1")
    rows, told = advised(capsys, *command)
    assert {row["recipe"] for row in rows} == {"wanda-2of4", "mlp-drop-1"}
    # The tiny study asks too few prompts and questions for a verdict.
    assert {row["verdict"] for row in rows} == {TOO_LITTLE}
    assert "over at least 30 prompts, questions or answers" in told
    assert "scored on writing and on choosing; the warehouse has 0." in told
    written, of_the_model = written_since(before, warehouse), {"models", "activation_stats", "block_influence"}
    assert {name.split("/")[0] for name in written} == set(PROBE_TABLES) - of_the_model
    assert all("recipe=mlp-drop-1" in name for name in written)

    # What is computed is read, also for a model by its path.
    files = {path: path.stat().st_mtime_ns for path in warehouse.rglob("*") if path.is_file()}
    assert advised(capsys, *command)[0] == rows
    every, _ = advised(capsys, f"tiny-a={study.model}", *of)
    assert {row["recipe"] for row in every} == set(RECIPES) - {"dense"}
    assert {path: path.stat().st_mtime_ns for path in warehouse.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tiny-a", "model tiny-a was computed by study 'tiny'; name its file with --study"),
        ("tiny-a --study retrieval-small", "study retrieval-small: `prompts` is empty"),
        ("nobody", "'nobody': no such folder or file"),
    ],
)
def test_what_cannot_be_probed_is_refused(warehouse: Path, capsys: Capture, line: str, message: str) -> None:
    _, told = advised(capsys, *line.split(), "--warehouse", warehouse, code=2)
    assert message in told


def test_a_study_with_too_few_questions_keeps_its_results_and_advise_adds_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "provenance", lambda *_: SimpleNamespace(study="variations"))
    request, aside = _probe_request("smollm2-135m-instruct", None, ["wanda-50"], Store(tmp_path))
    assert (request.study, request.recipes) == ("advise", ("wanda-50",))
    assert "study variations, which computed smollm2-135m-instruct, asks 1 of the 30 questions" in aside
    assert _probe_request("smollm2-135m-instruct", "variations", [], Store(tmp_path))[1] == ""


def test_the_shipped_probes_are_enough_for_every_verdict() -> None:
    assert all("tolerated up to" in line for line in verdict_power(load_study("advise"), []))
