"""The wheel carries everything that the command needs, and works from an empty folder elsewhere."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
    "warehouse/data",
    "tests",
    "pipelines/reporting/charts/gallery",
    "assets/instance/deploy",
    "assets/interface/screenshots",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_carries_views_studies_texts_templates_and_the_dagster_settings_and_no_data(installed: Path) -> None:
    shipped = {str(file.relative_to(installed)) for file in installed.rglob("*") if file.is_file()}
    for folder, pattern in (
        ("sql", "*.sql"),
        ("pipelines/studies", "*.yaml"),
        ("pipelines/corpora", "*"),
        ("pipelines/published", "*.yaml"),
        ("pipelines/reporting/explorer", "*.j2"),
        ("pipelines/reporting/explorer/static", "*"),
        ("pipelines/reporting/charts/vendor", "*"),
        ("pipelines/reporting/explorer/vendor", "*.js"),
        ("pipelines/reporting/explorer/vendor", "LICENSES.txt"),
    ):
        own = {str(file.relative_to(ROOT)) for file in (ROOT / folder).rglob(pattern) if file.is_file()}
        assert own
        assert own <= shipped
    assert "assets/dagster.yaml" in shipped
    assert not [name for name in shipped if name.startswith(LEFT_OUT)]


def test_the_command_works_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    environment.pop("PRUNESCOPE_WAREHOUSE", None)

    def asked(*arguments: str) -> str:
        # -P and PYTHONPATH: the unpacked wheel is found before the checkout's editable install.
        code = "import sys, assets; from prunescope.assets.cli import main; print(assets.__file__, file=sys.stderr); main()"
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert str(installed) in run.stderr
        return run.stdout

    assert "q01" in asked("questions", "--format", "csv")
    assert "layer_transitions" in asked("tables", "--format", "csv")
    assert "recipe" in asked("sql", "select model, recipe from variant_summary", "--format", "csv")
