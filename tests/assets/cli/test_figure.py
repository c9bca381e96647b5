"""`prunescope figure`: one figure of the warehouse as a file, with filters, for paper and for a dark screen."""

import json
import re
import shlex
from pathlib import Path

import pytest

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.assets.cli.test_querying import Shell

# One chart, several charts, and nothing, for the tiny study times nothing; its run has drawn all others.
DRAWN = ["generation", "estimates", "speed"]
OTHERS = [pytest.param(name, marks=pytest.mark.exhaustive) for name in FIGURES if name not in DRAWN]


@pytest.fixture
def shell(computed_once: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(computed_once, capsys)


def variants(path: Path) -> set[str]:
    found = json.loads(path.read_text())["datasets"].values()
    return {row["variant"] for rows in found for row in rows if "variant" in row}


def test_figures_are_listed(shell: Shell) -> None:
    listed = shell("figure")
    assert all(name in listed for name in FIGURES)


@pytest.mark.parametrize("name", [*DRAWN, *OTHERS])
def test_a_figure_is_drawn_with_its_caption_unless_it_has_no_data(name: str, shell: Shell, tmp_path: Path) -> None:
    shell("figure", name, "-o", tmp_path / f"{name}.json", code=None)
    told, charts = " ".join(shell.messages.split()), [*tmp_path.glob(f"{name}*.json")]
    if shell.code:
        assert (shell.code, charts) == (1, [])
        assert "no data: " in told
    else:
        assert " ".join(FIGURES[name].caption.split()) in told
        assert charts
    if name in {"generation", "speed"}:
        assert (shell.code == 0) == (name == "generation")


def test_recipes_and_prompts_filter_a_figure_before_it_samples(shell: Shell, tmp_path: Path) -> None:
    shell("figure", "generation", "--explain", "-o", tmp_path / "all.json")
    assert "from decoding_curve" in shell.messages
    assert len(variants(tmp_path / "all.json")) > 1
    for name in ("generation", "estimates"):
        shell("figure", name, "--recipe", "wanda-2of4", "-o", tmp_path / f"{name}.json")
        for path in tmp_path.glob(f"{name}*.json"):
            assert variants(path) == {"wanda-2of4"}
    # Without a filter, it is the first.
    shell("figure", "spaces", "--prompt", "open", "-o", tmp_path / "prompt.json")
    assert "prompt open" in json.loads((tmp_path / "prompt.json").read_text())["title"]["subtitle"][0]


def test_several_charts_of_a_figure_are_numbered_files(shell: Shell, tmp_path: Path) -> None:
    shell("figure", "hierarchy", "-o", tmp_path / "out.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-01-raw.svg", "out-02-normed.svg"]


def test_a_figure_is_drawn_for_paper_or_a_dark_screen(shell: Shell, tmp_path: Path) -> None:
    for columns, points in ((1, 234), (2, 486)):
        shell("figure", "options", "--columns", columns, "--no-title", "-o", tmp_path / f"{columns}.pdf")
        for page in tmp_path.glob(f"{columns}*.pdf"):
            box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)", page.read_bytes())
            assert (float(box[1]) <= points + 1, float(box[2]) <= 641) == (True, True)
    for name in ("dark.json", "dark.html"):
        shell("figure", "generation", "--dark", "-o", tmp_path / name)
    assert json.loads((tmp_path / "dark.json").read_text())["config"] == theme.config(dark=True)
    assert "https://" not in (tmp_path / "dark.html").read_text().split("<script", 1)[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("genration", "there is no figure 'genration'; did you mean generation? there are spaces, hierarchy"),
        ("generation --recipe wanda-2of5", "there is no recipe 'wanda-2of5' in the warehouse; did you mean"),
        ("generation -o x.gif", "error: -o x.gif: end the name in .png, .svg, .pdf, .html, .json"),
        ("generation --columns 1 -o x.html", "--columns 1: only files for paper have a width; add -o FILE.pdf"),
        ("generation --columns 2", "--columns 2: only files for paper have a width; add -o FILE.pdf"),
        ("generation --no-published", "figure generation has no published curves; leave the option out"),
        ("generation --no-title -o x.pdf", "--no-title: only files for paper have a caption in its place"),
    ],
)
def test_an_impossible_figure_is_refused_with_the_fix(shell: Shell, line: str, message: str) -> None:
    shell("figure", *shlex.split(line), code=2)
    assert message in shell.messages
    assert not Path("x.pdf").exists()
