"""Start of the command line: the imports of each command, and shell completion."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.main import get_command

from prunescope.assets.cli.application import app
from prunescope.pipelines.recipes.listing import recipe_forms
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.pipelines.studies import study_names
from prunescope.warehouse.catalogue.database import connect, view_sql
from prunescope.warehouse.catalogue.lineage import questions
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import provenance_of, rows_of

ROOT = Path(__file__).parents[3]
HEAVY = {
    *("altair", "dagster", "datasets", "duckdb", "fsspec", "great_tables", "lm_eval", "numba", "pandas", "polars"),
    *("pyarrow", "ray", "scipy", "sqlglot", "starlette", "torch", "transformers", "vl_convert"),
}
ROWS = {"duckdb", "pyarrow"}
# Arrow imports pandas, and that fsspec, where it makes a table of Python's values.
LISTS = {"pyarrow", "pandas", "fsspec"}
SQL = ROWS | LISTS | {"sqlglot"}
# Command lines by the modules of HEAVY that they may import. Commands that compute, and import more, are left out.
ALLOWED: list[tuple[set[str], tuple[tuple[str, ...], ...]]] = [
    (set(), (("--version",), ("--help",), ("sql", "SELECT recipe, created_at FROM provenance"))),
    (ROWS, (("variants",), ("report", "demo"))),
    ({*ROWS, "sqlglot"}, (("question", "q11"),)),  # reads the view's header
    (SQL, (("questions",), ("tables",), ("describe", "variants"))),
    (LISTS, (("recipes",),)),
    (ROWS | LISTS, (("verify",), ("gc",))),
    ({*ROWS, *LISTS, "polars"}, (("watch",),)),
    ({*LISTS, "duckdb", "altair", "polars", "vl_convert"}, (("figure",),)),
]
# Runs each argument, one or several command lines, in a fork that has imported only the command line, and reports the
# modules of HEAVY.
SCRIPT = f"""
import os, sys
from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
for number, line in enumerate(sys.argv[1:]):
    child = os.fork()
    if not child:
        code = max(run(each.split("|"), Globals()) for each in line.split(";"))
        print("imported", number, *sorted({HEAVY} & set(sys.modules)), file=sys.stderr, flush=True)
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, line
"""


def test_a_locale_that_is_not_utf_8_does_not_reach_the_commands() -> None:
    environment = os.environ | {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(ROOT / ".src"),
    }
    code = "import sys; sys.argv[1:] = ['--version']; print(sys.getfilesystemencoding(), sys.stdout.encoding)"
    code += "; from prunescope.assets.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    *_, encodings, version = done.stdout.splitlines()
    assert encodings == "utf-8 utf-8"
    assert version.startswith("prunescope ")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a warehouse with a dense model, one variant of it, and an empty report."""
    store = Store(tmp_path_factory.mktemp("filled"))
    for table in TABLES.values():
        for recipe in ("dense", "wanda-50") if table.partitioning == "variant" else (None,):
            store.write(table, rows_of(table, "tiny", recipe), provenance_of("tiny", recipe), "tiny", recipe)
    store.write_bytes("_reports/demo.html", lambda file: file.touch())
    return store.root


def started(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT / ".src")} | environment
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=variables, capture_output=True, text=True, check=False
    )


def imported(warehouse: Path, *groups: Iterable[tuple[str, ...]]) -> list[set[str]]:
    """Return the modules of HEAVY that each group of command lines imports."""
    lines = [";".join("|".join(line) for line in group) for group in groups]
    done = started(SCRIPT, *lines, PRUNESCOPE_WAREHOUSE=str(warehouse))
    assert done.returncode == 0, done.stderr
    found = [set(line.split()[2:]) for line in done.stderr.splitlines() if line.startswith("imported ")]
    assert len(found) == len(lines)
    return found


def test_a_command_imports_only_what_it_uses(filled: Path) -> None:
    connect(filled).close()  # otherwise the first command builds the views
    found = imported(filled, *(lines for _, lines in ALLOWED))
    surplus = [(lines, names - allowed) for (allowed, lines), names in zip(ALLOWED, found, strict=True)]
    assert surplus == [(lines, set()) for _, lines in ALLOWED]


def test_the_help_of_every_command_imports_nothing_heavy(filled: Path) -> None:
    names = get_command(app).commands
    assert len(names) > 20
    assert imported(filled, [(name, "--help") for name in names]) == [set()]


def test_every_argument_and_option_of_every_command_has_a_help() -> None:
    commands = get_command(app).commands
    missing = [(name, of.name) for name, command in commands.items() for of in command.params if not of.help]
    assert missing == []
    assert "Repeatable." in next(of.help for of in commands["run"].params if of.name == "model")
    assert "Options:" not in "".join(command.help for command in commands.values())


# Completes every command line in a fork that has imported only the command line; adds the modules of HEAVY.
COMPLETE = f"""
import os, sys
import prunescope.assets.cli.application
from prunescope.assets.cli import main
for line in sys.argv[1:]:
    child = os.fork()
    if not child:
        os.environ["COMP_WORDS"] = line.replace(" ", "\\n")
        os.environ["COMP_CWORD"] = str(line.count(" "))
        del sys.argv[1:]
        try:
            main()
        finally:
            print("#", *{HEAVY} & set(sys.modules), flush=True)
            os._exit(0)
    os.waitpid(child, 0)
"""


def completed(warehouse: Path, *lines: str) -> dict[str, set[str]]:
    """Complete the last word of every line; require that nothing heavy is imported."""
    done = started(COMPLETE, *lines, _PRUNESCOPE_COMPLETE="complete_bash", PRUNESCOPE_WAREHOUSE=str(warehouse))
    assert not done.stderr
    *texts, last = done.stdout.split("#\n")
    assert not last
    words = [text.split() for text in texts]
    assert all(len(found) == len(set(found)) for found in words)
    return dict(zip(lines, map(set, words), strict=True))


def test_names_are_completed(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    forms = [row["form"] for row in recipe_forms() if row["method"] not in {"external", "mixed", "python"}]
    views = {view.name: view.layer for view in view_sql().values() if view.layer != "staging"}
    found = completed(
        filled,
        *(
            "prunescope ad",
            "prunescope run ",
            "prunescope run demo --rec",
            "prunescope run demo -r ",
            "prunescope describe ",
            "prunescope question q1",
            "prunescope figure ",
            "prunescope figure spikes --model ",
            "prunescope checkpoint ",
            "prunescope compare wanda-50 d",
            "prunescope compare tiny@dense w",
            "prunescope export there --only variant_",
            f"prunescope --warehouse {tmp_path} checkpoint ",
            "prunescope --warehouse s3://bucket/there checkpoint ",
        ),
    )
    assert found == {
        "prunescope ad": {"add-model", "advise"},
        "prunescope run ": {*study_names(), "mine.yaml"},
        "prunescope run demo --rec": {"--recipe"},
        "prunescope run demo -r ": {"dense", "wanda-50", *forms},
        "prunescope describe ": {*TABLES, *views},
        "prunescope question q1": {name for name in questions() if name.startswith("q1")},
        "prunescope figure ": set(FIGURES),
        "prunescope figure spikes --model ": {"tiny"},
        "prunescope checkpoint ": {"tiny@dense", "tiny@wanda-50", "dense", "wanda-50"},
        "prunescope compare wanda-50 d": {"dense"},
        "prunescope compare tiny@dense w": {"wanda-50"},
        "prunescope export there --only variant_": {
            name for name, layer in views.items() if name.startswith("variant_") and layer != "questions"
        },
        f"prunescope --warehouse {tmp_path} checkpoint ": set(),
        "prunescope --warehouse s3://bucket/there checkpoint ": set(),
    }


def test_completion_is_installed_for_the_calling_shell(tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'from prunescope.assets.cli import main; main()' --install-completion; exit $?"
    variables = os.environ | {"PYTHONPATH": str(ROOT / ".src"), "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", command], env=variables, capture_output=True, text=True, check=False)
    assert "bash completion installed" in done.stdout, done.stderr
    [script] = (tmp_path / ".bash_completions").iterdir()
    assert "_PRUNESCOPE_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


def test_the_command_line_starts_without_pydantic() -> None:
    """Import no study and no recipe for the help: they take twice as long as all else."""
    code = "import sys; import prunescope.assets.cli.application; print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
