"""Engines under Dagster: retries, too little memory, and the lines of a log."""

import errno
import gc
import os
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from dagster import AssetKey, DagsterEventType

from prunescope.assets.definitions import defs
from prunescope.assets.defs.partitions import MODELS, RECIPES, register, variant_key
from prunescope.assets.execution.error_transport import WorkerLostError, is_out_of_memory, is_transient
from prunescope.assets.execution.local.client import stop_worker
from prunescope.assets.execution.model_cache import ModelCache, _still_valid
from prunescope.assets.execution.step_functions import compute
from prunescope.assets.execution.task import RESULT, TASK, ComputeTask, TaskResult
from prunescope.assets.instance.instance import open_instance
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.log_progress import LogProgress
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.quality.checks import Violation
from tests.assets.tiny_study import WARM, StudyFile, workers_of
from tests.cuda_device import cuda_devices
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.timeout(900)
LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="processes and memory are seen as on Linux")


def test_tasks_and_results_survive_json() -> None:
    part = ComputeTask(
        "traces", StudyRequest("demo", ("a=b",), ("c",), True), "s3://b/p", "a", "c", ("d", "e"), halve_batch=True
    )
    assert TASK.validate_json(TASK.dump_json(part)) == part
    report = TaskResult(
        "speed", violations=(Violation("x", 2, "row 1"),), orphaned=("models",), details={"a": 1.5, "b": "c"}
    )
    assert RESULT.validate_json(RESULT.dump_json(report)) == report


# -- retries ----------------------------------------------------------------------------------------------------------


@LINUX
def test_a_lost_worker_is_replaced_and_its_task_computed_again(study: StudyFile, warehouse: Path) -> None:
    killed = threading.Event()

    def kill_the_first() -> None:
        while not (started := workers_of(warehouse)):
            killed.wait(0.001)
        os.kill(started.pop(), signal.SIGKILL)
        killed.set()

    config = {
        "resources": {
            "study": {"config": {"study": str(study.path)}},
            "warehouse": {"config": {"root": str(warehouse)}},
        }
    }
    killer = threading.Thread(target=kill_the_first)
    killer.start()
    with open_instance(warehouse) as instance:
        register(instance, MODELS, ["tiny-a"])
        register(instance, RECIPES, ["dense"])
        # The tiny study measures no speed, so nothing has to be loaded.
        done = defs.resolve_job_def("variant_tables").execute_in_process(
            instance=instance,
            partition_key=variant_key("tiny-a", "dense"),
            asset_selection=[AssetKey("speed")],
            run_config=config,
        )
    killer.join()
    stop_worker(warehouse)
    assert done.success
    assert killed.is_set()
    told = [event.event_type for event in done.all_events]
    assert told.count(DagsterEventType.STEP_UP_FOR_RETRY) == 1
    assert told.count(DagsterEventType.STEP_RESTARTED) == 1


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
    assert not any(map(is_transient, (InputError(), ComputationError(), MemoryError(), OSError(28, "disk full"))))


@pytest.mark.parametrize(("error", "halve_batch"), [(TimeoutError("s3"), False), (WorkerLostError("killed"), True)])
def test_a_task_whose_worker_was_lost_is_retried_with_half_the_batch(
    monkeypatch: pytest.MonkeyPatch, study: StudyFile, tmp_path: Path, error: Exception, halve_batch: bool
) -> None:
    asked: list[ComputeTask] = []

    def answer(part: ComputeTask, *_: object) -> Iterator[TaskResult]:
        asked.append(part)
        if len(asked) == 1:
            raise error
        yield TaskResult("speed", is_skipped=True)

    monkeypatch.setattr("prunescope.assets.defs.engine_resource.compute_in_worker", answer)
    monkeypatch.setattr("prunescope.assets.defs.engine_resource._RETRY_SECONDS", 0)
    resources = {"study": {"study": str(study.path)}, "warehouse": {"root": str(tmp_path)}}
    with open_instance(tmp_path) as instance:
        register(instance, MODELS, ["tiny-a"])
        register(instance, RECIPES, ["dense"])
        done = defs.resolve_job_def("variant_tables").execute_in_process(
            instance=instance,
            partition_key=variant_key("tiny-a", "dense"),
            asset_selection=[AssetKey("speed")],
            run_config={"resources": {name: {"config": config} for name, config in resources.items()}},
        )
    assert done.success
    assert [part.halve_batch for part in asked] == [False, halve_batch]


# -- memory -----------------------------------------------------------------------------------------------------------


def _computed_with_room(part: ComputeTask, more: int | None, variables: dict[str, str]) -> list[TaskResult]:
    """Compute a part while its process can map only so many bytes more, as on a small machine."""
    os.environ.update(variables)
    before = resource.getrlimit(resource.RLIMIT_AS)
    if more is not None:
        gc.collect()
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + more, before[1]))
    try:
        return list(compute(part, ModelCache()))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_study_with_decoding_samples_texts(tmp_path: Path, study: StudyFile) -> None:
    study.write(decoding={"samples": 2, "top_p": 1.0})
    cache, request, root = ModelCache(), StudyRequest(str(study.path)), str(tmp_path / "warehouse")
    results = [
        result
        for step, recipe in (("models", None), ("variants", "dense"), ("sampling", "dense"))
        for result in compute(ComputeTask(step, request, root, "tiny-a", recipe), cache)
    ]
    texts, steps = (pl.read_parquet(result.path) for result in results[-2:])
    assert texts["token_ids"].list.len().max() <= 4
    # Both models read the dense texts and the variant's.
    assert (texts.height, steps.height) == (4, 2 * texts["token_ids"].list.len().sum())
    assert (steps["flip_probability"] == 0).all()


def test_a_task_that_does_not_fit_on_a_gpu_is_retried_with_half_the_batch_and_then_refused(
    tmp_path: Path, study: StudyFile
) -> None:
    study.write(device="cuda:0", texts=[{"id": "help", "source": "embedded", "context": 64, "max_tokens": 1024}])
    request, root = StudyRequest(str(study.path)), str(tmp_path / "warehouse")
    with cuda_devices(1 << 30) as devices:
        cache = ModelCache()

        def computed(step: str, recipe: str | None = None) -> TaskResult:
            (result,) = compute(ComputeTask(step, request, root, "tiny-a", recipe), cache)
            return result

        computed("models")
        computed("variants", "dense")
        loaded = devices.peak[0] = devices.allocated[0]
        whole = computed("texts", "dense")
        assert "memory" not in whole.details
        needed = devices.peak[0] - loaded
        rows = pl.read_parquet(whole.path)
        Path(whole.path).unlink()
        cache = ModelCache()
        devices.limits[0] = loaded + needed * 3 // 4
        halved = computed("texts", "dense")
        assert halved.details["memory"] == "too small at first; half the batch size was enough"
        again = pl.read_parquet(halved.path)
        assert again.height == rows.height == 1024
        assert again["log_p_target_dense"].to_numpy() == pytest.approx(rows["log_p_target_dense"].to_numpy(), rel=1e-4)
        Path(halved.path).unlink()
        cache = ModelCache()
        devices.limits[0] = loaded + needed // 4
        with pytest.raises(ComputationError, match="out of memory with"):
            computed("texts", "dense")
        assert not Path(halved.path).exists()


def test_variants_that_do_not_fit_together_are_computed_alone_in_the_next_try() -> None:
    cache = ModelCache()
    with pytest.raises(MemoryError), cache._batch("a", ["b", "c"], "trace"):
        raise MemoryError
    with cache.halved():
        for recipe in ("a", "b", "c"):
            with cache._batch(recipe, ["b", "c", "d"], "trace") as names:
                assert names == [recipe, "d"][: 1 + (recipe == "d")]
    with cache._batch("a", ["d"], "trace") as names:
        assert names == ["a", "d"]


@LINUX
@pytest.mark.exhaustive  # the test above, with the memory of a process
def test_a_task_that_does_not_fit_is_retried_with_half_the_batch_and_then_refused(
    tmp_path: Path, study: StudyFile
) -> None:
    # A wide MLP: 2,048 tokens at once take some 128 MiB a tensor, 1,024 half of that.
    wide = save_tiny(tmp_path / "wide", hidden_size=16, intermediate_size=1 << 14, num_hidden_layers=1)
    study.write(
        models=[{"name": "wide", "source": str(wide)}],
        texts=[{"id": "help", "source": "embedded", "context": 128, "max_tokens": 2048}],
    )
    root = str(tmp_path / "warehouse")
    # A process of its own: memory that other tests free meanwhile would count as room.
    with ProcessPoolExecutor(1, mp_context=WARM) as process:

        def computed(
            step: str, recipe: str | None = None, *, room: int | None = None, **options: bool
        ) -> list[TaskResult]:
            part = ComputeTask(step, StudyRequest(str(study.path)), root, "wide", recipe, **options)
            return process.submit(_computed_with_room, part, room, dict(os.environ)).result()

        assert computed("models") + computed("variants", "dense")
        (whole,) = computed("texts", "dense")
        rows = pl.read_parquet(whole.path)
        Path(whole.path).unlink()
        (halved,) = computed("texts", "dense", room=320 << 20)
        assert "memory" not in whole.details
        assert halved.details["memory"] == "too small at first; half the batch size was enough"
        (after_loss,) = computed("texts", "dense", halve_batch=True)
        assert after_loss.details["memory"] == "its worker was lost at first; half the batch size was enough"
        again = pl.read_parquet(halved.path)
        assert again.height == rows.height == 2048
        assert again["log_p_target_dense"].to_numpy() == pytest.approx(rows["log_p_target_dense"].to_numpy(), rel=1e-4)
        Path(halved.path).unlink()
        with pytest.raises(ComputationError, match="out of memory with 2048 tokens at once and with 1024; .*allocate"):
            computed("texts", "dense", room=80 << 20)
        assert not Path(halved.path).exists()


def test_the_memory_error_of_every_library_is_recognised() -> None:
    cause = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    error = InputError("transformers cannot load it")
    error.__cause__ = cause
    assert is_out_of_memory(error)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_variant_pruned_in_another_run_is_not_used_for_a_later_version() -> None:
    subject = SimpleNamespace(variant_recipe=SimpleNamespace(name="a"), variant_file="_variants/m/a/new")
    waiting = {"a": ("_variants/m/a/old", "rows", 1.0), "b": ("_variants/m/b/x", "rows", 1.0), "c": ("", "", 0.0)}
    assert set(_still_valid(waiting, subject, ["b"])) == {"b"}
    subject.variant_file = "_variants/m/a/old"
    assert set(_still_valid(waiting, subject, ["b"])) == {"a", "b"}


# -- log lines --------------------------------------------------------------------------------------------------------


def test_a_log_gets_its_first_line_at_once_and_then_one_every_five_seconds() -> None:
    now, said = [0.0], list[str]()
    lines = LogProgress(said.append, "m@wanda-50 texts", lambda: now[0])
    lines.start("texts wanda-50", 60)
    for _ in range(30):
        now[0] += 0.5
        lines.advance(2)
    lines.done()
    lines.start("short", 1)
    lines.advance()
    lines.done()
    assert said == [
        "m@wanda-50 texts: texts wanda-50: 0 of 60",
        "m@wanda-50 texts: texts wanda-50: 20 of 60",
        "m@wanda-50 texts: texts wanda-50: 40 of 60",
        "m@wanda-50 texts: texts wanda-50: 60 of 60",
        "m@wanda-50 texts: texts wanda-50: done in 15 s",
    ]
