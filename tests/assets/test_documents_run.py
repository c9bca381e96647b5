"""Commands and Python examples of the documents, run in their order in one folder with a tiny model."""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest

import prunescope
from prunescope.assets import api
from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.pipelines.core.safe_yaml import parse_yaml
from prunescope.pipelines.studies import Study
from tests.assets.tiny_study import RECIPES, ROOT, StudyFile, few_answers
from tests.tiny_models import save_tiny

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("*/README.md")),
    *sorted(ROOT.glob("tests/benchmarks/README.md")),
    *sorted(ROOT.glob("assets/instance/deploy/README.md")),
]
RUN = [ROOT / name for name in ("README.md", "pipelines/README.md", "warehouse/README.md", "assets/README.md")]
# Servers, which other tests start, commands for a cluster or an object store, and `init`, whose study is there already.
METHOD = ROOT / "pipelines/pruning/methods/my_method.py"
NOT_RUN = re.compile(r"prunescope (ui|serve|init)\b|--ray (auto|ray://)")


def blocks(language: str, document: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(document: Path) -> list[str]:
    """Return the commands of a document without comments; a command ends where its quotes are closed."""
    found = [""]
    for line in "".join(blocks("sh", document)).splitlines():
        found[-1] += re.sub(r"\s+#.*$", "", line)
        if found[-1].count('"') % 2 == 0:
            found.append("")
    return [command for command in found if command]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with the files that the documents name and the computed study."""
    shutil.copy(METHOD, tmp_path)
    # Long and deep enough for what the commands calibrate on and drop.
    save_tiny(tmp_path / "my-model", seed=1, max_position_embeddings=512, num_hidden_layers=9)
    study = StudyFile(tmp_path / "my-study.yaml", save_tiny(tmp_path / "tiny-model"), name="my-study")
    study.write(recipes=[*RECIPES, "wanda-50"])
    few_answers(monkeypatch)
    assert run(["run", "my-study.yaml"], Globals()) == 0
    return tmp_path


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_every_command_and_example_of_the_documents_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = []
    found = doctest.testmod(api)
    assert found.attempted >= 2 * len(prunescope.__all__)
    assert not found.failed, capsys.readouterr().out
    for document in RUN:
        for line in commands(document):
            if line.startswith("prunescope ") and not NOT_RUN.search(line):
                code = run(shlex.split(line)[1:], Globals())
                shown = capsys.readouterr()
                if code != 0:
                    failed.append(f"{document.name}: {line}\n{shown.err}")
        for example in blocks("python", document):
            exec(compile(example, document.name, "exec"), {})  # noqa: S102 - ours
    assert not failed, "\n".join(failed)


def test_the_shown_method_is_the_shipped_one() -> None:
    assert blocks("py", ROOT / "pipelines/README.md")[0].strip() in METHOD.read_text(encoding="utf-8")


def test_make_and_modules_that_documents_name_exist() -> None:
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert set(re.findall(r"\bmake ([a-z-]+)`", text)) <= made, document
        assert {line.split()[1] for line in commands(document) if line.startswith("make ")} <= made, document
        for module in re.findall(r"python -m ((?:tests|prunescope)[\w.]*\w)", text):
            place = ROOT / (module.removeprefix("prunescope.").replace(".", "/"))
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), (document, module)


def test_the_keys_of_a_study_in_the_documents_can_be_copied() -> None:
    shown = [(document, block) for document in DOCUMENTS for block in blocks("yaml", document)]
    assert shown
    for document, block in shown:
        keys = parse_yaml(block, str(document))
        assert isinstance(keys, dict)
        assert set(keys) <= set(Study.model_fields), document


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (document.parent / target).exists(), target
    anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
               for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}  # fmt: skip
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    if document.name != "CHANGELOG.md":
        rooms = "|".join(("assets", "pipelines", "sql", "tests", "warehouse"))
        for path in re.findall(rf"`((?:{rooms})/[\w./-]+)`", text):
            assert path.startswith("warehouse/data") or (ROOT / path).exists() or (ROOT / "tests" / path).exists(), path


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200
