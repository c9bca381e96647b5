"""`prunescope report --terminal`: from the overview to one token, as plain text in a pipe."""

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


def test_the_overview_leads_to_a_variant_its_tokens_and_one_token(terminal: Terminal) -> None:
    overview = terminal()
    assert all(recipe in overview for recipe in RECIPES)
    variant = terminal("tiny", "--variant", "wanda-2of4")
    assert "tiny-a@wanda-2of4" in variant
    assert "--prompt choice, open" in variant
    of = ("--variant", "tiny-a@wanda-2of4", "--prompt", "open")
    shown = terminal("tiny", "--prompt", "open")
    assert all(recipe in shown for recipe in RECIPES if recipe != "dense")
    tokens = [line for line in terminal(*of).splitlines() if line.startswith("step ")]
    assert [word for line in tokens for word in line.split() if word.isdecimal()] == ["0", "1", "2", "3"]
    forced, step = terminal(*of, "--forced"), terminal(*of, "--step", "1")
    assert "reading the dense model's tokens" in forced
    assert "Most likely tokens" in step
    assert "Behind each sublayer, scope propagated" in step
    for text in (overview, variant, forced, step):
        assert "\x1b" not in text
        assert max(map(cell_len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "opne"), "--prompt opne: there is no such prompt; did you mean open?"),
        (("--prompt", "open", "--step", "0"), "--step: add --variant"),
        (("--variant", "wanda-2of4", "--step", "0"), "--step: add --prompt"),
        (("--variant", "wanda-2of4", "--forced"), "--forced: add --prompt"),
        (("--variant", "wanda-2of4", "--prompt", "open", "--step", "4"), "this prompt has the steps 0 to 3"),
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
