"""A study on a Ray cluster: the same tables as in one process, also when a machine dies, and clear refusals.

The cluster is a real one, of two nodes on this machine.
"""

import os
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from dagster import DagsterInstance

from prunescope.assets.defs.partitions import MODELS, register
from prunescope.assets.execution.ray.cluster import connected
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.ray.pool import WorkerSlot, _marker_file, _Pool, chunks, compute_on_ray, worker_slots
from prunescope.assets.execution.ray.worker import Worker, WorkerConfig, versions
from prunescope.assets.execution.task import ModelTask, StepFailed
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.outcome import Failure, RunResult
from prunescope.assets.runs.start import run_study
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.tiny_study import StudyFile, materialized, pages, rows, without_answers
from tests.object_store import SECRET, s3_server


def cluster(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test of the whole path over two nodes, whose parts are proved above."""
    return pytest.mark.ray(pytest.mark.integration(pytest.mark.exhaustive(test)))


class Heard:
    """A listener that records all events."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, task: str, total: int, tokens: int = 0) -> None: ...

    def advance(self, amount: int = 1) -> None: ...

    def done(self) -> None: ...

    def waiting(self, holder: str) -> None: ...

    def planned(self, partitions: int) -> None: ...

    def begins(self, name: str, step: str) -> None: ...

    def computed(self, name: str, seconds: float) -> None: ...

    def failed(self, failure: Failure) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


def node(name: str, cpus: float, gpus: float = 0, *, alive: bool = True) -> dict[str, object]:
    has = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return {"NodeID": name, "Alive": alive, "Resources": has}


def test_a_worker_takes_a_whole_machine_without_gpus_and_its_share_of_one_with_them() -> None:
    place = RayClusterConfig("auto")
    machines = [node("a", 16), node("b", 4), node("head", 0), node("gone", 64, alive=False)]
    assert worker_slots(machines, place) == [WorkerSlot("a", 16, 0), WorkerSlot("b", 4, 0)]
    assert worker_slots(machines, RayClusterConfig("auto", cpus_per_task=6)) == [WorkerSlot("a", 6, 0)] * 2
    machines.append(node("c", 96, 8))
    assert worker_slots(machines, place) == [WorkerSlot("c", 12, 1)] * 8
    assert worker_slots(machines, RayClusterConfig("auto", gpus_per_task=4)) == [WorkerSlot("c", 48, 4)] * 2
    assert len(worker_slots([node("d", 8, 1)], RayClusterConfig("auto", gpus_per_task=0.25))) == 4


def test_a_request_larger_than_any_machine_is_refused_with_the_sizes() -> None:
    with pytest.raises(InputError, match=r"no machine .* 1 CPUs and 9 GPUs .*96 CPUs, 8 GPUs.*--gpus-per-task"):
        worker_slots([node("c", 96, 8)], RayClusterConfig("auto", gpus_per_task=9))


def test_a_worker_takes_whole_gpus_or_a_part_of_one() -> None:
    assert [RayClusterConfig("auto", gpus).gpus_per_task for gpus in (None, 0, 0.25, 1, 2)] == [None, 0, 0.25, 1, 2]
    with pytest.raises(InputError, match=r"--gpus-per-task 1\.5: .*; give a whole number, or a part such as 0\.5"):
        RayClusterConfig("auto", gpus_per_task=1.5)


def test_variants_are_divided_among_workers_in_groups_of_four_at_most_and_a_search_is_a_task_of_its_own() -> None:
    names = [f"r{number}" for number in range(11)]
    own = ((None, "models"), (None, "search"))
    steps = (*own, *((name, step) for name in names for step in ("variants", "traces")))
    task = ModelTask(StudyRequest("demo"), "w", "m", steps)
    for workers, sizes in ((1, [4, 4, 3]), (2, [4, 4, 3]), (4, [2, 2, 2, 2, 2, 1]), (20, [1] * 11)):
        *groups, search = chunks(task, workers)
        assert [len(group.steps) for group in groups] == [2 * size for size in sizes]
        assert [step for group in groups for step in group.steps] == list(steps[2:])
        assert search.steps == ((None, "search"),)
    assert list(chunks(replace(task, steps=own), 2)) == [search]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_a_server_is_refused_in_one_line(
    scheme: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'prunescope[ray]'")
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray would wait for minutes"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
    with (
        pytest.raises(InputError, match=rf"--ray {address}: no Ray cluster .*refused\); start one with `ray start"),
        connected(address),
    ):
        pass
    with pytest.raises(InputError, match="no port is given"), connected("nowhere"):
        pass
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("failures", [2, 3])
def test_a_remote_cluster_whose_server_fails_to_start_is_tried_three_times(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'prunescope[ray]'")
    left = ["Initialization failure from server:\nTraceback"] * failures

    def init(*_: object, **__: object) -> SimpleNamespace:
        if left:
            raise ConnectionAbortedError(left.pop())
        return SimpleNamespace(disconnect=lambda: None)

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = connected(f"ray://127.0.0.1:{server.getsockname()[1]}")
        if failures < 3:
            with far:
                assert not left
        else:
            with pytest.raises(InputError, match=r"no Ray cluster .*\(Initialization failure"), far:
                pass


@pytest.fixture
def given(tmp_path: Path) -> WorkerConfig:
    return WorkerConfig({}, versions(), str(tmp_path), "", socket.gethostname())


def test_a_machine_with_other_code_or_another_folder_is_refused_before_it_computes(
    tmp_path: Path, given: WorkerConfig
) -> None:
    assert Worker(given).refusal() is None
    other = Worker(replace(given, versions=versions() | {"torch": "1.0"}, host="the-driver")).refusal()
    assert isinstance(other, InputError)
    assert f"not 1.0; install the same on every machine (on {socket.gethostname()})" in str(other)
    unseen = Worker(replace(given, marker=str(tmp_path / "elsewhere"))).refusal()
    assert f"the folder {tmp_path} is not the one that the driver writes to" in str(unseen)


def test_an_error_of_a_whole_task_fails_each_of_its_partitions_with_its_type_machine_and_traceback(
    tmp_path: Path, given: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'prunescope[ray]'")
    context = SimpleNamespace(was_current_actor_reconstructed=False)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    steps = (("a", "variants"), ("b", "variants"), ("b", "traces"))
    task = ModelTask(StudyRequest("no-such-study"), str(tmp_path), "m", steps)
    events = Worker(replace(given, host="the-driver")).compute(task)
    assert [(event.recipe, event.step) for event in events] == [("a", "variants"), ("b", "variants")]
    for event in events:
        assert isinstance(event, StepFailed)
        assert isinstance(event.error, InputError)
        assert "no-such-study" in event.message
        assert event.message.endswith(f"(on {socket.gethostname()})")
        assert "Traceback" in event.traceback


def test_the_marker_of_a_killed_driver_is_removed_and_that_of_a_running_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_gone(*_: object) -> None:
        raise ProcessLookupError

    with _marker_file(str(tmp_path)) as marker:
        assert not Store(tmp_path).clean_temporaries()
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", is_gone)
            assert Store(tmp_path).clean_temporaries() == [Path(marker)]
        Path(marker).touch()


def test_a_task_that_another_run_lost_before_is_halved_from_the_start(
    tmp_path: Path, given: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'prunescope[ray]'")
    halved, context = list[bool](), SimpleNamespace(was_current_actor_reconstructed=False)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(
        "prunescope.assets.execution.ray.worker.compute", lambda task, _: halved.append(task.halves_batches) or ()
    )
    task = ModelTask(StudyRequest("demo"), str(tmp_path), "m", ((None, "models"),))
    for is_halved, is_restarted in ((False, False), (True, False), (False, True)):
        context.was_current_actor_reconstructed = is_restarted
        Worker(given).compute(replace(task, halves_batches=is_halved))
    assert halved == [False, True, True]


@dataclass
class Machines:
    """Two nodes of one CPU each.

    Attributes:
        address: of the head.
        far: address of the same cluster from a machine outside of it.
        doomed: the node that will be killed.
        sessions: Ray's logs.
    """

    address: str
    far: str
    doomed: str
    sessions: Path

    def __post_init__(self) -> None:
        self.kill = lambda: None


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    pytest.importorskip("ray", reason="needs Ray: pip install 'prunescope[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PRUNESCOPE_CACHE", str(tmp_path_factory.mktemp("worker-cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        from ray.cluster_utils import Cluster

        little = {"num_cpus": 1, "object_store_memory": 80 << 20}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        head = little | {"include_dashboard": False, "ray_client_server_port": port}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # logs of the server at `far`, which Ray leaves open
            cluster = Cluster(initialize_head=True, head_node_args=head)
        second = cluster.add_node(**little)
        far = f"ray://{cluster.head_node.node_ip_address}:{port}"
        found = Machines(cluster.address, far, second.node_id, Path(second.get_session_dir_path()))

        def kill() -> None:
            """Kill a node as a power cut does: its processes stop at once."""
            raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
            for process in raylet.children(recursive=True):
                process.kill()
            cluster.remove_node(second, allow_graceful=False)

        found.kill = kill
        yield found
        cluster.shutdown()


@dataclass
class Ran:
    """A study on two machines, one of which died."""

    outcome: RunResult
    notes: list[str]
    copy: Path
    asked_for: list[str]


@pytest.fixture(scope="module")
def ran(machines: Machines, tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, cache: Path) -> Iterator[Ran]:
    folder, listener, lost = tmp_path_factory.mktemp("ray"), Heard(), []
    assign = _Pool._assign

    def assign_and_die(pool: _Pool) -> None:
        assign(pool)
        for worker, task in list(pool._running.values()):
            names = [recipe for recipe, _ in task.steps if recipe is not None] if task else []
            if worker.slot.node == machines.doomed and names and not lost:
                lost.extend(names)
                machines.kill()

    with pytest.MonkeyPatch.context() as patch, s3_server() as store:
        for name, value in store.items():
            patch.setenv(name, value)
        patch.setenv("PRUNESCOPE_CACHE", str(cache))
        patch.delenv("DAGSTER_HOME", raising=False)
        without_answers(patch)
        patch.setattr(_Pool, "_assign", assign_and_die)
        root = Store("s3://cluster/study").root
        root.fs.mkdir("cluster")
        study = StudyFile(folder / "tiny.yaml", tiny_folder)
        outcome = run_study(
            StudyRequest(str(study.path)), root, cache, listener, cluster=RayClusterConfig(machines.address)
        )
        root.fs.get(root.path, str(folder / "copy"), recursive=True)
        yield Ran(outcome, listener.notes, folder / "copy", lost)


@cluster
def test_a_study_that_loses_a_machine_has_the_tables_of_a_single_process(ran: Ran, computed_once: Path) -> None:
    assert not ran.outcome.failures
    assert len(ran.outcome.computed) == 6, "the model, four variants, and the answers"
    assert ran.asked_for, "the machine died while it was at work"
    alone, found = rows(computed_once), rows(ran.copy)
    assert found.keys() == {name for name in alone if not name.startswith("paper_reference")}
    for name, table in found.items():
        assert table.equals(alone[name]), name
        if not name.startswith("variants/"):  # the one table with timings
            assert pages(ran.copy / name) == pages(computed_once / name), name


@cluster
def test_no_secret_reaches_a_log_of_ray_or_the_warehouse_and_no_worker_stays(ran: Ran, machines: Machines) -> None:
    logs = [path for path in machines.sessions.rglob("*") if path.is_file()]
    assert len(logs) > 5
    for path in [*logs, *ran.copy.rglob("*.*")]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert not [each.name() for each in psutil.process_iter() if each.name().startswith("ray::Worker")]


@cluster
def test_a_run_of_the_ui_computes_its_partition_on_a_remote_cluster(
    ran: Ran, machines: Machines, study: StudyFile, tmp_path: Path
) -> None:
    def run(model: str) -> object:
        engine = {"kind": "ray", "ray": {"address": machines.far}}
        resources = {"study": {"study": str(study.path)}, "warehouse": {"root": str(tmp_path)}, "engine": engine}
        config = {"resources": {name: {"config": config} for name, config in resources.items()}}
        return materialized(instance, config, ["models"], model)

    with DagsterInstance.ephemeral() as instance:
        register(instance, MODELS, ["tiny-a", "nonsense"])
        assert all(check.passed for check in run("tiny-a").get_asset_check_evaluations())
        (failed,) = [event for event in run("nonsense").all_events if event.is_step_failure]
        assert "InputError" in failed.step_failure_data.error.to_string()


@cluster
def test_a_request_that_no_machine_can_meet_is_refused_at_once(ran: Ran, machines: Machines, tmp_path: Path) -> None:
    task = ModelTask(StudyRequest("demo"), str(tmp_path), "m", ((None, "models"),))
    place = RayClusterConfig(machines.address, gpus_per_task=4)
    with pytest.raises(InputError, match="no machine of the Ray cluster has 1 CPUs and 4 GPUs"):
        list(compute_on_ray([task], place, print))
    assert not list(tmp_path.glob(".prunescope-tmp*"))


@cluster
def test_a_killed_worker_is_started_again_and_its_tables_are_those_of_a_single_process(
    ran: Ran, machines: Machines, study: StudyFile, tmp_path: Path, computed_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, assign, warehouse = list[int](), _Pool._assign, tmp_path / "warehouse"

    def assign_and_kill(pool: _Pool) -> None:
        assign(pool)
        if not killed and any(task and task.steps[0][0] is not None for _, task in pool._running.values()):
            for process in psutil.process_iter():
                if process.name().startswith("ray::Worker"):
                    process.kill()
                    killed.append(process.pid)

    without_answers(monkeypatch)
    monkeypatch.setattr(_Pool, "_assign", assign_and_kill)
    cache = Path(os.environ["PRUNESCOPE_CACHE"])
    place = RayClusterConfig(machines.address)
    outcome = run_study(StudyRequest(str(study.path)), str(warehouse), cache, Heard(), cluster=place)
    assert killed
    assert not outcome.failures
    alone, found = rows(computed_once), rows(warehouse)
    assert found.keys() == {name for name in alone if not name.startswith("paper_reference")}
    assert all(table.equals(alone[name]) for name, table in found.items())
