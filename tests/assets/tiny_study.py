"""A small study of a tiny model, the command line as a process, and what a warehouse holds."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult

from prunescope.assets.defs import asset_definitions
from prunescope.assets.execution.compute import compute
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.task import ModelTask, StepFailed, TableWritten
from prunescope.assets.planning.steps import STEPS
from prunescope.assets.planning.steps import VARIANT_TABLES as ALL_VARIANT_TABLES
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.study_run import ANSWERS_NAME
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.warehouse.catalogue.lineage import questions
from prunescope.warehouse.tables import TABLES
from tests.tiny_models import SHORT_TEXT

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from prunescope.assets.cli import main; main()"]
# A server that ends when its test or benchmark is killed.
SERVER = [
    COMMAND[0],
    "-c",
    f"from prunescope.assets.execution.signals import end_with_parent; end_with_parent(); {COMMAND[2]}",
]
# Tables that the tiny study fills for a variant.
_ELSEWHERE = {*STEPS["retrieval"].tables, *STEPS["sampling"].tables, "speed"}
VARIANT_TABLES = tuple(table for table in ALL_VARIANT_TABLES if table not in _ELSEWHERE)
# Answers over a model's searches alone, which no variant makes stale.
_OF_SEARCHES = {"q35_choosing_by_p_against_controls", "q36_do_effects_add", "figures/allocation"}
# Assets over the variants of the whole warehouse.
ANSWERS = {*questions(), *(f"figures/{name}" for name in FIGURES), "report"} - _OF_SEARCHES
RECIPES = ["dense", "magnitude-50", "wanda-2of4", "attn-drop-1"]


class Heard:
    """A listener that records tasks, notes, failures and seconds."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        self.notes: list[str] = []
        self.failures: list[tuple[str, str]] = []
        self.own: dict[str, float] = {}
        self.begun: list[tuple[str, str]] = []

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        self.tasks[task] = total

    def advance(self, amount: int = 1) -> None: ...

    def done(self) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)

    def planned(self, partitions: int) -> None: ...

    def begins(self, name: str, step: str) -> None:
        self.begun.append((name, step))

    def computed(self, name: str, seconds: float) -> None:
        assert name not in self.own, f"{name} was finished twice"
        self.own[name] = seconds

    def failed(self, name: str, message: str) -> None:
        self.failures.append((name, message))


@dataclass
class StudyFile:
    """A study on disk; `write` changes keys."""

    path: Path
    model: Path
    name: str = "tiny"
    keys: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.write()

    def write(self, **changes: Any) -> Path:
        self.keys |= changes
        fields = {
            "name": self.name,
            "models": [{"name": "tiny-a", "source": str(self.model)}],
            "recipes": RECIPES,
            "prompts": [
                {"id": "open", "kind": "open", "text": "Why is the sky blue?"},
                {"id": "choice", "kind": "choice", "text": "Which? A. No B. Yes", "options": ["A", "B"], "gold": "B"},
            ],
            "texts": [{"id": "help", "source": "embedded", "context": 16, "max_tokens": 16}],
            "tasks": [{"name": "openbookqa", "samples": 2}],
            "calibration": {"source": SHORT_TEXT, "sequences": 2, "length": 32},
            "generation": {"new_tokens": 4},
            "noise": [],
        } | self.keys
        self.path.write_text(yaml.safe_dump(fields), encoding="utf-8")
        return self.path


def prunescope(*arguments: object, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as a user does."""
    command = [*COMMAND, *map(str, arguments)]
    inherited = {key: value for key, value in os.environ.items() if key not in {"DAGSTER_HOME", "PRUNESCOPE_WAREHOUSE"}}
    whole = inherited | {"PYTHONPATH": str(ROOT / ".src")} | environment
    return subprocess.run(command, cwd=cwd, env=whole, capture_output=True, text=True, check=False)


# Processes with the imports of a study, which would otherwise take longer in each than the tiny study.
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(
    [
        "prunescope.assets.cli.application",
        "prunescope.assets.runs.dagster_job",
        "prunescope.assets.definitions",
        "prunescope.pipelines.evaluation.tasks.loading",
    ]
)


def _main(arguments: list[str], variables: dict[str, str], told: Path) -> None:
    """Run the command line up to its partitions in a process of `WARM`, with both of its streams in a file."""
    from prunescope.assets.cli import main

    without_answers(pytest.MonkeyPatch())

    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(1)  # the libraries that read OMP_NUM_THREADS were loaded before it was set
    # Otherwise locks of libraries have a name, which a killed process leaves behind.
    multiprocessing.set_start_method("fork", force=True)
    with told.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[1:] = arguments
    main()


class Running:
    """`prunescope run` up to its partitions, or another command, in a process of its own, which can be killed."""

    def __init__(
        self, study: StudyFile, warehouse: Path, command: str = "run", *options: str, told: Path | None = None
    ) -> None:
        self._told = told or warehouse.with_suffix(".told")
        arguments = [command, str(study.path), "--warehouse", str(warehouse), *options]
        self._process = WARM.Process(target=_main, args=(arguments, dict(os.environ), self._told))
        self._process.start()

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def code(self, patience: float) -> int | None:
        """Return the exit code, or None if it still runs after so many seconds."""
        self._process.join(patience)
        return self._process.exitcode

    def told(self) -> str:
        """Return its output so far."""
        return self._told.read_text() if self._told.exists() else ""


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread, as the processes do that a run is compared with: sums of floats depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def computing(interface: psutil.Process) -> set[psutil.Process]:
    """Return the processes of the runs of an interface, which compute."""
    found = set()
    for each in interface.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "--multiprocessing-fork" in each.cmdline():
                found.add(each)
    return found


def materialized(
    instance: DagsterInstance, config: dict[str, Any], assets: Sequence[str], partition: str | None
) -> ExecuteInProcessResult:
    """Run a selection of assets, as the interface does by its button; a failure is part of the result."""
    from prunescope.assets.definitions import defs

    return defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        partition_key=partition,
        asset_selection=[AssetKey.from_user_string(name) for name in assets],
        run_config=config,
        raise_on_error=False,
    )


def computed(
    study: StudyFile | StudyRequest,
    root: Path,
    steps: str | Sequence[str],
    *recipes: str | None,
    model: str = "tiny-a",
    session: ModelSession | None = None,
    **options: bool,
) -> list[TableWritten]:
    """Compute steps of some variants, or of the model, in one task; raise the first error."""
    request = StudyRequest(str(study.path)) if isinstance(study, StudyFile) else study
    names = (steps,) if isinstance(steps, str) else tuple(steps)
    wanted = tuple((recipe, name) for recipe in recipes or (None,) for name in names)
    events = list(compute(ModelTask(request, str(root), model, wanted, **options), session or ModelSession()))
    for event in events:
        if isinstance(event, StepFailed):
            raise event.error
    return [event for event in events if isinstance(event, TableWritten)]


def without_answers(patch: pytest.MonkeyPatch) -> None:
    """End runs after the partitions: questions, figures and report are half the work."""
    patch.setattr("prunescope.assets.runs.dagster_job.answer", lambda run, _: run.computed(ANSWERS_NAME, 0.0))


def few_answers(patch: pytest.MonkeyPatch) -> None:
    """Compute one question, one figure and the report only: the others go the same way through Dagster."""
    few = ["paper_reference", "q04_fit_of_theorem_3", ["figures", "spaces"], "report"]
    whole = asset_definitions.definitions
    job = whole.resolve_job_def("answers").get_subset(asset_selection={*map(AssetKey, few)})
    definitions = SimpleNamespace(resolve_job_def=lambda _: job, resources=whole.resources)
    patch.setattr("prunescope.assets.runs.dagster_job.asset_definitions", SimpleNamespace(definitions=definitions))


def partitions(root: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and time of change of every partition file of a study: equal means unchanged."""
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for table in TABLES.values()
        if table.is_study_output
        for path in (root / table.name).rglob("*.parquet")
    }


def written_since(before: dict[str, tuple[int, int]], root: Path) -> set[str]:
    """Return the partitions that are new or were written again."""
    return {name for name, stamp in partitions(root).items() if before.get(name) != stamp}


def rows(root: Path) -> dict[str, pa.Table]:
    """Return the rows of every partition without timings and provenance."""
    found = {}
    for table in TABLES.values():
        timing = [column.name for column in table.columns if column.is_timing]
        for path in (root / table.name).rglob("*.parquet"):
            with pq.ParquetFile(path) as file:
                kept = file.read().drop_columns(timing)
            found[str(path.relative_to(root))] = kept.replace_schema_metadata(None)
    return found


def require_same_tables(root: Path, undisturbed: Path) -> None:
    """Compare a warehouse without answers, with which the published numbers come, with one that a run left."""
    wanted, found = rows(undisturbed), rows(root)
    assert found.keys() == {name for name in wanted if not name.startswith("paper_reference/")}
    for name, table in found.items():
        assert table.equals(wanted[name]), name
        if not name.startswith("variants/"):  # the one table with timings
            assert _pages(root / name) == _pages(undisturbed / name), name


def _pages(path: Path) -> list[bytes]:
    """Return the raw bytes of every column chunk of a Parquet file."""
    content, metadata = path.read_bytes(), pq.read_metadata(path)
    chunks = []
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            chunks.append(content[start : start + chunk.total_compressed_size])
    return chunks
