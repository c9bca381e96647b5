"""`prunescope report --terminal`: the overview and one text, as plain text in a pipe."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from rich.cells import cell_len

import prunescope as ps
from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.cli.terminal import spark
from prunescope.assets.publishing.live_study import LiveStudy
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.tiny_study import RECIPES

WIDTH = 80


class Terminal:
    """The command on a computed warehouse."""

    def __init__(self, warehouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.warehouse, self._capsys = warehouse, capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Return the output, or the messages of a refusal."""
        found = run(["report", "--terminal", *arguments], Globals(warehouse=str(self.warehouse)))
        shown = self._capsys.readouterr()
        assert found == code, shown.err
        return shown.out if code == 0 else " ".join(shown.err.split())


@pytest.fixture(scope="module")
def kept_studies() -> Callable[..., LiveStudy]:
    """Keep a study and the answers of its queries: every command would ask all of them again."""
    return cache(LiveStudy)


@pytest.fixture
def terminal(
    computed_once: Path,
    capsys: pytest.CaptureFixture[str],
    kept_studies: Callable[..., LiveStudy],
    monkeypatch: pytest.MonkeyPatch,
) -> Terminal:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setattr("prunescope.assets.publishing.live_study.LiveStudy", kept_studies)
    return Terminal(computed_once, capsys)


def test_the_overview_has_every_variant_and_a_text_every_token(terminal: Terminal, computed_once: Path) -> None:
    overview = terminal()
    assert all(recipe in overview for recipe in RECIPES)
    of = ("--variant", "tiny-a@wanda-2of4", "--prompt", "open")
    own, forced = terminal(*of), terminal(*of, "--forced")
    for text, whose, is_own_text in ((own, "variant", True), (forced, "dense model", False)):
        assert f"both models read the {whose}'s text" in text
        rows = ps.text("wanda-2of4", "open", computed_once, is_own_text=is_own_text).rows.to_dicts()
        side = "pruned" if is_own_text else "dense"
        tokens = [label(row[f"token_text_{side}"]) for row in rows]
        signs = ["≠" * (not row["is_top1_same"]) for row in rows]
        body = "".join(text.split("text\n\n", 1)[1].split("The bar after", 1)[0].split())
        written = [spark([row["kl_dense_pruned_nats"]], 1) for row in rows]
        parts = (f"{token}{bar}{sign}" for bar, sign, token in zip(written, signs, tokens, strict=True))
        assert body == "".join("".join(parts).split())
    for text in (overview, own, forced):
        assert "\x1b" not in text
        assert max(map(cell_len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variant", "wanda-2of4", "--prompt", "opne"), "no prompt 'opne' in the warehouse; did you mean 'open'?"),
        (("--variant", "wanda-2of5", "--prompt", "open"), "no variant 'wanda-2of5'; did you mean 'wanda-2of4'"),
        (("--variant", "wanda-2of4"), "a text needs --variant and --prompt"),
        (("--prompt", "open"), "a text needs --variant and --prompt"),
        (("--forced",), "a text needs --variant and --prompt"),
        (("-o", "x.html"), "--terminal -o: leave out one of the two"),
        (("nothing",), "has no variant of study 'nothing'; there are tiny"),
    ],
)
def test_a_missing_item_is_refused_with_those_that_exist(
    terminal: Terminal, arguments: tuple[str, ...], message: str
) -> None:
    assert message in terminal(*arguments, code=2)


def test_a_warehouse_without_variants_says_how_to_run_a_study(terminal: Terminal, tmp_path: Path) -> None:
    terminal.warehouse = Store(tmp_path).root
    (tmp_path / "models" / "model=none").mkdir(parents=True)
    assert "no study has run yet; start one with `prunescope run demo`" in terminal(code=2)
