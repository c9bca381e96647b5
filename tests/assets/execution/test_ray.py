"""A study on a Ray cluster: the same tables as in one process, also when a machine dies, and clear refusals.

The cluster is a real one, of two nodes on this machine.
"""

import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from dagster import DagsterInstance

from prunescope.assets.execution.ray import tasks as ray_tasks
from prunescope.assets.execution.ray.cluster import connected
from prunescope.assets.execution.ray.tasks import (
    _marker_file,
    compute_on_ray,
    compute_part,
    groups,
    room,
    versions,
)
from prunescope.assets.execution.task import Event, ModelTask, StepFailed, TableWritten
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.dagster_job import run_config
from prunescope.assets.runs.start import run_study
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.tiny_study import Heard, StudyFile, materialized, require_same_tables, without_answers
from tests.object_store import SECRET, s3_server


def cluster(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test of the whole path over two nodes, whose parts are proved above."""
    return pytest.mark.ray(pytest.mark.integration(pytest.mark.exhaustive(test)))


def library() -> Any:
    return pytest.importorskip("ray", reason="needs Ray: pip install 'prunescope[ray]'")


def node(cpus: float, gpus: float = 0, *, alive: bool = True) -> dict[str, object]:
    return {"Alive": alive, "Resources": {"CPU": cpus} | ({"GPU": gpus} if gpus else {})}


PLAIN = [node(16), node(4), node(0), node(64, alive=False)]
LARGE = node(96, 8)


def test_a_task_takes_the_largest_machine_without_gpus_and_its_share_of_one_with_them() -> None:
    for machines, asked, wanted in (
        (PLAIN, {}, (16, 0, 1)),
        ([*PLAIN, node(16)], {}, (16, 0, 2)),
        (PLAIN, {"cpus": 6}, (6, 0, 2)),
        (PLAIN, {"cpus": 4}, (4, 0, 5)),
        ([*PLAIN, LARGE], {}, (12, 1, 8)),
        ([*PLAIN, LARGE, node(32, 8)], {}, (4, 1, 16)),
        ([*PLAIN, LARGE], {"gpus": 4}, (48, 4, 2)),
        ([*PLAIN, LARGE], {"gpus": 0}, (96, 0, 1)),
        ([LARGE], {"gpus": 1}, (12, 1, 8)),
        ([node(8, 1)], {"gpus": 0.25}, (2, 0.25, 4)),
    ):
        assert room(machines, **asked) == wanted, (machines, asked)
    for machines, gpus, refusal in (
        ([LARGE], 9, r"no machine .* 1 CPUs and 9 GPUs .*96 CPUs, 8 GPUs.*--gpus-per-task"),
        ([node(96, 8, alive=False)], None, r"no machine .* 1 CPUs .*it has no machine"),
        ([LARGE], 1.5, r"--gpus-per-task 1\.5: .*; give a whole number, or a part such as 0\.5"),
    ):
        with pytest.raises(InputError, match=refusal):
            room(machines, gpus)


def whole(recipes: int, model: str = "m") -> ModelTask:
    names = [f"r{number}" for number in range(recipes)]
    steps = *((None, step) for step in ("models", "search")), *((name, "variants") for name in names)
    return ModelTask(StudyRequest("demo"), "w", model, steps)


def test_variants_are_divided_evenly_in_groups_of_eight_at_most_and_the_steps_of_the_model_from_them() -> None:
    for recipes, at_once, sizes in (
        (11, 1, [6, 5]),
        (11, 2, [6, 5]),
        (11, 4, [3, 3, 3, 2]),
        (11, 20, [1] * 11),
        (24, 2, [6] * 4),
        (0, 2, []),
    ):
        task = whole(recipes)
        *parts, own = groups(task, at_once=at_once)
        assert [len(part.steps) for part in parts] == sizes
        assert [step for part in parts for step in part.steps] == list(task.steps[2:])
        assert own.steps == task.steps[:2]


@dataclass
class Answering:
    """A cluster that answers each part with one event per step; `loses` and `fails` choose parts that do not."""

    loses: Callable[[ModelTask], bool] = lambda _: False
    fails: Callable[[ModelTask], bool] = lambda _: False
    sent: list[ModelTask] = field(default_factory=list)
    nodes: list[dict[str, object]] = field(default_factory=lambda: [node(1), node(1)])
    told: list[str] = field(default_factory=list)
    # Looks at the cluster before the first answer, in which it has no machine with room.
    absent: int = 0

    def wait(self, references: list[int], **_: object) -> tuple[list[int], list[int]]:
        self.absent -= 1
        if self.absent >= 0:
            self.nodes = [node(0)]
            return [], references
        return references[:1], references[1:]

    def compute(self, *tasks: ModelTask) -> list[tuple[str, Event]]:
        ray = library()

        def get(reference: int) -> list[Event]:
            part = self.sent[reference]
            if self.loses(part):
                raise ray.exceptions.WorkerCrashedError
            if self.fails(part):
                return part.failures(InputError("no"))
            return [TableWritten(recipe, step, step) for recipe, step in part.steps]

        def start(part: ModelTask, *_: object) -> int:
            self.sent.append(part)
            return len(self.sent) - 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray_tasks, "connected", lambda _: nullcontext())
            patch.setattr(ray, "nodes", lambda: self.nodes)
            patch.setattr(ray, "remote", lambda **_: lambda _: SimpleNamespace(remote=start))
            patch.setattr(ray, "wait", self.wait)
            patch.setattr(ray, "get", get)
            patch.setattr(ray, "cancel", lambda *_, **__: None)
            return [(task.model, event) for task, event in compute_on_ray(tasks, "auto", self.told.append)]


def test_a_model_comes_before_its_variants_and_a_lost_model_ends_only_what_depends_on_it() -> None:
    cluster, other = Answering(fails=lambda part: part.model == "m"), whole(4, "other")
    events = cluster.compute(whole(4), other)
    assert [part.steps for part in cluster.sent[:2]] == [((None, "models"),)] * 2
    assert {part.model for part in cluster.sent[2:]} == {"other"}
    assert [type(event) for model, event in events if model == "m"] == [StepFailed]
    assert {(event.recipe, event.step) for model, event in events if model == "other"} == {*other.steps}


@pytest.mark.parametrize(
    ("variants", "machines", "is_survived", "tried"),
    [
        (4, 2, True, [(2, False), (1, False), (1, True)]),
        (4, 2, False, [(2, False), (1, False), (1, True)]),
        (8, 1, False, [(8, False), (4, False), (2, True), (1, True)]),
    ],
    ids=["survived", "lost", "lost from a large group"],
)
def test_a_lost_process_is_survived_with_half_of_the_variants_and_in_the_end_half_of_the_batch(
    variants: int, machines: int, is_survived: bool, tried: list[tuple[int, bool]]
) -> None:
    cluster = Answering(
        loses=lambda part: "r1" in part.recipes and not (is_survived and part.halves_batches),
        nodes=[node(1)] * machines,
    )
    task = whole(variants)
    events = [event for _, event in cluster.compute(task)]
    assert [(len(part.recipes), part.halves_batches) for part in cluster.sent if "r1" in part.recipes] == tried
    assert {(event.recipe, event.step) for event in events} == {*task.steps}
    failed = [event for event in events if isinstance(event, StepFailed)]
    assert [event.recipe for event in failed] == ([] if is_survived else ["r1"]), "no other variant fails with it"
    assert all(f"{len(tried)} processes were lost computing it" in event.message for event in failed)


def test_a_cluster_that_lost_its_machines_is_waited_for_and_then_given_up() -> None:
    back, gone, task = Answering(absent=250), Answering(absent=1000), whole(4)
    assert {(event.recipe, event.step) for _, event in back.compute(task)} == {*task.steps}
    with pytest.raises(ComputationError, match="no machine with 1 CPUs and 0 GPUs for 300 s"):
        gone.compute(task)
    for cluster in (back, gone):
        assert cluster.told == ["the Ray cluster has lost its machines with 1 CPUs and 0 GPUs; waiting for another one"]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_a_server_is_refused_in_one_line(
    scheme: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(library(), "init", lambda *_, **__: pytest.fail("Ray would wait for minutes"))
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


def test_a_remote_cluster_whose_server_fails_to_start_is_tried_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> SimpleNamespace:
        if left:
            raise ConnectionAbortedError(left.pop())
        return SimpleNamespace(disconnect=lambda: None)

    monkeypatch.setattr(library(), "init", init)
    refused = pytest.raises(InputError, match=r"no Ray cluster .*\(Initialization failure")
    for failures, outcome in ((2, nullcontext()), (3, refused)):
        left = ["Initialization failure from server:\nTraceback"] * failures
        with socket.create_server(("127.0.0.1", 0)) as server, outcome:
            with connected(f"ray://127.0.0.1:{server.getsockname()[1]}"):
                assert failures == 2
            assert not left


HOST = socket.gethostname()


def test_a_machine_with_other_code_or_another_folder_is_refused_before_it_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_tasks, "compute", lambda *_: pytest.fail("it computed"))
    part = replace(whole(1), root=str(tmp_path))
    with pytest.raises(InputError, match=rf"not 1\.0; install the same on every machine \(on {HOST}\)"):
        compute_part(part, versions() | {"torch": "1.0"}, "", "the-driver", {})
    with pytest.raises(InputError, match=f"the folder {tmp_path} is not the one that the driver writes to"):
        compute_part(part, versions(), str(tmp_path / "elsewhere"), HOST, {})


def test_an_error_of_a_whole_task_fails_each_of_its_partitions_with_its_type_machine_and_traceback(
    tmp_path: Path,
) -> None:
    steps = (("a", "variants"), ("b", "variants"), ("b", "traces"))
    task = ModelTask(StudyRequest("no-such-study"), str(tmp_path), "m", steps)
    events = compute_part(task, versions(), "", "the-driver", {})
    assert [(event.recipe, event.step) for event in events] == [("a", "variants"), ("b", "variants")]
    for event in events:
        assert isinstance(event, StepFailed)
        assert isinstance(event.error, InputError)
        assert "no-such-study" in event.message
        assert event.message.endswith(f"(on {HOST})")
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


@dataclass
class Machines:
    """Two nodes of one CPU each, of which the second will be killed; `far` is the address from outside of them."""

    address: str
    far: str
    logs: Path
    doomed: tuple[Any, Any]

    @property
    def raylet(self) -> psutil.Process:
        return psutil.Process(self.doomed[1].all_processes["raylet"][0].process.pid)

    def is_at_work(self) -> bool:
        return bool(computing(self.raylet.children(recursive=True)))

    def kill(self) -> None:
        """Kill the node as a power cut does: its processes stop at once."""
        cluster, node = self.doomed
        for process in self.raylet.children(recursive=True):
            process.kill()
        cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    library()
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
        yield Machines(cluster.address, far, Path(second.get_session_dir_path()), (cluster, second))
        cluster.shutdown()


def computing(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those of the processes that compute a part."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::compute"):
                found.append(process)
    return found


@cluster
def test_a_study_that_loses_a_machine_has_the_tables_of_a_single_process_and_shows_no_secret(
    machines: Machines, study: StudyFile, tmp_path: Path, computed_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    listener, lost, wait, copy = Heard(), list[bool](), ray.wait, tmp_path / "copy"

    def wait_and_die(references: list[object], **options: object) -> object:
        if len(references) > 1 and not lost and machines.is_at_work():  # at variants, on both machines
            machines.kill()
            lost.append(True)
        return wait(references, **options)

    without_answers(monkeypatch)
    monkeypatch.setattr(ray, "wait", wait_and_die)
    with s3_server() as store:
        for name, value in store.items():
            monkeypatch.setenv(name, value)
        root = Store("s3://cluster/study").root
        root.fs.mkdir("cluster")
        outcome = run_study(StudyRequest(str(study.path)), root, listener, cluster={"address": machines.address})
        root.fs.get(root.path, str(copy), recursive=True)
    assert lost, "the machine died while it was at work"
    assert not outcome.failures
    assert len(outcome.computed) == 6, "the model, four variants, and the answers"
    assert any("was lost computing tiny-a" in note for note in listener.notes)
    require_same_tables(copy, computed_once)
    logs = [path for path in machines.logs.rglob("*") if path.is_file()]
    assert len(logs) > 5
    for path in [*logs, *copy.rglob("*.*")]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert not computing(psutil.process_iter())


@cluster
def test_a_run_of_the_ui_computes_its_partition_on_a_remote_cluster(
    machines: Machines, study: StudyFile, tmp_path: Path
) -> None:
    def run(model: str) -> object:
        config = run_config(StudyRequest(str(study.path)), Store(tmp_path), {"address": machines.far})
        return materialized(instance, config, ["models"], model)

    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("model", ["tiny-a", "nonsense"])
        assert all(check.passed for check in run("tiny-a").get_asset_check_evaluations())
        (failed,) = [event for event in run("nonsense").all_events if event.is_step_failure]
        assert "InputError" in failed.step_failure_data.error.to_string()


@cluster
def test_a_request_that_no_machine_can_meet_is_refused_at_once(machines: Machines, tmp_path: Path) -> None:
    task = ModelTask(StudyRequest("demo"), str(tmp_path), "m", ((None, "models"),))
    with pytest.raises(InputError, match="no machine of the Ray cluster has 1 CPUs and 4 GPUs"):
        list(compute_on_ray([task], machines.address, print, gpus_per_task=4))
    assert not list(tmp_path.glob(".prunescope-tmp*"))


@cluster
def test_a_killed_worker_is_started_again_and_its_tables_are_those_of_a_single_process(
    machines: Machines, study: StudyFile, tmp_path: Path, computed_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    killed, wait, warehouse = list[int](), ray.wait, tmp_path / "warehouse"

    def wait_and_kill(references: list[object], **options: object) -> object:
        if not killed and (warehouse / "block_influence").exists():
            for process in computing(psutil.process_iter()):
                process.kill()
                killed.append(process.pid)
        return wait(references, **options)

    without_answers(monkeypatch)
    monkeypatch.setattr(ray, "wait", wait_and_kill)
    outcome = run_study(StudyRequest(str(study.path)), warehouse, Heard(), cluster={"address": machines.address})
    assert killed
    assert not outcome.failures
    require_same_tables(warehouse, computed_once)
