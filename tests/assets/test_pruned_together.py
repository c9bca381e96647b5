"""Pruning inside a study: recipes share passes, orders and finished layers, and end in the same variants."""

import signal
from pathlib import Path

import pytest

from assets.plan import Request
from assets.run import Failure, run_study
from tests.assets.test_interrupted import PATIENCE, start, stop_once_there_is
from tests.assets.tiny_study import StudyFile, rows

DENSE = "predecessors: dense"


class Heard:
    """A listener that remembers the tasks that were begun."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        self.failures: list[Failure] = []

    def start(self, task: str, total: int) -> None:
        self.tasks[task] = total

    def advance(self, amount: int = 1) -> None: ...

    def done(self) -> None: ...

    def waiting(self) -> None: ...

    def planned(self, partitions: int) -> None: ...

    def computed(self, name: str, seconds: float) -> None: ...

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)


# As little as a study can measure: what is looked at here is the pruning.
LITTLE = {
    "prompts": [{"id": "open", "kind": "open", "text": "Why?"}],
    "texts": [],
    "generation": {"new_tokens": 1},
    "measure": {"scopes": ["propagated"], "lenses": ["normed"], "trajectories": ["teacher_forced"]},
}


def heard(study: StudyFile, warehouse: Path, cache: Path) -> Heard:
    listener = Heard()
    run_study(Request(str(study.path)), warehouse, cache, listener)
    return listener


def variant_of(warehouse: Path, recipe: str) -> dict[str, object]:
    return rows(warehouse)[f"variants/model=tiny-a/recipe={recipe}/part.parquet"].to_pylist()[0]


def test_recipes_with_dense_predecessors_are_pruned_in_one_pass_and_a_failing_one_alone_fails(
    study: StudyFile, tmp_path: Path, cache: Path
) -> None:
    family = [
        {"name": "a", "method": "sparsegpt", "sparsity": 0.5, "predecessors": "dense"},
        {"name": "b", "method": "gptq", "bits": 4, "predecessors": "dense"},
        {"name": "c", "method": "sparsegpt", "sparsity": 0.5, "predecessors": "dense", "modules": ["nothing"]},
    ]
    study.write(recipes=["dense", *family, "sparsegpt-50"], **LITTLE)
    together = heard(study, tmp_path / "together", cache)
    assert "prune a and 2 more" in together.tasks or "prune a and 1 more" in together.tasks
    assert [failure.name for failure in together.failures] == ["tiny-a@c"]
    assert "matches no matrix" in together.failures[0].message
    study.write(recipes=["dense", family[0]])
    heard(study, tmp_path / "alone", cache)
    assert variant_of(tmp_path / "alone", "a")["variant_hash"] == variant_of(tmp_path / "together", "a")["variant_hash"]
    assert not list((tmp_path / "together" / "_unfinished").rglob("*.safetensors"))
    # A damaged file is told of once; the next run makes it again.
    (file,) = (tmp_path / "alone" / "_variants/tiny-a/a").iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 16
    file.write_bytes(content)
    study.write(generation={"new_tokens": 2})
    (failure,) = heard(study, tmp_path / "alone", cache).failures
    assert "run the recipe again" in failure.message
    assert not heard(study, tmp_path / "alone", cache).failures


def test_a_longer_drop_goes_on_where_a_shorter_one_ended(study: StudyFile, tmp_path: Path, cache: Path) -> None:
    study.write(recipes=["dense", "mlp-drop-1-iterative"], **LITTLE)
    assert heard(study, tmp_path / "w", cache).tasks["order of mlp-drop-1-iterative"] == 1
    study.write(recipes=["dense", "mlp-drop-1-iterative", "mlp-drop-2-iterative"])
    assert heard(study, tmp_path / "w", cache).tasks["order of mlp-drop-2-iterative"] == 1
    study.write(recipes=["dense", "mlp-drop-2-iterative"])
    assert heard(study, tmp_path / "new", cache).tasks["order of mlp-drop-2-iterative"] == 2
    assert variant_of(tmp_path / "w", "mlp-drop-2-iterative") == variant_of(tmp_path / "new", "mlp-drop-2-iterative")
    study.write(recipes=["dense", "mlp-drop-2-iterative", "mlp-drop-1-iterative"], **LITTLE)
    assert heard(study, tmp_path / "new", cache).tasks["order of mlp-drop-1-iterative"] == 0, "a longer one knows it"
    assert variant_of(tmp_path / "new", "mlp-drop-1-iterative") == variant_of(tmp_path / "w", "mlp-drop-1-iterative")


@pytest.mark.timeout(600)
def test_a_run_killed_while_it_prunes_goes_on_at_the_layer_it_had_reached(study: StudyFile, tmp_path: Path) -> None:
    study.write(recipes=["dense", "sparsegpt-50"], **LITTLE)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    layer = "_unfinished/tiny-a/sparsegpt-50/layer-0000.safetensors"
    assert stop_once_there_is(layer, signal.SIGKILL, study, killed) == -signal.SIGKILL
    before = (killed / layer).stat().st_ino if (killed / layer).exists() else None
    for warehouse in (killed, whole):
        process = start(study, warehouse)
        shown, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, shown.decode()
    assert before is not None
    assert variant_of(killed, "sparsegpt-50") == variant_of(whole, "sparsegpt-50")
    assert not list((killed / "_unfinished").rglob("*.safetensors"))
