"""Pruning inside a study: recipes share passes, orders and finished layers, and end in the same variants."""

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from prunescope.assets.execution.model_cache import ModelCache
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.outcome import Failure
from prunescope.assets.runs.study_run import run_study
from tests.assets.runs.test_interrupted import stop_once_there_is
from tests.assets.tiny_study import StudyFile, one_thread, rows, without_answers

# The first test that asks for `runs` waits for five studies.
pytestmark = pytest.mark.timeout(900)


class Heard:
    """A listener that remembers the tasks that were begun."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        self.failures: list[Failure] = []
        self.own: dict[str, float] = {}
        self.together: dict[str, float] = {}

    def start(self, task: str, total: int) -> None:
        self.tasks[task] = total

    def advance(self, amount: int = 1) -> None: ...

    def done(self) -> None: ...

    def waiting(self, holder: str) -> None: ...

    def planned(self, partitions: int) -> None: ...

    def computed(self, name: str, seconds: float) -> None:
        self.own[name] = seconds

    def shared(self, name: str, seconds: float) -> None:
        self.together[name] = seconds

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
    with pytest.MonkeyPatch.context() as patch, one_thread():
        without_answers(patch)
        run_study(StudyRequest(str(study.path)), warehouse, cache, listener)
    return listener


def variant_of(warehouse: Path, recipe: str) -> dict[str, object]:
    return rows(warehouse)[f"variants/model=tiny-a/recipe={recipe}/part.parquet"].to_pylist()[0]


FAMILY = [
    {"name": "a", "method": "sparsegpt", "sparsity": 0.5, "predecessors": "dense"},
    {"name": "b", "method": "gptq", "bits": 4, "predecessors": "dense"},
    {"name": "c", "method": "sparsegpt", "sparsity": 0.5, "predecessors": "dense", "modules": ["nothing"]},
]


@dataclass(frozen=True)
class Runs:
    """Two warehouses filled in different orders, what was heard meanwhile, and what the very first run left behind."""

    one: Path
    two: Path
    in_one_pass: dict[str, object]
    unfinished: list[Path]
    family: Heard
    alone: Heard
    longer: Heard
    shorter: Heard
    mended: Heard


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, cache: Path) -> Runs:
    """Every run here does its part for several tests."""
    folder = tmp_path_factory.mktemp("together")
    one, two = folder / "one", folder / "two"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_CACHE", str(cache))
        patch.delenv("DAGSTER_HOME", raising=False)
        study = StudyFile(folder / "tiny.yaml", tiny_folder)
        study.write(recipes=["dense", *FAMILY, "sparsegpt-50", "mlp-drop-1-iterative"], **LITTLE)
        family = heard(study, one, cache)
        in_one_pass, unfinished = variant_of(one, "a"), list((one / "_unfinished").rglob("*.safetensors"))
        study.write(recipes=["dense", FAMILY[0], "mlp-drop-2-iterative"])
        alone = heard(study, two, cache)
        # A file is damaged; only what has to read it can notice.
        (file,) = (one / "_variants/tiny-a/a").iterdir()
        content = bytearray(file.read_bytes())
        content[-3] ^= 16
        file.write_bytes(content)
        study.write(generation={"new_tokens": 2})
        longer = heard(study, one, cache)
        mended = heard(study, one, cache)
        study.write(recipes=["dense", "mlp-drop-2-iterative", "mlp-drop-1-iterative"], **LITTLE)
        shorter = heard(study, two, cache)
    return Runs(one, two, in_one_pass, unfinished, family, alone, longer, shorter, mended)


def test_recipes_with_dense_predecessors_are_pruned_in_one_pass_and_a_failing_one_alone_fails(runs: Runs) -> None:
    assert "prune a and 2 more" in runs.family.tasks or "prune a and 1 more" in runs.family.tasks
    assert [failure.name for failure in runs.family.failures] == ["tiny-a@c"]
    assert "matches no matrix" in runs.family.failures[0].message
    assert "prune a" in runs.alone.tasks
    assert variant_of(runs.two, "a")["variant_hash"] == runs.in_one_pass["variant_hash"]
    assert not runs.unfinished


def test_what_variants_share_is_told_apart_from_the_work_of_each(
    study: StudyFile, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.write(recipes=["dense", *FAMILY[:2]], **LITTLE)
    take = ModelCache.take_shared
    # An hour more than it took: the partition in whose run it was done is then an hour short, if it was left out there.
    monkeypatch.setattr(ModelCache, "take_shared", lambda cache: [(work, own + 3600) for work, own in take(cache)])
    listener = heard(study, tmp_path / "warehouse", cache)
    assert {"tiny-a: prune a, b", "tiny-a: dense model on every prompt"} <= set(listener.together)
    assert any(name.startswith("tiny-a: trace dense, a, b") for name in listener.together)
    assert listener.own["tiny-a@dense"] < 0
    assert sum(listener.own.values()) + sum(listener.together.values()) > 0


def test_a_damaged_file_is_told_of_once_and_the_next_run_makes_it_again(runs: Runs) -> None:
    (failure,) = runs.longer.failures
    assert failure.name == "tiny-a@a"
    assert "run the recipe again" in failure.message
    assert not runs.mended.failures


def test_a_longer_drop_goes_on_where_a_shorter_one_ended(runs: Runs) -> None:
    assert runs.family.tasks["order of mlp-drop-1-iterative"] == 1
    assert runs.longer.tasks["order of mlp-drop-2-iterative"] == 1
    assert runs.alone.tasks["order of mlp-drop-2-iterative"] == 2
    assert variant_of(runs.one, "mlp-drop-2-iterative") == variant_of(runs.two, "mlp-drop-2-iterative")
    assert runs.shorter.tasks["order of mlp-drop-1-iterative"] == 0, "a longer one knows it"
    assert variant_of(runs.two, "mlp-drop-1-iterative") == variant_of(runs.one, "mlp-drop-1-iterative")


def test_a_run_killed_while_it_prunes_goes_on_at_the_layer_it_had_reached(
    study: StudyFile, tmp_path: Path, runs: Runs, cache: Path
) -> None:
    study.write(recipes=["dense", "sparsegpt-50"], **LITTLE)
    killed = tmp_path / "killed"
    layer = "_unfinished/tiny-a/sparsegpt-50/layer-0000.safetensors"
    assert stop_once_there_is(layer, signal.SIGKILL, study, killed) == -signal.SIGKILL
    before = (killed / layer).stat().st_ino if (killed / layer).exists() else None
    assert not heard(study, killed, cache).failures
    assert before is not None
    assert variant_of(killed, "sparsegpt-50") == variant_of(runs.one, "sparsegpt-50")
    assert not list((killed / "_unfinished").rglob("*.safetensors"))
