"""`prunescope report --terminal`: the overview and one text, as plain text in a pipe.

`tests/pipelines/reporting/explorer/test_terminal.py` tests how both are printed.
"""

import shlex
from pathlib import Path

import pytest

import prunescope as ps
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.cli.test_querying import Shell
from tests.assets.tiny_study import RECIPES


@pytest.fixture
def shell(computed_once: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(computed_once, capsys)


def test_the_overview_has_every_variant_and_a_text_every_token(shell: Shell) -> None:
    overview = shell("report", "--terminal")
    assert all(recipe in overview for recipe in RECIPES)
    for forced, whose, side in (([], "variant", "pruned"), (["--forced"], "dense model", "dense")):
        text = shell("report", "--terminal", "--variant", "tiny-a@wanda-2of4", "--prompt", "open", *forced)
        assert f"both models read the {whose}'s text" in text
        rows = ps.text("wanda-2of4", "open", shell.warehouse, is_own_text=not forced).rows.to_dicts()
        body = "".join(text.split("text\n\n", 1)[1].split("The bar after", 1)[0].split())
        for row in rows:
            token = "".join(label(row[f"token_text_{side}"]).split())
            assert body.startswith(token)
            sign = body[len(token) + 1 :].startswith("≠")
            assert sign != row["is_top1_same"]
            body = body[len(token) + 1 + sign :]
        assert rows
        assert body == ""
        assert "\x1b" not in overview + text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--variant wanda-2of4 --prompt opne", "no prompt 'opne' in the warehouse; did you mean 'open'?"),
        ("--variant wanda-2of5 --prompt open", "no variant 'wanda-2of5'; did you mean 'wanda-2of4'"),
        ("--variant wanda-2of4", "a text needs --variant and --prompt"),
        ("--prompt open", "a text needs --variant and --prompt"),
        ("--forced", "a text needs --variant and --prompt"),
        ("-o x.html", "--terminal -o: leave out one of the two"),
        ("nothing", "has no variant of study 'nothing'; there are tiny"),
    ],
)
def test_a_missing_item_is_refused_with_those_that_exist(shell: Shell, line: str, message: str) -> None:
    shell("report", "--terminal", *shlex.split(line), code=2)
    assert message in " ".join(shell.messages.split())


def test_a_warehouse_without_variants_says_how_to_run_a_study(shell: Shell, tmp_path: Path) -> None:
    shell.warehouse = Store(tmp_path).root
    (tmp_path / "models" / "model=none").mkdir(parents=True)
    shell("report", "--terminal", code=2)
    assert "no study has run yet; start one with `prunescope run demo`" in " ".join(shell.messages.split())
