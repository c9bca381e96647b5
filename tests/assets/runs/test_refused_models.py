"""Models that raise an error while they are read for the plan: each is one failure, and the others are measured."""

import shutil
from pathlib import Path

import pytest

from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.start import run_study
from prunescope.assets.runs.study_run import RunResult, StudyRun
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.tiny_study import Heard, StudyFile


class PanicException(BaseException):
    """An error as the libraries in Rust raise it."""


def run_with(errors: dict[str, BaseException], study: StudyFile) -> tuple[RunResult, Heard, list[str]]:
    """Run three models up to the plan; return the result, its listener and the models that were planned."""

    def read(_: object, name: str, *rest: object) -> str:
        if name in errors:
            raise errors[name]
        return name

    def work(_: object, store: object, name: str, *rest: object, **options: object) -> list[object]:
        planned.append(name)
        return []

    planned, listener = list[str](), Heard()
    study.write(models=[{"name": name, "source": str(study.model)} for name in "abc"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunescope.assets.runs.study_run.find_model", read)
        patch.setattr("prunescope.assets.runs.study_run.model_work", work)
        return run_study(StudyRequest(str(study.path)), "warehouse", listener, tables=["models"]), listener, planned


@pytest.mark.parametrize("kind", [InputError, OSError, ValueError, RecursionError, MemoryError, PanicException])
def test_any_error_of_one_model_is_one_failure_in_one_line(kind: type[BaseException], study: StudyFile) -> None:
    result, listener, planned = run_with({"b": kind("no\nvocabulary")}, study)
    (failure,) = result.failures
    assert listener.failures == [(failure.name, failure.message)]
    assert failure.name == "b"
    assert failure.message == ("no vocabulary" if kind is InputError else f"{kind.__name__}: no vocabulary")
    assert failure.is_input == (kind is InputError)
    assert "Traceback" in failure.traceback
    assert planned == ["a", "c"]


def test_a_model_that_does_not_fit_the_study_is_left_out_of_the_plan(study: StudyFile, tmp_path: Path) -> None:
    plain = shutil.copytree(study.model, tmp_path / "plain")
    for file in plain.glob("chat_template*"):
        file.unlink()
    models = [{"name": "a", "source": str(study.model)}, {"name": "b", "source": str(plain)}]
    study.write(models=models, template="chat", tasks=[])
    run = StudyRun(StudyRequest(str(study.path)), Store(tmp_path / "warehouse"), Heard())
    assert {work.model for work in run.plan().works} == {"a", "b"}
    assert {work.model for work in run.checked_plan().works} == {"a"}
    (failure,) = run.result.failures
    assert failure.name == "b"
    assert "the model has no chat template" in failure.message


def test_a_run_ends_with_the_first_error_where_no_model_can_be_read_and_with_an_interrupt(study: StudyFile) -> None:
    with pytest.raises(ComputationError, match=r"^a cannot be read: ValueError: no a$"):
        run_with({name: ValueError(f"no {name}") for name in "abc"}, study)
    with pytest.raises(KeyboardInterrupt):
        run_with({"b": KeyboardInterrupt()}, study)
