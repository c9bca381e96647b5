"""The unit of work: errors that end a part of it, too little memory, and the lines of a log."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from prunescope.assets.defs.log_progress import LogListener
from prunescope.assets.defs.resources import WarehouseResource
from prunescope.assets.defs.table_assets import EngineResource
from prunescope.assets.execution import compute as compute_module
from prunescope.assets.execution.error_transport import is_out_of_memory, is_transient
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.execution.task import Event, ModelTask, StepBegun, StepFailed, TableWritten
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.warehouse.core.errors import WarehouseError
from tests.assets.runs.test_refused_models import PanicException
from tests.assets.tiny_study import RECIPES, StudyFile, computed, rows
from tests.cuda_device import cuda_devices

pytestmark = pytest.mark.timeout(900)


def test_a_failed_step_is_raised_with_its_class_and_the_traceback_of_its_process() -> None:
    for error in (InputError("a"), KeyError("a"), TimeoutError("a")):
        raised = StepFailed.of(None, "models", error).error
        assert type(raised) is (InputError if isinstance(error, InputError) else RuntimeError)
        assert "a" in str(raised)
        assert type(error).__name__ in str(raised.__cause__)


def events_of(study: StudyFile, root: Path, *steps: tuple[str | None, str]) -> list[Event]:
    task = ModelTask(StudyRequest(str(study.path)), str(root), "tiny-a", steps)
    return list(compute_module.compute(task, ModelSession()))


# -- retries ----------------------------------------------------------------------------------------------------------


def test_only_transient_errors_are_retried() -> None:
    def raised_from(cause: Exception) -> Exception:
        error = WarehouseError("s3://bucket cannot be read")
        error.__cause__ = cause
        return error

    class HTTPClientError(Exception):
        """The name of the base class of the S3 client's connection errors."""

    class EndpointConnectionError(HTTPClientError): ...

    assert is_transient(raised_from(EndpointConnectionError()))
    assert is_transient(raised_from(TimeoutError()))
    assert not is_transient(raised_from(PermissionError()))
    refused = InputError("connect")
    refused.__cause__ = ConnectionError()
    assert not is_transient(refused)
    assert not any(map(is_transient, (InputError(), ComputationError(), MemoryError(), OSError(28, "disk full"))))


def test_what_storage_does_not_answer_is_tried_twice_more(
    monkeypatch: pytest.MonkeyPatch, study: StudyFile, warehouse: Path
) -> None:
    tries, rows_of = [0], compute_module._rows

    def fail_twice(*arguments: object) -> dict[str, pl.DataFrame]:
        tries[0] += 1
        if tries[0] != 3:
            raise TimeoutError("s3")
        return rows_of(*arguments)

    monkeypatch.setattr(compute_module, "_rows", fail_twice)
    monkeypatch.setattr(compute_module, "_RETRY_SECONDS", 0)
    assert [table.table for table in computed(study, warehouse, "mask_samples", "dense")] == ["mask_samples"]
    assert tries == [3]
    with pytest.raises(RuntimeError, match="TimeoutError: s3"):
        computed(study, warehouse, "mask_samples", "dense")
    assert tries == [6]


def test_what_storage_does_not_take_is_written_again_without_another_computation(
    monkeypatch: pytest.MonkeyPatch, study: StudyFile, warehouse: Path
) -> None:
    calls, rows_of, write = {"computed": 0, "written": 0}, compute_module._rows, PartitionContext.write

    def count(*arguments: object) -> dict[str, pl.DataFrame]:
        calls["computed"] += 1
        return rows_of(*arguments)

    def fail_once(self: PartitionContext, *arguments: object) -> TableWritten:
        calls["written"] += 1
        if calls["written"] == 1:
            raise WarehouseError("s3") from TimeoutError()
        return write(self, *arguments)

    monkeypatch.setattr(compute_module, "_rows", count)
    monkeypatch.setattr(PartitionContext, "write", fail_once)
    monkeypatch.setattr(compute_module, "_RETRY_SECONDS", 0)
    assert [table.table for table in computed(study, warehouse, "mask_samples", "dense")] == ["mask_samples"]
    assert calls == {"computed": 1, "written": 2}


def test_the_traces_of_a_shared_pass_are_kept_while_their_write_is_repeated(
    monkeypatch: pytest.MonkeyPatch, study: StudyFile, warehouse: Path
) -> None:
    traced, whole, write = list[list[str]](), TraceSession.trace_all, PartitionContext.write
    refused = {RECIPES[1]}

    def record(session: TraceSession, variants: dict[str, object], progress: object) -> object:
        traced.append(list(variants))
        return whole(session, variants, progress)

    def fail_once(self: PartitionContext, *arguments: object) -> TableWritten:
        if self.variant_recipe.name in refused:
            refused.clear()
            raise WarehouseError("s3") from TimeoutError()
        return write(self, *arguments)

    before = rows(warehouse)
    monkeypatch.setattr(TraceSession, "trace_all", record)
    monkeypatch.setattr(PartitionContext, "write", fail_once)
    monkeypatch.setattr(compute_module, "_RETRY_SECONDS", 0)
    results = computed(study, warehouse, "traces", *RECIPES)
    assert [result.recipe for result in results if result.table == "generations"] == RECIPES
    assert traced == [RECIPES]
    assert not refused
    after = rows(warehouse)
    assert all(after[name].equals(before[name]) for name in before)


# -- memory -----------------------------------------------------------------------------------------------------------


def test_a_study_with_decoding_samples_texts(tmp_path: Path, study: StudyFile) -> None:
    study.write(decoding={"samples": 2, "top_p": 1.0})
    session, root = ModelSession(), tmp_path / "warehouse"
    computed(study, root, "models", session=session)
    results = computed(study, root, ("variants", "sampling"), "dense", session=session)
    texts, steps = (pl.read_parquet(result.path) for result in results[-2:])
    assert texts["token_ids"].list.len().max() <= 4
    # Both models read the dense texts and the variant's.
    assert (texts.height, steps.height) == (4, 2 * texts["token_ids"].list.len().sum())
    assert (steps["flip_probability"] == 0).all()


def test_a_task_that_does_not_fit_on_a_gpu_is_retried_with_half_the_batch_and_then_refused(
    tmp_path: Path, study: StudyFile
) -> None:
    study.write(device="cuda:0", texts=[{"id": "help", "source": "embedded", "context": 64, "max_tokens": 1024}])
    root = tmp_path / "warehouse"
    with cuda_devices(1 << 30) as devices:
        session = ModelSession()
        computed(study, root, "models", session=session)
        computed(study, root, "variants", "dense", session=session)
        loaded = devices.peak[0] = devices.allocated[0]
        [whole] = computed(study, root, "texts", "dense", session=session)
        assert "memory" not in whole.details
        needed = devices.peak[0] - loaded
        rows = pl.read_parquet(whole.path)
        Path(whole.path).unlink()
        session.release()
        devices.limits[0] = loaded + needed * 3 // 4
        [halved] = computed(study, root, "texts", "dense", session=session)
        assert halved.details["memory"] == "too small at first; half the batch size was enough"
        again = pl.read_parquet(halved.path)
        assert again.height == rows.height == 1024
        [after_loss] = computed(study, root, "texts", "dense", session=session, halves_batches=True)
        assert after_loss.details["memory"] == "its process was lost at first; half the batch size was enough"
        assert again["log_p_target_dense"].to_numpy() == pytest.approx(rows["log_p_target_dense"].to_numpy(), rel=1e-4)
        Path(halved.path).unlink()
        session.release()
        devices.limits[0] = loaded + needed // 4
        with pytest.raises(ComputationError, match="out of memory, with half"):
            computed(study, root, "texts", "dense", session=session)
        assert not Path(halved.path).exists()


def test_variants_that_do_not_fit_together_are_computed_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, study: StudyFile, warehouse: Path
) -> None:
    whole, tried = TraceSession.trace_all, list[list[str]]()

    def fits_one(session: TraceSession, variants: dict[str, object], progress: object) -> object:
        tried.append(list(variants))
        if len(variants) > 1:
            raise MemoryError
        return whole(session, variants, progress)

    before = rows(warehouse)
    monkeypatch.setattr(TraceSession, "trace_all", fits_one)
    results = computed(study, warehouse, "traces", *RECIPES)
    assert tried[0] == RECIPES
    assert [result.recipe for result in results if result.table == "generations"] == RECIPES
    after = rows(warehouse)
    assert all(after[name].equals(before[name]) for name in before)


def test_a_panic_of_one_variant_ends_its_partition_only(
    monkeypatch: pytest.MonkeyPatch, study: StudyFile, warehouse: Path
) -> None:
    whole = TraceSession.trace_all

    def panics(session: TraceSession, variants: dict[str, object], progress: object) -> object:
        if RECIPES[1] in variants:
            raise PanicException("index out of bounds")
        return whole(session, variants, progress)

    monkeypatch.setattr(TraceSession, "trace_all", panics)
    events = events_of(study, warehouse, *((recipe, "traces") for recipe in RECIPES[:3]))
    [failed] = [event for event in events if isinstance(event, StepFailed)]
    assert (failed.recipe, failed.message) == (RECIPES[1], "PanicException: index out of bounds")
    assert {event.recipe for event in events if isinstance(event, TableWritten)} == {RECIPES[0], RECIPES[2]}


def test_dense_traces_that_fail_end_the_traces_of_variants_only(
    monkeypatch: pytest.MonkeyPatch, study: StudyFile, warehouse: Path
) -> None:
    def panics(*_: object) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(TraceSession, "__init__", panics)
    steps = *((recipe, "traces") for recipe in RECIPES[:2]), (RECIPES[2], "mask_samples")
    events = events_of(study, warehouse, *steps)
    assert [event.recipe for event in events if isinstance(event, StepFailed)] == RECIPES[:2]
    assert [event.table for event in events if isinstance(event, TableWritten)] == ["mask_samples"]
    assert isinstance(events[0], StepBegun)


def test_a_model_that_is_gone_does_not_end_the_next_one(study: StudyFile, warehouse: Path) -> None:
    gone = {"name": "gone", "source": str(study.path.parent / "gone")}
    study.write(models=[gone, {"name": "tiny-a", "source": str(study.model)}])
    request = StudyRequest(str(study.path))
    tasks = [ModelTask(request, str(warehouse), name, ((None, "models"),)) for name in ("gone", "tiny-a")]
    engine = EngineResource(warehouse=WarehouseResource(root=str(warehouse)))
    events = [event for _, event in engine.events(tasks, SILENT, print) if not isinstance(event, StepBegun)]
    failed, written = events
    assert isinstance(failed, StepFailed)
    assert isinstance(failed.error, InputError)
    assert (written.recipe, written.table) == (None, "models")


def test_speed_is_measured_here_and_of_what_the_cluster_has_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, away = list[ModelTask](), list[ModelTask]()

    def on_ray(tasks: list[ModelTask], *_: object) -> Iterator[tuple[ModelTask, Event]]:
        away.extend(tasks)
        yield tasks[0], TableWritten("a", "variants", "variants")
        yield tasks[0], StepFailed.of("b", "variants", InputError("no"))

    monkeypatch.setattr("prunescope.assets.execution.ray.tasks.compute_on_ray", on_ray)
    monkeypatch.setattr("prunescope.assets.defs.table_assets.compute", lambda task, _: here.append(task) or ())
    steps = [(recipe, step) for recipe in ("a", "b") for step in ("variants", "speed")]
    task = ModelTask(StudyRequest("demo"), str(tmp_path), "m", tuple(steps))
    engine = EngineResource(warehouse=WarehouseResource(root=str(tmp_path)), address="auto")
    assert [event.recipe for _, event in engine.events([task], SILENT, print)] == ["a", "b"]
    assert [part.steps for part in away] == [(("a", "variants"), ("b", "variants"))]
    assert [part.steps for part in here] == [(("a", "speed"),)]


def test_the_memory_error_of_every_library_is_recognised() -> None:
    cause = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    error = InputError("transformers cannot load it")
    error.__cause__ = cause
    assert is_out_of_memory(error)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


# -- log lines --------------------------------------------------------------------------------------------------------


def test_a_log_gets_its_first_line_at_once_and_then_one_every_five_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("prunescope.assets.defs.log_progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    lines = LogListener(logging.getLogger("lines"), "m@wanda-50 texts")
    lines.start("texts wanda-50", 60)
    for _ in range(30):
        now[0] += 0.5
        lines.advance(2)
    lines.done()
    lines.start("short", 1)
    lines.advance()
    lines.done()
    assert caplog.messages == [
        "m@wanda-50 texts: texts wanda-50: 0 of 60",
        "m@wanda-50 texts: texts wanda-50: 20 of 60",
        "m@wanda-50 texts: texts wanda-50: 40 of 60",
        "m@wanda-50 texts: texts wanda-50: 60 of 60",
        "m@wanda-50 texts: texts wanda-50: done in 15 s",
    ]
