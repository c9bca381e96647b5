"""The wheel: everything that the command needs, below one name, usable from an empty folder."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import prunescope
from tests.assets.tiny_study import StudyFile
from tests.tiny_models import save_tiny

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
    "warehouse/data",
    "tests",
    "pipelines/reporting/charts/gallery",
    "assets/instance/deploy",
    "assets/publishing/interface/screenshots",
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


def ran(installed: Path, folder: Path, *command: str) -> str:
    """Return standard output of Python in a folder, with the unpacked wheel before the checkout's editable install."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    for name in ("PRUNESCOPE_WAREHOUSE", "PYTHONSAFEPATH"):
        environment.pop(name, None)
    run = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_wheel_contains_all_resources_and_no_data(installed: Path) -> None:
    package = installed / "prunescope"
    shipped = {str(file.relative_to(package)) for file in package.rglob("*") if file.is_file()}
    for folder, pattern in (
        ("sql", "*.sql"),
        ("pipelines/studies", "*.yaml"),
        ("pipelines/studies", "*.json"),
        ("pipelines/models/outlines", "*.json"),
        ("pipelines/corpora", "*"),
        ("pipelines/evaluation/tasks", "*.*"),
        ("pipelines/evaluation/retrieval", "*.*"),
        ("pipelines/reporting/published", "*.yaml"),
        ("pipelines/reporting/explorer", "*.j2"),
        ("warehouse/export", "*.j2"),
        ("pipelines/reporting/explorer/static", "*"),
        ("pipelines/reporting/charts/vendor", "*"),
        ("pipelines/reporting/explorer/vendor", "LICENSES.txt"),
    ):
        own = {
            str(file.relative_to(ROOT))
            for file in (ROOT / folder).rglob(pattern)
            if file.is_file() and "__pycache__" not in file.parts
        }
        assert own
        assert own <= shipped
    assert {"__init__.py", "__main__.py", "assets/instance/dagster.yaml"} <= shipped
    assert not [name for name in shipped if name.startswith(LEFT_OUT)]


def test_one_package_is_installed(installed: Path) -> None:
    names = {path.name.partition("-")[0] for path in installed.iterdir()}
    assert names == {"prunescope"}
    # An editable install adds this folder to the path.
    links = Path(prunescope.__file__).parents[1]
    assert [path.name for path in links.iterdir()] == ["prunescope"]


def test_the_command_works_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    def asked(*arguments: str) -> str:
        return ran(installed, tmp_path, "-m", "prunescope", *arguments, "--format", "csv")

    assert str(installed) in ran(installed, tmp_path, "-c", "import prunescope; print(prunescope.__file__)")
    assert "q01" in asked("questions")
    (tmp_path / "warehouse" / "data" / "models" / "model=none").mkdir(parents=True)  # a run has begun
    assert "layer_transitions" in asked("tables")
    assert "recipe" in asked("sql", "select model, recipe from variant_summary")


@pytest.mark.exhaustive
def test_the_wheel_runs_a_study_and_writes_its_report(installed: Path, tmp_path: Path) -> None:
    study = StudyFile(tmp_path / "tiny.yaml", save_tiny(tmp_path / "model"))
    ran(installed, tmp_path, "-m", "prunescope", "run", str(study.path))
    report = Path(ran(installed, tmp_path, "-m", "prunescope", "report", study.name).split()[-1])
    page = (tmp_path / report).read_text(encoding="utf-8")
    assert "wanda-2of4" in page
    assert "<script" in page


def test_the_citation_states_the_version_licence_and_paper_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [citation[key] for key in ("version", "license", "keywords")] == [
        package[key] for key in ("version", "license", "keywords")
    ]
    (paper,) = citation["references"]
    bibliography = (ROOT / "warehouse" / "export" / "references.bib").read_text(encoding="utf-8")
    assert f"title = {{{paper['title']}}}" in bibliography
    assert f"eprint = {{{paper['url'].rpartition('/')[2]}}}" in bibliography


@pytest.mark.parametrize("source", ["the wheel", "the checkout"])
def test_packages_of_the_user_may_have_the_names_of_our_folders(installed: Path, tmp_path: Path, source: str) -> None:
    for name in ("assets", "pipelines", "sql", "warehouse", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"OWNER = 'the user of {name}'")
    code = (
        "import prunescope as ps, assets, pipelines, sql, warehouse\n"
        "print(assets.OWNER, pipelines.OWNER, sql.OWNER, warehouse.OWNER)\n"
        "print(ps.open('nothing').sql('select count(*) from variant_summary').fetchall())"
    )
    folder = installed if source == "the wheel" else Path(prunescope.__file__).parents[1]
    assert ran(folder, tmp_path, "-c", code).splitlines() == [
        "the user of assets the user of pipelines the user of sql the user of warehouse", "[(0,)]"
    ]  # fmt: skip


def test_the_modules_of_a_checkout_have_the_paths_that_an_editor_knows() -> None:
    from prunescope.pipelines.core import errors

    assert Path(errors.__file__) == ROOT / "pipelines" / "core" / "errors.py"
