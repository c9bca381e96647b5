"""Start of the command line: the imports of each command, and shell completion."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command

from prunescope.assets.cli.main import app
from prunescope.pipelines.recipes import KINDS
from prunescope.pipelines.recipes.listing import recipe_forms
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.pipelines.studies import study_names
from prunescope.warehouse.catalogue.database import PROVENANCE, connect, view_sql
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
# The modules of HEAVY that a command may import. Commands that compute, and import more, are left out.
ALLOWED = {
    ("--version",): set(),
    ("--help",): set(),
    ("sql", "SELECT recipe, created_at FROM provenance"): ROWS,
    ("variants",): ROWS,
    ("report", "demo"): ROWS,
    ("question", "q11"): {*ROWS, "sqlglot"},
    ("questions",): SQL,
    ("tables",): SQL,
    ("describe", "variants"): SQL,
    ("recipes",): LISTS,
    ("verify",): ROWS | LISTS,
    ("gc",): ROWS | LISTS,
    ("watch",): {*ROWS, *LISTS, "polars"},
    ("figure",): {*LISTS, "duckdb", "altair", "polars", "vl_convert"},
}
# Prints last on standard error the modules of HEAVY that command lines, separated by `;`, have imported.
SCRIPT = f"""
import sys
from prunescope.assets.cli.main import run
from prunescope.assets.cli.options import Globals
for line in " ".join(sys.argv[1:]).split(";"):
    assert run(line.split("|"), Globals()) == 0
print("imported", *sorted({HEAVY} & set(sys.modules)), file=sys.stderr)
"""


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


def imported(warehouse: Path, *lines: tuple[str, ...]) -> set[str]:
    connect(warehouse).close()  # otherwise the first command builds the views
    done = started(SCRIPT, ";".join("|".join(line) for line in lines), PRUNESCOPE_WAREHOUSE=str(warehouse))
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("imported"), done.stderr
    return set(last.split()[1:])


@pytest.mark.parametrize("line", ALLOWED, ids=" ".join)
def test_a_command_imports_only_what_it_uses(filled: Path, line: tuple[str, ...]) -> None:
    assert imported(filled, line) <= ALLOWED[line]


def test_the_help_of_every_command_imports_nothing_heavy(filled: Path) -> None:
    names = get_command(app).commands
    assert len(names) > 20
    assert not imported(filled, *((name, "--help") for name in names))


COMPLETE = f"""
import sys
from prunescope.assets.cli import main
try:
    main()
finally:
    sys.stderr.write(" ".join({HEAVY} & set(sys.modules)))
"""


def completed(line: str, warehouse: Path) -> set[str]:
    """Return the completions for the word before `|`, or the last one, and require that nothing heavy is imported."""
    variables = {
        "_PRUNESCOPE_COMPLETE": "complete_bash",
        "COMP_WORDS": line.replace("|", "").replace(" ", "\n"),
        "COMP_CWORD": str(line.partition("|")[0].count(" ")),
    }
    done = started(COMPLETE, **variables, PRUNESCOPE_WAREHOUSE=str(warehouse))
    assert not done.stderr
    words = done.stdout.split()
    assert len(words) == len(set(words))
    return set(words)


def test_names_are_completed(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    forms = [row["form"] for row in recipe_forms() if row["method"] != "external"]
    marts_and_staging = [view.name for view in view_sql().values() if view.layer != "questions"]
    found = {
        line: completed(line, filled)
        for line in (
            "prunescope ad",
            "prunescope run ",
            "prunescope run demo --rec",
            "prunescope run demo -r ",
            "prunescope recipes ",
            "prunescope describe ",
            "prunescope question q1",
            "prunescope figure ",
            "prunescope figure spikes --model ",
            "prunescope checkpoint ",
            "prunescope compare wanda-50 d",
            "prunescope compare tiny @ dense tiny @ w",
            "prunescope compare tiny @ dense tiny @",
            "prunescope compare tiny @ dense d",
            "prunescope compare tiny @ w| tiny @ dense",
            "prunescope export there --only variant_",
            f"prunescope --warehouse {tmp_path} checkpoint ",
            "prunescope --warehouse s3://bucket/there checkpoint ",
        )
    }
    assert found == {
        "prunescope ad": {"add-model", "advise"},
        "prunescope run ": {*study_names(), "mine.yaml"},
        "prunescope run demo --rec": {"--recipe"},
        "prunescope run demo -r ": {"dense", "wanda-50", *forms},
        "prunescope recipes ": {
            method for kind in KINDS for method in get_args(kind.model_fields["method"].annotation)
        },
        "prunescope describe ": {*TABLES, PROVENANCE, *view_sql()},
        "prunescope question q1": {name for name in questions() if name.startswith("q1")},
        "prunescope figure ": set(FIGURES),
        "prunescope figure spikes --model ": {"tiny"},
        "prunescope checkpoint ": {"tiny@dense", "tiny@wanda-50"},
        "prunescope compare wanda-50 d": {"dense"},
        # Bash splits words at an @, and replaces the part after it.
        "prunescope compare tiny @ dense tiny @ w": {"wanda-50"},
        "prunescope compare tiny @ dense tiny @": {"dense", "wanda-50"},
        "prunescope compare tiny @ dense d": {"dense"},
        "prunescope compare tiny @ w| tiny @ dense": {"wanda-50"},
        "prunescope export there --only variant_": {name for name in marts_and_staging if name.startswith("variant_")},
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
    code = "import sys; from prunescope.assets.cli import main; print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
