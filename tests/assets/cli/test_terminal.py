"""`prunescope report --terminal`: the overview and one text, as plain text in a pipe."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from rich.cells import cell_len

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.publishing.live_study import LiveStudy
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


def test_the_overview_has_every_variant_and_one_text_every_token(terminal: Terminal) -> None:
    overview = terminal()
    assert all(recipe in overview for recipe in RECIPES)
    of = ("tiny", "--variant", "tiny-a@wanda-2of4", "--prompt", "open")
    own, forced = terminal(*of), terminal(*of, "--forced")
    for text, whose in ((own, "variant"), (forced, "dense model")):
        assert f"both models read the {whose}'s text" in text
        lines = [line for line in text.splitlines() if line.startswith("step ")]
        assert [word for line in lines for word in line.split() if word.isdecimal()] == ["0", "1", "2", "3"]
    for text in (overview, own, forced):
        assert "\x1b" not in text
        assert max(map(cell_len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variant", "wanda-2of4", "--prompt", "opne"), "for tiny-a@wanda-2of4; did you mean open?"),
        (("--variant", "wanda-2of4"), "--variant: add --prompt; there are choice, open"),
        (("--prompt", "open"), "--prompt: add --variant"),
        (("--forced",), "--forced: add --variant"),
        (("--variant", "wanda-2of4", "--prompt", "open", "--step", "1"), "No such option: --step"),
        (("-o", "x.html"), "--terminal -o: leave out one of the two"),
        (("nothing",), "has no variant of study 'nothing'; there are tiny"),
    ],
)
def test_a_missing_item_is_refused_with_those_that_exist(
    terminal: Terminal, arguments: tuple[str, ...], message: str
) -> None:
    assert message in terminal(*arguments, code=2)


def test_the_options_of_the_terminal_need_the_terminal(computed_once: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "--variant", "wanda-2of4"], Globals(warehouse=str(computed_once))) == 2
    assert "are for --terminal" in " ".join(capsys.readouterr().err.split())


def test_a_warehouse_without_variants_says_how_to_run_a_study(terminal: Terminal, tmp_path: Path) -> None:
    terminal.warehouse = Store(tmp_path).root
    (tmp_path / "models" / "model=none").mkdir(parents=True)
    assert "none has run: `prunescope run demo` is one" in terminal(code=2)
