"""Variants as MLflow runs, in a database of MLflow's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from tests.sql.warehouse_builder import Handmade

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.exhaustive  # MLflow migrates a new database for half of its time
def test_a_variant_is_one_run_with_its_numbers_and_is_not_logged_twice(
    computed_once: Path,
    uri: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    arguments = ["log", "--uri", uri, "--warehouse", str(computed_once)]
    arguments += ["--variant", "tiny-a@wanda-2of4", "--variant", "tiny-a@dense", "--figure", "generation"]
    before = {path: path.read_bytes() for path in computed_once.rglob("*") if path.is_file()}
    assert run(arguments, Globals()) == 0
    assert set(capsys.readouterr().out.split()) == {"tiny-a@wanda-2of4", "tiny-a@dense"}
    assert {path: path.read_bytes() for path in computed_once.rglob("*") if path.is_file()} == before
    client = MlflowClient(tracking_uri=uri)
    [experiment] = client.search_experiments(filter_string="name = 'prunescope'")
    runs = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    logged, dense = runs["tiny-a@wanda-2of4"], runs["tiny-a@dense"]
    known = {"model": "tiny-a", "recipe": "wanda-2of4", "method": "wanda", "predecessors": "pruned"}
    assert known.items() <= logged.data.params.items()
    with duckdb.connect() as connection:
        file = computed_once / "task_scores" / "model=tiny-a" / "recipe=wanda-2of4" / "part.parquet"
        scores = connection.execute("select task || '/' || metric, value from read_parquet(?)", [str(file)]).fetchall()
    assert scores
    assert dict(scores).items() <= logged.data.metrics.items()
    assert 0.3 < logged.data.metrics["sparsity"] <= 0.5
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} == {"figures"}
    assert {file.path for file in client.list_artifacts(dense.info.run_id)} == {"reports"}
    [figure] = client.list_artifacts(logged.info.run_id, "figures")
    assert figure.file_size > 1000

    assert run(arguments, Globals()) == 0
    shown = capsys.readouterr()
    assert (shown.out, "2 there already" in shown.err) == ("", True)
    assert len(client.search_runs([experiment.experiment_id])) == 2
    # Another report is another run of the dense model, which has it.
    other = shutil.copytree(computed_once, tmp_path / "other", ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    with (other / "_reports" / "tiny.html").open("a") as report:
        report.write(" ")
    assert run([*arguments, "--warehouse", str(other)], Globals()) == 0
    assert capsys.readouterr().out.split() == ["tiny-a@dense"]
    (other / "_reports" / "theirs.html").write_text("of another study")
    assert run([*arguments, "--warehouse", str(other)], Globals()) == 0
    assert capsys.readouterr().out == ""
    # A run that ends in the middle is a failed one, and no variant that was there.
    monkeypatch.setattr("prunescope.assets.publishing.tracking.variant_values", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run([*arguments, "--figure", "hierarchy"], Globals())
    statuses = [one.info.status for one in client.search_runs([experiment.experiment_id])]
    assert sorted(statuses) == ["FAILED", "FINISHED", "FINISHED", "FINISHED"]


def test_mistakes_are_one_line(computed_once: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["log", "--uri", uri, "--warehouse", str(computed_once), "--variant"]
    assert run([*arguments, "tiny-a@wanda-4of2"], Globals()) == 2
    assert "did you mean 'tiny-a@wanda-2of4'" in capsys.readouterr().err
    code = "import sys; sys.modules['mlflow'] = None; from prunescope.assets.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments, "tiny-a@wanda-2of4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert (done.returncode, "pip install 'prunescope[mlflow]'" in done.stderr) == (2, True)


@pytest.mark.exhaustive  # every other mistake is refused in the same place
def test_a_noise_variant_is_refused_by_name(tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse = Handmade().model().variant("dense").variant("noise-batch", method="noise")
    for name in ("models", "variants"):
        warehouse.write(tmp_path / "warehouse", name)
    arguments = ["log", "--uri", uri, "--warehouse", str(tmp_path / "warehouse"), "--variant"]
    assert run([*arguments, "tiny@noise-batch"], Globals()) == 2
    assert "--variant tiny@noise-batch: a noise variant is not a result" in capsys.readouterr().err
